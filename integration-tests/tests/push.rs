//! What is pushed and loaded is what other tools pull and run.

use std::path::PathBuf;
use std::process::Command;

use integration_tests::peers::{self, Podman};
use integration_tests::registry::Registry;
use integration_tests::{Bed, Outcome};

const DOCKERFILE: &str =
    "FROM busybox\nCOPY greeting /greeting\nRUN chmod 600 /greeting && echo more > /more\nCMD [\"cat\", \"/greeting\", \"/more\"]\n";

fn bed() -> (Bed, PathBuf) {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("greeting", "hello\n")]);
    (bed, context)
}

fn manifest(image: &str) -> serde_json::Value {
    serde_json::from_str(&peers::run(peers::skopeo().args(["inspect", "--raw", "--tls-verify=false", image]))).expect("JSON")
}

/// Uploads of the log since `mark`: the requests that end one.
fn uploads(bed: &Bed, mark: usize) -> usize {
    let finished = bed.registry().requests_since(mark, "http.request.method=PUT");
    finished.iter().filter(|line| line.contains("/blobs/uploads/") && line.contains("response completed")).count()
}

#[test]
fn f5_podman_pulls_and_runs_what_was_pushed() {
    let (bed, context) = bed();
    let address = bed.registry().address().to_owned();
    let name = |tag: &str| format!("{address}/team/app:{tag}");
    let metadata = bed.path("metadata.json");
    let mark = bed.registry().mark();
    let pushed = bed
        .build(&context)
        .no_output()
        .args(["-t", &name("1"), "-t", &name("two"), "--push"])
        .args(["--metadata-file".into(), metadata.clone().into_os_string()])
        .ok();
    assert!(pushed.log.contains("pushing manifest for"), "{}", pushed.log);
    // The base is taken over from its repository; the two layers and the config are sent.
    assert_eq!(uploads(&bed, mark), 3, "{}", pushed.log);
    assert!(pushed.log.contains("from library/busybox"), "{}", pushed.log);
    let podman = Podman::new(&bed.path("podman"));
    for tag in ["1", "two"] {
        assert_eq!(podman.run(&name(tag)), "hello\nmore\n");
    }
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).expect("written")).expect("JSON");
    let digest = peers::run(peers::skopeo().args(["inspect", "--format", "{{.Digest}}", "--tls-verify=false", &bed.registry().at("team/app:two")]));
    assert_eq!(metadata["containerimage.digest"], digest.trim());
    assert_eq!(metadata["image.name"], format!("{},{}", name("1"), name("two")));

    // Nothing is sent twice.
    let mark = bed.registry().mark();
    let _ = bed.build(&context).no_output().args(["-t", &name("3"), "--push"]).ok();
    assert_eq!(uploads(&bed, mark), 0);
    assert_eq!(bed.registry().requests_since(mark, "http.request.method=POST").len(), 0);
}

