//! Cache mounts as their users see them: processes would write through the mount; the tests do so by its descriptor.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::{CacheMountError, CacheMounts, Published, Seed, Sharing, fold};
use crate::exec::Cancel;
use crate::path::TreePath;
use crate::sys;

fn empty() -> Seed {
    Seed { lowers: Vec::new(), subpath: TreePath::root(), mode: 0o755, uid: 0, gid: 0 }
}

fn mounts() -> (tempfile::TempDir, CacheMounts) {
    assert!(rustix::process::geteuid().is_root(), "cache mounts need root");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(dir.path().join("tmp")).expect("tmp");
    let mounts = CacheMounts::open(&dir.path().join("mounts"), &dir.path().join("tmp")).expect("open");
    (dir, mounts)
}

/// The view as a path.
fn view(mount: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", mount.as_raw_fd()).into()
}

fn step(mounts: &CacheMounts, change: impl FnOnce(&Path)) -> Published {
    let lease = mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let mount = lease.mount().expect("mount");
    change(&view(&mount));
    drop(mount);
    lease.publish().expect("publish")
}

/// Paths with contents or targets.
fn content(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        for entry in std::fs::read_dir(dir.join(&below)).expect("read_dir") {
            let path = below.join(entry.expect("entry").file_name());
            let metadata = std::fs::symlink_metadata(dir.join(&path)).expect("stat");
            let what = if metadata.is_dir() {
                waiting.push(path.clone());
                format!("dir {:o}", metadata.mode() & 0o7777)
            } else {
                std::fs::read_to_string(dir.join(&path)).expect("read")
            };
            found.insert(path.display().to_string(), what);
        }
    }
    found
}

fn now(mounts: &CacheMounts) -> BTreeMap<String, String> {
    let lease = mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let mount = lease.mount().expect("mount");
    content(&view(&mount))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    std::fs::write(path, text).expect("write");
}

fn keys(content: &BTreeMap<String, String>) -> Vec<&str> {
    content.keys().map(String::as_str).collect()
}

#[test]
fn a8_5_what_is_published_stays_and_what_is_dropped_goes() {
    let (_dir, mounts) = mounts();
    assert_eq!(step(&mounts, |view| write(&view.join("a/one"), "1")), Published::Added);
    let lease = mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let mount = lease.mount().expect("mount");
    write(&view(&mount).join("a/lost"), "");
    std::fs::remove_file(view(&mount).join("a/one")).expect("rm");
    drop((mount, lease));
    assert_eq!(now(&mounts), BTreeMap::from([("a".to_owned(), "dir 755".to_owned()), ("a/one".to_owned(), "1".to_owned())]));
    assert_eq!(step(&mounts, |_| {}), Published::Unchanged);
}

#[test]
fn a8_5_without_an_overlay_what_is_published_stays_and_a_killed_step_leaves_nothing() {
    let (_dir, overlay) = mounts();
    let direct = overlay.clone().direct();
    assert_eq!(step(&overlay, |view| write(&view.join("a/one"), "1")), Published::Added);
    assert_eq!(step(&direct, |view| write(&view.join("a/two"), "2")), Published::Added);
    // The other way of looking at it sees the same, and adds to it.
    assert_eq!(keys(&now(&overlay)), ["a", "a/one", "a/two"]);
    assert_eq!(step(&overlay, |view| std::fs::remove_file(view.join("a/one")).expect("rm")), Published::Added);
    let lease = direct.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let [first, second] = [(); 2].map(|()| lease.mount().expect("mounted twice"));
    write(&view(&first).join("half"), "");
    assert_eq!(keys(&content(&view(&second))), ["a", "a/two", "half"]);
    drop((first, second, lease));
    let lease = overlay.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    assert!(lease.was_emptied(), "whoever comes next is told");
    drop(lease);
    assert_eq!(keys(&now(&overlay)), [""; 0], "half done work is nobody's");
    assert!(!overlay.acquire("id", Sharing::Shared, &empty(), None).expect("acquire").was_emptied(), "once");
}

