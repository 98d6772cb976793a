//! Tars made from seeds, well formed and not: what is accepted here is read the same by GNU tar and by Python's tarfile, or it is refused here
//! (CVE-2025-62518: two readers that see two archives in one).
//!
//! Continuous integration reads some hundred archives; with `RBUILD_SOAK` in the environment it is fifteen times as many.

use std::fs;
use std::path::Path;
use std::process::Command;

use builder_snapshot::layer::{self, ApplyLimits};
use builder_snapshot::tree::MergedTree;

use crate::tars::{Raw, tar};
use crate::trees::{Listing, of_host};

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

const NAMES: [&str; 8] = ["a", "b", "d/e", "d/e/f", "x/y", "./z", "with space", "a-name-of-some-length/that-has-a-directory"];

/// A base-256 number of twelve bytes.
fn base_256(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&value.to_be_bytes());
    field
}

/// One entry with its extension headers.
fn entry(random: &mut Random, out: &mut Vec<Raw>) {
    let name = random.of(&NAMES);
    let content = "0123456789".repeat(random.of(&[0, 1, 7, 51, 52, 200]));
    let mut raw = match random.below(12) {
        0 => Raw::dir(name),
        1 => Raw::dir(&format!("{name}/")),
        2 => Raw::symlink(name, random.of(&["a", "d/e", "nowhere", "./b"])),
        3 => Raw::hardlink(name, random.of(&NAMES)),
        4 => Raw::new(b'6', name, b""),
        5 => Raw::device(b'3', name, 1, 3),
        6 => Raw::new(0, name, content.as_bytes()),
        7 => Raw::new(b'7', name, content.as_bytes()),
        _ => Raw::file(name, &content),
    };
    raw = raw.field(100, 8, random.of(&[0o644, 0o755, 0o4755, 0o2700, 0o1777, 0o0]));
    raw = raw.field(108, 8, random.of(&[0, 1000, 65534])).field(116, 8, random.of(&[0, 5, 0o7_777_777]));
    raw = raw.field(136, 12, random.of(&[0, 1, 1_600_000_000]));
    let size = raw.data.len() as u64;
    match random.below(14) {
        // Numbers in other clothes.
        0 => raw = raw.bytes_at(124, &base_256(size)),
        1 => raw = raw.bytes_at(108, &[0x80, 0, 0, 0, 0, 0x30, 0, 1]),
        2 => raw = raw.bytes_at(136, &base_256(0x1_2345_6789)),
        3 => raw = raw.bytes_at(100, b"   644 \0"),
        4 => raw = raw.bytes_at(257, b"ustar  \0"),
        // Before ustar.
        5 => raw = raw.bytes_at(257, &[0; 255]),
        6 => raw = raw.bytes_at(345, b"prefix"),
        // Anything in a field of numbers, in the type, or in the magic.
        7 => {
            let at = random.of(&[100, 104, 108, 112, 116, 124, 127, 134, 135, 136, 140, 156, 257, 262, 263, 329, 337]);
            let byte = random.of(&[0, b' ', b'0', b'1', b'7', b'8', b'x', 0x80, 0xff, b'5', b'2']);
            raw = raw.bytes_at(at, &[byte]);
        }
        _ => {}
    }
    let size = size.to_string();
    let long = format!("{}/{}", "l".repeat(120), random.of(&["m", "n"]));
    match random.below(16) {
        0 => out.push(Raw::pax(&[("path", long.as_bytes())])),
        1 => out.push(Raw::pax(&[("mtime", random.of(&[&b"1.5"[..], b"-3.25", b"1600000000.123456789"])), ("uid", b"2097152")])),
        // A size that agrees with the header's, and one that does not.
        2 => out.push(Raw::pax(&[("size", size.as_bytes())])),
        3 => out.push(Raw::pax(&[("size", random.of(&[&b"0"[..], b"512", b"5", b"x", b"-1"]))])),
        4 => out.push(Raw::new(b'L', "././@LongLink", format!("{long}\0").as_bytes())),
        5 => out.push(Raw::new(b'L', "././@LongLink", b"short\0hidden\0")),
        6 => out.push(Raw::pax(&[("path", b"first"), ("path", b"second")])),
        7 => out.extend([Raw::pax(&[("path", b"p")]), Raw::new(b'L', "././@LongLink", b"l\0")]),
        8 => out.push(Raw::new(b'g', "global", b"12 comment=\n")),
        9 => out.push(Raw::new(b'g', "global", b"11 uid=100\n")),
        10 => out.push(Raw::pax(&[("comment", b"nothing"), ("VENDOR.key", b"x"), ("linkpath", b"a")])),
        11 => out.push(Raw::new(b'x', "pax", random.of(&[&b"9 path=a\n"[..], b"10 path=aa", b"99 path=a\n", b"0 path=a\n"]))),
        _ => {}
    }
    out.push(raw);
}

fn archive(seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut entries = Vec::new();
    for _ in 0..=random.below(5) {
        entry(&mut random, &mut entries);
    }
    let mut bytes = tar(&entries);
    match random.below(12) {
        0 => bytes.truncate(bytes.len() - 1024),
        1 => bytes.truncate(bytes.len() - 512),
        2 => {
            let at = random.below(bytes.len());
            bytes.truncate(at);
        }
        // A header whose checksum is wrong.
        3 => bytes[148] ^= 1,
        4 => bytes.extend_from_slice(&[0; 10_240]),
        _ => {}
    }
    bytes
}

