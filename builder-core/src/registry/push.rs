//! Pushing: blobs first, manifests after what they name (`features.md` F5).
//!
//! ```text
//! HEAD blob ─ there ─► done
//!    └─ missing ─► POST uploads/[?mount=…&from=…] ─ 201 ─► done
//!                     └─ 202 ─► PUT whole ─ 201 ─► done
//!                                └─ broken ─► GET where it stands ─► PATCH the rest ─► PUT its end
//! ```
//!
//! # Invariants
//! - Bytes are read again for every try; what they come from sees to it that damaged ones never arrive whole.
//! - An upload that does not get on ends after the configured number of tries.
//! - Only the registry itself is pushed to, never a mirror.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, LOCATION, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::sync::mpsc;

use super::auth::Access;
use super::client::{Patience, Registry, content_digest, lock};
use super::request::{Again, Ask, Failure, Payload, Target, protocol_error};
use super::{Endpoint, RegistryError, endpoints};
use crate::oci::{Reference, Sha256Digest, media};

/// Bytes between the thread that reads and the connection: 16 pieces of 64 KiB.
const QUEUE_PIECES: usize = 16;
/// Size of those pieces.
const PIECE_BYTES: usize = 64 * 1024;
/// Size of the chunks for registries (or the proxies before them) that refuse a whole blob at once. They may ask for larger ones.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;
/// Largest chunk that a registry may ask for.
const MAX_CHUNK_BYTES: u64 = 512 * 1024 * 1024;
/// What blobs are sent as.
const OCTETS: &str = "application/octet-stream";

