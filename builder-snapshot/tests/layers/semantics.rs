//! What layers mean, case by case: the shapes that images are made of, as tables `path → what`.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use builder_snapshot::layer::{self, ApplyLimits};
use builder_snapshot::snapshot::{CommittedLayer, FileContent, LinkSource, ListedFile, Snapshotter, SnapshotterKind};
use builder_snapshot::toc::{Meta, Node, Timestamp, Toc, merge};
use builder_snapshot::tree::{FoundKind, MergedTree};
use builder_snapshot::{Sha256Digest, SnapshotError, StopSignal, TreePath};

use crate::tars::{Raw, tar};
use crate::trees::{Stack, of_host, of_tree};

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("clean")
}

const OLD: Timestamp = Timestamp { seconds: 1_000_000_000, nanos: 5 };
/// After everything that these tests write by hand, before everything that the clock writes.
const STARTED: Timestamp = Timestamp { seconds: 1_700_000_000, nanos: 0 };

fn file() -> Meta {
    Meta { mode: 0o644, mtime: OLD, ..Meta::default() }
}

fn dir() -> Meta {
    Meta { mode: 0o755, mtime: OLD, ..Meta::default() }
}

/// One word for each entry: `d/`, `f`, `-gone`, `new=old` for a hard link, `l>target`. The root is left out.
fn words(toc: &Toc) -> Vec<String> {
    let text = |path: &TreePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    toc.entries
        .iter()
        .filter(|entry| !entry.path.is_root())
        .map(|entry| match &entry.node {
            Node::Dir => format!("{}/", text(&entry.path)),
            Node::Whiteout => format!("-{}", text(&entry.path)),
            Node::Hardlink { target } => format!("{}={}", text(&entry.path), text(target)),
            Node::Symlink { target } => format!("{}>{}", text(&entry.path), String::from_utf8_lossy(target)),
            _ => text(&entry.path),
        })
        .collect()
}

/// A lower layer with files a, b (linked), d/1, d/2, d/deep/3, a link and an empty directory.
fn lower() -> Stack {
    let mut stack = Stack::new();
    stack.write(|writer| {
        for name in ["d", "d/deep", "empty"] {
            writer.make_dir(&path(name), &dir()).expect("make_dir");
        }
        for name in ["a", "d/1", "d/2", "d/deep/3"] {
            writer.put_file(&path(name), FileContent::Bytes(name.as_bytes()), &file()).expect("put_file");
        }
        writer.hard_link(&path("a"), &path("b")).expect("hard_link");
        writer.put_symlink(&path("to-d"), b"/d", &file()).expect("put_symlink");
    });
    stack
}

/// Both ways of running a step: the layer must be the same.
fn both() -> [Snapshotter; 2] {
    [SnapshotterKind::Overlay, SnapshotterKind::Copy].map(Snapshotter::new)
}

/// A step as a shell script on a mount of the stack.
fn step(stack: &Stack, script: &str) -> CommittedLayer {
    step_on(stack, &Snapshotter::new(SnapshotterKind::Overlay), script)
}

fn step_on(stack: &Stack, snapshotter: &Snapshotter, script: &str) -> CommittedLayer {
    let snapshot = stack.prepare(snapshotter);
    let mount = snapshot.mount(None).expect("mount");
    let root = format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd());
    // A detached mount has no path: shells say so.
    let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(root).stderr(std::process::Stdio::null()).status().expect("sh");
    assert!(status.success(), "{script}");
    drop(mount);
    snapshot.commit(STARTED).expect("commit")
}

/// Says yes from the `n`th question on; with a counter of questions.
fn stop_at(n: usize) -> (StopSignal, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    (StopSignal::new(move || count.fetch_add(1, Ordering::Relaxed) >= n), asked)
}

