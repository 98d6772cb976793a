//! Cache mounts: directories that outlive a build, changed by transactions.
//!
//! A cache mount is a named chain of layers. Who uses it gets a copy-on-write view of the chain ([`CacheLease::mount`]); what was changed is added to the
//! chain as a whole ([`CacheLease::publish`]) or thrown away (the lease is dropped: the step was killed). Nobody sees another's half-done work, and
//! a crash leaves the chain as it was before or after.
//!
//! Where no overlay can be mounted ([`CacheMounts::direct`]) there is one view at a time, of the chain's only layer itself: the next user waits. A mark says
//! that somebody is at it; who finds the mark and no user knows that a step was killed there, and begins anew.
//!
//! ```text
//! <dir>/<id>/lock          byte ranges, see below
//! <dir>/<id>/chain         a note: the names of the layers, bottom first
//! <dir>/<id>/layers/<n>    one layer, in overlay form; the bottom one is the base
//! <tmp>/cache-<n>          a lease's changes and overlay's own work directory; whoever owns <tmp> sweeps it after a crash
//! <dir>/<id>/staging       renamed directories on their way, while folding
//! <dir>/<id>/unsynced      a note: the boot during which something was published that is not known to be on the disk
//! <dir>/<id>/dirty         a note: somebody writes to the layer itself, or was killed while doing so
//! ```
//!
//! # Invariants
//!
//! - Locks are open-file-description locks on bytes of `lock`, released by dying: CHAIN (short, exclusive: who reads or changes the chain), HOLDER
//!   (exclusive: the one user of `locked` and `private`), USERS (shared by every lease; exclusive by who folds, sweeps or works on the layer itself). Taken in
//!   the order HOLDER, CHAIN, USERS. Nobody waits for USERS with CHAIN: those who have the one may need the other.
//! - A layer of the chain changes only by folding, while nobody else leases the mount. What a name shows is the same before, during and after.
//! - A fold that was cut short is finished by the next user before it gets its lease; nobody can have had one in between, as folding needs USERS.
//! - Nothing here reads an id as a path: ids are names made of letters, digits, dots and dashes.
//! - Cache mounts are no layers of images: their directories may have overlay's redirect marks, and never leave this module's hands.

mod chain;
mod fold;
mod merge;
mod seed;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chain::{CHAIN, HOLDER, MountDir, USERS, io_error};

use crate::exec::Cancel;
use crate::path::TreePath;
use crate::sys;

/// Chains longer than this are folded when nobody else uses them: the base alone makes for the fastest and simplest view.
const CHAIN_MAX: usize = 1;

/// How many forks of a `private` cache mount there can be at a time: more than any machine runs steps.
const PRIVATE_MAX: usize = 1000;

/// All cache mounts of a store.
#[derive(Debug, Clone)]
pub struct CacheMounts {
    dir: PathBuf,
    tmp: PathBuf,
    direct: bool,
}

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
    /// Layer directories, bottom first, whose content is copied; none for an empty directory.
    pub lowers: Vec<PathBuf>,
    /// Part of them (links followed inside); the root for all. When it is not the root, the following three do not count.
    pub subpath: TreePath,
    /// Mode of the root directory.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A use of a cache mount. Dropping it throws the changes away.
#[derive(Debug)]
pub struct CacheLease {
    mount: MountDir,
    /// The chain that the view stands on.
    chain: Vec<String>,
    /// `<tmp>/cache-<n>`; none if the chain's only layer itself is worked on.
    work: Option<PathBuf>,
    /// What was there was half done, and is gone.
    emptied: bool,
}

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

/// A cache mount as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMountInfo {
    /// Its id; forks of a private one have an id of their own.
    pub id: String,
    /// What it takes on the disk.
    pub size_bytes: u64,
    /// When somebody last began to use it.
    pub last_used: std::time::SystemTime,
    /// Whether somebody uses it now.
    pub in_use: bool,
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
    /// The seed cannot be read.
    #[error("cannot start the cache mount from its source: {0}")]
    Seed(#[from] crate::error::SnapshotError),
    /// An id that is no name.
    #[error("cache mount id {id:?} is not made of letters, digits, dots and dashes")]
    Id {
        /// The id.
        id: String,
    },
    /// The kernel refuses the view.
    #[error("cannot mount the view of cache mount {path}: {source}{log}")]
    Mount {
        /// The directory.
        path: String,
        /// What the kernel answered.
        source: std::io::Error,
        /// What it wrote about it.
        log: String,
    },
    /// More forks than there can be steps.
    #[error("more than {PRIVATE_MAX} private copies of a cache mount are in use")]
    TooManyPrivate,
    /// Cancelled while waiting for another user.
    #[error("cancelled while waiting for another user of the cache mount")]
    Cancelled,
}

