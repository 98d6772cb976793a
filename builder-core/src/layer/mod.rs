//! Layers as blobs: the tar of a layer, hashed and compressed in one pass, remembered by what it was made from.
//!
//! [`compress`] cuts the stream into pieces that are compressed alone; [`pieces`] remembers what they became, so that a layer of which one
//! file has changed costs one piece; [`unpack`] reads blobs as tars again.
//!
//! # Invariants
//! - Same tar, same compression, same [`WRITER`]: same bytes, whatever is remembered.
//! - Memory is bounded by threads and the size of a piece, whatever the layer's size.

mod compress;
mod pieces;
mod unpack;

use std::io::{self, BufReader, Write};
use std::sync::Arc;

use builder_snapshot::layer::{self, TimePolicy};
use builder_snapshot::stop::Stoppable;
use builder_snapshot::toc::LayerId;
use builder_snapshot::{LayerError, Sha256Digest, StopSignal};

use crate::cache::{LayerBlob, LayerForm};
use crate::content::{Store, StoreError};
use crate::oci::DiffId;
use crate::oci::media::Packing;
use crate::request::Compression;
use crate::tripwire::{self, Found, Tripwire, Watched};

pub use compress::{Compressor, WRITER, threads};
use pieces::Memory;
pub(crate) use unpack::{Unpacked, Zstd};

