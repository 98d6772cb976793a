//! A stack of layers as something to copy from: read from the layers' tables of contents alone, digests included, without any layer's files.

use std::collections::HashSet;
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::toc::{Meta, Node, Toc, TocEntry, merge};

use super::tree::{Entry, EntryNode, SourceTree};
use crate::content::{Stack, Store};
use crate::error::StepError;

/// The effective table of a stack.
#[derive(Debug)]
pub(crate) struct StackTree {
    table: Toc,
    /// Positions of files that other entries are hard links to.
    heads: HashSet<usize>,
}

impl StackTree {
    /// Merges the tables of the stack's layers.
    ///
    /// # Errors
    /// Layers whose table is not in the store.
    pub(crate) fn read(stack: &Stack, store: &Store) -> Result<Self, StepError> {
        let tables: Vec<Arc<Toc>> = stack
            .layers
            .iter()
            .map(|layer| store.read_toc(layer.id).map_err(|error| StepError::other(error.to_string())))
            .collect::<Result<_, _>>()?;
        Ok(Self::of(merge(&tables.iter().map(|table| &**table).collect::<Vec<_>>())))
    }

    /// A merged table as a tree.
    pub(crate) fn of(table: Toc) -> Self {
        let heads = table
            .entries
            .iter()
            .filter_map(|entry| match &entry.node {
                Node::Hardlink { target } => position(&table, target).ok(),
                _ => None,
            })
            .collect();
        Self { table, heads }
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let entry = &self.table.entries[at];
        let of = |meta: &Meta, node| Some(Entry { path: entry.path.clone(), node, meta: meta.clone() });
        let (head, source) = match &entry.node {
            Node::Hardlink { target } => {
                let head = position(&self.table, target).ok()?;
                (head, &self.table.entries[head])
            }
            _ => (at, entry),
        };
        let node = match &source.node {
            Node::File { size, digest } => {
                let group = self.heads.contains(&head).then_some((0, head as u64));
                EntryNode::File { size: *size, digest: Some(*digest), group }
            }
            Node::Dir => EntryNode::Dir,
            Node::Symlink { target } => EntryNode::Symlink { target: target.clone() },
            Node::CharDevice { major, minor } => EntryNode::CharDevice { major: *major, minor: *minor },
            Node::BlockDevice { major, minor } => EntryNode::BlockDevice { major: *major, minor: *minor },
            Node::Fifo => EntryNode::Fifo,
            Node::Socket => EntryNode::Socket,
            Node::Hardlink { .. } | Node::Whiteout => return None,
        };
        of(&source.meta, node)
    }
}

impl SourceTree for StackTree {
    fn lookup(&self, path: &TreePath) -> Result<Option<Entry>, StepError> {
        match position(&self.table, path) {
            Ok(at) => Ok(self.entry(at)),
            // An empty stack is an empty directory.
            Err(_) if path.is_root() => Ok(Some(Entry { path: path.clone(), node: EntryNode::Dir, meta: Meta { mode: 0o755, ..Meta::default() } })),
            Err(_) => Ok(None),
        }
    }

    fn list(&self, path: &TreePath) -> Result<Vec<Entry>, StepError> {
        let entries = &self.table.entries;
        let mut at = match position(&self.table, path) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        let mut children = Vec::new();
        while at < entries.len() && is_below(&entries[at], path) {
            let child = &entries[at].path;
            children.extend(self.entry(at));
            at += 1;
            if entries.get(at).is_some_and(|next| is_below(next, child)) {
                at += entries[at..].partition_point(|entry| is_below(entry, child));
            }
        }
        Ok(children)
    }

    fn fill_digests(&self, _: &mut [&mut Entry]) -> Result<(), StepError> {
        Ok(())
    }

    fn describe(&self) -> String {
        "the stage or image that is copied from".to_owned()
    }
}

fn position(table: &Toc, path: &TreePath) -> Result<usize, usize> {
    table.entries.binary_search_by(|entry| entry.path.cmp(path))
}

fn is_below(entry: &TocEntry, dir: &TreePath) -> bool {
    let (path, dir) = (entry.path.as_bytes(), dir.as_bytes());
    if dir.is_empty() {
        return !path.is_empty();
    }
    path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir)
}