#[test]
fn a8_5_without_an_overlay_there_is_one_user_at_a_time() {
    let (_dir, overlay) = mounts();
    let direct = overlay.clone().direct();
    let (read, write_end) = rustix::pipe::pipe().expect("pipe");
    drop(write_end);
    let cancelled = Cancel(read);
    let waits = |mounts: &CacheMounts, sharing| matches!(mounts.acquire("id", sharing, &empty(), Some(&cancelled)), Err(CacheMountError::Cancelled));
    let lease = direct.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    assert!(waits(&direct, Sharing::Shared) && waits(&direct, Sharing::Locked) && waits(&overlay, Sharing::Shared));
    assert!(!overlay.remove("id").expect("remove"), "it is in use");
    let other = direct.acquire("id", Sharing::Private, &empty(), None).expect("a private copy");
    assert_eq!((lease.publish().expect("publish"), other.publish().expect("publish")), (Published::Added, Published::Added));
    let lease = overlay.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    assert!(waits(&direct, Sharing::Shared));
    drop(lease);
    // Made new meanwhile: what is published goes.
    let lease = direct.acquire("id", Sharing::Locked, &empty(), None).expect("acquire");
    direct.clear("id").expect("clear");
    assert!(matches!(lease.publish().expect("publish"), Published::Dropped { .. }));
}

#[test]
fn a8_5_mode_and_owner_are_those_of_a_new_one_and_stay() {
    let (_dir, mounts) = mounts();
    let seed = Seed { mode: 0o1770, uid: 7, gid: 8, ..empty() };
    for _ in 0..3 {
        let lease = mounts.acquire("id", Sharing::Shared, &seed, None).expect("acquire");
        let mount = lease.mount().expect("mount");
        let metadata = std::fs::metadata(view(&mount)).expect("stat");
        assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o1770, 7, 8));
        write(&view(&mount).join("file"), "x");
        drop(mount);
        lease.publish().expect("publish");
    }
}

#[test]
fn a8_5_a_seed_is_copied_once() {
    let (dir, mounts) = mounts();
    let lower = dir.path().join("lower");
    write(&lower.join("sub/dir/file"), "seed");
    std::os::unix::fs::symlink("/sub/dir", lower.join("link")).expect("symlink");
    std::fs::set_permissions(lower.join("sub/dir"), PermissionsExt::from_mode(0o711)).expect("chmod");
    let seed = Seed { lowers: vec![lower.clone()], subpath: TreePath::new("link").expect("clean"), ..empty() };
    let lease = mounts.acquire("id", Sharing::Shared, &seed, None).expect("acquire");
    let mount = lease.mount().expect("mount");
    assert_eq!(std::fs::metadata(view(&mount)).expect("stat").mode() & 0o7777, 0o711);
    std::fs::write(view(&mount).join("file"), "changed").expect("write");
    drop(mount);
    lease.publish().expect("publish");
    assert_eq!(now(&mounts)["file"], "changed");
    assert_eq!(std::fs::read_to_string(lower.join("sub/dir/file")).expect("read"), "seed");
    let seed = Seed { subpath: TreePath::new("nothing").expect("clean"), ..seed };
    assert!(matches!(mounts.acquire("other", Sharing::Shared, &seed, None), Err(CacheMountError::SeedMissing { .. })));
}

#[test]
fn directories_of_earlier_steps_can_be_renamed() {
    let (_dir, mounts) = mounts();
    step(&mounts, |view| {
        write(&view.join("a/b/c"), "c");
        write(&view.join("a/d"), "d");
        write(&view.join("x/y"), "y");
    });
    step(&mounts, |view| {
        std::fs::rename(view.join("a/b"), view.join("a/e")).expect("rename beside");
        std::fs::rename(view.join("a"), view.join("z")).expect("rename the parent");
        std::fs::rename(view.join("x"), view.join("a")).expect("rename to where the first was");
        std::fs::create_dir(view.join("new")).expect("mkdir");
        std::fs::rename(view.join("a"), view.join("new/deep")).expect("rename into a new one");
        write(&view.join("z/e/added"), "+");
    });
    let expected = BTreeMap::from(
        [
            ("new", "dir 755"),
            ("new/deep", "dir 755"),
            ("new/deep/y", "y"),
            ("z", "dir 755"),
            ("z/d", "d"),
            ("z/e", "dir 755"),
            ("z/e/added", "+"),
            ("z/e/c", "c"),
        ]
        .map(|(path, what)| (path.to_owned(), what.to_owned())),
    );
    assert_eq!(now(&mounts), expected);
}

