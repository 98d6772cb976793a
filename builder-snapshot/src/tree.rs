//! A stack of layer directories read as one tree, without mounting it.
//!
//! The layers are in overlay form: a character device 0:0 removes a name, `trusted.overlay.opaque` = `y` (in a user namespace
//! `user.overlay.opaque`) on a directory hides what lower layers have in it.
//! What is found is what an overlay mount of the same directories shows. Where the file system can hold neither, a list beside the layer says it (`tree/whiteouts`).
//!
//! # Invariants
//!
//! - Nothing is written, no symbolic link is followed by the kernel, nothing outside the layers is reached: links are resolved here, as data.
//! - The layers below the top one never change while the tree is open. (The top one changes when a [`crate::snapshot::TreeWriter`] owns the tree; it says so.)

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use crate::error::SnapshotError;
use crate::layer::{stand_in, xattr};
use crate::path::TreePath;
use crate::snapshot::Device;
use crate::sys;
use crate::toc::{Meta, Toc};

mod owners;
mod whiteouts;

use whiteouts::Whiteouts;
pub(crate) use whiteouts::has_list;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// How many directories are remembered: a large image has tens of thousands, each takes about a hundred bytes.
const MAX_KNOWN_DIRS: usize = 32 * 1024;

/// A stack of layer directories (overlay form), read as one tree.
#[derive(Debug)]
pub struct MergedTree {
    /// Topmost first; of a directory that is in the stack twice only the topmost place.
    stack: Vec<Arc<Layer>>,
    /// Which places of the stack a directory of the merged tree is made of, topmost first.
    known_dirs: Mutex<HashMap<TreePath, Arc<[usize]>>>,
}

#[derive(Debug)]
struct Layer {
    dir: PathBuf,
    fd: OwnedFd,
    /// Place in the slice that the tree was opened with.
    index: usize,
    /// What it removes that its file system cannot say.
    whiteouts: RwLock<Whiteouts>,
    /// See `tree/owners`; read when first asked for.
    owners: OnceLock<HashMap<TreePath, (u32, u32)>>,
}

impl Layer {
    fn open(dir: &Path, index: usize) -> Result<Self, SnapshotError> {
        let fd = sys::fs::open_dir(dir).map_err(SnapshotError::io("open layer", dir.display()))?;
        Ok(Self { dir: dir.to_owned(), fd, index, whiteouts: RwLock::new(Whiteouts::read(dir)?), owners: OnceLock::new() })
    }

    fn owners(&self) -> Result<&HashMap<TreePath, (u32, u32)>, SnapshotError> {
        match self.owners.get() {
            Some(owners) => Ok(owners),
            None => {
                let read = owners::read(&self.dir)?;
                Ok(self.owners.get_or_init(|| read))
            }
        }
    }

    fn whiteouts(&self) -> RwLockReadGuard<'_, Whiteouts> {
        self.whiteouts.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name in a merged directory.
pub(crate) enum Child {
    Missing,
    /// In this place of the stack; no directory.
    Node(usize, Stat),
    /// Merged from these places; the state of the topmost.
    Dir(Arc<[usize]>, Stat),
}

/// What one layer's directory removes from the layers below it, whichever way it says so.
#[derive(Debug)]
pub struct Removals(Layer);

impl Removals {
    /// Of the layer whose files are in `fs`.
    ///
    /// # Errors
    /// The directory cannot be opened; its list of removals is damaged.
    pub fn open(fs: &Path) -> Result<Self, SnapshotError> {
        Layer::open(fs, 0).map(Self)
    }

