//! Images as sources: what a reference stands for, and its layers on this machine.
//!
//! [`ImageSources::resolve`] needs a manifest and a config only; layers are brought by [`ImageSources::ensure_layers`] when a step needs
//! their files, or by [`ImageSources::ensure_blobs`] when an export needs their bytes. A build that finds everything asks for nothing but
//! what a tag stands for.
//!
//! # Invariants
//! - What an image says about itself is a claim until its bytes were here: blobs are compared with their digests, layers with their diff IDs.
//!   Several claims about one diff ID stand beside each other; a wrong one makes its own image fail and no other.
//! - A tag is asked for once: one value of [`ImageSources`] serves one build.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use builder_snapshot::layer::TimePolicy;
use builder_snapshot::toc::LayerId;

use crate::cache::{BlobOrigin, ImageEntry};
use crate::content::{Stack, Store, StoreError};
use crate::frontend::{NeedLocation, ResolvedImage};
use crate::oci::manifest::{Document, Manifest, check_config, select};
use crate::oci::{Descriptor, DiffId, ImageDocument, Platform, Reference, Sha256Digest, media};
use crate::registry::{CredentialProvider, Patience, RawManifest, Registry, RegistryConfig};
use crate::source::oci_layout::Layout;
use crate::threads::Threads;

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
    /// A reference could not be resolved. Who asked for it says so in words of its own.
    #[error("{reference}: {cause}")]
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Resolves and brings images.
#[derive(Debug)]
pub struct ImageSources {
    pub(crate) registry: Registry,
    pub(super) store: Arc<Store>,
    /// What tags were found to stand for in this build.
    tags: tokio::sync::Mutex<HashMap<Reference, RawManifest>>,
    /// Layers being brought, so that nobody brings one twice.
    pub(super) flights: Mutex<HashMap<DiffId, Arc<tokio::sync::Mutex<()>>>>,
    /// Where layers are unpacked and outputs written.
    pub(crate) threads: Threads,
}

/// Where an image's documents and blobs come from.
enum Place<'a> {
    Registry(&'a Reference),
    Layout(Layout),
}

impl ImageSources {
    /// Sources that keep what they bring in `store`.
    #[must_use]
    pub fn new(config: RegistryConfig, credentials: Arc<dyn CredentialProvider>, store: Arc<Store>) -> Self {
        Self { registry: Registry::new(config, credentials), store, tags: Default::default(), flights: Mutex::default(), threads: Threads::default() }
    }

    /// What `reference` stands for, for `platform`. A tag that rbuild built wins unless `pull`; other tags are asked for each time, and
    /// when the registry cannot be reached the last known answer counts and `note` is told.
    ///
    /// # Errors
    /// An image that does not exist, has no such platform, or cannot be read.
    pub async fn resolve(
        &self,
        reference: &Reference,
        location: &NeedLocation,
        platform: &Platform,
        pull: bool,
        note: &(dyn Fn(String) + Send + Sync),
    ) -> Result<ResolvedImage, SourceError> {
        let outcome = match location {
            NeedLocation::Registry => match self.top(reference, pull, note).await {
                Ok(top) => self.read_image(&Place::Registry(reference), top, platform).await,
                Err(cause) => Err(cause),
            },
            NeedLocation::OciLayout(path) => {
                let layout = Layout::new(path, self.store.limits().documents.clone());
                let top = layout.choose(reference).and_then(|entry| {
                    let bytes = layout.manifest(&entry.digest)?;
                    Ok(RawManifest { digest: entry.digest, media_type: Some(entry.media_type).filter(|kind| !kind.is_empty()), bytes })
                });
                match top {
                    Ok(top) => self.read_image(&Place::Layout(layout), top, platform).await,
                    Err(cause) => Err(cause),
                }
            }
        };
        outcome.map_err(|cause| SourceError::Resolve { reference: reference.to_string(), cause })
    }

