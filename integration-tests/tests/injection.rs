//! Faults at the system calls of one build that has everything: whichever call fails, and whenever rbuild is killed or interrupted, nothing is left
//! mounted, running or half written, the message says what could not be done, and the next build is right.
//!
//! Continuous integration runs a part that the seed chooses (`RBUILD_TEST_SEED`), `make soak` (`RBUILD_SOAK`) the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use integration_tests::image::sha256;
use integration_tests::inject::{self, Fault, Random, Report};
use integration_tests::{Bed, Build, Outcome, fixtures};

const DOCKERFILE: &str = "\
FROM small AS a
COPY src /src
WORKDIR /out
RUN --mount=type=cache,target=/c --mount=type=secret,id=s,required=true --mount=type=bind,from=small,target=/b echo x >> /c/n; cat /src/f > /out/x
FROM small AS b
RUN --mount=type=cache,target=/c echo y >> /c/n; echo said; rm /bin/ln
FROM b
COPY --from=a --chown=1:2 /out /out
ADD things.tar /things/
COPY <<END /greeting
hello
END
RUN ln -s x /out/y; rm /things/dir/gone
";

/// Threads that run cases: as many as continuous integration has processors.
const WORKERS: usize = 2;

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// One store and one destination on which builds are tried.
struct Place {
    dir: PathBuf,
    user: Option<&'static str>,
}

impl Place {
    fn new(dir: PathBuf) -> Self {
        Self::of(dir, None)
    }

    /// A place of `user`, who builds there.
    fn of(dir: PathBuf, user: Option<&'static str>) -> Self {
        fs::create_dir(&dir).expect("ours");
        if let Some(user) = user {
            let owned = Command::new("chown").arg(user).arg(&dir).status();
            assert!(owned.expect("chown").success());
        }
        Self { dir, user }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The build with all its outputs here.
    fn build(&self, bed: &Bed) -> Build {
        let secret = format!("id=s,src={}", bed.path("secret").display());
        let local = format!("type=local,dest={}", self.at("files").display());
        let build = bed.build(&bed.path("context"));
        let build = if let Some(user) = self.user { build.as_user(user) } else { build };
        let build = build.state(&self.at("state")).output(&self.at("image.tar")).env("SOURCE_DATE_EPOCH", "1700000000");
        build.args(["--secret", &secret, "-t", "app", "-o", &local]).args(["--metadata-file".into(), self.at("metadata").into_os_string()])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            fs::remove_dir_all(&self.dir).expect("ours");
        }
    }
}

/// What a good build leaves at its destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Results {
    image: Vec<u8>,
    metadata: Vec<u8>,
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

impl Results {
    fn read(place: &Place) -> Self {
        let read = |name| fs::read(place.at(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { image: read("image.tar"), metadata: read("metadata"), files: files(&place.at("files")) }
    }

    /// Whether a build that met a fault came to the same.
    fn is_like(&self, good: &Self) -> bool {
        self.image == good.image && self.files == good.files && but_isolation(&self.metadata) == but_isolation(&good.metadata)
    }
}

/// Kind with mode, and content or link target, of everything below `dir`.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.expect("entry").path();
            let stat = fs::symlink_metadata(&path).expect("there");
            let content = match stat.file_type() {
                kind if kind.is_symlink() => fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes(),
                kind if kind.is_file() => fs::read(&path).expect("a file"),
                _ => Vec::new(),
            };
            if stat.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path.strip_prefix(dir).expect("below").to_owned(), (stat.mode(), content));
        }
    }
    found
}

fn bed() -> Bed {
    let bed = Bed::with_registry();
    bed.registry().push(&fixtures::small(), "library/small:latest");
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("src/f", "hello\n"), ("src/d/e", "deep\n"), ("left-out", "")]);
    let mut tar = tar::Builder::new(fs::File::create(context.join("things.tar")).expect("ours"));
    for name in ["dir/kept", "dir/gone"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o640);
        tar.append_data(&mut header, name, &b"thing"[..]).expect("ours");
    }
    tar.finish().expect("ours");
    fs::write(bed.path("secret"), "hunter22\n").expect("ours");
    bed
}

