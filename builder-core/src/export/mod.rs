//! Results to where they are wanted: OCI layouts, docker archives, engines, registries, directories, tars, names in the store.
//!
//! [`documents`] makes blobs, configs and manifests; [`layout`] and [`archive`] put them down, [`push`] sends them away; [`rootfs`] writes
//! file trees.
//!
//! # Invariants
//! - Same image, same request, same bytes: entries are ordered, times in documents are the image's own.
//! - Layers of images from elsewhere keep their blobs unless `force_compression` asks otherwise; their times are never touched.
//! - A file is at its place whole or not at all.

mod annotations;
mod archive;
mod documents;
pub(crate) mod early;
mod layout;
mod push;
mod rootfs;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder_snapshot::layer::TimePolicy;
use builder_snapshot::stop::Stoppable;
use builder_snapshot::{LayerError, SnapshotError, StopSignal};
use serde_json::json;

use crate::cache::{BlobOrigin, ImageEntry};
use crate::content::{Store, StoreError};
use crate::image::FinalImage;
use crate::layer::LayerBlobError;
use crate::oci::{Reference, Sha256Digest};
use crate::request::{BuiltImage, Compression, Output, OutputDest, OutputKind, Timestamps};
use crate::source::image::{ImageSources, Progress, SourceError, made_here_location};
use crate::tripwire::Tripwire;
use crate::whole_file::WholeFile;

use documents::{Blobs, Documents, Form};
use push::Pushing;

/// How much is collected before it is written.
const BUFFER_BYTES: usize = 128 * 1024;

/// What is wanted.
#[derive(Debug)]
pub struct ExportRequest<'a> {
    /// Where to, in order.
    pub outputs: &'a [Output],
    /// Names of the image.
    pub tags: &'a [Reference],
    /// Annotations of manifests.
    pub annotations: &'a BTreeMap<String, String>,
    /// Seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// What becomes of times in new layers; none: clamp if there is an epoch.
    pub timestamps: Option<Timestamps>,
    /// Secrets that nothing may hold; none if no secrets were lent.
    pub tripwire: Option<Arc<Tripwire>>,
    /// Whether the result is an index also if it has one image only.
    pub index: bool,
}

impl ExportRequest<'_> {
    fn has_index(&self, images: &[FinalImage]) -> bool {
        self.index || images.len() > 1
    }
}

