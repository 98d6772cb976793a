//! Network namespaces: making one without entering it, looking into one, and a program that is shown one.
#![expect(unsafe_code, reason = "unshare and setns on a thread of their own, and what a child does before its exec")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that this process gives once.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A network namespace in which no thread of this process is, and its state, which can be read without entering it.
#[derive(Debug)]
pub(crate) struct Namespace {
    descriptor: OwnedFd,
    routes: File,
    /// None where the kernel has no IPv6.
    routes_6: Option<File>,
    sockets: File,
    sockets_6: Option<File>,
    is_spoiled: bool,
}

impl Namespace {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        on_a_thread(|| {
            // SAFETY: a flag only; it moves this thread, which ends at once, and no other.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            // These files belong to the namespace that they were opened in, whoever reads them.
            let open = |name: &str| File::open(format!("/proc/thread-self/{name}"));
            Ok(Self {
                descriptor: open("ns/net")?.into(),
                routes: open("net/route")?,
                routes_6: open("net/ipv6_route").ok(),
                sockets: open("net/sockstat")?,
                sockets_6: open("net/sockstat6").ok(),
                is_spoiled: false,
            })
        })
    }

    /// What `act` says, on a thread that is inside while it lasts: what it starts is inside too.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let entering = || {
                // SAFETY: a descriptor of a namespace; it moves this thread, which ends at once, and no other.
                check(unsafe { libc::setns(self.descriptor.as_raw_fd(), libc::CLONE_NEWNET) })?;
                Ok(act())
            };
            let thread = std::thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, entering)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    }

    /// For a process that enters it.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// Whether packets have a way out.
    pub(crate) fn has_way_out(&self) -> io::Result<bool> {
        let is_default = |line: &str| line.split_ascii_whitespace().nth(1) == Some("00000000");
        let is_default_6 = |line: &str| line.starts_with("00000000000000000000000000000000 00 ") && !line.trim_end().ends_with(" lo");
        Ok(text(Some(&self.routes))?.lines().any(is_default) || text(self.routes_6.as_ref())?.lines().any(is_default_6))
    }

    /// Whether no socket of a process is left, not even one that the kernel keeps for a while after its end, and nobody has [spoiled](Self::spoil) it.
    pub(crate) fn is_unused(&self) -> bool {
        let state = || Ok::<_, io::Error>(text(Some(&self.sockets))? + &text(self.sockets_6.as_ref())?);
        !self.is_spoiled && state().is_ok_and(|state| has_no_sockets(&state))
    }

    /// It may have been changed.
    pub(crate) fn spoil(&mut self) {
        self.is_spoiled = true;
    }
}

/// Reads `/proc/net/sockstat`: what is bound or connected (`inuse`), and what waits for its time to end (`tw`). `orphan`, `alloc` and `mem` count for the whole machine, and
/// `sockets` all that was made, pasta's store of unused ones included.
fn has_no_sockets(state: &str) -> bool {
    state.lines().all(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
        words.chunks_exact(2).all(|pair| !matches!(pair, ["inuse" | "tw", count] if *count != "0"))
    })
}

fn text(file: Option<&File>) -> io::Result<String> {
    let Some(file) = file else { return Ok(String::new()) };
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut buffer, bytes.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Makes `command` start in a mount namespace of its own where `namespace` is mounted on the file `place`, and die with the thread that starts it.
pub(crate) fn enter_before_exec(command: &mut Command, namespace: OwnedFd, place: CString) -> io::Result<()> {
    let source = CString::new(format!("/proc/self/fd/{}", namespace.as_raw_fd())).map_err(io::Error::other)?;
    let parent = libc::pid_t::try_from(std::process::id()).map_err(io::Error::other)?;
    let enter = move || {
        let _kept = &namespace;
        let none = std::ptr::null();
        // SAFETY: system calls with numbers, constants and strings that were made before; nothing is allocated or locked between fork and exec.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // A parent that died before that call sends no signal any more.
            if libc::getppid() != parent {
                libc::_exit(127);
            }
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_PRIVATE | libc::MS_REC, std::ptr::null()))?;
            check(libc::mount(source.as_ptr(), place.as_ptr(), none, libc::MS_BIND, std::ptr::null()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_files_of_proc_stay_with_the_namespace_they_were_opened_in() {
        let namespace = Namespace::new().expect("a namespace; this probe of the kernel needs root");
        let here = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket of this namespace");
        assert!(namespace.is_unused(), "that one is not seen: {:?}", text(Some(&namespace.sockets)));
        assert!(!namespace.has_way_out().expect("readable"));
        let bound = namespace.inside(|| std::net::UdpSocket::bind("0.0.0.0:0")).expect("root");
        assert!(!namespace.is_unused(), "one that is bound inside is");
        drop((bound.expect("a socket"), here));
        assert!(namespace.is_unused());
    }

    #[test]
    fn what_waits_for_its_time_to_end_counts_and_what_the_machine_counts_does_not() {
        let state = |inuse, tw| {
            format!("sockets: used 66\nTCP: inuse {inuse} orphan 3 tw {tw} alloc 132 mem 159\nUDP: inuse 0 mem 0\nFRAG: inuse 0 memory 0\n")
        };
        assert!(has_no_sockets(&state(0, 0)) && !has_no_sockets(&state(1, 0)) && !has_no_sockets(&state(0, 2)));
        assert!(!has_no_sockets("TCP6: inuse 0\nUDP6: inuse 1\n"));
    }
}
