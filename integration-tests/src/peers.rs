//! The other tools that read and run what rbuild makes: skopeo and podman, each with state of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::require;

/// Runs a command that must succeed; returns its standard output.
///
/// # Panics
/// When it fails, with what it said.
#[must_use]
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// `skopeo`, without demands on signatures.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn skopeo() -> Command {
    let mut command = Command::new(require::tool("skopeo", "skopeo"));
    command.arg("--insecure-policy");
    command
}

/// Copies an image from one place to another, as skopeo names them.
///
/// # Panics
/// When it can't be copied.
pub fn copy(from: &str, to: &str) {
    let _ = run(skopeo().args(["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]));
}

/// A podman with storage of its own.
pub struct Podman {
    dir: PathBuf,
}

impl Podman {
    /// One that keeps everything below `dir`.
    ///
    /// # Panics
    /// When the directory can't be made.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("podman's directory");
        Self { dir: dir.to_owned() }
    }

    /// The words that run one of its commands, which follows. All it mounts goes with it; crun takes no machine with both kinds of control groups, so
    /// the new kind is hidden from it where there are both.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        let podman = require::tool("podman", "podman").display().to_string();
        let script = "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
        let around = ["unshare", "--mount", "sh", "-c", script, "sh", &podman];
        let state =
            ["--root", &dir("storage"), "--runroot", &dir("run"), "--tmpdir", &dir("tmp"), "--cgroup-manager", "cgroupfs", "--runtime", "crun"];
        around.iter().chain(&state).map(|word| (*word).to_owned()).collect()
    }

    /// One of its commands.
    #[must_use]
    pub fn command(&self) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Runs a container of `image` to its end, without what a sandboxed machine may lack: control groups and networks of its own, higher limits.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn run(&self, image: &str) -> String {
        let flags = ["--cgroups=disabled", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--tls-verify=false"];
        run(self.command().args(["run", "--rm"]).args(flags).arg(image))
    }
}