/// A metadata file's values, without how steps were isolated: where no ids can be mapped for once they have one only. None if it is not whole.
fn but_isolation(metadata: &[u8]) -> Option<serde_json::Value> {
    let mut values: serde_json::Value = serde_json::from_slice(metadata).ok()?;
    values.as_object_mut()?.remove("rbuild.isolation")?;
    Some(values)
}

/// What must hold after a build that met a fault, before anything else runs.
fn check_left(bed: &Bed, place: &Place, good: &Results, what: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&*place.dir.to_string_lossy()), "{what}: mounted: {mounts}");
    assert!(!mounts.contains(&*bed.path("context").to_string_lossy()), "{what}: mounted: {mounts}");
    for (name, whole) in [("image.tar", &good.image), ("metadata", &good.metadata)] {
        match fs::read(place.at(name)) {
            Ok(bytes) if name == "metadata" => assert_eq!(but_isolation(&bytes), but_isolation(whole), "{what}"),
            Ok(bytes) => assert!(bytes == *whole, "{what}: {name} is there and not whole: {} of {} bytes", bytes.len(), whole.len()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{what}: {name}"),
        }
    }
    for (path, (mode, content)) in files(&place.at("files")) {
        let (right_mode, right) = good.files.get(&path).unwrap_or_else(|| panic!("{what}: {} is in the directory and in no image", path.display()));
        assert_eq!(mode & 0o170_000, right_mode & 0o170_000, "{what}: {}", path.display());
        assert!(content == *right, "{what}: {} is there and not whole", path.display());
    }
}

/// Names at the destination, so that nothing temporary stays there.
fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The next build must be right, and must have removed what the broken one left.
fn check_next(bed: &Bed, place: &Place, good: &Results, what: &str) {
    let mut next = place.build(bed).run();
    if place.user.is_some() && next.log.contains("was made with other user ids") {
        // Where no namespace could be made for once, a new store has the ids of a build without one: it is named, with the remedy.
        fs::remove_dir_all(place.at("state")).expect("ours");
        next = place.build(bed).run();
    }
    assert_eq!(next.code, Some(0), "{what}: the next build fails: {}", next.log);
    let results = Results::read(place);
    assert!(results.image == good.image, "{what}: another image");
    assert!(results == *good, "{what}: other outputs");
    check_store(&place.at("state/v1"), what);
    let here = names(&place.dir);
    assert_eq!(here, ["files", "image.tar", "metadata", "state"].map(str::to_owned).into(), "{what}");
}

/// Blobs are what their names say, layers are whole and nothing temporary is left.
fn check_store(store: &Path, what: &str) {
    for name in names(&store.join("blobs/sha256")) {
        let bytes = fs::read(store.join("blobs/sha256").join(&name)).expect("a blob");
        assert_eq!(sha256(&bytes), format!("sha256:{name}"), "{what}");
    }
    for name in names(&store.join("layers")) {
        let layer = store.join("layers").join(name);
        assert!(layer.join("fs").is_dir() && layer.join("toc").is_file(), "{what}: {} is not whole", layer.display());
    }
    assert_eq!(names(&store.join("tmp")), BTreeSet::new(), "{what}: left in tmp");
}

/// What is wrong with the message of a failed build, if anything is.
fn complaint(outcome: &Outcome) -> Option<String> {
    let last = outcome.log.lines().rev().find(|line| line.starts_with("ERROR:"));
    let Some(message) = last else { return Some(format!("no ERROR line (status {:?})", outcome.code)) };
    // 3: the sandbox could not be made, which for all that rbuild knows is the machine's way.
    if !matches!(outcome.code, Some(1 | 3 | 102)) {
        return Some(format!("status {:?}", outcome.code));
    }
    let said = message.trim_start_matches("ERROR: ").trim_start_matches("failed to build: failed to solve: ");
    let lower = outcome.log.to_lowercase();
    if lower.contains("panicked") || lower.contains("internal fault") {
        return Some("a panic, or a fault of its own".into());
    }
    // What was tried, and on what.
    let tells = said.contains("cannot ") || said.contains("could not ") || said.contains("use another one");
    let why = said.contains("(os error ") || said.contains("did not complete successfully");
    (!tells && !why || said.trim_start().starts_with("os error") || !tells && said.len() < 60).then(|| "it does not say what was tried".to_owned())
}