/// Lists every `N.tar` of the directory in `N.py`, a member a line; one that it takes for damaged leaves `N.py-refused`. Only what headers say counts: where
/// the library unpacks to is its own affair.
const PYTHON: &str = r#"
import os, tarfile
for name in sorted(n for n in os.listdir(".") if n.endswith(".tar")):
    out = name[:-4] + ".py"
    lines = []
    try:
        with tarfile.open(name, "r:", errorlevel=2, encoding="utf-8") as archive:
            for m in archive:
                kind = "file" if m.isreg() else "dir" if m.isdir() else "link" if m.issym() else "hard" if m.islnk() else "fifo" if m.isfifo() else "char" if m.ischr() else "block"
                path = "/" + os.path.normpath(m.name)
                lines.append(f"{path}\t{kind}\t{m.mode & 0o7777:o} {m.uid}:{m.gid}\t{m.size if kind == 'file' else 0}\n")
    except Exception as error:
        open(out + "-refused", "w").write(repr(error))
    open(out, "w").write("".join(lines))
"#;

/// Where Python's list and a tree contradict each other: the last member of a path is what is there.
fn contradictions(ours: &Listing, members: &str) -> Vec<String> {
    let members: Vec<Vec<&str>> = members.lines().map(|line| line.split('\t').collect()).collect();
    let shown = |path: &str| ours.iter().find(|(at, _)| at.display() == path).map(|(_, text)| text.as_str());
    let mut found = Vec::new();
    for (n, member) in members.iter().enumerate() {
        let [path, kind, owner, size] = member[..] else { panic!("{member:?}") };
        let is_replaced = members[n + 1..].iter().any(|later| later[0] == path || path.starts_with(&format!("{}/", later[0])) && later[1] != "dir");
        // Through a hard link later members may change what this one made.
        let is_shared = members[n + 1..].iter().any(|later| later[1] == "hard");
        if is_replaced || path == "/." || kind == "hard" {
            continue;
        }
        let Some(text) = shown(path) else {
            found.push(format!("{path} is not here"));
            continue;
        };
        let expected = if kind == "link" { "link ".to_owned() } else { format!("{kind} {owner} ") };
        if !is_shared && !text.starts_with(&expected) || kind == "file" && !text.contains(&format!("({size}, ")) {
            found.push(format!("{path}: {text:?} is {expected:?} of {size} bytes there"));
        }
    }
    let is_member = |path: &str| members.iter().any(|member| member[0] == path || member[0].starts_with(&format!("{path}/")));
    found.extend(ours.keys().map(builder_snapshot::TreePath::display).filter(|path| !is_member(path)).map(|path| format!("{path} is here alone")));
    found
}

/// Whether something lies below a link: where it goes then is no matter of reading either.
fn goes_through_links(members: &str) -> bool {
    let members: Vec<(&str, &str)> = members.lines().filter_map(|line| line.split_once('\t')).collect();
    let links = members.iter().filter(|(_, rest)| rest.starts_with("link\t")).map(|(path, _)| format!("{path}/"));
    links.into_iter().any(|link| members.iter().any(|(path, _)| path.starts_with(&link)))
}

fn run(dir: &Path, program: &str, args: &[&str]) -> std::process::Output {
    Command::new(program).args(args).current_dir(dir).env("LC_ALL", "C").output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

#[test]
fn cve_2025_62518_all_readers_see_the_same_or_it_is_refused() {
    let count: u64 = if std::env::var_os("RBUILD_SOAK").is_some() { 6_000 } else { 400 };
    let mut accepted = 0;
    let mut different: Vec<String> = Vec::new();
    for first in (0..count).step_by(400) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let seeds: Vec<u64> = (first..first + 400).collect();
        for seed in &seeds {
            fs::write(dir.path().join(format!("{seed}.tar")), archive(*seed)).expect("ours");
        }
        let script =
            "umask 022; for t in *.tar; do o=${t%.tar}.gnu; mkdir $o; tar --numeric-owner -p -xf $t -C $o 2> $o-said || touch $o-refused; done";
        assert!(run(dir.path(), "sh", &["-c", script]).status.success());
        let python = run(dir.path(), "python3", &["-c", PYTHON]);
        assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
        for seed in seeds {
            let empty = MergedTree::open(&[]).expect("open");
            let into = dir.path().join(format!("{seed}.ours"));
            let bytes = archive(seed);
            if layer::apply(&mut &bytes[..], &into, Some(&empty), &ApplyLimits::default()).is_err() {
                continue;
            }
            accepted += 1;
            let ours = of_host(&into);
            let at = |suffix: &str| dir.path().join(format!("{seed}.{suffix}"));
            let said = |suffix: &str| fs::read_to_string(at(suffix)).unwrap_or_default();
            if goes_through_links(&said("py")) {
                continue;
            }
            let mut differs = |who: &str, why: String| different.push(format!("seed {seed}: {who}: {why}\n  here: {ours:?}"));
            // A layer may put a file where it had a directory; who unpacks an archive may not. That is no matter of reading.
            let is_about_places = said("gnu-said").contains("File exists") || said("gnu-said").contains("Cannot unlink");
            if at("gnu-refused").exists() && !is_about_places {
                differs("GNU tar refuses", said("gnu-said"));
            } else if ours != of_host(&at("gnu")) && !is_about_places {
                differs("GNU tar sees another tree", format!("{:?} {}", of_host(&at("gnu")), said("gnu-said")));
            }
            if at("py-refused").exists() {
                differs("Python refuses", said("py-refused"));
            }
            let contradictions = contradictions(&ours, &said("py"));
            if !contradictions.is_empty() {
                differs("Python sees other members", format!("{contradictions:?} in\n{}", said("py")));
            }
        }
    }
    assert!(
        different.is_empty(),
        "{} of {accepted} archives that are accepted here are read differently:\n{}",
        different.len(),
        different.join("\n")
    );
    assert!(accepted > count / 8, "only {accepted} of {count} archives were accepted: nothing was compared");
}
