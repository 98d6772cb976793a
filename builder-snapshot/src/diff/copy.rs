//! The table of a copy of a tree that a process wrote to.
//!
//! Every name is looked at, as nothing tells where a process was. What still has its fingerprint is passed over; the rest is compared in full, attributes and
//! bytes included: a doubt costs time, never a change.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{self, FileType};

use crate::error::SnapshotError;
use crate::path::TreePath;
use crate::snapshot::{Fingerprints, Owners};
use crate::stop::StopSignal;
use crate::sys;
use crate::toc::Timestamp;
use crate::tree::{Child, MergedTree};

use super::changes::{Changes, Collector};

/// Compares the directory `copy`, of which `known` has the fingerprints of when it was equal to `lower`, with what `lower` has. Nothing is changed in it.
///
/// # Errors
/// Reading fails; a path is too long to be kept; `stop` is set.
pub(crate) fn copy_changes(
    copy: &Path,
    lower: &MergedTree,
    known: &Fingerprints,
    started: Timestamp,
    owners: &Owners,
    stop: &StopSignal,
) -> Result<Changes, SnapshotError> {
    let mut collector = Collector::new(copy, lower, started, owners, stop)?;
    let mut pending = vec![TreePath::root()];
    while let Some(path) = pending.pop() {
        let dir = collector.open_dir(&path)?;
        let stat = fs::fstat(&dir).map_err(|e| SnapshotError::io("read", path.display())(e.into()))?;
        // Making, removing or renaming something in a directory changes its time.
        let is_known = known.has(&path, &stat);
        let mut names: Vec<Box<[u8]>> = Vec::new();
        sys::fs::for_each_name(&dir, |name, _| {
            names.push(name.into());
            Ok(())
        })
        .map_err(SnapshotError::io("list", path.display()))?;
        for name in &names {
            let child = path.checked_child(name)?;
            let stat = sys::fs::stat_at(&dir, sys::fs::name(name)).map_err(SnapshotError::io("read", child.display()))?;
            let Some(stat) = stat else { continue };
            if sys::fs::file_type(&stat) == FileType::Directory {
                pending.push(child);
            } else if !known.has(&child, &stat) {
                collector.not_a_directory(&dir, name, child, &stat)?;
            }
        }
        if is_known {
            continue;
        }
        collector.directory(&path, &dir, &stat)?;
        if matches!(lower.child_at(&path)?, Child::Dir(..)) {
            let names: HashSet<&[u8]> = names.iter().map(|name| &**name).collect();
            for entry in lower.read_dir(&path)?.into_iter().filter(|entry| !names.contains(&*entry.name)) {
                collector.removed(path.child(&entry.name));
            }
        }
    }
    collector.add_parents()?;
    collector.finish()
}
