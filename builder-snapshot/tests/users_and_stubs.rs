//! Users by the image's files, and mount points that never enter a layer.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use builder_snapshot::TreePath;
use builder_snapshot::exec::stubs::{self, StubKind};
use builder_snapshot::exec::{ResolvedUser, USER_DATABASE_BYTES, resolve_owner, resolve_user};
use builder_snapshot::tree::MergedTree;

fn layer(files: &[(&str, &str)]) -> (tempfile::TempDir, MergedTree) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (path, content) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(path, content).expect("write");
    }
    let tree = MergedTree::open(&[directory.path().to_owned()]).expect("open");
    (directory, tree)
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n#comment\nbroken:x:one\noperator:x:37:37:Operator:/var:/bin/false\nnohome:x:40:41::\n";
const GROUP: &str = "root:x:0:root\nwheel:x:10:root,operator\nusers:x:100:\nstaff:x:50:operator\nnear:x:60:operators\n";

fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> ResolvedUser {
    ResolvedUser { uid, gid, groups: groups.to_vec(), home: home.into() }
}

#[test]
fn e1_8_user_forms() {
    let (_directory, tree) = layer(&[("etc/passwd", PASSWD), ("etc/group", GROUP)]);
    for (text, expected) in [
        ("", user(0, 0, &[], "/root")),
        ("root", user(0, 0, &[0, 10], "/root")),
        ("0", user(0, 0, &[0, 10], "/root")),
        ("operator", user(37, 37, &[10, 50], "/var")),
        ("37", user(37, 37, &[10, 50], "/var")),
        ("operator:", user(37, 37, &[10, 50], "/var")),
        ("operator:users", user(37, 100, &[], "/var")),
        ("operator:7", user(37, 7, &[], "/var")),
        ("37:users", user(37, 100, &[], "/var")),
        ("1234", user(1234, 0, &[], "/")),
        ("1234:5678", user(1234, 5678, &[], "/")),
        ("37:5678", user(37, 5678, &[], "/var")),
        ("nohome", user(40, 41, &[], "/")),
        (":users", user(0, 100, &[], "/root")),
    ] {
        assert_eq!(resolve_user(text, &tree, USER_DATABASE_BYTES).expect(text), expected, "{text:?}");
    }
    for (text, words) in [
        ("nobody", "no user \"nobody\" in /etc/passwd"),
        ("operator:none", "no group \"none\" in /etc/group"),
        ("broken", "no user \"broken\""),
        ("4294967295", "larger than"),
        ("a:b:c", "more than one colon"),
    ] {
        let error = resolve_user(text, &tree, USER_DATABASE_BYTES).expect_err(text).to_string();
        assert!(error.contains(words), "{text:?}: {error}");
    }
}

#[test]
fn a9_8_owner_forms() {
    let (_directory, tree) = layer(&[("etc/passwd", PASSWD), ("etc/group", GROUP)]);
    for (text, expected) in [
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("operator", (37, 37)),
        ("operator:users", (37, 100)),
        ("root", (0, 0)),
        ("root:wheel", (0, 10)),
        ("7:root", (7, 0)),
        (":8", (0, 8)),
    ] {
        assert_eq!(resolve_owner(text, Some(&tree), USER_DATABASE_BYTES).expect(text), expected, "{text:?}");
    }
    assert!(resolve_owner("nobody", Some(&tree), USER_DATABASE_BYTES).is_err() && resolve_owner("5:none", Some(&tree), USER_DATABASE_BYTES).is_err());
    for (text, expected) in [("5", Some((5, 5))), ("root:0", Some((0, 0))), ("operator", None), ("5:users", None)] {
        assert_eq!(resolve_owner(text, None, USER_DATABASE_BYTES).ok(), expected, "{text:?}");
    }
}

