//! Images to registries: each layer as soon as its blob is ready, then configs, then manifests, then what names them.
//!
//! # Invariants
//! - A registry never gets a document before everything that it names.
//! - A layer that a registry has, or can take over from another of its repositories, is not sent; one that is not here either is brought for
//!   that only.
//! - Layers are sent as the store's verified bytes; damaged ones never arrive whole.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use tokio::sync::OnceCell;

use super::ExportError;
use super::documents::{Documents, Packed};
use crate::cache::BlobOrigin;
use crate::content::Store;
use crate::oci::{Descriptor, DiffId, Reference, Sha256Digest};
use crate::registry::{Mount, PushBlob, Registry, RegistryError};
use crate::request::Push;
use crate::source::image::{ImageSources, Progress, registry_location, repository_of};

/// Most repositories that are tried as the place to take one blob over from.
const MAX_MOUNTS: usize = 3;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// One push under way, to one or several repositories.
pub(super) struct Pushing<'a> {
    sources: &'a ImageSources,
    /// Other than the sources' own if TLS is not demanded.
    relaxed: Option<Registry>,
    store: &'a Arc<Store>,
    progress: &'a dyn Progress,
    by_digest: bool,
    repositories: Vec<Repository>,
    /// Layers by digest: each is pushed once, however many images have it.
    layers: Mutex<HashMap<Sha256Digest, Arc<OnceCell<()>>>>,
}

/// Where to, and under which tags.
struct Repository {
    reference: Reference,
    tags: Vec<String>,
}

impl<'a> Pushing<'a> {
    /// A push to the repositories of `names`. Nothing is sent yet.
    pub(super) fn new(push: Push, names: &[Reference], sources: &'a ImageSources, store: &'a Arc<Store>, progress: &'a dyn Progress) -> Self {
        let mut repositories: Vec<Repository> = Vec::new();
        for name in names {
            let tag = name.tag.clone().filter(|_| !push.by_digest);
            match repositories.iter_mut().find(|known| known.reference.domain == name.domain && known.reference.path == name.path) {
                Some(known) => known.tags.extend(tag),
                None => {
                    let reference = Reference { tag: None, digest: None, ..name.clone() };
                    repositories.push(Repository { reference, tags: tag.into_iter().collect() });
                }
            }
        }
        let relaxed = push.insecure.then(|| sources.registry.relaxed(names.iter().map(|name| &*name.domain)));
        Self { sources, relaxed, store, progress, by_digest: push.by_digest, repositories, layers: Mutex::default() }
    }

    fn registry(&self) -> &Registry {
        self.relaxed.as_ref().unwrap_or(&self.sources.registry)
    }

    /// Pushes a layer to all repositories, and remembers that it is there.
    pub(super) async fn layer(&self, layer: &Packed) -> Result<(), ExportError> {
        let digest = layer.blob.digest;
        let cell = Arc::clone(self.layers.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default());
        cell.get_or_try_init(|| async {
            for (n, repository) in self.repositories.iter().enumerate() {
                self.layer_to(n, &repository.reference, layer).await?;
                let location = registry_location(&repository.reference);
                let origin = BlobOrigin { digest, media_type: layer.blob.media_type.clone(), size: layer.blob.size, location };
                self.store.db().put_blob_origins(&[(layer.diff_id, origin)])?;
            }
            Ok::<_, ExportError>(())
        })
        .await
        .copied()
    }

    async fn layer_to(&self, number: usize, to: &Reference, layer: &Packed) -> Result<(), ExportError> {
        let Descriptor { digest, size, .. } = layer.blob;
        let what = format!("layer {digest}");
        let failed = |error| failure(to, &what, error);
        if self.registry().has_blob(to, &digest, size).await.map_err(failed)? {
            self.progress.status(&format!("pushing layer {digest}"), size, size, true);
            return Ok(());
        }
        let mut session = None;
        for from in self.other_repositories(number, to, layer.diff_id, &digest)? {
            match self.registry().mount_blob(to, &digest, &from).await {
                Some(Mount::Done) => {
                    self.progress.status(&format!("mounting layer {digest} from {from}"), size, size, true);
                    return Ok(());
                }
                Some(Mount::Begun(begun)) => {
                    session = Some(begun);
                    break;
                }
                None => {}
            }
        }
        if !self.store.blobs().has(&digest) {
            let brought = self.sources.ensure_blobs(&[layer.diff_id], self.progress).await?;
            if brought.iter().all(|blob| blob.digest != digest) {
                return Err(ExportError::Internal(format!("other bytes than {digest} were brought for layer {}", layer.diff_id.0)));
            }
        }
        let blob: Arc<dyn PushBlob> = Arc::new(StoredBlob { store: Arc::clone(self.store), digest, size });
        self.upload(to, &blob, session, &what).await
    }

