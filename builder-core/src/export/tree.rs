//! The file tree of an image, read from its layers' tables without mounting anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::toc::{self, Node, Toc, TocEntry};

use super::ExportError;
use crate::content::{Stack, Store};

/// What an image's root file system holds, and where the files' bytes are.
pub(super) struct ImageTree {
    /// The effective table.
    pub(super) toc: Toc,
    /// Tables and directories of the layers, bottom first.
    layers: Vec<(Arc<Toc>, PathBuf)>,
    /// Which of the layers are of images from elsewhere.
    foreign: Vec<bool>,
}

impl ImageTree {
    /// Reads the tables of `stack`, whose layers' directories are `dirs`. Blocks.
    pub(super) fn open(stack: &Stack, dirs: &[PathBuf], store: &Store) -> Result<Self, ExportError> {
        let tocs = stack.layers.iter().map(|layer| store.read_toc(layer.id)).collect::<Result<Vec<_>, _>>()?;
        let toc = toc::merge(&tocs.iter().map(|toc| &**toc).collect::<Vec<_>>());
        let foreign = stack.layers.iter().map(|layer| layer.is_from_image()).collect();
        Ok(Self { toc, layers: tocs.into_iter().zip(dirs.iter().cloned()).collect(), foreign })
    }

    /// The entries that steps of rbuild left.
    pub(super) fn made_here(&self) -> impl Iterator<Item = &TocEntry> {
        let is_foreign = |path: &TreePath| {
            let top = self.layers.iter().zip(&self.foreign).rev().find(|((toc, _), _)| toc.get(path).is_some());
            top.is_none_or(|(_, foreign)| *foreign)
        };
        self.toc.entries.iter().filter(move |entry| !is_foreign(&entry.path))
    }

    /// Opens the regular file at `path`: that of the topmost layer that has one there.
    pub(super) fn open_file(&self, path: &TreePath) -> io::Result<File> {
        let layer = self.layers.iter().rev().find(|(toc, _)| {
            let node = toc.get(path).map(|entry| &entry.node);
            matches!(node, Some(Node::File { .. } | Node::Hardlink { .. }))
        });
        let (_, dir) = layer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        // Layers are frozen and their directories are ours; a link in the middle would contradict the table and be found by the size.
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(dir.join(path.as_path()))
    }
}
