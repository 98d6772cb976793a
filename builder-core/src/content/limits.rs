//! What archives, images, contexts and answers of servers may cost. Each limit has a name, by which `--limit NAME=VALUE` raises it and errors speak of it; all
//! of them are in `docs/limits.md`.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use builder_snapshot::LimitReached;
use builder_snapshot::exec::USER_DATABASE_BYTES;
use builder_snapshot::layer::ApplyLimits;

use crate::oci::{DocumentLimits, JSON_DEPTH_OF_THE_READER};

/// How many times larger than its packed form a stream may become. gzip reaches 1030 on zeros, programs and texts 3 to 20.
pub const MAX_RATIO: u64 = 500;
/// Memory for what a packed stream refers back to: as much as `zstd --ultra -22 --long=27` asks for, and twice what `xz -9` does.
pub const MAX_WINDOW_BYTES: u64 = 128 << 20;
/// Longest time from the first byte of a packed stream to the last, which comes over the network as often as not.
pub const MAX_UNPACK: Duration = Duration::from_secs(6 * 3600);
/// Longest Dockerfile, included file or ignore file. Thousands of times what anyone writes.
pub const MAX_DEFINITION_BYTES: u64 = 16 << 20;
/// Most redirects of one request; containerd follows ten as well.
pub const MAX_REDIRECTS: usize = 10;
/// Longest answer of a token server, in bytes. Tokens with many groups reach some tens of KiB.
pub const MAX_TOKEN_BYTES: u64 = 1024 * 1024;
/// Longest wait for the head of an answer, and for the whole of one that is read into memory.
pub const MAX_REPLY: Duration = Duration::from_secs(300);

/// Up to this size the ratio does not matter: small streams of zeros are no bombs.
const FREE_BYTES: u64 = 1 << 30;

/// What may come from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of a tar.
    pub tar: ApplyLimits,
    /// Bytes unpacked for each packed one.
    pub ratio: u64,
    /// Memory that unpacking takes.
    pub window_bytes: u64,
    /// Time that unpacking takes.
    pub unpack: Duration,
    /// Bytes of a text that is part of the build definition.
    pub definition_bytes: u64,
    /// Bytes of an image's `/etc/passwd` or `/etc/group`.
    pub user_database_bytes: u64,
    /// Of an image's documents.
    pub documents: DocumentLimits,
    /// Redirects of one request.
    pub redirects: usize,
    /// Bytes of a token server's answer.
    pub token_bytes: u64,
    /// Time that an answer takes.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tar: ApplyLimits::default(),
            ratio: MAX_RATIO,
            window_bytes: MAX_WINDOW_BYTES,
            unpack: MAX_UNPACK,
            definition_bytes: MAX_DEFINITION_BYTES,
            user_database_bytes: USER_DATABASE_BYTES,
            documents: DocumentLimits::default(),
            redirects: MAX_REDIRECTS,
            token_bytes: MAX_TOKEN_BYTES,
            reply: MAX_REPLY,
        }
    }
}

/// A packed stream refers back further than memory is lent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it needs {0}")]
pub struct WindowTooLarge(pub LimitReached);

impl WindowTooLarge {
    /// Whether this is why reading failed.
    #[must_use]
    pub fn is_reason_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|reason| reason.is::<Self>())
    }
}

