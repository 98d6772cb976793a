//! What the crate believes about user namespaces, asked of the kernel, and what it makes of it.
//!
//! Each test runs itself again as an ordinary user in a new user namespace with a range of ids. It needs root (to become that user) and the user
//! `rbuild-test` with subordinate ids, and says so loudly.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use builder_snapshot::TreePath;
use builder_snapshot::snapshot::{ActiveSnapshot, CommittedLayer, Device, FileContent, LinkSource, ListedFile};
use builder_snapshot::toc::{Meta, Node, Timestamp, Toc};
use builder_snapshot::tree::{FoundKind, MergedTree};
use builder_snapshot::user_namespace::{self, EnterError, IdMap};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Set in the namespace.
const INSIDE: &str = "RBUILD_TEST_INSIDE";

/// What a test runs with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// A user namespace with the user's ranges.
    Ranges,
    /// A user namespace with one id.
    One,
    /// No user namespace.
    None,
}

/// Runs `test`, whose name is `name`, as an ordinary user with these ids.
fn inside(name: &str, ids: Ids, test: fn(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return test(Path::new(&dir));
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root to become another user");
    let dir = tempfile::tempdir().expect("temporary directory");
    let number = |flag| -> u32 {
        let output = Command::new("id").args([flag, "rbuild-test"]).output().expect("id");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("the user rbuild-test: scripts/install-test-tools.sh makes it")
    };
    let (uid, gid) = (number("-u"), number("-g"));
    chown(dir.path(), Some(uid), Some(gid)).expect("root");
    // The place of the test's executable may be out of that user's reach.
    let copy = dir.path().join("test");
    copy_executable(&copy);
    let enter: &[&str] = match ids {
        Ids::Ranges => &["unshare", "--mount", "--map-auto", "--map-root-user", "--"],
        Ids::One => &["unshare", "--mount", "--map-root-user", "--"],
        Ids::None => &[],
    };
    let output = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--"])
        .args(enter)
        .arg(&copy)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, dir.path())
        .current_dir("/")
        .output()
        .expect("setpriv and unshare (util-linux)");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// By another process: what this one has open for writing is held open for an instant by everything that other tests start, and cannot be run then.
fn copy_executable(to: &Path) {
    let copied = Command::new("cp").arg(std::env::current_exe().expect("a path")).arg(to).status();
    assert!(copied.expect("cp").success());
}

fn make(dir: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(dir.join(name)).expect(name);
    }
}

/// cap_net_raw=ep, as the kernel keeps it in version 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

struct Mounted(OwnedFd);

impl Mounted {
    fn path(&self, below: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(below)
    }
}

