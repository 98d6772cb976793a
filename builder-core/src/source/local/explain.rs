//! Why a path that a file operation names is not in a context.

use builder_snapshot::TreePath;

use super::super::tree::{EntryNode, Missing, SourceTree, nearest_names};
use super::LocalTree;

impl LocalTree {
    /// The first component that is not there, why, and what was perhaps meant.
    pub(super) fn explain(&self, path: &TreePath) -> Missing {
        let mut parent = TreePath::root();
        for name in path.components() {
            let here = parent.child(name);
            match self.lookup(&here) {
                Ok(Some(entry)) => match entry.node {
                    EntryNode::Dir => parent = here,
                    EntryNode::Symlink { target } => {
                        let target = String::from_utf8_lossy(&target).into_owned();
                        return Missing {
                            reason: Some(format!("{} is a symbolic link to {target:?}, which leads to nothing in the context", here.display())),
                            help: Some("links are followed inside the context only, and not to ignored paths".to_owned()),
                        };
                    }
                    _ if here == *path => return Missing::default(),
                    _ => return Missing { reason: Some(format!("{} is no directory", here.display())), help: None },
                },
                Ok(None) | Err(_) => return self.explain_name(&parent, name, &here),
            }
        }
        Missing::default()
    }

    fn explain_name(&self, parent: &TreePath, name: &[u8], here: &TreePath) -> Missing {
        if let Some(rules) = &self.ignore
            && matches!(self.child(here), Ok(Some(_)))
        {
            let by = rules.deciding_rule(here.as_bytes()).map_or_else(|| "the ignore file".to_owned(), |rule| format!("the ignore file ({rule})"));
            return Missing {
                reason: Some(format!("{} is left out by {by}", here.display())),
                help: Some(format!("add the line !{} to the end of the ignore file", String::from_utf8_lossy(here.as_bytes()))),
            };
        }
        let Ok(siblings) = self.list(parent) else { return Missing::default() };
        let names: Vec<&[u8]> = siblings.iter().filter_map(|entry| entry.path.file_name()).collect();
        let near = nearest_names(name, names.iter().copied());
        let differs_in_case = near.first().is_some_and(|near| near.as_bytes().eq_ignore_ascii_case(name));
        let full = |name: &String| format!("{:?}", parent.child(name.as_bytes()).display().trim_start_matches('/'));
        Missing {
            reason: differs_in_case.then(|| "names differ in case".to_owned()),
            help: (!near.is_empty()).then(|| format!("did you mean {}?", near.iter().map(full).collect::<Vec<_>>().join(" or "))),
        }
    }
}
