//! Random trees as lists of operations, and listings of trees by each way there is to look at them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use builder_snapshot::snapshot::{ActiveSnapshot, Device, FileContent, Snapshotter, TreeWriter};
use builder_snapshot::toc::{Meta, Node, Timestamp, Toc};
use builder_snapshot::tree::{FoundKind, MergedTree};
use builder_snapshot::{Sha256Digest, StopSignal, TreePath};
use proptest::prelude::*;

/// One change. Paths are of a small world, so that they meet.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Dir(TreePath, Meta),
    File(TreePath, Vec<u8>, Meta),
    Symlink(TreePath, Vec<u8>, Meta),
    Fifo(TreePath, Meta),
    Device(TreePath, Meta),
    Link(TreePath, TreePath),
    Remove(TreePath),
    Chmod(TreePath, Meta),
}

const NAMES: [&[u8]; 9] = [
    b"a",
    b"b",
    b"c",
    b"a.b",
    "gr\u{fc}n".as_bytes(),
    b"not\xffutf8",
    b"with space",
    b"a-name-that-is-longer-than-a-ustar-header-can-take-in-its-name-field-so-that-it-needs-a-pax-header-to-be-written",
    b".hidden",
];

pub(crate) fn path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..4).prop_map(|names| TreePath::new(names.join(&b'/')).expect("clean"))
}

fn meta() -> impl Strategy<Value = Meta> {
    let mode = prop::sample::select(vec![0o644, 0o755, 0o600, 0o4755, 0o2775, 0o1777, 0o000]);
    let id = prop::sample::select(vec![0_u32, 0, 0, 1, 1000, 65534, 3_000_000]);
    let nanos = prop::sample::select(vec![0_u32, 0, 1, 500_000_000, 999_999_999]);
    let seconds = prop::sample::select(vec![0_i64, 1, 1_600_000_000, 1_700_000_000, -5]);
    let xattrs = prop::sample::select(vec![vec![], vec![], vec![], vec![(&b"user.note"[..], &b"line\nline\0"[..])]]);
    (mode, id.clone(), id, seconds, nanos, xattrs).prop_map(|(mode, uid, gid, seconds, nanos, xattrs)| Meta {
        mode,
        uid,
        gid,
        mtime: Timestamp { seconds, nanos },
        made_by_step: false,
        xattrs: xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    })
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let content = prop_oneof![Just(vec![]), prop::collection::vec(any::<u8>(), 1..40), (0_usize..1500).prop_map(|n| vec![b'x'; n])];
    let target = prop::sample::select(vec![
        &b"a"[..],
        b"/a/b",
        b"../../../../etc/passwd",
        b"\xff",
        b"a-very-long-target/a-very-long-target/a-very-long-target/a-very-long-target/a-very-long-target/x",
    ]);
    prop_oneof![
        3 => (path(), meta()).prop_map(|(path, meta)| Op::Dir(path, meta)),
        5 => (path(), content, meta()).prop_map(|(path, content, meta)| Op::File(path, content, meta)),
        1 => (path(), target, meta()).prop_map(|(path, target, meta)| Op::Symlink(path, target.to_vec(), meta)),
        1 => (path(), meta()).prop_map(|(path, meta)| Op::Fifo(path, meta)),
        1 => (path(), meta()).prop_map(|(path, meta)| Op::Device(path, meta)),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        3 => path().prop_map(Op::Remove),
        1 => (path(), meta()).prop_map(|(path, meta)| Op::Chmod(path, meta)),
    ]
}

pub(crate) fn layers() -> impl Strategy<Value = Vec<Vec<Op>>> {
    prop::collection::vec(prop::collection::vec(op(), 0..14), 1..4)
}

