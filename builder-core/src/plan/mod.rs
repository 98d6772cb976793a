//! From a vertex and the content of its inputs to the keys it is looked up by.
//!
//! A step that reads only part of an input has two keys: one made of the whole inputs' content ids, which costs nothing, and one made of
//! the selected part, which needs tables of contents. The first that has a record wins; results are filed under both, so that the next
//! build needs the cheap one only.

pub mod key;

use builder_snapshot::Sha256Digest;

use crate::cache::{Key, KeyFields};
use crate::content::Store;
use crate::error::StepError;
use crate::graph::{ExecOp, FileAction, FileOp, MountKind, Network};
use crate::run::TreeValue;
use crate::run::file;

pub use key::{InputContent, KeyWriter};

/// A key and what went into it.
pub type FieldedKey = (Key, KeyFields);

/// The key of `op` made of its whole inputs; none if an input has no content id of its own (directories of the request).
#[must_use]
pub fn whole_exec_key(op: &ExecOp, network: Network, inputs: &[TreeValue]) -> Option<FieldedKey> {
    Some(key::exec(op, network, &whole(inputs)?))
}

/// The key of `op` made of what it reads of its inputs; none if that is all of them.
///
/// # Errors
/// Sources that are missing; tables of contents that cannot be read.
pub fn part_exec_key(op: &ExecOp, network: Network, inputs: &[TreeValue], store: &Store) -> Result<Option<FieldedKey>, StepError> {
    let Some(mut contents) = whole(inputs) else {
        return Err(StepError::other("a directory of the request was given to an operation that reads layers only"));
    };
    let mut reads_part = false;
    for mount in &op.mounts {
        if let MountKind::Bind { input, source, .. } = &mount.kind
            && *input != 0
        {
            reads_part = true;
            contents[*input] = InputContent::Part(file::subtree_digest(inputs[*input].stack()?, source, store)?);
        }
    }
    Ok(reads_part.then(|| key::exec(op, network, &contents)))
}

/// The key of `op` made of its whole inputs; none if an input has no content id of its own (directories of the request).
#[must_use]
pub fn whole_file_key(op: &FileOp, inputs: &[TreeValue]) -> Option<FieldedKey> {
    Some(key::file(op, &whole(inputs)?))
}

/// The key of `op` made of what it selects from its inputs; none if it copies nothing.
///
/// # Errors
/// Sources that are missing, by name; tables of contents and directories that cannot be read.
pub fn part_file_key(op: &FileOp, inputs: &[TreeValue], store: &Store) -> Result<Option<FieldedKey>, StepError> {
    let mut contents = Vec::with_capacity(inputs.len());
    let mut reads_part = false;
    for (position, input) in inputs.iter().enumerate() {
        contents.push(if op.base && position == 0 {
            InputContent::Whole(input.stack()?.content_id())
        } else {
            reads_part = true;
            InputContent::Part(selection(op, position, input, store)?)
        });
    }
    Ok(reads_part.then(|| key::file(&file::keyed_op(op), &contents)))
}

fn selection(op: &FileOp, position: usize, input: &TreeValue, store: &Store) -> Result<Sha256Digest, StepError> {
    let copies = op.actions.iter().any(|action| matches!(action, FileAction::Copy(copy) if copy.input == position));
    if copies { file::selection_digest(op, position, input, store) } else { Ok(Sha256Digest::of(b"nothing selected")) }
}

fn whole(inputs: &[TreeValue]) -> Option<Vec<InputContent>> {
    inputs
        .iter()
        .map(|input| match input {
            TreeValue::Stack(stack) => Some(InputContent::Whole(stack.content_id())),
            TreeValue::Local(_) => None,
        })
        .collect()
}
