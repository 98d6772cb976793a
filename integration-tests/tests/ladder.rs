//! Machines that forbid something, and builds on them (`features.md` E2, `wishes.md` 1): on every one a build either gives the image that it gives everywhere,
//! or ends with status 3 and the words of `rbuild doctor`.
//!
//! A machine is made of cripplings: mounts in a namespace of the test's own, system calls that a filter denies, rights that are taken away. Those of
//! the table below are also combined at random, by a seed that is printed; `RBUILD_TEST_SEED` chooses another, `RBUILD_TEST_MACHINES` how many.

use std::fmt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use integration_tests::peers::Podman;
use integration_tests::{Bed, Build, require};

/// Has subordinate ids.
const RANGES: &str = "rbuild-test";

/// Nobody whom the machine knows: has none.
const ONE_ID: &str = "54321";

const EPOCH: &str = "1700000000";

/// What has to be the same everywhere, with the instructions that need a sandbox and without them.
const STEPS: &str = "\
FROM busybox
COPY --chown=1000:5 --chmod=4711 a /home/dir/
RUN rm -r /home/dir && mkdir /home/dir && echo b > /home/dir/b && chmod 700 /home/dir && ln -s /etc /home/dir/link && rm /bin/vi && id -u > /id && chown -R 7:8 /home/dir && chown -h 9 /home/dir/link && stat -c %u:%g /home/dir/* > /owners
COPY --from=busybox /bin/busybox /own/busybox
";
const FILES: &str = "\
FROM busybox AS base
COPY --chown=1000:5 --chmod=0 a /home/dir/
FROM base
WORKDIR /srv/new
COPY --from=base --chown=9:9 --chmod=2711 /home/dir /srv/dir
COPY --from=base /etc /bin/busybox /etc2/
ADD --chown=70000:7 a /srv/
";

/// One thing that a machine forbids.
#[derive(Clone, Copy)]
struct Crippling {
    name: &'static str,
    /// Commands of root's in a mount namespace of its own. `$STATE` is the store.
    script: &'static str,
    /// An error and the system calls that are answered with it.
    denies: Option<(&'static str, &'static str)>,
    /// Flags of `setpriv` for the process itself.
    privileges: &'static [&'static str],
    /// Whom it can happen to.
    who: Who,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Anybody,
    Root,
    Users,
}

const NOTHING: Crippling = Crippling { name: "nothing", script: "", denies: None, privileges: &[], who: Who::Anybody };

const fn script(name: &'static str, script: &'static str) -> Crippling {
    Crippling { name, script, ..NOTHING }
}

const fn denies(name: &'static str, errno: &'static str, calls: &'static str) -> Crippling {
    Crippling { name, denies: Some((errno, calls)), ..NOTHING }
}

/// All that can be combined.
const CRIPPLINGS: [Crippling; 24] = [
    script("masked /proc", "mount -o bind /proc/sys /proc/sys && mount -t tmpfs none /proc/acpi"),
    script("read-only /sys", "mount -o remount,bind,ro /sys"),
    script("no control groups", "mount -t tmpfs none /sys/fs/cgroup"),
    script("read-only root", "mount -o bind \"$BED\" \"$BED\" && mount -o remount,bind,ro /"),
    script("store on tmpfs, nosuid, nodev", "mount -t tmpfs -o mode=1777,nosuid,nodev,noexec none \"$STATE\""),
    script("store nosuid, nodev", "mount -o bind \"$STATE\" \"$STATE\" && mount -o remount,bind,nosuid,nodev,noexec \"$STATE\""),
    script(
        "a container's /dev",
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/zero c 1 5 && mknod -m 666 /dev/full c 1 7 && \
         mknod -m 666 /dev/random c 1 8 && mknod -m 666 /dev/urandom c 1 9 && mknod -m 666 /dev/tty c 5 0",
    ),
    script("no resolv.conf", "mount -o bind /dev/null /etc/resolv.conf"),
    Crippling { who: Who::Users, ..script("no newuidmap", "mount -o bind /dev/null /usr/bin/newuidmap") },
    Crippling { who: Who::Users, ..script("no subordinate ids", "mount -o bind /dev/null /etc/subuid") },
    Crippling { who: Who::Users, privileges: &["--no-new-privs"], name: "no_new_privs", ..NOTHING },
    denies("clone3 unknown", "ENOSYS", "clone3"),
    denies("clone3 denied", "EPERM", "clone3"),
    denies("user namespaces denied", "EPERM", "unshare"),
    denies("the mount call denied", "EPERM", "mount,umount2"),
    denies("new file systems denied", "EPERM", "fsopen,fsconfig,fsmount"),
    denies("attributes of mounts unknown", "ENOSYS", "mount_setattr"),
    denies("moving mounts denied", "EPERM", "move_mount"),
    denies("pivot_root denied", "EPERM", "pivot_root"),
    denies("keys denied", "EPERM", "keyctl"),
    denies("host names denied", "EPERM", "sethostname"),
    denies("filters denied", "EPERM", "seccomp"),
    denies("openat2 unknown", "ENOSYS", "openat2"),
    Crippling { who: Who::Root, privileges: &["--bounding-set=-sys_admin", "--inh-caps=-all"], name: "no CAP_SYS_ADMIN", ..NOTHING },
];

fn crippling(name: &str) -> Crippling {
    *CRIPPLINGS.iter().find(|crippling| crippling.name == name).unwrap_or_else(|| panic!("{name} is in the table"))
}

/// Somebody, and what is forbidden.
struct Machine {
    /// None for root.
    user: Option<&'static str>,
    cripplings: Vec<Crippling>,
    number: usize,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.cripplings.iter().map(|crippling| crippling.name).collect();
        write!(f, "{}: {}", self.user.unwrap_or("root"), names.join(", "))
    }
}

/// What came of a machine.
struct Came {
    builds: String,
    isolation: String,
    /// Causes and remedies of what keeps builds from running.
    missing: Vec<(String, String)>,
    /// All that the doctor said.
    report: String,
}

/// A registry, two contexts, and what they give.
struct Place {
    bed: Bed,
    steps: std::path::PathBuf,
    files: std::path::PathBuf,
    expected: [String; 2],
}

impl Place {
    fn new() -> Self {
        let bed = Bed::with_registry();
        let steps = bed.context("steps", &[("Dockerfile", STEPS), ("a", "a\n")]);
        let files = bed.context("files", &[("Dockerfile", FILES), ("a", "a\n")]);
        let expected = [&steps, &files].map(|context| bed.build(context).env("SOURCE_DATE_EPOCH", EPOCH).ok().image().digest);
        Self { bed, steps, files, expected }
    }

    fn build(&self, machine: &Machine, context: &Path, state: &Path, output: &Path) -> Build {
        let mut build = self.bed.build(context).env("SOURCE_DATE_EPOCH", EPOCH);
        if let Some(user) = machine.user {
            build = build.as_user(user);
        }
        build.under(words(machine, state, &self.bed.path(""))).state(state).output(output)
    }

    /// Builds on the machine; holds whatever holds on every machine.
    fn visit(&self, machine: &Machine) -> Came {
        let home = match machine.user {
            Some(user) => self.bed.build(&self.steps).as_user(user).home().to_owned(),
            None => self.bed.path(""),
        };
        let state = home.join(format!("state-{}", machine.number));
        std::fs::create_dir(&state).expect("a store's directory");
        let owner = std::fs::metadata(&home).expect("home");
        std::os::unix::fs::chown(&state, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).expect("root");
        let output = |name: &str| home.join(format!("{name}-{}.tar", machine.number));
        let steps = self.build(machine, &self.steps, &state, &output("steps"));

        let began = Instant::now();
        let said = steps.doctor();
        assert!(began.elapsed() < Duration::from_secs(1), "{machine}: the doctor took {:?}", began.elapsed());
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{machine}: {e}: {} {}", said.stdout, said.log));
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().expect("findings");
        let missing = findings.iter().filter(|finding| finding["status"] == "missing");
        let came = Came {
            builds: word(&report["builds"]),
            isolation: word(&report["isolation"]),
            missing: missing.map(|finding| (word(&finding["cause"]), word(&finding["remedy"]))).collect(),
            report: said.stdout.clone(),
        };
        assert_eq!(said.code, Some(if came.builds == "all" { 0 } else { 3 }), "{machine}: {}", came.report);
        assert_eq!(came.builds == "all", came.missing.is_empty(), "{machine}: {}", came.report);

        let [with_steps, without] = &self.expected;
        let metadata = home.join(format!("metadata-{}", machine.number));
        let steps = steps.args(["--metadata-file", &metadata.display().to_string()]);
        match came.builds.as_str() {
            "all" => {
                assert_eq!(steps.ok().image().digest, *with_steps, "{machine}");
                let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).expect("metadata")).expect("JSON");
                assert_eq!(recorded["rbuild.isolation"], came.isolation, "{machine}");
            }
            _ => came.explains(machine, &steps),
        }
        let files = self.build(machine, &self.files, &state, &output("files"));
        match came.builds.as_str() {
            "none" => came.explains(machine, &files),
            _ => assert_eq!(files.ok().image().digest, *without, "{machine}"),
        }
        came
    }
}

impl Came {
    /// A build that cannot run says what the doctor says.
    fn explains(&self, machine: &Machine, build: &Build) {
        let outcome = build.run();
        assert_eq!(outcome.code, Some(3), "{machine}: {}\n{}", outcome.log, self.report);
        let told = self.missing.iter().any(|(cause, remedy)| outcome.log.contains(cause.as_str()) && outcome.log.contains(remedy.as_str()));
        assert!(told, "{machine}: {}\n{}", outcome.log, self.report);
    }
}

/// Words that put a program on the machine, before those that make it a user's.
fn words(machine: &Machine, state: &Path, bed: &Path) -> Vec<String> {
    let scripts: Vec<&str> = machine.cripplings.iter().map(|crippling| crippling.script).filter(|script| !script.is_empty()).collect();
    let mut words: Vec<String> = Vec::new();
    if !scripts.is_empty() {
        let places = format!("STATE={} BED={}", state.display(), bed.display());
        let script = format!("set -e; {places}; {}; exec \"$@\"", scripts.join("; "));
        words.extend(["/usr/bin/unshare", "--mount", "--propagation=private", "sh", "-c", &script, "sh"].map(str::to_owned));
    }
    let mut denies: Vec<(&str, &str)> = machine.cripplings.iter().filter_map(|crippling| crippling.denies).collect();
    // After that no further filter can be made.
    denies.sort_by_key(|(_, calls)| *calls == "seccomp");
    for (errno, calls) in denies {
        words.extend([env!("CARGO_BIN_EXE_crippled"), errno, calls].map(str::to_owned));
    }
    let privileges: Vec<&str> = machine.cripplings.iter().flat_map(|crippling| crippling.privileges).copied().collect();
    if !privileges.is_empty() {
        words.push("/usr/bin/setpriv".to_owned());
        words.extend(privileges.into_iter().map(str::to_owned));
        words.push("--".to_owned());
    }
    words
}

/// One place for all tests of this file would be shared by processes; each makes its own.
static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

/// A user (none for root), cripplings, and what is expected: which builds run, on which rung, and words of the first cause that keeps them from running.
type Row = (Option<&'static str>, &'static [&'static str], &'static str, &'static str, &'static str);

fn hold(rows: &[Row]) {
    for (number, &(user, names, builds, isolation, cause)) in rows.iter().enumerate() {
        let machine = Machine { user, cripplings: names.iter().map(|name| crippling(name)).collect(), number };
        let came = PLACE.visit(&machine);
        assert_eq!((came.builds.as_str(), came.isolation.as_str()), (builds, isolation), "{machine}: {}", came.report);
        let causes: Vec<&str> = came.missing.iter().map(|(cause, _)| cause.as_str()).collect();
        assert!(if cause.is_empty() { causes.is_empty() } else { causes.iter().any(|said| said.contains(cause)) }, "{machine}: {causes:#?}");
    }
}

#[test]
fn e2_5_machines_that_cripple_root() {
    hold(&[
        (None, &["masked /proc", "read-only /sys"], "all", "root", ""),
        (None, &["read-only root"], "all", "root", ""),
        (None, &["store on tmpfs, nosuid, nodev"], "all", "root", ""),
        (None, &["clone3 unknown"], "all", "root", ""),
        (None, &["new file systems denied"], "without-run", "root", "Operation not permitted"),
        (None, &["attributes of mounts unknown"], "without-run", "root", "Function not implemented"),
        (None, &["no CAP_SYS_ADMIN"], "all", "user-namespace", ""),
        (None, &["no CAP_SYS_ADMIN", "user namespaces denied"], "without-run", "none", "seccomp"),
        (None, &["openat2 unknown"], "none", "root", "openat2"),
    ]);
}

#[test]
fn e2_5_machines_that_cripple_users() {
    hold(&[
        (Some(RANGES), &[], "all", "user-namespace", ""),
        (Some(RANGES), &["masked /proc", "read-only /sys", "a container's /dev"], "all", "user-namespace", ""),
        (Some(RANGES), &["store nosuid, nodev", "read-only root"], "all", "user-namespace", ""),
        (Some(RANGES), &["no newuidmap"], "all", "user-namespace-one-id", ""),
        (Some(RANGES), &["no subordinate ids"], "all", "user-namespace-one-id", ""),
        (Some(RANGES), &["no_new_privs", "store on tmpfs, nosuid, nodev"], "all", "user-namespace-one-id", ""),
        (Some(RANGES), &["clone3 unknown"], "all", "user-namespace", ""),
        (Some(RANGES), &["clone3 denied"], "none", "user-namespace-one-id", "no thread can be started"),
        (Some(RANGES), &["user namespaces denied"], "without-run", "none", "seccomp"),
        (Some(ONE_ID), &["the mount call denied"], "without-run", "none", "seccomp"),
        (Some(ONE_ID), &["openat2 unknown"], "none", "user-namespace-one-id", "openat2"),
    ]);
}

/// A generator of numbers that is good enough to choose machines (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn e2_5_machines_made_at_random() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("RBUILD_TEST_SEED").unwrap_or(20_261_121);
    println!("RBUILD_TEST_SEED={seed}");
    let mut numbers = Numbers(seed | 1);
    for number in 0..number("RBUILD_TEST_MACHINES").unwrap_or(10) {
        let user = [None, Some(RANGES), Some(ONE_ID)][numbers.below(3)];
        let mut cripplings: Vec<Crippling> = Vec::new();
        let wanted = 2 + numbers.below(3);
        while cripplings.len() < wanted {
            let next = CRIPPLINGS[numbers.below(CRIPPLINGS.len())];
            let possible = match next.who {
                Who::Anybody => true,
                Who::Root => user.is_none(),
                Who::Users => user.is_some(),
            };
            if possible && !cripplings.iter().any(|crippling| crippling.name == next.name) {
                cripplings.push(next);
            }
        }
        let _ = PLACE.visit(&Machine { user, cripplings, number: 1000 + usize::try_from(number).unwrap_or_default() });
    }
}

#[test]
fn e2_5_a_machine_that_allows_no_user_namespaces() {
    // The sysctl is each namespace's own: in one of the test's nobody else is hit.
    let build = PLACE.bed.build(&PLACE.steps).as_user(RANGES).env("SOURCE_DATE_EPOCH", EPOCH);
    let script = format!(
        "chmod 1777 {} && echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid=5 --regid=5 --clear-groups -- \"$@\"",
        build.home().display()
    );
    let inside = ["unshare", "--map-auto", "--map-root-user", "--", "sh", "-c", &script, "sh"];
    let build = build.through(inside);
    let said = build.doctor();
    assert!(said.code == Some(3) && said.stdout.contains("user.max_user_namespaces is 0"), "{}", said.stdout);
    let failed = build.run();
    let expected =
        "ERROR: failed to build: failed to solve: cannot run a step: the machine allows no user namespaces: user.max_user_namespaces is 0\n";
    assert!(failed.code == Some(3) && failed.log.contains(expected) && failed.log.contains("help: as root, write a line"), "{}", failed.log);
    let files = PLACE.bed.build(&PLACE.files).as_user(RANGES).env("SOURCE_DATE_EPOCH", EPOCH).through(inside).ok();
    assert!(files.log.contains("[internal] isolation: none: files only, no step can run"), "{}", files.log);
    assert_eq!(files.image().digest, PLACE.expected[1]);
}

/// A root file system with what the binary asks for, and nothing else.
fn minimal_root(root: &Path, program: &Path) {
    let output = std::process::Command::new("ldd").arg(program).output().expect("ldd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for library in said.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("below the root")).expect("directory");
        std::fs::copy(library, to).expect("a library");
    }
    for name in ["etc", "proc", "sys", "dev", "run", "tmp"] {
        std::fs::create_dir_all(root.join(name)).expect(name);
    }
}

#[test]
fn e2_5_containers() {
    let bed = &PLACE.bed;
    let program = require::rbuild();
    let root = bed.path("root");
    minimal_root(&root, &program);
    let podman = Podman::new(&bed.path("podman"));
    let volume = |path: &Path| format!("--volume={0}:{0}", path.display());
    // Flags of the container, which builds run, the rung, and words of what keeps the others from running.
    let table: [(&str, &[&str], &str, &str, &str); 5] = [
        ("as podman starts it", &[], "all", "user-namespace", ""),
        ("without the filter", &["--security-opt=seccomp=unconfined"], "all", "user-namespace", ""),
        ("without the filter, read-only", &["--security-opt=seccomp=unconfined", "--read-only"], "all", "user-namespace", ""),
        ("another user, without the filter", &["--security-opt=seccomp=unconfined", "--user=54321:54321"], "all", "user-namespace-one-id", ""),
        ("privileged", &["--privileged"], "all", "root", ""),
    ];
    for (number, (name, flags, builds, isolation, cause)) in table.into_iter().enumerate() {
        let dir = bed.path(&format!("container-{number}"));
        std::fs::create_dir(&dir).expect("ours");
        std::os::unix::fs::chown(&dir, flags.contains(&"--user=54321:54321").then_some(54321), None).expect("root");
        let mut words = podman.words();
        words.extend(
            ["run", "--rm", "--env-host", "--network=host", "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
                .map(str::to_owned),
        );
        words.extend([volume(&bed.path("")), volume(program.parent().expect("a directory"))]);
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        words.extend(["--rootfs".to_owned(), root.display().to_string()]);
        let build = |context: &Path, output: &str| {
            let build = bed.build(context).env("SOURCE_DATE_EPOCH", EPOCH).env("HOME", dir.as_os_str()).env("USER", "").under(words.clone());
            build.state(&dir.join("state")).output(&dir.join(output))
        };
        let said = build(&PLACE.steps, "steps.tar").doctor();
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {} {}", said.stdout, said.log));
        assert_eq!((report["builds"].as_str(), report["isolation"].as_str()), (Some(builds), Some(isolation)), "{name}: {}", said.stdout);
        let steps = build(&PLACE.steps, "steps.tar");
        if cause.is_empty() {
            assert_eq!(steps.ok().image().digest, PLACE.expected[0], "{name}");
        } else {
            let outcome = steps.run();
            assert!(outcome.code == Some(3) && outcome.log.contains(cause), "{name}: {}", outcome.log);
        }
        assert_eq!(build(&PLACE.files, "files.tar").ok().image().digest, PLACE.expected[1], "{name}");
        if matches!(flags, [] | ["--privileged"]) {
            // A store in the container's own file system, which is an overlay: no other can stand on it.
            words.pop();
            words.push(format!("{}:O", root.display()));
            let inside = bed.build(&PLACE.steps).env("SOURCE_DATE_EPOCH", EPOCH).env("HOME", "/tmp").env("USER", "").under(words);
            let outcome = inside.state(Path::new("/tmp/store")).output(&dir.join("inside.tar")).ok();
            assert!(outcome.log.contains("copy snapshots: the store's file system is overlay"), "{name}: {}", outcome.log);
            assert_eq!(outcome.image().digest, PLACE.expected[0], "{name}");
        }
    }
}
