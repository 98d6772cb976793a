//! The client: manifests and small blobs, from mirrors and the registry itself. Large blobs are streamed ([`super::blob`]), results
//! pushed ([`super::push`]); all of them send what [`super::request`] knows how to send.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::blob::BlobStream;
use super::request::{Ask, protocol_error};
use super::token::TokenCache;
use super::{CredentialProvider, Credentials, Endpoint, RegistryConfig, RegistryError, endpoints};
use crate::oci::manifest::{Descriptor, Document};
use crate::oci::{Reference, Sha256Digest, media};

/// Most tries at a mirror: the registry itself is there as well.
const MIRROR_ATTEMPTS: u32 = 2;

/// Asks registries. Cheap to share; all state is caches.
pub struct Registry {
    pub(super) config: RegistryConfig,
    pub(super) credentials: Arc<dyn CredentialProvider>,
    pub(super) clients: Mutex<HashMap<ClientKind, reqwest::Client>>,
    pub(super) tokens: TokenCache,
    pub(super) known_credentials: tokio::sync::Mutex<HashMap<String, Credentials>>,
    /// Scheme by host, once one has worked.
    pub(super) schemes: Mutex<HashMap<String, &'static str>>,
    /// Mirrors that could not be reached: not asked again by this process.
    down: Mutex<HashSet<String>>,
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum ClientKind {
    Plain,
    Public,
    Insecure,
    Host(String),
}

/// What a registry says about a tag without sending the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Digest, if the registry gives one.
    pub digest: Option<Sha256Digest>,
}

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// Digest of `bytes`.
    pub digest: Sha256Digest,
    /// What the registry called it.
    pub media_type: Option<String>,
    /// The document.
    pub bytes: Vec<u8>,
}

