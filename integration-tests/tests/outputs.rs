//! Where results go, and what is said about them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use integration_tests::image::{files, sha256};
use integration_tests::{Bed, require};

const DOCKERFILE: &str = "FROM scratch\nCOPY a.txt /dir/a.txt\nCOPY --chmod=4750 --chown=12:34 b.txt /b.txt\nLABEL k=v\nCMD [\"/b.txt\"]\n";

fn bed() -> (Bed, std::path::PathBuf) {
    let bed = Bed::new();
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("a.txt", "alpha\n"), ("b.txt", "beta\n")]);
    (bed, context)
}

#[test]
fn d4_an_oci_directory_holds_what_the_tar_holds() {
    let (bed, context) = bed();
    let tar = bed.build(&context).args(["-t", "example.org/team/app:1.2"]).ok();
    let dir = bed.path("layout");
    let dest = format!("type=oci,tar=false,dest={}", dir.display());
    let _ = bed.build(&context).args(["-t", "example.org/team/app:1.2", "-o", &dest]).no_output().ok();
    let digest = tar.image().digest;
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("index.json")).expect("index.json")).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], digest);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1.2");
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.org/team/app:1.2");
    let blob = std::fs::read(dir.join("blobs").join(digest.replace(':', "/"))).expect("the manifest's blob");
    assert_eq!(sha256(&blob), digest);
}

#[test]
fn d4_a_layout_whose_index_is_none_is_left_as_it_is() {
    let (bed, context) = bed();
    let dir = bed.path("layout");
    std::fs::create_dir(&dir).expect("ours");
    let export = || bed.build(&context).args(["-t", "app", "-o", &format!("type=oci,tar=false,dest={}", dir.display())]).no_output().run();
    for text in ["{\"schemaVersion\":2,\"manifests\":[", "not an index", ""] {
        std::fs::write(dir.join("index.json"), text).expect("ours");
        let outcome = export();
        assert_eq!(outcome.code, Some(1), "{text:?}: {}", outcome.log);
        assert!(outcome.log.contains("index.json") && outcome.log.contains("remove it, or name another directory"), "{}", outcome.log);
        assert_eq!(std::fs::read_to_string(dir.join("index.json")).expect("there"), text);
    }
    std::fs::remove_file(dir.join("index.json")).expect("there");
    assert_eq!(export().code, Some(0));
}

#[test]
fn d5_local_and_tar_give_the_root_file_system() {
    let (bed, context) = bed();
    let dir = bed.path("root");
    let _ = bed.build(&context).args(["-o", &*dir.to_string_lossy()]).no_output().ok();
    assert_eq!(std::fs::read_to_string(dir.join("dir/a.txt")).expect("exported"), "alpha\n");
    assert_eq!(std::fs::metadata(dir.join("b.txt")).expect("exported").permissions().mode() & 0o777, 0o750);
    let tar = bed.path("root.tar");
    let _ = bed.build(&context).args(["-o", &format!("type=tar,dest={}", tar.display())]).no_output().ok();
    assert_eq!(files(&tar)["dir/a.txt"], b"alpha\n");
    let listing = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar).output().expect("tar");
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    assert!(listing.lines().any(|line| line.starts_with("-rwsr-x--- 12/34") && line.ends_with("b.txt")), "{listing}");
}

#[test]
fn c6_3_standard_output_carries_only_results() {
    let (bed, context) = bed();
    let loud = bed.build(&context).ok();
    assert_eq!(loud.stdout, "");
    let quiet = bed.build(&context).args(["-q"]).output(&bed.path("quiet.tar")).ok();
    assert_eq!(quiet.stdout.trim(), config_digest(&quiet.image()), "-q prints the image's id: {}", quiet.log);
    assert_eq!(quiet.log, "");
    let to_stdout = bed.build(&context).args(["-o", "type=tar,dest=-"]).no_output().ok();
    assert!(to_stdout.stdout.contains("alpha\n"));
}

#[test]
fn d8_metadata_and_image_id_files_tell_the_digests() {
    let (bed, context) = bed();
    let (metadata, iid) = (bed.path("metadata.json"), bed.path("iid"));
    let flags = ["--metadata-file".into(), metadata.clone().into_os_string(), "--iidfile".into(), iid.clone().into_os_string()];
    let image = bed.build(&context).args(flags).args(["-t", "example.org/app"]).ok().image();
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).expect("written")).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], image.digest);
    assert_eq!(metadata["containerimage.config.digest"], config_digest(&image));
    assert_eq!(metadata["image.name"], "example.org/app:latest");
    assert_eq!(std::fs::read_to_string(iid).expect("written").trim(), config_digest(&image));
}

#[test]
fn a14_one_word_makes_a_build_reproducible() {
    let bed = Bed::with_registry();
    let text = "FROM busybox AS a\nRUN mkdir -p /d/e && echo x > /d/e/f && ln /d/e/f /d/g && ln -s f /d/e/h && chmod 4755 /d/g && rm /bin/wget\nWORKDIR /w/x\nCOPY . .\n\
        FROM busybox\nCOPY --from=a /d /d\nRUN rm -r /d/e && touch /new\nUSER nobody\nRUN touch /tmp/mine\n";
    let context = bed.context("context", &[("Dockerfile", text), ("one", "1"), ("two", "2")]);
    let digests: Vec<_> = (0..2)
        .map(|n| {
            let build = bed.build(&context).env("SOURCE_DATE_EPOCH", "1700000000").state(&bed.path(&format!("state{n}")));
            let image = build.output(&bed.path(&format!("{n}.tar"))).ok().image();
            let late = image.layers[1..].iter().flatten().find(|entry| entry.mtime > 1_700_000_000);
            assert!(late.is_none(), "later than the epoch: {late:?}");
            image.digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
    let plain = bed.build(&context).ok().image();
    assert!(plain.layers[1..].iter().flatten().any(|entry| entry.mtime > 1_700_000_000), "times are kept unless asked");
}

#[test]
fn the_store_is_private_and_nothing_temporary_stays() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    let mode = std::fs::metadata(bed.state()).expect("the store").mode();
    assert_eq!(mode & 0o777, 0o700);
    let tmp = bed.state().join("v1/tmp");
    let left: Vec<_> = std::fs::read_dir(&tmp).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn peers_read_every_kind_of_archive() {
    let (bed, context) = bed();
    for (kind, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let dest = bed.path(&format!("{kind}.archive"));
        let _ = bed.build(&context).args(["-t", "example.org/app:1", "-o", &format!("type={kind},dest={}", dest.display())]).no_output().ok();
        let source = format!("{transport}:{}", dest.display());
        let output = Command::new(require::tool("skopeo", "skopeo")).args(["inspect", &source]).output().expect("skopeo");
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn config_digest(image: &integration_tests::Image) -> String {
    image.manifest["config"]["digest"].as_str().unwrap_or_default().to_owned()
}
