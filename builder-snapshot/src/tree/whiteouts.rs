//! What a layer removes where its file system cannot say so.
//!
//! On most disks a layer says "removed" with a character device 0:0, and "nothing of what is below" with an attribute on a directory: overlay's own marks. An
//! overlay lets nobody make the device, and not every file system keeps the attribute. There the names are written to a file beside the layer:
//!
//! ```text
//! <layer>/fs           the layer's files
//! <layer>/whiteouts    paths, each with a NUL at its end, sorted; then the digest of all that
//! ```
//!
//! Opaque directories are in the file as the names that they hide: [`crate::snapshot::TreeWriter::finish`] knows them.
//!
//! # Invariants
//!
//! - Who stacks layers as an overlay mount asks [`has_list`] first: the kernel does not read this file.
//! - A list whose digest is wrong is an error, never a list of fewer names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::digest::Sha256Digest;
use crate::error::SnapshotError;
use crate::path::TreePath;

/// Name of the list, beside the layer's `fs`.
const LIST: &str = "whiteouts";

/// Paths that a layer removes, by directory, and directories that hide what lower layers have in them.
#[derive(Debug, Default)]
pub(super) struct Whiteouts {
    removed: BTreeMap<TreePath, BTreeSet<Box<[u8]>>>,
    /// Only while the layer is being written: expanded to names at its end.
    opaque: BTreeSet<TreePath>,
}

impl Whiteouts {
    /// The list of the layer whose files are in `fs`; empty if there is none.
    pub(super) fn read(fs: &Path) -> Result<Self, SnapshotError> {
        let Some(list) = list_of(fs) else { return Ok(Self::default()) };
        let bytes = match std::fs::read(&list) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(SnapshotError::io("read", list.display())(e)),
        };
        let damaged = || SnapshotError::io("read", list.display())(io::Error::new(ErrorKind::InvalidData, "it is not what was written"));
        let Some((names, digest)) = bytes.split_last_chunk::<32>() else { return Err(damaged()) };
        if Sha256Digest::of(names).0 != *digest {
            return Err(damaged());
        }
        let mut whiteouts = Self::default();
        for path in names.split(|&b| b == 0).filter(|path| !path.is_empty()) {
            whiteouts.insert(&TreePath::new(path).map_err(|_| damaged())?);
        }
        Ok(whiteouts)
    }

    /// Writes the list of the layer whose files are in `fs`, if there is anything to write.
    pub(super) fn write(&self, fs: &Path) -> Result<(), SnapshotError> {
        if self.removed.is_empty() {
            return Ok(());
        }
        let Some(list) = list_of(fs) else {
            let reason = io::Error::new(ErrorKind::Unsupported, "the file system can hold no whiteouts, and the directory is not that of a layer");
            return Err(SnapshotError::io("keep removals of", fs.display())(reason));
        };
        let mut paths: Vec<TreePath> = self.removed.iter().flat_map(|(dir, names)| names.iter().map(|name| dir.child(name))).collect();
        paths.sort();
        let mut bytes = Vec::new();
        for path in paths {
            bytes.extend_from_slice(path.as_bytes());
            bytes.push(0);
        }
        let digest = Sha256Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        std::fs::write(&list, bytes).map_err(SnapshotError::io("write", list.display()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.opaque.is_empty()
    }

    pub(super) fn contains(&self, path: &TreePath) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        self.removed.get(&parent).is_some_and(|names| names.contains(name))
    }

    /// Names that are removed from the directory `path`.
    pub(super) fn of_dir(&self, path: &TreePath) -> impl Iterator<Item = &Box<[u8]>> {
        self.removed.get(path).into_iter().flatten()
    }

    pub(super) fn is_opaque(&self, path: &TreePath) -> bool {
        self.opaque.contains(path)
    }

    pub(super) fn insert(&mut self, path: &TreePath) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            self.removed.entry(parent).or_default().insert(name.into());
        }
    }

    pub(super) fn set_opaque(&mut self, path: &TreePath) {
        self.opaque.insert(path.clone());
    }

    /// Something stands at `path` again.
    pub(super) fn remove(&mut self, path: &TreePath) {
        if self.is_empty() {
            return;
        }
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Some(names) = self.removed.get_mut(&parent)
        {
            names.remove(name);
            if names.is_empty() {
                self.removed.remove(&parent);
            }
        }
        self.opaque.retain(|dir| dir.below(path).is_none());
        self.removed.retain(|dir, _| dir.below(path).is_none());
    }
}

/// Only directories named as those of layers have a list: whatever lies beside others is not ours.
fn list_of(fs: &Path) -> Option<PathBuf> {
    (fs.file_name()? == "fs").then(|| fs.with_file_name(LIST))
}

/// Whether the layer in `fs` removes something that only its list says: no overlay mount of it would show what it means.
pub(crate) fn has_list(fs: &Path) -> bool {
    list_of(fs).is_some_and(|list| list.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_back_and_a_damaged_one_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fs = dir.path().join("fs");
        let path = |text: &str| TreePath::new(text).expect("clean");
        assert!(!has_list(&fs) && Whiteouts::read(&fs).expect("none").is_empty());
        let mut written = Whiteouts::default();
        for name in ["a", "d/new\nline", "d/b", "d/b/c"] {
            written.insert(&path(name));
        }
        written.remove(&path("d/b"));
        written.write(&fs).expect("write");
        let read = Whiteouts::read(&fs).expect("read");
        assert!(has_list(&fs) && read.contains(&path("a")) && read.contains(&path("d/new\nline")));
        assert!(!read.contains(&path("d/b")) && !read.contains(&path("d/b/c")) && !read.contains(&path("d")));
        let list = dir.path().join("whiteouts");
        let bytes = std::fs::read(&list).expect("written");
        std::fs::write(&list, &bytes[1..]).expect("damage");
        assert!(Whiteouts::read(&fs).expect_err("damaged").to_string().contains("not what was written"));
        std::fs::write(&list, []).expect("damage");
        assert!(Whiteouts::read(&fs).is_err());
    }
}
