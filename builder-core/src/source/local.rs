//! Directories of the request: looked at only where something is copied from, read only where the stat index does not know the answer.
//!
//! # Invariants
//! - Everything is opened beneath one descriptor of the directory and through no symbolic link; links are resolved by
//!   [`tree::resolve`](super::tree::resolve), inside the directory.
//! - One build sees one state: what was looked at once is remembered, and a file that is not what it was then ends the build with its name.
//! - Owners are 0:0 and ignored paths do not exist (`features.md` A9.8, A11): nothing of them enters a key or a layer.
//! - Never writes to the directory.

mod index;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use builder_snapshot::toc::{Meta, Timestamp};
use builder_snapshot::{Hasher, Sha256Digest, StopSignal, TreePath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use self::index::{Content, MAX_CAPABILITY_BYTES, Stat, StatIndex};
use super::tree::{Entry, EntryNode, SourceTree};
use crate::content::Store;
use crate::error::StepError;
use crate::request::{IgnoreRules, LocalContext};

/// Beneath the root, through no link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Sets of files that are read by more than one thread: at least this many files, or this many bytes.
const PARALLEL_FILES: usize = 64;
const PARALLEL_BYTES: u64 = 8 << 20;
/// Directories that are listed by more than one thread: at least this many.
const PARALLEL_DIRS: usize = 16;
/// Threads that hash: each has a buffer, and disks have no more to give.
const MAX_THREADS: usize = 8;
/// Files that were read after which the index is written at once.
const SAVE_FILES: usize = 256;
/// Entries of the index that this build did not look at are kept up to this many.
const MAX_UNSEEN_ENTRIES: usize = 200_000;

/// A directory of the request, walked when something is copied from it.
#[derive(Debug)]
pub struct LocalTree {
    path: PathBuf,
    /// None for the stand-in for no context at all.
    root: Option<OwnedFd>,
    ignore: Option<Arc<dyn IgnoreRules>>,
    index_path: PathBuf,
    index: OnceLock<StatIndex>,
    /// Directories that were listed.
    listings: Mutex<HashMap<TreePath, Arc<Vec<Child>>>>,
    /// Paths that were looked at without listing their directory.
    singles: Mutex<HashMap<TreePath, Option<Child>>>,
    /// Files that were read and are not in the index that is on disk.
    unsaved: AtomicUsize,
    stop: StopSignal,
}

/// One name of a directory, as the file system has it.
#[derive(Debug, Clone)]
struct Child {
    name: Box<[u8]>,
    stat: Stat,
    links: u32,
    rdev: (u32, u32),
    /// Of symbolic links.
    target: Option<Box<[u8]>>,
    /// What the index knows of the content, or reading it told.
    content: OnceLock<Known>,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    content: Content,
    /// Whether a file with this stat will have this content in a later build too.
    is_settled: bool,
}

impl LocalTree {
    /// Opens the directory. Nothing in it is looked at yet.
    ///
    /// # Errors
    /// A directory that can't be opened.
    pub fn open(context: &LocalContext, store: &Store) -> Result<Self, StepError> {
        Self::open_with_index(context, store.contexts_dir())
    }

    /// As [`LocalTree::open`], to look at what is there and read nothing: what earlier builds know of contents is not asked for.
    ///
    /// # Errors
    /// A directory that can't be opened.
    pub fn open_to_look(context: &LocalContext) -> Result<Self, StepError> {
        let tree = Self::open_with_index(context, Path::new(""))?;
        // Nothing is loaded, and nothing will be read that could be saved.
        let _ = tree.index.set(StatIndex::default());
        Ok(tree)
    }

    /// As [`LocalTree::open`], with the index in `index_dir`.
    ///
    /// # Errors
    /// A directory that can't be opened.
    pub(crate) fn open_with_index(context: &LocalContext, index_dir: &Path) -> Result<Self, StepError> {
        let root = if context.empty {
            None
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&context.path, flags, Mode::empty());
            Some(opened.map_err(|errno| unreadable("open the directory", &context.path.display().to_string(), errno))?)
        };
        let name = Sha256Digest::of(context.path.as_os_str().as_encoded_bytes()).hex();
        Ok(Self {
            path: context.path.clone(),
            root,
            ignore: context.ignore.clone(),
            index_path: index_dir.join(name),
            index: OnceLock::new(),
            listings: Mutex::default(),
            singles: Mutex::default(),
            unsaved: AtomicUsize::new(0),
            stop: StopSignal::default(),
        })
    }

    /// From now on looking and reading fail soon after `stop` is set, also in the middle of a file.
    #[must_use]
    pub fn stop_when(mut self, stop: StopSignal) -> Self {
        self.stop = stop;
        self
    }

    /// Opens a regular file for copying, if it still is what it was when it was first looked at.
    ///
    /// # Errors
    /// A file that can't be read, that vanished or changed.
    pub fn open_file(&self, path: &TreePath) -> Result<File, StepError> {
        let known = self.child(path)?;
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(|errno| self.open_failed(path, errno))?;
        let now = stat_of(&statx_fd(fd.as_fd()).map_err(|errno| self.open_failed(path, errno))?);
        match known {
            Some(child) if child.stat == now => Ok(File::from(fd)),
            _ => Err(changed(path)),
        }
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    fn open_at(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        loop {
            let opened = rustix::fs::openat2(self.root()?, path.as_path(), flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), BENEATH);
            // The kernel answers EAGAIN when something above is renamed meanwhile.
            match opened {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    fn index(&self) -> &StatIndex {
        self.index.get_or_init(|| StatIndex::load(&self.index_path))
    }

    fn is_visible(&self, path: &TreePath, is_dir: bool) -> Result<bool, StepError> {
        let Some(rules) = &self.ignore else { return Ok(true) };
        if path.is_root() || !rules.is_ignored(path.as_bytes()) {
            return Ok(true);
        }
        // An ignored directory is there if something below it was let in again.
        Ok(is_dir && !rules.prunes(path.as_bytes()) && !self.listing(path)?.is_empty())
    }

    /// The name at `path`, whether ignored or not, as it was when it was first looked at.
    fn child(&self, path: &TreePath) -> Result<Option<Child>, StepError> {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Some(listing) = lock(&self.listings).get(&parent)
            // Ignored names are not in listings; they are looked at singly.
            && let Ok(at) = listing.binary_search_by(|child| (*child.name).cmp(name))
        {
            return Ok(Some(listing[at].clone()));
        }
        if let Some(single) = lock(&self.singles).get(path) {
            return Ok(single.clone());
        }
        let child = match self.open_at(path, OFlags::PATH) {
            Ok(fd) => {
                let stat = statx_fd(fd.as_fd()).map_err(|errno| self.open_failed(path, errno))?;
                let target = match FileType::from_raw_mode(stat.stx_mode.into()) {
                    FileType::Symlink => Some(read_link(fd.as_fd(), "").map_err(|errno| self.open_failed(path, errno))?),
                    _ => None,
                };
                Some(self.make_child(path, path.file_name().unwrap_or_default(), &stat, target))
            }
            // ELOOP: a link in the middle, which is no directory.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => None,
            Err(errno) => return Err(self.open_failed(path, errno)),
        };
        lock(&self.singles).insert(path.clone(), child.clone());
        Ok(child)
    }

    fn make_child(&self, path: &TreePath, name: &[u8], statx: &Statx, target: Option<Box<[u8]>>) -> Child {
        let stat = stat_of(statx);
        let is_file = FileType::from_raw_mode(stat.mode) == FileType::RegularFile;
        let indexed = if is_file { self.index().find(path.as_bytes(), &stat) } else { None };
        let content = indexed.map(|content| OnceLock::from(Known { content, is_settled: true })).unwrap_or_default();
        Child { name: name.into(), stat, links: statx.stx_nlink, rdev: (statx.stx_rdev_major, statx.stx_rdev_minor), target, content }
    }

    /// The visible names of a directory, sorted.
    fn listing(&self, path: &TreePath) -> Result<Arc<Vec<Child>>, StepError> {
        if let Some(listing) = lock(&self.listings).get(path) {
            return Ok(Arc::clone(listing));
        }
        self.go_on()?;
        let dir = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| self.open_failed(path, errno))?;
        let mut children = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(dir.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| self.open_failed(path, errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let child_path = path.child(name.to_bytes());
            let maybe_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if !maybe_dir && !self.is_visible(&child_path, false)? {
                continue;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let statx = match rustix::fs::statx(&dir, name, flags, StatxFlags::BASIC_STATS) {
                Ok(statx) => statx,
                // Gone since the directory was read: it was not there, then.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(self.open_failed(&child_path, errno)),
            };
            let kind = FileType::from_raw_mode(statx.stx_mode.into());
            if maybe_dir && !self.is_visible(&child_path, kind == FileType::Directory)? {
                continue;
            }
            let target = match kind {
                FileType::Symlink => Some(read_link(dir.as_fd(), name).map_err(|errno| self.open_failed(&child_path, errno))?),
                _ => None,
            };
            // What was looked at before stays as it was then.
            let known = lock(&self.singles).get(&child_path).cloned().flatten();
            children.push(known.unwrap_or_else(|| self.make_child(&child_path, name.to_bytes(), &statx, target)));
        }
        children.shrink_to_fit();
        children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let children = Arc::new(children);
        // Another thread may have listed it meanwhile; the first listing stays, so that all see one state.
        Ok(Arc::clone(lock(&self.listings).entry(path.clone()).or_insert(children)))
    }

    fn entry(&self, path: TreePath, child: &Child) -> Entry {
        let known = child.content.get().map(|known| &known.content);
        let node = match FileType::from_raw_mode(child.stat.mode) {
            FileType::Directory => EntryNode::Dir,
            FileType::Symlink => EntryNode::Symlink { target: child.target.clone().unwrap_or_default() },
            FileType::CharacterDevice => EntryNode::CharDevice { major: child.rdev.0, minor: child.rdev.1 },
            FileType::BlockDevice => EntryNode::BlockDevice { major: child.rdev.0, minor: child.rdev.1 },
            FileType::Fifo => EntryNode::Fifo,
            FileType::Socket => EntryNode::Socket,
            FileType::RegularFile | FileType::Unknown => EntryNode::File {
                size: child.stat.size,
                digest: known.map(|content| content.digest),
                group: (child.links > 1).then_some((child.stat.dev, child.stat.ino)),
            },
        };
        let mode = if matches!(node, EntryNode::Symlink { .. }) { 0o777 } else { child.stat.mode & 0o7777 };
        let mut meta = Meta { mode, mtime: child.stat.mtime, ..Meta::default() };
        if let Some(content) = known {
            set_capability(&mut meta, content);
        }
        Entry { path, node, meta, layer: None }
    }

    /// Reads a file whole: digest and attributes.
    fn read_file(&self, path: &TreePath, buffer: &mut [u8]) -> Result<(Stat, Content), StepError> {
        let failed = |errno| self.open_failed(path, errno);
        let known = self.child(path)?.ok_or_else(|| changed(path))?;
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(failed)?;
        let mut file = File::from(fd);
        let mut hasher = Hasher::new();
        let mut size = 0;
        // A file that grows while it is read is caught by its size; without this bound one that always grows would never end.
        while size <= known.stat.size {
            self.go_on()?;
            match file.read(buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(Errno::from_io_error(&e).unwrap_or(Errno::IO))),
            }
        }
        let mut capability = [0; MAX_CAPABILITY_BYTES];
        let capability: Box<[u8]> = match rustix::fs::fgetxattr(&file, "security.capability", &mut capability) {
            Ok(n) => capability[..n].into(),
            Err(_) => Box::default(),
        };
        let now = stat_of(&statx_fd(file.as_fd()).map_err(failed)?);
        if now != known.stat || size != now.size {
            return Err(changed(path));
        }
        Ok((now, Content { digest: hasher.finish(), capability }))
    }

    /// Remembers what a file holds, wherever it was looked at.
    fn remember(&self, path: &TreePath, known: Known) {
        // Another thread may have read it too; both read the same, or the one that did not has failed.
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Some(listing) = lock(&self.listings).get(&parent)
            && let Ok(at) = listing.binary_search_by(|child| (*child.name).cmp(name))
        {
            drop(listing[at].content.set(known.clone()));
        }
        if let Some(Some(single)) = lock(&self.singles).get(path) {
            drop(single.content.set(known));
        }
    }

    /// Reads many files, on as many threads as pay, and remembers what they hold.
    fn read_files(&self, paths: &[TreePath], bytes: u64) -> Result<(), StepError> {
        let began = now();
        let threads = if paths.len() >= PARALLEL_FILES || (paths.len() > 1 && bytes >= PARALLEL_BYTES) { threads() } else { 1 };
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut buffer = vec![0; 128 * 1024];
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(at) else { break };
                let (stat, content) = self.read_file(path, &mut buffer).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
                self.remember(path, Known { content, is_settled: index::is_settled(stat.ctime, began) });
            }
            Ok::<_, StepError>(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for thread in others {
                result = result.and(thread.join().unwrap_or_else(|_| Err(StepError::other("a hashing thread panicked"))));
            }
            result
        })?;
        let unsaved = self.unsaved.fetch_add(paths.len(), Ordering::Relaxed) + paths.len();
        // What is quickly read again waits for the end of the build: the index is written as a whole.
        if unsaved >= SAVE_FILES || bytes >= PARALLEL_BYTES {
            self.save_index();
        }
        Ok(())
    }

    /// Writes what is known now. An index that can't be written costs time, never the build.
    fn save_index(&self) {
        self.unsaved.store(0, Ordering::Relaxed);
        let listings = lock(&self.listings);
        let singles = lock(&self.singles);
        let mut known: Vec<(TreePath, &Child)> = Vec::new();
        for (dir, listing) in listings.iter() {
            known.extend(listing.iter().filter(|child| child.content.get().is_some()).map(|child| (dir.child(&child.name), child)));
        }
        for (path, child) in singles.iter() {
            known.extend(child.as_ref().filter(|child| child.content.get().is_some()).map(|child| (path.clone(), child)));
        }
        known.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        known.dedup_by(|(a, _), (b, _)| a == b);
        let new: Vec<index::Update<'_>> = known
            .iter()
            .filter_map(|(path, child)| {
                let known = child.content.get()?;
                Some(index::Update { path: path.as_bytes(), found: known.is_settled.then_some((child.stat, &known.content)) })
            })
            .collect();
        // Of a directory that was listed, what is not there any more is forgotten.
        let is_gone = |path: &[u8]| {
            let Ok(path) = TreePath::new(path) else { return true };
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return true };
            listings.get(&parent).is_some_and(|listing| listing.binary_search_by(|child| (*child.name).cmp(name)).is_err())
        };
        let old = self.index();
        let keeps = old.len() <= MAX_UNSEEN_ENTRIES;
        if let Err(error) = index::write(&self.index_path, old, &|path| keeps && !is_gone(path), &new) {
            tracing::warn!(path = %self.index_path.display(), %error, "cannot write the stat index of a context");
        }
    }

    fn go_on(&self) -> Result<(), StepError> {
        self.stop.check().map_err(|error| StepError::other(format!("reading {} was given up: {error}", self.path.display())))
    }

    fn open_failed(&self, path: &TreePath, errno: Errno) -> StepError {
        match errno {
            // What was a file may be anything now.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO => changed(path),
            errno => unreadable("read", &self.path.join(path.as_path()).display().to_string(), errno),
        }
    }
}