fn run_with(place: &Place, bed: &Bed, fault: &Fault) -> (Outcome, Report) {
    let report = bed.path(&format!("{}.report", place.dir.file_name().expect("a name").display()));
    let outcome = inject::with(place.build(bed), fault, &report).run();
    let read = Report::read(&report);
    fs::remove_file(report).expect("ours");
    (outcome, read)
}

/// The good results, and the calls of a cold and of a cached build.
fn good_run(bed: &Bed) -> (Results, Report, Report) {
    good_run_of(bed, None)
}

fn good_run_of(bed: &Bed, user: Option<&'static str>) -> (Results, Report, Report) {
    let place = Place::of(bed.path("good"), user);
    let (outcome, cold) = run_with(&place, bed, &Fault::List);
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(!cold.left_running && cold.calls > 1000, "{} calls", cold.calls);
    let results = Results::read(&place);
    let (again, warm) = run_with(&place, bed, &Fault::List);
    assert_eq!(again.code, Some(0), "{}", again.log);
    assert!(Results::read(&place) == results, "the cached build differs");
    (results, cold, warm)
}

/// Runs `work` on all cases, on a few threads; returns what went wrong, all together.
fn all<T: Send>(cases: Vec<T>, work: impl Fn(usize, T) -> Result<(), String> + Sync) -> Vec<String> {
    let queue = Mutex::new(cases.into_iter().enumerate());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no worker panics").next();
                    let Some((number, case)) = next else { return };
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number, case)));
                    let failure = match done {
                        Ok(Ok(())) => continue,
                        Ok(Err(failure)) => failure,
                        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without words".into()),
                    };
                    failures.lock().expect("no worker panics").push(failure);
                }
            });
        }
    });
    failures.into_inner().expect("no worker panics")
}

fn check_none(failures: &[String], count: usize) {
    assert!(failures.is_empty(), "seed {}: {} of {count} cases:\n\n{}", inject::seed(), failures.len(), failures.join("\n\n"));
}

/// Sites whose failure is nobody's to notice, or not rbuild's.
fn is_out_of_reach(site: &str) -> bool {
    // Reading what is not there is no failure of these: an absent file, a kernel without the feature.
    site.starts_with("readlink ")
}

#[test]
fn a_failing_call_is_told_and_does_no_harm() {
    let count = fail_everywhere(None, 24);
    inject::record("faults as root", &count);
}

#[test]
fn a_failing_call_of_an_ordinary_user_is_told_and_does_no_harm() {
    let count = fail_everywhere(Some(USER), 80);
    inject::record("faults as an ordinary user", &count);
}

/// One system call that fails.
struct Failing {
    fault: Fault,
    /// Whether the store has the whole build already.
    warm: bool,
}

