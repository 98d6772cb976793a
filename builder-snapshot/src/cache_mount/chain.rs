//! One cache mount's directory: its locks, its chain, its leftovers.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Mode;

use super::{CHAIN_MAX, CacheMountError, Seed, fold};
use crate::exec::Cancel;
use crate::layer::stand_in;
use crate::sys;

/// Byte of `lock`: who reads or changes the chain.
pub(super) const CHAIN: i64 = 0;
/// Byte of `lock`: the one user of `locked` and `private`.
pub(super) const HOLDER: i64 = 1;
/// Byte of `lock`: everyone who has a lease.
pub(super) const USERS: i64 = 2;

/// First word of `chain`.
const CHAIN_VERSION: &str = "1";

/// How long an id may be, with room for a fork's number below NAME_MAX.
const ID_MAX_BYTES: usize = 200;

/// How often a lock that is held is tried again; waiting in the kernel could not be cancelled.
const LOCK_RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A cache mount's directory and this user's locks on it, which are released when it is dropped.
#[derive(Debug)]
pub(super) struct MountDir {
    path: PathBuf,
    lock: File,
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheMountError {
    let path = path.display().to_string();
    move |source| CacheMountError::Io { action, path, source }
}

impl MountDir {
    pub(super) fn open(dir: &Path, id: &str) -> Result<Self, CacheMountError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if id.is_empty() || id.len() > ID_MAX_BYTES || id.starts_with('.') || !id.bytes().all(plain) {
            return Err(CacheMountError::Id { id: id.to_owned() });
        }
        let path = dir.join(id);
        for place in [path.clone(), path.join("layers")] {
            match fs::create_dir(&place) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                result => result.map_err(io_error("make directory", &place))?,
            }
        }
        let lock_path = path.join("lock");
        let lock = File::options().read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io_error("open", &lock_path))?;
        Ok(Self { path, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn layer(&self, name: &str) -> PathBuf {
        self.path.join("layers").join(name)
    }

    #[cfg(test)]
    pub(super) fn copy_of_lock(&self) -> File {
        self.lock.try_clone().expect("dup")
    }

    // Locks.

    pub(super) fn try_lock_exclusive(&self, byte: i64) -> Result<bool, CacheMountError> {
        self.set_lock(byte, libc::F_WRLCK)
    }

    /// Waits for the lock, until `cancel` fires.
    pub(super) fn lock_exclusive(&self, byte: i64, cancel: Option<&Cancel>) -> Result<(), CacheMountError> {
        self.wait_for_lock(byte, libc::F_WRLCK, cancel)
    }

    /// As [`MountDir::lock_exclusive`], beside others who do the same.
    pub(super) fn lock_shared(&self, byte: i64, cancel: Option<&Cancel>) -> Result<(), CacheMountError> {
        self.wait_for_lock(byte, libc::F_RDLCK, cancel)
    }

    fn wait_for_lock(&self, byte: i64, kind: libc::c_int, cancel: Option<&Cancel>) -> Result<(), CacheMountError> {
        while !self.set_lock(byte, kind)? {
            let mut polls: Vec<PollFd<'_>> = cancel.iter().map(|cancel| PollFd::from_borrowed_fd(cancel.0.as_fd(), PollFlags::IN)).collect();
            match rustix::event::poll(&mut polls, Some(&LOCK_RETRY)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Err(CacheMountError::Cancelled),
                Err(errno) => return Err(io_error("wait for", &self.path)(errno.into())),
            }
        }
        Ok(())
    }

    /// Takes the lock if nobody has it exclusively, or turns an exclusive one of ours into a shared one.
    pub(super) fn try_lock_shared(&self, byte: i64) -> Result<bool, CacheMountError> {
        self.set_lock(byte, libc::F_RDLCK)
    }

    pub(super) fn unlock(&self, byte: i64) {
        // It cannot fail on an open descriptor; if it did, the lock would go with the descriptor.
        drop(self.set_lock(byte, libc::F_UNLCK));
    }

    fn set_lock(&self, byte: i64, kind: libc::c_int) -> Result<bool, CacheMountError> {
        // l_pid must be 0 for locks of open file descriptions, which several threads of one process have independently.
        let lock = libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: byte, l_len: 1, l_pid: 0 };
        loop {
            match fcntl(&self.lock, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => return Ok(true),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(false),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(io_error("lock", &self.path.join("lock"))(errno.into())),
            }
        }
    }

    // The chain. CHAIN is held by the caller.

    pub(super) fn read_chain(&self) -> Result<Vec<String>, CacheMountError> {
        let text = self.read_note("chain")?.unwrap_or_default();
        let mut words = text.split(' ');
        if words.next() != Some(CHAIN_VERSION) {
            // None yet, or another version's: a cache may be new at any time.
            return Ok(Vec::new());
        }
        Ok(words.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).map(str::to_owned).collect())
    }

    pub(super) fn write_chain(&self, chain: &[String]) -> Result<(), CacheMountError> {
        let mut text = CHAIN_VERSION.to_owned();
        for layer in chain {
            text.push(' ');
            text.push_str(layer);
        }
        self.write_note("chain", &text)
    }

    /// Notes are the targets of symbolic links: written whole or not at all, without a block of data that replacing a file would have to write first.
    fn write_note(&self, name: &str, text: &str) -> Result<(), CacheMountError> {
        let path = self.path.join(name);
        let next = self.path.join(format!("{name}.next"));
        remove_file(&next)?;
        std::os::unix::fs::symlink(text, &next).map_err(io_error("write", &next))?;
        fs::rename(&next, &path).map_err(io_error("write", &path))
    }

    fn read_note(&self, name: &str) -> Result<Option<String>, CacheMountError> {
        read_note(&self.path.join(name))
    }

    /// A name for a layer that no directory has: neither of this chain, nor of one that was forgotten while somebody used it.
    pub(super) fn next_layer(&self) -> Result<String, CacheMountError> {
        let layers = self.path.join("layers");
        let highest = names(&layers)?.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        Ok((highest.unwrap_or(0) + 1).to_string())
    }

    /// Begins anew: the layers go with the next sweep.
    pub(super) fn forget(&self) -> Result<(), CacheMountError> {
        self.write_chain(&[])
    }

    /// Removes what belongs to no lease and no chain. USERS is held exclusively.
    pub(super) fn sweep(&self) -> Result<(), CacheMountError> {
        let chain = self.read_chain()?;
        for name in names(&self.path.join("layers"))? {
            if !chain.contains(&name) {
                remove_tree(&self.layer(&name))?;
            }
        }
        if chain.len() <= CHAIN_MAX {
            // Of a fold that was over but for this: a later layer may get the number of one that was folded.
            remove_tree(&self.path.join("staging"))?;
        }
        Ok(())
    }

    /// Folds the chain into its base if it is long. USERS is held exclusively, and the mount is marked as not synced.
    pub(super) fn fold_if_long(&self) -> Result<(), CacheMountError> {
        let chain = self.read_chain()?;
        if chain.len() <= CHAIN_MAX {
            return Ok(());
        }
        let [base, above @ ..] = chain.as_slice() else { return Ok(()) };
        let staging = self.path.join("staging");
        for layer in above {
            let path = self.layer(layer);
            fold::fold(&path, &self.layer(base), &staging.join(layer)).map_err(io_error("fold", &path))?;
        }
        self.write_chain(std::slice::from_ref(base))?;
        for layer in above {
            remove_tree(&self.layer(layer))?;
        }
        remove_tree(&staging)
    }

    // Leases.

    /// A new directory in `tmp` whose `fs` looks like the view's root.
    pub(super) fn new_work(&self, tmp: &Path, chain: &[String], seed: &Seed) -> Result<PathBuf, CacheMountError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = loop {
            let path = tmp.join(format!("cache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                // Of a dead process that had our number.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_error("make directory", &path)(e)),
            }
        };
        let upper = path.join("fs");
        let make = || -> io::Result<()> {
            fs::create_dir(path.join("work"))?;
            fs::create_dir(&upper)?;
            let upper = sys::fs::open_dir(&upper)?;
            match chain.last() {
                Some(top) => fold::copy_metadata(sys::fs::open_dir(&self.layer(top))?, &upper),
                None => look_as(&upper, seed),
            }
        };
        make().map_err(io_error("make directory", &upper)).inspect_err(|_| drop(sys::fs::remove_tree_at(&path)))?;
        Ok(path)
    }

    /// The chain, with a layer in it: an empty one that looks as the seed says, if there was none.
    pub(super) fn make_base(&self, seed: &Seed) -> Result<Vec<String>, CacheMountError> {
        let chain = self.read_chain()?;
        if !chain.is_empty() {
            return Ok(chain);
        }
        let base = self.next_layer()?;
        let path = self.layer(&base);
        let make = || -> io::Result<()> {
            fs::create_dir(&path)?;
            look_as(&sys::fs::open_dir(&path)?, seed)
        };
        make().map_err(io_error("make directory", &path))?;
        let chain = vec![base];
        self.write_chain(&chain)?;
        Ok(chain)
    }

    /// Notes that somebody writes to the layer itself.
    pub(super) fn mark_dirty(&self) -> Result<(), CacheMountError> {
        self.write_note("dirty", &std::process::id().to_string())
    }

    /// Whether that is noted; it is not any more.
    pub(super) fn take_dirty(&self) -> Result<bool, CacheMountError> {
        let is_dirty = self.read_note("dirty")?.is_some();
        if is_dirty {
            remove_file(&self.path.join("dirty"))?;
        }
        Ok(is_dirty)
    }

    // Accounts.

    /// Notes that somebody begins to use it: the lock file's time.
    pub(super) fn touch(&self) -> Result<(), CacheMountError> {
        self.lock.set_modified(std::time::SystemTime::now()).map_err(io_error("change the time of", &self.path.join("lock")))
    }

    pub(super) fn last_used(&self) -> Result<std::time::SystemTime, CacheMountError> {
        self.lock.metadata().and_then(|metadata| metadata.modified()).map_err(io_error("read", &self.path.join("lock")))
    }

    /// What all layers take on the disk. Files that come and go meanwhile do not count.
    pub(super) fn size_bytes(&self) -> Result<u64, CacheMountError> {
        let mut size = 0;
        let layers = self.path.join("layers");
        let mut waiting: Vec<PathBuf> = names(&layers)?.into_iter().map(|name| layers.join(name)).collect();
        while let Some(dir) = waiting.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let bytes = metadata.blocks() * 512;
                if metadata.is_dir() {
                    size += bytes;
                    waiting.push(entry.path());
                } else {
                    // A hard link counts its share, so that the sum is the file's size.
                    size += bytes / metadata.nlink().max(1);
                }
            }
        }
        Ok(size)
    }

    // Crashes of the machine.

    /// Notes that what is published from now on may not survive a crash of the machine.
    pub(super) fn mark_unsynced(&self) -> Result<(), CacheMountError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // The numbers tell this mark from earlier ones of this boot.
        self.write_note("unsynced", &format!("{} {}-{}", boot_id(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Whether the machine started anew before everything was on the disk.
    pub(super) fn is_untrusted(&self) -> Result<bool, CacheMountError> {
        match self.read_note("unsynced")? {
            Some(text) if is_of_this_boot(&text) => Ok(false),
            Some(_) => {
                remove_file(&self.path.join("unsynced"))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// Gives a new mount's directory its owner and mode.
fn look_as(dir: &OwnedFd, seed: &Seed) -> io::Result<()> {
    stand_in::set_owner(dir, seed.uid, seed.gid)?;
    Ok(rustix::fs::fchmod(dir, Mode::from_raw_mode(seed.mode))?)
}

fn read_note(path: &Path) -> Result<Option<String>, CacheMountError> {
    match fs::read_link(path) {
        Ok(text) => Ok(text.into_os_string().into_string().ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

fn is_of_this_boot(mark: &str) -> bool {
    mark.split(' ').next() == Some(boot_id().as_str())
}

/// Syncs the file system of `dir`, then removes those marks that were there before, if any of them is at least so old.
pub(super) fn make_durable(dir: &Path, min_age: Duration) -> Result<(), CacheMountError> {
    let mut marks = Vec::new();
    for id in names(dir)? {
        let mark = dir.join(&id).join("unsynced");
        // A clock that went back makes a mark look new: it is left for later.
        let age = fs::symlink_metadata(&mark).and_then(|mark| mark.modified()).ok().and_then(|made| made.elapsed().ok());
        if age.is_some_and(|age| age >= min_age) {
            // Under the lock: a publication that has set its mark and not yet moved its files would be missed by the sync and lose its mark.
            let mount = MountDir::open(dir, &id)?;
            mount.lock_exclusive(CHAIN, None)?;
            marks.extend(read_note(&mark)?.map(|text| (id, mark, text)));
        }
    }
    if marks.is_empty() {
        return Ok(());
    }
    let directory = sys::fs::open_dir(dir).map_err(io_error("open", dir))?;
    rustix::fs::syncfs(&directory).map_err(|errno| io_error("sync", dir)(errno.into()))?;
    for (id, mark, text) in marks {
        let mount = MountDir::open(dir, &id)?;
        mount.lock_exclusive(CHAIN, None)?;
        // Unchanged: nothing was published since. Another boot's marks are for the next user to see.
        if is_of_this_boot(&text) && read_note(&mark)?.as_ref() == Some(&text) {
            remove_file(&mark)?;
        }
    }
    Ok(())
}

impl Drop for MountDir {
    fn drop(&mut self) {
        // By name, not by closing: a sandbox that is being cloned at this moment has a copy of the descriptor.
        for byte in [CHAIN, HOLDER, USERS] {
            self.unlock(byte);
        }
    }
}

/// Names this start of the machine; empty where the kernel does not say, which makes every publication look like one of this boot.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

pub(super) fn names(dir: &Path) -> Result<Vec<String>, CacheMountError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("read directory", dir))? {
        let entry = entry.map_err(io_error("read directory", dir))?;
        // Names of ours are all UTF-8; others are nobody's.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn remove_tree(path: &Path) -> Result<(), CacheMountError> {
    sys::fs::remove_tree_at(path).map_err(io_error("remove", path))
}

fn remove_file(path: &Path) -> Result<(), CacheMountError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        result => result.map_err(io_error("remove", path)),
    }
}
