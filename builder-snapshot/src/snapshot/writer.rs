//! File operations on the top layer of a stack, without a mount.
//!
//! A writer owns a fresh upper directory. Whatever it does there it records in the layer's table, so that nothing has to be read again:
//! what the table says is what is on disk. The merged view ([`TreeWriter::tree`]) is read from disk and always up to date.
//!
//! # Invariants
//!
//! - Every call goes through a descriptor of the parent directory, opened beneath the upper directory without following links.
//! - Lower layers are never written to: what has to change is copied up, removals are whiteouts, replaced directories are opaque.
//! - Directories get their recorded times last, in [`TreeWriter::finish`]: putting something into them would change them again.
//!
//! What a writer does not do: follow links in paths (resolve them first), glob, decide who owns what.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::diff::opaque_whiteouts;
use crate::digest::{Hasher, Sha256Digest};
use crate::error::SnapshotError;
use crate::layer::{stand_in, xattr};
use crate::path::TreePath;
use crate::root::{replace_meta_of, set_meta_of, set_mtime_at, set_mtime_of};
use crate::stop::StopSignal;
use crate::sys;
use crate::toc::{Meta, Node, Toc, Xattrs};
use crate::tree::{Child, FoundKind, MergedTree, meta_of_stat};

use super::dirs::OpenDirs;
use super::table::{FileId, Slot, Table};

/// Bytes read, hashed and written at a time.
const PIECE_BYTES: usize = 128 << 10;
/// Zeros that are worth a hole.
const HOLE_BYTES: usize = 64 << 10;

/// What a file is to hold.
pub enum FileContent<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Everything the reader has.
    Reader(&'a mut dyn Read),
    /// A copy of an open file, from its start; if a digest is expected, another one is an error.
    CopyOf {
        /// The file.
        file: &'a File,
        /// Its digest when it was looked at.
        expected: Option<Sha256Digest>,
    },
}

/// The directory of a committed layer whose files are to get further names.
#[derive(Debug)]
pub struct LinkSource {
    fs: PathBuf,
    dirs: OpenDirs,
}

impl LinkSource {
    /// Opens the layer's directory `fs`.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn open(fs: &Path) -> Result<Self, SnapshotError> {
        let dir = sys::fs::open_dir(fs).map_err(SnapshotError::io("open layer", fs.display()))?;
        Ok(Self { fs: fs.to_path_buf(), dirs: OpenDirs::new(dir) })
    }

    /// Whether the file at `path` has attributes of exactly these names, of those that belong to a tree: a process may have set some that its
    /// layer's table leaves out.
    fn has_only(&self, path: &TreePath, xattrs: &Xattrs) -> bool {
        let mut list = [0_u8; 512];
        // One call by the whole path instead of opening, listing and closing. The layer is frozen, so that no link lies on the way.
        let names = match fs::llistxattr(self.fs.join(path.as_path()), &mut list) {
            Ok(n) => &list[..n],
            Err(Errno::OPNOTSUPP) => &[],
            Err(_) => return false,
        };
        let meant = |name| if name == stand_in::CAPABILITY { xattr::CAPABILITY } else { name };
        let found = names.split(|&b| b == 0).map(meant).filter(|name| xattr::belongs(name));
        found.clone().count() == xattrs.len() && found.into_iter().all(|name| xattrs.iter().any(|(listed, _)| **listed == *name))
    }
}

/// A regular file as a layer's table has it.
#[derive(Debug, Clone, Copy)]
pub struct ListedFile<'a> {
    /// Where it is in its layer.
    pub path: &'a TreePath,
    /// Its size.
    pub size: u64,
    /// Its digest.
    pub digest: Sha256Digest,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Block device, else character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl From<Device> for Node {
    fn from(Device { block, major, minor }: Device) -> Self {
        if block { Self::BlockDevice { major, minor } } else { Self::CharDevice { major, minor } }
    }
}