/// Lets each call of a build fail, at its first, last and some occurrence, in three ways; or one case of `part`. Says what was done.
fn fail_everywhere(user: Option<&'static str>, part: usize) -> String {
    let bed = bed();
    let (good, cold, warm) = good_run_of(&bed, user);
    let mut random = Random(inject::seed());
    let mut cases = Vec::new();
    for (sites, warm) in [(&cold.sites, false), (&warm.sites, true)] {
        for (site, &count) in sites.iter().filter(|(site, _)| !is_out_of_reach(site)) {
            let places: BTreeSet<usize> = if warm { [1].into() } else { [1, count, 1 + random.below(count)].into() };
            for at in places {
                cases.extend((0..3).map(|round| Failing { fault: Fault::Fail { at, round, site: site.clone() }, warm }));
            }
        }
    }
    let whole = cases.len();
    let chosen = if inject::is_soak() { cases } else { random.some_of(cases, whole / part) };
    let messages: Mutex<BTreeMap<String, BTreeSet<String>>> = Mutex::default();
    let (hits, unneeded) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = all(chosen, |number, Failing { fault, warm }| {
        let place = Place::of(bed.path(&format!("fail-{number}")), user);
        if warm {
            assert_eq!(place.build(&bed).run().code, Some(0));
            for name in ["image.tar", "metadata"] {
                fs::remove_file(place.at(name)).expect("ours");
            }
        }
        let (outcome, report) = run_with(&place, &bed, &fault);
        let Some(hit) = report.hit else { return Ok(()) };
        let what = format!("{fault:?} ({hit})");
        hits.fetch_add(1, Ordering::Relaxed);
        assert!(!report.left_running, "{what}: something still runs");
        check_left(&bed, &place, &good, &what);
        if outcome.code == Some(0) {
            unneeded.fetch_add(1, Ordering::Relaxed);
            assert!(Results::read(&place).is_like(&good), "{what}: success with other results");
        } else {
            let last = outcome.log.lines().rev().find(|line| line.starts_with("ERROR:")).unwrap_or_default().to_owned();
            messages.lock().expect("no worker panics").entry(last).or_default().insert(hit.clone());
            if let Some(complaint) = complaint(&outcome) {
                return Err(format!("{what}: {complaint}: {}", outcome.log));
            }
            let here = names(&place.dir);
            let wanted: BTreeSet<String> = ["files", "image.tar", "metadata", "state"].map(str::to_owned).into();
            assert!(here.is_subset(&wanted), "{what}: left at the destination: {here:?}");
        }
        check_next(&bed, &place, &good, &what);
        Ok(())
    });
    if let Some(path) = std::env::var_os("RBUILD_TEST_MESSAGES") {
        let all = messages.into_inner().expect("no worker panics");
        let text: String = all.iter().map(|(message, hits)| format!("{message}\n    {}\n", Vec::from_iter(hits.clone()).join("\n    "))).collect();
        fs::write(path, text).expect("a file");
    }
    check_none(&failures, whole);
    let (hits, unneeded) = (hits.into_inner(), unneeded.into_inner());
    format!(
        "{hits} failures at {} places of a cold build and {} of a cached one; {unneeded} builds did not need the call",
        cold.sites.len(),
        warm.sites.len()
    )
}

/// Kills a cold build, and the one that goes on where it stopped.
#[test]
fn a_killed_build_leaves_a_store_that_the_next_one_goes_on_with() {
    let bed = bed();
    let (good, cold, _) = good_run(&bed);
    let mut random = Random(inject::seed());
    let count = if inject::is_soak() { 200 } else { 20 };
    let cases: Vec<[usize; 2]> = (0..count).map(|_| [1 + random.below(cold.calls), 1 + random.below(cold.calls)]).collect();
    let kills = Mutex::new(0);
    let failures = all(cases, |number, instants| {
        let place = Place::new(bed.path(&format!("kill-{number}")));
        for at in instants {
            let (outcome, report) = run_with(&place, &bed, &Fault::Kill { at, site: None });
            let what = format!("killed at call {at} of {instants:?}: {}", report.hit.as_deref().unwrap_or("ended before"));
            assert!(!report.left_running, "{what}: something still runs");
            assert_eq!(outcome.code == Some(0), report.hit.is_none(), "{what}: {:?} {}", outcome.code, outcome.log);
            check_left(&bed, &place, &good, &what);
            *kills.lock().expect("no worker panics") += usize::from(report.hit.is_some());
        }
        check_next(&bed, &place, &good, &format!("killed at {instants:?}"));
        Ok(())
    });
    check_none(&failures, count);
    inject::record("kills", &format!("{} in {count} builds", kills.into_inner().expect("no worker panics")));
}

/// What connects a network for steps is a program that is just being started: it must know of its builder's death although it had no time to ask for word of it.
#[test]
fn a_builder_that_is_killed_while_it_connects_a_network_leaves_nothing() {
    let bed = bed();
    let (good, cold, _) = good_run(&bed);
    let sites: Vec<&String> = cold.sites.keys().filter(|site| site.starts_with("mount ") && site.contains("/network-#")).collect();
    assert!(!sites.is_empty(), "with pasta installed, a network is mounted for it: {:?}", cold.sites.keys());
    for (number, site) in sites.into_iter().enumerate() {
        let place = Place::new(bed.path(&format!("connecting-{number}")));
        let (_, report) = run_with(&place, &bed, &Fault::Kill { at: 1, site: Some(site.replace("/good/", "/connecting-#/")) });
        let hit = report.hit.expect("steps run");
        assert!(!report.left_running, "{hit}: something still runs");
        check_next(&bed, &place, &good, &hit);
    }
}

