//! What ends a build, with the vertex and the place in the definition.

use std::path::PathBuf;

use crate::content::StoreError;
use crate::diagnostic::Diagnostic;
use crate::graph::SourceLocation;

/// Why a build ended.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The definition has problems.
    #[error("{}", .0.iter().find(|d| d.severity == crate::diagnostic::Severity::Error).map_or("the build definition has errors", |d| &d.message))]
    Definition(Vec<Diagnostic>),
    /// A step failed.
    #[error("{cause}")]
    Step {
        /// Its name in the progress.
        name: String,
        /// Where it stands.
        location: Option<SourceLocation>,
        /// Last lines of its output.
        log_tail: Vec<u8>,
        /// Where its whole output is.
        log_path: Option<PathBuf>,
        /// Why.
        cause: StepError,
    },
    /// The build was cancelled.
    #[error("canceled")]
    Cancelled,
    /// Results could not be written.
    #[error("cannot export: {0}")]
    Export(String),
    /// The store can't be used.
    #[error("{0}")]
    Store(String),
    /// The machine lets nothing be built.
    #[error("{message}")]
    Machine {
        /// What is refused, and why.
        message: String,
        /// What to do about the machine.
        help: String,
    },
    /// A fault of rbuild itself.
    #[error("internal fault: {0}")]
    Internal(String),
}

/// Why a step failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StepError {
    /// Its process ended with another status than 0.
    #[error("process {process:?} did not complete successfully: exit code: {code}")]
    ExitCode {
        /// Program and arguments, joined by blanks; secrets masked.
        process: String,
        /// The status; 128 + n for signal n.
        code: i32,
    },
    /// The machine does not let steps run: nothing is wrong with the build.
    #[error("{message}")]
    Machine {
        /// What is refused, and why.
        message: String,
        /// What to do about the machine.
        help: Option<String>,
    },
    /// A file that an instruction names is not there.
    #[error("{0}")]
    MissingSource(Box<MissingSource>),
    /// The same, on a disk without room.
    #[error(
        "process {process:?} did not complete successfully: exit code: {code}; the disk of the store {} is full: No space left on device",
        store.display()
    )]
    DiskFull {
        /// As in [`StepError::ExitCode`].
        process: String,
        /// As there.
        code: i32,
        /// The store's root.
        store: PathBuf,
    },
    /// Everything else: a fragment that says what, where and what to do.
    #[error("{message}")]
    Other {
        /// The whole message.
        message: String,
        /// What to do.
        help: Option<String>,
    },
}

/// A file that was asked for and is not there, and what is known about why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingSource {
    /// Path from the root of where it was looked for.
    pub path: String,
    /// Where it was looked for: `the build context /src/app`.
    pub place: String,
    /// Why it is not there, where that can be told: left out by an ignore file, a link that leads to nothing.
    pub reason: Option<String>,
    /// Paths that were perhaps meant, nearest first.
    pub near: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl std::fmt::Display for MissingSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: not found in {}", self.path, self.place)?;
        self.reason.iter().try_for_each(|reason| write!(f, ": {reason}"))
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Machine(lack) => Self::Machine { message: lack.cause, help: lack.remedy },
            other => Self::Store(other.to_string()),
        }
    }
}

impl StepError {
    /// A failure without advice.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other { message: message.into(), help: None }
    }

    /// A failure of the form `what is wrong; what to do`, as errors of the snapshots put it.
    #[must_use]
    pub fn advised(text: &str) -> Self {
        match text.split_once("; ") {
            Some((message, help)) => Self::Other { message: message.to_owned(), help: Some(help.to_owned()) },
            None => Self::other(text),
        }
    }

    /// What to do, if anything is known.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::ExitCode { .. } | Self::DiskFull { .. } => None,
            Self::MissingSource(missing) => missing.help.as_deref(),
            Self::Machine { help, .. } | Self::Other { help, .. } => help.as_deref(),
        }
    }
}
