//! A store that somebody damaged by hand: every fault is noticed and made good, or named; none reaches an image.

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::Bed;
use integration_tests::image::sha256;

const DOCKERFILE: &str = "FROM busybox\nCOPY f /f\nRUN mkdir /q && echo x > /q/x\n";

fn bed() -> (Bed, PathBuf) {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", DOCKERFILE), ("f", "hello\n"), ("more", "")]);
    (bed, context)
}

/// Adds a step, so that what the steps before it left is needed.
fn add_step(context: &Path) {
    fs::write(context.join("Dockerfile"), format!("{DOCKERFILE}RUN cat /f /q/x > /both\n")).expect("ours");
}

fn layers(bed: &Bed) -> Vec<PathBuf> {
    let listed = fs::read_dir(bed.state().join("v1/layers")).expect("layers");
    listed.map(|entry| entry.expect("entry").path()).collect()
}

fn blobs(bed: &Bed) -> Vec<PathBuf> {
    let listed = fs::read_dir(bed.state().join("v1/blobs/sha256")).expect("blobs");
    listed.map(|entry| entry.expect("entry").path()).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("ours");
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("ours");
}

/// One build may fail and say why; the next one must be good.
fn mends(bed: &Bed, context: &Path, what: &str) {
    let first = bed.build(context).run();
    if first.code != Some(0) {
        assert_eq!(first.code, Some(1), "{what}: {}", first.log);
        assert!(first.log.contains("build again"), "{what}: no remedy in {}", first.log);
        let second = bed.build(context).run();
        assert_eq!(second.code, Some(0), "{what}: still broken: {}", second.log);
    }
    let image = bed.build(context).ok().image();
    assert_eq!(image.file("both").as_deref(), Some(&b"hello\nx\n"[..]), "{what}");
}

#[test]
fn a_layer_without_files_or_table_is_made_or_brought_again() {
    for part in ["fs", "toc", ""] {
        for position in 0..3 {
            let (bed, context) = bed();
            let _ = bed.build(&context).ok();
            let layer = layers(&bed).remove(position).join(part);
            if layer.is_dir() { fs::remove_dir_all(&layer) } else { fs::remove_file(&layer) }.expect("ours");
            add_step(&context);
            let outcome = bed.build(&context).run();
            assert_eq!(outcome.code, Some(0), "{part} of layer {position}: {}", outcome.log);
            mends(&bed, &context, part);
        }
    }
}

#[test]
fn a_changed_table_is_noticed() {
    for position in 0..3 {
        for at in [20, 40, 60, usize::MAX] {
            let (bed, context) = bed();
            let _ = bed.build(&context).no_output().ok();
            flip(&layers(&bed)[position].join("toc"), at);
            add_step(&context);
            mends(&bed, &context, &format!("byte {at} of table {position}"));
        }
    }
}

#[test]
fn a_changed_file_of_a_layer_reaches_no_image() {
    let (bed, context) = bed();
    let _ = bed.build(&context).no_output().ok();
    let files = layers(&bed).into_iter().flat_map(|layer| [layer.join("fs/f"), layer.join("fs/q/x")]).filter(|path| path.is_file());
    let files: Vec<PathBuf> = files.collect();
    assert_eq!(files.len(), 2);
    files.iter().for_each(|file| flip(file, 0));
    let failed = bed.build(&context).run();
    assert_eq!(failed.code, Some(1), "{}", failed.log);
    assert!(failed.log.contains("is not what the layer's table says") && failed.log.contains("build again"), "{}", failed.log);
    // The other one may be noticed by the next build only.
    let _ = bed.build(&context).run();
    let image = bed.build(&context).ok().image();
    assert_eq!(image.file("f").as_deref(), Some(&b"hello\n"[..]));
    assert_eq!(image.file("q/x").as_deref(), Some(&b"x\n"[..]));
}

#[test]
fn damaged_blobs_reach_no_image() {
    for output in ["type=oci,dest=", "type=docker,dest=", "type=oci,tar=false,dest="] {
        let (bed, context) = bed();
        add_step(&context);
        let _ = bed.build(&context).ok();
        let damaged = blobs(&bed);
        damaged.iter().for_each(|blob| flip(blob, 5));
        let dest = bed.path("out");
        // Each attempt may come upon one damaged blob.
        for _ in 0..=damaged.len() {
            let outcome = bed.build(&context).no_output().args(["-o", &format!("{output}{}", dest.display())]).run();
            if outcome.code == Some(0) {
                break;
            }
            assert!(outcome.log.contains("is damaged") && outcome.log.contains("build again"), "{}", outcome.log);
            assert!(!dest.join("index.json").exists() && !dest.is_file(), "something was left at the destination");
        }
        let blobs: Vec<(String, Vec<u8>)> = if dest.is_dir() {
            let listed = fs::read_dir(dest.join("blobs/sha256")).expect("blobs").map(|entry| entry.expect("entry").path());
            listed.map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(path).expect("ours"))).collect()
        } else {
            let mut tar = tar::Archive::new(fs::File::open(&dest).expect("the output"));
            let entries = tar.entries().expect("entries").map(|entry| entry.expect("entry"));
            let named = entries.filter_map(|mut entry| {
                let name = entry.path().expect("path").strip_prefix("blobs/sha256").ok()?.to_string_lossy().into_owned();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).expect("bytes");
                (!name.is_empty()).then_some((name, bytes))
            });
            named.collect()
        };
        assert!(blobs.len() >= 5, "{output}");
        for (name, bytes) in blobs {
            assert_eq!(sha256(&bytes), format!("sha256:{name}"), "{output}");
        }
    }
}

#[test]
fn directories_of_the_store_that_are_gone_are_made_again() {
    for name in ["blobs", "layers", "mounts", "logs", "contexts", "locks", "tmp"] {
        let (bed, context) = bed();
        let _ = bed.build(&context).ok();
        fs::remove_dir_all(bed.state().join("v1").join(name)).expect("ours");
        add_step(&context);
        let outcome = bed.build(&context).run();
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.log);
        assert_eq!(outcome.image().file("both").as_deref(), Some(&b"hello\nx\n"[..]), "{name}");
    }
}

#[test]
fn a_database_that_is_none_is_named_with_the_remedy() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    let db = bed.state().join("v1/db");
    for name in ["db-wal", "db-shm"] {
        drop(fs::remove_file(bed.state().join("v1").join(name)));
    }
    fs::write(&db, [7; 9000]).expect("ours");
    let outcome = bed.build(&context).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains(&format!("remove {}", db.display())), "{}", outcome.log);
    fs::remove_file(&db).expect("ours");
    let _ = bed.build(&context).ok();
}
