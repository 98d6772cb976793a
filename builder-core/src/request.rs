//! What to build, said once and whole. Parsed by the caller; nothing below reads flags, environment or home directories.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use builder_snapshot::exec::ResourceLimits;

use builder_snapshot::user_namespace::Isolation;

use crate::frontend::Frontend;
use crate::oci::{Platform, Reference, Sha256Digest};
use crate::secret::Secret;

/// One build.
pub struct BuildRequest {
    /// What compiles the definition (holds the Dockerfile, the arguments, the target).
    pub frontend: Arc<dyn Frontend>,
    /// Local directories by name: `context` is the main one.
    pub contexts: BTreeMap<String, LocalContext>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Ids of secrets whose values may be in what is exported.
    pub allow_secret_in_image: Vec<String>,
    /// Agent sockets by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Where results go; none keeps them in the store.
    pub outputs: Vec<Output>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// Entitlements granted.
    pub allow: Vec<Entitlement>,
    /// Seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<i64>,
    /// What becomes of times in new layers; none: clamp if there is an epoch, else keep.
    pub timestamps: Option<Timestamps>,
    /// Re-resolve images even when the store knows them.
    pub pull: bool,
    /// Default network of RUN.
    pub network: crate::graph::Network,
    /// What each RUN and everything it starts may use. In no key.
    pub resources: ResourceLimits,
    /// Certificates (PEM) that each RUN trusts in the place of the image's. In no key, layer or history.
    pub host_ca: Option<Arc<[u8]>>,
    /// How long each RUN may take. In no key.
    pub step_timeout: Option<Duration>,
    /// Annotations of manifests.
    pub annotations: BTreeMap<String, String>,
}

impl BuildRequest {
    /// A build of what `frontend` compiles, with no context, no output, no name and no rights: the caller adds what it has.
    #[must_use]
    pub fn new(frontend: Arc<dyn Frontend>) -> Self {
        Self {
            frontend,
            contexts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            allow_secret_in_image: Vec::new(),
            ssh: BTreeMap::new(),
            outputs: Vec::new(),
            tags: Vec::new(),
            allow: Vec::new(),
            source_date_epoch: None,
            timestamps: None,
            pull: false,
            network: crate::graph::Network::Default,
            resources: ResourceLimits::default(),
            host_ca: None,
            step_timeout: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A directory that the build may copy from.
#[derive(Debug, Clone)]
pub struct LocalContext {
    /// Absolute.
    pub path: PathBuf,
    /// Which paths count.
    pub ignore: Option<Arc<dyn IgnoreRules>>,
    /// Whether the directory is a stand-in for no context at all (`-` with a Dockerfile): nothing in it is read.
    pub empty: bool,
}

impl LocalContext {
    /// All of the directory `path`, which must be absolute.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ignore: None, empty: false }
    }
}

/// Which paths of a context are left out. Implemented by frontends.
pub trait IgnoreRules: fmt::Debug + Send + Sync {
    /// Whether `path` (relative, slash-separated) is left out.
    fn is_ignored(&self, path: &[u8]) -> bool;
    /// Whether nothing below the ignored directory `path` can be re-included, so that it need not be walked.
    fn prunes(&self, path: &[u8]) -> bool;
    /// The rule that leaves `path` out, for people (`line 3 of .dockerignore: secret*`); none if it can't be told.
    fn deciding_rule(&self, path: &[u8]) -> Option<String> {
        let _ = path;
        None
    }
}

/// Something that a build may do only when asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entitlement {
    /// `network.host`.
    NetworkHost,
    /// `security.insecure`.
    SecurityInsecure,
}

/// What becomes of times in new layers (DESIGN §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamps {
    /// As they are.
    Keep,
    /// None later than the epoch; those made by a step become the epoch.
    Clamp,
}

