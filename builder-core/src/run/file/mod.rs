//! File operations: what a COPY or ADD selects, the digests of it that keys are made of, and carrying it out (`features.md` A9).
//!
//! Selecting is done once for directories of the host and for stacks of layers, over [`SourceTree`](crate::source::tree::SourceTree).
//!
//! # Invariants
//! - Equal selection digests and equal [`keyed_op`]s give equal layers but for times, on equal destination trees.
//! - What is copied is what was hashed: bytes are hashed while they are copied and compared.

use std::path::PathBuf;

use builder_snapshot::snapshot::CommittedLayer;
use builder_snapshot::{Sha256Digest, TreePath};

use crate::content::{Stack, Store};
use crate::error::StepError;
use crate::graph::FileOp;
use crate::run::TreeValue;

/// The operation as it counts in a key whose inputs are given by [`selection_digest`]: of sources only the base names are left, so that
/// renaming the directory of a source changes nothing and renaming the source does (`features.md` B2.5).
#[must_use]
pub fn keyed_op(op: &FileOp) -> FileOp {
    op.clone()
}

/// Digest of what `op` selects from its input `input` (`features.md` B2.5, B3): without times, owners' names and the names of directories
/// above the sources.
///
/// # Errors
/// Sources that are missing, by name, and what can't be read.
pub fn selection_digest(_op: &FileOp, _input: usize, _value: &TreeValue, _store: &Store) -> Result<Sha256Digest, StepError> {
    todo!()
}

/// Digest of the subtree at `source` (links followed inside the stack), for bind mounts (`features.md` B2.6).
///
/// # Errors
/// A source that is missing; tables of contents that can't be read.
pub fn subtree_digest(_stack: &Stack, _source: &TreePath, _store: &Store) -> Result<Sha256Digest, StepError> {
    todo!()
}

/// Carries out `op` on its inputs and returns the layer it makes. `layer_dirs` gives the directories of a stack, bottom first; all must be there.
///
/// # Errors
/// Whatever keeps the operation from being done, naming the path.
pub fn execute(
    _op: &FileOp,
    _inputs: &[TreeValue],
    _layer_dirs: &dyn Fn(&Stack) -> Vec<PathBuf>,
    _store: &Store,
) -> Result<CommittedLayer, StepError> {
    todo!()
}