impl SourceTree for LocalTree {
    fn lookup(&self, path: &TreePath) -> Result<Option<Entry>, StepError> {
        if self.root.is_none() {
            let root = Entry { path: TreePath::root(), node: EntryNode::Dir, meta: Meta { mode: 0o755, ..Meta::default() }, layer: None };
            return Ok(path.is_root().then_some(root));
        }
        let Some(child) = self.child(path)? else { return Ok(None) };
        let is_dir = FileType::from_raw_mode(child.stat.mode) == FileType::Directory;
        if !self.is_visible(path, is_dir)? {
            return Ok(None);
        }
        Ok(Some(self.entry(path.clone(), &child)))
    }

    fn list(&self, path: &TreePath) -> Result<Vec<Entry>, StepError> {
        if self.root.is_none() {
            return Ok(Vec::new());
        }
        let listing = self.listing(path)?;
        Ok(listing.iter().map(|child| self.entry(path.child(&child.name), child)).collect())
    }

    fn expect_walk(&self, path: &TreePath) {
        if self.root.is_none() || lock(&self.listings).contains_key(path) {
            return;
        }
        // Level by level: nobody waits for a queue to fill.
        let mut level = vec![path.clone()];
        while !level.is_empty() {
            let next = AtomicUsize::new(0);
            let work = || {
                let mut below = Vec::new();
                while let Some(dir) = level.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What can't be listed fails in the walk itself, where its place is.
                    let Ok(listing) = self.listing(dir) else { continue };
                    let is_dir = |child: &&Child| FileType::from_raw_mode(child.stat.mode) == FileType::Directory;
                    below.extend(listing.iter().filter(is_dir).map(|child| dir.child(&child.name)));
                }
                below
            };
            let threads = if level.len() >= PARALLEL_DIRS { threads() } else { 1 };
            level = std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
                let mut below = work();
                // A thread that panicked leaves what it had to the walk itself.
                others.into_iter().for_each(|thread| below.extend(thread.join().unwrap_or_default()));
                below
            });
        }
    }

    fn read_digests(&self, files: &[TreePath]) -> Result<(), StepError> {
        let mut paths = Vec::new();
        let mut bytes = 0;
        for path in files {
            let child = self.child(path)?.ok_or_else(|| changed(path))?;
            if child.content.get().is_none() {
                bytes += child.stat.size;
                paths.push(path.clone());
            }
        }
        if paths.is_empty() { Ok(()) } else { self.read_files(&paths, bytes) }
    }

    fn left_out_by(&self, path: &TreePath) -> Option<String> {
        let rules = self.ignore.as_ref()?;
        self.child(path).ok()??;
        Some(rules.deciding_rule(path.as_bytes()).unwrap_or_else(|| "the ignore file".to_owned()))
    }

    fn describe(&self) -> String {
        if self.root.is_none() { "the empty build context".to_owned() } else { format!("the build context {}", self.path.display()) }
    }
}

