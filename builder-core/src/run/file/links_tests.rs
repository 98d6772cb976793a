//! What is linked, what is copied, and that nobody can tell: layers made of links are the layers made of copies.

use std::fs;
use std::os::unix::fs::MetadataExt;

use builder_snapshot::layer::{self, TimePolicy};
use builder_snapshot::toc::ContentId;
use proptest::prelude::*;

use super::super::tests::{Case, Make, copying, scratch};
use super::super::{FileOp, TreeValue, execute};
use super::*;
use crate::content::{Stack, StackLayer};

/// The file of the topmost layer of `stack` at `path`.
fn top(case: &Case, stack: &Stack, path: &str) -> PathBuf {
    case.store.stack_dirs(stack).pop().expect("a layer").join(path)
}

fn inode(path: &Path) -> (u64, u64, u64) {
    let stat = fs::symlink_metadata(path).expect("stat");
    (stat.dev(), stat.ino(), stat.nlink())
}

/// Whether the two names are one inode.
fn is_linked(a: &Path, b: &Path) -> bool {
    let (a, b) = (inode(a), inode(b));
    (a.0, a.1) == (b.0, b.1)
}

fn made_by_hand(case: &Case) -> Stack {
    case.base(&[
        ("out/a", Make::File("a", 0o644, 0, 0)),
        ("out/sub/b", Make::File("b", 0o755, 3, 4)),
        ("out/one", Make::File("same file", 0o644, 0, 0)),
        ("out/two", Make::Hard("out/one")),
        ("out/cap", Make::Capability),
        ("out/link", Make::Link("a")),
    ])
}

#[test]
fn copies_from_layers_are_links() {
    let case = Case::new();
    let from = made_by_hand(&case);
    let copied = case.copy_from(&from, &scratch(), copying("", &["/out"], "/x"));
    for (name, linked) in [("a", true), ("sub/b", true), ("cap", true), ("one", false), ("two", false)] {
        assert_eq!(is_linked(&top(&case, &from, &format!("out/{name}")), &top(&case, &copied, &format!("x/{name}"))), linked, "{name}");
    }
    case.shows(&copied, &[("x/a", "file 0644 a"), ("x/sub/b", "file 0755 3:4 b"), ("x/two", "file 0644 same file"), ("x/link", "link a")]);
    // A group stays one; the links of the store are none.
    let group = |path| match case.entry(&copied, path).expect("there").node {
        crate::source::tree::EntryNode::File { group, .. } => group,
        other => panic!("{other:?}"),
    };
    assert!(group("x/one").is_some() && group("x/one") == group("x/two"));
    assert_eq!(group("x/a"), None);
}

#[test]
fn what_differs_in_metadata_is_copied() {
    let case = Case::new();
    let from = made_by_hand(&case);
    for flags in ["--chown=5:6", "--chmod=600"] {
        let copied = case.copy_from(&from, &scratch(), copying(flags, &["/out/a"], "/x/"));
        assert!(!is_linked(&top(&case, &from, "out/a"), &top(&case, &copied, "x/a")), "{flags}");
    }
    assert_eq!(inode(&top(&case, &from, "out/a")).2, 1);
}

#[test]
fn nothing_is_linked_below_a_running_step() {
    let case = Case::new();
    let from = made_by_hand(&case);
    let first = case.copy_from(&from, &scratch(), copying("", &["/out/a"], "/first/"));
    assert!(is_linked(&top(&case, &from, "out/a"), &top(&case, &first, "first/a")));
    // As another process with the same store: the step sees the inode through the second layer only.
    let other = Store::open(case.store.layers_dir().parent().and_then(Path::parent).expect("the root")).expect("a store");
    let change_time = |path: &Path| fs::metadata(path).map(|stat| (stat.ctime(), stat.ctime_nsec(), stat.nlink())).expect("stat");
    let step = other.leases().hold(&[case.store.stack_dirs(&first)]).expect("held");
    let before = change_time(&top(&case, &first, "first/a"));
    let copied = case.copy_from(&from, &scratch(), copying("", &["/out"], "/x"));
    assert!(!is_linked(&top(&case, &from, "out/a"), &top(&case, &copied, "x/a")));
    assert_eq!(change_time(&top(&case, &first, "first/a")), before);
    drop(step);
    let copied = case.copy_from(&from, &scratch(), copying("", &["/out"], "/y"));
    assert!(is_linked(&top(&case, &from, "out/a"), &top(&case, &copied, "y/a")));
}