/// Writes to the top layer of a stack with the merged view, recording the layer's table on the way.
///
/// Paths are exact: a symbolic link in the middle is an error ([`MergedTree::resolve`] first). Parents must exist in the merged view; those
/// of lower layers are copied up, as overlay does, and keep their times. Everything that puts something replaces what is there, except that a
/// directory over a directory keeps what is in it. Of attributes only `security.capability` and `user.*` are taken.
#[derive(Debug)]
pub struct TreeWriter {
    /// With the upper directory on top.
    tree: MergedTree,
    lower: MergedTree,
    dirs: OpenDirs,
    table: Table,
    /// Directories that hide what lower layers have in them.
    opaque: BTreeSet<TreePath>,
    /// Inodes of committed layers that this layer links to, by device.
    linked: HashMap<u64, HashSet<u64>>,
    /// Whether the root directory itself was changed.
    root_changed: bool,
    piece: Box<[u8]>,
    stop: StopSignal,
}

impl TreeWriter {
    /// A writer into the empty directory `upper` on top of `lower`.
    pub(crate) fn new(upper: &Path, lower: MergedTree) -> Result<Self, SnapshotError> {
        let fd = sys::fs::open_dir(upper).map_err(SnapshotError::io("open", upper.display()))?;
        let mut is_empty = true;
        sys::fs::for_each_name(&fd, |_, _| {
            is_empty = false;
            Ok(())
        })
        .map_err(SnapshotError::io("list", upper.display()))?;
        if !is_empty {
            return Err(SnapshotError::NotFresh { path: upper.display().to_string() });
        }
        let stat = fs::fstat(&fd).map_err(|e| SnapshotError::io("read", upper.display())(e.into()))?;
        let read = || Ok((xattr::read(&fd)?, stand_in::of(&fd, &stat)?));
        let (xattrs, stand_in) = read().map_err(SnapshotError::io("read attributes of", upper.display()))?;
        let mut table = Table::default();
        table.put(TreePath::root(), Node::Dir, stand_in.meant(Meta { xattrs, ..meta_of_stat(&stat) }));
        Ok(Self {
            tree: lower.with_top(upper)?,
            lower,
            dirs: OpenDirs::new(fd),
            table,
            opaque: BTreeSet::new(),
            linked: HashMap::new(),
            root_changed: false,
            piece: vec![0; PIECE_BYTES].into(),
            stop: StopSignal::default(),
        })
    }

    /// From now on writing fails soon after `stop` is set, also in the middle of a file.
    pub fn stop_when(&mut self, stop: StopSignal) {
        self.stop = stop;
    }

    /// The merged view, what was written included.
    #[must_use]
    pub fn tree(&self) -> &MergedTree {
        &self.tree
    }

    /// Whether `path` is in this layer (not only below it).
    pub(crate) fn has_written(&self, path: &TreePath) -> bool {
        self.table.get(path).is_some()
    }

    pub(crate) fn has_written_dir(&self, path: &TreePath) -> bool {
        self.table.is_dir(path)
    }

    /// The directory, which the merged tree has, is in this layer from now on.
    pub(crate) fn take_up_dir(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        self.ensure_dir(path)
    }

    /// What was done to the root directory until now is no change of the layer's.
    pub(crate) fn forget_root_change(&mut self) {
        self.root_changed = false;
    }

    /// Makes a directory, or gives the one that is there this metadata.
    ///
    /// # Errors
    /// The parent is missing or no directory.
    pub fn make_dir(&mut self, path: &TreePath, meta: &Meta) -> Result<(), SnapshotError> {
        if self.table.is_dir(path) {
            return self.set_meta(path, meta);
        }
        let replaces = self.make_way(path)?;
        self.place_dir(path, meta)?;
        // What stood here hid the lower directory. The new one must go on hiding it, else the old content would shine through.
        if replaces && matches!(self.lower.child_at(path)?, Child::Dir(..)) {
            self.set_opaque(path)?;
        }
        Ok(())
    }

    fn place_dir(&mut self, path: &TreePath, meta: &Meta) -> Result<(), SnapshotError> {
        let meta = cleaned(meta);
        self.at_parent(path, "make directory", |parent, name| {
            // Whatever the mode is to be, it is opened before it gets it.
            fs::mkdirat(parent, name, Mode::from_raw_mode(meta.mode & 0o777 | 0o700))?;
            let dir = sys::fs::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            set_meta_of(&dir, &meta)
        })?;
        self.tree.forget(path);
        self.table.put(path.clone(), Node::Dir, meta);
        Ok(())
    }

