//! What is common to all ways of finding changes: a list of what was seen, compared with what is below, as a canonical table.
//!
//! The table depends on two views alone, the one before and the one after, not on how the second came about: a directory that was removed and made anew with
//! the same files is no change. That is what makes an overlay and a copy give the same table.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use crate::digest::{Hasher, Sha256Digest};
use crate::error::SnapshotError;
use crate::layer::{stand_in, xattr};
use crate::path::TreePath;
use crate::root::RootDir;
use crate::snapshot::Owners;
use crate::stop::{StopSignal, Stoppable};
use crate::sys;
use crate::toc::{Meta, Node, Timestamp, Toc, TocEntry, Xattrs};
use crate::tree::{Child, Found, FoundKind, MergedTree, meta_of_stat};

use super::hash;

/// Files get their times from a clock that the kernel moves once a tick (1–10 ms): a file made right after `started` may seem older by that much.
const CLOCK_TICK_NANOS: i128 = 10_000_000;

/// What a step changed.
#[derive(Debug)]
pub struct Changes {
    /// The layer's table.
    pub toc: Toc,
    /// What was looked at but is not in the table, children before parents: it equals what is below.
    pub unchanged: Vec<TreePath>,
}

/// Something that may have changed.
struct Seen {
    path: TreePath,
    what: What,
    meta: Meta,
    /// Equal to what lower layers have, as far as it was compared.
    same: bool,
}

/// Most are files, so that they decide its size.
enum What {
    Node(Box<Node>),
    /// A regular file, one of the `inodes`.
    File(usize),
}

impl What {
    fn node(node: Node) -> Self {
        Self::Node(Box::new(node))
    }
}

/// A regular file, read once whatever its names.
struct Inode {
    /// Which of what was seen has its path.
    seen: usize,
    size: u64,
}

/// Takes what a walk sees.
pub(super) struct Collector<'a> {
    pub(super) root: RootDir,
    pub(super) lower: &'a MergedTree,
    started_nanos: i128,
    owners: &'a Owners,
    stop: StopSignal,
    seen: Vec<Seen>,
    inodes: Vec<Inode>,
    by_inode: HashMap<(u64, u64), usize>,
}

/// What one directory of the new view holds, beside what is recorded of it.
pub(super) struct DirSeen {
    /// It has overlay's mark that it hides what is below.
    pub(super) is_opaque: bool,
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

impl<'a> Collector<'a> {
    /// Compares the directory `dir` with `lower`. Times from `started` on are marked as made by the step.
    /// Fails once `stop` is set.
    pub(super) fn new(dir: &Path, lower: &'a MergedTree, started: Timestamp, owners: &'a Owners, stop: &StopSignal) -> Result<Self, SnapshotError> {
        let root = RootDir::open(dir).map_err(SnapshotError::io("open", dir.display()))?;
        let started_nanos = nanos(started) - CLOCK_TICK_NANOS;
        let stop = stop.clone();
        Ok(Self { root, lower, started_nanos, owners, stop, seen: Vec::new(), inodes: Vec::new(), by_inode: HashMap::new() })
    }

