//! What a cloned child does before it becomes the program: it walks a list of prepared steps.
//!
//! # Invariants
//!
//! - Between the clone and the exec nothing here allocates, takes a lock, logs or unwinds. The child is a copy of one thread of a process whose
//!   other threads may have held any lock; every string and array was made before, and every call is a raw system call (rustix, or
//!   [`libc::syscall`]), never libc's versions that signal threads which are not there.
//! - Every path inside the root is opened as a descriptor first, with magic links (`/proc/self/fd/7`) refused, and mounted on by descriptor.
//! - A failure is a step's index, an error number and a detail, written to the report pipe. Words are made by the parent.
//!
//! Deciding what the steps are is not done here but in `exec::plan`.
#![expect(unsafe_code, reason = "system calls that rustix lacks, made in a cloned child")]

mod paths;
mod program;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Resource, Rlimit};
use rustix::thread::Gid;

use super::notification;
use paths::{make_directories, make_file};
use program::{become_user, bound_capabilities, check_program, clean_process, die_with_parent, exec, session, set_capabilities, streams};

pub(crate) use program::{SIGNAL_SET_BYTES, load_filter};

/// A failed step's answer.
type Taken = Result<(), Failure>;

/// Directory in the sandbox where mounts stand for a moment so that parts of them can be cloned: before Linux 6.15 no part of a detached mount can.
/// It is made by [`Step::FillDev`] and gets its real mount last.
pub(crate) const STAGE: &CStr = c"/dev/shm";

/// Where something is mounted.
#[derive(Debug)]
pub(crate) struct Target {
    /// Absolute path inside the root.
    pub(crate) path: CString,
    /// Whether symbolic links are followed (inside the root, the process's root being the sandbox's already) or refused.
    pub(crate) follow: bool,
    /// What is made when nothing is there.
    pub(crate) missing: Missing,
}

/// What to do when a mount target does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Report it.
    Fail,
    /// Mount nothing.
    Skip,
    /// Make a directory. Only what an earlier mount covers lacks targets here: those of the root were made as stubs.
    MakeDir,
    /// Make an empty file.
    MakeFile,
    /// Make an empty file, or mount nothing where that is impossible.
    MakeFileIfWritable,
}

/// A node of /dev.
#[derive(Debug)]
pub(crate) struct DeviceNode {
    /// Its name, in one of no or one directory.
    pub(crate) name: CString,
    /// Block or character.
    pub(crate) block: bool,
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
    /// The machine's own node as a detached mount, where none can be made.
    pub(crate) existing: Option<OwnedFd>,
}

