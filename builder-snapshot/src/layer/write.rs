//! A layer's table and files as a tar, deterministically.
//!
//! ustar, and a PAX header before an entry only where ustar cannot say it: names that do not fit or are not ASCII, link targets the same, owners
//! over 2 097 151, sizes of 8 GiB and more, times with fractions or out of range, extended attributes. No access or change times, no owner names.
//! Names that are no UTF-8 stand as they are: in the header if they fit, else in a PAX record that says `hdrcharset=BINARY`.
//!
//! Whiteouts become empty files `.wh.<name>`; sockets are left out, a tar has none. The root directory is left out while it looks as every root does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::{Hasher, Sha256Digest};
use crate::error::{LayerError, SnapshotError};
use crate::path::TreePath;
use crate::snapshot::OpenDirs;
use crate::sys;
use crate::toc::{Meta, Node, Timestamp, Toc};

use super::{TimePolicy, whiteout};

/// Changes whenever [`write_tar`] makes other bytes of the same table.
pub const WRITER_VERSION: u32 = 1;

const BLOCK: usize = 512;
/// Read and written at a time.
const PIECE_BYTES: usize = 128 << 10;

/// What seven octal digits hold: uid and gid.
const MAX_OCTAL_7: u64 = 0o7_777_777;
/// What eleven octal digits hold: size and time.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Writes a layer's tar: the same bytes for the same table, policy and [`WRITER_VERSION`].
///
/// # Errors
/// A file that is not as listed, a name that a tar cannot say, and what `out` fails with.
pub fn write_tar(toc: &Toc, fs_dir: &Path, times: TimePolicy, out: &mut dyn Write) -> Result<(), LayerError> {
    let root = sys::fs::open_dir(fs_dir).map_err(SnapshotError::io("open layer", fs_dir.display()))?;
    let mut dirs = OpenDirs::new(root);
    let mut open = |path: &TreePath| {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other("it is no file"));
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(dirs.get(&parent)?, sys::fs::name(name), flags, Mode::empty())?))
    };
    write_tar_of(toc, &mut open, times, out)
}

/// As [`write_tar`], with the files from wherever `open` finds them: for a table that was merged from several layers.
///
/// # Errors
/// As [`write_tar`].
pub fn write_tar_of(
    toc: &Toc,
    open: &mut dyn FnMut(&TreePath) -> io::Result<File>,
    times: TimePolicy,
    out: &mut dyn Write,
) -> Result<(), LayerError> {
    let mut writer = Writer { out, times, open, piece: vec![0; PIECE_BYTES] };
    for entry in &toc.entries {
        writer.entry(toc, &entry.path, &entry.node, &entry.meta)?;
    }
    // Two blocks of zeros end an archive; no record is filled up.
    writer.write(&[0; 2 * BLOCK])
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    times: TimePolicy,
    open: &'a mut dyn FnMut(&TreePath) -> io::Result<File>,
    piece: Vec<u8>,
}

/// What a header says, before it is known how.
struct Header<'a> {
    name: Vec<u8>,
    link: &'a [u8],
    flag: u8,
    size: u64,
    device: (u32, u32),
}

