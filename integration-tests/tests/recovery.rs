//! What is left after crashes of the machine and of processes beside this one (`DESIGN`: the store), and cancelling in the middle of long work.

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::Bed;
use integration_tests::inject::{self, Fault, Report};
use integration_tests::meeting::Meeting;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DOCKERFILE: &str = "FROM busybox\nCOPY f /f\nRUN mkdir /q && echo x > /q/x\nRUN --mount=type=cache,target=/c echo y >> /c/n; cat /c/n > /n\n";

fn database(bed: &Bed) -> rusqlite::Connection {
    rusqlite::Connection::open(bed.state().join("v1/db")).expect("the store's database")
}

/// As if the machine had stopped and started since: what was written then is of another boot.
fn another_boot(bed: &Bed) {
    let changed = database(bed).execute("UPDATE objects SET boot = zeroblob(16) WHERE boot IS NOT NULL", []).expect("the database");
    assert!(changed > 0, "everything was on the disk already");
    for mount in below(&bed.state().join("v1/mounts")) {
        let mark = mount.join("unsynced");
        if mark.is_symlink() {
            fs::remove_file(&mark).expect("ours");
            std::os::unix::fs::symlink("another-boot 1-1", &mark).expect("ours");
        }
    }
}

fn unsettled(bed: &Bed) -> i64 {
    database(bed).query_row("SELECT count(*) FROM objects WHERE boot IS NOT NULL", [], |row| row.get(0)).expect("the database")
}

fn below(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("entry").path()).collect()
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let (dirs, mut files): (Vec<_>, Vec<_>) = below(dir).into_iter().filter(|path| !path.is_symlink()).partition(|path| path.is_dir());
    files.retain(|path| path.is_file());
    files.extend(dirs.iter().flat_map(|dir| all_files(dir)));
    files
}

fn bed() -> (Bed, PathBuf) {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("f", "hello\n")]);
    (bed, context)
}

/// What a power failure makes of files whose bytes were not written yet.
fn spoil(path: &Path, how: usize) {
    let size = usize::try_from(fs::metadata(path).expect("there").len()).expect("small");
    let bytes = match how % 3 {
        0 => Vec::new(),
        1 => vec![0; size],
        _ => fs::read(path).expect("ours")[..size / 2].to_vec(),
    };
    fs::write(path, bytes).expect("ours");
}

#[test]
fn after_an_unclean_boot_what_is_whole_is_used_and_the_rest_made_again() {
    let (bed, context) = bed();
    let build = bed.build(&context).env("SOURCE_DATE_EPOCH", "1");
    let good = build.ok().image();
    another_boot(&bed);
    let whole = build.ok();
    assert_eq!(whole.ran(), Vec::<String>::new(), "nothing was lost: {}", whole.log);
    assert_eq!(whole.image().digest, good.digest);
    let rechecked = "SELECT count(*) FROM objects WHERE kind = 1 AND boot IS NOT NULL";
    let left: i64 = database(&bed).query_row(rechecked, [], |row| row.get(0)).expect("the database");
    assert_eq!(left, 0, "a layer is compared once, not in every build");
}

#[test]
fn after_an_unclean_boot_nothing_spoiled_reaches_an_image() {
    for how in 0..3 {
        for part in ["layers", "blobs"] {
            let (bed, context) = bed();
            let build = bed.build(&context).env("SOURCE_DATE_EPOCH", "1");
            let good = build.ok().image();
            another_boot(&bed);
            let files = all_files(&bed.state().join("v1").join(part));
            assert!(files.len() >= 4, "{files:?}");
            files.iter().for_each(|file| spoil(file, how));
            // Nobody need know: the build is right at once.
            let outcome = build.run();
            assert_eq!(outcome.code, Some(0), "{part}, {how}: {}", outcome.log);
            assert_eq!(outcome.image().digest, good.digest, "{part}, {how}");
        }
    }
}

#[test]
fn one_spoiled_layer_is_made_again_and_the_others_are_used() {
    let (bed, context) = bed();
    let build = bed.build(&context).env("SOURCE_DATE_EPOCH", "1");
    let good = build.ok().image();
    another_boot(&bed);
    let spoiled = below(&bed.state().join("v1/layers")).into_iter().map(|layer| layer.join("fs/q/x")).find(|path| path.is_file()).expect("a layer");
    spoil(&spoiled, 1);
    let outcome = build.ok();
    let ran = outcome.ran();
    assert!(ran.iter().any(|name| name.contains("mkdir /q")) && !ran.iter().any(|name| name.contains("COPY")), "{ran:?}");
    assert_eq!(outcome.image().digest, good.digest);
}