    /// The manifest or index that `reference` stands for.
    async fn top(&self, reference: &Reference, pull: bool, note: &(dyn Fn(String) + Send + Sync)) -> Result<RawManifest, String> {
        // Held while asking: the platforms of one build ask for the same tag at the same time, and must get the same answer.
        let mut tags = self.tags.lock().await;
        if let Some(known) = tags.get(reference) {
            return Ok(known.clone());
        }
        let found = self.find_top(reference, pull, note).await?;
        tags.insert(reference.clone(), found.clone());
        Ok(found)
    }

    async fn find_top(&self, reference: &Reference, pull: bool, note: &(dyn Fn(String) + Send + Sync)) -> Result<RawManifest, String> {
        let db = self.store.db();
        if let Some(digest) = reference.digest {
            if let Some(bytes) = self.stored(&digest) {
                return Ok(RawManifest { digest, media_type: None, bytes });
            }
            let raw = self.registry.manifest(reference, None, Patience::Full).await.map_err(|e| e.to_string())?;
            self.store.blobs().put(&raw.bytes).map_err(|e| e.to_string())?;
            return Ok(raw);
        }
        let known = db.image(reference).map_err(|e| e.to_string())?;
        let known = known.and_then(|entry| {
            let bytes = self.stored(&entry.digest)?;
            Some((entry.built, RawManifest { digest: entry.digest, media_type: Some(entry.media_type), bytes }))
        });
        if let Some((true, raw)) = &known
            && !pull
        {
            return Ok(raw.clone());
        }
        let asked = match &known {
            Some((_, raw)) => match self.registry.head_manifest(reference, Patience::Short).await {
                Ok(head) if head.digest == Some(raw.digest) => return Ok(raw.clone()),
                Ok(_) => self.registry.manifest(reference, None, Patience::Full).await,
                // Some registries answer HEAD worse than GET; only being out of reach is final.
                Err(error) if error.is_unreachable() => Err(error),
                Err(_) => self.registry.manifest(reference, None, Patience::Short).await,
            },
            None => self.registry.manifest(reference, None, Patience::Full).await,
        };
        match (asked, known) {
            (Ok(raw), _) => {
                self.store.blobs().put(&raw.bytes).map_err(|e| e.to_string())?;
                Ok(raw)
            }
            (Err(error), Some((false, raw))) if error.is_unreachable() => {
                note(format!("using {} as it was known before ({}): {error}", reference, raw.digest));
                Ok(raw)
            }
            (Err(error), _) => Err(error.to_string()),
        }
    }

    /// A small blob of the store, if it is there and whole.
    fn stored(&self, digest: &Sha256Digest) -> Option<Vec<u8>> {
        let blobs = self.store.blobs();
        blobs.has(digest).then(|| blobs.read(digest).ok()).flatten()
    }

    /// From a manifest or index down to a config.
    async fn read_image(&self, place: &Place<'_>, top: RawManifest, platform: &Platform) -> Result<ResolvedImage, String> {
        let (manifest_digest, manifest) = self.manifest_for(place, &top, platform).await?;
        let config_bytes = self.config_bytes(place, &manifest.config).await?;
        let unreadable = |e: String| format!("its config {} cannot be read: {e}", manifest.config.digest);
        check_config(&config_bytes, &self.store.limits().documents).map_err(unreadable)?;
        let config: ImageDocument = serde_json::from_slice(&config_bytes).map_err(|e| unreadable(e.to_string()))?;
        let diff_ids = diff_ids(&config, &manifest)?;
        self.store.blobs().put(&config_bytes).map_err(|e| e.to_string())?;
        self.remember(place, &top, &manifest, &diff_ids).map_err(|e| e.to_string())?;
        let mut own = format!("{}/{}", config.os, config.architecture);
        if let Some(variant) = config.variant.as_deref().filter(|variant| !variant.is_empty()) {
            own = format!("{own}/{variant}");
        }
        // Images from scratch-like tools may say nothing; then they are what was asked for.
        let own = own.parse().unwrap_or_else(|_| platform.clone());
        Ok(ResolvedImage { manifest: manifest_digest, diff_ids, config, platform: own })
    }

