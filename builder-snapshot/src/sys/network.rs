//! Network namespaces: making one without entering it, looking into one, and a program that is shown one.
#![expect(unsafe_code, reason = "unshare and setns on a thread of their own, and what a child does before its exec")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that this process gives once.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A new network namespace, in which no thread is.
pub(crate) fn new_namespace() -> io::Result<OwnedFd> {
    on_a_thread(|| {
        // SAFETY: a flag only; it moves this thread, which ends at once, and no other.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// Whether packets of a namespace have a way out.
pub(crate) fn has_default_route(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    let namespace = namespace.try_clone_to_owned()?;
    on_a_thread(move || {
        // SAFETY: moves this thread, which ends at once, and no other.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
        let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        let is_default = |line: &str| line.split_ascii_whitespace().nth(1) == Some("00000000");
        let is_default_6 = |line: &str| line.starts_with("00000000000000000000000000000000 00 ") && !line.trim_end().ends_with(" lo");
        Ok(read("route").lines().any(is_default) || read("ipv6_route").lines().any(is_default_6))
    })
}

/// Makes `command` start in a mount namespace of its own where `namespace` is mounted on the file `place`, and die with the thread that starts it.
pub(crate) fn enter_before_exec(command: &mut Command, namespace: OwnedFd, place: CString) -> io::Result<()> {
    let source = CString::new(format!("/proc/self/fd/{}", namespace.as_raw_fd())).map_err(io::Error::other)?;
    let enter = move || {
        let _kept = &namespace;
        let none = std::ptr::null();
        // SAFETY: system calls with numbers, constants and strings that were made before; nothing is allocated or locked between fork and exec.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_PRIVATE | libc::MS_REC, std::ptr::null()))?;
            check(libc::mount(source.as_ptr(), place.as_ptr(), none, libc::MS_BIND, std::ptr::null()))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))
        }
    };
    // SAFETY: `enter` keeps to what is allowed in a forked child, as said there.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

fn on_a_thread<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("network".to_owned()).spawn(act)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
