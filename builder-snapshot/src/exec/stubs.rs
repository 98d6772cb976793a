//! Mount points that the image lacks, kept out of the layer.

use std::path::{Path, PathBuf};

use super::error::StubError;
use crate::path::TreePath;
use crate::tree::MergedTree;

/// What is mounted on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubKind {
    /// A directory.
    Dir,
    /// A file.
    File,
}

/// The mount points that every sandbox needs.
#[must_use]
pub fn standard_targets() -> Vec<(TreePath, StubKind)> {
    [("proc", StubKind::Dir), ("sys", StubKind::Dir), ("dev", StubKind::Dir), ("etc/hosts", StubKind::File), ("etc/resolv.conf", StubKind::File)]
        .into_iter()
        .map(|(path, kind)| (TreePath::new(path).expect("a clean constant"), kind))
        .collect()
}

/// Makes, in the new directory `dir`, the mount points among `targets` that `tree` lacks. The result is given to
/// [`crate::snapshot::ActiveSnapshot::mount`] as `top_lower`; none if nothing is missing.
///
/// # Errors
/// Something else is where a mount point has to be, or `dir` cannot be written.
pub fn prepare(_tree: &MergedTree, _targets: &[(TreePath, StubKind)], _dir: &Path) -> Result<Option<PathBuf>, StubError> {
    todo!()
}