/// Three builds on one store, two of which are killed: the third neither fails nor waits for ever, and runs what the others had begun.
#[test]
fn killed_builds_do_not_disturb_one_beside_them() {
    let bed = bed();
    let (good, cold, _) = good_run(&bed);
    let mut random = Random(inject::seed() ^ 1);
    let count = if inject::is_soak() { 40 } else { 4 };
    for number in 0..count {
        let shared = Place::new(bed.path(&format!("beside-{number}")));
        let instants = [random.below(cold.calls), 1 + random.below(cold.calls)];
        let what = format!("two of three killed at {instants:?}");
        let places: Vec<Place> = (0..3).map(|n| Place::new(bed.path(&format!("beside-{number}-{n}")))).collect();
        let builds = places.iter().enumerate().map(|(n, place)| {
            let build = place.build(&bed).state(&shared.at("state"));
            let fault = instants.get(n).map_or(Fault::List, |&at| Fault::Kill { at, site: None });
            inject::with(build, &fault, &shared.at(&format!("report-{n}"))).start()
        });
        let running: Vec<_> = builds.collect();
        let outcomes: Vec<Outcome> = running.into_iter().map(|running| running.wait()).collect();
        for n in 0..3 {
            assert!(!Report::read(&shared.at(&format!("report-{n}"))).left_running, "{what}: something still runs");
            fs::remove_file(shared.at(&format!("report-{n}"))).expect("ours");
        }
        assert_eq!(outcomes[2].code, Some(0), "{what}: {}", outcomes[2].log);
        assert!(Results::read(&places[2]) == good, "{what}: the third built something else");
        for place in &places {
            check_left(&bed, place, &good, &what);
        }
        check_next(&bed, &shared, &good, &what);
    }
    inject::record("kills beside others", &format!("{count} rounds of three builds, two killed"));
}

/// One interrupt ends a build in good order wherever it is; a second one at once.
#[test]
fn c6_2_an_interrupted_build_leaves_nothing() {
    let bed = bed();
    let (good, cold, warm) = good_run(&bed);
    let mut random = Random(inject::seed() ^ 2);
    let count = if inject::is_soak() { 200 } else { 20 };
    let cases = (0..count).map(|number| {
        let at = 1 + random.below(cold.calls);
        match number % 4 {
            0 | 1 => Fault::Interrupt { at, again: None, site: None },
            2 => Fault::Interrupt { at, again: Some(at + 1 + random.below(60)), site: None },
            _ => Fault::Terminate { at },
        }
    });
    let failures = all(cases.collect(), |number, fault| {
        let place = Place::new(bed.path(&format!("interrupt-{number}")));
        let (outcome, report) = run_with(&place, &bed, &fault);
        let what = format!("{fault:?} ({})", report.hit.as_deref().unwrap_or("ended before"));
        assert!(!report.left_running, "{what}: something still runs");
        check_left(&bed, &place, &good, &what);
        match outcome.code {
            // It was over already.
            Some(0) => assert!(Results::read(&place) == good, "{what}: success with other results"),
            // 143: the signal came before rbuild listened to it.
            Some(130 | 143) => {
                let wanted: BTreeSet<String> = ["files", "image.tar", "metadata", "state"].map(str::to_owned).into();
                let here = names(&place.dir);
                assert!(here.is_subset(&wanted), "{what}: left at the destination: {here:?}");
            }
            code => return Err(format!("{what}: status {code:?}: {}", outcome.log)),
        }
        check_next(&bed, &place, &good, &what);
        Ok(())
    });
    check_none(&failures, count);
    inject::record("interrupts", &format!("{count} builds at calls up to {} (a cached build makes {})", cold.calls, warm.calls));
}
