//! Properties over random trees.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use builder_snapshot::exec::stubs::{self, StubKind};
use builder_snapshot::layer::{self, ApplyLimits, TimePolicy};
use builder_snapshot::snapshot::{CommittedLayer, Snapshotter, SnapshotterKind};
use builder_snapshot::toc::{Meta, Node, Timestamp, Toc, TocEntry};
use builder_snapshot::tree::MergedTree;
use builder_snapshot::{Sha256Digest, TreePath};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode};

use crate::trees::{self, Op, Stack, of_host, of_toc, of_tree};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn tar_of(toc: &Toc, fs: &Path) -> Vec<u8> {
    let mut tar = Vec::new();
    layer::write_tar(toc, fs, TimePolicy::Keep, &mut tar).expect("write_tar");
    tar
}

proptest! {
    #![proptest_config(config(96))]

    /// What is written, what the table says and what a mount shows are one thing; a tar of it applied elsewhere has the same table.
    #[test]
    fn written_layers_look_the_same_from_every_side(layers in trees::layers()) {
        let mut stack = Stack::new();
        let elsewhere = tempfile::tempdir().expect("temporary directory");
        let mut applied: Vec<PathBuf> = Vec::new();
        for (i, ops) in layers.iter().enumerate() {
            stack.write(|writer| ops.iter().for_each(|op| trees::write(writer, op)));
            let (toc, fs) = (&stack.tocs[i], &stack.layers[i]);
            prop_assert_eq!(&Toc::decode(&toc.encode()).expect("canonical"), toc);

            let tar = tar_of(toc, fs);
            let into = elsewhere.path().join(i.to_string());
            let base = MergedTree::open(&applied).expect("open");
            let alone = layer::apply(&mut &tar[..], &into, None, &ApplyLimits::default()).expect("apply");
            prop_assert!(!alone.needs_base, "our own layers stand alone");
            prop_assert_eq!(without_root_time(&alone.toc), without_root_time(toc));
            prop_assert_eq!(&tar_of(&alone.toc, &into), &tar);
            let again = elsewhere.path().join(format!("{i}-on-base"));
            let on_base = layer::apply(&mut &tar[..], &again, Some(&base), &ApplyLimits::default()).expect("apply");
            prop_assert_eq!(without_root_time(&on_base.toc), without_root_time(toc));
            applied.push(into);
        }
        let seen = of_tree(&stack.tree());
        prop_assert_eq!(&of_toc(&stack.merged_toc()), &seen);
        prop_assert_eq!(&of_tree(&MergedTree::open(&applied).expect("open")), &seen);
        let snapshot = stack.snapshot();
        let mount = snapshot.mount(None).expect("mount");
        prop_assert_eq!(&of_host(&Path::new("/proc/self/fd").join(mount.as_raw_fd().to_string())), &seen);
    }

    /// What a process does on a mount is what the committed layer says, by its table, by its directory and by its tar.
    #[test]
    fn changes_through_a_mount_are_all_in_the_layer(layers in trees::layers(), step in prop::collection::vec(trees::op(), 0..16)) {
        let mut stack = Stack::new();
        for ops in &layers {
            stack.write(|writer| ops.iter().for_each(|op| trees::write(writer, op)));
        }
        let snapshot = stack.snapshot();
        let mount = snapshot.mount(None).expect("mount");
        let root = Path::new("/proc/self/fd").join(mount.as_raw_fd().to_string());
        step.iter().for_each(|op| act(&root, op));
        let seen = of_host(&root);
        drop(mount);
        let layer = snapshot.commit(Timestamp { seconds: 1_700_000_001, nanos: 0 }).expect("commit");
        let tar = tar_of(&layer.toc, layer.fs());
        let into = stack.dir.path().join("applied");
        let alone = layer::apply(&mut &tar[..], &into, None, &ApplyLimits::default()).expect("apply");
        prop_assert!(!alone.needs_base);
        prop_assert_eq!(tar_of(&alone.toc, &into), tar);
        let mut with_applied = stack.layers.clone();
        with_applied.push(into);
        prop_assert_eq!(&of_tree(&MergedTree::open(&with_applied).expect("open")), &seen);
        stack.publish(layer);
        prop_assert_eq!(&of_toc(&stack.merged_toc()), &seen);
        prop_assert_eq!(&of_tree(&stack.tree()), &seen);
    }
}

