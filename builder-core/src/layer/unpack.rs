//! Blobs of layers read as the tars that are in them.

use std::io::{self, BufRead, Read};

use crate::content::{Limits, WindowTooLarge};
use crate::oci::media::Packing;

/// Reads a layer's blob as the tar that is in it, whatever packs it.
pub(crate) enum Unpacked<'a, R: BufRead> {
    Plain(Whole<'a, R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Whole<'a, R>>>),
    Zstd(Box<Zstd<Whole<'a, R>>>),
}

/// A blob whose first bytes have been looked at.
type Whole<'a, R> = io::Chain<io::Take<io::Cursor<[u8; SNIFFED_BYTES]>>, &'a mut R>;

/// Bytes that tell how a blob is packed.
const SNIFFED_BYTES: usize = 4;

/// A zstd stream whose window takes no more memory than the limit.
pub(crate) struct Zstd<R: BufRead> {
    decoder: zstd::stream::read::Decoder<'static, R>,
    bound: WindowTooLarge,
}

impl<R: BufRead> Zstd<R> {
    /// Begins to read `packed`.
    pub(crate) fn new(packed: R, limits: &Limits) -> io::Result<Self> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
        // The library knows powers of two between these only.
        decoder.window_log_max(limits.window_bytes.max(1).ilog2().clamp(10, 31))?;
        Ok(Self { decoder, bound: limits.window() })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // The library says this in words only.
        self.decoder.read(buffer).map_err(|error| match error.to_string() {
            text if text.contains("requires too much memory") => io::Error::other(self.bound),
            _ => error,
        })
    }
}

impl<'a, R: BufRead> Unpacked<'a, R> {
    /// Looks at the first bytes.
    pub(crate) fn new(packed: &'a mut R, limits: &Limits) -> io::Result<Self> {
        let mut start = [0; SNIFFED_BYTES];
        // They may come one by one.
        let mut size = 0;
        while size < SNIFFED_BYTES {
            match packed.read(&mut start[size..]) {
                Ok(0) => break,
                Ok(n) => size += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let packing = Packing::sniff(&start[..size]);
        let whole = io::Cursor::new(start).take(size as u64).chain(packed);
        Ok(match packing {
            Packing::Plain => Self::Plain(whole),
            Packing::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
            Packing::Zstd => Self::Zstd(Box::new(Zstd::new(whole, limits)?)),
        })
    }
}

impl<R: BufRead> Read for Unpacked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(from) => from.read(buffer),
            Self::Gzip(from) => from.read(buffer),
            Self::Zstd(from) => from.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::super::Compressor;
    use super::*;
    use crate::request::Compression;

    #[test]
    fn blobs_that_come_byte_by_byte_are_known_as_well() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = 1.min(buffer.len());
                self.0.read(&mut buffer[..n])
            }
        }
        for data in [b"some bytes".repeat(300), Vec::new()] {
            for compression in [Compression::Uncompressed, Compression::Gzip { level: None }, Compression::Zstd { level: None }] {
                let mut packed = Vec::new();
                let mut writer = Compressor::new(compression, 1, &mut packed);
                writer.write_all(&data).expect("write");
                writer.finish().expect("finish");
                let mut reader = BufReader::new(Drip(&packed));
                let mut found = Vec::new();
                Unpacked::new(&mut reader, &Limits::default()).expect("begun").read_to_end(&mut found).expect("read");
                assert!(found == data, "{compression:?}");
            }
        }
    }
}
