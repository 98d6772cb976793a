//! Debian's package manager where there is one id only.
//!
//! apt becomes the user `_apt` before it downloads anything, and gives up where it cannot. In a user namespace with one id nobody becomes another user, so it
//! is told not to try, by its own setting, in a file that lies in /dev and so in no layer. What it installs is the same.

use builder_snapshot::exec::{SandboxMount, SandboxMountSource};
use builder_snapshot::tree::MergedTree;
use builder_snapshot::user_namespace::Isolation;
use builder_snapshot::{SnapshotError, TreePath};

/// Where the setting is.
const FILE: &str = "dev/rbuild-apt.conf";

/// The variable that names it.
pub(super) const VARIABLE: &str = "APT_CONFIG";

/// What the variable is.
pub(super) const VALUE: &str = "/dev/rbuild-apt.conf";

/// The setting, for steps on an image that has apt, where it is needed.
pub(super) fn setting(tree: &MergedTree) -> Result<Option<SandboxMount>, SnapshotError> {
    if Isolation::current() != Isolation::OneId {
        return Ok(None);
    }
    let program = TreePath::new("usr/bin/apt-get").expect("a clean constant");
    if tree.resolve(&program)?.found.is_none() {
        return Ok(None);
    }
    let source = SandboxMountSource::MemoryFile { bytes: b"APT::Sandbox::User \"root\";\n".to_vec(), mode: 0o444, uid: 0, gid: 0 };
    Ok(Some(SandboxMount { target: TreePath::new(FILE).expect("a clean constant"), source, read_only: true }))
}