#[test]
fn folding_keeps_the_chain_at_one_layer_and_costs_what_changed() {
    let (dir, mounts) = mounts();
    step(&mounts, |view| write(&view.join("big/file"), "base"));
    let inode = |path: &str| std::fs::metadata(dir.path().join("mounts/id/layers/1").join(path)).map(|metadata| metadata.ino());
    let before = inode("big/file").expect("stat");
    for turn in 0..5 {
        step(&mounts, |view| write(&view.join(format!("new{turn}/file")), "x"));
    }
    assert_eq!(std::fs::read_dir(dir.path().join("mounts/id/layers")).expect("layers").count(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).expect("tmp").count(), 0);
    assert_eq!(inode("big/file").expect("stat"), before);
    step(&mounts, |view| std::fs::remove_dir_all(view.join("big")).expect("rm"));
    assert!(inode("big").is_err());
}

#[test]
fn a8_5_shared_users_do_not_see_each_other_and_merge_when_they_touch_different_things() {
    let (_dir, mounts) = mounts();
    step(&mounts, |view| {
        write(&view.join("common/file"), "base");
        write(&view.join("other/file"), "base");
    });
    let two = |first: &dyn Fn(&Path), second: &dyn Fn(&Path)| {
        let leases = [(); 2].map(|()| mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire"));
        let views = [&leases[0], &leases[1]].map(|lease| lease.mount().expect("mount"));
        first(&view(&views[0]));
        second(&view(&views[1]));
        drop(views);
        leases.map(|lease| lease.publish().expect("publish"))
    };
    let result = two(&|view| write(&view.join("common/a"), "a"), &|view| write(&view.join("common/b"), "b"));
    assert_eq!(result, [Published::Added, Published::Added]);
    let result = two(&|view| write(&view.join("new/a"), "a"), &|view| write(&view.join("new/b"), "b"));
    assert_eq!(result, [Published::Added, Published::Added]);
    assert_eq!(keys(&now(&mounts)), ["common", "common/a", "common/b", "common/file", "new", "new/a", "new/b", "other", "other/file"]);
    let result = two(&|view| write(&view.join("other/file"), "changed"), &|view| write(&view.join("common/c"), "c"));
    assert_eq!(result, [Published::Added, Published::Added]);

    let dropped = |directory: &str| [Published::Added, Published::Dropped { directory: directory.to_owned() }];
    let result = two(&|view| write(&view.join("common/d"), "1"), &|view| write(&view.join("common/d"), "2"));
    assert_eq!(result, dropped("/common"));
    let result = two(&|view| write(&view.join("other/file"), "again"), &|view| write(&view.join("other/new"), ""));
    assert_eq!(result, dropped("/other"));
    let result = two(&|view| std::fs::remove_dir_all(view.join("new")).expect("rm"), &|view| write(&view.join("new/c"), ""));
    assert!(matches!(&result[1], Published::Dropped { .. }), "{result:?}");
    let content = now(&mounts);
    assert_eq!((content["common/d"].as_str(), content["other/file"].as_str(), content.contains_key("new")), ("1", "again", false));
    // The first use of all, by two.
    mounts.clear("id").expect("clear");
    let result = two(&|view| write(&view.join("00/a"), "a"), &|view| write(&view.join("00/b"), "b"));
    assert_eq!(result, [Published::Added, Published::Added]);
    assert_eq!(keys(&now(&mounts)), ["00", "00/a", "00/b"]);
}

#[test]
fn a8_5_locked_waits_and_can_be_cancelled_and_private_forks() {
    let (_dir, mounts) = mounts();
    let lease = mounts.acquire("id", Sharing::Locked, &empty(), None).expect("acquire");
    let (read, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    drop(write_end);
    assert!(matches!(mounts.acquire("id", Sharing::Locked, &empty(), Some(&Cancel(read))), Err(CacheMountError::Cancelled)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let lease = mounts.acquire("id", Sharing::Locked, &empty(), None).expect("acquire");
            let mount = lease.mount().expect("mount");
            keys(&content(&view(&mount))).join(" ")
        });
        let mount = lease.mount().expect("mount");
        write(&view(&mount).join("seen"), "");
        drop(mount);
        lease.publish().expect("publish");
        assert_eq!(waiting.join().expect("no panic"), "seen");
    });
    let first = mounts.acquire("p", Sharing::Private, &empty(), None).expect("acquire");
    let second = mounts.acquire("p", Sharing::Private, &empty(), None).expect("acquire");
    let mount = second.mount().expect("mount");
    write(&view(&mount).join("fork"), "");
    drop(mount);
    second.publish().expect("publish");
    let mount = first.mount().expect("mount");
    assert!(content(&view(&mount)).is_empty());
}

