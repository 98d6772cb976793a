//! Deciding what processes run on: an overlay, or a copy.
//!
//! An overlay costs nothing until something is written, a copy costs the image. So the kernel is asked for an overlay, once, with everything that steps need of
//! it: a file system that mounts and then fails at the first removal (no attributes, the wrong ones in a user namespace) is found here and not in
//! the middle of a build.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, AtFlags, Mode};

use super::copy::{Copier, Idle};
use super::{ActiveSnapshot, TemporaryDir, overlay};
use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::stop::StopSignal;
use crate::sys;
use crate::tree::{FoundKind, MergedTree, has_list};

/// What processes run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotterKind {
    /// An overlay where one can be mounted, else a copy.
    #[default]
    Auto,
    /// An overlay, or an error.
    Overlay,
    /// A copy.
    Copy,
}

/// Makes snapshots for processes, all in one directory's file system. Dropping it removes the copies that it keeps for the next step.
#[derive(Debug)]
pub struct Snapshotter {
    kind: SnapshotterKind,
    /// Why no overlay can be mounted, if none can.
    probed: OnceLock<Option<String>>,
    idle: Arc<Idle>,
}

/// A part of a stack of layers that a process can look at, and write to without anyone else seeing it.
#[derive(Debug)]
pub struct View {
    /// A detached mount.
    pub mount: OwnedFd,
    /// Where the part is in the mount.
    pub subpath: TreePath,
    /// The files behind the mount, to be kept for as long as it is used.
    pub files: ViewFiles,
}

