//! An overlay on kernels whose mount API takes no single lower layers (`lowerdir+`): mount(2), with all of them in one page of options.
//!
//! A page has no room for the paths of many layers, so they are opened and named by their descriptors' numbers, relative to `/proc/self/fd`: five bytes a layer
//! at most, and no character that would need an escape. mount(2) mounts somewhere, which must not be in the caller's mount table: a thread does
//! it in a mount namespace of its own, takes a detached clone along and ends; the namespace ends with it.
#![expect(unsafe_code, reason = "unshare(2) of one thread")]

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};

use super::OverlayOptions;

/// The kernel takes one page of options, its last byte a NUL.
const OPTIONS_MAX_BYTES: usize = 4095;

/// The mount that [`super::overlay`] makes, made with mount(2).
pub(super) fn overlay(options: &OverlayOptions<'_>) -> io::Result<OwnedFd> {
    let is_in_user_namespace = options.userxattr();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, || in_own_namespace(options, is_in_user_namespace))?;
        thread.join().map_err(|_| io::Error::other("the mounting thread panicked"))?
    })
}

fn in_own_namespace(options: &OverlayOptions<'_>, userxattr: bool) -> io::Result<OwnedFd> {
    // SAFETY: touches only the calling thread's namespace, root and working directory; no other thread shares them afterwards.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Opened here: the kernel takes no directory of another mount namespace.
    let open = |path: &Path| fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let lowers = options.lowers.iter().map(|lower| open(lower)).collect::<Result<Vec<OwnedFd>, _>>()?;
    let (upper, work) = (open(options.upper)?, open(options.work)?);
    let mut text = String::from("lowerdir=");
    for (i, lower) in lowers.iter().enumerate() {
        let separator = if i == 0 { "" } else { ":" };
        write!(text, "{separator}{}", lower.as_raw_fd()).map_err(io::Error::other)?;
    }
    write!(text, ",upperdir={},workdir={},volatile", upper.as_raw_fd(), work.as_raw_fd()).map_err(io::Error::other)?;
    for (name, value) in options.settings() {
        write!(text, ",{name}={value}").map_err(io::Error::other)?;
    }
    if userxattr {
        text.push_str(",userxattr");
    }
    if text.len() > OPTIONS_MAX_BYTES {
        let reason = format!("{} layers make {} bytes of mount options, and this kernel takes {OPTIONS_MAX_BYTES}", lowers.len(), text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let text = CString::new(text).map_err(io::Error::other)?;
    rustix::process::chdir("/proc/self/fd")?;
    // Anything that is there: the mount is in nobody else's table.
    let place = options.upper.parent().unwrap_or(options.upper);
    mount("overlay", place, "overlay", MountFlags::empty(), Some(text.as_c_str()))?;
    Ok(open_tree(CWD, place, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}
