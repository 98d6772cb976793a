//! Selection, on tables of contents made by hand and on directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use builder_snapshot::toc::{Node, Timestamp, Toc, TocEntry};
use proptest::prelude::*;

use super::*;
use crate::graph::Dest;
use crate::request::LocalContext;
use crate::source::local::LocalTree;
use crate::source::stack::StackTree;

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("a clean path")
}

/// A tree of entries: `dir/`, `file`, `link -> target`.
fn tree(entries: &[&str]) -> StackTree {
    let mut table = Toc::default();
    let entry = |path, node| TocEntry { path, node, meta: Meta { mode: 0o755, ..Meta::default() } };
    table.entries.push(entry(TreePath::root(), Node::Dir));
    for text in entries {
        let node = if text.ends_with('/') {
            Node::Dir
        } else if let Some((_, target)) = text.split_once(" -> ") {
            Node::Symlink { target: target.as_bytes().into() }
        } else {
            Node::File { size: 1, digest: Sha256Digest::of(text.as_bytes()) }
        };
        let path = path(text.split(" -> ").next().expect("a path"));
        let mut parents: Vec<TreePath> = std::iter::successors(path.parent(), TreePath::parent).collect();
        parents.reverse();
        for parent in parents {
            table.entries.push(entry(parent, Node::Dir));
        }
        table.entries.push(entry(path, node));
    }
    table.entries.sort_by(|a, b| a.path.cmp(&b.path));
    table.entries.dedup_by(|a, b| a.path == b.path);
    stack_of(&table)
}

fn stack_of(table: &Toc) -> StackTree {
    StackTree::of(&[Arc::new(table.entries.iter().collect())])
}

fn app() -> StackTree {
    tree(&[
        "README.md",
        "app/main.txt",
        "app/run.sh",
        "app/lib/one.txt",
        "app/lib/two.txt",
        "app/empty/",
        "package.json",
        "package-lock.json",
        "we[ird.txt",
    ])
}

fn action(flags: &str, sources: &[&str]) -> CopyAction {
    let excludes = flags.split(' ').filter_map(|flag| flag.strip_prefix("--exclude=")).map(str::to_owned).collect();
    let sources = sources.iter().map(|s| (*s).to_owned()).collect();
    let dest = Dest { path: "/x".to_owned(), is_dir: true };
    CopyAction { parents: flags.contains("--parents"), excludes, ..CopyAction::plain(0, sources, dest) }
}

fn items(selection: &Selection<'_>, found: &Match) -> Vec<Item> {
    let mut items = Vec::new();
    let mut take = |item| {
        items.push(item);
        Ok(())
    };
    selection.each_below(found, &mut take).expect("walked");
    items
}

/// All that is selected, digests filled in, the same for a directory and for a stack.
fn whole(mut selection: Selection<'_>) -> Vec<(Box<[u8]>, Entry, Vec<Item>)> {
    selection.fill_digests().expect("digests");
    let entry = |entry: &Entry| Entry { layer: None, ..entry.clone() };
    let item = |item: Item| Item { entry: entry(&item.entry), ..item };
    let matches = selection.sources.iter().flatten();
    matches.map(|found| (found.base.clone(), entry(&found.root), items(&selection, found).into_iter().map(item).collect())).collect()
}

/// What a source selects, as text: `name` for a file, `name/: entries` for a directory.
fn selected(tree: &dyn SourceTree, flags: &str, source: &str) -> Vec<String> {
    let selection = select(tree, &action(flags, &[source])).expect(source);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let show = |found: &Match| {
        if !found.root.is_dir() {
            return format!("{} = {}", text(&found.base), text(found.root.path.as_bytes()));
        }
        let items: Vec<_> = items(&selection, found).iter().map(|item| text(item.rel.as_bytes())).collect();
        format!("{}/: {}", text(found.root.path.as_bytes()), items.join(" "))
    };
    selection.sources[0].iter().map(show).collect()
}

fn failure(tree: &dyn SourceTree, flags: &str, source: &str) -> String {
    select(tree, &action(flags, &[source])).map(drop).expect_err(source).to_string()
}

