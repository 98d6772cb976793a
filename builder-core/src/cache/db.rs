//! The database: SQLite in write-ahead mode, used by several processes at once.
//!
//! One connection a process, behind a mutex, opened at first use. Every write is one `BEGIN IMMEDIATE` transaction. Nothing else in the
//! process may open the file by other means: closing any descriptor of it would drop SQLite's locks.
//!
//! # Invariants
//!
//! - Readers never write: what was found is not touched, so a build that finds everything leaves the files as they are.
//! - With `synchronous=NORMAL` a power failure can lose the last transactions, never mix them up.
//! - Closing neither checkpoints nor syncs: a command ends when its work ends. The log is folded in every thousand pages instead.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use builder_snapshot::Sha256Digest;
use builder_snapshot::layer::TimePolicy;
use builder_snapshot::toc::LayerId;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::record::{Key, KeyFields, Record};
use crate::content::{StoreError, lock};
use crate::oci::{DiffId, Reference};
use crate::request::Compression;

/// `user_version` of the schema below. A database with another one is refused: the directory's format version changes with it.
const SCHEMA_VERSION: i64 = 1;

/// How long a writer waits for another. Transactions here take well below a millisecond; only a stopped process holds one longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause between two tries to make a new database, which takes milliseconds.
const NEW_RETRY: Duration = Duration::from_millis(2);

const SCHEMA: &str = "
CREATE TABLE objects(digest BLOB NOT NULL, kind INTEGER NOT NULL, boot BLOB, at INTEGER NOT NULL, PRIMARY KEY(digest, kind)) WITHOUT ROWID;
CREATE INDEX unsettled ON objects(at) WHERE boot IS NOT NULL;
CREATE TABLE records(key BLOB PRIMARY KEY, record BLOB NOT NULL, name TEXT NOT NULL, fields BLOB NOT NULL);
CREATE TABLE images(reference TEXT PRIMARY KEY, digest BLOB NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL, built INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE layer_blobs(layer BLOB NOT NULL, form TEXT NOT NULL, diff_id BLOB NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL,
  PRIMARY KEY(layer, form)) WITHOUT ROWID;
CREATE INDEX layer_blobs_diff ON layer_blobs(diff_id);
CREATE TABLE diff_blobs(diff_id BLOB NOT NULL, digest BLOB NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL, location TEXT NOT NULL,
  PRIMARY KEY(diff_id, digest, location)) WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// Kinds of things whose presence the database vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A blob.
    Blob = 0,
    /// A layer's directory.
    Layer = 1,
}

/// How far a row's object can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Written since the machine started, or known to be on disk.
    Trusted,
    /// Written before the machine last started and never known to be on disk.
    Unsettled,
}

/// What a step leaves, committed in one transaction: its layer and its records under all keys it was looked up by.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The layer that was made; none if the result is made of layers that are here.
    pub layer: Option<LayerId>,
    /// All keys of the step, each with what went into it.
    pub keys: &'a [(Key, KeyFields)],
    /// The result.
    pub record: &'a Record,
    /// The step's name in the progress, to tell people what a record is.
    pub name: &'a str,
}

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Digest of the manifest or index.
    pub digest: Sha256Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size.
    pub size: u64,
    /// Whether rbuild made it (its tag wins over the registry's), or it is what the registry last said.
    pub built: bool,
}

/// The form of a layer's tar and of the blob it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerForm {
    /// What became of times.
    pub times: TimePolicy,
    /// How it is compressed.
    pub compression: Compression,
    /// Version of the writers of tar and compression: other versions may write other bytes.
    pub writer: u32,
}

