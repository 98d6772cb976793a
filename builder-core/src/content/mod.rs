//! The store: everything that outlives a build, under one directory.
//!
//! ```text
//! <root>/v1/blobs/sha256/<hex>     OCI blobs: temporary name → verified → renamed
//! <root>/v1/layers/<hex>/{fs,toc}  one directory a layer, frozen after commit; named by layer id (`families` beside: see [`leases`])
//! <root>/v1/mounts/…               cache mounts (chains of layers)
//! <root>/v1/logs/…                 complete logs of steps
//! <root>/v1/contexts/…             stat indexes of local contexts
//! <root>/v1/pieces/…               which piece of a layer lies compressed in which blob
//! <root>/v1/db                     the database: records, images, what is durable (`db.new`: held while its tables are made)
//! <root>/v1/ids                    which user ids its files are made with
//! <root>/v1/locks/…                byte ranges that stand for keys, and for layers in use
//! <root>/v1/tmp/<process>/         whatever is not committed yet; swept when its process is gone
//! ```
//!
//! # Invariants
//!
//! - A thing is in the store when its row is in the database. What is on disk without a row is a leftover: it is checked against its
//!   digest before it is used, or replaced.
//! - Rows carry the id of the boot they were written in until they are known to be on disk ([`Store::settle`]). A row of an earlier boot
//!   may point at bytes that a power failure lost, so what it names is read and compared once before it is trusted again.
//! - Opening costs the same for an empty store and a full one, and nothing here is written when nothing changed.
//!
//! What this module does not do: decide what is collected, or know what records mean.

pub mod blobs;
pub mod leases;
pub mod limits;
pub mod locks;
pub(crate) mod room;
pub mod stack;
mod verify;

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use builder_snapshot::Sha256Digest;
use builder_snapshot::diagnosis::{self, Lack};
use builder_snapshot::snapshot::CommittedLayer;
use builder_snapshot::toc::{LayerId, PackedToc, Toc};
use builder_snapshot::user_namespace::IdMap;

pub use blobs::{BlobStore, BlobWriter};
pub use leases::{Families, Leases, StepLease};
pub use limits::{Counted, Limits, WindowTooLarge};
pub use locks::{KeyLock, KeyLocks};
pub use stack::{Stack, StackLayer};

use crate::cache::{Db, ObjectKind, Trust};
use crate::oci::DiffId;
use locks::ProcessDir;
use room::Room;

/// Directory of this format. Another format gets another name, so that two versions of rbuild never read each other's files.
const FORMAT: &str = "v1";

/// How many tables of contents are kept in memory. A build selects from a few stacks at a time; a big table takes some megabytes.
const CACHED_TOCS: usize = 16;

/// Entries above which a table is not kept in memory: 40 000 entries are some 3 MiB, and builds must fit into 64.
const CACHED_TOC_ENTRIES: usize = 40_000;