impl Drop for LocalTree {
    fn drop(&mut self) {
        if self.unsaved.load(Ordering::Relaxed) > 0 {
            self.save_index();
        }
    }
}

fn set_capability(meta: &mut Meta, content: &Content) {
    meta.xattrs.clear();
    if !content.capability.is_empty() {
        meta.xattrs.push((Box::from(&b"security.capability"[..]), content.capability.clone()));
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is remembered is complete at every moment; a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn statx_fd(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)
}

fn stat_of(statx: &Statx) -> Stat {
    let time = |time: rustix::fs::StatxTimestamp| Timestamp { seconds: time.tv_sec, nanos: time.tv_nsec };
    Stat {
        mode: statx.stx_mode.into(),
        size: statx.stx_size,
        mtime: time(statx.stx_mtime),
        ctime: time(statx.stx_ctime),
        ino: statx.stx_ino,
        dev: (u64::from(statx.stx_dev_major) << 32) | u64::from(statx.stx_dev_minor),
    }
}

fn read_link(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<Box<[u8]>, Errno> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes().into())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

fn changed(path: &TreePath) -> StepError {
    StepError::Other {
        message: format!("{} changed in the build context while the build was reading it", path.display()),
        help: Some("run the build again when nothing writes to the context, or add the file to the ignore file".to_owned()),
    }
}

fn unreadable(action: &str, path: &str, errno: Errno) -> StepError {
    let error = std::io::Error::from(errno);
    let help = match errno {
        Errno::ACCESS | Errno::PERM => Some("make it readable for the user who builds, or leave it out with an ignore file".to_owned()),
        Errno::MFILE | Errno::NFILE => Some("raise the limit of open files (ulimit -n)".to_owned()),
        _ => None,
    };
    StepError::Other { message: format!("cannot {action} {path}: {error}"), help }
}

#[cfg(test)]
mod tests;
