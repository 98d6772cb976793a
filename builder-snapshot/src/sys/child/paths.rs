//! Making paths inside the sandbox's root in a cloned child, without allocating.
//!
//! # Invariants
//! - As in the module above. Links are followed as the kernel does from inside the root, so that nothing leads out of it.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use super::{open_path, open_retrying};

/// How many symbolic links [`make_directories`] goes through, as the kernel.
const LINKS_MAX: u32 = 40;

/// A path being walked, without allocation.
struct PathBuffer {
    bytes: [u8; libc::PATH_MAX as usize],
    length: usize,
}

impl PathBuffer {
    fn new() -> Self {
        Self { bytes: [0; libc::PATH_MAX as usize], length: 0 }
    }

    fn set(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.length = 0;
        self.push(bytes)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.length + bytes.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(Errno::NAMETOOLONG)?;
        room.copy_from_slice(bytes);
        self.length = end;
        // The NUL that makes it a C string; one byte is always left for it.
        *self.bytes.get_mut(end).ok_or(Errno::NAMETOOLONG)? = 0;
        Ok(())
    }

    fn pop_component(&mut self) -> Result<(), Errno> {
        let end = self.as_bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
        self.length = end;
        self.push(b"")
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn as_c_str(&self) -> Result<&CStr, Errno> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }
}

/// Makes the missing directories of an absolute path, following symbolic links, dangling ones too, inside the root.
pub(super) fn make_directories(path: &CStr, uid: u32, gid: u32) -> Result<(), Errno> {
    let mut done = PathBuffer::new();
    let mut rest = PathBuffer::new();
    let mut link = PathBuffer::new();
    rest.set(path.to_bytes())?;
    let mut links = 0;
    loop {
        let bytes = rest.as_bytes();
        let start = bytes.iter().position(|&b| b != b'/').unwrap_or(bytes.len());
        let Some(unread) = bytes.get(start..).filter(|unread| !unread.is_empty()) else { return Ok(()) };
        let end = unread.iter().position(|&b| b == b'/').unwrap_or(unread.len());
        let (component, after) = unread.split_at(end);
        if component == b".." {
            done.pop_component()?;
        } else if component != b"." {
            done.push(b"/")?;
            done.push(component)?;
            if let Some(length) = make_or_read_link(&done, &mut link.bytes, uid, gid)? {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                link.length = length;
                done.pop_component()?;
                if link.as_bytes().starts_with(b"/") {
                    done.set(b"")?;
                }
                link.push(b"/")?;
                link.push(after)?;
                rest.set(link.as_bytes())?;
                continue;
            }
        }
        // What follows is moved to the front through the spare buffer.
        link.set(after)?;
        rest.set(link.as_bytes())?;
    }
}

/// Makes the directory, or reads the link that is there: its length, none if a directory is there now.
///
/// The directory above is opened first, with no link on the way: `path` has none left, unless somebody put one there meanwhile, which is an error.
fn make_or_read_link(path: &PathBuffer, link: &mut [u8; libc::PATH_MAX as usize], uid: u32, gid: u32) -> Result<Option<usize>, Errno> {
    let bytes = path.as_bytes();
    let slash = bytes.iter().rposition(|&b| b == b'/').ok_or(Errno::INVAL)?;
    let mut above = PathBuffer::new();
    above.set(if slash == 0 { b"/" } else { bytes.get(..slash).unwrap_or_default() })?;
    let parent = open_path(above.as_c_str()?, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
    let name = CStr::from_bytes_until_nul(path.bytes.get(slash + 1..).unwrap_or_default()).map_err(|_| Errno::NAMETOOLONG)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            rustix::fs::chownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(None)
        }
        // An existing directory of a read-only mount says ROFS or EXIST, by file system.
        Err(errno @ (Errno::EXIST | Errno::ROFS)) => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match open_retrying(parent.as_fd(), name, flags, ResolveFlags::NO_MAGICLINKS) {
                Err(Errno::NOENT) => return Err(errno),
                result => result?,
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) {
                FileType::Directory => Ok(None),
                FileType::Symlink => {
                    let length = rustix::fs::readlinkat_raw(&entry, c"", link.as_mut_slice())?;
                    Ok(Some(length))
                }
                _ => Err(Errno::NOTDIR),
            }
        }
        Err(errno) => Err(errno),
    }
}

pub(super) fn make_file(path: &CStr) -> Result<(), Errno> {
    let bytes = path.to_bytes();
    let slash = bytes.iter().rposition(|&b| b == b'/').ok_or(Errno::INVAL)?;
    let mut parent = PathBuffer::new();
    parent.set(bytes.get(..slash).unwrap_or_default())?;
    if slash > 0 {
        make_directories(parent.as_c_str()?, 0, 0)?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::from_raw_mode(0o644), ResolveFlags::NO_MAGICLINKS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn directories_are_made_through_links_and_clipped_at_the_root() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |below: &str| CString::new(format!("{}/{below}", dir.path().display())).expect("no NUL");
        std::os::unix::fs::symlink("made/../other", dir.path().join("link")).expect("symlink");
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).expect("symlink");
        std::fs::write(dir.path().join("file"), "").expect("write");
        make_directories(&path("link/./below//deep/"), 1, 2).expect("made");
        assert!(dir.path().join("made").is_dir() && dir.path().join("other/below/deep").is_dir());
        assert_eq!(std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(dir.path().join("other/below")).expect("stat")), 2);
        assert_eq!(make_directories(&path("loop/x"), 0, 0), Err(Errno::LOOP));
        assert_eq!(make_directories(&path("file/x"), 0, 0), Err(Errno::NOTDIR));
        let long = "x/".repeat(3000);
        assert_eq!(make_directories(&path(&long), 0, 0), Err(Errno::NAMETOOLONG));
    }
}
