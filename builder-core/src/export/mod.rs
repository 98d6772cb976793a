//! Results to where they are wanted: OCI layouts, docker archives, directories, tars, names in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::content::Store;
use crate::image::FinalImage;
use crate::oci::{Reference, Sha256Digest};
use crate::request::{BuiltImage, Output, Timestamps};
use crate::source::image::{ImageSources, Progress};

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
    /// Anything.
    #[error("{0}")]
    Other(String),
}

/// Writes all outputs. Blobs are made once and shared by all of them. With names and no output the image is kept in the store under
/// these names; so are named images that are written elsewhere.
///
/// # Errors
/// Destinations that cannot be written, layers that cannot be read, requests that contradict themselves.
pub async fn export(
    _request: &ExportRequest<'_>,
    _images: &[FinalImage],
    _store: &Arc<Store>,
    _sources: &ImageSources,
    _progress: &dyn Progress,
) -> Result<Exported, ExportError> {
    todo!()
}
