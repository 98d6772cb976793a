//! Root file systems as directories of the invoking user and as tars (`features.md` D5).
//!
//! # Invariants
//! - Nothing is written outside the destination: every step down is one component, through a descriptor, following no link. What lies in
//!   the destination already may be hostile (an earlier image's links), and so may the image.
//! - A directory of the user is never removed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder_snapshot::layer::{self, TimePolicy};
use builder_snapshot::toc::{Meta, Node, Timestamp, Toc, TocEntry};
use builder_snapshot::{StopSignal, TreePath};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::tree::ImageTree;
use super::{ExportError, blocking, write_file, write_stdout};
use crate::content::Store;
use crate::image::FinalImage;
use crate::oci::Platform;
use crate::request::{Output, OutputDest};
use crate::source::image::{ImageSources, Progress};
use crate::tripwire::{Found, Tripwire, Watched};
use crate::whole_file::WholeFile;

/// Writes each image's tree into a directory.
pub(super) async fn local(
    output: &Output,
    images: &[FinalImage],
    epoch: Option<i64>,
    tripwire: Option<&Arc<Tripwire>>,
    store: &Arc<Store>,
    sources: &ImageSources,
    progress: &dyn Progress,
) -> Result<(), ExportError> {
    let OutputDest::Path(dest) = &output.dest else { return Ok(()) };
    let split = output.platform_split.unwrap_or(images.len() > 1);
    let trees = trees(images, epoch, tripwire, store, sources, progress).await?;
    if !split {
        conflicts(&trees)?;
    }
    progress.status("copying files", 0, 0, false);
    let dest = dest.clone();
    let written = blocking(sources, move |stop| {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dest).map_err(ExportError::io("make directory", &dest))?;
        let mut bytes = 0;
        for (platform, tree) in &trees {
            let dest = if split { dest.join(directory_of(platform)) } else { dest.clone() };
            if split {
                match fs::DirBuilder::new().mode(0o755).create(&dest) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(ExportError::io("make directory", &dest)(e)),
                    _ => {}
                }
            }
            bytes += Writer::open(&dest, stop)?.write(tree)?;
        }
        Ok(bytes)
    })
    .await?;
    progress.status("copying files", written, written, true);
    Ok(())
}

/// Writes one tar with all images' trees.
pub(super) async fn tar(
    output: &Output,
    images: &[FinalImage],
    epoch: Option<i64>,
    tripwire: Option<&Arc<Tripwire>>,
    store: &Arc<Store>,
    sources: &ImageSources,
    progress: &dyn Progress,
) -> Result<(), ExportError> {
    let split = output.platform_split.unwrap_or(images.len() > 1);
    let trees = trees(images, epoch, tripwire, store, sources, progress).await?;
    if !split {
        conflicts(&trees)?;
    }
    progress.status("sending tarball", 0, 0, false);
    let dest = output.dest.clone();
    blocking(sources, move |stop| match dest {
        OutputDest::Path(path) => write_file(&path, stop, |out| write_trees(&trees, split, out)),
        OutputDest::Stdout => write_stdout(stop, |out| write_trees(&trees, split, out)),
        // Neither takes a file tree: `check` has refused them.
        OutputDest::Engine(_) | OutputDest::None => Ok(()),
    })
    .await?;
    progress.status("sending tarball", 0, 0, true);
    Ok(())
}

/// How much of a file is copied before it is asked whether the rest is wanted.
const COPY_BYTES: u64 = 16 << 20;

type Trees = Vec<(Platform, ImageTree)>;

async fn trees(
    images: &[FinalImage],
    epoch: Option<i64>,
    tripwire: Option<&Arc<Tripwire>>,
    store: &Arc<Store>,
    sources: &ImageSources,
    progress: &dyn Progress,
) -> Result<Trees, ExportError> {
    let mut trees = Vec::with_capacity(images.len());
    for image in images {
        let dirs = sources.ensure_layers(&image.stack, progress).await?;
        let (store, stack, tripwire) = (Arc::clone(store), image.stack.clone(), tripwire.cloned());
        let tree = blocking(sources, move |_| {
            let mut tree = ImageTree::open(&stack, &dirs, &store)?;
            if let Some(tripwire) = tripwire {
                search(&tree, &tripwire)?;
            }
            if let Some(seconds) = epoch {
                for entry in &mut tree.toc.entries {
                    entry.meta.mtime = Timestamp { seconds, nanos: 0 };
                    entry.meta.made_by_step = false;
                }
            }
            Ok(tree)
        })
        .await?;
        trees.push((image.platform.clone(), tree));
    }
    Ok(trees)
}