#[test]
fn clearing_leaves_who_works_alone_and_takes_nothing_from_it() {
    let (_dir, mounts) = mounts();
    step(&mounts, |view| write(&view.join("old"), ""));
    let lease = mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let mount = lease.mount().expect("mount");
    mounts.clear("id").expect("clear");
    assert_eq!(keys(&now(&mounts)), Vec::<&str>::new());
    assert_eq!(keys(&content(&view(&mount))), ["old"]);
    write(&view(&mount).join("new"), "");
    drop(mount);
    assert!(matches!(lease.publish().expect("publish"), Published::Dropped { .. }));
    assert_eq!(keys(&now(&mounts)), Vec::<&str>::new());
}

#[test]
fn b7_1_what_lies_there_is_listed_and_removed_unless_in_use() {
    let (_dir, mounts) = mounts();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    step(&mounts, |view| write(&view.join("dir/file"), &"x".repeat(100_000)));
    let lease = mounts.acquire("id", Sharing::Shared, &empty(), None).expect("acquire");
    let list = mounts.list().expect("list");
    assert_eq!((list.len(), list[0].id.as_str(), list[0].in_use), (1, "id", true));
    assert!(list[0].size_bytes >= 100_000 && list[0].size_bytes < 200_000 && list[0].last_used > before, "{list:?}");
    assert!(!mounts.remove("id").expect("in use"));
    drop(lease);
    assert!(mounts.remove("id").expect("removed"));
    assert_eq!(mounts.list().expect("list"), []);
}

/// A lease holds its lock through copies of the descriptor, which clones of the process have for an instant.
#[test]
fn probe_locks_end_by_unlocking_even_when_the_descriptor_was_copied() {
    let (_dir, mounts) = mounts();
    let lease = mounts.acquire("id", Sharing::Locked, &empty(), None).expect("acquire");
    let copy = lease.mount.copy_of_lock();
    drop(lease);
    drop(mounts.acquire("id", Sharing::Locked, &empty(), None).expect("free again"));
    drop(copy);
}

#[test]
fn a_crash_of_the_machine_empties_what_was_not_on_the_disk() {
    let (dir, mounts) = mounts();
    let mark = dir.path().join("mounts/id/unsynced");
    step(&mounts, |view| write(&view.join("kept"), ""));
    mounts.make_durable(Duration::from_secs(3600)).expect("too new");
    assert!(std::fs::read_link(&mark).is_ok());
    mounts.make_durable(Duration::ZERO).expect("sync");
    assert!(std::fs::read_link(&mark).is_err());
    step(&mounts, |view| write(&view.join("also"), ""));
    assert!(std::fs::read_link(&mark).is_ok());
    std::fs::remove_file(&mark).expect("rm");
    std::os::unix::fs::symlink("another-boot 9", &mark).expect("symlink");
    assert_eq!(keys(&now(&mounts)), Vec::<&str>::new());
}

#[test]
fn cve_2024_9675_an_id_is_never_a_path() {
    let (_dir, mounts) = mounts();
    for id in ["", "..", ".hidden", "a/b", "/etc", "a\\b", "%2e%2e/", "ä", &"x".repeat(4096)] {
        assert!(matches!(mounts.acquire(id, Sharing::Shared, &empty(), None), Err(CacheMountError::Id { .. })), "{id}");
    }
}

/// One thing a process may do in the view.
#[derive(Debug, Clone)]
enum Act {
    Write(usize, u8),
    MakeDir(usize),
    Remove(usize),
    Rename(usize, usize),
    Chmod(usize),
}

/// A few names, so that acts meet.
const PLACES: [&str; 9] = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "a/b/a", "b/a/b"];

fn act() -> impl Strategy<Value = Act> {
    let place = 0..PLACES.len();
    prop_oneof![
        (place.clone(), any::<u8>()).prop_map(|(place, byte)| Act::Write(place, byte)),
        place.clone().prop_map(Act::MakeDir),
        place.clone().prop_map(Act::Remove),
        (place.clone(), place.clone()).prop_map(|(from, to)| Act::Rename(from, to)),
        place.prop_map(Act::Chmod),
    ]
}

