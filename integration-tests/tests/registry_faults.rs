//! Registries that misbehave: the right result or an error that says what, where and what to do; nothing wrong is kept.
//!
//! A seeded sample of all faults at all requests; `RBUILD_TEST_SEED` chooses another one, `make soak` takes a larger one.

use std::io::Write;
use std::path::Path;

use integration_tests::faulty::{FAULTS, Fault, Faulty, Script};
use integration_tests::image::sha256;
use integration_tests::inject::{self, Random};
use integration_tests::{Bed, Build, Outcome};
use serde_json::json;

/// Cases of each kind in CI.
const CASES: u64 = 36;
/// The same in `make soak`.
const SOAK_CASES: u64 = 900;
/// A script that does not end.
const ALWAYS: usize = usize::MAX;

/// Sources of cases, each with a name by which it can be had again.
fn seeded() -> impl Iterator<Item = (Random, String)> {
    let (seed, cases) = (inject::seed(), if inject::is_soak() { SOAK_CASES } else { CASES });
    (0..cases).map(move |case| (Random(seed.wrapping_mul(1_000_003).wrapping_add(case)), format!("RBUILD_TEST_SEED={seed}, case {case}")))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).expect("in memory");
    out.finish().expect("in memory")
}

/// A tar with one file of bytes that do not compress.
fn tar_of(name: &str, size: usize) -> Vec<u8> {
    let mut random = Random(size as u64);
    let content: Vec<u8> = (0..size).map(|_| random.below(256) as u8).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, &content[..]).expect("in memory");
    tar.into_inner().expect("in memory")
}

/// Puts an index with one image of two layers under `base/app:1`.
fn fill(registry: &Faulty) {
    const OCI: &str = "application/vnd.oci.image";
    let described = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("{OCI}.{kind}"), "digest": sha256(bytes), "size": bytes.len()});
    let tars = [tar_of("one", 200_000), tar_of("two", 3_000)];
    let layers = tars.each_ref().map(|tar| gzip(tar));
    let diff_ids: Vec<String> = tars.iter().map(|tar| sha256(tar)).collect();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
    let described_layers: Vec<_> = layers.iter().map(|layer| described("layer.v1.tar+gzip", layer)).collect();
    let manifest_type = format!("{OCI}.manifest.v1+json");
    let manifest =
        json!({"schemaVersion": 2, "mediaType": manifest_type, "config": described("config.v1+json", config.as_bytes()), "layers": described_layers})
            .to_string();
    let mut entry = described("manifest.v1+json", manifest.as_bytes());
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": [entry]}).to_string();
    for blob in layers.iter().map(Vec::as_slice).chain([config.as_bytes()]) {
        let _ = registry.put_blob("base/app", blob);
    }
    let _ = registry.put_manifest("base/app", None, &manifest_type, manifest.as_bytes());
    let _ = registry.put_manifest("base/app", Some("1"), &format!("{OCI}.index.v1+json"), index.as_bytes());
}

/// A bed whose builds lose no time.
fn bed(mirror: Option<&Faulty>) -> Bed {
    let bed = Bed::new();
    let mirrors = mirror.map_or_else(String::new, |mirror| format!("mirrors = [\"{}\"]\n", mirror.address()));
    bed.configure(&format!(
        "[network]\nattempts = 3\nfirst_wait_ms = 1\nlongest_wait_ms = 4\nconnect_timeout_ms = 2000\nidle_timeout_ms = 250\n[registry.\"registry.test\"]\nhttp = true\n{mirrors}"
    ));
    bed
}

/// Everything in the store is what its name says, and nothing unfinished is left.
fn is_clean(state: &Path, what: &str) {
    let list =
        |name: &str| std::fs::read_dir(state.join("v1").join(name)).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    for blob in list("blobs/sha256") {
        let name = blob.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(sha256(&std::fs::read(&blob).expect("ours")), format!("sha256:{name}"), "{what}: a wrong blob was kept");
    }
    assert!(list("tmp").is_empty(), "{what}: {:?} is left", list("tmp"));
}

