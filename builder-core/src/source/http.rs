//! Files from web servers (`features.md` A9.15): one file in a layer of its own, asked for again only as far as the server says it changed.
//!
//! # Invariants
//! - What has an expected digest is compared with it before anything can be made of it; with the digest known beforehand and the file in the
//!   store, nothing is asked at all.
//! - The name of the file comes from the graph; nothing that a server answers is ever part of a path.
//! - Secrets go to the host they are named for, never to one that a redirect leads to, and into no message.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use builder_snapshot::snapshot::{ActiveSnapshot, FileContent};
use builder_snapshot::toc::{Meta, Timestamp};
use builder_snapshot::{LimitReached, Sha256Digest, TreePath};

use super::remembered::{Remembered, remember};
use crate::content::{Stack, StackLayer, Store};
use crate::error::StepError;
use crate::registry::transport::{self, Pace};
use crate::registry::{RegistryConfig, tls};
use crate::secret::Secret;

/// Pieces of a body that wait for the disk.
const PIECES_IN_FLIGHT: usize = 32;

/// Brings files from web servers.
#[derive(Debug)]
pub struct HttpSources {
    config: RegistryConfig,
    store: Arc<Store>,
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct HttpFile<'a> {
    /// Address.
    pub url: &'a str,
    /// Name in the tree: one component.
    pub filename: &'a str,
    /// Expected digest of the bytes.
    pub checksum: Option<&'a Sha256Digest>,
}