/// One thing the child does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Closes what the child does not need. First of all: a copy of a descriptor that another thread has open for writing keeps the file from being run.
    CloseOthers { keep: Vec<RawFd> },
    /// Joins control groups by writing to their lists of processes, but for the first one if the child was made in it; and makes them the root of what the
    /// child sees of groups.
    JoinGroups { doors: Vec<OwnedFd>, born_inside: bool },
    /// Enters a network namespace.
    EnterNetwork { namespace: OwnedFd },
    /// Stops mounts from spreading to the caller's namespace.
    PrivateMounts,
    /// Makes a file system in the child's namespaces and puts it in the place of a later [`Step::Attach`]'s mount. Before the root is entered: of /proc and /sys
    /// the kernel allows new ones in a user namespace only where a whole one can be seen. Where it allows none, what is seen is taken over as it is.
    MakeMount { kind: &'static CStr, attributes: MountAttrFlags, existing: &'static CStr, mount: usize },
    /// Makes the detached mount the root and gets rid of the old one.
    EnterRoot { mount: OwnedFd },
    /// Makes a file system in the child's namespaces and attaches it.
    NewMount { kind: &'static CStr, options: Vec<(&'static CStr, CString)>, attributes: MountAttrFlags, target: Target },
    /// Fills the tmpfs at /dev.
    FillDev { devices: Vec<DeviceNode> },
    /// Attaches a detached mount.
    Attach { mount: OwnedFd, target: Target },
    /// Replaces a later [`Step::Attach`]'s detached mount by a part of it.
    Narrow { mount: usize, subpath: CString, read_only: bool },
    /// Attaches the mount with the sandbox's own files at [`STAGE`].
    Stage { mount: OwnedFd },
    /// Puts an entry of the stage in the place of a later [`Step::Attach`]'s mount.
    TakeStaged { name: &'static CStr, mount: usize },
    /// Hides a file behind /dev/null and a directory behind an empty one; nothing is done when it is not there.
    Mask { path: &'static CStr },
    /// Makes a directory or file read-only; nothing is done when it is not there.
    ReadOnly { path: &'static CStr },
    /// Empties [`STAGE`].
    Unstage,
    /// Names the machine.
    Hostname { name: Vec<u8> },
    /// Brings the loopback device up.
    Loopback,
    /// Goes to the working directory, which is made when missing.
    WorkingDirectory { path: CString, uid: u32, gid: u32 },
    /// Refuses programs and interpreters that are links into the builder's own process.
    CheckProgram { candidates: Vec<CString> },
    /// Connects the three standard streams.
    Streams { stdout: OwnedFd, stderr: OwnedFd },
    /// Sets a resource limit.
    Limit { resource: Resource, limit: Rlimit },
    /// A session of its own, for the terminal and for keys.
    Session,
    /// Loads the system call filter, while that needs no no_new_privs.
    Seccomp { program: Vec<libc::sock_filter> },
    /// Loads a filter that asks, and sends whoever is to answer the place where the questions arrive. Where that is impossible (only one filter of a process
    /// can ask, and an engine around the builder may have it): the plain one, if there is one.
    AskingSeccomp { asking: Vec<libc::sock_filter>, plain: Option<Vec<libc::sock_filter>>, socket: OwnedFd },
    /// Drops capabilities from the bounding set and clears the ambient set.
    BoundCapabilities { keep: u64 },
    /// Becomes the user.
    Become {
        uid: u32,
        gid: u32,
        /// None where the kernel lets nobody change them.
        groups: Option<Vec<Gid>>,
    },
    /// Sets the permitted and effective capabilities.
    SetCapabilities { permitted: u64 },
    /// Ties the child's life to the parent's.
    DieWithParent,
    /// Default handlers, nothing blocked, the usual umask, no descriptor beside the three.
    CleanProcess,
    /// Becomes the program.
    Exec { candidates: Vec<CString>, argv: PointerArray, env: PointerArray },
}

/// A NULL-terminated array of C strings, ready for execve.
pub(crate) struct PointerArray {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl PointerArray {
    /// Keeps the strings and points to them.
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

impl std::fmt::Debug for PointerArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PointerArray") // Never the values: secrets may be among them.
    }
}

/// Why a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the kernel answered.
    pub(crate) errno: Errno,
    /// Which part of the step, see the constants.
    pub(crate) detail: u32,
}

/// No more is known than the error number.
pub(crate) const DETAIL_NONE: u32 = 0;
/// Opening the mount target failed.
pub(crate) const DETAIL_TARGET: u32 = 1;
/// The interpreter of a script, or the loader of a program, is what is wrong. For [`Step::Exec`] the file itself exists.
pub(crate) const DETAIL_INTERPRETER: u32 = 2;
/// Making a missing mount target failed.
pub(crate) const DETAIL_MAKE_TARGET: u32 = 3;
/// The kind of file system cannot be made.
pub(crate) const DETAIL_FILE_SYSTEM: u32 = 4;
/// The step was left out, and the next one taken.
pub(crate) const DETAIL_FORGIVEN: u32 = 5;

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, detail: DETAIL_NONE }
    }
}

fn at(detail: u32) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { errno, detail }
}

/// How a failure goes over the report pipe.
pub(crate) const REPORT_BYTES: usize = 12;

