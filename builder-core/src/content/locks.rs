//! Locks that a process gives up by dying: its directory for unfinished things, and one byte range a key.
//!
//! Both are bound to open file descriptions, not to processes: two builds inside one process exclude each other as two processes do,
//! and closing another descriptor of the same file releases nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use super::{Leases, StoreError, remove_tree};
use crate::cache::Key;

/// First and longest pause between two tries to take a busy key. The holder is another build that runs the same step: it takes as long
/// as the step takes, and the result should be used soon after.
const RETRY_FIRST: Duration = Duration::from_millis(2);
const RETRY_LONGEST: Duration = Duration::from_millis(50);

/// Name of the file of [`Leases`] among the locks.
pub(super) const LAYERS_FILE: &str = "layers";
/// Name of the file in a process's directory that says that there may be links to files of layers in it: removing them is for [`Leases`] to allow.
pub(super) const LINKS_MARK: &str = "links";

/// A directory of this process with a lock beside it (`<name>.lock`), taken before the directory is made and released after it is gone.
#[derive(Debug)]
pub(super) struct ProcessDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl ProcessDir {
    fn create(tmp: &Path) -> Result<Self, StoreError> {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let pid = std::process::id();
        for attempt in 0_u32.. {
            let name = format!("{pid}-{nanos:x}-{attempt}");
            let (path, lock_path) = (tmp.join(&name), tmp.join(format!("{name}.lock")));
            let lock = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock_path) {
                Ok(lock) => lock,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(StoreError::Io { action: "make", path: lock_path, source }),
            };
            flock(&lock, FlockOperation::LockExclusive).map_err(|e| StoreError::Io { action: "lock", path: lock_path.clone(), source: e.into() })?;
            // A sweep may have come between making the file and locking it.
            if !is_at(&lock, &lock_path) {
                continue;
            }
            DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("make directory", &path))?;
            return Ok(Self { path, lock_path, _lock: lock });
        }
        unreachable!("some name is free")
    }
}

impl Drop for ProcessDir {
    fn drop(&mut self) {
        // What cannot be removed here is swept by the next process.
        let leases = self.path.parent().and_then(Path::parent).map(|base| Leases::new(base.join("locks").join(LAYERS_FILE)));
        let Some(Ok(Removal::Allowed(_held))) = leases.map(|leases| removal(&self.path, &leases)) else { return };
        if remove_tree(&self.path).is_ok() {
            drop(fs::remove_file(&self.lock_path));
        }
    }
}

/// Whether a directory of a process may be removed now.
enum Removal {
    /// It may, as long as this is held, if anything has to be.
    Allowed(Option<File>),
    /// A step runs that may see files which have further names in the directory.
    Later,
}

fn removal(dir: &Path, leases: &Leases) -> Result<Removal, StoreError> {
    if !dir.join(LINKS_MARK).exists() {
        return Ok(Removal::Allowed(None));
    }
    Ok(leases.try_hold_all()?.map_or(Removal::Later, |held| Removal::Allowed(Some(held))))
}

pub(super) fn process_dir<'a>(cell: &'a OnceLock<ProcessDir>, tmp: &Path) -> Result<&'a Path, StoreError> {
    if let Some(dir) = cell.get() {
        return Ok(&dir.path);
    }
    // Two threads may both make one; the loser's goes at once.
    let made = ProcessDir::create(tmp)?;
    Ok(&cell.get_or_init(|| made).path)
}

/// Removes the directories of processes that are gone.
pub(super) fn sweep(tmp: &Path, leases: &Leases) -> Result<(), StoreError> {
    for entry in fs::read_dir(tmp).map_err(StoreError::io("list", tmp))? {
        let path = entry.map_err(StoreError::io("list", tmp))?.path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            sweep_locked(&path, leases)?;
        } else if !path.with_extension("lock").exists() {
            // Its lock is made before and removed after it: nobody owns it.
            if path.is_dir() {
                remove_tree(&path)?;
            }
        }
    }
    Ok(())
}

fn sweep_locked(lock_path: &Path, leases: &Leases) -> Result<(), StoreError> {
    let lock = match OpenOptions::new().write(true).open(lock_path) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(StoreError::Io { action: "open", path: lock_path.to_path_buf(), source }),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
        Err(e) => return Err(StoreError::Io { action: "lock", path: lock_path.to_path_buf(), source: e.into() }),
    }
    if is_at(&lock, lock_path) {
        let dir = lock_path.with_extension("");
        let Removal::Allowed(_held) = removal(&dir, leases)? else { return Ok(()) };
        tracing::debug!(path = ?lock_path, "sweeping what a process left");
        remove_tree(&dir)?;
        drop(fs::remove_file(lock_path));
    }
    Ok(())
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

