//! A user's archive into a directory of a tree, as `tar -x` does (features A9.14).
//!
//! The destination is the archive's world: `..` stops there, absolute names and links start there. Names that a layer's tar could not say are refused.

use std::io::Read;

use crate::error::{LayerError, SnapshotError};
use crate::path::TreePath;
use crate::snapshot::TreeWriter;
use crate::tree::FoundKind;

use super::ApplyLimits;
use super::apply::{checked_child, checked_path, implicit_dir, meta, missing_target, put, put_link};
use super::read::{Entry, Kind, TarReader};
use super::whiteout::{self, Meaning};

/// Unpacks a user's archive (uncompressed tar) below `dest`, an existing directory (no link), as `tar -x` does; never outside `dest`. With an `owner` everything
/// belongs to it, else to whom the archive says.
///
/// # Errors
/// As [`super::apply`].
pub fn extract(
    tar: &mut dyn Read,
    writer: &mut TreeWriter,
    dest: &TreePath,
    owner: Option<(u32, u32)>,
    limits: &ApplyLimits,
) -> Result<(), LayerError> {
    let mut reader = TarReader::new(tar, limits);
    while let Some(entry) = reader.next_entry()? {
        let mut meta = meta(&entry);
        if let Some((uid, gid)) = owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        let below = checked_path(&entry, &entry.name, limits, TreePath::clipped)?;
        let Some(name) = below.file_name() else {
            match entry.kind {
                Kind::Dir => writer.set_meta(dest, &meta)?,
                _ => return Err(entry.refused("the destination can only be a directory")),
            }
            continue;
        };
        if below.components().any(|part| whiteout::meaning(part) != Meaning::Ordinary) {
            return Err(LayerError::WhiteoutName { path: dest.join(&below).display() });
        }
        let parent = parent(writer, &entry, dest, &below.parent().unwrap_or_default())?;
        let path = checked_child(&entry, &parent, name)?;
        match &entry.kind {
            Kind::Dir => writer.make_dir(&path, &meta)?,
            Kind::Hardlink { target } => {
                let target_path = checked_path(&entry, target, limits, TreePath::clipped)?;
                let (Some(above), Some(name)) = (target_path.parent(), target_path.file_name()) else {
                    return Err(missing_target(&entry, target));
                };
                let real = writer.tree().resolve_beneath(dest, &above)?.path;
                put_link(writer, &entry, &checked_child(&entry, &real, name)?, &path)?;
            }
            _ => put(writer, &entry, &path, &meta, &mut reader)?,
        }
    }
    Ok(())
}

/// The real directory that an entry lies in. Missing ones are made; where a link leads nowhere nothing is made behind it.
fn parent(writer: &mut TreeWriter, entry: &Entry, dest: &TreePath, above: &TreePath) -> Result<TreePath, LayerError> {
    let lexical = dest.join(above);
    if writer.has_written_dir(&lexical) {
        return Ok(lexical);
    }
    let resolved = match writer.tree().resolve_beneath(dest, above) {
        Err(SnapshotError::NotADirectory { path }) => return Err(entry.refused(format!("it lies below {path}, which is not a directory"))),
        Err(SnapshotError::LinkLoop { path }) => return Err(entry.refused(format!("it lies below {path}, which leads through too many links"))),
        result => result?,
    };
    match resolved.found {
        Some(found) if found.kind == FoundKind::Dir => Ok(resolved.path),
        Some(_) => Err(entry.refused(format!("it lies below {}, which is not a directory", resolved.path.display()))),
        None if resolved.path == lexical => {
            writer.make_dirs(&lexical, &implicit_dir())?;
            Ok(lexical)
        }
        None => Err(entry.refused(format!("a link on its way leads to {}, which does not exist", resolved.path.display()))),
    }
}