/// Walks the steps. `extern "C"`: a panic aborts the child rather than unwinding into a second copy of the caller.
#[expect(improper_ctypes_definitions, reason = "it is called from Rust; only the abort is wanted")]
pub(crate) extern "C" fn walk(steps: &mut [Step], report: BorrowedFd<'_>) -> ! {
    for index in 0..steps.len() {
        if let Err(failure) = take(steps, index, report) {
            let forgiven = is_forgiven(&steps[index], failure);
            let detail = if forgiven { DETAIL_FORGIVEN } else { failure.detail };
            let mut message = [0_u8; REPORT_BYTES];
            message[..4].copy_from_slice(&(index as u32).to_ne_bytes());
            message[4..8].copy_from_slice(&failure.errno.raw_os_error().to_ne_bytes());
            message[8..].copy_from_slice(&detail.to_ne_bytes());
            // Nobody is left to tell if this fails; the exit status says at least that it was not the program's.
            let _ = rustix::io::write(report, &message);
            if !forgiven {
                break;
            }
        }
    }
    // SAFETY: ends the process without running destructors or exit handlers, which belong to the parent.
    unsafe { libc::_exit(127) }
}

/// What a sandbox can be without: podman's filter denies naming a machine, in a namespace of one's own too, and nothing else that is needed.
fn is_forgiven(step: &Step, failure: Failure) -> bool {
    matches!(step, Step::Hostname { .. }) && matches!(failure.errno, Errno::PERM | Errno::NOSYS)
}

fn take(steps: &mut [Step], index: usize, report: BorrowedFd<'_>) -> Taken {
    if let Step::Narrow { mount, .. } | Step::TakeStaged { mount, .. } | Step::MakeMount { mount, .. } = steps[index] {
        // What is made takes the place of what the later step has, under the same number, so that no descriptor has to be handed on.
        let Some((before, [Step::Attach { mount, .. }, ..])) = steps.split_at_mut_checked(mount) else { return Err(Errno::INVAL.into()) };
        return match before.get(index) {
            Some(Step::Narrow { subpath, read_only, .. }) => narrow(mount, subpath, *read_only),
            Some(Step::TakeStaged { name, .. }) => take_staged(mount, name),
            Some(Step::MakeMount { kind, attributes, existing, .. }) => make_or_take_over(mount, kind, *attributes, existing),
            _ => Err(Errno::INVAL.into()),
        };
    }
    match &steps[index] {
        Step::CloseOthers { keep } => close_others(keep),
        Step::JoinGroups { doors, born_inside } => join_groups(&doors[usize::from(*born_inside).min(doors.len())..]),
        Step::EnterNetwork { namespace } => enter_network(namespace),
        Step::PrivateMounts => Ok(mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?),
        Step::EnterRoot { mount } => enter_root(mount),
        Step::NewMount { kind, options, attributes, target } => new_mount(kind, options, *attributes, target),
        Step::FillDev { devices } => fill_dev(devices),
        Step::Attach { mount, target } => attach(mount, target),
        Step::Narrow { .. } | Step::TakeStaged { .. } | Step::MakeMount { .. } => Err(Errno::INVAL.into()),
        Step::Stage { mount } => Ok(move_onto(mount, &open_path(STAGE, OFlags::empty(), ResolveFlags::NO_SYMLINKS)?)?),
        Step::Mask { path } => mask(path),
        Step::ReadOnly { path } => read_only(path),
        Step::Unstage => Ok(unmount(STAGE, UnmountFlags::DETACH)?),
        Step::Hostname { name } => Ok(rustix::system::sethostname(name)?),
        Step::Loopback => loopback_up(),
        Step::WorkingDirectory { path, uid, gid } => working_directory(path, *uid, *gid),
        Step::CheckProgram { candidates } => candidates.iter().try_for_each(|candidate| check_program(candidate)),
        Step::Streams { stdout, stderr } => streams(stdout, stderr),
        Step::Limit { resource, limit } => Ok(rustix::process::setrlimit(*resource, *limit)?),
        Step::Session => session(),
        Step::Seccomp { program } => load_filter(program),
        Step::AskingSeccomp { asking, plain, socket } => match notification::load_filter(asking) {
            Ok(listener) => Ok(notification::send_descriptor(socket, listener)?),
            Err(_) => plain.as_deref().map_or(Ok(()), load_filter),
        },
        Step::BoundCapabilities { keep } => bound_capabilities(*keep),
        Step::Become { uid, gid, groups } => become_user(*uid, *gid, groups.as_deref()),
        Step::SetCapabilities { permitted } => set_capabilities(*permitted),
        Step::DieWithParent => die_with_parent(report),
        Step::CleanProcess => clean_process(),
        Step::Exec { candidates, argv, env } => Err(exec(candidates, argv, env)),
    }
}