#[test]
fn f5_a_base_that_is_not_here_is_neither_brought_nor_sent() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nLABEL a=b\nWORKDIR /w\n")]);
    let address = bed.registry().address().to_owned();
    let mark = bed.registry().mark();
    let dockerfile = bed.context("labels", &[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    let _ = bed.build(&dockerfile).no_output().args(["-t", &format!("{address}/only/labels"), "--push"]).ok();
    let blobs: Vec<String> = bed.registry().requests_since(mark, "http.request.method=GET");
    assert_eq!(blobs.iter().filter(|line| line.contains("/blobs/sha256") && line.contains("response completed")).count(), 1, "the config: {blobs:?}");
    // To another registry it has to be brought.
    let other = Registry::start(&bed.path("other"));
    let _ = bed.build(&context).no_output().args(["-t", &format!("{}/only/labels", other.address()), "--push"]).ok();
    let there = manifest(&other.at("only/labels"));
    let base = manifest(&bed.registry().at("library/busybox"));
    assert_eq!(there["layers"][0]["digest"], base["layers"][0]["digest"], "the base's own blob, not packed again");
}

#[test]
fn f5_skopeo_copies_both_ways_and_rbuild_builds_on_it() {
    let (bed, context) = bed();
    let registry = bed.registry();
    let outcome = bed.build(&context).args(["-t", "app:1"]).ok();
    let image = outcome.image();
    // Our archive to a registry, and a build on top of it.
    peers::copy(&format!("oci-archive:{}", bed.path("context.tar").display()), &registry.at("copied/app:1"));
    let on_top = bed.context("top", &[("Dockerfile", &format!("FROM {}/copied/app:1\nRUN cat /greeting /more > /both\n", registry.address()))]);
    let top = bed.build(&on_top).state(&bed.path("fresh")).ok().image();
    assert_eq!(top.file("both").as_deref(), Some(&b"hello\nmore\n"[..]));
    assert_eq!(top.manifest["layers"][0], image.manifest["layers"][0], "blobs of the base stay what they were");
    // What rbuild pushed to a layout directory, and a build on top of that.
    let _ = bed.build(&context).no_output().args(["-t", &format!("{}/pushed/app:1", registry.address()), "--push"]).ok();
    let layout = bed.path("layout");
    peers::copy(&registry.at("pushed/app:1"), &format!("oci:{}:1", layout.display()));
    let from_layout = bed.context("layered", &[("Dockerfile", "FROM base\nRUN cat /more > /again\n")]);
    let named = format!("base=oci-layout://{}:1", layout.display());
    let image = bed.build(&from_layout).state(&bed.path("fresh too")).args(["--build-context", &named]).ok().image();
    assert_eq!(image.file("again").as_deref(), Some(&b"more\n"[..]));
}

#[test]
fn d4_the_docker_archive_passes_podman_load() {
    let (bed, context) = bed();
    let archive = bed.path("docker.tar");
    let _ = bed.build(&context).no_output().args(["-t", "localhost/app:1", "-o", &format!("type=docker,dest={}", archive.display())]).ok();
    let podman = Podman::new(&bed.path("podman"));
    let _ = peers::run(podman.command().args(["load", "-i"]).arg(&archive));
    assert_eq!(podman.run("localhost/app:1"), "hello\nmore\n");
}

/// A directory of programs that answer as engines; `podman` is the real one with storage of its own.
fn engines(bed: &Bed, podman: &Podman) -> String {
    let dir = bed.context("engines", &[("docker", "#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")]);
    let words: String = podman.words().iter().map(|word| format!("'{word}' ")).collect();
    let script = format!("#!/bin/sh\nexec {words} \"$@\"\n");
    std::fs::write(dir.join("podman"), script).expect("ours");
    let _ = peers::run(Command::new("chmod").arg("755").args([dir.join("docker"), dir.join("podman")]));
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.display())
}

#[test]
fn d10_load_gives_the_image_to_the_engine_that_answers() {
    let (bed, context) = bed();
    let podman = Podman::new(&bed.path("podman"));
    let path = engines(&bed, &podman);
    let outcome = bed.build(&context).no_output().args(["-t", "localhost/loaded:1", "--load"]).env("PATH", &path).ok();
    assert!(outcome.log.contains("importing to podman"), "{}", outcome.log);
    assert_eq!(podman.run("localhost/loaded:1"), "hello\nmore\n");
    // Without an engine nothing is begun.
    let outcome = bed.build(&context).no_output().args(["-t", "x", "--load"]).env("PATH", "/nowhere").run();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.log.contains("neither docker nor podman") && !outcome.log.contains("[internal]"), "{}", outcome.log);
}

