//! A table that is kept as its canonical bytes: about sixty an entry, a third of what decoded entries take.
//!
//! For tables of a hundred thousand entries that are searched and walked but not changed. Every thirty-second entry is marked with its path,
//! so that a search decodes a few dozen entries.
//!
//! # Invariants
//! - The bytes were checked when they came in, or made here: decoding an entry does not fail.

use crate::path::{TreePath, order};

use super::codec::{self, Times};
use super::{Node, Toc, TocEntry, TocError, unsealed};

/// Entries from one mark to the next.
const MARK_EVERY: usize = 32;

/// A table as bytes.
#[derive(Debug, Default)]
pub struct PackedToc {
    /// Entries one after the other, as [`codec`] encodes them, maybe behind a heading.
    bytes: Vec<u8>,
    len: usize,
    marks: Vec<Mark>,
    has_whiteouts: bool,
}

/// Every [`MARK_EVERY`]-th entry.
#[derive(Debug)]
struct Mark {
    path: TreePath,
    /// Where the entry begins.
    offset: usize,
    /// Path of the entry before it, which decoding begins with.
    before: TreePath,
}

impl PackedToc {
    /// Takes what [`Toc::seal`] wrote.
    ///
    /// # Errors
    /// As [`Toc::unseal`].
    pub fn unseal(mut bytes: Vec<u8>) -> Result<Self, TocError> {
        let end = unsealed(&bytes)?.len();
        bytes.truncate(end);
        let mut packed = Self::default();
        let mut before = TreePath::root();
        codec::scan(&bytes, &mut |offset, entry| {
            let is_right = match &entry.node {
                Node::Hardlink { target } => {
                    // Only what was scanned is found.
                    packed.search(&bytes, target).ok().and_then(|at| packed.decode(&bytes, at)).is_some_and(|e| matches!(e.node, Node::File { .. }))
                }
                _ => true,
            };
            packed.note(&entry, offset, &before);
            before = entry.path;
            is_right
        })?;
        Ok(Self { bytes, ..packed })
    }

    /// The entry, which begins at `offset`, is the next one.
    fn note(&mut self, entry: &TocEntry, offset: usize, before: &TreePath) {
        if self.len.is_multiple_of(MARK_EVERY) {
            self.marks.push(Mark { path: entry.path.clone(), offset, before: before.clone() });
        }
        self.len += 1;
        self.has_whiteouts |= entry.node == Node::Whiteout;
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether anything is removed by the layer.
    #[must_use]
    pub fn has_whiteouts(&self) -> bool {
        self.has_whiteouts
    }

    /// The entries from position `at` on.
    #[must_use]
    pub fn entries_from(&self, at: usize) -> Entries<'_> {
        self.walk(&self.bytes, at)
    }

    /// All entries.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        self.entries_from(0)
    }

    /// The entry at a position.
    #[must_use]
    pub fn at(&self, at: usize) -> Option<TocEntry> {
        self.decode(&self.bytes, at)
    }

    /// The position of the entry at exactly this path, or that where it would be.
    ///
    /// # Errors
    /// None is there.
    pub fn position(&self, path: &TreePath) -> Result<usize, usize> {
        self.search(&self.bytes, path)
    }

    /// The entry at exactly this path.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<TocEntry> {
        self.at(self.position(path).ok()?)
    }

    /// The regular file at this path, hard links followed: the entry that says its size, digest and metadata.
    #[must_use]
    pub fn file(&self, path: &TreePath) -> Option<TocEntry> {
        let mut entry = self.get(path)?;
        if let Node::Hardlink { target } = &entry.node {
            entry = self.get(target)?;
        }
        matches!(entry.node, Node::File { .. }).then_some(entry)
    }

    /// The position behind the last entry below `path`, which is at position `at`.
    #[must_use]
    pub fn end_of(&self, path: &TreePath, at: usize) -> usize {
        // The first mark that is not below the path; the entries before it are looked at one by one.
        let first = at / MARK_EVERY + 1;
        let marks = self.marks.get(first..).unwrap_or_default();
        let below = first + marks.partition_point(|mark| mark.path.is_below(path));
        let start = if below == first { at } else { (below - 1) * MARK_EVERY };
        start + self.entries_from(start).take_while(|entry| entry.path.is_below(path)).count()
    }

    fn search(&self, bytes: &[u8], path: &TreePath) -> Result<usize, usize> {
        let Some(mark) = self.marks.partition_point(|mark| mark.path <= *path).checked_sub(1) else { return Err(0) };
        let first = mark * MARK_EVERY;
        let mut here = self.marks[mark].before.as_bytes().to_vec();
        let mut offset = self.marks[mark].offset;
        for at in first..self.len.min(first + MARK_EVERY) {
            match codec::skip_entry(bytes, offset, &mut here) {
                Some(next) => offset = next,
                None => return Err(at),
            }
            match order(&here, path.as_bytes()) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(at),
                std::cmp::Ordering::Greater => return Err(at),
            }
        }
        Err(self.len.min(first + MARK_EVERY))
    }

    fn decode(&self, bytes: &[u8], at: usize) -> Option<TocEntry> {
        self.walk(bytes, at).next()
    }

    fn walk<'a>(&'a self, bytes: &'a [u8], at: usize) -> Entries<'a> {
        let mut entries = match self.marks.get(at / MARK_EVERY) {
            Some(mark) if at < self.len => {
                let left = self.len - at / MARK_EVERY * MARK_EVERY;
                Entries { bytes, offset: mark.offset, before: mark.before.as_bytes().to_vec(), left }
            }
            _ => Entries { bytes, offset: 0, before: Vec::new(), left: 0 },
        };
        for _ in 0..at % MARK_EVERY {
            entries.skip_one();
        }
        entries
    }
}

