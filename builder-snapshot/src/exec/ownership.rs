//! Owners of files in steps of a user namespace with one id (`features.md` E2).
//!
//! There the kernel can give a file to nobody but root. So the calls that change owners, and those that tell them, are answered by the builder: an owner that
//! cannot be had is said in an attribute of the file, or kept in [`Owners`], and told again to whoever asks. What comes of `chown -R app:app /app`,
//! `install -o`, `tar -x` or `cp -a` is then the same layer as root's, and a program that looks finds what it set.
//!
//! # What this is not
//!
//! - Nobody becomes another user: `su`, USER and a server that drops its rights are refused by the kernel, because only the kernel could hold them to
//!   what they may do. Only groups that everybody has (none, or root's) can be "set".
//! - It is no wall and weakens none: it stands behind the same filter, acts on files that the step's root could act on itself, and carries out nothing but
//!   changes of owners. It exists on this rung alone.
//! - 32-bit programs ask the kernel as before: it refuses to change owners for them.
//! - A new file in a directory with the set-group-id bit belongs to root's group, until somebody says otherwise.
//!
//! # Invariants
//!
//! - Nothing is opened but as the step's process would: from its own root, working directory and descriptors, links inside, none of `/proc`'s. What is found is held by
//!   a descriptor; a name is never used twice.
//! - A question that cannot be answered, for whatever reason, is left to the kernel, which answers as it would have without us.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid};
use rustix::io::Errno;

use crate::layer::stand_in;
use crate::snapshot::Owners;
use crate::sys;
use crate::sys::notification::{Answer, Listener, Request, StatBytes, own_directories, receive_listener};

/// The calls that are answered here, in the machine's own numbering.
pub(super) fn calls() -> Vec<u32> {
    let numbers = [libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_setgroups];
    numbers.into_iter().chain(older_calls()).filter_map(|number| u32::try_from(number).ok()).collect()
}

#[cfg(target_arch = "x86_64")]
fn older_calls() -> [libc::c_long; 4] {
    [libc::SYS_chown, libc::SYS_lchown, libc::SYS_stat, libc::SYS_lstat]
}

#[cfg(not(target_arch = "x86_64"))]
fn older_calls() -> [libc::c_long; 0] {
    []
}

/// Bits of CAP_CHOWN and CAP_SETGID.
const CAP_CHOWN: u64 = 1;
const CAP_SETGID: u64 = 1 << 6;

/// An id that says "as it is".
const UNCHANGED: u32 = u32::MAX;

/// How long a path may be, its end included.
const PATH_MAX_BYTES: usize = libc::PATH_MAX as usize;

/// How many groups a process may have.
const GROUPS_MAX: u64 = 65_536;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Descriptor(u64),
    Path {
        /// Where a relative one begins.
        base: u64,
        /// Where in the process's memory it stands.
        address: u64,
        /// Whether a link at its end is followed.
        follows: bool,
        /// Whether an empty one means the base.
        may_be_empty: bool,
    },
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Give { uid: u32, gid: u32 },
    Stat { buffer: u64 },
    Statx { flags: u32, mask: u32, buffer: u64 },
}

