//! Whose the links, pipes, sockets and nodes of a layer are where the disk cannot say it: in a user namespace they have no attributes that could hold an
//! owner which the namespace lacks. The layer's table knows.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::toc::{Node, PackedToc};
use crate::user_namespace::IdMap;

/// Owners, other than root, of what lies in `fs`; none of a layer that is still being made, or that the machine's root made.
///
/// # Errors
/// The table is there and cannot be read: without it everything would be root's.
pub(super) fn read(fs: &Path) -> Result<HashMap<TreePath, (u32, u32)>, SnapshotError> {
    if IdMap::current().is_initial {
        return Ok(HashMap::new());
    }
    let Some(table) = fs.parent().map(|layer| layer.join("toc")) else { return Ok(HashMap::new()) };
    let bytes = match std::fs::read(&table) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(SnapshotError::io("read", table.display())(error)),
    };
    // A damaged table is found, and told, by whoever needs the layer's contents.
    let Ok(table) = PackedToc::unseal(bytes) else { return Ok(HashMap::new()) };
    let is_mute = |node: &Node| !matches!(node, Node::File { .. } | Node::Dir | Node::Hardlink { .. } | Node::Whiteout);
    let others = table.entries().filter(|entry| is_mute(&entry.node) && (entry.meta.uid, entry.meta.gid) != (0, 0));
    Ok(others.map(|entry| (entry.path, (entry.meta.uid, entry.meta.gid))).collect())
}
