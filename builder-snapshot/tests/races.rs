//! Mount set-ups in a root file system and beside shared mounts that another process changes meanwhile: directories and links to the outside change places all the time
//! (CVE-2021-30465, CVE-2024-45310, CVE-2024-23651, moby GHSA-vp62 and GHSA-rg2x). Whatever the race comes to, nothing outside is read, made or mounted on.
//!
//! Continuous integration makes a thousand set-ups, with `RBUILD_SOAK` in the environment ten thousand.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use builder_snapshot::TreePath;
use builder_snapshot::exec::{
    self, ExitReport, NetworkMode, OutputSink, OutputStream, ProcessSpec, ResolvedUser, SandboxMount, SandboxMountSource, SecurityMode,
};
use rustix::fs::RenameFlags;
use rustix::mount::{OpenTreeFlags, open_tree};

const CANARY: &str = "canary-of-the-host-0b77";

fn detach(path: &Path) -> OwnedFd {
    open_tree(rustix::fs::CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).expect("open_tree")
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect(text)
}

#[derive(Default)]
struct Said(Vec<u8>);

impl OutputSink for Said {
    fn output(&mut self, _: OutputStream, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// Swaps each pair of names in its directory until told to stop; one of a pair is a directory, the other a link out.
fn swap(pairs: &[(&Path, &str, &str)], stop: &AtomicBool, swaps: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for (dir, a, b) in pairs {
            rustix::fs::renameat_with(rustix::fs::CWD, dir.join(a), rustix::fs::CWD, dir.join(b), RenameFlags::EXCHANGE).expect("both are there");
            swaps.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::yield_now();
    }
}

#[test]
fn cve_2021_30465_ten_thousand_mount_set_ups_against_a_racing_process() {
    assert!(rustix::process::geteuid().is_root(), "the sandbox tests need root");
    let count = if std::env::var_os("RBUILD_SOAK").is_some() { 10_000 } else { 1_000 };
    // In memory, where changing places costs least.
    let place = tempfile::tempdir_in("/dev/shm").expect("a tmpfs at /dev/shm");
    let at = |below: &str| place.path().join(below);
    for dir in ["root/bin", "root/etc", "root/proc", "root/sys", "root/dev", "root/work/sub", "shared/part/deep", "outside/sub", "outside/deep"] {
        std::fs::create_dir_all(at(dir)).expect("ours");
    }
    for file in ["outside/secret", "outside/sub/secret", "outside/deep/secret"] {
        std::fs::write(at(file), CANARY).expect("ours");
    }
    std::fs::write(at("shared/part/deep/inside"), "inside").expect("ours");
    std::fs::copy("/bin/busybox", at("root/bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "cat", "mkdir", "touch"] {
        std::os::unix::fs::symlink("busybox", at("root/bin").join(name)).expect("ours");
    }
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(at("root/etc").join(file), "").expect("ours");
    }
    let outside = at("outside");
    // In the root: a directory that mounts lie below, and the working directory's; in the shared tree: the part that is mounted.
    for (dir, target) in [("root", &outside), ("shared", &outside)] {
        std::os::unix::fs::symlink(target, at(dir).join("link")).expect("ours");
    }
    // A link that jumps rather than leads, to whatever the set-up has open.
    std::os::unix::fs::symlink("/proc/self/fd/5", at("root/jump")).expect("ours");
    std::fs::create_dir(at("root/spare")).expect("ours");

    let mounts_before = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
    let listing = || {
        let mut found: Vec<_> = walk(&outside);
        found.sort();
        found
    };
    let before = listing();
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut ran, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let (root, shared) = (at("root"), at("shared"));
        let (stop, swaps) = (&stop, &swaps);
        scope.spawn(move || swap(&[(&root, "work", "link"), (&shared, "part", "link"), (&root, "spare", "jump")], stop, swaps));
        for n in 0..count {
            let tree = |subpath: &str| SandboxMountSource::Tree { mount: detach(&at("shared")), subpath: path(subpath) };
            let tmpfs = || SandboxMountSource::Tmpfs { size_bytes: None, mode: 0o755 };
            let mount = |target: &str, source| SandboxMount { target: path(target), source, read_only: false };
            let memory = SandboxMountSource::MemoryFile { bytes: b"held".to_vec(), mode: 0o400, uid: 0, gid: 0 };
            let mounts = match n % 5 {
                0 => vec![mount("work/sub", tmpfs())],
                1 => vec![mount("work/new/deep", tmpfs()), mount("work/file", memory)],
                2 => vec![mount("etc/part", tree("part/deep"))],
                3 => vec![mount("work/sub", tree("part")), mount("work/sub/deep", tmpfs())],
                _ => vec![mount("spare/x/y", tmpfs())],
            };
            let cwd = ["/work/sub", "/work/made/here", "/spare/made", "/"][n % 4];
            let script = "cat secret sub/secret /work/secret /work/sub/secret /etc/part/secret /work/sub/deep/secret ../secret; touch /work/sub/MADE /etc/part/MADE MADE; mkdir /work/MADE; :";
            let spec = ProcessSpec {
                root: detach(&at("root")),
                argv: ["/bin/sh", "-c", script].map(OsString::from).to_vec(),
                env: vec![("PATH".into(), "/bin".into())],
                cwd: cwd.into(),
                user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
                hostname: "raced".into(),
                mounts,
                network: NetworkMode::Host,
                security: SecurityMode::Sandbox,
                shm_size_bytes: 1 << 20,
                ulimits: Vec::new(),
                resources: exec::ResourceLimits::default(),
                timeout: None,
                hosts: Vec::new(),
                resolv_conf: Vec::new(),
                owners: Arc::default(),
            };
            let mut said = Said::default();
            match exec::run(spec, &mut said, None) {
                Ok(ExitReport::Exited(_)) => ran += 1,
                Ok(other) => panic!("{n}: {other:?}"),
                // A link where a directory was a moment ago is an error that says so.
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
            let text = String::from_utf8_lossy(&said.0).into_owned();
            assert!(!text.contains(CANARY), "{n}: a file outside was read: {text}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(listing(), before, "something outside changed");
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").expect("proc"), mounts_before);
    assert!(
        swaps.load(Ordering::Relaxed) > count as u64 && ran > count / 20,
        "{ran} ran and {refused} were refused in {swaps:?} swaps: no race took place"
    );
}

fn walk(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("ours") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.push((path.display().to_string(), String::new()));
            found.extend(walk(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).expect("text")));
        }
    }
    found
}
