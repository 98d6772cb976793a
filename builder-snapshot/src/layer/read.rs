//! Reading tar streams that nobody vouches for.
//!
//! The header block's layout is the `tar` crate's; framing, extension headers and limits are here, because a builder must either see the
//! same entries as GNU tar and Go's archive/tar do, or refuse the stream. What the two read differently is refused: PAX headers that contradict GNU long
//! names, global PAX headers that say more than a comment, data behind entries that have none.
//!
//! Understood: v7, ustar, GNU (long names, base-256 numbers, old sparse files), PAX (path, linkpath, size, uid, gid, mtime, SCHILY.xattr.*).
//! Refused with a reason: PAX sparse files, multi-volume archives, unknown entry types.

use std::io::{self, Read};

use crate::error::{LayerError, LimitReached};
use crate::toc::{Timestamp, Xattrs};

use super::ApplyLimits;

const BLOCK: usize = 512;

/// What is read from the stream at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// The latest modification time of the entries of `tar`; none if it has none. Nothing is unpacked.
///
/// # Errors
/// A stream that is no tar, or exceeds `limits`.
pub fn newest_time(tar: &mut dyn Read, limits: &ApplyLimits) -> Result<Option<Timestamp>, LayerError> {
    let mut reader = TarReader::new(tar, limits);
    let mut newest = None;
    while let Some(entry) = reader.next_entry()? {
        newest = newest.max(Some(entry.mtime));
    }
    Ok(newest)
}

/// One entry's header, extension headers applied.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Xattrs,
}

impl Entry {
    pub(super) fn refused(&self, reason: impl Into<String>) -> LayerError {
        refused(&self.name, reason)
    }
}

pub(super) fn refused(name: &[u8], reason: impl Into<String>) -> LayerError {
    LayerError::Refused { entry: String::from_utf8_lossy(&name[..name.len().min(300)]).into_owned(), reason: reason.into() }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Hardlink { target: Vec<u8> },
    Symlink { target: Vec<u8> },
    Dir,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// Whether these bytes, the first of a file, are the header of a tar entry (its checksum says so) or the end of an empty archive.
#[must_use]
pub fn is_tar(start: &[u8]) -> bool {
    start.get(..BLOCK).is_some_and(|block| has_valid_checksum(block) && block.iter().any(|&b| b != 0))
}

fn has_valid_checksum(block: &[u8]) -> bool {
    let Ok(Some(stored)) = octal(&block[148..156]) else { return false };
    let at = |i: usize| if (148..156).contains(&i) { b' ' } else { block[i] };
    let unsigned: u64 = (0..BLOCK).map(|i| u64::from(at(i))).sum();
    // Some old tars added signed bytes.
    let signed: i64 = (0..BLOCK).map(|i| i64::from(at(i).cast_signed())).sum();
    stored == unsigned || i64::try_from(stored) == Ok(signed)
}

/// A number in octal digits, padded with spaces or NULs; none if there are no digits.
fn octal(field: &[u8]) -> Result<Option<u64>, &'static str> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|&b| b == 0 || b == b' ').unwrap_or(digits.len());
    if digits[end..].iter().any(|&b| b != 0 && b != b' ') {
        return Err("a number has something behind it");
    }
    if end == 0 {
        return Ok(None);
    }
    let mut number = 0_u64;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err("a number is not octal");
        }
        number = number.checked_mul(8).and_then(|n| n.checked_add(u64::from(digit - b'0'))).ok_or("a number is too large")?;
    }
    Ok(Some(number))
}

/// A number field: octal, or GNU's base-256 (first bit set, two's complement).
fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?.unwrap_or(0)).map_err(|_| "a number is too large");
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, &byte) in field.iter().enumerate() {
        let byte = if i == 0 && !negative { byte & 0x7f } else { byte };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return Err("a number is too large");
        }
    }
    i64::try_from(value).map_err(|_| "a number is too large")
}

/// What extension headers said about the entry that follows them.
#[derive(Debug, Default)]
struct Extensions {
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: Xattrs,
    any: bool,
}

/// The pieces of a sparse file: where data goes, in order. Everything else is zeros.
#[derive(Debug)]
struct Sparse {
    segments: std::vec::IntoIter<(u64, u64)>,
    /// The segment that is read: what is left of it.
    left: u64,
    /// Zeros before the next data.
    zeros: u64,
    position: u64,
    size: u64,
}