#[test]
fn a9_2_sources_do_not_leave_their_root() {
    let tree = tree(&["README.md", "out -> /../../README.md", "up -> ../../..", "up2/b -> ../../README.md"]);
    for (source, file) in
        [("../../README.md", "README.md = README.md"), ("/README.md", "README.md = README.md"), ("README.md/", "README.md = README.md")]
    {
        assert_eq!(selected(&tree, "", source), [file]);
    }
    assert_eq!(selected(&tree, "", "out"), ["out = README.md"]);
    assert_eq!(selected(&tree, "", "up/README.md"), ["README.md = README.md"]);
    assert_eq!(selected(&tree, "", "up2/b"), ["b = README.md"]);
}

#[test]
fn a9_3_links_that_are_named_are_followed_others_are_not() {
    let tree =
        tree(&["real/one.txt", "to-file -> real/one.txt", "to-dir -> real", "tree/abs -> /etc/passwd", "tree/dirlink -> ../real", "loop -> loop"]);
    assert_eq!(selected(&tree, "", "to-file"), ["to-file = real/one.txt"]);
    assert_eq!(selected(&tree, "", "to-dir"), ["real/: one.txt"]);
    assert_eq!(selected(&tree, "", "to-dir/one.txt"), ["one.txt = real/one.txt"]);
    assert_eq!(selected(&tree, "", "tree"), ["tree/: abs dirlink"]);
    assert_eq!(selected(&tree, "", "to-f*"), ["to-file = real/one.txt"]);
    assert_eq!(selected(&tree, "", "t*/one.txt"), [""; 0], "links in the middle of a wildcard are not entered");
    assert!(failure(&tree, "", "loop").contains("40 symbolic links"));
}

#[test]
fn a9_7_wildcards() {
    let tree = app();
    assert_eq!(selected(&tree, "", "package*.json"), ["package-lock.json = package-lock.json", "package.json = package.json"]);
    assert_eq!(selected(&tree, "", "app/???.sh"), ["run.sh = app/run.sh"]);
    assert_eq!(selected(&tree, "", "app/lib/[ot]wo.txt"), ["two.txt = app/lib/two.txt"]);
    assert_eq!(selected(&tree, "", "a*/main.txt"), ["main.txt = app/main.txt"]);
    assert_eq!(selected(&tree, "", "app/l*"), ["app/lib/: one.txt two.txt"]);
    assert_eq!(selected(&tree, "", "we[[]ird.txt"), ["we[ird.txt = we[ird.txt"]);
    assert_eq!(selected(&tree, "", "*.nothing"), [""; 0]);
    assert_eq!(selected(&tree, "", "absent/*.x"), [""; 0]);
    assert_eq!(selected(&tree, "", "**/*.txt"), ["main.txt = app/main.txt"], "no ** without --parents");
    let error = failure(&tree, "", "app/absent.txt");
    assert!(error.contains("\"/app/absent.txt\": not found"), "{error}");
}

#[test]
fn a9_11_parents() {
    let tree = app();
    for (source, expected) in [
        ("app/lib/one.txt", "/: app app/lib app/lib/one.txt"),
        ("README.md", "/: README.md"),
        ("app/./lib/two.txt", "app/: lib lib/two.txt"),
        ("**/*.txt", "/: app app/lib app/lib/one.txt app/lib/two.txt app/main.txt we[ird.txt"),
        ("./app/*/two.txt", "/: app app/lib app/lib/two.txt"),
        ("app/lib", "/: app app/lib app/lib/one.txt app/lib/two.txt"),
        ("app/./l*", "app/: lib lib/one.txt lib/two.txt"),
        ("no*/x", "/: "),
    ] {
        assert_eq!(selected(&tree, "--parents", source), [expected], "{source}");
    }
    for absent in ["app/absent.txt", "absent/x", "app/./absent", "README.md/x"] {
        assert!(failure(&tree, "--parents", absent).contains("not found"), "{absent}");
    }
    let linked = self::tree(&["real/a/f", "link -> real/a"]);
    assert_eq!(selected(&linked, "--parents", "link/f"), ["/: link link/f"]);
}