/// An error that a person can do something with.
fn is_clear(outcome: &Outcome, host: &str, repository: &str, what: &str) {
    let log = &outcome.log;
    assert_eq!(outcome.code, Some(1), "{what}: {log}");
    let error: String = log.lines().skip_while(|line| !line.starts_with("ERROR")).collect::<Vec<_>>().join("\n");
    assert!(error.contains(host), "{what}: the error does not say which registry: {log}");
    assert!(error.contains(repository) || error.contains("sha256:"), "{what}: the error does not say what was asked for: {log}");
    assert!(!log.contains("internal fault") && !log.contains("panicked"), "{what}: {log}");
}

fn base_build(bed: &Bed, registry: &Faulty) -> Build {
    let context = bed.context("context", &[("Dockerfile", &format!("FROM {}/base/app:1\nCOPY f /f\n", registry.address())), ("f", "x")]);
    bed.build(&context).env("SOURCE_DATE_EPOCH", "1700000000")
}

#[test]
fn f4_pulls_come_right_or_say_why() {
    let registry = Faulty::start();
    fill(&registry);
    let wanted = base_build(&bed(None), &registry).ok().image().digest;
    let requests = registry.requests().len();
    assert_eq!(requests, 5, "{:?}", registry.requests());
    for (mut random, name) in seeded() {
        let fault = FAULTS[random.below(FAULTS.len())];
        let count = if random.below(3) == 0 { 1 } else { ALWAYS };
        let script = Script { from: random.below(requests), count, fault };
        let what = format!("{name}: {script:?}");
        let bed = bed(None);
        registry.arm(Some(script));
        let outcome = base_build(&bed, &registry).run();
        match outcome.code {
            Some(0) => assert_eq!(outcome.image().digest, wanted, "{what}"),
            _ => is_clear(&outcome, registry.address(), "base/app", &what),
        }
        assert!(outcome.code == Some(0) || !fault.is_transient() || count != 1, "{what}: {}", outcome.log);
        is_clean(&bed.state(), &what);
        registry.heal();
        assert_eq!(base_build(&bed, &registry).ok().image().digest, wanted, "{what}: after it was over");
        is_clean(&bed.state(), &what);
    }
    assert_eq!(registry.offences(), [""; 0]);
}

#[test]
fn f5_pushes_come_right_or_say_why() {
    let bed = bed(None);
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\n"), ("b", "x")]);
    let mut random = Random(1);
    std::fs::write(context.join("a"), (0..300_000).map(|_| random.below(256) as u8).collect::<Vec<_>>()).expect("ours");
    let push = |registry: &Faulty, names: &[&str]| {
        let names = names.iter().map(|name| format!("{}/{name}", registry.address())).flat_map(|name| ["-t".to_owned(), name]);
        bed.build(&context).no_output().env("SOURCE_DATE_EPOCH", "1700000000").args(names).args(["--push"])
    };
    let healthy = Faulty::start();
    let _ = push(&healthy, &["team/app:1", "team/app:2"]).ok();
    let wanted = healthy.manifest("team/app", "1").expect("pushed");
    assert_eq!(healthy.manifest("team/app", "2").as_ref(), Some(&wanted));
    let requests = healthy.requests().len();
    assert_eq!(requests, 3 * 3 + 2, "{:?}", healthy.requests());
    for (mut random, name) in seeded() {
        let fault = FAULTS[random.below(FAULTS.len())];
        let count = if random.below(3) == 0 { 1 } else { ALWAYS };
        let script = Script { from: random.below(requests), count, fault };
        let what = format!("{name}: {script:?}");
        let registry = Faulty::start();
        registry.arm(Some(script));
        let outcome = push(&registry, &["team/app:1", "team/app:2"]).run();
        let come = registry.manifest("team/app", "2");
        match outcome.code {
            Some(0) => assert_eq!(come.as_ref(), Some(&wanted), "{what}: it says that it was pushed: {:?}", registry.requests()),
            _ => is_clear(&outcome, registry.address(), "team/app", &what),
        }
        assert!(outcome.code == Some(0) || !fault.is_transient() || count != 1, "{what}: {}", outcome.log);
        registry.heal();
        let _ = push(&registry, &["team/app:1", "team/app:2"]).ok();
        for tag in ["1", "2"] {
            assert_eq!(registry.manifest("team/app", tag).as_ref(), Some(&wanted), "{what}: after it was over");
        }
        is_clean(&bed.state(), &what);
        assert_eq!(registry.offences(), [""; 0], "{what}");
    }
}

