//! Limits of memory and processors, and of devices: a control group of its own for a process.
//!
//! Both versions of the kernel's control groups are used, each controller where this machine has it. What cannot be limited is said in a warning: a
//! build that was limited elsewhere is better built without limits here than not at all. Where devices cannot be limited, no mount of the process has any.
//!
//! # Invariants
//! - In a user namespace, and without limits, nothing here is called, nothing of `/sys/fs/cgroup` is read: there no device node can be made, nor opened.
//! - A group is locked (`flock` on its directory) while its owner lives, whatever the owner's process id is and in whichever namespace: groups of builders that
//!   were killed are removed by whoever makes the next one beside them.
//! - No group that anybody else made is changed, but for turning controllers on for the groups below it where that is all that is missing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::ExecError;
use crate::sys::device_filter;

/// What a process and everything it starts may use together. Nothing is limited by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, in bytes; `u64::MAX` is unlimited. None: twice the memory.
    pub memory_swap_bytes: Option<u64>,
    /// Weight among those who want the processor, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Length of the period of [`ResourceLimits::cpu_quota_us`]; none for 100 ms.
    pub cpu_period_us: Option<u64>,
    /// Processor time in a period.
    pub cpu_quota_us: Option<u64>,
    /// Processors it may run on, such as `0-3,6`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use, such as `0,1`.
    pub cpuset_mems: Option<String>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a machine says which groups a process is in, and where they are mounted.
const OWN_GROUPS: &str = "/proc/self/cgroup";
const OWN_MOUNTS: &str = "/proc/self/mountinfo";

/// What names of our groups begin with.
const PREFIX: &str = "rbuild-";

/// The kernel's own period.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// How often and how long a group's removal is tried: the kernel may need an instant to forget the last process.
const REMOVALS: u32 = 50;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(1);

/// A part of the kernel that limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Devices,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Devices => "devices",
        }
    }

    /// What is not limited without it, for people.
    fn subject(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Cpuset => "the choice of processors",
            Self::Devices => "devices",
        }
    }
}

/// Version of a hierarchy of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One file of a group and what is written to it.
type Setting = (&'static str, String);

/// A group that one process runs in. Dropping it removes it; the process must have ended.
#[derive(Debug)]
pub(super) struct ControlGroup {
    directories: Vec<Directory>,
    /// The file that counts processes killed for lack of memory.
    kills: Option<PathBuf>,
    /// The limit of memory in force.
    pub(super) memory_bytes: Option<u64>,
    /// Whether the group's processes can open the devices of [`ALLOWED_DEVICES`] only, whatever nodes they make.
    pub(super) rules_devices: bool,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    version: Version,
    /// Says that the owner lives.
    lock: OwnedFd,
}

/// What every container may open: null, zero, full, random, urandom; tty, ptmx; terminals of /dev/pts. Character devices by major and minor number, none for all.
const ALLOWED_DEVICES: [(u32, Option<u32>); 8] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(2)), (136, None)];

