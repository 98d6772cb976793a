//! What a test needs from its machine. Absence is a failure that says what to install, in CI and at home alike.

use std::path::{Path, PathBuf};

/// The full path of a program.
///
/// # Panics
/// When it is on no directory of PATH.
#[must_use]
pub fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this test needs `{name}`: apt-get install {package} (`make test` does it)"))
}

/// Ends the test unless it runs as root.
///
/// # Panics
/// As another user.
pub fn root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root: run `make test` as root");
}

/// The release binary of this checkout, beside the test's own executable.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn rbuild() -> PathBuf {
    if let Some(path) = std::env::var_os("RBUILD_BIN") {
        return PathBuf::from(path);
    }
    let exe = std::env::current_exe().expect("a test knows its executable");
    let found = exe.ancestors().skip(1).take(3).map(|dir| dir.join("rbuild")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no rbuild beside {}: cargo build --release -p builder-cli first", exe.display()))
}

/// The workspace's root directory.
///
/// # Panics
/// Never: the manifest's directory has a parent.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member has a workspace above it")
}
