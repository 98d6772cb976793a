//! Bringing layers: download, verification, decompression and unpacking in one pass, several layers at a time.
//!
//! ```text
//! registry ─ chunks ─► [ blob writer (digest) ] ─► [ gunzip, unzstd ] ─► [ diff ID ] ─► [ apply ] ─► prepared directory
//! ```
//!
//! The chunks cross from the network's tasks to one blocking thread a layer through a short queue, so memory does not grow with layers.
//! Only when both digests are right is the blob kept and the directory adopted by the store. A layer that does not stand alone (it omits
//! parent directories that lower layers have, say) is unpacked again from its blob when those below are there.
//!
//! # Invariants
//! - Nothing reaches the store before its digest and its diff ID were compared.
//! - One layer is brought once, however many steps, builds or processes want it.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use builder_snapshot::layer::{self, TimePolicy};
use builder_snapshot::stop::Stoppable;
use builder_snapshot::tree::MergedTree;
use builder_snapshot::{Hasher, LayerError, LimitReached};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::image::{FOREIGN_PREFIX, ImageSources, LAYOUT_PREFIX, Progress, SourceError, descriptor_of, made_here_of, repository_of};
use crate::cache::{BlobOrigin, Key, LayerBlob, LayerForm};
use crate::content::{BlobWriter, Counted, Stack, StackLayer, Store, StoreError};
use crate::layer::{Unpacked, layer_blob};
use crate::oci::{ChainId, Descriptor, DiffId, Sha256Digest, media};
use crate::registry::{BlobStream, RegistryError};
use crate::request::Compression;
use crate::source::oci_layout::Layout;

/// Chunks between the network and the thread that unpacks: enough to keep both busy, some hundred KiB.
const QUEUE_CHUNKS: usize = 16;
/// Layers unpacked at once. Each has a thread and its buffers.
const PARALLEL_LAYERS: usize = 4;
/// How often a download says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Name of the file beside a layer's `fs` that says below which layers it was unpacked, if that matters.
const CHAIN_FILE: &str = "chain";

/// The form under which the blob is remembered that a layer came as. No writer of ours has version 0.
const AS_IT_CAME: LayerForm = LayerForm { times: TimePolicy::Keep, compression: Compression::Uncompressed, writer: 0 };

/// Why one try to bring a layer failed.
enum Failure {
    /// The bytes did not come.
    Source(String),
    /// They came, but are not what was promised: another place may have the right ones.
    Content(String),
    /// This machine fails.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DigestMismatch { expected, found } => Self::Content(format!("the bytes of {expected} have {found}")),
            error => Self::Store(error),
        }
    }
}

/// What is wanted of a layer's bytes.
#[derive(Clone)]
enum Wish {
    /// The blob alone, verified.
    Blob,
    /// Its files, on nothing.
    Files,
    /// Its files, on these directories, under this name.
    FilesOn { below: Vec<PathBuf>, chain: ChainId, name: Sha256Digest },
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    NeedsBase,
}

impl ImageSources {
    pub(super) async fn bring_layers(&self, stack: &Stack, progress: &dyn Progress) -> Result<Vec<PathBuf>, SourceError> {
        let mut missing: Vec<DiffId> = Vec::new();
        for layer in &stack.layers {
            if self.store.has_layer(layer.id) {
                continue;
            }
            let diff_id = DiffId(layer.id.0);
            if !layer.is_from_image() {
                let cause = "its files are not in the store any more; build again".to_owned();
                return Err(SourceError::Layer { layer: diff_id.0.to_string(), cause });
            }
            if !missing.contains(&diff_id) {
                missing.push(diff_id);
            }
        }
        let permits = tokio::sync::Semaphore::new(PARALLEL_LAYERS);
        let brought = join_all(missing.iter().map(|layer| async {
            // The semaphore is never closed.
            let _permit = permits.acquire().await.ok();
            self.bring(*layer, Wish::Files, progress).await
        }))
        .await;
        let mut dependent = Vec::new();
        for (layer, outcome) in missing.iter().zip(brought) {
            if outcome? == Outcome::NeedsBase {
                dependent.push(*layer);
            }
        }
        // From the bottom up: a dependent layer may lie on another one.
        let mut dirs: Vec<PathBuf> = Vec::with_capacity(stack.layers.len());
        for (at, layer) in stack.layers.iter().enumerate() {
            let diff_id = DiffId(layer.id.0);
            let is_missing = dependent.contains(&diff_id) && !self.store.has_layer(layer.id);
            dirs.push(self.dir_on(&stack.layers[..=at], &dirs, is_missing, progress).await?);
        }
        Ok(dirs)
    }

