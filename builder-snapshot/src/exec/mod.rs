//! Running one process in a sandbox.
//!
//! [`ProcessSpec`] says what to run; [`run`] decides everything beforehand, clones once, and reports how it ended. The caller's
//! process is not changed: its mounts, signals, working directory and environment stay as they are.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::path::TreePath;
use crate::snapshot::Owners;

pub mod stubs;

pub(crate) mod control_group;
mod error;
mod limits;
mod network;
mod ownership;
mod plan;
mod seccomp;
mod supervise;
mod user;

pub use control_group::ResourceLimits;
pub use error::{ExecError, StubError, UserError};
pub use network::{Connector, NAME_SERVER, NetworkLease, PrivateNetworks, Unconnected, Veth, name_servers, resolv_conf};
pub use seccomp::{deny_calls, has_filter};
pub use supervise::run;
pub use user::{USER_DATABASE_BYTES, resolve_owner, resolve_user};

/// One process to run, fully said: nothing is read from the environment or from the caller's file system.
#[derive(Debug)]
pub struct ProcessSpec {
    /// A detached mount of the root file system (from [`crate::snapshot::ActiveSnapshot::mount`]).
    pub root: OwnedFd,
    /// Program and arguments; the program is searched in `env`'s PATH inside the root when it has no slash.
    pub argv: Vec<OsString>,
    /// Environment, in order; the last of equal names wins. HOME is added from `user` when missing.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory inside the root, absolute; made (0755, owned by the user) when missing.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: ResolvedUser,
    /// Host name in the new UTS namespace.
    pub hostname: String,
    /// Further mounts, besides the standard ones (/proc, /dev, /sys …). Attached in order of their targets, parents first.
    pub mounts: Vec<SandboxMount>,
    /// Network seen by the process.
    pub network: NetworkMode,
    /// Sandbox or insecure.
    pub security: SecurityMode,
    /// Bytes of /dev/shm.
    pub shm_size_bytes: u64,
    /// Resource limits: name as in `ulimit(3)` (`nofile`, `nproc` …), soft, hard.
    pub ulimits: Vec<Ulimit>,
    /// What it and everything it starts may use together.
    pub resources: ResourceLimits,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Content of /etc/hosts.
    pub hosts: Vec<u8>,
    /// Content of /etc/resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// Where owners are kept that the disk cannot hold: [`crate::snapshot::ActiveSnapshot::owners`].
    pub owners: Arc<Owners>,
}

/// A user as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory, `/` if unknown.
    pub home: OsString,
}

/// One mount into the sandbox.
#[derive(Debug)]
pub struct SandboxMount {
    /// Where, inside the root (symbolic links are followed inside the root).
    pub target: TreePath,
    /// What.
    pub source: SandboxMountSource,
    /// Whether writing fails with EROFS.
    pub read_only: bool,
}

/// What a [`SandboxMount`] shows.
#[derive(Debug)]
pub enum SandboxMountSource {
    /// A detached mount (a bind of a directory or file, or an overlay), optionally only the part at `subpath`
    /// (resolved inside it, links followed inside it).
    Tree {
        /// The detached mount.
        mount: OwnedFd,
        /// Part of it; the root for all of it.
        subpath: TreePath,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Size limit in bytes; none for the kernel's default.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
    /// A small file held in memory (secrets): on a tmpfs of its own, nodev, nosuid, and noexec unless `mode` has x bits.
    MemoryFile {
        /// Content.
        bytes: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// `--network` of a step.
#[derive(Debug)]
pub enum NetworkMode {
    /// The network namespace of the caller.
    Host,
    /// A new one with nothing but a loopback device that is up.
    None,
    /// This one, of a [`NetworkLease`].
    Private(OwnedFd),
}

/// `--security` of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMode {
    /// Default capabilities, seccomp, masked paths.
    Sandbox,
    /// All capabilities, no seccomp, nothing masked.
    Insecure,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Name without RLIMIT_, lower case.
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReport {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Badly, after the kernel had killed one of its processes for lack of memory.
    OutOfMemory {
        /// The limit of memory that was reached; none when it was the machine's memory, or that of the group that the builder runs in.
        limit_bytes: Option<u64>,
    },
    /// Killed because it ran longer than it may.
    TimedOut,
    /// Killed because of [`Cancel`].
    Cancelled,
}

/// Where a process's standard output and error go. Called from the thread that runs [`run`].
pub trait OutputSink: Send {
    /// Bytes as they came, in order within one stream.
    fn output(&mut self, stream: OutputStream, bytes: &[u8]);

    /// Something that was asked for and is not given, while the process runs nevertheless. At most a few times, before any output or after all of it.
    fn warning(&mut self, warning: &str) {
        let _ = warning; // A sink that shows no warnings is legal.
    }
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A way to end a running process from another thread: when the descriptor's other end is closed or written to, it is killed.
#[derive(Debug)]
pub struct Cancel(pub OwnedFd);