/// What is wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The machine lets no store be kept safely.
    #[error("{0}")]
    Machine(Lack),
    /// A file operation failed.
    #[error("cannot {action} {path:?}: {source}{}", remedy(source.raw_os_error()))]
    Io {
        /// What was done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store is where several machines could write to it.
    #[error(
        "the store {path:?} is on a network file system ({kind}), where its database would be damaged: use a local directory (--root or RBUILD_ROOT)"
    )]
    NetworkFileSystem {
        /// The root.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The store's files have owners that mean others to this process.
    #[error("{}: {}", .0.cause, .0.remedy)]
    OtherIds(Lack),
    /// The database failed.
    #[error("cannot {action} the store's database {}: {source}{}", path.display(), database_remedy(source, path))]
    Database {
        /// What was done.
        action: &'static str,
        /// Its file.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// Bytes are not what their name says.
    #[error("{what} is damaged: {reason}; it is not used any more: build again")]
    Corrupt {
        /// Which.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Bytes that came in are not the expected ones.
    #[error("expected {expected}, but the bytes have {found}")]
    DigestMismatch {
        /// What was promised.
        expected: Sha256Digest,
        /// What came.
        found: Sha256Digest,
    },
}

/// What to do about a store that cannot be written to.
fn remedy(errno: Option<i32>) -> &'static str {
    use nix::libc::{EACCES, EPERM, EROFS};

    match errno {
        Some(EACCES | EPERM | EROFS) => "; make the store writable for the user who builds, or use another one (--root or RBUILD_ROOT)",
        _ => "",
    }
}

fn database_remedy(error: &rusqlite::Error, path: &Path) -> String {
    use nix::libc::EACCES;
    use rusqlite::ErrorCode;

    match error.sqlite_error_code() {
        // SQLite has words of its own for what the system said.
        Some(ErrorCode::DiskFull) => ": No space left on device".to_owned(),
        Some(ErrorCode::SystemIoFailure) if room::is_full(path) => ": No space left on device".to_owned(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => remedy(Some(EACCES)).to_owned(),
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            format!("; remove {} and build again: steps run once more, nothing else is lost", path.display())
        }
        _ => String::new(),
    }
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// The store. Cheap to open, shared by reference count, safe to use from several threads and processes at once.
#[derive(Debug)]
pub struct Store {
    base: PathBuf,
    layers: PathBuf,
    logs: PathBuf,
    mounts: PathBuf,
    contexts: PathBuf,
    db: Arc<Db>,
    blobs: BlobStore,
    locks: KeyLocks,
    leases: Leases,
    room: Arc<Room>,
    process_dir: Arc<OnceLock<ProcessDir>>,
    /// Directories of layers that were found and can be trusted.
    present: Mutex<HashMap<LayerId, PathBuf>>,
    tocs: Mutex<TocCache>,
    limits: Limits,
}

impl Store {
    /// The file of a store at `root` that says with which ids it was made ([`IdMap::text`]): for those who want to know before they open it.
    #[must_use]
    pub fn ids_file(root: &Path) -> PathBuf {
        root.join(FORMAT).join(IDS)
    }

    /// Opens the store at `root`, making it if it is not there, and removes what processes that are gone left unfinished.
    ///
    /// # Errors
    /// A directory that cannot be made or read, and network file systems.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        diagnosis::floor().map_err(StoreError::Machine)?;
        let base = root.join(FORMAT);
        let is_new = !base.is_dir();
        if is_new {
            make_dir(root).and_then(|()| make_dir(&base)).map_err(|error| match error {
                StoreError::Io { source, .. } if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                    StoreError::Machine(diagnosis::unwritable_store(root, &source.to_string()))
                }
                error => error,
            })?;
        }
        if let Some(kind) = network_file_system(&base)? {
            return Err(StoreError::NetworkFileSystem { path: root.to_path_buf(), kind });
        }
        let dir = |name: &str| base.join(name);
        let tmp = dir("tmp");
        // Any of them may have been removed to make room; what was in it is missed when it is looked for.
        for name in ["blobs/sha256", "layers", "mounts", "logs", "contexts", "locks", "tmp"] {
            let dir = dir(name);
            if !dir.is_dir() {
                make_dir(&dir)?;
            }
        }
        check_ids(root, &base)?;
        let leases = Leases::new(dir("locks").join(locks::LAYERS_FILE));
        locks::sweep(&tmp, &leases)?;
        let db = Arc::new(Db::new(dir("db")));
        let process_dir = Arc::new(OnceLock::new());
        let room = Arc::new(Room::new(base.clone()));
        Ok(Self {
            layers: dir("layers"),
            logs: dir("logs"),
            mounts: dir("mounts"),
            contexts: dir("contexts"),
            blobs: BlobStore::new(dir("blobs/sha256"), tmp, Arc::clone(&process_dir), Arc::clone(&db), Arc::clone(&room)),
            locks: KeyLocks::new(dir("locks").join("keys")),
            leases,
            room,
            db,
            process_dir,
            base,
            present: Mutex::default(),
            tocs: Mutex::default(),
            limits: Limits::default(),
        })
    }

    /// The same store, with other limits on what comes in.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What layers and archives from elsewhere may cost.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its directory, as it was opened.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.base.parent().unwrap_or(&self.base)
    }

    /// Where layers lie: `<hex of the layer id>/{fs,toc}`.
    #[must_use]
    pub fn layers_dir(&self) -> &Path {
        &self.layers
    }

    /// A directory of this process alone, on the same file system as everything else. Swept when the process is gone, however it went.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn tmp_dir(&self) -> Result<&Path, StoreError> {
        locks::process_dir(&self.process_dir, &self.base.join("tmp"))
    }

    /// Where logs of steps lie.
    #[must_use]
    pub fn logs_dir(&self) -> &Path {
        &self.logs
    }

    /// Where cache mounts lie.
    #[must_use]
    pub fn mounts_dir(&self) -> &Path {
        &self.mounts
    }

    /// Where stat indexes of contexts lie.
    #[must_use]
    pub fn contexts_dir(&self) -> &Path {
        &self.contexts
    }

    /// Where it is remembered what pieces of layers became when they were compressed. Made when there is something to remember.
    #[must_use]
    pub(crate) fn pieces_dir(&self) -> PathBuf {
        self.base.join("pieces")
    }

    /// OCI blobs.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Locks by key, across processes.
    #[must_use]
    pub fn locks(&self) -> &KeyLocks {
        &self.locks
    }

    /// Leases on the inodes of layers, across processes.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The room on its disk.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// From now on what this process leaves in its own directory may have links to files of layers: it is removed when no step could notice.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn keep_links_until_swept(&self) -> Result<(), StoreError> {
        let mark = self.tmp_dir()?.join(locks::LINKS_MARK);
        fs::write(&mark, b"").map_err(StoreError::io("write", mark))
    }

    /// The directory with a layer's files, whether it is there or not.
    #[must_use]
    pub fn layer_fs(&self, id: LayerId) -> PathBuf {
        self.layer_dir(id).join("fs")
    }

    /// The directories of all layers of `stack`, bottom first, whether they are there or not.
    #[must_use]
    pub fn stack_dirs(&self, stack: &Stack) -> Vec<PathBuf> {
        stack.layers.iter().map(|layer| self.layer_fs(layer.id)).collect()
    }

    /// Whether a layer is here and can be trusted. One that was written before the machine last started, and not known to be on disk,
    /// is compared with its table of contents first; if it differs it is forgotten. A layer made here is found by its diff ID too, once
    /// it has one.
    pub fn has_layer(&self, id: LayerId) -> bool {
        if lock(&self.present).contains_key(&id) {
            return true;
        }
        let found = match self.trusted(id) {
            Ok(true) => Some(self.own_dir(id)),
            Ok(false) => self.made_here(id),
            Err(error) => {
                tracing::warn!(%error, "cannot look up a layer");
                None
            }
        };
        let Some(dir) = found else { return false };
        lock(&self.present).insert(id, dir);
        true
    }

    fn trusted(&self, id: LayerId) -> Result<bool, StoreError> {
        Ok(match self.db.object(ObjectKind::Layer, &id.0)? {
            Some(Trust::Trusted) => {
                let dir = self.own_dir(id);
                let is_whole = dir.join("fs").is_dir() && dir.join("toc").is_file();
                if !is_whole {
                    // Somebody removed it. Without its row whoever makes it again may replace what is left.
                    self.db.remove_object(ObjectKind::Layer, &id.0)?;
                }
                is_whole
            }
            Some(Trust::Unsettled) => self.recheck_layer(id),
            None => false,
        })
    }

    /// The directory of a layer made here whose tar has the digest `id`.
    fn made_here(&self, id: LayerId) -> Option<PathBuf> {
        let made = self.db.layers_with_diff_id(DiffId(id.0)).unwrap_or_default();
        made.into_iter().find(|&layer| layer != id && self.trusted(layer).unwrap_or(false)).map(|layer| self.own_dir(layer))
    }

    /// Puts a layer that a step made where layers lie. It is in the store only when [`Db::commit`] has its row: see [`crate::cache::Commit`].
    ///
    /// # Errors
    /// A directory that cannot be renamed.
    pub fn publish(&self, layer: CommittedLayer) -> Result<PathBuf, StoreError> {
        let id = layer.id;
        self.make_room(id, &layer.toc)?;
        let dir = layer.publish(&self.layers).map_err(|error| StoreError::Io {
            action: "publish layer to",
            path: self.layer_dir(id),
            source: io::Error::other(error.to_string()),
        })?;
        Ok(dir)
    }

    /// Takes in a layer that was prepared in `prepared` (`fs` and `toc` inside, on the store's file system), under the name `id`, row included.
    /// If it is here already, `prepared` is removed.
    ///
    /// # Errors
    /// A directory that cannot be renamed, and database failures.
    pub fn adopt_layer(&self, id: LayerId, prepared: &Path) -> Result<PathBuf, StoreError> {
        if self.has_layer(id) {
            remove_tree(prepared)?;
            return Ok(self.layer_fs(id));
        }
        let dir = self.own_dir(id);
        let toc = read_toc_file(&prepared.join("toc"))?;
        self.make_room(id, &toc)?;
        match fs::rename(prepared, &dir) {
            Ok(()) => {}
            // Somebody else was quicker, or it lay there complete without a row.
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => remove_tree(prepared)?,
            Err(source) => return Err(StoreError::Io { action: "rename a prepared layer to", path: dir, source }),
        }
        self.db.add_object(ObjectKind::Layer, &id.0)?;
        lock(&self.present).insert(id, dir.clone());
        Ok(dir.join("fs"))
    }

    /// A layer's table of contents.
    ///
    /// # Errors
    /// A table that is missing or damaged.
    pub fn read_toc(&self, id: LayerId) -> Result<Arc<Toc>, StoreError> {
        Ok(Arc::new(Toc::from(&*self.read_packed_toc(id)?)))
    }

    /// A layer's table of contents, as it lies on disk. The last few are kept in memory.
    ///
    /// # Errors
    /// A table that is missing or damaged.
    pub fn read_packed_toc(&self, id: LayerId) -> Result<Arc<PackedToc>, StoreError> {
        if let Some(toc) = lock(&self.tocs).get(id) {
            return Ok(toc);
        }
        // Finds layers by their diff ID too; a layer that is not there fails below, with its path.
        self.has_layer(id);
        let dir = self.layer_dir(id);
        let toc = Arc::new(read_packed_toc_file(&dir.join("toc")).inspect_err(|_| self.forget(&dir))?);
        lock(&self.tocs).put(id, &toc);
        Ok(toc)
    }

    /// Takes the layer `id`, whose files turned out not to be what its table says, out of the store: it is made again, or brought again,
    /// when it is needed next.
    pub fn forget_layer(&self, id: LayerId) {
        self.forget(&self.layer_dir(id));
    }

    fn forget(&self, dir: &Path) {
        lock(&self.present).retain(|_, present| present != dir);
        let id = dir.file_name().and_then(|name| name.to_str()).and_then(|hex| format!("sha256:{hex}").parse::<Sha256Digest>().ok());
        if let Some(id) = id
            && let Err(error) = self.db.remove_object(ObjectKind::Layer, &id)
        {
            tracing::warn!(%error, layer = %id, "cannot forget a damaged layer");
        }
    }

    /// Marks what earlier processes committed as durable, after making it so, if any of it is older than `min_age_seconds`. Costs a
    /// `syncfs`, so it is for the background of builds that do work anyway.
    ///
    /// # Errors
    /// A failing sync, and database failures.
    pub fn settle(&self, min_age_seconds: i64) -> Result<bool, StoreError> {
        let Some(until) = self.db.unsettled(min_age_seconds)? else { return Ok(false) };
        let dir = fs::File::open(&self.base).map_err(StoreError::io("open", &self.base))?;
        rustix::fs::syncfs(&dir).map_err(|e| StoreError::Io { action: "sync", path: self.base.clone(), source: e.into() })?;
        self.db.settle(until)?;
        Ok(true)
    }

    fn layer_dir(&self, id: LayerId) -> PathBuf {
        lock(&self.present).get(&id).cloned().unwrap_or_else(|| self.own_dir(id))
    }

    fn own_dir(&self, id: LayerId) -> PathBuf {
        self.layers.join(id.0.hex())
    }

    /// A layer directory without a row is a leftover, or another process is about to write its row. If it is complete it may stay;
    /// if not, only a crash of the machine can have made it so, and nobody uses it.
    fn make_room(&self, id: LayerId, toc: &Toc) -> Result<(), StoreError> {
        let dir = self.own_dir(id);
        if !dir.exists() || lock(&self.present).contains_key(&id) || matches!(self.db.object(ObjectKind::Layer, &id.0)?, Some(Trust::Trusted)) {
            return Ok(());
        }
        let table = read_toc_file(&dir.join("toc")).map_err(|e| e.to_string());
        let checked = table.and_then(|found| if found == *toc { Ok(()) } else { Err("its table is another one".to_owned()) });
        match checked.and_then(|()| verify::layer(toc, &dir.join("fs"))) {
            Ok(()) => Ok(()),
            Err(reason) => {
                tracing::warn!(layer = %id.0, %reason, "replacing a damaged layer");
                self.discard(&dir)
            }
        }
    }

    fn recheck_layer(&self, id: LayerId) -> bool {
        let dir = self.own_dir(id);
        let checked = read_toc_file(&dir.join("toc")).map_err(|e| e.to_string()).and_then(|toc| verify::layer(&toc, &dir.join("fs")));
        let kept = match checked {
            Ok(()) => self.db.add_object_on_disk(ObjectKind::Layer, &id.0).map(|()| true),
            Err(reason) => {
                tracing::warn!(layer = %id.0, %reason, "forgetting a layer that was lost when the machine stopped");
                self.db.remove_object(ObjectKind::Layer, &id.0).map(|()| false)
            }
        };
        kept.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot record a checked layer");
            false
        })
    }

    fn discard(&self, dir: &Path) -> Result<(), StoreError> {
        let name = dir.file_name().unwrap_or_default();
        let away = self.tmp_dir()?.join(name);
        fs::rename(dir, &away).map_err(StoreError::io("move away", dir))?;
        remove_tree(&away)
    }
}