    /// Makes the directory and its missing ancestors, each with this metadata; those that exist stay as they are. Returns what was made, topmost first.
    ///
    /// # Errors
    /// Something that is no directory is in the way.
    pub fn make_dirs(&mut self, path: &TreePath, meta: &Meta) -> Result<Vec<TreePath>, SnapshotError> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        while !self.table.is_dir(&at) {
            match self.tree.child_at(&at)? {
                Child::Dir(..) => break,
                Child::Node(..) => return Err(SnapshotError::NotADirectory { path: at.display() }),
                Child::Missing => {
                    let Some(parent) = at.parent() else { break };
                    missing.push(std::mem::replace(&mut at, parent));
                }
            }
        }
        missing.reverse();
        for dir in &missing {
            self.make_dir(dir, meta)?;
        }
        Ok(missing)
    }

    /// Gives what is there this metadata (copied up first).
    ///
    /// # Errors
    /// Nothing is there.
    pub fn set_meta(&mut self, path: &TreePath, meta: &Meta) -> Result<(), SnapshotError> {
        self.take_over(path)?;
        let meta = cleaned(meta);
        let (is_dir, is_file, is_link) = match self.table.get(path) {
            Some(Slot::Other(Node::Dir)) => (true, false, false),
            Some(Slot::Other(Node::Symlink { .. })) => (false, false, true),
            Some(Slot::File(_)) => (false, true, false),
            _ => (false, false, false),
        };
        self.root_changed |= path.is_root();
        self.at_parent(path, "change", |parent, name| {
            if is_dir || is_file {
                let file = sys::fs::open_beneath(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
                replace_meta_of(&file, &meta)?;
                return if is_file { set_mtime_of(&file, meta.mtime) } else { Ok(()) };
            }
            set_meta_at(parent, name, &meta, is_link)?;
            set_mtime_at(parent, name, meta.mtime)
        })?;
        if let Some(recorded) = self.table.meta_mut(path) {
            let mode = if is_link { 0o777 } else { meta.mode };
            let xattrs = if is_dir || is_file { meta.xattrs } else { Vec::new() };
            *recorded = Meta { mode, xattrs, ..meta };
        }
        Ok(())
    }

    /// Puts a regular file; returns its size and digest.
    ///
    /// # Errors
    /// The parent is missing; reading or writing fails; the content is not what was expected.
    pub fn put_file(&mut self, path: &TreePath, content: FileContent<'_>, meta: &Meta) -> Result<(u64, Sha256Digest), SnapshotError> {
        self.make_way(path)?;
        self.write_file(path, content, cleaned(meta))
    }

    fn write_file(&mut self, path: &TreePath, content: FileContent<'_>, meta: Meta) -> Result<(u64, Sha256Digest), SnapshotError> {
        let mut piece = std::mem::take(&mut self.piece);
        let stop = self.stop.clone();
        let written = self.at_parent(path, "write", |parent, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = stand_in::held_mode(meta.mode & 0o777, false);
            let mut file = File::from(fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?);
            let (size, digest, expected) = match content {
                FileContent::Bytes(bytes) => {
                    file.write_all(bytes)?;
                    (bytes.len() as u64, Sha256Digest::of(bytes), None)
                }
                FileContent::Reader(reader) => {
                    let (size, digest) = copy_hashing(reader, &mut file, &mut piece, &stop)?;
                    (size, digest, None)
                }
                FileContent::CopyOf { file: source, expected } => {
                    let (size, digest) = copy_hashing(&mut FromStart::new(source)?, &mut file, &mut piece, &stop)?;
                    (size, digest, expected)
                }
            };
            set_meta_of(&file, &meta)?;
            set_mtime_of(&file, meta.mtime)?;
            Ok((size, digest, expected))
        });
        self.piece = piece;
        let (size, digest, expected) = written?;
        self.table.put_file(path.clone(), size, digest, meta);
        match expected {
            Some(expected) if expected != digest => Err(SnapshotError::FileChanged { path: path.display(), expected, found: digest }),
            _ => Ok((size, digest)),
        }
    }

    /// Makes `path` another name of the file `listed` of the committed layer `from`, whose table gives it the metadata `meta`. False if it has to
    /// be copied: it is not what the table says, it is linked into this layer already (two names of one inode would be a hard-link group that no
    /// table knows of), or the file system takes no further link.
    ///
    /// The new name changes the inode's change time and link count in every layer that has it. Whoever calls this sees to it that no process runs on
    /// any of them.
    ///
    /// # Errors
    /// The parent is missing; linking fails for another reason.
    pub fn link_file(&mut self, path: &TreePath, from: &mut LinkSource, listed: ListedFile<'_>, meta: &Meta) -> Result<bool, SnapshotError> {
        let (Some(source_parent), Some(source_name)) = (listed.path.parent(), listed.path.file_name()) else { return Ok(false) };
        let source_name = sys::fs::name(source_name);
        if !from.has_only(listed.path, &meta.xattrs) {
            return Ok(false);
        }
        let Ok(source) = from.dirs.get(&source_parent) else { return Ok(false) };
        let Ok(Some(stat)) = sys::fs::stat_at(source, source_name) else { return Ok(false) };
        // The table vouches for owner and mode, which a stand-in may say, as for the content.
        let is_listed = sys::fs::file_type(&stat) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(listed.size)
            && sys::fs::mtime(&stat) == meta.mtime;
        if !is_listed || self.linked.get(&stat.st_dev).is_some_and(|inodes| inodes.contains(&stat.st_ino)) {
            return Ok(false);
        }
        self.make_way(path)?;
        let linked = self.at_parent(path, "link", |parent, name| match fs::linkat(source, source_name, parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Too many names, protected_hardlinks, another file system.
            Err(Errno::MLINK | Errno::PERM | Errno::XDEV | Errno::OPNOTSUPP | Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        })?;
        if linked {
            self.linked.entry(stat.st_dev).or_default().insert(stat.st_ino);
            let id = self.table.put_file(path.clone(), listed.size, listed.digest, cleaned(meta));
            self.table.set_linked(id);
        }
        Ok(linked)
    }

    /// Makes `new` another name of the regular file at `existing` (copied up first).
    ///
    /// # Errors
    /// `existing` is no regular file; the parent of `new` is missing.
    pub fn hard_link(&mut self, existing: &TreePath, new: &TreePath) -> Result<(), SnapshotError> {
        let id = self.copy_up_file(existing)?;
        if existing == new {
            return Ok(());
        }
        if matches!(self.table.get(new), Some(Slot::File(there)) if there == id) {
            return Ok(());
        }
        self.make_way(new)?;
        let (Some(from_parent), Some(from_name)) = (existing.parent(), existing.file_name()) else {
            return Err(SnapshotError::NotARegularFile { path: existing.display() });
        };
        let from = self.dirs.get(&from_parent).and_then(|fd| fd.try_clone_to_owned()).map_err(SnapshotError::io("open", from_parent.display()))?;
        self.at_parent(new, "link", |parent, name| Ok(fs::linkat(&from, sys::fs::name(from_name), parent, name, AtFlags::empty())?))?;
        self.table.link(new.clone(), id);
        Ok(())
    }

    /// Puts a symbolic link; the target is data and stored verbatim. The mode of `meta` is not used.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_symlink(&mut self, path: &TreePath, target: &[u8], meta: &Meta) -> Result<(), SnapshotError> {
        self.make_way(path)?;
        let meta = Meta { mode: 0o777, xattrs: Vec::new(), ..meta.clone() };
        self.at_parent(path, "make symbolic link", |parent, name| {
            fs::symlinkat(sys::fs::name(target), parent, name)?;
            set_meta_at(parent, name, &meta, true)?;
            set_mtime_at(parent, name, meta.mtime)
        })?;
        self.table.put(path.clone(), Node::Symlink { target: target.into() }, meta);
        Ok(())
    }

    /// Puts a device node; in a user namespace, where none can be made, a file that stands for it.
    ///
    /// # Errors
    /// The parent is missing; making devices is not allowed; character device 0:0, which would be a whiteout.
    pub fn put_device(&mut self, path: &TreePath, device: Device, meta: &Meta) -> Result<(), SnapshotError> {
        let Device { block, major, minor } = device;
        if !block && major == 0 && minor == 0 {
            let reason = io::Error::new(io::ErrorKind::InvalidInput, "character device 0:0 would remove the path");
            return Err(SnapshotError::io("make device", path.display())(reason));
        }
        let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
        self.put_special(path, kind, fs::makedev(major, minor), device.into(), meta)
    }

    /// Puts a named pipe.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_fifo(&mut self, path: &TreePath, meta: &Meta) -> Result<(), SnapshotError> {
        self.put_special(path, FileType::Fifo, 0, Node::Fifo, meta)
    }

    /// Puts a socket.
    ///
    /// # Errors
    /// The parent is missing.
    pub fn put_socket(&mut self, path: &TreePath, meta: &Meta) -> Result<(), SnapshotError> {
        self.put_special(path, FileType::Socket, 0, Node::Socket, meta)
    }

    fn put_special(&mut self, path: &TreePath, kind: FileType, device: u64, node: Node, meta: &Meta) -> Result<(), SnapshotError> {
        self.make_way(path)?;
        let meta = Meta { xattrs: Vec::new(), ..meta.clone() };
        self.at_parent(path, "make special file", |parent, name| {
            match fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device) {
                Err(errno) if stand_in::is_wanted(errno) => {
                    let device = Device { block: kind == FileType::BlockDevice, major: fs::major(device), minor: fs::minor(device) };
                    stand_in::make_device(parent, name, device, &meta)?;
                }
                result => {
                    result?;
                    set_meta_at(parent, name, &meta, false)?;
                }
            }
            set_mtime_at(parent, name, meta.mtime)
        })?;
        self.table.put(path.clone(), node, meta);
        Ok(())
    }

    /// Removes what is there, with everything below it. Nothing there is no error.
    ///
    /// # Errors
    /// Removing fails.
    pub fn remove(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        if matches!(self.tree.child_at(path)?, Child::Missing) {
            return Ok(());
        }
        self.make_way(path)?;
        if !matches!(self.tree.child_at(path)?, Child::Missing) {
            self.put_whiteout(path)?;
        }
        Ok(())
    }

    /// Hides what lower layers have at `path`, whether they are known to have it or not.
    pub(crate) fn put_whiteout(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        self.make_way(path)?;
        let made = self.at_parent(path, "remove", |parent, name| match fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(true),
            Err(errno) if cannot_hold_marks(errno) => Ok(false),
            Err(errno) => Err(errno.into()),
        })?;
        if !made {
            self.tree.list_whiteout(path);
        }
        self.tree.forget_all();
        self.table.put(path.clone(), Node::Whiteout, Meta::default());
        Ok(())
    }

    /// Hides what lower layers have in the directory `path`, which is in this layer already.
    pub(crate) fn set_opaque(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        // The root of a layer cannot carry the mark: an overlay mount does not look at it. What it hides is removed by name in `finish`.
        if !path.is_root() {
            let made = self.at_parent(path, "mark", |parent, name| {
                let dir = sys::fs::open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                match fs::fsetxattr(&dir, sys::fs::name(sys::mount::marks().opaque), b"y", XattrFlags::empty()) {
                    Ok(()) => Ok(true),
                    Err(errno) if cannot_hold_marks(errno) => Ok(false),
                    Err(errno) => Err(errno.into()),
                }
            })?;
            if !made {
                self.tree.list_opaque(path);
            }
            self.tree.forget_all();
        }
        self.opaque.insert(path.clone());
        Ok(())
    }

    /// The layer's table; directories get their recorded times now.
    ///
    /// # Errors
    /// Setting times fails.
    pub fn finish(mut self) -> Result<Toc, SnapshotError> {
        for path in std::mem::take(&mut self.opaque) {
            let mut hidden = Vec::new();
            opaque_whiteouts(&self.lower, &path, &mut |path| self.table.get(path).map(|_| self.table.is_dir(path)), &mut hidden)?;
            for whiteout in hidden {
                if path.is_root() {
                    self.put_whiteout(&whiteout)?;
                } else {
                    if self.tree.lists_opaque(&path) {
                        self.tree.list_whiteout(&whiteout);
                    }
                    self.table.put(whiteout, Node::Whiteout, Meta::default());
                }
            }
        }
        for (path, meta) in self.table.dirs() {
            let (parent, name) = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => (parent, sys::fs::name(name)),
                _ => (TreePath::root(), Path::new(".")),
            };
            self.dirs.get(&parent).and_then(|fd| set_mtime_at(fd, name, meta.mtime)).map_err(SnapshotError::io("set the time of", path.display()))?;
        }
        self.tree.write_list()?;
        Ok(self.table.finish(self.root_changed))
    }

    /// Makes `path` free in this layer: its parent is there, nothing of this layer is at it. Returns whether something of this layer was.
    fn make_way(&mut self, path: &TreePath) -> Result<bool, SnapshotError> {
        let Some(parent) = path.parent() else {
            return Err(SnapshotError::io("replace", "/")(io::Error::from(io::ErrorKind::InvalidInput)));
        };
        self.stop.check().map_err(SnapshotError::io("write", path.display()))?;
        self.ensure_dir(&parent)?;
        match self.table.get(path) {
            None => {
                self.tree.hide(path);
                return Ok(false);
            }
            Some(Slot::Other(Node::Dir)) => {
                self.dirs.forget(path);
                self.tree.forget_all();
                self.tree.unlist(path);
                self.opaque.retain(|dir| dir.below(path).is_none());
                self.at_parent(path, "remove", |parent, name| {
                    sys::fs::remove_tree(parent, std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()))
                })?;
            }
            Some(slot) => {
                let hid = matches!(slot, Slot::Other(Node::Whiteout));
                self.at_parent(path, "remove", |parent, name| match fs::unlinkat(parent, name, AtFlags::empty()) {
                    // A removal that only the list of the layer says.
                    Err(Errno::NOENT) if hid => Ok(()),
                    result => Ok(result?),
                })?;
                if hid {
                    self.tree.unlist(path);
                    self.tree.forget_all();
                }
            }
        }
        self.table.remove_tree(path);
        Ok(true)
    }

    /// The directory is in this layer: copied up if only lower layers have it.
    fn ensure_dir(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        while !self.table.is_dir(&at) {
            if self.table.get(&at).is_some() {
                return Err(SnapshotError::NotADirectory { path: at.display() });
            }
            let Some(parent) = at.parent() else { break };
            missing.push(std::mem::replace(&mut at, parent));
        }
        for dir in missing.into_iter().rev() {
            match self.tree.lookup(&dir)? {
                Some(found) if found.kind == FoundKind::Dir => self.place_dir(&dir, &found.meta)?,
                Some(_) => return Err(SnapshotError::NotADirectory { path: dir.display() }),
                None => return Err(SnapshotError::NotFound { path: dir.display() }),
            }
        }
        Ok(())
    }

    /// What is at `path` is in this layer, copied from a lower one if need be.
    fn copy_up(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        match self.table.get(path) {
            Some(Slot::Other(Node::Whiteout)) => return Err(SnapshotError::NotFound { path: path.display() }),
            Some(_) => return Ok(()),
            None => {}
        }
        let Some(found) = self.tree.lookup(path)? else {
            return Err(SnapshotError::NotFound { path: path.display() });
        };
        match found.kind {
            FoundKind::Dir => self.ensure_dir(path),
            FoundKind::File { .. } => {
                let file = self.tree.open_file(path)?;
                self.put_file(path, FileContent::CopyOf { file: &file, expected: None }, &found.meta).map(|_| ())
            }
            FoundKind::Symlink { target } => self.put_symlink(path, &target, &found.meta),
            FoundKind::CharDevice { major, minor } => self.put_device(path, Device { block: false, major, minor }, &found.meta),
            FoundKind::BlockDevice { major, minor } => self.put_device(path, Device { block: true, major, minor }, &found.meta),
            FoundKind::Fifo => self.put_fifo(path, &found.meta),
            FoundKind::Socket => self.put_socket(path, &found.meta),
        }
    }

    /// As [`TreeWriter::copy_up`]; a file that is linked to a committed one becomes a copy, since what is done to it now would be done to both.
    fn take_over(&mut self, path: &TreePath) -> Result<(), SnapshotError> {
        self.copy_up(path)?;
        if let Some(Slot::File(id)) = self.table.get(path)
            && self.table.is_linked(id)
        {
            let file = self.tree.open_file(path)?;
            let meta = self.table.meta_mut(path).map(|meta| meta.clone()).unwrap_or_default();
            self.put_file(path, FileContent::CopyOf { file: &file, expected: None }, &meta)?;
        }
        Ok(())
    }

    fn copy_up_file(&mut self, path: &TreePath) -> Result<FileId, SnapshotError> {
        self.take_over(path)?;
        match self.table.get(path) {
            Some(Slot::File(id)) => Ok(id),
            _ => Err(SnapshotError::NotARegularFile { path: path.display() }),
        }
    }

    /// Calls `act` with a descriptor of the parent of `path` in this layer and the last component.
    fn at_parent<T>(
        &mut self,
        path: &TreePath,
        action: &'static str,
        act: impl FnOnce(std::os::fd::BorrowedFd<'_>, &Path) -> io::Result<T>,
    ) -> Result<T, SnapshotError> {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, sys::fs::name(name)),
            _ => (TreePath::root(), Path::new(".")),
        };
        self.dirs.get(&parent).and_then(|fd| act(fd, name)).map_err(SnapshotError::io(action, path.display()))
    }
}