/// Reads a tar stream entry by entry.
pub(super) struct TarReader<'a> {
    input: &'a mut dyn Read,
    limits: &'a ApplyLimits,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the stream that were handed on.
    offset: u64,
    entries: u64,
    /// Bytes of all files, holes included.
    file_bytes: u64,
    /// Data of the current entry that was not read yet, and what pads it to a block.
    data_left: u64,
    padding: u64,
    sparse: Option<Sparse>,
    failure: Option<LayerError>,
}

impl<'a> TarReader<'a> {
    pub(super) fn new(input: &'a mut dyn Read, limits: &'a ApplyLimits) -> Self {
        Self {
            input,
            limits,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
            offset: 0,
            entries: 0,
            file_bytes: 0,
            data_left: 0,
            padding: 0,
            sparse: None,
            failure: None,
        }
    }

    /// What reading data failed with, better than the `io::Error` that stood in for it.
    pub(super) fn take_failure(&mut self) -> Option<LayerError> {
        self.failure.take()
    }

    fn damaged(&self, reason: impl Into<String>) -> LayerError {
        LayerError::Damaged { reason: reason.into(), offset: self.offset }
    }

    /// Bytes that are there, at most `max`; none at the end of the stream.
    fn available(&mut self, max: u64) -> Result<&[u8], LayerError> {
        if self.start == self.end {
            self.start = 0;
            self.end = loop {
                match self.input.read(&mut self.buffer) {
                    Ok(n) => break n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(LayerError::Read(e)),
                }
            };
        }
        let n = (self.end - self.start).min(usize::try_from(max).unwrap_or(usize::MAX));
        Ok(&self.buffer[self.start..self.start + n])
    }

    fn consume(&mut self, n: usize) -> Result<(), LayerError> {
        self.start += n;
        self.offset += n as u64;
        if self.offset > self.limits.bytes {
            return Err(LayerError::Limit(LimitReached { name: "bytes", what: "bytes", limit: self.limits.bytes }));
        }
        Ok(())
    }

