//! Folding a layer into the base below it: entries move down by rename, so that the cost follows what the layer changed.
//!
//! Every move leaves what a name shows as it was: a file goes over the one it hides, a whiteout after what it hides is gone, a directory's metadata before the
//! directory vanishes from the layer. A fold that was interrupted is simply begun again and finds less to do.
//!
//! Renamed directories (overlay's `redirect` marks) need two passes. First everything that was renamed is taken out of the base, deepest first, into a
//! staging directory, under a name made of where it was; only then is anything put anywhere. A mark says that the first pass is over: begun again,
//! nothing is taken a second time, and what is not staged any more has been put in its place.
//!
//! The base has no redirects itself, and no whiteouts: nothing is below it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};

use crate::digest::Sha256Digest;
use crate::path::TreePath;
use crate::root::set_mtime_of;
use crate::sys;
use crate::sys::mount::marks;

/// In the staging directory: everything that was renamed is there, or was.
const TAKEN: &str = "taken";

/// Directories this deep below others that both layers have: a limit on descriptors and stack. Whole new subtrees move by one rename, however deep.
const DEPTH_MAX: usize = 500;

/// Moves everything of `layer` into `base`. Nobody uses either. A layer that is not there has been folded before. `staging` is this layer's own
/// directory, kept until the layer itself is removed.
pub(super) fn fold(layer: &Path, base: &Path, staging: &Path) -> io::Result<()> {
    let layer = match sys::fs::open_dir(layer) {
        Ok(layer) => layer,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let base = sys::fs::open_dir(base)?;
    std::fs::create_dir_all(staging)?;
    let staging = sys::fs::open_dir(staging)?;

    let mut renamed = Vec::new();
    find_renamed(&layer, &TreePath::root(), Some(&TreePath::root()), 0, &mut renamed)?;
    if !renamed.is_empty() && sys::fs::stat_at(&staging, Path::new(TAKEN))?.is_none() {
        // Deepest first: what was moved out of a moved directory is not in it any more.
        renamed.sort_by(|a, b| b.old.cmp(&a.old));
        for Renamed { new, old } in &renamed {
            // A mark relative to a directory that has been put in its place would mean another one when the fold is begun again.
            let absolute = [b"/", old.as_bytes()].concat();
            about_to_change()?;
            rustix::fs::fsetxattr(open_exact(&layer, new)?, sys::fs::name(marks().redirect), &absolute, XattrFlags::empty())?;
        }
        for Renamed { old, .. } in &renamed {
            take_out(&base, &staging, old)?;
        }
        about_to_change()?;
        rustix::fs::mkdirat(&staging, TAKEN, Mode::RWXU)?;
    }
    merge(&layer, &base, &TreePath::root(), &Fold { staging: &staging, renamed: &renamed }, 0)
}

/// A directory that the layer shows at `new` and the base has at `old`.
struct Renamed {
    new: TreePath,
    old: TreePath,
}

fn find_renamed(dir: &OwnedFd, path: &TreePath, below: Option<&TreePath>, depth: usize, renamed: &mut Vec<Renamed>) -> io::Result<()> {
    check_depth(depth)?;
    for (name, kind) in entries(dir)? {
        if kind != FileType::Directory {
            continue;
        }
        let child = open_child(dir, &name)?;
        let child_path = path.child(&name);
        let redirect = sys::fs::get_xattr(&child, marks().redirect)?;
        let child_below = match (&redirect, below) {
            // From the root, or beside the directory's own lower place.
            (Some(target), _) if target.starts_with(b"/") => Some(tree_path(target)?),
            (Some(target), Some(below)) => Some(below.join(&tree_path(target)?)),
            (Some(_), None) => None,
            (None, _) if is_opaque(&child)? => None,
            (None, below) => below.map(|below| below.child(&name)),
        };
        find_renamed(&child, &child_path, child_below.as_ref(), depth + 1, renamed)?;
        if let (Some(_), Some(old)) = (redirect, child_below) {
            renamed.push(Renamed { new: child_path, old });
        }
    }
    Ok(())
}

/// As a path of the tree; the kernel wrote it, and it is checked all the same.
fn tree_path(bytes: &[u8]) -> io::Result<TreePath> {
    TreePath::new(bytes).map_err(io::Error::other)
}

fn take_out(base: &OwnedFd, staging: &OwnedFd, old: &TreePath) -> io::Result<()> {
    let staged = staged_name(old);
    if sys::fs::stat_at(staging, Path::new(&staged))?.is_some() {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (old.parent(), old.file_name()) else { return Err(io::Error::other("the root cannot be renamed")) };
    about_to_change()?;
    let moved = open_exact(base, &parent).and_then(|parent| Ok(rustix::fs::renameat(&parent, sys::fs::name(name), staging, staged.as_str())?));
    match moved {
        // Nothing was below, which is what the new place shows then.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(rustix::fs::mkdirat(staging, staged.as_str(), Mode::RWXU)?),
        result => result,
    }
}

fn staged_name(old: &TreePath) -> String {
    Sha256Digest::of(old.as_bytes()).hex()
}

struct Fold<'a> {
    staging: &'a OwnedFd,
    renamed: &'a [Renamed],
}

fn merge(layer: &OwnedFd, base: &OwnedFd, path: &TreePath, fold: &Fold<'_>, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    // Now: the layer's own time changes as entries leave it.
    let mtime = sys::fs::mtime(&rustix::fs::fstat(layer)?);
    for (name, kind) in entries(layer)? {
        let place = sys::fs::name(&name);
        if kind != FileType::Directory {
            let stat = rustix::fs::statat(layer, place, AtFlags::SYMLINK_NOFOLLOW)?;
            let there = sys::fs::stat_at(base, place)?;
            let whiteout = sys::fs::is_whiteout(&stat);
            if whiteout || there.is_some_and(|there| sys::fs::file_type(&there) == FileType::Directory) {
                about_to_change()?;
                sys::fs::remove_tree(base.as_fd(), &name)?;
            }
            if whiteout {
                about_to_change()?;
                rustix::fs::unlinkat(layer, place, AtFlags::empty())?;
            } else {
                about_to_change()?;
                rustix::fs::renameat(layer, place, base, place)?;
            }
            continue;
        }
        let child = open_child(layer, &name)?;
        let child_path = path.child(&name);
        if let Some(renamed) = fold.renamed.iter().find(|renamed| renamed.new == child_path) {
            put_in(base, &name, renamed, fold.staging)?;
            about_to_change()?;
            sys::fs::remove_xattr(&child, marks().redirect)?;
        }
        let below = if is_opaque(&child)? { None } else { open_directory(base, &name)? };
        match below {
            Some(below) => {
                merge(&child, &below, &child_path, fold, depth + 1)?;
                about_to_change()?;
                rustix::fs::unlinkat(layer, place, AtFlags::REMOVEDIR)?;
            }
            None => {
                // Renamed directories may be anywhere in what moves now as a whole: they are put in first.
                if fold.renamed.iter().any(|renamed| renamed.new.below(&child_path).is_some_and(|below| !below.is_root())) {
                    settle(&child, &child_path, fold, depth + 1)?;
                }
                about_to_change()?;
                sys::fs::remove_tree(base.as_fd(), &name)?;
                about_to_change()?;
                rustix::fs::renameat(layer, place, base, place)?;
            }
        }
    }
    about_to_change()?;
    copy_metadata(layer, base)?;
    about_to_change()?;
    set_mtime_of(base, mtime)
}

/// Within a directory that nothing is below of: puts renamed directories' old content under their new.
fn settle(dir: &OwnedFd, path: &TreePath, fold: &Fold<'_>, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    let mtime = sys::fs::mtime(&rustix::fs::fstat(dir)?);
    for (name, kind) in entries(dir)? {
        if kind != FileType::Directory {
            continue;
        }
        let child = open_child(dir, &name)?;
        let child_path = path.child(&name);
        let Some(renamed) = fold.renamed.iter().find(|renamed| renamed.new == child_path) else {
            settle(&child, &child_path, fold, depth + 1)?;
            continue;
        };
        // The layer's part is folded into the old content where that is staged; then they change places.
        let staged = staged_name(&renamed.old);
        if let Some(below) = open_directory(fold.staging, staged.as_bytes())? {
            merge(&child, &below, &child_path, fold, depth + 1)?;
            about_to_change()?;
            rustix::fs::renameat_with(fold.staging, staged.as_str(), dir, sys::fs::name(&name), rustix::fs::RenameFlags::EXCHANGE)?;
            about_to_change()?;
            sys::fs::remove_tree(fold.staging.as_fd(), staged.as_bytes())?;
        }
    }
    about_to_change()?;
    set_mtime_of(dir, mtime)
}

/// Moves the staged content to where the layer shows it. What is not staged has been moved before.
fn put_in(base: &OwnedFd, name: &[u8], renamed: &Renamed, staging: &OwnedFd) -> io::Result<()> {
    let staged = staged_name(&renamed.old);
    if sys::fs::stat_at(staging, Path::new(&staged))?.is_none() {
        return Ok(());
    }
    about_to_change()?;
    sys::fs::remove_tree(base.as_fd(), name)?;
    about_to_change()?;
    Ok(rustix::fs::renameat(staging, staged.as_str(), base, sys::fs::name(name))?)
}

/// Stands before every change, so that tests can cut a fold short there.
fn about_to_change() -> io::Result<()> {
    #[cfg(test)]
    faults::check()?;
    Ok(())
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX { Err(io::Error::other("the directories are nested too deeply")) } else { Ok(()) }
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<(Box<[u8]>, FileType)>> {
    let mut entries = Vec::new();
    sys::fs::for_each_name(dir, |name, kind| {
        let kind = match kind {
            FileType::Unknown => sys::fs::file_type(&rustix::fs::statat(dir, sys::fs::name(name), AtFlags::SYMLINK_NOFOLLOW)?),
            kind => kind,
        };
        entries.push((name.into(), kind));
        Ok(())
    })?;
    Ok(entries)
}

fn open_child(dir: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, sys::fs::name(name), flags, Mode::empty())?)
}

