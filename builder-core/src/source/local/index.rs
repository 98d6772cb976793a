//! The stat index: which digest a file of a context had when it was last read, so that an unchanged file is not read again.
//!
//! One file per context directory, read whole, searched where it lies in memory, replaced by renaming.
//!
//! # Invariants
//! - An entry counts only if size, times, inode, device and mode are all as they were.
//! - A digest is kept only if the file's change time was already past, by more than its clock's step, when reading began: a later change
//!   in the same step of the clock would otherwise go unseen (git calls such entries racily clean).
//! - A file that is not exactly what [`write()`] makes is as good as none; losing the index costs time, never a wrong digest.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use builder_snapshot::toc::Timestamp;
use builder_snapshot::{Hasher, Sha256Digest};

use crate::whole_file::WholeFile;

const MAGIC: &[u8; 16] = b"rbuild stat 1\n\0\0";
const HEADER_BYTES: usize = 16 + 32 + 8;
const RECORD_BYTES: usize = 128;
/// Longest `security.capability` value (version 3).
pub(super) const MAX_CAPABILITY_BYTES: usize = 24;

/// What the file system says of a file, as far as it tells whether the file is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) ino: u64,
    pub(super) dev: u64,
}

/// What reading a file told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) digest: Sha256Digest,
    /// Value of `security.capability`; empty for none.
    pub(super) capability: Box<[u8]>,
}

/// Whether a digest of a file with this change time, read from `began` on, will still be known to belong to it later.
pub(super) fn is_settled(ctime: Timestamp, began: Timestamp) -> bool {
    // Kernels stamp with a clock that steps every few milliseconds; a time without nanoseconds comes from a file system that keeps seconds.
    let step_nanos: i128 = if ctime.nanos == 0 { 2_000_000_000 } else { 20_000_000 };
    let nanos = |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    nanos(ctime) + step_nanos < nanos(began)
}

/// An index as read.
#[derive(Debug, Default)]
pub(super) struct StatIndex {
    bytes: Vec<u8>,
    count: usize,
}

impl StatIndex {
    /// Reads the index at `path`; an empty one if there is none that can be used.
    pub(super) fn load(path: &Path) -> Self {
        let Ok(bytes) = fs::read(path) else { return Self::default() };
        Self::check(bytes).unwrap_or_default()
    }

    fn check(bytes: Vec<u8>) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || &bytes[..16] != MAGIC || Sha256Digest::of(&bytes[48..]).0 != bytes[16..48] {
            return None;
        }
        let count = usize::try_from(u64::from_le_bytes(bytes[48..56].try_into().ok()?)).ok()?;
        let records_end = count.checked_mul(RECORD_BYTES)?.checked_add(HEADER_BYTES)?;
        (records_end <= bytes.len()).then_some(Self { bytes, count })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The content of the file at `path`, if its stat is what it was.
    pub(super) fn find(&self, path: &[u8], stat: &Stat) -> Option<Content> {
        let mut low = 0;
        let mut high = self.count;
        while low < high {
            let middle = low.midpoint(high);
            match self.path(middle)?.cmp(path) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (known, content) = self.record(middle)?;
                    return (known == *stat).then_some(content);
                }
            }
        }
        None
    }

    /// All entries, in order.
    #[cfg(test)]
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], Stat, Content)> {
        (0..self.count).filter_map(|at| {
            let (stat, content) = self.record(at)?;
            Some((self.path(at)?, stat, content))
        })
    }

    fn fields(&self, at: usize) -> Fields<'_> {
        let start = HEADER_BYTES + at * RECORD_BYTES;
        Fields(&self.bytes[start..start + RECORD_BYTES])
    }

    fn path(&self, at: usize) -> Option<&[u8]> {
        let mut fields = self.fields(at);
        let start = usize::try_from(fields.u64()).ok()?;
        let size = usize::try_from(fields.u32()).ok()?;
        self.bytes.get(start..start.checked_add(size)?)
    }

    fn record(&self, at: usize) -> Option<(Stat, Content)> {
        let mut fields = self.fields(at);
        fields.u64();
        fields.u32();
        let mode = fields.u32();
        let size = fields.u64();
        let mtime = fields.time();
        let ctime = fields.time();
        let ino = fields.u64();
        let dev = fields.u64();
        let digest = Sha256Digest(fields.take::<32>());
        let capability_bytes = usize::from(fields.take::<1>()[0]);
        let capability = fields.take::<MAX_CAPABILITY_BYTES>().get(..capability_bytes)?.into();
        Some((Stat { mode, size, mtime, ctime, ino, dev }, Content { digest, capability }))
    }
}