/// What was made.
#[derive(Debug, Clone, Default)]
pub struct Exported {
    /// As in `--metadata-file` (`features.md` D8).
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// Digest of the manifest or, for several platforms, of the index.
    pub digest: Option<Sha256Digest>,
    /// One entry a platform.
    pub images: Vec<BuiltImage>,
}

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The request contradicts itself.
    #[error("{0}")]
    Request(String),
    /// A file could not be written.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something is in the way that we won't remove.
    #[error("cannot write {path:?}: {reason}")]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What is there, and what to do.
        reason: String,
    },
    /// An image could not be pushed.
    #[error("cannot push {reference}: {what}: {reason}")]
    Push {
        /// Under which name.
        reference: String,
        /// What of it.
        what: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// A container engine did not take an image.
    #[error("cannot load the image into {engine}: {reason}")]
    Load {
        /// Which engine.
        engine: String,
        /// What it says.
        reason: String,
    },
    /// Standard output fails.
    #[error("cannot write to standard output: {0}")]
    Stdout(#[source] io::Error),
    /// A layer of another image could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer could not be packed.
    #[error(transparent)]
    Layer(#[from] LayerBlobError),
    /// A tar could not be written.
    #[error(transparent)]
    Tar(#[from] LayerError),
    /// A tree could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What would be written holds the value of a secret.
    #[error(
        "the value of secret {id} is {form} in {place}, which was not exported: keep it out of there, or allow it with --allow-secret-in-image={id}"
    )]
    Secret {
        /// The secret's id.
        id: String,
        /// As what.
        form: &'static str,
        /// Where.
        place: String,
    },
    /// A fault of rbuild itself.
    #[error("internal fault: {0}")]
    Internal(String),
}

impl ExportError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Writes all outputs. Blobs are made once and shared by all of them. With names and no output the image is kept in the store under
/// these names; so are named images that are written elsewhere.
///
/// # Errors
/// Destinations that cannot be written, layers that cannot be read, requests that contradict themselves.
pub async fn export(
    request: &ExportRequest<'_>,
    images: &[FinalImage],
    store: &Arc<Store>,
    sources: &ImageSources,
    progress: &dyn Progress,
) -> Result<Exported, ExportError> {
    let built = |image: &FinalImage| BuiltImage { platform: image.platform.clone(), manifest: None, config: None };
    let mut exported = Exported { images: images.iter().map(built).collect(), ..Exported::default() };
    check(request, images)?;
    let mut named = false;
    for output in request.outputs {
        let times = time_policy(request, output);
        let names = if output.names.is_empty() { request.tags } else { &output.names };
        match output.kind {
            OutputKind::CacheOnly => {}
            OutputKind::Local => {
                rootfs::local(&split(request, output), images, epoch_of(times), request.tripwire.as_ref(), store, sources, progress).await?
            }
            OutputKind::Tar => {
                rootfs::tar(&split(request, output), images, epoch_of(times), request.tripwire.as_ref(), store, sources, progress).await?
            }
            OutputKind::Oci { .. } | OutputKind::Docker => {
                let form = form_of(request, output, Blobs::All)?;
                let documents = documents::make(&form, images, store, sources, None, progress).await?;
                write_image(output, &documents, names, images, store, sources, progress).await?;
                name(&documents, request.tags, store)?;
                named = true;
                tell(&mut exported, &documents, names);
            }
            OutputKind::Image => {
                let documents = match output.push {
                    Some(push) => {
                        let form = form_of(request, output, Blobs::Made)?;
                        let pushing = Pushing::new(push, names, sources, store, progress);
                        let documents = documents::make(&form, images, store, sources, Some(&pushing), progress).await?;
                        pushing.documents(&documents).await?;
                        documents
                    }
                    None => documents::make(&unpacked_form(request)?, images, store, sources, None, progress).await?,
                };
                if output.unpack {
                    for image in images {
                        sources.ensure_layers(&image.stack, progress).await?;
                    }
                }
                if output.store {
                    documents.keep(store)?;
                    name(&documents, names, store)?;
                    named = true;
                }
                tell(&mut exported, &documents, names);
            }
        }
    }
    let is_elsewhere = request.outputs.iter().any(|output| output.kind == OutputKind::Image && !output.store);
    if !named && !request.tags.is_empty() && !is_elsewhere {
        let documents = documents::make(&unpacked_form(request)?, images, store, sources, None, progress).await?;
        name(&documents, request.tags, store)?;
        tell(&mut exported, &documents, request.tags);
    }
    Ok(exported)
}

/// A tree of a result with an index lies in a directory of its platform, also if it is the only one.
fn split(request: &ExportRequest<'_>, output: &Output) -> Output {
    Output { platform_split: output.platform_split.or(request.index.then_some(true)), ..output.clone() }
}

/// In which form an output has its images.
fn form_of(request: &ExportRequest<'_>, output: &Output, blobs: Blobs) -> Result<Form, ExportError> {
    Ok(Form {
        times: time_policy(request, output),
        compression: output.compression,
        force: output.force_compression,
        oci: output.oci_mediatypes,
        blobs,
        keep_foreign: output.keep_foreign,
        annotations: annotations::parse(request.annotations.iter().chain(&output.annotations))?,
        tripwire: request.tripwire.clone(),
        index: request.index,
    })
}

/// The form of images that stay in the store: nothing is packed for them.
fn unpacked_form(request: &ExportRequest<'_>) -> Result<Form, ExportError> {
    Ok(Form {
        times: default_times(request, request.source_date_epoch),
        compression: Compression::Uncompressed,
        force: false,
        oci: true,
        blobs: Blobs::None,
        keep_foreign: false,
        annotations: annotations::parse(request.annotations.iter())?,
        tripwire: request.tripwire.clone(),
        index: request.index,
    })
}

fn check(request: &ExportRequest<'_>, images: &[FinalImage]) -> Result<(), ExportError> {
    let refuse = |text: &str| Err(ExportError::Request(text.to_owned()));
    let to_stdout = request.outputs.iter().filter(|output| matches!(output.dest, OutputDest::Stdout)).count();
    if to_stdout > 1 {
        return refuse("only one output may go to standard output: give the others a dest");
    }
    for output in request.outputs {
        if output.kind == OutputKind::Docker && request.has_index(images) {
            return refuse("a docker archive holds one platform: use type=oci, or choose one with --platform");
        }
        if output.push.is_some() && output.names.is_empty() && request.tags.is_empty() {
            return refuse("pushing needs a name: give it a tag");
        }
        let needs_place = !matches!(output.kind, OutputKind::CacheOnly | OutputKind::Image);
        if needs_place && matches!(output.dest, OutputDest::None) {
            return refuse("an output has no destination: give it one with dest=");
        }
        if output.kind != OutputKind::Docker && matches!(output.dest, OutputDest::Engine(_)) {
            return refuse("an engine takes docker archives only: use type=docker");
        }
        let is_directory = matches!(output.kind, OutputKind::Local | OutputKind::Oci { tar: false });
        if is_directory && matches!(output.dest, OutputDest::Stdout) {
            return refuse("a directory cannot be written to standard output: use type=tar, or give it a dest");
        }
    }
    Ok(())
}

fn default_times(request: &ExportRequest<'_>, epoch: Option<i64>) -> TimePolicy {
    match (request.timestamps, epoch) {
        (Some(Timestamps::Keep), _) | (_, None) => TimePolicy::Keep,
        (_, Some(epoch_seconds)) => TimePolicy::Clamp { epoch_seconds },
    }
}

fn time_policy(request: &ExportRequest<'_>, output: &Output) -> TimePolicy {
    match request.source_date_epoch {
        Some(epoch_seconds) if output.rewrite_timestamp => TimePolicy::Clamp { epoch_seconds },
        epoch => default_times(request, epoch),
    }
}

fn epoch_of(times: TimePolicy) -> Option<i64> {
    match times {
        TimePolicy::Keep => None,
        TimePolicy::Clamp { epoch_seconds } => Some(epoch_seconds),
    }
}

async fn write_image(
    output: &Output,
    documents: &Documents,
    names: &[Reference],
    images: &[FinalImage],
    store: &Arc<Store>,
    sources: &ImageSources,
    progress: &dyn Progress,
) -> Result<(), ExportError> {
    let created = images.iter().filter_map(|image| image.document.created.clone()).max();
    let entries = layout::entries(documents, names, created.as_deref());
    let docker = (output.kind == OutputKind::Docker).then(|| layout::docker_manifest(documents, names));
    let (store, documents, dest) = (Arc::clone(store), documents.clone(), output.dest.clone());
    let as_directory = matches!(output.kind, OutputKind::Oci { tar: false });
    let label = match &output.dest {
        OutputDest::Engine(engine) => format!("importing to {}", engine.name()),
        _ if as_directory => "copying files".to_owned(),
        _ => "sending tarball".to_owned(),
    };
    progress.status(&label, 0, 0, false);
    blocking(sources, move |stop| match dest {
        OutputDest::Path(path) if as_directory => layout::write_directory(&path, &documents, entries, &store, stop),
        OutputDest::Path(path) => write_file(&path, stop, |out| layout::write_tar(out, &documents, &entries, docker.as_deref(), &store)),
        OutputDest::Stdout => write_stdout(stop, |out| layout::write_tar(out, &documents, &entries, docker.as_deref(), &store)),
        OutputDest::Engine(engine) => {
            let mut failure = None;
            let mut write = |out: &mut dyn Write| {
                let out = &mut Stoppable::new(out, stop.clone());
                let written = layout::write_tar(out, &documents, &entries, docker.as_deref(), &store);
                written.map_err(|error| {
                    let kind = error_kind(&error);
                    failure = Some(error);
                    io::Error::from(kind)
                })
            };
            let loaded = engine.load(store.tmp_dir()?, &mut write);
            match (loaded, failure) {
                // That the engine no longer listens is explained by the engine.
                (Err(reason), None) => Err(ExportError::Load { engine: engine.name(), reason }),
                (Err(reason), Some(error)) if error_kind(&error) == io::ErrorKind::BrokenPipe => {
                    Err(ExportError::Load { engine: engine.name(), reason })
                }
                (_, Some(error)) => Err(error),
                (Ok(()), None) => Ok(()),
            }
        }
        OutputDest::None => Ok(()),
    })
    .await?;
    progress.status(&label, 0, 0, true);
    Ok(())
}

fn error_kind(error: &ExportError) -> io::ErrorKind {
    match error {
        ExportError::Io { source, .. } => source.kind(),
        _ => io::ErrorKind::Other,
    }
}

/// Keeps the image in the store under its names.
fn name(documents: &Documents, tags: &[Reference], store: &Store) -> Result<(), ExportError> {
    if tags.is_empty() {
        return Ok(());
    }
    documents.keep(store)?;
    let mut origins = Vec::new();
    for image in &documents.images {
        for ((diff_id, layer), made_from) in image.diff_ids.iter().zip(&image.layers).zip(&image.made_from) {
            if let Some((id, times)) = *made_from {
                let location = made_here_location(id, times);
                origins.push((*diff_id, BlobOrigin { digest: layer.digest, media_type: layer.media_type.clone(), size: layer.size, location }));
            }
        }
    }
    store.db().put_blob_origins(&origins)?;
    for tag in tags {
        let top = &documents.top;
        let entry = ImageEntry { digest: top.digest, media_type: top.media_type.clone(), size: top.size, built: true };
        store.db().put_image(tag, &entry)?;
    }
    Ok(())
}

/// Fills in what the build came to; the first output counts.
fn tell(exported: &mut Exported, documents: &Documents, names: &[Reference]) {
    if exported.digest.is_some() {
        return;
    }
    exported.digest = Some(documents.top.digest);
    for (built, image) in exported.images.iter_mut().zip(&documents.images) {
        built.manifest = Some(image.manifest.digest);
        built.config = Some(image.config.digest);
    }
    if let [image] = &documents.images[..] {
        exported.metadata.insert("containerimage.config.digest".into(), json!(image.config.digest.to_string()));
    }
    exported.metadata.insert("containerimage.descriptor".into(), json!(documents.top));
    exported.metadata.insert("containerimage.digest".into(), json!(documents.top.digest.to_string()));
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        exported.metadata.insert("image.name".into(), json!(names.join(",")));
    }
}