#[test]
fn a_stack_never_shows_one_inode_twice() {
    let case = Case::new();
    let from = made_by_hand(&case);
    // Onto the very layer, and onto one that shares its inodes.
    let on_itself = case.copy_from(&from, &from, copying("", &["/out/a"], "/x/"));
    assert!(!is_linked(&top(&case, &from, "out/a"), &top(&case, &on_itself, "x/a")));
    let linked = case.copy_from(&from, &scratch(), copying("", &["/out/a"], "/x/"));
    let twice = case.copy_from(&from, &linked, copying("", &["/out/a"], "/y/"));
    assert!(!is_linked(&top(&case, &linked, "x/a"), &top(&case, &twice, "y/a")));
    // And within one layer: the same file under two names.
    let both = case.run(
        None,
        TreeValue::Stack(from),
        vec![copying("", &["/out/a", "/out/a"], "/x/").action(0, false), copying("", &["/out/a"], "/y/").action(0, false)],
    );
    let (both, _) = both.expect("copied");
    assert!(!is_linked(&top(&case, &both, "x/a"), &top(&case, &both, "y/a")));
}

/// Runs the copy of the whole context to /x as version after `previous`.
fn version(case: &Case, previous: Option<&Stack>) -> Stack {
    let previous = previous.map(|stack| {
        let id = stack.layers[0].id;
        Previous { fs: case.store.layer_fs(id), toc: case.store.read_packed_toc(id).expect("a table") }
    });
    let op = FileOp { base: false, actions: vec![copying("", &["."], "/x/").action(0, true)] };
    let layer =
        execute(&op, &[case.local()], &|stack| case.store.stack_dirs(stack), &case.store, previous.as_ref(), Default::default()).expect("copied");
    let added = StackLayer { id: layer.id, content: layer.content };
    case.store.publish(layer).expect("published");
    scratch().with(added)
}

#[test]
fn the_next_version_of_a_context_links_what_did_not_change() {
    let case = Case::app();
    let first = version(&case, None);
    case.write("README.md", b"other\n");
    case.write("new", b"new\n");
    fs::remove_file(case.context().join("package.json")).expect("removed");
    // Same content, another time.
    fs::File::options().write(true).open(case.context().join("app/lib/two.txt")).and_then(|f| f.set_modified(std::time::UNIX_EPOCH)).expect("a time");
    let second = version(&case, Some(&first));
    for (name, linked) in [("app/main.txt", true), ("app/run.sh", true), ("app/lib/one.txt", true), ("app/lib/two.txt", false), ("README.md", false)]
    {
        let (a, b) = (top(&case, &first, &format!("x/{name}")), top(&case, &second, &format!("x/{name}")));
        assert_eq!(is_linked(&a, &b), linked, "{name}");
    }
    case.shows(
        &second,
        &[("x/README.md", "file 0644 other"), ("x/new", "file 0644 new"), ("x/package.json", "absent"), ("x/app/lib/two.txt", "file 0644 2")],
    );
    case.shows(&first, &[("x/README.md", "file 0644 r"), ("x/new", "absent"), ("x/package.json", "file 0644 {}")]);
    // Third of the family: still told apart from what shares nothing.
    let third = version(&case, Some(&second));
    assert_eq!(third, second, "nothing changed");
}

