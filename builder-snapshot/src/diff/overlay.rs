//! The table of an overlay's upper directory.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};

use crate::digest::{Hasher, Sha256Digest};
use crate::error::SnapshotError;
use crate::layer::stand_in::{self, StandIn};
use crate::layer::xattr;
use crate::path::TreePath;
use crate::root::RootDir;
use crate::sys;
use crate::toc::{Meta, Node, Timestamp, Toc, TocEntry, Xattrs};
use crate::tree::{Child, Found, FoundKind, MergedTree, meta_of_stat};

use super::{hash, opaque_whiteouts};

/// Files get their times from a clock that the kernel moves once a tick (1–10 ms): a file made right after `started` may seem older by that much.
const CLOCK_TICK_NANOS: i128 = 10_000_000;

/// What [`upper_changes`] found.
#[derive(Debug)]
pub struct Changes {
    /// The layer's table.
    pub toc: Toc,
    /// What stands in the upper directory but is not in the table, children before parents: it equals what is below and can be removed.
    pub unchanged: Vec<TreePath>,
}

/// Something found in the upper directory.
struct Seen {
    path: TreePath,
    what: What,
    meta: Meta,
    /// Equal to what lower layers have, as far as it was compared.
    same: bool,
}

enum What {
    Node(Node),
    /// A regular file, one of the `inodes`.
    File(usize),
}

/// A regular file, read once whatever its names.
struct Inode {
    path: TreePath,
    size: u64,
}

/// Compares the upper directory of an overlay on `lower` with what is below it. Times from `started` on are marked as made by the step.
///
/// # Errors
/// Reading fails; a path is too long to be kept.
pub fn upper_changes(upper: &Path, lower: &MergedTree, started: Timestamp) -> Result<Changes, SnapshotError> {
    let root = RootDir::open(upper).map_err(SnapshotError::io("open", upper.display()))?;
    let mut walk =
        Walk { root, lower, started_nanos: nanos(started) - CLOCK_TICK_NANOS, seen: Vec::new(), inodes: Vec::new(), by_inode: HashMap::new() };
    walk.directory_itself(TreePath::root())?;
    let mut pending = vec![(TreePath::root(), false)];
    while let Some((dir, hides_lower)) = pending.pop() {
        walk.directory(&dir, hides_lower, &mut pending)?;
    }
    walk.finish()
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

struct Walk<'a> {
    root: RootDir,
    lower: &'a MergedTree,
    started_nanos: i128,
    seen: Vec<Seen>,
    inodes: Vec<Inode>,
    by_inode: HashMap<(u64, u64), usize>,
}