impl HttpSources {
    /// Of `config` the certificates, the proxies and the patience count here as well.
    #[must_use]
    pub fn new(config: RegistryConfig, store: Arc<Store>) -> Self {
        Self { config, store, plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// A tree of one file, mode 0600, owner 0:0, with the time the server gives it or 1970.
    ///
    /// # Errors
    /// A server that can't be reached or refuses, a digest that differs, a full disk.
    pub async fn fetch(&self, file: HttpFile<'_>, secrets: &BTreeMap<String, Secret>) -> Result<Stack, StepError> {
        let url = Url::parse(file.url).map_err(|error| StepError::other(format!("{:?} is no URL: {error}", file.url)))?;
        let shown = without_password(&url);
        let memory = Remembered::at(&self.store, "http", &[file.url, file.filename]);
        let by_digest = file.checksum.map(|digest| Remembered::at(&self.store, "http-digest", &[&digest.to_string(), file.filename]));
        let known = memory.load(&self.store).filter(|known| file.checksum.is_none_or(|digest| known.digest == Some(*digest)));
        // The same bytes from another address will do: their digest says what they are.
        let by_content = by_digest.as_ref().and_then(|memory| memory.load(&self.store)).or_else(|| known.clone().filter(|_| file.checksum.is_some()));
        if let Some(known) = by_content {
            return Ok(known.stack());
        }
        let authorization = authorization(&url, secrets)?;
        if let Some(known) = &known
            && let Some(etag) = &known.tag
        {
            // HEAD first: some servers answer a conditional GET with the whole body.
            let answer = self.ask(Method::HEAD, &url, &shown, authorization.as_ref(), Some(etag)).await;
            if let Ok(answer) = answer
                && (answer.status() == StatusCode::NOT_MODIFIED || (answer.status().is_success() && header(answer.headers(), &ETAG) == Some(etag)))
            {
                return Ok(known.stack());
            }
        }
        let etag = known.as_ref().and_then(|known| known.tag.as_deref());
        let mut attempt = 1;
        let (stack, digest, tag) = loop {
            match self.download(file, &url, &shown, authorization.as_ref(), etag).await {
                Ok(None) if known.is_some() => return Ok(known.as_ref().map(Remembered::stack).unwrap_or_default()),
                Ok(None) => return Err(StepError::other(format!("cannot download {shown}: the server says it has not changed, but nobody asked"))),
                Ok(Some(done)) => break done,
                Err(Failure { error, transient }) => {
                    if !transient || attempt >= self.config.retry.attempts {
                        return Err(error);
                    }
                    tracing::info!(url = %shown, %error, "trying again");
                    tokio::time::sleep(transport::pause(&self.config.retry, attempt - 1, None)).await;
                    attempt += 1;
                }
            }
        };
        for memory in std::iter::once(&memory).chain(&by_digest) {
            remember(memory, &stack, tag.clone(), Some(digest));
        }
        Ok(stack)
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        shown: &str,
        authorization: Option<&HeaderValue>,
        etag: Option<&str>,
    ) -> Result<Response, Failure> {
        let client = self.client(url.scheme() == "https").map_err(|detail| Failure::lasting(format!("cannot download {shown}: {detail}")))?;
        let mut request = client.request(method, url.clone());
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let limits = &self.config.limits;
        let failed = |detail: String, transient| Failure { error: StepError::other(format!("cannot download {shown}: {detail}")), transient };
        let sent = tokio::time::timeout(limits.reply, request.send()).await;
        sent.map_err(|_| failed(format!("it takes {}", limits.reply_time()), true))?.map_err(|error| {
            if error.is_redirect() {
                return failed(format!("it answers with {}", limits.redirects()), false);
            }
            failed(transport::reason(&error), error.is_connect() || error.is_timeout() || error.is_request())
        })
    }

    /// Brings the file; none if the server says that it has not changed.
    async fn download(
        &self,
        file: HttpFile<'_>,
        url: &Url,
        shown: &str,
        authorization: Option<&HeaderValue>,
        etag: Option<&str>,
    ) -> Result<Option<(Stack, Sha256Digest, Option<String>)>, Failure> {
        let mut answer = self.ask(Method::GET, url, shown, authorization, etag).await?;
        let status = answer.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !status.is_success() {
            let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT;
            let help = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Some(format!("give --secret id=HTTP_AUTH_TOKEN_{0} or id=HTTP_AUTH_HEADER_{0}", url.host_str().unwrap_or_default()))
                }
                _ => None,
            };
            return Err(Failure {
                error: StepError::Other { message: format!("cannot download {shown}: the server answered {status}"), help },
                transient,
            });
        }
        let tag = header(answer.headers(), &ETAG).map(str::to_owned);
        let mtime = header(answer.headers(), &LAST_MODIFIED).and_then(timestamp).unwrap_or_default();
        let length = answer.content_length();
        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let store = Arc::clone(&self.store);
        let filename = file.filename.to_owned();
        let expected = file.checksum.copied();
        let name = shown.to_owned();
        let writing = tokio::task::spawn_blocking(move || write(&store, &filename, mtime, expected, &name, Pieces::of(receiver)));
        let too_much = LimitReached { name: "bytes", what: "bytes", limit: self.config.limits.tar.bytes };
        let (mut received, mut pace, mut transient) = (0, Pace::from(0), true);
        let broken = loop {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    if received > too_much.limit {
                        transient = false;
                        break Some(format!("it has {too_much}"));
                    }
                    if pace.is_a_trickle(received, &self.config.retry) {
                        break Some(format!("it comes too slowly: {received} bytes so far"));
                    }
                    if sender.send(Ok(piece)).await.is_err() {
                        break None;
                    }
                }
                Ok(None) if length.is_some_and(|length| length != received) => {
                    break Some(format!("the connection ended after {received} of {} bytes", length.unwrap_or_default()));
                }
                Ok(None) => break None,
                Err(error) => break Some(transport::reason(&error)),
            }
        };
        if let Some(detail) = broken {
            let _ = sender.send(Err(io::Error::other("the download broke off"))).await;
            drop(sender);
            let _ = writing.await;
            return Err(Failure { error: StepError::other(format!("cannot download {shown}: {detail}")), transient });
        }
        drop(sender);
        let written = writing.await.map_err(|error| Failure::lasting(format!("internal fault: {error}")))?;
        let (stack, digest) = written.map_err(|error| Failure { error, transient: false })?;
        Ok(Some((stack, digest, tag)))
    }

    fn client(&self, secure: bool) -> Result<Client, String> {
        let slot = if secure { &self.secure } else { &self.plain };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        // A redirect may lead from http to https: both know the certificates; only a plain one that finds none goes without.
        let tls = match tls::trusting(self.config.ca.iter(), &[]) {
            Ok(tls) => tls,
            Err(_) if !secure => tls::nobody()?,
            Err(detail) => return Err(detail),
        };
        let client = transport::client(tls, &self.config, reqwest::redirect::Policy::limited(self.config.limits.redirects))?;
        Ok(slot.get_or_init(|| client).clone())
    }
}

