//! What a step changed, as a table.
//!
//! [`take_upper`] reads the upper directory of an overlay beside the lower layers, none of it mounted; [`copy_changes`] compares a copy of the lower
//! layers that a process wrote to with the layers. Both give the same table for the same step.
//!
//! What is dropped: entries that are equal to what lower layers have (a copy-up without a change; directories but for their time), and whiteouts of
//! nothing. What is added: the parents of all that is kept, and a whiteout for each name that an opaque directory hides.

use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::tree::{Child, EntryKind, MergedTree};

mod changes;
mod copy;
mod hash;
mod overlay;

pub use changes::Changes;
pub(crate) use copy::copy_changes;
pub use overlay::take_upper;

/// The whiteouts that stand for an opaque directory at `path`: one for each name that `lower` has there and the layer has not.
/// `exists` says of a path whether the layer has it, and as a directory. Directories that both have are opaque too: what is below an opaque directory does not merge.
pub(crate) fn opaque_whiteouts(
    lower: &MergedTree,
    path: &TreePath,
    exists: &mut dyn FnMut(&TreePath) -> Option<bool>,
    out: &mut Vec<TreePath>,
) -> Result<(), SnapshotError> {
    let mut pending = vec![path.clone()];
    while let Some(dir) = pending.pop() {
        if !matches!(lower.child_at(&dir)?, Child::Dir(..)) {
            continue;
        }
        for entry in lower.read_dir(&dir)? {
            let child = dir.child(&entry.name);
            match exists(&child) {
                None => out.push(child),
                Some(true) if entry.kind == EntryKind::Dir => pending.push(child),
                Some(_) => {}
            }
        }
    }
    Ok(())
}