impl ControlGroup {
    /// A group with `limits`, and with a rule about devices if `for_devices`; none if this machine lets nothing be limited. Says in `warnings` what is not.
    ///
    /// # Errors
    /// A limit that makes no sense to the kernel.
    pub(super) fn make(limits: &ResourceLimits, for_devices: bool, warnings: &mut Vec<String>) -> Result<Option<Self>, ExecError> {
        if limits.is_empty() && !for_devices {
            return Ok(None);
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let machine = Machine { groups: read(OWN_GROUPS), mounts: read(OWN_MOUNTS) };
        let mut group = Self { directories: Vec::new(), kills: None, memory_bytes: None, rules_devices: false };
        if !limits.is_empty() {
            group.limit(&machine, limits, warnings)?;
        }
        if for_devices {
            match group.rule_devices(&machine) {
                Ok(()) => group.rules_devices = true,
                Err(error) => warnings.push(format!(
                    "device nodes that steps make cannot be opened, not even a second /dev/null: there is no control group to say which ones can ({error}); \
                     mount cgroup2 on /sys/fs/cgroup, writable, if steps need them"
                )),
            }
        }
        Ok((!group.directories.is_empty()).then_some(group))
    }

    /// Under version 2 by a program in the kernel, which asks for no controller; else by version 1's controller.
    fn rule_devices(&mut self, machine: &Machine) -> io::Result<()> {
        let newer = self.rule_devices_by_program(machine);
        let Err(error) = newer else { return Ok(()) };
        let parent = machine.version_one(Controller::Devices).ok_or(error)?;
        let path = self.directory_in(&parent, Version::One)?;
        write(&path.join("devices.deny"), "a")?;
        // Nodes of any kind can be made.
        let allowed = ALLOWED_DEVICES.map(|(major, minor)| format!("c {major}:{} rwm", minor.map_or("*".to_owned(), |minor| minor.to_string())));
        ["c *:* m".to_owned(), "b *:* m".to_owned()].iter().chain(&allowed).try_for_each(|rule| write(&path.join("devices.allow"), rule))
    }

    fn rule_devices_by_program(&mut self, machine: &Machine) -> io::Result<()> {
        static PROGRAM: OnceLock<Result<OwnedFd, String>> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| device_filter::load(&ALLOWED_DEVICES).map_err(|error| format!("the kernel takes no program: {error}")));
        let program = program.as_ref().map_err(|why| io::Error::other(why.clone()))?;
        let there = |group: &Self| group.directories.iter().position(|directory| directory.version == Version::Two);
        let had_one = there(self).is_some();
        if !had_one {
            let parents = machine.version_two();
            let parent = parents.first().ok_or_else(|| io::Error::other("no control group of version 2 can be seen"))?;
            self.directory_in(parent, Version::Two)?;
        }
        let index = there(self).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let ruled = rule_by(program, &self.directories[index]);
        if ruled.is_err() && !had_one {
            // Whoever comes next sweeps, if it stays.
            let _ = fs::remove_dir(self.directories.remove(index).path);
        }
        ruled
    }

