//! A full copy of a stack of layers that a process may write to: for where no overlay can be mounted.
//!
//! ```text
//! create (or forward an idle one) ──► attach ──► (a process runs, the mount goes) ──► take_changes ──► idle
//! ```
//!
//! After a step its changes are *moved* into the new layer, and the copy has gaps there. Who runs a step on top of that layer [`WorkingCopy::forward`]s the
//! copy: from the tables of the layers that it lacks it knows what to bring, and a chain of steps copies the image once.
//!
//! # Invariants
//!
//! - Nothing in a copy shares an inode with a layer, before, during or after a step.
//! - A copy is put to use only when it equals the layers it is to stand for; one that may not (the step failed, tidying failed) is removed.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::{OpenDirs, Owners, TemporaryDir, root_meta, writer};
use crate::diff::{self, Changes};
use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::root::{copy_metadata, set_meta_of, set_mtime_at, set_mtime_of};
use crate::stop::StopSignal;
use crate::sys;
use crate::toc::{LayerId, Node, Timestamp, Toc};
use crate::tree::{Child, FoundKind, MergedTree};

mod data;
mod fingerprint;
mod tree;

pub(crate) use fingerprint::Fingerprints;
pub(crate) use tree::Copier;
use tree::{open, split};

/// How many idle copies are kept: the chains of two stages that take turns. Each is as large as its image.
const IDLE_MAX: usize = 2;

/// A directory that holds what a stack of layers shows.
#[derive(Debug)]
pub(super) struct WorkingCopy {
    /// Removes it in the end.
    _dir: TemporaryDir,
    fs: PathBuf,
    /// What it shows, bottom first.
    lowers: Vec<PathBuf>,
    /// What the last step changed was moved into this layer: the copy has gaps until it stands on that too.
    above: Option<LayerId>,
    known: Fingerprints,
    /// Mount points that the image lacks, parents first.
    stubs: Vec<TreePath>,
}

/// Copies that no step uses.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Vec<WorkingCopy>>);

impl Idle {
    /// A copy that shows what `lowers` show: one that is idle and not far from it, or a new one.
    pub(super) fn take(&self, tmp: &Path, lowers: &[PathBuf], stop: &StopSignal) -> Result<WorkingCopy, SnapshotError> {
        let best = {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let best = (0..idle.len()).filter(|&i| idle[i].leads_to(lowers)).max_by_key(|&i| idle[i].lowers.len());
            best.map(|i| idle.remove(i))
        };
        if let Some(mut copy) = best {
            match copy.forward(lowers, stop) {
                Ok(()) => return Ok(copy),
                // Half forwarded it is of no use; a new one says what is really wrong.
                Err(error) => tracing::debug!(%error, "a working copy is made anew"),
            }
        }
        WorkingCopy::create(tmp, lowers, stop)
    }

    fn put(&self, copy: WorkingCopy) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(copy);
        let oldest = (idle.len() > IDLE_MAX).then(|| idle.remove(0));
        // Removing a tree takes a while.
        drop(idle);
        drop(oldest);
    }
}

impl WorkingCopy {
    fn create(tmp: &Path, lowers: &[PathBuf], stop: &StopSignal) -> Result<Self, SnapshotError> {
        let dir = TemporaryDir::create(tmp)?;
        let fs = dir.path().join("fs");
        std::fs::create_dir(&fs).map_err(SnapshotError::io("make directory", fs.display()))?;
        let mut known = Fingerprints::default();
        let tree = MergedTree::open(lowers)?;
        let root = TreePath::root();
        match tree.lookup(&root)? {
            Some(found) => Copier::new(&tree, &fs, Some(&mut known))?.stop_when(stop).subtree(&root, found, &root)?,
            None => {
                let mut set = || {
                    let dir = sys::fs::open_dir(&fs)?;
                    let meta = root_meta(None)?;
                    set_meta_of(&dir, &meta)?;
                    set_mtime_of(&dir, meta.mtime)?;
                    known.note(&root, &fs::fstat(&dir)?);
                    Ok(())
                };
                set().map_err(SnapshotError::io("change", fs.display()))?;
            }
        }
        Ok(Self { _dir: dir, fs, lowers: lowers.to_vec(), above: None, known, stubs: Vec::new() })
    }

