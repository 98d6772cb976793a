//! Layers as tar, both ways.
//!
//! [`write_tar`] makes a layer's tar from its table and directory, always the same bytes. [`apply`] makes a layer's directory and table from a tar of anywhere,
//! and [`extract`] unpacks a user's archive into a tree; both take the tar for hostile: whatever it says, nothing outside is written, memory is
//! bounded, and [`ApplyLimits`] bound the rest. Compression is not done here: streams are plain tar.
//!
//! A layer has two encodings. On disk, overlay's: a character device 0:0 removes, `trusted.overlay.opaque` (in a user namespace `user.overlay.opaque`) hides. In the tar, the image specification's: names
//! that begin with `.wh.`. The table between them knows removal only.

mod apply;
mod extract;
mod read;
pub(crate) mod stand_in;
mod whiteout;
mod write;
pub(crate) mod xattr;

pub use apply::apply;
pub use extract::extract;
pub use read::{is_tar, newest_time};
pub use write::{WRITER_VERSION, write_tar, write_tar_of};

use crate::toc::Toc;

/// Which modification times a layer's tar has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimePolicy {
    /// Those of the table.
    Keep,
    /// Times that the step itself made become the epoch, others the earlier of theirs and the epoch.
    Clamp {
        /// Seconds since 1970.
        epoch_seconds: i64,
    },
}

/// What a tar from elsewhere may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyLimits {
    /// Entries.
    pub entries: u64,
    /// Bytes of the tar stream, and of all files together (sparse files are small in the stream).
    pub bytes: u64,
    /// Components of a path.
    pub path_depth: usize,
    /// Bytes of the extended attributes of one entry, names included.
    pub xattr_bytes: usize,
    /// Bytes of one extension header (PAX, GNU long name).
    pub extension_bytes: usize,
}

/// The largest images have a few hundred thousand entries; an entry costs about 300 bytes of memory, of which there shall be 256 MiB at most.
pub const MAX_ENTRIES: u64 = 700_000;
/// More than any layer that a registry takes; a bomb fills a disk otherwise.
pub const MAX_BYTES: u64 = 256 << 30;
/// Deeper trees than this cannot be opened by their path (PATH_MAX is 4096 bytes).
pub const MAX_PATH_DEPTH: usize = 1024;
/// The kernel's limit for one attribute and for the list of names is 64 KiB each.
pub const MAX_XATTR_BYTES: usize = 128 << 10;
/// As Go's archive/tar allows for PAX headers; attributes of [`MAX_XATTR_BYTES`] and two paths fit in.
pub const MAX_EXTENSION_BYTES: usize = 1 << 20;

impl Default for ApplyLimits {
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: MAX_BYTES,
            path_depth: MAX_PATH_DEPTH,
            xattr_bytes: MAX_XATTR_BYTES,
            extension_bytes: MAX_EXTENSION_BYTES,
        }
    }
}

/// What [`apply`] made.
#[derive(Debug)]
pub struct Applied {
    /// The layer's table.
    pub toc: Toc,
    /// The layer does not stand alone (it omits parent directories, links to a lower file, or has an opaque directory) and no base was given:
    /// apply it again with one. (Pass an empty tree for the bottom layer.) What was made is of no use then.
    pub needs_base: bool,
}
