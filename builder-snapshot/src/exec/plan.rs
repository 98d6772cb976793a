//! From a [`ProcessSpec`] to the list of steps that the child walks.
//!
//! All decisions are made here, in the caller's process, where failing is easy; files that the sandbox shows (hosts, secrets) are written here as well, to
//! detached file systems that nobody else can reach. What the steps do is `sys::child`'s; what their failures mean is said here, by [`explain`].
//!
//! # Decisions
//!
//! - Devices: a rule of the process's control group says which can be opened, whatever nodes it makes. Where no such rule can be had, and in a user namespace, every
//!   mount is `nodev` but the few nodes of /dev, which are bound over themselves.
//! - The kernel's control groups are shown read-only: the hierarchy of the process's own group where there is only version 2, else what the machine has.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit};
use rustix::thread::Gid;

use super::control_group::ControlGroup;
use super::error::ExecError;
use super::{NetworkMode, ProcessSpec, ResolvedUser, SandboxMount, SandboxMountSource, SecurityMode, limits, ownership, seccomp};
use crate::path::TreePath;
use crate::snapshot::Owners;
use crate::sys::child::{
    self, DETAIL_FILE_SYSTEM, DETAIL_INTERPRETER, DETAIL_MAKE_TARGET, DETAIL_TARGET, DeviceNode, EMPTY_DIRECTORY, Failure, Missing, PointerArray,
    STAGE, Step, Target,
};
use crate::sys::process::above_streams;
use crate::user_namespace::{self, IdMap};

/// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
const DEFAULT_CAPABILITIES: u64 = 0xA804_25FB;

/// Bit of CAP_SYS_RESOURCE.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Where a program without a slash is searched when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Size of the tmpfs at /dev, as in docker.
const DEV_SIZE: &CStr = c"65536k";

/// Nodes of /dev that every sandbox has.
const DEVICES: [(&CStr, u32, u32); 6] = [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];

/// Nodes that an insecure sandbox has as well, if the machine has them.
const INSECURE_DEVICES: [&str; 15] =
    ["kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control", "loop0", "loop1", "loop2", "loop3", "loop4", "loop5", "loop6", "loop7", "mem"];

/// Parts of /proc and /sys that tell about the machine or change it.
const MASKED: [&CStr; 12] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/sys/firmware",
    c"/sys/devices/virtual/powercap",
];

/// Parts of /proc that may be read only.
const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// Name of the only file of a [`SandboxMountSource::MemoryFile`]'s file system.
const MEMORY_FILE: &CStr = c"file";

/// A process ready to be cloned.
#[derive(Debug)]
pub(super) struct SandboxPlan {
    pub(super) steps: Vec<Step>,
    pub(super) new_network: bool,
    /// Must outlive the process.
    pub(super) group: Option<ControlGroup>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Where the child says how it can be asked about owners; none where the kernel knows all of them.
    pub(super) questions: Option<OwnedFd>,
    pub(super) owners: Arc<Owners>,
    pub(super) warnings: Vec<String>,
    program: String,
}

