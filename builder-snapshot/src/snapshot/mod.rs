//! Writable snapshots on stacks of layers, and what they become.
//!
//! ```text
//! create ──► ActiveSnapshot ──► mount ──► (a process runs, the mount goes) ──► commit ───┐
//!                    └────────► writer ──► finish ──► commit_written ───────────────────┤
//!                                                                        CommittedLayer ──► publish
//! ```
//!
//! A process runs on an overlay ([`ActiveSnapshot::create`]), or, where none can be mounted, on a full copy of the layers; [`Snapshotter`] decides.
//! The layer that comes of it is the same.
//!
//! On disk, below a directory for temporary things:
//!
//! ```text
//! <tmp>/<unique>/fs          the changes; later the layer
//! <tmp>/<unique>/work        overlay's own; removed by commit
//! <tmp>/<unique>/empty       only if there are no lower layers and a mount is made
//! <tmp>/<unique>/toc         written by publish, which renames <unique> to <layers>/<hex of id>
//! <tmp>/<unique>/whiteouts   only where the file system can hold no whiteouts, see `tree/whiteouts`
//! <tmp>/<another>/fs         a copy of the layers, if there is one; it outlives the step
//! ```
//!
//! # Invariants
//!
//! - An active snapshot is nobody's lower layer: only [`CommittedLayer::publish`] gives a directory that may be.
//! - What is not published is removed when its value is dropped; a crash leaves it below the temporary directory, never elsewhere.
//! - A published layer's directory and its table say the same, and neither changes again.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, Mode, OFlags};

use crate::diff;
use crate::error::SnapshotError;
use crate::layer::{stand_in, xattr};
use crate::path::TreePath;
use crate::root::{RootDir, set_meta_of, set_mtime_of};
use crate::stop::StopSignal;
use crate::sys;
use crate::toc::{ContentId, LayerId, Meta, Timestamp, Toc};
use crate::tree::{MergedTree, is_layer_of_nothing, meta_of_stat};

mod copy;
mod dirs;
mod overlay;
mod owners;
mod snapshotter;
mod table;
mod writer;

pub(crate) use copy::{Copier, Fingerprints};
use copy::{Idle, WorkingCopy};
pub(crate) use dirs::OpenDirs;
pub use owners::Owners;
pub use snapshotter::{Snapshotter, SnapshotterKind, View, ViewFiles, probe};
pub use writer::{Device, FileContent, LinkSource, ListedFile, TreeWriter};

/// A writable directory on top of a stack of layers. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveSnapshot {
    dir: TemporaryDir,
    lowers: Vec<PathBuf>,
    upper: PathBuf,
    /// What the process runs on, if that is no overlay.
    copied: Option<Copied>,
    owners: Arc<Owners>,
    stop: StopSignal,
}

#[derive(Debug)]
struct Copied {
    copy: Mutex<WorkingCopy>,
    /// Where the copy goes after the step.
    idle: Arc<Idle>,
    /// Why there is one, if the user is to know.
    reason: Option<String>,
}

impl ActiveSnapshot {
    /// Makes `<tmp>/<unique>/{fs,work}` on top of `lowers` (layer directories, bottom first). The root directory looks as that of the topmost layer, else
    /// 0755, owned by root, made at the epoch.
    ///
    /// # Errors
    /// The directories cannot be made or the lowers not be read.
    pub fn create(tmp: &Path, lowers: &[PathBuf]) -> Result<Self, SnapshotError> {
        let dir = TemporaryDir::create(tmp)?;
        let upper = dir.path().join("fs");
        let work = dir.path().join("work");
        for path in [&upper, &work] {
            std::fs::create_dir(path).map_err(SnapshotError::io("make directory", path.display()))?;
        }
        let top = lowers.iter().map(PathBuf::as_path).rfind(|lower| !is_layer_of_nothing(lower)).or(lowers.first().map(PathBuf::as_path));
        let meta = root_meta(top).map_err(SnapshotError::io("read layer", top.unwrap_or(Path::new("/")).display()))?;
        let set = || {
            let fd = sys::fs::open_dir(&upper)?;
            set_meta_of(&fd, &meta)?;
            set_mtime_of(&fd, meta.mtime)
        };
        set().map_err(SnapshotError::io("change", upper.display()))?;
        let owners = Arc::new(Owners::of_step(lowers, upper.clone()));
        Ok(Self { dir, lowers: lowers.to_vec(), upper, copied: None, owners, stop: StopSignal::default() })
    }