#[test]
fn copying_and_reading_what_changed_can_be_stopped_anywhere() {
    let mut stack = Stack::new();
    stack.write(|writer| {
        writer.make_dir(&path("d"), &dir()).expect("dir");
        for name in ["a", "d/b", "d/c"] {
            writer.put_file(&path(name), FileContent::Bytes(&[b'x'; 300_000]), &file()).expect("file");
        }
    });
    let left = || fs::read_dir(stack.tmp()).expect("list").count();
    for (kind, copied) in [(SnapshotterKind::Overlay, false), (SnapshotterKind::Copy, true)] {
        let mut stopped = [0, 0];
        for n in 0.. {
            let (stop, asked) = stop_at(n);
            let snapshotter = Snapshotter::new(kind);
            let snapshot = match snapshotter.prepare(&stack.tmp(), &stack.layers, &stop) {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    assert!(error.to_string().contains("canceled"), "{error}");
                    assert_eq!(left(), 0, "{kind:?}, question {n}");
                    stopped[0] += 1;
                    continue;
                }
            };
            let mount = snapshot.mount(None).expect("mount");
            let seen = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
            fs::write(seen.join("d/b"), [b'y'; 300_000]).expect("write");
            drop(mount);
            let committed = snapshot.commit(STARTED);
            let is_through = asked.load(Ordering::Relaxed) <= n;
            drop(snapshotter);
            match committed {
                Ok(layer) => assert_eq!(words(&layer.toc), ["d/", "d/b"]),
                Err(error) => assert!(error.to_string().contains("canceled"), "{error}"),
            }
            assert_eq!(left(), 0, "{kind:?}, question {n}");
            if is_through {
                break;
            }
            stopped[1] += 1;
        }
        assert!((stopped[0] >= 6) == copied && stopped[1] >= 4, "{kind:?}: {stopped:?}");
    }
}

#[test]
fn a_step_is_what_it_changed() {
    let cases: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("echo x > new; rm new", &[]),
        ("echo x > empty/t; rm empty/t", &[]),
        ("chmod 644 a", &[]),
        ("chmod 600 a", &["a"]),
        ("chmod 755 d", &[]),
        ("chmod 700 d", &["d/"]),
        ("echo new > n", &["n"]),
        ("echo more >> d/deep/3", &["d/", "d/deep/", "d/deep/3"]),
        ("printf a > a; touch -d @1000000000.000000005 a", &[]),
        ("rm a", &["-a"]),
        ("rm -r d", &["-d"]),
        ("rm -r d; mkdir d", &["d/", "-d/1", "-d/2", "-d/deep"]),
        ("rm -r d; mkdir d d/deep; echo x > d/1", &["d/", "d/1", "-d/2", "d/deep/", "-d/deep/3"]),
        ("rm -r d; echo file > d", &["d"]),
        ("rm a; mkdir a; echo x > a/x", &["a/", "a/x"]),
        ("rm -r d; ln -s empty d", &["d>empty"]),
        ("mv d/1 d/9", &["d/", "-d/1", "d/9"]),
        ("ln a c", &["c"]),
        ("echo y > x; ln x y; ln y d/z", &["d/", "d/z", "x=d/z", "y=d/z"]),
        ("mkdir p; mkdir -p p/q/r", &["p/", "p/q/", "p/q/r/"]),
        ("rm -r empty; mkdir empty", &[]),
        ("rm -r empty; mkdir -m 700 empty", &["empty/"]),
        ("cp -a d d.new; rm -r d; cp -a d.new d; rm -r d.new", &[]),
        ("cp -a d d.new; rm -r d; mv d.new d; rm d/2; echo x > d/deep/4", &["d/", "-d/2", "d/deep/", "d/deep/4"]),
        ("mv d e", &["-d", "e/", "e/1", "e/2", "e/deep/", "e/deep/3"]),
        ("mv d e; mkdir d; mv e/1 d/1", &["d/", "-d/2", "-d/deep", "e/", "e/2", "e/deep/", "e/deep/3"]),
        ("ln a c; chmod 600 c", &["a", "c=a"]),
        ("ln b c; rm b", &["-b", "c"]),
        ("mv a t; mv b a; mv t b", &[]),
        ("mv d/1 t; mv d/2 d/1; mv t d/2", &["d/", "d/1", "d/2"]),
        ("chmod 600 a; chmod 644 a; touch d", &[]),
        ("mkfifo f; mknod n c 1 3; mknod m b 7 1; rm n", &["f", "m"]),
    ];
    for ((script, expected), snapshotter) in cases.iter().flat_map(|case| both().map(|snapshotter| (case, snapshotter))) {
        let stack = lower();
        let layer = step_on(&stack, &snapshotter, script);
        assert_eq!(words(&layer.toc), *expected, "{script} {snapshotter:?}");
        // What is on disk is what is in the table, whiteouts as devices.
        let on_disk = of_host(layer.fs());
        let mut on_disk: Vec<String> = on_disk.keys().map(TreePath::display).collect();
        on_disk.sort();
        let mut listed: Vec<String> = layer.toc.entries.iter().map(|e| e.path.display()).filter(|p| p != "/").collect();
        listed.sort();
        assert_eq!(on_disk, listed, "{script}");
        for entry in layer.toc.entries.iter().filter(|entry| !matches!(entry.node, Node::Whiteout | Node::Hardlink { .. })) {
            let stat = rustix::fs::lstat(layer.fs().join(entry.path.as_path())).expect("on disk");
            let time = Timestamp { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
            assert_eq!(time, entry.meta.mtime, "{script}: the time of {}", entry.path.display());
        }
    }
}

