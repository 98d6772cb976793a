//! Copying parts of a stack of layers into a directory of its own.
//!
//! Every name becomes a file of its own, also names that are hard links to each other: through an overlay too, what a process writes through one name does not
//! show under another. Never a hard link to a layer's file: whoever gets the copy may write to it.
//!
//! What differs from an overlay is what a process sees before it writes: there the names of a group have one inode until one of them is written to, so that `tar`
//! and `cp -a` in a step keep them together; here they are as many files. Links among the copies would show the same, and copy a group once, but a
//! write through one name would then change them all, and nothing in the tree afterwards tells which name it was: `echo >> a` (an overlay changes `a`), and
//! `chown -R` (it changes each, as a file of its own) leave the same. Wrong bytes under a name that nobody touched are worse than a link that is lost. Who
//! wants both has to learn the names while the process runs, by inotify's `IN_CLOSE_WRITE` and `IN_ATTRIB` on the directories of groups, and to copy name by
//! name where it is refused or overflows.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, XattrFlags};

use super::data;
use super::fingerprint::Fingerprints;
use crate::error::SnapshotError;
use crate::layer::stand_in;
use crate::path::TreePath;
use crate::root::{replace_meta_of, set_mtime_at, set_mtime_of};
use crate::snapshot::{Device, OpenDirs};
use crate::stop::StopSignal;
use crate::sys;
use crate::tree::{Found, FoundKind, MergedTree};

/// Access rules that the tables know nothing of, but that processes notice.
const CARRIED: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Copies from a tree into a directory.
pub(crate) struct Copier<'a> {
    tree: &'a MergedTree,
    dirs: OpenDirs,
    known: Option<&'a mut Fingerprints>,
    stop: StopSignal,
}

impl<'a> Copier<'a> {
    /// Into the directory `to`. `known` gets a fingerprint of everything that is made.
    pub(crate) fn new(tree: &'a MergedTree, to: &Path, known: Option<&'a mut Fingerprints>) -> Result<Self, SnapshotError> {
        let dirs = OpenDirs::new(sys::fs::open_dir(to).map_err(SnapshotError::io("open", to.display()))?);
        Ok(Self { tree, dirs, known, stop: StopSignal::default() })
    }

    /// Copying fails once `stop` is set.
    pub(crate) fn stop_when(self, stop: &StopSignal) -> Self {
        Self { stop: stop.clone(), ..self }
    }