/// Does one operation if it makes sense; parents are made, or the operation left out where something is in the way.
pub(crate) fn write(writer: &mut TreeWriter, op: &Op) {
    let dir = Meta { mode: 0o755, ..Meta::default() };
    let path = match op {
        Op::Dir(path, _) | Op::File(path, ..) | Op::Symlink(path, ..) | Op::Fifo(path, _) | Op::Device(path, _) => path,
        Op::Link(from, to) => {
            let is_file = writer.tree().lookup(from).expect("lookup").is_some_and(|found| matches!(found.kind, FoundKind::File { .. }));
            if !is_file || from.below(to).is_some() {
                return;
            }
            to
        }
        Op::Remove(path) => return writer.remove(path).expect("remove"),
        Op::Chmod(path, meta) => {
            if writer.tree().lookup(path).expect("lookup").is_some() {
                writer.set_meta(path, meta).expect("set_meta");
            }
            return;
        }
    };
    if writer.make_dirs(&path.parent().expect("not the root"), &dir).is_err() {
        return;
    }
    match op {
        Op::Dir(path, meta) => writer.make_dir(path, meta).expect("make_dir"),
        Op::File(path, content, meta) => {
            let (size, digest) = writer.put_file(path, FileContent::Bytes(content), meta).expect("put_file");
            assert_eq!((size, digest), (content.len() as u64, Sha256Digest::of(content)));
        }
        Op::Symlink(path, target, meta) => writer.put_symlink(path, target, meta).expect("put_symlink"),
        Op::Fifo(path, meta) => writer.put_fifo(path, meta).expect("put_fifo"),
        Op::Device(path, meta) => writer.put_device(path, Device { block: false, major: 1, minor: 3 }, meta).expect("put_device"),
        Op::Link(from, to) => writer.hard_link(from, to).expect("hard_link"),
        Op::Remove(_) | Op::Chmod(..) => {}
    }
}

/// A stack of published layers in a temporary directory.
pub(crate) struct Stack {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) tocs: Vec<Toc>,
}

impl Stack {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "owners, devices and overlay mounts need root: run these tests as root");
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["tmp", "layers"] {
            fs::create_dir(dir.path().join(name)).expect("directory");
        }
        Self { dir, layers: Vec::new(), tocs: Vec::new() }
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    pub(crate) fn snapshot(&self) -> ActiveSnapshot {
        ActiveSnapshot::create(&self.tmp(), &self.layers).expect("create")
    }

    /// A snapshot for a process, on an overlay or on a copy.
    pub(crate) fn prepare(&self, snapshotter: &Snapshotter) -> ActiveSnapshot {
        snapshotter.prepare(&self.tmp(), &self.layers, &StopSignal::default()).expect("prepare")
    }

    /// Writes one more layer; returns its table.
    pub(crate) fn write(&mut self, act: impl FnOnce(&mut TreeWriter)) -> &Toc {
        let snapshot = self.snapshot();
        let mut writer = snapshot.writer().expect("writer");
        act(&mut writer);
        let toc = writer.finish().expect("finish");
        let layer = snapshot.commit_written(toc).expect("commit_written");
        self.publish(layer)
    }

    pub(crate) fn publish(&mut self, layer: builder_snapshot::snapshot::CommittedLayer) -> &Toc {
        assert_eq!((layer.id, layer.content), (layer.toc.layer_id(), layer.toc.content_id()));
        let toc = layer.toc.clone();
        let fs = layer.publish(&self.dir.path().join("layers")).expect("publish");
        let stored = fs::read(fs.with_file_name("toc")).expect("toc");
        assert_eq!(Toc::unseal(&stored).expect("unseal"), toc);
        self.layers.push(fs);
        self.tocs.push(toc);
        self.tocs.last().expect("pushed")
    }

    pub(crate) fn tree(&self) -> MergedTree {
        MergedTree::open(&self.layers).expect("open")
    }

    pub(crate) fn merged_toc(&self) -> Toc {
        builder_snapshot::toc::merge(&self.tocs.iter().collect::<Vec<_>>())
    }
}

/// One line for each path: all that a user could see of it. The root is left out.
pub(crate) type Listing = BTreeMap<TreePath, String>;

fn line(kind: &str, mode: u32, uid: u32, gid: u32, time: Option<Timestamp>, rest: impl std::fmt::Debug) -> String {
    let time = time.map(|t| format!(" {}.{:09}", t.seconds, t.nanos)).unwrap_or_default();
    format!("{kind} {mode:o} {uid}:{gid}{time} {rest:?}")
}

