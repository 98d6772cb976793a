//! Cloning a sandboxed child and waiting for it.
#![expect(unsafe_code, reason = "clone3 is in neither rustix nor nix")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::child::{self, Failure, REPORT_BYTES, SIGNAL_SET_BYTES, Step};

/// Namespaces that every sandbox has of its own, besides that of control groups.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// libc's constant has too few bits.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A cloned child. Dropping it kills it, all its descendants, and waits for their end.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: OwnedFd,
    report: OwnedFd,
    reaped: bool,
}

/// Clones a child that walks `steps`, in the control group `birthplace` where the kernel does that: moving a process takes some 15 ms now and then. The child is tied
/// to the calling thread: it dies when that thread ends.
pub(crate) fn spawn(steps: &mut [Step], own_network: bool, birthplace: Option<BorrowedFd<'_>>) -> io::Result<Child> {
    let (report, report_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
    // The child's copy must not be one of the three descriptors that its streams are put on.
    let report_write = above_streams(report_write)?;
    if let Some(Step::CloseOthers { .. }) = steps.first() {
        steps[0] = Step::CloseOthers { keep: child::needed(steps, report_write.as_fd()) };
    }
    let mut pidfd: RawFd = -1;
    let network = if own_network { libc::CLONE_NEWNET } else { 0 };
    // A namespace of groups shows as its root the group it is made in: a child that joins another one makes its own afterwards.
    let joins_groups = steps.iter().any(|step| matches!(step, Step::JoinGroups { .. }));
    let groups = if joins_groups { 0 } else { libc::CLONE_NEWCGROUP };
    // SAFETY: zeroes are a valid clone_args: no stack, no tls, no cgroup.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (NAMESPACES | groups | network | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = birthplace {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
        set_born_inside(steps, true);
    }

    // A handler of the caller's that ran in the child would run beside none of the caller's threads. The child unblocks before its exec.
    let blocked = block_signals()?;
    // SAFETY: without CLONE_VM the child has a copy of this memory, and `walk`, which never returns, keeps to what is allowed there.
    let mut result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), size_of::<libc::clone_args>()) };
    let mut error = io::Error::last_os_error();
    if result < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
        // Filters that look at the flags of clone cannot look at those of clone3, which are in memory, and refuse it whole.
        set_born_inside(steps, false);
        // SAFETY: as above; the third argument is where the descriptor goes, no stack and no other pointer is used.
        result = unsafe { clone(NAMESPACES | network | libc::CLONE_PIDFD | libc::SIGCHLD, &mut pidfd) };
        error = io::Error::last_os_error();
    }
    if result == 0 {
        child::walk(steps, report_write.as_fd());
    }
    restore_signals(blocked);
    if result < 0 {
        return Err(error);
    }
    // SAFETY: clone3 succeeded and stored a new descriptor, close-on-exec, that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pidfd, report, reaped: false })
}

/// Tells the child where it was made.
fn set_born_inside(steps: &mut [Step], is_inside: bool) {
    for step in steps {
        if let Step::JoinGroups { born_inside, .. } = step {
            *born_inside = is_inside;
        }
    }
}

/// The older call of the same purpose. It returns twice.
///
/// # Safety
/// Without CLONE_VM and with nothing that needs more than flags and a place for the descriptor; what runs in the child keeps to what is allowed after a fork.
unsafe fn clone(flags: libc::c_int, pidfd: &mut RawFd) -> libc::c_long {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the caller's promise. On every architecture with a table of system calls here the order is flags, stack, descriptor.
    unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, nothing, std::ptr::from_mut(pidfd), nothing, nothing) }
}

/// The same descriptor under a number above 2.
pub(crate) fn above_streams(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?)
}

impl Child {
    /// Readable once the child has ended, and all of its pid namespace with it.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills the child and everything it started.
    pub(crate) fn kill(&self) {
        // It may be gone already; then there is nothing to kill.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> io::Result<WaitIdStatus> {
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    self.reaped = true;
                    return Ok(status);
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => {
                    self.reaped = true;
                    return Err(errno.into());
                }
            }
        }
    }

    /// The next step that failed: any number of forgiven ones, then perhaps one that was not. To be asked after the end: until then no answer is no answer.
    pub(crate) fn next_failure(&self) -> Option<(usize, Failure)> {
        let mut message = [0_u8; REPORT_BYTES];
        match rustix::io::read(&self.report, &mut message) {
            Ok(REPORT_BYTES) => {}
            _ => return None,
        }
        let word = |at: usize| [message[at], message[at + 1], message[at + 2], message[at + 3]];
        let errno = Errno::from_raw_os_error(i32::from_ne_bytes(word(4)));
        Some((u32::from_ne_bytes(word(0)) as usize, Failure { errno, detail: u32::from_ne_bytes(word(8)) }))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // Nobody is left to tell.
            let _ = self.wait();
        }
    }
}

fn block_signals() -> io::Result<u64> {
    let all = u64::MAX;
    let mut before = 0_u64;
    // SAFETY: reads one kernel signal set and writes one; only this thread's mask changes.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(&all), std::ptr::from_mut(&mut before), SIGNAL_SET_BYTES)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(before) }
}

fn restore_signals(before: u64) {
    // SAFETY: as above. It cannot fail with a set that the kernel gave.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(&before), std::ptr::null_mut::<u64>(), SIGNAL_SET_BYTES);
    }
}

/// Waits until one of the descriptors has something to read, or has lost its other end, or the time has come.
pub(crate) fn wait_readable<const N: usize>(descriptors: [Option<BorrowedFd<'_>>; N], until: Option<Instant>) -> io::Result<[bool; N]> {
    let mut polls: Vec<PollFd<'_>> = descriptors.iter().flatten().map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    loop {
        // Above what the kernel takes, waiting goes on forever, as good as.
        let timeout = until
            .map(|until| Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        match rustix::event::poll(&mut polls, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    let mut ready = [false; N];
    let mut polled = polls.iter();
    for (ready, descriptor) in ready.iter_mut().zip(&descriptors) {
        if descriptor.is_some() {
            *ready = polled.next().is_some_and(|poll| !poll.revents().is_empty());
        }
    }
    Ok(ready)
}

/// Whether there is something to read right now.
pub(crate) fn wait_readable_now(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polls = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match rustix::event::poll(&mut polls, Some(&now)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok(polls[0].revents().contains(PollFlags::IN)),
        }
    }
}
