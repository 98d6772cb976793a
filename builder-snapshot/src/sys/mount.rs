//! Detached mounts: an overlay, a bind. The caller's mount table is not touched; the mount lives as long as its descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::user_namespace::IdMap;

mod old;

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

impl OverlayOptions<'_> {
    /// Said, because a kernel's build or module options may turn them on, and a layer with redirects or metadata-only files does not stand alone.
    fn settings(&self) -> [(&'static str, &'static str); 4] {
        let redirects = if self.redirects && !self.userxattr() { "on" } else { "nofollow" };
        [("index", "off"), ("metacopy", "off"), ("redirect_dir", redirects), ("xino", "off")]
    }

    /// In a user namespace. Without it the mount is made all the same, and fails when a directory of a lower layer is removed.
    fn userxattr(&self) -> bool {
        !IdMap::current().is_initial
    }
}

/// Makes a detached overlay mount: with the mount API's `lowerdir+`, one call per layer and no limit on the length of all together, else as older
/// kernels can.
pub(crate) fn overlay(options: &OverlayOptions<'_>) -> Result<OwnedFd, OverlayFailure> {
    let failure = match overlay_by_parts(options) {
        Ok(mount) => return Ok(mount),
        Err(failure) => failure,
    };
    if !failure.may_be_too_old() {
        return Err(failure);
    }
    old::overlay(options).map_err(|source| match failure.log.is_empty() || failure.lacks_lowerdir() {
        true => OverlayFailure { source, log: String::new() },
        // The newer interface said more.
        false => failure,
    })
}

fn overlay_by_parts(options: &OverlayOptions<'_>) -> Result<OwnedFd, OverlayFailure> {
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
    for (name, value) in options.settings() {
        mount::fsconfig_set_string(context, name, value)?;
    }
    if options.userxattr() {
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
        log.push_str(plain(&String::from_utf8_lossy(&message[..n])));
    }
    log
}

/// A message of the kernel without the letter of its level and the name of its source: `e overlay: filesystem on …`.
fn plain(message: &str) -> &str {
    let message = message.trim();
    let message = ["e ", "w ", "i "].iter().find_map(|level| message.strip_prefix(level)).unwrap_or(message);
    message.strip_prefix("overlay: ").or_else(|| message.strip_prefix("overlayfs: ")).unwrap_or(message)
}

/// A detached copy of what is mounted at `path` below `dir`, without mounts beneath it.
pub(crate) fn detach(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(mount::open_tree(dir, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH)?)
}

/// As [`detach`], for a path of the host.
pub(crate) fn detach_host(path: &Path) -> io::Result<OwnedFd> {
    detach(CWD.as_fd(), path)
}

/// As [`detach_host`], without what the mount at that place forbids programs: an overlay does not inherit it either. Who may not take it away lives with it.
pub(crate) fn detach_bare(path: &Path) -> io::Result<OwnedFd> {
    let mount = detach_host(path)?;
    let _ = super::child::set_attributes(&mount, 0, libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID);
    Ok(mount)
}

impl OverlayFailure {
    /// Whether an older interface may do: a kernel without `lowerdir+` says so, or (before overlay knew the mount API at all) just EINVAL.
    fn may_be_too_old(&self) -> bool {
        let errno = self.source.raw_os_error();
        errno == Some(Errno::NOSYS.raw_os_error()) || errno == Some(Errno::INVAL.raw_os_error()) && (self.log.is_empty() || self.lacks_lowerdir())
    }

    fn lacks_lowerdir(&self) -> bool {
        self.log.contains("lowerdir+")
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a filter that makes this kernel look like an older one")]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_kernel_are_plain() {
        assert_eq!(plain("e overlay: filesystem on /u not supported as upperdir\n"), "filesystem on /u not supported as upperdir");
        assert_eq!(plain("w overlayfs: x"), "x");
        assert_eq!(plain("something else"), "something else");
    }

    /// From now on this thread's calls of `number` fail with `errno`.
    fn forbid(number: libc::c_long, errno: Errno) {
        let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let program = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number as u32),
            instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno.raw_os_error() as u32),
            instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the instructions, which live through the call.
        let loaded = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
        assert_eq!(loaded, 0, "a filter needs root");
    }

    #[test]
    fn older_kernels_stack_five_hundred_layers_too() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let long = dir.path().join("a-directory-with-a-name,of:some\\length".repeat(3));
        let make = |name: &str| {
            let path = long.join(name);
            std::fs::create_dir_all(&path).expect("directory");
            path
        };
        let (upper, work) = (make("fs"), make("work"));
        let lowers: Vec<_> = (0..500).map(|i| make(&format!("layers/{i}"))).collect();
        std::fs::write(lowers[0].join("top"), "top").expect("write");
        std::fs::write(lowers[499].join("bottom"), "bottom").expect("write");
        let before = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        for (number, errno) in [(libc::SYS_fsconfig, Errno::INVAL), (libc::SYS_fsopen, Errno::NOSYS)] {
            let mounted = std::thread::scope(|scope| {
                let act = || {
                    forbid(number, errno);
                    let lowers: Vec<&Path> = lowers.iter().map(std::path::PathBuf::as_path).collect();
                    let options = OverlayOptions { lowers: &lowers, upper: &upper, work: &work, redirects: false };
                    overlay(&options).map_err(|failure| format!("{}{}", failure.source, failure.log))
                };
                scope.spawn(act).join().expect("no panic")
            });
            let mount = mounted.expect("mounted");
            let path = Path::new("/proc/self/fd").join(mount.as_raw_fd().to_string());
            assert_eq!(std::fs::read_to_string(path.join("bottom")).expect("read"), "bottom");
            let _ = std::fs::remove_file(path.join("top"));
            assert!(!path.join("top").exists() && upper.join("top").symlink_metadata().is_ok(), "a whiteout");
            drop(mount);
            // What `volatile` leaves, so that nobody mounts it again by mistake.
            std::fs::remove_dir_all(work.join("work")).expect("overlay's own");
        }
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo"), before, "nothing is mounted in our table");
    }
}