#[test]
fn a_later_build_makes_durable_what_an_earlier_one_left() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    let mark = below(&bed.state().join("v1/mounts"))[0].join("unsynced");
    assert!(unsettled(&bed) > 0 && mark.is_symlink());
    // An hour ago.
    database(&bed).execute("UPDATE objects SET at = at - 3600", []).expect("the database");
    let touched = std::process::Command::new("touch").args(["-h", "-d", "1 hour ago"]).arg(&mark).status();
    assert!(touched.expect("touch").success());
    let before = unsettled(&bed);
    let _ = bed.build(&context).ok();
    assert_eq!(unsettled(&bed), before, "a build that finds everything writes nothing");
    fs::write(context.join("Dockerfile"), format!("{DOCKERFILE}RUN echo more > /more\n")).expect("ours");
    let _ = bed.build(&context).ok();
    let left = unsettled(&bed);
    assert!(left > 0 && left < before, "{left} of {before}: only the new ones are left");
    assert!(!mark.is_symlink(), "the cache mount survives a crash now");
    another_boot(&bed);
    fs::write(context.join("Dockerfile"), format!("{DOCKERFILE}RUN --mount=type=cache,target=/c cat /c/n > /kept\n")).expect("ours");
    assert_eq!(bed.build(&context).ok().image().file("kept").as_deref(), Some(&b"y\n"[..]));
}

#[test]
fn a_database_of_another_version_or_cut_short_is_named_with_the_remedy() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    database(&bed).execute_batch("PRAGMA user_version = 99;").expect("the database");
    let outcome = bed.build(&context).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("another version of rbuild") && outcome.log.contains("another root"), "{}", outcome.log);
    database(&bed).execute_batch("PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE);").expect("the database");
    let db = bed.state().join("v1/db");
    let bytes = fs::read(&db).expect("ours");
    for size in [bytes.len() / 2, 4096, 100, 0] {
        fs::write(&db, &bytes[..size]).expect("ours");
        for rest in ["db-wal", "db-shm"] {
            drop(fs::remove_file(bed.state().join("v1").join(rest)));
        }
        let outcome = bed.build(&context).run();
        if outcome.code == Some(0) {
            assert!(size == 0 || outcome.image().file("q/x").is_some(), "{size}");
            continue;
        }
        assert_eq!(outcome.code, Some(1), "{size}: {}", outcome.log);
        assert!(outcome.log.contains(&format!("remove {}", db.display())), "{size}: {}", outcome.log);
    }
    drop(fs::remove_file(&db));
    assert!(bed.build(&context).ok().image().file("q/x").is_some());
}

#[test]
fn a_store_that_is_removed_during_a_build_is_named_or_made_again() {
    let (bed, context) = bed();
    let listed = bed.path("listed");
    let _ = inject::with(bed.build(&context).state(&bed.path("other")), &Fault::List, &listed).ok();
    let calls = Report::read(&listed);
    let sites: Vec<&String> = calls.sites.keys().filter(|site| site.contains("/other/") && !site.contains("/db")).collect();
    let mut random = inject::Random(inject::seed());
    for site in random.some_of(sites, if inject::is_soak() { 60 } else { 6 }) {
        let fault = Fault::Shell { at: 1, line: format!("rm -rf {}", bed.state().display()), site: site.replace("/other/", "/state/") };
        let report = bed.path("report");
        let outcome = inject::with(bed.build(&context), &fault, &report).run();
        if outcome.code != Some(0) {
            assert!(matches!(outcome.code, Some(1)), "{site}: {:?} {}", outcome.code, outcome.log);
            assert!(outcome.log.contains("ERROR: failed to build") && outcome.log.contains("cannot "), "{site}: {}", outcome.log);
        }
        let next = bed.build(&context).run();
        assert_eq!(next.code, Some(0), "{site}: {}", next.log);
        assert!(next.image().file("q/x").is_some(), "{site}");
    }
}

#[test]
fn a_waiter_runs_the_step_of_a_leader_that_was_killed() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let text = format!(
        "FROM busybox\nRUN --network=host wget -q -O /x {url}/count/step && wget -q -O- {url}/meet/step-runs/2 && wget -q -O- {url}/meet/go-on/1\n"
    );
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let build = |name: &str| bed.build(&context).args(["--allow", "network.host"]).output(&bed.path(name)).start();
    let leader = build("leader.tar");
    // It runs, and stands still at the meeting for as long as it is asked for by one.
    while meeting.counts().get("step-runs").copied() != Some(1) {
        std::thread::yield_now();
    }
    let waiter = build("waiter.tar");
    kill(Pid::from_raw(i32::try_from(leader.pid()).expect("a pid")), Signal::SIGKILL).expect("ours");
    assert_eq!(leader.wait().code, None);
    // The waiter's step is the second to come to the meeting.
    let outcome = waiter.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(meeting.counts()["step"], 2, "once each");
    assert!(outcome.image().file("x").is_some());
}

