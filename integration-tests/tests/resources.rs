//! What a step may use, and that nothing of it is left when it has ended (`features.md` E1.5, E1.11).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use integration_tests::Bed;
use integration_tests::meeting::{self, Meeting};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// The control groups that builders have made anywhere on this machine.
fn groups() -> BTreeSet<PathBuf> {
    fn look(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with("rbuild-") {
                    found.insert(entry.path());
                }
                look(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    look(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// Those of one builder.
fn groups_of(pid: u32) -> usize {
    groups().iter().filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("rbuild-{pid}-")))).count()
}

/// Whether a process of the machine has `word` on its command line.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes.into_iter().any(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(word)))
}

#[test]
fn e1_5_the_limit_of_memory_holds_and_is_named() {
    let bed = Bed::with_registry();
    // The shell hides that the kernel killed its child behind a status of its own.
    let hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1 || exit 3";
    let context = bed.context("context", &[("Dockerfile", &format!("FROM busybox\nRUN {hungry}\n"))]);
    for flags in [&["--resource", "memory=32m"][..], &["--memory=32m", "--memory-swap=32m"]] {
        let running = bed.build(&context).args(flags.iter().copied()).start();
        let pid = running.pid();
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(102), "{}", outcome.log);
        assert!(outcome.log.contains("out of memory (limit 32 MiB)") && outcome.log.contains("raise it with --resource memory"), "{}", outcome.log);
        assert_eq!(groups_of(pid), 0, "the step's groups are gone");
    }
    // Limits are in no key: what was built without is there with.
    let _ = bed.build(&context).args(["--resource", "memory=1g"]).ok();
    assert_eq!(bed.build(&context).args(["--resource", "memory=32m"]).ok().cached().len(), 1);
}

#[test]
fn e1_11_processors_are_limited() {
    let bed = Bed::with_registry();
    let dockerfile = "FROM busybox\nRUN grep Cpus_allowed_list /proc/self/status > /cpus; cat /proc/self/cgroup > /groups; \
                      cat /sys/fs/cgroup/cpu*/rbuild-*/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max > /quota 2> /dev/null; true\n";
    let context = bed.context("context", &[("Dockerfile", dockerfile)]);
    let image = bed.build(&context).args(["--cpuset-cpus", "0", "--resource", "cpus=0.5"]).ok().image();
    let read = |name: &str| String::from_utf8(image.file(name).expect(name)).expect("text");
    assert_eq!(read("cpus"), "Cpus_allowed_list:\t0\n");
    assert!(read("quota").lines().any(|line| line == "50000" || line == "50000 100000"), "{}", read("quota"));
    // Its own groups are the roots of what it sees.
    assert!(!read("groups").contains("rbuild-"), "{}", read("groups"));
    let impossible = bed.build(&context).args(["--cpuset-cpus", "4095", "--no-cache"]).run();
    assert!(impossible.code == Some(1) && impossible.log.contains("limit \"cpuset.cpus=4095\": this machine does not take it"), "{}", impossible.log);
}

#[test]
fn a_limit_that_cannot_be_had_is_said_once_and_the_build_goes_on() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN true\nRUN echo again\n")]);
    let outcome = bed.build(&context).as_user(USER).args(["--memory", "1g"]).ok();
    assert_eq!(outcome.log.matches("the limit of memory is not in force").count(), 1, "{}", outcome.log);
    assert!(outcome.log.contains("systemd-run --user --scope"), "{}", outcome.log);
}

#[test]
fn groups_of_a_killed_builder_are_removed_by_the_next() {
    let (bed, meeting) = (Bed::with_registry(), Meeting::start());
    let wait = format!("FROM busybox\nRUN wget -q -O - {0}/meet/started/2 && wget -q -O - {0}/meet/never/2\n", meeting.url());
    let context = bed.context("context", &[("Dockerfile", &wait)]);
    let limits = ["--resource", "memory=1g,cpus=1", "--network", "host"];
    let running = bed.build(&context).args(limits).start();
    // The other one who meets it is this test.
    meeting::call(&format!("{}/meet/started/2", meeting.url()));
    assert!(groups_of(running.pid()) > 0, "it has groups");
    let pid = running.pid();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid"), rustix::process::Signal::KILL).expect("ours");
    assert_eq!(running.wait().code, None);
    let other = bed.context("other", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    // The step dies with its builder, but not at the same instant: until then its group has a process and stays.
    while groups_of(pid) > 0 {
        let _ = bed.build(&other).args(limits).args(["--no-cache"]).ok();
    }
    // Nothing is removed from a living one.
    assert!(groups().iter().all(|path| !path.to_string_lossy().contains(&format!("rbuild-{pid}-"))));
}

#[test]
fn e1_5_everything_a_step_started_ends_with_it() {
    let bed = Bed::with_registry();
    for (user, seconds) in [(None, "271828.1"), (Some(USER), "271828.2")] {
        let daemons = format!(
            "FROM busybox\nRUN setsid sleep {seconds} & (setsid sh -c 'setsid sleep {seconds} &' &); nohup sleep {seconds} > /dev/null 2>&1 & \
             trap '' TERM HUP INT; (trap '' TERM HUP; while :; do sleep {seconds}; done) & echo started\n"
        );
        let context = bed.context("context", &[("Dockerfile", &daemons)]);
        let mut build = bed.build(&context);
        if let Some(user) = user {
            build = build.as_user(user);
        }
        let outcome = build.ok();
        assert!(outcome.log.contains("started") && !runs(seconds), "{}", outcome.log);
    }
}

#[test]
fn a_step_that_takes_too_long_is_killed_whole() {
    let bed = Bed::with_registry();
    let seconds = "314159.1";
    let context = bed.context("context", &[("Dockerfile", &format!("FROM busybox\nRUN echo begun; setsid sleep {seconds} & sleep {seconds}\n"))]);
    let began = Instant::now();
    let outcome = bed.build(&context).args(["--step-timeout", "400ms"]).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("it ran longer than 400ms") && outcome.log.contains("raise --step-timeout"), "{}", outcome.log);
    assert!(outcome.log.contains("begun") && !runs(seconds) && began.elapsed().as_secs() < 60, "{}", outcome.log);
    // A step within its time is not touched, and the time is in no key.
    let quick = bed.context("quick", &[("Dockerfile", "FROM busybox\nRUN echo quick\n")]);
    let _ = bed.build(&quick).args(["--step-timeout", "5m"]).ok();
    assert_eq!(bed.build(&quick).args(["--step-timeout", "1h"]).ok().cached().len(), 1);
}

#[test]
fn e1_5_ulimits_and_shared_memory_are_as_asked() {
    let bed = Bed::with_registry();
    let dockerfile = "FROM busybox\nRUN ulimit -Sn > /limits; ulimit -Hn >> /limits; ulimit -Su >> /limits; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 >> /limits\n";
    let context = bed.context("context", &[("Dockerfile", dockerfile)]);
    for user in [None, Some(USER)] {
        let mut build = bed.build(&context).args(["--ulimit", "nofile=123:456", "--ulimit", "nproc=77", "--shm-size", "3m"]);
        if let Some(user) = user {
            build = build.as_user(user);
        }
        assert_eq!(build.ok().image().file("limits").as_deref(), Some(&b"123\n456\n77\n3072\n"[..]), "{user:?}");
    }
}