/// Locks by key: whoever holds a key's lock is the one that runs the step.
#[derive(Debug)]
pub struct KeyLocks {
    path: PathBuf,
}

impl KeyLocks {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Takes the lock of `key`; waits while another build holds it. The second value says whether it had to wait, so that a result may
    /// have appeared meanwhile. None when cancelled.
    ///
    /// # Errors
    /// If the lock file cannot be opened or locked.
    pub async fn acquire(&self, key: &Key, cancel: &CancellationToken) -> Result<Option<(KeyLock, bool)>, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(StoreError::io("open", &self.path))?;
        let mut pause = RETRY_FIRST;
        let mut waited = false;
        loop {
            if try_lock(&file, key).map_err(|e| StoreError::Io { action: "lock a key in", path: self.path.clone(), source: e.into() })? {
                return Ok(Some((KeyLock { _file: file }, waited)));
            }
            waited = true;
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_LONGEST),
            }
        }
    }
}

/// A held key. Released when dropped, and when the process dies.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
}

fn try_lock(file: &File, key: &Key) -> Result<bool, Errno> {
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // Two keys that share 62 bits would wait for each other's step, no more.
        l_start: key_offset(key),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

fn key_offset(key: &Key) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&key.0.0[..8]);
    i64::from_be_bytes(bytes) & (i64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use builder_snapshot::Sha256Digest;

    use super::*;

    #[test]
    fn sweep_takes_the_dead_and_leaves_the_living() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let living = ProcessDir::create(tmp.path()).expect("create");
        fs::write(living.path.join("half"), b"x").expect("write");
        let dead = tmp.path().join("1-dead-0");
        fs::create_dir_all(dead.join("fs")).expect("dir");
        fs::write(tmp.path().join("1-dead-0.lock"), b"").expect("lock file nobody holds");
        let orphan = tmp.path().join("orphan");
        fs::create_dir(&orphan).expect("dir");

        let leases = Leases::new(tmp.path().join("layers"));
        sweep(tmp.path(), &leases).expect("sweep");

        assert!(living.path.join("half").exists());
        assert!(!dead.exists() && !orphan.exists() && !tmp.path().join("1-dead-0.lock").exists());
        let path = living.path.clone();
        drop(living);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(tmp.path()).expect("list").count(), 0);
    }

    #[test]
    fn what_may_have_links_to_layers_is_swept_when_no_step_runs() {
        let base = tempfile::tempdir().expect("tempdir");
        let (tmp, layer) = (base.path().join("tmp"), base.path().join("layers").join("0".repeat(64)).join("fs"));
        for dir in [&tmp, &layer, &base.path().join("locks")] {
            fs::create_dir_all(dir).expect("directories");
        }
        let leases = Leases::new(base.path().join("locks").join(LAYERS_FILE));
        let dead = tmp.join("1-dead-0");
        fs::create_dir(&dead).expect("dir");
        fs::write(dead.join(LINKS_MARK), b"").expect("mark");
        fs::write(tmp.join("1-dead-0.lock"), b"").expect("lock file nobody holds");
        let living = ProcessDir::create(&tmp).expect("create");
        fs::write(living.path.join(LINKS_MARK), b"").expect("mark");

        let step = leases.hold(&[vec![layer]]).expect("held");
        sweep(&tmp, &leases).expect("sweep");
        drop(living);
        assert_eq!(fs::read_dir(&tmp).expect("list").count(), 4, "both directories and their locks");

        drop(step);
        sweep(&tmp, &leases).expect("sweep");
        assert_eq!(fs::read_dir(&tmp).expect("list").count(), 0);
    }

    #[tokio::test]
    async fn one_holder_a_key_and_waiting_can_be_cancelled() {
        let dir = tempfile::tempdir().expect("tempdir");
        let locks = KeyLocks::new(dir.path().join("keys"));
        let (a, b) = (Key(Sha256Digest::of(b"a")), Key(Sha256Digest::of(b"b")));
        let never = CancellationToken::new();
        let (held, waited) = locks.acquire(&a, &never).await.expect("lock").expect("not cancelled");
        assert!(!waited);
        assert!(locks.acquire(&b, &never).await.expect("other key").is_some());

        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(locks.acquire(&a, &cancelled).await.expect("no failure").is_none());

        let second = locks.acquire(&a, &never);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(held);
        assert!(second.await.expect("lock").expect("not cancelled").1);
    }
}
