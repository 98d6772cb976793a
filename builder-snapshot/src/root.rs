//! A directory that paths cannot leave.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A directory of the host, the root of everything done through it.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Opens a directory of the host.
    ///
    /// # Errors
    /// It cannot be opened or is no directory.
    pub fn open(_host_path: &Path) -> io::Result<Self> {
        todo!()
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
