//! What a machine lets builds do, found out by trying.
//!
//! ```text
//! examine ──► a child does what a build does: enters, mounts, starts a process ──► Facts ──► findings (pure) ──► Report
//! ```
//!
//! The child is the real thing: it enters a user namespace as a build would, makes an overlay where the store is, and walks every step of a sandbox up to
//! the program, which is missing on purpose. Nothing is left behind, and nothing on the machine changes.
//!
//! # Invariants
//! - Facts are facts: error numbers and texts, no advice. What they mean is decided in [`findings()`] and in [`crate::diagnosis`], where builds ask too.
//! - It ends within [`TIME_LIMIT`], whatever the machine does.

use std::path::PathBuf;
use std::time::Duration;

use crate::diagnosis::{Facility, Lack};
use crate::user_namespace::{Isolation, Options};

mod facts;
mod findings;
mod probe;

#[cfg(test)]
mod tests;

pub use facts::{ControlGroups, Disk, Emulation, Facts, Fault, Network};
pub use findings::findings;
pub use probe::probe;

/// How long the child may take. A machine that needs longer for a mount has a fault that is worth a finding of its own.
pub const TIME_LIMIT: Duration = Duration::from_millis(900);

/// What is examined.
#[derive(Debug, Clone)]
pub struct Question {
    /// How a user namespace is entered.
    pub enter: Options,
    /// Where the store is, or would be.
    pub store: PathBuf,
    /// The store's file that says with which ids it was made ([`crate::user_namespace::IdMap::text`]).
    pub ids_file: Option<PathBuf>,
}

/// Which builds a machine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builds {
    /// All.
    All,
    /// Those without RUN.
    WithoutRun,
    /// None at all.
    None,
}

impl Builds {
    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::WithoutRun => "without-run",
            Self::None => "none",
        }
    }
}

/// How it is with one facility.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// As good as it gets.
    Good,
    /// Builds run, but not all that they can ask for is had.
    Limited,
    /// Keeps builds from running.
    Missing,
}

impl Status {
    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// What was found out about one facility.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub facility: Facility,
    /// How it is.
    pub status: Status,
    /// What is there, in a few words.
    pub detail: String,
    /// What is not there, and what to do.
    pub lack: Option<Lack>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which builds can run.
    pub builds: Builds,
    /// The rung that builds stand on.
    pub isolation: Isolation,
    /// One a facility, in their order.
    pub findings: Vec<Finding>,
}

/// Examines the machine. Only while there is one thread.
///
/// # Errors
/// No child can be started.
pub fn examine(question: &Question) -> std::io::Result<Report> {
    Ok(findings(&probe(question)?))
}
