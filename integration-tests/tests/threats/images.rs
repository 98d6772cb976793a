//! Images and manifests that lie.

use std::path::{Path, PathBuf};

use integration_tests::fixtures;
use integration_tests::image::sha256;
use serde_json::{Value, json};

use crate::archives::{entry, frugal};
use crate::yard::{Yard, named};

/// A layout whose manifest or config was changed as text; digests fit unless the change is made afterwards.
struct Layout {
    dir: PathBuf,
    manifest: String,
    config: String,
}

impl Layout {
    fn new(yard: &Yard, name: &str) -> Self {
        let mut layer = Vec::new();
        entry(&mut layer, b'0', "file", "", b"content");
        layer.resize(layer.len() + 1024, 0);
        let dir = yard.bed.path(name);
        std::fs::create_dir_all(&dir).expect("ours");
        fixtures::layout(&dir, &layer, &json!(["/bin/sh"]));
        let index: Value = serde_json::from_slice(&std::fs::read(dir.join("index.json")).expect("ours")).expect("json");
        let manifest = read(&dir, &index["manifests"][0]);
        let config = read(&dir, &serde_json::from_str::<Value>(&manifest).expect("json")["config"]);
        Self { dir, manifest, config }
    }

    /// Writes config and manifest as they are now, and an index that fits.
    fn write(&self, media_type: &str) -> &Path {
        let old: Value = serde_json::from_str(&self.manifest).unwrap_or_default();
        let old_config = old["config"]["digest"].as_str().unwrap_or_default().to_owned();
        let config = put(&self.dir, self.config.as_bytes());
        let old_size = old["config"]["size"].to_string();
        let manifest =
            self.manifest.replace(&old_config, &config).replacen(&format!("\"size\":{old_size}"), &format!("\"size\":{}", self.config.len()), 1);
        let digest = put(&self.dir, manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type, "digest": digest, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
        std::fs::write(self.dir.join("index.json"), index.to_string()).expect("ours");
        &self.dir
    }
}

fn read(dir: &Path, descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().expect("a digest");
    std::fs::read_to_string(dir.join("blobs").join(digest.replace(':', "/"))).expect("a blob")
}

fn put(dir: &Path, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    std::fs::write(dir.join("blobs").join(digest.replace(':', "/")), bytes).expect("ours");
    digest
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKERFILE: &str = "FROM base\nCOPY Dockerfile /d\n";

#[test]
fn cve_2021_41190_documents_that_can_be_read_in_two_ways_are_refused() {
    let yard = Yard::new();
    type Change = fn(&mut Layout);
    let cases: [(&str, &str, Change); 9] = [
        ("both", MANIFEST, |l| l.manifest = l.manifest.replacen('{', "{\"manifests\":[],", 1)),
        ("twice", MANIFEST, |l| l.manifest = l.manifest.replacen('{', "{\"schemaVersion\":2,", 1)),
        ("twice in another case", MANIFEST, |l| l.manifest = l.manifest.replacen('{', "{\"Layers\":[],", 1)),
        ("trailing bytes", MANIFEST, |l| l.manifest.push_str("{}")),
        ("called an index", INDEX, |_| {}),
        ("config twice", MANIFEST, |l| l.config = l.config.replacen("\"os\":", "\"os\":\"linux\",\"os\":", 1)),
        ("config with trailing bytes", MANIFEST, |l| l.config.push_str(" x")),
        ("config with one field twice within", MANIFEST, |l| l.config = l.config.replacen("\"Env\":", "\"Env\":[],\"Env\":", 1)),
        ("config with layers in another case", MANIFEST, |l| {
            l.config = l.config.replacen("\"rootfs\":", "\"RootFS\":{\"type\":\"layers\",\"diff_ids\":[]},\"rootfs\":", 1)
        }),
    ];
    for (n, (name, media_type, change)) in cases.iter().enumerate() {
        let mut layout = Layout::new(&yard, &format!("layout{n}"));
        change(&mut layout);
        let dir = layout.write(media_type).to_owned();
        let outcome = yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", DOCKERFILE)]).args(named("base", &dir)));
        assert_eq!(outcome.code, Some(1), "{name} was accepted:\n{}", outcome.log);
    }
    let fine = Layout::new(&yard, "fine");
    let dir = fine.write(MANIFEST).to_owned();
    let outcome = yard.run(&yard.build("fine-build", &[("Dockerfile", DOCKERFILE)]).args(named("base", &dir)));
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    yard.store_is_good();
}

#[test]
fn cve_2024_3727_digests_and_sizes_are_checked_and_are_no_paths() {
    let yard = Yard::new();
    type Change = fn(&mut Layout, &str);
    let cases: [(&str, Change); 8] = [
        ("a path", |l, layer| l.manifest = l.manifest.replace(layer, "sha256:../../../../canary/secret")),
        ("an absolute path", |l, layer| l.manifest = l.manifest.replace(layer, "sha256:/etc/passwd")),
        ("unknown algorithm", |l, layer| l.manifest = l.manifest.replace(layer, &format!("md5:{}", "0".repeat(32)))),
        ("short", |l, layer| l.manifest = l.manifest.replace(layer, "sha256:00")),
        ("capitals", |l, layer| l.manifest = l.manifest.replace(layer, &layer.to_uppercase().replace("SHA256", "sha256"))),
        ("wrong diff id", |l, _| l.config = l.config.replace("\"diff_ids\":[\"sha256:", "\"diff_ids\":[\"sha256:0000000000")),
        ("path as diff id", |l, _| {
            let mut config: Value = serde_json::from_str(&l.config).expect("json");
            config["rootfs"]["diff_ids"] = json!(["sha256:../../x"]);
            l.config = config.to_string();
        }),
        ("too many layers", |l, _| {
            let mut manifest: Value = serde_json::from_str(&l.manifest).expect("json");
            manifest["layers"] = Value::Array(vec![manifest["layers"][0].clone(); 3000]);
            l.manifest = manifest.to_string();
        }),
    ];
    for (n, (name, change)) in cases.iter().enumerate() {
        let mut layout = Layout::new(&yard, &format!("layout{n}"));
        let manifest: Value = serde_json::from_str(&layout.manifest).expect("json");
        let layer = manifest["layers"][0]["digest"].as_str().expect("a digest").to_owned();
        change(&mut layout, &layer);
        let dir = layout.write(MANIFEST).to_owned();
        let build = yard.build(&format!("c{n}"), &[("Dockerfile", DOCKERFILE)]).args(named("base", &dir));
        assert_eq!(yard.run(&build).code, Some(1), "{name} was accepted");
    }
    // Blobs whose bytes are not what their names say: cut, longer, other.
    for (n, change) in
        [|b: &mut Vec<u8>| b.truncate(b.len() / 2), |b: &mut Vec<u8>| b.extend_from_slice(b"more"), |b: &mut Vec<u8>| b[20] ^= 1].iter().enumerate()
    {
        let layout = Layout::new(&yard, &format!("bytes{n}"));
        let manifest: Value = serde_json::from_str(&layout.manifest).expect("json");
        let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
        let blob = layout.dir.join("blobs").join(digest.replace(':', "/"));
        let mut bytes = std::fs::read(&blob).expect("ours");
        change(&mut bytes);
        std::fs::write(&blob, bytes).expect("ours");
        let build = yard.build(&format!("b{n}"), &[("Dockerfile", DOCKERFILE)]).args(named("base", &layout.dir));
        assert_eq!(yard.run(&build).code, Some(1), "change {n}");
    }
    yard.store_is_good();
}

#[test]
fn boxlite_ghsa_gcpm_huge_documents_end_at_a_limit_and_cost_little_memory() {
    let yard = Yard::new();
    let honest = Layout::new(&yard, "honest");
    let layer = serde_json::from_str::<Value>(&honest.manifest).expect("json")["layers"][0].to_string();
    let with_layers = |count: usize| honest.manifest.replace(&layer, &vec![layer.as_str(); count].join(","));
    let annotated = |text: &str| honest.manifest.replacen('{', &format!("{{\"annotations\":{{\"a\":\"{text}\"}},"), 1);
    let nested = |depth: usize| honest.manifest.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(depth), "]".repeat(depth)), 1);
    let labelled = |count: usize| {
        let labels: Vec<String> = (0..count).map(|n| format!("\"l{n}\":\"v\"")).collect();
        honest.config.replacen("\"config\":{", &format!("\"config\":{{\"Labels\":{{{}}},", labels.join(",")), 1)
    };
    let cases = [
        ("fifty-thousand-layers", with_layers(50_000), honest.config.clone()),
        ("many-layers", with_layers(10_000), honest.config.clone()),
        ("large", annotated(&"a".repeat(8 << 20)), honest.config.clone()),
        ("nested", nested(200_000), honest.config.clone()),
        ("large-config", honest.manifest.clone(), labelled(900_000)),
        (
            "nested-config",
            honest.manifest.clone(),
            honest.config.replacen('{', &format!("{{\"x\":{}1{},", "[".repeat(200_000), "]".repeat(200_000)), 1),
        ),
    ];
    for (name, manifest, config) in cases {
        let layout = Layout { manifest, config, ..Layout::new(&yard, name) };
        let build = yard.build(&format!("c-{name}"), &[("Dockerfile", DOCKERFILE)]).args(named("base", layout.write(MANIFEST))).no_output();
        let _ = yard.refused(&frugal(build), "");
    }
    yard.store_is_good();
}