    pub(super) fn fs(&self) -> &Path {
        &self.fs
    }

    /// Whether it can be made to show `lowers` by adding layers.
    fn leads_to(&self, lowers: &[PathBuf]) -> bool {
        let Some(more) = lowers.strip_prefix(self.lowers.as_slice()) else { return false };
        self.above.is_none_or(|id| more.first().and_then(|fs| fs.parent()?.file_name()).is_some_and(|name| *name == *id.0.hex()))
    }

    /// Makes it show `lowers`, which begin with those that it shows.
    fn forward(&mut self, lowers: &[PathBuf], stop: &StopSignal) -> Result<(), SnapshotError> {
        let tocs = lowers.get(self.lowers.len()..).unwrap_or_default().iter().map(|fs| toc_of(fs)).collect::<Result<Vec<Toc>, _>>()?;
        if tocs.iter().any(|toc| !toc.is_empty()) {
            let tree = MergedTree::open(lowers)?;
            let mut copier = Copier::new(&tree, &self.fs, Some(&mut self.known))?.stop_when(stop);
            let mut paths: BTreeSet<&TreePath> = BTreeSet::new();
            // First everything goes that any of them removes or replaces, in their order: what a later one brings back is another thing.
            for entry in tocs.iter().flat_map(|toc| &toc.entries) {
                paths.insert(&entry.path);
                let there = copier.stat(&entry.path)?;
                let stays = entry.node == Node::Dir && there.is_none_or(|stat| sys::fs::file_type(&stat) == FileType::Directory);
                if there.is_some() && !stays {
                    copier.remove(&entry.path)?;
                }
            }
            // Then everything comes that they show together, parents first.
            let mut dirs = Vec::new();
            for path in paths {
                let Some(found) = tree.lookup(path)? else { continue };
                if found.kind == FoundKind::Dir {
                    if copier.stat(path)?.is_none() {
                        copier.make_dir(path)?;
                    }
                    copier.dir_meta(path, &found, path)?;
                    dirs.push((path, found));
                } else {
                    copier.entry(path, &found, path)?;
                }
            }
            for (path, found) in dirs.iter().rev() {
                copier.dir_time(found, path)?;
            }
        }
        self.lowers = lowers.to_vec();
        self.above = None;
        Ok(())
    }

    /// Makes what is in `top_lower` and not in the copy: mount points, which are no part of the layer unless the process touches them. Then a detached mount of
    /// the copy; from here on changes are noticed.
    pub(super) fn attach(&mut self, top_lower: Option<&Path>) -> Result<OwnedFd, SnapshotError> {
        if let Some(stubs) = top_lower {
            self.make_stubs(stubs)?;
        }
        self.known.settle();
        sys::mount::detach_bare(&self.fs).map_err(SnapshotError::io("mount", self.fs.display()))
    }

    /// Whether what is at `path` is not what it was when the process began.
    pub(super) fn has_touched(&self, path: &TreePath) -> bool {
        let stat = self.open_dirs().and_then(|mut dirs| stat_of(&mut dirs, path));
        !matches!(stat, Ok(Some(stat)) if self.known.has(path, &stat))
    }

