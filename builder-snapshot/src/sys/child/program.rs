//! What a cloned child makes of itself last: streams, session, identity, capabilities and filter; then it becomes the program.
//!
//! # Invariants
//! - As in the module above: nothing is allocated, and every string and array was made before.
//! - The builder's own binary is never what is started, nor what a script's first line leads to.
#![expect(unsafe_code, reason = "system calls that rustix lacks, made in a cloned child")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{Gid, Uid};

use super::{DETAIL_INTERPRETER, DETAIL_NONE, Failure, PointerArray, Taken, at, check, close_range, open_retrying};

/// How many interpreters of interpreters the kernel starts.
const INTERPRETERS_MAX: u32 = 5;

/// How many bytes the kernel reads of a script's first line.
const SCRIPT_HEAD_BYTES: usize = 256;

/// Until the program runs, `/proc/self/exe` is the builder's own binary: a program or `#!` line that leads there would start it inside the sandbox, from
/// where it could be overwritten on the host. Such links are refused; ordinary ones are followed.
pub(super) fn check_program(candidate: &CStr) -> Taken {
    let mut head = [0_u8; SCRIPT_HEAD_BYTES + 1];
    let mut interpreter = [0_u8; SCRIPT_HEAD_BYTES + 1];
    let mut path = candidate;
    for depth in 0..INTERPRETERS_MAX {
        let detail = if depth == 0 { DETAIL_NONE } else { DETAIL_INTERPRETER };
        let file = match open_retrying(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, ResolveFlags::NO_MAGICLINKS) {
            Ok(file) => file,
            Err(Errno::LOOP) => return Err(at(detail)(Errno::LOOP)),
            // Missing and unreadable ones are the exec's to report.
            Err(_) => return Ok(()),
        };
        if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file() {
            return Ok(());
        }
        let Ok(length) = rustix::io::read(&file, &mut head[..SCRIPT_HEAD_BYTES]) else { return Ok(()) };
        let Some(line) = head[..length].strip_prefix(b"#!") else { return Ok(()) };
        let blank = |b: &u8| matches!(b, b' ' | b'\t');
        let line = &line[line.iter().position(|b| !blank(b)).unwrap_or(line.len())..];
        let end = line.iter().position(|b| blank(b) || matches!(b, b'\n' | 0)).unwrap_or(line.len());
        interpreter[..end].copy_from_slice(&line[..end]);
        interpreter[end] = 0;
        path = CStr::from_bytes_until_nul(&interpreter).map_err(|_| Errno::NOEXEC)?;
    }
    Ok(())
}

pub(super) fn streams(stdout: &OwnedFd, stderr: &OwnedFd) -> Taken {
    let null = open_retrying(CWD, c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, ResolveFlags::NO_SYMLINKS)?;
    // The prepared descriptors are all above 2 (the caller made sure), so none is overwritten before it is used.
    for (from, to) in [(&null, 0), (stdout, 1), (stderr, 2)] {
        // SAFETY: plain descriptor numbers; whatever had the numbers 0 to 2 belongs to this child's copy of the table.
        match check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) }) {
            // The caller has no standard input, and /dev/null got its number.
            Err(Errno::INVAL) if from.as_raw_fd() == to => rustix::io::fcntl_setfd(from, rustix::io::FdFlags::empty())?,
            result => result?,
        }
    }
    Ok(())
}