    /// Fills `block`; false if the stream ends right before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.available((BLOCK - filled) as u64)?;
            let n = available.len();
            if n == 0 {
                return if filled == 0 { Ok(false) } else { Err(self.damaged("it ends in the middle of a header")) };
            }
            block[filled..filled + n].copy_from_slice(available);
            filled += n;
            self.consume(n)?;
        }
        Ok(true)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), LayerError> {
        while bytes > 0 {
            let n = self.available(bytes)?.len();
            if n == 0 {
                return Err(self.damaged("it ends in the middle of an entry"));
            }
            self.consume(n)?;
            bytes -= n as u64;
        }
        Ok(())
    }

    /// The next entry; none at the archive's end, where the rest of the stream has been read too.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let rest = self.data_left + self.padding;
        (self.data_left, self.padding, self.sparse) = (0, 0, None);
        self.skip(rest)?;
        let mut extensions = Extensions::default();
        let mut block = [0_u8; BLOCK];
        loop {
            if !self.block(&mut block)? {
                if extensions.any {
                    return Err(self.damaged("it ends behind an extension header"));
                }
                return Ok(None);
            }
            if block.iter().all(|&b| b == 0) {
                if extensions.any {
                    return Err(self.damaged("it ends behind an extension header"));
                }
                return self.finish(&mut block);
            }
            if !has_valid_checksum(&block) {
                return Err(self.damaged("a header has a wrong checksum"));
            }
            let header = tar::Header::from_byte_slice(&block);
            let flag = header.entry_type().as_byte();
            let size = number(&header.as_old().size).and_then(|n| u64::try_from(n).map_err(|_| "a size is negative"));
            let size = size.map_err(|reason| self.damaged(reason))?;
            match flag {
                b'L' | b'K' => {
                    let mut text = self.extension(size)?;
                    text.truncate(text.iter().position(|&b| b == 0).unwrap_or(text.len()));
                    let slot = if flag == b'L' { &mut extensions.gnu_name } else { &mut extensions.gnu_link };
                    if slot.replace(text).is_some() {
                        return Err(self.damaged("two GNU long names follow each other"));
                    }
                    extensions.any = true;
                }
                // X is what Solaris calls x.
                b'x' | b'X' => {
                    let records = self.extension(size)?;
                    if std::mem::replace(&mut extensions.any, true) && extensions.gnu_name.is_none() && extensions.gnu_link.is_none() {
                        return Err(self.damaged("two extension headers follow each other"));
                    }
                    self.pax(&records, &mut extensions)?;
                }
                b'g' => {
                    let records = self.extension(size)?;
                    self.global_pax(&records)?;
                }
                _ => return self.entry(&block, flag, size, extensions).map(Some),
            }
        }
    }

    /// Behind the first block of zeros: a second one, or the end. The stream is read to its end, because its digest covers all of it.
    fn finish(&mut self, block: &mut [u8; BLOCK]) -> Result<Option<Entry>, LayerError> {
        if self.block(block)? && block.iter().any(|&b| b != 0) {
            return Err(self.damaged("something follows a single block of zeros"));
        }
        loop {
            let n = self.available(u64::MAX)?.len();
            if n == 0 {
                return Ok(None);
            }
            self.consume(n)?;
        }
    }

    /// The data of an extension header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > self.limits.extension_bytes as u64 {
            return Err(LayerError::Limit(LimitReached {
                name: "header-bytes",
                what: "bytes in an extension header",
                limit: self.limits.extension_bytes as u64,
            }));
        }
        let mut data = Vec::new();
        let mut left = size;
        while left > 0 {
            let available = self.available(left)?;
            let n = available.len();
            data.extend_from_slice(available);
            if n == 0 {
                return Err(self.damaged("it ends in the middle of an extension header"));
            }
            self.consume(n)?;
            left -= n as u64;
        }
        self.skip(padding(size))?;
        Ok(data)
    }

    fn pax(&self, records: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
        let mut xattrs: std::collections::BTreeMap<Box<[u8]>, Box<[u8]>> = std::collections::BTreeMap::new();
        for record in pax_records(records) {
            let (key, value) = record.map_err(|reason| self.damaged(reason))?;
            let bad = |what: &str| self.damaged(format!("PAX {what} {:?} is not usable", String::from_utf8_lossy(&value[..value.len().min(100)])));
            match key {
                b"path" | b"linkpath" => {
                    if value.is_empty() || value.contains(&0) {
                        return Err(bad("path"));
                    }
                    let slot = if key == b"path" { &mut extensions.path } else { &mut extensions.linkpath };
                    *slot = Some(value.to_vec());
                }
                b"size" => extensions.size = Some(decimal(value).ok_or_else(|| bad("size"))?),
                b"uid" => extensions.uid = Some(decimal(value).ok_or_else(|| bad("uid"))?),
                b"gid" => extensions.gid = Some(decimal(value).ok_or_else(|| bad("gid"))?),
                b"mtime" => extensions.mtime = Some(pax_time(value).ok_or_else(|| bad("time"))?),
                _ if key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize" => {
                    return Err(
                        self.damaged("it has sparse files in PAX form, which are not supported; make it without --sparse or with --format=gnu")
                    );
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        if name.is_empty() || name.contains(&0) {
                            return Err(self.damaged("an attribute has no usable name"));
                        }
                        xattrs.insert(Box::from(name), Box::from(value));
                    }
                }
            }
        }
        let total: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > self.limits.xattr_bytes {
            return Err(LayerError::Limit(LimitReached {
                name: "xattr-bytes",
                what: "bytes of attributes on one entry",
                limit: self.limits.xattr_bytes as u64,
            }));
        }
        extensions.xattrs = xattrs.into_iter().collect();
        Ok(())
    }

    /// git writes its commit as a global comment. Anything else readers treat differently.
    fn global_pax(&self, records: &[u8]) -> Result<(), LayerError> {
        for record in pax_records(records) {
            let (key, _) = record.map_err(|reason| self.damaged(reason))?;
            if key != b"comment" {
                let key = String::from_utf8_lossy(key).into_owned();
                return Err(self.damaged(format!("it has a global PAX header with {key:?}, which programs read differently")));
            }
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK], flag: u8, header_size: u64, extensions: Extensions) -> Result<Entry, LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::Limit(LimitReached { name: "entries", what: "entries", limit: self.limits.entries }));
        }
        let header = tar::Header::from_byte_slice(block);
        if (extensions.gnu_name.is_some() && extensions.path.is_some()) || (extensions.gnu_link.is_some() && extensions.linkpath.is_some()) {
            return Err(self.damaged("an entry has both a GNU long name and a PAX path"));
        }
        let name = extensions.path.or(extensions.gnu_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions.linkpath.or(extensions.gnu_link).unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let size = extensions.size.unwrap_or(header_size);
        let field = |field: &[u8]| number(field).map_err(|reason| refused(&name, reason));
        let owner = |pax: Option<u64>, bytes: &[u8]| -> Result<u32, LayerError> {
            let id = match pax {
                Some(id) => Some(id),
                None => u64::try_from(field(bytes)?).ok(),
            };
            // The largest number means "leave it" to chown.
            id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX).ok_or_else(|| refused(&name, "its owner is out of range"))
        };
        let (uid, gid) = (owner(extensions.uid, &header.as_old().uid)?, owner(extensions.gid, &header.as_old().gid)?);
        let mode = u32::try_from(field(&header.as_old().mode)? & 0o7777).unwrap_or(0);
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => Timestamp { seconds: field(&header.as_old().mtime)?, nanos: 0 },
        };
        let device = || -> Result<(u32, u32), LayerError> {
            let part = |bytes: &[u8]| u32::try_from(field(bytes)?).map_err(|_| refused(&name, "its device number is out of range"));
            Ok((part(&block[329..337])?, part(&block[337..345])?))
        };
        let magic = &block[257..265];
        let is_ustar = magic == b"ustar\x0000" || magic == b"ustar  \0";
        let is_device = matches!(flag, b'3' | b'4');
        if is_ustar {
            // Of entries that are no devices too: other readers refuse what is no number there.
            for bytes in [&block[329..337], &block[337..345]] {
                field(bytes)?;
            }
        } else if is_device || magic.starts_with(b"ustar") && block[345] != 0 {
            return Err(refused(&name, "its header is of no known form, so that programs read its device numbers or its name differently"));
        }
        let is_dir_name = name.ends_with(b"/");
        let kind = match flag {
            // The old way to write a directory. With a type of today some programs see a file.
            0 if is_dir_name && size == 0 => Kind::Dir,
            b'0' | 0 | b'7' if is_dir_name => return Err(refused(&name, "it is a file with the name of a directory")),
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink { target: link },
            b'2' => Kind::Symlink { target: link },
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            _ => return Err(refused(&name, format!("entries of type {:?} are not supported", char::from(flag)))),
        };
        if kind != Kind::File && size != 0 {
            return Err(refused(&name, "it has data, which an entry of its type cannot have"));
        }
        if name.is_empty() {
            return Err(self.damaged("an entry has no name"));
        }
        let file_size = if flag == b'S' { self.sparse(block, size, &name)? } else { size };
        self.file_bytes = self.file_bytes.saturating_add(file_size);
        if self.file_bytes > self.limits.bytes {
            return Err(LayerError::Limit(LimitReached { name: "bytes", what: "bytes in files", limit: self.limits.bytes }));
        }
        (self.data_left, self.padding) = (size, padding(size));
        Ok(Entry { name, kind, mode, uid, gid, mtime, xattrs: extensions.xattrs })
    }

    /// Reads the map of an old-GNU sparse file, in its header and in blocks behind it; returns the file's size with holes.
    fn sparse(&mut self, block: &[u8; BLOCK], data_size: u64, name: &[u8]) -> Result<u64, LayerError> {
        const BAD_MAP: &str = "its map of holes is damaged";
        let header = tar::Header::from_byte_slice(block).as_gnu().ok_or_else(|| refused(name, BAD_MAP))?;
        let value = |bytes: &[u8]| number(bytes).ok().and_then(|n| u64::try_from(n).ok()).ok_or_else(|| refused(name, BAD_MAP));
        let size = value(&header.realsize)?;
        let mut segments: Vec<(u64, u64)> = Vec::new();
        let mut add = |parts: &[tar::GnuSparseHeader]| -> Result<(), LayerError> {
            for part in parts {
                // A length may be 0 (the file ends with a hole), a missing entry has an empty offset.
                if part.offset[0] != 0 || part.numbytes[0] != 0 {
                    segments.push((value(&part.offset)?, value(&part.numbytes)?));
                }
            }
            Ok(())
        };
        add(&header.sparse)?;
        let mut more = header.is_extended();
        let mut map_bytes = 0;
        while more {
            map_bytes += BLOCK;
            if map_bytes > self.limits.extension_bytes {
                return Err(LayerError::Limit(LimitReached {
                    name: "header-bytes",
                    what: "bytes in a map of holes",
                    limit: self.limits.extension_bytes as u64,
                }));
            }
            let mut extension = tar::GnuExtSparseHeader::new();
            if !self.block(extension.as_mut_bytes())? {
                return Err(refused(name, BAD_MAP));
            }
            add(extension.sparse())?;
            more = extension.is_extended();
        }
        let mut end = 0_u64;
        let mut data = 0_u64;
        for &(offset, len) in &segments {
            if offset < end {
                return Err(refused(name, BAD_MAP));
            }
            end = offset.checked_add(len).filter(|&end| end <= size).ok_or_else(|| refused(name, BAD_MAP))?;
            data += len;
        }
        if data != data_size {
            return Err(refused(name, BAD_MAP));
        }
        self.sparse = Some(Sparse { segments: segments.into_iter(), left: 0, zeros: 0, position: 0, size });
        Ok(size)
    }

    fn read_stream(&mut self, buffer: &mut [u8], max: u64) -> Result<usize, LayerError> {
        let max = max.min(self.data_left).min(buffer.len() as u64);
        if max == 0 {
            return Ok(0);
        }
        let available = self.available(max)?;
        let n = available.len();
        buffer[..n].copy_from_slice(available);
        if n == 0 {
            return Err(self.damaged("it ends in the middle of an entry"));
        }
        self.consume(n)?;
        self.data_left -= n as u64;
        Ok(n)
    }

    fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let Some(mut sparse) = self.sparse.take() else {
            return self.read_stream(buffer, u64::MAX);
        };
        while sparse.zeros == 0 && sparse.left == 0 && sparse.position < sparse.size {
            match sparse.segments.next() {
                Some((offset, len)) => (sparse.zeros, sparse.left) = (offset - sparse.position, len),
                None => sparse.zeros = sparse.size - sparse.position,
            }
        }
        let n = if sparse.zeros > 0 {
            let n = usize::try_from(sparse.zeros).unwrap_or(usize::MAX).min(buffer.len());
            buffer[..n].fill(0);
            sparse.zeros -= n as u64;
            n
        } else {
            let n = self.read_stream(buffer, sparse.left)?;
            sparse.left -= n as u64;
            n
        };
        sparse.position += n as u64;
        self.sparse = Some(sparse);
        Ok(n)
    }
}