impl<'a> FromIterator<&'a TocEntry> for PackedToc {
    /// Packs entries that come in the order of a table.
    fn from_iter<I: IntoIterator<Item = &'a TocEntry>>(entries: I) -> Self {
        let mut packer = Packer::default();
        for entry in entries {
            packer.push(entry);
        }
        packer.finish()
    }
}

impl From<&PackedToc> for Toc {
    fn from(packed: &PackedToc) -> Self {
        Self { entries: packed.entries().collect() }
    }
}

/// Makes a table from entries that come in order.
#[derive(Debug, Default)]
pub(super) struct Packer {
    packed: PackedToc,
    last: TreePath,
}

impl Packer {
    pub(super) fn push(&mut self, entry: &TocEntry) {
        let offset = self.packed.bytes.len();
        self.packed.note(entry, offset, &self.last);
        codec::put_entry(&mut self.packed.bytes, self.last.as_bytes(), entry, Times::Kept);
        self.last = entry.path.clone();
    }

    pub(super) fn finish(self) -> PackedToc {
        self.packed
    }
}

/// Entries of a [`PackedToc`], one after the other.
#[derive(Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    offset: usize,
    before: Vec<u8>,
    left: usize,
}

impl Entries<'_> {
    fn skip_one(&mut self) {
        match codec::skip_entry(self.bytes, self.offset, &mut self.before) {
            Some(next) if self.left > 0 => (self.offset, self.left) = (next, self.left - 1),
            _ => self.left = 0,
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = TocEntry;

    fn next(&mut self) -> Option<TocEntry> {
        self.left = self.left.checked_sub(1)?;
        let (entry, next) = codec::entry_at(self.bytes, self.offset, &self.before)?;
        self.offset = next;
        self.before.clear();
        self.before.extend_from_slice(entry.path.as_bytes());
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::toc::Meta;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).expect("clean")
    }

    /// Three directories with a hundred files each, one of them with a hard link.
    fn table() -> Toc {
        let mut toc = Toc::default();
        let mut put = |path: TreePath, node| toc.entries.push(TocEntry { path, node, meta: Meta::default() });
        put(TreePath::root(), Node::Dir);
        for dir in ["a", "b", "c"] {
            put(path(dir), Node::Dir);
            for n in 100..200_u64 {
                put(path(&format!("{dir}/f{n}")), Node::File { size: n, digest: Sha256Digest([1; 32]) });
            }
            put(path(&format!("{dir}/link")), Node::Hardlink { target: path(&format!("{dir}/f150")) });
        }
        toc
    }

    #[test]
    fn says_what_the_table_says() {
        let toc = table();
        let sealed = PackedToc::unseal(toc.seal()).expect("whole");
        let packed: PackedToc = toc.entries.iter().collect();
        for packed in [sealed, packed] {
            assert_eq!(Toc::from(&packed), toc);
            assert_eq!(packed.len(), toc.entries.len());
            for (at, entry) in toc.entries.iter().enumerate() {
                assert_eq!(packed.position(&entry.path), Ok(at));
                assert_eq!(packed.at(at).as_ref(), Some(entry));
                assert_eq!(packed.end_of(&entry.path, at), at + toc.subtree(&entry.path).len(), "{:?}", entry.path);
                assert_eq!(packed.entries_from(at).count(), toc.entries.len() - at);
            }
            for absent in ["", "a", "a/e", "a/f199x", "a/z", "a.b", "b", "zz"].map(path).into_iter().filter(|p| toc.get(p).is_none()) {
                assert_eq!(packed.position(&absent), toc.position(&absent), "{absent:?}");
                assert_eq!(packed.get(&absent), None);
            }
            let linked = packed.file(&path("b/link")).expect("a file");
            assert_eq!((linked.path, linked.node), (path("b/f150"), Node::File { size: 150, digest: Sha256Digest([1; 32]) }));
            assert_eq!(packed.file(&path("b")), None);
        }
        assert_eq!(PackedToc::default().position(&path("a")), Err(0));
        assert!(PackedToc::unseal(Toc::default().seal()).expect("whole").is_empty());
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let whole = table().seal();
        for at in (0..whole.len()).step_by(37) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(PackedToc::unseal(damaged).is_err(), "byte {at}");
            assert!(PackedToc::unseal(whole[..at].to_vec()).is_err(), "cut at {at}");
        }
        let mut dangling = table();
        dangling.entries.retain(|entry| entry.path != path("b/f150"));
        assert!(PackedToc::unseal(dangling.seal()).is_err() && Toc::unseal(&dangling.seal()).is_err());
    }
}
