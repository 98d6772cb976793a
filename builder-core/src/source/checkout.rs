//! A directory that git checked out, as a layer.
//!
//! # Invariants
//! - Links of the repository are followed for the chosen directory only, inside the checkout, and never into `.git`.
//! - Owners are 0:0; files are 0644 or 0755, directories 0755; all have one time.

use std::path::Path;

use builder_snapshot::TreePath;
use builder_snapshot::snapshot::{ActiveSnapshot, CommittedLayer, FileContent, TreeWriter};
use builder_snapshot::toc::{Meta, Timestamp};

use super::local::LocalTree;
use super::missing;
use super::tree::{Entry, EntryNode, SourceTree, resolve};
use crate::content::Store;
use crate::error::StepError;
use crate::request::LocalContext;

/// Makes a layer of the directory `subdir` of the checkout at `dir`.
///
/// # Errors
/// A directory that is not there, and what can't be read or written.
pub(super) fn to_layer(dir: &Path, subdir: &TreePath, keep_git_dir: bool, time: Timestamp, store: &Store) -> Result<CommittedLayer, StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(error.to_string());
    let tmp = store.tmp_dir().map_err(|e| failed(&e))?;
    let checkout = LocalTree::open_with_index(&LocalContext { path: dir.to_path_buf(), ignore: None, empty: false }, tmp)?;
    let top = resolve(&checkout, subdir)?.filter(Entry::is_dir);
    let top = top.filter(|top| keep_git_dir || top.path.components().all(|name| name != b".git"));
    let top = top.ok_or_else(|| missing::error(&checkout, subdir))?;
    let snapshot = ActiveSnapshot::create(tmp, &[]).map_err(|e| failed(&e))?;
    let mut writer = snapshot.writer().map_err(|e| failed(&e))?;
    let copy = Copy { checkout: &checkout, keep_git_dir, time };
    copy.contents(&mut writer, &top.path, &TreePath::root())?;
    writer.set_meta(&TreePath::root(), &copy.meta(0o755)).map_err(|e| failed(&e))?;
    let toc = writer.finish().map_err(|e| failed(&e))?;
    snapshot.commit_written(toc).map_err(|e| failed(&e))
}

struct Copy<'a> {
    checkout: &'a LocalTree,
    keep_git_dir: bool,
    time: Timestamp,
}

impl Copy<'_> {
    fn meta(&self, mode: u32) -> Meta {
        Meta { mode, mtime: self.time, ..Meta::default() }
    }

    fn contents(&self, writer: &mut TreeWriter, from: &TreePath, to: &TreePath) -> Result<(), StepError> {
        let failed = |error: builder_snapshot::SnapshotError| StepError::other(error.to_string());
        for entry in self.checkout.list(from)? {
            let name = entry.path.file_name().unwrap_or_default();
            // Submodules have a `.git` too.
            if name == b".git" && !self.keep_git_dir {
                continue;
            }
            let target = to.child(name);
            match &entry.node {
                EntryNode::Dir => {
                    writer.make_dir(&target, &self.meta(0o755)).map_err(failed)?;
                    self.contents(writer, &entry.path, &target)?;
                }
                EntryNode::Symlink { target: link } => writer.put_symlink(&target, link, &self.meta(0o777)).map_err(failed)?,
                EntryNode::File { .. } => {
                    let file = self.checkout.open_file(&entry.path)?;
                    let mode = if entry.meta.mode & 0o100 == 0 { 0o644 } else { 0o755 };
                    writer.put_file(&target, FileContent::CopyOf { file: &file, expected: None }, &self.meta(mode)).map(drop).map_err(failed)?;
                }
                // Git makes nothing else.
                _ => {}
            }
        }
        Ok(())
    }
}
