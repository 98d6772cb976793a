//! The fuzz targets' decoders (`fuzz/decoders`) on bytes from seeds: honest samples, damaged in every way that a fuzzer damages them. Nothing panics, nothing
//! lasts, nothing is made outside. Needs no nightly compiler. Continuous integration runs a sample; `RBUILD_FUZZ_ITERATIONS=1000000` (`make soak`) the whole.
//! What was found stays in `fuzz/corpus`, from which cargo-fuzz begins as well.

use std::io::Write as _;

use integration_tests::require;

#[path = "../../fuzz/decoders/archive.rs"]
mod archive;
#[path = "../../fuzz/decoders/config.rs"]
mod config;
#[path = "../../fuzz/decoders/manifest.rs"]
mod manifest;
#[path = "../../fuzz/decoders/registry.rs"]
mod registry;
#[path = "../../fuzz/decoders/tar.rs"]
mod tar_of_layer;
#[path = "../../fuzz/decoders/toc.rs"]
mod toc;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit.max(1)
    }
}

/// Bytes that mean something to one decoder or another.
const WORDS: [&[u8]; 14] = [
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\0",
    b"../../..",
    b"/proc/self/root",
    b"ustar  \0",
    b"{\"manifests\":[]}",
    b"[[[[[[[[[[[[[[[[",
    b"18446744073709551616",
    b"-1",
    b"1e999",
    b"sha256:../../x",
    b"\r\n\r\n",
    b"Content-Length: 99999999999999\r\n",
];

fn damaged(sample: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 => bytes.truncate(at),
            3 => {
                bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied());
            }
            4 => {
                let word = WORDS[random.below(WORDS.len())];
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            5 => {
                let from = random.below(bytes.len() + 1);
                let piece = bytes[from..(from + random.below(600)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let end = (at + random.below(600)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
        bytes.truncate(200_000);
    }
    bytes
}

/// How often a decoder is tried: `RBUILD_FUZZ_ITERATIONS`, as `make soak` sets it, instead of `usual`.
fn iterations(usual: u64) -> u64 {
    std::env::var("RBUILD_FUZZ_ITERATIONS").map_or(usual, |count| count.parse().expect("RBUILD_FUZZ_ITERATIONS is a number"))
}

/// The inputs that are kept for a decoder.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = require::workspace().join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).expect("fuzz/corpus").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files.iter().map(|file| std::fs::read(file).expect("ours")).collect()
}

/// Feeds a decoder with its corpus and with damaged samples; a panic names the file or the seed.
fn feed(name: &str, count: u64, samples: &[Vec<u8>], read: fn(&[u8])) {
    // Each reply is a connection, and takes milliseconds.
    let count = if name == "registry" { iterations(10 * count) / 10 } else { iterations(count) };
    let kept = corpus(name);
    samples.iter().chain(&kept).for_each(|sample| read(sample));
    let samples: Vec<&Vec<u8>> = samples.iter().chain(&kept).collect();
    for seed in 0..count {
        let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sample = samples[random.below(samples.len())];
        let bytes = damaged(sample, &mut random);
        let outcome = std::panic::catch_unwind(|| read(&bytes));
        assert!(outcome.is_ok(), "{name}: seed {seed} of {count}");
    }
}

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |kind, path: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(5);
        header.set_mtime(1_600_000_000);
        if link.is_empty() { builder.append_data(&mut header, path, data) } else { builder.append_link(&mut header, path, link) }.expect("in memory");
    };
    put(tar::EntryType::Directory, "dir", "", b"");
    put(tar::EntryType::Regular, "dir/file", "", &[b'x'; 700]);
    put(tar::EntryType::Symlink, "dir/link", "../../etc", b"");
    put(tar::EntryType::Link, "hard", "dir/file", b"");
    put(tar::EntryType::Regular, "dir/.wh.gone", "", b"");
    put(tar::EntryType::Regular, &format!("{}/long", "l".repeat(150)), "", b"long");
    builder.append_pax_extensions([("mtime", &b"1.5"[..]), ("SCHILY.xattr.user.a", b"b")]).expect("in memory");
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_cksum();
    builder.append_data(&mut header, "pax", &b"pax"[..]).expect("in memory");
    builder.into_inner().expect("in memory")
}

#[test]
fn tars_of_layers() {
    feed("tar", 1500, &[tar()], tar_of_layer::read);
}

#[test]
fn packed_archives() {
    let plain = tar();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).expect("in memory");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &plain).expect("ours");
    let packed =
        |program: &str| std::process::Command::new(program).arg("-c").arg(file.path()).output().unwrap_or_else(|e| panic!("{program}: {e}")).stdout;
    let samples = [gzip.finish().expect("in memory"), packed("zstd"), packed("xz"), packed("bzip2"), plain];
    feed("archive", 1500, &samples, archive::read);
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn documents() -> Vec<Vec<u8>> {
    let descriptor = |kind: &str| serde_json::json!({"mediaType": kind, "digest": DIGEST, "size": 7, "annotations": {"a": "b"}});
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json"), "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")]});
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["platform"] = serde_json::json!({"architecture": "arm64", "os": "linux", "variant": "v8"});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
    vec![manifest.to_string().into_bytes(), index.to_string().into_bytes()]
}

#[test]
fn manifests_and_indexes() {
    feed("manifest", 20_000, &documents(), manifest::read);
}

#[test]
fn configs() {
    let config = serde_json::json!({"created": "2020-09-13T12:26:40Z", "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5}},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "history": [{"created_by": "x", "empty_layer": true}]});
    feed("config", 20_000, &[config.to_string().into_bytes()], config::read);
}

#[test]
fn tables_of_layers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let empty = builder_snapshot::tree::MergedTree::open(&[]).expect("an empty tree");
    let bytes = tar();
    let limits = builder_snapshot::layer::ApplyLimits::default();
    let applied = builder_snapshot::layer::apply(&mut &bytes[..], &dir.path().join("fs"), Some(&empty), &limits).expect("an honest tar");
    let sealed = applied.toc.seal();
    // Without its head the seal does not shield the decoder.
    let samples = [sealed.clone(), sealed[sealed.len().min(8)..].to_vec(), sealed[sealed.len().min(40)..].to_vec()];
    feed("toc", 20_000, &samples, toc::read);
}

#[test]
fn replies_of_registries() {
    let reply = |status: &str, headers: &str, body: &[u8]| {
        let mut reply = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()).into_bytes();
        reply.extend_from_slice(body);
        reply
    };
    let manifest = documents().remove(0);
    let samples = [
        reply("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", &manifest),
        reply("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/t\",service=\"s\",scope=\"repository:image:pull\"\r\n", b"{}"),
        reply("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b""),
        reply("307 Temporary Redirect", "Location: /v2/image/manifests/other\r\n", b""),
        reply("404 Not Found", "", br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"m"}]}"#),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n".to_vec(),
    ];
    feed("registry", 300, &samples, registry::read);
}
