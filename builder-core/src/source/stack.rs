//! A stack of layers as something to copy from: read from the layers' tables of contents alone, digests included, without any layer's files.

use std::collections::HashSet;
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::toc::{Meta, Node, PackedToc, TocEntry, merge_packed};

use super::tree::{Entry, EntryNode, SourceTree};
use crate::content::{Stack, Store};
use crate::error::StepError;

/// The effective table of a stack.
#[derive(Debug)]
pub(crate) struct StackTree {
    table: Arc<PackedToc>,
    /// The layer that each entry comes from; empty if there is but one.
    origins: Vec<u32>,
    /// Positions of files that other entries are hard links to.
    heads: HashSet<usize>,
}

impl StackTree {
    /// Merges the tables of the stack's layers.
    ///
    /// # Errors
    /// Layers whose table is not in the store.
    pub(crate) fn read(stack: &Stack, store: &Store) -> Result<Self, StepError> {
        let tables: Vec<Arc<PackedToc>> = stack
            .layers
            .iter()
            .map(|layer| store.read_packed_toc(layer.id).map_err(|error| StepError::other(error.to_string())))
            .collect::<Result<_, _>>()?;
        Ok(Self::of(&tables))
    }

    /// The tree that layers with these tables make, bottom first.
    pub(crate) fn of(tables: &[Arc<PackedToc>]) -> Self {
        let (table, origins) = match tables {
            // The table of a layer that removes nothing is that of its tree.
            [only] if !only.has_whiteouts() => (Arc::clone(only), Vec::new()),
            tables => {
                let (table, origins) = merge_packed(&tables.iter().map(|table| &**table).collect::<Vec<_>>());
                (Arc::new(table), origins)
            }
        };
        let mut heads = HashSet::new();
        for entry in table.entries() {
            if let Node::Hardlink { target } = &entry.node {
                heads.extend(table.position(target).ok());
            }
        }
        Self { table, origins, heads }
    }

    fn entry(&self, at: usize, entry: TocEntry) -> Option<Entry> {
        let layer = self.origins.get(at).map_or(Some(0), |&layer| usize::try_from(layer).ok());
        let TocEntry { path, node, meta } = entry;
        let node = match node {
            Node::Hardlink { target } => {
                let head = self.table.position(&target).ok()?;
                let head_entry = self.table.at(head)?;
                let Node::File { size, digest } = head_entry.node else { return None };
                let node = EntryNode::File { size, digest: Some(digest), group: Some((0, head as u64)) };
                return Some(Entry { path, node, meta: head_entry.meta, layer });
            }
            Node::File { size, digest } => {
                let group = self.heads.contains(&at).then_some((0, at as u64));
                EntryNode::File { size, digest: Some(digest), group }
            }
            Node::Dir => EntryNode::Dir,
            Node::Symlink { target } => EntryNode::Symlink { target },
            Node::CharDevice { major, minor } => EntryNode::CharDevice { major, minor },
            Node::BlockDevice { major, minor } => EntryNode::BlockDevice { major, minor },
            Node::Fifo => EntryNode::Fifo,
            Node::Socket => EntryNode::Socket,
            Node::Whiteout => return None,
        };
        Some(Entry { path, node, meta, layer })
    }
}

impl SourceTree for StackTree {
    fn lookup(&self, path: &TreePath) -> Result<Option<Entry>, StepError> {
        match self.table.position(path) {
            Ok(at) => Ok(self.table.at(at).and_then(|entry| self.entry(at, entry))),
            // An empty stack is an empty directory.
            Err(_) if path.is_root() => {
                let meta = Meta { mode: 0o755, ..Meta::default() };
                Ok(Some(Entry { path: path.clone(), node: EntryNode::Dir, meta, layer: None }))
            }
            Err(_) => Ok(None),
        }
    }

    fn list(&self, path: &TreePath) -> Result<Vec<Entry>, StepError> {
        let mut at = match self.table.position(path) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        let mut rest = self.table.entries_from(at);
        let mut children = Vec::new();
        while let Some(entry) = rest.next().filter(|entry| entry.path.is_below(path) && !entry.path.is_root()) {
            let end = if entry.node == Node::Dir { self.table.end_of(&entry.path, at) } else { at + 1 };
            children.extend(self.entry(at, entry));
            if end != at + 1 {
                rest = self.table.entries_from(end);
            }
            at = end;
        }
        Ok(children)
    }

    fn read_digests(&self, _: &[TreePath]) -> Result<(), StepError> {
        Ok(())
    }

    fn describe(&self) -> String {
        "the stage or image that is copied from".to_owned()
    }
}
