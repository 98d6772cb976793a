//! Tests of contexts by feature: what is looked at, what is read, what is ignored, how what is missing is explained.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// Leaves out paths below any of the first list, except those of the second.
#[derive(Debug)]
struct Rules(Vec<&'static str>, Vec<&'static str>);

impl IgnoreRules for Rules {
    fn is_ignored(&self, path: &[u8]) -> bool {
        let path = TreePath::new(path).expect("a clean path");
        let below = |list: &[&str]| list.iter().any(|p| path.below(&TreePath::new(p).expect("clean")).is_some());
        below(&self.0) && !below(&self.1)
    }
    fn prunes(&self, path: &[u8]) -> bool {
        let path = TreePath::new(path).expect("a clean path");
        !self.1.iter().any(|p| TreePath::new(p).expect("clean").below(&path).is_some())
    }
    fn deciding_rule(&self, _: &[u8]) -> Option<String> {
        Some("line 1".to_owned())
    }
}

struct Case {
    dir: tempfile::TempDir,
    index: tempfile::TempDir,
}

impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let case = Self { dir: tempfile::tempdir().expect("a directory"), index: tempfile::tempdir().expect("a directory") };
        for (path, text) in files {
            case.write(path, text);
        }
        case
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("written");
    }

    fn open(&self, ignore: Option<Rules>) -> LocalTree {
        let ignore = ignore.map(|rules| Arc::new(rules) as Arc<dyn IgnoreRules>);
        let context = LocalContext { path: self.dir.path().to_path_buf(), ignore, empty: false };
        LocalTree::open_with_index(&context, self.index.path()).expect("opened")
    }

    fn index_file(&self) -> Option<PathBuf> {
        fs::read_dir(self.index.path()).expect("read").map(|entry| entry.expect("an entry").path()).next()
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a clean path")
}

fn names(tree: &LocalTree, dir: &str) -> Vec<String> {
    tree.list(&path(dir)).expect("listed").iter().map(|entry| String::from_utf8_lossy(entry.path.as_bytes()).into_owned()).collect()
}

fn digest(tree: &LocalTree, file: &str) -> Result<Sha256Digest, StepError> {
    tree.read_digests(&[path(file)])?;
    match tree.lookup(&path(file))?.expect("there").node {
        EntryNode::File { digest, .. } => Ok(digest.expect("filled in")),
        other => panic!("{other:?}"),
    }
}

/// Makes files' change times old enough to be trusted, not by sleeping: as if they had been read later.
fn settle(tree: &LocalTree) {
    let settled = |child: &Child| {
        let known = child.content.get().map(|known| Known { is_settled: true, ..known.clone() });
        Child { content: known.map(OnceLock::from).unwrap_or_default(), ..child.clone() }
    };
    for listing in lock(&tree.listings).values_mut() {
        *listing = Arc::new(listing.iter().map(settled).collect());
    }
    for child in lock(&tree.singles).values_mut().flatten() {
        *child = settled(child);
    }
    tree.save_index();
}

/// How many files were read or are known.
fn known(tree: &LocalTree) -> usize {
    let listed = lock(&tree.listings).values().flat_map(|listing| listing.iter().cloned().collect::<Vec<_>>()).collect::<Vec<_>>();
    let single: Vec<Child> = lock(&tree.singles).values().flatten().cloned().collect();
    listed.iter().chain(&single).filter(|child| child.content.get().is_some()).count()
}

#[test]
fn a11_7_only_what_is_looked_at_is_read() {
    let case = Case::new(&[("a/x", "1"), ("b/y", "2"), ("c", "3")]);
    let tree = case.open(None);
    assert_eq!(names(&tree, ""), ["a", "b", "c"]);
    assert_eq!(digest(&tree, "c").expect("read"), Sha256Digest::of(b"3"));
    assert_eq!(known(&tree), 1);
    assert_eq!(lock(&tree.listings).len(), 1, "a and b were not entered");
}