    /// Copies the directory `from` with everything in it to the directory `to`, which is there and empty.
    pub(crate) fn subtree(&mut self, from: &TreePath, found: Found, to: &TreePath) -> Result<(), SnapshotError> {
        enum Work {
            Fill(TreePath, Found, TreePath),
            Finish(TreePath, Found, TreePath),
        }
        // An explicit stack: images may nest deeply.
        let mut stack = vec![Work::Fill(from.clone(), found, to.clone())];
        while let Some(work) = stack.pop() {
            match work {
                Work::Fill(from, found, to) => {
                    let entries = self.tree.read_dir(&from)?;
                    stack.push(Work::Finish(from.clone(), found, to.clone()));
                    for entry in entries {
                        let (from, to) = (from.checked_child(&entry.name)?, to.checked_child(&entry.name)?);
                        let Some(found) = self.tree.lookup(&from)? else { continue };
                        if found.kind == FoundKind::Dir {
                            self.make_dir(&to)?;
                            stack.push(Work::Fill(from, found, to));
                        } else {
                            self.entry(&from, &found, &to)?;
                        }
                    }
                }
                // Last, as filling it changed its time.
                Work::Finish(from, found, to) => {
                    self.dir_meta(&from, &found, &to)?;
                    self.dir_time(&found, &to)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a directory that nobody else looks into until its metadata is set.
    pub(crate) fn make_dir(&mut self, to: &TreePath) -> Result<(), SnapshotError> {
        self.at(to, "make directory", |parent, name| Ok(fs::mkdirat(parent, name, Mode::RWXU)?))
    }

    /// Gives the directory `to` the owner, mode and attributes of `from`.
    pub(crate) fn dir_meta(&mut self, from: &TreePath, found: &Found, to: &TreePath) -> Result<(), SnapshotError> {
        let source = self.tree.open_topmost(from)?;
        self.at(to, "change", |parent, name| {
            let dir = open(parent, name)?;
            replace_meta_of(&dir, &found.meta)?;
            carry(&source, &dir)
        })
    }

    /// Gives the directory `to` its time, and notes it: nothing may be put into it afterwards.
    pub(crate) fn dir_time(&mut self, found: &Found, to: &TreePath) -> Result<(), SnapshotError> {
        self.at(to, "set the time of", |parent, name| set_mtime_at(parent, name, found.meta.mtime))?;
        self.note(to)
    }

    /// Copies what is at `from`, which is no directory, to `to`, where nothing is.
    pub(crate) fn entry(&mut self, from: &TreePath, found: &Found, to: &TreePath) -> Result<(), SnapshotError> {
        self.stop.check().map_err(SnapshotError::io("copy", from.display()))?;
        let meta = &found.meta;
        let special = |kind: FileType, device: Option<Device>| {
            move |parent: BorrowedFd<'_>, name: &Path| {
                let number = device.map_or(0, |device| fs::makedev(device.major, device.minor));
                match (fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number), device) {
                    (Err(errno), Some(device)) if stand_in::is_wanted(errno) => stand_in::make_device(parent, name, device, meta)?,
                    (result, _) => {
                        result?;
                        stand_in::set_owner_at(parent, name, meta.uid, meta.gid)?;
                        fs::chmodat(parent, name, Mode::from_raw_mode(meta.mode), fs::AtFlags::empty())?;
                    }
                }
                set_mtime_at(parent, name, meta.mtime)
            }
        };
        match &found.kind {
            FoundKind::File { .. } => {
                let source = self.tree.open_file(from)?;
                let stop = self.stop.clone();
                self.at(to, "copy", |parent, name| {
                    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = File::from(fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
                    data::copy(&source, &file, &stop)?;
                    replace_meta_of(&file, meta)?;
                    carry(&source, &file)?;
                    set_mtime_of(&file, meta.mtime)
                })?;
            }
            FoundKind::Symlink { target } => self.at(to, "make symbolic link", |parent, name| {
                fs::symlinkat(sys::fs::name(target), parent, name)?;
                stand_in::set_owner_at(parent, name, meta.uid, meta.gid)?;
                set_mtime_at(parent, name, meta.mtime)
            })?,
            FoundKind::CharDevice { major, minor } => {
                let device = Device { block: false, major: *major, minor: *minor };
                self.at(to, "make device", special(FileType::CharacterDevice, Some(device)))?;
            }
            FoundKind::BlockDevice { major, minor } => {
                let device = Device { block: true, major: *major, minor: *minor };
                self.at(to, "make device", special(FileType::BlockDevice, Some(device)))?;
            }
            FoundKind::Fifo => self.at(to, "make pipe", special(FileType::Fifo, None))?,
            FoundKind::Socket => self.at(to, "make socket", special(FileType::Socket, None))?,
            FoundKind::Dir => return Ok(()),
        }
        self.note(to)
    }

    /// Removes what is at `to` with everything below it; nothing there is no error.
    pub(crate) fn remove(&mut self, to: &TreePath) -> Result<(), SnapshotError> {
        self.dirs.forget(to);
        self.at(to, "remove", |parent, name| sys::fs::remove_tree(parent, std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str())))
    }

    /// What stands at `to`; none also if the directory that it would be in is not there.
    pub(crate) fn stat(&mut self, to: &TreePath) -> Result<Option<fs::Stat>, SnapshotError> {
        let (parent, name) = split(to);
        let stat = match self.dirs.get(&parent) {
            Ok(parent) => sys::fs::stat_at(parent, name),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        stat.map_err(SnapshotError::io("read", to.display()))
    }

    /// What stands at `to` is right.
    pub(crate) fn note(&mut self, to: &TreePath) -> Result<(), SnapshotError> {
        if self.known.is_none() {
            return Ok(());
        }
        let stat = self.stat(to)?;
        if let (Some(stat), Some(known)) = (stat, self.known.as_deref_mut()) {
            known.note(to, &stat);
        }
        Ok(())
    }

    fn at<T>(&mut self, to: &TreePath, action: &'static str, act: impl FnOnce(BorrowedFd<'_>, &Path) -> io::Result<T>) -> Result<T, SnapshotError> {
        let (parent, name) = split(to);
        self.dirs.get(&parent).and_then(|parent| act(parent, name)).map_err(SnapshotError::io(action, to.display()))
    }
}

/// The directory that a path is in, and its name there.
pub(super) fn split(path: &TreePath) -> (TreePath, &Path) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, sys::fs::name(name)),
        _ => (TreePath::root(), Path::new(".")),
    }
}

pub(super) fn open(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    sys::fs::open_beneath(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
}

/// Copies access rules, where both sides can have them.
fn carry(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    for name in sys::fs::list_xattrs(&from)? {
        if CARRIED.contains(&&*name)
            && let Some(value) = sys::fs::get_xattr(&from, &name)?
        {
            // An owner of a rule may have no number here; the mode says most of it.
            let _ = fs::fsetxattr(&to, sys::fs::name(&name), &value, XattrFlags::empty());
        }
    }
    Ok(())
}
