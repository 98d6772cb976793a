//! File operations: what a COPY or ADD selects, the digests of it that keys are made of, and carrying it out (`features.md` A9).
//!
//! Selecting is done once for directories of the host and for stacks of layers, over [`SourceTree`](crate::source::tree::SourceTree).
//!
//! # Invariants
//! - Equal selection digests and equal [`keyed_op`]s give equal layers but for times, on equal destination trees.
//! - What is copied is what was hashed: bytes are hashed while they are copied and compared.

mod archive;
mod copy;
mod links;
mod select;
mod survey;
mod xz;

pub use archive::open_archive;
pub use links::Previous;
pub use survey::{ContextSurvey, Surveyed, everything, selects, survey};

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use builder_snapshot::layer::newest_time;
use builder_snapshot::snapshot::{ActiveSnapshot, CommittedLayer};
use builder_snapshot::toc::Timestamp;
use builder_snapshot::tree::MergedTree;
use builder_snapshot::{Hasher, Sha256Digest, StopSignal, TreePath};

use self::copy::{Copier, Source};
use self::links::Links;
use crate::content::leases::FAMILIES_FILE;
use crate::content::{Stack, Store};
use crate::error::StepError;
use crate::frontend::Answer;
use crate::graph::{CopyAction, Dest, FileAction, FileOp};
use crate::run::TreeValue;
use crate::source::definition;
use crate::source::missing;
use crate::source::stack::StackTree;
use crate::source::tree::{SourceTree, resolve};

/// The operation as it counts in a key whose inputs are given by [`selection_digest`]: without its sources, of which that digest holds what
/// counts. Renaming the directory of a source changes nothing, renaming the source does (`features.md` B2.5).
#[must_use]
pub fn keyed_op(op: &FileOp) -> FileOp {
    let mut op = op.clone();
    for action in &mut op.actions {
        if let FileAction::Copy(copy) = action {
            copy.sources.clear();
            copy.excludes.clear();
            copy.parents = false;
        }
    }
    op
}

/// Digest of what `op` selects from its input `input` (`features.md` B2.5, B3): without times, owners' names and the names of directories
/// above the sources.
///
/// # Errors
/// Sources that are missing, by name, and what can't be read.
pub fn selection_digest(op: &FileOp, input: usize, value: &TreeValue, store: &Store) -> Result<Sha256Digest, StepError> {
    let stack;
    let tree: &dyn SourceTree = match value {
        TreeValue::Local(tree) => &**tree,
        TreeValue::Stack(layers) => {
            stack = StackTree::read(layers, store)?;
            &stack
        }
    };
    digest_of_selection(op, input, tree)
}

fn digest_of_selection(op: &FileOp, input: usize, tree: &dyn SourceTree) -> Result<Sha256Digest, StepError> {
    let mut hasher = Hasher::new();
    hasher.update(b"rbuild selection 2\n");
    for action in copies(op).filter(|action| action.input == input) {
        let mut selection = select::select(tree, action)?;
        selection.fill_digests()?;
        selection.hash(&mut hasher)?;
    }
    Ok(hasher.finish())
}

fn copies(op: &FileOp) -> impl Iterator<Item = &CopyAction> {
    op.actions.iter().filter_map(|action| match action {
        FileAction::Copy(copy) => Some(copy),
        _ => None,
    })
}

/// Digest of the subtree at `source` (links followed inside the stack), for bind mounts (`features.md` B2.6).
///
/// # Errors
/// A source that is missing; tables of contents that can't be read.
pub fn subtree_digest(stack: &Stack, source: &TreePath, store: &Store) -> Result<Sha256Digest, StepError> {
    let tree = StackTree::read(stack, store)?;
    let top = resolve(&tree, source)?.ok_or_else(|| missing::error(&tree, source))?;
    let mut hasher = Hasher::new();
    hasher.update(b"rbuild subtree 1\n");
    let top_path = top.path.clone();
    let mut todo = vec![top];
    while let Some(entry) = todo.pop() {
        // Names below the top only: where the subtree lies in the stack is not seen through the mount.
        let name = if entry.path == top_path { &[][..] } else { entry.path.file_name().unwrap_or_default() };
        select::put(&mut hasher, name);
        select::put(&mut hasher, &select::entry_digest(&entry).0);
        if entry.is_dir() {
            let children = tree.list(&entry.path)?;
            select::put(&mut hasher, &(children.len() as u64).to_le_bytes());
            todo.extend(children.into_iter().rev());
        }
    }
    Ok(hasher.finish())
}

