//! Processes in the sandbox: each test runs one in a root that holds busybox alone, and looks at what it sees. They need root, and say so loudly.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::exec::stubs::{self, StubKind};
use builder_snapshot::exec::{
    self, Cancel, ExecError, ExitReport, NetworkMode, OutputSink, OutputStream, ProcessSpec, ResolvedUser, ResourceLimits, SandboxMount,
    SandboxMountSource, SecurityMode, Ulimit,
};
use builder_snapshot::snapshot::ActiveSnapshot;
use builder_snapshot::toc::Timestamp;
use builder_snapshot::tree::MergedTree;
use rustix::mount::{OpenTreeFlags, open_tree};

/// Where Debian's busybox-static has it.
const BUSYBOX: &str = "/bin/busybox";

struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the sandbox tests need root");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Self { directory };
        for path in ["bin", "etc", "proc", "sys", "dev", "tmp", "mnt"] {
            std::fs::create_dir(root.path(path)).expect(path);
        }
        std::fs::copy(BUSYBOX, root.path("bin/busybox")).expect("busybox-static is installed");
        for name in
            ["sh", "cat", "ls", "id", "true", "sleep", "grep", "mount", "mknod", "hostname", "ip", "df", "head", "wc", "stat", "touch", "readlink"]
        {
            std::os::unix::fs::symlink("busybox", root.path("bin").join(name)).expect(name);
        }
        for file in ["etc/hosts", "etc/resolv.conf"] {
            std::fs::write(root.path(file), "").expect(file);
        }
        root
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn spec(&self, argv: &[&str]) -> ProcessSpec {
        ProcessSpec {
            root: detach(self.directory.path()),
            argv: argv.iter().map(OsString::from).collect(),
            env: vec![("PATH".into(), "/nowhere:relative:/bin".into())],
            cwd: "/".into(),
            user: user(0, 0),
            hostname: "buildkitsandbox".to_owned(),
            mounts: Vec::new(),
            network: NetworkMode::Host,
            security: SecurityMode::Sandbox,
            shm_size_bytes: 64 << 20,
            ulimits: Vec::new(),
            resources: ResourceLimits::default(),
            timeout: None,
            hosts: b"127.0.0.1 localhost\n".to_vec(),
            resolv_conf: b"nameserver 9.9.9.9\n".to_vec(),
            owners: Arc::default(),
        }
    }

    fn error(&self, spec: ProcessSpec) -> String {
        let error: ExecError = exec::run(spec, &mut Captured::default(), None).expect_err("it cannot start");
        error.to_string()
    }

    /// Standard output of a shell script that succeeds.
    fn sh(&self, script: &str) -> String {
        self.sh_with(script, |_| {})
    }

    fn sh_with(&self, script: &str, change: impl FnOnce(&mut ProcessSpec)) -> String {
        let mut spec = self.spec(&["sh", "-c", script]);
        change(&mut spec);
        let mut output = Captured::default();
        let report = exec::run(spec, &mut output, None).expect(script);
        assert_eq!(report, ExitReport::Exited(0), "{script}: {} {}", output.stdout, output.stderr);
        output.stdout
    }
}

fn detach(path: &Path) -> OwnedFd {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, path, flags).expect("open_tree")
}

fn user(uid: u32, gid: u32) -> ResolvedUser {
    ResolvedUser { uid, gid, groups: Vec::new(), home: "/home/of".into() }
}

fn tree_path(path: &str) -> TreePath {
    TreePath::new(path).expect(path)
}

#[derive(Default)]
struct Captured {
    stdout: String,
    stderr: String,
    warnings: Vec<String>,
}

impl OutputSink for Captured {
    fn output(&mut self, stream: OutputStream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        match stream {
            OutputStream::Stdout => self.stdout.push_str(&text),
            OutputStream::Stderr => self.stderr.push_str(&text),
        }
    }

    fn warning(&mut self, warning: &str) {
        self.warnings.push(warning.to_owned());
    }
}