impl Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.out.write_all(bytes).map_err(LayerError::Write)
    }

    fn entry(&mut self, toc: &Toc, path: &TreePath, node: &Node, meta: &Meta) -> Result<(), LayerError> {
        let Some(file_name) = path.file_name() else {
            if is_ordinary_root(meta) {
                return Ok(());
            }
            return self.header(&Header { name: b"./".to_vec(), link: b"", flag: b'5', size: 0, device: (0, 0) }, meta);
        };
        if file_name.starts_with(whiteout::PREFIX) {
            return Err(LayerError::WhiteoutName { path: path.display() });
        }
        let name = path.as_bytes().to_vec();
        let plain = |flag| Header { name: name.clone(), link: b"", flag, size: 0, device: (0, 0) };
        match node {
            Node::File { size, digest } => {
                self.header(&Header { size: *size, ..plain(b'0') }, meta)?;
                self.content(path, *size, digest)
            }
            Node::Hardlink { target } => {
                // Readers take a link's metadata from the file, or from here: they are the same.
                let meta = toc.get(target).map_or(meta, |file| &file.meta);
                let meta = Meta { xattrs: Vec::new(), ..meta.clone() };
                self.header(&Header { link: target.as_bytes(), ..plain(b'1') }, &meta)
            }
            Node::Dir => {
                let mut header = plain(b'5');
                header.name.push(b'/');
                self.header(&header, meta)
            }
            Node::Symlink { target } => self.header(&Header { link: target, ..plain(b'2') }, meta),
            Node::CharDevice { major, minor } => self.header(&Header { device: (*major, *minor), ..plain(b'3') }, meta),
            Node::BlockDevice { major, minor } => self.header(&Header { device: (*major, *minor), ..plain(b'4') }, meta),
            Node::Fifo => self.header(&plain(b'6'), meta),
            Node::Socket => Ok(()),
            Node::Whiteout => {
                let mut name = path.as_bytes()[..path.as_bytes().len() - file_name.len()].to_vec();
                name.extend_from_slice(whiteout::PREFIX);
                name.extend_from_slice(file_name);
                self.header(&Header { name, ..plain(b'0') }, &Meta::default())
            }
        }
    }

    /// The header block, with a PAX header before it if it is needed.
    fn header(&mut self, header: &Header<'_>, meta: &Meta) -> Result<(), LayerError> {
        let time = self.time(meta);
        let mut block = [0_u8; BLOCK];
        let mut pax = Pax::default();
        if !put_name(&mut block, &header.name) || !is_plain_text(&header.name) {
            pax.text(b"path", &header.name);
            block[..100].fill(0);
            put_cut(&mut block[..100], &header.name);
            block[345..500].fill(0);
        }
        if header.link.len() > 100 || !is_plain_text(header.link) {
            pax.text(b"linkpath", header.link);
        }
        put_cut(&mut block[157..257], header.link);
        put_octal(&mut block[100..108], u64::from(meta.mode & 0o7777));
        for (key, field, id) in [(&b"uid"[..], 108..116, meta.uid), (b"gid", 116..124, meta.gid)] {
            let id = u64::from(id);
            put_octal(&mut block[field], if id <= MAX_OCTAL_7 { id } else { pax.number(key, id) });
        }
        put_octal(&mut block[124..136], if header.size <= MAX_OCTAL_11 { header.size } else { pax.number(b"size", header.size) });
        let seconds = u64::try_from(time.seconds).ok().filter(|&seconds| seconds <= MAX_OCTAL_11);
        if seconds.is_none() || time.nanos != 0 {
            pax.add(b"mtime", pax_time(time).as_bytes());
        }
        put_octal(&mut block[136..148], seconds.unwrap_or(0));
        block[156] = header.flag;
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], 0);
        put_octal(&mut block[337..345], 0);
        if matches!(header.flag, b'3' | b'4') {
            for (field, number) in [(329..337, header.device.0), (337..345, header.device.1)] {
                if u64::from(number) > MAX_OCTAL_7 {
                    return Err(LayerError::Refused {
                        entry: String::from_utf8_lossy(&header.name).into_owned(),
                        reason: "its device number does not fit into a tar".to_owned(),
                    });
                }
                put_octal(&mut block[field], number.into());
            }
        }
        for (name, value) in &meta.xattrs {
            pax.add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        let records = pax.finish();
        if !records.is_empty() {
            self.pax_header(header, &records)?;
        }
        put_checksum(&mut block);
        self.write(&block)
    }

    fn pax_header(&mut self, header: &Header<'_>, records: &[u8]) -> Result<(), LayerError> {
        let mut block = [0_u8; BLOCK];
        let base = header.name.strip_suffix(b"/").unwrap_or(&header.name).rsplit(|&b| b == b'/').next().unwrap_or_default();
        let mut name = b"PaxHeaders.0/".to_vec();
        name.extend(base.iter().filter(|b| b.is_ascii_graphic()));
        put_cut(&mut block[..100], &name);
        put_octal(&mut block[100..108], 0);
        put_octal(&mut block[108..116], 0);
        put_octal(&mut block[116..124], 0);
        put_octal(&mut block[124..136], records.len() as u64);
        put_octal(&mut block[136..148], 0);
        block[156] = b'x';
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], 0);
        put_octal(&mut block[337..345], 0);
        put_checksum(&mut block);
        self.write(&block)?;
        self.write(records)?;
        self.pad(records.len() as u64)
    }

    fn time(&self, meta: &Meta) -> Timestamp {
        match self.times {
            TimePolicy::Keep => meta.mtime,
            TimePolicy::Clamp { epoch_seconds } => {
                let epoch = Timestamp { seconds: epoch_seconds, nanos: 0 };
                if meta.made_by_step { epoch } else { meta.mtime.min(epoch) }
            }
        }
    }

    fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.write(&[0; BLOCK][..padding])
    }

    /// The bytes of the file at `path`, which must be those that the table says: a file that was changed in the store reaches no image.
    fn content(&mut self, path: &TreePath, size: u64, digest: &Sha256Digest) -> Result<(), LayerError> {
        let not_as_listed = |reason: String| LayerError::NotAsListed { path: path.display(), reason };
        let mut file = (self.open)(path).map_err(|e| match Errno::from_io_error(&e) {
            None | Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => not_as_listed(e.to_string()),
            // Too many open files, say: that is not the layer's fault.
            Some(_) => SnapshotError::io("open", format!("{} in the layer store", path.display()))(e).into(),
        })?;
        let stat = fs::fstat(&file).map_err(|e| not_as_listed(e.to_string()))?;
        if sys::fs::file_type(&stat) != FileType::RegularFile || u64::try_from(stat.st_size) != Ok(size) {
            return Err(not_as_listed(format!("it should be a file of {size} bytes")));
        }
        let mut hasher = Hasher::new();
        let mut left = size;
        while left > 0 {
            let want = PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES));
            let n = match file.read(&mut self.piece[..want]) {
                Ok(0) => return Err(not_as_listed(format!("it ends {left} bytes early"))),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(not_as_listed(e.to_string())),
            };
            hasher.update(&self.piece[..n]);
            self.out.write_all(&self.piece[..n]).map_err(LayerError::Write)?;
            left -= n as u64;
        }
        if hasher.finish() != *digest {
            return Err(not_as_listed("it has other bytes".to_owned()));
        }
        self.pad(size)
    }
}

