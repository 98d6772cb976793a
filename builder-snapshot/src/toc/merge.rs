//! The effective table of a stack of layers.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::path::TreePath;

use super::packed::Packer;
use super::{Node, PackedToc, Toc, TocEntry};

/// The next entry of one layer. The least is taken next: by path, of equal paths the topmost layer first.
#[derive(PartialEq, Eq)]
struct Head {
    entry: TocEntry,
    layer: usize,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.entry.path.cmp(&other.entry.path).then_with(|| other.layer.cmp(&self.layer))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The effective table of a stack of layers, bottom first: whiteouts applied, hard-link groups whose first path is hidden renamed to the next one.
///
/// All tables are walked once, together, in order of paths.
#[must_use]
pub fn merge(tocs: &[&Toc]) -> Toc {
    let packed: Vec<PackedToc> = tocs.iter().map(|toc| toc.entries.iter().collect()).collect();
    Toc::from(&merge_packed(&packed.iter().collect::<Vec<_>>()).0)
}

/// As [`merge()`]; also says of each entry which layer it comes from.
#[must_use]
pub fn merge_packed(tocs: &[&PackedToc]) -> (PackedToc, Vec<u32>) {
    let mut rests: Vec<_> = tocs.iter().map(|toc| toc.entries()).collect();
    let mut heads: BinaryHeap<Reverse<Head>> = BinaryHeap::with_capacity(tocs.len());
    let mut refill = |heads: &mut BinaryHeap<Reverse<Head>>, layer: usize| {
        heads.extend(rests[layer].next().map(|entry| Reverse(Head { entry, layer })));
    };
    (0..tocs.len()).for_each(|layer| refill(&mut heads, layer));
    // Files that hard links of their layer are named after; those of them that are visible.
    let mut targets: HashSet<(usize, TreePath)> = HashSet::new();
    for (layer, toc) in tocs.iter().enumerate() {
        targets.extend(toc.entries().filter_map(|entry| match entry.node {
            Node::Hardlink { target } => Some((layer, target)),
            _ => None,
        }));
    }
    let mut visible: HashSet<(usize, TreePath)> = HashSet::new();
    let mut merged = Packer::default();
    let mut origins: Vec<u32> = Vec::new();
    // Paths that hide what lower layers have at them and below, with the layer that does it: a chain of ancestors, outermost first.
    let mut hiding: Vec<(TreePath, usize)> = Vec::new();
    let mut renamed: HashMap<(usize, TreePath), TreePath> = HashMap::new();
    let mut last_path: Option<TreePath> = None;

    while let Some(Reverse(Head { mut entry, layer })) = heads.pop() {
        refill(&mut heads, layer);
        while hiding.last().is_some_and(|(path, _)| !entry.path.is_below(path)) {
            hiding.pop();
        }
        if hiding.iter().any(|&(_, by)| by > layer) {
            continue;
        }
        // Also what an upper directory covers hides what lies below itself.
        if entry.node != Node::Dir {
            hiding.push((entry.path.clone(), layer));
        }
        if last_path.as_ref() == Some(&entry.path) {
            continue;
        }
        last_path = Some(entry.path.clone());
        if entry.node == Node::Whiteout {
            continue;
        }
        if let Node::Hardlink { target } = &mut entry.node {
            let key = (layer, target.clone());
            if let Some(new) = renamed.get(&key) {
                *target = new.clone();
            } else if !visible.contains(&key)
                && let Some(original) = tocs[layer].get(target)
            {
                renamed.insert(key, entry.path.clone());
                entry.node = original.node;
                entry.meta = original.meta;
            }
        } else if !targets.is_empty() {
            let key = (layer, entry.path.clone());
            if targets.contains(&key) {
                visible.insert(key);
            }
        }
        merged.push(&entry);
        origins.push(u32::try_from(layer).unwrap_or(u32::MAX));
    }
    (merged.finish(), origins)
}
