//! The message for a source that is not there: which, why, and what was perhaps meant.

use std::collections::VecDeque;

use builder_snapshot::TreePath;

use super::tree::{EntryNode, SourceTree};
use crate::error::{MissingSource, StepError};

/// Most directory entries that are looked through for a file of the same name elsewhere: enough for a project's own files, and no wait in a large tree.
const MAX_SEARCHED: usize = 5_000;

/// Most paths that are suggested.
const MAX_SUGGESTED: usize = 3;

/// The error for `path`, which `tree` does not have.
#[must_use]
pub(crate) fn error(tree: &dyn SourceTree, path: &TreePath) -> StepError {
    let Explained { reason, near, help } = explain(tree, path);
    StepError::MissingSource(Box::new(MissingSource { path: path.display(), place: tree.describe(), reason, near, help }))
}

#[derive(Default)]
struct Explained {
    reason: Option<String>,
    near: Vec<String>,
    help: Option<String>,
}

fn explain(tree: &dyn SourceTree, path: &TreePath) -> Explained {
    let mut parent = TreePath::root();
    for name in path.components() {
        let here = parent.child(name);
        match tree.lookup(&here) {
            Ok(Some(entry)) => match entry.node {
                EntryNode::Dir => parent = here,
                EntryNode::Symlink { target } => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let reason = format!("{} is a symbolic link to {target:?}, which leads to nothing there", here.display());
                    let help = "links are followed inside the tree they are in, and not to ignored paths".to_owned();
                    return Explained { reason: Some(reason), help: Some(help), ..Explained::default() };
                }
                _ if here == *path => return Explained::default(),
                _ => return Explained { reason: Some(format!("{} is no directory", here.display())), ..Explained::default() },
            },
            Ok(None) | Err(_) => return explain_name(tree, &parent, name, path),
        }
    }
    Explained::default()
}

/// Why `parent` has no `name`, which is `wanted` or a directory above it.
fn explain_name(tree: &dyn SourceTree, parent: &TreePath, name: &[u8], wanted: &TreePath) -> Explained {
    let here = parent.child(name);
    if let Some(by) = tree.left_out_by(&here) {
        let help = format!("add the line !{} at its end", String::from_utf8_lossy(wanted.as_bytes()));
        return Explained { reason: Some(format!("{} is left out by {by}", here.display())), help: Some(help), ..Explained::default() };
    }
    let Ok(siblings) = tree.list(parent) else { return Explained::default() };
    let full = |name: &Vec<u8>| parent.child(name).display().trim_start_matches('/').to_owned();
    let names = nearest_names(name, siblings.iter().filter_map(|entry| entry.path.file_name()));
    let near: Vec<String> = if names.is_empty() { same_name_elsewhere(tree, wanted) } else { names.iter().map(full).collect() };
    if near.is_empty() {
        return Explained::default();
    }
    let mut help = format!("did you mean {}?", near.iter().map(|path| format!("{path:?}")).collect::<Vec<_>>().join(" or "));
    if names.first().is_some_and(|near| near.eq_ignore_ascii_case(name)) {
        help.push_str(" names differ in case");
    }
    Explained { reason: None, near, help: Some(help) }
}

/// Files called as `wanted` in other directories, those nearest to the root first.
fn same_name_elsewhere(tree: &dyn SourceTree, wanted: &TreePath) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = MAX_SEARCHED;
    let mut queue = VecDeque::from([TreePath::root()]);
    while let Some(dir) = queue.pop_front() {
        let Ok(entries) = tree.list(&dir) else { continue };
        for entry in entries {
            if left == 0 || found.len() == MAX_SUGGESTED {
                return found;
            }
            left -= 1;
            if entry.path.file_name() == wanted.file_name() {
                found.push(entry.path.display().trim_start_matches('/').to_owned());
            }
            if matches!(entry.node, EntryNode::Dir) {
                queue.push_back(entry.path);
            }
        }
    }
    found
}

/// Names near to `wanted`: equal but for case first, then those that go on behind a blank (a path that was cut at it), then those few edits away.
fn nearest_names<'a>(wanted: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let limit = (wanted.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &[u8])> = names
        .filter_map(|name| {
            let distance = match name.strip_prefix(wanted) {
                _ if name.eq_ignore_ascii_case(wanted) => 0,
                Some([b' ', ..]) => 1,
                _ => edit_distance(wanted, name, limit)?,
            };
            Some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.iter().take(MAX_SUGGESTED).map(|(_, name)| name.to_vec()).collect()
}

/// Insertions, deletions and replacements between two names; none if more than `limit`.
fn edit_distance(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_nearby() {
        let names: [&[u8]; 4] = [b"README.md", b"package.json", b"pakage.json", b"src"];
        assert_eq!(nearest_names(b"readme.md", names.into_iter()), [b"README.md"]);
        assert_eq!(nearest_names(b"packge.json", names.into_iter()), [&b"package.json"[..], b"pakage.json"]);
        assert!(nearest_names(b"elsewhere", names.into_iter()).is_empty());
        assert_eq!(nearest_names(b"my", [&b"my file.txt"[..], b"mystery"].into_iter()), [b"my file.txt"]);
    }
}
