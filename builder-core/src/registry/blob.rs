//! Blobs as streams that survive broken connections: after a failure the stream goes on where it stopped, on the same host or the next.

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::client::{Patience, Registry};
use super::request::{Again, Ask, Failure, network_error, protocol_error};
use super::transport::{Pace, reason};
use super::{Endpoint, RegistryError};
use crate::oci::manifest::Descriptor;
use crate::oci::{Reference, Sha256Digest};

/// Bytes that have to come before earlier failures are forgotten: a host that breaks off after every byte shall not keep us for hours.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// The bytes of one blob, in order. Its size is checked here, its digest by whoever writes the bytes down (they are hashed only once).
pub struct BlobStream<'a> {
    registry: &'a Registry,
    digest: Sha256Digest,
    size_bytes: u64,
    places: Vec<Place>,
    /// Index of the place in use.
    at: usize,
    offset: u64,
    response: Option<Response>,
    /// Bytes still to be dropped, when a host ignored the range.
    skip: u64,
    /// Failures in a row without much in between.
    failures: u32,
    /// Where the last failure was.
    failed_at: u64,
    pace: Pace,
    permit: Option<(String, OwnedSemaphorePermit)>,
}

#[derive(Debug, Clone)]
enum Place {
    Registry(Endpoint),
    Foreign(String),
}

impl Registry {
    /// Begins to fetch a blob. Nothing is sent before the first [`BlobStream::next`]. With `origin_only`, mirrors are passed over: one of
    /// them sent wrong bytes.
    #[must_use]
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor, origin_only: bool) -> BlobStream<'_> {
        let mut places: Vec<Place> = self.places(reference).into_iter().map(Place::Registry).collect();
        if origin_only {
            places.drain(..places.len() - 1);
        }
        self.stream(descriptor, places)
    }

    /// Begins to fetch a foreign layer from the addresses that its descriptor names, without credentials.
    #[must_use]
    pub fn foreign_blob(&self, descriptor: &Descriptor) -> BlobStream<'_> {
        self.stream(descriptor, descriptor.urls.iter().cloned().map(Place::Foreign).collect())
    }

    fn stream(&self, descriptor: &Descriptor, places: Vec<Place>) -> BlobStream<'_> {
        BlobStream {
            registry: self,
            digest: descriptor.digest,
            size_bytes: descriptor.size,
            places,
            at: 0,
            offset: 0,
            response: None,
            skip: 0,
            failures: 0,
            failed_at: 0,
            pace: Pace::from(0),
            permit: None,
        }
    }
}

impl BlobStream<'_> {
    /// The next bytes; none when the blob is complete.
    ///
    /// # Errors
    /// When no host brings it on any more, or sends more than it should.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.response.is_none() {
                if self.offset == self.size_bytes && self.offset > 0 {
                    return Ok(None);
                }
                self.connect().await?;
            }
            let Some(response) = self.response.as_mut() else { continue };
            match response.chunk().await {
                Ok(Some(mut piece)) => {
                    if self.skip > 0 {
                        let dropped = self.skip.min(piece.len() as u64);
                        self.skip -= dropped;
                        piece = piece.slice(usize::try_from(dropped).unwrap_or(piece.len())..);
                    }
                    if piece.is_empty() {
                        continue;
                    }
                    if self.offset + piece.len() as u64 > self.size_bytes {
                        let what = self.digest.to_string();
                        return Err(RegistryError::TooLarge { host: self.host(), what, limit_bytes: self.size_bytes });
                    }
                    self.offset += piece.len() as u64;
                    if self.offset - self.failed_at >= PROGRESS_BYTES {
                        self.failures = 0;
                    }
                    if self.offset < self.size_bytes && self.pace.is_a_trickle(self.offset, &self.registry.config.retry) {
                        self.response = None;
                        let detail = format!("{} comes too slowly: {} of {} bytes so far", self.digest, self.offset, self.size_bytes);
                        let error = network_error(&self.host(), detail);
                        self.recover(Failure::later(error)).await?;
                    }
                    return Ok(Some(piece));
                }
                Ok(None) => {
                    self.response = None;
                    if self.offset == self.size_bytes {
                        self.permit = None;
                        return Ok(None);
                    }
                    let detail = format!("{} ended after {} of {} bytes", self.digest, self.offset, self.size_bytes);
                    let error = network_error(&self.host(), detail);
                    self.recover(Failure::later(error)).await?;
                }
                Err(error) => {
                    self.response = None;
                    let error = network_error(&self.host(), reason(&error));
                    self.recover(Failure::later(error)).await?;
                }
            }
        }
    }

    /// The host in use, for messages.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.places[self.at] {
            Place::Registry(endpoint) => endpoint.name.clone(),
            Place::Foreign(url) => reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| url.clone()),
        }
    }

    async fn connect(&mut self) -> Result<(), RegistryError> {
        loop {
            if self.places.is_empty() {
                return Err(RegistryError::NotFound);
            }
            let range_from = (self.offset > 0).then_some(self.offset);
            let place = self.places[self.at].clone();
            let host = self.host();
            if self.permit.as_ref().is_none_or(|(held, _)| *held != host) {
                self.permit = None;
                self.permit = self.registry.permit(&host).await.map(|permit| (host.clone(), permit));
            }
            let answer = match &place {
                Place::Registry(endpoint) => {
                    let path = format!("blobs/{}", self.digest);
                    self.registry.once(endpoint, &Ask { range_from, ..Ask::read(Method::GET, &path) }).await
                }
                Place::Foreign(url) => self.registry.foreign(url, range_from).await,
            };
            match answer {
                Ok(response) => {
                    self.skip = match (range_from, response.status()) {
                        (Some(from), StatusCode::PARTIAL_CONTENT) if starts_at(response.headers().get(CONTENT_RANGE), from) => 0,
                        (Some(_), StatusCode::PARTIAL_CONTENT) => {
                            return Err(protocol_error(&host, "with another range than was asked for".into()));
                        }
                        (Some(from), _) => from,
                        (None, _) => 0,
                    };
                    self.response = Some(response);
                    self.pace = Pace::from(self.offset);
                    return Ok(());
                }
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    /// After a failure: waits, or moves to the next place, or gives up.
    async fn recover(&mut self, failure: Failure) -> Result<(), RegistryError> {
        self.failures += 1;
        self.failed_at = self.offset;
        let last = self.at + 1 == self.places.len();
        let attempts = self.registry.attempts(Patience::Full, !last);
        match failure.again {
            Again::Later(asked) if self.failures < attempts => {
                tracing::debug!(digest = %self.digest, offset = self.offset, error = %failure.error, "going on");
                self.registry.wait(self.failures - 1, asked).await;
                Ok(())
            }
            _ if !last => {
                self.at += 1;
                self.failures = 0;
                Ok(())
            }
            _ => Err(failure.error),
        }
    }
}

/// Whether `Content-Range: bytes 5-9/10` begins at `from`.
fn starts_at(header: Option<&HeaderValue>, from: u64) -> bool {
    header
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.trim().strip_prefix("bytes "))
        .and_then(|text| text.split('-').next())
        .and_then(|text| text.trim().parse().ok())
        == Some(from)
}