/// The data of the current entry.
impl Read for TarReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_data(buffer).map_err(|failure| {
            self.failure = Some(failure);
            io::Error::other("reading the tar stream")
        })
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of a PAX header: `length SP key=value LF`, where the length counts the whole record. Values may hold anything, line feeds too.
fn pax_records(mut records: &[u8]) -> impl Iterator<Item = Result<Record<'_>, &'static str>> {
    let mut next = move || -> Result<Option<Record<'_>>, &'static str> {
        const BAD: &str = "a PAX record is not well formed";
        if records.is_empty() {
            return Ok(None);
        }
        let space = records.iter().position(|&b| b == b' ').filter(|&n| n <= 10).ok_or(BAD)?;
        let len = decimal(&records[..space]).and_then(|n| usize::try_from(n).ok()).ok_or(BAD)?;
        if len > records.len() || len < space + 4 || records[len - 1] != b'\n' {
            return Err(BAD);
        }
        let record = &records[space + 1..len - 1];
        records = &records[len..];
        let equals = record.iter().position(|&b| b == b'=').filter(|&n| n > 0).ok_or(BAD)?;
        Ok(Some((&record[..equals], &record[equals + 1..])))
    };
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let result = next().transpose()?;
        failed = result.is_err();
        Some(result)
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional fraction and sign; what is finer than a nanosecond is cut off.
fn pax_time(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let seconds = i64::try_from(if whole.is_empty() { 0 } else { decimal(whole)? }).ok()?;
    let mut nanos = 0_u32;
    for i in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp { seconds: -seconds, nanos: 0 },
        (true, nanos) => Timestamp { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i64>); 9] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"64x\0\0\0\0\0", None),
            (b"644\x001\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\0", Some(-256)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field).ok(), expected, "{field:?}");
        }
    }

    #[test]
    fn times() {
        let cases = [
            ("1", Some((1, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("0.0000000019", Some((0, 1))),
            ("-0", Some((0, 0))),
        ];
        for (text, expected) in cases {
            assert_eq!(pax_time(text.as_bytes()), expected.map(|(seconds, nanos)| Timestamp { seconds, nanos }), "{text}");
        }
        for text in ["", "-", ".", "1.x", "1e3", "--1", "99999999999999999999"] {
            assert_eq!(pax_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn pax_records_may_hold_line_feeds_and_nothing_malformed() {
        let all = |bytes: &'static [u8]| pax_records(bytes).collect::<Result<Vec<_>, _>>();
        assert_eq!(all(b"8 a=b\nc\n7 d=\0e\n"), Ok(vec![(&b"a"[..], &b"b\nc"[..]), (b"d", b"\0e")]));
        assert_eq!(all(b""), Ok(vec![]));
        for bad in
            [&b"6 a=b"[..], b"7 a=b\n", b"5 a=b\n", b"6 =ab\n", b"6 abc\n", b"+6 a=b\n", b" 6 a=b\n", b"06a=b\n", b"99999999999 a=b\n", b"6 a=b\n\0"]
        {
            assert!(pax_records(bad).any(|record| record.is_err()), "{bad:?}");
        }
    }
}