    /// Whether `path` is removed: by a whiteout, by the list beside the layer, or because a directory above hides all that it has not itself.
    ///
    /// # Errors
    /// The layer cannot be read.
    pub fn contains(&self, path: &TreePath) -> Result<bool, SnapshotError> {
        let Self(layer) = self;
        match sys::fs::stat_at(&layer.fd, path.as_path()).map_err(SnapshotError::io("read", path.display()))? {
            Some(stat) => return Ok(sys::fs::is_whiteout(&stat)),
            None if layer.whiteouts().contains(path) => return Ok(true),
            None => {}
        }
        let mut above = path.parent();
        while let Some(dir) = above.filter(|dir| !dir.is_root()) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let read = sys::fs::open_beneath(&layer.fd, dir.as_path(), flags, Mode::empty())
                .and_then(|dir| sys::fs::get_xattr(dir, sys::mount::marks().opaque));
            if read.map_err(SnapshotError::io("read", dir.display()))?.as_deref() == Some(b"y") {
                return Ok(true);
            }
            above = dir.parent();
        }
        Ok(false)
    }
}

/// What stands at a path of a [`MergedTree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which of the layers (index into the slice given to [`MergedTree::open`]) it comes from; for directories the topmost one.
    pub layer: usize,
    /// What it is.
    pub kind: FoundKind,
    /// Its metadata, extended attributes that count included. `made_by_step` is never set.
    pub meta: Meta,
}

/// The kind of thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Names of this inode, in whatever layers (stores link files): no proof of a hard-link group.
        nlink: u64,
        /// Device of the layer's file system.
        dev: u64,
        /// Inode there.
        ino: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The bytes of the link.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where a path leads when symbolic links are followed inside the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The real path: no component of it (up to where things exist) is a symbolic link.
    pub path: TreePath,
    /// What is there.
    pub found: Option<Found>,
}

/// One entry of a directory of a [`MergedTree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: EntryKind,
}

/// The kind of a [`DirEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Clone for MergedTree {
    fn clone(&self) -> Self {
        Self { stack: self.stack.clone(), known_dirs: Mutex::default() }
    }
}