    /// The directory of the last of `layers`, whose lower layers are in `below`. Unpacks it if it depends on them and was not unpacked on
    /// them before.
    async fn dir_on(&self, layers: &[StackLayer], below: &[PathBuf], is_missing: bool, progress: &dyn Progress) -> Result<PathBuf, SourceError> {
        let Some(layer) = layers.last() else { return Err(SourceError::Layer { layer: "none".into(), cause: "the stack is empty".into() }) };
        let usual = self.store.layer_fs(layer.id);
        if !layer.is_from_image() {
            return Ok(usual);
        }
        let chain = if is_missing { None } else { fs::read_to_string(usual.with_file_name(CHAIN_FILE)).ok() };
        if !is_missing && chain.is_none() {
            return Ok(usual);
        }
        let ids: Vec<DiffId> = layers.iter().map(|layer| DiffId(layer.id.0)).collect();
        let Some(wanted) = ChainId::of(&ids) else { return Ok(usual) };
        if chain.is_some_and(|chain| chain.trim() == wanted.0.hex()) {
            return Ok(usual);
        }
        // The first base that a dependent layer meets gets the layer's usual place; on others it has a place named by the whole chain.
        let name = if is_missing { layer.id.0 } else { wanted.0 };
        let id = builder_snapshot::toc::LayerId(name);
        if is_missing || !self.store.has_layer(id) {
            let wish = Wish::FilesOn { below: below.to_vec(), chain: wanted, name };
            self.bring(DiffId(layer.id.0), wish, progress).await?;
        }
        Ok(self.store.layer_fs(id))
    }

    pub(super) async fn bring_blobs(&self, layers: &[DiffId], progress: &dyn Progress) -> Result<Vec<Descriptor>, SourceError> {
        let mut missing: Vec<DiffId> = Vec::new();
        for &layer in layers {
            if self.verified_blob(layer)?.is_none() && !missing.contains(&layer) {
                missing.push(layer);
            }
        }
        let permits = tokio::sync::Semaphore::new(PARALLEL_LAYERS);
        let brought = join_all(missing.iter().map(|layer| async {
            let _permit = permits.acquire().await.ok();
            self.bring(*layer, Wish::Blob, progress).await
        }))
        .await;
        brought.into_iter().collect::<Result<Vec<_>, _>>()?;
        layers
            .iter()
            .map(|&layer| {
                let gone = || SourceError::Layer { layer: layer.0.to_string(), cause: "its blob is not in the store any more".into() };
                self.verified_blob(layer)?.ok_or_else(gone)
            })
            .collect()
    }

    /// What the blobs of layers are called, as far as their images say: nothing is brought.
    pub(crate) fn claimed_blobs(&self, layers: &[DiffId]) -> Result<Vec<Descriptor>, SourceError> {
        let claimed = |&layer: &DiffId| {
            if let Some(blob) = self.verified_blob(layer)? {
                return Ok(blob);
            }
            let unknown = || SourceError::Layer { layer: layer.0.to_string(), cause: "no image that has it is known".into() };
            self.store.db().blob_origins(layer)?.first().map(descriptor_of).ok_or_else(unknown)
        };
        layers.iter().map(claimed).collect()
    }

    /// What the blobs of layers are called, for putting them where they may be already. Brings those about which images disagree: only the
    /// bytes tell who is right.
    ///
    /// # Errors
    /// As [`ImageSources::ensure_blobs`].
    pub(crate) async fn described_blobs(&self, layers: &[DiffId], progress: &dyn Progress) -> Result<Vec<Descriptor>, SourceError> {
        let mut disputed = Vec::new();
        for &layer in layers {
            let origins = self.store.db().blob_origins(layer)?;
            if self.verified_blob(layer)?.is_none() && origins.windows(2).any(|pair| pair[0].digest != pair[1].digest) {
                disputed.push(layer);
            }
        }
        self.bring_blobs(&disputed, progress).await?;
        self.claimed_blobs(layers)
    }

    /// Where a foreign layer's blob can be had, as its image says.
    pub(crate) fn foreign_urls(&self, layer: DiffId, blob: &Sha256Digest) -> Result<Vec<String>, SourceError> {
        let origins = self.store.db().blob_origins(layer)?;
        let of_blob = origins.iter().filter(|origin| origin.digest == *blob);
        Ok(of_blob.filter_map(|origin| origin.location.strip_prefix(FOREIGN_PREFIX).map(str::to_owned)).collect())
    }

