//! Images as sources: what a reference stands for, and its layers on this machine.
//!
//! [`ImageSources::resolve`] needs a manifest and a config only; layers are brought by [`ImageSources::ensure_layers`] when a step needs
//! their files, or by [`ImageSources::ensure_blobs`] when an export needs their bytes. A build that finds everything asks for nothing but
//! what a tag stands for.

use std::path::PathBuf;
use std::sync::Arc;

use crate::content::{Stack, Store, StoreError};
use crate::frontend::{NeedLocation, ResolvedImage};
use crate::oci::{Descriptor, DiffId, Platform, Reference};
use crate::registry::{CredentialProvider, Registry, RegistryConfig, RegistryError};

/// Told how far downloads are. Called from several threads; must return quickly.
pub trait Progress: Send + Sync {
    /// `current` of `total` bytes of `id` are here.
    fn status(&self, id: &str, current: u64, total: u64, done: bool);
}

impl<F: Fn(&str, u64, u64, bool) + Send + Sync> Progress for F {
    fn status(&self, id: &str, current: u64, total: u64, done: bool) {
        self(id, current, total, done);
    }
}

/// Why an image or its layers could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A reference could not be resolved.
    #[error("failed to resolve source metadata for {reference}: {reference}: {cause}")]
    Resolve {
        /// Which.
        reference: String,
        /// Why.
        cause: String,
    },
    /// A layer could not be had.
    #[error("cannot pull layer {layer}: {cause}")]
    Layer {
        /// Its diff ID.
        layer: String,
        /// Why.
        cause: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Resolves and brings images.
#[derive(Debug)]
pub struct ImageSources {
    registry: Registry,
    store: Arc<Store>,
}

impl ImageSources {
    /// Sources that keep what they bring in `store`.
    #[must_use]
    pub fn new(config: RegistryConfig, credentials: Arc<dyn CredentialProvider>, store: Arc<Store>) -> Self {
        Self { registry: Registry::new(config, credentials), store }
    }

    /// What `reference` stands for, for `platform`. A tag that rbuild built wins unless `pull`; other tags are asked for each time, and
    /// when the registry cannot be reached the last known answer counts and `note` is told.
    ///
    /// # Errors
    /// An image that does not exist, has no such platform, or cannot be read.
    pub async fn resolve(
        &self,
        _reference: &Reference,
        _location: &NeedLocation,
        _platform: &Platform,
        _pull: bool,
        _note: &(dyn Fn(String) + Send + Sync),
    ) -> Result<ResolvedImage, SourceError> {
        let _ = (&self.registry, &self.store);
        todo!()
    }

    /// Brings and unpacks what is missing of `stack`; returns the layers' directories, bottom first.
    ///
    /// # Errors
    /// A layer that nobody has any more, or that is not what its image says.
    pub async fn ensure_layers(&self, _stack: &Stack, _progress: &dyn Progress) -> Result<Vec<PathBuf>, SourceError> {
        todo!()
    }

    /// Brings the blobs of layers of images, without unpacking them; returns their descriptors in order.
    ///
    /// # Errors
    /// As [`ImageSources::ensure_layers`].
    pub async fn ensure_blobs(&self, _layers: &[DiffId], _progress: &dyn Progress) -> Result<Vec<Descriptor>, SourceError> {
        todo!()
    }
}