impl SandboxPlan {
    pub(super) fn new(spec: ProcessSpec) -> Result<Self, ExecError> {
        let program = spec.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
        let environment = environment(&spec.env, &spec.user);
        let candidates = candidates(&spec.argv, &environment)?;
        let argv = c_strings("argument", spec.argv)?;
        let environment = c_strings("environment variable", environment.into_iter().map(|(name, value)| join(name, value)).collect())?;
        let insecure = spec.security == SecurityMode::Insecure;
        let own = own_capabilities()?;
        let (mut limits, mut warnings) = limits::resolve(&spec.ulimits, own & CAP_SYS_RESOURCE != 0)?;
        if !insecure && limits.iter().all(|(resource, _)| *resource != Resource::Core) {
            limits.push((Resource::Core, no_core_dumps()));
        }
        let cwd = TreePath::clipped(spec.cwd.as_os_str().as_bytes()).map_err(|_| ExecError::Invalid {
            what: "working directory",
            value: spec.cwd.to_string_lossy().into_owned(),
            reason: "it is no path",
        })?;
        let hostname = spec.hostname.into_bytes();
        if hostname.is_empty() || hostname.len() > HOSTNAME_MAX_BYTES || hostname.contains(&0) {
            let value = String::from_utf8_lossy(&hostname).into_owned();
            return Err(ExecError::Invalid { what: "host name", value, reason: "it must have 1 to 64 bytes" });
        }

        let mut steps = vec![Step::CloseOthers { keep: Vec::new() }];
        let group = ControlGroup::make(&spec.resources, !insecure && IdMap::current().is_initial, &mut warnings)?;
        if let Some(group) = &group {
            steps.push(Step::JoinGroups { doors: group.doors()?, born_inside: false });
        }
        let nodev = if insecure || group.as_ref().is_some_and(|group| group.rules_devices) { 0 } else { libc::MOUNT_ATTR_NODEV };
        child::set_attributes(&spec.root, nodev, 0).map_err(sandbox("take devices from the root file system"))?;
        let new_network = matches!(spec.network, NetworkMode::None);
        let sees_own_network = !matches!(spec.network, NetworkMode::Host);
        if let NetworkMode::Private(namespace) = spec.network {
            steps.push(Step::EnterNetwork { namespace });
        }
        steps.push(Step::PrivateMounts);
        kernel_mounts(&mut steps, spec.root, insecure)?;
        let attachments = attachments(spec.mounts, nodev)?;
        mounts(&mut steps, attachments, &spec.hosts, &spec.resolv_conf, spec.shm_size_bytes, insecure, sees_own_network)?;
        steps.push(Step::Hostname { name: hostname });
        if new_network {
            steps.push(Step::Loopback);
        }
        steps.push(Step::WorkingDirectory { path: absolute(&cwd)?, uid: spec.user.uid, gid: spec.user.gid });
        steps.push(Step::CheckProgram { candidates: candidates.clone() });
        let (stdout, stdout_write) = pipe(spec.user.uid)?;
        let (stderr, stderr_write) = pipe(spec.user.uid)?;
        steps.push(Step::Streams { stdout: stdout_write, stderr: stderr_write });
        steps.extend(limits.into_iter().map(|(resource, limit)| Step::Limit { resource, limit }));
        steps.push(Step::Session);
        let filter = if insecure { None } else { seccomp::program() };
        if !insecure && filter.is_none() {
            warnings.push("no system call filter is known for this processor: the process runs without one".to_owned());
        }
        let questions = filters(&mut steps, filter)?;
        identity(&mut steps, &spec.user, if insecure { own } else { own & DEFAULT_CAPABILITIES }, insecure);
        steps.push(Step::Exec { candidates, argv: PointerArray::new(argv), env: PointerArray::new(environment) });
        Ok(Self { steps, new_network, group, stdout, stderr, questions, owners: spec.owners, warnings, program })
    }

    /// What it means that a step was left out.
    pub(super) fn forgiven(&self, index: usize, failure: Failure) -> String {
        let refused = self.explain(index, Failure { detail: child::DETAIL_NONE, ..failure });
        format!("the step ran under this machine's own name: {refused}")
    }

    /// What it means that a step failed.
    pub(super) fn explain(&self, index: usize, failure: Failure) -> ExecError {
        match self.steps.get(index) {
            Some(step) => explain(step, failure, &self.program),
            None => ExecError::refused("understand the child".to_owned(), failure.errno, ""),
        }
    }
}

/// Longest host name of Linux.
const HOSTNAME_MAX_BYTES: usize = 64;

fn sandbox<E: Into<io::Error>>(action: &str) -> impl FnOnce(E) -> ExecError {
    move |error| ExecError::refused(action.to_owned(), error, "")
}

/// Last of equal names wins, in the place of the first; HOME is added.
fn environment(env: &[(OsString, OsString)], user: &ResolvedUser) -> Vec<(OsString, OsString)> {
    let mut result: Vec<(OsString, OsString)> = Vec::with_capacity(env.len() + 1);
    for (name, value) in env {
        match result.iter_mut().find(|(there, _)| there == name) {
            Some((_, there)) => there.clone_from(value),
            None => result.push((name.clone(), value.clone())),
        }
    }
    match result.iter_mut().find(|(name, _)| name == "HOME") {
        Some((_, value)) if value.is_empty() => value.clone_from(&user.home),
        Some(_) => {}
        None => result.push(("HOME".into(), user.home.clone())),
    }
    result
}

