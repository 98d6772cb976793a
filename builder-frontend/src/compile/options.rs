//! What a Dockerfile is compiled with: everything a caller may say besides the file itself.

use std::collections::BTreeMap;

use builder_core::graph::Network;
use builder_core::oci::{Platform, Reference};
use builder_core::request::Entitlement;

use crate::ignore::IgnoreFile;

/// Everything that decides what a Dockerfile compiles to, besides what [`builder_core::frontend::Resolved`] brings.
#[derive(Debug, Clone)]
pub struct FrontendOptions {
    /// The file.
    pub dockerfile: DockerfileSource,
    /// Where files are that it includes.
    pub includes: IncludeRoot,
    /// The main build context. Local unless a caller says otherwise; a local one is `context` in the request.
    pub context: NamedContext,
    /// `--target`: a stage's name in any case, or its index.
    pub target: Option<String>,
    /// `--build-arg`; of equal names the last wins.
    pub build_args: Vec<(String, String)>,
    /// `--label`: applied last, without history.
    pub labels: Vec<(String, String)>,
    /// `--platform`. Empty: the build platform, or that of the base image (`features.md` A6.10).
    pub platforms: Vec<Platform>,
    /// The platform of this machine (`BUILDPLATFORM`).
    pub build_platform: Platform,
    /// `--build-context`, by name as given; `name::os/arch` counts for that platform only.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// Network of RUN without `--network`.
    pub network: Network,
    /// Host name of RUN; none for `buildkitsandbox`. The build argument `BUILDKIT_SANDBOX_HOSTNAME` wins.
    pub hostname: Option<String>,
    /// `--add-host`: name, address.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--allow`.
    pub allow: Vec<Entitlement>,
    /// `SOURCE_DATE_EPOCH` of the request; the argument of that name takes it where none is given.
    pub source_date_epoch: Option<i64>,
    /// The main context's ignore file, for the check `CopyIgnoredFile`.
    pub context_ignore: Option<IgnoreFile>,
    /// Refuse what only this frontend understands.
    pub strict: bool,
    /// Prefix of cache mount ids. The build argument `BUILDKIT_CACHE_MOUNT_NS` wins.
    pub cache_mount_namespace: String,
}

impl FrontendOptions {
    /// For `dockerfile`, with everything else left out.
    #[must_use]
    pub fn new(dockerfile: DockerfileSource, build_platform: Platform) -> Self {
        Self {
            dockerfile,
            includes: IncludeRoot::default(),
            context: NamedContext::Local { name: "context".to_owned() },
            target: None,
            build_args: Vec::new(),
            labels: Vec::new(),
            platforms: Vec::new(),
            build_platform,
            named_contexts: BTreeMap::new(),
            no_cache: NoCache::None,
            network: Network::Default,
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            allow: Vec::new(),
            source_date_epoch: None,
            context_ignore: None,
            strict: false,
            cache_mount_namespace: String::new(),
        }
    }
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// Here.
    Text {
        /// Name for messages, as the user gave it.
        name: String,
        /// Content.
        text: String,
    },
    /// On a web server: the engine is asked for it.
    Web {
        /// Address.
        url: String,
    },
    /// In the main context: the engine is asked for it.
    InContext {
        /// Path inside.
        path: String,
    },
}

/// Where the files are that a Dockerfile includes ([`crate::include`]): nothing outside of this directory can be.
///
/// Of a Dockerfile that is in the main context ([`DockerfileSource::InContext`]) it is that context, whatever this says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IncludeRoot {
    /// Nowhere; an include is an error that says so.
    #[default]
    Nowhere,
    /// The main build context.
    Context {
        /// Path of the Dockerfile in it; empty if it has none there, and includes then begin at the context's root.
        dockerfile: String,
    },
    /// A directory of the request.
    Directory {
        /// Its name in [`builder_core::request::BuildRequest::contexts`].
        name: String,
        /// Path of the Dockerfile in it.
        dockerfile: String,
    },
}

/// What a named context is (`features.md` A12.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of the request.
    Local {
        /// Its name in [`builder_core::request::BuildRequest::contexts`].
        name: String,
    },
    /// `docker-image://`.
    Image {
        /// Which.
        reference: Reference,
    },
    /// `oci-layout://`.
    OciLayout {
        /// The layout directory, absolute.
        path: String,
        /// Only its tag and digest count.
        reference: Reference,
    },
    /// A web address: a tar that is unpacked, or one file.
    Http {
        /// Address.
        url: String,
    },
    /// A git repository, in any form of `features.md` C5.4.
    Git {
        /// As given.
        url: String,
    },
}

/// Which steps pass over existing records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// None.
    #[default]
    None,
    /// All RUN, COPY and ADD.
    All,
    /// Those of these stages, names in any case.
    Stages(Vec<String>),
}