#[test]
fn ghsa_72x6_hostile_user_files_are_refused_without_being_read() {
    let (directory, tree) = layer(&[("etc/group", GROUP)]);
    assert_eq!(resolve_user("12", &tree, USER_DATABASE_BYTES).expect("no passwd"), user(12, 0, &[], "/"));
    assert!(resolve_user("operator", &tree, USER_DATABASE_BYTES).is_err());
    let passwd = directory.path().join("etc/passwd");
    let refused = |words: &str| {
        let tree = MergedTree::open(&[directory.path().to_owned()]).expect("open");
        let error = resolve_user("operator", &tree, USER_DATABASE_BYTES).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(resolve_user("1:2", &tree, USER_DATABASE_BYTES).expect("numbers need no file"), user(1, 2, &[], "/"));
    };
    let file = std::fs::File::create(&passwd).expect("create");
    file.set_len(5 << 30).expect("a sparse file");
    refused("more than 10485760 bytes; if that is right, raise the limit with --limit user-database-bytes=N");
    std::fs::remove_file(&passwd).expect("rm");
    rustix::fs::mknodat(rustix::fs::CWD, &passwd, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("mkfifo");
    refused("not a regular file");
    std::fs::remove_file(&passwd).expect("rm");
    symlink("/etc/passwd", &passwd).expect("symlink");
    refused("40 symbolic links");
    std::fs::remove_file(&passwd).expect("rm");
    // The host's file, were it not resolved inside the tree.
    symlink("../../../../../../../../etc/../etc/other", &passwd).expect("symlink");
    refused("no user \"operator\"");
}

fn prepare(tree: &MergedTree, targets: &[(&str, StubKind)], directory: &Path) -> Result<Option<PathBuf>, stubs_error::Error> {
    let targets: Vec<_> = targets.iter().map(|(path, kind)| (TreePath::new(path).expect(path), *kind)).collect();
    stubs::prepare(tree, &targets, directory)
}

mod stubs_error {
    pub(super) use builder_snapshot::exec::StubError as Error;
}

#[test]
fn a8_2_stubs_copy_what_their_ancestors_look_like() {
    let (directory, tree) = layer(&[("etc/hosts", ""), ("run/keep", "")]);
    std::fs::set_permissions(directory.path().join("etc"), PermissionsExt::from_mode(0o2751)).expect("chmod");
    rustix::fs::chown(directory.path().join("etc"), Some(rustix::fs::Uid::from_raw(3)), Some(rustix::fs::Gid::from_raw(4))).expect("chown");
    std::fs::set_permissions(directory.path().join("etc"), PermissionsExt::from_mode(0o2751)).expect("chmod");
    std::fs::create_dir(directory.path().join("var")).expect("mkdir");
    symlink("/run", directory.path().join("var/run")).expect("symlink");
    let before = std::fs::metadata(directory.path().join("etc")).expect("stat");
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let dir = temporary.path().join("stubs");

    assert_eq!(prepare(&tree, &[("etc/hosts", StubKind::File), ("run", StubKind::Dir)], &dir).expect("all there"), None);
    assert!(!dir.exists());
    let targets = [("etc/resolv.conf", StubKind::File), ("var/run/a/b", StubKind::Dir), ("new", StubKind::Dir), ("new/below", StubKind::File)];
    assert_eq!(prepare(&tree, &targets, &dir).expect("prepared"), Some(dir.clone()));
    let after = std::fs::metadata(dir.join("etc")).expect("stat");
    for field in [MetadataExt::mode as fn(&std::fs::Metadata) -> u32, MetadataExt::uid, MetadataExt::gid] {
        assert_eq!(field(&after), field(&before));
    }
    assert_eq!(after.modified().expect("mtime"), before.modified().expect("mtime"));
    assert_eq!(std::fs::metadata(dir.join("etc/resolv.conf")).expect("stat").mode(), 0o100_644);
    assert_eq!(std::fs::metadata(dir.join("run/a/b")).expect("stat").mode(), 0o040_755);
    assert!(!dir.join("var").exists() && dir.join("new").is_dir() && !dir.join("new/below").exists());
}

#[test]
fn a8_2_what_is_in_the_way_is_named() {
    let (directory, tree) = layer(&[("etc/hosts/file", ""), ("plain", "")]);
    let dir = directory.path().join("never");
    for (target, kind, words) in [
        ("etc/hosts", StubKind::File, "etc/hosts is a directory, not a file"),
        ("plain", StubKind::Dir, "plain is a file, not a directory"),
        ("plain/below", StubKind::Dir, "plain"),
    ] {
        let error = prepare(&tree, &[(target, kind)], &dir).expect_err(target).to_string();
        assert!(error.contains(words), "{error}");
    }
}
