//! Descriptors of the directories that a writer works in: a file's parent is opened once, not walked to for each file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::path::TreePath;
use crate::sys;

/// Enough for a walk that goes up and down a few levels; each costs a descriptor.
const KEPT: usize = 16;

/// A root directory and the last few directories below it that were used.
#[derive(Debug)]
pub(crate) struct OpenDirs {
    root: OwnedFd,
    /// Most recently used last.
    recent: Vec<(TreePath, OwnedFd)>,
}

impl OpenDirs {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, recent: Vec::with_capacity(KEPT) }
    }

    /// The directory at exactly `path`, as a handle for descriptor-relative calls.
    pub(crate) fn get(&mut self, path: &TreePath) -> io::Result<BorrowedFd<'_>> {
        if path.is_root() {
            return Ok(self.root.as_fd());
        }
        match self.recent.iter().rposition(|(known, _)| known == path) {
            Some(i) if i + 1 == self.recent.len() => {}
            Some(i) => {
                let used = self.recent.remove(i);
                self.recent.push(used);
            }
            None => {
                let fd = sys::fs::open_beneath(&self.root, path.as_path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
                if self.recent.len() == KEPT {
                    self.recent.remove(0);
                }
                self.recent.push((path.clone(), fd));
            }
        }
        Ok(self.recent.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// The directory at `path` is removed: it and those below it are not what their paths mean any more.
    pub(crate) fn forget(&mut self, path: &TreePath) {
        self.recent.retain(|(known, _)| known.below(path).is_none());
    }
}