#[derive(Debug, Default)]
struct TocCache {
    tocs: HashMap<LayerId, (u64, Arc<PackedToc>)>,
    clock: u64,
}

impl TocCache {
    fn get(&mut self, id: LayerId) -> Option<Arc<PackedToc>> {
        self.clock += 1;
        let (used, toc) = self.tocs.get_mut(&id)?;
        *used = self.clock;
        Some(Arc::clone(toc))
    }

    fn put(&mut self, id: LayerId, toc: &Arc<PackedToc>) {
        if toc.len() > CACHED_TOC_ENTRIES {
            return;
        }
        if self.tocs.len() >= CACHED_TOCS
            && let Some(oldest) = self.tocs.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id)
        {
            self.tocs.remove(&oldest);
        }
        self.clock += 1;
        self.tocs.insert(id, (self.clock, Arc::clone(toc)));
    }
}

/// A mutex whose holder panicked guards caches only: what they hold is still true.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_toc_file(path: &Path) -> Result<Toc, StoreError> {
    Ok(Toc::from(&read_packed_toc_file(path)?))
}

fn read_packed_toc_file(path: &Path) -> Result<PackedToc, StoreError> {
    let bytes = fs::read(path).map_err(StoreError::io("read", path))?;
    PackedToc::unseal(bytes).map_err(|e| StoreError::Corrupt { what: format!("the layer table {}", path.display()), reason: e.to_string() })
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("make directory", path))
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Io { action: "remove", path: path.to_path_buf(), source }),
        _ => Ok(()),
    }
}