fn is_ordinary_root(meta: &Meta) -> bool {
    meta.mode == 0o755 && meta.uid == 0 && meta.gid == 0 && meta.xattrs.is_empty()
}

/// Whether every reader reads these bytes as the same text: ASCII; or no UTF-8 at all, which nobody could convert.
fn is_plain_text(bytes: &[u8]) -> bool {
    bytes.is_ascii() || str::from_utf8(bytes).is_err()
}

/// Puts a name into the name and prefix fields; false if it does not fit.
fn put_name(block: &mut [u8; BLOCK], name: &[u8]) -> bool {
    if name.len() <= 100 {
        put_cut(&mut block[..100], name);
        return true;
    }
    // The prefix is as long as it can be: a rule, so that there is one way. A slash at the very end ends a directory's name, not its parent's.
    let last_start = name.len().saturating_sub(1).min(156);
    let Some(slash) = name[..last_start].iter().rposition(|&b| b == b'/').filter(|&slash| slash > 0) else {
        return false;
    };
    let rest = &name[slash + 1..];
    if rest.is_empty() || rest.len() > 100 {
        return false;
    }
    put_cut(&mut block[345..500], &name[..slash]);
    put_cut(&mut block[..100], rest);
    true
}

/// Copies as much as fits.
fn put_cut(field: &mut [u8], bytes: &[u8]) {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
}

