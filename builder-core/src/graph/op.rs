//! What a vertex does. Plain data; everything that may change a result is in here, everything that may not is not.

pub use builder_snapshot::TreePath;

use std::sync::Arc;
use std::time::Duration;

use crate::oci::{Platform, Reference, Sha256Digest};

/// One operation. Inputs are numbered; where an op names an input it means that position in the vertex's `inputs`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Brings a tree in; no inputs.
    Source(SourceOp),
    /// Runs a process; input 0 is its root file system, further inputs are what its mounts read.
    Exec(ExecOp),
    /// Changes files; input 0 is the tree that is changed if `base` says so, further inputs are what is copied from.
    File(FileOp),
    /// Stacks the layers of the later inputs (each made on nothing) on the first. Without inputs: the empty tree, which has no layer.
    Merge,
}

impl Op {
    /// How many inputs there have to be for all that it names.
    pub(super) fn most_inputs_named(&self) -> usize {
        let count = |input: &usize| input.saturating_add(1);
        match self {
            Self::Source(_) | Self::Merge => 0,
            Self::Exec(exec) => {
                let named = exec.mounts.iter().filter_map(|mount| match &mount.kind {
                    MountKind::Bind { input, .. } | MountKind::Cache { from: Some(input), .. } => Some(count(input)),
                    _ => None,
                });
                named.max().unwrap_or(0).max(1)
            }
            Self::File(file) => {
                let named = file.actions.iter().filter_map(|action| match action {
                    FileAction::Copy(copy) => Some(count(&copy.input)),
                    _ => None,
                });
                named.max().unwrap_or(0).max(usize::from(file.base))
            }
        }
    }
}

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceOp {
    /// An image, resolved by the frontend's needs to one manifest.
    Image {
        /// As written, for messages and for authorisation.
        reference: Reference,
        /// Where its manifest and blobs are.
        location: ImageLocation,
        /// The manifest for the platform.
        manifest: Sha256Digest,
        /// Diff IDs of its layers, bottom first.
        diff_ids: Vec<crate::oci::DiffId>,
    },
    /// A directory of the request ([`crate::request::LocalContext`]). Not a snapshot: file operations copy from it directly, nothing else reads it.
    Local {
        /// Name in the request: `context`, or a named context's.
        name: String,
    },
    /// One file from a web server.
    Http {
        /// Address.
        url: String,
        /// Name of the file in the tree.
        filename: String,
        /// Expected digest of its bytes.
        checksum: Option<Sha256Digest>,
    },
    /// A commit of a git repository.
    Git {
        /// Address without fragment and query.
        url: String,
        /// Branch, tag, ref or commit; none for the remote's HEAD.
        reference: Option<String>,
        /// Directory inside; the root for all.
        subdir: TreePath,
        /// Whether `.git` stays.
        keep_git_dir: bool,
        /// Whether submodules are checked out.
        submodules: bool,
        /// Expected commit (a prefix of its hex digits).
        checksum: Option<String>,
    },
}

/// Where an image's manifest and blobs are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageLocation {
    /// The registry that its reference names (or a mirror), or the local store when rbuild built it.
    Registry,
    /// An OCI layout directory on this machine.
    OciLayout {
        /// The directory, absolute.
        path: String,
    },
}

/// Name and value of a variable. Shared: of thousands of processes each has most variables of the one before.
pub type Variable = Arc<(String, String)>;

/// A process (`features.md` A8, E1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecOp {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment in order, without proxies and secrets.
    pub env: Vec<Variable>,
    /// Proxy variables: seen by the process, not part of the key.
    pub proxy_env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// User as written in USER; empty is root.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `RUN --mount`, sorted by target, parents first.
    pub mounts: Vec<Mount>,
    /// Entries of /etc/hosts beside the standard ones: name, address. Only the names are part of the key.
    pub extra_hosts: Vec<(String, String)>,
    /// Bytes of /dev/shm; none for 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// When it is ended as failed; not part of the key.
    pub timeout: Option<Duration>,
    /// How often it is run again when it fails, each time on the tree as it was before; not part of the key.
    pub retries: u32,
    /// Platform the process is for.
    pub platform: Platform,
}