impl Walk<'_> {
    /// Records the root directory; other directories are recorded with their names.
    fn directory_itself(&mut self, path: TreePath) -> Result<(), SnapshotError> {
        let stat = fs::fstat(&self.root).map_err(|e| SnapshotError::io("read", path.display())(e.into()))?;
        let dir = self.root.as_fd().try_clone_to_owned().map_err(SnapshotError::io("open", path.display()))?;
        let read = || Ok((xattr::read(&dir)?, stand_in::of(&dir, &stat)?));
        let (xattrs, stand_in) = read().map_err(SnapshotError::io("read attributes of", path.display()))?;
        let below = self.lower.lookup(&path)?;
        let meant = stand_in.meant(meta_of_stat(&stat));
        // On nothing at all, an ordinary root is no change.
        let ordinary = (meant.mode, meant.uid, meant.gid) == (0o755, 0, 0) && xattrs.is_empty();
        let same = below.map_or(ordinary, |below| same_but_time(&meant, &xattrs, &below));
        self.record_dir(path, meant, xattrs, same);
        Ok(())
    }

    fn record_dir(&mut self, path: TreePath, meta: Meta, xattrs: Xattrs, same: bool) {
        let meta = self.meta(meta, xattrs);
        self.seen.push(Seen { path, what: What::Node(Node::Dir), meta, same });
    }

    fn meta(&self, meta: Meta, mut xattrs: Xattrs) -> Meta {
        xattrs.retain(|(name, _)| xattr::exported_from_run(name));
        Meta { made_by_step: nanos(meta.mtime) >= self.started_nanos, xattrs, ..meta }
    }

    /// Records everything in a directory; its subdirectories go to `pending`.
    fn directory(&mut self, path: &TreePath, hidden: bool, pending: &mut Vec<(TreePath, bool)>) -> Result<(), SnapshotError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = self.root.open_exact(path, flags, Mode::empty()).map_err(SnapshotError::io("open", path.display()))?;
        let mut names: BTreeSet<Box<[u8]>> = BTreeSet::new();
        sys::fs::for_each_name(&dir, |name, _| {
            names.insert(name.into());
            Ok(())
        })
        .map_err(SnapshotError::io("list", path.display()))?;
        for name in &names {
            let child_bytes = path.as_bytes().len() + 1 + name.len();
            if child_bytes > crate::path::MAX_PATH_BYTES {
                return Err(crate::path::PathError::TooLong(child_bytes).into());
            }
            let child = path.child(name);
            let stat = sys::fs::stat_at(&dir, sys::fs::name(name)).map_err(SnapshotError::io("read", child.display()))?;
            let Some(stat) = stat else { continue };
            if sys::fs::file_type(&stat) == FileType::Directory {
                self.subdirectory(&dir, name, child, &stat, hidden, pending)?;
            } else {
                self.not_a_directory(&dir, name, child, &stat, hidden)?;
            }
        }
        if hidden {
            let mut whiteouts = Vec::new();
            // Only this directory's own names: those below have their turn.
            opaque_whiteouts(
                self.lower,
                path,
                &mut |child| child.file_name().is_some_and(|name| names.contains(name)).then_some(false),
                &mut whiteouts,
            )?;
            self.seen.extend(whiteouts.into_iter().map(whiteout));
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        parent: impl AsFd,
        name: &[u8],
        path: TreePath,
        stat: &Stat,
        parent_hidden: bool,
        pending: &mut Vec<(TreePath, bool)>,
    ) -> Result<(), SnapshotError> {
        let opaque = sys::mount::marks().opaque;
        let read = || -> std::io::Result<(bool, Xattrs, StandIn)> {
            let dir = sys::fs::open_beneath(parent, sys::fs::name(name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let mut is_opaque = false;
            let mut xattrs = Vec::new();
            for name in sys::fs::list_xattrs(&dir)? {
                if *name == *opaque {
                    is_opaque = sys::fs::get_xattr(&dir, opaque)?.as_deref() == Some(b"y");
                } else if let Some(meant) = xattr::meant(&name)
                    && let Some(value) = sys::fs::get_xattr(&dir, &name)?
                {
                    xattrs.push((meant, value));
                }
            }
            xattrs.sort();
            Ok((is_opaque, xattrs, stand_in::of(&dir, stat)?))
        };
        let (is_opaque, xattrs, stand_in) = read().map_err(SnapshotError::io("read", path.display()))?;
        let hidden = parent_hidden || is_opaque;
        let meant = stand_in.meant(meta_of_stat(stat));
        // An opaque directory is never dropped: on disk it hides something, or may.
        let same = !hidden && self.lower.lookup(&path)?.is_some_and(|below| below.kind == FoundKind::Dir && same_but_time(&meant, &xattrs, &below));
        pending.push((path.clone(), hidden));
        self.record_dir(path, meant, xattrs, same);
        Ok(())
    }

    fn not_a_directory(&mut self, parent: impl AsFd, name: &[u8], path: TreePath, stat: &Stat, hidden: bool) -> Result<(), SnapshotError> {
        let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        let stand_in = stand_in::at(&parent, sys::fs::name(name), stat).map_err(SnapshotError::io("read attributes of", path.display()))?;
        let meta = self.meta(stand_in.meant(meta_of_stat(stat)), Vec::new());
        let node = match sys::fs::file_type(stat) {
            // Before anything looks at inodes: overlay links all its whiteouts to one.
            _ if sys::fs::is_whiteout(stat) => {
                let same = matches!(self.lower.child_at(&path)?, Child::Missing);
                self.seen.push(Seen { same, ..whiteout(path) });
                return Ok(());
            }
            FileType::RegularFile if stand_in.device.is_none() => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let inode = self.inode(&path, stat, size);
                // Contents and attributes are compared when they are read.
                let same = !hidden
                    && self.lower.lookup(&path)?.is_some_and(|below| {
                        matches!(below.kind, FoundKind::File { size: below_size, .. } if below_size == size) && same_stat(&meta, &below.meta)
                    });
                self.seen.push(Seen { path, what: What::File(inode), meta, same });
                return Ok(());
            }
            FileType::Symlink => {
                let target = fs::readlinkat(parent, sys::fs::name(name), Vec::new());
                let target = target.map_err(|e| SnapshotError::io("read link", path.display())(e.into()))?.into_bytes();
                Node::Symlink { target: target.into() }
            }
            FileType::RegularFile => stand_in.device.map_or(Node::Socket, Node::from),
            FileType::CharacterDevice => Node::CharDevice { major, minor },
            FileType::BlockDevice => Node::BlockDevice { major, minor },
            FileType::Fifo => Node::Fifo,
            FileType::Socket | FileType::Directory | FileType::Unknown => Node::Socket,
        };
        let same = !hidden && self.lower.lookup(&path)?.is_some_and(|below| same_node(&node, &below.kind) && same_stat(&meta, &below.meta));
        self.seen.push(Seen { path, what: What::Node(node), meta, same });
        Ok(())
    }

    fn inode(&mut self, path: &TreePath, stat: &Stat, size: u64) -> usize {
        let new = self.inodes.len();
        if stat.st_nlink > 1 {
            let known = *self.by_inode.entry((stat.st_dev, stat.st_ino)).or_insert(new);
            if known != new {
                return known;
            }
        }
        self.inodes.push(Inode { path: path.clone(), size });
        new
    }

    fn finish(mut self) -> Result<Changes, SnapshotError> {
        let files: Vec<(&TreePath, u64)> = self.inodes.iter().map(|inode| (&inode.path, inode.size)).collect();
        let reads = hash::read_all(self.root.as_fd(), &files)?;
        for seen in &mut self.seen {
            let What::File(inode) = seen.what else { continue };
            let read = &reads[inode];
            if seen.same {
                seen.same = self.lower.lookup(&seen.path)?.is_some_and(|below| below.meta.xattrs == read.xattrs)
                    && digest_below(self.lower, &seen.path)? == read.digest;
            }
            seen.meta.xattrs = read.xattrs.iter().filter(|(name, _)| xattr::exported_from_run(name)).cloned().collect();
        }
        self.seen.sort_by(|a, b| a.path.cmp(&b.path));

        // Children first: a directory stays if it changed or something in it did.
        let mut kept = vec![true; self.seen.len()];
        let mut needed: Option<TreePath> = None;
        let mut unchanged = Vec::new();
        for (i, seen) in self.seen.iter().enumerate().rev() {
            if seen.same && needed.as_ref() != Some(&seen.path) {
                kept[i] = false;
                // The root is no name in anything, and nothing has to be removed for it.
                if !seen.path.is_root() {
                    unchanged.push(seen.path.clone());
                }
            } else {
                needed = seen.path.parent();
            }
        }

        let mut first_names: Vec<Option<TreePath>> = vec![None; reads.len()];
        let mut entries = Vec::with_capacity(self.seen.len());
        for (seen, _) in self.seen.into_iter().zip(kept).filter(|(_, kept)| *kept) {
            let Seen { path, what, meta, .. } = seen;
            let (node, meta) = match what {
                What::Node(node) => (node, meta),
                What::File(inode) => match &first_names[inode] {
                    Some(target) => (Node::Hardlink { target: target.clone() }, Meta::default()),
                    None => {
                        first_names[inode] = Some(path.clone());
                        (Node::File { size: reads[inode].size, digest: reads[inode].digest }, meta)
                    }
                },
            };
            entries.push(TocEntry { path, node, meta });
        }
        Ok(Changes { toc: Toc { entries }, unchanged })
    }
}