/// Runs blocking work on a thread for it, which ends soon if this future is dropped.
async fn blocking<T: Send + 'static>(
    sources: &ImageSources,
    work: impl FnOnce(&StopSignal) -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    sources.threads.run(move |stop| work(&stop)).await.unwrap_or_else(|e| Err(ExportError::Internal(e.to_string())))
}

/// Writes a file that is at `path` whole or not at all, so that a broken export leaves what was there. Pipes and devices are written to directly.
fn write_file(path: &Path, stop: &StopSignal, write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>) -> Result<(), ExportError> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => {
            return Err(ExportError::InTheWay { path: path.to_path_buf(), reason: "it is a directory: name a file in it".into() });
        }
        Ok(there) if !there.is_file() => {
            let file = OpenOptions::new().write(true).open(path).map_err(ExportError::io("open", path))?;
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, Stoppable::new(file, stop.clone()));
            write(&mut out)?;
            return out.flush().map_err(ExportError::io("write", path));
        }
        _ => {}
    }
    // A link to a file stays a link.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let parent = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(ExportError::io("make directory", parent))?;
    let dir = File::open(parent).map_err(ExportError::io("open directory", parent))?;
    let name = real.file_name().unwrap_or_default();
    let new = WholeFile::create(dir.as_fd(), name, 0o666).map_err(ExportError::io("make", &real))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Stoppable::new(new.file(), stop.clone()));
    write(&mut out)?;
    out.flush().map_err(ExportError::io("write", &real))?;
    // What was buffered is written; dropping a buffer that was not would write it.
    drop(out);
    new.publish(name).map_err(ExportError::io("put the finished file at", &real))
}

/// Writes a small file that is at `path` whole or not at all, as outputs are.
///
/// # Errors
/// A place that cannot be written to.
pub fn write_small_file(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    write_file(path, &StopSignal::default(), |out| out.write_all(bytes).map_err(ExportError::io("write", path)))
}

fn write_stdout(stop: &StopSignal, write: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>) -> Result<(), ExportError> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Stoppable::new(io::stdout().lock(), stop.clone()));
    write(&mut out)?;
    out.flush().map_err(ExportError::Stdout)
}