pub(super) fn session() -> Taken {
    rustix::process::setsid()?;
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) }) {
        // No keys in this kernel, or too many: then the keyring is the one that the caller has, and the filter forbids its use.
        Ok(()) | Err(Errno::NOSYS | Errno::DQUOT | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

pub(crate) fn load_filter(program: &[libc::sock_filter]) -> Taken {
    let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions, which live through the call, and does not write to them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
    Ok(check(result)?)
}

pub(super) fn bound_capabilities(keep: u64) -> Taken {
    for capability in (0..u64::BITS).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: numbers only.
        match check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(()) => {}
            // Above the newest capability of this kernel.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    // SAFETY: numbers only.
    Ok(check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?)
}

pub(super) fn become_user(uid: u32, gid: u32, groups: Option<&[Gid]>) -> Taken {
    if let Some(groups) = groups {
        rustix::thread::set_thread_groups(groups)?;
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

pub(super) fn set_capabilities(permitted: u64) -> Taken {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let (low, high) = (permitted as u32, (permitted >> 32) as u32);
    // Twice effective, permitted, inheritable: the low halves, then the high ones.
    let data = [low, low, 0, high, high, 0];
    // SAFETY: both structures have the layout of version 3 and live through the call.
    Ok(check(unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) })?)
}

pub(super) fn die_with_parent(report: BorrowedFd<'_>) -> Taken {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before that call sends no signal any more. It holds the only lasting read end of the report pipe.
    let mut poll = [rustix::event::PollFd::from_borrowed_fd(report, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now))?;
    if poll[0].revents().contains(rustix::event::PollFlags::ERR) {
        // SAFETY: as in `walk`.
        unsafe { libc::_exit(127) }
    }
    Ok(())
}

/// Signal numbers of Linux, real-time ones included.
const SIGNALS: std::ops::RangeInclusive<libc::c_int> = 1..=64;

/// Size of a signal set in the kernel's eyes (libc's is larger).
pub(crate) const SIGNAL_SET_BYTES: usize = 8;

pub(super) fn clean_process() -> Taken {
    // Handlers vanish at exec, but what was ignored stays ignored: Rust programs ignore SIGPIPE.
    let default_action = [0_u64; 4];
    for signal in SIGNALS.filter(|&s| s != libc::SIGKILL && s != libc::SIGSTOP) {
        let nowhere = std::ptr::null_mut::<u64>();
        // SAFETY: zeroes are the kernel's structure for "default action, no flags, empty mask", at most this long on every architecture.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default_action.as_ptr(), nowhere, SIGNAL_SET_BYTES) })?;
    }
    let none = 0_u64;
    // SAFETY: one kernel signal set is read.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(&none), std::ptr::null_mut::<u64>(), SIGNAL_SET_BYTES)
    })?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Closed by the exec, so that the report pipe still works until then.
    Ok(close_range(3, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)?)
}

/// How often a program that is open for writing is tried again, a millisecond apart. Its writer is another sandbox that was cloned while a file operation
/// wrote the program, and that closes its copy within microseconds of being scheduled.
const BUSY_RETRIES: u32 = 1000;

pub(super) fn exec(candidates: &[CString], argv: &PointerArray, env: &PointerArray) -> Failure {
    let mut failure = Failure { errno: Errno::NOENT, detail: DETAIL_NONE };
    for candidate in candidates {
        let mut tries = 0;
        let errno = loop {
            let Err(errno) = execve(candidate, argv, env) else { continue };
            if errno != Errno::TXTBSY || tries == BUSY_RETRIES {
                break errno;
            }
            tries += 1;
            let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            // An interrupted pause is only shorter.
            let _ = rustix::thread::nanosleep(&pause);
        };
        match errno {
            Errno::NOENT | Errno::NOTDIR => {
                // The file is there, so it is its interpreter that is not.
                if rustix::fs::accessat(CWD, candidate.as_c_str(), rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok() {
                    return Failure { errno, detail: DETAIL_INTERPRETER };
                }
            }
            // As shells do: a later directory of PATH may have one that can be run; if none has, this is what is reported.
            Errno::ACCESS => failure.errno = Errno::ACCESS,
            _ => return Failure { errno, detail: DETAIL_NONE },
        }
    }
    failure
}

fn execve(path: &CStr, argv: &PointerArray, env: &PointerArray) -> Result<(), Errno> {
    // SAFETY: a C string and two NULL-terminated arrays of C strings, all alive; on success nothing of this memory is left.
    check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) })
}