/// Why a request failed, and whether trying again may help.
struct Failure {
    error: StepError,
    transient: bool,
}

impl Failure {
    fn lasting(message: String) -> Self {
        Self { error: StepError::other(message), transient: false }
    }
}

/// Makes the layer of one file.
fn write(
    store: &Store,
    filename: &str,
    mtime: Timestamp,
    expected: Option<Sha256Digest>,
    shown: &str,
    mut body: Pieces,
) -> Result<(Stack, Sha256Digest), StepError> {
    let failed = |error: &dyn std::fmt::Display| StepError::other(format!("cannot keep {shown}: {error}"));
    let path = TreePath::new(filename).map_err(|e| failed(&e))?;
    if path.components().count() != 1 {
        return Err(failed(&format!("{filename:?} is no name of a file")));
    }
    let snapshot = ActiveSnapshot::create(store.tmp_dir().map_err(|e| failed(&e))?, &[]).map_err(|e| failed(&e))?;
    let mut writer = snapshot.writer().map_err(|e| failed(&e))?;
    let meta = Meta { mode: 0o600, mtime, ..Meta::default() };
    let (_, digest) = writer.put_file(&path, FileContent::Reader(&mut body), &meta).map_err(|e| failed(&e))?;
    if let Some(expected) = expected
        && expected != digest
    {
        return Err(StepError::Other {
            message: format!("digest mismatch: {shown} has {digest}, expected {expected}"),
            help: Some("the file has changed since the checksum was written, or is not what it claims to be".to_owned()),
        });
    }
    // The root is no part of what was downloaded: it has the file's time, so that the same download is the same layer.
    writer.set_meta(&TreePath::root(), &Meta { mode: 0o755, mtime, ..Meta::default() }).map_err(|e| failed(&e))?;
    let toc = writer.finish().map_err(|e| failed(&e))?;
    let layer = snapshot.commit_written(toc).map_err(|e| failed(&e))?;
    let kept = StackLayer { id: layer.id, content: layer.content };
    super::remembered::keep(store, layer).map_err(|e| failed(&e))?;
    Ok((Stack { layers: vec![kept] }, digest))
}

/// A body that arrives in pieces, read by a thread that may block.
struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Pieces {
    fn of(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receiver, current: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let size = self.current.len().min(buffer.len());
        buffer[..size].copy_from_slice(&self.current.split_to(size));
        Ok(size)
    }
}

/// What secrets say about this host.
fn authorization(url: &Url, secrets: &BTreeMap<String, Secret>) -> Result<Option<HeaderValue>, StepError> {
    let Some(host) = url.host_str() else { return Ok(None) };
    let with_port = url.port().map(|port| format!("{host}:{port}"));
    let named = |prefix: &str| {
        let ports = with_port.as_ref().and_then(|host| secrets.get(&format!("{prefix}{host}")));
        ports.or_else(|| secrets.get(&format!("{prefix}{host}")))
    };
    let value = match (named("HTTP_AUTH_HEADER_"), named("HTTP_AUTH_TOKEN_")) {
        (Some(header), _) => header.expose().trim_ascii().to_vec(),
        (None, Some(token)) => [b"Bearer ", token.expose().trim_ascii()].concat(),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| {
        StepError::other(format!("the secret HTTP_AUTH_TOKEN_{host} or HTTP_AUTH_HEADER_{host} can't be sent: it has line breaks or control bytes"))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn header<'a>(headers: &'a HeaderMap, name: &reqwest::header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A time of a server.
fn timestamp(text: &str) -> Option<Timestamp> {
    let since = transport::http_date(text)?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: i64::try_from(since.as_secs()).ok()?, nanos: 0 })
}

/// The address for messages.
fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() || !url.username().is_empty() {
        let _ = url.set_username("xxxxx");
        let _ = url.set_password(None);
    }
    url.to_string()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