/// Octal digits with leading zeros and a NUL at the end. The value fits.
fn put_octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for slot in field[..digits].iter_mut().rev() {
        *slot = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    debug_assert_eq!(value, 0, "number does not fit into a tar field");
}

fn put_checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    // Six digits, NUL, space: the form that all tars write.
    put_octal(&mut block[148..155], sum.into());
}

fn pax_time(time: Timestamp) -> String {
    if time.nanos == 0 {
        return time.seconds.to_string();
    }
    let (sign, seconds, nanos) = if time.seconds < 0 {
        ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanos)
    } else {
        ("", time.seconds.unsigned_abs(), time.nanos)
    };
    let fraction = format!("{nanos:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

/// PAX records, sorted by key.
#[derive(Default)]
struct Pax {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records.push((key.to_vec(), value.to_vec()));
    }

    /// The number goes here and zero into the header.
    fn number(&mut self, key: &[u8], value: u64) -> u64 {
        self.add(key, value.to_string().as_bytes());
        0
    }

    fn text(&mut self, key: &[u8], value: &[u8]) {
        self.add(key, value);
        if str::from_utf8(value).is_err() && !self.records.iter().any(|(key, _)| key == b"hdrcharset") {
            self.add(b"hdrcharset", b"BINARY");
        }
    }

    fn finish(mut self) -> Vec<u8> {
        // hdrcharset has to come before the text that it is about; it sorts before `linkpath` and `path`.
        self.records.sort();
        let mut out = Vec::new();
        for (key, value) in self.records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let mut digits = 1;
            let len = loop {
                let len = rest + digits;
                if len.to_string().len() == digits {
                    break len;
                }
                digits += 1;
            };
            out.extend_from_slice(len.to_string().as_bytes());
            out.push(b' ');
            out.extend_from_slice(&key);
            out.push(b'=');
            out.extend_from_slice(&value);
            out.push(b'\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_lengths_count_themselves() {
        for (value_len, expected) in [(0, "5 k=\n"), (4, "9 k=xxxx\n"), (5, "11 k=xxxxx\n")] {
            let mut pax = Pax::default();
            pax.add(b"k", "x".repeat(value_len).as_bytes());
            assert_eq!(pax.finish(), expected.as_bytes());
        }
        let mut pax = Pax::default();
        pax.add(b"k", "x".repeat(94).as_bytes());
        assert!(pax.finish().starts_with(b"101 k="), "with two digits it would be 100 long, which has three");
    }

    #[test]
    fn times_below_zero() {
        let cases = [((0, 1), "0.000000001"), ((1, 500_000_000), "1.5"), ((-2, 500_000_000), "-1.5"), ((-1, 900_000_000), "-0.1"), ((-5, 0), "-5")];
        for ((seconds, nanos), text) in cases {
            assert_eq!(pax_time(Timestamp { seconds, nanos }), text);
        }
    }

    #[test]
    fn long_names_are_split_where_they_can_be() {
        let split = |name: &str| {
            let mut block = [0; BLOCK];
            put_name(&mut block, name.as_bytes()).then(|| {
                let text = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches('\0').to_owned();
                (text(&block[345..500]).len(), text(&block[..100]).len())
            })
        };
        assert_eq!(split(&"a".repeat(100)), Some((0, 100)));
        assert_eq!(split(&"a".repeat(101)), None);
        assert_eq!(split(&format!("{}/{}", "a".repeat(155), "b".repeat(100))), Some((155, 100)));
        assert_eq!(split(&format!("{}/{}", "a".repeat(156), "b".repeat(99))), None);
        assert_eq!(split(&format!("{}/{}/", "a".repeat(60), "b".repeat(99))), Some((60, 100)));
        assert_eq!(split(&format!("{}/{}/", "a".repeat(60), "b".repeat(100))), None);
    }
}