impl LayerForm {
    fn text(&self) -> String {
        let times = match self.times {
            TimePolicy::Keep => "keep".to_owned(),
            TimePolicy::Clamp { epoch_seconds } => format!("clamp {epoch_seconds}"),
        };
        let compression = match self.compression {
            Compression::Uncompressed => "tar".to_owned(),
            Compression::Gzip { level } => format!("gzip {}", level.unwrap_or(6)),
            Compression::Zstd { level } => format!("zstd {}", level.unwrap_or(3)),
        };
        format!("{times};{compression};{}", self.writer)
    }
}

/// The blob that a layer became in some form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub digest: Sha256Digest,
    /// Size of the blob.
    pub size: u64,
}

/// A blob known to hold the layer of some diff ID, and where it can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobOrigin {
    /// Digest of the blob.
    pub digest: Sha256Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size.
    pub size: u64,
    /// Where: written and read by [`crate::source::image`].
    pub location: String,
}

/// The database of one store.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    boot: [u8; 16],
}

impl Db {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, open: Mutex::new(None) }
    }

    /// Looks keys up in order; the first that has a record wins. Says which one it was.
    ///
    /// # Errors
    /// Database failures.
    pub fn record(&self, keys: &[Key]) -> Result<Option<(usize, Record)>, StoreError> {
        self.read("look up a step in", |db| {
            let mut statement = db.connection.prepare_cached("SELECT record FROM records WHERE key = ?1")?;
            for (position, key) in keys.iter().enumerate() {
                let bytes: Option<Vec<u8>> = statement.query_row(params![key.0.0], |row| row.get(0)).optional()?;
                if let Some(record) = bytes.as_deref().and_then(Record::decode) {
                    return Ok(Some((position, record)));
                }
            }
            Ok(None)
        })
    }

    /// What went into a record's key.
    ///
    /// # Errors
    /// Database failures.
    pub fn key_fields(&self, key: &Key) -> Result<Option<KeyFields>, StoreError> {
        self.read("read a record of", |db| {
            let mut statement = db.connection.prepare_cached("SELECT fields FROM records WHERE key = ?1")?;
            let bytes: Option<Vec<u8>> = statement.query_row(params![key.0.0], |row| row.get(0)).optional()?;
            Ok(bytes.as_deref().and_then(KeyFields::decode))
        })
    }

    /// Makes a step's result part of the store: all of it or nothing.
    ///
    /// # Errors
    /// Database failures.
    pub fn commit(&self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let record = commit.record.encode();
        self.write("write a result to", |db, boot| {
            if let Some(layer) = commit.layer {
                put_object(db, Some(boot), ObjectKind::Layer, &layer.0)?;
            }
            let mut statement = db.prepare_cached("INSERT OR REPLACE INTO records(key, record, name, fields) VALUES(?1, ?2, ?3, ?4)")?;
            for (key, fields) in commit.keys {
                statement.execute(params![key.0.0, record, commit.name, fields.encode()])?;
            }
            Ok(())
        })
    }

    /// Files a further key for a result that is here.
    ///
    /// # Errors
    /// Database failures.
    pub fn add_keys(&self, keys: &[(Key, KeyFields)], record: &Record, name: &str) -> Result<(), StoreError> {
        self.commit(&Commit { layer: None, keys, record, name })
    }

    /// Removes a record whose result is not usable any more.
    ///
    /// # Errors
    /// Database failures.
    pub fn forget(&self, key: &Key) -> Result<(), StoreError> {
        self.write("remove a record from", |db, _| db.prepare_cached("DELETE FROM records WHERE key = ?1")?.execute(params![key.0.0]).map(drop))
    }

    /// Whether the database vouches for an object.
    ///
    /// # Errors
    /// Database failures.
    pub fn object(&self, kind: ObjectKind, digest: &Sha256Digest) -> Result<Option<Trust>, StoreError> {
        self.read("look up an object in", |db| {
            let mut statement = db.connection.prepare_cached("SELECT boot FROM objects WHERE digest = ?1 AND kind = ?2")?;
            let boot: Option<Option<Vec<u8>>> = statement.query_row(params![digest.0, kind as i64], |row| row.get(0)).optional()?;
            Ok(boot.map(|boot| match boot {
                Some(boot) if boot != db.boot => Trust::Unsettled,
                _ => Trust::Trusted,
            }))
        })
    }

    /// Vouches for an object that is completely written.
    ///
    /// # Errors
    /// Database failures.
    pub fn add_object(&self, kind: ObjectKind, digest: &Sha256Digest) -> Result<(), StoreError> {
        self.write("record an object in", |db, boot| put_object(db, Some(boot), kind, digest))
    }

    /// Vouches for an object of an earlier boot that was read whole from the disk.
    ///
    /// # Errors
    /// Database failures.
    pub fn add_object_on_disk(&self, kind: ObjectKind, digest: &Sha256Digest) -> Result<(), StoreError> {
        self.write("record an object in", |db, _| put_object(db, None, kind, digest))
    }

    /// Stops vouching for an object.
    ///
    /// # Errors
    /// Database failures.
    pub fn remove_object(&self, kind: ObjectKind, digest: &Sha256Digest) -> Result<(), StoreError> {
        self.write("remove an object from", |db, _| {
            db.prepare_cached("DELETE FROM objects WHERE digest = ?1 AND kind = ?2")?.execute(params![digest.0, kind as i64]).map(drop)
        })
    }

    /// Time (seconds since 1970) up to which objects of this boot can be settled: none if there is nothing older than `min_age_seconds`.
    pub(crate) fn unsettled(&self, min_age_seconds: i64) -> Result<Option<i64>, StoreError> {
        let until = seconds_now() - min_age_seconds;
        self.read("look for new objects in", |db| {
            let oldest: Option<i64> =
                db.connection.prepare_cached("SELECT min(at) FROM objects WHERE boot = ?1")?.query_row(params![db.boot], |row| row.get(0))?;
            Ok(oldest.filter(|&oldest| oldest <= until).map(|_| until))
        })
    }

    /// Marks objects of this boot that were added up to `until` as known to be on disk.
    pub(crate) fn settle(&self, until: i64) -> Result<(), StoreError> {
        self.write("mark objects in", |db, boot| {
            db.prepare_cached("UPDATE objects SET boot = NULL WHERE boot = ?1 AND at <= ?2")?.execute(params![boot, until]).map(drop)
        })
    }

    /// What `reference` stands for, as far as the store knows.
    ///
    /// # Errors
    /// Database failures.
    pub fn image(&self, reference: &Reference) -> Result<Option<ImageEntry>, StoreError> {
        self.read("look up an image in", |db| {
            db.connection
                .prepare_cached("SELECT digest, media_type, size, built FROM images WHERE reference = ?1")?
                .query_row(params![reference.to_string()], |row| {
                    Ok(ImageEntry {
                        digest: Sha256Digest(row.get(0)?),
                        media_type: row.get(1)?,
                        size: row.get::<_, i64>(2)?.cast_unsigned(),
                        built: row.get(3)?,
                    })
                })
                .optional()
        })
    }

    /// Names an image. Nothing is written if it has that name.
    ///
    /// # Errors
    /// Database failures.
    pub fn put_image(&self, reference: &Reference, entry: &ImageEntry) -> Result<(), StoreError> {
        if self.image(reference)?.as_ref() == Some(entry) {
            return Ok(());
        }
        self.write("name an image in", |db, _| {
            db.prepare_cached("INSERT OR REPLACE INTO images(reference, digest, media_type, size, built) VALUES(?1, ?2, ?3, ?4, ?5)")?
                .execute(params![reference.to_string(), entry.digest.0, entry.media_type, entry.size.cast_signed(), entry.built])
                .map(drop)
        })
    }

    /// The blob that `layer` became in `form`, if it was made before. The blob itself may be gone.
    ///
    /// # Errors
    /// Database failures.
    pub fn layer_blob(&self, layer: LayerId, form: &LayerForm) -> Result<Option<LayerBlob>, StoreError> {
        self.read("look up a layer's blob in", |db| {
            db.connection
                .prepare_cached("SELECT diff_id, digest, size FROM layer_blobs WHERE layer = ?1 AND form = ?2")?
                .query_row(params![layer.0.0, form.text()], |row| {
                    Ok(LayerBlob {
                        diff_id: DiffId(Sha256Digest(row.get(0)?)),
                        digest: Sha256Digest(row.get(1)?),
                        size: row.get::<_, i64>(2)?.cast_unsigned(),
                    })
                })
                .optional()
        })
    }

    /// Remembers the blob that `layer` became. Nothing is written if it is known.
    ///
    /// # Errors
    /// Database failures.
    pub fn put_layer_blob(&self, layer: LayerId, form: &LayerForm, blob: &LayerBlob) -> Result<(), StoreError> {
        if self.layer_blob(layer, form)?.as_ref() == Some(blob) {
            return Ok(());
        }
        self.write("remember a layer's blob in", |db, _| {
            db.prepare_cached("INSERT OR REPLACE INTO layer_blobs(layer, form, diff_id, digest, size) VALUES(?1, ?2, ?3, ?4, ?5)")?
                .execute(params![layer.0.0, form.text(), blob.diff_id.0.0, blob.digest.0, blob.size.cast_signed()])
                .map(drop)
        })
    }

    /// Layers made here whose tar with times kept has this diff ID: their files are what unpacking that tar gives.
    ///
    /// # Errors
    /// Database failures.
    pub fn layers_with_diff_id(&self, diff_id: DiffId) -> Result<Vec<LayerId>, StoreError> {
        self.read("look up a diff ID in", |db| {
            db.connection
                .prepare_cached("SELECT DISTINCT layer FROM layer_blobs WHERE diff_id = ?1 AND form LIKE 'keep;%'")?
                .query_map(params![diff_id.0.0], |row| Ok(LayerId(Sha256Digest(row.get(0)?))))?
                .collect()
        })
    }

    /// Blobs known to hold the layer with this diff ID, and where they can be had.
    ///
    /// # Errors
    /// Database failures.
    pub fn blob_origins(&self, diff_id: DiffId) -> Result<Vec<BlobOrigin>, StoreError> {
        self.read("look up a layer's origin in", |db| {
            db.connection
                .prepare_cached("SELECT digest, media_type, size, location FROM diff_blobs WHERE diff_id = ?1")?
                .query_map(params![diff_id.0.0], |row| {
                    Ok(BlobOrigin {
                        digest: Sha256Digest(row.get(0)?),
                        media_type: row.get(1)?,
                        size: row.get::<_, i64>(2)?.cast_unsigned(),
                        location: row.get(3)?,
                    })
                })?
                .collect()
        })
    }

    /// Remembers where the layers of an image can be had. Nothing is written for those that are known.
    ///
    /// # Errors
    /// Database failures.
    pub fn put_blob_origins(&self, origins: &[(DiffId, BlobOrigin)]) -> Result<(), StoreError> {
        let mut new = Vec::new();
        for (diff_id, origin) in origins {
            if !self.blob_origins(*diff_id)?.contains(origin) {
                new.push((diff_id, origin));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.write("remember a layer's origin in", |db, _| {
            let mut statement =
                db.prepare_cached("INSERT OR REPLACE INTO diff_blobs(diff_id, digest, media_type, size, location) VALUES(?1, ?2, ?3, ?4, ?5)")?;
            for (diff_id, origin) in new {
                statement.execute(params![diff_id.0.0, origin.digest.0, origin.media_type, origin.size.cast_signed(), origin.location])?;
            }
            Ok(())
        })
    }

    fn read<T>(&self, action: &'static str, work: impl FnOnce(&Open) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.with(action, |open| work(open))
    }

    fn write<T>(&self, action: &'static str, work: impl FnOnce(&Connection, &[u8; 16]) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.with(action, |open| {
            let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction, &open.boot)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    fn with<T>(&self, action: &'static str, work: impl FnOnce(&mut Open) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let failed = |action| move |source| StoreError::Database { action, path: self.path.clone(), source };
        let mut slot = lock(&self.open);
        let open = match &mut *slot {
            Some(open) => open,
            none => none.insert(self.connect().map_err(failed("open"))?),
        };
        work(open).map_err(failed(action))
    }

    /// Held by the one process that makes the tables. A file of its own: nothing but SQLite may open the database.
    fn lock_new(&self) -> io::Result<File> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.path.with_extension("new"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn connect(&self) -> rusqlite::Result<Open> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2048;")?;
        let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        if version(&connection)? == 0 {
            let _alone = self.lock_new().map_err(|error| cannot_lock(&error))?;
            make_tables(&mut connection)?;
        }
        if version(&connection)? != SCHEMA_VERSION {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
                Some("it was made by another version of rbuild: use another root".into()),
            ));
        }
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Open { connection, boot: boot_id() })
    }
}