/// A blob to be pushed.
pub trait PushBlob: Send + Sync {
    /// Its digest.
    fn digest(&self) -> Sha256Digest;
    /// Its size.
    fn size_bytes(&self) -> u64;
    /// Writes all its bytes to `out`, or fails before the last one if they are not what the digest says. May be called several times, on
    /// threads that may block; an error of `out` ends it.
    ///
    /// # Errors
    /// What reading fails with, and what `out` fails with.
    fn pour(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// What came of the wish to take a blob over from another repository.
#[derive(Debug)]
pub enum Mount {
    /// It is there now.
    Done,
    /// It has to be uploaded; the registry has begun a session for it.
    Begun(Session),
}

/// An upload that a registry has begun.
#[derive(Debug, Clone)]
pub struct Session {
    location: Url,
    min_chunk_bytes: u64,
}

/// How far an upload is.
struct Upload {
    session: Option<Session>,
    /// Bytes that the registry has.
    offset: u64,
    /// Send pieces of this size; none: everything at once.
    chunk_bytes: Option<u64>,
}

impl Registry {
    fn push_endpoint(&self, to: &Reference) -> Result<Endpoint, RegistryError> {
        // The registry itself comes last, after its mirrors.
        endpoints(&self.config, to).pop().ok_or(RegistryError::NotFound)
    }

    /// Whether the repository of `to` has a blob.
    ///
    /// # Errors
    /// A registry that can't be reached or refuses.
    pub async fn has_blob(&self, to: &Reference, digest: &Sha256Digest, size_bytes: u64) -> Result<bool, RegistryError> {
        let endpoint = self.push_endpoint(to)?;
        let path = format!("blobs/{digest}");
        let _permit = self.permit(&endpoint.name).await;
        let ask = Ask { access: PUSH, ..Ask::read(Method::HEAD, &path) };
        match self.send(&endpoint, &ask, self.attempts(Patience::Full, false)).await {
            Ok(response) => {
                let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
                // Something may say yes to everything. Whoever has the blob knows its digest or its size; without a body some say a length of 0.
                Ok(match content_digest(&response) {
                    Some(said) => said == *digest && length.is_none_or(|length| length == 0 || length == size_bytes),
                    None => length == Some(size_bytes),
                })
            }
            Err(Failure { error: RegistryError::NotFound, .. }) => Ok(false),
            // A storage behind a redirect may not know the question; the upload will tell.
            Err(Failure { error: RegistryError::Protocol { .. }, .. }) => Ok(false),
            Err(failure) => Err(failure.error),
        }
    }

    /// Asks the registry to take a blob over from its repository `from`. A refusal is no failure: then the blob is to be uploaded.
    pub async fn mount_blob(&self, to: &Reference, digest: &Sha256Digest, from: &str) -> Option<Mount> {
        let endpoint = self.push_endpoint(to).ok()?;
        let path = format!("blobs/uploads/?mount={digest}&from={}", url::form_urlencoded::byte_serialize(from.as_bytes()).collect::<String>());
        let _permit = self.permit(&endpoint.name).await;
        let ask = Ask { access: Access::Push { mount_from: Some(from) }, ..Ask::read(Method::POST, &path) };
        match self.once(&endpoint, &ask).await {
            Ok(response) if response.status() == StatusCode::CREATED => Some(Mount::Done),
            Ok(response) => session(&endpoint, &response).ok().map(Mount::Begun),
            Err(failure) => {
                tracing::debug!(%digest, from, error = %failure.error, "cannot take a blob over");
                None
            }
        }
    }

    /// Uploads a blob, in the session that an attempt to mount it began, if there is one. `progress` is told how much was sent.
    ///
    /// # Errors
    /// A registry that can't be reached, refuses, or does not get on; bytes that can't be read.
    pub async fn upload_blob(
        &self,
        to: &Reference,
        blob: &Arc<dyn PushBlob>,
        session: Option<Session>,
        progress: &Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.push_endpoint(to)?;
        let _permit = self.permit(&endpoint.name).await;
        let mut upload = Upload { session, offset: 0, chunk_bytes: None };
        let (mut failures, mut failed_at) = (0, 0);
        loop {
            let Err(failure) = self.advance(&endpoint, blob, &mut upload, progress).await else { return Ok(()) };
            if upload.offset > failed_at {
                failures = 0;
            }
            failures += 1;
            failed_at = upload.offset;
            // A session that ended without us, or in which bytes went wrong, says nothing about the next one.
            let is_worth_again = matches!(failure.status, Some(StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE))
                && upload.session.is_some()
                || matches!(&failure.error, RegistryError::Protocol { detail, .. } if detail.contains("DIGEST_INVALID"));
            let too_much = failure.status == Some(StatusCode::PAYLOAD_TOO_LARGE) && upload.chunk_bytes.is_none();
            let asked = match failure.again {
                Again::Later(asked) => asked,
                Again::Never if is_worth_again => None,
                Again::Never if too_much && blob.size_bytes() > CHUNK_BYTES => {
                    let least = upload.session.as_ref().map_or(0, |session| session.min_chunk_bytes);
                    upload = Upload { session: None, offset: 0, chunk_bytes: Some(least.clamp(CHUNK_BYTES, MAX_CHUNK_BYTES)) };
                    continue;
                }
                Again::Never => return Err(failure.error),
            };
            if failures >= self.attempts(Patience::Full, false) {
                return Err(failure.error);
            }
            tracing::debug!(digest = %blob.digest(), offset = upload.offset, error = %failure.error, "uploading again");
            self.wait(failures - 1, asked).await;
            self.find_offset(&endpoint, &mut upload).await;
        }
    }

    /// Goes on with an upload as far as it gets.
    async fn advance(
        &self,
        endpoint: &Endpoint,
        blob: &Arc<dyn PushBlob>,
        upload: &mut Upload,
        progress: &Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<(), Failure> {
        let (digest, size) = (blob.digest(), blob.size_bytes());
        let session = match &upload.session {
            Some(session) => session.clone(),
            None => {
                upload.offset = 0;
                let ask = Ask { access: PUSH, ..Ask::read(Method::POST, "blobs/uploads/") };
                let response = self.once(endpoint, &ask).await?;
                if response.status() == StatusCode::CREATED {
                    return Ok(());
                }
                upload.session.insert(session(endpoint, &response)?).clone()
            }
        };
        let mut location = session.location;
        if upload.offset == 0 && upload.chunk_bytes.is_none() {
            let part = Part { blob, from: 0, until: size, progress };
            return self.put_end(endpoint, &location, &digest, Some(&part)).await;
        }
        while upload.offset < size {
            let until = upload.chunk_bytes.map_or(size, |chunk| (upload.offset + chunk).min(size));
            let part = Part { blob, from: upload.offset, until, progress };
            let response = self.send_part(endpoint, Method::PATCH, &location, &part, true).await?;
            upload.offset = received(&response).unwrap_or(until).min(size);
            if let Ok(next) = self::session(endpoint, &response) {
                location.clone_from(&next.location);
                upload.session = Some(Session { min_chunk_bytes: session.min_chunk_bytes, ..next });
            }
        }
        self.put_end(endpoint, &location, &digest, None).await
    }

    /// Ends an upload, with the whole blob or with nothing more.
    async fn put_end(&self, endpoint: &Endpoint, location: &Url, digest: &Sha256Digest, whole: Option<&Part<'_>>) -> Result<(), Failure> {
        let mut location = location.clone();
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let response = match whole {
            Some(part) => self.send_part(endpoint, Method::PUT, &location, part, false).await?,
            None => {
                let ask = Ask { access: PUSH, target: Target::Location(&location), ..Ask::read(Method::PUT, "") };
                self.once(endpoint, &ask).await?
            }
        };
        match content_digest(&response) {
            Some(got) if got != *digest => {
                Err(Failure::never(RegistryError::Mismatch { host: endpoint.name.clone(), expected: *digest, got: got.to_string() }))
            }
            _ => Ok(()),
        }
    }

    async fn send_part(&self, endpoint: &Endpoint, method: Method, to: &Url, part: &Part<'_>, is_chunk: bool) -> Result<Response, Failure> {
        // Whether reading failed is seen by the connection only as a body that broke off.
        let unreadable = Arc::new(Mutex::new(None));
        let body = || part.body(Arc::clone(&unreadable));
        let range = is_chunk.then(|| (part.from, part.until.saturating_sub(1)));
        let payload = Payload { media_type: OCTETS, length: part.until - part.from, range, body: &body };
        let ask = Ask { access: PUSH, target: Target::Location(to), payload: Some(payload), ..Ask::read(method, "") };
        let outcome = self.once(endpoint, &ask).await;
        match lock(&unreadable).take() {
            Some(detail) => Err(Failure::never(RegistryError::Unreadable { what: part.blob.digest().to_string(), detail })),
            None => outcome,
        }
    }

    /// After a failure: what the registry has of an upload. What it can't tell begins anew.
    async fn find_offset(&self, endpoint: &Endpoint, upload: &mut Upload) {
        let Some(session) = upload.session.take() else { return };
        let ask = Ask { access: PUSH, target: Target::Location(&session.location), ..Ask::read(Method::GET, "") };
        let Ok(response) = self.once(endpoint, &ask).await else { return };
        // "0-0" means one byte or none; neither is worth going on with.
        let Some(offset) = received(&response).filter(|&offset| offset > 1) else { return };
        let location = self::session(endpoint, &response).map_or(session.location, |next| next.location);
        *upload = Upload { session: Some(Session { location, ..session }), offset, chunk_bytes: upload.chunk_bytes };
    }

    /// Puts a manifest or index under `selector`, a tag or its own digest.
    ///
    /// # Errors
    /// A registry that can't be reached or refuses, or says that it has got something else.
    pub async fn push_manifest(&self, to: &Reference, selector: &str, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let endpoint = self.push_endpoint(to)?;
        let path = format!("manifests/{selector}");
        let content = Bytes::copy_from_slice(bytes);
        let body = || Body::from(content.clone());
        let payload = Payload { media_type, length: bytes.len() as u64, range: None, body: &body };
        let ask = Ask { access: PUSH, payload: Some(payload), ..Ask::read(Method::PUT, &path) };
        let response = self.send(&endpoint, &ask, self.attempts(Patience::Full, false)).await.map_err(|failure| failure.error)?;
        let expected = Sha256Digest::of(bytes);
        match content_digest(&response) {
            Some(got) if got != expected => Err(RegistryError::Mismatch { host: endpoint.name, expected, got: got.to_string() }),
            None if response.status() != StatusCode::CREATED => self.see_manifest(&endpoint, &expected).await,
            _ => Ok(()),
        }
    }

    /// Asks for a manifest after an answer that is none of a registry that took it: something else may stand there and say yes to everything.
    async fn see_manifest(&self, endpoint: &Endpoint, digest: &Sha256Digest) -> Result<(), RegistryError> {
        let selector = digest.to_string();
        let path = format!("manifests/{selector}");
        let ask = Ask { access: PUSH, accept: Some(media::MANIFEST_ACCEPT), ..Ask::read(Method::GET, &path) };
        match self.manifest_from(endpoint, &ask, &selector, Some(digest), self.attempts(Patience::Full, false)).await {
            Ok(_) => Ok(()),
            Err(RegistryError::NotFound | RegistryError::Mismatch { .. }) => {
                Err(protocol_error(&endpoint.name, format!("that it has manifest {digest}, but does not give it back")))
            }
            Err(error) => Err(error),
        }
    }
}

const PUSH: Access<'static> = Access::Push { mount_from: None };

/// The session that an answer tells of.
fn session(endpoint: &Endpoint, response: &Response) -> Result<Session, Failure> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let location = header(LOCATION.as_str()).and_then(|text| response.url().join(text).ok()).filter(|url| matches!(url.scheme(), "http" | "https"));
    let mut location =
        location.ok_or_else(|| Failure::never(protocol_error(&endpoint.host, "without saying where an upload goes (no Location)".into())))?;
    // A registry behind a proxy that ends TLS may not know that it is reached by https.
    if response.url().scheme() == "https" && location.scheme() == "http" && location.host_str() == response.url().host_str() {
        let is_same_port = location.port().is_none() || location.port() == response.url().port();
        if is_same_port && location.set_scheme("https").is_ok() && location.set_port(response.url().port()).is_err() {
            return Err(Failure::never(protocol_error(&endpoint.host, "with an upload's address that is none".into())));
        }
    }
    let min_chunk_bytes = header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Session { location, min_chunk_bytes })
}

/// How many bytes `Range: 0-9` says the registry has.
fn received(response: &Response) -> Option<u64> {
    parse_received(response.headers().get(RANGE)?.to_str().ok()?)
}

fn parse_received(text: &str) -> Option<u64> {
    let text = text.trim();
    let (first, last) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    (first.trim() == "0").then_some(())?;
    last.trim().parse::<u64>().ok()?.checked_add(1)
}

/// A part of a blob on its way.
struct Part<'a> {
    blob: &'a Arc<dyn PushBlob>,
    from: u64,
    until: u64,
    progress: &'a Arc<dyn Fn(u64) + Send + Sync>,
}