    /// Opens the directory at exactly `path`.
    pub(super) fn open_dir(&self, path: &TreePath) -> Result<std::os::fd::OwnedFd, SnapshotError> {
        self.stop.check().map_err(SnapshotError::io("read", path.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.root.open_exact(path, flags, Mode::empty()).map_err(SnapshotError::io("open", path.display()))
    }

    /// Records a directory, which is open.
    pub(super) fn directory(&mut self, path: &TreePath, dir: impl AsFd, stat: &Stat) -> Result<DirSeen, SnapshotError> {
        let opaque = sys::mount::marks().opaque;
        let read = || -> std::io::Result<(bool, Xattrs, stand_in::StandIn)> {
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
        let meant = stand_in.meant(meta_of_stat(stat));
        let same = match self.lower.lookup(path)? {
            Some(below) => below.kind == FoundKind::Dir && same_but_time(&meant, &xattrs, &below),
            // On nothing at all, an ordinary root is no change.
            None => path.is_root() && (meant.mode, meant.uid, meant.gid) == (0o755, 0, 0) && xattrs.is_empty(),
        };
        let meta = self.meta(meant, xattrs);
        self.seen.push(Seen { path: path.clone(), what: What::node(Node::Dir), meta, same });
        Ok(DirSeen { is_opaque })
    }

    fn meta(&self, meta: Meta, mut xattrs: Xattrs) -> Meta {
        xattrs.retain(|(name, _)| xattr::exported_from_run(name));
        Meta { made_by_step: nanos(meta.mtime) >= self.started_nanos, xattrs, ..meta }
    }

    /// Records that nothing is at `path`; whether something is below it is not asked.
    pub(super) fn removed(&mut self, path: TreePath) {
        self.seen.push(Seen { path, what: What::node(Node::Whiteout), meta: Meta::default(), same: false });
    }

    /// Records what is at `name` in `parent`, which is no directory.
    pub(super) fn not_a_directory(&mut self, parent: impl AsFd, name: &[u8], path: TreePath, stat: &Stat) -> Result<(), SnapshotError> {
        let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        let stand_in = stand_in::at(&parent, sys::fs::name(name), stat).map_err(SnapshotError::io("read attributes of", path.display()))?;
        let meant = self.owners.meant(&parent, sys::fs::name(name), stand_in.meant(meta_of_stat(stat)));
        let meta = self.meta(meant, Vec::new());
        let node = match sys::fs::file_type(stat) {
            // Before anything looks at inodes: overlay links all its whiteouts to one.
            _ if sys::fs::is_whiteout(stat) => {
                let same = matches!(self.lower.child_at(&path)?, Child::Missing);
                self.seen.push(Seen { path, what: What::node(Node::Whiteout), meta: Meta::default(), same });
                return Ok(());
            }
            FileType::RegularFile if stand_in.device.is_none() => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let inode = self.inode(stat, size);
                // Contents and attributes are compared when they are read.
                let same = self.below(&path, stat)?.is_some_and(|below| {
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
        let same = self.below(&path, stat)?.is_some_and(|below| same_node(&node, &below.kind) && same_stat(&meta, &below.meta));
        self.seen.push(Seen { path, what: What::node(node), meta, same });
        Ok(())
    }

    /// What is below at `path`, if it can be equal to something with this `stat`: a time that differs saves the rest of the look.
    fn below(&self, path: &TreePath, stat: &Stat) -> Result<Option<Found>, SnapshotError> {
        match self.lower.child_at(path)? {
            Child::Node(_, below) if sys::fs::mtime(&below) != sys::fs::mtime(stat) => Ok(None),
            Child::Missing | Child::Dir(..) => Ok(None),
            child => self.lower.found(path, child),
        }
    }

    /// The inode of the file that is recorded next.
    fn inode(&mut self, stat: &Stat, size: u64) -> usize {
        let new = self.inodes.len();
        if stat.st_nlink > 1 {
            let known = *self.by_inode.entry((stat.st_dev, stat.st_ino)).or_insert(new);
            if known != new {
                return known;
            }
        }
        self.inodes.push(Inode { seen: self.seen.len(), size });
        new
    }

    /// Records the directories above what was recorded, which a walk that looks only at what changed leaves out.
    pub(super) fn add_parents(&mut self) -> Result<(), SnapshotError> {
        let mut known: BTreeSet<TreePath> =
            self.seen.iter().filter(|seen| matches!(&seen.what, What::Node(node) if **node == Node::Dir)).map(|seen| seen.path.clone()).collect();
        let mut missing = Vec::new();
        for seen in &self.seen {
            let mut at = seen.path.parent();
            while let Some(dir) = at {
                if !known.insert(dir.clone()) {
                    break;
                }
                at = dir.parent();
                missing.push(dir);
            }
        }
        for path in missing {
            let dir = self.open_dir(&path)?;
            let stat = fs::fstat(&dir).map_err(|e| SnapshotError::io("read", path.display())(e.into()))?;
            self.directory(&path, &dir, &stat)?;
        }
        Ok(())
    }

    /// Reads the files, drops what equals what is below.
    pub(super) fn finish(mut self) -> Result<Changes, SnapshotError> {
        let files: Vec<(&TreePath, u64)> = self.inodes.iter().map(|inode| (&self.seen[inode.seen].path, inode.size)).collect();
        let reads = hash::read_all(self.root.as_fd(), &files, &self.stop)?;
        self.inodes = Vec::new();
        for seen in &mut self.seen {
            let What::File(inode) = seen.what else { continue };
            let read = &reads[inode];
            if seen.same {
                seen.same = self.lower.lookup(&seen.path)?.is_some_and(|below| below.meta.xattrs == read.xattrs)
                    && digest_below(self.lower, &seen.path, &self.stop)? == read.digest;
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

        // Where in the table an inode's first name is.
        let mut first_names: Vec<Option<u32>> = vec![None; reads.len()];
        let mut entries: Vec<TocEntry> = Vec::with_capacity(self.seen.len());
        for (seen, _) in self.seen.into_iter().zip(kept).filter(|(_, kept)| *kept) {
            let Seen { path, what, meta, .. } = seen;
            let (node, meta) = match what {
                What::Node(node) => (*node, meta),
                What::File(inode) => match first_names[inode].and_then(|first| usize::try_from(first).ok()) {
                    Some(first) => (Node::Hardlink { target: entries[first].path.clone() }, Meta::default()),
                    None => {
                        // A table of four thousand million entries does not fit into memory.
                        first_names[inode] = u32::try_from(entries.len()).ok();
                        (Node::File { size: reads[inode].size, digest: reads[inode].digest }, meta)
                    }
                },
            };
            entries.push(TocEntry { path, node, meta });
        }
        Ok(Changes { toc: Toc { entries }, unchanged })
    }
}

fn digest_below(lower: &MergedTree, path: &TreePath, stop: &StopSignal) -> Result<Sha256Digest, SnapshotError> {
    let file = Stoppable::new(lower.open_file(path)?, stop.clone());
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
