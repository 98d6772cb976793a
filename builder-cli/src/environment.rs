//! The environment, read once.
//!
//! This is the only place of the whole program that looks at environment variables: everything below the command line takes values. Tests make
//! one from a list.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Environment variables and what else a process inherits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// Working directory, to which relative paths on the command line refer.
    pub(crate) cwd: PathBuf,
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether the process runs as root.
    pub(crate) is_root: bool,
}

impl Environment {
    /// This process's.
    pub(crate) fn read() -> std::io::Result<Self> {
        use std::io::IsTerminal as _;
        Ok(Self {
            variables: std::env::vars_os().collect(),
            cwd: std::env::current_dir()?,
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            is_root: rustix::process::geteuid().is_root(),
        })
    }

    /// The value of `name` if it is set and not empty, as text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name).and_then(OsStr::to_str)
    }

    /// The value of `name` if it is set and not empty.
    pub(crate) fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The value of `name` if it is set, even to nothing.
    pub(crate) fn get_even_if_empty(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The home directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.get_os("HOME").map(PathBuf::from)
    }

    /// `path`, made absolute.
    pub(crate) fn absolute(&self, path: impl AsRef<std::path::Path>) -> PathBuf {
        self.cwd.join(path)
    }
}

#[cfg(test)]
impl Environment {
    /// Made of `variables`, working in `cwd`.
    pub(crate) fn of(cwd: impl Into<PathBuf>, variables: &[(&str, &str)]) -> Self {
        Self { variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(), cwd: cwd.into(), ..Self::default() }
    }
}
