//! Requests: schemes, redirects, authentication and retries, for everything but the streaming of blobs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::{self, Challenge, TokenAnswer, TokenCache};
use super::{CredentialProvider, Credentials, Endpoint, RegistryConfig, RegistryError, endpoints, is_loopback, tls};
use crate::oci::manifest::{Descriptor, MAX_MANIFEST_BYTES};
use crate::oci::{Reference, Sha256Digest, media};

/// Most redirects of one request; containerd follows ten as well.
const MAX_REDIRECTS: usize = 10;
/// Longest answer of a token server, in bytes. Tokens with many groups reach some tens of KiB.
const MAX_TOKEN_BYTES: u64 = 1024 * 1024;
/// Longest part of an error's body that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 8 * 1024;
/// Most tries at a mirror: the registry itself is there as well.
const MIRROR_ATTEMPTS: u32 = 2;

/// Asks registries. Cheap to share; all state is caches.
pub struct Registry {
    pub(super) config: RegistryConfig,
    credentials: Arc<dyn CredentialProvider>,
    clients: Mutex<HashMap<ClientKind, reqwest::Client>>,
    tokens: TokenCache,
    known_credentials: tokio::sync::Mutex<HashMap<String, Credentials>>,
    /// Scheme by host, once one has worked.
    schemes: Mutex<HashMap<String, &'static str>>,
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
enum ClientKind {
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

/// One request, as often as it is sent.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/latest`, `blobs/sha256:…`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    pub(super) range_from: Option<u64>,
}

/// A failed try: what it means and whether another may help.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) again: Again,
}

pub(super) enum Again {
    Never,
    Later(Option<Duration>),
}

impl Failure {
    fn never(error: RegistryError) -> Self {
        Self { error, again: Again::Never }
    }
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

    /// What manifest the tag or digest of `reference` stands for now.
    ///
    /// # Errors
    /// As the registry answers.
    pub async fn head_manifest(&self, reference: &Reference, patience: Patience) -> Result<ManifestHead, RegistryError> {
        let path = format!("manifests/{}", reference.selector());
        let ask = Ask { method: Method::HEAD, path: &path, accept: Some(media::MANIFEST_ACCEPT), range_from: None };
        let (_, response) = self.first_answer(reference, &ask, patience).await?;
        Ok(ManifestHead { digest: content_digest(&response) })
    }