/// Does it where it can be done; both trees fail alike.
fn perform(dir: &Path, act: &Act) {
    let at = |place: &usize| dir.join(PLACES[*place]);
    // Acts that are impossible here are no acts.
    match act {
        Act::Write(place, byte) => drop(std::fs::write(at(place), [b'0' + byte % 10])),
        Act::MakeDir(place) => drop(std::fs::create_dir(at(place))),
        Act::Remove(place) => drop(std::fs::remove_file(at(place)).or_else(|_| std::fs::remove_dir_all(at(place)))),
        Act::Rename(from, to) => drop(std::fs::rename(at(from), at(to))),
        Act::Chmod(place) => drop(std::fs::set_permissions(at(place), PermissionsExt::from_mode(0o711))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_mount_shows_what_a_directory_would(steps in prop::collection::vec(prop::collection::vec(act(), 1..8), 1..5)) {
        let (dir, mounts) = mounts();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).expect("mkdir");
        for acts in &steps {
            step(&mounts, |view| acts.iter().for_each(|act| perform(view, act)));
            acts.iter().for_each(|act| perform(&model, act));
            prop_assert_eq!(now(&mounts), content(&model));
        }
        // Nothing of overlay's is left that could mean something.
        prop_assert_eq!(content(&dir.path().join("mounts/id/layers/1")), content(&model));
    }

    #[test]
    fn a_fold_that_is_cut_short_and_begun_again_ends_the_same(
        before in prop::collection::vec(act(), 3..12),
        after in prop::collection::vec(act(), 3..12),
        failures in prop::collection::vec(1_u32..40, 1..4),
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [base, upper, work, staging, model] = ["base", "upper", "work", "staging", "model"].map(|name| dir.path().join(name));
        for path in [&base, &upper, &work, &model] {
            std::fs::create_dir(path).expect("mkdir");
        }
        for path in [&base, &model] {
            before.iter().for_each(|act| perform(path, act));
        }
        let options = sys::mount::OverlayOptions { lowers: &[&base], upper: &upper, work: &work, redirects: true };
        let mount = sys::mount::overlay(&options).map_err(|failure| failure.log).expect("overlay");
        after.iter().for_each(|act| perform(&view(&mount), act));
        after.iter().for_each(|act| perform(&model, act));
        drop(mount);
        for failure in failures {
            // Whether it fails depends on how much there is to do.
            fold::faults::after(failure, || drop(fold::fold(&upper, &base, &staging)));
        }
        fold::fold(&upper, &base, &staging).expect("fold");
        prop_assert_eq!(content(&base), content(&model));
    }
}

/// What the base has, and what is renamed or made over it; `+` makes a file.
const RENAMES: [(&[&str], &[(&str, &str)]); 5] = [
    (&["a/x", "b/y"], &[("a", "t"), ("b", "a"), ("t", "b")]),
    (&["a/b/x", "a/y"], &[("a/b", "a/c"), ("a", "z"), ("+", "z/c/new"), ("+", "a/again")]),
    (&["a/b/x", "c/y"], &[("a/b", "d"), ("c", "a/b"), ("d", "c"), ("+", "c/new")]),
    (&["a/b/c/x"], &[("a/b/c", "c"), ("a/b", "c/b"), ("a", "c/b/a")]),
    (&["a/x", "n/y"], &[("+", "m/fresh"), ("a", "m/a"), ("n", "m/a/n"), ("m", "a"), ("+", "n/x")]),
];

#[test]
fn renames_survive_a_fold_that_is_cut_short_anywhere() {
    for (files, acts) in RENAMES {
        for cut in 0..32 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let [base, upper, work, staging, model] = ["base", "upper", "work", "staging", "model"].map(|name| dir.path().join(name));
            std::fs::create_dir(&upper).expect("mkdir");
            std::fs::create_dir(&work).expect("mkdir");
            for (path, file) in [&base, &model].into_iter().flat_map(|path| files.iter().map(move |file| (path, file))) {
                write(&path.join(file), file);
            }
            let options = sys::mount::OverlayOptions { lowers: &[&base], upper: &upper, work: &work, redirects: true };
            let mount = sys::mount::overlay(&options).map_err(|failure| failure.log).expect("overlay");
            for (root, (from, to)) in [view(&mount), model.clone()].iter().flat_map(|root| acts.iter().map(move |act| (root, act))) {
                match *from {
                    "+" => write(&root.join(to), "new"),
                    from => std::fs::rename(root.join(from), root.join(to)).expect("rename"),
                }
            }
            drop(mount);
            fold::faults::after(cut, || drop(fold::fold(&upper, &base, &staging)));
            fold::fold(&upper, &base, &staging).expect("fold");
            assert_eq!(content(&base), content(&model), "{acts:?} cut at {cut}");
        }
    }
}
