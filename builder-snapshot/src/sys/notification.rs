//! System calls of a watched process, answered by its watcher (seccomp's user notification), and what the watcher needs of the kernel for that.
//!
//! The process that asks is named by a number that can pass to another process when it dies. So a directory of `/proc` is opened first and the request
//! looked at again ([`Listener::is_waiting`]): from then on everything is reached through that directory, which never shows another process.
#![expect(unsafe_code, reason = "ioctls and raw structures that no safe library has")]

use std::io::IoSlice;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::child::check;

/// The end of a filter at which questions arrive.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// A system call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    id: u64,
    /// The thread that made it.
    pub(crate) task: u32,
    /// Its number, in the machine's own numbering.
    pub(crate) number: libc::c_long,
    /// What it was given.
    pub(crate) arguments: [u64; 6],
}

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries it out, as if nobody had been asked.
    Continue,
    /// It has been carried out.
    Done,
    /// It failed.
    Failed(Errno),
}

/// Loads a filter whose questions go to whoever has the descriptor that is returned.
pub(crate) fn load_filter(program: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    // A signal that interrupts a call whose answer is under way would have it made again; Linux 5.19 lets it wait.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match load(program, flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => load(program, flags),
        result => result,
    }
}

fn load(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<OwnedFd, Errno> {
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions, which live through the call, and does not write to them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program)) };
    check(result)?;
    // SAFETY: success is the number of a new descriptor, close-on-exec, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// Sends a descriptor. Allocates nothing: a cloned child does this.
pub(crate) fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd) -> Result<(), Errno> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b"l")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The listener that a child sent; none if it could make none.
pub(crate) fn receive_listener(socket: impl AsFd) -> Option<Listener> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    let listener = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })?;
    Some(Listener(listener))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// The next question; none if whoever asked is gone already.
    pub(crate) fn receive(&self) -> Result<Option<Request>, Errno> {
        // SAFETY: zeroes are valid, and what the kernel demands to find.
        let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is the one that this request fills, at most as large as every kernel's.
        match check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, std::ptr::from_mut(&mut question)) }.into()) {
            Ok(()) => {
                let libc::seccomp_data { nr, args, .. } = question.data;
                Ok(Some(Request { id: question.id, task: question.pid, number: nr.into(), arguments: args }))
            }
            Err(Errno::NOENT | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether whoever asked still waits, and so is still who it was.
    pub(crate) fn is_waiting(&self, request: &Request) -> bool {
        // SAFETY: the kernel reads one number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, std::ptr::from_ref(&request.id)) }.into()).is_ok()
    }

    /// Answers. Whoever asked may be gone: then nobody is told.
    pub(crate) fn answer(&self, request: &Request, answer: Answer) {
        // SAFETY: zeroes are valid.
        let mut response: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
        response.id = request.id;
        match answer {
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Done => {}
            Answer::Failed(errno) => response.error = -errno.raw_os_error(),
        }
        // SAFETY: the structure is the one that this request reads.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, std::ptr::from_mut(&mut response)) };
    }

    /// Tells the kernel that question and answer take turns, so that it need not look for another processor (Linux 6.6).
    pub(crate) fn take_turns(&self) {
        /// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, and its only flag.
        const SET_FLAGS: u64 = 0x4008_2104;
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: a number is handed over, no memory. Older kernels refuse, and are a little slower.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
    }
}

/// A `struct stat` or `struct statx` as the kernel writes it, the owner aside.
pub(crate) struct StatBytes {
    bytes: [u8; size_of::<libc::statx>()],
    length: usize,
    owner: [usize; 2],
}

impl StatBytes {
    /// What `stat` says of an open file.
    pub(crate) fn stat(file: impl AsFd) -> Result<Self, Errno> {
        let mut bytes = [0_u8; size_of::<libc::statx>()];
        const { assert!(size_of::<libc::stat>() <= size_of::<libc::statx>()) };
        // SAFETY: an empty name means the descriptor itself; the kernel writes one `struct stat`, for which there is room.
        check(unsafe {
            libc::syscall(libc::SYS_newfstatat, file.as_fd().as_raw_fd(), c"".as_ptr(), bytes.as_mut_ptr(), AtFlags::EMPTY_PATH.bits())
        })?;
        Ok(Self { bytes, length: size_of::<libc::stat>(), owner: [offset_of!(libc::stat, st_uid), offset_of!(libc::stat, st_gid)] })
    }

    /// What `statx` says of an open file.
    pub(crate) fn statx(file: impl AsFd, flags: u32, mask: u32) -> Result<Self, Errno> {
        let mut bytes = [0_u8; size_of::<libc::statx>()];
        let flags = flags | AtFlags::EMPTY_PATH.bits();
        // SAFETY: as above, for one `struct statx`.
        check(unsafe { libc::syscall(libc::SYS_statx, file.as_fd().as_raw_fd(), c"".as_ptr(), flags, mask, bytes.as_mut_ptr()) })?;
        Ok(Self { bytes, length: bytes.len(), owner: [offset_of!(libc::statx, stx_uid), offset_of!(libc::statx, stx_gid)] })
    }

    /// The same with another owner.
    pub(crate) fn owned_by(mut self, (uid, gid): (u32, u32)) -> Self {
        for (at, id) in self.owner.into_iter().zip([uid, gid]) {
            self.bytes[at..at + size_of::<u32>()].copy_from_slice(&id.to_ne_bytes());
        }
        self
    }

    /// What a process that asked gets.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Gives the calling thread a root and a working directory of its own.
pub(crate) fn own_directories() -> Result<(), Errno> {
    // SAFETY: a flag only; what is given up is the sharing of two directories.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_FS) })
}
