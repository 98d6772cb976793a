//! Why a process did not start. Every message names its subject and, where there is one, the remedy.

use std::io;

use rustix::io::Errno;

use crate::diagnosis::{self, Facility, Refused, Surroundings};
use crate::error::{LimitReached, SnapshotError};

/// The process did not start, or was lost sight of.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// What the spec says cannot be.
    #[error("{what} {value:?}: {reason}")]
    Invalid {
        /// Which part of the spec.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// The program cannot be started: it is the image or the instruction that is wrong. BuildKit reports exit code 1 for it.
    #[error("cannot run {program:?}: {reason}")]
    Program {
        /// `argv[0]`.
        program: String,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// The image does not fit the sandbox (a link where a directory must be, a mount target of the wrong kind).
    #[error("cannot {action}: {reason}")]
    Image {
        /// What was tried, naming the path.
        action: String,
        /// Why not, and the remedy.
        reason: String,
    },
    /// The kernel refuses a part of the sandbox.
    #[error("cannot {action}: {source}{remedy}")]
    Sandbox {
        /// What was tried.
        action: String,
        /// What the kernel answered.
        source: io::Error,
        /// With a leading `; `.
        remedy: String,
    },
}

impl ExecError {
    /// What the kernel refuses, with the remedy that is known for it, or the one that the machine's state suggests.
    pub(super) fn refused(action: String, source: impl Into<io::Error>, remedy: &str) -> Self {
        let source = source.into();
        let remedy = match Errno::from_io_error(&source) {
            Some(errno) if remedy.is_empty() => {
                let what = Refused { facility: Facility::Sandbox, action: &action, errno };
                format!("; {}", diagnosis::refused(what, &Surroundings::read()).remedy)
            }
            _ => remedy.to_owned(),
        };
        Self::Sandbox { action, source, remedy }
    }
}

/// A user or group cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Not `user`, `user:group` or numbers.
    #[error("user {text:?} is not of the form `user` or `user:group`: {reason}")]
    Malformed {
        /// As written.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No such name.
    #[error("no {what} {name:?} in {file} of the image; add it in an earlier instruction, or use its number")]
    Unknown {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file looked in.
        file: &'static str,
    },
    /// Names cannot be looked up without a root file system.
    #[error("{what} {name:?} cannot be looked up: there is no {file} in an empty image; use its number")]
    NoTree {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file that would be looked in.
        file: &'static str,
    },
    /// The file is larger than any real one.
    #[error("{file} of the image has {reached}")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// The limit.
        reached: LimitReached,
    },
    /// The file cannot be read.
    #[error("cannot read {file} of the image: {source}")]
    Read {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Tree(#[from] SnapshotError),
}

/// Mount points cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    /// The image has something there that nothing can be mounted on.
    #[error("cannot mount on {target}: {path} is {found}, not {wanted}; remove it in an earlier instruction, or choose another target")]
    InTheWay {
        /// The mount's target.
        target: String,
        /// Where the obstacle is.
        path: String,
        /// What it is.
        found: &'static str,
        /// What is needed.
        wanted: &'static str,
    },
    /// The directory of mount points cannot be written.
    #[error("cannot prepare mount point {path}: {source}")]
    Io {
        /// Path inside the tree.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The tree cannot be read.
    #[error(transparent)]
    Tree(#[from] SnapshotError),
}