/// Makes an empty database into one of ours. Only one process at a time does this.
fn make_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let began = Instant::now();
    // SQLite does not wait here, for fear of two that wait for each other; those who only look at the version are gone in a moment.
    while let Err(error) = connection.execute_batch("PRAGMA journal_mode = WAL;") {
        let is_busy = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
        if !is_busy || began.elapsed() > BUSY_TIMEOUT {
            return Err(error);
        }
        std::thread::sleep(NEW_RETRY);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have made the tables while this one waited.
    if transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? == 0 {
        transaction.execute_batch(SCHEMA)?;
    }
    transaction.commit()
}

fn cannot_lock(error: &io::Error) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
        Some(format!("cannot lock it while it is new: {error}")),
    )
}

/// `boot`: when it was written; none if it is on the disk.
fn put_object(db: &Connection, boot: Option<&[u8; 16]>, kind: ObjectKind, digest: &Sha256Digest) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO objects(digest, kind, boot, at) VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![digest.0, kind as i64, boot, seconds_now()])
        .map(drop)
}

fn seconds_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

/// The kernel's id of this boot. Where there is none (no /proc) every row looks like one of another boot, which is safe and slower.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| format!("{:?}{}", SystemTime::now(), std::process::id()));
    let digest = Sha256Digest::of(text.trim().as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Stack;

    fn db(dir: &tempfile::TempDir) -> Db {
        Db::new(dir.path().join("db"))
    }

    fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn record(log: &str) -> Record {
        Record { stack: Stack::of_image(&[DiffId(digest(log))]), created: SystemTime::UNIX_EPOCH, log: Some(log.into()) }
    }

    #[test]
    fn a_commit_is_found_under_every_key_by_every_connection() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (one, two) = (db(&dir), db(&dir));
        let keys = [Key(digest("whole")), Key(digest("part"))];
        let fields = KeyFields(vec![("argv".into(), "[\"true\"]".into())]);
        assert_eq!(two.record(&keys).expect("read"), None);
        let filed: Vec<_> = keys.iter().map(|&key| (key, fields.clone())).collect();
        let layer = LayerId(digest("layer"));
        one.commit(&Commit { layer: Some(layer), keys: &filed, record: &record("a"), name: "RUN true" }).expect("commit");
        assert_eq!(two.record(&keys[1..]).expect("read"), Some((0, record("a"))));
        assert_eq!(two.record(&[Key(digest("none")), keys[0]]).expect("read"), Some((1, record("a"))));
        assert_eq!(two.key_fields(&keys[0]).expect("read"), Some(fields.clone()));
        assert_eq!(two.object(ObjectKind::Layer, &layer.0).expect("read"), Some(Trust::Trusted));

        two.add_keys(&filed[..1], &record("b"), "again").expect("replace");
        assert_eq!(one.record(&keys).expect("read"), Some((0, record("b"))));
        one.forget(&keys[0]).expect("forget");
        assert_eq!(two.record(&keys).expect("read"), Some((1, record("a"))));
    }

    #[test]
    fn many_may_make_a_new_database_at_once() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().expect("tempdir");
            let meeting = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let (dir, meeting) = (&dir, &meeting);
                    scope.spawn(move || {
                        let db = db(dir);
                        meeting.wait();
                        db.add_object(ObjectKind::Blob, &digest(&format!("{number}"))).expect("add");
                    });
                }
            });
            let db = db(&dir);
            assert!((0..8).all(|number| db.object(ObjectKind::Blob, &digest(&format!("{number}"))).expect("read").is_some()));
        }
    }

    #[test]
    fn objects_of_another_boot_are_unsettled_until_marked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = db(&dir);
        let blob = digest("blob");
        db.add_object(ObjectKind::Blob, &blob).expect("add");
        db.write("test", |c, _| c.execute("UPDATE objects SET boot = zeroblob(16)", []).map(drop)).expect("age");
        assert_eq!(db.object(ObjectKind::Blob, &blob).expect("read"), Some(Trust::Unsettled));
        assert_eq!(db.object(ObjectKind::Layer, &blob).expect("read"), None);
        assert_eq!(db.unsettled(0).expect("read"), None, "only this boot's objects can be settled");

        db.add_object_on_disk(ObjectKind::Blob, &blob).expect("compared");
        assert_eq!(db.object(ObjectKind::Blob, &blob).expect("read"), Some(Trust::Trusted));
        assert_eq!(db.unsettled(0).expect("read"), None, "it need not be made durable");

        db.add_object(ObjectKind::Blob, &blob).expect("made again");
        let until = db.unsettled(0).expect("read").expect("something to settle");
        db.settle(until).expect("settle");
        assert_eq!(db.unsettled(0).expect("read"), None);
        assert_eq!(db.object(ObjectKind::Blob, &blob).expect("read"), Some(Trust::Trusted));
    }

    #[test]
    fn images_layers_and_origins_are_remembered() {
        let dir = tempfile::tempdir().expect("tempdir");
        let db = db(&dir);
        let reference: Reference = "app:1".parse().expect("reference");
        let entry = ImageEntry { digest: digest("m"), media_type: "t".into(), size: 5, built: true };
        db.put_image(&reference, &entry).expect("put");
        db.put_image(&reference, &entry).expect("again");
        assert_eq!(db.image(&reference).expect("read"), Some(entry));

        let (keep, clamp) = (TimePolicy::Keep, TimePolicy::Clamp { epoch_seconds: 7 });
        let form = |times| LayerForm { times, compression: Compression::Gzip { level: None }, writer: 1 };
        let blob = LayerBlob { diff_id: DiffId(digest("d")), digest: digest("b"), size: 9 };
        let (kept, clamped) = (LayerId(digest("kept")), LayerId(digest("clamped")));
        db.put_layer_blob(kept, &form(keep), &blob).expect("put");
        db.put_layer_blob(clamped, &form(clamp), &blob).expect("put");
        assert_eq!(db.layer_blob(kept, &form(keep)).expect("read"), Some(blob));
        assert_eq!(db.layer_blob(kept, &form(clamp)).expect("read"), None);
        assert_eq!(db.layers_with_diff_id(blob.diff_id).expect("read"), [kept]);

        let origin = BlobOrigin { digest: digest("b"), media_type: "t".into(), size: 9, location: "docker.io/library/x".into() };
        for _ in 0..2 {
            db.put_blob_origins(&[(blob.diff_id, origin.clone())]).expect("put");
        }
        assert_eq!(db.blob_origins(blob.diff_id).expect("read"), [origin]);
    }
}