#[test]
fn e1_5_reports_how_the_process_ended_and_both_streams() {
    let root = Root::new();
    let mut output = Captured::default();
    let report = exec::run(root.spec(&["sh", "-c", "echo out; echo err >&2; exit 7"]), &mut output, None).expect("runs");
    assert_eq!((report, output.stdout.as_str(), output.stderr.as_str()), (ExitReport::Exited(7), "out\n", "err\n"));
    let report = exec::run(root.spec(&["/bin/sh", "-c", "kill -9 $$; exit 1"]), &mut Captured::default(), None).expect("runs");
    // The first process of a namespace ignores signals that it sends itself.
    assert_eq!(report, ExitReport::Exited(1));
}

#[test]
fn a8_1_standard_input_is_empty_and_a_lot_of_output_arrives_whole() {
    let root = Root::new();
    assert_eq!(root.sh("cat"), "");
    assert_eq!(root.sh("head -c 3000000 /dev/zero").len(), 3_000_000);
}

#[test]
fn e1_2_capabilities_and_no_new_privs_are_dockers() {
    let root = Root::new();
    let mut output = Captured::default();
    exec::run(root.spec(&["cat", "/proc/self/status"]), &mut output, None).expect("runs");
    let status = output.stdout;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned).expect("a line of status");
    for (name, value) in
        [("CapInh:", "0000000000000000"), ("CapPrm:", "00000000a80425fb"), ("CapEff:", "00000000a80425fb"), ("CapBnd:", "00000000a80425fb")]
    {
        assert_eq!(line(name), value, "{name}");
    }
    assert_eq!((line("CapAmb:").as_str(), line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("0000000000000000", "0", "2"));
    assert_eq!((line("SigBlk:").as_str(), line("SigIgn:").as_str()), ("0000000000000000", "0000000000000000"));
    let status = root.sh_with("grep Cap /proc/self/status", |spec| spec.user = user(1234, 5678));
    assert!(status.contains("CapPrm:\t0000000000000000") && status.contains("CapBnd:\t00000000a80425fb"), "{status}");
}

#[test]
fn e1_2_the_filter_refuses_and_nodes_can_be_made_of_which_few_can_be_opened() {
    let root = Root::new();
    root.sh(
        "! mount -t tmpfs none /mnt && mknod /tmp/null c 1 3 && cat /tmp/null && echo x > /tmp/null && mknod /dev/null2 c 1 3 && ! cat /dev/null2",
    );
    root.sh("mknod /tmp/loop b 7 0 && ! cat /tmp/loop && mknod /tmp/kmsg c 1 11 && ! cat /tmp/kmsg && mknod /tmp/tun c 10 200 && ! cat /tmp/tun");
    assert_eq!(root.sh("cat /dev/null; head -c 3 /dev/zero | wc -c; echo x > /dev/full 2>&1 || echo full"), "3\nfull\n");
}

#[test]
fn e1_3_the_standard_mounts_are_there() {
    let root = Root::new();
    let mounts = root.sh("cat /proc/mounts");
    let options = |place: &str| {
        let line = mounts.lines().rev().find(|line| line.split(' ').nth(1) == Some(place)).unwrap_or_else(|| panic!("{place} in {mounts}"));
        line.split(' ').nth(3).expect("options").to_owned()
    };
    for (place, wanted) in [
        ("/proc", "rw,nosuid,nodev,noexec"),
        ("/dev", "rw,nosuid,nodev,"),
        ("/dev/pts", "rw,nosuid,noexec"),
        ("/dev/mqueue", "rw,nosuid,nodev,noexec"),
        ("/dev/shm", "rw,nosuid,nodev,noexec"),
        ("/sys", "ro,nosuid,nodev,noexec"),
        ("/etc/hosts", "ro,nosuid,nodev,noexec"),
        ("/etc/resolv.conf", "ro,nosuid,nodev,noexec"),
        ("/proc/sys", "ro,nosuid,nodev,noexec"),
    ] {
        assert!(options(place).starts_with(wanted), "{place}: {}", options(place));
    }
    assert!(!mounts.contains(root.directory.path().to_str().expect("UTF-8")), "nothing of the host is named: {mounts}");
    assert_eq!(root.sh("cat /etc/hosts /etc/resolv.conf; hostname"), "127.0.0.1 localhost\nnameserver 9.9.9.9\nbuildkitsandbox\n");
    assert_eq!(root.sh_with("df -k /dev/shm | grep -c ' 32768 .* /dev/shm'", |spec| spec.shm_size_bytes = 32 << 20), "1\n");
    let devices = root.sh("ls /dev");
    assert_eq!(
        devices.split_whitespace().collect::<Vec<_>>(),
        ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    );
    assert_eq!(root.sh("stat -c '%a %u %g' /dev/null /dev /dev/shm /etc/hosts"), "666 0 0\n755 0 0\n1777 0 0\n644 0 0\n");
}

