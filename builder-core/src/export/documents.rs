//! From images to blobs, configs, manifests and an index.

use std::collections::BTreeMap;
use std::sync::Arc;

use builder_snapshot::StopSignal;
use builder_snapshot::layer::TimePolicy;
use builder_snapshot::toc::LayerId;
use futures_util::future::try_join_all;

use super::annotations::Annotations;
use super::push::Pushing;
use super::{ExportError, blocking};
use crate::cache::LayerBlob;
use crate::content::{Store, StoreError};
use crate::image::FinalImage;
use crate::layer::{self, LayerBlobError};
use crate::oci::manifest::{Index, Manifest, PlatformObject, to_json};
use crate::oci::media::{self, Packing};
use crate::oci::{Descriptor, DiffId, Sha256Digest};
use crate::request::Compression;
use crate::source::image::{ImageSources, Progress};
use crate::tripwire::{self, Tripwire};

/// In which form images are made.
pub(super) struct Form {
    pub(super) times: TimePolicy,
    pub(super) compression: Compression,
    /// Recompress layers from elsewhere too.
    pub(super) force: bool,
    /// OCI media types, else Docker's.
    pub(super) oci: bool,
    /// Which blobs are wanted.
    pub(super) blobs: Blobs,
    /// Foreign layers stay where they are.
    pub(super) keep_foreign: bool,
    pub(super) annotations: Annotations,
    /// Secrets that nothing may hold.
    pub(super) tripwire: Option<Arc<Tripwire>>,
    /// An index also for one image.
    pub(super) index: bool,
}

/// Which blobs are wanted in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blobs {
    /// None: only what they are called.
    None,
    /// Those that have to be made. Others may be where they are wanted already.
    Made,
    /// All.
    All,
}

/// One or several images, ready to be put down.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    /// In the order asked for.
    pub(super) images: Vec<OneImage>,
    /// The index, if there are several.
    pub(super) index: Option<Vec<u8>>,
    /// The manifest, or the index.
    pub(super) top: Descriptor,
}

/// One platform's image.
#[derive(Debug, Clone)]
pub(super) struct OneImage {
    pub(super) manifest: Descriptor,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) config: Descriptor,
    pub(super) config_bytes: Vec<u8>,
    pub(super) layers: Vec<Descriptor>,
    pub(super) diff_ids: Vec<DiffId>,
    /// Which layers of the store, and in which form, those are that rbuild made.
    pub(super) made_from: Vec<Option<(LayerId, TimePolicy)>>,
}

/// A layer as a blob.
pub(super) struct Packed {
    pub(super) diff_id: DiffId,
    pub(super) blob: Descriptor,
    made_from: Option<(LayerId, TimePolicy)>,
}

impl Documents {
    /// Puts configs, manifests and the index among the store's blobs.
    pub(super) fn keep(&self, store: &Store) -> Result<(), StoreError> {
        for image in &self.images {
            store.blobs().put(&image.config_bytes)?;
            store.blobs().put(&image.manifest_bytes)?;
        }
        if let Some(index) = &self.index {
            store.blobs().put(index)?;
        }
        Ok(())
    }

    /// Documents and layers, each once, in the order of the images.
    pub(super) fn blobs(&self) -> Vec<(Sha256Digest, Blob<'_>)> {
        let mut all: Vec<(Sha256Digest, Blob<'_>)> = Vec::new();
        let mut add = |digest: Sha256Digest, blob| {
            if all.iter().all(|(known, _)| *known != digest) {
                all.push((digest, blob));
            }
        };
        for image in &self.images {
            // What has addresses of its own is had from there.
            for layer in image.layers.iter().filter(|layer| layer.urls.is_empty()) {
                add(layer.digest, Blob::Stored(layer.size));
            }
            add(image.config.digest, Blob::Here(&image.config_bytes));
            add(image.manifest.digest, Blob::Here(&image.manifest_bytes));
        }
        if let Some(index) = &self.index {
            add(self.top.digest, Blob::Here(index));
        }
        all
    }
}

/// Where a blob's bytes are.
pub(super) enum Blob<'a> {
    /// In memory.
    Here(&'a [u8]),
    /// In the store; how many bytes.
    Stored(u64),
}

fn described(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: Sha256Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    }
}

