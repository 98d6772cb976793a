//! The walls around a step, as `docs/sandbox.md` describes them: its tables are read here and compared with what steps see (`features.md` E1).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use integration_tests::{Bed, Build, require};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// Nobody whom the machine knows: has no subordinate ids.
const ONE_ID: &str = "54321";

/// The rows of the table of `docs/sandbox.md` whose head begins with `head`, cells without backquotes.
fn table(head: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(require::workspace().join("docs/sandbox.md")).expect("docs/sandbox.md");
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "docs/sandbox.md has no table {head:?}");
    rows
}

/// A build of the Dockerfile `text`, once as root and once as an ordinary user.
fn as_root_and_user(bed: &Bed, files: &[(&str, &str)]) -> [(&'static str, Build); 2] {
    let context = bed.context("context", files);
    [("root", bed.build(&context)), ("user", bed.build(&context).as_user(USER))]
}

/// The same, and once as a user without a second id.
fn on_every_rung(bed: &Bed, files: &[(&str, &str)]) -> Vec<(&'static str, Build)> {
    let one_id = ("one id", bed.build(&bed.context("context", files)).as_user(ONE_ID));
    as_root_and_user(bed, files).into_iter().chain([one_id]).collect()
}

fn text(file: Option<Vec<u8>>) -> String {
    String::from_utf8(file.expect("the step wrote it")).expect("text")
}

#[test]
fn e1_2_status_and_descriptors_are_as_documented() {
    let bed = Bed::with_registry();
    let dockerfile = "FROM busybox\nRUN cat /proc/self/status > /status; ls -l /proc/self/fd > /tmp/fds; cut -c1-300 /tmp/fds > /fds; { ulimit -c; ulimit -Hc; } > /core\n";
    for (who, build) in on_every_rung(&bed, &[("Dockerfile", dockerfile)]) {
        let image = build.ok().image();
        let status = text(image.file("status"));
        for row in table("| `/proc/self/status`") {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{}:\t", row[0]))).expect("a line of status");
            assert_eq!(line, row[1], "{who}: {}", row[0]);
        }
        assert_eq!(text(image.file("core")), "0\n0\n", "{who}: a byte is no block");
        // ls has its output in a file and the directory open, as descriptors 1 and 3.
        let fds = text(image.file("fds"));
        let numbers: Vec<&str> =
            fds.lines().filter_map(|line| line.split(" -> ").next()?.split_whitespace().last()).filter(|n| n.parse::<u32>().is_ok()).collect();
        assert!(numbers.iter().all(|n| ["0", "1", "2", "3"].contains(n)), "{who}: {fds}");
        assert!(fds.contains("0 -> /dev/null") && fds.contains("2 -> pipe:["), "{who}: {fds}");
    }
}

#[test]
fn e1_3_mounts_are_as_documented() {
    let bed = Bed::with_registry();
    let dockerfile = "FROM busybox\nRUN cat /proc/self/mountinfo > /mounts\n";
    for (who, build) in on_every_rung(&bed, &[("Dockerfile", dockerfile)]) {
        let mounts = text(build.ok().image().file("mounts"));
        let rows = table("| Place | Kind | Flags |");
        let mut seen = BTreeSet::new();
        for line in mounts.lines() {
            let (before, after) = line.split_once(" - ").expect("mountinfo");
            let fields: Vec<&str> = before.split(' ').collect();
            let (place, flags, kind) = (fields[4], fields[5], after.split(' ').next().expect("kind"));
            assert_eq!(fields.get(6), None, "{who}: propagation is private: {line}");
            let is_for = |row: &&Vec<String>| row[0] == place || row[0].strip_suffix('*').is_some_and(|start| place.starts_with(start));
            let row = rows.iter().find(is_for).unwrap_or_else(|| panic!("{who}: {place} is not documented: {line}"));
            assert!(row[1] == "*" || row[1] == kind, "{who}: {line}");
            let has: BTreeSet<&str> = flags.split(',').filter(|flag| *flag != "relatime").collect();
            let documented: BTreeSet<&str> = row[2].split(',').collect();
            // A flag with a question mark is there where nothing else keeps devices away.
            let documented: BTreeSet<&str> = documented
                .iter()
                .map(|flag| flag.trim_end_matches('?'))
                .filter(|flag| *flag != "nodev" || has.contains(flag) || !row[2].contains("nodev?"))
                .collect();
            // A masked file has the flags of what covers it; everything else has exactly those that are documented.
            let is_right = if row[3].contains("masked") { documented.is_subset(&has) } else { documented == has };
            assert!(is_right, "{who}: {documented:?} in {line}");
            seen.insert(row[0].clone());
        }
        for row in rows.iter().filter(|row| !row[3].starts_with('?')) {
            assert!(seen.contains(&row[0]), "{who}: {} is missing in\n{mounts}", row[0]);
        }
    }
}

#[test]
fn cve_2022_36109_groups_are_those_of_the_image() {
    let bed = Bed::with_registry();
    let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nbob:x:1002:1002::/:/bin/sh\n";
    let group = "root:x:0:\nann:x:1001:\nwheel:x:10:ann,bob\nbuild:x:50:ann\nother:x:60:bob\n";
    let cases = [
        ("", "0"),
        ("root", "0"),
        ("ann", "1001 10 50"),
        ("1000", "1001 10 50"),
        ("ann:other", "60"),
        ("1000:60", "60"),
        ("4242", "0"),
        ("4242:50", "50"),
        ("bob", "1002 10 60"),
    ];
    let mut dockerfile = "FROM busybox AS base\nCOPY passwd group /etc/\nRUN mkdir -m 777 /out\n".to_owned();
    for (n, (user, _)) in cases.iter().enumerate() {
        let user = if user.is_empty() { String::new() } else { format!("USER {user}\n") };
        dockerfile += &format!("{user}RUN {{ id -G; id -u; echo $HOME; }} > /out/{n}\n");
    }
    for (who, build) in as_root_and_user(&bed, &[("Dockerfile", &dockerfile), ("passwd", passwd), ("group", group)]) {
        // Groups of whoever runs the builder are not the step's.
        let image = build.ok().image();
        for (n, (user, groups)) in cases.iter().enumerate() {
            let out = text(image.file(&format!("out/{n}")));
            assert_eq!(out.lines().next(), Some(*groups), "{who}: USER {user}: {out}");
        }
    }
}

/// Runs every system call in a process of its own, with arguments that nothing accepts, and prints what each answered.
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static long *answer;
/* What ends or suspends the caller, returns twice, or (sync) costs the machine time. Their use is proof enough. */
static const int skipped[] = { SYS_exit, SYS_exit_group, SYS_fork, SYS_vfork, SYS_clone, SYS_rt_sigreturn, SYS_pause, SYS_sync, -1 };
static void ask(const char *what, long number, long first, int i386) {
    *answer = 9999;
    pid_t child = fork();
    if (child == 0) {
        alarm(2);
        long result;
        if (i386) __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(-1), "d"(-1), "S"(-1), "D"(-1) : "memory", "r8", "r9", "r10", "r11");
        else { result = syscall(number, first, -1L, -1L, -1L, -1L, -1L); if (result < 0) result = -errno; }
        *answer = result < 0 ? -result : 0;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%s %ld %ld\n", what, number == SYS_socket && !i386 ? first : number, *answer);
}
int main(void) {
    answer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (long number = 0; number <= 480; number++) {
        int skip = number > 334 && number < 424;
        for (const int *s = skipped; *s >= 0; s++) skip |= *s == number;
        if (!skip && number != SYS_socket) ask("call", number, -1, 0);
    }
    for (long family = 0; family < 50; family++) ask("socket", SYS_socket, family, 0);
#define FLAG(flag) ask("namespace", SYS_clone, flag | SIGCHLD, 0)
    FLAG(CLONE_NEWNS); FLAG(CLONE_NEWUSER); FLAG(CLONE_NEWNET); FLAG(CLONE_NEWPID); FLAG(CLONE_NEWIPC); FLAG(CLONE_NEWUTS); FLAG(CLONE_NEWCGROUP);
#ifdef __x86_64__
    /* mount, umount2, unshare, setns, keyctl, add_key, bpf, pivot_root, open_by_handle_at, io_uring_setup of 32-bit programs. */
    static const int refused[] = { 21, 52, 310, 346, 288, 286, 357, 217, 342, 425, -1 };
    for (const int *r = refused; *r >= 0; r++) ask("i386", *r, -1, 1);
    ask("x32", 0x40000000 + SYS_getpid, -1, 0);
#endif
    return 0;
}
"#;

/// What the C library's header of the test machine is too old to name; the numbers are the same on every architecture but the last's.
const NEW_CALLS: [(&str, u32); 14] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("uretprobe", 335),
];

