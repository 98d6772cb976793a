//! Base images made from Debian's packages: a busybox and a whole Debian. Made once, kept below `target/fixtures`, guarded by a lock file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::image::sha256;
use crate::require;

/// An OCI layout with one image: the machine's static busybox with all its applets.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn busybox() -> PathBuf {
    cached("busybox", |dir| {
        let applets = Command::new(static_busybox()).arg("--list").output().expect("busybox runs");
        busybox_with(dir, &String::from_utf8_lossy(&applets.stdout).lines().collect::<Vec<_>>());
    })
}

/// The same with few applets, so that unpacking it takes few system calls.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn small() -> PathBuf {
    cached("small", |dir| busybox_with(dir, &["sh", "cat", "dd", "echo", "ln", "mkdir", "rm", "sleep"]))
}

fn static_busybox() -> &'static Path {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.is_file());
    busybox.unwrap_or_else(|| panic!("this test needs a static busybox: apt-get install busybox-static"))
}

fn busybox_with(dir: &Path, applets: &[&str]) {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("proc", 0o555), ("root", 0o700), ("run", 0o755), ("sys", 0o555)] {
        entry(&mut tar, path, tar::EntryType::Directory, mode, b"");
    }
    entry(&mut tar, "tmp", tar::EntryType::Directory, 0o1777, b"");
    entry(&mut tar, "usr", tar::EntryType::Directory, 0o755, b"");
    entry(&mut tar, "usr/bin", tar::EntryType::Directory, 0o755, b"");
    entry(&mut tar, "bin/busybox", tar::EntryType::Regular, 0o755, &std::fs::read(static_busybox()).expect("busybox"));
    for applet in applets.iter().filter(|applet| **applet != "busybox") {
        let mut header = header(tar::EntryType::Link, 0o755, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "bin/busybox").expect("in memory");
    }
    entry(&mut tar, "etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n");
    entry(&mut tar, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\nnobody:x:65534:\n");
    layout(dir, &tar.into_inner().expect("in memory"), &json!(["/bin/sh"]));
}

/// An OCI layout with one image: Debian as debootstrap makes it, with the machine's own release and mirror.
///
/// # Panics
/// When debootstrap fails.
#[must_use]
pub fn debian() -> PathBuf {
    require::root();
    cached("debian", |dir| {
        let root = dir.join("root");
        let release = std::fs::read_to_string("/etc/os-release").expect("os-release");
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("bookworm").trim_matches('"').to_owned();
        let result = Command::new(require::tool("debootstrap", "debootstrap"))
            .args(["--variant=minbase", &codename])
            .arg(&root)
            .output()
            .expect("debootstrap starts");
        assert!(result.status.success(), "debootstrap: {}", String::from_utf8_lossy(&result.stdout));
        let tar = dir.join("root.tar");
        let packed = Command::new("tar").args(["--numeric-owner", "--one-file-system", "-C"]).arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.expect("tar starts").success());
        layout(dir, &std::fs::read(&tar).expect("the packed root"), &json!(["/bin/bash"]));
        std::fs::remove_file(&tar).expect("ours");
        std::fs::remove_dir_all(&root).expect("ours");
    })
}

/// A tar with what `RUN` cannot make everywhere: a device, a capability, owners that no map has.
///
/// # Panics
/// Never: it is made in memory.
#[must_use]
pub fn things() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind, owner, mode, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_uid(owner);
        header.set_gid(owner / 2);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_size(size);
        header
    };
    let mut put = |kind, path: &str, owner, mode, data: &[u8]| {
        let mut header = header(kind, owner, mode, data.len() as u64);
        tar.append_data(&mut header, path, data).expect("in memory");
    };
    put(tar::EntryType::Directory, "dir", 1000, 0o750, b"");
    put(tar::EntryType::Regular, "dir/file", 1000, 0o640, b"mine");
    put(tar::EntryType::Directory, "late", 70_000, 0o755, b"");
    put(tar::EntryType::Regular, "far", 2_000_000, 0o4750, b"far away");
    put(tar::EntryType::Regular, "late/too", 70_000, 0o644, b"");
    put(tar::EntryType::Fifo, "pipe", 1000, 0o600, b"");
    let mut device = header(tar::EntryType::Char, 0, 0o666, 0);
    device.set_device_major(1).expect("ustar");
    device.set_device_minor(3).expect("ustar");
    tar.append_data(&mut device, "null", &b""[..]).expect("in memory");
    let mut link = header(tar::EntryType::Symlink, 70_000, 0o777, 0);
    tar.append_link(&mut link, "link", "../elsewhere").expect("in memory");
    let mut link = header(tar::EntryType::Link, 1000, 0o640, 0);
    tar.append_link(&mut link, "dir/same", "dir/file").expect("in memory");
    // cap_net_raw=ep, as the kernel keeps it: version 2, effective, the two halves of the permitted and the inheritable set.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", &capability[..])]).expect("in memory");
    let mut ping = header(tar::EntryType::Regular, 0, 0o755, 4);
    tar.append_data(&mut ping, "ping", &b"ping"[..]).expect("in memory");
    tar.into_inner().expect("in memory")
}

fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let parent = require::workspace().join("target/fixtures");
    std::fs::create_dir_all(&parent).expect("target/fixtures");
    let lock = File::create(parent.join(format!("{name}.lock"))).expect("lock file");
    lock.lock().expect("a lock");
    let done = parent.join(name);
    if !done.is_dir() {
        let fresh = parent.join(format!("{name}.tmp"));
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).expect("what a killed run left");
        }
        std::fs::create_dir_all(&fresh).expect("directory");
        make(&fresh);
        std::fs::rename(&fresh, &done).expect("same file system");
    }
    done
}

/// Writes an OCI layout with one image of one layer.
///
/// # Panics
/// When it can't be written.
pub fn layout(dir: &Path, layer: &[u8], cmd: &serde_json::Value) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("blobs");
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("blob");
        (digest, bytes.len())
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(layer).expect("in memory");
    let (layer_digest, layer_size) = put(&gzip.finish().expect("in memory"));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "created": "2020-09-13T12:26:40Z", "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": cmd},
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
        "history": [{"created": "2020-09-13T12:26:40Z", "created_by": "base"}],
    });
    let (config_digest, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer_digest, "size": layer_size}],
    });
    let (digest, size) = put(manifest.to_string().as_bytes());
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "annotations": {"org.opencontainers.image.ref.name": "latest"}}],
    });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("index.json");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, data: &[u8]) {
    let mut header = header(kind, mode, data.len() as u64);
    tar.append_data(&mut header, path, data).expect("in memory");
}