/// Why a layer could not be made into a blob.
#[derive(Debug, thiserror::Error)]
pub enum LayerBlobError {
    /// The tar could not be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Compressing or writing failed.
    #[error("cannot write a layer's blob: {0}")]
    Io(#[from] io::Error),
    /// It holds the value of a secret.
    #[error("the value of secret {id} is {form} in the file {file}")]
    Secret {
        /// The secret's id.
        id: String,
        /// As what.
        form: &'static str,
        /// In which file of the layer.
        file: String,
    },
}

/// The blob of layer `id` in `form`: found, or made with `threads` threads, and in both cases searched by `tripwire`. Blocks.
///
/// # Errors
/// A layer that is not as listed, a full disk, a secret.
pub fn layer_blob(
    store: &Store,
    id: LayerId,
    times: TimePolicy,
    compression: Compression,
    threads: usize,
    tripwire: Option<&Tripwire>,
    stop: &StopSignal,
) -> Result<LayerBlob, LayerBlobError> {
    let form = LayerForm { times, compression, writer: WRITER };
    if let Some(known) = store.db().layer_blob(id, &form)?
        && store.blobs().has(&known.digest)
    {
        search(store, id, times, tripwire, stop)?;
        return Ok(known);
    }
    let mut blob = store.blobs().writer()?;
    let memory = Arc::new(Memory::of(store, compression));
    let mut writer = Stoppable::new(Compressor::new(compression, threads, &mut blob).with_memory(Arc::clone(&memory)), stop.clone());
    write_watched(store, id, times, tripwire, &mut writer)?;
    let (diff_id, pieces) = writer.into_inner().finish_with_pieces()?;
    let (digest, size) = blob.finish(None)?;
    memory.remember(&digest, &pieces);
    let made = LayerBlob { diff_id, digest, size };
    store.db().put_layer_blob(id, &form, &made)?;
    Ok(made)
}

/// Writes the tar of a layer, and fails with the place if it holds a secret.
fn write_watched(store: &Store, id: LayerId, times: TimePolicy, tripwire: Option<&Tripwire>, out: &mut dyn Write) -> Result<(), LayerBlobError> {
    let toc = store.read_toc(id)?;
    let fs = store.layer_fs(id);
    let mut watched = Watched::new(tripwire, out);
    let written = layer::write_tar(&toc, &fs, times, &mut watched);
    if let Some(Found { id: secret, form, offset }) = watched.finish() {
        let again = |out: &mut dyn Write| {
            // It was written a moment ago; if it cannot be now, the file is not named.
            drop(layer::write_tar(&toc, &fs, times, out));
        };
        let file = tripwire::entry_at(offset, again).map_or_else(|| "(unknown)".to_owned(), |name| format!("/{name}"));
        return Err(LayerBlobError::Secret { id: secret, form, file });
    }
    Ok(written.inspect_err(|error| forget_if_damaged(store, id, error))?)
}

/// Searches a layer whose blob is there already, from an earlier build that may have lent other secrets, or none.
fn search(store: &Store, id: LayerId, times: TimePolicy, tripwire: Option<&Tripwire>, stop: &StopSignal) -> Result<(), LayerBlobError> {
    if tripwire.is_none() {
        return Ok(());
    }
    write_watched(store, id, times, tripwire, &mut Stoppable::new(io::sink(), stop.clone()))
}

/// A layer that somebody changed in the store is made again when it is needed next.
fn forget_if_damaged(store: &Store, id: LayerId, error: &LayerError) {
    if matches!(error, LayerError::NotAsListed { .. }) {
        store.forget_layer(id);
    }
}

/// What the blob of layer `id` would be called if it were not compressed: nothing is kept but the answer. Blocks.
///
/// # Errors
/// As [`layer_blob`].
pub fn layer_name(
    store: &Store,
    id: LayerId,
    times: TimePolicy,
    tripwire: Option<&Tripwire>,
    stop: &StopSignal,
) -> Result<LayerBlob, LayerBlobError> {
    let form = LayerForm { times, compression: Compression::Uncompressed, writer: WRITER };
    if let Some(known) = store.db().layer_blob(id, &form)? {
        search(store, id, times, tripwire, stop)?;
        return Ok(known);
    }
    let mut out = Counter(0);
    let mut writer = Stoppable::new(Compressor::new(Compression::Uncompressed, 1, &mut out), stop.clone());
    write_watched(store, id, times, tripwire, &mut writer)?;
    let diff_id = writer.into_inner().finish()?;
    let named = LayerBlob { diff_id, digest: diff_id.0, size: out.0 };
    store.db().put_layer_blob(id, &form, &named)?;
    Ok(named)
}

/// The layer in blob `digest` in another compression: found, or made with `threads` threads. Blocks.
///
/// # Errors
/// A blob that is damaged, a full disk.
pub fn recompressed(
    store: &Store,
    layer: DiffId,
    digest: &Sha256Digest,
    compression: Compression,
    threads: usize,
    stop: &StopSignal,
) -> Result<LayerBlob, LayerBlobError> {
    let form = LayerForm { times: TimePolicy::Keep, compression, writer: WRITER };
    let id = LayerId(layer.0);
    if let Some(known) = store.db().layer_blob(id, &form)?
        && store.blobs().has(&known.digest)
    {
        return Ok(known);
    }
    let mut packed = BufReader::with_capacity(64 * 1024, store.blobs().open(digest)?);
    let mut tar = Stoppable::new(Unpacked::new(&mut packed, store.limits())?, stop.clone());
    let mut blob = store.blobs().writer()?;
    let memory = Arc::new(Memory::of(store, compression));
    let mut writer = Compressor::new(compression, threads, &mut blob).with_memory(Arc::clone(&memory));
    io::copy(&mut tar, &mut writer)?;
    let (found, pieces) = writer.finish_with_pieces()?;
    if found != layer {
        return Err(io::Error::other(format!("the blob {digest} unpacks to {}, expected {}", found.0, layer.0)).into());
    }
    let (digest, size) = blob.finish(None)?;
    memory.remember(&digest, &pieces);
    let made = LayerBlob { diff_id: layer, digest, size };
    store.db().put_layer_blob(id, &form, &made)?;
    Ok(made)
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a blob of `compression` is packed.
#[must_use]
pub fn packing(compression: Compression) -> Packing {
    match compression {
        Compression::Uncompressed => Packing::Plain,
        Compression::Gzip { .. } => Packing::Gzip,
        Compression::Zstd { .. } => Packing::Zstd,
    }
}
