//! Reading what was exported: an OCI layout in a tar, checked and unpacked in memory.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One image of an OCI tar.
pub struct Image {
    /// Digest of its manifest (`sha256:…`).
    pub digest: String,
    /// Its manifest.
    pub manifest: Value,
    /// Its config document.
    pub config: Value,
    /// Its layers, bottom first, as entries in order.
    pub layers: Vec<Vec<Entry>>,
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path without a slash at either end.
    pub path: String,
    /// Type byte of the header.
    pub kind: u8,
    /// Mode.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Modification time, seconds.
    pub mtime: u64,
    /// Content, or link target.
    pub data: Vec<u8>,
}

impl Image {
    /// Reads the only image of a tar.
    ///
    /// # Panics
    /// When it is no valid image.
    #[must_use]
    pub fn read(tar: &Path) -> Self {
        let blobs = files(tar);
        let index: Value = serde_json::from_slice(&blobs["index.json"]).expect("index.json");
        let blob = |descriptor: &Value| -> (String, &Vec<u8>) {
            let digest = descriptor["digest"].as_str().expect("a digest").to_owned();
            let bytes = &blobs[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(sha256(bytes), digest, "a blob's bytes are not what its name says");
            assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64), "size of {digest}");
            (digest, bytes)
        };
        let (digest, manifest) = blob(&index["manifests"][0]);
        let manifest: Value = serde_json::from_slice(manifest).expect("manifest");
        let config: Value = serde_json::from_slice(blob(&manifest["config"]).1).expect("config");
        let layers = manifest["layers"].as_array().expect("layers");
        let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        assert_eq!(layers.len(), diff_ids.len(), "layers and diff ids");
        let layers = layers.iter().zip(&diff_ids).map(|(layer, diff_id)| {
            let bytes = blob(layer).1;
            let mut plain = Vec::new();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
            } else {
                plain.clone_from(bytes);
            }
            assert_eq!(Some(sha256(&plain).as_str()), diff_id.as_str(), "diff id");
            entries(&plain)
        });
        let layers = layers.collect();
        Self { digest, manifest, config, layers }
    }

    /// The content of a file in the merged layers (whiteouts and later layers count); none if it is not there.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        for layer in self.layers.iter().rev() {
            if let Some(entry) = layer.iter().find(|entry| entry.path == path) {
                return match entry.kind {
                    b'1' => self.file(&String::from_utf8_lossy(&entry.data)),
                    _ => Some(entry.data.clone()),
                };
            }
            let mut ancestor = path;
            loop {
                let (dir, name) = ancestor.rsplit_once('/').unwrap_or(("", ancestor));
                let whiteout = if dir.is_empty() { format!(".wh.{name}") } else { format!("{dir}/.wh.{name}") };
                if layer.iter().any(|entry| entry.path == whiteout) {
                    return None;
                }
                if dir.is_empty() {
                    break;
                }
                ancestor = dir;
            }
        }
        None
    }
}

/// The files of a tar by name.
///
/// # Panics
/// When it can't be read.
#[must_use]
pub fn files(tar: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(tar).unwrap_or_else(|e| panic!("{}: {e}", tar.display()));
    entries(&bytes).into_iter().filter(|entry| entry.kind == b'0').map(|entry| (entry.path, entry.data)).collect()
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(tar);
    let mut found = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_matches('/').trim_start_matches("./").to_owned();
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        let header = entry.header();
        let (kind, mode, mtime) = (header.entry_type().as_byte(), header.mode().expect("mode"), header.mtime().expect("mtime"));
        let owner = (header.uid().expect("uid"), header.gid().expect("gid"));
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("content");
        found.push(Entry { path, kind, mode, owner, mtime, data: link.unwrap_or(data) });
    }
    found
}

/// `sha256:` and the hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