fn join(mut name: OsString, value: OsString) -> OsString {
    name.push("=");
    name.push(value);
    name
}

fn c_strings(what: &'static str, strings: Vec<OsString>) -> Result<Vec<CString>, ExecError> {
    strings.into_iter().map(|string| c_string(what, string.as_bytes())).collect()
}

fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString, ExecError> {
    // The value is not shown: it may be a secret.
    CString::new(bytes).map_err(|_| ExecError::Invalid { what, value: String::new(), reason: "it has a NUL byte" })
}

fn absolute(path: &TreePath) -> Result<CString, ExecError> {
    c_string("path", &[b"/", path.as_bytes()].concat())
}

/// The files that are tried, in order.
fn candidates(argv: &[OsString], environment: &[(OsString, OsString)]) -> Result<Vec<CString>, ExecError> {
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(ExecError::Invalid { what: "command", value: String::new(), reason: "it has no program" });
    };
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("program", program.as_bytes())?]);
    }
    let path = environment.iter().find(|(name, _)| name == "PATH").map_or(OsStr::from_bytes(DEFAULT_PATH), |(_, value)| value);
    // Relative entries are skipped: a program must not depend on where a step happens to stand.
    let directories = path.as_bytes().split(|&b| b == b':').filter(|directory| directory.starts_with(b"/"));
    directories.map(|directory| c_string("program", &[directory, b"/", program.as_bytes()].concat())).collect()
}

/// What this process may do, and so can hand on.
fn own_capabilities() -> Result<u64, ExecError> {
    let sets = rustix::thread::capabilities(None).map_err(sandbox("read this process's capabilities"))?;
    Ok(sets.permitted.bits())
}

/// No core dumps, which would hold secrets and, where the machine hands them to a program, be input for that program, outside. One byte rather than none:
/// that is the limit under which the kernel starts no such program either.
fn no_core_dumps() -> Rlimit {
    let most = getrlimit(Resource::Core).maximum.unwrap_or(1).min(1);
    Rlimit { current: Some(most), maximum: Some(most) }
}

fn pipe(uid: u32) -> Result<(OwnedFd, OwnedFd), ExecError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(sandbox("make a pipe"))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(sandbox("prepare a pipe"))?;
    // Programs open /dev/stdout by name, which asks for the right to write to the pipe as a file.
    give(&write, uid, None).map_err(sandbox("prepare a pipe"))?;
    let write = above_streams(write).map_err(sandbox("prepare a pipe"))?;
    Ok((read, write))
}

/// Changes an owner. One that this user namespace does not have is nobody who could be running: root keeps the file then.
fn give(file: &OwnedFd, uid: u32, gid: Option<u32>) -> Result<(), Errno> {
    match rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(uid)), gid.map(rustix::fs::Gid::from_raw)) {
        Err(Errno::INVAL) if !IdMap::current().is_initial => Ok(()),
        result => result,
    }
}

/// The system call filter, and on the rung with one id one that asks about owners.
fn filters(steps: &mut Vec<Step>, filter: Option<Vec<libc::sock_filter>>) -> Result<Option<OwnedFd>, ExecError> {
    let asking = match (IdMap::current().is_one_id, &filter) {
        (false, _) => None,
        (true, Some(_)) => seccomp::program_asking(&ownership::calls()),
        (true, None) => seccomp::program_only_asking(&ownership::calls()),
    };
    let Some(asking) = asking else {
        steps.extend(filter.map(|program| Step::Seccomp { program }));
        return Ok(None);
    };
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, childs) = pair.map_err(sandbox("make a pair of sockets"))?;
    let socket = above_streams(childs).map_err(sandbox("prepare a socket"))?;
    steps.push(Step::AskingSeccomp { asking, plain: filter, socket });
    Ok(Some(ours))
}