#[test]
fn only_capabilities_are_exported_of_what_a_step_sets() {
    let stack = lower();
    let snapshot = stack.snapshot();
    let mount = snapshot.mount(None).expect("mount");
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", mount.as_raw_fd());
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set =
        |name: &str, attribute: &str, value: &[u8]| rustix::fs::setxattr(at(name), attribute, value, rustix::fs::XattrFlags::empty()).expect("set");
    set("a", "user.note", b"x");
    set("d/1", "security.capability", capability);
    drop(mount);
    let layer = snapshot.commit(STARTED).expect("commit");
    assert_eq!(words(&layer.toc), ["a", "d/", "d/1"], "a file with a new attribute is not dropped: the next step can see it");
    assert_eq!(layer.toc.file(&path("a")).expect("file").2.xattrs, []);
    assert_eq!(layer.toc.file(&path("d/1")).expect("file").2.xattrs, [(b"security.capability"[..].into(), capability[..].into())]);
}

#[test]
fn times_that_a_step_makes_are_marked() {
    let stack = lower();
    let layer = step(&stack, "echo x > new; cp -p a kept; touch -d 2001-01-01 told; echo y > d/deep/new");
    let marks: Vec<(String, bool)> = layer.toc.entries.iter().map(|e| (e.path.display(), e.meta.made_by_step)).collect();
    let mark = |path: &str| marks.iter().find(|(p, _)| p == path).map(|(_, mark)| *mark);
    for (path, made) in [("/new", true), ("/kept", false), ("/told", false), ("/d", false), ("/d/deep", true), ("/d/deep/new", true), ("/", true)] {
        assert_eq!(mark(path), Some(made), "{path}");
    }
}

#[test]
fn an_empty_layer_is_one_layer_whatever_it_is_on() {
    let (some, none) = (lower(), Stack::new());
    let (one, other) = (step(&some, "true"), step(&none, "true"));
    assert!(one.toc.is_empty());
    assert_eq!((one.id, one.content), (other.id, other.content));
    let mut tar = Vec::new();
    layer::write_tar(&one.toc, one.fs(), layer::TimePolicy::Keep, &mut tar).expect("write_tar");
    assert_eq!(tar, [0; 1024]);
}