/// Makes the blobs of all layers and the documents around them. Each layer is pushed as soon as its blob is there, if there is a `push`.
pub(super) async fn make(
    form: &Form,
    images: &[FinalImage],
    store: &Arc<Store>,
    sources: &ImageSources,
    push: Option<&Pushing<'_>>,
    progress: &dyn Progress,
) -> Result<Documents, ExportError> {
    if !form.oci && !form.annotations.is_empty() {
        return Err(ExportError::Request("annotations need OCI media types: leave out oci-mediatypes=false, or the annotations".into()));
    }
    let has_index_annotations = !form.annotations.index.is_empty() || !form.annotations.index_descriptor.is_empty();
    if images.len() == 1 && !form.index && has_index_annotations {
        return Err(ExportError::Request("index annotations need an index, which only images for several platforms have".into()));
    }
    progress.status("exporting layers", 0, 0, false);
    let permits = tokio::sync::Semaphore::new(layer::threads());
    // The first failure ends the rest: nothing more is pushed of an image that will not be there.
    let made = try_join_all(images.iter().map(|image| layers(form, image, store, sources, push, &permits, progress))).await?;
    progress.status("exporting layers", 0, 0, true);
    let mut all = Vec::with_capacity(images.len());
    for (image, layers) in images.iter().zip(made) {
        let image = document(form, image, layers);
        search(form, &image)?;
        progress.status(&format!("exporting manifest {}", image.manifest.digest), 0, 0, true);
        progress.status(&format!("exporting config {}", image.config.digest), 0, 0, true);
        all.push(image);
    }
    let (index, top) = match &all[..] {
        [one] if !form.index => (None, one.manifest.clone()),
        _ => {
            let media_type = if form.oci { media::OCI_INDEX } else { media::DOCKER_LIST };
            let manifests = all.iter().map(|image| image.manifest.clone()).collect();
            let index = Index { schema_version: 2, media_type: media_type.into(), manifests, annotations: form.annotations.index.clone() };
            let bytes = to_json(&index);
            let mut top = described(media_type, &bytes);
            top.annotations.clone_from(&form.annotations.index_descriptor);
            progress.status(&format!("exporting manifest list {}", top.digest), 0, 0, true);
            (Some(bytes), top)
        }
    };
    Ok(Documents { images: all, index, top })
}

/// Searches what is written about an image for secrets.
fn search(form: &Form, image: &OneImage) -> Result<(), ExportError> {
    let Some(tripwire) = &form.tripwire else { return Ok(()) };
    for (what, document) in [("config", &image.config_bytes), ("manifest", &image.manifest_bytes)] {
        // What is escaped in the document is plain in its values.
        let place = tripwire::place_in_json(tripwire, document);
        let found = tripwire.find(document);
        if place.is_some() || found.is_some() {
            let (id, form) = found.map_or_else(|| (String::new(), "as it is"), |found| (found.id, found.form));
            let place = place.map_or_else(|| format!("the image's {what}"), |place| format!("{place} of the image's {what}"));
            return Err(ExportError::Secret { id, form, place });
        }
    }
    Ok(())
}

fn document(form: &Form, image: &FinalImage, packed: Vec<Packed>) -> OneImage {
    let diff_ids: Vec<DiffId> = packed.iter().map(|layer| layer.diff_id).collect();
    let made_from = packed.iter().map(|layer| layer.made_from).collect();
    let layers: Vec<Descriptor> = packed.into_iter().map(|layer| layer.blob).collect();
    let config_bytes = image.config_json(&diff_ids);
    let config = described(if form.oci { media::OCI_CONFIG } else { media::DOCKER_CONFIG }, &config_bytes);
    let media_type = if form.oci { media::OCI_MANIFEST } else { media::DOCKER_MANIFEST };
    let annotations = form.annotations.of_manifest(&image.platform);
    let written = Manifest { schema_version: 2, media_type: media_type.into(), config: config.clone(), layers: layers.clone(), annotations };
    let manifest_bytes = to_json(&written);
    let mut manifest = described(media_type, &manifest_bytes);
    manifest.annotations = form.annotations.of_descriptor(&image.platform);
    manifest.platform = Some(PlatformObject {
        os_version: image.document.os_version.clone(),
        os_features: image.document.os_features.clone(),
        ..PlatformObject::from(&image.platform)
    });
    OneImage { manifest, manifest_bytes, config, config_bytes, layers, diff_ids, made_from }
}

/// Says which layer a secret is in.
fn secret_in_layer(error: ExportError, image: &FinalImage, number: usize) -> ExportError {
    match error {
        ExportError::Layer(LayerBlobError::Secret { id, form, file }) => {
            let made_by = image.history.iter().filter(|entry| entry.empty_layer != Some(true)).nth(number);
            let made_by = made_by.and_then(|entry| entry.created_by.as_deref()).map(|by| format!(" ({by})")).unwrap_or_default();
            let place = format!("file {file} of layer {} of {}{made_by}", number + 1, image.stack.layers.len());
            ExportError::Secret { id, form, place }
        }
        error => error,
    }
}

