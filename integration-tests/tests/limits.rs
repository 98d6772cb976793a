//! Every limit on what comes from elsewhere is met once: the error names it and the flag that raises it, and raised it lets the same thing pass. `docs/limits.md` lists them.

use std::io::{Cursor, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use builder_core::content::Limits;
use integration_tests::image::sha256;
use integration_tests::{Bed, Build, fixtures, require, web};

/// How a limit is met.
struct Case {
    name: &'static str,
    /// A value that is too small for the build.
    small: &'static str,
    build: Build,
    /// Whether the build passes with the default.
    passes: bool,
}

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"value"[..])]).expect("in memory");
    for name in ["a/b/c", "d"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(2000);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &[b'x'; 2000][..]).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn packed(program: &str, words: &[&str], mut bytes: impl Read + Send + 'static) -> Vec<u8> {
    let mut child =
        Command::new(require::tool(program, program)).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || std::io::copy(&mut bytes, &mut input));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads");
    output.stdout
}

/// A build that adds the archive `a.tar`.
fn adding(bed: &Bed, name: &str, archive: &[u8]) -> Build {
    let context = bed.context(name, &[("Dockerfile", "FROM scratch\nADD a.tar /in/\n")]);
    std::fs::write(context.join("a.tar"), archive).expect("ours");
    bed.build(&context).no_output()
}

/// An image whose index stands in another one.
fn nested_layout(dir: &Path) {
    std::fs::create_dir(dir).expect("ours");
    fixtures::layout(dir, &tar(), &serde_json::json!(["/bin/sh"]));
    let index = std::fs::read(dir.join("index.json")).expect("ours");
    let digest = sha256(&index);
    std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), &index).expect("ours");
    let kind = "application/vnd.oci.image.index.v1+json";
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": digest, "size": index.len()}]});
    std::fs::write(dir.join("index.json"), outer.to_string()).expect("ours");
}

/// A server that redirects once, wants a token for everything under `/v2/`, and hands one out.
fn server() -> String {
    let reply = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    };
    web::replying(move |own, request| match request.split(' ').nth(1).unwrap_or_default() {
        "/moved" => reply("302 Found", "Location: /file\r\n", ""),
        path if path.starts_with("/v2/") => {
            reply("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"{own}/token\",service=\"s\"\r\n"), "")
        }
        path if path.starts_with("/token") => reply("200 OK", "", "{\"token\":\"a-token\"}"),
        _ => reply("200 OK", "", "a file"),
    })
}

fn cases(bed: &Bed) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, small, build: &Build, passes| cases.push(Case { name, small, build: build.clone(), passes });
    let plain = adding(bed, "plain", &tar());
    for (name, small) in
        [("entries", "1"), ("bytes", "3k"), ("path-depth", "2"), ("xattr-bytes", "3"), ("header-bytes", "8"), ("unpack-seconds", "0")]
    {
        case(name, small, &plain, true);
    }
    case("window-bytes", "4k", &adding(bed, "zstd", &packed("zstd", &["-qc", "--long=20"], std::io::repeat(b'x').take(2 << 20))), false);
    case("window-bytes", "64k", &adding(bed, "xz", &packed("xz", &["-c"], Cursor::new(tar()))), true);
    case("window-bytes", "1k", &adding(bed, "zst", &packed("zstd", &["-qc"], Cursor::new(tar()).chain(std::io::repeat(0).take(1 << 20)))), true);
    // More than what needs no proportion, of nothing but zeros.
    let mut zeros = tar();
    zeros.truncate(zeros.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("short");
    header.set_size(1100 << 20);
    header.set_cksum();
    zeros.extend_from_slice(header.as_bytes());
    let zeros = Cursor::new(zeros).chain(std::io::repeat(0).take((1100 << 20) + 1024));
    case("ratio", "10", &adding(bed, "zeros", &packed("zstd", &["-qc", "-1"], zeros)), false);
    let mut context = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(13);
    context.append_data(&mut header, "Dockerfile", &b"FROM scratch\n"[..]).expect("in memory");
    let archive = bed.path("context.tar");
    std::fs::write(&archive, context.into_inner().expect("in memory")).expect("ours");
    case("definition-bytes", "12", &bed.build(&bed.path("")).no_output().archive(&archive), false);
    let named = format!("busybox=oci-layout://{}", fixtures::busybox().display());
    let files = [("Dockerfile", "FROM busybox\nCOPY --chown=nobody Dockerfile /\n")];
    case("user-database-bytes", "5", &bed.build(&bed.context("chown", &files)).no_output().args(["--build-context", &named]), true);
    let nested = bed.path("nested");
    nested_layout(&nested);
    let named = format!("base=oci-layout://{}", nested.display());
    let base = bed.build(&bed.context("base", &[("Dockerfile", "FROM base\nCOPY Dockerfile /\n")])).no_output().args(["--build-context", &named]);
    for (name, small) in [("manifest-bytes", "50"), ("config-bytes", "50"), ("layers", "0"), ("json-depth", "1"), ("index-depth", "0")] {
        case(name, small, &base, true);
    }
    let server = server();
    let moved = bed.build(&bed.context("moved", &[("Dockerfile", &format!("FROM scratch\nADD {server}/moved /in/\n"))])).no_output();
    case("redirects", "0", &moved, true);
    case("bytes", "3", &moved, true);
    let image = format!("FROM {}/image\n", server.trim_start_matches("http://"));
    case("token-bytes", "3", &bed.build(&bed.context("image", &[("Dockerfile", &image)])).no_output(), false);
    // Servers that take the connection and say nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    std::mem::forget(silent);
    for (name, text) in [("silent-image", format!("FROM {address}/image\n")), ("silent-file", format!("FROM scratch\nADD http://{address}/x /\n"))] {
        case("reply-seconds", "1", &bed.build(&bed.context(name, &[("Dockerfile", &text)])).no_output(), false);
    }
    cases
}

#[test]
fn every_limit_is_named_by_the_error_that_meets_it() {
    let bed = Bed::new();
    bed.configure("[network]\nattempts = 1\n");
    let cases = cases(&bed);
    for name in Limits::NAMES {
        assert!(cases.iter().any(|case| case.name == name), "nothing meets the limit {name}");
    }
    for (n, Case { name, small, build, passes }) in cases.iter().enumerate() {
        let fresh = |n: String| build.clone().state(&bed.path(&format!("state{n}")));
        let outcome = fresh(n.to_string()).args(["--limit".to_owned(), format!("{name}={small}")]).run();
        assert_eq!(outcome.code, Some(1), "{name}: {}", outcome.log);
        for words in ["more than ", "if that is right, raise the limit with --limit ", &format!("--limit {name}=N")] {
            assert!(outcome.log.contains(words), "{name}: {words:?} is not in\n{}", outcome.log);
        }
        if *passes {
            let _ = fresh(n.to_string()).ok();
        }
    }
}

#[test]
fn limits_are_documented() {
    let text = std::fs::read_to_string(require::workspace().join("docs/limits.md")).expect("docs/limits.md");
    let rows: Vec<(String, u64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, rest)| (name.to_owned(), rest.split('|').nth(1).expect("a value").trim().parse().expect("a number")))
        .collect();
    let limits = Limits::default();
    let own: Vec<(String, u64)> = Limits::NAMES.iter().map(|name| ((*name).to_owned(), limits.get(name).expect("a limit"))).collect();
    assert_eq!(rows, own);
}
