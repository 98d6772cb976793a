//! The message for a source that is not there: which, why, and what was perhaps meant.

use builder_snapshot::TreePath;

use super::tree::{EntryNode, SourceTree};
use crate::error::StepError;

/// The error for the source `written` (cleaned: `path`) that `tree` does not have.
#[must_use]
pub(crate) fn error(tree: &dyn SourceTree, path: &TreePath, written: &str) -> StepError {
    let (reason, help) = explain(tree, path);
    let mut message = format!("{:?}: not found in {}", path.display(), tree.describe());
    if let Some(reason) = reason {
        message.push_str(": ");
        message.push_str(&reason);
    }
    // `..` does not leave the tree; whoever writes it should see where it led.
    if written.contains("..") {
        message.push_str(&format!(" (written as {written:?})"));
    }
    StepError::Other { message, help }
}

/// Reason and advice.
fn explain(tree: &dyn SourceTree, path: &TreePath) -> (Option<String>, Option<String>) {
    let mut parent = TreePath::root();
    for name in path.components() {
        let here = parent.child(name);
        match tree.lookup(&here) {
            Ok(Some(entry)) => match entry.node {
                EntryNode::Dir => parent = here,
                EntryNode::Symlink { target } => {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let reason = format!("{} is a symbolic link to {target:?}, which leads to nothing there", here.display());
                    return (Some(reason), Some("links are followed inside the tree they are in, and not to ignored paths".to_owned()));
                }
                _ if here == *path => return (None, None),
                _ => return (Some(format!("{} is no directory", here.display())), None),
            },
            Ok(None) | Err(_) => return explain_name(tree, &parent, name, &here),
        }
    }
    (None, None)
}

fn explain_name(tree: &dyn SourceTree, parent: &TreePath, name: &[u8], here: &TreePath) -> (Option<String>, Option<String>) {
    if let Some(by) = tree.left_out_by(here) {
        let help = format!("add the line !{} to the end of the ignore file", String::from_utf8_lossy(here.as_bytes()));
        return (Some(format!("{} is left out by {by}", here.display())), Some(help));
    }
    let Ok(siblings) = tree.list(parent) else { return (None, None) };
    let near = nearest_names(name, siblings.iter().filter_map(|entry| entry.path.file_name()));
    if near.is_empty() {
        return (None, None);
    }
    let full = |name: &Vec<u8>| format!("{:?}", parent.child(name).display().trim_start_matches('/'));
    let mut help = format!("did you mean {}?", near.iter().map(full).collect::<Vec<_>>().join(" or "));
    if near[0].eq_ignore_ascii_case(name) {
        help.push_str(" names differ in case");
    }
    (None, Some(help))
}

/// Names near to `wanted`: equal but for case first, then those few edits away; at most three.
fn nearest_names<'a>(wanted: &[u8], names: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let limit = (wanted.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &[u8])> = names
        .filter_map(|name| {
            let distance = if name.eq_ignore_ascii_case(wanted) { 0 } else { edit_distance(wanted, name, limit)? };
            Some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.iter().take(3).map(|(_, name)| name.to_vec()).collect()
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
    }
}
