//! A layer's tar into a layer's directory.
//!
//! Whatever the tar says, only things beneath the layer's directory are written (every call goes through a [`TreeWriter`], which opens parents without following
//! links). A link in the middle of an entry's path is followed as data, inside the tree; a link's own target is stored verbatim, wherever it points.

use std::io::Read;
use std::path::Path;

use crate::error::{LayerError, LimitReached, SnapshotError};
use crate::path::{PathError, TreePath};
use crate::snapshot::{Device, FileContent, TreeWriter};
use crate::toc::{Meta, Toc};
use crate::tree::{FoundKind, MergedTree};

use super::read::{Entry, Kind, TarReader};
use super::whiteout::{self, Meaning};
use super::{Applied, ApplyLimits};

/// Unpacks a layer's tar (uncompressed) into the new or empty directory `into`; the stream is read to its end.
///
/// # Errors
/// A damaged or hostile tar, a limit, a full disk.
pub fn apply(tar: &mut dyn Read, into: &Path, base: Option<&MergedTree>, limits: &ApplyLimits) -> Result<Applied, LayerError> {
    match std::fs::create_dir(into) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(SnapshotError::io("make directory", into.display())(e).into()),
        _ => {}
    }
    let lower = match base {
        Some(base) => base.clone(),
        None => MergedTree::open(&[])?,
    };
    let root = lower.lookup(&TreePath::root())?.map_or_else(implicit_dir, |found| found.meta);
    let mut writer = TreeWriter::new(into, lower)?;
    writer.set_meta(&TreePath::root(), &root)?;
    writer.forget_root_change();
    let mut reader = TarReader::new(tar, limits);
    let mut layer = Layer { writer, has_base: base.is_some(), needs_base: false, limits };
    while let Some(entry) = reader.next_entry()? {
        layer.entry(&entry, &mut reader)?;
    }
    let needs_base = layer.needs_base;
    // Incomplete without its base: whoever applies it again gets the table then.
    let toc = if needs_base { Toc::default() } else { layer.writer.finish()? };
    Ok(Applied { toc, needs_base })
}

/// What a directory looks like that entries lie in but no entry makes.
pub(super) fn implicit_dir() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}

struct Layer<'a> {
    writer: TreeWriter,
    has_base: bool,
    needs_base: bool,
    limits: &'a ApplyLimits,
}