fn understand(request: &Request) -> Option<(Subject, Question)> {
    const HERE: u64 = libc::AT_FDCWD as u64;
    let arguments @ [first, second, third, fourth, fifth] = [0, 1, 2, 3, 4].map(|index| request.arguments[index]);
    // Ids and flags are 32 bits; what a program left above them is nobody's business.
    let [_, second_id, third_id, fourth_id, _] = arguments.map(|argument| argument as u32);
    let named = |base, address, flags: u32| Subject::Path {
        base,
        address,
        follows: flags & AtFlags::SYMLINK_NOFOLLOW.bits() == 0,
        may_be_empty: flags & AtFlags::EMPTY_PATH.bits() != 0,
    };
    const NOFOLLOW: u32 = AtFlags::SYMLINK_NOFOLLOW.bits();
    Some(match request.number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => (named(HERE, first, 0), Question::Give { uid: second_id, gid: third_id }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => (named(HERE, first, NOFOLLOW), Question::Give { uid: second_id, gid: third_id }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => (named(HERE, first, 0), Question::Stat { buffer: second }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => (named(HERE, first, NOFOLLOW), Question::Stat { buffer: second }),
        libc::SYS_fchown => (Subject::Descriptor(first), Question::Give { uid: second_id, gid: third_id }),
        libc::SYS_fchownat => (named(first, second, fifth as u32), Question::Give { uid: third_id, gid: fourth_id }),
        libc::SYS_fstat => (Subject::Descriptor(first), Question::Stat { buffer: second }),
        libc::SYS_newfstatat => (named(first, second, fourth as u32), Question::Stat { buffer: third }),
        libc::SYS_statx => (named(first, second, third_id), Question::Statx { flags: third_id, mask: fourth_id, buffer: fifth }),
        _ => return None,
    })
}

/// Answers what a step's processes ask, until the last of them is gone or `stop` is.
pub(super) fn serve(socket: OwnedFd, stop: &OwnedFd, owners: &Arc<Owners>) {
    let ready = |listener: BorrowedFd<'_>| {
        let mut polls = [PollFd::from_borrowed_fd(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polls, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) => return polls[1].revents().is_empty() && polls[0].revents().contains(PollFlags::IN),
            }
        }
    };
    if !ready(socket.as_fd()) {
        return;
    }
    let Some(listener) = receive_listener(&socket) else { return };
    drop(socket);
    listener.take_turns();
    let watcher = Watcher::new(Arc::clone(owners));
    while ready(listener.as_fd()) {
        match listener.receive() {
            Ok(Some(request)) => {
                let answer = match &watcher {
                    Ok(watcher) => watcher.answer(&listener, &request).unwrap_or(Answer::Continue),
                    Err(_) => Answer::Continue,
                };
                listener.answer(&request, answer);
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// What is needed to answer.
struct Watcher {
    owners: Arc<Owners>,
    proc: OwnedFd,
    /// The builder's own root, to come back to.
    root: OwnedFd,
}

/// A process that asks, by its directory in /proc.
struct Task(OwnedFd);

impl Task {
    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn memory(&self) -> Result<File, Errno> {
        Ok(self.open("mem", OFlags::RDWR)?.into())
    }

    fn descriptor(&self, number: u64) -> Result<OwnedFd, Errno> {
        let number = number as i32;
        if number < 0 {
            return Err(Errno::BADF);
        }
        self.open(&format!("fd/{number}"), OFlags::PATH)
    }

    fn has(&self, capability: u64) -> Result<bool, Errno> {
        let status = std::io::read_to_string(File::from(self.open("status", OFlags::RDONLY)?)).map_err(|_| Errno::IO)?;
        let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
        Ok(effective.is_some_and(|effective| effective & capability != 0))
    }
}

/// A string in a process's memory, without its end.
fn read_string(memory: &File, address: u64) -> Result<Vec<u8>, Errno> {
    const PAGE_BYTES: u64 = 4096;
    let mut bytes: Vec<u8> = Vec::new();
    while bytes.len() < PATH_MAX_BYTES {
        // Page by page: the next one may not be there, and need not.
        let at = address.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
        let mut page = [0_u8; PAGE_BYTES as usize];
        let room = &mut page[..(PAGE_BYTES - at % PAGE_BYTES) as usize];
        let read = match memory.read_at(room, at) {
            Ok(0) | Err(_) => return Err(Errno::FAULT),
            Ok(read) => &room[..read],
        };
        if let Some(end) = read.iter().position(|&b| b == 0) {
            bytes.extend(&read[..end]);
            return Ok(bytes);
        }
        bytes.extend(read);
    }
    Err(Errno::NAMETOOLONG)
}

/// The number of a process's own descriptor that a path of `/proc` names: programs that hold a file without the right to read it use such names.
fn own_descriptor(path: &[u8]) -> Option<u64> {
    let number = [&b"/proc/self/fd/"[..], b"/dev/fd/", b"/proc/thread-self/fd/"].into_iter().find_map(|prefix| path.strip_prefix(prefix))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

impl Watcher {
    fn new(owners: Arc<Owners>) -> Result<Self, Errno> {
        let open = |path: &str| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let (proc, root) = (open("/proc")?, open("/")?);
        own_directories()?;
        Ok(Self { owners, proc, root })
    }

    fn answer(&self, listener: &Listener, request: &Request) -> Result<Answer, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let task = Task(rustix::fs::openat(&self.proc, request.task.to_string(), flags, Mode::empty())?);
        if !listener.is_waiting(request) {
            return Ok(Answer::Continue);
        }
        if request.number == libc::SYS_setgroups {
            return groups(&task, request.arguments[0], request.arguments[1]);
        }
        let Some((subject, question)) = understand(request) else { return Ok(Answer::Continue) };
        let file = self.open(&task, subject)?;
        match question {
            Question::Give { uid, gid } => {
                // The kernel has another error, and goes by the same.
                if !task.has(CAP_CHOWN)? {
                    return Ok(Answer::Continue);
                }
                Ok(self.give(&task, &file, (uid, gid)).err().map_or(Answer::Done, Answer::Failed))
            }
            Question::Stat { buffer } => {
                let Some(owner) = self.owner(&task, &file)? else { return Ok(Answer::Continue) };
                tell(&task, buffer, &StatBytes::stat(&file)?.owned_by(owner))
            }
            Question::Statx { flags, mask, buffer } => {
                let Some(owner) = self.owner(&task, &file)? else { return Ok(Answer::Continue) };
                let how = flags & !(AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH).bits();
                tell(&task, buffer, &StatBytes::statx(&file, how, mask)?.owned_by(owner))
            }
        }
    }

    /// Opens what is asked about, for nothing but to know it.
    fn open(&self, task: &Task, subject: Subject) -> Result<OwnedFd, Errno> {
        let (base, address, follows, may_be_empty) = match subject {
            Subject::Descriptor(number) => return task.descriptor(number),
            Subject::Path { base, address, follows, may_be_empty } => (base, address, follows, may_be_empty),
        };
        let base = || match base as i32 {
            libc::AT_FDCWD => task.open("cwd", OFlags::PATH),
            _ => task.descriptor(base),
        };
        // Linux 6.11 takes no path for an empty one.
        let path = if address == 0 && may_be_empty { Vec::new() } else { read_string(&task.memory()?, address)? };
        if path.is_empty() {
            return if may_be_empty { base() } else { Err(Errno::NOENT) };
        }
        if let Some(number) = own_descriptor(&path).filter(|_| follows) {
            return task.descriptor(number);
        }
        let path = sys::fs::name(&path);
        let flags = OFlags::PATH | OFlags::CLOEXEC | if follows { OFlags::empty() } else { OFlags::NOFOLLOW };
        let root = || task.open("root", OFlags::PATH | OFlags::DIRECTORY);
        let open = |dir: BorrowedFd<'_>, resolve| rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS);
        if path.has_root() {
            return open(root()?.as_fd(), ResolveFlags::IN_ROOT);
        }
        let base = base()?;
        match open(base.as_fd(), ResolveFlags::BENEATH) {
            // It leads upwards, or through a link that begins at the process's root: only from there is it what it is.
            Err(Errno::XDEV) => self.within(&root()?, &base, || open(CWD, ResolveFlags::empty())),
            result => result,
        }
    }

    /// Does something in a process's root and working directory.
    fn within<T>(&self, root: &OwnedFd, directory: &OwnedFd, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let enter = |root: &OwnedFd| {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(".")
        };
        let done = enter(root).and_then(|()| rustix::process::fchdir(directory)).and_then(|()| act());
        enter(&self.root).map(|()| done)?
    }

    /// The name by which an open file can be opened again, or asked for attributes.
    fn name(&self, file: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", file.as_raw_fd())
    }

    /// Whose the file is said to be; none if it is what the kernel says.
    fn owner(&self, task: &Task, file: &OwnedFd) -> Result<Option<(u32, u32)>, Errno> {
        let stat = rustix::fs::fstat(file)?;
        if (stat.st_uid, stat.st_gid) != (0, 0) {
            return Ok(None);
        }
        let bears_attributes = matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory);
        if bears_attributes && let Some(owner) = stand_in::owner_at(Path::new(&self.name(file))) {
            return Ok(Some(owner));
        }
        Ok(self.owners.get(file).or_else(|| if bears_attributes { None } else { self.owners.owner_below(&stat, || self.place(task, file)) }))
    }

    fn give(&self, task: &Task, file: &OwnedFd, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(file)?;
        let now = self.owner(task, file)?.unwrap_or((stat.st_uid, stat.st_gid));
        let wanted = (if uid == UNCHANGED { now.0 } else { uid }, if gid == UNCHANGED { now.1 } else { gid });
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory) {
            // Not for its content: attributes are not to be had through a mere handle.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let open = rustix::fs::openat(CWD, self.name(file), flags, Mode::empty())?;
            match stand_in::change_owner(&open, wanted.0, wanted.1) {
                // A file system without attributes, in memory or the machine's.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
                result => return result.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)),
            }
        } else {
            // What every change of owners does besides: it is seen to have happened, and the overlay makes the file the step's own.
            let root = (Some(Uid::ROOT), Some(Gid::ROOT));
            rustix::fs::chownat(file, "", root.0, root.1, AtFlags::EMPTY_PATH)?;
        }
        self.owners.set(file, self.place(task, file).as_deref(), wanted)
    }

    /// Where the file is in the root of the step; none if it is on another mount.
    fn place(&self, task: &Task, file: &OwnedFd) -> Option<std::path::PathBuf> {
        let mount = |file: BorrowedFd<'_>| rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
        let root = task.open("root", OFlags::PATH | OFlags::DIRECTORY).ok()?;
        (mount(root.as_fd()).ok()? == mount(file.as_fd()).ok()?).then(|| std::fs::read_link(self.name(file)).ok()).flatten()
    }
}