#[test]
fn a9_12_excludes() {
    let tree = app();
    for (flags, source, expected) in [
        ("--exclude=*.json --exclude=app --exclude=we*", ".", vec!["/: README.md"]),
        (
            "--exclude=lib",
            ".",
            vec![
                "/: README.md app app/empty app/lib app/lib/one.txt app/lib/two.txt app/main.txt app/run.sh package-lock.json package.json we[ird.txt",
            ],
        ),
        ("--exclude=**/*.txt", "app", vec!["app/: empty lib run.sh"]),
        ("--exclude=lib/* --exclude=!lib/two.txt", "app", vec!["app/: empty lib lib/two.txt main.txt run.sh"]),
        ("--exclude=lib --exclude=!lib/two.txt", "app", vec!["app/: empty lib lib/two.txt main.txt run.sh"]),
        ("--parents --exclude=app/lib/one.txt", "app", vec!["/: app app/empty app/lib app/lib/two.txt app/main.txt app/run.sh"]),
        ("--parents --exclude=**/one.txt", "app/*/*.txt", vec!["/: app app/lib app/lib/two.txt"]),
        ("--exclude=*-lock.json", "package*.json", vec!["package.json = package.json"]),
        ("--exclude=*.md", "README.md", vec![]),
    ] {
        assert_eq!(selected(&tree, flags, source), expected, "{flags} {source}");
    }
    assert!(failure(&tree, "--exclude=[", ".").contains("--exclude"));
}

fn digest(tree: &dyn SourceTree, flags: &str, source: &str) -> Sha256Digest {
    let mut selection = select(tree, &action(flags, &[source])).expect(source);
    selection.fill_digests().expect("digests");
    let mut hasher = Hasher::new();
    selection.hash(&mut hasher).expect("walked");
    hasher.finish()
}

#[test]
fn b2_5_the_name_of_a_source_counts_those_above_do_not() {
    let tree = |files: &[&str]| {
        let mut table = Toc::default();
        table.entries.push(TocEntry { path: TreePath::root(), node: Node::Dir, meta: Meta::default() });
        for file in files {
            let node = if file.ends_with('/') { Node::Dir } else { Node::File { size: 1, digest: Sha256Digest::of(b"f") } };
            table.entries.push(TocEntry { path: path(file), node, meta: Meta::default() });
        }
        stack_of(&table)
    };
    let one = tree(&["one/", "one/f.txt"]);
    let two = tree(&["two/", "two/f.txt", "two/g.txt"]);
    assert_eq!(digest(&one, "", "one/f.txt"), digest(&two, "", "two/f.txt"));
    assert_ne!(digest(&one, "", "one/f.txt"), digest(&two, "", "two/g.txt"));
    assert_eq!(digest(&one, "", "one/f.txt"), digest(&two, "", "two/f*"));
    assert_eq!(digest(&one, "", "one"), digest(&two, "--exclude=g.txt", "two"));
    assert_ne!(digest(&one, "", "one"), digest(&two, "", "two"));
}

#[test]
fn b3_1_what_counts() {
    let base =
        TocEntry { path: path("d/f"), node: Node::File { size: 1, digest: Sha256Digest::of(b"f") }, meta: Meta { mode: 0o644, ..Meta::default() } };
    let of = |change: &dyn Fn(&mut TocEntry), dir_mode: u32| {
        let dir = |text: &str, mode| TocEntry { path: path(text), node: Node::Dir, meta: Meta { mode, ..Meta::default() } };
        let mut file = base.clone();
        change(&mut file);
        digest(&stack_of(&Toc { entries: vec![dir("", 0o755), dir("d", dir_mode), file] }), "", "d")
    };
    let same = of(&|_| (), 0o755);
    for (name, change) in [
        ("mode", (&|e: &mut TocEntry| e.meta.mode = 0o600) as &dyn Fn(&mut TocEntry)),
        ("uid", &|e| e.meta.uid = 1),
        ("gid", &|e| e.meta.gid = 1),
        ("content", &|e| e.node = Node::File { size: 1, digest: Sha256Digest::of(b"g") }),
        ("size", &|e| e.node = Node::File { size: 2, digest: Sha256Digest::of(b"f") }),
        ("kind", &|e| e.node = Node::Fifo),
        ("name", &|e| e.path = path("d/g")),
        ("xattrs", &|e| e.meta.xattrs = vec![(Box::from(&b"security.capability"[..]), Box::from(&b"x"[..]))]),
    ] {
        assert_ne!(of(change, 0o755), same, "{name}");
    }
    let time = Timestamp { seconds: 9, nanos: 9 };
    assert_eq!(of(&|e| e.meta.mtime = time, 0o755), same, "times don't count");
    assert_eq!(of(&|e| e.meta.made_by_step = true, 0o755), same);
    assert_eq!(of(&|_| (), 0o700), same, "the directory that is copied keeps its mode to itself");
}