impl CacheMounts {
    /// The cache mounts below `dir`, which is made when missing. What is not published yet lies in `tmp`, on the same file system.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: &Path, tmp: &Path) -> Result<Self, CacheMountError> {
        std::fs::create_dir_all(dir).map_err(io_error("make directory", dir))?;
        Ok(Self { dir: dir.to_owned(), tmp: tmp.to_owned(), direct: false })
    }

    /// The same cache mounts for where no overlay can be mounted: one user at a time works on the directory itself. What a step that was killed was working on
    /// is new for the next.
    #[must_use]
    pub fn direct(self) -> Self {
        Self { direct: true, ..self }
    }

    /// Begins a use of the cache mount `id` (a name made of letters, digits, dots and dashes; never a path).
    ///
    /// A caller that holds several takes them in the order of their ids, so that no two wait for each other.
    ///
    /// # Errors
    /// The seed is missing, the directories cannot be written, or `cancel` fired while waiting.
    pub fn acquire(&self, id: &str, sharing: Sharing, seed: &Seed, cancel: Option<&Cancel>) -> Result<CacheLease, CacheMountError> {
        let mount = match sharing {
            Sharing::Shared if !self.direct => MountDir::open(&self.dir, id)?,
            Sharing::Shared | Sharing::Locked => {
                let mount = MountDir::open(&self.dir, id)?;
                mount.lock_exclusive(HOLDER, cancel)?;
                mount
            }
            Sharing::Private => self.free_fork(id)?,
        };
        let mut emptied = false;
        loop {
            mount.lock_exclusive(CHAIN, cancel)?;
            mount.touch()?;
            let alone = mount.try_lock_exclusive(USERS)?;
            if alone {
                emptied |= refresh(&mount, seed)?;
            }
            if alone && self.direct {
                let chain = mount.make_base(seed)?;
                mount.mark_unsynced()?;
                mount.mark_dirty()?;
                mount.unlock(CHAIN);
                return Ok(CacheLease { mount, chain, work: None, emptied });
            }
            if !self.direct && mount.try_lock_shared(USERS)? {
                let chain = mount.read_chain()?;
                let work = Some(mount.new_work(&self.tmp, &chain, seed)?);
                mount.unlock(CHAIN);
                return Ok(CacheLease { mount, chain, work, emptied });
            }
            mount.unlock(CHAIN);
            if self.direct {
                mount.lock_exclusive(USERS, cancel)?;
            } else {
                mount.lock_shared(USERS, cancel)?;
            }
            mount.unlock(USERS);
        }
    }

    fn free_fork(&self, id: &str) -> Result<MountDir, CacheMountError> {
        for number in 0..PRIVATE_MAX {
            let fork = if number == 0 { id.to_owned() } else { format!("{id}.{number}") };
            let mount = MountDir::open(&self.dir, &fork)?;
            if mount.try_lock_exclusive(HOLDER)? {
                return Ok(mount);
            }
        }
        Err(CacheMountError::TooManyPrivate)
    }

    /// Makes the cache mount `id` and its forks new for those who come after (`--no-cache`); who uses it now is not disturbed, and publishes nothing.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn clear(&self, id: &str) -> Result<(), CacheMountError> {
        for number in 0..PRIVATE_MAX {
            let fork = if number == 0 { id.to_owned() } else { format!("{id}.{number}") };
            if !self.dir.join(&fork).exists() {
                break;
            }
            let mount = MountDir::open(&self.dir, &fork)?;
            mount.lock_exclusive(CHAIN, None)?;
            mount.forget()?;
            mount.unlock(CHAIN);
        }
        Ok(())
    }

    /// All cache mounts that hold something, sorted by id. Reads all their directories.
    ///
    /// # Errors
    /// The directories cannot be read.
    pub fn list(&self) -> Result<Vec<CacheMountInfo>, CacheMountError> {
        let mut all = Vec::new();
        for id in chain::names(&self.dir)? {
            let mount = MountDir::open(&self.dir, &id)?;
            let (last_used, size_bytes) = (mount.last_used()?, mount.size_bytes()?);
            let in_use = !mount.try_lock_exclusive(USERS)?;
            if size_bytes > 0 {
                all.push(CacheMountInfo { id, size_bytes, last_used, in_use });
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Removes what the cache mount `id` holds, unless somebody uses it; whether it did.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn remove(&self, id: &str) -> Result<bool, CacheMountError> {
        let mount = MountDir::open(&self.dir, id)?;
        mount.lock_exclusive(CHAIN, None)?;
        if !mount.try_lock_exclusive(USERS)? {
            return Ok(false);
        }
        mount.forget()?;
        mount.sweep()?;
        Ok(true)
    }

    /// Writes what has been published so far to the disk, and says so there, if the last publication of any mount is at least so old: until then a crash
    /// of the machine empties what was published since. Takes as long as the disk needs; meant for the background.
    ///
    /// # Errors
    /// The directories cannot be read or the file system not be synced.
    pub fn make_durable(&self, min_age: Duration) -> Result<(), CacheMountError> {
        chain::make_durable(&self.dir, min_age)
    }
}

/// Folds and sweeps the chain, and fills it if it is new; says whether it is because a step was stopped that worked on the layer itself. CHAIN and USERS are
/// held exclusively.
fn refresh(mount: &MountDir, seed: &Seed) -> Result<bool, CacheMountError> {
    let (is_untrusted, is_dirty) = (mount.is_untrusted()?, mount.take_dirty()?);
    if is_untrusted || is_dirty {
        mount.forget()?;
    }
    mount.sweep()?;
    let long = mount.read_chain()?.len() > CHAIN_MAX;
    if long {
        mount.mark_unsynced()?;
    }
    if long && let Err(error) = mount.fold_if_long() {
        // Half folded it is no base for anyone, and it would fail again. A cache may be new at any time.
        tracing::warn!("cache mount {} is emptied: {error}", mount.path().display());
        mount.forget()?;
    }
    if mount.read_chain()?.is_empty() && !seed.lowers.is_empty() {
        let base = mount.next_layer()?;
        seed::copy(seed, &mount.layer(&base))?;
        mount.write_chain(&[base])?;
    }
    Ok(is_dirty)
}

impl CacheLease {
    /// Whether the cache had to be made new, because a step was stopped while it worked on the layer itself ([`CacheMounts::direct`]).
    #[must_use]
    pub fn was_emptied(&self) -> bool {
        self.emptied
    }

    /// A detached mount of the view.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(&self) -> Result<OwnedFd, CacheMountError> {
        let Some(work) = &self.work else {
            let layers = self.top_layers();
            let layer = layers.first().map_or(self.mount.path(), PathBuf::as_path);
            return sys::mount::detach_bare(layer).map_err(io_error("mount", layer));
        };
        let upper = work.join("fs");
        if self.chain.is_empty() {
            // Nothing below: the directory itself is the view, without an overlay's costs.
            return sys::mount::detach_host(&upper).map_err(io_error("mount", &upper));
        }
        let lowers: Vec<PathBuf> = self.chain.iter().rev().map(|layer| self.mount.layer(layer)).collect();
        let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        let work = work.join("work");
        let options = sys::mount::OverlayOptions { lowers: &lowers, upper: &upper, work: &work, redirects: true };
        sys::mount::overlay(&options).map_err(|failure| CacheMountError::Mount {
            path: self.mount.path().display().to_string(),
            source: failure.source,
            log: failure.log,
        })
    }

    /// Keeps the changes. The mount must be gone.
    ///
    /// # Errors
    /// The directories cannot be written.
    pub fn publish(self) -> Result<Published, CacheMountError> {
        // Not cancellable: it is held for renames only, and by folds, whose cost follows the change.
        self.mount.lock_exclusive(CHAIN, None)?;
        let now = self.mount.read_chain()?;
        let Some(work) = &self.work else {
            if now != self.chain {
                return Ok(Published::Dropped { directory: "/".to_owned() });
            }
            // Another process may have taken the mark away while this step was writing.
            self.mount.mark_unsynced()?;
            self.mount.take_dirty()?;
            return Ok(Published::Added);
        };
        let fs = work.join("fs");
        // A first user's empty directory is published too: its mode and owner are the mount's.
        if !self.chain.is_empty() && merge::is_unchanged(&fs, &self.top_layers())? {
            return Ok(Published::Unchanged);
        }
        if now != self.chain {
            let Some(others) = now.strip_prefix(self.chain.as_slice()) else {
                return Ok(Published::Dropped { directory: "/".to_owned() });
            };
            let below: Vec<PathBuf> = self.chain.iter().map(|layer| self.mount.layer(layer)).collect();
            let others: Vec<PathBuf> = others.iter().map(|layer| self.mount.layer(layer)).collect();
            if let Some(directory) = merge::conflict(&fs, &others, &below)? {
                return Ok(Published::Dropped { directory });
            }
        }
        self.mount.mark_unsynced()?;
        let layer = self.mount.next_layer()?;
        let place = self.mount.layer(&layer);
        std::fs::rename(&fs, &place).map_err(io_error("publish", &place))?;
        let mut chain = now;
        chain.push(layer);
        self.mount.write_chain(&chain)?;
        // Folded by the last user who leaves, in the time that is its step's anyway.
        if self.mount.try_lock_exclusive(USERS)?
            && let Err(error) = self.mount.fold_if_long()
        {
            // The next user tries again, and knows what to do then.
            tracing::debug!("cache mount {} is not folded: {error}", self.mount.path().display());
        }
        Ok(Published::Added)
    }

    fn top_layers(&self) -> Vec<PathBuf> {
        self.chain.iter().rev().map(|layer| self.mount.layer(layer)).collect()
    }
}

impl Drop for CacheLease {
    fn drop(&mut self) {
        // What cannot be removed now is swept with the directory it is in.
        if let Some(work) = &self.work {
            drop(sys::fs::remove_tree_at(work));
        }
    }
}
