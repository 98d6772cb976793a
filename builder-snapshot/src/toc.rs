//! Tables of contents: what a layer changes, one entry a path, in canonical order and encoding.
//!
//! A [`Toc`] is what content ids are made of, what `COPY --from` and bind mounts select from, and what a layer's tar is written from.
//!
//! # Invariants
//!
//! - Entries are sorted by [`TreePath`]'s order, one per path; all parent directories of an entry are listed, the root too.
//! - A whiteout stands for the removal of whatever lower layers have at its path. There are no opaque directories: they are expanded.
//! - Of a hard-link group the first path (in order) is the [`Node::File`]; the others are [`Node::Hardlink`] to it. Groups never cross layers.
//! - Directory sizes, inode numbers, link counts, owner names, access and change times are not in the table.
//!
//! Nothing here reads a file system.

use crate::digest::Sha256Digest;
use crate::path::TreePath;

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
    pub xattrs: Vec<(Box<[u8]>, Box<[u8]>)>,
}

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

/// Bytes that are no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged layer table: {reason} (at byte {offset})")]
pub struct TocError {
    /// What is wrong.
    pub reason: &'static str,
    /// Where.
    pub offset: usize,
}

impl Toc {
    /// The canonical bytes: equal tables, equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Toc::encode`] wrote; anything else is refused.
    ///
    /// # Errors
    /// Bytes that are no canonical encoding of a table.
    pub fn decode(_bytes: &[u8]) -> Result<Self, TocError> {
        todo!()
    }

    /// The digest of the table without times.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        todo!()
    }

    /// The digest of the table with times: of what [`Toc::encode`] returns.
    #[must_use]
    pub fn layer_id(&self) -> LayerId {
        todo!()
    }

    /// The entry at exactly this path.
    #[must_use]
    pub fn get(&self, _path: &TreePath) -> Option<&TocEntry> {
        todo!()
    }

    /// The entry at this path, if there is one, and all entries below it: one run of the table.
    #[must_use]
    pub fn subtree(&self, _path: &TreePath) -> &[TocEntry] {
        todo!()
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The effective table of a stack of layers, bottom first: whiteouts applied, hard-link groups whose first path is hidden renamed to the next one.
#[must_use]
pub fn merge(_tocs: &[&Toc]) -> Toc {
    todo!()
}
