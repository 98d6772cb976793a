//! The stack as an overlay mount.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::diagnosis::{self, Facility, Refused, Surroundings};
use crate::error::SnapshotError;
use crate::sys;

/// The kernel's limit ("too many lower directories, limit is 500").
pub(crate) const MAX_LOWERS: usize = 500;

/// Mounts `lowers` (bottom first), below `top_lower` if there is one, and `upper` as a detached overlay. `empty` stands in for lowers when there are none.
pub(super) fn mount(lowers: &[PathBuf], top_lower: Option<&Path>, upper: &Path, work: &Path, empty: &Path) -> Result<OwnedFd, SnapshotError> {
    let mut seen = HashSet::new();
    // Overlay refuses a directory that is in the stack twice, and only its topmost place can show anything.
    let mut stack: Vec<&Path> = top_lower.into_iter().chain(lowers.iter().rev().map(PathBuf::as_path)).filter(|lower| seen.insert(*lower)).collect();
    if stack.len() > MAX_LOWERS {
        return Err(SnapshotError::TooManyLayers { count: stack.len(), limit: MAX_LOWERS });
    }
    if stack.is_empty() {
        std::fs::create_dir_all(empty).map_err(SnapshotError::io("make directory", empty.display()))?;
        stack.push(empty);
    }
    let options = sys::mount::OverlayOptions { lowers: &stack, upper, work, redirects: false };
    sys::mount::overlay(&options).map_err(|failure| {
        let errno = Errno::from_io_error(&failure.source).unwrap_or(Errno::IO);
        let remedy = if failure.log.contains("not supported as upperdir") {
            "put the store on a disk's own file system (RBUILD_ROOT), not inside a container's root".to_owned()
        } else if errno == Errno::NODEV {
            "this kernel has no overlay file system".to_owned()
        } else if matches!(errno, Errno::PERM | Errno::ACCESS | Errno::NOSYS) {
            let what = Refused { facility: Facility::Overlay, action: "mount an overlay", errno };
            diagnosis::refused(what, &Surroundings::read()).remedy
        } else {
            String::new()
        };
        SnapshotError::Mount { upper: upper.display().to_string(), log: failure.log, remedy, source: failure.source }
    })
}
