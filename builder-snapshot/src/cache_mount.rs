//! Cache mounts: directories that outlive a build, changed by transactions.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::exec::Cancel;
use crate::path::TreePath;

/// All cache mounts of a store.
#[derive(Debug, Clone)]
pub struct CacheMounts {}

/// How concurrent users share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everyone works on a branch; branches that touch different things are merged.
    Shared,
    /// A busy one makes a second.
    Private,
    /// The second user waits.
    Locked,
}

/// What a new cache mount starts as.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Layer directories, bottom first; none for an empty directory.
    pub lowers: Vec<PathBuf>,
    /// Part of them (links followed inside); the root for all.
    pub subpath: TreePath,
    /// Mode of the root directory when there is no `lowers`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A use of a cache mount. Dropping it throws the changes away.
#[derive(Debug)]
pub struct CacheLease {}

/// What became of a lease's changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Nothing was changed.
    Unchanged,
    /// The next user sees them.
    Added,
    /// Another user published first and both touched this directory: the changes are dropped, which a cache allows.
    Dropped {
        /// Relative to the mount.
        directory: String,
    },
}

/// A cache mount cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheMountError {
    /// The operating system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The seed has nothing there.
    #[error("cannot start the cache mount from {path}: no such directory")]
    SeedMissing {
        /// Path inside the seed.
        path: String,
    },
    /// Cancelled while waiting for another user.
    #[error("cancelled while waiting for another user of the cache mount")]
    Cancelled,
}

impl CacheMounts {
    /// The cache mounts below `dir`, which is made when missing.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(_dir: &Path) -> Result<Self, CacheMountError> {
        todo!()
    }

    /// Begins a use of the cache mount `id` (a name made of hex digits, dots and dashes; never a path).
    ///
    /// # Errors
    /// The seed is missing, the directories cannot be written, or `cancel` fired while waiting.
    pub fn acquire(&self, _id: &str, _sharing: Sharing, _seed: &Seed, _cancel: Option<&Cancel>) -> Result<CacheLease, CacheMountError> {
        todo!()
    }

    /// Makes the cache mount `id` empty for those who come after (`--no-cache`); who uses it now is not disturbed.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn clear(&self, _id: &str) -> Result<(), CacheMountError> {
        todo!()
    }
}

impl CacheLease {
    /// A detached mount of the view.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(&self) -> Result<OwnedFd, CacheMountError> {
        todo!()
    }

    /// Keeps the changes. The mount must be gone.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn publish(self) -> Result<Published, CacheMountError> {
        todo!()
    }
}
