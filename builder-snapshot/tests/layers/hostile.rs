//! Tars that mean harm: nothing outside is touched or read, nothing grows without bounds, and what is refused is refused by name. Beside each rule stands a
//! tar that looks alike and is honest.

use std::fs;
use std::io::Read;
use std::path::Path;

use builder_snapshot::LayerError;
use builder_snapshot::TreePath;
use builder_snapshot::layer::{self, Applied, ApplyLimits, TimePolicy};
use builder_snapshot::snapshot::FileContent;
use builder_snapshot::toc::{Meta, Node};
use builder_snapshot::tree::MergedTree;
use proptest::prelude::*;

use crate::tars::{Raw, tar};
use crate::trees::{Stack, of_host};

/// A directory with things that must not change beside the one that a layer is applied into.
struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("etc")).expect("directory");
        fs::write(dir.path().join("etc/passwd"), "canary").expect("write");
        Self { dir }
    }

    fn apply(&self, bytes: &[u8]) -> Result<Applied, LayerError> {
        self.apply_with(bytes, &ApplyLimits::default())
    }

    fn apply_with(&self, bytes: &[u8], limits: &ApplyLimits) -> Result<Applied, LayerError> {
        let empty = MergedTree::open(&[]).expect("open");
        let into = self.dir.path().join("into");
        let _ = fs::remove_dir_all(&into);
        let result = layer::apply(&mut &*bytes, &into, Some(&empty), limits);
        let outside = of_host(self.dir.path());
        let outside: Vec<_> = outside.keys().filter(|path| !path.as_bytes().starts_with(b"into")).map(TreePath::display).collect();
        assert_eq!(outside, ["/etc", "/etc/passwd"]);
        assert_eq!(fs::read_to_string(self.dir.path().join("etc/passwd")).expect("read"), "canary");
        result
    }

    fn layer_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("into")
    }
}

fn paths(applied: &Applied) -> Vec<String> {
    applied.toc.entries.iter().map(|entry| entry.path.display()).filter(|path| path != "/").collect()
}