/// A copy that fails leaves what it linked to be removed when no step can see it.
#[test]
fn a_failed_copy_does_not_touch_inodes_below_a_step() {
    let case = Case::app();
    let first = version(&case, None);
    let path = top(&case, &first, "x/app/main.txt");
    let id = first.layers[0].id;
    let previous = Previous { fs: case.store.layer_fs(id), toc: case.store.read_packed_toc(id).expect("a table") };
    case.write("new", b"new\n");
    let local = case.local();
    let op = FileOp { base: false, actions: vec![copying("", &["app"], "/x/app").action(0, true), copying("", &["new"], "/x/").action(0, true)] };
    super::super::selection_digest(&op, 0, &local, &case.store).expect("looked at");
    case.write("new", b"changed meanwhile\n");
    let error = execute(&op, &[local], &|stack| case.store.stack_dirs(stack), &case.store, Some(&previous), Default::default()).map(drop);
    assert!(error.expect_err("changed").to_string().contains("/new"));
    assert_eq!(inode(&path).2, 2, "the link is there until the process ends");
}

fn small_tree() -> impl Strategy<Value = Vec<(String, u8, u8)>> {
    let name = proptest::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/f", "z"]);
    proptest::collection::vec((name.prop_map(str::to_owned), 0..5_u8, 0..3_u8), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same two versions of a context and copies of the result, once with links and once with a step running on everything there is.
    #[test]
    fn layers_are_the_same_with_links_and_without(one in small_tree(), two in small_tree()) {
        let with = built(&one, &two, false);
        let without = built(&one, &two, true);
        prop_assert_eq!(with.1, without.1);
        prop_assert!(with.0 >= without.0);
    }
}

/// How many names more there are than inodes, and of each layer its content and its tar without times, which links of the context have of their own.
fn built(one: &[(String, u8, u8)], two: &[(String, u8, u8)], blocked: bool) -> (u64, Vec<(ContentId, Sha256Digest)>) {
    let case = Case::new();
    let put = |tree: &[(String, u8, u8)]| {
        fs::remove_dir_all(case.context()).and_then(|()| fs::create_dir(case.context())).expect("emptied");
        for (path, content, kind) in tree {
            // A path through a file can't be made; both runs leave it out alike.
            let host = case.context().join(path);
            let made = fs::create_dir_all(host.parent().expect("a parent")).and_then(|()| match kind {
                0 => std::os::unix::fs::symlink("a", &host),
                1 => fs::write(&host, [*content; 3]),
                _ => fs::write(&host, [*content; 9]).and_then(|()| fs::hard_link(&host, host.with_extension("link"))),
            });
            drop(made);
        }
        for name in ["", "d", "d/e", "a", "b", "d/a", "d/b", "d/e/f", "z"] {
            drop(fs::File::open(case.context().join(name)).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)));
        }
    };
    put(one);
    let first = version(&case, None);
    let mut steps = Vec::new();
    let mut block = |stack: &Stack| {
        if blocked {
            steps.push(case.store.leases().hold(&[case.store.stack_dirs(stack)]).expect("held"));
        }
    };
    block(&first);
    put(two);
    let second = version(&case, Some(&first));
    block(&second);
    let from = case.copy_from(&second, &scratch(), copying("", &["/x"], "/y"));
    block(&from);
    let mixed = case.copy_from(&from, &first, copying("--chmod=a+r", &["/y"], "/x"));
    let mut extra = 0;
    let mut layers = Vec::new();
    for stack in [&first, &second, &from, &mixed] {
        let layer = *stack.layers.last().expect("a layer");
        let (toc, fs) = (case.store.read_toc(layer.id).expect("a table"), case.store.layer_fs(layer.id));
        for entry in toc.entries.iter().filter(|entry| matches!(entry.node, Node::File { .. })) {
            extra += inode(&fs.join(entry.path.as_path())).2 - 1;
        }
        let mut tar = Vec::new();
        layer::write_tar(&toc, &fs, TimePolicy::Clamp { epoch_seconds: 0 }, &mut tar).expect("a tar");
        layers.push((toc.content_id(), Sha256Digest::of(&tar)));
    }
    (extra, layers)
}