/// What only a process does.
#[derive(Debug, Clone)]
enum Deed {
    Op(Op),
    /// Not of directories: an overlay refuses to rename those of lower layers, and programs copy then.
    Rename(TreePath, TreePath),
    Append(TreePath),
    Capability(TreePath),
    Touch(TreePath),
}

fn deed() -> impl Strategy<Value = Deed> {
    let paths = (trees::path(), trees::path());
    prop_oneof![
        8 => trees::op().prop_map(Deed::Op),
        2 => paths.prop_map(|(from, to)| Deed::Rename(from, to)),
        1 => trees::path().prop_map(Deed::Append),
        1 => trees::path().prop_map(Deed::Capability),
        1 => trees::path().prop_map(Deed::Touch),
    ]
}

fn do_deed(root: &Path, deed: &Deed) {
    let at = |path: &TreePath| root.join(path.as_path());
    let is_file = |path: &TreePath| !below_link(root, path) && at(path).symlink_metadata().is_ok_and(|stat| stat.is_file());
    match deed {
        Deed::Op(op) => act(root, op),
        Deed::Rename(from, to) => {
            let is_dir = at(from).symlink_metadata().map_or(true, |stat| stat.is_dir());
            if !is_dir && !below_link(root, from) && !below_link(root, to) {
                let _ = fs::rename(at(from), at(to));
            }
        }
        Deed::Append(path) if is_file(path) => {
            let mut file = fs::OpenOptions::new().append(true).open(at(path)).expect("root opens everything");
            std::io::Write::write_all(&mut file, b"more").expect("write");
        }
        Deed::Capability(path) if is_file(path) => {
            let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
            rustix::fs::setxattr(at(path), "security.capability", capability, rustix::fs::XattrFlags::empty()).expect("set");
        }
        Deed::Touch(path) if !below_link(root, path) && !at(path).is_symlink() => {
            let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
            let _ = rustix::fs::utimensat(CWD, at(path), &rustix::fs::Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
        }
        _ => {}
    }
}

/// One step on a snapshot with mount points that are not part of it; what it saw before, and its layer.
fn run_step(stack: &Stack, snapshotter: &Snapshotter, deeds: &[Deed], stubs: Option<&Path>) -> (trees::Listing, CommittedLayer) {
    let snapshot = stack.prepare(snapshotter);
    let mount = snapshot.mount(stubs).expect("mount");
    let root = Path::new("/proc/self/fd").join(mount.as_raw_fd().to_string());
    let before = of_host(&root);
    deeds.iter().for_each(|deed| do_deed(&root, deed));
    drop(mount);
    (before, snapshot.commit(STARTED).expect("commit"))
}

/// Later than all times that are set by hand, earlier than the clock.
const STARTED: Timestamp = Timestamp { seconds: 1_700_000_001, nanos: 0 };

proptest! {
    #![proptest_config(config(24))]

    /// A chain of steps gives the same layers, byte for byte, on overlays and on a copy that is moved along.
    #[test]
    fn overlay_and_copy_give_the_same_layers(
        layers in trees::layers(),
        steps in prop::collection::vec((prop::collection::vec(deed(), 0..12), prop::collection::vec(trees::op(), 0..4)), 1..5),
    ) {
        let [mut on_overlay, mut on_copy] = [Stack::new(), Stack::new()];
        for ops in &layers {
            for stack in [&mut on_overlay, &mut on_copy] {
                stack.write(|writer| ops.iter().for_each(|op| trees::write(writer, op)));
            }
        }
        let [overlay, copy] = [SnapshotterKind::Overlay, SnapshotterKind::Copy].map(Snapshotter::new);
        let targets = ["run/secrets/s", "a/c", "b"].map(|path| (TreePath::new(path).expect("clean"), StubKind::Dir));
        for (number, (deeds, between)) in steps.iter().enumerate() {
            let stubs = on_overlay.dir.path().join(format!("stubs-{number}"));
            // Where something is in the way of a mount point, there is none.
            let stubs = stubs::prepare(&on_overlay.tree(), &targets, &stubs).unwrap_or_default();
            let (_, layer) = run_step(&on_overlay, &overlay, deeds, stubs.as_deref());
            let (before, same) = run_step(&on_copy, &copy, deeds, stubs.as_deref());
            let differs: Vec<_> = of_tree(&on_copy.tree()).into_iter().filter(|(path, line)| before.get(path) != Some(line)).collect();
            prop_assert!(differs.is_empty(), "step {} starts on its layers, but for {:?} in {:?}", number, differs, before);
            let bytes = |layer: &CommittedLayer| {
                let mut tar = Vec::new();
                layer::write_tar(&layer.toc, layer.fs(), TimePolicy::Clamp { epoch_seconds: 1_650_000_000 }, &mut tar).expect("write_tar");
                tar
            };
            prop_assert_eq!(without_made_times(&layer.toc), without_made_times(&same.toc), "step {}", number);
            prop_assert!(bytes(&layer) == bytes(&same), "step {}: the tars differ", number);
            on_overlay.publish(layer);
            on_copy.publish(same);
            prop_assert_eq!(of_tree(&on_copy.tree()), of_toc(&on_copy.merged_toc()), "step {}: the files are what the tables say", number);
            // As COPY between two RUNs.
            for stack in [&mut on_overlay, &mut on_copy] {
                stack.write(|writer| between.iter().for_each(|op| trees::write(writer, op)));
            }
        }
    }
}

/// Times that the clock made differ from run to run.
fn without_made_times(toc: &Toc) -> Toc {
    let mut toc = toc.clone();
    for entry in toc.entries.iter_mut().filter(|entry| entry.meta.made_by_step) {
        entry.meta.mtime = Timestamp::default();
    }
    toc
}

/// An ordinary root is not in a tar, so its time is not either.
fn without_root_time(toc: &Toc) -> Toc {
    let mut toc = toc.clone();
    if let Some(root) = toc.entries.first_mut() {
        root.meta.mtime = Timestamp::default();
    }
    toc
}

/// Never through a link: those of these trees point out of them.
fn below_link(root: &Path, path: &TreePath) -> bool {
    let mut above = path.parent();
    std::iter::from_fn(|| {
        let dir = above.take()?;
        above = dir.parent();
        Some(dir)
    })
    .any(|dir| root.join(dir.as_path()).is_symlink())
}

/// As [`trees::write`], with a process's own system calls. Failures are fine: the tree is what it is then.
fn act(root: &Path, op: &Op) {
    let at = |path: &TreePath| root.join(path.as_path());
    let set = |path: &TreePath, meta: &Meta| {
        let host = at(path);
        let _ = std::os::unix::fs::lchown(&host, Some(meta.uid), Some(meta.gid));
        if !host.is_symlink() {
            let _ = rustix::fs::chmod(&host, Mode::from_raw_mode(meta.mode));
        }
        let time = rustix::fs::Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let _ = rustix::fs::utimensat(CWD, &host, &times, AtFlags::SYMLINK_NOFOLLOW);
    };
    let has_link = |path: &TreePath| below_link(root, path);
    let make_way = |path: &TreePath| {
        if has_link(path) {
            return false;
        }
        let _ = fs::create_dir_all(at(&path.parent().expect("not the root")));
        if !at(path).is_dir() || at(path).is_symlink() {
            let _ = fs::remove_file(at(path));
        }
        true
    };
    match op {
        Op::Dir(path, meta) if make_way(path) => {
            let _ = fs::create_dir(at(path));
            set(path, meta);
        }
        Op::File(path, content, meta) if make_way(path) => {
            let made = fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(0o400_000).open(at(path));
            if let Ok(mut file) = made {
                std::io::Write::write_all(&mut file, content).expect("write");
                set(path, meta);
            }
        }
        Op::Symlink(path, target, meta) if make_way(path) => {
            let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(target);
            if symlink(target, at(path)).is_ok() {
                set(path, meta);
            }
        }
        Op::Fifo(path, meta) if make_way(path) && rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::empty(), 0).is_ok() => set(path, meta),
        Op::Device(path, meta)
            if make_way(path) && rustix::fs::mknodat(CWD, at(path), FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(1, 3)).is_ok() =>
        {
            set(path, meta)
        }
        Op::Link(from, to) if !has_link(from) && at(from).is_file() && !at(from).is_symlink() && from.below(to).is_none() && make_way(to) => {
            let _ = fs::hard_link(at(from), at(to));
        }
        Op::Remove(path) if !has_link(path) => {
            if at(path).is_dir() && !at(path).is_symlink() {
                let _ = fs::remove_dir_all(at(path));
            } else {
                let _ = fs::remove_file(at(path));
            }
        }
        Op::Chmod(path, meta) if !has_link(path) && at(path).symlink_metadata().is_ok() => set(path, meta),
        _ => {}
    }
}