impl MergedTree {
    /// Opens the layers' directories, bottom first. Layers that change nothing are passed over.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub fn open(layers: &[PathBuf]) -> Result<Self, SnapshotError> {
        let mut stack: Vec<Arc<Layer>> = Vec::with_capacity(layers.len());
        for (index, dir) in layers.iter().enumerate().rev() {
            if stack.iter().any(|layer| layer.dir == *dir) || (index > 0 && is_layer_of_nothing(dir)) {
                continue;
            }
            stack.push(Arc::new(Layer::open(dir, index)?));
        }
        Ok(Self { stack, known_dirs: Mutex::default() })
    }

    /// The same stack with one more directory on top.
    pub(crate) fn with_top(&self, dir: &Path) -> Result<Self, SnapshotError> {
        let index = self.stack.first().map_or(0, |top| top.index + 1);
        let mut stack = vec![Arc::new(Layer::open(dir, index)?)];
        stack.extend(self.stack.iter().cloned());
        Ok(Self { stack, known_dirs: Mutex::default() })
    }

    /// Whether there is any layer: a tree of none has not even a root.
    #[must_use]
    pub fn has_layers(&self) -> bool {
        !self.stack.is_empty()
    }

    /// Whether there is anything whose owner only a layer's table knows.
    pub(crate) fn has_tabled_owners(&self) -> bool {
        // What cannot be read may have some: looking for them tells why not.
        self.stack.iter().any(|layer| layer.owners().map_or(true, |owners| !owners.is_empty()))
    }

    /// What is at exactly this path; no symbolic link is followed.
    ///
    /// # Errors
    /// The layers cannot be read.
    pub fn lookup(&self, path: &TreePath) -> Result<Option<Found>, SnapshotError> {
        let child = self.child_at(path)?;
        self.found(path, child)
    }

    /// Follows symbolic links in all components, inside the tree. Missing components are kept as they are.
    ///
    /// # Errors
    /// More than 40 links; something that is no directory in the middle.
    pub fn resolve(&self, path: &TreePath) -> Result<Resolution, SnapshotError> {
        self.walk(&TreePath::root(), path, true)
    }

    /// Follows symbolic links in all components but the last.
    ///
    /// # Errors
    /// As [`MergedTree::resolve`].
    pub fn resolve_parent(&self, path: &TreePath) -> Result<Resolution, SnapshotError> {
        self.walk(&TreePath::root(), path, false)
    }

    /// As [`MergedTree::resolve`] for `path` below the directory `root`, which links cannot leave: absolute ones start there. The result is a path of the whole tree.
    ///
    /// # Errors
    /// As [`MergedTree::resolve`].
    pub fn resolve_beneath(&self, root: &TreePath, path: &TreePath) -> Result<Resolution, SnapshotError> {
        self.walk(root, path, true)
    }

    fn walk(&self, root: &TreePath, path: &TreePath, follow_last: bool) -> Result<Resolution, SnapshotError> {
        let mut pending: VecDeque<Box<[u8]>> = path.components().map(Into::into).collect();
        let mut current = root.clone();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if &*name == b".." {
                if current != *root {
                    current = current.parent().unwrap_or_default();
                }
                continue;
            }
            let child_path = current.checked_child(&name)?;
            let child = self.child_at(&child_path)?;
            match &child {
                Child::Missing => {
                    let mut rest = child_path.as_bytes().to_vec();
                    for name in &pending {
                        rest.push(b'/');
                        rest.extend_from_slice(name);
                    }
                    return Ok(Resolution { path: TreePath::clipped(rest)?, found: None });
                }
                Child::Dir(..) => current = child_path,
                Child::Node(place, stat) if sys::fs::file_type(stat) == FileType::Symlink && (follow_last || !pending.is_empty()) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(SnapshotError::LinkLoop { path: path.display() });
                    }
                    let target = self.read_link(*place, &child_path)?;
                    if target.starts_with(b"/") {
                        current = root.clone();
                    }
                    for part in target.split(|&b| b == b'/').rev().filter(|part| !part.is_empty() && *part != b".") {
                        pending.push_front(part.into());
                    }
                }
                Child::Node(..) if pending.is_empty() => {
                    let found = self.found(&child_path, child)?;
                    return Ok(Resolution { path: child_path, found });
                }
                Child::Node(..) => return Err(SnapshotError::NotADirectory { path: child_path.display() }),
            }
        }
        let found = self.lookup(&current)?;
        Ok(Resolution { path: current, found })
    }

    /// The entries of the directory at exactly this path, sorted by name.
    ///
    /// # Errors
    /// No directory is there.
    pub fn read_dir(&self, path: &TreePath) -> Result<Vec<DirEntry>, SnapshotError> {
        let places = match self.child_at(path)? {
            Child::Dir(places, _) => places,
            Child::Node(..) => return Err(SnapshotError::NotADirectory { path: path.display() }),
            Child::Missing => return Err(SnapshotError::NotFound { path: path.display() }),
        };
        let mut names: BTreeMap<Box<[u8]>, Option<EntryKind>> = BTreeMap::new();
        for &place in &*places {
            let dir = self.open_in(place, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            sys::fs::for_each_name(&dir, |name, kind| {
                if names.contains_key(name) {
                    return Ok(());
                }
                let kind = match kind {
                    // Only the device number tells a whiteout from a device.
                    FileType::CharacterDevice | FileType::Unknown => match sys::fs::stat_at(&dir, sys::fs::name(name))? {
                        Some(stat) if !sys::fs::is_whiteout(&stat) => entry_kind(sys::fs::file_type(&stat)),
                        _ => None,
                    },
                    kind => entry_kind(kind),
                };
                names.insert(name.into(), kind);
                Ok(())
            })
            .map_err(SnapshotError::io("list", path.display()))?;
            for name in self.stack[place].whiteouts().of_dir(path) {
                names.entry(name.clone()).or_insert(None);
            }
        }
        Ok(names.into_iter().filter_map(|(name, kind)| Some(DirEntry { name, kind: kind? })).collect())
    }

    /// Opens the regular file at exactly this path for reading.
    ///
    /// # Errors
    /// No regular file is there.
    pub fn open_file(&self, path: &TreePath) -> Result<File, SnapshotError> {
        match self.child_at(path)? {
            Child::Missing => Err(SnapshotError::NotFound { path: path.display() }),
            Child::Node(place, stat) if sys::fs::file_type(&stat) == FileType::RegularFile => {
                let file = self.open_in(place, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                let stat = fs::fstat(&file).map_err(|e| SnapshotError::io("read", path.display())(e.into()))?;
                if sys::fs::file_type(&stat) != FileType::RegularFile {
                    return Err(SnapshotError::NotARegularFile { path: path.display() });
                }
                Ok(File::from(file))
            }
            Child::Node(..) | Child::Dir(..) => Err(SnapshotError::NotARegularFile { path: path.display() }),
        }
    }

    /// Opens the regular file or directory at exactly this path, a directory where it is topmost.
    pub(crate) fn open_topmost(&self, path: &TreePath) -> Result<OwnedFd, SnapshotError> {
        let place = match self.child_at(path)? {
            Child::Missing => return Err(SnapshotError::NotFound { path: path.display() }),
            Child::Node(place, _) => place,
            Child::Dir(places, _) => places.first().copied().unwrap_or(0),
        };
        self.open_in(place, path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// The path on the host of `path` in layer `layer` (as [`Found::layer`] counts), for linking files of committed layers.
    /// None if there is no such layer (of a directory given twice only the topmost place counts).
    #[must_use]
    pub fn host_path(&self, layer: usize, path: &TreePath) -> Option<PathBuf> {
        Some(self.stack.iter().find(|l| l.index == layer)?.dir.join(path.as_path()))
    }

    /// What is at exactly this path, without its attributes and link target.
    pub(crate) fn child_at(&self, path: &TreePath) -> Result<Child, SnapshotError> {
        let Some(parent) = path.parent() else {
            let places: Arc<[usize]> = (0..self.stack.len()).collect();
            let Some(top) = self.stack.first() else {
                return Ok(Child::Missing);
            };
            let stat = fs::fstat(&top.fd).map_err(|e| SnapshotError::io("read", "/")(e.into()))?;
            return Ok(Child::Dir(places, stat));
        };
        match self.places(&parent)? {
            Some(places) => self.child_in(&places, path),
            None => Ok(Child::Missing),
        }
    }

    /// The places that make up the directory at exactly `path`; none if no directory is there.
    fn places(&self, path: &TreePath) -> Result<Option<Arc<[usize]>>, SnapshotError> {
        if path.is_root() {
            return Ok(Some((0..self.stack.len()).collect()));
        }
        if let Some(places) = self.known_dirs.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Some(places.clone()));
        }
        // From the deepest ancestor that is known, downwards: no recursion as deep as a hostile path.
        let mut missing = vec![path.clone()];
        let mut places: Arc<[usize]> = loop {
            let above = missing.last().and_then(TreePath::parent).unwrap_or_default();
            if above.is_root() {
                break (0..self.stack.len()).collect();
            }
            if let Some(places) = self.known_dirs.lock().unwrap_or_else(PoisonError::into_inner).get(&above) {
                break places.clone();
            }
            missing.push(above);
        };
        while let Some(dir) = missing.pop() {
            match self.child_in(&places, &dir)? {
                Child::Dir(found, _) => places = found,
                Child::Missing | Child::Node(..) => return Ok(None),
            }
        }
        Ok(Some(places))
    }

    /// Looks for `path` in the places of its parent, which is a directory in each of them: so no component of the path is a link there.
    fn child_in(&self, parent_places: &[usize], path: &TreePath) -> Result<Child, SnapshotError> {
        let mut places: Vec<usize> = Vec::new();
        let mut top: Option<Stat> = None;
        for (i, &place) in parent_places.iter().enumerate() {
            let layer = &self.stack[place];
            let Some(stat) = sys::fs::stat_at(&layer.fd, path.as_path()).map_err(SnapshotError::io("read", path.display()))? else {
                if layer.whiteouts().contains(path) {
                    break;
                }
                continue;
            };
            if sys::fs::is_whiteout(&stat) {
                break;
            }
            if sys::fs::file_type(&stat) != FileType::Directory {
                if top.is_none() {
                    return Ok(Child::Node(place, stat));
                }
                break;
            }
            top.get_or_insert(stat);
            places.push(place);
            let is_lowest = i + 1 == parent_places.len();
            if !is_lowest && self.is_opaque(place, path)? {
                break;
            }
        }
        let Some(stat) = top else {
            return Ok(Child::Missing);
        };
        let places: Arc<[usize]> = places.into();
        let mut known = self.known_dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN_DIRS {
            known.clear();
        }
        // Never a directory without those above it: see `hide`.
        if path.parent().is_none_or(|parent| parent.is_root() || known.contains_key(&parent)) {
            known.insert(path.clone(), places.clone());
        }
        Ok(Child::Dir(places, stat))
    }

    fn is_opaque(&self, place: usize, path: &TreePath) -> Result<bool, SnapshotError> {
        if self.stack[place].whiteouts().is_opaque(path) {
            return Ok(true);
        }
        let dir = self.open_in(place, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mark = sys::fs::get_xattr(&dir, sys::mount::marks().opaque).map_err(SnapshotError::io("read attributes of", path.display()))?;
        Ok(mark.as_deref() == Some(b"y"))
    }

    fn open_in(&self, place: usize, path: &TreePath, flags: OFlags) -> Result<OwnedFd, SnapshotError> {
        sys::fs::open_beneath(&self.stack[place].fd, path.as_path(), flags, Mode::empty()).map_err(SnapshotError::io("open", path.display()))
    }

    fn read_link(&self, place: usize, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        // Safe as a path: all components above are directories in this layer, see `child_in`.
        let target = fs::readlinkat(&self.stack[place].fd, path.as_path(), Vec::new());
        Ok(target.map_err(|e| SnapshotError::io("read link", path.display())(e.into()))?.into_bytes())
    }

    pub(crate) fn found(&self, path: &TreePath, child: Child) -> Result<Option<Found>, SnapshotError> {
        let (place, stat) = match child {
            Child::Missing => return Ok(None),
            Child::Node(place, stat) => (place, stat),
            Child::Dir(places, stat) => (places.first().copied().unwrap_or(0), stat),
        };
        let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        let kind = match sys::fs::file_type(&stat) {
            FileType::RegularFile => {
                FoundKind::File { size: u64::try_from(stat.st_size).unwrap_or(0), nlink: stat.st_nlink, dev: stat.st_dev, ino: stat.st_ino }
            }
            FileType::Directory => FoundKind::Dir,
            FileType::Symlink => FoundKind::Symlink { target: self.read_link(place, path)?.into() },
            FileType::CharacterDevice => FoundKind::CharDevice { major, minor },
            FileType::BlockDevice => FoundKind::BlockDevice { major, minor },
            FileType::Fifo => FoundKind::Fifo,
            FileType::Socket | FileType::Unknown => FoundKind::Socket,
        };
        let layer = self.stack[place].index;
        // No other kind of file has attributes that belong to the tree.
        if !matches!(kind, FoundKind::File { .. } | FoundKind::Dir) {
            let meta = meta_of_stat(&stat);
            let (uid, gid) = match (meta.uid, meta.gid) {
                (0, 0) => self.stack[place].owners()?.get(path).copied().unwrap_or_default(),
                own => own,
            };
            return Ok(Some(Found { layer, kind, meta: Meta { uid, gid, ..meta } }));
        }
        let file = self.open_in(place, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let read = || Ok((xattr::read(&file)?, stand_in::of(&file, &stat)?));
        let (xattrs, stand_in) = read().map_err(SnapshotError::io("read attributes of", path.display()))?;
        let kind = match stand_in.device {
            Some(Device { block: true, major, minor }) => FoundKind::BlockDevice { major, minor },
            Some(Device { block: false, major, minor }) => FoundKind::CharDevice { major, minor },
            None => kind,
        };
        let xattrs = if stand_in.device.is_some() { Vec::new() } else { xattrs };
        let meta = stand_in.meant(Meta { xattrs, ..meta_of_stat(&stat) });
        Ok(Some(Found { layer, kind, meta }))
    }

    /// The top layer removes `path`, which its file system cannot say.
    pub(crate) fn list_whiteout(&mut self, path: &TreePath) {
        self.change_top(|whiteouts| whiteouts.insert(path));
    }

    /// The top layer's directory `path` hides what lower layers have in it, which its file system cannot say.
    pub(crate) fn list_opaque(&mut self, path: &TreePath) {
        self.change_top(|whiteouts| whiteouts.set_opaque(path));
    }

    /// The top layer may have something at `path` again: whatever its list said about it and what was below is over.
    pub(crate) fn unlist(&mut self, path: &TreePath) {
        self.change_top(|whiteouts| whiteouts.remove(path));
    }

    /// Whether only its list says that the top layer's directory `path` is opaque.
    pub(crate) fn lists_opaque(&self, path: &TreePath) -> bool {
        self.stack.first().is_some_and(|top| top.whiteouts().is_opaque(path))
    }

    /// Writes the top layer's list to the disk, if it has one.
    pub(crate) fn write_list(&self) -> Result<(), SnapshotError> {
        self.stack.first().map_or(Ok(()), |top| top.whiteouts().write(&top.dir))
    }

    fn change_top(&mut self, change: impl FnOnce(&mut Whiteouts)) {
        if let Some(top) = self.stack.first() {
            change(&mut top.whiteouts.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The top layer got or lost a directory at `path`.
    pub(crate) fn forget(&mut self, path: &TreePath) {
        self.known_dirs.get_mut().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// The top layer got something at `path` that is no directory: what lower layers have there and below is hidden.
    pub(crate) fn hide(&mut self, path: &TreePath) {
        let known = self.known_dirs.get_mut().unwrap_or_else(PoisonError::into_inner);
        if known.contains_key(path) {
            known.clear();
        }
    }

    /// The top layer hides or shows what is at many paths.
    pub(crate) fn forget_all(&mut self) {
        self.known_dirs.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn entry_kind(kind: FileType) -> Option<EntryKind> {
    Some(match kind {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => EntryKind::Symlink,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::Unknown => return None,
    })
}

/// Whether `fs` is the directory of the layer that changes nothing. All steps that change nothing share it, so that its root directory looks as that of
/// whoever made it first: in a stack it must not be seen.
pub(crate) fn is_layer_of_nothing(fs: &Path) -> bool {
    static NAME: OnceLock<String> = OnceLock::new();
    let name = NAME.get_or_init(|| Toc::default().layer_id().0.hex());
    fs.parent().and_then(Path::file_name).is_some_and(|dir| *dir == **name)
}

/// What `stat` says of a file's metadata; attributes are not in it.
pub(crate) fn meta_of_stat(stat: &Stat) -> Meta {
    let mode = if sys::fs::file_type(stat) == FileType::Symlink { 0o777 } else { stat.st_mode & 0o7777 };
    let (uid, gid) = stand_in::owner_of_stat(stat);
    Meta { mode, uid, gid, mtime: sys::fs::mtime(stat), made_by_step: false, xattrs: Vec::new() }
}