fn tell(task: &Task, buffer: u64, stat: &StatBytes) -> Result<Answer, Errno> {
    match task.memory()?.write_all_at(stat.as_bytes(), buffer) {
        Ok(()) => Ok(Answer::Done),
        Err(_) => Ok(Answer::Failed(Errno::FAULT)),
    }
}

/// With one id no groups can be dropped, and none be had but root's. A program that asks for no more than that gets what is there.
fn groups(task: &Task, count: u64, address: u64) -> Result<Answer, Errno> {
    if count > GROUPS_MAX || !task.has(CAP_SETGID)? {
        return Ok(Answer::Continue);
    }
    let mut bytes = vec![0_u8; count as usize * size_of::<u32>()];
    if !bytes.is_empty() && task.memory()?.read_exact_at(&mut bytes, address).is_err() {
        return Ok(Answer::Failed(Errno::FAULT));
    }
    Ok(if bytes.iter().all(|&byte| byte == 0) { Answer::Done } else { Answer::Continue })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_own_descriptors_are_known() {
        assert_eq!(own_descriptor(b"/proc/self/fd/12"), Some(12));
        assert_eq!(own_descriptor(b"/dev/fd/3"), Some(3));
        for other in [&b"/proc/self/fd/"[..], b"/proc/self/fd/3/x", b"/proc/1/fd/3", b"/proc/self/fd/-1", b"/dev/fd/x"] {
            assert_eq!(own_descriptor(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