    /// Gets a manifest or index, by `selector` (a tag or a digest; none for the reference's own), and checks its digest.
    ///
    /// # Errors
    /// As the registry answers, or [`RegistryError::Mismatch`].
    pub async fn manifest(&self, reference: &Reference, by_digest: Option<&Sha256Digest>, patience: Patience) -> Result<RawManifest, RegistryError> {
        let wanted = by_digest.or(reference.digest.as_ref());
        let selector = wanted.map_or_else(|| reference.selector(), ToString::to_string);
        let path = format!("manifests/{selector}");
        let ask = Ask { method: Method::GET, path: &path, accept: Some(media::MANIFEST_ACCEPT), range_from: None };
        let places = self.places(reference);
        let mut last = None;
        for (n, endpoint) in places.iter().enumerate() {
            match self.manifest_from(endpoint, &ask, wanted, patience, n + 1 < places.len()).await {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(RegistryError::NotFound))
    }

    async fn manifest_from(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        wanted: Option<&Sha256Digest>,
        patience: Patience,
        mirror: bool,
    ) -> Result<RawManifest, RegistryError> {
        let attempts = self.attempts(patience, mirror);
        let mut tries = 0;
        loop {
            let response = self.send(endpoint, ask, attempts, mirror).await?;
            let said = content_digest(&response);
            let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let bytes = match read_bounded(response, MAX_MANIFEST_BYTES, &endpoint.host, ask.path).await {
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

    /// Gets a small blob (a config) whole, checked.
    ///
    /// # Errors
    /// As the registry answers; sizes and digests other than `descriptor`'s.
    pub async fn small_blob(&self, reference: &Reference, descriptor: &Descriptor, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > limit_bytes {
            return Err(RegistryError::TooLarge { host: reference.domain.clone(), what: descriptor.digest.to_string(), limit_bytes });
        }
        let mut stream = self.blob(reference, descriptor, false);
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

    async fn first_answer(&self, reference: &Reference, ask: &Ask<'_>, patience: Patience) -> Result<(Endpoint, Response), RegistryError> {
        let places = self.places(reference);
        let mut last = RegistryError::NotFound;
        let count = places.len();
        for (n, endpoint) in places.into_iter().enumerate() {
            let mirror = n + 1 < count;
            match self.send(&endpoint, ask, self.attempts(patience, mirror), mirror).await {
                Ok(response) => return Ok((endpoint, response)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Sends `ask` until it is answered well, something final is said, or `attempts` are used up.
    pub(super) async fn send(&self, endpoint: &Endpoint, ask: &Ask<'_>, attempts: u32, mirror: bool) -> Result<Response, RegistryError> {
        let mut tries = 0;
        loop {
            let failure = match self.once(endpoint, ask).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            tries += 1;
            match failure.again {
                Again::Later(asked) if tries < attempts => {
                    tracing::debug!(host = endpoint.host, tries, error = %failure.error, "asking again");
                    self.wait(tries - 1, asked).await;
                }
                _ => {
                    if mirror {
                        tracing::debug!(host = endpoint.host, error = %failure.error, "mirror does not help");
                        if matches!(failure.error, RegistryError::Network { .. }) {
                            lock(&self.down).insert(endpoint.host.clone());
                        }
                    }
                    return Err(failure.error);
                }
            }
        }
    }

    pub(super) async fn wait(&self, failures: u32, asked: Option<Duration>) {
        let policy = &self.config.retry;
        let usual = policy.first_wait.saturating_mul(1 << failures.min(16));
        tokio::time::sleep(asked.unwrap_or(usual).min(policy.longest_wait)).await;
    }

    /// One try, with the scheme found out and the token fetched as needed.
    pub(super) async fn once(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, Failure> {
        let known = lock(&self.schemes).get(&endpoint.host).copied();
        let candidates: &[&'static str] = match known {
            Some("http") => &["http"],
            Some(_) => &["https"],
            None => self.schemes_of(endpoint),
        };
        let mut first_failure = None;
        for (n, &scheme) in candidates.iter().enumerate() {
            let more = n + 1 < candidates.len();
            match self.authorized(endpoint, scheme, ask).await {
                // A TLS port answers plain http with 400.
                Ok(response) if more && response.status() == StatusCode::BAD_REQUEST => {
                    first_failure = Some(self.failure_of(endpoint, response).await);
                }
                Ok(response) => {
                    lock(&self.schemes).insert(endpoint.host.clone(), scheme);
                    if response.status().is_success() {
                        return Ok(response);
                    }
                    return Err(self.failure_of(endpoint, response).await);
                }
                Err(failure) if more && matches!(failure.error, RegistryError::Network { .. }) => first_failure = Some(failure),
                Err(failure) => return Err(first_failure.unwrap_or(failure)),
            }
        }
        Err(first_failure.unwrap_or_else(|| Failure::never(RegistryError::NotFound)))
    }

    /// Which schemes may be right. Docker takes this machine's registries as they are, without TLS.
    fn schemes_of(&self, endpoint: &Endpoint) -> &'static [&'static str] {
        match self.host_config(&endpoint.name) {
            Some(host) if host.http => &["http"],
            Some(host) if host.insecure => &["https", "http"],
            Some(host) if !host.ca.is_empty() => &["https"],
            _ if is_loopback(&endpoint.host) => &["http", "https"],
            _ => &["https"],
        }
    }

    fn host_config(&self, name: &str) -> Option<&super::RegistryHost> {
        self.config.registries.get(name)
    }

    async fn authorized(&self, endpoint: &Endpoint, scheme: &str, ask: &Ask<'_>) -> Result<Response, Failure> {
        let scope = format!("repository:{}:pull", endpoint.repository);
        let url = format!("{scheme}://{}/v2/{}/{}", endpoint.host, endpoint.repository, ask.path);
        let url = Url::parse(&url).map_err(|e| Failure::never(config_error(&endpoint.host, &e)))?;
        let known = self.tokens.get(&endpoint.host, &scope);
        let response = self.follow(endpoint, url.clone(), ask, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.tokens.forget(&endpoint.host, &scope);
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = Challenge::parse(challenges) else {
            return Ok(response);
        };
        let Some((header, valid)) = self.authorize(endpoint, scheme, &challenge, &scope).await? else {
            return Ok(response);
        };
        self.tokens.put(&endpoint.host, &scope, header.clone(), valid);
        // Once: a registry that refuses the token it asked for will refuse the next one too.
        self.follow(endpoint, url, ask, Some(&header)).await
    }

    /// The header that answers `challenge`; none if there is nothing to answer with.
    async fn authorize(&self, endpoint: &Endpoint, scheme: &str, challenge: &Challenge, scope: &str) -> Result<Option<(String, Duration)>, Failure> {
        let credentials = self.credentials_of(&endpoint.name).await.map_err(Failure::never)?;
        let (realm, service, challenge_scope) = match challenge {
            Challenge::Basic => {
                let valid = Duration::from_secs(3600);
                return Ok(match &credentials {
                    Credentials::Password { username, password } => Some((auth::basic(username, password), valid)),
                    _ => None,
                });
            }
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        if let Credentials::RegistryToken(token) = &credentials {
            return Ok(Some((format!("Bearer {token}"), Duration::from_secs(3600))));
        }
        let mut url =
            Url::parse(realm).map_err(|e| Failure::never(protocol_error(&endpoint.host, format!("with a token server that is no URL: {e}"))))?;
        let plain = url.scheme() == "http";
        let local = url.host_str().is_some_and(is_loopback_name);
        if !plain && url.scheme() != "https" || plain && scheme == "https" && !local && credentials != Credentials::Anonymous {
            let detail = format!("its token server {realm:?} would get credentials without TLS");
            return Err(Failure::never(RegistryError::Config { host: endpoint.host.clone(), detail }));
        }
        let scope = challenge_scope.as_deref().filter(|scope| !scope.is_empty()).unwrap_or(scope);
        let client = self.client(endpoint, plain).map_err(Failure::never)?;
        let request = match &credentials {
            Credentials::IdentityToken(token) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("client_id", "rbuild").append_pair("refresh_token", token);
                form.append_pair("service", service.as_deref().unwrap_or("")).append_pair("scope", scope);
                client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.finish())
            }
            _ => {
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", service);
                }
                url.query_pairs_mut().append_pair("scope", scope);
                match &credentials {
                    Credentials::Password { username, password } => client.get(url).header(AUTHORIZATION, auth::basic(username, password)),
                    _ => client.get(url),
                }
            }
        };
        let response = request.send().await.map_err(|e| transport_failure(&endpoint.host, &e))?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.failure_of(endpoint, response).await);
        }
        let body = read_bounded(response, MAX_TOKEN_BYTES, &endpoint.host, "a token").await.map_err(Failure::never)?;
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| Failure::never(protocol_error(&endpoint.host, "with a token that is no JSON".into())))?;
        let header = answer.into_header().ok_or_else(|| Failure::never(protocol_error(&endpoint.host, "without a token".into())))?;
        Ok(Some(header))
    }

    async fn credentials_of(&self, name: &str) -> Result<Credentials, RegistryError> {
        let mut known = self.known_credentials.lock().await;
        if let Some(credentials) = known.get(name) {
            return Ok(credentials.clone());
        }
        let (provider, host) = (Arc::clone(&self.credentials), name.to_owned());
        let found = tokio::task::spawn_blocking(move || provider.credentials(&host)).await.unwrap_or_else(|e| Err(e.to_string()));
        let found = found.map_err(|detail| RegistryError::Config { host: name.to_owned(), detail })?;
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// Sends one request and follows redirects; `authorization` goes to the first origin only.
    async fn follow(&self, endpoint: &Endpoint, start: Url, ask: &Ask<'_>, authorization: Option<&str>) -> Result<Response, Failure> {
        let mut url = start.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(endpoint, url.scheme() == "http").map_err(Failure::never)?;
            let mut request = client.request(ask.method.clone(), url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(from) = ask.range_from {
                request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization.filter(|_| url.origin() == start.origin()) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = request.send().await.map_err(|e| transport_failure(&endpoint.host, &e))?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| url.join(text).ok());
            match target {
                Some(next) if matches!(next.scheme(), "http" | "https") => url = next,
                _ => return Err(Failure::never(protocol_error(&endpoint.host, "with a redirect that leads nowhere".into()))),
            }
        }
        Err(Failure::never(protocol_error(&endpoint.host, format!("with more than {MAX_REDIRECTS} redirects"))))
    }

    /// A GET of a foreign layer's address: no credentials, no redirect to plain http.
    pub(super) async fn foreign(&self, url: &str, range_from: Option<u64>) -> Result<Response, Failure> {
        let parsed = Url::parse(url).map_err(|e| Failure::never(config_error(url, &e)))?;
        let host = parsed.host_str().unwrap_or_default().to_owned();
        if parsed.scheme() != "https" && !is_loopback_name(&host) {
            return Err(Failure::never(RegistryError::Config { host, detail: "layers from other places are fetched over https only".into() }));
        }
        let endpoint = Endpoint { name: host.clone(), host, repository: String::new() };
        let ask = Ask { method: Method::GET, path: "", accept: None, range_from };
        let response = self.follow(&endpoint, parsed, &ask, None).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.failure_of(&endpoint, response).await) }
    }

    async fn failure_of(&self, endpoint: &Endpoint, response: Response) -> Failure {
        let status = response.status();
        let host = endpoint.name.clone();
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        let detail = error_detail(response).await.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        match status {
            StatusCode::NOT_FOUND => Failure::never(RegistryError::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::never(RegistryError::Denied { host, status: status.as_u16(), detail }),
            StatusCode::TOO_MANY_REQUESTS => Failure { error: RegistryError::RateLimited { host, detail }, again: Again::Later(asked) },
            StatusCode::REQUEST_TIMEOUT => {
                Failure { error: network_error(&host, format!("it answers {status}: {detail}")), again: Again::Later(asked) }
            }
            status if status.is_server_error() => {
                Failure { error: network_error(&host, format!("it answers {status}: {detail}")), again: Again::Later(asked) }
            }
            status => Failure::never(protocol_error(&host, format!("{status}: {detail}"))),
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

    fn client(&self, endpoint: &Endpoint, plain: bool) -> Result<reqwest::Client, RegistryError> {
        let host = self.host_config(&endpoint.name);
        let kind = match host {
            _ if plain => ClientKind::Plain,
            Some(host) if host.insecure => ClientKind::Insecure,
            Some(host) if !host.ca.is_empty() => ClientKind::Host(endpoint.name.clone()),
            _ if is_loopback(&endpoint.host) => ClientKind::Insecure,
            _ => ClientKind::Public,
        };
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let failed = |detail: String| RegistryError::Config { host: endpoint.name.clone(), detail };
        let own = host.map_or(&[][..], |host| &host.ca);
        let tls = match &kind {
            ClientKind::Plain => tls::nobody(),
            ClientKind::Insecure => tls::anybody(),
            ClientKind::Public => tls::trusting(self.config.ca.iter()),
            ClientKind::Host(_) => tls::trusting(self.config.ca.iter().chain(own)),
        };
        let retry = &self.config.retry;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls.map_err(failed)?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(retry.connect_timeout)
            .read_timeout(retry.idle_timeout);
        let proxy = &self.config.proxy;
        // Addresses may hold passwords: the error must not repeat them.
        let no_proxy = || reqwest::NoProxy::from_string(&format!("localhost,127.0.0.0/8,::1,{}", proxy.no_proxy));
        let given = |address: &Option<String>| address.clone().filter(|address| !address.is_empty());
        let bad = |_| failed("its proxy's address is no URL".into());
        if let Some(address) = given(&proxy.http) {
            builder = builder.proxy(reqwest::Proxy::http(address).map_err(bad)?.no_proxy(no_proxy()));
        }
        if let Some(address) = given(&proxy.https) {
            builder = builder.proxy(reqwest::Proxy::https(address).map_err(bad)?.no_proxy(no_proxy()));
        }
        let client = builder.build().map_err(|e| failed(chain(&e)))?;
        clients.insert(kind, client.clone());
        Ok(client)
    }
}

fn is_loopback_name(host: &str) -> bool {
    is_loopback(host) || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn content_digest(response: &Response) -> Option<Sha256Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// Reads a whole answer, but never more than `limit_bytes`.
pub(super) async fn read_bounded(mut response: Response, limit_bytes: u64, host: &str, what: &str) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge { host: host.to_owned(), what: what.to_owned(), limit_bytes };
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit_bytes) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| network_error(host, chain(&e)))? {
        if (bytes.len() + piece.len()) as u64 > limit_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What the body of an error says, made fit for a terminal.
async fn error_detail(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() as u64 > MAX_ERROR_BYTES {
            break;
        }
    }
    let parsed: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let first = parsed.get("errors")?.get(0)?;
    let part = |key: &str| first.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    let text = [part("code"), part("message")].join(" ");
    let clean: String = text.trim().chars().filter(|c| !c.is_control()).take(300).collect();
    (!clean.is_empty()).then_some(clean)
}

fn transport_failure(host: &str, error: &reqwest::Error) -> Failure {
    let mut detail = chain(error);
    if detail.contains("certificate") {
        detail += "; if it is your own registry, configure its CA (ca), or mark it insecure";
    }
    let final_cause = error.is_builder() || error.is_connect() && (detail.contains("certificate") || detail.contains("dns error"));
    let again = if final_cause { Again::Never } else { Again::Later(None) };
    Failure { error: network_error(host, detail), again }
}

/// An error and its causes, without the address (which the message has anyway, and which may hold a token).
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if error.is_timeout() {
        return "it did not answer in time".into();
    }
    if text.is_empty() { "the request failed".into() } else { text }
}

pub(super) fn network_error(host: &str, detail: String) -> RegistryError {
    RegistryError::Network { host: host.to_owned(), detail }
}

pub(super) fn protocol_error(host: &str, detail: String) -> RegistryError {
    RegistryError::Protocol { host: host.to_owned(), detail }
}

fn config_error(host: &str, error: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Config { host: host.to_owned(), detail: error.to_string() }
}
