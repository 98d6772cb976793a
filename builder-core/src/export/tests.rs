//! From a layout directory through the store to every kind of output.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use builder_snapshot::TreePath;
use builder_snapshot::snapshot::{ActiveSnapshot, FileContent};
use builder_snapshot::toc::Meta;

use super::*;
use crate::cache::{Commit, Record};
use crate::content::{Stack, StackLayer};
use crate::frontend::{NeedLocation, ResolvedImage};
use crate::oci::DocumentLimits;
use crate::oci::manifest::{Document, Index, Manifest, to_json};
use crate::oci::{DiffId, ImageDocument, media};
use crate::registry::{NoCredentials, RegistryConfig};

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    sources: ImageSources,
}

fn silent(_: &str, _: u64, _: u64, _: bool) {}

fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("clean")
}

fn described(kind: &str, bytes: &[u8]) -> crate::oci::Descriptor {
    crate::oci::Descriptor {
        media_type: kind.into(),
        digest: Sha256Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    }
}

/// A tar of regular files; names that end in `/` are directories.
fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, name, content.as_bytes()).expect("append");
    }
    tar.into_inner().expect("tar")
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Arc::new(Store::open(&dir.path().join("store")).expect("store"));
        let sources = ImageSources::new(RegistryConfig::default(), Arc::new(NoCredentials), Arc::clone(&store));
        Self { dir, store, sources }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A layout with one image of these layers (tars); every second one is compressed with zstd, the others with gzip.
    fn layout(&self, layers: &[Vec<u8>]) -> NeedLocation {
        let dir = self.out("layout");
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("mkdir");
        let put = |bytes: &[u8]| fs::write(blobs.join(Sha256Digest::of(bytes).hex()), bytes).expect("write");
        let mut descriptors = Vec::new();
        for (n, tar) in layers.iter().enumerate() {
            let gzip = n % 2 == 0;
            let compression = if gzip { Compression::Gzip { level: None } } else { Compression::Zstd { level: None } };
            let mut packed = Vec::new();
            let mut writer = crate::layer::Compressor::new(compression, 1, &mut packed);
            writer.write_all(tar).expect("write");
            writer.finish().expect("finish");
            put(&packed);
            descriptors.push(described(if gzip { media::OCI_LAYER_GZIP } else { media::OCI_LAYER_ZSTD }, &packed));
        }
        let diff_ids: Vec<String> = layers.iter().map(|tar| Sha256Digest::of(tar).to_string()).collect();
        let config = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).to_string();
        put(config.as_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            config: described(media::OCI_CONFIG, config.as_bytes()),
            layers: descriptors,
            annotations: BTreeMap::new(),
        };
        let bytes = to_json(&manifest);
        put(&bytes);
        let manifests = vec![described(media::OCI_MANIFEST, &bytes)];
        let index = Index { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests, annotations: BTreeMap::new() };
        fs::write(dir.join("index.json"), to_json(&index)).expect("write");
        NeedLocation::OciLayout(dir.to_str().expect("text").to_owned())
    }

    async fn resolve(&self, location: &NeedLocation) -> ResolvedImage {
        let (reference, platform) = ("base".parse().expect("reference"), "linux/amd64".parse().expect("platform"));
        self.sources.resolve(&reference, location, &platform, false, &|_| {}).await.expect("resolved")
    }

    /// A layer of our own on `stack`.
    async fn step(&self, stack: &Stack) -> Stack {
        let dirs = self.sources.ensure_layers(stack, &silent).await.expect("layers");
        let active = ActiveSnapshot::create(self.store.tmp_dir().expect("tmp"), &dirs).expect("snapshot");
        let mut writer = active.writer().expect("writer");
        let meta = |mode| Meta { mode, uid: 5, gid: 6, ..Meta::default() };
        writer.make_dir(&path("d"), &meta(0o750)).expect("dir");
        writer.put_file(&path("d/f"), FileContent::Bytes(b"new\n"), &meta(0o4755)).expect("file");
        writer.hard_link(&path("d/f"), &path("h")).expect("link");
        writer.put_symlink(&path("l"), b"d/f", &meta(0o777)).expect("symlink");
        writer.remove(&path("etc/gone")).expect("remove");
        let toc = writer.finish().expect("table");
        let layer = active.commit_written(toc).expect("layer");
        let step = StackLayer { id: layer.id, content: layer.content };
        self.store.publish(layer).expect("published");
        let record = Record { stack: Stack::default(), created: std::time::SystemTime::UNIX_EPOCH, log: None };
        self.store.db().commit(&Commit { layer: Some(step.id), keys: &[], record: &record, name: "x" }).expect("commit");
        stack.with(step)
    }

    async fn image(&self) -> FinalImage {
        let base = tar_of(&[("etc/", ""), ("etc/gone", "old"), ("etc/kept", "kept"), ("big", &"x".repeat(300_000))]);
        let second = tar_of(&[("etc/", ""), ("etc/two", "2")]);
        let resolved = self.resolve(&self.layout(&[base, second])).await;
        let stack = self.step(&Stack::of_image(&resolved.diff_ids)).await;
        let entry = crate::oci::History { created: Some("2020-01-01T00:00:00Z".into()), ..Default::default() };
        let document = ImageDocument { os: "linux".into(), architecture: "amd64".into(), created: entry.created.clone(), ..Default::default() };
        FinalImage { platform: "linux/amd64".parse().expect("platform"), stack, document, history: vec![entry; 3] }
    }

    async fn export(&self, output: Output, tags: &[&str], images: &[FinalImage]) -> Result<Exported, ExportError> {
        let tags: Vec<Reference> = tags.iter().map(|tag| tag.parse().expect("tag")).collect();
        let request = ExportRequest {
            outputs: &[output],
            tags: &tags,
            annotations: &BTreeMap::new(),
            source_date_epoch: None,
            timestamps: None,
            tripwire: None,
            index: false,
        };
        export(&request, images, &self.store, &self.sources, &silent).await
    }

    fn output(&self, kind: OutputKind, name: &str) -> Output {
        Output::new(kind, OutputDest::Path(self.out(name)))
    }
}