/// The table of a directory of the host as a context is seen: owners zero.
fn table_of(dir: &Path) -> Toc {
    fn add(table: &mut Toc, host: &Path, at: &TreePath) {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::MetadataExt;
        let stat = fs::symlink_metadata(host).expect("stat");
        let mtime = Timestamp { seconds: stat.mtime(), nanos: u32::try_from(stat.mtime_nsec()).expect("nanoseconds") };
        let mut meta = Meta { mode: stat.mode() & 0o7777, mtime, ..Meta::default() };
        let node = if stat.is_dir() {
            Node::Dir
        } else if stat.is_symlink() {
            meta.mode = 0o777;
            Node::Symlink { target: fs::read_link(host).expect("a link").as_os_str().as_bytes().into() }
        } else {
            Node::File { size: stat.len(), digest: Sha256Digest::of(&fs::read(host).expect("read")) }
        };
        table.entries.push(TocEntry { path: at.clone(), node, meta });
        if stat.is_dir() {
            for entry in fs::read_dir(host).expect("listed") {
                let name = entry.expect("an entry").file_name();
                add(table, &host.join(&name), &at.child(name.as_bytes()));
            }
        }
    }
    let mut table = Toc::default();
    add(&mut table, dir, &TreePath::root());
    table.entries.sort_by(|a, b| a.path.cmp(&b.path));
    table
}

fn name() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["a", "b", "ab", "a.b", "c.txt", "A", "-x", "é", "a b"]).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn selecting_from_a_directory_and_from_its_table_is_one(
        files in proptest::collection::vec((proptest::collection::vec(name(), 1..4), 0..4u8), 0..12),
        source in proptest::sample::select(vec![".", "a", "a/b", "*", "a*", "*/a", "[ab]/*", "a/./b", "**/a", "*/c.txt", "ab/../a"]),
        flags in proptest::sample::select(vec!["", "--parents", "--exclude=a", "--exclude=**/b --exclude=!a/b", "--parents --exclude=*/a", "--exclude=* --exclude=!a"]),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let index = tempfile::tempdir().expect("a directory");
        for (parts, kind) in &files {
            let host = dir.path().join(parts.join("/"));
            // A path through a file can't be made; what can't be made is left out of both trees alike.
            let _ = host.parent().map(fs::create_dir_all);
            let _ = match kind {
                0 => fs::create_dir(&host),
                1 => symlink("a", &host),
                2 => fs::write(&host, parts.concat()),
                _ => fs::write(&host, "x").and_then(|()| fs::set_permissions(&host, fs::Permissions::from_mode(0o751))),
            };
        }
        let context = LocalContext { path: dir.path().to_path_buf(), ignore: None, empty: false };
        let local = LocalTree::open_with_index(&context, index.path()).expect("opened");
        let stack = stack_of(&table_of(dir.path()));
        let wanted = action(flags, &[source]);
        match (select(&local, &wanted), select(&stack, &wanted)) {
            (Ok(a), Ok(b)) => prop_assert_eq!(whole(a), whole(b)),
            (Err(a), Err(b)) => {
                let start = |error: StepError| error.to_string().split(" in ").next().map(str::to_owned);
                prop_assert_eq!(start(a), start(b));
            }
            (a, b) => prop_assert!(false, "{:?} {:?}", a.map(whole), b.map(whole)),
        }
    }
}