/// How hard a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As configured.
    Full,
    /// One try: an older answer will do.
    Short,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are caches: whatever a panicking holder left is still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// A client for `config`. Makes no connection and no TLS set-up yet.
    #[must_use]
    pub fn new(config: RegistryConfig, credentials: Arc<dyn CredentialProvider>) -> Self {
        Self {
            config,
            credentials,
            clients: Mutex::default(),
            tokens: TokenCache::default(),
            known_credentials: tokio::sync::Mutex::default(),
            schemes: Mutex::default(),
            down: Mutex::default(),
            permits: Mutex::default(),
        }
    }

    /// The same for hosts of which TLS is not demanded, whatever the configuration says.
    #[must_use]
    pub(crate) fn relaxed<'a>(&self, hosts: impl Iterator<Item = &'a str>) -> Self {
        let mut config = self.config.clone();
        for host in hosts {
            config.registries.entry(host.to_owned()).or_default().insecure = true;
        }
        Self::new(config, Arc::clone(&self.credentials))
    }

    /// What manifest the tag or digest of `reference` stands for now.
    ///
    /// # Errors
    /// As the registry answers.
    pub async fn head_manifest(&self, reference: &Reference, patience: Patience) -> Result<ManifestHead, RegistryError> {
        let path = format!("manifests/{}", reference.selector());
        let ask = Ask { accept: Some(media::MANIFEST_ACCEPT), ..Ask::read(Method::HEAD, &path) };
        let places = self.places(reference);
        let mut last = RegistryError::NotFound;
        for (n, endpoint) in places.iter().enumerate() {
            let mirror = n + 1 < places.len();
            match self.send(endpoint, &ask, self.attempts(patience, mirror)).await {
                Ok(response) => return Ok(ManifestHead { digest: content_digest(&response) }),
                Err(failure) => last = failure.error,
            }
            self.note_failure(endpoint, mirror, &last);
        }
        Err(last)
    }

    /// Gets a manifest or index, by `selector` (a tag or a digest; none for the reference's own), and checks its digest.
    ///
    /// # Errors
    /// As the registry answers, or [`RegistryError::Mismatch`].
    pub async fn manifest(&self, reference: &Reference, by_digest: Option<&Sha256Digest>, patience: Patience) -> Result<RawManifest, RegistryError> {
        let wanted = by_digest.or(reference.digest.as_ref());
        let selector = wanted.map_or_else(|| reference.selector(), ToString::to_string);
        let path = format!("manifests/{selector}");
        let ask = Ask { accept: Some(media::MANIFEST_ACCEPT), ..Ask::read(Method::GET, &path) };
        let places = self.places(reference);
        let mut last = RegistryError::NotFound;
        for (n, endpoint) in places.iter().enumerate() {
            let mirror = n + 1 < places.len();
            match self.manifest_from(endpoint, &ask, &selector, wanted, self.attempts(patience, mirror)).await {
                // What a mirror makes of a tag has no digest to be compared with; at least it must be a document.
                Ok(found) => match Document::parse(&found.bytes, found.media_type.as_deref(), &self.config.limits.documents) {
                    Err(error) if mirror => last = protocol_error(&endpoint.name, format!("with what is no manifest: {error}")),
                    _ => return Ok(found),
                },
                Err(error) => last = error,
            }
            self.note_failure(endpoint, mirror, &last);
        }
        Err(last)
    }

    pub(super) async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        selector: &str,
        wanted: Option<&Sha256Digest>,
        attempts: u32,
    ) -> Result<RawManifest, RegistryError> {
        let mut tries = 0;
        loop {
            let response = self.send(endpoint, ask, attempts).await.map_err(|failure| failure.error)?;
            let said = content_digest(&response);
            let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let bytes =
                match self.read_bounded(response, self.config.limits.documents.manifest(), &endpoint.host, &format!("manifest {selector}")).await {
                    Ok(bytes) => bytes,
                    // The connection broke within the body.
                    Err(RegistryError::Network { .. }) if tries + 1 < attempts => {
                        self.wait(tries, None).await;
                        tries += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
            let digest = Sha256Digest::of(&bytes);
            for expected in wanted.into_iter().chain(said.as_ref()) {
                if *expected != digest {
                    return Err(RegistryError::Mismatch { host: endpoint.host.clone(), expected: *expected, got: digest.to_string() });
                }
            }
            return Ok(RawManifest { digest, media_type, bytes });
        }
    }

    /// Gets a config whole, checked.
    ///
    /// # Errors
    /// As the registry answers; sizes and digests other than `descriptor`'s.
    pub async fn config(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let reached = self.config.limits.documents.config();
        if descriptor.size > reached.limit {
            return Err(RegistryError::Limit { host: reference.domain.clone(), what: "a manifest of a config".to_owned(), reached });
        }
        match self.whole_blob(self.blob(reference, descriptor, false), descriptor).await {
            // A mirror may have sent it.
            Err(RegistryError::Mismatch { .. } | RegistryError::TooLarge { .. }) if self.has_mirrors(reference) => {
                self.whole_blob(self.blob(reference, descriptor, true), descriptor).await
            }
            outcome => outcome,
        }
    }

    async fn whole_blob(&self, mut stream: BlobStream<'_>, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await? {
            bytes.extend_from_slice(&piece);
        }
        let got = Sha256Digest::of(&bytes);
        if got != descriptor.digest {
            return Err(RegistryError::Mismatch { host: stream.host(), expected: descriptor.digest, got: got.to_string() });
        }
        Ok(bytes)
    }

    /// Whether anything but the registry itself may answer for `reference`.
    pub(crate) fn has_mirrors(&self, reference: &Reference) -> bool {
        endpoints(&self.config, reference).len() > 1
    }

    /// Under which names `domain` may have what the repository of `reference` has: as the registry itself, or as a mirror of it.
    pub(crate) fn paths_at(&self, reference: &Reference, domain: &str) -> Vec<String> {
        endpoints(&self.config, reference).into_iter().rev().filter(|place| place.name == domain).map(|place| place.repository).collect()
    }

    /// Where to ask for `reference`, without mirrors that are known to be down.
    pub(super) fn places(&self, reference: &Reference) -> Vec<Endpoint> {
        let mut places = endpoints(&self.config, reference);
        let origin = places.pop();
        let down = lock(&self.down);
        places.retain(|endpoint| !down.contains(&endpoint.host));
        places.extend(origin);
        places
    }

    pub(super) fn attempts(&self, patience: Patience, mirror: bool) -> u32 {
        match (patience, mirror) {
            (Patience::Short, _) => 1,
            (Patience::Full, true) => self.config.retry.attempts.min(MIRROR_ATTEMPTS),
            (Patience::Full, false) => self.config.retry.attempts.max(1),
        }
    }

    /// A mirror that cannot be reached is not asked again: every request would wait for it.
    fn note_failure(&self, endpoint: &Endpoint, mirror: bool, error: &RegistryError) {
        if mirror {
            tracing::debug!(host = endpoint.host, %error, "mirror does not help");
            if matches!(error, RegistryError::Network { .. }) {
                lock(&self.down).insert(endpoint.host.clone());
            }
        }
    }

    /// A place among the requests for blobs that one host is asked at once.
    pub(super) async fn permit(&self, host: &str) -> Option<OwnedSemaphorePermit> {
        let semaphore = {
            let mut permits = lock(&self.permits);
            Arc::clone(permits.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.config.concurrency.max(1)))))
        };
        // The semaphore is never closed.
        semaphore.acquire_owned().await.ok()
    }
}

pub(super) fn content_digest(response: &Response) -> Option<Sha256Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