#[test]
fn a_layer_of_nothing_does_not_show_its_own_root() {
    for snapshotter in both() {
        let mut stack = Stack::new();
        // Made first where the root is an ordinary one, and shared from then on.
        stack.write(|_| ());
        stack.write(|writer| writer.set_meta(&TreePath::root(), &Meta { mode: 0o700, mtime: OLD, ..Meta::default() }).expect("set_meta"));
        let layer = step_on(&stack, &snapshotter, "true");
        stack.publish(layer);
        assert_eq!(stack.layers[0], stack.layers[2]);
        let root = stack.tree().lookup(&TreePath::root()).expect("lookup").expect("a root").meta;
        assert_eq!((root.mode, root.mtime), (0o700, OLD));
        let layer = step_on(&stack, &snapshotter, "test $(stat -c %a .) = 700; mkdir d; touch -d @1000000000.000000005 .");
        assert_eq!(words(&layer.toc), ["d/"]);
        assert_eq!(layer.toc.get(&TreePath::root()).expect("listed").meta, root);
    }
}

#[test]
fn large_and_many_files_have_their_digests() {
    let stack = Stack::new();
    let layer = step(&stack, "head -c 5000000 /dev/zero > big; for i in $(seq 300); do echo $i > f$i; done");
    assert_eq!(layer.toc.file(&path("big")).expect("file").1, Sha256Digest::of(&vec![0; 5_000_000]));
    for i in 1..=300 {
        assert_eq!(layer.toc.file(&path(&format!("f{i}"))).expect("file").1, Sha256Digest::of(format!("{i}\n").as_bytes()));
    }
}

#[test]
fn merging_tables_applies_whiteouts_and_renames_groups() {
    let mut stack = lower();
    stack.write(|writer| {
        writer.remove(&path("a")).expect("remove");
        writer.remove(&path("d/deep")).expect("remove");
        writer.put_file(&path("d/1"), FileContent::Bytes(b"new"), &file()).expect("put_file");
    });
    let merged = merge(&stack.tocs.iter().collect::<Vec<_>>());
    assert_eq!(words(&merged), ["b", "d/", "d/1", "d/2", "empty/", "to-d>/d"]);
    assert_eq!(merged.file(&path("b")).expect("file").1, Sha256Digest::of(b"a"), "the first name of its group is gone, the file is not");
    assert_eq!(merged.file(&path("d/1")).expect("file").1, Sha256Digest::of(b"new"));
}

#[test]
fn what_a_file_hides_stays_hidden() {
    let mut stack = lower();
    stack.write(|writer| {
        assert!(writer.tree().lookup(&path("d/deep/3")).expect("lookup").is_some());
        writer.put_file(&path("d"), FileContent::Bytes(b"file"), &file()).expect("put_file");
        assert_eq!(writer.tree().lookup(&path("d/deep/3")).expect("lookup"), None);
        assert!(matches!(writer.put_file(&path("d/deep/4"), FileContent::Bytes(b""), &file()), Err(SnapshotError::NotADirectory { .. })));
        writer.make_dir(&path("d"), &dir()).expect("make_dir");
        assert_eq!(writer.tree().lookup(&path("d/deep")).expect("lookup"), None);
        writer.make_dir(&path("d/deep"), &dir()).expect("make_dir");
        assert_eq!(writer.tree().read_dir(&path("d/deep")).expect("read_dir"), []);
    });
    assert_eq!(words(&stack.tocs[1]), ["d/", "-d/1", "-d/2", "d/deep/", "-d/deep/3"]);
}

#[test]
fn a_writer_copies_up_what_it_has_to() {
    let mut stack = lower();
    stack.write(|writer| {
        writer.set_meta(&path("d/deep/3"), &Meta { mode: 0o600, uid: 5, ..file() }).expect("set_meta");
        writer.hard_link(&path("a"), &path("c")).expect("hard_link");
        assert!(matches!(writer.put_file(&path("no/parent"), FileContent::Bytes(b""), &file()), Err(SnapshotError::NotFound { .. })));
        assert!(matches!(writer.put_file(&path("to-d/x"), FileContent::Bytes(b""), &file()), Err(SnapshotError::NotADirectory { .. })));
        writer.remove(&path("nothing/there")).expect("nothing to remove");
    });
    assert_eq!(words(&stack.tocs[1]), ["a", "c=a", "d/", "d/deep/", "d/deep/3"]);
    let parent = stack.tocs[1].get(&path("d/deep")).expect("listed");
    assert_eq!(parent.meta, dir(), "a parent that is copied up keeps its time");
    let found = stack.tree().lookup(&path("d/deep")).expect("lookup").expect("there");
    assert_eq!(found.meta.mtime, OLD);
    let found = stack.tree().lookup(&path("d/deep/3")).expect("lookup").expect("there");
    assert_eq!((found.meta.mode, found.meta.uid), (0o600, 5));
}