fn whiteout(path: TreePath) -> Seen {
    Seen { path, what: What::Node(Node::Whiteout), meta: Meta::default(), same: false }
}

/// Removes from the upper directory what is equal to what is below it, so that the layer's directory and its table say the same.
pub(crate) fn remove_unchanged(upper: &Path, unchanged: &[TreePath]) -> Result<(), SnapshotError> {
    if unchanged.is_empty() {
        return Ok(());
    }
    let mut dirs = crate::snapshot::OpenDirs::new(sys::fs::open_dir(upper).map_err(SnapshotError::io("open", upper.display()))?);
    for path in unchanged {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        dirs.forget(path);
        let remove = |fd: std::os::fd::BorrowedFd<'_>| match fs::unlinkat(fd, sys::fs::name(name), AtFlags::empty()) {
            Err(rustix::io::Errno::ISDIR) => Ok(fs::unlinkat(fd, sys::fs::name(name), AtFlags::REMOVEDIR)?),
            result => Ok(result?),
        };
        dirs.get(&parent).and_then(remove).map_err(SnapshotError::io("remove", path.display()))?;
    }
    Ok(())
}

fn digest_below(lower: &MergedTree, path: &TreePath) -> Result<Sha256Digest, SnapshotError> {
    let file = lower.open_file(path)?;
    Ok(Hasher::of_reader(file).map_err(SnapshotError::io("read", path.display()))?.0)
}

fn same_stat(meta: &Meta, below: &Meta) -> bool {
    (meta.mode, meta.uid, meta.gid, meta.mtime) == (below.mode, below.uid, below.gid, below.mtime)
}

fn same_but_time(meta: &Meta, xattrs: &Xattrs, below: &Found) -> bool {
    (meta.mode, meta.uid, meta.gid) == (below.meta.mode, below.meta.uid, below.meta.gid) && *xattrs == below.meta.xattrs
}

fn same_node(node: &Node, below: &FoundKind) -> bool {
    match (node, below) {
        (Node::Symlink { target }, FoundKind::Symlink { target: below }) => target == below,
        (Node::CharDevice { major, minor }, FoundKind::CharDevice { major: a, minor: b })
        | (Node::BlockDevice { major, minor }, FoundKind::BlockDevice { major: a, minor: b }) => (major, minor) == (a, b),
        (Node::Fifo, FoundKind::Fifo) | (Node::Socket, FoundKind::Socket) => true,
        _ => false,
    }
}