/// Network of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The build's default: a private network where one can be made, else the host's.
    Default,
    /// Loopback only.
    None,
    /// The host's; needs the entitlement `network.host`.
    Host,
}

/// Walls around a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// The default.
    Sandbox,
    /// None; needs the entitlement `security.insecure`.
    Insecure,
}

/// One `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Absolute, clean.
    pub target: String,
    /// What kind.
    pub kind: MountKind,
}

/// Kinds of mounts (`features.md` A8.4–A8.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// A tree, or a directory or file of it.
    Bind {
        /// Which input.
        input: usize,
        /// Part of it.
        source: TreePath,
        /// Whether writes are allowed (and thrown away).
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Name, with its namespace.
        id: String,
        /// How concurrent users share it.
        sharing: Sharing,
        /// What a new one starts as; none for empty.
        from: Option<usize>,
        /// Part of `from`.
        source: TreePath,
        /// Whether writing fails.
        read_only: bool,
        /// Mode of a new one.
        mode: u32,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Limit; none for the kernel's.
        size_bytes: Option<u64>,
    },
    /// A secret as a file, a variable or both. The value is never part of the key.
    Secret {
        /// Name in the request.
        id: String,
        /// Whether a file is made at the target.
        file: bool,
        /// Variable.
        env: Option<String>,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// A socket of an ssh agent.
    Ssh {
        /// Name in the request.
        id: String,
        /// Whether its absence is an error.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
}

/// `sharing` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Several writers.
    Shared,
    /// A busy one makes a second.
    Private,
    /// The second waits.
    Locked,
}

/// File actions, done in order; together they make one layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileOp {
    /// Whether input 0 is the tree that is changed; without it the actions work on an empty tree (`--link`, bind mounts of contexts).
    pub base: bool,
    /// What is done.
    pub actions: Vec<FileAction>,
}

/// One file action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileAction {
    /// Copies from an input (`features.md` A9).
    Copy(CopyAction),
    /// Makes a directory with its parents; leaves one that is there alone (WORKDIR).
    MakeDir {
        /// Absolute.
        path: String,
        /// Mode of what is made.
        mode: u32,
        /// Owner of what is made.
        owner: Option<Owner>,
    },
    /// Writes a file (heredocs of COPY and ADD).
    MakeFile {
        /// Destination: as in a COPY of one file called `name`.
        dest: Dest,
        /// Name of the file when the destination is a directory.
        name: String,
        /// Content.
        data: Vec<u8>,
        /// Mode, 0644 unless said.
        chmod: Option<Chmod>,
        /// Owner, 0:0 unless said.
        owner: Option<Owner>,
    },
}

/// Copying paths from an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyAction {
    /// Which input.
    pub input: usize,
    /// Sources after expansion, cleaned: relative to the root of the input, without a leading or trailing slash, `..` clipped; empty for the
    /// root itself. Wildcards as in Go's `filepath.Match`. With `parents` a `/./` inside marks where the kept directories begin.
    pub sources: Vec<String>,
    /// Where to.
    pub dest: Dest,
    /// `--chown`.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<String>,
    /// Whether archives are unpacked (ADD of local files; `--unpack`).
    pub unpack: bool,
    /// Whether owners become 0:0 when `owner` is none (local contexts) rather than being kept (stages and images).
    pub reset_owner: bool,
}

impl CopyAction {
    /// A copy without flags: everything as it is.
    #[must_use]
    pub fn plain(input: usize, sources: Vec<String>, dest: Dest) -> Self {
        Self { input, sources, dest, owner: None, chmod: None, parents: false, excludes: Vec::new(), unpack: false, reset_owner: false }
    }
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dest {
    /// Absolute, clean.
    pub path: String,
    /// Whether it was written with a slash at its end (or is `.`-like), so that it must be a directory.
    pub is_dir: bool,
}

/// `user[:group]`, numbers or names looked up in the destination tree (`features.md` A9.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// As written, after expansion.
    pub text: String,
}

/// `--chmod` (`features.md` A9.9).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Chmod {
    /// 0..=07777.
    Octal(u32),
    /// Symbolic, as written; validated by the frontend with [`Chmod::parse`].
    Symbolic(String),
}