#[test]
fn links_to_committed_files_are_made_only_where_they_are_right() {
    let mut stack = lower();
    let source = stack.layers[0].join("d/1");
    let digest = Sha256Digest::of(b"d/1");
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("stat"));
    let stack_layer = stack.layers[0].clone();
    let mut from = LinkSource::open(&stack_layer).expect("open");
    // As after a RUN that set an attribute which is no part of its layer.
    let marked = stack.layers[0].join("d/2");
    let has_attributes = rustix::fs::setxattr(&marked, "user.mark", b"1", rustix::fs::XattrFlags::empty()).is_ok();
    stack.write(|writer| {
        let mut link = |name: &str, source: &str, size, meta: &Meta| {
            let listed = ListedFile { path: &path(source), size, digest };
            writer.link_file(&path(name), &mut from, listed, meta).expect("link_file")
        };
        assert!(link("linked", "d/1", 3, &file()));
        assert!(!link("twice", "d/1", 3, &file()));
        assert!(!link("other-time", "d/1", 3, &Meta { mtime: STARTED, ..file() }));
        assert!(!link("other-mode", "d/1", 3, &Meta { mode: 0o600, ..file() }));
        assert!(!link("other-size", "d/1", 4, &file()));
        assert!(!link("no-file", "d", 3, &file()));
        assert!(!link("absent", "d/none", 3, &file()));
        let mark = vec![(Box::from(&b"user.mark"[..]), Box::from(&b"1"[..]))];
        assert!(!link("lacks-attribute", "d/1", 3, &Meta { xattrs: mark, ..file() }));
        assert!(!has_attributes || !link("has-attribute", "d/2", 3, &file()));
    });
    assert_eq!(inode(&stack.layers[1].join("linked")), inode(&source));
    // What a later change would do to both makes it a copy.
    stack.write(|writer| {
        let listed = ListedFile { path: &path("d/1"), size: 3, digest };
        for name in ["changed", "named"] {
            let mut from = LinkSource::open(&stack_layer).expect("open");
            assert_eq!(writer.link_file(&path(name), &mut from, listed, &file()).expect("link_file"), name == "changed", "an inode once");
        }
        writer.set_meta(&path("changed"), &Meta { mode: 0o600, ..file() }).expect("set_meta");
    });
    let mode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).expect("stat")) & 0o7777;
    assert_eq!((mode(&source), mode(&stack.layers[2].join("changed"))), (0o644, 0o600));
    assert_eq!(stack.tocs[2].file(&path("changed")).map(|(_, found, meta)| (found, meta.mode)), Some((digest, 0o600)));
    let names: Vec<String> = stack.tocs[1].entries.iter().map(|entry| entry.path.display()).collect();
    assert_eq!(names, ["/", "/linked"]);
    assert!(stack.tocs[1].entries.iter().all(|entry| !matches!(entry.node, Node::Hardlink { .. })), "the store's links are no groups of the layer's");
}

/// ext4 takes 65,000 names for an inode, other file systems other numbers or any.
#[test]
fn a_file_that_takes_no_further_name_is_not_linked() {
    let mut stack = lower();
    let mut from = LinkSource::open(&stack.layers[0]).expect("open");
    let source = stack.layers[0].join("d/1");
    let names = stack.layers[0].parent().expect("a directory").join("names");
    fs::create_dir(&names).expect("a directory");
    let full = (0..65_000).any(|n| fs::hard_link(&source, names.join(n.to_string())).is_err());
    stack.write(|writer| {
        let listed = ListedFile { path: &path("d/1"), size: 3, digest: Sha256Digest::of(b"d/1") };
        assert_eq!(writer.link_file(&path("one-more"), &mut from, listed, &file()).expect("no error"), !full);
        assert_eq!(writer.tree().lookup(&path("one-more")).expect("lookup").is_some(), !full);
    });
}