impl Layer<'_> {
    fn entry(&mut self, entry: &Entry, reader: &mut TarReader<'_>) -> Result<(), LayerError> {
        let path = checked_path(entry, &entry.name, self.limits, TreePath::new)?;
        let Some(name) = path.file_name() else {
            return match entry.kind {
                Kind::Dir => Ok(self.writer.set_meta(&path, &meta(entry))?),
                _ => Err(entry.refused("the root can only be a directory")),
            };
        };
        let above = path.parent().unwrap_or_default();
        if above.components().any(|part| part.starts_with(whiteout::PREFIX)) {
            return Err(entry.refused("it lies below a name that means deletion"));
        }
        let parent = self.parent(entry, &above)?;
        let path = checked_child(entry, &parent, name)?;
        match whiteout::meaning(name) {
            Meaning::Ordinary => self.ordinary(entry, &path, reader),
            Meaning::Refused => Err(entry.refused("names that begin with `.wh.` mean deletion, but this one says nothing that could be deleted")),
            Meaning::Opaque => {
                self.writer.make_dirs(&parent, &implicit_dir())?;
                self.writer.take_up_dir(&parent)?;
                self.opaque(&parent)
            }
            Meaning::Removes(removed) => {
                let removed = parent.child(removed);
                if !self.writer.has_written(&removed) {
                    Ok(self.writer.put_whiteout(&removed)?)
                } else if self.writer.has_written_dir(&removed) {
                    // A whiteout is about lower layers; what this layer has at the path stays, alone.
                    self.opaque(&removed)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn opaque(&mut self, dir: &TreePath) -> Result<(), LayerError> {
        // The table names what is hidden, so it has to be known.
        self.needs_base |= !self.has_base;
        Ok(self.writer.set_opaque(dir)?)
    }

    fn ordinary(&mut self, entry: &Entry, path: &TreePath, reader: &mut TarReader<'_>) -> Result<(), LayerError> {
        match &entry.kind {
            Kind::Dir => {
                let hid = self.writer.has_written(path) && !self.writer.has_written_dir(path);
                self.writer.make_dir(path, &meta(entry))?;
                if hid { self.opaque(path) } else { Ok(()) }
            }
            Kind::Hardlink { target } => {
                let target_path = checked_path(entry, target, self.limits, TreePath::new)?;
                let real = self.writer.tree().resolve_parent(&target_path)?;
                match real.found {
                    Some(_) => put_link(&mut self.writer, entry, &real.path, path),
                    None if self.has_base => Err(missing_target(entry, target)),
                    None => {
                        self.needs_base = true;
                        Ok(())
                    }
                }
            }
            _ => put(&mut self.writer, entry, path, &meta(entry), reader),
        }
    }

    /// The real directory that an entry lies in; made if it is missing.
    fn parent(&mut self, entry: &Entry, above: &TreePath) -> Result<TreePath, LayerError> {
        if self.writer.has_written_dir(above) {
            return Ok(above.clone());
        }
        let resolved = match self.writer.tree().resolve(above) {
            Err(SnapshotError::NotADirectory { path }) => return Err(entry.refused(format!("it lies below {path}, which is not a directory"))),
            Err(SnapshotError::LinkLoop { path }) => return Err(entry.refused(format!("it lies below {path}, which leads through too many links"))),
            result => result?,
        };
        match resolved.found {
            Some(found) if found.kind == FoundKind::Dir => {}
            Some(_) => return Err(entry.refused(format!("it lies below {}, which is not a directory", resolved.path.display()))),
            None => {
                // Lower layers may have it, with other metadata or as a link.
                self.needs_base |= !self.has_base;
                self.writer.make_dirs(&resolved.path, &implicit_dir())?;
            }
        }
        Ok(resolved.path)
    }
}

pub(super) fn meta(entry: &Entry) -> Meta {
    Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, made_by_step: false, xattrs: entry.xattrs.clone() }
}

pub(super) fn missing_target(entry: &Entry, target: &[u8]) -> LayerError {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    LayerError::LinkTarget { entry: text(&entry.name), target: text(target) }
}

pub(super) fn checked_path(
    entry: &Entry,
    bytes: &[u8],
    limits: &ApplyLimits,
    clean: fn(Vec<u8>) -> Result<TreePath, PathError>,
) -> Result<TreePath, LayerError> {
    let path = clean(bytes.to_vec()).map_err(|e| match e {
        PathError::ParentComponent(_) => entry.refused("`..` in its path could lead out of the tree"),
        PathError::Nul(_) => entry.refused("its path has a NUL byte"),
        PathError::TooLong(len) => entry.refused(format!("its path has {len} bytes, more than 4096")),
    })?;
    if path.components().count() > limits.path_depth {
        return Err(LayerError::Limit(LimitReached { name: "path-depth", what: "components in a path", limit: limits.path_depth as u64 }));
    }
    if path.components().any(|part| part.len() > MAX_NAME_BYTES) {
        return Err(entry.refused("a component of its path has more than 255 bytes"));
    }
    Ok(path)
}

/// The kernel's NAME_MAX.
const MAX_NAME_BYTES: usize = 255;

pub(super) fn checked_child(entry: &Entry, parent: &TreePath, name: &[u8]) -> Result<TreePath, LayerError> {
    let path = parent.child(name);
    if path.as_bytes().len() >= crate::path::MAX_PATH_BYTES {
        return Err(entry.refused("its path is too long once links are followed"));
    }
    Ok(path)
}

/// Another name for what is at `existing`. Only regular files share an inode; of links and special files there are equal copies.
pub(super) fn put_link(writer: &mut TreeWriter, entry: &Entry, existing: &TreePath, new: &TreePath) -> Result<(), LayerError> {
    if existing == new {
        return Ok(());
    }
    let Some(found) = writer.tree().lookup(existing)? else {
        return Err(missing_target(entry, existing.as_bytes()));
    };
    match found.kind {
        FoundKind::File { .. } => writer.hard_link(existing, new)?,
        FoundKind::Symlink { target } => writer.put_symlink(new, &target, &found.meta)?,
        FoundKind::CharDevice { major, minor } => writer.put_device(new, Device { block: false, major, minor }, &found.meta)?,
        FoundKind::BlockDevice { major, minor } => writer.put_device(new, Device { block: true, major, minor }, &found.meta)?,
        FoundKind::Fifo => writer.put_fifo(new, &found.meta)?,
        FoundKind::Socket => writer.put_socket(new, &found.meta)?,
        FoundKind::Dir => return Err(missing_target(entry, existing.as_bytes())),
    }
    Ok(())
}

/// Puts an entry that is neither a directory nor a hard link.
pub(super) fn put(writer: &mut TreeWriter, entry: &Entry, path: &TreePath, meta: &Meta, reader: &mut TarReader<'_>) -> Result<(), LayerError> {
    match &entry.kind {
        Kind::File => {
            let result = writer.put_file(path, FileContent::Reader(reader), meta);
            if let Some(failure) = reader.take_failure() {
                return Err(failure);
            }
            result?;
        }
        Kind::Symlink { target } if target.is_empty() || target.contains(&0) || target.len() >= crate::path::MAX_PATH_BYTES => {
            return Err(entry.refused("no symbolic link can have its target"));
        }
        Kind::Symlink { target } => writer.put_symlink(path, target, meta)?,
        Kind::CharDevice { major: 0, minor: 0 } => return Err(entry.refused("character device 0:0 would be taken for a deletion")),
        Kind::CharDevice { major, minor } => writer.put_device(path, Device { block: false, major: *major, minor: *minor }, meta)?,
        Kind::BlockDevice { major, minor } => writer.put_device(path, Device { block: true, major: *major, minor: *minor }, meta)?,
        Kind::Fifo => writer.put_fifo(path, meta)?,
        Kind::Dir => writer.make_dir(path, meta)?,
        Kind::Hardlink { target } => return Err(missing_target(entry, target)),
    }
    Ok(())
}