    /// As [`ActiveSnapshot::create`], for a process that runs on a copy: one that is idle, if one fits.
    fn create_copied(tmp: &Path, lowers: &[PathBuf], idle: &Arc<Idle>, reason: Option<String>, stop: &StopSignal) -> Result<Self, SnapshotError> {
        let snapshot = Self::create(tmp, lowers)?;
        let copy = idle.take(tmp, lowers, stop)?;
        let owners = Arc::new(Owners::of_step(lowers, copy.fs().to_owned()));
        Ok(Self { copied: Some(Copied { copy: Mutex::new(copy), idle: Arc::clone(idle), reason }), owners, ..snapshot })
    }

    /// The commit ends when `stop` says so.
    fn stop_when(self, stop: &StopSignal) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    /// Why the process runs on a copy of the layers, which costs time, if it was not told to; what could be done about it.
    #[must_use]
    pub fn why_copied(&self) -> Option<&str> {
        self.copied.as_ref()?.reason.as_deref()
    }

    /// Makes a directory of the step's own before the mount; one that is there is an error.
    ///
    /// # Errors
    /// The parent is missing in what the step changed, or something is there.
    pub fn make_dir(&self, path: &TreePath, mode: u32) -> std::io::Result<()> {
        match &self.copied {
            Some(copied) => RootDir::open(copied.copy().fs())?.make_dir(path, mode),
            None => RootDir::open(&self.upper)?.make_dir(path, mode),
        }
    }

    /// The layers below, bottom first.
    #[must_use]
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// From now on dropping the snapshot, or the layer that comes of it, leaves its directory where it is. For snapshots that link to files of
    /// committed layers: removing a link is noticed there, and whoever owns the temporary directory knows when it may be.
    pub fn leave_to_sweep(&mut self) {
        self.dir.stays = true;
    }

    /// The directory that becomes the layer: a writer and an overlay write to it, of a copy it gets what changed in the end.
    #[must_use]
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Where the files that the process changed can be looked at and mended before the commit, under their paths.
    #[must_use]
    pub fn changed_files(&self) -> PathBuf {
        self.copied.as_ref().map_or_else(|| self.upper.clone(), |copied| copied.copy().fs().to_owned())
    }

    /// Where a process's owners of what cannot carry them are kept for the commit.
    #[must_use]
    pub fn owners(&self) -> Arc<Owners> {
        Arc::clone(&self.owners)
    }

    /// Whether the process may have changed what is at `path`: where it has not, [`ActiveSnapshot::changed_files`] has nothing, or what was shown to it.
    #[must_use]
    pub fn has_touched(&self, path: &TreePath) -> bool {
        match &self.copied {
            Some(copied) => copied.copy().has_touched(path),
            None => self.upper.join(path.as_path()).symlink_metadata().is_ok(),
        }
    }

    /// File operations without a mount. Nothing may have written to the snapshot before.
    ///
    /// # Errors
    /// The layers cannot be opened.
    pub fn writer(&self) -> Result<TreeWriter, SnapshotError> {
        TreeWriter::new(&self.upper, MergedTree::open(&self.lowers)?)
    }

    /// Mounts the stack, detached: an overlay, or the copy. `top_lower` is put above the lowers and never part of the layer.
    ///
    /// # Errors
    /// The kernel refuses; the message has the kernel's own reason.
    pub fn mount(&self, top_lower: Option<&Path>) -> Result<OwnedFd, SnapshotError> {
        if let Some(copied) = &self.copied {
            return copied.copy().attach(top_lower);
        }
        let dir = self.dir.path();
        overlay::mount(&self.lowers, top_lower, &self.upper, &dir.join("work"), &dir.join("empty"))
    }

    /// Turns what a process changed through the mount into a layer. The mount must be gone.
    ///
    /// Times from `started` on are marked as made by the step. What equals the layers below is removed from the directory and not in the table.
    ///
    /// # Errors
    /// Reading the changes fails.
    pub fn commit(self, started: Timestamp) -> Result<CommittedLayer, SnapshotError> {
        let lower = MergedTree::open(&self.lowers)?;
        self.commit_on(&lower, started)
    }

