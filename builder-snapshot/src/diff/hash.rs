//! Digests and attributes of many files, on two threads when there is enough to do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::digest::{Hasher, Sha256Digest};
use crate::error::SnapshotError;
use crate::layer::xattr;
use crate::path::TreePath;
use crate::stop::{StopSignal, Stoppable};
use crate::sys;
use crate::toc::Xattrs;

/// A second thread pays from here on: starting one costs about 50 µs, hashing 2 MiB about a millisecond.
const PARALLEL_BYTES: u64 = 2 << 20;
/// The same for many small files, at about 10 µs each.
const PARALLEL_FILES: usize = 128;

/// What reading one file gives.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) size: u64,
    pub(super) digest: Sha256Digest,
    /// All that belong to a tree, also those that a RUN does not export.
    pub(super) xattrs: Xattrs,
}

/// Reads the regular files at `paths` (with their expected sizes) below `root`; the results are in the same order. Fails once `stop` is set.
pub(super) fn read_all(root: BorrowedFd<'_>, paths: &[(&TreePath, u64)], stop: &StopSignal) -> Result<Vec<Read>, SnapshotError> {
    let bytes: u64 = paths.iter().map(|(_, size)| size).sum();
    let threads = if bytes >= PARALLEL_BYTES || paths.len() >= PARALLEL_FILES { 2.min(paths.len()) } else { 1 };
    let results: Mutex<Vec<Option<Read>>> = Mutex::new((0..paths.len()).map(|_| None).collect());
    let failure: Mutex<Option<SnapshotError>> = Mutex::new(None);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, _)) = paths.get(i) else { return };
            match read(root, path, stop).map_err(SnapshotError::io("read", path.display())) {
                Ok(read) => {
                    if let Some(slot) = results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(i) {
                        *slot = Some(read);
                    }
                }
                Err(error) => {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    next.store(paths.len(), Ordering::Relaxed);
                }
            }
        }
    };
    if threads > 1 {
        std::thread::scope(|scope| {
            scope.spawn(work);
            work();
        });
    } else {
        work();
    }
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    // In place: for a hundred thousand files a second list would be 6 MiB.
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().map(|read| read.expect("nothing failed, so that every file was read")).collect())
}

fn read(root: BorrowedFd<'_>, path: &TreePath, stop: &StopSignal) -> io::Result<Read> {
    // Read by nobody else meanwhile and immutable soon: the access time is of no use to anybody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
    let file = match sys::fs::open_beneath(root, path.as_path(), flags, Mode::empty()) {
        // Not the owner (rootless, an id that is mapped away).
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            sys::fs::open_beneath(root, path.as_path(), flags.difference(OFlags::NOATIME), Mode::empty())?
        }
        result => result?,
    };
    let xattrs = xattr::read(file.as_fd())?;
    let (digest, size) = Hasher::of_reader(Stoppable::new(std::fs::File::from(file), stop.clone()))?;
    Ok(Read { size, digest, xattrs })
}