#[test]
fn e1_3_parts_of_proc_and_sys_are_masked_or_read_only() {
    let root = Root::new();
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do [ -e $f ] && head -c1 $f; done
        ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v :
        for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum /proc/irq/default_smp_affinity; do (: >> $f) 2>/dev/null && echo writable $f; done
        touch /sys/fs/cgroup/x 2>/dev/null && echo cgroup; for d in /sys/fs/cgroup/*; do mkdir $d/rbuild-test 2>/dev/null && echo $d; done; true";
    assert_eq!(root.sh(script).trim(), "");
}

#[test]
fn e1_3_only_the_three_streams_are_open_and_nothing_is_inherited() {
    let root = Root::new();
    // A descriptor without close-on-exec, as a careless embedder has.
    let leak = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 200).expect("dup");
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("fcntl");
    // The last is ls's own, on the directory; its standard output is the pipe to cat.
    assert_eq!(root.sh("ls /proc/self/fd | cat").split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let environment = root.sh("env; umask");
    let mut lines: Vec<_> = environment.lines().filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("PWD=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0022", "HOME=/home/of", "PATH=/nowhere:relative:/bin"]);
}

#[test]
fn a8_1_programs_that_cannot_start_say_why() {
    let root = Root::new();
    std::fs::write(root.path("bin/script"), "#!/no/interpreter\n").expect("write");
    std::fs::write(root.path("bin/text"), "text").expect("write");
    std::fs::write(root.path("bin/exe"), "#!/proc/self/exe\n").expect("write");
    for name in ["script", "exe"] {
        std::fs::set_permissions(root.path("bin").join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    std::os::unix::fs::symlink("/proc/self/exe", root.path("bin/self")).expect("symlink");
    for (program, words) in [
        ("/no/such/program", "cannot run \"/no/such/program\": no such file in the image"),
        ("none", "cannot run \"none\": no such program in the directories of PATH"),
        ("script", "interpreter of its `#!` line"),
        ("/bin/text", "the user may not execute it"),
        ("text", "the user may not execute it"),
        ("exe", "its interpreter leads through links of /proc"),
        ("self", "it leads through links of /proc"),
        ("/proc/self/exe", "it leads through links of /proc"),
        ("/etc", "the user may not execute it"),
    ] {
        let error = root.error(root.spec(&[program]));
        assert!(error.contains(words), "{program}: {error}");
    }
}

#[test]
fn e1_7_the_working_directory_is_made_inside_the_root_and_owned_by_the_user() {
    let root = Root::new();
    std::os::unix::fs::symlink("/gone/../deep", root.path("link")).expect("symlink");
    let script = "pwd; stat -c '%a %u %g' .";
    let at = |cwd: &str| root.sh_with(script, |spec| (spec.cwd, spec.user) = (cwd.into(), user(12, 34)));
    assert_eq!(at("/a/b/c"), "/a/b/c\n755 12 34\n");
    assert_eq!(at("/a"), "/a\n755 12 34\n");
    assert_eq!(at("/link/x"), "/deep/x\n755 12 34\n");
    assert_eq!(at("/../.."), "/\n755 0 0\n");
    assert_eq!(root.sh("ls /gone -d"), "/gone\n");
}

#[test]
fn cve_2024_21626_no_descriptor_of_the_builder_is_a_way_out() {
    let root = Root::new();
    for number in 0..32 {
        for directory in ["/proc/self/fd", "/proc/1/fd", "/dev/fd"] {
            let mut spec = root.spec(&["sh", "-c", "ls ../../.."]);
            spec.cwd = format!("{directory}/{number}").into();
            let error = root.error(spec);
            assert!(error.contains("working directory") || error.contains("links of /proc"), "{error}");
        }
    }
    for directory in ["/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/self/exe"] {
        let mut spec = root.spec(&["true"]);
        spec.cwd = directory.into();
        assert!(root.error(spec).contains("links of /proc"), "{directory}");
    }
}

#[test]
fn links_in_the_image_move_no_mount_of_the_sandbox() {
    for name in ["proc", "sys", "dev"] {
        let root = Root::new();
        std::fs::remove_dir(root.path(name)).expect("rmdir");
        std::os::unix::fs::symlink("/mnt", root.path(name)).expect("symlink");
        let error = root.error(root.spec(&["true"]));
        assert!(error.contains("symbolic link in the image"), "{error}");
    }
    // Files may be links, dangling or absolute; they are followed inside the root.
    let root = Root::new();
    std::fs::remove_file(root.path("etc/resolv.conf")).expect("rm");
    std::os::unix::fs::symlink("../run/systemd/resolv.conf", root.path("etc/resolv.conf")).expect("symlink");
    std::fs::create_dir_all(root.path("run/systemd")).expect("mkdir");
    std::fs::write(root.path("run/systemd/resolv.conf"), "").expect("write");
    assert_eq!(root.sh("cat /etc/resolv.conf"), "nameserver 9.9.9.9\n");
}

fn tree_of(directory: &Path, subpath: &str) -> SandboxMountSource {
    SandboxMountSource::Tree { mount: detach(directory), subpath: tree_path(subpath) }
}

fn mount(target: &str, read_only: bool, source: SandboxMountSource) -> SandboxMount {
    SandboxMount { target: tree_path(target), source, read_only }
}

#[test]
fn a8_4_mounts_of_trees_parts_files_and_memory() {
    let root = Root::new();
    let other = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(other.path().join("sub/dir")).expect("mkdir");
    std::fs::write(other.path().join("sub/dir/file"), "content\n").expect("write");
    std::os::unix::fs::symlink("/sub/dir", other.path().join("link")).expect("symlink");
    std::os::unix::fs::symlink("/etc", other.path().join("out")).expect("symlink");
    let script = "cat /mnt/file /mnt/sub/f; touch /mnt/x && echo written; touch /tmp/t/y; stat -c '%a %u' /tmp/t /bin/secret; cat /bin/secret; cat /dev/shm/in/file";
    let output = root.sh_with(script, |spec| {
        spec.mounts = vec![
            mount("mnt/sub/f", true, tree_of(other.path(), "link/file")),
            mount("mnt", false, tree_of(other.path(), "link")),
            mount("tmp/t", false, SandboxMountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1770 }),
            mount("bin/secret", true, SandboxMountSource::MemoryFile { bytes: b"s3cret\n".to_vec(), mode: 0o400, uid: 7, gid: 8 }),
            mount("dev/shm/in", true, tree_of(other.path(), "sub/dir")),
        ];
    });
    assert_eq!(output, "content\ncontent\nwritten\n1770 0\n400 7\ns3cret\ncontent\n");
    assert!(other.path().join("sub/dir/x").exists());
    for (subpath, words) in [("out", "cannot be opened"), ("nothing", "cannot be opened")] {
        let mut spec = root.spec(&["true"]);
        spec.mounts = vec![mount("mnt", true, tree_of(other.path(), subpath))];
        assert!(root.error(spec).contains(words));
    }
    let mut spec = root.spec(&["sh", "-c", "touch /mnt/z"]);
    spec.mounts = vec![mount("mnt", true, tree_of(other.path(), "sub"))];
    assert_eq!(exec::run(spec, &mut Captured::default(), None).expect("runs"), ExitReport::Exited(1));
    // A target that a read-only mount lacks.
    let mut spec = root.spec(&["true"]);
    spec.mounts = vec![mount("mnt", true, tree_of(other.path(), "sub")), mount("mnt/none", true, tree_of(other.path(), "sub"))];
    assert!(root.error(spec).contains("read-only mount above it"));
    let mut spec = root.spec(&["true"]);
    spec.mounts = vec![mount("proc/self/root/mnt", true, tree_of(other.path(), "sub"))];
    assert!(root.error(spec).contains("links of /proc"));
}

#[test]
fn e1_5_cancelling_kills_everything_and_background_processes_hold_nothing_up() {
    let root = Root::new();
    let started = std::time::Instant::now();
    assert_eq!(root.sh("sleep 1000 & sleep 1000 </dev/null & echo done"), "done\n");
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    struct CancelAtFirstWord(Option<OwnedFd>);
    impl OutputSink for CancelAtFirstWord {
        fn output(&mut self, _: OutputStream, _: &[u8]) {
            self.0 = None;
        }
    }
    let mut sink = CancelAtFirstWord(Some(write));
    let report = exec::run(root.spec(&["sh", "-c", "echo up; sleep 1000 & sleep 1000"]), &mut sink, Some(&Cancel(read))).expect("runs");
    assert_eq!(report, ExitReport::Cancelled);
    assert!(started.elapsed().as_secs() < 100);
}

#[test]
fn a8_9_network_none_has_a_loopback_that_is_up() {
    let root = Root::new();
    let output = root.sh_with("ip link | grep -c '^[0-9]'; ip addr show lo | grep -c 'inet 127.0.0.1'; ls /sys/class/net", |spec| {
        spec.network = NetworkMode::None
    });
    assert_eq!(output, "1\n1\nlo\n");
}

#[test]
fn e1_6_insecure_has_all_capabilities_and_nothing_masked() {
    let root = Root::new();
    let own = rustix::thread::capabilities(None).expect("capget").permitted.bits();
    let output = root.sh_with(
        "grep -E 'CapEff|Seccomp:' /proc/self/status; mount -t tmpfs none /mnt && (: >> /proc/sys/kernel/domainname) && echo mounted",
        |spec| {
            spec.security = SecurityMode::Insecure;
        },
    );
    assert_eq!(output, format!("CapEff:\t{own:016x}\nSeccomp:\t0\nmounted\n"));
}

#[test]
fn e1_8_user_groups_and_home() {
    let root = Root::new();
    let output = root.sh_with("id -u; id -g; id -G; echo $HOME; echo to-a-pipe > /dev/stdout", |spec| {
        spec.user = ResolvedUser { uid: 37, gid: 38, groups: vec![10, 50], home: "/var".into() };
    });
    assert_eq!(output, "37\n38\n38 10 50\n/var\nto-a-pipe\n");
}

#[test]
fn ulimits_are_set_and_what_cannot_be_raised_is_a_warning() {
    let root = Root::new();
    let limit = |soft, hard| vec![Ulimit { name: "nofile".to_owned(), soft, hard }];
    assert_eq!(root.sh_with("ulimit -n; ulimit -Hn", |spec| spec.ulimits = limit(123, 456)), "123\n456\n");
    if rustix::thread::capabilities(None).expect("capget").permitted.bits() & (1 << 24) == 0 {
        let mut spec = root.spec(&["true"]);
        spec.ulimits = limit(10_000_000, 10_000_000);
        let mut output = Captured::default();
        assert_eq!(exec::run(spec, &mut output, None).expect("runs"), ExitReport::Exited(0));
        assert_eq!(output.warnings.len(), 1);
    }
}

#[test]
fn many_threads_run_at_once_and_the_caller_is_not_changed() {
    let root = Root::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let root = &root;
            scope.spawn(move || {
                for turn in 0..5 {
                    assert_eq!(root.sh(&format!("echo {thread} {turn}")), format!("{thread} {turn}\n"));
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").expect("proc"), before);
}

#[test]
fn a8_2_mount_points_and_the_sandboxs_directories_never_enter_the_layer() {
    let root = Root::new();
    for path in ["etc/hosts", "etc/resolv.conf"] {
        std::fs::remove_file(root.path(path)).expect("rm");
    }
    for path in ["proc", "sys", "dev"] {
        std::fs::remove_dir(root.path(path)).expect("rmdir");
    }
    let lowers = vec![root.directory.path().to_owned()];
    let run = |script: &str, target: Option<&str>| {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let snapshot = ActiveSnapshot::create(temporary.path(), &lowers).expect("create");
        let mut targets = stubs::standard_targets();
        targets.extend(target.map(|target| (tree_path(target), StubKind::Dir)));
        let tree = MergedTree::open(&lowers).expect("open");
        let top = stubs::prepare(&tree, &targets, &temporary.path().join("stubs")).expect("stubs");
        let mut spec = root.spec(&["sh", "-c", script]);
        spec.root = snapshot.mount(top.as_deref()).expect("mount");
        spec.cwd = "/tmp".into();
        if let Some(target) = target {
            spec.mounts = vec![mount(target, false, SandboxMountSource::Tmpfs { size_bytes: None, mode: 0o755 })];
        }
        let mut output = Captured::default();
        let report = exec::run(spec, &mut output, None).expect(script);
        assert_eq!(report, ExitReport::Exited(0), "{script}: {}", output.stderr);
        let layer = snapshot.commit(Timestamp { seconds: 0, nanos: 0 }).expect("commit");
        layer.toc.entries.iter().map(|entry| entry.path.display()).filter(|path| !path.is_empty() && path != "/").collect::<Vec<_>>().join(" ")
    };
    assert_eq!(run("true", Some("new/deep/er")), "");
    assert_eq!(run("touch /dev/mine /dev/shm/x; busybox mkdir -p /dev/shm/y; cat /etc/hosts /etc/resolv.conf", None), "");
    assert_eq!(run("busybox mkdir /made/x; busybox mkdir /made2", Some("made")), "/made2");
    assert_eq!(run("echo x > /mnt/lost", Some("mnt")), "");
    assert_eq!(run("echo kept > /etc/kept", None), "/etc /etc/kept");
}

#[test]
fn e1_5_out_of_memory_is_told_apart() {
    // The test runs itself again inside a memory control group of its own, so that only what it starts is short of memory.
    const INSIDE: &str = "RBUILD_TEST_INSIDE_MEMORY_GROUP";
    if std::env::var_os(INSIDE).is_none() {
        let group = MemoryGroup::new(64 << 20);
        let exe = std::env::current_exe().expect("this test");
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" --exact e1_5_out_of_memory_is_told_apart --nocapture", group.0.display());
        let output = std::process::Command::new("sh").args(["-ec", &script]).arg(exe).env(INSIDE, "1").output().expect("sh");
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return;
    }
    let root = Root::new();
    let script = "x=x; while :; do x=$x$x; done";
    for argv in [["sh", "-c", script], ["sh", "-c", &format!("sh -c '{script}'; exit $?")]] {
        assert_eq!(exec::run(root.spec(&argv), &mut Captured::default(), None).expect("runs"), ExitReport::OutOfMemory { limit_bytes: None });
    }
}

/// A memory control group, version 1 or 2, removed when dropped.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn new(limit_bytes: u64) -> Self {
        let name = format!("rbuild-test-{}", std::process::id());
        let first = std::path::Path::new("/sys/fs/cgroup/memory");
        let (group, limit) = match first.is_dir() {
            true => (first.join(name), "memory.limit_in_bytes"),
            false => (std::path::Path::new("/sys/fs/cgroup").join(name), "memory.max"),
        };
        std::fs::create_dir(&group).expect("this test needs a memory control group it can make: run it as root");
        std::fs::write(group.join(limit), limit_bytes.to_string()).expect("the memory controller");
        Self(group)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A group that still has a dying process is left to the machine's end.
        let _ = std::fs::remove_dir(&self.0);
    }
}
