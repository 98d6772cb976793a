//! What other programs make of our tars, and we of theirs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use builder_snapshot::TreePath;
use builder_snapshot::layer::{self, ApplyLimits, TimePolicy};
use builder_snapshot::snapshot::{Device, FileContent};
use builder_snapshot::toc::{Meta, Timestamp};
use builder_snapshot::tree::MergedTree;

use crate::trees::{Stack, of_host, of_toc};

fn path(bytes: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(bytes).expect("clean")
}

/// A layer with everything that is hard to say in a tar.
fn odd_layer() -> (Stack, Vec<u8>) {
    let mut stack = Stack::new();
    let file = |seconds, nanos| Meta { mode: 0o644, mtime: Timestamp { seconds, nanos }, ..Meta::default() };
    let long_dir = "d".repeat(90);
    stack.write(|writer| {
        let mut put = |name: &[u8], meta: &Meta| writer.put_file(&path(name), FileContent::Bytes(name), meta).expect("put");
        put(b"plain", &file(1, 0));
        put(b"fraction", &file(1_600_000_000, 123_456_789));
        put(b"before-1970", &file(-2, 500_000_000));
        put("gr\u{fc}n".as_bytes(), &file(1, 0));
        put(b"latin-gr\xfcn", &file(1, 0));
        put("x".repeat(200).as_bytes(), &file(1, 0));
        put(&[&[b'y'; 150][..], b"\xff"].concat(), &file(1, 0));
        put(b"big-owner", &Meta { uid: 3_000_000, gid: 4_000_000_000, ..file(1, 0) });
        put(b"setuid", &Meta { mode: 0o6755, ..file(1, 0) });
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        put(b"capable", &Meta { xattrs: vec![(b"security.capability"[..].into(), capability[..].into())], ..file(1, 0) });
        let dir = Meta { mode: 0o1777, ..file(1, 0) };
        writer.make_dirs(&path(format!("{long_dir}/{long_dir}")), &dir).expect("make_dirs");
        writer.put_file(&path(format!("{long_dir}/{long_dir}/split")), FileContent::Bytes(b"split"), &file(1, 0)).expect("put");
        writer.hard_link(&path("plain"), &path(format!("{long_dir}/hard"))).expect("link");
        writer.hard_link(&path("x".repeat(200)), &path("z-long-link")).expect("link");
        writer.put_symlink(&path("symlink"), b"../../outside", &file(1, 0)).expect("link");
        writer.put_symlink(&path("long-symlink"), "t/".repeat(80).as_bytes(), &file(1, 0)).expect("link");
        writer.put_fifo(&path("fifo"), &file(1, 0)).expect("fifo");
        writer.put_device(&path("null"), Device { block: false, major: 1, minor: 3 }, &file(1, 0)).expect("device");
    });
    let mut tar = Vec::new();
    layer::write_tar(&stack.tocs[0], &stack.layers[0], TimePolicy::Keep, &mut tar).expect("write_tar");
    (stack, tar)
}

fn run(program: &str, arguments: &[&str], directory: &Path, input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("output");
    let _ = feeder.join();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn gnu_tar_reads_what_we_write() {
    let (stack, tar) = odd_layer();
    let out = stack.dir.path().join("out");
    fs::create_dir(&out).expect("directory");
    run("tar", &["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "-"], &out, &tar);
    assert_eq!(of_host(&out), of_toc(&stack.tocs[0]));
    let mut capability = [0_u8; 64];
    assert_eq!(rustix::fs::lgetxattr(out.join("capable"), "security.capability", &mut capability), Ok(20));
    let same = |a: &str, b: &str| {
        fs::metadata(out.join(a)).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok()
            == fs::metadata(out.join(b)).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).ok()
    };
    assert!(same("plain", &format!("{}/hard", "d".repeat(90))));
}

#[test]
fn python_reads_what_we_write() {
    let (stack, tar) = odd_layer();
    let script = "import sys, tarfile, io\n\
        for m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())):\n    \
            sys.stdout.buffer.write(m.name.encode('utf-8', 'surrogateescape') + b'\\0')";
    let names = run("python3", &["-c", script], stack.dir.path(), &tar);
    let mut names: Vec<&[u8]> = names.split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    let mut ours: Vec<&[u8]> = stack.tocs[0].entries.iter().map(|entry| entry.path.as_bytes()).filter(|path| !path.is_empty()).collect();
    names.sort_unstable();
    ours.sort_unstable();
    assert_eq!(names, ours);
}

#[test]
fn we_read_what_gnu_tar_writes() {
    let (stack, _) = odd_layer();
    let fs_dir = stack.layers[0].clone();
    for format in ["pax", "gnu"] {
        let arguments = [
            "--format",
            format,
            "--numeric-owner",
            "--sort=name",
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=delete=atime,delete=ctime",
            "-cf",
            "-",
            ".",
        ];
        // The GNU format has neither attributes nor fractions: another listing, then.
        let arguments: Vec<&str> =
            arguments.into_iter().filter(|a| format == "pax" || !(a.starts_with("--xattrs") || a.starts_with("--pax"))).collect();
        let tar = run("tar", &arguments, &fs_dir, b"");
        let into = stack.dir.path().join(format);
        let base = MergedTree::open(&[]).expect("open");
        let applied = layer::apply(&mut &tar[..], &into, Some(&base), &ApplyLimits::default()).expect("apply");
        let strip = |listing: crate::trees::Listing| -> Vec<(TreePath, String)> {
            listing
                .into_iter()
                .map(|(path, line)| (path, line.split(' ').filter(|part| format == "pax" || !part.contains('.')).collect::<Vec<_>>().join(" ")))
                .collect()
        };
        assert_eq!(strip(of_toc(&applied.toc)), strip(of_toc(&stack.tocs[0])), "{format}");
    }
}

#[test]
fn bytes_are_the_same_again_and_padding_is_zero() {
    let (stack, tar) = odd_layer();
    let (_, again) = odd_layer();
    assert!(tar == again, "another directory, another time, the same bytes");
    assert_eq!(tar.len() % 512, 0);
    assert!(layer::is_tar(&tar));
    assert!(!layer::is_tar(b"#!/bin/sh"));
    assert!(!layer::is_tar(&[0; 512]));
    let mut clamped = Vec::new();
    layer::write_tar(&stack.tocs[0], &stack.layers[0], TimePolicy::Clamp { epoch_seconds: 1_000 }, &mut clamped).expect("write_tar");
    let base = MergedTree::open(&[]).expect("open");
    let applied = layer::apply(&mut &clamped[..], &stack.dir.path().join("clamped"), Some(&base), &ApplyLimits::default()).expect("apply");
    let latest = applied.toc.entries.iter().map(|entry| entry.meta.mtime).max();
    assert_eq!(latest, Some(Timestamp { seconds: 1_000, nanos: 0 }));
}
