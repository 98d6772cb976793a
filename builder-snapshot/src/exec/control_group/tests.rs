//! Files of both versions, and groups of version 2 on the kernel that runs these tests.

use super::*;

fn limits() -> ResourceLimits {
    ResourceLimits {
        memory_bytes: Some(100),
        memory_swap_bytes: None,
        cpu_shares: Some(1024),
        cpu_period_us: None,
        cpu_quota_us: Some(50_000),
        cpuset_cpus: Some("0-1".to_owned()),
        cpuset_mems: None,
    }
}

#[test]
fn e1_11_limits_become_the_files_of_each_version() {
    let all = |version, limits: &ResourceLimits| -> Vec<String> {
        let each = wanted(limits).into_iter().flat_map(|controller| settings(controller, version, limits));
        each.map(|(name, value)| format!("{name}={value}")).collect()
    };
    assert_eq!(
        all(Version::One, &limits()),
        ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=200", "cpu.shares=1024", "cpu.cfs_quota_us=50000", "cpuset.cpus=0-1"]
    );
    assert_eq!(all(Version::Two, &limits()), ["memory.max=100", "memory.swap.max=100", "cpu.weight=39", "cpu.max=50000 100000", "cpuset.cpus=0-1"]);
    let swap = ResourceLimits { memory_bytes: Some(5), memory_swap_bytes: Some(u64::MAX), cpu_period_us: Some(1000), ..ResourceLimits::default() };
    assert_eq!(all(Version::One, &swap), ["memory.limit_in_bytes=5", "memory.memsw.limit_in_bytes=-1", "cpu.cfs_period_us=1000"]);
    assert_eq!(all(Version::Two, &swap), ["memory.max=5", "memory.swap.max=max", "cpu.max=max 1000"]);
    assert!(all(Version::One, &ResourceLimits::default()).is_empty() && ResourceLimits::default().is_empty());
}

fn empty() -> ControlGroup {
    ControlGroup { directories: Vec::new(), kills: None, memory_bytes: None, rules_devices: false }
}

/// A tree of version 2 as the kernel shows it to a user whose session is delegated: `user` has what the machine has, and turned `on` for groups below it.
fn tree(on: &str) -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (group, controllers, on) in [("", "cpu io memory pids", "cpu memory pids"), ("user", "cpu memory pids", on), ("user/session", on, "")] {
        let group = dir.path().join(group);
        fs::create_dir_all(&group).expect("a group");
        for (file, text) in [("cgroup.procs", ""), ("cgroup.controllers", controllers), ("cgroup.subtree_control", on)] {
            fs::write(group.join(file), text).expect("a file");
        }
    }
    let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
    (dir, Machine { groups: "0::/user/session\n".to_owned(), mounts })
}

#[test]
fn version_two_is_used_where_it_is_delegated() {
    let chosen = |machine: &Machine, wanted: &[&str]| -> Option<PathBuf> {
        let path = empty().child_of_nearest(&machine.version_two(), wanted).ok();
        path.and_then(|path| path.parent().map(Path::to_owned))
    };
    // Turned on for what is below it: a sibling of the process's own group, and nothing is changed.
    let (dir, machine) = tree("cpu memory");
    assert_eq!(chosen(&machine, &["memory", "cpu"]), Some(dir.path().join("user")));
    assert_eq!(fs::read_to_string(dir.path().join("user/cgroup.subtree_control")).expect("a file"), "cpu memory");
    // What is missing only has to be turned on further up is taken from there.
    let (dir, machine) = tree("cpu");
    assert_eq!(chosen(&machine, &["memory"]), Some(dir.path().to_owned()));
    // A limit for which there is no controller is said, the others are in force; what the kernel refuses as a value is an error that names it.
    let (dir, machine) = tree("cpu memory");
    let (mut group, mut warnings) = (empty(), Vec::new());
    let refused = group.limit(&machine, &limits(), &mut warnings).expect_err("the tree takes no values: it is none of the kernel's");
    assert!(refused.to_string().contains("memory.max=100"), "{refused}");
    assert!(matches!(&warnings[..], [one] if one.contains("the choice of processors") && one.contains("\"cpuset\"")), "{warnings:?}");
    // How often the kernel killed something is read where it counts.
    fs::write(dir.path().join("memory.events"), "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n").expect("a file");
    group.kills = Some(dir.path().join("memory.events"));
    assert_eq!(group.kills(), 2);
}

/// Groups of version 2 of this machine's kernel: `session`, in which a process waits, below one of this test's own.
struct Session {
    top: PathBuf,
    process: std::process::Child,
    /// One that works for groups below the top: on machines with version 1 it may be one that limits nothing of ours.
    controller: String,
    /// Where it was turned on for this.
    turned_on: Option<PathBuf>,
}

impl Session {
    fn new() -> Self {
        let own = Machine { groups: "0::/\n".to_owned(), mounts: fs::read_to_string(OWN_MOUNTS).expect("/proc") };
        let root = own.version_two().pop().expect("cgroup2 is mounted; this test needs root");
        let (on, all) = (listed(&root, "cgroup.subtree_control"), listed(&root, "cgroup.controllers"));
        let controller = on.first().or(all.first()).expect("no controller is left for version 2").clone();
        let turned_on = on.is_empty().then(|| root.clone());
        if turned_on.is_some() {
            write(&root.join("cgroup.subtree_control"), &format!("+{controller}")).expect("root");
        }
        let top = root.join(format!("test-of-rbuild-{}", std::process::id()));
        fs::create_dir_all(top.join("session")).expect("root");
        let process = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let session = Self { top, process, controller, turned_on };
        write(&session.top.join("session/cgroup.procs"), &session.process.id().to_string()).expect("root");
        session
    }