/// Carries out `op` on its inputs and returns the layer it makes. `layer_dirs` gives the directories of a stack, bottom first; all must be there.
/// It fails soon after `stop` is set.
/// Files that a layer holds already, one that is copied from or the one that an earlier version of `op` made, are linked.
///
/// # Errors
/// Whatever keeps the operation from being done, naming the path.
pub fn execute(
    op: &FileOp,
    inputs: &[TreeValue],
    layer_dirs: &dyn Fn(&Stack) -> Vec<PathBuf>,
    store: &Store,
    previous: Option<&Previous>,
    stop: StopSignal,
) -> Result<CommittedLayer, StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(error.to_string());
    let lowers = if op.base { layer_dirs(input(inputs, 0)?.stack()?) } else { Vec::new() };
    let mut snapshot = ActiveSnapshot::create(store.tmp_dir().map_err(|e| failed(&e))?, &lowers).map_err(|e| failed(&e))?;
    let mut writer = snapshot.writer().map_err(|e| failed(&e))?;
    writer.stop_when(stop);
    let links = Links::new(store, &lowers).map_err(|e| failed(&e))?;
    let mut copier = Copier { writer: &mut writer, links, previous, limits: store.limits(), has_base: op.base, started: now() };
    let done = carry_out(op, &mut copier, inputs, layer_dirs, store);
    if copier.links.made_any() {
        // Also after a failure: removing links is no less seen than making them.
        snapshot.leave_to_sweep();
    }
    let families = copier.links.finish();
    done?;
    let toc = writer.finish().map_err(|e| failed(&e))?;
    let layer = snapshot.commit_written(toc).map_err(|e| failed(&e))?;
    if let Some(families) = families? {
        let file = layer.fs().with_file_name(FAMILIES_FILE);
        let names: Vec<String> = families.into_iter().collect();
        std::fs::write(&file, names.join("\n")).map_err(|e| StepError::other(format!("cannot write {}: {e}", file.display())))?;
    }
    Ok(layer)
}

fn carry_out(
    op: &FileOp,
    copier: &mut Copier<'_>,
    inputs: &[TreeValue],
    layer_dirs: &dyn Fn(&Stack) -> Vec<PathBuf>,
    store: &Store,
) -> Result<(), StepError> {
    let mut sources: Vec<Option<Source<'_>>> = inputs.iter().map(|_| None).collect();
    for action in &op.actions {
        match action {
            FileAction::Copy(copy) => {
                let value = input(inputs, copy.input)?;
                let source = match &mut sources[copy.input] {
                    Some(source) => source,
                    slot => slot.insert(open(value, layer_dirs, store)?),
                };
                copier.copy(copy, source)?;
            }
            FileAction::MakeDir { path, mode, owner } => copier.make_dir(path, *mode, owner.as_ref())?,
            FileAction::MakeFile { dest, name, data, chmod, owner } => copier.make_file(dest, name, data, chmod.as_ref(), owner.as_ref())?,
        }
    }
    Ok(())
}

fn input(inputs: &[TreeValue], at: usize) -> Result<&TreeValue, StepError> {
    inputs.get(at).ok_or_else(|| StepError::other(format!("internal fault: a file operation has no input {at}")))
}

/// A context that is a download, not a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Whether one that is no archive is itself the file that is asked for.
    pub is_the_file: bool,
}

