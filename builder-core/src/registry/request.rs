//! One request: scheme, token, redirects, what a failure means, and how often it is tried.

use std::time::{Duration, SystemTime};

use builder_snapshot::LimitReached;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::{Access, Challenge};
use super::client::{ClientKind, Registry, lock};
use super::transport::{self, objection, pause, reason, retry_after};
use super::{Endpoint, RegistryError, RegistryHost, is_loopback, tls};

/// Longest part of an error's body that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 8 * 1024;

/// One request, as often as it is sent.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) target: Target<'a>,
    /// What a token must allow.
    pub(super) access: Access<'a>,
    pub(super) accept: Option<&'a str>,
    pub(super) range_from: Option<u64>,
    pub(super) payload: Option<Payload<'a>>,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Below the repository: `manifests/latest`, `blobs/sha256:…`.
    Path(&'a str),
    /// Where the registry said an upload goes on. Credentials go there only if it is the registry itself.
    Location(&'a Url),
}

/// What a request carries.
pub(super) struct Payload<'a> {
    pub(super) media_type: &'a str,
    pub(super) length: u64,
    /// First and last byte, if it is a part of something.
    pub(super) range: Option<(u64, u64)>,
    /// Makes the bytes, each time the request is sent.
    pub(super) body: &'a (dyn Fn() -> reqwest::Body + Send + Sync),
}

impl<'a> Ask<'a> {
    /// A request to read `path`.
    pub(super) fn read(method: Method, path: &'a str) -> Self {
        Self { method, target: Target::Path(path), access: Access::Pull, accept: None, range_from: None, payload: None }
    }
}

/// A failed try: what it means and whether another may help.
pub(super) struct Failure {
    pub(super) error: RegistryError,
    pub(super) again: Again,
    /// What the registry answered, if it did.
    pub(super) status: Option<StatusCode>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    Never,
    Later(Option<Duration>),
}

impl Failure {
    pub(super) fn never(error: RegistryError) -> Self {
        Self { error, again: Again::Never, status: None }
    }

    pub(super) fn later(error: RegistryError) -> Self {
        Self { error, again: Again::Later(None), status: None }
    }
}