    fn parents(&self) -> [PathBuf; 2] {
        [self.top.join("session"), self.top.clone()]
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("ours");
        for group in self.parents() {
            fs::remove_dir(group).expect("nothing is in it any more");
        }
        if let Some(root) = &self.turned_on {
            write(&root.join("cgroup.subtree_control"), &format!("-{}", self.controller)).expect("root");
        }
    }
}

#[test]
fn the_kernel_takes_groups_of_version_two_where_they_are_made() {
    let session = Session::new();
    let [nearest, top] = session.parents();
    let wanted = [session.controller.as_str()];
    let errno = |result: io::Result<PathBuf>| result.err().and_then(|error| error.raw_os_error());
    let mut group = empty();
    // What a group does not have cannot be turned on for those below it: it is turned on further up, and a group beside the nearest is made.
    assert_eq!(errno(group.child_of(&nearest, &wanted, true)), Some(Errno::NOENT.raw_os_error()));
    assert!(group.child_of(&top, &wanted, false).is_err(), "not turned on yet");
    let path = group.child_of_nearest(&session.parents(), &wanted).expect("a group");
    assert_eq!(path.parent(), Some(&*top));
    assert_eq!(listed(&path, "cgroup.controllers"), wanted);
    // What has processes gives nothing to groups below it.
    assert_eq!(errno(empty().child_of(&nearest, &wanted, true)), Some(Errno::BUSY.raw_os_error()));
    // A process goes in by the door, and the group goes when the process is gone; then nothing keeps the next one from being made without a change.
    let door = group.doors().expect("open").pop().expect("one");
    rustix::io::write(door, session.process.id().to_string().as_bytes()).expect("root");
    assert_eq!(listed(&path, "cgroup.procs"), [session.process.id().to_string()]);
    write(&nearest.join("cgroup.procs"), &session.process.id().to_string()).expect("back");
    drop(group);
    assert!(!path.exists());
    // One of a builder that was killed is swept; its directory is not locked.
    let abandoned = top.join(format!("{PREFIX}1-1"));
    fs::create_dir(&abandoned).expect("root");
    let mut next = empty();
    assert!(next.child_of(&top, &wanted, false).is_ok() && !abandoned.exists());
    drop(next);
    // As systemd delegates (the group and its files, but no limit of it): processes come from below the group and from nowhere else.
    const USER: u32 = 64_321;
    for file in [top.clone(), top.join("cgroup.procs"), top.join("cgroup.subtree_control"), nearest.clone(), nearest.join("cgroup.procs")] {
        std::os::unix::fs::chown(file, Some(USER), Some(USER)).expect("root");
    }
    let by_user = |join: Option<&Path>| {
        let join = join.map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).unwrap_or_default();
        let act = format!(
            "cd {}; echo +{} > cgroup.subtree_control && mkdir mine && echo $$ > mine/cgroup.procs && cat mine/cgroup.controllers; \
             echo $$ > session/cgroup.procs; rmdir mine",
            top.display(),
            session.controller
        );
        let script = format!("{join} exec setpriv --reuid={USER} --regid={USER} --clear-groups sh -c '{act}'");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    assert_eq!(by_user(None), "", "from a group that is not delegated");
    assert_eq!(by_user(Some(&nearest)), session.controller, "from the session");
}

#[test]
fn what_could_be_limited_is_found_out_without_making_anything() {
    let (dir, machine) = tree("cpu");
    assert_eq!(machine.reach(), Some(Reach { memory: Some(2), cpu: Some(2), devices: Some(2) }));
    for group in ["", "user"] {
        fs::write(dir.path().join(group).join("cgroup.controllers"), "pids").expect("a file");
    }
    assert_eq!(machine.reach(), Some(Reach { memory: None, cpu: Some(2), devices: Some(2) }), "the session's own has it still");
    assert_eq!(Machine { groups: "0::/\n".to_owned(), mounts: String::new() }.reach(), None);
    assert_eq!(fs::read_dir(dir.path()).expect("ours").count(), 4, "three files and a group");
}

#[test]
fn groups_are_found_where_the_machine_has_them() {
    let hybrid = Machine {
        groups: "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n0::/u/s\n".to_owned(),
        mounts: "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                 35 31 0:32 /a /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                 36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
            .to_owned(),
    };
    assert_eq!(hybrid.version_one(Controller::Memory).as_deref(), Some(Path::new("/sys/fs/cgroup/memory/b")));
    assert_eq!(hybrid.version_one(Controller::Cpu).as_deref(), Some(Path::new("/sys/fs/cgroup/cpu")));
    assert_eq!(hybrid.version_one(Controller::Cpuset), None);
    assert_eq!(hybrid.version_two(), ["/sys/fs/cgroup/unified/u/s", "/sys/fs/cgroup/unified/u", "/sys/fs/cgroup/unified"].map(PathBuf::from));
    let outside = Machine { groups: "0::/../other\n".to_owned(), mounts: "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n".to_owned() };
    assert!(outside.version_two().is_empty() && outside.version_one(Controller::Memory).is_none());
}