/// The descriptors that a list of steps needs, sorted. 0 to 2 are replaced later.
pub(crate) fn needed(steps: &[Step], report: BorrowedFd<'_>) -> Vec<RawFd> {
    let mut keep = vec![0, 1, 2, report.as_raw_fd()];
    for step in steps {
        match step {
            Step::EnterRoot { mount } | Step::Attach { mount, .. } | Step::Stage { mount } => keep.push(mount.as_raw_fd()),
            Step::JoinGroups { doors, .. } => keep.extend(doors.iter().map(AsRawFd::as_raw_fd)),
            Step::EnterNetwork { namespace } => keep.push(namespace.as_raw_fd()),
            Step::AskingSeccomp { socket, .. } => keep.push(socket.as_raw_fd()),
            Step::FillDev { devices } => keep.extend(devices.iter().filter_map(|device| Some(device.existing.as_ref()?.as_raw_fd()))),
            Step::Streams { stdout, stderr } => keep.extend([stdout.as_raw_fd(), stderr.as_raw_fd()]),
            _ => {}
        }
    }
    keep.sort_unstable();
    keep
}

fn close_others(keep: &[RawFd]) -> Taken {
    let mut next = 0;
    for &kept in keep {
        if kept > next {
            close_range(next, kept - 1, 0)?;
        }
        next = kept + 1;
    }
    Ok(close_range(next, RawFd::MAX, 0)?)
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: numbers only; the descriptors are this child's copies, and nothing uses those that are closed here.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

fn join_groups(doors: &[OwnedFd]) -> Taken {
    for door in doors {
        rustix::io::write(door, b"0")?;
    }
    // SAFETY: a flag only; neither memory nor descriptors are touched.
    Ok(check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) })?)
}

fn enter_network(namespace: &OwnedFd) -> Taken {
    // SAFETY: numbers only; the descriptor is open for as long as the call takes.
    Ok(check(unsafe { libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), libc::CLONE_NEWNET) })?)
}

fn open_path(path: &CStr, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    open_retrying(CWD, path, OFlags::PATH | OFlags::CLOEXEC | flags, ResolveFlags::NO_MAGICLINKS | resolve)
}

fn open_retrying(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            // AGAIN: something on the machine was renamed while a `..` was walked.
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
}

