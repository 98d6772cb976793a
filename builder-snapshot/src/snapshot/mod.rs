//! Writable snapshots on stacks of layers, and what they become.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::SnapshotError;
use crate::toc::{ContentId, LayerId, Timestamp, Toc};

mod writer;

pub use writer::{Device, FileContent, TreeWriter};

/// A writable directory on top of a stack of layers. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveSnapshot {}

impl ActiveSnapshot {
    /// Makes `<tmp>/<unique>/{fs,work}` on top of `lowers` (layer directories, bottom first).
    ///
    /// # Errors
    /// The directories cannot be made or the lowers not be read.
    pub fn create(_tmp: &Path, _lowers: &[PathBuf]) -> Result<Self, SnapshotError> {
        todo!()
    }

    /// The layers below, bottom first.
    #[must_use]
    pub fn lowers(&self) -> &[PathBuf] {
        todo!()
    }

    /// The directory that takes the changes.
    #[must_use]
    pub fn upper(&self) -> &Path {
        todo!()
    }

    /// File operations without a mount. Nothing may have written to the snapshot before.
    ///
    /// # Errors
    /// The layers cannot be opened.
    pub fn writer(&self) -> Result<TreeWriter, SnapshotError> {
        todo!()
    }

    /// Mounts the stack as a detached overlay. `top_lower` is put above the lowers and never part of the layer.
    ///
    /// # Errors
    /// The kernel refuses; the message has the kernel's own reason.
    pub fn mount(&self, _top_lower: Option<&Path>) -> Result<OwnedFd, SnapshotError> {
        todo!()
    }

    /// Turns what a process changed through the mount into a layer. The mount must be gone.
    ///
    /// # Errors
    /// Reading the changes fails.
    pub fn commit(self, _started: Timestamp) -> Result<CommittedLayer, SnapshotError> {
        todo!()
    }

    /// Turns what a [`TreeWriter`] wrote into a layer, from its table; nothing is read again.
    ///
    /// # Errors
    /// Tidying fails.
    pub fn commit_written(self, _toc: Toc) -> Result<CommittedLayer, SnapshotError> {
        todo!()
    }
}

/// A finished layer, not yet under its final name. Dropping it removes it.
///
/// Layers of images from elsewhere are named by their diff ID: set `id` and `content` before publishing.
#[derive(Debug)]
pub struct CommittedLayer {
    /// What it changes.
    pub toc: Toc,
    /// Its name.
    pub id: LayerId,
    /// What it holds, without times.
    pub content: ContentId,
}

impl CommittedLayer {
    /// The directory with the layer's changes, for as long as it is not published.
    #[must_use]
    pub fn fs(&self) -> &Path {
        todo!()
    }

    /// Writes the table and renames all to `<layers_dir>/<hex of id>/{fs,toc}`; if that exists already, ours is removed.
    /// Returns the layer's `fs`.
    ///
    /// # Errors
    /// Writing or renaming fails.
    pub fn publish(self, _layers_dir: &Path) -> Result<PathBuf, SnapshotError> {
        todo!()
    }
}

/// A detached bind mount of a directory or file (`open_tree(OPEN_TREE_CLONE)`), to be attached by a child.
///
/// # Errors
/// The path does not exist; mounting is not permitted.
pub fn detach_tree(_path: &Path) -> std::io::Result<OwnedFd> {
    todo!()
}