fn overlay(dir: &Path, flags: &[&str], strings: &[(&str, &str)]) -> Result<Mounted, Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlay");
    for (key, name) in [("lowerdir+", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        rustix::mount::fsconfig_set_string(&context, key, dir.join(name)).expect(key);
    }
    for (key, value) in strings {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    for flag in flags {
        rustix::mount::fsconfig_set_flag(&context, *flag)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(Mounted(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?))
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0_u8; 256];
    rustix::fs::lgetxattr(path, name, &mut buffer).ok().map(|n| buffer[..n].to_vec())
}

#[test]
fn overlay_needs_userxattr_to_remove_lower_directories() {
    inside("overlay_needs_userxattr_to_remove_lower_directories", Ids::Ranges, |dir| {
        make(dir, &["lower/d/e", "lower/gone", "upper", "work"]);
        let without = overlay(dir, &[], &[]).expect("it mounts");
        fs::remove_dir_all(without.path("d")).expect_err("whiteouts cannot be put into a directory without marks: userxattr is not needed any more");
        drop(without);
        fs::remove_dir_all(dir.join("upper")).expect("ours");
        fs::remove_dir_all(dir.join("work")).expect("ours");
        make(dir, &["upper", "work"]);
        let with = overlay(dir, &["userxattr"], &[]).expect("it mounts");
        fs::remove_dir_all(with.path("d")).expect("remove");
        fs::create_dir(with.path("d")).expect("make");
        fs::remove_dir(with.path("gone")).expect("remove");
        assert_eq!(xattr(&dir.join("upper/d"), "user.overlay.opaque").as_deref(), Some(&b"y"[..]));
        let whiteout = fs::symlink_metadata(dir.join("upper/gone")).expect("whiteout");
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    });
}

#[test]
fn overlay_has_no_redirects() {
    inside("overlay_has_no_redirects", Ids::Ranges, |dir| {
        make(dir, &["lower/d", "upper", "work"]);
        assert_eq!(overlay(dir, &["userxattr"], &[("redirect_dir", "on")]).err(), Some(Errno::INVAL));
        let mount = overlay(dir, &["userxattr"], &[("redirect_dir", "nofollow")]).expect("it mounts");
        let error = fs::rename(mount.path("d"), mount.path("e")).expect_err("a directory of a lower layer");
        assert_eq!(error.raw_os_error(), Some(Errno::XDEV.raw_os_error()));
    });
}

#[test]
fn nodes_attributes_and_owners_that_a_namespace_refuses() {
    inside("nodes_attributes_and_owners_that_a_namespace_refuses", Ids::Ranges, |dir| {
        let node = |name: &str, kind, device| mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o600), device);
        assert_eq!(node("null", FileType::CharacterDevice, makedev(1, 3)), Err(Errno::PERM));
        assert_eq!(node("disk", FileType::BlockDevice, makedev(8, 0)), Err(Errno::PERM));
        assert_eq!(node("whiteout", FileType::CharacterDevice, 0), Ok(()));
        assert_eq!(node("fifo", FileType::Fifo, 0), Ok(()));
        let file = dir.join("file");
        File::create(&file).expect("ours");
        let set = |name: &str, value: &[u8]| rustix::fs::setxattr(&file, name, value, XattrFlags::empty());
        assert_eq!(set("trusted.x", b"1"), Err(Errno::PERM));
        assert_eq!(set("security.x", b"1"), Err(Errno::PERM));
        assert_eq!(set("user.x", b"1"), Ok(()));
        assert_eq!(set("security.capability", &CAPABILITY), Ok(()));
        assert_eq!(xattr(&file, "security.capability").as_deref(), Some(&CAPABILITY[..]), "version 2 inside, whatever it is on disk");
        chown(&file, Some(65_535), Some(65_535)).expect("in the map");
        assert_eq!(chown(&file, Some(70_000), None).expect_err("not in the map").raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    });
}

#[test]
fn a_namespace_is_told_from_the_first_one() {
    inside("a_namespace_is_told_from_the_first_one", Ids::Ranges, |_| {
        let map = IdMap::current();
        assert!(!map.is_initial && !map.is_one_id, "{map:?}");
    });
}

#[test]
fn one_id_is_told_from_a_range() {
    inside("one_id_is_told_from_a_range", Ids::One, |_| {
        let map = IdMap::current();
        assert!(!map.is_initial && map.is_one_id, "{map:?}");
    });
}

#[test]
fn threads_are_an_error_of_their_own() {
    if rustix::process::geteuid().is_root() && std::env::var_os(INSIDE).is_none() {
        // As an ordinary user, but in no namespace: a test runs on a thread.
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        let copy = dir.path().join("test");
        copy_executable(&copy);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"]).arg(&copy);
        let output = command.args(["--exact", "threads_are_an_error_of_their_own"]).env(INSIDE, "/").current_dir("/").output().expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let error = user_namespace::enter_user_namespace(&user_namespace::Options::default()).expect_err("two threads at least");
            assert!(matches!(error, EnterError::Threads { count } if count > 1), "{error}");
        });
    });
}