    async fn upload(
        &self,
        to: &Reference,
        blob: &Arc<dyn PushBlob>,
        session: Option<crate::registry::Session>,
        what: &str,
    ) -> Result<(), ExportError> {
        let (id, size) = (format!("pushing {what}"), blob.size_bytes());
        // Progress comes from the thread that reads; here it is passed on.
        let (told, mut heard) = tokio::sync::watch::channel(0);
        let tell: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(move |done| {
            told.send_replace(done);
        });
        self.progress.status(&id, 0, size, false);
        let sending = async {
            let sent = self.registry().upload_blob(to, blob, session, &tell).await;
            drop(tell);
            sent
        };
        let telling = async {
            while heard.changed().await.is_ok() {
                let done = *heard.borrow_and_update();
                self.progress.status(&id, done.min(size), size, false);
                tokio::time::sleep(TELL_EVERY).await;
            }
        };
        tokio::pin!(sending);
        let sent = tokio::select! {
            sent = &mut sending => sent,
            () = telling => sending.await,
        };
        sent.map_err(|error| failure(to, what, error))?;
        self.progress.status(&id, size, size, true);
        Ok(())
    }

    /// Repositories of the same registry that have a blob: those it is known to come from, and those it has just been pushed to.
    fn other_repositories(&self, number: usize, to: &Reference, layer: DiffId, digest: &Sha256Digest) -> Result<Vec<String>, ExportError> {
        let origins = self.store.db().blob_origins(layer)?;
        let known = origins.iter().filter(|origin| origin.digest == *digest).filter_map(|origin| repository_of(&origin.location));
        let mut found = Vec::new();
        for other in self.repositories[..number].iter().map(|done| done.reference.clone()).chain(known) {
            // The registry may be a mirror of where the blob comes from.
            for path in self.registry().paths_at(&other, &to.domain) {
                if path != to.path && !found.contains(&path) {
                    found.push(path);
                }
            }
        }
        found.truncate(MAX_MOUNTS);
        Ok(found)
    }

    /// Pushes configs and manifests, and names them. All layers have been pushed.
    pub(super) async fn documents(&self, documents: &Documents) -> Result<(), ExportError> {
        for Repository { reference: to, tags } in &self.repositories {
            let configs = documents.images.iter().map(|image| self.config(to, &image.config, &image.config_bytes));
            try_join_all(configs).await?;
            let top_bytes = match (&documents.index, &documents.images[..]) {
                (Some(index), images) => {
                    try_join_all(images.iter().map(|image| self.manifest(to, None, &image.manifest, &image.manifest_bytes))).await?;
                    index
                }
                (None, [image]) => &image.manifest_bytes,
                (None, _) => return Err(ExportError::Internal("several images have no index".into())),
            };
            if self.by_digest || tags.is_empty() {
                self.manifest(to, None, &documents.top, top_bytes).await?;
            }
            for tag in tags {
                self.manifest(to, Some(tag), &documents.top, top_bytes).await?;
            }
        }
        Ok(())
    }

    async fn config(&self, to: &Reference, config: &Descriptor, bytes: &[u8]) -> Result<(), ExportError> {
        let what = format!("config {}", config.digest);
        if self.registry().has_blob(to, &config.digest, config.size).await.map_err(|error| failure(to, &what, error))? {
            return Ok(());
        }
        let blob: Arc<dyn PushBlob> = Arc::new(Held { digest: config.digest, bytes: bytes.to_vec() });
        self.upload(to, &blob, None, &what).await
    }

    async fn manifest(&self, to: &Reference, tag: Option<&str>, manifest: &Descriptor, bytes: &[u8]) -> Result<(), ExportError> {
        let selector = tag.map_or_else(|| manifest.digest.to_string(), str::to_owned);
        let name = Reference { tag: tag.map(str::to_owned), digest: None, ..to.clone() };
        let what = format!("manifest {}", manifest.digest);
        let pushed = self.registry().push_manifest(to, &selector, &manifest.media_type, bytes).await;
        pushed.map_err(|error| failure(&name, &what, error))?;
        self.progress.status(&format!("pushing manifest for {name}@{}", manifest.digest), 0, 0, true);
        Ok(())
    }
}

/// How often an upload says how far it is.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

fn failure(reference: &Reference, what: &str, error: RegistryError) -> ExportError {
    let reason = match error {
        RegistryError::NotFound => "the registry knows no such repository; create it there, or mend the name".to_owned(),
        RegistryError::Unreadable { detail, .. } => detail,
        error => error.to_string(),
    };
    ExportError::Push { reference: reference.to_string(), what: what.to_owned(), reason }
}

/// A blob of the store.
struct StoredBlob {
    store: Arc<Store>,
    digest: Sha256Digest,
    size: u64,
}

impl PushBlob for StoredBlob {
    fn digest(&self) -> Sha256Digest {
        self.digest
    }

    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut blob = self.store.blobs().open_verified(&self.digest).map_err(io::Error::other)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match blob.read(&mut buffer)? {
                0 => return Ok(()),
                n => out.write_all(&buffer[..n])?,
            }
        }
    }
}

/// A blob in memory.
struct Held {
    digest: Sha256Digest,
    bytes: Vec<u8>,
}

impl PushBlob for Held {
    fn digest(&self) -> Sha256Digest {
        self.digest
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.bytes)
    }
}
