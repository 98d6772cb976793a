//! What file operations would read of the directories of a request, told without reading a file: the selections themselves, made once more.

use std::collections::BTreeMap;

use builder_snapshot::TreePath;

use super::{copies, select};
use crate::error::StepError;
use crate::frontend::Selected;
use crate::graph::{CopyAction, Dest, Graph, Op, SourceOp, VertexId};
use crate::request::LocalContext;
use crate::source::local::LocalTree;
use crate::source::tree::{Entry, EntryNode, SourceTree};

/// What is read of one directory.
#[derive(Debug, Default)]
pub struct ContextSurvey {
    /// Everything that is selected, by path.
    pub selected: BTreeMap<TreePath, Surveyed>,
    /// Sources that can't be had, and who asks for them: a build would fail.
    pub failures: Vec<(VertexId, StepError)>,
}

/// One path that is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Bytes; of anything but a file none.
    pub size: Option<u64>,
    /// Who selects it, in the order of the graph.
    pub readers: Vec<VertexId>,
}

/// Surveys the directories `contexts`, by name, from which anything that `wanted` needs copies.
///
/// # Errors
/// A directory that can't be opened.
pub fn survey(graph: &Graph, wanted: &[VertexId], contexts: &BTreeMap<String, LocalContext>) -> Result<BTreeMap<String, ContextSurvey>, StepError> {
    let mut trees: BTreeMap<&str, LocalTree> = BTreeMap::new();
    let mut surveys: BTreeMap<String, ContextSurvey> = BTreeMap::new();
    for reader in graph.reachable(wanted) {
        let vertex = graph.vertex(reader);
        let Op::File(op) = &vertex.op else { continue };
        for action in copies(op) {
            let Some(source) = vertex.inputs.get(action.input) else { continue };
            let Op::Source(SourceOp::Local { name }) = &graph.vertex(*source).op else { continue };
            let Some((name, context)) = contexts.get_key_value(name) else { continue };
            let tree = match trees.entry(name) {
                std::collections::btree_map::Entry::Occupied(tree) => tree.into_mut(),
                std::collections::btree_map::Entry::Vacant(slot) => slot.insert(LocalTree::open_to_look(context)?),
            };
            let found = surveys.entry(name.clone()).or_default();
            if let Err(error) = add(tree, action, reader, &mut found.selected) {
                found.failures.push((reader, error));
            }
        }
    }
    Ok(surveys)
}

fn add(tree: &LocalTree, action: &CopyAction, reader: VertexId, selected: &mut BTreeMap<TreePath, Surveyed>) -> Result<(), StepError> {
    let mut note = |entry: &Entry| {
        let size = if let EntryNode::File { size, .. } = entry.node { Some(size) } else { None };
        let known = selected.entry(entry.path.clone()).or_insert_with(|| Surveyed { size, readers: Vec::new() });
        if known.readers.last() != Some(&reader) {
            known.readers.push(reader);
        }
    };
    let selection = select::select(tree, action)?;
    for found in selection.sources.iter().flatten() {
        note(&found.root);
        selection.each_below(found, &mut |item| {
            note(&item.entry);
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether `source`, as a COPY has it, selects anything in a directory.
///
/// # Errors
/// What can't be looked at.
pub fn selects(context: &LocalContext, source: &str) -> Result<Selected, StepError> {
    let finds = |context: &LocalContext| {
        let tree = LocalTree::open_to_look(context)?;
        let action = CopyAction::plain(0, vec![source.to_owned()], Dest { path: "/".to_owned(), is_dir: true });
        match select::select(&tree, &action) {
            Ok(selection) => Ok(selection.sources.iter().flatten().next().map(|found| found.root.path.clone())),
            Err(StepError::MissingSource(_)) => Ok(None),
            Err(error) => Err(error),
        }
    };
    if finds(context)?.is_some() {
        return Ok(Selected::Something);
    }
    let Some(ignore) = &context.ignore else { return Ok(Selected::Nothing) };
    let hidden = finds(&LocalContext { ignore: None, ..context.clone() })?;
    Ok(hidden.and_then(|path| ignore.deciding_rule(path.as_bytes())).map_or(Selected::Nothing, Selected::LeftOut))
}

/// Visits everything in a directory, whatever its ignore rules say, a directory before what is in it.
///
/// # Errors
/// What can't be listed.
pub fn everything(context: &LocalContext, visit: &mut dyn FnMut(&Entry)) -> Result<(), StepError> {
    let tree = LocalTree::open_to_look(&LocalContext { ignore: None, ..context.clone() })?;
    tree.expect_walk(&TreePath::root());
    let mut todo = tree.list(&TreePath::root())?;
    todo.reverse();
    while let Some(entry) = todo.pop() {
        visit(&entry);
        if entry.is_dir() {
            let begin = todo.len();
            todo.extend(tree.list(&entry.path)?);
            todo[begin..].reverse();
        }
    }
    Ok(())
}