/// Whether two names are one file is not in a listing; times of directories are not either.
pub(crate) fn of_tree(tree: &MergedTree) -> Listing {
    let mut listing = Listing::new();
    let mut pending = vec![TreePath::root()];
    while let Some(dir) = pending.pop() {
        for entry in tree.read_dir(&dir).expect("read_dir") {
            let path = dir.child(&entry.name);
            let found = tree.lookup(&path).expect("lookup").expect("listed");
            let Meta { mode, uid, gid, mtime, .. } = found.meta;
            let text = match &found.kind {
                FoundKind::Dir => {
                    pending.push(path.clone());
                    line("dir", mode, uid, gid, None, "")
                }
                FoundKind::File { size, .. } => {
                    let mut bytes = Vec::new();
                    tree.open_file(&path).expect("open_file").read_to_end(&mut bytes).expect("read");
                    line("file", mode, uid, gid, Some(mtime), (*size, Sha256Digest::of(&bytes)))
                }
                FoundKind::Symlink { target } => line("link", mode, uid, gid, Some(mtime), target),
                FoundKind::CharDevice { major, minor } => line("char", mode, uid, gid, Some(mtime), (major, minor)),
                FoundKind::BlockDevice { major, minor } => line("block", mode, uid, gid, Some(mtime), (major, minor)),
                FoundKind::Fifo => line("fifo", mode, uid, gid, Some(mtime), ""),
                FoundKind::Socket => line("socket", mode, uid, gid, Some(mtime), ""),
            };
            listing.insert(path, text);
        }
    }
    listing
}

pub(crate) fn of_toc(toc: &Toc) -> Listing {
    let mut listing = Listing::new();
    for entry in &toc.entries {
        let mut meta = &entry.meta;
        let mut node = &entry.node;
        if let Node::Hardlink { target } = node {
            let original = toc.get(target).expect("target");
            (meta, node) = (&original.meta, &original.node);
        }
        let Meta { mode, uid, gid, mtime, .. } = *meta;
        let text = match node {
            Node::File { size, digest } => line("file", mode, uid, gid, Some(mtime), (size, digest)),
            Node::Dir => line("dir", mode, uid, gid, None, ""),
            Node::Symlink { target } => line("link", mode, uid, gid, Some(mtime), target),
            Node::CharDevice { major, minor } => line("char", mode, uid, gid, Some(mtime), (major, minor)),
            Node::BlockDevice { major, minor } => line("block", mode, uid, gid, Some(mtime), (major, minor)),
            Node::Fifo => line("fifo", mode, uid, gid, Some(mtime), ""),
            Node::Socket => line("socket", mode, uid, gid, Some(mtime), ""),
            Node::Hardlink { .. } | Node::Whiteout => unreachable!("merged, and resolved above"),
        };
        if !entry.path.is_root() {
            listing.insert(entry.path.clone(), text);
        }
    }
    listing
}

/// What the kernel shows below a directory of the host.
pub(crate) fn of_host(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut pending = vec![TreePath::root()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(root.join(dir.as_path())).expect("read_dir") {
            let path = dir.child(entry.expect("entry").file_name().as_bytes());
            let host = root.join(path.as_path());
            let meta = fs::symlink_metadata(&host).expect("stat");
            let (mode, uid, gid, kind) = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.file_type());
            let mtime = Some(Timestamp { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 });
            let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let text = if kind.is_dir() {
                pending.push(path.clone());
                line("dir", mode, uid, gid, None, "")
            } else if kind.is_file() {
                let bytes = fs::read(&host).expect("read");
                line("file", mode, uid, gid, mtime, (bytes.len(), Sha256Digest::of(&bytes)))
            } else if kind.is_symlink() {
                let target: Box<[u8]> = fs::read_link(&host).expect("link").as_os_str().as_bytes().into();
                line("link", 0o777, uid, gid, mtime, target)
            } else if kind.is_char_device() {
                line("char", mode, uid, gid, mtime, device)
            } else if kind.is_block_device() {
                line("block", mode, uid, gid, mtime, device)
            } else if kind.is_fifo() {
                line("fifo", mode, uid, gid, mtime, "")
            } else {
                line("socket", mode, uid, gid, mtime, "")
            };
            listing.insert(path, text);
        }
    }
    listing
}
