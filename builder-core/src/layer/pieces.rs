//! What pieces became when they were compressed before, and in which blob of the store that lies (DESIGN §6).
//!
//! ```text
//! <root>/v1/pieces/<codec>-<level>-<writer>      records of 108 bytes, appended:
//!     digest of the piece 32 │ digest of its compressed form 32 │ blob 32 │ offset there 8 │ length there 4   (little-endian)
//! ```
//!
//! A cache that may be lost, torn or stale: what a record leads to is compared with its digest before it is used, and what is not there is compressed
//! again. Nothing here can change a byte of any blob.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;

use builder_snapshot::Sha256Digest;

use super::WRITER;
use crate::content::Store;
use crate::request::Compression;

/// Bytes of a record.
const RECORD: usize = 108;
/// Largest file, in bytes: records of some 25 GiB of layers, and as much memory while one is packed. A full file begins anew.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// A piece that was compressed, and where that lies in its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Digest of the piece.
    pub(super) input: Sha256Digest,
    /// Digest of its compressed form.
    pub(super) output: Sha256Digest,
    /// Where that begins.
    pub(super) offset: u64,
    /// How long it is.
    pub(super) length: u32,
}

/// The pieces of one compression that a store remembers. Read when the first is looked up: layers of one piece never do.
#[derive(Debug)]
pub(super) struct Memory {
    path: Option<PathBuf>,
    blobs: PathBuf,
    known: OnceLock<HashMap<Sha256Digest, (Sha256Digest, Piece)>>,
}

impl Memory {
    /// What `store` remembers of `compression`.
    pub(super) fn of(store: &Store, compression: Compression) -> Self {
        let name = match compression {
            Compression::Uncompressed => None,
            Compression::Gzip { level } => Some(format!("gzip-{}-{WRITER}", level.unwrap_or(6))),
            Compression::Zstd { level } => Some(format!("zstd-{}-{WRITER}", level.unwrap_or(3))),
        };
        Self { path: name.map(|name| store.pieces_dir().join(name)), blobs: store.blobs().dir().to_path_buf(), known: OnceLock::new() }
    }

    /// The compressed form of the piece with this digest, if it is remembered, still there and right.
    pub(super) fn recall(&self, input: &Sha256Digest) -> Option<Vec<u8>> {
        let (blob, piece) = self.known.get_or_init(|| self.load()).get(input)?;
        let mut bytes = vec![0; piece.length as usize];
        File::open(self.blobs.join(blob.hex())).ok()?.read_exact_at(&mut bytes, piece.offset).ok()?;
        (Sha256Digest::of(&bytes) == piece.output).then_some(bytes)
    }

    fn load(&self) -> HashMap<Sha256Digest, (Sha256Digest, Piece)> {
        let Some(bytes) = self.path.as_ref().and_then(|path| fs::read(path).ok()) else { return HashMap::new() };
        let (records, rest) = bytes.as_chunks::<RECORD>();
        if !rest.is_empty() {
            // Torn by a crash: what is appended from now on would be out of step.
            self.forget();
        }
        records.iter().filter_map(decode).map(|(blob, piece)| (piece.input, (blob, piece))).collect()
    }

    /// Remembers pieces of `blob`. A failure costs compressing them again.
    pub(super) fn remember(&self, blob: &Sha256Digest, pieces: &[Piece]) {
        let Some(path) = self.path.as_ref().filter(|_| !pieces.is_empty()) else { return };
        let records: Vec<u8> = pieces.iter().flat_map(|piece| encode(blob, piece)).collect();
        if fs::metadata(path).is_ok_and(|there| there.len() + records.len() as u64 > MAX_FILE_BYTES) {
            self.forget();
        }
        let append = || -> io::Result<()> {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            // One write: what several processes append does not mix.
            OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(&records)
        };
        if let Err(error) = append() {
            tracing::debug!(path = %path.display(), %error, "cannot remember compressed pieces");
            // Half a record may have been written.
            self.forget();
        }
    }

    fn forget(&self) {
        if let Some(Err(error)) = self.path.as_ref().map(fs::remove_file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "cannot forget compressed pieces");
        }
    }
}

fn encode(blob: &Sha256Digest, piece: &Piece) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..32].copy_from_slice(&piece.input.0);
    record[32..64].copy_from_slice(&piece.output.0);
    record[64..96].copy_from_slice(&blob.0);
    record[96..104].copy_from_slice(&piece.offset.to_le_bytes());
    record[104..].copy_from_slice(&piece.length.to_le_bytes());
    record
}