/// Checks a layout directory from its bytes alone; returns the manifests by platform.
fn verified(dir: &Path) -> Vec<Manifest> {
    let blob = |entry: &crate::oci::Descriptor| {
        let bytes = fs::read(dir.join("blobs/sha256").join(entry.digest.hex())).expect("blob");
        assert_eq!((Sha256Digest::of(&bytes), bytes.len() as u64), (entry.digest, entry.size));
        bytes
    };
    let mut todo = match Document::parse(&fs::read(dir.join("index.json")).expect("index"), None, &DocumentLimits::default()).expect("valid") {
        Document::Index(index) => index.manifests,
        Document::Manifest(_) => panic!("no index"),
    };
    let mut found = Vec::new();
    while let Some(entry) = todo.pop() {
        match Document::parse(&blob(&entry), Some(&entry.media_type), &DocumentLimits::default()).expect("valid") {
            Document::Index(index) => todo.extend(index.manifests.into_iter().rev()),
            Document::Manifest(manifest) => {
                let config: ImageDocument = serde_json::from_slice(&blob(&manifest.config)).expect("config");
                assert_eq!(config.rootfs.diff_ids.len(), manifest.layers.len());
                for (diff_id, layer) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
                    let packed = blob(layer);
                    let mut tar = Vec::new();
                    crate::layer::Unpacked::new(&mut &packed[..], &crate::content::Limits::default())
                        .expect("packed")
                        .read_to_end(&mut tar)
                        .expect("unpacks");
                    assert_eq!(Sha256Digest::of(&tar).to_string(), *diff_id);
                }
                found.push(manifest);
            }
        }
    }
    found
}

