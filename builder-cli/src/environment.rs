//! The environment, read once.
//!
//! This is the only place of the whole program that looks at environment variables: everything below the command line takes values. Tests make
//! one from a list.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use builder_snapshot::user_namespace::{self, Output, Outside};

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
    /// Where programs of the user run when this process has entered a user namespace: they must find the user's own ids.
    pub(crate) outside: Option<Arc<Outside>>,
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
            outside: None,
        })
    }

    /// The same, with a place outside for programs of the user.
    pub(crate) fn with_outside(&self, outside: Option<Outside>) -> Self {
        Self { outside: outside.map(Arc::new), ..self.clone() }
    }

    /// Runs a program of the user to its end, with `input` on its standard input.
    pub(crate) fn run(&self, program: &OsStr, args: &[OsString], input: &[u8]) -> std::io::Result<Output> {
        let path = self.get_os("PATH");
        match &self.outside {
            Some(outside) => outside.run(program, args, input, path),
            None => user_namespace::run(program, args, input, path),
        }
    }

    /// The program of this name, searched as a shell does.
    pub(crate) fn find_program(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0);
        std::env::split_paths(self.get_os("PATH")?).map(|dir| dir.join(name)).find(is_program)
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