/// What is behind a [`View`]. Dropping it removes the files.
#[derive(Debug)]
#[must_use]
pub struct ViewFiles(#[expect(dead_code, reason = "held for what its drop does")] Behind);

#[derive(Debug)]
enum Behind {
    Overlay { _snapshot: Box<ActiveSnapshot> },
    Copy { _dir: TemporaryDir },
}

impl Snapshotter {
    /// One of this kind. Nothing is tried before something is to run.
    #[must_use]
    pub fn new(kind: SnapshotterKind) -> Self {
        Self { kind, probed: OnceLock::new(), idle: Arc::default() }
    }

    /// Whether overlays can be mounted in the file system of `tmp`, and are to be.
    #[must_use]
    pub fn uses_overlay(&self, tmp: &Path) -> bool {
        match self.kind {
            SnapshotterKind::Overlay => true,
            SnapshotterKind::Copy => false,
            SnapshotterKind::Auto => self.obstacle(tmp).is_none(),
        }
    }

    fn obstacle(&self, tmp: &Path) -> Option<&str> {
        self.probed.get_or_init(|| probe(tmp).err()).as_deref()
    }

    /// Why a process on `lowers` runs on a copy; the reason is none if the user wants it so. None if it does not.
    fn copies(&self, tmp: &Path, lowers: &[PathBuf]) -> Option<Option<String>> {
        match self.kind {
            SnapshotterKind::Overlay => None,
            SnapshotterKind::Copy => Some(None),
            SnapshotterKind::Auto => {
                if let Some(obstacle) = self.obstacle(tmp) {
                    return Some(Some(format!("copy snapshots: {obstacle}")));
                }
                // One place is for the mount points that an image lacks.
                let count = lowers.iter().collect::<HashSet<_>>().len() + 1;
                if count > overlay::MAX_LOWERS {
                    let text = format!("copy snapshots: the image has {count} layers, and the kernel stacks {}; join steps", overlay::MAX_LOWERS);
                    return Some(Some(text));
                }
                let foreign = lowers.iter().any(|lower| has_list(lower));
                let text =
                    "copy snapshots: layers of this store were made where no overlay can be mounted; a new store (RBUILD_ROOT) makes steps faster";
                foreign.then(|| Some(text.to_owned()))
            }
        }
    }

    /// A snapshot on `lowers` (layer directories, bottom first) for a process, below `tmp`. `stop` ends copying, and later the commit.
    ///
    /// # Errors
    /// The directories cannot be made, the lowers not be read or copied; it is to stop.
    pub fn prepare(&self, tmp: &Path, lowers: &[PathBuf], stop: &StopSignal) -> Result<ActiveSnapshot, SnapshotError> {
        let snapshot = match self.copies(tmp, lowers) {
            None => ActiveSnapshot::create(tmp, lowers),
            Some(reason) => ActiveSnapshot::create_copied(tmp, lowers, &self.idle, reason, stop),
        };
        Ok(snapshot?.stop_when(stop))
    }

    /// What is at exactly `path` (a directory or a file) in the stack of `lowers`, to be mounted somewhere.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`]; nothing is there.
    pub fn view(&self, tmp: &Path, lowers: &[PathBuf], path: &TreePath, stop: &StopSignal) -> Result<View, SnapshotError> {
        if self.copies(tmp, lowers).is_none() {
            let snapshot = ActiveSnapshot::create(tmp, lowers)?;
            return Ok(View {
                mount: snapshot.mount(None)?,
                subpath: path.clone(),
                files: ViewFiles(Behind::Overlay { _snapshot: Box::new(snapshot) }),
            });
        }
        let tree = MergedTree::open(lowers)?;
        let Some(found) = tree.lookup(path)? else { return Err(SnapshotError::NotFound { path: path.display() }) };
        let dir = TemporaryDir::create(tmp)?;
        let mut copier = Copier::new(&tree, dir.path(), None)?.stop_when(stop);
        let place = TreePath::root().child(b"view");
        if found.kind == FoundKind::Dir {
            copier.make_dir(&place)?;
            copier.subtree(path, found, &place)?;
        } else {
            copier.entry(path, &found, &place)?;
        }
        let host = dir.path().join(place.as_path());
        let mount = sys::mount::detach_bare(&host).map_err(SnapshotError::io("mount", host.display()))?;
        Ok(View { mount, subpath: TreePath::root(), files: ViewFiles(Behind::Copy { _dir: dir }) })
    }
}

/// Tries whether steps can run on overlays in the file system of `tmp`; if not, why not, as the end of a sentence. Takes less than a millisecond.
///
/// # Errors
/// The reason, with the remedy.
pub fn probe(tmp: &Path) -> Result<(), String> {
    let dir = TemporaryDir::create(tmp).map_err(|e| e.to_string())?;
    let path = |name: &str| dir.path().join(name);
    let (upper, lower) = (path("fs"), path("lower"));
    let prepare = || -> io::Result<()> {
        [&upper, &path("work"), &lower].into_iter().try_for_each(std::fs::create_dir)?;
        std::fs::create_dir(lower.join("d"))
    };
    prepare().map_err(|e| format!("nothing can be made in {}: {e}", tmp.display()))?;
    let remedy = "put RBUILD_ROOT on ext4, xfs, btrfs or tmpfs for faster steps";
    let mount = match overlay::mount(&[lower], None, &upper, &path("work"), &path("empty")) {
        Ok(mount) => mount,
        Err(SnapshotError::Mount { source, log, .. }) => {
            return Err(match file_system(tmp) {
                Some(name) => format!("the store's file system is {name}, which can't be the top of an overlay; {remedy}"),
                None => format!("no overlay can be mounted here ({source}{log})"),
            });
        }
        Err(error) => return Err(error.to_string()),
    };
    // Replacing a directory of a lower layer takes all that overlay needs of the file system: whiteouts and attributes.
    let act = || -> io::Result<()> {
        fs::unlinkat(mount.as_fd(), "d", AtFlags::REMOVEDIR)?;
        Ok(fs::mkdirat(mount.as_fd(), "d", Mode::RWXU)?)
    };
    let done = act().and_then(|()| sys::fs::get_xattr(sys::fs::open_dir(&upper.join("d"))?, sys::mount::marks().opaque));
    match done {
        Ok(Some(value)) if *value == *b"y" => Ok(()),
        Ok(_) => Err(format!("the store's file system does not keep the attributes that an overlay needs; {remedy}")),
        Err(error) => Err(format!("overlays do not work on the store's file system ({error}); {remedy}")),
    }
}

/// The file system of `dir`, if it is one of those that containers have and that no overlay can be on.
fn file_system(dir: &Path) -> Option<&'static str> {
    let kind = fs::statfs(dir).ok()?.f_type;
    // linux/magic.h
    Some(match u64::try_from(kind).unwrap_or_default() & 0xffff_ffff {
        0x794c_7630 => "overlay",
        0x6573_5546 => "FUSE",
        0x6163_6673 => "aufs",
        _ => return None,
    })
}