/// Says with which ids a store was made.
const IDS: &str = "ids";

/// Refuses a store of another user, and one that was made in a user namespace with another map: the owners of files in layers would be wrong, and overlay's
/// marks unseen.
fn check_ids(root: &Path, base: &Path) -> Result<(), StoreError> {
    let file = base.join(IDS);
    let now = &IdMap::current().text;
    let other = |made_with: &str| StoreError::OtherIds(diagnosis::other_ids(root, made_with, now));
    let owner = fs::metadata(base).map_err(StoreError::io("look at", base))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(other(&format!("it belongs to user {owner}")));
    }
    match fs::read_to_string(&file) {
        Ok(made_with) if made_with == *now => Ok(()),
        // Cut short by a crash of the machine while the store was new.
        Ok(made_with) if !made_with.is_empty() => Err(other(&made_with)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("read", file)(error)),
        _ => fs::write(&file, now).map_err(StoreError::io("write", file)),
    }
}

/// SQLite's shared memory and our byte-range locks do not hold between machines.
fn network_file_system(path: &Path) -> Result<Option<&'static str>, StoreError> {
    let stat =
        rustix::fs::statfs(path).map_err(|e| StoreError::Io { action: "look at the file system of", path: path.to_path_buf(), source: e.into() })?;
    // Magic numbers from linux/magic.h and the file systems' own sources.
    Ok(match u64::try_from(stat.f_type).unwrap_or_default() & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x517b => Some("SMB"),
        0xff53_4d42 => Some("CIFS"),
        0xfe53_4d42 => Some("SMB"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x7375_7245 => Some("Coda"),
        0x564c => Some("NCP"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x0102_1997 => Some("9p"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_an_empty_root_privately_and_again() {
        let root = tempfile::tempdir().expect("tempdir");
        for _ in 0..2 {
            let store = Store::open(&root.path().join("store")).expect("open");
            for dir in [store.layers_dir(), store.logs_dir(), store.mounts_dir(), store.contexts_dir(), store.tmp_dir().expect("tmp")] {
                let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir).expect("made"));
                assert_eq!(mode & 0o777, 0o700, "{dir:?}");
            }
        }
    }

    #[test]
    fn tmp_of_this_process_goes_with_the_store() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("open");
        let tmp = store.tmp_dir().expect("tmp").to_path_buf();
        assert!(tmp.is_dir());
        drop(store);
        assert!(!tmp.exists());
    }
}
