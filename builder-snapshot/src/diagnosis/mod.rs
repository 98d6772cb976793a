//! Why a machine does not let a build run, and what to do about it: the one place that knows.
//!
//! Facts go in ([`Surroundings`], error numbers, what a tool said), a [`Lack`] comes out: its cause, the file or setting that is responsible, and the
//! smallest remedy. Whatever refuses something asks here: entering a user namespace, a step that cannot be started, an overlay that cannot be mounted,
//! `rbuild doctor`. So a build and the doctor say the same words.
//!
//! # Invariants
//! - Everything but [`Surroundings::read`] is pure, and held to a table of machines.
//! - No remedy weakens a machine for everybody where one for this program alone exists: a profile of AppArmor is printed, its switch never named.

use std::fmt;

mod calls;
mod floor;
mod namespaces;
mod ranges;
mod store;
mod surroundings;

#[cfg(test)]
mod tests;

pub use calls::{Refused, refused};
pub use floor::{floor, openat2_refused, threads_refused};
pub use namespaces::{NamespaceRefusal, NamespaceStage, apparmor_profile, user_namespaces};
pub use ranges::{RangeLack, id_ranges};
pub use store::{other_ids, unwritable_store};
pub use surroundings::Surroundings;

/// What a build needs of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Facility {
    /// What every build asks of the kernel.
    SystemCalls,
    /// Namespaces of users for those who are not root.
    UserNamespaces,
    /// Subordinate ids.
    IdRanges,
    /// Stacking layers.
    Overlay,
    /// The sandbox's own mounts and namespaces.
    Sandbox,
    /// Filtering system calls.
    Seccomp,
    /// Limits on resources.
    ControlGroups,
    /// Programs of other processors.
    ForeignPrograms,
    /// Networks of a step's own.
    Network,
    /// Where the store is.
    Disk,
    /// Times.
    Clock,
}

impl Facility {
    /// Its name for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemCalls => "system-calls",
            Self::UserNamespaces => "user-namespaces",
            Self::IdRanges => "id-ranges",
            Self::Overlay => "overlay",
            Self::Sandbox => "sandbox",
            Self::Seccomp => "seccomp",
            Self::ControlGroups => "control-groups",
            Self::ForeignPrograms => "foreign-programs",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Clock => "clock",
        }
    }
}

/// Something that the machine does not give. Shown as cause and remedy in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What is missing.
    pub facility: Facility,
    /// What is refused, and why. A fragment without a full stop.
    pub cause: String,
    /// The file, sysctl or setting that decides it, if one is known.
    pub responsible: Option<String>,
    /// The smallest thing that helps.
    pub remedy: String,
}

impl Lack {
    fn new(facility: Facility, cause: impl Into<String>, responsible: Option<&str>, remedy: impl Into<String>) -> Self {
        Self { facility, cause: cause.into(), responsible: responsible.map(str::to_owned), remedy: remedy.into() }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}
