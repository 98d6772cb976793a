//! A client of the OCI distribution protocol: manifests, blobs, authentication, mirrors.
//!
//! [`Registry`] asks; [`RegistryConfig`] says how each host is reached; a [`CredentialProvider`] knows the passwords. Nothing here reads
//! environment variables, configuration files or the system's certificates: all of it arrives as values.
//!
//! # Invariants
//! - Credentials go to the host they are for and to the token server it names, never to mirrors' or redirects' other hosts, never over
//!   plain http unless that host is configured so (or is this machine).
//! - Every answer is bounded in size and time, and what has a digest is compared with it before anyone sees it as whole.
//! - Plain-http registries pay for no TLS set-up; clients are made when first used.

mod auth;
mod blob;
mod client;
mod push;
mod request;
pub(crate) mod tls;
mod token;
pub(crate) mod transport;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use blob::BlobStream;
pub use client::{ManifestHead, Patience, RawManifest, Registry};
pub use push::{Mount, PushBlob, Session};

use builder_snapshot::LimitReached;

use crate::content::Limits;
use crate::oci::{Reference, Sha256Digest};

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// By host (and port), as references name it; `docker.io` for Docker Hub.
    pub registries: BTreeMap<String, RegistryHost>,
    /// Certificates (PEM) trusted for all hosts, beside the public ones: the machine's own bundle.
    pub ca: Vec<Vec<u8>>,
    /// Proxies.
    pub proxy: ProxyConfig,
    /// Blobs fetched, or pushed, at once from one host.
    pub concurrency: usize,
    /// How failures are met.
    pub retry: RetryPolicy,
    /// What answers may cost. In a build [`crate::builder::BuilderConfig::limits`] stand here.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            ca: Vec::new(),
            proxy: ProxyConfig::default(),
            concurrency: 4,
            retry: RetryPolicy::default(),
            limits: Limits::default(),
        }
    }
}

/// How one registry is reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryHost {
    /// Tried before the registry itself, in order: `host[:port][/prefix]`.
    pub mirrors: Vec<String>,
    /// Whether it speaks http without TLS.
    pub http: bool,
    /// Whether its certificate need not be valid (and http will do if there is no TLS).
    pub insecure: bool,
    /// Certificates (PEM) trusted for this host.
    pub ca: Vec<Vec<u8>>,
    /// Certificates with which we show who we are.
    pub client_certificates: Vec<ClientCertificate>,
}

impl RegistryHost {
    /// Whether its TLS is set up by hand, so that it certainly speaks TLS.
    pub(crate) fn has_certificates(&self) -> bool {
        !self.ca.is_empty() || !self.client_certificates.is_empty()
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those that lead to its authority.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// Proxies, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` would say it.
#[derive(Clone, Default)]
pub struct ProxyConfig {
    /// For plain http.
    pub http: Option<String>,
    /// For https.
    pub https: Option<String>,
    /// Hosts that are reached directly, separated by commas.
    pub no_proxy: String,
}

impl fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Proxy addresses may hold passwords.
        f.debug_struct("ProxyConfig").field("http", &self.http.is_some()).field("https", &self.https.is_some()).finish_non_exhaustive()
    }
}

