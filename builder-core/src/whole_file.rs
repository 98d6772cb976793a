//! Files that are at their place whole or not at all, whenever the power goes or the process is killed.
//!
//! A file without a name (`O_TMPFILE`) goes with the process that writes it; it gets its name when it is whole. File systems that have no such files
//! (NFS, FUSE) get a file with another name, which is removed when writing fails and stays only if the process is killed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// A file that is being written.
pub(crate) struct WholeFile<'a> {
    file: File,
    dir: BorrowedFd<'a>,
    /// The name that it has meanwhile; removed with this value.
    named: Option<OsString>,
}

impl<'a> WholeFile<'a> {
    /// A new file in the directory `dir`, for a name like `name`. The umask counts.
    pub(crate) fn create(dir: BorrowedFd<'a>, name: &OsStr, mode: u32) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, ".", flags | OFlags::TMPFILE, mode) {
            Ok(file) if has_name_in_proc(&file) => return Ok(Self { file: file.into(), dir, named: None }),
            // Without /proc it could not get its name. EISDIR: the file system does not know the flag.
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let named = meanwhile(name, &std::process::id().to_string());
        let file = rustix::fs::openat(dir, &named, flags | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW, mode)?;
        Ok(Self { file: file.into(), dir, named: Some(named) })
    }

    /// To write to.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, in place of what has that name.
    pub(crate) fn publish(mut self, name: &OsStr) -> io::Result<()> {
        if let Some(named) = self.named.take() {
            let renamed = rustix::fs::renameat(self.dir, &named, self.dir, name);
            // The name is ours: nobody else's file is lost.
            return Ok(renamed.inspect_err(|_| self.remove(&named))?);
        }
        match self.link(name) {
            Err(Errno::EXIST) => {}
            linked => return Ok(linked?),
        }
        // No call replaces a file by one without a name. The name in between is the same for all processes, so that what a killed one left is
        // removed by the next; the lock keeps them from removing each other's. Where there is no lock, one of two would fail.
        let between = meanwhile(name, "new");
        let locked = rustix::fs::flock(self.dir, FlockOperation::LockExclusive).is_ok();
        let replaced = self.replace(&between, name);
        if locked {
            // It goes with the descriptor in any case.
            let _ = rustix::fs::flock(self.dir, FlockOperation::Unlock);
        }
        Ok(replaced?)
    }

    fn replace(&self, between: &OsStr, name: &OsStr) -> rustix::io::Result<()> {
        match rustix::fs::unlinkat(self.dir, between, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.link(between)?;
        rustix::fs::renameat(self.dir, between, self.dir, name).inspect_err(|_| self.remove(between))
    }

    fn remove(&self, name: &OsStr) {
        // What cannot be removed stays; there is nobody to tell.
        let _ = rustix::fs::unlinkat(self.dir, name, AtFlags::empty());
    }

    fn link(&self, name: &OsStr) -> rustix::io::Result<()> {
        rustix::fs::linkat(CWD, path_in_proc(&self.file), self.dir, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for WholeFile<'_> {
    fn drop(&mut self) {
        if let Some(named) = &self.named {
            self.remove(named);
        }
    }
}

fn meanwhile(name: &OsStr, what: &str) -> OsString {
    let mut between = OsString::from(".");
    between.push(name);
    between.push(format!(".{what}.part"));
    between
}

fn path_in_proc(file: impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

fn has_name_in_proc(file: impl AsFd) -> bool {
    rustix::fs::statat(CWD, path_in_proc(file), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").file_name().display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = File::open(dir.path()).expect("open");
        let name = OsStr::new("out");
        for content in ["first", "second"] {
            // As a killed process leaves it.
            fs::write(dir.path().join(".out.new.part"), "half").expect("write");
            let new = WholeFile::create(fd.as_fd(), name, 0o640).expect("create");
            new.file().write_all(content.as_bytes()).expect("write");
            assert!(fs::read(dir.path().join("out")).unwrap_or_default() != content.as_bytes());
            new.publish(name).expect("publish");
            assert_eq!(fs::read(dir.path().join("out")).expect("read"), content.as_bytes());
        }
        assert_eq!(names(dir.path()), ["out"]);
        drop(WholeFile::create(fd.as_fd(), name, 0o640).expect("create"));
        assert_eq!(fs::read(dir.path().join("out")).expect("read"), b"second");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn without_files_without_names_it_has_another_one_meanwhile() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fd = File::open(dir.path()).expect("open");
        let name = OsStr::new("out");
        let named = || {
            let named = meanwhile(name, "1");
            let file = File::create(dir.path().join(&named)).expect("create");
            WholeFile { file, dir: fd.as_fd(), named: Some(named) }
        };
        drop(named());
        assert_eq!(names(dir.path()), Vec::<String>::new());
        named().publish(name).expect("publish");
        assert_eq!(names(dir.path()), ["out"]);
        // A directory is no file to replace.
        fs::create_dir(dir.path().join("dir")).expect("mkdir");
        named().publish(OsStr::new("dir")).expect_err("refused");
        assert_eq!(names(dir.path()), ["dir", "out"]);
    }

    #[test]
    fn two_writers_of_one_name_leave_one_of_their_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = OsStr::new("out");
        std::thread::scope(|scope| {
            for writer in ["one", "two"] {
                let path = dir.path();
                scope.spawn(move || {
                    // Each with a lock of its own.
                    let fd = File::open(path).expect("open");
                    for _ in 0..200 {
                        let new = WholeFile::create(fd.as_fd(), name, 0o600).expect("create");
                        new.file().write_all(writer.as_bytes()).expect("write");
                        new.publish(name).expect("publish");
                    }
                });
            }
        });
        let left = fs::read(dir.path().join("out")).expect("read");
        assert!(left == b"one" || left == b"two");
    }
}