/// Calls that the filter lets through to a kernel that asks for capabilities which no step has.
const REFUSED_BY_THE_KERNEL: [&str; 1] = ["landlock_restrict_self"];

/// Compiles `source` to a static program in `dir`.
fn compile(dir: &Path, name: &str, source: &str) {
    let file = dir.join(format!("{name}.c"));
    std::fs::write(&file, source).expect("ours");
    let result =
        Command::new(require::tool("gcc", "gcc")).args(["-static", "-O1", "-o"]).arg(dir.join(name)).arg(&file).output().expect("gcc starts");
    assert!(result.status.success(), "gcc: {}", String::from_utf8_lossy(&result.stderr));
}

/// The numbers of the calls that docker's profile allows, by the C library's header.
fn allowed_by_docker(dir: &Path) -> BTreeMap<u32, String> {
    // `personality` is there because what it is asked with, "which is it?", is allowed.
    let names = include_str!("walls/docker-default-profile.txt");
    let mut source = "#include <stdio.h>\n#include <sys/syscall.h>\nint main(void) {\n".to_owned();
    for name in names.lines() {
        source += &format!("#ifdef SYS_{name}\nprintf(\"%d {name}\\n\", SYS_{name});\n#endif\n");
    }
    compile(dir, "numbers", &(source + "return 0; }\n"));
    let output = Command::new(dir.join("numbers")).output().expect("it runs");
    let printed = String::from_utf8(output.stdout).expect("text");
    let numbers = printed
        .lines()
        .map(|line| line.split_once(' ').expect("two words"))
        .map(|(number, name)| (number.parse().expect("a number"), name.to_owned()));
    numbers.chain(NEW_CALLS.map(|(name, number)| (number, name.to_owned()))).collect()
}