/// Everything between the clone's end and the program's start that needs no name.
fn identity(steps: &mut Vec<Step>, user: &ResolvedUser, capabilities: u64, insecure: bool) {
    steps.push(Step::BoundCapabilities { keep: if insecure { u64::MAX } else { capabilities } });
    // The primary group is among the supplementary ones too: a program that drops it must not gain what "group" is denied (CVE-2022-36109).
    let mut groups = vec![user.gid];
    for &group in &user.groups {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    // With one id the kernel lets no group be dropped: the process keeps those of the invoking user, which mean nothing to the files of the image.
    let groups = (!IdMap::current().is_one_id).then(|| groups.into_iter().map(Gid::from_raw).collect());
    steps.push(Step::Become { uid: user.uid, gid: user.gid, groups });
    steps.push(Step::SetCapabilities { permitted: if user.uid == 0 { capabilities } else { 0 } });
    steps.push(Step::DieWithParent);
    steps.push(Step::CleanProcess);
}

const SAFE: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The root, /proc and /sys.
fn kernel_mounts(steps: &mut Vec<Step>, root: OwnedFd, insecure: bool) -> Result<(), ExecError> {
    let read_only = if insecure { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let kinds = [(c"proc", c"/proc", SAFE), (c"sysfs", c"/sys", SAFE | read_only)];
    // The root is entered in between.
    let first = steps.len() + kinds.len() + 1;
    for (index, &(kind, path, attributes)) in kinds.iter().enumerate() {
        steps.push(Step::MakeMount { kind, attributes, existing: path, mount: first + index });
    }
    let mut attach = Vec::with_capacity(kinds.len());
    for (_, path, _) in kinds {
        // Holds the place. A link in the image where one of these has to be would show them elsewhere and leave what is masked in sight.
        let mount = root.try_clone().map_err(sandbox("copy a descriptor"))?;
        attach.push(Step::Attach { mount, target: Target { path: path.to_owned(), follow: false, missing: Missing::Fail } });
    }
    steps.push(Step::EnterRoot { mount: root });
    steps.extend(attach);
    Ok(())
}

fn mounts(
    steps: &mut Vec<Step>,
    own: Vec<Attachment>,
    hosts: &[u8],
    resolv_conf: &[u8],
    shm_size: u64,
    insecure: bool,
    own_network: bool,
) -> Result<(), ExecError> {
    let read_only = if insecure { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let new = |kind, path: &CStr, options, attributes, missing| {
        // A link in the image where one of these has to be would show them elsewhere and leave what is masked in sight.
        let target = Target { path: path.to_owned(), follow: false, missing };
        Step::NewMount { kind, options, attributes, target }
    };
    let option = |key, value: &CStr| (key, value.to_owned());
    let flag = |key| (key, CString::default());

    let dev_options = vec![option(c"mode", c"755"), option(c"size", DEV_SIZE)];
    let nodev = if insecure { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NODEV };
    steps.push(new(c"tmpfs", c"/dev", dev_options, MountAttrFlags::MOUNT_ATTR_NOSUID | nodev, Missing::Fail));
    steps.push(Step::FillDev { devices: devices(insecure)? });
    // A /sys that was taken over as it is has them already.
    if (IdMap::current().is_initial || own_network)
        && let Some(step) = control_groups(read_only)?
    {
        steps.push(step);
    }

    let kit = kit(hosts, resolv_conf)?;
    let mut attachments = own_files(&kit)?;
    attachments.extend(own);
    // Parents first; of equal targets the sandbox's own before the step's, which then covers it.
    attachments.sort_by(|a, b| a.target.cmp(&b.target));
    // The index of the first attachment: after the steps below, whose number is known once they are all listed.
    let first = steps.len()
        + attachments.iter().filter(|attachment| attachment.part.is_some()).count()
        + if insecure { 0 } else { MASKED.len() + READ_ONLY.len() }
        + STEPS_AROUND_STAGE;
    for (index, attachment) in attachments.iter().enumerate() {
        if let Some(Part::Subpath(subpath)) = &attachment.part {
            steps.push(Step::Narrow { mount: first + index, subpath: subpath.clone(), read_only: attachment.read_only });
        }
    }
    steps.push(Step::Stage { mount: kit });
    for (index, attachment) in attachments.iter().enumerate() {
        if let Some(Part::Staged(name)) = attachment.part {
            steps.push(Step::TakeStaged { name, mount: first + index });
        }
    }
    if !insecure {
        steps.extend(MASKED.map(|path| Step::Mask { path }));
        steps.extend(READ_ONLY.map(|path| Step::ReadOnly { path }));
    }
    steps.push(Step::Unstage);
    let shm_size = c_string("size of /dev/shm", shm_size.to_string().as_bytes())?;
    steps.push(new(c"tmpfs", STAGE, vec![option(c"mode", c"1777"), (c"size", shm_size)], SAFE, Missing::Fail));
    steps.push(new(c"mqueue", c"/dev/mqueue", vec![], SAFE, Missing::Skip));
    let mut pts = vec![flag(c"newinstance"), option(c"ptmxmode", c"0666"), option(c"mode", c"0620")];
    if !IdMap::current().is_one_id {
        // Of the group tty.
        pts.push(option(c"gid", c"5"));
    }
    steps.push(new(c"devpts", c"/dev/pts", pts, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC, Missing::Fail));
    debug_assert_eq!(first, steps.len(), "every step before the attachments is counted");
    for attachment in attachments {
        let target = Target { path: absolute(&attachment.target)?, follow: true, missing: attachment.missing };
        steps.push(Step::Attach { mount: attachment.mount, target });
    }
    Ok(())
}

/// Stage, Unstage, shm, mqueue, pts.
const STEPS_AROUND_STAGE: usize = 5;

fn devices(insecure: bool) -> Result<Vec<DeviceNode>, ExecError> {
    let node = |name: &CStr, block, major, minor| DeviceNode { name: name.to_owned(), block, major, minor, existing: None };
    let mut devices: Vec<DeviceNode> = DEVICES.iter().map(|&(name, major, minor)| node(name, false, major, minor)).collect();
    if insecure {
        for name in INSECURE_DEVICES {
            let Ok(metadata) = std::fs::metadata(Path::new("/dev").join(name)) else { continue };
            let block = metadata.file_type().is_block_device();
            if let (true, Ok(name)) = (block || metadata.file_type().is_char_device(), CString::new(name)) {
                devices.push(node(&name, block, rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())));
            }
        }
    }
    if !IdMap::current().is_initial {
        // Nobody makes devices in a user namespace; those of the machine can be shown.
        for device in &mut devices {
            let path = Path::new("/dev").join(OsStr::from_bytes(device.name.as_bytes()));
            let mount = crate::sys::mount::detach_host(&path);
            device.existing = Some(mount.map_err(|source| ExecError::refused(format!("show the machine's {}", path.display()), source, ""))?);
        }
    }
    Ok(devices)
}

/// Where control groups are by custom.
const CONTROL_GROUPS: &CStr = c"/sys/fs/cgroup";

fn control_groups(read_only: MountAttrFlags) -> Result<Option<Step>, ExecError> {
    const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    let target = Target { path: CONTROL_GROUPS.to_owned(), follow: false, missing: Missing::Skip };
    match rustix::fs::statfs(CONTROL_GROUPS) {
        Ok(stat) if stat.f_type == CGROUP2_MAGIC => {
            Ok(Some(Step::NewMount { kind: c"cgroup2", options: vec![], attributes: SAFE | read_only, target }))
        }
        Ok(_) => {
            // Version 1, or both: one mount a controller, taken over as they are.
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
            let mount = open_tree(CWD, CONTROL_GROUPS, flags).map_err(sandbox("copy the mounts of /sys/fs/cgroup"))?;
            child::set_attributes(&mount, (SAFE | read_only).bits().into(), 0).map_err(sandbox("make /sys/fs/cgroup read-only"))?;
            Ok(Some(Step::Attach { mount, target }))
        }
        Err(_) => Ok(None),
    }
}

/// A new file system in memory that only its descriptor reaches.
fn memory(options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            // Linux 6.4; before, a secret may be swapped out.
            let _ = fsconfig_set_flag(&context, *key);
        } else {
            fsconfig_set_string(&context, *key, *value)?;
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn write_file(directory: &OwnedFd, name: &CStr, bytes: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    io::Write::write_all(&mut file, bytes)?;
    let file = OwnedFd::from(file);
    give(&file, owner.0, Some(owner.1))?;
    // After the chown, which clears set-id bits, and whatever the caller's umask is.
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// The sandbox's own files: hosts, resolv.conf, and an empty directory to hide others with.
fn kit(hosts: &[u8], resolv_conf: &[u8]) -> Result<OwnedFd, ExecError> {
    let make = || -> io::Result<OwnedFd> {
        let mount = memory(&[(c"mode", c"755")], SAFE)?;
        write_file(&mount, c"hosts", hosts, 0o644, (0, 0))?;
        write_file(&mount, c"resolv.conf", resolv_conf, 0o644, (0, 0))?;
        rustix::fs::mkdirat(&mount, EMPTY_DIRECTORY, Mode::from_raw_mode(0o755))?;
        Ok(mount)
    };
    make().map_err(sandbox("write the sandbox's files to memory"))
}

/// Something to be attached once the sandbox's own mounts stand.
struct Attachment {
    target: TreePath,
    mount: OwnedFd,
    part: Option<Part>,
    /// Set on the part when there is one, else already on the mount.
    read_only: bool,
    missing: Missing,
}

/// Which part of the mount is attached.
enum Part {
    Subpath(CString),
    Staged(&'static CStr),
}

/// Files of the sandbox's own.
fn own_files(kit: &OwnedFd) -> Result<Vec<Attachment>, ExecError> {
    let mut attachments = Vec::new();
    for (target, name) in [("etc/hosts", c"hosts"), ("etc/resolv.conf", c"resolv.conf")] {
        attachments.push(Attachment {
            target: TreePath::new(target).expect("a clean constant"),
            // Holds the place: the child puts the file there.
            mount: kit.try_clone().map_err(sandbox("copy a descriptor"))?,
            part: Some(Part::Staged(name)),
            read_only: true,
            missing: Missing::MakeFileIfWritable,
        });
    }
    Ok(attachments)
}

/// What the step mounts, without devices if `nodev` is that flag.
fn attachments(own: Vec<SandboxMount>, nodev: u64) -> Result<Vec<Attachment>, ExecError> {
    let mut attachments = Vec::with_capacity(own.len());
    for SandboxMount { target, source, read_only } in own {
        if target.is_root() {
            return Err(ExecError::Invalid { what: "mount target", value: target.display(), reason: "nothing can be mounted over the root" });
        }
        let attachment = source_of(source, target)?;
        let mut attributes = nodev;
        if read_only && attachment.part.is_none() {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        child::set_attributes(&attachment.mount, attributes, 0).map_err(sandbox("set the flags of a mount"))?;
        attachments.push(Attachment { read_only, ..attachment });
    }
    Ok(attachments)
}

fn source_of(source: SandboxMountSource, target: TreePath) -> Result<Attachment, ExecError> {
    match source {
        SandboxMountSource::Tree { mount, subpath } => {
            let missing = if is_directory(&mount, &subpath, &target)? { Missing::MakeDir } else { Missing::MakeFile };
            let part = if subpath.is_root() { None } else { Some(Part::Subpath(c_string("path", subpath.as_bytes())?)) };
            Ok(Attachment { target, mount, part, read_only: false, missing })
        }
        SandboxMountSource::Tmpfs { size_bytes, mode } => {
            let mode = c_string("mode", format!("{mode:o}").as_bytes())?;
            let size = c_string("size", size_bytes.unwrap_or(0).to_string().as_bytes())?;
            let mut options: Vec<(&CStr, &CStr)> = vec![(c"mode", &mode)];
            if size_bytes.is_some() {
                options.push((c"size", &size));
            }
            let mount = memory(&options, MountAttrFlags::MOUNT_ATTR_NOSUID).map_err(sandbox("make a tmpfs"))?;
            Ok(Attachment { target, mount, part: None, read_only: false, missing: Missing::MakeDir })
        }
        SandboxMountSource::MemoryFile { bytes, mode, uid, gid } => {
            let noexec = if mode & 0o111 == 0 { MountAttrFlags::MOUNT_ATTR_NOEXEC } else { MountAttrFlags::empty() };
            let make = || -> io::Result<OwnedFd> {
                let mount = memory(&[(c"mode", c"700"), (c"noswap", c"")], MountAttrFlags::MOUNT_ATTR_NOSUID | noexec)?;
                write_file(&mount, MEMORY_FILE, &bytes, mode, (uid, gid))?;
                Ok(mount)
            };
            let mount = make().map_err(sandbox("put a file into memory"))?;
            Ok(Attachment { target, mount, part: Some(Part::Subpath(MEMORY_FILE.to_owned())), read_only: false, missing: Missing::MakeFile })
        }
    }
}

/// Whether what is mounted is a directory; an early and clear error when it is missing. The child opens it again, as safely.
fn is_directory(mount: &OwnedFd, subpath: &TreePath, target: &TreePath) -> Result<bool, ExecError> {
    let stat = if subpath.is_root() {
        rustix::fs::fstat(mount)
    } else {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(mount, subpath.as_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).and_then(rustix::fs::fstat)
    };
    match stat {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode).is_dir()),
        Err(errno) => Err(ExecError::Image {
            action: format!("mount {} on {}", subpath.display(), target.display()),
            reason: format!("it cannot be opened in the mount's source: {}", io::Error::from(errno)),
        }),
    }
}

fn explain(step: &Step, failure: Failure, program: &str) -> ExecError {
    let source = io::Error::from(failure.errno);
    let action = |action: String| action;
    let (action, remedy) = match step {
        Step::Exec { .. } => return program_error(program, failure),
        Step::CheckProgram { .. } if failure.errno == Errno::LOOP => {
            let what = if failure.detail == DETAIL_INTERPRETER { "its interpreter leads" } else { "it leads" };
            let reason = format!("{what} through links of /proc or too many links; name the program itself");
            return ExecError::Program { program: program.to_owned(), reason };
        }
        Step::Attach { target, .. } => return target_error(target, failure),
        Step::NewMount { target, .. } if failure.detail != DETAIL_FILE_SYSTEM => return target_error(target, failure),
        Step::MakeMount { kind, existing, .. } => (format!("mount {} on {}", kind.to_string_lossy(), existing.to_string_lossy()), ""),
        Step::NewMount { kind, target, .. } => (
            format!("mount {} on {}", kind.to_string_lossy(), target.path.to_string_lossy()),
            match failure.errno {
                Errno::NODEV => "; this kernel has no such file system",
                _ => "",
            },
        ),
        Step::Narrow { subpath, .. } if failure.detail == DETAIL_TARGET => {
            return ExecError::Image {
                action: format!("mount {}", subpath.to_string_lossy()),
                reason: format!("it cannot be opened in the mount's source: {source}"),
            };
        }
        Step::WorkingDirectory { path, .. } => {
            let reason = match failure.errno {
                Errno::LOOP => "it leads through links of /proc or too many links; name the directory itself".to_owned(),
                Errno::NOTDIR => "something on the way is not a directory".to_owned(),
                Errno::XDEV => "it lies outside of the root file system".to_owned(),
                _ => source.to_string(),
            };
            return ExecError::Image { action: format!("enter working directory {}", path.to_string_lossy()), reason };
        }
        Step::CloseOthers { .. } => (action("close descriptors".to_owned()), ""),
        Step::JoinGroups { .. } => (
            action("enter the control group with the step's limits".to_owned()),
            "; build without limits of memory and processors, or give rbuild a control group of its own: systemd-run --user --scope -p Delegate=yes rbuild …",
        ),
        Step::EnterNetwork { .. } => (action("enter the network namespace".to_owned()), ""),
        Step::PrivateMounts => (action("make the mount table private".to_owned()), ""),
        Step::EnterRoot { .. } => {
            let remedy = "; on a machine that runs from its initial ramdisk no other root can be entered";
            (action("enter the root file system".to_owned()), if failure.errno == Errno::INVAL { remedy } else { "" })
        }
        Step::FillDev { .. } => (action("fill /dev".to_owned()), "; rbuild needs CAP_MKNOD to run a step"),
        Step::Narrow { subpath, .. } => (format!("mount {}", subpath.to_string_lossy()), ""),
        Step::Stage { .. } | Step::TakeStaged { .. } | Step::Unstage => (action("mount the sandbox's own files".to_owned()), ""),
        Step::Mask { path } => (format!("hide {}", path.to_string_lossy()), ""),
        Step::ReadOnly { path } => (format!("make {} read-only", path.to_string_lossy()), ""),
        Step::Hostname { .. } => (action("set the host name".to_owned()), ""),
        Step::Loopback => (action("bring the loopback device up".to_owned()), ""),
        Step::CheckProgram { .. } => (format!("look at program {program:?}"), ""),
        Step::Streams { .. } => (action("connect the standard streams".to_owned()), ""),
        Step::Limit { resource, .. } => {
            (format!("set resource limit {resource:?}"), "; the kernel's own maximum is in /proc/sys/fs/nr_open for open files")
        }
        Step::Session => (action("begin a session".to_owned()), ""),
        Step::Seccomp { .. } | Step::AskingSeccomp { .. } => {
            (action("load the system call filter".to_owned()), "; the kernel needs CONFIG_SECCOMP_FILTER")
        }
        Step::BoundCapabilities { .. } | Step::SetCapabilities { .. } => (action("drop capabilities".to_owned()), ""),
        Step::Become { uid, gid, .. } if failure.errno == Errno::INVAL && IdMap::current().is_one_id => {
            // Said when the namespace was entered; a program that entered it by other means knows why.
            let why = user_namespace::lack().map_or_else(|| "give the user some in /etc/subuid and /etc/subgid".to_owned(), ToString::to_string);
            let remedy = format!("; without subordinate ids there is only user 0: {why}");
            return ExecError::refused(format!("become user {uid}:{gid}"), source, &remedy);
        }
        Step::Become { uid, gid, .. } => (
            format!("become user {uid}:{gid}"),
            match failure.errno {
                Errno::INVAL if !IdMap::current().is_initial => "; the user's ranges in /etc/subuid and /etc/subgid are too small for it",
                _ => "",
            },
        ),
        Step::DieWithParent => (action("tie the process to rbuild's life".to_owned()), ""),
        Step::CleanProcess => (action("reset signals and descriptors".to_owned()), ""),
    };
    ExecError::refused(action, source, remedy)
}

fn program_error(program: &str, failure: Failure) -> ExecError {
    let reason = match (failure.errno, failure.detail) {
        (Errno::NOENT | Errno::NOTDIR, DETAIL_INTERPRETER) => {
            "the file is there, but the interpreter of its `#!` line or its dynamic loader is not; install it, or use a program built for this image"
                .to_owned()
        }
        (Errno::NOENT | Errno::NOTDIR, _) if program == "/bin/sh" => {
            "no such file in the image; the shell form of an instruction needs a shell: use the exec form or SHELL, or copy a shell into the image"
                .to_owned()
        }
        (Errno::NOENT | Errno::NOTDIR, _) if program.contains('/') => "no such file in the image".to_owned(),
        (Errno::NOENT | Errno::NOTDIR, _) => "no such program in the directories of PATH".to_owned(),
        (Errno::ACCESS, _) => "the user may not execute it; is it a regular file with its x bits set?".to_owned(),
        (Errno::NOEXEC, _) => {
            "exec format error: it is no program for this processor, nor a script with a `#!` line; was it built for another platform?".to_owned()
        }
        (Errno::TOOBIG, _) => "its arguments and environment are too long for the kernel".to_owned(),
        (errno, _) => io::Error::from(errno).to_string(),
    };
    ExecError::Program { program: program.to_owned(), reason }
}

fn target_error(target: &Target, failure: Failure) -> ExecError {
    let reason = match failure.errno {
        Errno::LOOP if !target.follow => {
            "it is, or is below, a symbolic link in the image; the sandbox needs a directory there: remove the link".to_owned()
        }
        Errno::LOOP => "it leads through links of /proc or too many links; name the place itself".to_owned(),
        Errno::NOENT => "the image has no such directory, and no mount point was prepared".to_owned(),
        Errno::ROFS if failure.detail == DETAIL_MAKE_TARGET => {
            "it does not exist in the read-only mount above it; make it there, or mount that one read-write".to_owned()
        }
        Errno::NOTDIR => "of a directory and a file neither can be mounted on the other, nor is there anything below a file".to_owned(),
        errno => io::Error::from(errno).to_string(),
    };
    ExecError::Image { action: format!("mount on {}", target.path.to_string_lossy()), reason }
}
