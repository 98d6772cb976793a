//! Whose the links, pipes, sockets and nodes of a layer are where the disk cannot say it: in a user namespace they have no attributes that could hold an
//! owner which the namespace lacks. The layer's table knows.

use std::collections::HashMap;
use std::path::Path;

use crate::path::TreePath;
use crate::toc::{Node, PackedToc};
use crate::user_namespace::IdMap;

/// Owners, other than root, of what lies in `fs`; none of a layer that is still being made, or that the machine's root made.
pub(super) fn read(fs: &Path) -> HashMap<TreePath, (u32, u32)> {
    if IdMap::current().is_initial {
        return HashMap::new();
    }
    let Some(bytes) = fs.parent().and_then(|layer| std::fs::read(layer.join("toc")).ok()) else { return HashMap::new() };
    // A damaged table is found, and told, by whoever needs the layer's contents.
    let Ok(table) = PackedToc::unseal(bytes) else { return HashMap::new() };
    let is_mute = |node: &Node| !matches!(node, Node::File { .. } | Node::Dir | Node::Hardlink { .. } | Node::Whiteout);
    let others = table.entries().filter(|entry| is_mute(&entry.node) && (entry.meta.uid, entry.meta.gid) != (0, 0));
    others.map(|entry| (entry.path, (entry.meta.uid, entry.meta.gid))).collect()
}
