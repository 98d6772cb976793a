//! Owners of what cannot carry them.
//!
//! In a user namespace with one id everything on disk is root's, and a file or directory says in an attribute whose it should be
//! (`layer/stand_in`). Links, pipes, sockets and nodes have no such attributes. What a step makes of their owners is kept here while it runs, and goes into
//! the table of its layer; there later steps find it (`tree/owners`).

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, OFlags, Stat, StatxFlags};

use crate::path::TreePath;
use crate::root::RootDir;
use crate::sys;
use crate::toc::Meta;
use crate::tree::MergedTree;

/// Owners by identity, of one step.
#[derive(Debug, Default)]
pub struct Owners {
    /// Where what the step changes lies under its own path; none if nothing is kept of it.
    changed: Option<PathBuf>,
    /// The layers below.
    lowers: Vec<PathBuf>,
    table: Mutex<HashMap<Identity, (u32, u32)>>,
    below: OnceLock<Option<MergedTree>>,
}

/// What is the same for all names of a file and never again of another: the number of an inode passes to the next one, its time of birth does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl Identity {
    fn of(parent: impl AsFd, name: &Path) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statx(parent, name, flags, StatxFlags::INO | StatxFlags::BTIME)?;
        Ok(Self { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino, born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) })
    }
}

impl Owners {
    /// Of a step on `lowers` (bottom first) whose changes lie in `changed`.
    pub(super) fn of_step(lowers: &[PathBuf], changed: PathBuf) -> Self {
        Self { changed: Some(changed), lowers: lowers.to_vec(), table: Mutex::default(), below: OnceLock::new() }
    }

    /// Whose the open file is, if it was given to somebody.
    pub(crate) fn get(&self, file: impl AsFd) -> Option<(u32, u32)> {
        self.find(file, Path::new(""))
    }

    /// Whose an open file is that the step has from the layers below; `place` says where it sees it.
    pub(crate) fn owner_below(&self, stat: &Stat, place: impl FnOnce() -> Option<PathBuf>) -> Option<(u32, u32)> {
        let below = self.below.get_or_init(|| MergedTree::open(&self.lowers).ok().filter(MergedTree::has_tabled_owners)).as_ref()?;
        let path = TreePath::clipped(place()?.as_os_str().as_bytes()).ok()?;
        let meta = below.lookup(&path).ok()??.meta;
        // Something else that the step has put in its place has another time.
        (meta.mtime == sys::fs::mtime(stat)).then_some((meta.uid, meta.gid))
    }

    fn find(&self, parent: impl AsFd, name: &Path) -> Option<(u32, u32)> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.is_empty() {
            return None;
        }
        table.get(&Identity::of(parent, name).ok()?).copied()
    }

    /// Gives the open file, which the step sees at `path` in its root (none if it is elsewhere), to somebody.
    pub(crate) fn set(&self, file: impl AsFd, path: Option<&Path>, owner: (u32, u32)) -> rustix::io::Result<()> {
        let seen = Identity::of(file, Path::new(""))?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(seen, owner);
        // Through an overlay inodes look different than they do in its layers.
        if let Some(beneath) = path.and_then(|path| self.beneath(path)) {
            table.insert(beneath, owner);
            table.insert(Identity { device: seen.device, ..beneath }, owner);
        }
        Ok(())
    }

    /// The same file among the changes.
    fn beneath(&self, path: &Path) -> Option<Identity> {
        let path = TreePath::clipped(path.as_os_str().as_bytes()).ok()?;
        let root = RootDir::open(self.changed.as_deref()?).ok()?;
        let handle = root.open_exact(&path, OFlags::PATH, rustix::fs::Mode::empty()).ok()?;
        Identity::of(handle, Path::new("")).ok()
    }

    /// The metadata that are meant of what lies at `name` in `parent` among the changes.
    pub(crate) fn meant(&self, parent: impl AsFd, name: &Path, meta: Meta) -> Meta {
        match self.find(parent, name) {
            Some((uid, gid)) => Meta { uid, gid, ..meta },
            None => meta,
        }
    }
}
