//! Blobs of layers read as the tars that are in them.

use std::io::{self, BufRead, Read};

use crate::oci::media::Packing;

/// Reads a layer's blob as the tar that is in it, whatever packs it.
pub(crate) enum Unpacked<'a, R: BufRead> {
    Plain(Whole<'a, R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Whole<'a, R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Whole<'a, R>>>),
}

/// A blob whose first bytes have been looked at.
type Whole<'a, R> = io::Chain<io::Take<io::Cursor<[u8; SNIFFED_BYTES]>>, &'a mut R>;

/// Bytes that tell how a blob is packed.
const SNIFFED_BYTES: usize = 4;

impl<'a, R: BufRead> Unpacked<'a, R> {
    /// Looks at the first bytes.
    pub(crate) fn new(packed: &'a mut R) -> io::Result<Self> {
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
            Packing::Zstd => Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(whole)?)),
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
                Unpacked::new(&mut reader).expect("begun").read_to_end(&mut found).expect("read");
                assert!(found == data, "{compression:?}");
            }
        }
    }
}