#[test]
fn f6_a_mirror_that_misbehaves_spoils_nothing() {
    let (origin, mirror) = (Faulty::start(), Faulty::start());
    fill(&origin);
    fill(&mirror);
    let wanted = base_build(&bed(None), &origin).ok().image().digest;
    for (mut random, name) in seeded().step_by(3) {
        let script = Script { from: random.below(5), count: ALWAYS, fault: FAULTS[random.below(FAULTS.len())] };
        let what = format!("{name}: {script:?}");
        let bed = Bed::new();
        let address = origin.address();
        bed.configure(&format!(
            "[network]\nattempts = 3\nfirst_wait_ms = 1\nlongest_wait_ms = 4\nidle_timeout_ms = 250\n[registry.\"{address}\"]\nmirrors = [\"{}\"]\n",
            mirror.address()
        ));
        mirror.arm(Some(script));
        let outcome = base_build(&bed, &origin).run();
        assert_eq!(outcome.code, Some(0), "{what}: {}", outcome.log);
        assert_eq!(outcome.image().digest, wanted, "{what}");
        is_clean(&bed.state(), &what);
    }
}

#[test]
fn f3_tokens_are_asked_for_and_asked_for_again() {
    for uses in [2, 3, 100] {
        let registry = Faulty::start();
        fill(&registry);
        registry.want_tokens(uses);
        let bed = bed(None);
        let anonymous = base_build(&bed, &registry).run();
        is_clear(&anonymous, registry.address(), "base/app", "without a password");
        assert!(anonymous.log.contains("docker login"), "{}", anonymous.log);
        let config = bed.context("docker", &[("config.json", &format!(r#"{{"auths": {{"{}": {{"auth": "dTpwdw=="}}}}}}"#, registry.address()))]);
        let build = base_build(&bed, &registry).env("DOCKER_CONFIG", config);
        let name = format!("{}/team/app:1", registry.address());
        let _ = build.clone().no_output().args(["-t", &name, "--push"]).ok();
        assert!(registry.manifest("team/app", "1").is_some());
        assert_eq!(registry.offences(), [""; 0]);
    }
}

#[test]
fn every_fault_that_passes_is_outlived() {
    let registry = Faulty::start();
    fill(&registry);
    for fault in FAULTS.iter().filter(|fault| fault.is_transient()) {
        let bed = bed(None);
        let script = Script { from: 3, count: 1, fault: *fault };
        registry.arm(Some(script));
        let outcome = base_build(&bed, &registry).run();
        assert_eq!(outcome.code, Some(0), "{fault:?}: {}", outcome.log);
        if matches!(fault, Fault::Truncate) {
            assert!(registry.requests().len() >= 6, "it went on: {:?}", registry.requests());
        }
    }
}

#[test]
fn damaged_blobs_are_pushed_nowhere() {
    let bed = bed(None);
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\n"), ("a", "some bytes"), ("b", "others")]);
    let push = |registry: &Faulty| {
        let name = format!("{}/team/app:1", registry.address());
        bed.build(&context).no_output().env("SOURCE_DATE_EPOCH", "1700000000").args(["-t", &name, "--push"])
    };
    let first = Faulty::start();
    let _ = push(&first).ok();
    let blobs: Vec<_> = std::fs::read_dir(bed.state().join("v1/blobs/sha256")).expect("blobs").map(|entry| entry.expect("entry").path()).collect();
    for blob in &blobs {
        let mut bytes = std::fs::read(blob).expect("ours");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(blob, bytes).expect("ours");
    }
    let second = Faulty::start();
    // Each attempt may come upon one damaged blob.
    for _ in 0..=blobs.len() {
        let outcome = push(&second).run();
        if outcome.code == Some(0) {
            break;
        }
        assert!(outcome.log.contains("is damaged") && outcome.log.contains("build again"), "{}", outcome.log);
        assert_eq!(second.manifest("team/app", "1"), None, "{}", outcome.log);
    }
    assert_eq!(second.manifest("team/app", "1"), first.manifest("team/app", "1"));
    assert_eq!(second.offences(), [""; 0]);
}
