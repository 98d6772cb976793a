//! A directory that paths cannot leave.
//!
//! Everything goes through a directory descriptor. *Exact* calls follow no symbolic link at all, so a path means the same object for
//! as long as nobody renames; *in-root* opens follow links as a process chrooted there would. Neither sees the world outside, whatever a
//! hostile tree holds: the kernel enforces it (openat2). Nothing here knows layers or whiteouts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::layer::{stand_in, xattr};
use crate::path::TreePath;
use crate::sys;
use crate::toc::{Meta, Timestamp};

/// A directory of the host, the root of everything done through it.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Opens a directory of the host.
    ///
    /// # Errors
    /// It cannot be opened or is no directory.
    pub fn open(host_path: &Path) -> io::Result<Self> {
        sys::fs::open_dir(host_path).map(Self)
    }

    /// Takes an open directory.
    #[must_use]
    pub fn from_fd(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Opens exactly `path`, following no link; `O_CLOEXEC` and `O_NOFOLLOW` are added.
    ///
    /// # Errors
    /// What the kernel answers: ELOOP for links on the way, EXDEV for an escape.
    pub fn open_exact(&self, path: &TreePath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        sys::fs::open_beneath(&self.0, path.as_path(), flags, mode)
    }

    /// Opens the regular file at exactly `path` for reading. A fifo or device in its place does not block and is refused.
    ///
    /// # Errors
    /// Nothing or something else is there.
    pub fn open_file_exact(&self, path: &TreePath) -> io::Result<File> {
        let file = self.open_exact(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        if sys::fs::file_type(&fs::fstat(&file)?) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(File::from(file))
    }

    /// Opens `path` (absolute ones start here too) as a process whose root this directory is would; links are followed inside.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open_in_root(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        sys::fs::open_in_root(&self.0, path, flags, mode)
    }

    /// What is at exactly `path`; none if nothing is there.
    ///
    /// # Errors
    /// A link or something that is no directory on the way.
    pub fn stat(&self, path: &TreePath) -> io::Result<Option<Stat>> {
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        sys::fs::stat_at(parent.as_fd(), name)
    }

    /// Makes a directory with this mode, whatever the umask.
    ///
    /// # Errors
    /// The parent is missing, or something is there.
    pub fn make_dir(&self, path: &TreePath, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(mode))?;
        Ok(fs::chmodat(parent.as_fd(), name, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Makes a directory and the missing ones above it, each with this mode.
    ///
    /// # Errors
    /// Something that is no directory is in the way.
    pub fn make_dirs(&self, path: &TreePath, mode: u32) -> io::Result<()> {
        let mut at = TreePath::root();
        for name in path.components() {
            at = at.child(name);
            match self.stat(&at)? {
                Some(stat) if sys::fs::file_type(&stat) == FileType::Directory => {}
                Some(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
                None => self.make_dir(&at, mode)?,
            }
        }
        Ok(())
    }

    /// Makes a new regular file (nothing may be there) with this mode, open for reading and writing.
    ///
    /// # Errors
    /// The parent is missing, or something is there.
    pub fn create_file(&self, path: &TreePath, mode: u32) -> io::Result<File> {
        let file = self.open_exact(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode & 0o7777))?;
        fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        Ok(File::from(file))
    }

    /// Makes a symbolic link; `target` is stored as it is.
    ///
    /// # Errors
    /// The parent is missing, or something is there.
    pub fn symlink(&self, target: &[u8], path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::symlinkat(sys::fs::name(target), parent.as_fd(), name)?)
    }

    /// The target of the symbolic link at exactly `path`.
    ///
    /// # Errors
    /// No link is there.
    pub fn read_link(&self, path: &TreePath) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::readlinkat(parent.as_fd(), name, Vec::new())?.into_bytes())
    }

    /// Makes a device, fifo or socket with this mode, whatever the umask.
    ///
    /// # Errors
    /// The parent is missing, something is there, or devices are not allowed.
    pub fn mknod(&self, path: &TreePath, kind: FileType, mode: u32, device: u64) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::mknodat(parent.as_fd(), name, kind, Mode::from_raw_mode(mode), device)?;
        Ok(fs::chmodat(parent.as_fd(), name, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Removes what is at exactly `path`, if it is no directory.
    ///
    /// # Errors
    /// Nothing or a directory is there.
    pub fn unlink(&self, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::unlinkat(parent.as_fd(), name, AtFlags::empty())?)
    }

    /// Removes what is at exactly `path` with everything below it; nothing there is no error.
    ///
    /// # Errors
    /// Removing fails.
    pub fn remove_tree(&self, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        sys::fs::remove_tree(parent.as_fd(), std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()))
    }

    /// Renames within this directory; what is at `to` is replaced if the kernel can.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn rename(&self, from: &TreePath, to: &TreePath) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(fs::renameat(from_parent.as_fd(), from_name, to_parent.as_fd(), to_name)?)
    }

    /// Changes owner and mode of what is at exactly `path` (the mode not of a symbolic link).
    ///
    /// # Errors
    /// Nothing is there, or it is not allowed.
    pub fn set_owner_and_mode(&self, path: &TreePath, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let parent = parent.as_fd();
        stand_in::set_owner_at(parent, name, uid, gid)?;
        match sys::fs::stat_at(parent, name)? {
            Some(stat) if sys::fs::file_type(&stat) != FileType::Symlink => {
                Ok(fs::chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
            }
            _ => Ok(()),
        }
    }

    /// Sets modification and access time of what is at exactly `path`.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn set_mtime(&self, path: &TreePath, mtime: Timestamp) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        set_mtime_at(parent.as_fd(), name, mtime)
    }

    fn parent<'a>(&self, path: &'a TreePath) -> io::Result<(Parent<'_>, &'a Path)> {
        let Some(name) = path.file_name() else {
            return Ok((Parent::Root(self.0.as_fd()), Path::new(".")));
        };
        let end = path.as_bytes().len() - name.len();
        let name = sys::fs::name(name);
        if end == 0 {
            return Ok((Parent::Root(self.0.as_fd()), name));
        }
        let above = sys::fs::name(&path.as_bytes()[..end - 1]);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((Parent::Opened(sys::fs::open_beneath(&self.0, above, flags, Mode::empty())?), name))
    }
}

enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn timestamps(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn set_mtime_at(dir: impl AsFd, name: &Path, mtime: Timestamp) -> io::Result<()> {
    Ok(fs::utimensat(dir, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives an open file or directory this owner, mode and attributes, in the order that lets each survive the next (a change of owner drops
/// set-id bits and capabilities). What is right already is left alone: on a journaled file system a look is ten times cheaper than a change.
pub(crate) fn set_meta_of(file: impl AsFd, meta: &Meta) -> io::Result<()> {
    let stat = fs::fstat(&file)?;
    let chown = stand_in::owner_of_stat(&stat) != (meta.uid, meta.gid);
    if chown {
        stand_in::set_owner(&file, meta.uid, meta.gid)?;
    }
    if stat.st_mode & 0o7777 != meta.mode || (chown && meta.mode & 0o6000 != 0) {
        stand_in::set_mode(&file, &stat, meta.mode)?;
    }
    for (name, value) in &meta.xattrs {
        if **name == *xattr::CAPABILITY {
            stand_in::set_capability(&file, value)?;
            continue;
        }
        match fs::fsetxattr(&file, sys::fs::name(name), value, XattrFlags::empty()) {
            // A file system without user attributes (tmpfs before 6.6): the tree is of use without them, not so without capabilities.
            Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
            result => result?,
        }
    }
    Ok(())
}

/// As [`set_meta_of`], and takes away what attributes it has beside: the file may have had others before.
pub(crate) fn replace_meta_of(file: impl AsFd, meta: &Meta) -> io::Result<()> {
    for old in sys::fs::list_xattrs(&file)? {
        if (xattr::belongs(&old) || stand_in::says_meta(&old)) && !meta.xattrs.iter().any(|(name, _)| *name == old) {
            fs::fremovexattr(&file, sys::fs::name(&old))?;
        }
    }
    set_meta_of(file, meta)
}

/// Makes one directory look as another as they lie there: owner, mode, attributes but overlay's marks, times. `before_each` stands before every change.
pub(crate) fn copy_metadata(from: impl AsFd, to: impl AsFd, before_each: fn() -> io::Result<()>) -> io::Result<()> {
    let stat = fs::fstat(&from)?;
    fs::fchown(&to, Some(fs::Uid::from_raw(stat.st_uid)), Some(fs::Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let counts = |name: &[u8]| !name.starts_with(sys::mount::marks().prefix);
    let wanted = sys::fs::list_xattrs(&from)?;
    for name in sys::fs::list_xattrs(&to)?.iter().filter(|name| counts(name) && !wanted.contains(name)) {
        before_each()?;
        sys::fs::remove_xattr(&to, name)?;
    }
    for name in wanted.iter().filter(|name| counts(name)) {
        if let Some(value) = sys::fs::get_xattr(&from, name)? {
            before_each()?;
            fs::fsetxattr(&to, sys::fs::name(name), &value, XattrFlags::empty())?;
        }
    }
    before_each()?;
    set_mtime_of(&to, sys::fs::mtime(&stat))
}

/// Sets the times of an open file: last, because writing changes them.
pub(crate) fn set_mtime_of(file: impl AsFd, mtime: Timestamp) -> io::Result<()> {
    Ok(fs::futimens(file, &timestamps(mtime))?)
}