    /// The blob that is known to hold `layer`.
    fn verified_blob(&self, layer: DiffId) -> Result<Option<Descriptor>, SourceError> {
        let id = builder_snapshot::toc::LayerId(layer.0);
        let Some(blob) = self.store.db().layer_blob(id, &AS_IT_CAME)? else { return Ok(None) };
        if !self.store.blobs().has(&blob.digest) {
            return Ok(None);
        }
        let origins = self.store.db().blob_origins(layer)?;
        Ok(origins.iter().find(|origin| origin.digest == blob.digest).map(descriptor_of))
    }

    async fn bring(&self, layer: DiffId, wish: Wish, progress: &dyn Progress) -> Result<Outcome, SourceError> {
        let flight = self.flight(layer);
        let _flight = flight.lock().await;
        let key = Key(Sha256Digest::of(format!("rbuild pull {}", layer.0).as_bytes()));
        let _lock = self.store.locks().acquire(&key, &CancellationToken::new()).await?;
        // Somebody else may have brought it while this waited.
        let is_here = match &wish {
            Wish::Blob => self.verified_blob(layer)?.is_some(),
            Wish::Files => self.store.has_layer(builder_snapshot::toc::LayerId(layer.0)),
            Wish::FilesOn { name, .. } => self.store.has_layer(builder_snapshot::toc::LayerId(*name)),
        };
        if is_here {
            return Ok(Outcome::Done);
        }
        let mut origins = self.store.db().blob_origins(layer)?;
        // What is here already costs least; a blob that was verified before cannot disappoint.
        let verified = self.verified_blob(layer)?.map(|blob| blob.digest);
        origins.sort_by_key(|origin| (Some(origin.digest) != verified, !self.store.blobs().has(&origin.digest)));
        let mut last = "no image that has it is known any more; build again to resolve it".to_owned();
        for origin in origins {
            match self.bring_from(layer, &origin, wish.clone(), progress).await {
                Ok(outcome) => {
                    let blob = LayerBlob { diff_id: layer, digest: origin.digest, size: origin.size };
                    self.store.db().put_layer_blob(builder_snapshot::toc::LayerId(layer.0), &AS_IT_CAME, &blob)?;
                    return Ok(outcome);
                }
                Err(Failure::Store(error)) => return Err(error.into()),
                Err(Failure::Source(cause) | Failure::Content(cause)) => {
                    tracing::debug!(layer = %layer.0, location = origin.location, cause, "cannot bring a layer from here");
                    last = format!("{} from {}: {cause}", origin.digest, origin.location);
                }
            }
        }
        Err(SourceError::Layer { layer: layer.0.to_string(), cause: last })
    }

    async fn bring_from(&self, layer: DiffId, origin: &BlobOrigin, wish: Wish, progress: &dyn Progress) -> Result<Outcome, Failure> {
        if self.store.blobs().has(&origin.digest) {
            let file = self.store.blobs().open(&origin.digest)?;
            match self.unpack(layer, origin, wish.clone(), Box::new(file), false).await {
                // Not what its name says any more: it is brought again.
                Err(Failure::Content(cause)) => {
                    tracing::warn!(blob = %origin.digest, cause, "forgetting a damaged blob");
                    self.store.blobs().forget(&origin.digest);
                }
                outcome => return outcome,
            }
        }
        if let Some(path) = origin.location.strip_prefix(LAYOUT_PREFIX) {
            let file = Layout::new(path, self.store.limits().documents.clone()).open(&origin.digest).map_err(|e| Failure::Source(e.to_string()))?;
            return self.unpack(layer, origin, wish, Box::new(file), true).await;
        }
        if let Some((id, times)) = made_here_of(&origin.location) {
            let store = Arc::clone(&self.store);
            let made = self.threads.run(move |stop| layer_blob(&store, id, times, Compression::Uncompressed, 1, None, &stop)).await;
            let made = made.map_err(|e| Failure::Source(e.to_string()))?.map_err(|e| Failure::Source(e.to_string()))?;
            let file = self.store.blobs().open(&made.digest)?;
            let plain = BlobOrigin { digest: made.digest, size: made.size, media_type: media::OCI_LAYER.into(), ..origin.clone() };
            return self.unpack(layer, &plain, wish, Box::new(file), false).await;
        }
        if origin.location.starts_with(FOREIGN_PREFIX) {
            let stream = self.registry.foreign_blob(&descriptor_of(origin));
            return self.download(layer, origin, stream, wish, progress).await;
        }
        let unknown = || Failure::Source(format!("{} is no place that this version knows", origin.location));
        let reference = repository_of(&origin.location).ok_or_else(unknown)?;
        let blob = descriptor_of(origin);
        match self.download(layer, origin, self.registry.blob(&reference, &blob, false), wish.clone(), progress).await {
            // A mirror may have sent it.
            Err(Failure::Content(cause)) if self.registry.has_mirrors(&reference) => {
                tracing::debug!(digest = %origin.digest, cause, "asking the registry itself");
                self.download(layer, origin, self.registry.blob(&reference, &blob, true), wish, progress).await
            }
            outcome => outcome,
        }
    }