#[test]
fn e1_2_system_calls_one_by_one() {
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;
    let bed = Bed::with_registry();
    let dockerfile = "FROM busybox\nCOPY probe /probe\nRUN /probe > /sandboxed\nRUN --security=insecure /probe > /free\n";
    let context = bed.context("context", &[("Dockerfile", dockerfile)]);
    compile(&context, "probe", PROBE);
    let image = bed.build(&context).args(["--allow", "security.insecure"]).ok().image();
    let answers = |name: &str| -> BTreeMap<(String, u32), u32> {
        let printed = text(image.file(name));
        let words = printed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words.map(|words| ((words[0].to_owned(), words[1].parse().expect("a number")), words[2].parse().expect("an answer"))).collect()
    };
    let (sandboxed, free) = (answers("sandboxed"), answers("free"));
    let allowed = allowed_by_docker(&bed.context("numbers", &[]));
    let mut compared = [0, 0];
    for ((what, number), answer) in sandboxed.iter().filter(|((what, _), _)| what == "call") {
        let free = free[&(what.clone(), *number)];
        match allowed.get(number) {
            // The kernel itself says so, whoever asks.
            _ if free == EPERM || free == ENOSYS && *number <= 466 => {}
            Some(name) if REFUSED_BY_THE_KERNEL.contains(&name.as_str()) => {}
            Some(name) => {
                assert!(![EPERM, ENOSYS].contains(answer), "{name} ({number}) is refused with {answer}; unfiltered it answers {free}");
                compared[0] += 1;
            }
            None => {
                let expected = if *number > 466 || *number == 435 { ENOSYS } else { EPERM };
                assert_eq!(*answer, expected, "call {number}, which docker refuses");
                compared[1] += 1;
            }
        }
    }
    assert!(compared[0] > 250 && compared[1] > 40, "allowed and refused calls that could be told apart: {compared:?}");
    for ((what, number), answer) in &sandboxed {
        match what.as_str() {
            "socket" if [12, 19, 20, 23, 25, 34, 37, 38, 40].contains(number) || *number > 45 => assert_eq!(*answer, EPERM, "socket family {number}"),
            "socket" => assert_ne!(*answer, EPERM, "socket family {number}"),
            "namespace" | "i386" => assert_eq!(*answer, EPERM, "{what} {number}"),
            "x32" => assert_eq!(*answer, ENOSYS),
            _ => {}
        }
    }
}