impl Part<'_> {
    /// The bytes, read by a thread of their own while they are sent.
    fn body(&self, unreadable: Arc<Mutex<Option<String>>>) -> Body {
        let (pieces, mut queue) = mpsc::channel::<io::Result<Bytes>>(QUEUE_PIECES);
        let (blob, progress) = (Arc::clone(self.blob), Arc::clone(self.progress));
        let (from, until) = (self.from, self.until);
        tokio::task::spawn_blocking(move || {
            let mut pipe = Pipe { pieces, piece: Vec::with_capacity(PIECE_BYTES), skip: from, left: until - from, done: from, progress };
            let poured = blob.pour(&mut pipe).and_then(|()| pipe.send()).and_then(|()| pipe.is_whole());
            match poured {
                Err(error) if !pipe.is_over() => {
                    *lock(&unreadable) = Some(error.to_string());
                    // Without this the connection would take the end of the queue for the end of the blob.
                    drop(pipe.pieces.blocking_send(Err(error)));
                }
                // Everything that was wanted has been sent, or nobody listens any more.
                _ => {}
            }
        });
        Body::wrap_stream(futures_util::stream::poll_fn(move |context| queue.poll_recv(context)))
    }
}

/// Passes on a part of what is written to it.
struct Pipe {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    skip: u64,
    left: u64,
    done: u64,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
}

impl Pipe {
    /// Whether an error of writing only meant that no more is needed.
    fn is_over(&self) -> bool {
        self.left == 0 && self.piece.is_empty() || self.pieces.is_closed()
    }

    fn is_whole(&self) -> io::Result<()> {
        if self.left == 0 { Ok(()) } else { Err(io::Error::other(format!("{} bytes are missing at its end", self.left))) }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES)));
        self.done += piece.len() as u64;
        (self.progress)(self.done);
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.send()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            return Ok(usize::try_from(skipped).unwrap_or(bytes.len()));
        }
        let room = PIECE_BYTES - self.piece.len();
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()).min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        self.left -= taken as u64;
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
