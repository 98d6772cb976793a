//! The table of an overlay's upper directory.
//!
//! Its cost follows the upper directory, not the image.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::snapshot::{OpenDirs, Owners};
use crate::stop::StopSignal;
use crate::sys;
use crate::toc::{Node, Timestamp};
use crate::tree::MergedTree;

use super::changes::{Changes, Collector};
use super::opaque_whiteouts;

/// Compares the upper directory of an overlay on `lower` with what is below it. Times from `started` on are marked as made by the step, and `owners` says
/// whose what cannot carry its owner is.
///
/// Leaves in the directory what the table says and nothing else: opaque directories are replaced by whiteouts, unchanged things removed.
///
/// # Errors
/// Reading or tidying fails; a path is too long to be kept; `stop` is set.
pub fn take_upper(upper: &Path, lower: &MergedTree, started: Timestamp, owners: &Owners, stop: &StopSignal) -> Result<Changes, SnapshotError> {
    let mut walk = Walk { collector: Collector::new(upper, lower, started, owners, stop)?, opaque: Vec::new() };
    let root = TreePath::root();
    let dir = walk.collector.open_dir(&root)?;
    let stat = fs::fstat(&dir).map_err(|e| SnapshotError::io("read", root.display())(e.into()))?;
    // An overlay does not look at the root's own mark.
    walk.collector.directory(&root, &dir, &stat)?;
    let mut pending = vec![(root, false)];
    while let Some((dir, hides_lower)) = pending.pop() {
        walk.directory(&dir, hides_lower, &mut pending)?;
    }
    let Walk { collector, opaque } = walk;
    let changes = collector.finish()?;
    let mut dirs = OpenDirs::new(dir);
    let mut touched = BTreeSet::from([TreePath::root()]);
    if !opaque.is_empty() {
        expand_opaque(&mut dirs, &changes, &opaque, &mut touched)?;
    }
    remove_unchanged(&mut dirs, &changes.unchanged, &mut touched)?;
    restore_times(&mut dirs, &changes, lower, &touched)?;
    Ok(changes)
}

struct Walk<'a> {
    collector: Collector<'a>,
    /// Directories with overlay's mark.
    opaque: Vec<TreePath>,
}

impl Walk<'_> {
    /// Records everything in a directory; its subdirectories go to `pending`.
    fn directory(&mut self, path: &TreePath, hidden: bool, pending: &mut Vec<(TreePath, bool)>) -> Result<(), SnapshotError> {
        let dir = self.collector.open_dir(path)?;
        let mut names: BTreeSet<Box<[u8]>> = BTreeSet::new();
        sys::fs::for_each_name(&dir, |name, _| {
            names.insert(name.into());
            Ok(())
        })
        .map_err(SnapshotError::io("list", path.display()))?;
        for name in &names {
            let child = path.checked_child(name)?;
            let stat = sys::fs::stat_at(&dir, sys::fs::name(name)).map_err(SnapshotError::io("read", child.display()))?;
            let Some(stat) = stat else { continue };
            if sys::fs::file_type(&stat) == FileType::Directory {
                self.subdirectory(&dir, name, child, &stat, hidden, pending)?;
            } else {
                self.collector.not_a_directory(&dir, name, child, &stat)?;
            }
        }
        if hidden {
            let mut whiteouts = Vec::new();
            // Only this directory's own names: those below have their turn.
            opaque_whiteouts(
                self.collector.lower,
                path,
                &mut |child| child.file_name().is_some_and(|name| names.contains(name)).then_some(false),
                &mut whiteouts,
            )?;
            whiteouts.into_iter().for_each(|path| self.collector.removed(path));
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: TreePath,
        stat: &Stat,
        parent_hidden: bool,
        pending: &mut Vec<(TreePath, bool)>,
    ) -> Result<(), SnapshotError> {
        let dir = sys::fs::open_beneath(parent, sys::fs::name(name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let dir = dir.map_err(SnapshotError::io("open", path.display()))?;
        let seen = self.collector.directory(&path, &dir, stat)?;
        if seen.is_opaque {
            self.opaque.push(path.clone());
        }
        pending.push((path, parent_hidden || seen.is_opaque));
        Ok(())
    }
}

/// Gives the names that opaque directories hide whiteouts of their own, and takes their marks away: what is equal below can go then.
fn expand_opaque(dirs: &mut OpenDirs, changes: &Changes, opaque: &[TreePath], touched: &mut BTreeSet<TreePath>) -> Result<(), SnapshotError> {
    for entry in &changes.toc.entries {
        let (Node::Whiteout, Some(parent), Some(name)) = (&entry.node, entry.path.parent(), entry.path.file_name()) else { continue };
        let make = |fd: BorrowedFd<'_>| match fs::mknodat(fd, sys::fs::name(name), FileType::CharacterDevice, Mode::empty(), 0) {
            // Those that overlay made.
            Err(Errno::EXIST) => Ok(false),
            result => Ok(result.map(|()| true)?),
        };
        if dirs.get(&parent).and_then(make).map_err(SnapshotError::io("remove", entry.path.display()))? {
            touched.insert(parent);
        }
    }
    for path in opaque {
        let unmark = |fd: BorrowedFd<'_>| {
            let dir = sys::fs::open_beneath(fd, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            Ok(fs::fremovexattr(&dir, sys::fs::name(sys::mount::marks().opaque))?)
        };
        dirs.get(path).and_then(unmark).map_err(SnapshotError::io("unmark", path.display()))?;
    }
    Ok(())
}

/// Removes from the upper directory what is equal to what is below it, so that the layer's directory and its table say the same.
fn remove_unchanged(dirs: &mut OpenDirs, unchanged: &[TreePath], touched: &mut BTreeSet<TreePath>) -> Result<(), SnapshotError> {
    for path in unchanged {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        dirs.forget(path);
        let remove = |fd: BorrowedFd<'_>| match fs::unlinkat(fd, sys::fs::name(name), AtFlags::empty()) {
            Err(Errno::ISDIR) => Ok(fs::unlinkat(fd, sys::fs::name(name), AtFlags::REMOVEDIR)?),
            result => Ok(result?),
        };
        dirs.get(&parent).and_then(remove).map_err(SnapshotError::io("remove", path.display()))?;
        touched.insert(parent);
    }
    Ok(())
}

/// Gives directories in which something was made or removed the times that the table says. If it says nothing about the root, nothing in it changed.
fn restore_times(dirs: &mut OpenDirs, changes: &Changes, lower: &MergedTree, touched: &BTreeSet<TreePath>) -> Result<(), SnapshotError> {
    for path in touched {
        let mtime = match changes.toc.get(path) {
            Some(entry) => entry.meta.mtime,
            None if path.is_root() => lower.lookup(path)?.map(|below| below.meta.mtime).unwrap_or_default(),
            // Removed itself.
            None => continue,
        };
        let set = |fd: BorrowedFd<'_>| crate::root::set_mtime_at(fd, Path::new("."), mtime);
        dirs.get(path).and_then(set).map_err(SnapshotError::io("set the time of", path.display()))?;
    }
    Ok(())
}
