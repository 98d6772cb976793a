//! File operations carried out in a store of their own; the layers are read back as tables and merged trees. As root: owners, devices.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use builder_snapshot::toc::{Node, TocEntry};

use super::*;
use crate::content::StackLayer;
use crate::graph::{Chmod, Dest, Owner};
use crate::request::LocalContext;
use crate::source::local::LocalTree;
use crate::source::tree::{Entry, EntryNode};

pub(super) struct Case {
    dir: tempfile::TempDir,
    pub(super) store: Store,
}

/// What a test says of a copy.
#[derive(Clone, Copy, Default)]
pub(super) struct Copying<'a> {
    flags: &'a str,
    sources: &'a [&'a str],
    dest: &'a str,
}

pub(super) fn copying<'a>(flags: &'a str, sources: &'a [&'a str], dest: &'a str) -> Copying<'a> {
    Copying { flags, sources, dest }
}

fn dest(text: &str) -> Dest {
    let clean = text.trim_end_matches('/');
    Dest { path: if clean.is_empty() { "/".to_owned() } else { clean.to_owned() }, is_dir: text.ends_with('/') }
}

impl Copying<'_> {
    pub(super) fn action(&self, input: usize, local: bool) -> FileAction {
        let flag = |name: &str| self.flags.split(' ').filter_map(move |flag| flag.strip_prefix(name)).next();
        FileAction::Copy(CopyAction {
            input,
            sources: self.sources.iter().map(|s| (*s).to_owned()).collect(),
            dest: dest(self.dest),
            owner: flag("--chown=").map(|text| Owner { text: text.to_owned() }),
            chmod: flag("--chmod=").map(|text| Chmod::parse(text).expect(text)),
            parents: self.flags.contains("--parents"),
            excludes: flag("--exclude=").map(str::to_owned).into_iter().collect(),
            unpack: self.flags.contains("ADD"),
            reset_owner: local,
        })
    }
}