/// The file `path` (links followed inside the tree) of a fetched context. Of a download an archive is looked into.
///
/// # Errors
/// What can't be read.
pub fn read_remote(context: &Stack, path: &str, download: Option<Download>, store: &Store) -> Result<Answer, StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(format!("cannot read {path:?}: {error}"));
    let wanted = TreePath::clipped(path).map_err(|e| failed(&e))?;
    let dirs = store.stack_dirs(context);
    let downloaded = MergedTree::open(&dirs).map_err(|e| failed(&e))?;
    let Some(Download { is_the_file }) = download else {
        return definition::read_tree(&downloaded, &wanted, store.limits()).map_err(|e| failed(&e));
    };
    let absent = Answer::Absent { beside: Vec::new() };
    let Some(name) = downloaded.read_dir(&TreePath::root()).map_err(|e| failed(&e))?.into_iter().next() else { return Ok(absent) };
    let file = TreePath::root().child(&name.name);
    if archive::sniff(&mut downloaded.open_file(&file).map_err(|e| failed(&e))?, store.limits()).map_err(|e| failed(&e))?.is_none() {
        return if is_the_file { definition::read_tree(&downloaded, &file, store.limits()).map_err(|e| failed(&e)) } else { Ok(absent) };
    }
    let copy = CopyAction {
        input: 0,
        sources: vec!["/*".to_owned()],
        dest: Dest { path: "/".to_owned(), is_dir: true },
        owner: None,
        chmod: None,
        parents: false,
        excludes: Vec::new(),
        unpack: true,
        reset_owner: false,
    };
    let op = FileOp { base: false, actions: vec![FileAction::Copy(copy)] };
    let unpacked = execute(&op, &[TreeValue::Stack(context.clone())], &|stack| store.stack_dirs(stack), store, None, StopSignal::default())?;
    let tree = MergedTree::open(&[unpacked.fs().to_path_buf()]).map_err(|e| failed(&e))?;
    definition::read_tree(&tree, &wanted, store.limits()).map_err(|e| failed(&e))
}

/// When a fetched context was made, in seconds since 1970: a repository's commit; of a download what its server said, else the newest entry of the
/// archive that it is.
///
/// # Errors
/// What can't be read.
pub fn time_of_remote(context: &Stack, is_file: bool, store: &Store) -> Result<Option<i64>, StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(error.to_string());
    let tree = StackTree::read(context, store)?;
    let known = tree.lookup(&TreePath::root())?.map(|root| root.meta.mtime.seconds).filter(|seconds| *seconds != 0);
    if known.is_some() || !is_file {
        return Ok(known);
    }
    let Some(file) = tree.list(&TreePath::root())?.into_iter().next() else { return Ok(None) };
    let files = MergedTree::open(&store.stack_dirs(context)).map_err(|e| failed(&e))?;
    let mut file = files.open_file(&file.path).map_err(|e| failed(&e))?;
    let Some(compression) = archive::sniff(&mut file, store.limits()).map_err(|e| failed(&e))? else { return Ok(None) };
    let packed = |packed| archive::decompress(packed, compression, store.limits());
    let mut stream = store.limits().watch(file, packed).map_err(|e| failed(&e))?;
    let newest = newest_time(&mut stream, &store.limits().tar).map_err(|e| failed(&e))?;
    Ok(newest.map(|time| time.seconds))
}

fn open<'a>(value: &'a TreeValue, layer_dirs: &dyn Fn(&Stack) -> Vec<PathBuf>, store: &Store) -> Result<Source<'a>, StepError> {
    Ok(match value {
        TreeValue::Local(tree) => Source::Local(tree),
        TreeValue::Stack(stack) => {
            let dirs = layer_dirs(stack);
            let files = MergedTree::open(&dirs).map_err(|error| StepError::other(error.to_string()))?;
            Source::Stack { table: StackTree::read(stack, store)?, files, dirs }
        }
    })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

#[cfg(test)]
mod tests;