#[test]
fn resolving_follows_links_inside() {
    let mut stack = lower();
    stack.write(|writer| {
        for (name, target) in
            [("up", "../../.."), ("loop", "loop"), ("chain", "to-d/deep"), ("dangling", "/no/where"), ("d/back", "../a"), ("file-link", "a")]
        {
            writer.put_symlink(&path(name), target.as_bytes(), &file()).expect("put_symlink");
        }
    });
    let tree = stack.tree();
    let cases = [
        ("to-d/1", "/d/1", true),
        ("chain/3", "/d/deep/3", true),
        ("up/a", "/a", true),
        ("d/back", "/a", true),
        ("to-d", "/d", true),
        ("dangling", "/no/where", false),
        ("dangling/x", "/no/where/x", false),
        ("d/none/below", "/d/none/below", false),
        ("", "/", true),
    ];
    for (given, real, exists) in cases {
        let resolution = tree.resolve(&path(given)).expect(given);
        assert_eq!((resolution.path.display().as_str(), resolution.found.is_some()), (real, exists), "{given}");
    }
    assert_eq!(tree.resolve_parent(&path("to-d/back")).expect("parent").path.display(), "/d/back");
    assert!(matches!(tree.resolve(&path("loop")), Err(SnapshotError::LinkLoop { .. })));
    assert!(matches!(tree.resolve(&path("a/x")), Err(SnapshotError::NotADirectory { .. })));
    assert!(matches!(tree.resolve(&path("file-link/x")), Err(SnapshotError::NotADirectory { .. })));
    let beneath = tree.resolve_beneath(&path("d"), &path("back")).expect("beneath");
    assert_eq!((beneath.path.display().as_str(), beneath.found), ("/d/a", None));
    assert!(tree.open_file(&path("file-link")).is_err(), "exact");
    let found = tree.lookup(&path("file-link")).expect("lookup").expect("there");
    assert_eq!((found.layer, found.kind), (1, FoundKind::Symlink { target: b"a"[..].into() }));
}

/// Applies a tar on a base (or none); returns what it made and the stack's paths then.
fn applied(stack: &Stack, entries: &[Raw], with_base: bool) -> (layer::Applied, Vec<String>) {
    let into = stack.dir.path().join(format!("applied-{with_base}"));
    let _ = fs::remove_dir_all(&into);
    let bytes = tar(entries);
    let base = with_base.then(|| stack.tree());
    let applied = layer::apply(&mut &bytes[..], &into, base.as_ref(), &ApplyLimits::default()).expect("apply");
    let mut layers: Vec<PathBuf> = stack.layers.clone();
    layers.push(into);
    let seen = of_tree(&MergedTree::open(&layers).expect("open"));
    (applied, seen.keys().map(TreePath::display).collect())
}

