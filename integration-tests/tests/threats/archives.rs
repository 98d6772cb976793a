//! Archives and contexts that mean harm, by every door there is for them: a layer, ADD, the context on standard input.

use std::io::Write as _;
use std::path::PathBuf;

use integration_tests::Build;

use crate::yard::{CANARY, Yard, layout_of, named};

/// An entry of an archive, unchecked.
pub(crate) fn entry(out: &mut Vec<u8>, kind: u8, name: &str, link: &str, data: &[u8]) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000644\x000000000\x000000000\x00");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000001\0        ");
    put(156, &[kind]);
    put(157, &link.as_bytes()[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn archive(entries: &[(u8, &str, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|(kind, name, link, data)| entry(&mut out, *kind, name, link, data.as_bytes()));
    out.resize(out.len() + 1024, 0);
    out
}

/// Archives that would write or read outside, with `@` for the canary's directory.
fn slips(yard: &Yard) -> Vec<Vec<u8>> {
    let up = "../../../../../../../../..";
    let cases: Vec<Vec<(u8, String, String, &str)>> = vec![
        vec![(b'0', format!("{up}@/made"), String::new(), "x")],
        vec![(b'0', "@/secret".into(), String::new(), "x")],
        vec![(b'0', "a/../../../../../../../../..@/secret".into(), String::new(), "x")],
        vec![(b'2', "out".into(), "@".into(), ""), (b'0', "out/secret".into(), String::new(), "x")],
        vec![(b'2', "out".into(), format!("{up}@"), ""), (b'0', "out/made".into(), String::new(), "x")],
        vec![(b'2', "out".into(), "@/secret".into(), ""), (b'0', "out".into(), String::new(), "x")],
        vec![(b'1', "hard".into(), "@/secret".into(), "")],
        vec![(b'1', "hard".into(), format!("{up}@/secret"), "")],
        vec![(b'2', "out".into(), "@".into(), ""), (b'1', "hard".into(), "out/secret".into(), "")],
        vec![(b'5', "out".into(), String::new(), ""), (b'2', "out".into(), "@".into(), ""), (b'5', "out/empty/new".into(), String::new(), "")],
        vec![(b'2', "p".into(), "/proc/self/root@".into(), ""), (b'0', "p/made".into(), String::new(), "x")],
        vec![(b'3', "null".into(), String::new(), ""), (b'6', "pipe".into(), String::new(), "")],
    ];
    let text = |text: &str| yard.at(text);
    cases
        .iter()
        .map(|entries| {
            let mut out = Vec::new();
            entries.iter().for_each(|(kind, name, link, data)| entry(&mut out, *kind, &text(name), &text(link), data.as_bytes()));
            out.resize(out.len() + 1024, 0);
            out
        })
        .collect()
}

#[test]
fn cve_2026_28406_and_2020_10696_archives_place_nothing_outside() {
    let yard = Yard::new();
    for (n, bytes) in slips(&yard).iter().enumerate() {
        let layout = layout_of(&yard, &format!("layout{n}"), bytes);
        let look = "COPY --from=busybox /bin /bin\nRUN cat /out/secret /hard /in/hard /in/out/secret /p/secret; true\n";
        let base = yard.build(&format!("base{n}"), &[("Dockerfile", &format!("FROM base\n{look}"))]).args(named("base", &layout));
        yard.run(&base);
        let copy = yard.build(&format!("copy{n}"), &[("Dockerfile", "FROM scratch\nCOPY --from=base / /in/\n")]).args(named("base", &layout));
        yard.run(&copy);
        let link = yard.build(&format!("link{n}"), &[("Dockerfile", "FROM scratch\nCOPY --link --from=base / /in/\n")]).args(named("base", &layout));
        yard.run(&link);
        let add = yard.build(&format!("add{n}"), &[("Dockerfile", &format!("FROM scratch\nADD a.tar /in/\n{look}"))]);
        std::fs::write(yard.bed.path(&format!("add{n}/a.tar")), bytes).expect("ours");
        yard.run(&add);
        // As a context: what it would bring in is asked for.
        let mut context = Vec::new();
        entry(&mut context, b'0', "Dockerfile", "", b"FROM scratch\nCOPY . /in/\nCOPY out* hard* p* /to/\n");
        context.extend_from_slice(bytes);
        let file = yard.bed.path(&format!("context{n}.tar"));
        std::fs::write(&file, context).expect("ours");
        yard.run(&yard.build("stdin", &[]).archive(&file));
        // And as a directory of files.
        let local = yard.build(&format!("local{n}"), &[("Dockerfile", "FROM base\n")]).no_output().args(named("base", &layout));
        yard.run(&local.args(["-o".to_owned(), format!("type=local,dest={}", yard.bed.path(&format!("tree{n}")).display())]));
    }
    yard.store_is_good();
}

fn with_links(yard: &Yard, name: &str, files: &[(&str, &str)], links: &[(&str, &str)]) -> Build {
    let build = yard.build(name, files);
    for (path, target) in links {
        let path = yard.bed.path(name).join(path);
        std::fs::create_dir_all(path.parent().expect("below")).expect("ours");
        std::os::unix::fs::symlink(yard.at(target), path).expect("ours");
    }
    build
}

#[test]
fn ghsa_49p4_links_of_a_context_lead_nowhere_outside() {
    let yard = Yard::new();
    let up = "../../../../../../../..@";
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("FROM scratch\nCOPY link /f\n", &[("link", "@/secret")]),
        ("FROM scratch\nCOPY dir/secret /f\n", &[("dir", "@")]),
        ("FROM scratch\nCOPY dir/* /f/\n", &[("dir", up)]),
        ("FROM scratch\nCOPY a/b/secret /f\n", &[("a/b", up)]),
        ("FROM scratch\nADD dir /f/\n", &[("dir", "/proc/self/root@")]),
        ("FROM busybox\nRUN --mount=type=bind,target=/m cat /m/link /m/dir/secret; true\n", &[("link", "@/secret"), ("dir", "@")]),
        ("FROM scratch\nCOPY --parents ./dir/./secret /f/\n", &[("dir", "@")]),
    ];
    for (n, (dockerfile, links)) in cases.iter().enumerate() {
        yard.run(&with_links(&yard, &format!("c{n}"), &[("Dockerfile", dockerfile)], links));
    }
    // An ignore file that is a link out: what it says may count, what it is may not be shown. In an archive nothing of the machine may be read at all.
    let mut bytes = Vec::new();
    entry(&mut bytes, b'2', "Dockerfile", &yard.at("@/secret"), b"");
    entry(&mut bytes, b'0', "f", "", b"f");
    bytes.resize(bytes.len() + 1024, 0);
    let file = yard.bed.path("context.tar");
    std::fs::write(&file, &bytes).expect("ours");
    assert_eq!(yard.run(&yard.build("stdin", &[]).archive(&file)).code, Some(1));
    let mut bytes = Vec::new();
    entry(&mut bytes, b'0', "Dockerfile", "", b"FROM scratch\nCOPY . /\n");
    entry(&mut bytes, b'2', ".dockerignore", &yard.at("@/secret"), b"");
    bytes.resize(bytes.len() + 1024, 0);
    std::fs::write(&file, &bytes).expect("ours");
    yard.run(&yard.build("stdin", &[]).archive(&file));
    yard.store_is_good();
}

#[test]
fn ghsa_x86f_no_program_is_started_to_unpack() {
    let yard = Yard::new();
    let marker = yard.bed.path("marker");
    let programs = yard.bed.context("programs", &[]);
    let names = ["xz", "gzip", "gunzip", "unpigz", "pigz", "zstd", "bzip2", "tar", "unxz", "bsdtar"];
    for name in names {
        let path = programs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}\ncat {}/secret\n", marker.display(), yard.canary().display())).expect("ours");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let plant = names.map(|name| format!("printf '#!/bin/sh\\ntouch /marker\\n' > /usr/bin/{name}; chmod +x /usr/bin/{name}")).join("; ");
    let dockerfile =
        format!("FROM busybox\nRUN {plant}\nADD a.tar.gz /gz/\nADD a.tar.xz /xz/\nADD a.tar.zst /zst/\nADD a.tar.bz2 /bz2/\nRUN test ! -e /marker\n");
    let build = yard.build("c", &[("Dockerfile", &dockerfile)]);
    let tar = yard.bed.path("a.tar");
    std::fs::write(&tar, archive(&[(b'0', "f", "", "content")])).expect("ours");
    for (program, suffix) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst"), ("bzip2", "bz2")] {
        let output = std::process::Command::new(program).arg("-c").arg(&tar).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        std::fs::write(yard.bed.path(&format!("c/a.tar.{suffix}")), output.stdout).expect("ours");
    }
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let outcome = yard.run(&build.env("PATH", path));
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let image = outcome.image();
    for dir in ["gz", "xz", "zst", "bz2"] {
        assert_eq!(image.file(&format!("{dir}/f")).as_deref(), Some(&b"content"[..]), "{dir}");
    }
    assert!(!marker.exists());
    yard.store_is_good();
}

/// Where an archive comes in: as a layer, by ADD, as the context.
fn doors(yard: &Yard, name: &str, bytes: &[u8]) -> Vec<Build> {
    let layout = layout_of(yard, &format!("{name}-layout"), bytes);
    let layer = yard.build(&format!("{name}-layer"), &[("Dockerfile", "FROM base\nCOPY Dockerfile /x\n")]).args(named("base", &layout)).no_output();
    let layer = layer.args(["-o".to_owned(), format!("type=local,dest={}", yard.bed.path(&format!("{name}-out")).display())]);
    let add = yard.build(&format!("{name}-add"), &[("Dockerfile", "FROM scratch\nADD a.tar.gz /in/\n")]).no_output();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("in memory");
    let packed = gzip.finish().expect("in memory");
    std::fs::write(yard.bed.path(&format!("{name}-add/a.tar.gz")), &packed).expect("ours");
    let file: PathBuf = yard.bed.path(&format!("{name}.tar.gz"));
    std::fs::write(&file, &packed).expect("ours");
    let context = yard.build(&format!("{name}-context"), &[]).archive(&file).no_output();
    vec![layer, add, context]
}

/// The same build with no more memory than any hostile input may cost: 160 MiB of data, stacks of threads included.
pub(crate) fn frugal(build: Build) -> Build {
    build.under(["/usr/bin/prlimit", "--data=167772160", "--"])
}

#[test]
fn boxlite_ghsa_gcpm_bombs_end_at_a_limit_that_has_a_name() {
    let yard = Yard::new();
    let many = |count: usize| {
        let mut out = Vec::new();
        (0..count).for_each(|n| entry(&mut out, b'0', &format!("f{n}"), "", b""));
        out.resize(out.len() + 1024, 0);
        out
    };
    let pax = |records: &[u8]| {
        let mut out = Vec::new();
        entry(&mut out, b'x', "pax", "", records);
        entry(&mut out, b'0', "f", "", b"");
        out.resize(out.len() + 1024, 0);
        out
    };
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| length - rest == length.to_string().len()).expect("some length fits");
        format!("{length} {key}={value}\n").into_bytes()
    };
    let zeros = archive(&[(b'0', "zeros", "", &"\0".repeat(3 << 20))]);
    let deep = pax(&record("path", &"d/".repeat(2000)));
    let long = pax(&record("path", &"x".repeat(65_536)));
    let attributes: Vec<u8> = (0..3000).flat_map(|n| record(&format!("SCHILY.xattr.user.a{n}"), &"v".repeat(60))).collect();
    let huge = pax(&record("comment", &"c".repeat(2 << 20)));
    let mut promise = Vec::new();
    entry(&mut promise, b'L', "name", "", b"");
    promise[124..136].copy_from_slice(b"77777777777\0");
    let sum: u32 = promise[..512].iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
    promise[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    // An old GNU sparse file: four bytes at the end of a terabyte.
    let mut terabyte = Vec::new();
    entry(&mut terabyte, b'S', "holes", "", b"tail");
    let number = |value: u64| [&[0x80, 0, 0, 0], &value.to_be_bytes()[..]].concat();
    for (at, field) in [(257, b"ustar  \0".to_vec()), (386, number((1 << 40) - 4)), (398, b"00000000004\0".to_vec()), (483, number(1 << 40))] {
        terabyte[at..at + field.len()].copy_from_slice(&field);
    }
    let sum: u32 = terabyte[..512].iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
    terabyte[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    terabyte.resize(terabyte.len() + 1024, 0);
    // What comes of a few packed bytes is written as it comes.
    let blown_up = archive(&[(b'0', "zeros", "", &"\0".repeat(170 << 20))]);
    let hundred_thousand: Vec<u8> = (0..100_000).flat_map(|n| record(&format!("SCHILY.xattr.user.a{n}"), "v")).collect();
    let cases: [(&str, Vec<u8>, &[&str], &str); 10] = [
        ("blown-up", blown_up, &["--limit", "bytes=165m"], "--limit bytes=N"),
        ("zeros", zeros, &["--limit", "bytes=1m"], "--limit bytes=N"),
        ("many", many(3000), &["--limit", "entries=2000"], "--limit entries=N"),
        ("deep", deep, &["--limit", "path-depth=1000"], ""),
        ("long", long, &[], ""),
        ("attributes", pax(&attributes), &[], "--limit xattr-bytes=N"),
        ("hundred-thousand-attributes", pax(&hundred_thousand), &[], "--limit header-bytes=N"),
        ("terabyte-of-holes", terabyte, &[], "--limit bytes=N"),
        ("huge", huge, &[], "--limit header-bytes=N"),
        ("promise", promise, &[], "--limit header-bytes=N"),
    ];
    for (name, bytes, flags, words) in &cases {
        for build in doors(&yard, name, bytes) {
            let started = std::time::Instant::now();
            let outcome = yard.refused(&frugal(build.args(flags.iter().copied())), words);
            assert!(started.elapsed().as_secs() < 30, "{name}: {}", outcome.log);
        }
    }
    // Raised, they pass.
    for build in doors(&yard, "raised", &many(3000)).into_iter().take(2) {
        let _ = build.args(["--limit", "entries=4000"]).ok();
    }
    yard.store_is_good();
}

#[test]
fn the_canary_is_one() {
    assert!(CANARY.len() > 20, "short texts occur by chance");
}