    /// The directory that a child can be born in, so that nothing has to be moved: under version 2.
    pub(super) fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.directories.iter().find(|directory| directory.version == Version::Two).map(|directory| directory.lock.as_fd())
    }

    fn limit(&mut self, machine: &Machine, limits: &ResourceLimits, warnings: &mut Vec<String>) -> Result<(), ExecError> {
        let mut for_version_two = Vec::new();
        for controller in wanted(limits) {
            match machine.version_one(controller) {
                Some(parent) => {
                    let made = self.directory_in(&parent, Version::One).and_then(|path| {
                        if controller == Controller::Cpuset {
                            inherit_cpuset(&parent, &path)?;
                        }
                        Ok(path)
                    });
                    match made {
                        Ok(path) => self.set(&path, controller, Version::One, limits)?,
                        Err(error) => warnings.push(refused(controller, &parent, &error)),
                    }
                }
                None => for_version_two.push(controller),
            }
        }
        if !for_version_two.is_empty() {
            self.version_two(machine, &for_version_two, limits, warnings)?;
        }
        Ok(())
    }

    fn version_two(
        &mut self,
        machine: &Machine,
        wanted: &[Controller],
        limits: &ResourceLimits,
        warnings: &mut Vec<String>,
    ) -> Result<(), ExecError> {
        let parents = machine.version_two();
        let missing = |controller: &Controller| {
            let there = parents.iter().any(|parent| listed(parent, "cgroup.controllers").contains(&controller.name().to_owned()));
            (!there).then(|| {
                format!(
                    "the limit of {} is not in force: this machine has no control group controller {:?} for rbuild",
                    controller.subject(),
                    controller.name()
                )
            })
        };
        warnings.extend(wanted.iter().filter_map(missing));
        let wanted: Vec<Controller> = wanted.iter().copied().filter(|controller| missing(controller).is_none()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = wanted.iter().map(|controller| controller.name()).collect();
        match self.child_of_nearest(&parents, &names) {
            Ok(path) => wanted.iter().try_for_each(|controller| self.set(&path, *controller, Version::Two, limits)),
            Err(refusal) => {
                warnings.extend(refusal.iter().flat_map(|(parent, error)| wanted.iter().map(|wanted| refused(*wanted, parent, error))));
                Ok(())
            }
        }
    }

    /// A group below the nearest of `parents` (version 2, the nearest first) where the controllers of these names work. Where everything is turned on already
    /// nothing has to be changed. Else why the nearest takes none.
    fn child_of_nearest(&mut self, parents: &[PathBuf], wanted: &[&str]) -> Result<PathBuf, Option<(PathBuf, io::Error)>> {
        let mut refusal = None;
        for turn_on in [false, true] {
            for parent in parents {
                match self.child_of(parent, wanted, turn_on) {
                    Ok(path) => return Ok(path),
                    Err(error) => refusal = refusal.or(Some((parent.clone(), error))),
                }
            }
        }
        Err(refusal)
    }

    fn child_of(&mut self, parent: &Path, wanted: &[&str], turn_on: bool) -> io::Result<PathBuf> {
        // Moving a process needs the right to write here as well, since it comes from a group below.
        rustix::fs::access(parent.join("cgroup.procs"), Access::WRITE_OK)?;
        let on = listed(parent, "cgroup.subtree_control");
        let off: Vec<String> = wanted.iter().filter(|wanted| !on.iter().any(|on| on == *wanted)).map(|name| format!("+{name}")).collect();
        if !off.is_empty() {
            if !turn_on {
                return Err(io::Error::other("its controllers are not turned on for groups below it"));
            }
            write(&parent.join("cgroup.subtree_control"), &off.join(" "))?;
        }
        self.directory_in(parent, Version::Two)
    }

    /// A directory of this group's in `parent`: the one that is there already, else a new one.
    fn directory_in(&mut self, parent: &Path, version: Version) -> io::Result<PathBuf> {
        if let Some(there) = self.directories.iter().find(|directory| directory.path.parent() == Some(parent)) {
            return Ok(there.path.clone());
        }
        sweep(parent);
        loop {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let path = parent.join(format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match fs::create_dir(&path) {
                // Of a process with our number that was killed, or that lives in another namespace of processes.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result?,
            }
            // Somebody who sweeps may have taken it for abandoned before it was locked.
            let Some(lock) = lock(&path).filter(|_| path.is_dir()) else { continue };
            self.directories.push(Directory { path: path.clone(), version, lock });
            return Ok(path);
        }
    }

    fn set(&mut self, path: &Path, controller: Controller, version: Version, limits: &ResourceLimits) -> Result<(), ExecError> {
        for (name, value) in settings(controller, version, limits) {
            let file = path.join(name);
            match write(&file, &value) {
                Ok(()) => {}
                // A machine that counts no swap has no such file, and then nothing is swapped beyond the limit either.
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_swap(name) => {}
                // Out of its range, or above what the groups around it leave.
                Err(_) => {
                    return Err(ExecError::Invalid { what: "limit", value: format!("{name}={value}"), reason: "this machine does not take it" });
                }
            }
        }
        if controller == Controller::Memory {
            self.memory_bytes = limits.memory_bytes;
            self.kills = Some(path.join(if version == Version::One { "memory.oom_control" } else { "memory.events" }));
        }
        Ok(())
    }

    /// Descriptors through which a process that writes `0` joins, that of [`ControlGroup::birthplace`] first.
    pub(super) fn doors(&self) -> Result<Vec<OwnedFd>, ExecError> {
        let open = |directory: &Directory| {
            let path = directory.path.join("cgroup.procs");
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| ExecError::refused(format!("open {}", path.display()), errno, ""))
        };
        let of = |version: Version| self.directories.iter().filter(move |directory| directory.version == version);
        of(Version::Two).chain(of(Version::One)).map(open).collect()
    }

    /// How many processes were killed for lack of memory within the limit.
    pub(super) fn kills(&self) -> u64 {
        let text = self.kills.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            for _ in 0..REMOVALS {
                match fs::remove_dir(&directory.path) {
                    Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => std::thread::sleep(BETWEEN_REMOVALS),
                    // Gone, or not to be removed by us: whoever comes next sweeps.
                    _ => break,
                }
            }
        }
    }
}