#[test]
fn layers_of_images_from_elsewhere() {
    let all = ["/a", "/b", "/d", "/d/1", "/d/2", "/d/deep", "/d/deep/3", "/empty", "/to-d"];
    let without = |gone: &[&str]| -> Vec<String> {
        all.iter().filter(|p| !gone.iter().any(|g| **p == *g || p.starts_with(&format!("{g}/")))).map(|p| (*p).to_owned()).collect()
    };
    // What a layer is, whether it stands alone, what its table says on the base, what is gone of the base then.
    type Case<'a> = (&'a str, Vec<Raw>, bool, &'a [&'a str], &'a [&'a str]);
    let cases: Vec<Case<'_>> = vec![
        ("a whiteout", vec![Raw::file(".wh.a", "")], true, &["-a"], &["/a"]),
        ("a whiteout in a listed directory", vec![Raw::dir("d"), Raw::file("d/.wh.deep", "")], true, &["d/", "-d/deep"], &["/d/deep"]),
        ("parents omitted", vec![Raw::file("d/1", "x")], false, &["d/", "d/1"], &[]),
        ("a whiteout whose parent is omitted", vec![Raw::file("d/.wh.1", "")], false, &["d/", "-d/1"], &["/d/1"]),
        ("below a lower link", vec![Raw::file("to-d/1", "x")], false, &["d/", "d/1"], &[]),
        (
            "an opaque directory",
            vec![Raw::dir("d"), Raw::file("d/.wh..wh..opq", ""), Raw::file("d/1", "x")],
            false,
            &["d/", "d/1", "-d/2", "-d/deep"],
            &["/d/2", "/d/deep"],
        ),
        (
            "opaque, said last",
            vec![Raw::dir("d"), Raw::file("d/1", "x"), Raw::file("d/.wh..wh..opq", "")],
            false,
            &["d/", "d/1", "-d/2", "-d/deep"],
            &["/d/2", "/d/deep"],
        ),
        (
            "opaque, the parent omitted",
            vec![Raw::file("d/.wh..wh..opq", "")],
            false,
            &["d/", "-d/1", "-d/2", "-d/deep"],
            &["/d/1", "/d/2", "/d/deep"],
        ),
        ("an opaque root", vec![Raw::file(".wh..wh..opq", "")], false, &["-a", "-b", "-d", "-empty", "-to-d"], &all),
        (
            "removed and made anew",
            vec![Raw::file(".wh.d", ""), Raw::dir("d")],
            false,
            &["d/", "-d/1", "-d/2", "-d/deep"],
            &["/d/1", "/d/2", "/d/deep"],
        ),
        (
            "made anew, the removal said last",
            vec![Raw::dir("d"), Raw::file(".wh.d", "")],
            false,
            &["d/", "-d/1", "-d/2", "-d/deep"],
            &["/d/1", "/d/2", "/d/deep"],
        ),
        ("removed and replaced by a file", vec![Raw::file(".wh.a", ""), Raw::file("a", "x")], true, &["a"], &[]),
        ("a link to a lower file", vec![Raw::hardlink("b", "a")], false, &["a", "b=a"], &[]),
        ("a directory for a link", vec![Raw::dir("to-d")], true, &["to-d/"], &[]),
        ("a file for a directory", vec![Raw::file("d", "x")], true, &["d"], &["/d/1", "/d/2", "/d/deep"]),
        ("an entry twice", vec![Raw::file("n", "1"), Raw::file("n", "2"), Raw::hardlink("m", "n"), Raw::file(".wh.n", "")], true, &["m", "n=m"], &[]),
    ];
    for (name, entries, alone, expected, gone) in cases {
        let stack = lower();
        let (without_base, _) = applied(&stack, &entries, false);
        assert_eq!(without_base.needs_base, !alone, "{name}");
        let (with_base, seen) = applied(&stack, &entries, true);
        assert!(!with_base.needs_base);
        assert_eq!(words(&with_base.toc), expected, "{name}");
        if alone {
            assert_eq!(words(&without_base.toc), expected, "{name}");
        }
        let base: Vec<String> = seen.into_iter().filter(|p| all.contains(&p.as_str())).collect();
        assert_eq!(base, without(gone), "{name}");
        let mut merged = stack.merged_toc();
        merged = merge(&[&merged, &with_base.toc]);
        let left: Vec<String> = merged.entries.iter().map(|e| e.path.display()).filter(|p| all.contains(&p.as_str())).collect();
        assert_eq!(left, without(gone), "{name}: by tables");
    }
}

#[test]
fn implicit_parents_look_as_those_below() {
    let stack = lower();
    let (applied, _) = applied(&stack, &[Raw::file("d/deep/new/f", "x")], true);
    assert_eq!(applied.toc.get(&path("d/deep")).expect("listed").meta, dir());
    assert_eq!(applied.toc.get(&path("d/deep/new")).expect("listed").meta, Meta { mode: 0o755, ..Meta::default() });
}