#[test]
fn refused_by_name_and_reason() {
    let long_component = "x".repeat(300);
    let pax_path = |path: &str| vec![Raw::pax(&[("path", path.as_bytes())]), Raw::file("short", "")];
    let cases: Vec<(&str, Vec<Raw>, &str)> = vec![
        ("climbs", vec![Raw::file("../etc/passwd", "x")], "`..`"),
        ("climbs in the middle", vec![Raw::file("a/../../etc/passwd", "x")], "`..`"),
        ("climbs at the end", vec![Raw::dir("a/..")], "`..`"),
        ("climbs by PAX", pax_path("../x"), "`..`"),
        ("NUL by PAX", pax_path("a\0b"), "not usable"),
        ("no name", vec![Raw::file("", "")], "no name"),
        ("link climbs", vec![Raw::hardlink("l", "../etc/passwd")], "`..`"),
        ("link to nothing", vec![Raw::hardlink("l", "nothing")], "no file of this or a lower layer"),
        ("link to a directory", vec![Raw::dir("d"), Raw::hardlink("l", "d")], "no file of this or a lower layer"),
        ("link to itself, first", vec![Raw::hardlink("l", "l")], "no file of this or a lower layer"),
        ("root is a file", vec![Raw::file(".", "x")], "root can only be a directory"),
        ("below a file", vec![Raw::file("f", "x"), Raw::file("f/g", "x")], "not a directory"),
        ("below a link loop", vec![Raw::symlink("l", "l"), Raw::file("l/f", "x")], "too many links"),
        ("whiteout device", vec![Raw::device(b'3', "w", 0, 0)], "taken for a deletion"),
        ("whiteout of itself", vec![Raw::file(".wh..", "")], "`.wh.`"),
        ("whiteout of the parent", vec![Raw::file("d/.wh...", "")], "`.wh.`"),
        ("whiteout of nothing", vec![Raw::file(".wh.", "")], "`.wh.`"),
        ("whiteout of a whiteout", vec![Raw::file(".wh..wh.x", "")], "`.wh.`"),
        ("aufs", vec![Raw::dir(".wh..wh.plnk")], "`.wh.`"),
        ("below a whiteout", vec![Raw::file(".wh.d/f", "")], "means deletion"),
        ("long component", pax_path(&long_component), "255 bytes"),
        ("empty link", vec![Raw::symlink("l", "")], "no symbolic link"),
        ("owner that means nobody", vec![Raw::pax(&[("uid", b"4294967295")]), Raw::file("f", "")], "out of range"),
        ("huge owner", vec![Raw::pax(&[("gid", b"18446744073709551615")]), Raw::file("f", "")], "out of range"),
        ("negative size", vec![Raw::file("f", "").bytes_at(124, &[0xff; 12])], "size is negative"),
        ("directory with data", vec![Raw::new(b'5', "d", b"data")], "has data"),
        ("link with data", vec![Raw::new(b'1', "d", b"data")], "has data"),
        ("file named as a directory", vec![Raw::file("d/", "x")], "name of a directory"),
        ("multi-volume", vec![Raw::new(b'M', "f", b"x")], "not supported"),
        ("no number where devices have one", vec![Raw::file("f", "").bytes_at(330, b"8")], "a number"),
        ("device of an old header", vec![Raw::device(b'3', "n", 1, 3).bytes_at(257, &[0; 8])], "device numbers"),
        ("name in a header of no known form", vec![Raw::file("f", "").bytes_at(345, b"p").bytes_at(263, b"  ")], "no known form"),
        ("empty file named as a directory", vec![Raw::file("d/", "")], "name of a directory"),
        ("PAX sparse", vec![Raw::pax(&[("GNU.sparse.major", b"1")]), Raw::file("f", "x")], "sparse"),
        ("two PAX headers", vec![Raw::pax(&[("path", b"a")]), Raw::pax(&[("path", b"b")]), Raw::file("f", "")], "two extension headers"),
        ("PAX and GNU name", vec![Raw::new(b'L', "x", b"a\0"), Raw::pax(&[("path", b"b")]), Raw::file("f", "")], "both"),
        ("two GNU names", vec![Raw::new(b'L', "x", b"a\0"), Raw::new(b'L', "x", b"b\0"), Raw::file("f", "")], "two GNU long names"),
        ("global path", vec![Raw { header: Raw::new(b'g', "x", b"").header, data: vec![] }.with_data(b"10 path=a\n"), Raw::file("f", "")], "global"),
        ("malformed PAX", vec![Raw::new(b'x', "x", b"9 path=a\n1"), Raw::file("f", "")], "not well formed"),
        ("PAX header at the end", vec![Raw::pax(&[("path", b"a")])], "behind an extension header"),
    ];
    for (name, entries, reason) in cases {
        let yard = Yard::new();
        let error = yard.apply(&tar(&entries)).expect_err(name).to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

impl Raw {
    fn with_data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self.field(124, 12, data.len() as u64)
    }
}

#[test]
fn damaged_streams_are_refused() {
    let whole = tar(&[Raw::file("f", "content")]);
    for cut in [1, 511, 513, 600, 1023] {
        assert!(Yard::new().apply(&whole[..cut]).is_err(), "cut at {cut}");
    }
    // Where the end marker is missing or half, every reader agrees on what was there.
    for cut in [1024, 1536] {
        assert_eq!(paths(&Yard::new().apply(&whole[..cut]).expect("complete entries")), ["/f"]);
    }
    let mut wrong = whole.clone();
    wrong[0] = b'g';
    assert!(Yard::new().apply(&wrong).expect_err("checksum").to_string().contains("checksum"));
    let mut hidden = whole[..1024].to_vec();
    hidden.extend_from_slice(&[0; 512]);
    Raw::file("hidden", "x").write(&mut hidden);
    assert!(Yard::new().apply(&hidden).expect_err("an entry behind a single zero block").to_string().contains("single block of zeros"));
    assert!(Yard::new().apply(b"no tar at all").is_err());
    assert!(Yard::new().apply(b"").expect("the empty stream is an empty archive").toc.is_empty());
}

#[test]
fn links_in_the_way_are_followed_inside_only() {
    let yard = Yard::new();
    let entries = [
        Raw::dir("etc"),
        Raw::symlink("out", "/etc"),
        Raw::symlink("up", "../../../../etc"),
        Raw::file("out/a", "a"),
        Raw::file("up/b", "b"),
        Raw::symlink("passwd", "/etc/passwd"),
        Raw::file("passwd", "replaced, not written through"),
    ];
    let applied = yard.apply(&tar(&entries)).expect("honest images look like this");
    assert_eq!(paths(&applied), ["/etc", "/etc/a", "/etc/b", "/out", "/passwd", "/up"]);
    // The targets are data: an image's own business.
    let target = |path: &str| match &applied.toc.get(&TreePath::new(path).expect("clean")).expect("listed").node {
        Node::Symlink { target } => String::from_utf8_lossy(target).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!((target("out"), target("up")), ("/etc".to_owned(), "../../../../etc".to_owned()));
    assert!(yard.layer_dir().join("passwd").symlink_metadata().expect("stat").is_file());
}

#[test]
fn marks_of_the_stack_do_not_come_in() {
    let yard = Yard::new();
    let records: [(&str, &[u8]); 5] = [
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.kept", b"a\nb"),
    ];
    let applied = yard.apply(&tar(&[Raw::pax(&records), Raw::dir("d"), Raw::file("d/f", "f")])).expect("applied");
    let dir = applied.toc.get(&TreePath::new("d").expect("clean")).expect("listed");
    assert_eq!(dir.meta.xattrs, [(b"user.kept"[..].into(), b"a\nb"[..].into())]);
    let mut names = [0_u8; 256];
    let n = rustix::fs::llistxattr(yard.layer_dir().join("d"), &mut names).expect("list");
    assert_eq!(&names[..n], b"user.kept\0");
}

#[test]
fn limits_are_named() {
    let small = ApplyLimits { entries: 3, bytes: 1 << 20, path_depth: 4, xattr_bytes: 100, extension_bytes: 4096 };
    let many: Vec<Raw> = (0..4).map(|i| Raw::file(&format!("f{i}"), "")).collect();
    let huge_sparse = sparse(1 << 40, &[(0, 4)], b"data");
    let cases: Vec<(Vec<Raw>, &str)> = vec![
        (many, "3 entries"),
        (vec![Raw::dir("a/b/c/d/e")], "4 components in a path"),
        (vec![Raw::pax(&[("SCHILY.xattr.user.big", &[b'x'; 200])]), Raw::file("f", "")], "100 bytes of attributes"),
        (vec![Raw::new(b'L', "x", &[b'x'; 5000]), Raw::file("f", "")], "4096 bytes in an extension header"),
        (vec![Raw::new(b'x', "x", &[b'x'; 5000]), Raw::file("f", "")], "4096 bytes in an extension header"),
        (vec![Raw::new(b'0', "f", &vec![b'x'; 2 << 20])], "1048576 bytes"),
        (vec![huge_sparse], "1048576 bytes in files"),
    ];
    for (entries, limit) in cases {
        let error = Yard::new().apply_with(&tar(&entries), &small).expect_err(limit).to_string();
        assert!(error.contains(limit), "{limit}: {error}");
    }
    // A header that promises what never comes takes no memory for it.
    let promise = tar(&[Raw::new(b'L', "x", b"").field(124, 12, 0o77_777_777_777)]);
    assert!(Yard::new().apply(&promise).expect_err("promise").to_string().contains("extension header"));
}

/// An old-GNU sparse entry with at most four pieces.
fn sparse(size: u64, pieces: &[(u64, u64)], data: &[u8]) -> Raw {
    let mut raw = Raw::new(b'S', "sparse", data).bytes_at(257, b"ustar  \0").bytes_at(345, &[0; 155]);
    for (i, (offset, len)) in pieces.iter().enumerate() {
        raw = raw.field(386 + i * 24, 12, *offset).field(398 + i * 24, 12, *len);
    }
    if size > 0o77_777_777_777 {
        let mut field = [0_u8; 12];
        field[4..].copy_from_slice(&size.to_be_bytes());
        field[0] = 0x80;
        return raw.bytes_at(483, &field);
    }
    raw.field(483, 12, size)
}

#[test]
fn sparse_files_are_whole_and_small() {
    let yard = Yard::new();
    let size = 64 << 20;
    let applied = yard.apply(&tar(&[sparse(size, &[(0, 4), (1 << 20, 4), (size, 0)], b"headtail")])).expect("sparse");
    assert_eq!(paths(&applied), ["/sparse"]);
    let path = yard.layer_dir().join("sparse");
    let meta = fs::metadata(&path).expect("stat");
    assert_eq!(meta.len(), size);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 < 4 << 20, "holes stay holes");
    let mut content = Vec::new();
    fs::File::open(&path).expect("open").take((1 << 20) + 8).read_to_end(&mut content).expect("read");
    assert_eq!((&content[..5], &content[1 << 20..]), (&b"head\0"[..], &b"tail\0\0\0\0"[..]));
    for bad in [
        sparse(10, &[(8, 4)], b"data"),
        sparse(10, &[(4, 2), (0, 2)], b"data"),
        sparse(10, &[(0, 3)], b"data"),
        sparse(10, &[(u64::MAX >> 31, 4)], b"data"),
    ] {
        assert!(Yard::new().apply(&tar(&[bad])).is_err());
    }
}

#[test]
fn a_name_like_a_whiteout_is_refused_when_it_would_be_exported() {
    let mut stack = Stack::new();
    let file = Meta { mode: 0o644, ..Meta::default() };
    let toc = stack.write(|writer| {
        writer.put_file(&TreePath::new(".wh.x").expect("clean"), FileContent::Bytes(b"x"), &file).expect("put");
    });
    let toc = toc.clone();
    let error = layer::write_tar(&toc, &stack.layers[0], TimePolicy::Keep, &mut std::io::sink()).expect_err("refused");
    assert!(error.to_string().contains("/.wh.x"), "{error}");
}

#[test]
fn an_archive_stays_below_its_destination() {
    let mut stack = Stack::new();
    let path = |text: &str| TreePath::new(text).expect("clean");
    let dir = Meta { mode: 0o755, ..Meta::default() };
    let extract = |stack: &mut Stack, entries: &[Raw]| {
        let bytes = tar(entries);
        let mut result = Ok(());
        let toc = stack.write(|writer| {
            writer.make_dirs(&path("in/deep"), &dir).expect("make_dirs");
            result = layer::extract(&mut &bytes[..], writer, &path("in/deep"), Some((7, 8)), &ApplyLimits::default());
        });
        let listed: Vec<_> = toc.entries.iter().map(|entry| entry.path.display()).filter(|p| !["/", "/in", "/in/deep"].contains(&&**p)).collect();
        (result, listed)
    };
    let entries = [
        Raw::file("../../../out", "out"),
        Raw::file("/abs/file", "abs"),
        Raw::symlink("lnk", "/abs"),
        Raw::file("lnk/through", "inside"),
        Raw::symlink("up", "../../../../etc"),
        Raw::hardlink("hard", "/abs/file"),
    ];
    let (result, listed) = extract(&mut stack, &entries);
    result.expect("A9.14: links and names may point anywhere");
    let expected = ["/in/deep/abs", "/in/deep/abs/file", "/in/deep/abs/through", "/in/deep/hard", "/in/deep/lnk", "/in/deep/out", "/in/deep/up"];
    assert_eq!(listed, expected);
    let found = stack.tree().lookup(&path("in/deep/out")).expect("lookup").expect("there");
    assert_eq!((found.meta.uid, found.meta.gid), (7, 8));

    // As docker: nothing is made behind a link that leads nowhere.
    let (result, _) = extract(&mut Stack::new(), &[Raw::symlink("lnk", "/etc"), Raw::file("lnk/passwd", "x")]);
    assert!(result.expect_err("dangling").to_string().contains("/in/deep/etc"));
    let (result, _) = extract(&mut Stack::new(), &[Raw::file(".wh.x", "")]);
    assert!(matches!(result, Err(LayerError::WhiteoutName { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes that begin as an honest tar and go wrong anywhere: no panic, nothing outside, and what is accepted is a table.
    #[test]
    fn noise_does_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), fix in any::<bool>()) {
        let entries = [
            Raw::dir("d"),
            Raw::pax(&[("path", b"d/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")]),
            Raw::file("x", "content"),
            Raw::symlink("d/l", "../../etc"),
            Raw::hardlink("d/h", "d/long"),
            Raw::new(b'L', "x", b"d/gnu\0"),
            Raw::file("y", "more"),
            Raw::file("d/.wh.gone", ""),
            sparse(2000, &[(100, 4)], b"data"),
        ];
        let mut bytes = tar(&entries);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
            if fix {
                // Get past the checksum: the fields behind it are what is tried.
                let start = at / 512 * 512;
                let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(bytes[start + i]) }).sum();
                if bytes[start + 257..start + 262] == *b"ustar" {
                    bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let limits = ApplyLimits { bytes: 1 << 20, ..ApplyLimits::default() };
        if let Ok(applied) = Yard::new().apply_with(&bytes, &limits) {
            prop_assert!(!applied.needs_base);
            prop_assert_eq!(&builder_snapshot::toc::Toc::decode(&applied.toc.encode()).expect("a table"), &applied.toc);
        }
    }
}

#[test]
fn removing_a_very_deep_tree_needs_neither_stack_nor_descriptors() {
    let stack = Stack::new();
    let snapshot = stack.snapshot();
    let mut dir = std::fs::File::open(snapshot.upper()).expect("open");
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).expect("mkdir");
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        dir = std::fs::File::from(rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).expect("open"));
    }
    let upper = snapshot.upper().to_owned();
    let error = snapshot.commit(builder_snapshot::toc::Timestamp::default()).expect_err("no path can name it");
    assert!(error.to_string().contains("longer than 4096"), "{error}");
    assert!(!Path::new(&upper).exists(), "a snapshot that is not committed goes");
}
