//! OCI blobs by digest. Written under a temporary name, verified, renamed; never changed afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use builder_snapshot::{Hasher, Sha256Digest};

use super::StoreError;
use super::locks::{self, ProcessDir};
use super::room::Room;
use crate::cache::{Db, ObjectKind, Trust};

/// Largest blob that is read into memory as a whole: manifests and configs are limited to 4 MiB by registries, and 8 leaves room.
const MAX_SMALL_BLOB_BYTES: u64 = 8 * 1024 * 1024;

/// Blobs of the store.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    tmp: PathBuf,
    process_dir: Arc<OnceLock<ProcessDir>>,
    db: Arc<Db>,
    room: Arc<Room>,
    next: AtomicU64,
}

impl BlobStore {
    pub(super) fn new(dir: PathBuf, tmp: PathBuf, process_dir: Arc<OnceLock<ProcessDir>>, db: Arc<Db>, room: Arc<Room>) -> Self {
        Self { dir, tmp, process_dir, db, room, next: AtomicU64::new(0) }
    }

    /// Where blobs lie, each under its digits.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the blob lies or would lie.
    #[must_use]
    pub fn path(&self, digest: &Sha256Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Whether the blob is here and can be trusted. One that may have been lost in a crash of the machine is read and compared once.
    pub fn has(&self, digest: &Sha256Digest) -> bool {
        let looked_up = self.db.object(ObjectKind::Blob, digest).and_then(|trust| match trust {
            Some(Trust::Trusted) => Ok(self.path(digest).is_file()),
            Some(Trust::Unsettled) => self.recheck(digest),
            None => Ok(false),
        });
        looked_up.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look up a blob");
            false
        })
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// If it is not here.
    pub fn open(&self, digest: &Sha256Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(StoreError::io("open blob", path))
    }

    /// Opens a blob for copying it elsewhere: its last byte is only given if all of them have the digest.
    ///
    /// # Errors
    /// If it is not here.
    pub fn open_verified(&self, digest: &Sha256Digest) -> Result<VerifiedBlob<'_>, StoreError> {
        Ok(VerifiedBlob { blobs: self, file: self.open(digest)?, digest: *digest, hasher: Some(Hasher::new()), held_back: None })
    }

    /// Takes a damaged blob out of the store, so that it is made or brought again when it is needed next.
    pub fn forget(&self, digest: &Sha256Digest) {
        if let Err(error) = self.db.remove_object(ObjectKind::Blob, digest) {
            tracing::warn!(%error, blob = %digest, "cannot forget a damaged blob");
        }
    }

    /// Reads a small blob (manifest, config) and verifies it.
    ///
    /// # Errors
    /// If it is not here, too big, or damaged.
    pub fn read(&self, digest: &Sha256Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let file = self.open(digest)?;
        file.take(MAX_SMALL_BLOB_BYTES + 1).read_to_end(&mut bytes).map_err(StoreError::io("read blob", &path))?;
        if bytes.len() as u64 > MAX_SMALL_BLOB_BYTES {
            return Err(StoreError::Corrupt {
                what: format!("blob {digest}"),
                reason: "it is larger than 8 MiB, too big for a manifest or config".into(),
            });
        }
        let found = Sha256Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            self.forget(digest);
            Err(StoreError::Corrupt { what: format!("blob {digest}"), reason: format!("its bytes have {found}") })
        }
    }

    /// Stores `bytes`; nothing is written if they are here.
    ///
    /// # Errors
    /// A file that cannot be written, and database failures.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Digest, StoreError> {
        let digest = Sha256Digest::of(bytes);
        if self.has(&digest) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(StoreError::io("write", &writer.path))?;
        Ok(writer.finish(Some(&digest))?.0)
    }

    /// A writer for a blob whose digest may not be known yet.
    ///
    /// # Errors
    /// If no temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let dir = locks::process_dir(&self.process_dir, &self.tmp)?;
        let path = dir.join(format!("blob-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(StoreError::io("make", &path))?;
        Ok(BlobWriter { blobs: self, file, path, hasher: Hasher::new(), size: 0, is_finished: false })
    }

    fn recheck(&self, digest: &Sha256Digest) -> Result<bool, StoreError> {
        let found = self.open(digest).ok().and_then(|file| Hasher::of_reader(file).ok());
        if found.is_some_and(|(found, _)| found == *digest) {
            self.db.add_object_on_disk(ObjectKind::Blob, digest)?;
            return Ok(true);
        }
        self.db.remove_object(ObjectKind::Blob, digest)?;
        Ok(false)
    }
}

/// A blob that is compared with its digest while it is read. The last byte is held back until everything before it is known to be right, so
/// that whoever copies a damaged blob never has all of it.
pub struct VerifiedBlob<'a> {
    blobs: &'a BlobStore,
    file: File,
    digest: Sha256Digest,
    /// None when the end was reached.
    hasher: Option<Hasher>,
    held_back: Option<u8>,
}

