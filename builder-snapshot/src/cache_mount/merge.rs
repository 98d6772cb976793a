//! Whether two branches of a cache mount can stand on each other.
//!
//! Two branches merge when no directory was touched by both except by adding different names. Adding the same directory with the same owner and mode is no conflict
//! by itself: what they put into it is compared in turn. Everything else (the same new file, a change or removal beside an addition, a renamed directory)
//! is a conflict, and the later branch is dropped whole: a cache may lose what it learned, never hold what nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::CacheMountError;
use super::chain::io_error;
use super::fold::{is_opaque, is_redirected, remove_opaque};
use crate::path::TreePath;
use crate::sys;
use crate::tree::{FoundKind, MergedTree};

/// What a layer did in one directory.
#[derive(Debug, Default)]
struct Touch {
    /// Names that are new.
    added: BTreeMap<Box<[u8]>, Option<DirLooks>>,
    /// Names that were there and are changed or gone.
    changed: BTreeSet<Box<[u8]>>,
    /// Whether the directory's own owner or mode changed.
    looks_changed: bool,
}

/// Mode, owner, group of a new directory.
type DirLooks = (u32, u32, u32);

impl Touch {
    fn is_nothing(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && !self.looks_changed
    }

    fn only_adds(&self) -> bool {
        self.changed.is_empty() && !self.looks_changed
    }
}

type Touches = BTreeMap<TreePath, Touch>;

/// Whether the upper directory of a view has nothing in it, and looks as the root of the layers below (topmost first).
pub(super) fn is_unchanged(upper: &Path, below: &[PathBuf]) -> Result<bool, CacheMountError> {
    let check = || -> io::Result<bool> {
        let dir = sys::fs::open_dir(upper)?;
        let mut empty = true;
        sys::fs::for_each_name(&dir, |_, _| {
            empty = false;
            Ok(())
        })?;
        let Some(top) = below.first() else { return Ok(false) };
        Ok(empty && looks(&rustix::fs::fstat(&dir)?) == looks(&rustix::fs::stat(top)?))
    };
    check().map_err(io_error("read", upper))
}

/// The directory because of which `ours` cannot be put on top of `others`, all made on `below` (bottom first); none if it can, and is made fit for it.
pub(super) fn conflict(ours: &Path, others: &[PathBuf], below: &[PathBuf]) -> Result<Option<String>, CacheMountError> {
    for layer in below.iter().skip(1) {
        // A renamed directory below: the tree is read without a mount here, and would not be read right.
        if touches(layer, &MergedTree::open(&[])?)?.is_none() {
            return Ok(Some("/".to_owned()));
        }
    }
    let below = MergedTree::open(below)?;
    let Some(mine) = touches(ours, &below)? else { return Ok(Some("/".to_owned())) };
    let mut both = BTreeSet::new();
    for other in others {
        let Some(theirs) = touches(other, &below)? else { return Ok(Some("/".to_owned())) };
        if let Some(path) = first_conflict(&mine, &theirs, &mut both) {
            return Ok(Some(format!("/{}", String::from_utf8_lossy(path.as_bytes()))));
        }
    }
    // Overlay marks new directories opaque, as nothing was below. Now something is.
    for path in both {
        let clear = || -> io::Result<()> {
            let root = sys::fs::open_dir(ours)?;
            remove_opaque(&sys::fs::open_beneath(&root, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)
        };
        clear().map_err(io_error("merge", ours))?;
    }
    Ok(None)
}

fn first_conflict(mine: &Touches, theirs: &Touches, both: &mut BTreeSet<TreePath>) -> Option<TreePath> {
    for (path, touch) in mine.iter().filter(|(_, touch)| !touch.is_nothing()) {
        let Some(other) = theirs.get(path).filter(|other| !other.is_nothing()) else { continue };
        if !touch.only_adds() || !other.only_adds() {
            return Some(path.clone());
        }
        for (name, looks) in &touch.added {
            match other.added.get(name) {
                None => {}
                Some(there) if looks.is_some() && looks == there => {
                    both.insert(path.child(name));
                }
                Some(_) => return Some(path.clone()),
            }
        }
    }
    // What one replaced or removed, the other must not have been in.
    let inside = |a: &Touches, b: &Touches| {
        let gone = a.iter().flat_map(|(path, touch)| touch.changed.iter().map(|name| path.child(name)));
        gone.into_iter().find(|gone| b.iter().any(|(path, touch)| !touch.is_nothing() && path.below(gone).is_some()))
    };
    inside(mine, theirs).or_else(|| inside(theirs, mine))
}

/// What a layer did, by directory; none if it renamed directories, which is not compared.
fn touches(layer: &Path, below: &MergedTree) -> Result<Option<Touches>, CacheMountError> {
    let root = sys::fs::open_dir(layer).map_err(io_error("read", layer))?;
    let mut touches = Touches::new();
    let mut waiting: Vec<TreePath> = vec![TreePath::root()];
    while let Some(path) = waiting.pop() {
        if !touches_of(&root, &path, below, &mut touches, &mut waiting).map_err(io_error("read", layer))? {
            return Ok(None);
        }
    }
    Ok(Some(touches))
}

fn touches_of(root: &OwnedFd, path: &TreePath, below: &MergedTree, touches: &mut Touches, waiting: &mut Vec<TreePath>) -> io::Result<bool> {
    let dir = sys::fs::open_beneath(root, path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let found = |path: &TreePath| below.lookup(path).map_err(io::Error::other);
    let mut touch = Touch::default();
    if let Some(there) = found(path)?.filter(|there| there.kind == FoundKind::Dir) {
        let now = looks(&rustix::fs::fstat(&dir)?);
        touch.looks_changed = now != (there.meta.mode, there.meta.uid, there.meta.gid);
    }
    let mut plain = true;
    sys::fs::for_each_name(&dir, |name, _| {
        let child = path.child(name);
        let stat = rustix::fs::statat(&dir, sys::fs::name(name), AtFlags::SYMLINK_NOFOLLOW)?;
        let there = found(&child)?;
        let is_dir = sys::fs::file_type(&stat) == FileType::Directory;
        if is_dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&dir, sys::fs::name(name), flags, Mode::empty())?;
            plain &= !is_redirected(&opened)?;
            waiting.push(child);
            match there {
                Some(there) if there.kind == FoundKind::Dir && !is_opaque(&opened)? => return Ok(()),
                Some(_) => drop(touch.changed.insert(name.into())),
                None => drop(touch.added.insert(name.into(), Some(looks(&stat)))),
            }
        } else if there.is_some() || sys::fs::is_whiteout(&stat) {
            touch.changed.insert(name.into());
        } else {
            touch.added.insert(name.into(), None);
        }
        Ok(())
    })?;
    touches.insert(path.clone(), touch);
    Ok(plain)
}

fn looks(stat: &Stat) -> DirLooks {
    (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
}