impl Case {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("context")).expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        Self { dir, store }
    }

    /// The context of most cases.
    pub(super) fn app() -> Self {
        let case = Self::new();
        for (path, text) in
            [("app/main.txt", "main\n"), ("app/lib/one.txt", "1\n"), ("app/lib/two.txt", "2\n"), ("README.md", "r\n"), ("package.json", "{}\n")]
        {
            case.write(path, text.as_bytes());
        }
        case.write("app/run.sh", b"#!/bin/sh\n");
        fs::set_permissions(case.context().join("app/run.sh"), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(case.context().join("app/empty")).expect("a directory");
        case
    }

    pub(super) fn context(&self) -> std::path::PathBuf {
        self.dir.path().join("context")
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, bytes).expect("written");
        let time = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::new(1_136_239_445, 123_456_789));
        fs::File::open(&path).and_then(|file| file.set_times(time)).expect("a time");
    }

    pub(super) fn local(&self) -> TreeValue {
        let context = LocalContext { path: self.context(), ignore: None, empty: false };
        TreeValue::Local(Arc::new(LocalTree::open(&context, &self.store).expect("opened")))
    }

    pub(super) fn run(&self, base: Option<&Stack>, from: TreeValue, actions: Vec<FileAction>) -> Result<(Stack, Vec<String>), StepError> {
        let op = FileOp { base: base.is_some(), actions };
        let inputs = match base {
            Some(base) => vec![TreeValue::Stack(base.clone()), from],
            None => vec![from],
        };
        let layer = execute(&op, &inputs, &|stack| self.store.stack_dirs(stack), &self.store, None, StopSignal::default())?;
        let paths = layer.toc.entries.iter().filter(|e| !e.path.is_root()).map(|e| e.path.display() + if e.node == Node::Dir { "/" } else { "" });
        let paths = paths.collect();
        let added = StackLayer { id: layer.id, content: layer.content };
        self.store.publish(layer).expect("published");
        Ok((base.cloned().unwrap_or_default().with(added), paths))
    }

    /// Copies from the context onto `base`.
    fn copy(&self, base: &Stack, copying: Copying<'_>) -> Stack {
        self.copied(base, copying).0
    }

    fn copied(&self, base: &Stack, copying: Copying<'_>) -> (Stack, Vec<String>) {
        self.run(Some(base), self.local(), vec![copying.action(1, true)]).expect("copied")
    }

    pub(super) fn copy_from(&self, from: &Stack, base: &Stack, copying: Copying<'_>) -> Stack {
        self.run(Some(base), TreeValue::Stack(from.clone()), vec![copying.action(1, false)]).expect("copied").0
    }

    fn failure(&self, base: &Stack, copying: Copying<'_>) -> String {
        self.run(Some(base), self.local(), vec![copying.action(1, true)]).expect_err("an error").to_string()
    }

    /// A base made by hand: directories, files with content, links.
    pub(super) fn base(&self, entries: &[(&str, Make)]) -> Stack {
        let snapshot = ActiveSnapshot::create(self.store.tmp_dir().expect("tmp"), &[]).expect("a snapshot");
        let mut writer = snapshot.writer().expect("a writer");
        let dir = builder_snapshot::toc::Meta { mode: 0o755, ..Default::default() };
        for (path, make) in entries {
            let path = TreePath::new(path).expect("clean");
            writer.make_dirs(&path.parent().expect("a parent"), &dir).expect("made");
            let meta = |mode, uid, gid| builder_snapshot::toc::Meta { mode, uid, gid, ..Default::default() };
            match make {
                Make::Dir(mode, uid, gid) => writer.make_dir(&path, &meta(*mode, *uid, *gid)).expect("made"),
                Make::File(text, mode, uid, gid) => {
                    let content = builder_snapshot::snapshot::FileContent::Bytes(text.as_bytes());
                    writer.put_file(&path, content, &meta(*mode, *uid, *gid)).map(drop).expect("put");
                }
                Make::Link(target) => writer.put_symlink(&path, target.as_bytes(), &meta(0o777, 0, 0)).expect("put"),
                Make::Hard(target) => writer.hard_link(&TreePath::new(target).expect("clean"), &path).expect("linked"),
                Make::Fifo => writer.put_fifo(&path, &meta(0o640, 0, 0)).expect("put"),
                Make::Device(block) => {
                    let device = builder_snapshot::snapshot::Device { block: *block, major: 1, minor: 3 };
                    writer.put_device(&path, device, &meta(0o600, 0, 0)).expect("put");
                }
                Make::Capability => {
                    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                    let xattrs = vec![(Box::from(&b"security.capability"[..]), Box::from(&capability[..]))];
                    let meta = builder_snapshot::toc::Meta { xattrs, ..meta(0o755, 0, 0) };
                    let content = builder_snapshot::snapshot::FileContent::Bytes(b"f");
                    writer.put_file(&path, content, &meta).map(drop).expect("put");
                }
            }
        }
        let layer = snapshot.commit_written(writer.finish().expect("a table")).expect("committed");
        let added = StackLayer { id: layer.id, content: layer.content };
        self.store.publish(layer).expect("published");
        Stack::default().with(added)
    }

    pub(super) fn entry(&self, stack: &Stack, path: &str) -> Option<Entry> {
        StackTree::read(stack, &self.store).expect("tables").lookup(&TreePath::new(path).expect("clean")).expect("looked")
    }

    /// `kind mode uid:gid content`, as the merged tables and the files of the layers have it.
    fn show(&self, stack: &Stack, path: &str) -> String {
        let Some(entry) = self.entry(stack, path) else { return "absent".to_owned() };
        let owner = if (entry.meta.uid, entry.meta.gid) == (0, 0) { String::new() } else { format!(" {}:{}", entry.meta.uid, entry.meta.gid) };
        let mode = format!("{:04o}{owner}", entry.meta.mode);
        let files = MergedTree::open(&self.store.stack_dirs(stack)).expect("opened");
        let tree_path = TreePath::new(path).expect("clean");
        let found = files.lookup(&tree_path).expect("looked").expect("there");
        assert_eq!(
            (found.meta.mode, found.meta.uid, found.meta.gid, found.meta.mtime),
            (entry.meta.mode, entry.meta.uid, entry.meta.gid, entry.meta.mtime),
            "{path}"
        );
        match entry.node {
            EntryNode::Dir => format!("dir {mode}"),
            EntryNode::File { digest, .. } => {
                let bytes = std::io::read_to_string(files.open_file(&tree_path).expect("opened")).expect("read");
                assert_eq!(digest, Some(Sha256Digest::of(bytes.as_bytes())), "{path}");
                format!("file {mode} {}", bytes.trim_end())
            }
            EntryNode::Symlink { target } => format!("link{owner} {}", String::from_utf8_lossy(&target)),
            other => format!("{other:?} {mode}"),
        }
    }

    pub(super) fn shows(&self, stack: &Stack, expected: &[(&str, &str)]) {
        for (path, expected) in expected {
            assert_eq!(self.show(stack, path), *expected, "{path}");
        }
    }
}