/// The layers of an image as blobs, in order.
async fn layers(
    form: &Form,
    image: &FinalImage,
    store: &Arc<Store>,
    sources: &ImageSources,
    push: Option<&Pushing<'_>>,
    permits: &tokio::sync::Semaphore,
    progress: &dyn Progress,
) -> Result<Vec<Packed>, ExportError> {
    // A base that was built here has its layers in the store: they are packed as this build's own, so its names need no blobs.
    let mut made = Vec::with_capacity(image.stack.layers.len());
    for layer in &image.stack.layers {
        made.push(if layer.is_from_image() { sources.made_here(DiffId(layer.id.0))? } else { Some((layer.id, form.times)) });
    }
    let foreign: Vec<DiffId> = image.stack.layers.iter().zip(&made).filter(|(_, made)| made.is_none()).map(|(layer, _)| DiffId(layer.id.0)).collect();
    let brought = match form.blobs {
        Blobs::None => sources.claimed_blobs(&foreign)?,
        Blobs::Made if !form.force => sources.described_blobs(&foreign, progress).await?,
        Blobs::All if form.keep_foreign => brought_but_foreign(&foreign, sources, progress).await?,
        Blobs::Made | Blobs::All => sources.ensure_blobs(&foreign, progress).await?,
    };
    let mut brought = brought.into_iter();
    let is_made = form.blobs != Blobs::None;
    let work = image.stack.layers.iter().zip(made).enumerate().map(|(number, (layer, made_from))| {
        let tripwire = form.tripwire.clone();
        let named = move |error| secret_in_layer(error, image, number);
        let original = if made_from.is_none() { brought.next() } else { None };
        let (store, id) = (Arc::clone(store), layer.id);
        async move {
            // Each layer's pieces are compressed by several threads already; a few at once hide the waits of small ones. The semaphore is never
            // closed.
            let permit = permits.acquire().await.ok();
            let compression = form.compression;
            let (blob, packing) = match (made_from, original) {
                (Some((id, times)), _) if is_made => {
                    let make =
                        move |stop: &StopSignal| Ok(layer::layer_blob(&store, id, times, compression, layer::threads(), tripwire.as_deref(), stop)?);
                    let made = blocking(sources, make).await.map_err(named)?;
                    (made, layer::packing(compression))
                }
                (Some((id, times)), _) => {
                    let make = move |stop: &StopSignal| Ok(layer::layer_name(&store, id, times, tripwire.as_deref(), stop)?);
                    (blocking(sources, make).await.map_err(named)?, Packing::Plain)
                }
                (None, Some(original)) if form.keep_foreign && media::is_foreign(&original.media_type) => {
                    let urls = sources.foreign_urls(DiffId(id.0), &original.digest)?;
                    return Ok(Packed { diff_id: DiffId(id.0), blob: Descriptor { urls, ..original }, made_from: None });
                }
                (None, Some(original)) if form.force && is_made => {
                    let diff_id = DiffId(id.0);
                    let make =
                        move |stop: &StopSignal| Ok(layer::recompressed(&store, diff_id, &original.digest, compression, layer::threads(), stop)?);
                    (blocking(sources, make).await?, layer::packing(compression))
                }
                (None, Some(original)) => {
                    // The type in the original manifest may be Docker's or OCI's; what it says about packing is kept.
                    let packing = Packing::of_media_type(&original.media_type).unwrap_or(Packing::Gzip);
                    (LayerBlob { diff_id: DiffId(id.0), digest: original.digest, size: original.size }, packing)
                }
                (None, None) => return Err(ExportError::Internal(format!("no blob was brought for layer {}", id.0))),
            };
            let media_type = packing.layer_media_type(form.oci).to_owned();
            let LayerBlob { diff_id, digest, size } = blob;
            let blob = Descriptor { media_type, digest, size, urls: Vec::new(), annotations: BTreeMap::new(), platform: None };
            let packed = Packed { diff_id, blob, made_from };
            drop(permit);
            if let Some(push) = push {
                push.layer(&packed).await?;
            }
            Ok::<_, ExportError>(packed)
        }
    });
    try_join_all(work.collect::<Vec<_>>()).await
}

/// The blobs of layers, with those of foreign layers left where they are.
async fn brought_but_foreign(layers: &[DiffId], sources: &ImageSources, progress: &dyn Progress) -> Result<Vec<Descriptor>, ExportError> {
    let claimed = sources.described_blobs(layers, progress).await?;
    let stay = |blob: &Descriptor| media::is_foreign(&blob.media_type);
    let wanted: Vec<DiffId> = layers.iter().zip(&claimed).filter(|(_, blob)| !stay(blob)).map(|(layer, _)| *layer).collect();
    let mut brought = sources.ensure_blobs(&wanted, progress).await?.into_iter();
    Ok(claimed.into_iter().filter_map(|blob| if stay(&blob) { Some(blob) } else { brought.next() }).collect())
}
