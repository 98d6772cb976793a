//! Layers as tar, both ways.

use std::io::{Read, Write};
use std::path::Path;

use crate::error::LayerError;
use crate::path::TreePath;
use crate::snapshot::TreeWriter;
use crate::toc::Toc;
use crate::tree::MergedTree;

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

impl Default for ApplyLimits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 256 << 30, path_depth: 1024, xattr_bytes: 128 << 10, extension_bytes: 1 << 20 }
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

/// Unpacks a layer's tar (uncompressed) into the new or empty directory `into`; the stream is read to its end.
///
/// # Errors
/// A damaged or hostile tar, a limit, a full disk.
pub fn apply(_tar: &mut dyn Read, _into: &Path, _base: Option<&MergedTree>, _limits: &ApplyLimits) -> Result<Applied, LayerError> {
    todo!()
}

/// Unpacks a user's archive (uncompressed tar) below `dest`, an existing directory, as `tar -x` does; never outside `dest`.
///
/// # Errors
/// As [`apply`].
pub fn extract(
    _tar: &mut dyn Read,
    _writer: &mut TreeWriter,
    _dest: &TreePath,
    _owner: Option<(u32, u32)>,
    _limits: &ApplyLimits,
) -> Result<(), LayerError> {
    todo!()
}

/// Writes a layer's tar: the same bytes for the same table, policy and [`WRITER_VERSION`].
///
/// # Errors
/// A file that is not as listed, a name that a tar cannot say, and what `out` fails with.
pub fn write_tar(_toc: &Toc, _fs: &Path, _times: TimePolicy, _out: &mut dyn Write) -> Result<(), LayerError> {
    todo!()
}

/// Changes whenever [`write_tar`] makes other bytes of the same table.
pub const WRITER_VERSION: u32 = 1;