/// A loop device over a file, for as long as this value lives.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        let losetup = require::tool("losetup", "mount");
        let output = Command::new(losetup).args(["--find", "--show"]).arg(file).output().expect("losetup starts");
        assert!(output.status.success(), "a loop device: {}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).expect("text").trim().to_owned())
    }

    fn minor(&self) -> u32 {
        let number = self.0.trim_start_matches("/dev/loop");
        number.parse().expect("/dev/loopN")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Nothing more can be done about a device that stays.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_device_that_can_be_read_outside_cannot_be_read_inside() {
    const CANARY: &str = "canary-on-a-block-device-5d1c";
    let bed = Bed::with_registry();
    let file = bed.path("disk");
    std::fs::write(&file, CANARY.repeat(4096 / CANARY.len() * 300)).expect("ours");
    let device = Loop::over(&file);
    let outside = std::fs::read(&device.0).expect("it can be read outside");
    assert!(outside.starts_with(CANARY.as_bytes()));
    // Nodes of the image, made by its layer, by an archive, by a COPY of them, and by the step itself.
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["node", "dir/node"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Block);
        header.set_size(0);
        header.set_mode(0o666);
        header.set_device_major(7).expect("ustar");
        header.set_device_minor(device.minor()).expect("ustar");
        tar.append_data(&mut header, name, &b""[..]).expect("in memory");
    }
    let minor = device.minor();
    let dockerfile = format!(
        "FROM busybox AS nodes\nADD nodes.tar /nodes/\n\
         FROM busybox\nCOPY --from=nodes /nodes /nodes\n\
         RUN --mount=type=bind,from=nodes,target=/bound --mount=type=cache,target=/cache --mount=type=tmpfs,target=/memory \
         for dir in / /dev /dev/shm /cache /memory /tmp; do mknod $dir/made b 7 {minor} || echo no mknod in $dir; done; \
         for node in /nodes/node /nodes/dir/node /bound/nodes/node /made /dev/made /dev/shm/made /cache/made /memory/made /tmp/made; do \
         cat $node && echo READ $node; dd if=/dev/zero of=$node bs=1 count=1 conv=notrunc && echo WROTE $node; done > /tmp/out 2> /tmp/errors; \
         cp /tmp/out /tmp/errors /; rm -f /made /nodes/node /nodes/dir/node /tmp/*; losetup /dev/loop{minor} > /loop 2>&1; ls /dev > /devices; \
         mknod /tmp/null c 1 3 && echo x > /tmp/null && cat /tmp/null && echo null > /null; touch /null; rm -f /tmp/null\n"
    );
    let [(_, root), (_, user)] = as_root_and_user(&bed, &[("Dockerfile", &dockerfile)]);
    std::fs::write(bed.path("context/nodes.tar"), tar.get_ref()).expect("ours");
    let without = |groups: &str| {
        let script = format!("umount -l {groups} && exec \"$@\"");
        root.clone().args(["--no-cache"]).under(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
    };
    // By a program in the kernel, by version 1's controller, by nothing but flags of mounts; and where nobody can make nodes.
    let builds = [
        ("root", root.clone()),
        ("root, version 1", without("/sys/fs/cgroup/unified")),
        ("root, no control groups", without("/sys/fs/cgroup")),
        ("user", user),
    ];
    for (who, build) in builds {
        let outcome = build.ok();
        let image = outcome.image();
        let (out, errors) = (text(image.file("out")), text(image.file("errors")));
        assert!(!out.contains("READ /") || who == "user", "{who}: {out}");
        assert!(!out.contains(CANARY) && !outcome.log.contains(CANARY), "{who}: {out}");
        let refused = errors.lines().filter(|line| line.contains("Permission denied") || line.contains("Operation not permitted")).count();
        assert!(who == "user" || refused >= 18, "{who}: {errors}");
        // A second /dev/null, as package builders and debootstrap make them, works where there is a rule about devices; where there is none that is said.
        let (opens, said) = (text(image.file("null")) == "null\n", outcome.log.contains("device nodes that steps make cannot be opened"));
        assert_eq!((opens, said), (["root", "root, version 1"].contains(&who), who == "root, no control groups"), "{who}: {}", outcome.log);
        assert!(!text(image.file("devices")).contains("loop"), "{who}");
    }
    assert_eq!(std::fs::read(&device.0).expect("still readable"), outside, "it was written to");
}

#[test]
fn cve_2024_23653_privileges_are_refused_unless_granted() {
    let bed = Bed::with_registry();
    let cases = [
        ("RUN --security=insecure true", "entitlement security.insecure"),
        ("RUN --network=host true", "entitlement network.host"),
        ("RUN --security=7 true", "7"),
        ("RUN --security=INSECURE true", "INSECURE"),
        ("RUN --network=container:1 true", "container:1"),
        ("RUN --security=$MODE true", "security"),
    ];
    for (n, (run, words)) in cases.iter().enumerate() {
        let context = bed.context(&format!("c{n}"), &[("Dockerfile", &format!("FROM busybox\nARG MODE=insecure\n{run} && touch /ran\n"))]);
        let outcome = bed.build(&context).run();
        assert_eq!(outcome.code, Some(1), "{run}: {}", outcome.log);
        assert!(outcome.log.contains(words), "{run}: {}", outcome.log);
    }
    // The right that was granted is not another one, and a trigger of a base image has no more rights than the file.
    let context = bed.context("wrong", &[("Dockerfile", "FROM busybox\nRUN --security=insecure true\n")]);
    assert_eq!(bed.build(&context).args(["--allow", "network.host"]).run().code, Some(1));
    let trigger = "FROM busybox AS base\nONBUILD RUN --security=insecure true\nFROM base\n";
    let outcome = bed.build(&bed.context("trigger", &[("Dockerfile", trigger)])).run();
    assert!(outcome.code == Some(1) && outcome.log.contains("entitlement security.insecure"), "{}", outcome.log);
    // Without the walls there is no seccomp filter; a step beside it has all of them.
    let both = "FROM busybox\nRUN --security=insecure grep Seccomp: /proc/self/status > /free\nRUN grep Seccomp: /proc/self/status > /walled\n";
    let image = bed.build(&bed.context("both", &[("Dockerfile", both)])).args(["--allow", "security.insecure"]).ok().image();
    assert_eq!((text(image.file("free")), text(image.file("walled"))), ("Seccomp:\t0\n".to_owned(), "Seccomp:\t2\n".to_owned()));
}
