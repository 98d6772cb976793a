//! The system calls without which nothing is safe.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Facility, Lack, Surroundings};

/// Whether the kernel, and whoever filters this process's calls, allow what every build needs, steps or not: paths that cannot leave a directory, and
/// threads.
///
/// # Errors
/// What is refused.
pub fn floor() -> Result<(), Lack> {
    match rustix::fs::openat2(CWD, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty()) {
        Err(errno @ (Errno::NOSYS | Errno::PERM)) => Err(openat2_refused(errno, &Surroundings::read())),
        // Whatever else is wrong with the current directory is nobody's concern here.
        _ => match std::thread::Builder::new().spawn(|| {}).map(std::thread::JoinHandle::join) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(threads_refused(&Surroundings::read())),
            // Too many is another fault, told where threads are needed.
            _ => Ok(()),
        },
    }
}

/// Why no thread can be started: the C library does without clone3 where it is unknown (ENOSYS), not where it is denied.
#[must_use]
pub fn threads_refused(place: &Surroundings) -> Lack {
    let cause = "no thread can be started: the system call clone3 is denied (EPERM), where programs expect that it is unknown (ENOSYS)";
    let remedy = match &place.container {
        Some(_) => "the container's seccomp profile is older than the call: update the engine, or answer clone3 with ENOSYS in the profile",
        None => "let the filter of system calls answer clone3 with ENOSYS (of a systemd unit: SystemCallErrorNumber=ENOSYS), or allow it",
    };
    Lack::new(Facility::SystemCalls, cause, Some("Seccomp in /proc/self/status"), remedy)
}

/// Why `openat2` is refused.
#[must_use]
pub fn openat2_refused(errno: Errno, place: &Surroundings) -> Lack {
    let cause = format!("the system call openat2, which keeps paths from leaving a directory, is refused: {}", std::io::Error::from(errno));
    if errno == Errno::NOSYS && !place.is_filtered {
        return Lack::new(Facility::SystemCalls, cause, Some("uname -r"), "the kernel is too old: Linux 5.6 has it, and steps need 5.12");
    }
    let remedy = match &place.container {
        Some(_) => {
            "the container's seccomp profile is older than the call: update the engine, or add openat2 to the profile (--security-opt seccomp=FILE)"
        }
        None => "let the filter of system calls allow openat2",
    };
    Lack::new(Facility::SystemCalls, cause, Some("Seccomp in /proc/self/status"), remedy)
}