pub(super) enum Make {
    Dir(u32, u32, u32),
    File(&'static str, u32, u32, u32),
    Link(&'static str),
    Hard(&'static str),
    Fifo,
    Device(bool),
    Capability,
}

pub(super) fn scratch() -> Stack {
    Stack::default()
}

#[test]
fn a9_1_a9_4_destinations() {
    let case = Case::app();
    let base = case.base(&[("etc", Make::Dir(0o755, 0, 0)), ("w", Make::Dir(0o755, 0, 0))]);
    for (sources, dest, paths) in [
        (&["README.md"][..], "/w/readme", "/w/ /w/readme"),
        (&["README.md"], "/w/newdir/", "/w/ /w/newdir/ /w/newdir/README.md"),
        (&["README.md"], "/etc", "/etc/ /etc/README.md"),
        (&["README.md", "package.json"], "/w/multi/", "/w/ /w/multi/ /w/multi/README.md /w/multi/package.json"),
        (&["README.md", "package.json"], "/dest", "/dest"),
        (&["app"], "/app", "/app/ /app/empty/ /app/lib/ /app/lib/one.txt /app/lib/two.txt /app/main.txt /app/run.sh"),
        (&["app/lib/."], "/dot/", "/dot/ /dot/one.txt /dot/two.txt"),
        (&["./app/../README.md"], "/clean/R", "/clean/ /clean/R"),
        (&["app/lib", "README.md"], "/mixed/", "/mixed/ /mixed/README.md /mixed/one.txt /mixed/two.txt"),
        (&["nothing*.here"], "/none/", ""),
    ] {
        assert_eq!(case.copied(&base, copying("", sources, dest)).1.join(" "), paths, "{sources:?} {dest}");
    }
    let stack = case.copy(&scratch(), copying("", &["README.md", "package.json"], "/dest"));
    case.shows(&stack, &[("dest", "file 0644 {}")]);
}

#[test]
fn a9_5_modes_owners_and_times() {
    let case = Case::new();
    for (path, mode) in [("src/f0600", 0o600), ("src/f4755", 0o4755), ("src/d0700/inner/x", 0o440), ("src/d0700", 0o700), ("src/d0700/inner", 0o711)]
    {
        if !case.context().join(path).exists() {
            case.write(path, b"x");
        }
        fs::set_permissions(case.context().join(path), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let stack = case.copy(&scratch(), copying("", &["src"], "/dst"));
    case.shows(
        &stack,
        &[
            ("dst", "dir 0755"),
            ("dst/f0600", "file 0600 x"),
            ("dst/f4755", "file 4755 x"),
            ("dst/d0700", "dir 0700"),
            ("dst/d0700/inner", "dir 0711"),
        ],
    );
    let time = Timestamp { seconds: 1_136_239_445, nanos: 123_456_789 };
    assert_eq!(case.entry(&stack, "dst/f0600").expect("there").meta.mtime, time);
    let stack = case.copy(&scratch(), copying("", &["src/d0700/"], "/merged/"));
    case.shows(&stack, &[("merged", "dir 0755"), ("merged/inner/x", "file 0440 x")]);
    let stack = case.copy(&scratch(), copying("", &["src/f0600"], "/deep/er/f"));
    case.shows(&stack, &[("deep", "dir 0755"), ("deep/er", "dir 0755"), ("deep/er/f", "file 0600 x")]);
    assert!(case.entry(&stack, "deep").expect("there").meta.made_by_step, "a made directory has the step's time");
    assert!(!case.entry(&stack, "deep/er/f").expect("there").meta.made_by_step);
}

#[test]
fn a9_5_merging_into_what_is_there() {
    let case = Case::app();
    let base = case.base(&[
        ("d", Make::Dir(0o755, 5, 6)),
        ("d/lib", Make::Dir(0o700, 5, 6)),
        ("d/main.txt", Make::File("old", 0o644, 5, 6)),
        ("d/keep", Make::File("keep\n", 0o644, 5, 6)),
        ("d/lnk", Make::Link("keep")),
        ("hard", Make::Hard("d/keep")),
    ]);
    let stack = case.copy(&base, copying("", &["app/"], "/d/"));
    case.shows(&stack, &[("d", "dir 0755 5:6"), ("d/lib", "dir 0755"), ("d/main.txt", "file 0644 main"), ("d/keep", "file 0644 5:6 keep")]);
    let (stack, paths) = case.copied(&stack, copying("", &["README.md"], "/d/lnk"));
    assert_eq!(paths.join(" "), "/d/ /d/keep");
    case.shows(&stack, &[("d/keep", "file 0644 r"), ("d/lnk", "link keep"), ("hard", "file 0644 5:6 keep")]);
    let (_, paths) = case.copied(&stack, copying("", &["README.md"], "/d/keep"));
    assert_eq!(paths.join(" "), "", "what is there already enters no layer");
}

#[test]
fn a9_3_links_in_the_destination_are_followed_inside_it() {
    let case = Case::app();
    let base = case.base(&[
        ("real", Make::Dir(0o755, 0, 0)),
        ("lnk", Make::Link("real")),
        ("deep", Make::Link("/real/sub")),
        ("escape", Make::Link("/../../../real")),
        ("real/README.md", Make::Link("/target")),
    ]);
    for (dest, paths) in [
        ("/lnk/", "/real/ /real/README.md"),
        ("/escape/two", "/real/ /real/two"),
        ("/deep/", "/real/ /real/sub/ /real/sub/README.md"),
        ("/deep/a/b", "/real/ /real/sub/ /real/sub/a/ /real/sub/a/b"),
    ] {
        assert_eq!(case.copied(&base, copying("", &["README.md"], dest)).1.join(" "), paths, "{dest}");
    }
}

#[test]
fn a9_4_files_and_directories_do_not_replace_each_other() {
    let case = Case::app();
    let base = case.base(&[
        ("dst/main.txt", Make::Dir(0o755, 0, 0)),
        ("file", Make::File("", 0o644, 0, 0)),
        ("sub/lib", Make::File("", 0o644, 0, 0)),
        ("linked/lib", Make::Link("/dst")),
    ]);
    for (sources, dest, named) in [
        (&["app"][..], "/dst", "/dst/main.txt"),
        (&["app"], "/file", "cannot copy to non-directory: /file"),
        (&["README.md"], "/file/", "/file"),
        (&["README.md"], "/file/x", "/file"),
        (&["app"], "/sub", "cannot copy to non-directory: /sub/lib"),
        (&["app"], "/linked", "cannot copy to non-directory: /linked/lib"),
    ] {
        let error = case.failure(&base, copying("", sources, dest));
        assert!(error.contains(named), "{sources:?} {dest}: {error}");
    }
    let error = case.failure(&base, copying("", &["app/absent.txt"], "/x"));
    assert!(error.contains("\"/app/absent.txt\": not found"), "{error}");
}

#[test]
fn a9_8_chown() {
    let case = Case::app();
    let base = case.base(&[
        ("etc/passwd", Make::File("root:x:0:0::/:\napp:x:1500:1600:a:/:/bin/sh\n", 0o644, 0, 0)),
        ("etc/group", Make::File("root:x:0:\nteam:x:1700:\n", 0o644, 0, 0)),
        ("s", Make::Dir(0o755, 11, 22)),
        ("s/f", Make::File("f", 0o644, 11, 22)),
    ]);
    for (owner, expected) in [
        ("1000:2000", " 1000:2000"),
        ("3000", " 3000:3000"),
        ("app", " 1500:1600"),
        ("app:team", " 1500:1700"),
        ("root:team", " 0:1700"),
        ("77:team", " 77:1700"),
        (":team", " 0:1700"),
    ] {
        let stack = case.copy(&base, copying(&format!("--chown={owner}"), &["app/lib"], "/made/by"));
        case.shows(&stack, &[("made", &format!("dir 0755{expected}")), ("made/by", &format!("dir 0755{expected}"))]);
        assert_eq!(case.show(&stack, "made/by/one.txt"), format!("file 0644{expected} 1"), "{owner}");
    }
    let stack = case.copy_from(&base, &scratch(), copying("", &["/s"], "/kept"));
    case.shows(&stack, &[("kept", "dir 0755"), ("kept/f", "file 0644 11:22 f")]);
    let stack = case.copy_from(&base, &scratch(), copying("--chown=0:0", &["/s"], "/zeroed"));
    case.shows(&stack, &[("zeroed/f", "file 0644 f")]);
    let error = case.failure(&base, copying("--chown=ghost:users", &["README.md"], "/x"));
    assert!(error.contains("ghost"), "{error}");
    // --link: no tree to look names up in.
    let action = copying("--chown=app", &["README.md"], "/x").action(0, true);
    let error = case.run(None, case.local(), vec![action]).expect_err("no names").to_string();
    assert!(error.contains("user"), "{error}");
}

#[test]
fn a9_9_chmod() {
    let case = Case::new();
    let from = case.base(&[
        ("s/d", Make::Dir(0o755, 0, 0)),
        ("s/f", Make::File("", 0o644, 0, 0)),
        ("s/x", Make::File("", 0o755, 0, 0)),
        ("s/l", Make::Link("f")),
    ]);
    for (mode, source, dest, expected) in [
        (
            "750",
            "/s",
            "/octal/parent/",
            &[
                ("octal", "dir 0750"),
                ("octal/parent", "dir 0750"),
                ("octal/parent/d", "dir 0750"),
                ("octal/parent/f", "file 0750 "),
                ("octal/parent/l", "link f"),
            ][..],
        ),
        ("4711", "/s/f", "/suid", &[("suid", "file 4711 ")]),
        ("u=rwX,go=rX", "/s", "/symbolic/", &[("symbolic", "dir 0755"), ("symbolic/f", "file 0644 "), ("symbolic/x", "file 0755 ")]),
        ("a+x,o-r", "/s/f", "/plus", &[("plus", "file 0751 ")]),
        ("g=u,o=", "/s/x", "/from-user", &[("from-user", "file 0770 ")]),
        ("0", "/s/f", "/none", &[("none", "file 0000 ")]),
    ] {
        let stack = case.copy_from(&from, &scratch(), copying(&format!("--chmod={mode}"), &[source], dest));
        case.shows(&stack, expected);
    }
}

#[test]
fn a9_5_special_files_and_hard_links() {
    let case = Case::new();
    let from = case.base(&[
        ("s/a", Make::File("one", 0o644, 0, 0)),
        ("s/b", Make::Hard("s/a")),
        ("s/sub/c", Make::Hard("s/a")),
        ("s/pipe", Make::Fifo),
        ("s/null", Make::Device(false)),
        ("s/disk", Make::Device(true)),
        ("s/l", Make::Link("a")),
        ("s/cap", Make::Capability),
    ]);
    let stack = case.copy_from(&from, &scratch(), copying("", &["/s"], "/all"));
    case.shows(
        &stack,
        &[("all/a", "file 0644 one"), ("all/b", "file 0644 one"), ("all/sub/c", "file 0644 one"), ("all/l", "link a"), ("all/pipe", "Fifo 0640")],
    );
    case.shows(&stack, &[("all/null", "CharDevice { major: 1, minor: 3 } 0600"), ("all/disk", "BlockDevice { major: 1, minor: 3 } 0600")]);
    let group = |path| match case.entry(&stack, path).expect("there").node {
        EntryNode::File { group, .. } => group,
        other => panic!("{other:?}"),
    };
    assert!(group("all/a").is_some());
    assert_eq!((group("all/a"), group("all/a")), (group("all/b"), group("all/sub/c")));
    assert_eq!(case.entry(&stack, "all/cap").expect("there").meta.xattrs.len(), 1);
    let alone = case.copy_from(&from, &scratch(), copying("--chown=1:1", &["/s/cap"], "/owned"));
    assert_eq!(case.entry(&alone, "owned").expect("there").meta.xattrs.len(), 1, "--chown keeps capabilities");
    // In a context they stay together too.
    case.write("d/a", b"same");
    fs::hard_link(case.context().join("d/a"), case.context().join("d/b")).expect("linked");
    let stack = case.copy(&scratch(), copying("", &["d"], "/d"));
    let table = case.store.read_toc(stack.layers[0].id).expect("a table");
    let linked: Vec<&TocEntry> = table.entries.iter().filter(|entry| matches!(entry.node, Node::Hardlink { .. })).collect();
    assert_eq!(linked.len(), 1);
}

#[test]
fn a9_10_without_a_base_directories_are_new() {
    let case = Case::app();
    let action = |flags, sources, dest| copying(flags, sources, dest).action(0, true);
    let (stack, paths) = case.run(None, case.local(), vec![action("--chmod=0711", &["README.md"], "/moded/f")]).expect("copied");
    assert_eq!(paths.join(" "), "/moded/ /moded/f");
    case.shows(&stack, &[("moded", "dir 0711"), ("moded/f", "file 0711 r")]);
}

#[test]
fn a9_11_parents_take_over_metadata() {
    let case = Case::new();
    let from = case.base(&[("a", Make::Dir(0o2750, 0, 0)), ("a/b", Make::Dir(0o711, 3, 4)), ("a/b/f", Make::File("", 0o644, 0, 0))]);
    let stack = case.copy_from(&from, &scratch(), copying("--parents", &["/a/b/f"], "/to/"));
    case.shows(&stack, &[("to", "dir 0755"), ("to/a", "dir 2750"), ("to/a/b", "dir 0711 3:4"), ("to/a/b/f", "file 0644 ")]);
    let stack = case.copy_from(&from, &scratch(), copying("--parents", &["/a/./b/"], "/dot/"));
    case.shows(&stack, &[("dot", "dir 0755"), ("dot/b", "dir 0711 3:4"), ("dot/b/f", "file 0644 ")]);
}

#[test]
fn a9_14_archives_are_unpacked() {
    let case = Case::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o750);
    header.set_uid(3);
    header.set_gid(4);
    header.set_size(0);
    builder.append_data(&mut header, "top/", std::io::empty()).expect("appended");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o4755);
    header.set_uid(5);
    header.set_gid(6);
    header.set_size(2);
    builder.append_data(&mut header, "top/f", &b"f\n"[..]).expect("appended");
    let tar = builder.into_inner().expect("a tar");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).expect("compressed");
    let gzip = gzip.finish().expect("compressed");
    case.write("a.tar", &tar);
    case.write("renamed.txt", &gzip);
    case.write("cut.tgz", &[&gzip[..gzip.len() - 30], &[0xff; 10]].concat());
    case.write("fake.tar.gz", b"not an archive\n");
    case.write("dir/inner.tar", &tar);
    for source in ["a.tar", "renamed.txt"] {
        let stack = case.copy(&scratch(), copying("ADD", &[source], "/x"));
        case.shows(&stack, &[("x", "dir 0755"), ("x/top", "dir 0750 3:4"), ("x/top/f", "file 4755 5:6 f")]);
        let stack = case.copy(&scratch(), copying("ADD --chown=9:10", &[source], "/x/"));
        case.shows(&stack, &[("x", "dir 0755 9:10"), ("x/top", "dir 0750 9:10"), ("x/top/f", "file 4755 9:10 f")]);
    }
    let stack = case.copy(&scratch(), copying("ADD", &["fake.tar.gz", "dir"], "/x/"));
    case.shows(&stack, &[("x/fake.tar.gz", "file 0644 not an archive")]);
    assert!(case.entry(&stack, "x/inner.tar").is_some());
    let stack = case.copy(&scratch(), copying("COPY", &["a.tar"], "/x/"));
    assert!(case.entry(&stack, "x/a.tar").is_some());
    let error = case.failure(&scratch(), copying("ADD", &["cut.tgz"], "/x/"));
    assert!(error.contains("cut.tgz") && error.contains("docker build reports this as \"exit status 1: unpigz: "), "{error}");
    // What is wrong with the tar inside is told by everyone in words of their own.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&[&tar[..1024 + 100], &[0xff; 924][..]].concat()).expect("compressed");
    case.write("bad.tgz", &encoder.finish().expect("compressed"));
    let error = case.failure(&scratch(), copying("ADD", &["bad.tgz"], "/x/"));
    assert!(error.contains("bad.tgz") && !error.contains("unpigz"), "{error}");
}

#[test]
fn a10_1_workdir() {
    let case = Case::new();
    let base = case.base(&[("have", Make::Dir(0o700, 1, 2)), ("lnk", Make::Link("have")), ("file", Make::File("", 0o644, 0, 0))]);
    let make = |path: &str, owner: Option<&str>| {
        let owner = owner.map(|text| Owner { text: text.to_owned() });
        case.run(Some(&base), TreeValue::Stack(scratch()), vec![FileAction::MakeDir { path: path.to_owned(), mode: 0o755, owner }])
    };
    for (path, paths) in [("/", ""), ("/have", ""), ("/lnk", ""), ("/lnk/new", "/have/ /have/new/"), ("/a/b", "/a/ /a/b/")] {
        assert_eq!(make(path, None).expect(path).1.join(" "), paths, "{path}");
    }
    let (stack, _) = make("/a/b", Some("7:8")).expect("made");
    case.shows(&stack, &[("a", "dir 0755 7:8"), ("a/b", "dir 0755 7:8"), ("have", "dir 0700 1:2")]);
    assert!(make("/file", None).expect_err("a file").to_string().contains("/file"));
}

#[test]
fn a3_5_heredocs() {
    let case = Case::new();
    let base = case.base(&[("dir", Make::Dir(0o755, 0, 0))]);
    let make = |to: &str, chmod: Option<&str>, owner: Option<&str>| {
        let action = FileAction::MakeFile {
            dest: dest(to),
            name: "EOF".to_owned(),
            data: b"text".to_vec(),
            chmod: chmod.map(|text| Chmod::parse(text).expect(text)),
            owner: owner.map(|text| Owner { text: text.to_owned() }),
        };
        case.run(Some(&base), TreeValue::Stack(scratch()), vec![action]).expect(to).0
    };
    case.shows(&make("/dir", None, None), &[("dir/EOF", "file 0644 text")]);
    case.shows(&make("/new/", None, None), &[("new/EOF", "file 0644 text")]);
    case.shows(&make("/usr/bin/tool", Some("0755"), Some("33:33")), &[("usr/bin", "dir 0755 33:33"), ("usr/bin/tool", "file 0755 33:33 text")]);
    case.shows(&make("/f", Some("u+x"), None), &[("f", "file 0744 text")]);
}

#[test]
fn threats_nothing_is_read_or_written_outside_the_trees() {
    let case = Case::app();
    let canary = case.dir.path().join("canary");
    fs::create_dir(&canary).expect("a directory");
    fs::write(canary.join("secret"), "secret").expect("written");
    symlink(&canary, case.context().join("out")).expect("a link");
    symlink("../canary/secret", case.context().join("up")).expect("a link");
    let target: &'static str = Box::leak(canary.display().to_string().into_boxed_str());
    let base = case.base(&[("out", Make::Link(target)), ("up", Make::Link("../../../../canary"))]);
    for source in ["out/secret", "up", "out", "../canary/secret"] {
        assert!(case.failure(&base, copying("", &[source], "/x/")).contains("not found"), "{source}");
    }
    for to in ["/out/x", "/up/x"] {
        case.copy(&base, copying("", &["README.md"], to));
    }
    assert_eq!(fs::read_dir(&canary).expect("listed").count(), 1);
    // Links found on the way are copied as they are, wherever they lead.
    let stack = case.copy(&scratch(), copying("", &["."], "/c/"));
    assert_eq!(case.show(&stack, "c/up"), "link ../canary/secret");
}

#[test]
fn what_is_copied_is_what_was_hashed() {
    let case = Case::app();
    let local = case.local();
    let op = FileOp { base: false, actions: vec![copying("", &["README.md"], "/x").action(0, true)] };
    let before = selection_digest(&op, 0, &local, &case.store).expect("a digest");
    case.write("README.md", b"other\n");
    let dirs = |stack: &Stack| case.store.stack_dirs(stack);
    let error = execute(&op, std::slice::from_ref(&local), &dirs, &case.store, None, StopSignal::default()).expect_err("changed").to_string();
    assert!(error.contains("/README.md") && error.contains("changed"), "{error}");
    assert_ne!(selection_digest(&op, 0, &case.local(), &case.store).expect("a digest"), before);
}

#[test]
fn b2_6_subtrees() {
    let case = Case::new();
    let one = case.base(&[("a/src/f", Make::File("f", 0o644, 0, 0)), ("other", Make::File("1", 0o644, 0, 0))]);
    let two = case.base(&[("a/src/f", Make::File("f", 0o644, 0, 0)), ("other", Make::File("2", 0o644, 0, 0)), ("l", Make::Link("a"))]);
    let digest = |stack: &Stack, path: &str| subtree_digest(stack, &TreePath::new(path).expect("clean"), &case.store);
    assert_eq!(digest(&one, "a/src").expect("a digest"), digest(&two, "l/src").expect("a digest"));
    assert_ne!(digest(&one, "").expect("a digest"), digest(&two, "").expect("a digest"));
    assert!(digest(&one, "l/src").expect_err("missing").to_string().contains("not found"));
}