/// Searches what steps of rbuild left in the tree for secrets: names, targets of links, contents.
fn search(tree: &ImageTree, tripwire: &Tripwire) -> Result<(), ExportError> {
    for entry in tree.made_here() {
        let place = || format!("file {}", entry.path.display());
        let in_link = match &entry.node {
            Node::Symlink { target } => tripwire.find(target),
            _ => None,
        };
        let mut found = tripwire.find(entry.path.as_bytes()).or(in_link);
        if matches!(entry.node, Node::File { .. }) && found.is_none() {
            let mut watched = Watched::new(Some(tripwire), io::sink());
            let mut file = tree.open_file(&entry.path).map_err(ExportError::io("open the layer's file of", entry.path.as_path()))?;
            let copied = io::copy(&mut file, &mut watched);
            found = watched.finish();
            if found.is_none() {
                copied.map_err(ExportError::io("read the layer's file of", entry.path.as_path()))?;
            }
        }
        if let Some(Found { id, form, .. }) = found {
            return Err(ExportError::Secret { id, form, place: place() });
        }
    }
    Ok(())
}

/// `linux_arm_v7`.
fn directory_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// Refuses trees of several platforms that want different things at one path.
fn conflicts(trees: &Trees) -> Result<(), ExportError> {
    let [(_, first), rest @ ..] = &trees[..] else { return Ok(()) };
    for (platform, tree) in rest {
        for entry in &tree.toc.entries {
            let Some(other) = first.toc.get(&entry.path) else { continue };
            if other.node != entry.node {
                let path = entry.path.display();
                return Err(ExportError::Request(format!(
                    "{path} differs between platforms ({platform}): leave out platform-split=false, or build one platform at a time"
                )));
            }
        }
    }
    Ok(())
}

/// All trees as one tar, each below a directory of its own if they are split.
fn write_trees(trees: &Trees, split: bool, out: &mut dyn Write) -> Result<(), ExportError> {
    let prefixes: Vec<TreePath> =
        trees.iter().map(|(platform, _)| if split { TreePath::root().child(directory_of(platform).as_bytes()) } else { TreePath::root() }).collect();
    let mut table = Toc::default();
    for ((_, tree), prefix) in trees.iter().zip(&prefixes) {
        table.entries.extend(prefixed(&tree.toc, prefix).entries);
    }
    table.entries.sort_by(|a, b| a.path.cmp(&b.path));
    table.entries.dedup_by(|a, b| a.path == b.path);
    let mut open = |path: &TreePath| {
        let found = trees.iter().zip(&prefixes).find_map(|((_, tree), prefix)| {
            let below = path.below(prefix)?;
            tree.toc.get(&below).is_some().then(|| tree.open_file(&below))
        });
        found.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    };
    Ok(layer::write_tar_of(&table, &mut open, TimePolicy::Keep, out)?)
}

/// Writes a tree below a directory.
struct Writer {
    path: PathBuf,
    root: OwnedFd,
    /// Directories from the root down to where the last entry was.
    stack: Vec<(TreePath, OwnedFd)>,
    stop: StopSignal,
}

