//! Disks that are full and stores that cannot be written to: what is missing and what to do is said, nothing is lost, and with room the next build is right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::inject::is_soak;
use integration_tests::{Bed, Outcome, fixtures};

/// A file system in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).expect("ours");
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "small", &path.to_string_lossy()]);
        Self(path)
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}"), &self.0.to_string_lossy()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()), "umount {}", self.0.display());
    }
}

fn mount(args: &[&str]) {
    let mounted = Command::new("mount").args(args).output().expect("mount starts");
    assert!(mounted.status.success(), "mount {args:?}: {}", String::from_utf8_lossy(&mounted.stderr));
}

fn bed() -> (Bed, PathBuf) {
    let bed = Bed::with_registry();
    bed.registry().push(&fixtures::small(), "library/small:latest");
    let text = "FROM small\nCOPY big /big\nRUN dd if=/dev/zero of=/made bs=64k count=16\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/x bs=64k count=8\nRUN rm /made\n";
    let context = bed.context("context", &[("Dockerfile", text)]);
    fs::write(
        context.join("big"),
        (0..1_000_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).take(1_500_000).collect::<Vec<_>>(),
    )
    .expect("ours");
    (bed, context)
}

fn is_told(outcome: &Outcome, what: &str) {
    assert_eq!(outcome.code, Some(102), "{what}: {}", outcome.log);
    assert!(outcome.log.contains("No space left on device"), "{what}: {}", outcome.log);
    assert!(outcome.log.contains("= help: "), "{what}: no remedy: {}", outcome.log);
}

/// The disk is full in a download, in a copy, in a step, in the database, while packing: wherever the size says.
#[test]
fn c6_2_a_full_store_is_told_and_loses_nothing() {
    let (bed, context) = bed();
    let good = bed.build(&context).env("SOURCE_DATE_EPOCH", "1").ok().image().digest;
    let mut reasons = std::collections::BTreeSet::new();
    let mut fitted = false;
    let finer = if is_soak() { 12 } else { 1 };
    for step in 0..48 * finer {
        let size = 16 + 192 / finer * step;
        let disk = SmallDisk::new(bed.path(&format!("disk-{step}")), &format!("{size}k"));
        let build = bed.build(&context).env("SOURCE_DATE_EPOCH", "1").state(&disk.0);
        let outcome = build.run();
        fitted |= outcome.code == Some(0);
        if outcome.code != Some(0) {
            is_told(&outcome, &format!("{size} KiB"));
            let error = outcome.log.lines().rev().find(|line| line.starts_with("ERROR: ")).expect("an error");
            reasons.insert(error.split(':').take(4).collect::<String>().chars().filter(|c| !c.is_ascii_hexdigit()).take(70).collect::<String>());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert_eq!(mounts.matches(&*disk.0.to_string_lossy()).count(), 1, "{size} KiB: {mounts}");
        disk.resize("64m");
        let next = build.run();
        assert_eq!(next.code, Some(0), "{size} KiB, with room: {}", next.log);
        assert_eq!(next.image().digest, good, "{size} KiB");
        assert_eq!(fs::read_dir(disk.0.join("v1/tmp")).expect("tmp").count(), 0, "{size} KiB");
    }
    assert!(fitted, "all sizes were too small");
    assert!(reasons.len() >= 5, "the disk was full in the same place always: {reasons:?}");
}

/// The step sees that the disk is full, and fails by itself; rbuild sees why.
#[test]
fn c6_2_a_step_that_fails_on_a_full_disk_is_told_with_the_remedy() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/made bs=64k count=4096\n")]);
    let disk = SmallDisk::new(bed.path("disk"), "8m");
    let outcome = bed.build(&context).state(&disk.0).run();
    is_told(&outcome, "dd");
    assert!(outcome.log.contains("did not complete successfully: exit code: 1"), "{}", outcome.log);
    assert!(outcome.log.contains(&*disk.0.to_string_lossy()), "{}", outcome.log);
    // A step that fails for a reason of its own says nothing of disks.
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN exit 1\n").expect("ours");
    let outcome = bed.build(&context).state(&disk.0).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(!outcome.log.contains("No space left"), "{}", outcome.log);
}

#[test]
fn a_full_output_is_told_and_leaves_nothing_there() {
    let (bed, context) = bed();
    let disk = SmallDisk::new(bed.path("disk"), "600k");
    let place = disk.0.display();
    for output in [format!("type=oci,dest={place}/image.tar"), format!("type=tar,dest={place}/files.tar")] {
        let outcome = bed.build(&context).no_output().args(["-o", &output]).run();
        is_told(&outcome, &output);
        assert_eq!(fs::read_dir(&disk.0).expect("list").count(), 0, "{output}");
    }
    let outcome = bed.build(&context).no_output().args(["-o", &format!("type=local,dest={place}/files")]).run();
    is_told(&outcome, "local");
    for name in ["big", "bin/busybox"] {
        let there = fs::metadata(disk.0.join("files").join(name));
        assert!(there.is_err(), "{name} does not fit and is there");
    }
}

/// Mounts the store at `path` on itself, read-only; taken away by dropping.
fn read_only(path: &Path) -> SmallDisk {
    let text = path.to_string_lossy();
    mount(&["--bind", &text, &text]);
    let disk = SmallDisk(path.to_owned());
    mount(&["-o", "remount,bind,ro", &text]);
    disk
}

#[test]
fn a_store_that_cannot_be_written_to_is_named_with_the_remedy() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let _ = bed.build(&context).ok();
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo y > /x\n").expect("ours");
    // Where none can be made, no build can run: the doctor says so too.
    for (name, code) in [("state", 1), ("empty", 3)] {
        let store = bed.path(name);
        fs::create_dir_all(&store).expect("ours");
        let _disk = read_only(&store);
        let outcome = bed.build(&context).state(&store).run();
        assert_eq!(outcome.code, Some(code), "{name}: {}", outcome.log);
        assert!(outcome.log.contains(&*store.to_string_lossy()) && outcome.log.contains("Read-only file system"), "{name}: {}", outcome.log);
        assert!(outcome.log.contains("--root"), "{name}: no remedy: {}", outcome.log);
    }
    assert_eq!(bed.build(&context).ok().image().file("x").as_deref(), Some(&b"y\n"[..]));

    let user = "rbuild-test";
    let build = bed.build(&context).as_user(user);
    let _ = build.ok();
    let store = build.home().join("state");
    for closed in [store.join("v1"), store] {
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("ours");
        fs::write(context.join("Dockerfile"), format!("FROM busybox\nRUN echo {} > /x\n", closed.display())).expect("ours");
        let outcome = build.run();
        // The store itself was made: what is in it can still be used.
        if outcome.code != Some(0) {
            assert_eq!(outcome.code, Some(1), "{}: {}", closed.display(), outcome.log);
            assert!(outcome.log.contains("Permission denied") && outcome.log.contains("--root"), "{}: {}", closed.display(), outcome.log);
        }
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("ours");
        let _ = build.ok();
    }
}