#[test]
fn d1_one_build_has_several_outputs() {
    let (bed, context) = bed();
    let address = bed.registry().address().to_owned();
    let (oci, docker, plain, dir) = (bed.path("a.tar"), bed.path("b.tar"), bed.path("c.tar"), bed.path("root"));
    let outputs = [
        format!("type=oci,dest={},compression=zstd,compression-level=19", oci.display()),
        format!("type=docker,dest={}", docker.display()),
        format!("type=oci,dest={},compression=uncompressed,force-compression=true", plain.display()),
        format!("type=local,dest={}", dir.display()),
        format!("type=registry,name={address}/several/app:1,annotation.org.example.note=here"),
    ];
    let outcome = bed.build(&context).no_output().args(["-t", "app:1"]).args(outputs.iter().flat_map(|output| ["-o", output])).ok();
    assert!(outcome.stdout.is_empty());
    let types = |archive: &PathBuf| {
        let files = integration_tests::image::files(archive);
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest").replace(':', "/");
        let manifest: serde_json::Value = serde_json::from_slice(&files[&format!("blobs/{digest}")]).expect("JSON");
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        layers
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(types(&oci), ["tar+gzip", "tar+zstd", "tar+zstd"], "the base stays as it was");
    assert_eq!(types(&plain), ["tar", "tar", "tar"]);
    assert_eq!(types(&docker), ["gzip", "gzip", "gzip"]);
    assert_eq!(std::fs::read_to_string(dir.join("more")).expect("exported"), "more\n");
    let pushed = manifest(&bed.registry().at("several/app:1"));
    assert_eq!(pushed["annotations"]["org.example.note"], "here");
}

#[test]
fn d1_pushing_by_digest_leaves_no_tag() {
    let (bed, context) = bed();
    let address = bed.registry().address().to_owned();
    let output = format!("type=image,name={address}/by/digest,push-by-digest=true,push=true");
    let metadata = bed.path("metadata.json");
    let _ = bed.build(&context).no_output().args(["-o", &output, "--metadata-file", &metadata.display().to_string()]).ok();
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).expect("written")).expect("JSON");
    let digest = metadata["containerimage.digest"].as_str().expect("a digest");
    let _ = manifest(&bed.registry().at(&format!("by/digest@{digest}")));
    let tags = peers::skopeo().args(["list-tags", "--tls-verify=false", &bed.registry().at("by/digest")]).output().expect("skopeo");
    assert!(!String::from_utf8_lossy(&tags.stdout).contains("latest"), "{tags:?}");
}

#[test]
fn d3_several_platforms_are_pushed_as_one_index() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY . /$TARGETARCH/\n"), ("f", "x")]);
    let name = format!("{}/multi/app:1", bed.registry().address());
    let flags = ["-t", &name, "--push", "--platform", "linux/amd64,linux/arm64", "--annotation", "index:org.example.a=1"];
    let _ = bed.build(&context).no_output().args(flags).ok();
    let index = manifest(&bed.registry().at("multi/app:1"));
    let platforms: Vec<_> = index["manifests"].as_array().expect("an index").iter().map(|entry| entry["platform"]["architecture"].clone()).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(index["annotations"]["org.example.a"], "1");
    for arch in ["amd64", "arm64"] {
        let dest = format!("oci:{}", bed.path(arch).display());
        let _ = peers::run(peers::skopeo().args([
            "--override-arch",
            arch,
            "copy",
            "-q",
            "--src-tls-verify=false",
            &bed.registry().at("multi/app:1"),
            &dest,
        ]));
    }
}

fn with_config(bed: &Bed, text: &str) -> String {
    bed.context("docker-config", &[("config.json", text)]).display().to_string()
}

fn denied(outcome: &Outcome, host: &str) {
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains(&format!("docker login {host}")), "{}", outcome.log);
}