/// One of the fields of [`Limits`], whatever its type.
enum Field<'a> {
    Number(&'a mut u64),
    Count(&'a mut usize),
    Seconds(&'a mut Duration),
}

impl Limits {
    /// The names of all limits.
    pub const NAMES: [&'static str; 18] = [
        "entries",
        "bytes",
        "path-depth",
        "xattr-bytes",
        "header-bytes",
        "ratio",
        "window-bytes",
        "unpack-seconds",
        "definition-bytes",
        "user-database-bytes",
        "manifest-bytes",
        "config-bytes",
        "layers",
        "json-depth",
        "index-depth",
        "redirects",
        "token-bytes",
        "reply-seconds",
    ];

    fn field(&mut self, name: &str) -> Option<Field<'_>> {
        let documents = &mut self.documents;
        Some(match name {
            "entries" => Field::Number(&mut self.tar.entries),
            "bytes" => Field::Number(&mut self.tar.bytes),
            "path-depth" => Field::Count(&mut self.tar.path_depth),
            "xattr-bytes" => Field::Count(&mut self.tar.xattr_bytes),
            "header-bytes" => Field::Count(&mut self.tar.extension_bytes),
            "ratio" => Field::Number(&mut self.ratio),
            "window-bytes" => Field::Number(&mut self.window_bytes),
            "unpack-seconds" => Field::Seconds(&mut self.unpack),
            "definition-bytes" => Field::Number(&mut self.definition_bytes),
            "user-database-bytes" => Field::Number(&mut self.user_database_bytes),
            "manifest-bytes" => Field::Number(&mut documents.manifest_bytes),
            "config-bytes" => Field::Number(&mut documents.config_bytes),
            "layers" => Field::Count(&mut documents.layers),
            "json-depth" => Field::Count(&mut documents.json_depth),
            "index-depth" => Field::Count(&mut documents.index_depth),
            "redirects" => Field::Count(&mut self.redirects),
            "token-bytes" => Field::Number(&mut self.token_bytes),
            "reply-seconds" => Field::Seconds(&mut self.reply),
            _ => return None,
        })
    }

    /// Sets the limit `name`.
    ///
    /// # Errors
    /// What is wrong with the name or the value, as a sentence without its subject.
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        if name == "json-depth" && count > JSON_DEPTH_OF_THE_READER {
            return Err(format!("no more than {JSON_DEPTH_OF_THE_READER} levels of JSON can be read"));
        }
        match self.field(name) {
            Some(Field::Number(field)) => *field = value,
            Some(Field::Count(field)) => *field = count,
            // A clock cannot add up all numbers of seconds; a hundred years are for ever.
            Some(Field::Seconds(field)) => *field = Duration::from_secs(value.min(100 * 365 * 86_400)),
            None => return Err(format!("there is no limit {name:?}; there are {}", Self::NAMES.join(", "))),
        }
        Ok(())
    }

    /// The value of the limit `name`; none if there is none of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        Some(match self.clone().field(name)? {
            Field::Number(field) => *field,
            Field::Count(field) => *field as u64,
            Field::Seconds(field) => field.as_secs(),
        })
    }

    /// A text of the build definition, whole.
    ///
    /// # Errors
    /// A file that cannot be read or is longer than the limit.
    pub fn read_definition(&self, file: File) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.take(self.definition_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.definition_bytes {
            let reached = LimitReached { name: "definition-bytes", what: "bytes", limit: self.definition_bytes };
            return Err(io::Error::other(format!("it has {reached}")));
        }
        Ok(bytes)
    }

    /// That of the memory for unpacking, reached.
    #[must_use]
    pub fn window(&self) -> WindowTooLarge {
        WindowTooLarge(LimitReached { name: "window-bytes", what: "bytes of memory to unpack it", limit: self.window_bytes })
    }

    /// That of redirects, reached.
    #[must_use]
    pub fn redirects(&self) -> LimitReached {
        LimitReached { name: "redirects", what: "redirects", limit: self.redirects as u64 }
    }

    /// That of a token server's answer, reached.
    #[must_use]
    pub fn token(&self) -> LimitReached {
        LimitReached { name: "token-bytes", what: "bytes", limit: self.token_bytes }
    }

    /// That of the time for an answer, reached.
    #[must_use]
    pub fn reply_time(&self) -> LimitReached {
        LimitReached { name: "reply-seconds", what: "seconds to answer", limit: self.reply.as_secs() }
    }

    /// What `unpack` makes of `packed`, which fails once it is out of proportion.
    ///
    /// # Errors
    /// As `unpack`.
    pub fn watch<'a, R: Read, U: Read>(&self, packed: R, unpack: impl FnOnce(Counted<R>) -> io::Result<U> + 'a) -> io::Result<Proportionate<U>> {
        let counted = Counted::new(packed);
        let count = counted.count();
        Ok(self.proportionate(unpack(counted)?, count))
    }

    /// `unpacked`, which fails once it is out of proportion to what `packed` has counted, or takes too long.
    pub fn proportionate<U: Read>(&self, unpacked: U, packed: Arc<AtomicU64>) -> Proportionate<U> {
        Proportionate { unpacked, packed, size: 0, ratio: self.ratio, free: FREE_BYTES, time: self.unpack, since: Instant::now() }
    }
}