    async fn download(
        &self,
        layer: DiffId,
        origin: &BlobOrigin,
        mut stream: BlobStream<'_>,
        wish: Wish,
        progress: &dyn Progress,
    ) -> Result<Outcome, Failure> {
        let id = origin.digest.to_string();
        progress.status(&id, 0, origin.size, false);
        let (to_unpack, from_network) = mpsc::channel(QUEUE_CHUNKS);
        let unpacked = self.unpack(layer, origin, wish, Box::new(ChunkReader { chunks: from_network, current: Bytes::new() }), true);
        let fetched = async {
            let (mut done, mut told) = (0, Instant::now());
            loop {
                match stream.next().await {
                    Ok(Some(piece)) => {
                        done += piece.len() as u64;
                        // The thread that unpacks gave up: its own failure says why.
                        if to_unpack.send(Ok(piece)).await.is_err() {
                            break;
                        }
                        if told.elapsed() >= TELL_EVERY {
                            told = Instant::now();
                            progress.status(&id, done, origin.size, false);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        // Without this the reader would take the end of the queue for the end of the blob.
                        drop(to_unpack.send(Err(io::Error::other(error.to_string()))).await);
                        return Err(error);
                    }
                }
            }
            drop(to_unpack);
            Ok(())
        };
        let (fetched, unpacked) = tokio::join!(fetched, unpacked);
        match (fetched, unpacked) {
            (Err(error @ (RegistryError::Mismatch { .. } | RegistryError::TooLarge { .. })), _) => Err(Failure::Content(error.to_string())),
            (Err(error), _) => Err(Failure::Source(error.to_string())),
            (Ok(()), outcome) => {
                progress.status(&id, origin.size, origin.size, true);
                outcome
            }
        }
    }

    /// Runs [`unpack`] on a thread that may block.
    async fn unpack(&self, layer: DiffId, origin: &BlobOrigin, wish: Wish, from: Box<dyn Read + Send>, keep: bool) -> Result<Outcome, Failure> {
        let (store, digest, size) = (Arc::clone(&self.store), origin.digest, origin.size);
        let done = self.threads.run(move |stop| unpack(&store, layer, &digest, size, &wish, Box::new(Stoppable::new(from, stop)), keep)).await;
        done.unwrap_or_else(|e| Err(Failure::Source(format!("internal fault: {e}"))))
    }
}

/// Chunks of a download as a reader.
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Passes bytes on, and on the way hashes them or writes them to a blob.
struct Tee<'a, R> {
    from: R,
    to: Sink<'a>,
}

enum Sink<'a> {
    Blob(BlobWriter<'a>),
    Hash { hasher: Hasher, size: u64 },
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        match &mut self.to {
            // Told apart from a failing source by its type: see `stream_failure`.
            Sink::Blob(blob) => blob.write_all(&buffer[..n]).map_err(|e| io::Error::other(StoreError::io("write", blob.path())(e)))?,
            Sink::Hash { hasher, size } => {
                hasher.update(&buffer[..n]);
                *size += n as u64;
            }
        }
        Ok(n)
    }
}