#[test]
fn a8_5_two_steps_take_two_locked_caches_in_opposite_orders() {
    let bed = Bed::with_registry();
    let mount = |id: &str| format!("--mount=type=cache,id={id},target=/{id},sharing=locked");
    let steps = |first: &str, second: &str| -> String {
        (0..6).map(|n| format!("RUN {} {} echo {n} >> /{first}/n; echo {n} >> /{second}/n\n", mount(first), mount(second))).collect()
    };
    let text = format!(
        "FROM busybox AS one\n{}FROM busybox AS two\n{}FROM scratch\nCOPY --from=one /etc /1\nCOPY --from=two /etc /2\n",
        steps("a", "b"),
        steps("b", "a")
    );
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let both = [1, 2].map(|n| bed.build(&context).args(["--no-cache"]).output(&bed.path(&format!("{n}.tar"))).start());
    for outcome in both.map(|running| running.wait()) {
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    }
}

#[test]
fn a8_5_one_cache_at_two_places_of_a_step_is_one_directory() {
    let bed = Bed::with_registry();
    for sharing in ["shared", "locked", "private"] {
        let mount = |target: &str| format!("--mount=type=cache,id={sharing},target=/{target},sharing={sharing}");
        let text = format!(
            "FROM busybox\nRUN {} {} echo 1 > /a/n; cat /b/n > /seen; echo 2 >> /b/n\nRUN {} {} cat /c/n > /after\n",
            mount("a"),
            mount("b"),
            mount("c"),
            mount("d")
        );
        let context = bed.context(sharing, &[("Dockerfile", &text)]);
        let image = bed.build(&context).ok().image();
        assert_eq!(image.file("seen").as_deref(), Some(&b"1\n"[..]), "{sharing}");
        assert_eq!(image.file("after").as_deref(), Some(&b"1\n2\n"[..]), "{sharing}");
    }
}

#[test]
fn a8_5_changes_to_a_shared_cache_that_meet_are_dropped_and_told() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let step = |name: &str| {
        format!("RUN --network=host --mount=type=cache,id=x,target=/c echo {name} > /c/n && wget -q -O- {url}/meet/both/2 && touch /{name}\n")
    };
    let text = format!("FROM busybox AS a\n{}FROM busybox AS b\n{}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n", step("a"), step("b"));
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let outcome = bed.build(&context).args(["--allow", "network.host"]).ok();
    assert_eq!(outcome.log.matches("changes to the cache mount /c are dropped").count(), 1, "{}", outcome.log);
    assert!(outcome.log.contains("sharing=locked"), "{}", outcome.log);
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN --mount=type=cache,id=x,target=/c cat /c/n > /n\n").expect("ours");
    let left = bed.build(&context).ok().image().file("n").expect("a cache");
    assert!(left == b"a\n" || left == b"b\n", "one of both as a whole");
}

/// After an interrupt only a bounded number of further pieces is read, written or packed, however big the file.
#[test]
fn c6_2_an_interrupt_ends_long_work_in_the_middle_of_a_file() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nCOPY big /big\n")]);
    let bytes: Vec<u8> = (0..8_000_000_u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    fs::write(context.join("big"), bytes).expect("ours");
    let files = format!("type=local,dest={}", bed.path("files").display());
    let build = |state: &str| bed.build(&context).state(&bed.path(state)).args(["-o", &files]);
    let listed = bed.path("listed");
    let whole = inject::with(build("other"), &Fault::List, &listed).ok().image().digest;
    let sites = Report::read(&listed).sites;
    fs::remove_dir_all(bed.path("files")).expect("ours");
    fs::remove_file(bed.path("context.tar")).expect("ours");
    let long: Vec<(&String, usize)> = sites.iter().filter(|(_, count)| **count >= 80).map(|(site, &count)| (site, count)).collect();
    let long: Vec<_> =
        long.into_iter().filter(|(site, _)| !site.contains("/db") && !site.starts_with("fcntl") && !site.contains("busybox")).collect();
    assert!(long.len() >= 5, "reading, copying, hashing, packing and writing have many pieces: {sites:?}");
    for (number, (site, count)) in long.into_iter().enumerate() {
        // Without digits, which stand for "#" in sites.
        let state = format!("state-{}", ["a", "b", "c", "d"][number % 4].repeat(1 + number / 4));
        let at = count / 4;
        let fault = Fault::Interrupt { at, again: None, site: Some(site.replace("/other/", &format!("/{state}/"))) };
        let report = bed.path("report");
        let outcome = inject::with(build(&state), &fault, &report).run();
        let report = Report::read(&report);
        let Some(hit) = report.hit else { panic!("{site} was not met: {}", outcome.log) };
        assert_eq!(outcome.code, Some(130), "{hit}: {}", outcome.log);
        assert!(report.calls < at + count / 4, "{hit}: {} of {count} pieces after an interrupt at {at}", report.calls);
        assert!(!report.left_running, "{hit}");
        assert!(!bed.path("context.tar").exists(), "{hit}");
        assert_eq!(below(&bed.path(&state).join("v1/tmp")), Vec::<PathBuf>::new(), "{hit}");
    }
    assert_eq!(build("other").ok().image().digest, whole);
}