/// How failures are met: waits of `first_wait`, twice that, four times that, and so on.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Most tries of one request.
    pub attempts: u32,
    /// Wait after the first failure.
    pub first_wait: Duration,
    /// Longest wait, also when a registry asks for more (`Retry-After`).
    pub longest_wait: Duration,
    /// Longest time to reach a host.
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub idle_timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// What opens a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: anonymous.
    #[default]
    Anonymous,
    /// A name and a password.
    Password {
        /// Name.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token (`identitytoken` in Docker's config).
    IdentityToken(String),
    /// A token to be sent as it is (`registrytoken`).
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

/// Knows the credentials of registries. Called on a thread where blocking is allowed (credential helpers are programs), at most once a
/// host and build.
pub trait CredentialProvider: Send + Sync {
    /// The credentials for `host`: `docker.io`, `ghcr.io`, `127.0.0.1:5000`.
    ///
    /// # Errors
    /// A fragment that says what went wrong with which helper or file, without secrets.
    fn credentials(&self, host: &str) -> Result<Credentials, String>;
}

/// Knows none.
#[derive(Debug, Default)]
pub struct NoCredentials;

impl CredentialProvider for NoCredentials {
    fn credentials(&self, _: &str) -> Result<Credentials, String> {
        Ok(Credentials::Anonymous)
    }
}

/// Why a registry could not be used. Messages name the host and leave out the image, which the caller knows.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// There is no such repository, tag or blob.
    #[error("not found")]
    NotFound,
    /// Not without (other) credentials.
    #[error("{host} refused access ({status}): {detail}; log in with `docker login {host}`, or check that the repository exists and is open to you")]
    Denied {
        /// Which host.
        host: String,
        /// The status.
        status: u16,
        /// What the registry says.
        detail: String,
    },
    /// Too many requests.
    #[error("{host} allows no more requests now (429 Too Many Requests): {detail}; wait, log in, or configure a mirror")]
    RateLimited {
        /// Which host.
        host: String,
        /// What the registry says.
        detail: String,
    },
    /// It could not be reached, or the connection broke, also after retries.
    #[error("cannot reach {host}: {detail}")]
    Network {
        /// Which host.
        host: String,
        /// Why.
        detail: String,
    },
    /// It answered something else than the protocol says.
    #[error("{host} answered {detail}")]
    Protocol {
        /// Which host.
        host: String,
        /// What.
        detail: String,
    },
    /// The bytes are not those that the digest promises.
    #[error("{host} sent other content than {expected}: got {got}")]
    Mismatch {
        /// Which host.
        host: String,
        /// What was asked for.
        expected: Sha256Digest,
        /// What came.
        got: String,
    },
    /// More of something than a limit allows.
    #[error("{host} sent {what} with {reached}")]
    Limit {
        /// Which host.
        host: String,
        /// What for.
        what: String,
        /// Which limit.
        reached: LimitReached,
    },
    /// More bytes than the size that was promised.
    #[error("{host} sent more than {limit_bytes} bytes for {what}")]
    TooLarge {
        /// Which host.
        host: String,
        /// What for.
        what: String,
        /// What was promised.
        limit_bytes: u64,
    },
    /// What was to be sent could not be read.
    #[error("cannot read {what}: {detail}")]
    Unreadable {
        /// What.
        what: String,
        /// Why.
        detail: String,
    },
    /// This machine's configuration does not work.
    #[error("cannot use registry {host}: {detail}")]
    Config {
        /// Which host.
        host: String,
        /// Why.
        detail: String,
    },
}

impl RegistryError {
    /// Whether the registry could not be asked at all, so that what was known before still counts.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Network { .. } | Self::RateLimited { .. })
    }
}

/// One place that may have a repository's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port as connected to.
    pub(crate) host: String,
    /// Name under which its configuration and credentials are kept.
    pub(crate) name: String,
    /// Repository on that host.
    pub(crate) repository: String,
}

/// Where `reference` may be found: mirrors first, the registry itself last.
pub(crate) fn endpoints(config: &RegistryConfig, reference: &Reference) -> Vec<Endpoint> {
    let mirrors = config.registries.get(&reference.domain).map_or(&[][..], |host| &host.mirrors);
    let mut found: Vec<Endpoint> = mirrors
        .iter()
        .map(|mirror| {
            let mirror = mirror.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let repository = if prefix.is_empty() { reference.path.clone() } else { format!("{prefix}/{}", reference.path) };
            Endpoint { host: host.to_owned(), name: host.to_owned(), repository }
        })
        .collect();
    let host = if reference.domain == "docker.io" { "registry-1.docker.io" } else { &reference.domain };
    found.push(Endpoint { host: host.to_owned(), name: reference.domain.clone(), repository: reference.path.clone() });
    found
}

/// Whether `host` (with or without port) is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