fn any_toc() -> impl Strategy<Value = Toc> {
    let entry = ("[a-c]{1,2}(/[a-c]{1,2}){0,3}", any::<u64>(), 0_u8..8, any::<i64>(), 0_u32..1_000_000_000, any::<bool>(), 0_u32..0o10000);
    prop::collection::vec(entry, 0..20).prop_map(|entries| {
        let mut table = std::collections::BTreeMap::new();
        for (path, number, kind, seconds, nanos, made_by_step, mode) in entries {
            let node = match kind {
                0 | 1 => Node::File { size: number, digest: Sha256Digest::of(&number.to_le_bytes()) },
                2 => Node::Symlink { target: number.to_string().into_bytes().into() },
                3 => Node::CharDevice { major: number as u32, minor: 3 },
                4 => Node::BlockDevice { major: 3, minor: number as u32 },
                5 => Node::Fifo,
                6 => Node::Socket,
                _ => Node::Whiteout,
            };
            let xattrs = (0..number % 3).map(|i| (format!("user.{i}").into_bytes().into(), number.to_le_bytes().into())).collect();
            let meta = Meta { mode, uid: number as u32, gid: 7, mtime: Timestamp { seconds, nanos }, made_by_step, xattrs };
            let meta = if node == Node::Whiteout { Meta::default() } else { meta };
            table.insert(TreePath::new(&path).expect("clean"), (node, meta));
        }
        // Parents are directories, whatever was there.
        for path in table.keys().cloned().collect::<Vec<_>>() {
            let mut above = path.parent();
            while let Some(dir) = above {
                above = dir.parent();
                if table.get(&dir).is_none_or(|(node, _)| *node != Node::Dir) {
                    table.insert(dir, (Node::Dir, Meta { mode: 0o755, ..Meta::default() }));
                }
            }
        }
        let mut entries: Vec<TocEntry> = table.into_iter().map(|(path, (node, meta))| TocEntry { path, node, meta }).collect();
        // Every other file after the first of its kind is a link to it.
        if let Some(first) = entries.iter().position(|e| matches!(e.node, Node::File { .. })) {
            let target = entries[first].path.clone();
            for entry in entries[first + 1..].iter_mut().filter(|e| matches!(e.node, Node::File { size, .. } if size % 2 == 0)) {
                (entry.node, entry.meta) = (Node::Hardlink { target: target.clone() }, Meta::default());
            }
        }
        Toc { entries }
    })
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn tables_round_trip(toc in any_toc()) {
        let bytes = toc.encode();
        prop_assert_eq!(Toc::decode(&bytes).expect("decode"), toc);
    }

    /// Whatever decodes encodes to the same bytes, and nothing makes decoding panic.
    #[test]
    fn only_canonical_bytes_decode(toc in any_toc(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>()) {
        let mut bytes = toc.encode();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        if let Ok(decoded) = Toc::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes.clone());
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Toc::decode(&bytes).is_err());
    }

    #[test]
    fn the_content_id_forgets_times_and_only_those(toc in any_toc(), seconds in any::<i64>()) {
        let mut other = toc.clone();
        for entry in other.entries.iter_mut().filter(|e| !matches!(e.node, Node::Whiteout | Node::Hardlink { .. })) {
            entry.meta.mtime.seconds = seconds;
            entry.meta.made_by_step ^= true;
        }
        prop_assert_eq!(toc.content_id(), other.content_id());
        prop_assert_eq!(toc.layer_id() == other.layer_id(), toc == other);
        if let Some(entry) = other.entries.iter_mut().find(|e| e.node == Node::Dir) {
            entry.meta.mode ^= 1;
            prop_assert_ne!(toc.content_id(), other.content_id());
        }
    }

    #[test]
    fn lookups_agree_with_a_walk(toc in any_toc(), path in "[a-c]{1,2}(/[a-c]{1,2}){0,2}") {
        let path = TreePath::new(&path).expect("clean");
        let walked: Vec<&TocEntry> = toc.entries.iter().filter(|e| e.path.below(&path).is_some()).collect();
        prop_assert_eq!(toc.subtree(&path).iter().collect::<Vec<_>>(), walked);
        prop_assert_eq!(toc.get(&path), toc.entries.iter().find(|e| e.path == path));
        prop_assert_eq!(toc.subtree(&TreePath::root()), &toc.entries[..]);
    }
}