impl Writer {
    fn open(path: &Path, stop: &StopSignal) -> Result<Self, ExportError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| ExportError::io("open directory", path)(e.into()))?;
        Ok(Self { path: path.to_path_buf(), root, stack: Vec::new(), stop: stop.clone() })
    }

    fn failed(&self, action: &'static str, path: &TreePath) -> impl FnOnce(Errno) -> ExportError {
        let path = self.path.join(path.as_path());
        move |errno| ExportError::Io { action, path, source: errno.into() }
    }

    /// Writes all entries; modes and times of directories last, because writing into them needs one and changes the other.
    fn write(mut self, tree: &ImageTree) -> Result<u64, ExportError> {
        let mut bytes = 0;
        for entry in &tree.toc.entries {
            bytes += self.entry(entry, tree)?;
        }
        for entry in tree.toc.entries.iter().rev() {
            // The destination itself is the user's.
            if matches!(entry.node, Node::Dir) && !entry.path.is_root() {
                self.finish_directory(entry)?;
            }
        }
        Ok(bytes)
    }

    /// The directory that holds `path`.
    fn parent_of(&mut self, path: &TreePath) -> Result<&OwnedFd, ExportError> {
        let parent = path.parent().unwrap_or_default();
        while self.stack.last().is_some_and(|(at, _)| parent.below(at).is_none()) {
            self.stack.pop();
        }
        let mut at = self.stack.last().map_or_else(TreePath::root, |(at, _)| at.clone());
        let rest = parent.below(&at).unwrap_or_default();
        for name in rest.components() {
            let next = at.child(name);
            let dir = self.stack.last().map_or(&self.root, |(_, dir)| dir);
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(self.failed("open directory", &next))?;
            self.stack.push((next.clone(), fd));
            at = next;
        }
        Ok(self.stack.last().map_or(&self.root, |(_, dir)| dir))
    }

    fn entry(&mut self, entry: &TocEntry, tree: &ImageTree) -> Result<u64, ExportError> {
        let Some(name) = entry.path.file_name() else { return Ok(0) };
        let shown = self.path.join(entry.path.as_path());
        let parent = rustix::io::dup(self.parent_of(&entry.path)?).map_err(self.failed("open directory", &entry.path))?;
        let failed = |action| self.failed(action, &entry.path);
        if matches!(entry.node, Node::Dir) {
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => return Ok(0),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("make directory")(errno)),
            }
            let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at"))?;
            if FileType::from_raw_mode(there.st_mode).is_dir() {
                return Ok(0);
            }
            rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed("remove"))?;
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(failed("make directory"))?;
            return Ok(0);
        }
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                return Err(ExportError::InTheWay { path: shown, reason: "a directory is there, the image has something else: remove it".into() });
            }
            Err(errno) => return Err(failed("replace")(errno)),
        }
        match &entry.node {
            Node::File { size, .. } => {
                let name = OsStr::from_bytes(name);
                let to = WholeFile::create(parent.as_fd(), name, 0o600).map_err(ExportError::io("make", &shown))?;
                let from = tree.open_file(&entry.path).map_err(ExportError::io("open the layer's file of", &shown))?;
                let copied = copy(&from, to.file(), &self.stop).map_err(ExportError::io("write", &shown))?;
                if copied != *size {
                    return Err(ExportError::Internal(format!("{shown:?} has {copied} bytes, its layer's table says {size}")));
                }
                rustix::fs::fchmod(to.file(), Mode::from_raw_mode(entry.meta.mode)).map_err(failed("change the mode of"))?;
                rustix::fs::futimens(to.file(), &times(&entry.meta)).map_err(failed("set the time of"))?;
                to.publish(name).map_err(ExportError::io("put the finished file at", &shown))?;
                return Ok(copied);
            }
            Node::Hardlink { target } => self.hard_link(target, parent.as_fd(), &entry.path, name)?,
            Node::Symlink { target } => {
                rustix::fs::symlinkat(&target[..], &parent, name).map_err(failed("make link"))?;
                rustix::fs::utimensat(&parent, name, &times(&entry.meta), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time of"))?;
            }
            Node::Fifo => self.special(&parent, entry, name, FileType::Fifo, 0)?,
            Node::CharDevice { major, minor } => {
                self.special(&parent, entry, name, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))?;
            }
            Node::BlockDevice { major, minor } => {
                self.special(&parent, entry, name, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))?;
            }
            // Sockets are of their process; a merged table has no whiteouts.
            Node::Socket | Node::Whiteout | Node::Dir => {}
        }
        Ok(0)
    }

    fn hard_link(&mut self, target: &TreePath, parent: std::os::fd::BorrowedFd<'_>, path: &TreePath, name: &[u8]) -> Result<(), ExportError> {
        let old_name = target.file_name().unwrap_or_default().to_vec();
        let old = rustix::io::dup(self.parent_of(target)?).map_err(self.failed("open directory", target))?;
        rustix::fs::linkat(&old, &old_name[..], parent, name, AtFlags::empty()).map_err(self.failed("link", path))
    }

    fn special(&self, parent: &OwnedFd, entry: &TocEntry, name: &[u8], kind: FileType, device: u64) -> Result<(), ExportError> {
        match rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(entry.meta.mode), device) {
            Ok(()) => {}
            // Who may not make devices gets the tree without them, as from other builders.
            Err(Errno::PERM) => {
                tracing::warn!(path = %entry.path.display(), "left out a device: making one needs privileges");
                return Ok(());
            }
            Err(errno) => return Err(self.failed("make", &entry.path)(errno)),
        }
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.meta.mode), AtFlags::empty())
            .map_err(self.failed("change the mode of", &entry.path))?;
        rustix::fs::utimensat(parent, name, &times(&entry.meta), AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("set the time of", &entry.path))
    }

    fn finish_directory(&mut self, entry: &TocEntry) -> Result<(), ExportError> {
        let name = entry.path.file_name().unwrap_or_default().to_vec();
        let parent = rustix::io::dup(self.parent_of(&entry.path)?).map_err(self.failed("open directory", &entry.path))?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&parent, &name[..], flags, Mode::empty()).map_err(self.failed("open directory", &entry.path))?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(entry.meta.mode)).map_err(self.failed("change the mode of", &entry.path))?;
        rustix::fs::futimens(&dir, &times(&entry.meta)).map_err(self.failed("set the time of", &entry.path))
    }
}

/// Copies a file by pieces, so that it can be stopped; the kernel does the copying.
fn copy(mut from: &File, mut to: &File, stop: &StopSignal) -> io::Result<u64> {
    let mut size = 0;
    loop {
        stop.check()?;
        match io::copy(&mut (&mut from).take(COPY_BYTES), &mut to)? {
            0 => return Ok(size),
            copied => size += copied,
        }
    }
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The table of one tree below `prefix`.
fn prefixed(toc: &Toc, prefix: &TreePath) -> Toc {
    let moved = |path: &TreePath| prefix.join(path);
    let entries = toc.entries.iter().map(|entry| TocEntry {
        path: moved(&entry.path),
        node: match &entry.node {
            Node::Hardlink { target } => Node::Hardlink { target: moved(target) },
            node => node.clone(),
        },
        meta: entry.meta.clone(),
    });
    Toc { entries: entries.collect() }
}
