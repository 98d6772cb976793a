//! Room on the store's disk: whether it ran out while a step ran, and whether what can wait should take any.
//!
//! A step that fails on a full disk says so in words of its own, so that its failure is explained by looking at the disk. When it has ended the disk need
//! not be full any more: what else was being written there (a layer that is packed beside it, another step) failed as well, and freed what it had
//! taken. Therefore whoever frees much room looks first, and every look that finds the disk full is counted.
//!
//! # Invariants
//! - Between a step's failure on a full disk and the next look nothing of ours frees room. What the step itself removes cannot be known.
//! - What can wait never takes the last room ([`Room::is_scarce`]): the step that runs needs it now.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Less room than this is none: what programs write at once does not fit any more.
const FULL_BYTES: u64 = 256 * 1024;

/// What is left to steps, whatever could be written beside them: this, or a part of the disk if that is less.
const FOR_STEPS_BYTES: u64 = 4 << 30;
const FOR_STEPS_PART: u64 = 4;

/// Whether the disk of `path`, or of the directory it is in, has so little room that whoever failed to write there probably failed for that.
pub(crate) fn is_full(path: &Path) -> bool {
    Disk::of(path).is_some_and(Disk::is_full)
}

/// Whether `error` says that a disk, or a user's share of it, is full.
pub(crate) fn says_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a file system says about itself.
#[derive(Debug, Clone, Copy)]
struct Disk {
    total_bytes: u64,
    free_bytes: u64,
    has_inodes: bool,
}

impl Disk {
    fn of(path: &Path) -> Option<Self> {
        let disk = rustix::fs::statvfs(path).or_else(|_| rustix::fs::statvfs(path.parent().unwrap_or(path))).ok()?;
        Some(Self {
            total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            // Those that have no fixed number of them say 0 of 0.
            has_inodes: disk.f_files == 0 || disk.f_favail > 0,
        })
    }

    fn is_full(self) -> bool {
        self.free_bytes < FULL_BYTES || !self.has_inodes
    }

    fn is_scarce(self) -> bool {
        self.is_full() || self.free_bytes < FOR_STEPS_BYTES.min(self.total_bytes / FOR_STEPS_PART)
    }
}

/// The room of one store.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    found_full: AtomicU64,
}

impl Room {
    /// That of the disk that `dir` is on.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, found_full: AtomicU64::new(0) }
    }

    /// Looks whether the disk is full. To be called before much room is freed.
    pub(crate) fn look(&self) {
        if is_full(&self.dir) {
            self.found_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it was found full: another number than before means that it was in between.
    pub(crate) fn times_full(&self) -> u64 {
        self.found_full.load(Ordering::Relaxed)
    }

    /// Whether what need not be written now should wait until no step runs.
    pub(crate) fn is_scarce(&self) -> bool {
        Disk::of(&self.dir).is_some_and(Disk::is_scarce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_full_and_what_is_scarce() {
        let disk = |total_bytes, free_bytes| Disk { total_bytes, free_bytes, has_inodes: true };
        for (of, full, scarce) in [
            (disk(100 << 30, 5 << 30), false, false),
            (disk(100 << 30, 3 << 30), false, true),
            (disk(8 << 20, 3 << 20), false, false),
            (disk(8 << 20, 1 << 20), false, true),
            (disk(8 << 20, 100 << 10), true, true),
            (Disk { has_inodes: false, ..disk(100 << 30, 50 << 30) }, true, true),
            (disk(0, 0), true, true),
        ] {
            assert_eq!((of.is_full(), of.is_scarce()), (full, scarce), "{of:?}");
        }
    }
}
