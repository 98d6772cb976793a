//! A secret is readable in its RUN and found nowhere else.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use integration_tests::Bed;

const FILE_SECRET: &str = "f1le-s3cret-7b0c9d5e-correct-horse";
const ENV_SECRET: &str = "env-s3cret-19ad44f2-battery-staple";

#[test]
fn a_secret_leaves_no_byte_behind() {
    let bed = Bed::with_registry();
    let text = "FROM busybox AS work\n\
        RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN \
        test \"$(wc -c < /run/secrets/file)\" = 34 && test \"$(printf %s \"$TOKEN\" | wc -c)\" = 34 && \
        sha256sum /run/secrets/file | cut -c1-8 > /proof && cat /run/secrets/file && echo \" $TOKEN\"\n\
        RUN test ! -e /run/secrets/file && test -z \"$TOKEN\"\n\
        FROM busybox\nCOPY --from=work /proof /proof\n";
    assert_eq!((FILE_SECRET.len(), ENV_SECRET.len()), (34, 34));
    let context = bed.context("context", &[("Dockerfile", text)]);
    let file = bed.path("outside-secret");
    std::fs::write(&file, FILE_SECRET).expect("ours");
    let secret_file = format!("id=file,src={}", file.display());
    let build = bed.build(&context).args(["--secret", &secret_file, "--secret", "id=variable,env=HOST_TOKEN"]).env("HOST_TOKEN", ENV_SECRET);
    let outcome = build.ok();
    let image = outcome.image();
    assert!(image.file("proof").is_some_and(|proof| proof.len() == 9), "the step read it");
    let second = build.clone().output(&bed.path("second.tar")).ok();
    for text in [&outcome.log, &outcome.stdout, &second.log] {
        check("what the build said", text.as_bytes());
    }
    assert!(outcome.log.contains("****"), "the step printed its secret, which is masked: {}", outcome.log);
    for layer in image.layers.iter().flatten() {
        check(&format!("layer entry {}", layer.path), &layer.data);
    }
    check("manifest", image.manifest.to_string().as_bytes());
    check("config and history", image.config.to_string().as_bytes());
    check("the exported tar", &std::fs::read(bed.path("context.tar")).expect("exported"));
    let mut files = 0;
    search(&bed.state(), &mut files);
    assert!(files > 10, "the store was searched ({files} files)");
}

fn search(dir: &Path, files: &mut usize) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let entry = entry.expect("readable");
        check("a name in the store", entry.file_name().as_encoded_bytes());
        let kind = entry.file_type().expect("readable");
        if kind.is_dir() {
            search(&entry.path(), files);
        } else if kind.is_file() {
            *files += 1;
            let bytes = std::fs::read(entry.path()).expect("readable");
            check(&entry.path().display().to_string(), &bytes);
            check_inside(&entry.path(), &bytes);
        }
    }
}

/// Looks into what is compressed, too.
fn check_inside(path: &Path, bytes: &[u8]) {
    let place = path.display().to_string();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        if std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes), &mut plain).is_ok() {
            check(&place, &plain);
        }
    }
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let output = std::process::Command::new("zstd").arg("-dcq").arg(path).output().expect("zstd: apt-get install zstd");
        check(&place, &output.stdout);
    }
}

fn check(place: &str, bytes: &[u8]) {
    let needles: Vec<String> = [FILE_SECRET, ENV_SECRET].into_iter().flat_map(needles).collect();
    let heads: Vec<&[u8]> = needles.iter().map(|needle| &needle.as_bytes()[..4]).collect();
    for (start, window) in bytes.windows(4).enumerate() {
        for (needle, head) in needles.iter().zip(&heads) {
            let found = window == *head && bytes[start..].starts_with(needle.as_bytes());
            assert!(!found, "{needle:?} (of a secret) is in {place}");
        }
    }
}

/// The raw text, and its base64 at each of the three alignments without the edges that depend on the neighbours.
fn needles(secret: &str) -> Vec<String> {
    let mut all = vec![secret.to_owned()];
    for shift in 0..3 {
        let padded = [&vec![b'x'; shift], secret.as_bytes()].concat();
        let text = STANDARD_NO_PAD.encode(padded);
        all.push(text[4..text.len() - 4].to_owned());
    }
    all
}
