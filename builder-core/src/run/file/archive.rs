//! Archives that ADD unpacks: known by their content, never by their name (`features.md` A9.14).
//!
//! No program outside this process decompresses anything: what an image or a PATH offers under such a name is never run.

use std::io::{self, Read, Seek, SeekFrom};

use super::xz::Watched;
use crate::content::{Limits, WindowTooLarge};
use crate::layer::Zstd;

/// Bytes of a tar header.
const BLOCK: usize = 512;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// How `file` is compressed, if it holds a tar; none if it is no archive. The file is left at its start.
///
/// # Errors
/// Reading the file itself fails, or decompressing it needs more memory than the limit; a stream that can't be decompressed is no archive.
pub(super) fn sniff(file: &mut (impl Read + Seek), limits: &Limits) -> io::Result<Option<Compression>> {
    file.seek(SeekFrom::Start(0))?;
    let mut start = [0; 6];
    let size = read_up_to(file, &mut start)?;
    let compression = compression_of(&start[..size]);
    file.seek(SeekFrom::Start(0))?;
    let mut block = [0; BLOCK];
    let mut source = Noting { inner: &mut *file, failure: None };
    let read = decompress(&mut source, compression, limits).and_then(|mut stream| read_up_to(&mut stream, &mut block));
    // Not the stream's fault, whatever its decompressor made of it: what can't be read may be an archive.
    if let Some(failure) = source.failure {
        return Err(failure);
    }
    let is_tar = match read {
        Ok(size) => size == BLOCK && is_tar_header(&block),
        Err(error) if WindowTooLarge::is_reason_of(&error) => return Err(error),
        Err(_) => false,
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(is_tar.then_some(compression))
}

/// Keeps the first failure of a reader, of which a decompressor may make an error of its own.
struct Noting<R> {
    inner: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure.get_or_insert(error);
            }
            kind.into()
        })
    }
}

/// The stream that `compressed` holds.
///
/// # Errors
/// A stream that can't be begun.
pub(super) fn decompress<'a>(compressed: impl Read + 'a, compression: Compression, limits: &Limits) -> io::Result<Box<dyn Read + 'a>> {
    let buffered = io::BufReader::with_capacity(128 * 1024, compressed);
    Ok(match compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(Watched::new(buffered, limits.window()), true)),
        Compression::Zstd => Box::new(Zstd::new(buffered, limits)?),
    })
}

/// The stream that an archive holds, however it is compressed, within `limits`: the build context on standard input.
///
/// # Errors
/// A stream that can't be read or begun.
pub fn open_archive<'a>(mut archive: impl Read + 'a, limits: &Limits) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = [0; 6];
    let size = read_up_to(&mut archive, &mut start)?;
    let compression = compression_of(&start[..size]);
    let packed = io::Cursor::new(start).take(size as u64).chain(archive);
    Ok(Box::new(limits.watch(packed, |packed| decompress(packed, compression, limits))?))
}

fn compression_of(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [b'B', b'Z', b'h', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Whether a block is a tar header: its checksum, bytes taken as unsigned or as signed, is what it says.
fn is_tar_header(block: &[u8; BLOCK]) -> bool {
    let field: String = block[148..156].iter().map(|b| char::from(*b)).filter(|c| !matches!(c, ' ' | '\0')).collect();
    let Ok(stored) = i64::from_str_radix(&field, 8) else { return false };
    let sum =
        |value: fn(u8) -> i64| -> i64 { block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { value(*byte) }).sum() };
    stored == sum(i64::from) || stored == sum(|byte| i64::from(byte.cast_signed()))
}

fn read_up_to(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut size = 0;
    while size < buffer.len() {
        match stream.read(&mut buffer[size..]) {
            Ok(0) => break,
            Ok(n) => size += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_cksum();
        builder.append_data(&mut header, "f", &b"f\n"[..]).expect("appended");
        builder.into_inner().expect("a tar")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("compressed");
        encoder.finish().expect("compressed")
    }

    fn sniffed(bytes: &[u8]) -> Option<Compression> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let found = sniff(&mut file, &Limits::default()).expect("read");
        if let Some(compression) = found {
            let mut stream = Vec::new();
            decompress(&mut file, compression, &Limits::default()).expect("begun").read_to_end(&mut stream).expect("decompressed");
            assert!(stream.starts_with(&tar()));
        }
        found
    }

    #[test]
    fn a9_14_archives_are_known_by_content() {
        assert_eq!(sniffed(&tar()), Some(Compression::None));
        assert_eq!(sniffed(&gzip(&tar())), Some(Compression::Gzip));
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bz.write_all(&tar()).expect("compressed");
        assert_eq!(sniffed(&bz.finish().expect("compressed")), Some(Compression::Bzip2));
        assert_eq!(sniffed(&zstd::encode_all(&tar()[..], 3).expect("compressed")), Some(Compression::Zstd));
        // Two members, as `cat a.gz b.gz` makes.
        assert_eq!(sniffed(&[gzip(&tar()[..700]), gzip(&tar()[700..])].concat()), Some(Compression::Gzip));
    }

    /// Fails once, from the `good`-th reading on.
    struct Failing {
        bytes: io::Cursor<Vec<u8>>,
        good: usize,
    }

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.good.checked_sub(1) {
                Some(left) => self.good = left,
                None => return Err(io::Error::from(rustix::io::Errno::IO)),
            }
            self.bytes.read(buffer)
        }
    }

    impl Seek for Failing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    #[test]
    fn a9_14_what_cannot_be_read_is_not_taken_for_another_file() {
        for bytes in [tar(), gzip(&tar()), zstd::encode_all(&tar()[..], 3).expect("compressed")] {
            for good in 0..2 {
                let found = sniff(&mut Failing { bytes: io::Cursor::new(bytes.clone()), good }, &Limits::default());
                assert_eq!(found.expect_err("it can't be read").raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
            }
        }
    }

    #[test]
    fn a9_14_other_files_are_no_archives() {
        for bytes in
            [b"not an archive\n".to_vec(), gzip(b"text"), gzip(&[0; 2048]), vec![0; 10240], Vec::new(), vec![0x1f, 0x8b, 8], tar()[..511].to_vec()]
        {
            assert_eq!(sniffed(&bytes), None);
        }
    }
}