/// The directory of that name; none if nothing or something else is there.
fn open_directory(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    match open_child(dir, name) {
        Ok(child) => Ok(Some(child)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
        Err(e) => Err(e),
    }
}

fn open_exact(dir: &OwnedFd, path: &TreePath) -> io::Result<OwnedFd> {
    sys::fs::open_beneath(dir, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

pub(super) fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    Ok(sys::fs::get_xattr(dir, marks().opaque)?.as_deref() == Some(b"y"))
}

pub(super) fn is_redirected(dir: &OwnedFd) -> io::Result<bool> {
    Ok(sys::fs::get_xattr(dir, marks().redirect)?.is_some())
}

pub(super) fn remove_opaque(dir: &OwnedFd) -> io::Result<()> {
    about_to_change()?;
    sys::fs::remove_xattr(dir, marks().opaque)
}

/// Makes one directory look as another.
pub(super) fn copy_metadata(from: impl AsFd, to: &OwnedFd) -> io::Result<()> {
    crate::root::copy_metadata(from, to, about_to_change)
}

#[cfg(test)]
pub(super) mod faults {
    //! Failing at the n-th change.

    use std::cell::Cell;
    use std::io;

    thread_local! {
        static CHANGES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs `action` on this thread with all changes from the `count`-th on failing.
    pub(crate) fn after(count: u32, action: impl FnOnce()) {
        CHANGES_LEFT.set(Some(count));
        action();
        CHANGES_LEFT.set(None);
    }

    pub(super) fn check() -> io::Result<()> {
        match CHANGES_LEFT.get() {
            Some(0) => Err(io::Error::other("cut short by the test")),
            Some(left) => {
                CHANGES_LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}
