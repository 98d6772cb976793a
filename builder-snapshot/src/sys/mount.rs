//! Detached mounts: an overlay, a bind. The caller's mount table is not touched; the mount lives as long as its descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::user_namespace::IdMap;

/// The kernel copies at most 256 bytes of a value, the final NUL included.
const FSCONFIG_VALUE_MAX_BYTES: usize = 255;

/// Names of the attributes in which overlay keeps its marks.
pub(crate) struct Marks {
    /// On a directory that hides what lower layers have in it.
    pub(crate) opaque: &'static [u8],
    /// On a directory that is shown under another name than it has below.
    pub(crate) redirect: &'static [u8],
    /// What all of them begin with.
    pub(crate) prefix: &'static [u8],
}

/// The marks that a mount made by this process uses: nobody may write `trusted.*` in a user namespace.
pub(crate) fn marks() -> &'static Marks {
    if IdMap::current().is_initial {
        &Marks { opaque: b"trusted.overlay.opaque", redirect: b"trusted.overlay.redirect", prefix: b"trusted.overlay." }
    } else {
        &Marks { opaque: b"user.overlay.opaque", redirect: b"user.overlay.redirect", prefix: b"user.overlay." }
    }
}

/// What to mount, see [`overlay`].
pub(crate) struct OverlayOptions<'a> {
    /// Topmost first, at least one.
    pub(crate) lowers: &'a [&'a Path],
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
    /// Whether directories of the layers below can be renamed, which marks them in `*.overlay.redirect`: for trees that never become layers of images.
    /// In a user namespace the kernel has no such marks, and renaming is EXDEV as in every other overlay: programs copy then.
    pub(crate) redirects: bool,
}

/// An overlay that the kernel refused: its error and what it logged.
pub(crate) struct OverlayFailure {
    pub(crate) source: io::Error,
    pub(crate) log: String,
}

/// Makes a detached overlay mount with the mount API's `lowerdir+` (kernel 6.5): one call per layer, no limit on the length of all together.
pub(crate) fn overlay(options: &OverlayOptions<'_>) -> Result<OwnedFd, OverlayFailure> {
    let context = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| OverlayFailure { source: e.into(), log: String::new() })?;
    configure(&context, options).map_err(|source| OverlayFailure { source, log: kernel_log(&context) })?;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|e| OverlayFailure { source: e.into(), log: kernel_log(&context) })
}

fn configure(context: &OwnedFd, options: &OverlayOptions<'_>) -> io::Result<()> {
    for lower in options.lowers {
        set_path(context, "lowerdir+", lower)?;
    }
    set_path(context, "upperdir", options.upper)?;
    set_path(context, "workdir", options.work)?;
    // No sync when it is unmounted: durability is decided by whoever publishes the layer.
    mount::fsconfig_set_flag(context, "volatile")?;
    // Said, because a kernel's build or module options may turn them on, and a layer with redirects or metadata-only files does not stand alone.
    for name in ["index", "metacopy"] {
        mount::fsconfig_set_string(context, name, "off")?;
    }
    let is_initial = IdMap::current().is_initial;
    mount::fsconfig_set_string(context, "redirect_dir", if options.redirects && is_initial { "on" } else { "nofollow" })?;
    mount::fsconfig_set_string(context, "xino", "off")?;
    if !is_initial {
        // Without it the mount is made all the same, and fails when a directory of a lower layer is removed.
        mount::fsconfig_set_flag(context, "userxattr")?;
    }
    mount::fsconfig_create(context)?;
    Ok(())
}

fn set_path(context: &OwnedFd, key: &str, path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    // A backslash in upperdir and workdir is an escape; a colon is none with these keys.
    if bytes.len() <= FSCONFIG_VALUE_MAX_BYTES && !bytes.contains(&b'\\') {
        return Ok(mount::fsconfig_set_string(context, key, path)?);
    }
    let directory = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(mount::fsconfig_set_string(context, key, format!("/proc/self/fd/{}", directory.as_raw_fd()))?)
}

/// What the kernel wrote into the file system context, one message a read.
fn kernel_log(context: &OwnedFd) -> String {
    let mut log = String::new();
    let mut message = [0_u8; 512];
    while let Ok(n) = rustix::io::read(context, &mut message) {
        if n == 0 {
            break;
        }
        log.push_str("; ");
        log.push_str(String::from_utf8_lossy(&message[..n]).trim());
    }
    log
}

/// A detached copy of what is mounted at `path` below `dir`, without mounts beneath it.
pub(crate) fn detach(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(mount::open_tree(dir, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// As [`detach`], for a path of the host.
pub(crate) fn detach_host(path: &Path) -> io::Result<OwnedFd> {
    detach(CWD.as_fd(), path)
}

/// Whether the kernel has the mount API, but knows no `lowerdir+`.
pub(crate) fn is_too_old(failure: &OverlayFailure) -> bool {
    failure.log.contains("Unknown parameter 'lowerdir+'")
}