    async fn manifest_for(&self, place: &Place<'_>, top: &RawManifest, platform: &Platform) -> Result<(Sha256Digest, Manifest), String> {
        let mut raw = top.clone();
        let limits = &self.store.limits().documents;
        // As many indexes, and the manifest.
        for _ in 0..=limits.index_depth {
            match Document::parse(&raw.bytes, raw.media_type.as_deref(), limits).map_err(|e| e.to_string())? {
                Document::Manifest(manifest) => return Ok((raw.digest, manifest)),
                Document::Index(index) => {
                    let entry = select(&index, platform).map_err(|there| {
                        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                        format!("no match for platform in manifest: not found: it is not made for {platform}; available: {there}")
                    })?;
                    raw = self.document(place, entry).await?;
                }
            }
        }
        Err(format!("it has {}", limits.indexes()))
    }

    async fn document(&self, place: &Place<'_>, entry: &Descriptor) -> Result<RawManifest, String> {
        let media_type = Some(entry.media_type.clone());
        if let Some(bytes) = self.stored(&entry.digest) {
            return Ok(RawManifest { digest: entry.digest, media_type, bytes });
        }
        let bytes = match place {
            Place::Registry(reference) => {
                self.registry.manifest(reference, Some(&entry.digest), Patience::Full).await.map_err(|e| e.to_string())?.bytes
            }
            Place::Layout(layout) => layout.manifest(&entry.digest)?,
        };
        if bytes.len() as u64 != entry.size {
            return Err(format!("manifest {} has {} bytes, its index says {}", entry.digest, bytes.len(), entry.size));
        }
        self.store.blobs().put(&bytes).map_err(|e| e.to_string())?;
        Ok(RawManifest { digest: entry.digest, media_type, bytes })
    }

    async fn config_bytes(&self, place: &Place<'_>, config: &Descriptor) -> Result<Vec<u8>, String> {
        if !matches!(config.media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG) {
            return Err(format!("it is no container image: its config is of type {:?}", config.media_type));
        }
        if let Some(bytes) = self.stored(&config.digest) {
            return Ok(bytes);
        }
        match place {
            Place::Registry(reference) => self.registry.config(reference, config).await.map_err(|e| format!("its config {}: {e}", config.digest)),
            Place::Layout(layout) => layout.config(&config.digest),
        }
    }

    /// Writes down what was found, as far as it is new.
    fn remember(&self, place: &Place<'_>, top: &RawManifest, manifest: &Manifest, diff_ids: &[DiffId]) -> Result<(), StoreError> {
        let blobs = self.store.blobs();
        let location = match place {
            Place::Registry(reference) => registry_location(reference),
            Place::Layout(layout) => {
                // A layout may go away before the build that uses its manifest is repeated.
                blobs.put(&top.bytes)?;
                format!("{LAYOUT_PREFIX}{}", layout.path().display())
            }
        };
        let mut origins = Vec::with_capacity(diff_ids.len());
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            let origin = BlobOrigin { digest: layer.digest, media_type: layer.media_type.clone(), size: layer.size, location: location.clone() };
            let foreign = layer.urls.iter().take(4).map(|url| BlobOrigin { location: format!("{FOREIGN_PREFIX}{url}"), ..origin.clone() });
            origins.extend(std::iter::once(origin.clone()).chain(foreign).map(|origin| (*diff_id, origin)));
        }
        self.store.db().put_blob_origins(&origins)?;
        if let Place::Registry(reference) = place {
            let media_type = top.media_type.clone().unwrap_or_else(|| media::OCI_MANIFEST.to_owned());
            let entry = ImageEntry { digest: top.digest, media_type, size: top.bytes.len() as u64, built: false };
            let known = self.store.db().image(reference)?;
            if known.is_none_or(|known| known.digest != entry.digest) {
                self.store.db().put_image(reference, &entry)?;
            }
        }
        Ok(())
    }

    /// The layer of this store whose tar has the diff ID `layer`, if rbuild made one and named an image with it.
    pub(crate) fn made_here(&self, layer: DiffId) -> Result<Option<(LayerId, TimePolicy)>, SourceError> {
        let origins = self.store.db().blob_origins(layer)?;
        Ok(origins.iter().filter_map(|origin| made_here_of(&origin.location)).find(|(id, _)| self.store.has_layer(*id)))
    }

    /// Brings and unpacks what is missing of `stack`; returns the layers' directories, bottom first.
    ///
    /// # Errors
    /// A layer that nobody has any more, or that is not what its image says.
    pub async fn ensure_layers(&self, stack: &Stack, progress: &dyn Progress) -> Result<Vec<PathBuf>, SourceError> {
        self.bring_layers(stack, progress).await
    }

    /// Brings the blobs of layers of images, without unpacking them; returns their descriptors in order.
    ///
    /// # Errors
    /// As [`ImageSources::ensure_layers`].
    pub async fn ensure_blobs(&self, layers: &[DiffId], progress: &dyn Progress) -> Result<Vec<Descriptor>, SourceError> {
        self.bring_blobs(layers, progress).await
    }

    pub(super) fn flight(&self, layer: DiffId) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(layer).or_default())
    }
}