/// Numbers the directories of layers being prepared.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Reads a layer's blob, verifies it, and does what is wished with its files.
fn unpack(
    store: &Store,
    layer: DiffId,
    digest: &Sha256Digest,
    size: u64,
    wish: &Wish,
    from: Box<dyn Read + Send>,
    keep: bool,
) -> Result<Outcome, Failure> {
    if size > store.limits().tar.bytes {
        let reached = LimitReached { name: "bytes", what: "bytes", limit: store.limits().tar.bytes };
        return Err(Failure::Content(format!("it has {reached}")));
    }
    let to = if keep { Sink::Blob(store.blobs().writer()?) } else { Sink::Hash { hasher: Hasher::new(), size: 0 } };
    let from = Counted::new(from);
    let count = from.count();
    let mut packed = BufReader::with_capacity(64 * 1024, Tee { from, to });
    let unpacked = Unpacked::new(&mut packed, store.limits()).map_err(stream_failure)?;
    let mut tar = Tee { from: store.limits().proportionate(unpacked, count), to: Sink::Hash { hasher: Hasher::new(), size: 0 } };

    let prepared = match wish {
        Wish::Blob => None,
        Wish::Files | Wish::FilesOn { .. } => Some(Prepared::new(store)?),
    };
    let mut outcome = Outcome::Done;
    if let Some(prepared) = &prepared {
        let base = match wish {
            Wish::FilesOn { below, .. } => Some(MergedTree::open(below).map_err(|e| Failure::Source(e.to_string()))?),
            _ => None,
        };
        let applied = layer::apply(&mut tar, &prepared.path.join("fs"), base.as_ref(), &store.limits().tar).map_err(layer_failure)?;
        if applied.needs_base {
            outcome = Outcome::NeedsBase;
        } else {
            let path = prepared.path.join("toc");
            fs::write(&path, applied.toc.seal()).map_err(StoreError::io("write", path))?;
            if let Wish::FilesOn { chain, .. } = wish {
                let path = prepared.path.join(CHAIN_FILE);
                fs::write(&path, chain.0.hex()).map_err(StoreError::io("write", path))?;
            }
        }
    }
    // The digests are of everything, also of what stands after the archive's end.
    drain(&mut tar)?;
    let Sink::Hash { hasher, .. } = tar.to else { unreachable!("the inner tee hashes") };
    let found = hasher.finish();
    drain(&mut packed)?;
    match packed.into_inner().to {
        Sink::Blob(blob) => {
            if blob.size() != size {
                return Err(Failure::Content(format!("{digest} has {} bytes, its manifest says {size}", blob.size())));
            }
            // Checked before the blob is kept, lest a wrong claim fill the store.
            if found != layer.0 {
                return Err(Failure::Content(wrong_diff_id(digest, &found)));
            }
            blob.finish(Some(digest))?;
        }
        Sink::Hash { hasher, .. } => {
            let whole = hasher.finish();
            if whole != *digest {
                return Err(Failure::Content(format!("the blob {digest} in the store is damaged: its bytes have {whole}")));
            }
            if found != layer.0 {
                return Err(Failure::Content(wrong_diff_id(digest, &found)));
            }
        }
    }
    if let (Some(prepared), Outcome::Done) = (prepared, &outcome) {
        let name = match wish {
            Wish::FilesOn { name, .. } => *name,
            _ => layer.0,
        };
        store.adopt_layer(builder_snapshot::toc::LayerId(name), &prepared.path)?;
    }
    Ok(outcome)
}

fn wrong_diff_id(digest: &Sha256Digest, found: &Sha256Digest) -> String {
    format!("the blob {digest} unpacks to {found}, which its image does not say: the image is damaged")
}

fn drain(from: &mut dyn Read) -> Result<(), Failure> {
    io::copy(from, &mut io::sink()).map(drop).map_err(stream_failure)
}

/// Why a stream ended early: the store could not keep a copy of it, or its bytes are not what they should be.
fn stream_failure(error: io::Error) -> Failure {
    match error.downcast::<StoreError>() {
        Ok(ours) => Failure::Store(ours),
        Err(error) => Failure::Content(error.to_string()),
    }
}

fn layer_failure(error: LayerError) -> Failure {
    match error {
        // The stream's own failure, or bytes that the decompressor does not take.
        LayerError::Read(source) => stream_failure(source),
        LayerError::Damaged { .. } => Failure::Content(error.to_string()),
        error => Failure::Source(error.to_string()),
    }
}

/// A directory where a layer is prepared; removed unless the store has adopted it.
struct Prepared {
    path: PathBuf,
}

impl Prepared {
    fn new(store: &Store) -> Result<Self, StoreError> {
        let path = store.tmp_dir()?.join(format!("layer-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).map_err(StoreError::io("make directory", &path))?;
        let prepared = Self { path };
        let fs_dir = prepared.path.join("fs");
        fs::create_dir(&fs_dir).map_err(StoreError::io("make directory", fs_dir))?;
        Ok(prepared)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if Path::new(&self.path).exists()
            && let Err(error) = crate::content::remove_tree(&self.path)
        {
            // The next process sweeps it.
            tracing::debug!(%error, "cannot remove a layer that was not finished");
        }
    }
}