/// A record, read field by field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk::<N>().expect("a record holds all fields");
        self.0 = rest;
        *head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn time(&mut self) -> Timestamp {
        let seconds = i64::from_le_bytes(self.take());
        Timestamp { seconds, nanos: self.u32() }
    }
}

/// What is known of a path now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) path: &'a [u8],
    /// Stat and content; none if the content cannot be told by the stat later.
    pub(super) found: Option<(Stat, &'a Content)>,
}

impl<'a> Update<'a> {
    fn source(&self) -> Option<Source<'a>> {
        self.found.map(|(stat, content)| Source::New(self.path, stat, content))
    }
}

/// An entry of the index to be written: its place in the old one, or what is new.
enum Source<'a> {
    Old(usize),
    New(&'a [u8], Stat, &'a Content),
}

/// Replaces the index at `path` by what `old` has, as far as `keeps` says so, and `new` on top of it. `new` must be sorted by path, one a path.
pub(super) fn write(path: &Path, old: &StatIndex, keeps: &dyn Fn(&[u8]) -> bool, new: &[Update<'_>]) -> io::Result<()> {
    let mut merged = Vec::with_capacity(new.len());
    let mut new = new.iter().peekable();
    for at in 0..old.count {
        let Some(old_path) = old.path(at) else { continue };
        while let Some(update) = new.next_if(|update| update.path < old_path) {
            merged.extend(update.source());
        }
        match new.next_if(|update| update.path == old_path) {
            Some(update) => merged.extend(update.source()),
            None if keeps(old_path) => merged.push(Source::Old(at)),
            None => {}
        }
    }
    merged.extend(new.filter_map(Update::source));

    // Two builds of one context may write at once: the later one wins.
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let dir = File::open(dir)?;
    let whole = WholeFile::create(dir.as_fd(), name, 0o600)?;
    write_merged(whole.file(), old, &merged)?;
    whole.publish(name)
}

fn write_merged(mut file: &File, old: &StatIndex, merged: &[Source<'_>]) -> io::Result<()> {
    file.write_all(MAGIC)?;
    file.write_all(&[0; 32])?;
    let mut out = BufWriter::with_capacity(64 << 10, Hashing { file, hasher: Hasher::new() });
    out.write_all(&(merged.len() as u64).to_le_bytes())?;
    let mut path_at = (HEADER_BYTES + merged.len() * RECORD_BYTES) as u64;
    for source in merged {
        let mut record = Vec::with_capacity(RECORD_BYTES);
        record.extend_from_slice(&path_at.to_le_bytes());
        match source {
            // All but the place of the path stays as it is.
            Source::Old(at) => record.extend_from_slice(&old.fields(*at).0[8..]),
            Source::New(path, stat, content) => put_record(&mut record, path, stat, content)?,
        }
        record.resize(RECORD_BYTES, 0);
        out.write_all(&record)?;
        path_at += source.path(old).len() as u64;
    }
    for source in merged {
        out.write_all(source.path(old))?;
    }
    let digest = out.into_inner().map_err(io::IntoInnerError::into_error)?.hasher.finish();
    file.seek(SeekFrom::Start(16))?;
    file.write_all(&digest.0)
}

impl<'a> Source<'a> {
    fn path(&self, old: &'a StatIndex) -> &'a [u8] {
        match self {
            Self::Old(at) => old.path(*at).unwrap_or_default(),
            Self::New(path, ..) => path,
        }
    }
}

fn put_record(record: &mut Vec<u8>, path: &[u8], stat: &Stat, content: &Content) -> io::Result<()> {
    record.extend_from_slice(&u32::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes());
    record.extend_from_slice(&stat.mode.to_le_bytes());
    record.extend_from_slice(&stat.size.to_le_bytes());
    for time in [stat.mtime, stat.ctime] {
        record.extend_from_slice(&time.seconds.to_le_bytes());
        record.extend_from_slice(&time.nanos.to_le_bytes());
    }
    record.extend_from_slice(&stat.ino.to_le_bytes());
    record.extend_from_slice(&stat.dev.to_le_bytes());
    record.extend_from_slice(&content.digest.0);
    record.push(u8::try_from(content.capability.len()).map_err(io::Error::other)?);
    record.extend_from_slice(&content.capability);
    Ok(())
}

/// Hashes what is written.
struct Hashing<'a> {
    file: &'a File,
    hasher: Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ino: u64) -> Stat {
        let time = Timestamp { seconds: 5, nanos: 6 };
        Stat { mode: 0o100_644, size: 3, mtime: time, ctime: time, ino, dev: 1 }
    }

    fn content(byte: u8, capability: &[u8]) -> Content {
        Content { digest: Sha256Digest([byte; 32]), capability: capability.into() }
    }

    #[test]
    fn what_is_written_is_found_if_nothing_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index");
        let entries: Vec<(&[u8], Stat, Content)> =
            vec![(b"a", stat(1), content(1, b"")), (b"a/b", stat(2), content(2, &[7; 20])), (b"z", stat(3), content(3, &[1; 24]))];
        write_all(&path, &entries);
        let index = StatIndex::load(&path);
        assert_eq!(index.entries().collect::<Vec<_>>(), entries);
        assert_eq!(index.find(b"a/b", &stat(2)), Some(content(2, &[7; 20])));
        assert_eq!(index.find(b"a/b", &stat(9)), None);
        assert_eq!(index.find(b"b", &stat(2)), None);
    }

    fn write_all(path: &Path, entries: &[(&[u8], Stat, Content)]) {
        let new: Vec<_> = entries.iter().map(|(path, stat, content)| Update { path, found: Some((*stat, content)) }).collect();
        write(path, &StatIndex::default(), &|_| true, &new).expect("written");
    }

    #[test]
    fn what_is_new_goes_over_what_was_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index");
        let known = |name: &'static [u8], n: u8| (name, stat(n.into()), content(n, &[n; 20]));
        write_all(&path, &[known(b"a", 1), known(b"b", 2), known(b"d", 3), known(b"e", 4), known(b"f", 5)]);
        let old = StatIndex::load(&path);
        let fresh = [content(6, b""), content(7, b""), content(8, b"")];
        let new = [
            Update { path: b"", found: Some((stat(6), &fresh[0])) },
            Update { path: b"b", found: Some((stat(7), &fresh[1])) },
            Update { path: b"e", found: None },
            Update { path: b"g", found: Some((stat(8), &fresh[2])) },
        ];
        write(&path, &old, &|path| path != b"d", &new).expect("written");
        let expected = [known(b"a", 1), known(b"f", 5)];
        let index = StatIndex::load(&path);
        let found: Vec<_> = index.entries().collect();
        assert_eq!(found.iter().map(|(path, ..)| *path).collect::<Vec<_>>(), [&b""[..], b"a", b"b", b"f", b"g"]);
        assert!(expected.iter().all(|known| found.contains(known)));
        assert_eq!((index.find(b"b", &stat(7)), index.find(b"b", &stat(2))), (Some(content(7, b"")), None));
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "nothing temporary stays");
    }

    /// Whoever writes the store can write a right digest too.
    #[test]
    fn an_index_that_lies_with_a_right_digest_is_harmless() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index");
        write_all(&path, &[(b"a", stat(1), content(1, b"")), (b"b", stat(2), content(2, b""))]);
        let whole = fs::read(&path).expect("read");
        // The count, where the path is, how long it is, how long the attribute is.
        for (at, bytes) in [(48, 8), (56, 8), (64, 4), (56 + 96, 1)] {
            for value in [0x7f_u8, 0xff] {
                let mut lying = whole.clone();
                lying[at..at + bytes].fill(value);
                let digest = Sha256Digest::of(&lying[48..]);
                lying[16..48].copy_from_slice(&digest.0);
                fs::write(&path, lying).expect("written");
                let index = StatIndex::load(&path);
                assert_eq!(index.find(b"a", &stat(1)), None, "{at}");
                assert!(index.entries().count() <= 2);
                write(&path, &index, &|_| true, &[]).expect("written");
                StatIndex::load(&path);
            }
        }
    }

    #[test]
    fn a_damaged_index_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index");
        write_all(&path, &[(b"a", stat(1), content(1, b""))]);
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(StatIndex::check(damaged).is_none(), "byte {at}");
            assert!(StatIndex::check(whole[..at].to_vec()).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn racily_clean_files_are_not_settled() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert!(!is_settled(at(10, 500), at(10, 1_000_000)));
        assert!(is_settled(at(10, 500), at(10, 30_000_000)));
        assert!(!is_settled(at(10, 0), at(11, 0)), "a file system that keeps seconds");
        assert!(is_settled(at(10, 0), at(13, 0)));
        assert!(!is_settled(at(20, 1), at(10, 0)), "a clock that went back");
    }
}