#[tokio::test]
async fn d4_layouts_are_whole_and_base_layers_keep_their_blobs() {
    let bench = Bench::new();
    let image = bench.image().await;
    let exported = bench.export(bench.output(OutputKind::Oci { tar: false }, "out"), &["x:1"], std::slice::from_ref(&image)).await.expect("exported");
    let manifests = verified(&bench.out("out"));
    let original = verified(&bench.out("layout"));
    assert_eq!(manifests[0].layers[..2], original[0].layers[..]);
    assert_eq!(exported.metadata["containerimage.digest"], exported.digest.expect("digest").to_string());
    assert_eq!(exported.metadata["image.name"], "docker.io/library/x:1");

    // Again, into a tar: the same digests, and as many bytes.
    let again = bench.export(bench.output(OutputKind::Oci { tar: true }, "out.tar"), &["x:1"], std::slice::from_ref(&image)).await.expect("exported");
    assert_eq!(again.digest, exported.digest);
    let mut archive = tar::Archive::new(fs::File::open(bench.out("out.tar")).expect("open"));
    archive.unpack(bench.out("unpacked")).expect("a tar");
    assert_eq!(verified(&bench.out("unpacked")), manifests);

    let mut forced = bench.output(OutputKind::Oci { tar: false }, "forced");
    (forced.force_compression, forced.compression, forced.oci_mediatypes) = (true, Compression::Uncompressed, false);
    bench.export(forced, &[], &[image]).await.expect("exported");
    assert!(verified(&bench.out("forced"))[0].layers.iter().all(|layer| layer.media_type == media::DOCKER_LAYER));
}

#[tokio::test]
async fn d4_docker_archives_list_names_and_layers() {
    let bench = Bench::new();
    let image = bench.image().await;
    bench
        .export(bench.output(OutputKind::Docker, "d.tar"), &["example.org/team/app:1.2", "app"], std::slice::from_ref(&image))
        .await
        .expect("exported");
    tar::Archive::new(fs::File::open(bench.out("d.tar")).expect("open")).unpack(bench.out("d")).expect("a tar");
    let listed: serde_json::Value = serde_json::from_slice(&fs::read(bench.out("d/manifest.json")).expect("read")).expect("json");
    assert_eq!(listed[0]["RepoTags"], serde_json::json!(["example.org/team/app:1.2", "app:latest"]));
    assert_eq!(listed[0]["Layers"].as_array().map(Vec::len), Some(3));
    let error = bench.export(bench.output(OutputKind::Docker, "d.tar"), &[], &[image.clone(), image]).await.expect_err("two");
    assert!(error.to_string().contains("one platform"), "{error}");
}

#[tokio::test]
async fn d3_several_platforms_make_an_index_in_their_order() {
    let bench = Bench::new();
    let amd = bench.image().await;
    let mut arm = FinalImage { platform: "linux/arm64".parse().expect("platform"), ..amd.clone() };
    arm.document.architecture = "arm64".into();
    bench.export(bench.output(OutputKind::Oci { tar: false }, "out"), &["x"], &[arm, amd]).await.expect("exported");
    let index = fs::read(bench.out("out/index.json")).expect("index");
    let Ok(Document::Index(index)) = Document::parse(&index, None, &DocumentLimits::default()) else { panic!("no index") };
    assert_eq!(index.manifests[0].media_type, media::OCI_INDEX);
    assert_eq!(verified(&bench.out("out")).len(), 2);
}

