//! Leaving the caller's namespaces, and a process that stays in them.
#![expect(unsafe_code, reason = "fork and unshare are in no safe library")]

use std::io;

use rustix::process::Pid;

/// Forks a process that runs `act` and ends. Only for a process of one thread: the copy of any other would have locks that nobody opens.
pub(crate) fn fork(act: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: there is one thread, so the child is a whole copy of this process and may do whatever this process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Unwinding into the caller would make two of it. What the panic says has been said by its hook.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            // SAFETY: ends the process without exit handlers and destructors, which belong to the caller.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        child => Pid::from_raw(child).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Enters a new user namespace and a new mount namespace that it owns.
pub(crate) fn unshare_user_and_mounts() -> io::Result<()> {
    // SAFETY: flags only; neither memory nor descriptors are touched.
    match unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
