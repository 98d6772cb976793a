//! Descriptor-relative file system calls in the form the rest of the crate wants: opening beneath a directory without following links, extended
//! attributes, directory listings, removal of trees of any depth.
//!
//! All of it is safe rustix; what rustix lacks would stand here as raw calls.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::toc::Timestamp;

/// How often an open that raced with a rename is tried again before its error is reported.
const RACE_RETRIES: u32 = 64;

/// Opens `path` beneath `dir`; neither a link in the middle nor one at the end is followed, and mounts' magic links are refused.
pub(crate) fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_resolving(dir, path, flags | OFlags::NOFOLLOW, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` as a process whose root is `dir` would: links are followed, inside.
pub(crate) fn open_in_root(dir: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_resolving(dir, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn open_resolving(dir: impl AsFd, path: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match fs::openat2(&dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            // The kernel gives up when anything on the machine was renamed or mounted meanwhile.
            Err(Errno::AGAIN) if tries < RACE_RETRIES => tries += 1,
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a directory of the host as a handle for descriptor-relative calls.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// One name as a path for system calls.
pub(crate) fn name(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// What is at `path` itself (links are not followed at its end); none if nothing is there.
pub(crate) fn stat_at(dir: impl AsFd, path: &Path) -> io::Result<Option<Stat>> {
    match fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The modification time of `stat`.
pub(crate) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// The kind of file of `stat`.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Overlay's mark that a name is removed: a character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Calls `visit` with each name of an open directory and its type as the directory says it (maybe unknown), in no order, without `.` and `..`.
pub(crate) fn for_each_name(dir: impl AsFd, mut visit: impl FnMut(&[u8], FileType) -> io::Result<()>) -> io::Result<()> {
    fs::seek(&dir, fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            visit(name, entry.file_type())?;
        }
    }
    Ok(())
}

/// The value of an extended attribute of an open file; none if it has none of that name or the file system has no attributes.
pub(crate) fn get_xattr(file: impl AsFd, name: &[u8]) -> io::Result<Option<Box<[u8]>>> {
    let name = self::name(name);
    let mut buffer = [0_u8; 256];
    match fs::fgetxattr(&file, name, &mut buffer) {
        Ok(n) => return Ok(Some(buffer[..n].into())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e.into()),
    }
    // XATTR_SIZE_MAX is 64 KiB: nothing is longer.
    let mut buffer = vec![0_u8; 1 << 16];
    match fs::fgetxattr(&file, name, &mut buffer[..]) {
        Ok(n) => Ok(Some(buffer[..n].into())),
        Err(Errno::NODATA) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Removes an extended attribute of an open file, if it has it.
pub(crate) fn remove_xattr(file: impl AsFd, name: &[u8]) -> io::Result<()> {
    match fs::fremovexattr(file, self::name(name)) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The names of the extended attributes of an open file, in the kernel's order.
pub(crate) fn list_xattrs(file: impl AsFd) -> io::Result<Vec<Box<[u8]>>> {
    let split = |list: &[u8]| list.split(|&b| b == 0).filter(|name| !name.is_empty()).map(Into::into).collect();
    let mut buffer = [0_u8; 512];
    match fs::flistxattr(&file, &mut buffer) {
        Ok(n) => return Ok(split(&buffer[..n])),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e.into()),
    }
    // XATTR_LIST_MAX is 64 KiB.
    let mut buffer = vec![0_u8; 1 << 16];
    let n = fs::flistxattr(&file, &mut buffer[..])?;
    Ok(split(&buffer[..n]))
}

/// Removes `name` in `parent` with everything below it, however deep, without following links. Nothing there is no error.
///
/// Holds two descriptors whatever the depth: goes up through `..`, which nobody else moves in trees of ours.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match fs::unlinkat(parent, self::name(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let mut current = open_subdir(parent, name)?;
    // Each directory on the way down: its name, and the subdirectories that are still in it.
    type Level = (Box<[u8]>, Vec<Box<[u8]>>);
    let mut above: Vec<Level> = vec![(name.into(), empty_of_files(current.as_fd())?)];
    while let Some((name, subdirs)) = above.last_mut() {
        if let Some(subdir) = subdirs.pop() {
            current = open_subdir(current.as_fd(), &subdir)?;
            above.push((subdir, empty_of_files(current.as_fd())?));
            continue;
        }
        let name = std::mem::take(name);
        above.pop();
        if above.is_empty() {
            fs::unlinkat(parent, self::name(&name), AtFlags::REMOVEDIR)?;
        } else {
            current = fs::openat(&current, "..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            fs::unlinkat(&current, self::name(&name), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

fn open_subdir(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, self::name(name), flags, Mode::empty())?)
}

/// Removes everything in `dir` but directories; returns their names.
fn empty_of_files(dir: BorrowedFd<'_>) -> io::Result<Vec<Box<[u8]>>> {
    let mut names: Vec<(Box<[u8]>, FileType)> = Vec::new();
    for_each_name(dir, |name, kind| {
        names.push((name.into(), kind));
        Ok(())
    })?;
    let mut subdirs = Vec::new();
    for (name, kind) in names {
        if kind == FileType::Directory {
            subdirs.push(name);
            continue;
        }
        match fs::unlinkat(dir, self::name(&name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => subdirs.push(name),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(subdirs)
}

/// Removes a tree of the host by its path.
pub(crate) fn remove_tree_at(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "path has no parent"));
    };
    match open_dir(parent) {
        Ok(parent) => remove_tree(parent.as_fd(), name.as_bytes()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