fn move_onto(mount: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    move_mount(mount, c"", target, c"", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, flags: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    open_tree(dir, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | flags)
}

fn enter_root(mount: &OwnedFd) -> Taken {
    // On top of the old root, which stays below and reachable for pivot_root alone: no directory of the caller's is needed as mount point.
    move_mount(mount, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(mount)?;
    // The old root lands on the new one's root directory, and is taken away from there.
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}

fn open_target(target: &Target) -> Result<Option<OwnedFd>, Failure> {
    let resolve = if target.follow { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
    match open_path(&target.path, OFlags::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) if target.missing == Missing::Skip => Ok(None),
        Err(Errno::NOENT) if target.missing == Missing::MakeDir => {
            make_directories(&target.path, 0, 0).map_err(at(DETAIL_MAKE_TARGET))?;
            open_path(&target.path, OFlags::empty(), resolve).map(Some).map_err(at(DETAIL_TARGET))
        }
        Err(Errno::NOENT) if matches!(target.missing, Missing::MakeFile | Missing::MakeFileIfWritable) => {
            match make_file(&target.path) {
                Ok(()) => {}
                Err(Errno::ROFS) if target.missing == Missing::MakeFileIfWritable => return Ok(None),
                Err(errno) => return Err(at(DETAIL_MAKE_TARGET)(errno)),
            }
            open_path(&target.path, OFlags::empty(), resolve).map(Some).map_err(at(DETAIL_TARGET))
        }
        Err(errno) => Err(at(DETAIL_TARGET)(errno)),
    }
}

fn attach(mount: &OwnedFd, target: &Target) -> Taken {
    match open_target(target)? {
        Some(place) => Ok(move_onto(mount, &place)?),
        None => Ok(()),
    }
}

fn new_mount(kind: &CStr, options: &[(&'static CStr, CString)], attributes: MountAttrFlags, target: &Target) -> Taken {
    let Some(place) = open_target(target)? else { return Ok(()) };
    match make_mount(kind, options, attributes) {
        Ok(mount) => Ok(move_onto(&mount, &place)?),
        // A kernel built without it.
        Err(Errno::NODEV) if target.missing == Missing::Skip => Ok(()),
        Err(errno) => Err(at(DETAIL_FILE_SYSTEM)(errno)),
    }
}

fn make_mount(kind: &CStr, options: &[(&'static CStr, CString)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key)?;
        } else {
            fsconfig_set_string(&context, *key, value.as_c_str())?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn make_or_take_over(mount: &mut OwnedFd, kind: &CStr, attributes: MountAttrFlags, existing: &CStr) -> Taken {
    let made = match make_mount(kind, &[], attributes) {
        Err(Errno::PERM) => {
            let tree = clone_tree(CWD, existing, OpenTreeFlags::AT_RECURSIVE)?;
            set_attributes(&tree, attributes.bits().into(), 0)?;
            tree
        }
        result => result?,
    };
    Ok(rustix::io::dup3(&made, mount, rustix::io::DupFlags::CLOEXEC)?)
}

/// The entries of /dev that are links.
const DEV_LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// Mount points below /dev.
const DEV_DIRECTORIES: [&CStr; 3] = [c"pts", c"mqueue", c"shm"];

fn fill_dev(devices: &[DeviceNode]) -> Taken {
    // The modes below are exact. The usual umask is set by the last step but one.
    rustix::process::umask(Mode::empty());
    let dev = open_path(c"/dev", OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
    for name in DEV_DIRECTORIES {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
    }
    for (name, target) in DEV_LINKS {
        rustix::fs::symlinkat(target, &dev, name)?;
    }
    for DeviceNode { name, block, major, minor, existing } in devices {
        if name.as_bytes().starts_with(b"net/") {
            rustix::fs::mkdirat(&dev, c"net", Mode::from_raw_mode(0o755))?;
        }
        if let Some(node) = existing {
            rustix::fs::mknodat(&dev, name.as_c_str(), FileType::RegularFile, Mode::from_raw_mode(0o666), 0)?;
            set_attributes(node, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, 0)?;
            move_mount(node, c"", &dev, name.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            continue;
        }
        let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
        rustix::fs::mknodat(&dev, name.as_c_str(), kind, Mode::from_raw_mode(0o666), makedev(*major, *minor))?;
        // /dev itself is mounted nodev, so that nodes that the process makes there open nothing. These few are bound over themselves without it.
        let node = clone_tree(dev.as_fd(), name, OpenTreeFlags::empty())?;
        set_attributes(&node, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, libc::MOUNT_ATTR_NODEV)?;
        move_mount(&node, c"", &dev, name.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Sets and clears attributes of a mount and those below it.
pub(crate) fn set_attributes(mount: &OwnedFd, set: u64, clear: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is an empty C string and the structure lives through the call, which gets its size.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, std::ptr::from_ref(&attributes), size_of::<libc::mount_attr>())
    };
    check(result)
}

pub(super) fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 {
        // SAFETY: errno is this thread's own.
        return Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }));
    }
    Ok(())
}

fn narrow(mount: &mut OwnedFd, subpath: &CStr, read_only: bool) -> Taken {
    let stage = open_path(STAGE, OFlags::empty(), ResolveFlags::NO_SYMLINKS)?;
    move_onto(mount, &stage)?;
    let part = open_retrying(mount.as_fd(), subpath, OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
        .map_err(at(DETAIL_TARGET))?;
    let tree = clone_tree(part.as_fd(), c"", OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE)?;
    unmount(STAGE, UnmountFlags::DETACH)?;
    if read_only {
        set_attributes(&tree, libc::MOUNT_ATTR_RDONLY, 0)?;
    }
    Ok(rustix::io::dup3(&tree, mount, rustix::io::DupFlags::CLOEXEC)?)
}

fn take_staged(mount: &mut OwnedFd, name: &CStr) -> Taken {
    let stage = open_path(STAGE, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
    let file = clone_tree(stage.as_fd(), name, OpenTreeFlags::empty())?;
    // Not earlier, on the whole: a mount with a file open for writing cannot become read-only, and a sandbox that another thread is cloning right
    // now holds a copy of every descriptor, of those too that wrote the files.
    set_attributes(&file, libc::MOUNT_ATTR_RDONLY, 0)?;
    Ok(rustix::io::dup3(&file, mount, rustix::io::DupFlags::CLOEXEC)?)
}

/// Name of the empty directory in the mount of [`Step::Stage`].
pub(crate) const EMPTY_DIRECTORY: &CStr = c"empty";

fn mask(path: &CStr) -> Taken {
    let place = match open_path(path, OFlags::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let cover = if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_dir() {
        let stage = open_path(STAGE, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
        let empty = clone_tree(stage.as_fd(), EMPTY_DIRECTORY, OpenTreeFlags::empty())?;
        set_attributes(&empty, libc::MOUNT_ATTR_RDONLY, 0)?;
        empty
    } else {
        clone_tree(CWD, c"/dev/null", OpenTreeFlags::empty())?
    };
    Ok(move_onto(&cover, &place)?)
}

fn read_only(path: &CStr) -> Taken {
    let place = match open_path(path, OFlags::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(place) => place,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let cover = clone_tree(place.as_fd(), c"", OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE)?;
    set_attributes(&cover, libc::MOUNT_ATTR_RDONLY, 0)?;
    Ok(move_onto(&cover, &place)?)
}

fn loopback_up() -> Taken {
    let socket = rustix::net::socket_with(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    // SAFETY: zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    let result = unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_mut(&mut request)) };
    Ok(check(result)?)
}

fn working_directory(path: &CStr, uid: u32, gid: u32) -> Taken {
    let directory = match open_path(path, OFlags::DIRECTORY, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {
            make_directories(path, uid, gid)?;
            open_path(path, OFlags::DIRECTORY, ResolveFlags::empty())?
        }
        result => result?,
    };
    rustix::process::fchdir(&directory)?;
    inside_root()
}

/// Looks where the child stands after all its mounts. Nothing above can lead out of the root; what the kernel itself says is the last word
/// (CVE-2024-21626: a working directory outside is a way to the machine's files).
fn inside_root() -> Taken {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most as many bytes as it is told the array has.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    // A directory that cannot be reached from the root is named with "(unreachable)" in front.
    if path[0] == b'/' { Ok(()) } else { Err(Errno::XDEV.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(attributes: MountAttrFlags) -> OwnedFd {
        assert!(rustix::process::geteuid().is_root(), "these probes of the kernel need root");
        make_mount(c"tmpfs", &[], attributes).expect("a tmpfs")
    }

    #[test]
    fn probe_nodes_of_a_nodev_mount_cannot_be_opened() {
        let mount = tmpfs(MountAttrFlags::MOUNT_ATTR_NODEV);
        rustix::fs::mknodat(&mount, c"null", FileType::CharacterDevice, Mode::RWXU, makedev(1, 3)).expect("mknod");
        let open = || rustix::fs::openat(&mount, c"null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop);
        assert_eq!(open(), Err(Errno::ACCESS));
        set_attributes(&mount, 0, libc::MOUNT_ATTR_NODEV).expect("mount_setattr");
        assert_eq!(open(), Ok(()));
    }

    #[test]
    fn probe_a_mount_with_a_writer_cannot_become_read_only() {
        let mount = tmpfs(MountAttrFlags::empty());
        let writer = rustix::fs::openat(&mount, c"file", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RWXU).expect("open");
        assert_eq!(set_attributes(&mount, libc::MOUNT_ATTR_RDONLY, 0), Err(Errno::BUSY));
        drop(writer);
        assert_eq!(set_attributes(&mount, libc::MOUNT_ATTR_RDONLY, 0), Ok(()));
        assert_eq!(rustix::fs::mkdirat(&mount, c"dir", Mode::RWXU), Err(Errno::ROFS));
    }
}