fn rule_by(program: &OwnedFd, directory: &Directory) -> io::Result<()> {
    // Below a group whose threads are spread over groups no process can be put into one.
    let kind = fs::read_to_string(directory.path.join("cgroup.type"))?;
    if kind.trim() != "domain" {
        return Err(io::Error::other(format!("{} is of type {:?}", directory.path.display(), kind.trim())));
    }
    device_filter::attach(program, directory.lock.as_fd())
}

/// What a control group of this process's could limit, by version: nothing is made to find out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) memory: Option<u8>,
    pub(crate) cpu: Option<u8>,
    pub(crate) devices: Option<u8>,
}

/// Looks for where [`ControlGroup::make`] would make its groups. None if no groups can be seen at all.
pub(crate) fn reach() -> Option<Reach> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Machine { groups: read(OWN_GROUPS), mounts: read(OWN_MOUNTS) }.reach()
}

/// Removes groups of builders that ended without doing so. Those of living ones are locked.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && let Some(_lock) = lock(&entry.path())
        {
            // One that still has processes cannot be removed, and is tried again next time.
            drop(fs::remove_dir(entry.path()));
        }
    }
}

fn lock(path: &Path) -> Option<OwnedFd> {
    let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(directory)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // In one call, and never making a file: that would be one on a disk.
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// A group of version 1 has no processors and no memory until it is given some.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        write(&child.join(name), fs::read_to_string(parent.join(name))?.trim())?;
    }
    Ok(())
}

fn refused(controller: Controller, parent: &Path, error: &io::Error) -> String {
    let remedy = "run rbuild as root, or with control groups delegated to you: systemd-run --user --scope -p Delegate=yes rbuild …";
    format!("the limit of {} is not in force: {} takes no group of rbuild's ({error}); {remedy}", controller.subject(), parent.display())
}

fn wanted(limits: &ResourceLimits) -> Vec<Controller> {
    let cpu = limits.cpu_shares.is_some() || limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some();
    let all = [
        (limits.memory_bytes.is_some() || limits.memory_swap_bytes.is_some(), Controller::Memory),
        (cpu, Controller::Cpu),
        (limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some(), Controller::Cpuset),
    ];
    all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, controller)| controller).collect()
}

fn is_swap(name: &str) -> bool {
    ["memory.memsw.limit_in_bytes", "memory.swap.max"].contains(&name)
}

/// What is written where, in order.
fn settings(controller: Controller, version: Version, limits: &ResourceLimits) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut add = |name, value: Option<String>| settings.extend(value.map(|value| (name, value)));
    // As docker has it: as much swap again as memory.
    let both = limits.memory_swap_bytes.or(limits.memory_bytes.map(|memory| memory.saturating_mul(2)));
    match (controller, version) {
        (Controller::Memory, Version::One) => {
            add("memory.limit_in_bytes", limits.memory_bytes.map(|bytes| bytes.to_string()));
            add("memory.memsw.limit_in_bytes", both.map(|bytes| if bytes == u64::MAX { "-1".to_owned() } else { bytes.to_string() }));
        }
        (Controller::Memory, Version::Two) => {
            add("memory.max", limits.memory_bytes.map(|bytes| bytes.to_string()));
            let swap =
                |bytes: u64| if bytes == u64::MAX { "max".to_owned() } else { bytes.saturating_sub(limits.memory_bytes.unwrap_or(0)).to_string() };
            add("memory.swap.max", both.map(swap));
        }
        (Controller::Cpu, Version::One) => {
            add("cpu.shares", limits.cpu_shares.map(|shares| shares.to_string()));
            add("cpu.cfs_period_us", limits.cpu_period_us.map(|period| period.to_string()));
            add("cpu.cfs_quota_us", limits.cpu_quota_us.map(|quota| quota.to_string()));
        }
        (Controller::Cpu, Version::Two) => {
            // 2 to 262144 become 1 to 10000, as all runtimes do it.
            add("cpu.weight", limits.cpu_shares.map(|shares| (1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142).to_string()));
            let quota = limits.cpu_quota_us.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            let is_set = limits.cpu_quota_us.is_some() || limits.cpu_period_us.is_some();
            add("cpu.max", is_set.then(|| format!("{quota} {}", limits.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US))));
        }
        (Controller::Cpuset, _) => {
            add("cpuset.cpus", limits.cpuset_cpus.clone());
            add("cpuset.mems", limits.cpuset_mems.clone());
        }
        (Controller::Devices, _) => {}
    }
    settings
}