/// Whether making one of overlay's marks failed as it does on a file system that cannot hold it (an overlay, above all).
pub(crate) fn cannot_hold_marks(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

/// Metadata with only those attributes that belong to a tree, sorted.
fn cleaned(meta: &Meta) -> Meta {
    let mut meta = meta.clone();
    meta.mode &= 0o7777;
    meta.xattrs.retain(|(name, _)| xattr::belongs(name));
    meta.xattrs.sort();
    meta
}

/// Owner and mode of something that cannot be opened; a symbolic link has no mode.
fn set_meta_at(parent: std::os::fd::BorrowedFd<'_>, name: &Path, meta: &Meta, is_link: bool) -> io::Result<()> {
    stand_in::set_owner_at(parent, name, meta.uid, meta.gid)?;
    if !is_link {
        fs::chmodat(parent, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
    }
    Ok(())
}

/// Reads a file from its start whatever its offset is, and leaves the offset alone: the file may be shared.
///
/// It ends one byte after the size that the file has now: one that grows while it is read has other bytes than it had, and would perhaps never end.
struct FromStart<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl<'a> FromStart<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, offset: 0, end: file.metadata()?.len().saturating_add(1) })
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end - self.offset).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = std::os::unix::fs::FileExt::read_at(self.file, &mut buffer[..room], self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// Copies everything `reader` has, hashing the bytes that are written. Long runs of zeros become holes, so a sparse file stays small.
fn copy_hashing(reader: &mut dyn Read, file: &mut File, piece: &mut [u8], stop: &StopSignal) -> io::Result<(u64, Sha256Digest)> {
    let mut hasher = Hasher::new();
    let mut size = 0_u64;
    let mut ends_with_hole = false;
    loop {
        stop.check()?;
        let n = match reader.read(piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = &piece[..n];
        hasher.update(bytes);
        size += n as u64;
        ends_with_hole = n >= HOLE_BYTES && bytes.iter().all(|&b| b == 0);
        if ends_with_hole {
            file.seek(SeekFrom::Start(size))?;
        } else {
            file.write_all(bytes)?;
        }
    }
    if ends_with_hole {
        file.set_len(size)?;
    }
    Ok((size, hasher.finish()))
}