/// A place for results (`features.md` D1).
#[derive(Debug, Clone)]
pub struct Output {
    /// Which form.
    pub kind: OutputKind,
    /// Where.
    pub dest: OutputDest,
    /// How layers are compressed.
    pub compression: Compression,
    /// Recompress layers that come from elsewhere too.
    pub force_compression: bool,
    /// OCI media types (else Docker's).
    pub oci_mediatypes: bool,
    /// Names; the request's tags if empty.
    pub names: Vec<Reference>,
    /// Further annotations of manifests.
    pub annotations: BTreeMap<String, String>,
    /// Several platforms in directories of their own (`local`, `tar`); none: only if there are several.
    pub platform_split: Option<bool>,
    /// Clamp times whatever the request says (`rewrite-timestamp=true`).
    pub rewrite_timestamp: bool,
    /// Whether and how an image is pushed.
    pub push: Option<Push>,
    /// Whether an image is kept in the store under its names.
    pub store: bool,
    /// Whether all layers of an image are unpacked in the store, as if a step had needed them.
    pub unpack: bool,
    /// Layers that their images do not let be passed on (foreign ones) stay references to where they are.
    pub keep_foreign: bool,
}

/// How an image is pushed: to the registries that its names say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Push {
    /// Under its digest only, with no tag.
    pub by_digest: bool,
    /// Plain http and unverified TLS will do.
    pub insecure: bool,
}

/// Takes images into a container engine of this machine.
pub trait EngineLoader: fmt::Debug + Send + Sync {
    /// What the engine is called, for messages.
    fn name(&self) -> String;

    /// Gives the engine an archive, which `write` writes. A temporary file may be made in `tmp`. Blocks.
    ///
    /// # Errors
    /// What the engine says, or what writing fails with.
    fn load(&self, tmp: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), String>;
}

impl Output {
    /// `kind` to `dest`, gzip layers, OCI media types, everything else left out.
    #[must_use]
    pub fn new(kind: OutputKind, dest: OutputDest) -> Self {
        Self {
            kind,
            dest,
            compression: Compression::Gzip { level: None },
            force_compression: false,
            oci_mediatypes: true,
            names: Vec::new(),
            annotations: BTreeMap::new(),
            platform_split: None,
            rewrite_timestamp: false,
            push: None,
            store: true,
            unpack: false,
            keep_foreign: false,
        }
    }
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// OCI layout; a tar, or a directory.
    Oci {
        /// Whether as a tar.
        tar: bool,
    },
    /// Docker archive that is an OCI layout as well.
    Docker,
    /// The root file system as a directory.
    Local,
    /// The root file system as a tar.
    Tar,
    /// Nothing.
    CacheOnly,
    /// An image in the store, under its names if it has some, and in registries if it is pushed. Without both only its id is wanted.
    Image,
}

/// Where an output goes.
#[derive(Debug, Clone)]
pub enum OutputDest {
    /// A file or directory.
    Path(PathBuf),
    /// Standard output.
    Stdout,
    /// A container engine of this machine.
    Engine(Arc<dyn EngineLoader>),
    /// Nowhere.
    None,
}

/// Compression of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Plain tar.
    Uncompressed,
    /// gzip.
    Gzip {
        /// 0–9; none for 6.
        level: Option<u32>,
    },
    /// zstd.
    Zstd {
        /// 1–22; none for 3.
        level: Option<i32>,
    },
}

/// What a build came to.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// One entry a platform.
    pub images: Vec<BuiltImage>,
    /// Digest of the manifest or, for several platforms, of the index.
    pub digest: Option<Sha256Digest>,
    /// Exporters' answers, as in `--metadata-file` (`features.md` D8).
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// On which rung the build stood: what its steps were kept in.
    pub isolation: Isolation,
    /// Steps that ran, and steps that were found in the store.
    pub steps_run: usize,
    /// Found in the store.
    pub steps_cached: usize,
}

/// One image.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// For which platform.
    pub platform: Platform,
    /// Digest of its manifest, if one was made.
    pub manifest: Option<Sha256Digest>,
    /// Digest of its config, if one was made.
    pub config: Option<Sha256Digest>,
}