/// None for what no version writes.
fn decode(record: &[u8; RECORD]) -> Option<(Sha256Digest, Piece)> {
    let digest = |at: usize| record[at..at + 32].try_into().ok().map(Sha256Digest);
    let length = u32::from_le_bytes(record[104..].try_into().ok()?);
    // Pieces have a mebibyte at most, and no compressor makes much more of them.
    (length <= 2 * 1024 * 1024).then_some(())?;
    let piece = Piece { input: digest(0)?, output: digest(32)?, offset: u64::from_le_bytes(record[96..104].try_into().ok()?), length };
    Some((digest(64)?, piece))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Compressor;
    use super::super::compress::tests::sample;
    use super::*;

    const PACKED: [Compression; 2] = [Compression::Gzip { level: None }, Compression::Zstd { level: None }];

    fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("store");
        (root, store)
    }

    /// Packs `data` with what the store remembers; returns the blob and how many pieces had to be compressed.
    fn pack(store: &Store, data: &[u8], compression: Compression) -> (Sha256Digest, usize) {
        let memory = Arc::new(Memory::of(store, compression));
        let mut blob = store.blobs().writer().expect("writer");
        let mut writer = Compressor::new(compression, 2, &mut blob).with_memory(Arc::clone(&memory));
        writer.write_all(data).expect("write");
        let (_, pieces) = writer.finish_with_pieces().expect("finish");
        let (digest, _) = blob.finish(None).expect("finish");
        memory.remember(&digest, &pieces);
        (digest, pieces.len())
    }

    fn alone(data: &[u8], compression: Compression) -> Sha256Digest {
        let mut out = Vec::new();
        let mut writer = Compressor::new(compression, 1, &mut out);
        writer.write_all(data).expect("write");
        writer.finish().expect("finish");
        Sha256Digest::of(&out)
    }

    #[test]
    fn a_change_in_one_place_compresses_what_is_around_it() {
        let data = sample(3_000_000, 7);
        let mut changed = data.clone();
        changed.splice(1_500_000..1_500_000, *b"one more file");
        for compression in PACKED {
            let (_root, store) = store();
            let (first, compressed) = pack(&store, &data, compression);
            assert_eq!(first, alone(&data, compression));
            assert!(compressed > 5);
            assert_eq!(pack(&store, &data, compression), (first, 0));
            let (second, compressed) = pack(&store, &changed, compression);
            assert_eq!(second, alone(&changed, compression));
            assert!(compressed <= 2, "{compressed} pieces were compressed");
        }
    }

    #[test]
    fn what_is_remembered_wrongly_changes_nothing() {
        let data = sample(900_000, 9);
        let mut other = data.clone();
        other.extend_from_slice(b"more");
        for compression in PACKED {
            let spoil: [&dyn Fn(&Store, &Sha256Digest); 4] = [
                // The blob is damaged, shorter, or gone; the file is torn.
                &|store, blob| {
                    let path = store.blobs().path(blob);
                    let mut bytes = fs::read(&path).expect("blob");
                    bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
                    fs::write(path, bytes).expect("ours");
                },
                &|store, blob| fs::write(store.blobs().path(blob), b"short").expect("ours"),
                &|store, blob| fs::remove_file(store.blobs().path(blob)).expect("ours"),
                &|store, _| {
                    for file in fs::read_dir(store.pieces_dir()).expect("pieces").flatten() {
                        let bytes = fs::read(file.path()).expect("ours");
                        fs::write(file.path(), &bytes[..bytes.len() - 5]).expect("ours");
                    }
                },
            ];
            for spoil in spoil {
                let (_root, store) = store();
                let (first, _) = pack(&store, &data, compression);
                spoil(&store, &first);
                let (second, _) = pack(&store, &other, compression);
                assert_eq!(second, alone(&other, compression), "{compression:?}");
                let last = [&other[..], b"!"].concat();
                assert!(pack(&store, &last, compression).0 == alone(&last, compression));
            }
        }
    }

    proptest! {
        #[test]
        fn records_round_trip_and_any_bytes_are_read(digests in any::<[[u8; 32]; 3]>(), offset in any::<u64>(), length in 0..=2_097_152_u32, bytes in any::<[[u8; 36]; 3]>()) {
            let [input, output, blob] = digests.map(Sha256Digest);
            let piece = Piece { input, output, offset, length };
            prop_assert_eq!(decode(&encode(&blob, &piece)), Some((blob, piece)));
            let record: [u8; RECORD] = bytes.concat().try_into().expect("as long");
            let _piece = decode(&record);
        }
    }
}
