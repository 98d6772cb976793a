//! What a layer, an archive or a context from elsewhere may cost. Each limit has a name, by which `--limit NAME=VALUE` raises it and errors speak of it.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use builder_snapshot::layer::ApplyLimits;

/// How many times larger than its packed form a stream may become. gzip reaches 1030 on zeros, programs and texts 3 to 20.
pub const MAX_RATIO: u64 = 500;

/// Up to this size the ratio does not matter: small streams of zeros are no bombs.
const FREE_BYTES: u64 = 1 << 30;

/// What a tar stream from elsewhere may cost, packed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of the tar.
    pub tar: ApplyLimits,
    /// Bytes unpacked for each packed one.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tar: ApplyLimits::default(), ratio: MAX_RATIO }
    }
}

impl Limits {
    /// The names of all limits.
    pub const NAMES: [&'static str; 6] = ["entries", "bytes", "path-depth", "xattr-bytes", "header-bytes", "ratio"];

    /// Sets the limit `name`; false if there is none of this name.
    #[must_use]
    pub fn set(&mut self, name: &str, value: u64) -> bool {
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        match name {
            "entries" => self.tar.entries = value,
            "bytes" => self.tar.bytes = value,
            "path-depth" => self.tar.path_depth = count,
            "xattr-bytes" => self.tar.xattr_bytes = count,
            "header-bytes" => self.tar.extension_bytes = count,
            "ratio" => self.ratio = value,
            _ => return false,
        }
        true
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

    /// `unpacked`, which fails once it is out of proportion to what `packed` has counted.
    pub fn proportionate<U: Read>(&self, unpacked: U, packed: Arc<AtomicU64>) -> Proportionate<U> {
        Proportionate { unpacked, packed, size: 0, ratio: self.ratio, free: FREE_BYTES }
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

/// A stream that was packed. Reading fails once far more comes out than went in.
pub struct Proportionate<U> {
    unpacked: U,
    packed: Arc<AtomicU64>,
    size: u64,
    ratio: u64,
    free: u64,
}

impl<U: Read> Read for Proportionate<U> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.unpacked.read(buffer)?;
        self.size += n as u64;
        if self.size > self.free && self.size / self.ratio.max(1) > self.packed.load(Ordering::Relaxed) {
            let ratio = self.ratio;
            return Err(io::Error::other(format!(
                "it becomes more than {ratio} times larger when it is unpacked, as bombs do; if that is right, raise the limit with --limit ratio=N"
            )));
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
            assert!(limits.set(name, 7) && limits != before, "{name}");
        }
        assert!(!limits.set("colour", 7));
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
        assert!(error.contains("500 times") && error.contains("--limit ratio=N"), "{error}");
        assert!(unpack(100, 60_000, 1000).is_ok(), "raised");
    }
}
