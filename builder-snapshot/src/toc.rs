//! Tables of contents: what a layer changes, one entry a path, in canonical order and encoding.
//!
//! A [`Toc`] is what content ids are made of, what `COPY --from` and bind mounts select from, and what a layer's tar is written from.
//!
//! # Invariants
//!
//! - Entries are sorted by [`TreePath`]'s order, one per path; all parent directories of an entry are listed, the root too. A layer that changes nothing has
//!   no entries at all.
//! - A whiteout stands for the removal of whatever lower layers have at its path. There are no opaque directories: they are expanded.
//! - Of a hard-link group the first path (in order) is the [`Node::File`]; the others are [`Node::Hardlink`] to it. Groups never cross layers.
//! - Directory sizes, inode numbers, link counts, owner names, access and change times are not in the table.
//!
//! Nothing here reads a file system.

use std::convert::Infallible;
use std::io::{self, Write};

use crate::digest::{Hasher, Sha256Digest};
use crate::path::TreePath;

mod codec;
mod merge;
mod packed;

pub use codec::TocError;
pub use merge::{merge, merge_packed};
pub use packed::PackedToc;

/// A layer's entries, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toc {
    /// Sorted by path, one entry per path.
    pub entries: Vec<TocEntry>,
}

/// One path of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// Where, relative to the root; the empty path is the root directory itself.
    pub path: TreePath,
    /// What is there.
    pub node: Node,
    /// Mode, owner, time, attributes. For whiteouts and hard links all defaults (a hard link shares its target's).
    pub meta: Meta,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Digest of the content.
        digest: Sha256Digest,
    },
    /// Another name of the regular file at `target`, which sorts earlier in the same table.
    Hardlink {
        /// The group's first path.
        target: TreePath,
    },
    /// A directory.
    Dir,
    /// A symbolic link; the target is data, stored verbatim.
    Symlink {
        /// The bytes of the link.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket. Kept in tables and content ids, never written to a tar (the format has none).
    Socket,
    /// The path is removed.
    Whiteout,
}

/// Metadata of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky (07777). 0777 for symbolic links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Whether `mtime` was set by the clock while the step that made this layer ran (not copied from a source).
    /// Such times become the epoch under `--timestamps=clamp`, whatever the epoch.
    pub made_by_step: bool,
    /// Extended attributes that count (`layer::xattr` says which), sorted by name.
    pub xattrs: Xattrs,
}

/// Extended attributes: names and values, sorted by name.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// A time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds, below 10⁹.
    pub nanos: u32,
}

/// Digest of a table without times: equal for equal content, wherever and whenever made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub Sha256Digest);

/// Digest of a table with times: names a layer exactly. Layers of images from elsewhere are named by their diff ID instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub Sha256Digest);

impl Toc {
    /// The digest of the table without times.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        ContentId(self.digest(codec::Times::Left))
    }

    /// The digest of the table with times: of what [`Toc::encode`] returns.
    #[must_use]
    pub fn layer_id(&self) -> LayerId {
        LayerId(self.digest(codec::Times::Kept))
    }

    fn digest(&self, times: codec::Times) -> Sha256Digest {
        let mut hasher = Hasher::new();
        let Ok(()) = codec::encode_to(self, times, &mut |piece| {
            hasher.update(piece);
            Ok::<_, Infallible>(())
        });
        hasher.finish()
    }

    /// The canonical bytes: equal tables, equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Ok(()) = codec::encode_to(self, codec::Times::Kept, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, Infallible>(())
        });
        bytes
    }

    /// Reads what [`Toc::encode`] wrote; anything else is refused.
    ///
    /// # Errors
    /// Bytes that are no canonical encoding of a table that holds the invariants.
    pub fn decode(bytes: &[u8]) -> Result<Self, TocError> {
        codec::decode(bytes)
    }

    /// What lies on disk beside a layer's files: the encoding and its digest. A layer's name can't vouch for its table, as layers of
    /// images are named by their diff ID; this does.
    #[must_use]
    pub fn seal(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        drop(self.seal_to(&mut bytes));
        bytes
    }

    /// As [`Toc::seal`], written piece by piece.
    ///
    /// # Errors
    /// Writing fails.
    pub fn seal_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut hasher = Hasher::new();
        codec::encode_to(self, codec::Times::Kept, &mut |piece| {
            hasher.update(piece);
            out.write_all(piece)
        })?;
        out.write_all(&hasher.finish().0)
    }

    /// Reads what [`Toc::seal`] wrote; a single changed bit is noticed.
    ///
    /// # Errors
    /// Bytes that are not sealed, or not by this table.
    pub fn unseal(bytes: &[u8]) -> Result<Self, TocError> {
        Self::decode(unsealed(bytes)?)
    }

    /// The entry at exactly this path.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<&TocEntry> {
        self.position(path).ok().map(|i| &self.entries[i])
    }

    fn position(&self, path: &TreePath) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path))
    }

    /// The entry at this path, if there is one, and all entries below it: one run of the table.
    #[must_use]
    pub fn subtree(&self, path: &TreePath) -> &[TocEntry] {
        let start = self.position(path).unwrap_or_else(|i| i);
        let rest = &self.entries[start..];
        // Whatever sorts between a path and its last descendant is a descendant.
        let len = rest.partition_point(|entry| entry.path.is_below(path));
        &rest[..len]
    }

    /// The regular file at this path, hard links followed: size, digest and the entry that has its metadata.
    #[must_use]
    pub fn file(&self, path: &TreePath) -> Option<(u64, Sha256Digest, &Meta)> {
        let mut entry = self.get(path)?;
        if let Node::Hardlink { target } = &entry.node {
            entry = self.get(target)?;
        }
        match entry.node {
            Node::File { size, digest } => Some((size, digest, &entry.meta)),
            _ => None,
        }
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The table in what [`Toc::seal`] wrote.
fn unsealed(bytes: &[u8]) -> Result<&[u8], TocError> {
    let Some((table, digest)) = bytes.split_last_chunk::<32>() else {
        return Err(TocError { reason: "it ends before its digest", offset: bytes.len() });
    };
    if Sha256Digest::of(table).0 != *digest {
        return Err(TocError { reason: "its bytes are not those its digest was made of", offset: table.len() });
    }
    Ok(table)
}
