//! Copying what a new cache mount starts as.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, Mode, makedev};
use rustix::io::Errno;

use super::chain::io_error;
use super::{CacheMountError, Seed};
use crate::layer::stand_in;
use crate::path::TreePath;
use crate::root::{RootDir, set_meta_of, set_mtime_at, set_mtime_of};
use crate::sys;
use crate::tree::{Found, FoundKind, MergedTree};

/// Copies the seed to the new directory `to`. A crash leaves a directory that no chain names.
pub(super) fn copy(seed: &Seed, to: &Path) -> Result<(), CacheMountError> {
    let tree = MergedTree::open(&seed.lowers)?;
    let missing = || CacheMountError::SeedMissing { path: format!("/{}", String::from_utf8_lossy(seed.subpath.as_bytes())) };
    let from = tree.resolve(&seed.subpath)?;
    let found = match from.found {
        Some(found) if found.kind == FoundKind::Dir => found,
        _ => return Err(missing()),
    };
    std::fs::create_dir(to).map_err(io_error("make directory", to))?;
    let root = RootDir::open(to).map_err(io_error("open", to))?;
    copy_dir(&tree, &from.path, &found, &root, &TreePath::root()).map_err(io_error("copy the source to", to))?;
    if seed.subpath.is_root() {
        root.set_owner_and_mode(&TreePath::root(), seed.uid, seed.gid, seed.mode).map_err(io_error("change", to))?;
    }
    Ok(())
}

/// Fills a directory that is there and makes it look as `found`, on an explicit stack: images may nest deeply.
fn copy_dir(tree: &MergedTree, from: &TreePath, found: &Found, root: &RootDir, to: &TreePath) -> io::Result<()> {
    enum Work {
        Fill(TreePath, Found, TreePath),
        Finish(Found, TreePath),
    }
    let mut stack = vec![Work::Fill(from.clone(), found.clone(), to.clone())];
    while let Some(work) = stack.pop() {
        match work {
            Work::Fill(from, found, to) => {
                stack.push(Work::Finish(found, to.clone()));
                for entry in tree.read_dir(&from).map_err(io::Error::other)? {
                    let (from, to) = (from.child(&entry.name), to.child(&entry.name));
                    let Some(found) = tree.lookup(&from).map_err(io::Error::other)? else { continue };
                    if found.kind == FoundKind::Dir {
                        root.make_dir(&to, 0o700)?;
                        stack.push(Work::Fill(from, found, to));
                    } else {
                        copy_entry(tree, &from, &found, root, &to)?;
                    }
                }
            }
            // Last, as filling it changed its time.
            Work::Finish(found, to) => {
                let dir = root.open_exact(&to, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY, Mode::empty())?;
                set_meta_of(&dir, &found.meta)?;
                set_mtime_of(&dir, found.meta.mtime)?;
            }
        }
    }
    Ok(())
}

fn copy_entry(tree: &MergedTree, from: &TreePath, found: &Found, root: &RootDir, to: &TreePath) -> io::Result<()> {
    let meta = &found.meta;
    let special = |kind, device| {
        match root.mknod(to, kind, 0o600, device) {
            // A cache without a device that nobody may make here is a cache all the same.
            Err(error) if error.raw_os_error().is_some_and(|errno| stand_in::is_wanted(Errno::from_raw_os_error(errno))) => return Ok(()),
            result => result?,
        }
        root.set_owner_and_mode(to, meta.uid, meta.gid, meta.mode)?;
        root.set_mtime(to, meta.mtime)
    };
    match &found.kind {
        FoundKind::File { .. } => {
            let mut file = root.create_file(to, 0o600)?;
            io::copy(&mut tree.open_file(from).map_err(io::Error::other)?, &mut file)?;
            set_meta_of(&file, meta)?;
            set_mtime_of(&file, meta.mtime)
        }
        FoundKind::Symlink { target } => {
            root.symlink(target, to)?;
            let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else { return Ok(()) };
            let parent = root.open_exact(&parent, rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY, Mode::empty())?;
            let name = sys::fs::name(name);
            stand_in::set_owner_at(&parent, name, meta.uid, meta.gid)?;
            set_mtime_at(&parent, name, meta.mtime)
        }
        FoundKind::CharDevice { major, minor } => special(FileType::CharacterDevice, makedev(*major, *minor)),
        FoundKind::BlockDevice { major, minor } => special(FileType::BlockDevice, makedev(*major, *minor)),
        FoundKind::Fifo => special(FileType::Fifo, 0),
        FoundKind::Socket => special(FileType::Socket, 0),
        FoundKind::Dir => Ok(()),
    }
}