/// Counts what is read.
pub struct Counted<R> {
    from: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Counted<R> {
    /// Counts what is read from `from`.
    pub fn new(from: R) -> Self {
        Self { from, count: Arc::default() }
    }

    /// The count.
    #[must_use]
    pub fn count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A stream that was packed. Reading fails once far more comes out than went in, or when it never ends.
pub struct Proportionate<U> {
    unpacked: U,
    packed: Arc<AtomicU64>,
    size: u64,
    ratio: u64,
    free: u64,
    time: Duration,
    since: Instant,
}

impl<U: Read> Read for Proportionate<U> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.unpacked.read(buffer)?;
        self.size += n as u64;
        if self.size > self.free && self.size / self.ratio.max(1) > self.packed.load(Ordering::Relaxed) {
            let reached = LimitReached { name: "ratio", what: "bytes for each packed one, as bombs do", limit: self.ratio };
            return Err(io::Error::other(format!("it unpacks to {reached}")));
        }
        if self.since.elapsed() > self.time {
            let reached = LimitReached { name: "unpack-seconds", what: "seconds", limit: self.time.as_secs() };
            return Err(io::Error::other(format!("unpacking it takes {reached}")));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_limit() {
        let mut limits = Limits::default();
        for name in Limits::NAMES {
            let before = limits.clone();
            limits.set(name, 7).expect(name);
            assert!(limits != before && limits.get(name) == Some(7), "{name}");
        }
        let unknown = limits.set("colour", 7).expect_err("no limit");
        assert!(unknown.contains("there are entries, bytes") && limits.get("colour").is_none(), "{unknown}");
        assert!(limits.set("json-depth", 128).is_err_and(|error| error.contains("127")));
        limits.set("reply-seconds", u64::MAX).expect("for ever");
    }

    #[test]
    fn streams_out_of_proportion_end() {
        let unpack = |packed: u64, unpacked: u64, ratio: u64| {
            let count = Arc::new(AtomicU64::new(packed));
            let mut stream = Proportionate { free: 1000, ..Limits { ratio, ..Limits::default() }.proportionate(io::repeat(0).take(unpacked), count) };
            io::copy(&mut stream, &mut io::sink())
        };
        assert!(unpack(1, 1000, 1).is_ok(), "small ones may be what they are");
        assert!(unpack(100, 50_000, 500).is_ok());
        let error = unpack(100, 60_000, 500).expect_err("a bomb").to_string();
        assert!(error.contains("more than 500 bytes for each packed one") && error.contains("--limit ratio=N"), "{error}");
        assert!(unpack(100, 60_000, 1000).is_ok(), "raised");
    }

    #[test]
    fn streams_that_never_end_end() {
        let limits = Limits { unpack: Duration::ZERO, ..Limits::default() };
        let error = io::copy(&mut limits.proportionate(io::repeat(0), Arc::default()), &mut io::sink()).expect_err("for ever").to_string();
        assert!(error.contains("more than 0 seconds") && error.contains("--limit unpack-seconds=N"), "{error}");
    }
}
