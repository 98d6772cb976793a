//! What the child found, and how it tells its parent.

use std::io;
use std::path::PathBuf;

use crate::diagnosis::{Facility, Lack, Surroundings};
use crate::user_namespace::Ids;

/// A part that does not work: the words of the error that a build would end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is refused, and the kernel's answer.
    pub cause: String,
    /// What the error advises; may be empty.
    pub remedy: String,
}

/// Where the store is, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// The store.
    pub store: PathBuf,
    /// The directory that was looked at: the store, or the first one above it that exists.
    pub path: PathBuf,
    /// Why it cannot be written.
    pub fault: Option<String>,
    /// The ids that the store was made with, and those of a build, where they differ.
    pub other_ids: Option<[String; 2]>,
    /// Bytes that this user can still write.
    pub free_bytes: u64,
    /// Whether files have attributes of users (`user.*`).
    pub keeps_attributes: bool,
    /// How far the times of new files are from this machine's clock, in seconds.
    pub skew_seconds: i64,
}

/// What a step's control group could limit: by the version (1 or 2) of the groups that do it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlGroups {
    /// Whether any groups of this process can be seen.
    pub is_seen: bool,
    /// Memory.
    pub memory: Option<u8>,
    /// Processors.
    pub cpu: Option<u8>,
    /// Devices; only root needs it.
    pub devices: Option<u8>,
}

/// What runs programs of other processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emulation {
    /// Names of interpreters that the kernel starts for them.
    pub registered: Vec<String>,
    /// Emulators on PATH.
    pub on_path: Vec<String>,
    /// Whether a build can tell the kernel about these in a table of its own.
    pub has_own_table: bool,
}

/// How networks of the steps' own are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// What connected one, in words.
    pub by: Option<String>,
    /// Why none could be connected.
    pub lack: Option<Lack>,
    /// Whether resolv.conf names any server.
    pub has_name_server: bool,
}

/// Everything that was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What can be seen from outside.
    pub place: Surroundings,
    /// What every build needs of the kernel and does not get.
    pub floor: Option<Lack>,
    /// Which ids a build has; none if the child was never heard of.
    pub ids: Option<Ids>,
    /// Whether an overlay can be made where the store is, and used.
    pub overlay: Option<Fault>,
    /// Whether a process can be started in a sandbox.
    pub sandbox: Option<Fault>,
    /// What is said of a sandbox that can be made, but not as it should be.
    pub sandbox_warning: Option<String>,
    /// Whether there is a filter of system calls for this processor.
    pub has_filter: bool,
    /// The store's place.
    pub disk: Disk,
    /// Limits.
    pub control_groups: ControlGroups,
    /// Other processors.
    pub emulation: Emulation,
    /// Networks.
    pub network: Network,
    /// Seconds since 1970 by the machine's clock.
    pub now_seconds: i64,
}

/// Facts as a list of strings, for the way from child to parent: name, value, name, value.
#[derive(Debug, Default)]
pub(super) struct Message(pub(super) Vec<Vec<u8>>);

impl Message {
    pub(super) fn put(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.0.push(name.as_bytes().to_vec());
        self.0.push(value.into());
    }

    pub(super) fn put_fault(&mut self, name: &str, fault: &Fault) {
        self.put(&format!("{name}.cause"), fault.cause.as_str());
        self.put(&format!("{name}.remedy"), fault.remedy.as_str());
    }

    pub(super) fn put_lack(&mut self, name: &str, lack: &Lack) {
        self.put_fault(name, &Fault { cause: lack.cause.clone(), remedy: lack.remedy.clone() });
        self.put(&format!("{name}.responsible"), lack.responsible.clone().unwrap_or_default());
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        let pair = self.0.chunks_exact(2).find(|pair| pair.first().is_some_and(|known| known == name.as_bytes()))?;
        Some(String::from_utf8_lossy(pair.last()?).into_owned())
    }

    pub(super) fn fault(&self, name: &str) -> Option<Fault> {
        let cause = self.text(&format!("{name}.cause"))?;
        Some(Fault { cause, remedy: self.text(&format!("{name}.remedy")).unwrap_or_default() })
    }

    pub(super) fn lack(&self, name: &str, facility: Facility) -> Option<Lack> {
        let Fault { cause, remedy } = self.fault(name)?;
        let responsible = self.text(&format!("{name}.responsible")).filter(|text| !text.is_empty());
        Some(Lack { facility, cause, responsible, remedy })
    }

    pub(super) fn ids(&self) -> Option<Ids> {
        Some(match self.text("ids")?.as_str() {
            "own" => Ids::Own,
            "ranges" => Ids::Ranges,
            "one" => Ids::One { lack: self.lack("lack", Facility::IdRanges)? },
            _ => Ids::None { lack: self.lack("lack", Facility::UserNamespaces)? },
        })
    }
}

/// As an error's words.
pub(super) fn words(error: &io::Error) -> String {
    error.to_string()
}