#[tokio::test]
async fn a7_8_an_index_of_one_image() {
    let bench = Bench::new();
    let image = bench.image().await;
    let request = ExportRequest {
        outputs: &[bench.output(OutputKind::Oci { tar: false }, "out"), bench.output(OutputKind::Local, "local")],
        tags: &[],
        annotations: &BTreeMap::new(),
        source_date_epoch: None,
        timestamps: None,
        tripwire: None,
        index: true,
    };
    export(&request, std::slice::from_ref(&image), &bench.store, &bench.sources, &silent).await.expect("exported");
    let index = fs::read(bench.out("out/index.json")).expect("index");
    let Ok(Document::Index(index)) = Document::parse(&index, None, &DocumentLimits::default()) else { panic!("no index") };
    assert_eq!((index.manifests[0].media_type.as_str(), verified(&bench.out("out")).len()), (media::OCI_INDEX, 1));
    assert!(bench.out("local/linux_amd64/d/f").is_file(), "a directory for the platform");
    let archive = ExportRequest { outputs: &[bench.output(OutputKind::Docker, "d.tar")], ..request };
    assert!(export(&archive, &[image], &bench.store, &bench.sources, &silent).await.is_err(), "a docker archive has none");
}

#[tokio::test]
async fn d5_local_merges_into_a_directory_and_follows_no_link() {
    let bench = Bench::new();
    let image = bench.image().await;
    let (dest, outside) = (bench.out("local"), bench.out("outside"));
    fs::create_dir_all(&outside).expect("mkdir");
    fs::create_dir_all(dest.join("other")).expect("mkdir");
    // An earlier image left links where this one has a directory and a file.
    std::os::unix::fs::symlink(&outside, dest.join("d")).expect("link");
    std::os::unix::fs::symlink(outside.join("x"), dest.join("h")).expect("link");
    bench.export(bench.output(OutputKind::Local, "local"), &[], std::slice::from_ref(&image)).await.expect("exported");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    assert!(dest.join("other").is_dir());
    assert_eq!(fs::read_to_string(dest.join("d/f")).expect("read"), "new\n");
    assert_eq!(fs::read_to_string(dest.join("etc/two")).expect("read"), "2");
    assert!(!dest.join("etc/gone").exists());
    let (file, link) = (fs::metadata(dest.join("d/f")).expect("stat"), fs::metadata(dest.join("h")).expect("stat"));
    assert_eq!((file.mode() & 0o7777, file.ino(), file.uid()), (0o4755, link.ino(), fs::metadata(&dest).expect("stat").uid()));
    assert_eq!(fs::metadata(dest.join("d")).expect("stat").mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(dest.join("etc/kept")).expect("stat").mtime(), 1_000_000_000);
    // And again, over itself.
    bench.export(bench.output(OutputKind::Local, "local"), &[], &[image]).await.expect("exported");
}

#[tokio::test]
async fn d5_tar_keeps_owners_and_hard_links() {
    let bench = Bench::new();
    let image = bench.image().await;
    bench
        .export(
            bench.output(OutputKind::Tar, "root.tar"),
            &[],
            &[image.clone(), FinalImage { platform: "linux/arm64".parse().expect("platform"), ..image }],
        )
        .await
        .expect("exported");
    let mut archive = tar::Archive::new(fs::File::open(bench.out("root.tar")).expect("open"));
    let entries: Vec<(String, u64, Option<String>)> = archive
        .entries()
        .expect("entries")
        .map(|entry| {
            let entry = entry.expect("entry");
            let text = |path: std::borrow::Cow<'_, Path>| path.to_string_lossy().into_owned();
            (text(entry.path().expect("path")), entry.header().uid().expect("uid"), entry.link_name().expect("link").map(text))
        })
        .collect();
    for platform in ["linux_amd64", "linux_arm64"] {
        assert!(entries.contains(&(format!("{platform}/d/f"), 5, None)), "{entries:?}");
        assert!(entries.contains(&(format!("{platform}/h"), 5, Some(format!("{platform}/d/f")))), "{entries:?}");
    }
}