impl Registry {
    /// Sends `ask` until it is answered well, something final is said, or `attempts` are used up.
    pub(super) async fn send(&self, endpoint: &Endpoint, ask: &Ask<'_>, attempts: u32) -> Result<Response, Failure> {
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
                _ => return Err(failure),
            }
        }
    }

    pub(super) async fn wait(&self, failures: u32, asked: Option<Duration>) {
        tokio::time::sleep(pause(&self.config.retry, failures, asked)).await;
    }

    /// One try, with the scheme found out and the token fetched as needed.
    pub(super) async fn once(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, Failure> {
        let known = lock(&self.schemes).get(&endpoint.host).copied();
        let candidates: &[&'static str] = match (known, ask.target) {
            (Some("http"), _) => &["http"],
            (Some(_), _) | (None, Target::Location(_)) => &["https"],
            (None, Target::Path(_)) => self.schemes_of(endpoint),
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
            Some(host) if host.has_certificates() => &["https"],
            _ if is_loopback(&endpoint.host) => &["http", "https"],
            _ => &["https"],
        }
    }

    fn host_config(&self, name: &str) -> Option<&RegistryHost> {
        self.config.registries.get(name)
    }

    /// Whether the user gave up TLS for a host: then it may send us anywhere.
    pub(super) fn is_relaxed(&self, name: &str) -> bool {
        self.host_config(name).is_some_and(|host| host.http || host.insecure)
    }

    async fn authorized(&self, endpoint: &Endpoint, scheme: &str, ask: &Ask<'_>) -> Result<Response, Failure> {
        let parse = |text: &str| Url::parse(text).map_err(|e| Failure::never(config_error(&endpoint.host, &e)));
        let base = parse(&format!("{scheme}://{}/v2/", endpoint.host))?;
        let url = match ask.target {
            Target::Path(path) => parse(&format!("{base}{}/{path}", endpoint.repository))?,
            Target::Location(url) => url.clone(),
        };
        if url.origin() != base.origin() {
            self.allow(endpoint, &base, &url, "sends an upload to").map_err(Failure::never)?;
            return self.follow(endpoint, url, ask, None).await;
        }
        let scopes = ask.access.scopes(&endpoint.repository);
        let known = self.tokens.get(&endpoint.host, &scopes);
        let response = self.follow(endpoint, url.clone(), ask, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        self.tokens.forget(&endpoint.host, &scopes);
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = Challenge::parse(challenges) else {
            return Ok(response);
        };
        let Some(header) = self.authorize(endpoint, &base, &challenge, &scopes).await? else {
            return Ok(response);
        };
        // Once: a registry that refuses the token it asked for will refuse the next one too.
        self.follow(endpoint, url, ask, Some(&header)).await
    }

    /// Sends one request and follows redirects; `authorization` goes to the first origin only.
    async fn follow(&self, endpoint: &Endpoint, start: Url, ask: &Ask<'_>, authorization: Option<&str>) -> Result<Response, Failure> {
        let mut url = start.clone();
        for _ in 0..=self.config.limits.redirects {
            let client = self.client(endpoint, url.scheme() == "http").map_err(Failure::never)?;
            let mut request = client.request(ask.method.clone(), url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(from) = ask.range_from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization.filter(|_| url.origin() == start.origin()) {
                request = request.header(AUTHORIZATION, authorization);
            }
            if let Some(payload) = &ask.payload {
                request = request.header(CONTENT_TYPE, payload.media_type).header(CONTENT_LENGTH, payload.length).body((payload.body)());
                if let Some((first, last)) = payload.range {
                    request = request.header(CONTENT_RANGE, format!("{first}-{last}"));
                }
            } else if !is_safe(&ask.method) {
                // Some registries refuse a request that may have a body and does not say that it has none.
                request = request.header(CONTENT_LENGTH, 0);
            }
            // How long an upload takes is for its own size to say.
            let sent = match &ask.payload {
                None => self.in_time(endpoint, request.send()).await?,
                Some(_) => request.send().await,
            };
            let response = sent.map_err(|e| transport_failure(&endpoint.host, &e))?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let keeps_method = matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|text| url.join(text).ok());
            url = match target {
                Some(next) if keeps_method || is_safe(&ask.method) => next,
                _ => return Err(Failure::never(protocol_error(&endpoint.host, "with a redirect that leads nowhere".into()))),
            };
            self.allow(endpoint, &start, &url, "redirects to").map_err(Failure::never)?;
        }
        Err(Failure::never(protocol_error(&endpoint.host, format!("with {}", self.config.limits.redirects()))))
    }

    /// Refuses to be sent where no server may send us.
    pub(super) fn allow(&self, endpoint: &Endpoint, from: &Url, to: &Url, how: &str) -> Result<(), RegistryError> {
        let objection = objection(from, to).filter(|_| !self.is_relaxed(&endpoint.name) || !matches!(to.scheme(), "http" | "https"));
        let Some(objection) = objection else { return Ok(()) };
        // Only where it leads is said: what follows may be a key.
        let place = format!("{}://{}", to.scheme(), to.host_str().unwrap_or_default());
        let detail = format!("it {how} {place}, {objection}; if you trust it, set insecure = true for it in rbuild.toml");
        Err(RegistryError::Config { host: endpoint.name.clone(), detail })
    }

    /// A GET of a foreign layer's address: no credentials, no plain http, nothing that only this machine could mean.
    pub(super) async fn foreign(&self, url: &str, range_from: Option<u64>) -> Result<Response, Failure> {
        let parsed = Url::parse(url).map_err(|e| Failure::never(config_error(url, &e)))?;
        let host = parsed.host_str().unwrap_or_default();
        let host = parsed.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let endpoint = Endpoint { name: host.clone(), host, repository: String::new() };
        // As if a registry from elsewhere had sent us there, for that is where the manifest comes from.
        let sender = Url::parse("https://registry.invalid").map_err(|e| Failure::never(config_error(url, &e)))?;
        self.allow(&endpoint, &sender, &parsed, "is named by an image and leads to").map_err(Failure::never)?;
        let ask = Ask { range_from, ..Ask::read(Method::GET, "") };
        let response = self.follow(&endpoint, parsed, &ask, None).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.failure_of(&endpoint, response).await) }
    }

    /// Waits for the head of an answer, but not for one that comes byte by byte for ever.
    pub(super) async fn in_time<T>(&self, endpoint: &Endpoint, answer: impl Future<Output = T>) -> Result<T, Failure> {
        let limits = &self.config.limits;
        let late = |_| Failure::later(network_error(&endpoint.host, format!("it takes {}", limits.reply_time())));
        tokio::time::timeout(limits.reply, answer).await.map_err(late)
    }

    /// Reads a whole answer, but never more than `bound` bytes.
    pub(super) async fn read_bounded(&self, mut response: Response, bound: LimitReached, host: &str, what: &str) -> Result<Vec<u8>, RegistryError> {
        let too_large = || RegistryError::Limit { host: host.to_owned(), what: what.to_owned(), reached: bound };
        let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
        if announced.is_some_and(|length| length > bound.limit) {
            return Err(too_large());
        }
        let read = async {
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|e| network_error(host, reason(&e)))? {
                if (bytes.len() + piece.len()) as u64 > bound.limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        let late = |_| network_error(host, format!("it takes {} with {what}", self.config.limits.reply_time()));
        tokio::time::timeout(self.config.limits.reply, read).await.map_err(late)?
    }

    pub(super) async fn failure_of(&self, endpoint: &Endpoint, response: Response) -> Failure {
        let status = response.status();
        let host = endpoint.name.clone();
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| retry_after(text, SystemTime::now()));
        let detail = error_detail(response).await.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        let (error, again) = match status {
            StatusCode::NOT_FOUND => (RegistryError::NotFound, Again::Never),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (RegistryError::Denied { host, status: status.as_u16(), detail }, Again::Never),
            StatusCode::TOO_MANY_REQUESTS => (RegistryError::RateLimited { host, detail }, Again::Later(asked)),
            status if status == StatusCode::REQUEST_TIMEOUT || status.is_server_error() => {
                (network_error(&host, format!("it answers {status}: {detail}")), Again::Later(asked))
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("{status}: {detail}; raise the limit on the size of requests, of the registry or of a proxy before it");
                (protocol_error(&host, detail), Again::Never)
            }
            status => (protocol_error(&host, format!("{status}: {detail}")), Again::Never),
        };
        Failure { error, again, status: Some(status) }
    }

    pub(super) fn client(&self, endpoint: &Endpoint, plain: bool) -> Result<reqwest::Client, RegistryError> {
        let host = self.host_config(&endpoint.name);
        let kind = match host {
            _ if plain => ClientKind::Plain,
            Some(host) if host.has_certificates() || host.insecure => ClientKind::Host(endpoint.name.clone()),
            _ if is_loopback(&endpoint.host) => ClientKind::Insecure,
            _ => ClientKind::Public,
        };
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let failed = |detail: String| RegistryError::Config { host: endpoint.name.clone(), detail };
        let tls = match (&kind, host) {
            (ClientKind::Plain, _) => tls::nobody(),
            (ClientKind::Insecure, _) => tls::anybody(&[]),
            (ClientKind::Host(_), Some(host)) if host.insecure => tls::anybody(&host.client_certificates),
            (ClientKind::Host(_), Some(host)) => tls::trusting(self.config.ca.iter().chain(&host.ca), &host.client_certificates),
            _ => tls::trusting(self.config.ca.iter(), &[]),
        };
        let client = transport::client(tls.map_err(failed)?, &self.config, reqwest::redirect::Policy::none()).map_err(failed)?;
        clients.insert(kind, client.clone());
        Ok(client)
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
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
    let mut detail = reason(error);
    if detail.contains("certificate") {
        detail += "; if it is your own registry, configure its CA (ca), or mark it insecure";
    }
    let is_final = error.is_builder() || error.is_connect() && (detail.contains("certificate") || detail.contains("dns error"));
    let error = network_error(host, detail);
    if is_final { Failure::never(error) } else { Failure::later(error) }
}

pub(super) fn network_error(host: &str, detail: String) -> RegistryError {
    RegistryError::Network { host: host.to_owned(), detail }
}

pub(super) fn protocol_error(host: &str, detail: String) -> RegistryError {
    RegistryError::Protocol { host: host.to_owned(), detail }
}

pub(super) fn config_error(host: &str, error: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Config { host: host.to_owned(), detail: error.to_string() }
}
