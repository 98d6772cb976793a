//! The facade.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::content::{Store, StoreError};
use crate::error::BuildError;
use crate::event::EventSink;
use crate::registry::{CredentialProvider, NoCredentials, RegistryConfig};
use crate::request::{BuildReport, BuildRequest};

/// How a [`Builder`] works: everything that belongs to the machine rather than to one build.
pub struct BuilderConfig {
    /// Where the store is.
    pub root: PathBuf,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// Knows their passwords.
    pub credentials: Arc<dyn CredentialProvider>,
    /// The text of the machine's resolv.conf, for steps that use its network.
    pub resolv_conf: Vec<u8>,
    /// Most steps at a time. Steps of different stages may wait for each other, so this is no count of processors.
    pub max_parallel: usize,
}

/// Enough for stages that wait for each other; more would only cost memory.
const DEFAULT_PARALLEL: usize = 16;

impl BuilderConfig {
    /// A store at `root` and defaults for the rest.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registries: RegistryConfig::default(),
            credentials: Arc::new(NoCredentials),
            resolv_conf: Vec::new(),
            max_parallel: DEFAULT_PARALLEL,
        }
    }
}

/// Builds images.
pub struct Builder {
    store: Arc<Store>,
}

impl Builder {
    /// A builder on the store of `config`.
    ///
    /// # Errors
    /// A store that cannot be made or opened.
    pub fn new(config: BuilderConfig) -> Result<Self, StoreError> {
        Ok(Self { store: Arc::new(Store::open(&config.root)?) })
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Builds what `request` says. Progress goes to `events`; when `cancel` is cancelled, all processes are ended and awaited first.
    ///
    /// # Errors
    /// Why the build ended.
    pub async fn build(&self, _request: BuildRequest, _events: Arc<dyn EventSink>, _cancel: CancellationToken) -> Result<BuildReport, BuildError> {
        Err(BuildError::Internal("the builder is being raised".into()))
    }
}
