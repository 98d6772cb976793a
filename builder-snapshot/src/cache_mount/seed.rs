//! Copying what a new cache mount starts as.

use std::path::Path;

use super::chain::io_error;
use super::{CacheMountError, Seed};
use crate::path::TreePath;
use crate::root::RootDir;
use crate::snapshot::Copier;
use crate::tree::{FoundKind, MergedTree};

/// Copies the seed to the new directory `to`. A crash leaves a directory that no chain names.
pub(super) fn copy(seed: &Seed, to: &Path) -> Result<(), CacheMountError> {
    let tree = MergedTree::open(&seed.lowers)?;
    let from = tree.resolve(&seed.subpath)?;
    let found = match from.found {
        Some(found) if found.kind == FoundKind::Dir => found,
        _ => return Err(CacheMountError::SeedMissing { path: format!("/{}", String::from_utf8_lossy(seed.subpath.as_bytes())) }),
    };
    std::fs::create_dir(to).map_err(io_error("make directory", to))?;
    let root = TreePath::root();
    Copier::new(&tree, to, None)?.subtree(&from.path, found, &root)?;
    if seed.subpath.is_root() {
        let set = RootDir::open(to).and_then(|dir| dir.set_owner_and_mode(&root, seed.uid, seed.gid, seed.mode));
        set.map_err(io_error("change", to))?;
    }
    Ok(())
}
