//! A stack of layer directories read as one tree, without mounting it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::toc::Meta;

/// A stack of layer directories (overlay form), read as one tree.
#[derive(Debug, Clone)]
pub struct MergedTree {}

/// What stands at a path of a [`MergedTree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which of the layers (index into the slice given to [`MergedTree::open`]) it comes from; for directories the topmost one.
    pub layer: usize,
    /// What it is.
    pub kind: FoundKind,
    /// Its metadata, extended attributes that count included. `made_by_step` is never set.
    pub meta: Meta,
}

/// The kind of thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Names of this inode, in whatever layers (stores link files): no proof of a hard-link group.
        nlink: u64,
        /// Device of the layer's file system.
        dev: u64,
        /// Inode there.
        ino: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The bytes of the link.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where a path leads when symbolic links are followed inside the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The real path: no component of it (up to where things exist) is a symbolic link.
    pub path: TreePath,
    /// What is there.
    pub found: Option<Found>,
}

/// One entry of a directory of a [`MergedTree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: EntryKind,
}

/// The kind of a [`DirEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl MergedTree {
    /// Opens the layers' directories, bottom first.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn open(_layers: &[PathBuf]) -> Result<Self, SnapshotError> {
        todo!()
    }

    /// What is at exactly this path; no symbolic link is followed.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn lookup(&self, _path: &TreePath) -> Result<Option<Found>, SnapshotError> {
        todo!()
    }

    /// Follows symbolic links in all components, inside the tree. Missing components are kept as they are.
    ///
    /// # Errors
    /// More than 40 links; something that is no directory in the middle.
    pub fn resolve(&self, _path: &TreePath) -> Result<Resolution, SnapshotError> {
        todo!()
    }

    /// Follows symbolic links in all components but the last.
    ///
    /// # Errors
    /// As [`MergedTree::resolve`].
    pub fn resolve_parent(&self, _path: &TreePath) -> Result<Resolution, SnapshotError> {
        todo!()
    }

    /// The entries of the directory at exactly this path, sorted by name.
    ///
    /// # Errors
    /// No directory is there.
    pub fn read_dir(&self, _path: &TreePath) -> Result<Vec<DirEntry>, SnapshotError> {
        todo!()
    }

    /// Opens the regular file at exactly this path for reading.
    ///
    /// # Errors
    /// No regular file is there.
    pub fn open_file(&self, _path: &TreePath) -> Result<File, SnapshotError> {
        todo!()
    }

    /// The path on the host of `path` in layer `layer` (as [`Found::layer`] counts), for linking files of committed layers.
    #[must_use]
    pub fn host_path(&self, _layer: usize, _path: &TreePath) -> PathBuf {
        todo!()
    }

    /// The directory of layer `layer`.
    #[must_use]
    pub fn layer_dir(&self, _layer: usize) -> &Path {
        todo!()
    }
}
