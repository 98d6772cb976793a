//! Hard links instead of copies: a file that some committed layer already holds, with the same content and metadata, gets a further name.
//!
//! # Invariants
//! - Only files of committed layers are linked, and only into a layer in the making: neither is ever written to.
//! - No link is made to an inode that a running step sees, and none that would show one inode twice in a stack: see
//!   [`leases`](crate::content::leases). Then the file is copied, as it is where the file system refuses.
//! - The layer's table is the same as if all had been copied.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder_snapshot::snapshot::{LinkSource, ListedFile, TreeWriter};
use builder_snapshot::toc::{Meta, Node, PackedToc};
use builder_snapshot::{Sha256Digest, TreePath};

use crate::content::leases::{Families, Linker};
use crate::content::{Store, StoreError};
use crate::error::StepError;

/// Links made before steps that wait may begin: some milliseconds' worth. After a refusal as many files are copied before the next try.
const BATCH_FILES: u32 = 256;

/// The layer that an earlier version of the same operation made.
#[derive(Debug, Clone)]
pub struct Previous {
    /// Its directory.
    pub fs: PathBuf,
    /// Its table.
    pub toc: Arc<PackedToc>,
}

impl Previous {
    /// The file that the earlier version had at `target`, if it has this content and metadata.
    pub(super) fn holds(&self, target: &TreePath, size: u64, digest: Sha256Digest, meta: &Meta) -> bool {
        self.toc
            .file(target)
            .is_some_and(|found| found.node == Node::File { size, digest } && *meta == Meta { made_by_step: meta.made_by_step, ..found.meta })
    }
}

/// Makes links into one layer.
pub(super) struct Links<'a> {
    store: &'a Store,
    /// Families of the layers below the one that is made.
    below: Families,
    /// Families of the layers that were linked from.
    joined: Families,
    sources: HashMap<PathBuf, Option<Source<'a>>>,
    /// The source whose batch is open.
    open: Option<PathBuf>,
    made: bool,
}

struct Source<'a> {
    linker: Linker<'a>,
    files: LinkSource,
    batch: Batch,
}

enum Batch {
    /// Links that may still be made.
    Open(u32),
    /// The last one has ended.
    Ended,
    /// A step was running; files to copy before the next try.
    Refused(u32),
}

impl<'a> Links<'a> {
    /// For a layer on the layers with these directories.
    pub(super) fn new(store: &'a Store, below: &[PathBuf]) -> Result<Self, StoreError> {
        let mut families = Families::new();
        for fs in below {
            families.append(&mut store.leases().families(fs)?);
        }
        Ok(Self { store, below: families, joined: Families::new(), sources: HashMap::new(), open: None, made: false })
    }

    /// Makes `target` another name of the file `listed` of the layer with the directory `fs`, whose table gives it `meta`. False if it has to
    /// be copied; then no batch is open.
    pub(super) fn link(
        &mut self,
        writer: &mut TreeWriter,
        target: &TreePath,
        fs: &Path,
        listed: ListedFile<'_>,
        meta: &Meta,
    ) -> Result<bool, StepError> {
        let failed = |error: &dyn std::fmt::Display| StepError::other(error.to_string());
        if self.open.as_deref().is_some_and(|open| open != fs) {
            self.pause()?;
        }
        if !self.sources.contains_key(fs) {
            let source = self.open_source(fs).map_err(|e| failed(&e))?;
            self.sources.insert(fs.to_path_buf(), source);
        }
        let Some(Some(source)) = self.sources.get_mut(fs) else { return Ok(false) };
        match &mut source.batch {
            Batch::Open(left) if *left > 0 => *left -= 1,
            Batch::Refused(left) if *left > 0 => {
                *left -= 1;
                return Ok(false);
            }
            batch => {
                if matches!(batch, Batch::Open(_)) {
                    source.linker.end_batch().map_err(|e| failed(&e))?;
                    self.open = None;
                }
                if !source.linker.begin_batch().map_err(|e| failed(&e))? {
                    *batch = Batch::Refused(BATCH_FILES);
                    return Ok(false);
                }
                *batch = Batch::Open(BATCH_FILES);
                self.open = Some(fs.to_path_buf());
            }
        }
        if !self.made {
            self.store.keep_links_until_swept().map_err(|e| failed(&e))?;
            self.made = true;
        }
        let linked = writer.link_file(target, &mut source.files, listed, meta).map_err(|e| failed(&e))?;
        if !linked {
            self.pause()?;
        }
        Ok(linked)
    }

    fn open_source(&mut self, fs: &Path) -> Result<Option<Source<'a>>, StoreError> {
        let Some(linker) = self.store.leases().linker(fs, &mut self.joined, &self.below)? else { return Ok(None) };
        // A layer that can't be opened can't be copied from either: that says why.
        Ok(LinkSource::open(fs).ok().map(|files| Source { linker, files, batch: Batch::Ended }))
    }

    /// Lets steps begin that wait for links to be made.
    pub(super) fn pause(&mut self) -> Result<(), StepError> {
        let open = self.open.take().and_then(|fs| self.sources.get_mut(&fs)).and_then(Option::as_mut);
        if let Some(source) = open {
            source.batch = Batch::Ended;
            source.linker.end_batch().map_err(|error| StepError::other(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether anything may have been linked.
    pub(super) fn made_any(&self) -> bool {
        self.made
    }

    /// The families of the layer, if it has any but its own. No batch is open any more.
    pub(super) fn finish(mut self) -> Result<Option<Families>, StepError> {
        self.pause()?;
        Ok(self.made.then_some(self.joined))
    }
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