fn listed(group: &Path, file: &str) -> Vec<String> {
    fs::read_to_string(group.join(file)).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}

/// What the machine says about this process's groups.
struct Machine {
    groups: String,
    mounts: String,
}

impl Machine {
    /// This process's group of a controller that is under version 1.
    fn version_one(&self, controller: Controller) -> Option<PathBuf> {
        let own = self.groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            controllers.split(',').any(|name| name == controller.name()).then(|| fields.next()).flatten()
        })?;
        self.mounts().find_map(|mount| {
            let is_here = mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller.name());
            if is_here { mount.place(own) } else { None }
        })
    }

    /// This process's group of version 2 and those above it, the nearest first.
    fn version_two(&self) -> Vec<PathBuf> {
        let Some(own) = self.groups.lines().find_map(|line| line.strip_prefix("0::")) else { return Vec::new() };
        let Some((mount, place)) = self.mounts().filter(|mount| mount.kind == "cgroup2").find_map(|mount| Some((mount.point, mount.place(own)?)))
        else {
            return Vec::new();
        };
        place.ancestors().take_while(|ancestor| ancestor.starts_with(mount)).map(Path::to_owned).collect()
    }

    fn reach(&self) -> Option<Reach> {
        let may_write = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
        let takes_groups = |group: &Path| may_write(group) && may_write(&group.join("cgroup.procs"));
        let newer = self.version_two();
        let has = |controller: Controller| -> Option<u8> {
            if let Some(group) = self.version_one(controller) {
                return may_write(&group).then_some(1);
            }
            let is_listed = |group: &Path, file: &str| listed(group, file).iter().any(|name| name == controller.name());
            let can_be_on = |group: &Path| is_listed(group, "cgroup.subtree_control") || may_write(&group.join("cgroup.subtree_control"));
            let fits = |group: &&PathBuf| is_listed(group, "cgroup.controllers") && takes_groups(group) && can_be_on(group);
            newer.iter().find(fits).map(|_| 2)
        };
        let by_program = newer.first().filter(|group| takes_groups(group)).map(|_| 2);
        let is_seen = !newer.is_empty() || self.version_one(Controller::Memory).is_some();
        is_seen.then(|| Reach {
            memory: has(Controller::Memory),
            cpu: has(Controller::Cpu),
            devices: by_program.or_else(|| has(Controller::Devices)),
        })
    }

    fn mounts(&self) -> impl Iterator<Item = GroupMount<'_>> {
        self.mounts.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ').skip(3);
            let (root, point) = (before.next()?, before.next()?);
            let mut after = after.split(' ');
            Some(GroupMount { root, point, kind: after.next()?, options: after.nth(1)? })
        })
    }
}

struct GroupMount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl GroupMount<'_> {
    /// Where the group is below this mount, which may show a part of the hierarchy only.
    fn place(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(self.root).ok()?;
        // A group outside of this process's namespace of groups cannot be named.
        let is_inside = below.components().all(|component| matches!(component, std::path::Component::Normal(_)));
        is_inside.then(|| Path::new(self.point).components().chain(below.components()).collect())
    }
}

#[cfg(test)]
mod tests;
