//! The effective table of a stack of layers.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use crate::path::TreePath;

use super::{Node, Toc, TocEntry};

/// The next entry of one layer. The least is taken next: by path, of equal paths the topmost layer first.
#[derive(PartialEq, Eq)]
struct Head<'a> {
    entry: &'a TocEntry,
    layer: usize,
    index: usize,
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.entry.path.cmp(&other.entry.path).then_with(|| other.layer.cmp(&self.layer))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The effective table of a stack of layers, bottom first: whiteouts applied, hard-link groups whose first path is hidden renamed to the next one.
///
/// All tables are walked once, together, in order of paths.
#[must_use]
pub fn merge(tocs: &[&Toc]) -> Toc {
    let mut heads: BinaryHeap<Reverse<Head<'_>>> =
        tocs.iter().enumerate().filter_map(|(layer, toc)| Some(Reverse(Head { entry: toc.entries.first()?, layer, index: 0 }))).collect();
    let mut merged: Vec<TocEntry> = Vec::new();
    // The layer that each merged entry comes from: hard links belong to their own layer's file only.
    let mut origins: Vec<usize> = Vec::new();
    // Paths that hide what lower layers have at them and below, with the layer that does it: a chain of ancestors, outermost first.
    let mut hiding: Vec<(&TreePath, usize)> = Vec::new();
    let mut renamed: HashMap<(usize, &TreePath), TreePath> = HashMap::new();
    let mut last_path: Option<&TreePath> = None;

    while let Some(mut top) = heads.peek_mut() {
        let Reverse(Head { entry, layer, index }) = *top;
        let toc = tocs[layer];
        if let Some(next) = toc.entries.get(index + 1) {
            *top = Reverse(Head { entry: next, layer, index: index + 1 });
            drop(top);
        } else {
            std::collections::binary_heap::PeekMut::pop(top);
        }

        while hiding.last().is_some_and(|(path, _)| entry.path.below(path).is_none()) {
            hiding.pop();
        }
        if hiding.iter().any(|&(_, by)| by > layer) {
            continue;
        }
        // Also what an upper directory covers hides what lies below itself.
        if entry.node != Node::Dir {
            hiding.push((&entry.path, layer));
        }
        if last_path == Some(&entry.path) {
            continue;
        }
        last_path = Some(&entry.path);
        let mut entry = match &entry.node {
            Node::Whiteout => continue,
            _ => entry.clone(),
        };
        if let Node::Hardlink { target } = &mut entry.node
            && let Some(original) = toc.get(target)
        {
            let visible = merged.binary_search_by(|e| e.path.cmp(target)).is_ok_and(|i| origins[i] == layer);
            if let Some(new) = renamed.get(&(layer, &original.path)) {
                *target = new.clone();
            } else if !visible {
                renamed.insert((layer, &original.path), entry.path.clone());
                entry.node = original.node.clone();
                entry.meta = original.meta.clone();
            }
        }
        merged.push(entry);
        origins.push(layer);
    }
    Toc { entries: merged }
}