    /// As [`ActiveSnapshot::commit`], with the lower layers already open.
    ///
    /// # Errors
    /// As [`ActiveSnapshot::commit`].
    pub fn commit_on(mut self, lower: &MergedTree, started: Timestamp) -> Result<CommittedLayer, SnapshotError> {
        let toc = match self.copied.take() {
            Some(Copied { copy, idle, .. }) => {
                let copy = copy.into_inner().unwrap_or_else(PoisonError::into_inner);
                copy.take_changes(lower, (started, &self.owners), &self.upper, &idle, &self.stop)?
            }
            None => diff::take_upper(&self.upper, lower, started, &self.owners, &self.stop)?.toc,
        };
        self.commit_written(toc)
    }

    /// Turns what a [`TreeWriter`] wrote into a layer, from its table; nothing is read again.
    ///
    /// # Errors
    /// Tidying fails.
    pub fn commit_written(self, toc: Toc) -> Result<CommittedLayer, SnapshotError> {
        let Self { dir, upper, .. } = self;
        for name in ["work", "empty"] {
            let path = dir.path().join(name);
            sys::fs::remove_tree_at(&path).map_err(SnapshotError::io("remove", path.display()))?;
        }
        Ok(CommittedLayer { id: toc.layer_id(), content: toc.content_id(), toc, dir, fs: upper })
    }
}

impl Copied {
    fn copy(&self) -> MutexGuard<'_, WorkingCopy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the root directory looks on top of the layer `top`, or on nothing.
fn root_meta(top: Option<&Path>) -> std::io::Result<Meta> {
    let Some(top) = top else { return Ok(Meta { mode: 0o755, ..Meta::default() }) };
    let fd = sys::fs::open_dir(top)?;
    let stat = fs::fstat(&fd)?;
    Ok(stand_in::of(&fd, &stat)?.meant(Meta { xattrs: xattr::read(&fd)?, ..meta_of_stat(&stat) }))
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
    dir: TemporaryDir,
    fs: PathBuf,
}

impl CommittedLayer {
    /// The directory with the layer's changes, for as long as it is not published.
    #[must_use]
    pub fn fs(&self) -> &Path {
        &self.fs
    }

    /// Writes the table and renames all to `<layers_dir>/<hex of id>/{fs,toc}`; if that exists already, ours is removed.
    /// Returns the layer's `fs`.
    ///
    /// # Errors
    /// Writing or renaming fails.
    pub fn publish(self, layers_dir: &Path) -> Result<PathBuf, SnapshotError> {
        let target = layers_dir.join(self.id.0.hex());
        let fs = target.join("fs");
        let toc = self.dir.path().join("toc");
        std::fs::File::create(&toc).and_then(|mut file| self.toc.seal_to(&mut file)).map_err(SnapshotError::io("write", toc.display()))?;
        match std::fs::rename(self.dir.path(), &target) {
            Ok(()) => self.dir.keep(),
            // Another process was first. Equal ids, equal layers: ours goes.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists) => {}
            Err(e) => return Err(SnapshotError::io("publish layer", target.display())(e)),
        }
        Ok(fs)
    }
}

/// A directory that is removed when its value goes.
#[derive(Debug)]
struct TemporaryDir {
    path: PathBuf,
    /// Not to be removed after all.
    stays: bool,
}

impl TemporaryDir {
    fn create(tmp: &Path) -> Result<Self, SnapshotError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let path = tmp.join(format!("snapshot-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, stays: false }),
                // Left by a crashed process that had our number.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(SnapshotError::io("make directory", path.display())(e)),
            }
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(mut self) {
        self.stays = true;
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if !self.stays
            && let Err(e) = sys::fs::remove_tree_at(&self.path)
        {
            // Nobody is left to return it to; the store's start-up sweep removes it.
            tracing::debug!(path = %self.path.display(), error = %e, "temporary directory stays");
        }
    }
}

/// A detached bind mount of a directory or file (`open_tree(OPEN_TREE_CLONE)`), to be attached by a child.
///
/// # Errors
/// The path does not exist; mounting is not permitted.
pub fn detach_tree(path: &Path) -> std::io::Result<OwnedFd> {
    sys::mount::detach_host(path)
}

/// A second mount of what a detached mount shows.
///
/// # Errors
/// Kernels before 6.15 refuse.
pub fn detach_again(mount: std::os::fd::BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    sys::mount::detach(mount, Path::new(""))
}

/// As [`detach_tree`], of exactly `path` below the directory `root`; no link is followed.
///
/// # Errors
/// As [`detach_tree`].
pub fn detach_beneath(root: &crate::root::RootDir, path: &TreePath) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    let handle = root.open_exact(path, OFlags::PATH, Mode::empty())?;
    sys::mount::detach(handle.as_fd(), Path::new(""))
}