fn tree_path(path: &str) -> TreePath {
    TreePath::new(path).expect(path)
}

fn owned(uid: u32, gid: u32, mode: u32) -> Meta {
    Meta { uid, gid, mode, mtime: Timestamp { seconds: 1_600_000_000, nanos: 0 }, ..Meta::default() }
}

/// A layer with all that stands for something else on disk.
fn layer(dir: &Path) -> PathBuf {
    make(dir, &["tmp", "layers"]);
    let snapshot = ActiveSnapshot::create(&dir.join("tmp"), &[]).expect("snapshot");
    let mut writer = snapshot.writer().expect("writer");
    writer.make_dir(&tree_path("far"), &owned(100_000, 200_000, 0o2750)).expect("directory");
    writer.put_file(&tree_path("far/file"), FileContent::Bytes(b"x"), &owned(100_000, 5, 0o4711)).expect("file");
    writer.put_symlink(&tree_path("far/link"), b"x", &owned(100_000, 5, 0o777)).expect("link");
    writer.put_device(&tree_path("null"), Device { block: false, major: 1, minor: 3 }, &owned(0, 6, 0o666)).expect("device");
    writer.put_device(&tree_path("disk"), Device { block: true, major: 8, minor: 1 }, &owned(0, 0, 0o600)).expect("device");
    writer.put_file(&tree_path("near"), FileContent::Bytes(b""), &owned(7, 8, 0o644)).expect("file");
    writer.make_dir(&tree_path("locked"), &owned(0, 0, 0o100)).expect("directory");
    let capability = (b"security.capability".as_slice().into(), CAPABILITY.as_slice().into());
    writer.put_file(&tree_path("locked/file"), FileContent::Bytes(b"y"), &Meta { xattrs: vec![capability], ..owned(3, 4, 0) }).expect("file");
    let toc = writer.finish().expect("table");
    snapshot.commit_written(toc).expect("commit").publish(&dir.join("layers")).expect("publish")
}

/// A layer that says the same on disk as in its table.
fn layer_that_reads_back(dir: &Path) -> (PathBuf, Toc) {
    let layer = layer(dir);
    let toc = Toc::unseal(&fs::read(layer.parent().expect("a layer").join("toc")).expect("table")).expect("table");
    let tree = MergedTree::open(std::slice::from_ref(&layer)).expect("tree");
    let found = |path: &str| tree.lookup(&tree_path(path)).expect(path).expect(path);
    let files = [
        ("far", (100_000, 200_000), 0o2750),
        ("far/file", (100_000, 5), 0o4711),
        ("near", (7, 8), 0o644),
        ("locked", (0, 0), 0o100),
        ("locked/file", (3, 4), 0),
    ];
    for (path, owner, mode) in files {
        let entry = toc.get(&tree_path(path)).expect(path);
        assert_eq!((entry.meta.uid, entry.meta.gid, entry.meta.mode), (owner.0, owner.1, mode), "{path} in the table");
        assert_eq!(found(path).meta, entry.meta, "{path} on disk");
    }
    assert_eq!(found("null").kind, FoundKind::CharDevice { major: 1, minor: 3 });
    assert_eq!(found("disk").kind, FoundKind::BlockDevice { major: 8, minor: 1 });
    assert_eq!(found("null").meta, toc.get(&tree_path("null")).expect("null").meta);
    (layer, toc)
}