/// Begins the location of blobs in a layout directory.
pub(super) const LAYOUT_PREFIX: &str = "oci-layout:";
/// Begins the location of blobs at an address of their own.
pub(super) const FOREIGN_PREFIX: &str = "url:";
/// The location of blobs in a repository of a registry.
pub(crate) fn registry_location(repository: &Reference) -> String {
    format!("{}/{}", repository.domain, repository.path)
}

/// Reads what [`registry_location`] wrote.
pub(crate) fn repository_of(location: &str) -> Option<Reference> {
    let is_other = [LAYOUT_PREFIX, FOREIGN_PREFIX, STORE_PREFIX].iter().any(|prefix| location.starts_with(prefix));
    if is_other { None } else { location.parse().ok() }
}

/// Begins the location of layers that rbuild made: the store itself can make their blobs again.
const STORE_PREFIX: &str = "store:";

/// The location of a layer made here, in the form that has the diff ID in question.
pub(crate) fn made_here_location(layer: LayerId, times: TimePolicy) -> String {
    match times {
        TimePolicy::Keep => format!("{STORE_PREFIX}keep:{}", layer.0.hex()),
        TimePolicy::Clamp { epoch_seconds } => format!("{STORE_PREFIX}{epoch_seconds}:{}", layer.0.hex()),
    }
}

/// Reads what [`made_here_location`] wrote.
pub(super) fn made_here_of(location: &str) -> Option<(LayerId, TimePolicy)> {
    let (times, layer) = location.strip_prefix(STORE_PREFIX)?.split_once(':')?;
    let times = match times {
        "keep" => TimePolicy::Keep,
        seconds => TimePolicy::Clamp { epoch_seconds: seconds.parse().ok()? },
    };
    Some((LayerId(Sha256Digest::from_hex(layer)?), times))
}

fn diff_ids(config: &ImageDocument, manifest: &Manifest) -> Result<Vec<DiffId>, String> {
    if let Some(other) = manifest.layers.iter().find(|layer| !media::is_layer(&layer.media_type)) {
        return Err(format!("it is no container image: it has a layer of type {:?}", other.media_type));
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(format!("its config lists {} layers, its manifest {}", config.rootfs.diff_ids.len(), manifest.layers.len()));
    }
    config.rootfs.diff_ids.iter().map(|text| text.parse().map(DiffId).map_err(|e| format!("its config is damaged: {e}"))).collect()
}