#[test]
fn cve_2024_24557_an_image_cannot_claim_the_place_of_a_step() {
    let yard = Yard::new();
    let healthy = |command: &str| format!("FROM scratch\nCOPY f /f\nHEALTHCHECK CMD {command}\nONBUILD RUN {command}\n");
    let one = yard.build("one", &[("Dockerfile", &healthy("one")), ("f", "f")]).ok().image();
    // An image that looks like the result of the step, from elsewhere, with other content.
    let hostile = Layout::new(&yard, "hostile");
    let mut config: Value = serde_json::from_str(&hostile.config).expect("json");
    config["history"] = one.config["history"].clone();
    let hostile = Layout { config: config.to_string(), ..hostile };
    let dir = hostile.write(MANIFEST).to_owned();
    let _ = yard.run(&yard.build("bring", &[("Dockerfile", DOCKERFILE)]).args(named("base", &dir)));
    let two = yard.build("two", &[("Dockerfile", &healthy("two")), ("f", "f")]).ok().image();
    assert_eq!(two.file("f").as_deref(), Some(&b"f"[..]));
    for field in ["Healthcheck", "OnBuild"] {
        assert!(one.config["config"][field].to_string().contains("one") && two.config["config"][field].to_string().contains("two"), "{field}");
    }
    yard.store_is_good();
}
