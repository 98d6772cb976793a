//! A table of contents in the making: entries come and go in any order, hard-link groups are known by inode, not by name.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::digest::Sha256Digest;
use crate::path::TreePath;
use crate::toc::{Meta, Node, Toc, TocEntry};

/// An inode of the table: what all names of a file share.
#[derive(Debug)]
struct FileRecord {
    size: u64,
    digest: Sha256Digest,
    meta: Meta,
    /// On disk it is the inode of a committed layer's file.
    is_linked: bool,
}

/// Which inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId(usize);

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot<'a> {
    File(FileId),
    /// Anything but a regular file. Never [`Node::File`] or [`Node::Hardlink`].
    Other(&'a Node),
}

/// What is kept of a path. Most are files, so that they decide its size.
#[derive(Debug)]
enum Kept {
    File(FileId),
    Other(Box<(Node, Meta)>),
}

/// Entries by path.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: BTreeMap<TreePath, Kept>,
    files: Vec<FileRecord>,
}

impl Table {
    pub(crate) fn get(&self, path: &TreePath) -> Option<Slot<'_>> {
        Some(match self.slots.get(path)? {
            Kept::File(id) => Slot::File(*id),
            Kept::Other(other) => Slot::Other(&other.0),
        })
    }

    pub(crate) fn is_dir(&self, path: &TreePath) -> bool {
        matches!(self.get(path), Some(Slot::Other(Node::Dir)))
    }

    pub(crate) fn put_file(&mut self, path: TreePath, size: u64, digest: Sha256Digest, meta: Meta) -> FileId {
        let id = FileId(self.files.len());
        self.files.push(FileRecord { size, digest, meta, is_linked: false });
        self.slots.insert(path, Kept::File(id));
        id
    }

    /// Says of a file that it is linked to a committed one.
    pub(crate) fn set_linked(&mut self, id: FileId) {
        self.files[id.0].is_linked = true;
    }

    pub(crate) fn is_linked(&self, id: FileId) -> bool {
        self.files[id.0].is_linked
    }

    pub(crate) fn link(&mut self, path: TreePath, id: FileId) {
        self.slots.insert(path, Kept::File(id));
    }

    pub(crate) fn put(&mut self, path: TreePath, node: Node, meta: Meta) {
        debug_assert!(!matches!(node, Node::File { .. } | Node::Hardlink { .. }));
        self.slots.insert(path, Kept::Other(Box::new((node, meta))));
    }

    /// The metadata at `path`, to be changed; for a file that of all its names.
    pub(crate) fn meta_mut(&mut self, path: &TreePath) -> Option<&mut Meta> {
        Some(match self.slots.get_mut(path)? {
            Kept::File(id) => &mut self.files[id.0].meta,
            Kept::Other(other) => &mut other.1,
        })
    }

    /// Forgets `path` and everything below it.
    pub(crate) fn remove_tree(&mut self, path: &TreePath) {
        let removed = self.slots.remove(path);
        if matches!(removed, Some(Kept::Other(other)) if other.0 == Node::Dir) {
            let below: Vec<TreePath> = self
                .slots
                .range((Bound::Excluded(path), Bound::Unbounded))
                .take_while(|(candidate, _)| candidate.below(path).is_some())
                .map(|(candidate, _)| candidate.clone())
                .collect();
            for path in below {
                self.slots.remove(&path);
            }
        }
    }

    /// Directories with their metadata, in order.
    pub(crate) fn dirs(&self) -> impl DoubleEndedIterator<Item = (&TreePath, &Meta)> {
        self.slots.iter().filter_map(|(path, slot)| match slot {
            Kept::Other(other) if other.0 == Node::Dir => Some((path, &other.1)),
            _ => None,
        })
    }

    /// The canonical table. If nothing but the unchanged root is in it, pass `keep_root` as false: a layer that changes nothing is empty.
    pub(crate) fn finish(mut self, keep_root: bool) -> Toc {
        if !keep_root && self.slots.len() == 1 {
            self.slots.remove(&TreePath::root());
        }
        let mut first_names: Vec<Option<TreePath>> = vec![None; self.files.len()];
        let mut entries = Vec::with_capacity(self.slots.len());
        for (path, slot) in self.slots {
            let (node, meta) = match slot {
                Kept::Other(other) => *other,
                Kept::File(FileId(id)) => match &first_names[id] {
                    Some(target) => (Node::Hardlink { target: target.clone() }, Meta::default()),
                    None => {
                        first_names[id] = Some(path.clone());
                        let file = &mut self.files[id];
                        (Node::File { size: file.size, digest: file.digest }, std::mem::take(&mut file.meta))
                    }
                },
            };
            entries.push(TocEntry { path, node, meta });
        }
        Toc { entries }
    }
}
