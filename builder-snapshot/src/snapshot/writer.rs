//! File operations on the top layer of a stack, without a mount.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::digest::Sha256Digest;
use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::toc::{Meta, Toc};
use crate::tree::MergedTree;

/// What a file is to hold.
pub enum FileContent<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Everything the reader has.
    Reader(&'a mut dyn Read),
    /// A copy of an open file, from its start; if a digest is expected, another one is an error.
    CopyOf {
        /// The file.
        file: &'a File,
        /// Its digest when it was looked at.
        expected: Option<Sha256Digest>,
    },
    /// A hard link to an immutable file of a committed layer, if its mode, owner, times and attributes are those wanted, it is not
    /// linked into this layer yet, and the file system can; else a copy.
    LinkTo {
        /// The file on the host.
        path: &'a Path,
        /// Its size.
        size: u64,
        /// Its digest.
        digest: Sha256Digest,
    },
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Block device, else character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Writes to the top layer of a stack with the merged view, recording the layer's table on the way.
///
/// Paths are exact: a symbolic link in the middle is an error ([`MergedTree::resolve`] first). Parents must exist in the merged view; those of lower layers
/// are copied up (as overlay does). Everything that puts something replaces what is there, except that a directory over a directory keeps what is in it.
#[derive(Debug)]
pub struct TreeWriter {}

impl TreeWriter {
    /// The merged view, what was written included.
    #[must_use]
    pub fn tree(&self) -> &MergedTree {
        todo!()
    }

    /// Makes a directory, or gives the one that is there this metadata.
    ///
    /// # Errors
    /// The parent is missing or no directory.
    pub fn make_dir(&mut self, _path: &TreePath, _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Makes the directory and its missing ancestors, each with this metadata; those that exist stay as they are. Returns what was made, topmost first.
    ///
    /// # Errors
    /// Something that is no directory is in the way.
    pub fn make_dirs(&mut self, _path: &TreePath, _meta: &Meta) -> Result<Vec<TreePath>, SnapshotError> {
        todo!()
    }

    /// Gives what is there this metadata (copied up first).
    ///
    /// # Errors
    /// Nothing is there.
    pub fn set_meta(&mut self, _path: &TreePath, _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Puts a regular file; returns its size and digest.
    ///
    /// # Errors
    /// The parent is missing; reading or writing fails; the content is not what was expected.
    pub fn put_file(&mut self, _path: &TreePath, _content: FileContent<'_>, _meta: &Meta) -> Result<(u64, Sha256Digest), SnapshotError> {
        todo!()
    }

    /// Makes `new` another name of the regular file at `existing` (copied up first).
    ///
    /// # Errors
    /// `existing` is no regular file; the parent of `new` is missing.
    pub fn hard_link(&mut self, _existing: &TreePath, _new: &TreePath) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Puts a symbolic link; the target is data and stored verbatim. The mode of `meta` is not used.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_symlink(&mut self, _path: &TreePath, _target: &[u8], _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Puts a device node.
    ///
    /// # Errors
    /// The parent is missing; making devices is not allowed; character device 0:0, which would be a whiteout.
    pub fn put_device(&mut self, _path: &TreePath, _device: Device, _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Puts a named pipe.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_fifo(&mut self, _path: &TreePath, _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Puts a socket.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_socket(&mut self, _path: &TreePath, _meta: &Meta) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Removes what is there, with everything below it. Nothing there is no error.
    ///
    /// # Errors
    /// Removing fails.
    pub fn remove(&mut self, _path: &TreePath) -> Result<(), SnapshotError> {
        todo!()
    }

    /// The layer's table; directories get their recorded times now.
    ///
    /// # Errors
    /// Setting times fails.
    pub fn finish(self) -> Result<Toc, SnapshotError> {
        todo!()
    }
}