#[test]
fn a11_3_ignored_paths_do_not_exist_unless_something_below_is_let_in() {
    let case = Case::new(&[("log/x", "1"), ("out/keep/o", "2"), ("out/o", "3"), ("none/a", "4"), ("src", "5")]);
    let tree = case.open(Some(Rules(vec!["log", "out", "none"], vec!["out/keep", "none/absent"])));
    assert_eq!(names(&tree, ""), ["out", "src"]);
    assert_eq!(names(&tree, "out"), ["out/keep"]);
    for (ignored, there) in [("log", false), ("log/x", false), ("out", true), ("out/o", false), ("out/keep/o", true), ("none", false)] {
        assert_eq!(tree.lookup(&path(ignored)).expect("looked").is_some(), there, "{ignored}");
    }
    let missing = super::super::missing::error(&tree, &path("log/x")).to_string();
    assert!(missing.contains("/log is left out by line 1"), "{missing}");
}

#[test]
fn a9_8_owners_are_zero_and_modes_kept() {
    let case = Case::new(&[("f", "1")]);
    fs::set_permissions(case.dir.path().join("f"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    symlink("f", case.dir.path().join("l")).expect("a link");
    let tree = case.open(None);
    let file = tree.lookup(&path("f")).expect("looked").expect("there");
    assert_eq!((file.meta.mode, file.meta.uid, file.meta.gid), (0o4751, 0, 0));
    let link = tree.lookup(&path("l")).expect("looked").expect("there");
    assert_eq!((link.meta.mode, link.node), (0o777, EntryNode::Symlink { target: Box::from(&b"f"[..]) }));
}

#[test]
fn paths_through_links_are_not_there() {
    let case = Case::new(&[("real/f", "1")]);
    symlink("real", case.dir.path().join("l")).expect("a link");
    symlink("/etc", case.dir.path().join("out")).expect("a link");
    let tree = case.open(None);
    assert_eq!(tree.lookup(&path("l/f")).expect("looked"), None);
    assert_eq!(tree.lookup(&path("out/passwd")).expect("looked"), None);
    let resolved = super::super::tree::resolve(&tree, &path("l/f")).expect("resolved").expect("there");
    assert_eq!(resolved.path, path("real/f"));
    assert_eq!(super::super::tree::resolve(&tree, &path("out/passwd")).expect("resolved"), None);
}

#[test]
fn the_index_knows_unchanged_files_and_no_changed_ones() {
    let case = Case::new(&[("a", "one"), ("b", "two")]);
    let first = case.open(None);
    digest(&first, "a").expect("read");
    digest(&first, "b").expect("read");
    settle(&first);
    let second = case.open(None);
    assert_eq!(digest(&second, "a").expect("known"), Sha256Digest::of(b"one"));
    assert_eq!(second.unsaved.load(Ordering::Relaxed), 0, "nothing was read");
    // Same size, and the time set back: the change time gives it away.
    let file = fs::File::options().write(true).open(case.dir.path().join("a")).expect("opened");
    let before = file.metadata().expect("stat").modified().expect("a time");
    fs::write(case.dir.path().join("a"), "ONE").expect("written");
    file.set_modified(before).expect("set");
    let third = case.open(None);
    assert_eq!(digest(&third, "a").expect("read"), Sha256Digest::of(b"ONE"));
}

#[test]
fn racily_clean_files_are_read_again() {
    let case = Case::new(&[("a", "one")]);
    let tree = case.open(None);
    digest(&tree, "a").expect("read");
    tree.save_index();
    assert!(case.index_file().is_none_or(|file| StatIndex::load(&file).len() == 0));
}

#[test]
fn two_builds_of_one_context_at_once_know_no_less_than_one_of_them() {
    let case = Case::new(&[("a", "one"), ("b", "two")]);
    let (first, second) = (case.open(None), case.open(None));
    digest(&first, "a").expect("read");
    digest(&second, "b").expect("read");
    settle(&first);
    settle(&second);
    drop((first, second));
    let third = case.open(None);
    assert_eq!(digest(&third, "b").expect("known"), Sha256Digest::of(b"two"));
    assert_eq!(third.unsaved.load(Ordering::Relaxed), 0, "what the later one wrote is known");
    assert_eq!(digest(&third, "a").expect("read"), Sha256Digest::of(b"one"));
}

#[test]
fn the_index_forgets_what_is_gone_and_keeps_what_was_not_looked_at() {
    let case = Case::new(&[("x/gone", "1"), ("x/kept", "2"), ("y/unseen", "3")]);
    let first = case.open(None);
    for file in ["x/gone", "x/kept", "y/unseen"] {
        digest(&first, file).expect("read");
    }
    settle(&first);
    drop(first);
    fs::remove_file(case.dir.path().join("x/gone")).expect("removed");
    case.write("x/new", "4");
    let second = case.open(None);
    names(&second, "x");
    digest(&second, "x/new").expect("read");
    settle(&second);
    drop(second);
    let index = StatIndex::load(&case.index_file().expect("an index"));
    assert_eq!(index.entries().map(|(path, ..)| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>(), ["x/kept", "x/new", "y/unseen"]);
}

#[test]
fn a_broken_index_is_as_good_as_none() {
    let case = Case::new(&[("a", "one")]);
    let first = case.open(None);
    digest(&first, "a").expect("read");
    settle(&first);
    drop(first);
    fs::write(case.index_file().expect("an index"), b"rbuild stat 1").expect("written");
    let second = case.open(None);
    assert_eq!(digest(&second, "a").expect("read"), Sha256Digest::of(b"one"));
    settle(&second);
    drop(second);
    assert_eq!(StatIndex::load(&case.index_file().expect("an index")).len(), 1, "and is replaced");
}

#[test]
fn a_walk_that_is_expected_finds_what_a_walk_finds() {
    let files: Vec<String> = (0..200).map(|n| format!("d{}/e{}/f{n}", n % 7, n % 30)).collect();
    let case = Case::new(&files.iter().map(|file| (file.as_str(), file.as_str())).collect::<Vec<_>>());
    let rules = || Some(Rules(vec!["d1", "d2/e2"], vec!["d1/e1"]));
    let (expected, plain) = (case.open(rules()), case.open(rules()));
    expected.expect_walk(&TreePath::root());
    let listed = lock(&expected.listings).len();
    let mut todo = vec![TreePath::root()];
    while let Some(dir) = todo.pop() {
        let entries = plain.list(&dir).expect("listed");
        assert_eq!(expected.list(&dir).expect("listed"), entries);
        todo.extend(entries.into_iter().filter(Entry::is_dir).map(|entry| entry.path));
    }
    assert_eq!(lock(&expected.listings).len(), listed, "all of it was listed before");
}

#[test]
fn a_context_that_changes_during_the_build_is_an_error_naming_the_file() {
    let case = Case::new(&[("dir/a", "one"), ("dir/b", "two")]);
    let tree = case.open(None);
    names(&tree, "dir");
    case.write("dir/a", "other");
    let error = digest(&tree, "dir/a").expect_err("changed").to_string();
    assert!(error.contains("/dir/a") && error.contains("changed"), "{error}");
    digest(&tree, "dir/b").expect("read");
    fs::remove_file(case.dir.path().join("dir/b")).expect("removed");
    let error = tree.open_file(&path("dir/b")).expect_err("gone").to_string();
    assert!(error.contains("/dir/b") && error.contains("changed"), "{error}");
}

#[test]
fn a9_7_missing_sources_are_explained() {
    let case = Case::new(&[("README.md", ""), ("app/main.txt", ""), ("file", "")]);
    symlink("nowhere", case.dir.path().join("dangling")).expect("a link");
    let tree = case.open(None);
    for (wanted, reason, advice) in [
        ("readme.md", "not found", "did you mean \"README.md\"? names differ in case"),
        ("app/mian.txt", "not found", "did you mean \"app/main.txt\"?"),
        ("file/x", "/file is no directory", ""),
        ("dangling", "/dangling is a symbolic link to \"nowhere\"", "inside"),
        ("main.txt", "not found", "did you mean \"app/main.txt\"?"),
        ("elsewhere/x/y", "\"/elsewhere/x/y\": not found in the build context", ""),
    ] {
        let error = super::super::missing::error(&tree, &path(wanted));
        let (message, help) = (error.to_string(), error.help().map(str::to_owned));
        assert!(message.contains(reason) && message.contains("not found"), "{wanted}: {message}");
        assert!(help.clone().unwrap_or_default().contains(advice), "{wanted}: {help:?}");
    }
}

#[test]
fn the_stand_in_for_no_context_is_empty() {
    let context = LocalContext { path: PathBuf::from("/nonexistent"), ignore: None, empty: true };
    let tree = LocalTree::open_with_index(&context, Path::new("/nonexistent")).expect("opened");
    assert!(tree.list(&TreePath::root()).expect("listed").is_empty());
    assert_eq!(tree.lookup(&path("a")).expect("looked"), None);
}