fn check_stand_ins(dir: &Path) {
    let (layer, _) = layer_that_reads_back(dir);
    // A program sees files that are root's. What it leaves alone is no change, what it renames is still what it was, what it gives away is given away.
    let started = Timestamp { seconds: 1_700_000_000, nanos: 0 };
    let snapshot = ActiveSnapshot::create(&dir.join("tmp"), &[layer]).expect("snapshot");
    let mount = Mounted(snapshot.mount(None).expect("mount"));
    assert_eq!(fs::metadata(mount.path("far/file")).expect("seen").uid(), 0);
    fs::rename(mount.path("null"), mount.path("zero")).expect("rename");
    fs::write(mount.path("far/file"), "y").expect("write");
    fs::set_permissions(mount.path("disk"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("mode");
    if !IdMap::current().is_one_id {
        chown(mount.path("far"), Some(3), None).expect("chown");
    }
    drop(mount);
    let CommittedLayer { toc, .. } = snapshot.commit(started).expect("commit");
    let changed: Vec<(String, &Node)> = toc.entries.iter().map(|entry| (entry.path.display(), &entry.node)).collect();
    let entry = |path: &str| toc.get(&tree_path(path)).unwrap_or_else(|| panic!("{path} in {changed:?}"));
    assert_eq!(entry("zero").node, Node::CharDevice { major: 1, minor: 3 });
    assert_eq!((entry("zero").meta.uid, entry("zero").meta.gid, entry("zero").meta.mode), (0, 6, 0o666));
    assert_eq!(entry("null").node, Node::Whiteout);
    assert_eq!(entry("disk").node, Node::BlockDevice { major: 8, minor: 1 });
    assert_eq!(entry("disk").meta.mode, 0o640);
    assert_eq!((entry("far/file").meta.uid, entry("far/file").meta.gid), (100_000, 5));
    let owner = if IdMap::current().is_one_id { (100_000, 200_000) } else { (3, 0) };
    assert_eq!((entry("far").meta.uid, entry("far").meta.gid), owner);
    assert!(toc.get(&tree_path("near")).is_none() && toc.get(&tree_path("far/link")).is_none(), "{changed:?}");
}

#[test]
fn what_the_disk_cannot_hold_is_read_back_with_a_range() {
    inside("what_the_disk_cannot_hold_is_read_back_with_a_range", Ids::Ranges, check_stand_ins);
}

#[test]
fn what_the_disk_cannot_hold_is_read_back_with_one_id() {
    inside("what_the_disk_cannot_hold_is_read_back_with_one_id", Ids::One, check_stand_ins);
}

#[test]
fn what_the_disk_cannot_hold_is_read_back_without_a_namespace() {
    inside("what_the_disk_cannot_hold_is_read_back_without_a_namespace", Ids::None, |dir| {
        let map = IdMap::current();
        assert!(map.is_powerless && !map.is_initial, "{map:?}");
        let (layer, toc) = layer_that_reads_back(dir);
        // On disk nothing binds its owner, nor gives anybody rights.
        let mode = |path: &str| fs::symlink_metadata(layer.join(path)).expect(path).mode() & 0o7777;
        assert_eq!((mode("far"), mode("far/file"), mode("locked"), mode("locked/file")), (0o750, 0o711, 0o700, 0o600));
        // Two names of one file, a link instead of a copy: what counts is what is meant, not what is on disk.
        let snapshot = ActiveSnapshot::create(&dir.join("tmp"), &[]).expect("snapshot");
        let mut writer = snapshot.writer().expect("writer");
        let entry = toc.get(&tree_path("locked/file")).expect("listed");
        let Node::File { size, digest } = entry.node else { panic!("a file") };
        let mut from = LinkSource::open(&layer).expect("opened");
        let listed = ListedFile { path: &entry.path, size, digest };
        assert!(writer.link_file(&tree_path("linked"), &mut from, listed, &entry.meta).expect("linked"));
        assert_eq!(fs::metadata(snapshot.upper().join("linked")).expect("linked").nlink(), 2);
        // What is set anew leaves nothing of the old behind, and the committed file as it is.
        writer.set_meta(&tree_path("linked"), &owned(0, 0, 0o644)).expect("set");
        assert!(xattr(&layer.join("locked/file"), "user.rbuild.owner").is_some());
        drop(writer);
        assert!(xattr(&snapshot.upper().join("linked"), "user.rbuild.owner").is_none());
    });
}