#[test]
fn f2_passwords_open_a_registry_for_pushing_and_pulling() {
    let bed = Bed::new();
    let registry = Registry::with_password(&bed.path("registry"));
    let host = registry.address().to_owned();
    bed.configure(&format!("[registry.\"{host}\"]\nhttp = true\n"));
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "x")]);
    let name = format!("{host}/closed/app:1");
    let push = |config: &str| bed.build(&context).no_output().args(["-t", &name, "--push"]).env("DOCKER_CONFIG", config).run();
    denied(&push("/nonexistent"), &host);
    denied(&push(&with_config(&bed, &format!(r#"{{"auths": {{"{host}": {{"auth": "dTp3cm9uZw=="}}}}}}"#))), &host);
    // `u:pw`, by the file and by a helper.
    let in_file = with_config(&bed, &format!(r#"{{"auths": {{"http://{host}/v2/": {{"auth": "dTpwdw=="}}}}}}"#));
    let outcome = push(&in_file);
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let helpers = bed.context("helpers", &[("docker-credential-test", "#!/bin/sh\nread host\necho '{\"Username\":\"u\",\"Secret\":\"pw\"}'\n")]);
    let _ = peers::run(Command::new("chmod").arg("755").arg(helpers.join("docker-credential-test")));
    let by_helper = with_config(&bed, &format!(r#"{{"credHelpers": {{"{host}": "test"}}}}"#));
    let on_top = bed.context("top", &[("Dockerfile", &format!("FROM {name}\nCOPY f /g\n")), ("f", "y")]);
    let build =
        bed.build(&on_top).state(&bed.path("fresh")).env("DOCKER_CONFIG", by_helper).env("PATH", format!("{}:/usr/bin:/bin", helpers.display()));
    assert_eq!(build.ok().image().file("f").as_deref(), Some(&b"x"[..]));
    assert!(!outcome.log.contains("dTpwdw") && !outcome.log.contains("pw\""), "{}", outcome.log);
}

#[test]
fn f5_a_push_that_cannot_be_names_what_and_where() {
    let (bed, context) = bed();
    let gone = { Registry::start(&bed.path("gone")).address().to_owned() };
    bed.configure(&format!("{}[registry.\"{gone}\"]\nhttp = true\n[network]\nattempts = 2\nfirst_wait_ms = 1\n", bed.registry().configuration()));
    let outcome = bed.build(&context).no_output().args(["-t", &format!("{gone}/team/app:1"), "--push"]).run();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.log.contains(&format!("cannot push {gone}/team/app")) && outcome.log.contains("cannot reach"), "{}", outcome.log);
}

#[test]
fn f6_certificates_are_demanded_and_shown() {
    let bed = Bed::new();
    let dir = bed.path("registry");
    let registry = Registry::with_tls(&dir);
    let host = registry.address().to_owned();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "x")]);
    let push = bed.build(&context).no_output().args(["-t", &format!("{host}/closed/app:1"), "--push"]);
    let network = "[network]\nattempts = 2\nfirst_wait_ms = 1\n";
    let with = |table: &str| {
        bed.configure(&format!("{network}[registry.\"{host}\"]\n{table}"));
        push.run()
    };
    let ca = format!("ca = [\"{}/ca.crt\"]\n", dir.display());
    let pair = format!("[[registry.\"{host}\".keypair]]\ncert = \"{0}/client.cert\"\nkey = \"{0}/client.key\"\n", dir.display());
    let unknown = with(&pair);
    assert!(unknown.code == Some(1) && unknown.log.contains("configure its CA"), "{}", unknown.log);
    assert_eq!(with(&ca).code, Some(1), "without a certificate of ours");
    let good = with(&format!("{ca}{pair}"));
    assert_eq!(good.code, Some(0), "{}", good.log);
    let careless = with(&format!("insecure = true\n{pair}"));
    assert_eq!(careless.code, Some(0), "{}", careless.log);
    // The same files where docker looks for them.
    bed.configure(network);
    let certs = bed.path("docker/certs.d").join(&host);
    std::fs::create_dir_all(&certs).expect("ours");
    for name in ["ca.crt", "client.cert", "client.key"] {
        std::fs::copy(dir.join(name), certs.join(name)).expect("ours");
    }
    let _ = push.clone().env("DOCKER_CONFIG", bed.path("docker")).ok();
}

#[test]
fn e2_an_ordinary_user_pushes_and_loads() {
    let bed = Bed::new();
    let registry = Registry::with_password(&bed.path("registry"));
    let host = registry.address().to_owned();
    bed.configure(&format!("[registry.\"{host}\"]\nhttp = true\n"));
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "x")]);
    let name = format!("{host}/closed/app:1");
    let build = bed.build(&context).no_output().args(["-t", &name, "--push", "--load"]).as_user("rbuild-test");
    let home = build.home().to_owned();
    // A helper and an engine that work for the user's own id only, as keyrings and podman do.
    let own = "[ $(id -u) = $(id -u rbuild-test) ] || exit 1\n";
    let helper = format!("#!/bin/sh\n{own}echo '{{\"Username\":\"u\",\"Secret\":\"pw\"}}'\n");
    let engine = format!("#!/bin/sh\n{own}[ \"$1 $2\" = 'load -i' ] && cp \"$3\" {}/loaded.tar\n", home.display());
    let programs = bed.context("programs", &[("docker-credential-test", &helper), ("podman", &engine)]);
    let _ = peers::run(Command::new("chmod").arg("755").args([&programs, &programs.join("docker-credential-test"), &programs.join("podman")]));
    let config = with_config(&bed, r#"{"credsStore": "test"}"#);
    let build = build.env("DOCKER_CONFIG", config).env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()));
    let build = build.env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    let _ = build.ok();
    let files = integration_tests::image::files(&home.join("loaded.tar"));
    assert!(String::from_utf8_lossy(&files["manifest.json"]).contains("closed/app:1"));
    assert!(!registry.requests_since(0, "http.request.uri=/v2/closed/app/manifests/1").is_empty());
}