impl Read for VerifiedBlob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(hasher) = &mut self.hasher else { return Ok(0) };
        if buffer.is_empty() {
            return Ok(0);
        }
        let before = self.held_back.take();
        let start = usize::from(before.is_some());
        if let Some(byte) = before {
            buffer[0] = byte;
        }
        if start < buffer.len() {
            let n = self.file.read(&mut buffer[start..]).inspect_err(|_| self.held_back = before)?;
            hasher.update(&buffer[start..start + n]);
            if n > 0 {
                self.held_back = Some(buffer[start + n - 1]);
                // With room for one byte and none held back nothing can be given yet.
                return if start + n > 1 { Ok(start + n - 1) } else { self.read(buffer) };
            }
        } else {
            // Room for one byte only: it goes out if another one follows it.
            let mut next = [0];
            if self.file.read(&mut next).inspect_err(|_| self.held_back = before)? == 1 {
                hasher.update(&next);
                self.held_back = Some(next[0]);
                return Ok(1);
            }
        }
        let found = hasher.clone().finish();
        self.hasher = None;
        if found != self.digest {
            self.blobs.forget(&self.digest);
            let error = StoreError::Corrupt { what: format!("blob {}", self.digest), reason: format!("its bytes have {found}") };
            return Err(io::Error::other(error));
        }
        Ok(start)
    }
}

/// Writes one blob; dropped without [`BlobWriter::finish`] it leaves nothing.
pub struct BlobWriter<'a> {
    blobs: &'a BlobStore,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
    is_finished: bool,
}

impl BlobWriter<'_> {
    /// Verifies and stores what was written; returns digest and size.
    ///
    /// # Errors
    /// A digest other than `expected`, and files that cannot be renamed.
    pub fn finish(mut self, expected: Option<&Sha256Digest>) -> Result<(Sha256Digest, u64), StoreError> {
        let found = self.hasher.clone().finish();
        if let Some(&expected) = expected
            && expected != found
        {
            return Err(StoreError::DigestMismatch { expected, found });
        }
        let path = self.blobs.path(&found);
        fs::rename(&self.path, &path).map_err(StoreError::io("rename a blob to", path))?;
        self.is_finished = true;
        self.blobs.db.add_object(ObjectKind::Blob, &found)?;
        Ok((found, self.size))
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The temporary file, to read back what was written before it is finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // A step may have failed meanwhile for want of the room that is freed here.
        self.blobs.room.look();
        // What stays is swept with the process's directory.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn puts_verifies_and_forgets_what_was_not_finished() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("open");
        let blobs = store.blobs();
        let digest = blobs.put(b"hello").expect("put");
        assert_eq!(blobs.put(b"hello").expect("again"), digest);
        assert!(blobs.has(&digest));
        assert_eq!(blobs.read(&digest).expect("read"), b"hello");

        let mut writer = blobs.writer().expect("writer");
        writer.write_all(b"other").expect("write");
        assert!(matches!(writer.finish(Some(&digest)), Err(StoreError::DigestMismatch { .. })));
        assert!(!blobs.has(&Sha256Digest::of(b"other")));
        assert_eq!(fs::read_dir(store.tmp_dir().expect("tmp")).expect("list").count(), 0);
    }

    #[test]
    fn c6_2_a_full_disk_is_seen_before_a_blob_that_did_not_fit_frees_its_room() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("open");
        // No file system has less room.
        let room = Arc::new(Room::new("/proc".into()));
        let blobs =
            BlobStore::new(store.blobs.dir.clone(), root.path().into(), Arc::clone(&store.process_dir), Arc::clone(&store.db), Arc::clone(&room));
        blobs.writer().expect("writer").finish(None).expect("fits");
        assert_eq!(room.times_full(), 0, "it frees nothing");
        drop(blobs.writer().expect("writer"));
        assert_eq!(room.times_full(), 1);
    }

    #[test]
    fn a_damaged_blob_is_not_returned() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("open");
        let digest = store.blobs().put(b"hello").expect("put");
        fs::write(store.blobs().path(&digest), b"hellx").expect("damage");
        assert!(matches!(store.blobs().read(&digest), Err(StoreError::Corrupt { .. })));
        assert!(!store.blobs().has(&digest), "it is made again when it is needed");
        assert_eq!(store.blobs().put(b"hello").expect("put"), digest);
        assert_eq!(store.blobs().read(&digest).expect("read"), b"hello");
    }

    #[test]
    fn a_damaged_blob_is_never_copied_whole() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("open");
        let digest = store.blobs().put(b"hello").expect("put");
        let empty = store.blobs().put(b"").expect("put");
        let copy = |digest, step: usize| {
            let mut blob = store.blobs().open_verified(digest).expect("open");
            let (mut copied, mut buffer) = (Vec::new(), vec![0; step]);
            loop {
                match blob.read(&mut buffer) {
                    Ok(0) => return Ok(copied),
                    Ok(n) => copied.extend_from_slice(&buffer[..n]),
                    Err(error) => return Err((copied, error.to_string())),
                }
            }
        };
        for step in 1..8 {
            assert_eq!(copy(&digest, step).expect("whole"), b"hello", "{step}");
            assert_eq!(copy(&empty, step).expect("whole"), b"");
        }
        for bytes in [&b"hellx"[..], b"hell", b"hello!", b""] {
            for step in 1..8 {
                fs::write(store.blobs().path(&digest), bytes).expect("damage");
                let (copied, error) = copy(&digest, step).expect_err("damaged");
                assert!(copied.len() < bytes.len().max(1) && error.contains("is damaged"), "{error}");
            }
        }
        assert!(!store.blobs().has(&digest));
    }
}