#[tokio::test]
async fn a_name_alone_is_kept_and_can_be_built_on() {
    let bench = Bench::new();
    let image = bench.image().await;
    let request = ExportRequest {
        outputs: &[],
        tags: &["app".parse().expect("tag")],
        annotations: &BTreeMap::new(),
        source_date_epoch: None,
        timestamps: None,
        tripwire: None,
        index: false,
    };
    let exported = export(&request, std::slice::from_ref(&image), &bench.store, &bench.sources, &silent).await.expect("named");
    assert!(exported.images[0].config.is_some());
    let (reference, platform) = ("app".parse().expect("reference"), "linux/amd64".parse().expect("platform"));
    let resolved = bench.sources.resolve(&reference, &NeedLocation::Registry, &platform, false, &|_| {}).await.expect("resolved");
    assert_eq!(resolved.diff_ids[..2], image.stack.layers[..2].iter().map(|layer| DiffId(layer.id.0)).collect::<Vec<_>>());
    let stack = Stack::of_image(&resolved.diff_ids);
    let dirs = bench.sources.ensure_layers(&stack, &silent).await.expect("layers");
    assert_eq!(fs::read_to_string(dirs[2].join("d/f")).expect("read"), "new\n");
    let again = FinalImage { stack, ..image };
    bench.export(bench.output(OutputKind::Oci { tar: false }, "again"), &[], &[again]).await.expect("exported");
    assert_eq!(verified(&bench.out("again"))[0].layers.len(), 3);
}

#[tokio::test]
async fn layers_that_omit_parents_are_unpacked_on_those_below() {
    let bench = Bench::new();
    let mut base = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o700);
    header.set_uid(7);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    base.append_data(&mut header, "etc/", &b""[..]).expect("append");
    let layers = [base.into_inner().expect("tar"), tar_of(&[("etc/two", "2")])];
    let resolved = bench.resolve(&bench.layout(&layers)).await;
    let dirs = bench.sources.ensure_layers(&Stack::of_image(&resolved.diff_ids), &silent).await.expect("layers");
    let etc = fs::metadata(dirs[1].join("etc")).expect("stat");
    assert_eq!((etc.mode() & 0o7777, etc.uid()), (0o700, 7));

    // On another base it is another directory.
    let other = tar_of(&[("etc/", "")]);
    let resolved = bench.resolve(&bench.layout(&[other, layers[1].clone()])).await;
    let dirs = bench.sources.ensure_layers(&Stack::of_image(&resolved.diff_ids), &silent).await.expect("layers");
    assert_eq!(fs::metadata(dirs[1].join("etc")).expect("stat").mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(dirs[1].join("etc/two")).expect("read"), "2");
}

#[tokio::test]
async fn cve_2024_3727_blobs_that_are_not_what_they_claim_leave_nothing() {
    let bench = Bench::new();
    let tar = tar_of(&[("f", "x")]);
    let location = bench.layout(std::slice::from_ref(&tar));
    let resolved = bench.resolve(&location).await;
    let blob = &verified(&bench.out("layout"))[0].layers[0];
    let file = bench.out("layout/blobs/sha256").join(blob.digest.hex());
    let good = fs::read(&file).expect("read");
    let mut other = Vec::new();
    let mut writer = crate::layer::Compressor::new(Compression::Gzip { level: None }, 1, &mut other);
    writer.write_all(&tar_of(&[("f", "y")])).expect("write");
    writer.finish().expect("finish");
    let stack = Stack::of_image(&resolved.diff_ids);
    let mut flipped = good.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    for bad in [other, good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat(), flipped, Vec::new()] {
        fs::write(&file, &bad).expect("write");
        bench.sources.ensure_layers(&stack, &silent).await.expect_err("refused");
        bench.sources.ensure_blobs(&resolved.diff_ids, &silent).await.expect_err("refused");
        assert!(!bench.store.has_layer(stack.layers[0].id));
        assert!(!bench.store.blobs().has(&blob.digest));
    }
    fs::write(&file, &good).expect("write");
    bench.sources.ensure_layers(&stack, &silent).await.expect("good");
    assert_eq!(fs::read_dir(bench.store.tmp_dir().expect("tmp")).expect("list").count(), 0);
}