/// A descriptor of the blob that `origin` tells of.
pub(super) fn descriptor_of(origin: &BlobOrigin) -> Descriptor {
    Descriptor {
        media_type: origin.media_type.clone(),
        digest: origin.digest,
        size: origin.size,
        urls: origin.location.strip_prefix(FOREIGN_PREFIX).map(str::to_owned).into_iter().collect(),
        annotations: BTreeMap::new(),
        platform: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::oci::manifest::{Index, PlatformObject, to_json};
    use crate::registry::NoCredentials;
    use crate::registry::tests::{Reply, Server, config, reply};

    /// An image for linux/amd64 and linux/arm64: paths and documents.
    struct Hub {
        documents: HashMap<String, (String, Vec<u8>)>,
        index: Sha256Digest,
    }

    fn described(kind: &str, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: kind.into(),
            digest: Sha256Digest::of(bytes),
            size: bytes.len() as u64,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    fn hub(layers: &[&str]) -> Hub {
        let mut documents = HashMap::new();
        let mut manifests = Vec::new();
        for arch in ["amd64", "arm64"] {
            let diff_ids: Vec<String> = layers.iter().map(|layer| Sha256Digest::of(layer.as_bytes()).to_string()).collect();
            let config = serde_json::json!({"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
            let manifest = Manifest {
                schema_version: 2,
                media_type: media::OCI_MANIFEST.into(),
                config: described(media::OCI_CONFIG, config.as_bytes()),
                layers: layers.iter().map(|layer| described(media::OCI_LAYER, layer.as_bytes())).collect(),
                annotations: BTreeMap::new(),
            };
            documents.insert(format!("blobs/{}", manifest.config.digest), (media::OCI_CONFIG.to_owned(), config.into_bytes()));
            let bytes = to_json(&manifest);
            let mut entry = described(media::OCI_MANIFEST, &bytes);
            entry.platform = Some(PlatformObject::from(&format!("linux/{arch}").parse::<Platform>().expect("platform")));
            documents.insert(format!("manifests/{}", entry.digest), (media::OCI_MANIFEST.to_owned(), bytes));
            manifests.push(entry);
        }
        let index = Index { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests, annotations: BTreeMap::new() };
        let bytes = to_json(&index);
        let index = Sha256Digest::of(&bytes);
        documents.insert(format!("manifests/{index}"), (media::OCI_INDEX.to_owned(), bytes.clone()));
        documents.insert("manifests/t".to_owned(), (media::OCI_INDEX.to_owned(), bytes));
        Hub { documents, index }
    }

    impl Hub {
        fn answer(&self, path: &str) -> Reply {
            match self.documents.get(path.strip_prefix("/v2/a/b/").unwrap_or_default()) {
                Some((kind, bytes)) => reply(200, bytes.clone())
                    .header("content-type", kind.clone())
                    .header("docker-content-digest", Sha256Digest::of(bytes).to_string()),
                None => reply(404, ""),
            }
        }
    }

    struct Bench {
        server: Server,
        store: Arc<Store>,
        _root: tempfile::TempDir,
    }

    impl Bench {
        async fn new(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
            let root = tempfile::tempdir().expect("tempdir");
            let store = Arc::new(Store::open(root.path()).expect("store"));
            Self { server: Server::start(move |request, _| answer(&request.path)).await, store, _root: root }
        }

        /// One build's resolution.
        async fn resolve(&self, suffix: &str, platform: &str, pull: bool) -> Result<(ResolvedImage, Vec<String>), String> {
            let sources = ImageSources::new(config(), Arc::new(NoCredentials), Arc::clone(&self.store));
            let notes = Mutex::new(Vec::new());
            let note = |text| notes.lock().expect("no panic").push(text);
            let reference = format!("{}/a/b{suffix}", self.server.host).parse().expect("reference");
            let platform = platform.parse().expect("platform");
            let image = sources.resolve(&reference, &NeedLocation::Registry, &platform, pull, &note).await.map_err(|e| e.to_string())?;
            Ok((image, notes.into_inner().expect("no panic")))
        }

        fn paths(&self) -> Vec<String> {
            let short = |path: &str| path.strip_prefix("/v2/a/b/").unwrap_or(path).chars().take(14).collect::<String>();
            self.server.seen().iter().map(|request| format!("{} {}", request.method, short(&request.path))).collect()
        }
    }

    #[tokio::test]
    async fn b5_1_a_second_build_asks_what_the_tag_is_and_nothing_else() {
        let image = hub(&["one", "two"]);
        let bench = Bench::new(move |path| image.answer(path)).await;
        let (first, _) = bench.resolve(":t", "linux/arm64", false).await.expect("resolved");
        assert_eq!(first.diff_ids, [DiffId(Sha256Digest::of(b"one")), DiffId(Sha256Digest::of(b"two"))]);
        assert_eq!(first.platform.to_string(), "linux/arm64");
        assert_eq!(bench.paths()[..2], ["GET manifests/t", "GET manifests/sha2"]);
        assert!(bench.paths()[2].starts_with("GET blobs/"), "the config");
        let (second, _) = bench.resolve(":t", "linux/arm64", false).await.expect("resolved");
        assert_eq!(second.manifest, first.manifest);
        assert_eq!(bench.paths()[3..], ["HEAD manifests/t"]);
    }

    #[tokio::test]
    async fn f11_pinned_images_need_no_network_twice_and_tags_fall_back() {
        let image = hub(&["one"]);
        let (index, up) = (image.index, Arc::new(AtomicBool::new(true)));
        let is_up = Arc::clone(&up);
        let bench = Bench::new(move |path| if is_up.load(Ordering::SeqCst) { image.answer(path) } else { reply(503, "") }).await;
        bench.resolve(&format!("@{index}"), "linux/amd64", false).await.expect("resolved");
        let asked = bench.paths().len();
        up.store(false, Ordering::SeqCst);
        bench.resolve(&format!("@{index}"), "linux/amd64", false).await.expect("known");
        assert_eq!(bench.paths().len(), asked);

        assert!(bench.resolve(":t", "linux/amd64", false).await.is_err(), "never seen");
        up.store(true, Ordering::SeqCst);
        bench.resolve(":t", "linux/amd64", false).await.expect("resolved");
        up.store(false, Ordering::SeqCst);
        let (_, notes) = bench.resolve(":t", "linux/amd64", true).await.expect("known");
        assert!(notes[0].contains("as it was known before"), "{notes:?}");
    }

    #[tokio::test]
    async fn a_tag_built_here_wins_unless_pulled() {
        let image = hub(&["one"]);
        let bench = Bench::new(move |path| image.answer(path)).await;
        let built = hub(&["built"]);
        for (_, bytes) in built.documents.values() {
            bench.store.blobs().put(bytes).expect("put");
        }
        let reference: Reference = format!("{}/a/b:t", bench.server.host).parse().expect("reference");
        let entry = ImageEntry { digest: built.index, media_type: media::OCI_INDEX.into(), size: 1, built: true };
        bench.store.db().put_image(&reference, &entry).expect("put");
        let (image, _) = bench.resolve(":t", "linux/amd64", false).await.expect("built");
        assert_eq!(image.diff_ids, [DiffId(Sha256Digest::of(b"built"))]);
        assert_eq!(bench.paths().len(), 0);
        let (image, _) = bench.resolve(":t", "linux/amd64", true).await.expect("pulled");
        assert_eq!(image.diff_ids, [DiffId(Sha256Digest::of(b"one"))]);
    }

    #[tokio::test]
    async fn errors_name_the_image_and_what_there_is() {
        let image = hub(&["one"]);
        let bench = Bench::new(move |path| image.answer(path)).await;
        let error = bench.resolve(":t", "linux/s390x", false).await.expect_err("no such platform");
        assert!(error.contains("linux/s390x") && error.contains("available: linux/amd64, linux/arm64"), "{error}");
        let error = bench.resolve(":missing", "linux/amd64", false).await.expect_err("no such tag");
        let name = format!("{}/a/b:missing", bench.server.host);
        assert_eq!(error, format!("{name}: not found"));
    }

    #[tokio::test]
    async fn futures_can_be_spawned() {
        fn is_send<T: Send>(_: &T) {}
        let bench = Bench::new(|_| reply(404, "")).await;
        let sources = ImageSources::new(config(), Arc::new(NoCredentials), Arc::clone(&bench.store));
        let (stack, silent) = (Stack::default(), |_: &str, _, _, _| {});
        let future = sources.ensure_layers(&stack, &silent);
        is_send(&future);
        assert_eq!(future.await.expect("nothing to do"), Vec::<PathBuf>::new());
    }
}