    fn make_stubs(&mut self, from: &Path) -> Result<(), SnapshotError> {
        // A tree of its own: what is read here is as plain as a layer.
        let tree = MergedTree::open(&[from.to_owned()])?;
        let mut copier = Copier::new(&tree, &self.fs, None)?;
        let mut made: Vec<TreePath> = Vec::new();
        let mut restored = Vec::new();
        let mut pending = vec![TreePath::root()];
        while let Some(dir) = pending.pop() {
            let before = copier.stat(&dir)?;
            let made_before = made.len();
            for entry in tree.read_dir(&dir)? {
                let path = dir.child(&entry.name);
                let Some(found) = tree.lookup(&path)? else { continue };
                match copier.stat(&path)? {
                    // Not only a place to mount on: a file that is shown in the place of the image's.
                    Some(_) if matches!(found.kind, FoundKind::File { size: 1.., .. }) => {
                        copier.remove(&path)?;
                        copier.entry(&path, &found, &path)?;
                        made.push(path.clone());
                    }
                    Some(_) => {}
                    None if found.kind == FoundKind::Dir => {
                        copier.make_dir(&path)?;
                        copier.dir_meta(&path, &found, &path)?;
                        made.push(path.clone());
                    }
                    None => {
                        copier.entry(&path, &found, &path)?;
                        made.push(path.clone());
                    }
                }
                if found.kind == FoundKind::Dir {
                    pending.push(path);
                }
            }
            if made.len() > made_before
                && let Some(before) = before
            {
                restored.push((dir, before));
            }
        }
        drop(copier);
        let mut dirs = self.open_dirs()?;
        // Deepest first, so that no time is changed by what comes after.
        for (dir, before) in restored.into_iter().rev() {
            let (parent, name) = split(&dir);
            let set = |parent: BorrowedFd<'_>| {
                set_mtime_at(parent, name, sys::fs::mtime(&before))?;
                fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Into::into)
            };
            let after = dirs.get(&parent).and_then(set).map_err(SnapshotError::io("set the time of", dir.display()))?;
            // One that had been changed before stays so.
            if self.known.is_noted(&dir, &before) {
                self.known.note(&dir, &after);
            }
        }
        made.sort();
        for path in &made {
            let stat = stat_of(&mut dirs, path)?;
            if let Some(stat) = stat {
                self.known.note(path, &stat);
            }
        }
        self.stubs = made;
        Ok(())
    }

    fn open_dirs(&self) -> Result<OpenDirs, SnapshotError> {
        Ok(OpenDirs::new(sys::fs::open_dir(&self.fs).map_err(SnapshotError::io("open", self.fs.display()))?))
    }

    /// What a process changed; moved into the directory `layer`, which has nothing in it yet. The copy can be used again by who stands on that layer.
    pub(super) fn take_changes(
        mut self,
        lower: &MergedTree,
        (started, owners): (Timestamp, &Owners),
        layer: &Path,
        idle: &Arc<Idle>,
        stop: &StopSignal,
    ) -> Result<Toc, SnapshotError> {
        let changes = diff::copy_changes(&self.fs, lower, &self.known, started, owners, stop)?;
        self.move_to(layer, lower, &changes.toc)?;
        match self.tidy(lower, &changes) {
            Ok(()) => {
                self.above = (!changes.toc.is_empty()).then(|| changes.toc.layer_id());
                idle.put(self);
            }
            Err(error) => tracing::debug!(%error, "a working copy is not used again"),
        }
        Ok(changes.toc)
    }

    fn move_to(&self, layer: &Path, lower: &MergedTree, toc: &Toc) -> Result<(), SnapshotError> {
        let mut from = self.open_dirs()?;
        let mut to = OpenDirs::new(sys::fs::open_dir(layer).map_err(SnapshotError::io("open", layer.display()))?);
        let mut listed = lower.with_top(layer)?;
        for entry in &toc.entries {
            let (parent, name) = split(&entry.path);
            let to_parent = to.get(&parent).map_err(SnapshotError::io("open", parent.display()))?;
            let result = match &entry.node {
                Node::Dir if entry.path.is_root() => Ok(()),
                Node::Dir => fs::mkdirat(to_parent, name, Mode::RWXU),
                Node::Whiteout => match fs::mknodat(to_parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
                    Err(errno) if writer::cannot_hold_marks(errno) => {
                        listed.list_whiteout(&entry.path);
                        Ok(())
                    }
                    result => result,
                },
                _ => {
                    let from_parent = from.get(&parent).map_err(SnapshotError::io("open", parent.display()))?;
                    let is_file = matches!(entry.node, Node::File { .. });
                    if is_file {
                        remove_marks(from_parent, name).map_err(SnapshotError::io("change", entry.path.display()))?;
                    }
                    fs::renameat(from_parent, name, to_parent, name)
                }
            };
            result.map_err(|e| SnapshotError::io("move into its layer", entry.path.display())(e.into()))?;
        }
        listed.write_list()?;
        // Children first: moving something changes the times of the directories that it leaves and enters.
        for entry in toc.entries.iter().rev().filter(|entry| entry.node == Node::Dir) {
            let (parent, name) = split(&entry.path);
            let mut set = || {
                let (from, to) = (open(from.get(&parent)?, name)?, open(to.get(&parent)?, name)?);
                copy_metadata(from, &to, || Ok(()))?;
                set_mtime_of(&to, entry.meta.mtime)
            };
            set().map_err(SnapshotError::io("change", entry.path.display()))?;
        }
        if toc.is_empty() {
            // The root is listed whenever anything is.
            let mtime = lower.lookup(&TreePath::root())?.map(|below| below.meta.mtime).unwrap_or_default();
            to.get(&TreePath::root())
                .and_then(|root| set_mtime_at(root, Path::new("."), mtime))
                .map_err(SnapshotError::io("set the time of", "/"))?;
        }
        Ok(())
    }

    /// Makes all that is not in the layer look as before the step, whatever the process left that does not count: times of directories, mount points.
    fn tidy(&mut self, lower: &MergedTree, changes: &Changes) -> Result<(), SnapshotError> {
        let stubs = std::mem::take(&mut self.stubs);
        let mut copier = Copier::new(lower, &self.fs, Some(&mut self.known))?;
        let mut untouched: BTreeSet<TreePath> = BTreeSet::from([TreePath::root()]);
        for stub in stubs.into_iter().rev().filter(|stub| changes.toc.get(stub).is_none()) {
            copier.remove(&stub)?;
            if let Some(found) = lower.lookup(&stub)?.filter(|found| found.kind != FoundKind::Dir) {
                copier.entry(&stub, &found, &stub)?;
            }
            untouched.extend(stub.parent());
        }
        for path in &changes.unchanged {
            match lower.child_at(path)? {
                Child::Dir(..) => {}
                // What the layer took along, or another name of it.
                Child::Node(..) if copier.stat(path)?.is_some_and(|stat| stat.st_nlink == 1) => {
                    copier.note(path)?;
                    continue;
                }
                _ => {
                    copier.remove(path)?;
                    if let Some(found) = lower.lookup(path)? {
                        copier.entry(path, &found, path)?;
                    }
                    untouched.extend(path.parent());
                    continue;
                }
            }
            untouched.insert(path.clone());
        }
        for path in untouched.iter().rev().filter(|path| changes.toc.get(path).is_none()) {
            if let Some(found) = lower.lookup(path)?.filter(|found| found.kind == FoundKind::Dir) {
                copier.dir_time(&found, path)?;
            }
        }
        Ok(())
    }
}

/// Removes overlay's own attributes from a file: a process can set them here, and they would mean something in a layer.
fn remove_marks(parent: BorrowedFd<'_>, name: &Path) -> std::io::Result<()> {
    let prefix = sys::mount::marks().prefix;
    let file = open(parent, name)?;
    for attribute in sys::fs::list_xattrs(&file)?.iter().filter(|attribute| attribute.starts_with(prefix)) {
        fs::fremovexattr(&file, sys::fs::name(attribute))?;
    }
    Ok(())
}

fn stat_of(dirs: &mut OpenDirs, path: &TreePath) -> Result<Option<fs::Stat>, SnapshotError> {
    let (parent, name) = split(path);
    dirs.get(&parent).and_then(|parent| sys::fs::stat_at(parent, name)).map_err(SnapshotError::io("read", path.display()))
}

/// The table of the layer whose files are in `fs`.
fn toc_of(fs: &Path) -> Result<Toc, SnapshotError> {
    let path = fs.with_file_name("toc");
    let bytes = std::fs::read(&path).map_err(SnapshotError::io("read", path.display()))?;
    Toc::unseal(&bytes).map_err(|e| SnapshotError::io("read", path.display())(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))
}
