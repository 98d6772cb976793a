//! OCI layout directories as sources: `index.json` and blobs, checked as strictly as what comes from a registry.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use builder_snapshot::{LimitReached, Sha256Digest};

use crate::oci::manifest::{Document, Index};
use crate::oci::{Descriptor, DocumentLimits, Reference};

/// A layout directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    path: PathBuf,
    limits: DocumentLimits,
}

impl Layout {
    /// The layout at `path`. Nothing is read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, limits: DocumentLimits) -> Self {
        Self { path: path.into(), limits }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry of `index.json` that `reference` chooses: by digest, else by the name of its tag. A layout of one image needs no tag.
    ///
    /// # Errors
    /// A fragment that says what is wrong with the layout, or what it has instead.
    pub fn choose(&self, reference: &Reference) -> Result<Descriptor, String> {
        let index = self.index()?;
        if let Some(digest) = &reference.digest {
            let listed = index.manifests.iter().find(|entry| entry.digest == *digest).cloned();
            // A digest may name a manifest inside an index as well.
            return match listed {
                Some(entry) => Ok(entry),
                None => self.unlisted(digest),
            };
        }
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let name = |entry: &Descriptor| entry.annotations.get("org.opencontainers.image.ref.name").cloned();
        let named = |entry: &&Descriptor| name(entry).is_some_and(|name| name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag));
        if let Some(entry) = index.manifests.iter().find(named) {
            return Ok(entry.clone());
        }
        let mut all = index.manifests.iter().filter(|entry| !entry.annotations.contains_key("vnd.docker.reference.type"));
        match (tag, all.next(), all.clone().all(|entry| Some(entry.digest) == index.manifests.first().map(|first| first.digest))) {
            ("latest", Some(only), true) => Ok(only.clone()),
            _ => {
                let mut names: Vec<String> = index.manifests.iter().filter_map(name).collect();
                names.dedup();
                let there = if names.is_empty() { "its images have no names".to_owned() } else { format!("it has {}", names.join(", ")) };
                Err(format!("layout {:?} has no image named {tag:?}: {there}; choose one with oci-layout://PATH:TAG or @DIGEST", self.path))
            }
        }
    }

    fn unlisted(&self, digest: &Sha256Digest) -> Result<Descriptor, String> {
        let file = self.open(digest).map_err(|_| format!("layout {:?} has no {digest}", self.path))?;
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        Ok(Descriptor { digest: *digest, size, media_type: String::new(), urls: Vec::new(), annotations: Default::default(), platform: None })
    }

    fn index(&self) -> Result<Index, String> {
        let path = self.path.join("index.json");
        let file = open_regular(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => format!("{:?} is no OCI layout: it has no index.json", self.path),
            _ => format!("cannot open {path:?}: {e}"),
        })?;
        let bytes = whole(file, self.limits.manifest()).map_err(|e| format!("cannot read {path:?}: {e}"))?;
        match Document::parse(&bytes, None, &self.limits) {
            Ok(Document::Index(index)) => Ok(index),
            Ok(Document::Manifest(_)) => Err(format!("{path:?} is a manifest, not an index")),
            Err(e) => Err(format!("cannot use {path:?}: {e}")),
        }
    }

    /// A manifest or an index, checked.
    ///
    /// # Errors
    /// A fragment that says what is wrong.
    pub fn manifest(&self, digest: &Sha256Digest) -> Result<Vec<u8>, String> {
        self.read(digest, self.limits.manifest())
    }

    /// A config, checked.
    ///
    /// # Errors
    /// A fragment that says what is wrong.
    pub fn config(&self, digest: &Sha256Digest) -> Result<Vec<u8>, String> {
        self.read(digest, self.limits.config())
    }

    fn read(&self, digest: &Sha256Digest, bound: LimitReached) -> Result<Vec<u8>, String> {
        let file = self.open(digest).map_err(|e| format!("cannot open {digest} in layout {:?}: {e}", self.path))?;
        let bytes = whole(file, bound).map_err(|e| format!("cannot read {digest} in layout {:?}: {e}", self.path))?;
        let found = Sha256Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(format!("{digest} in layout {:?} is damaged: its bytes have {found}", self.path)) }
    }

    /// Opens a blob. Whoever reads it checks its digest.
    ///
    /// # Errors
    /// If there is no such regular file.
    pub fn open(&self, digest: &Sha256Digest) -> io::Result<File> {
        open_regular(&self.path.join("blobs/sha256").join(digest.hex()))
    }
}

/// All of a file, but never more than `bound` bytes.
fn whole(file: File, bound: LimitReached) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.take(bound.limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > bound.limit { Err(format!("it has {bound}")) } else { Ok(bytes) }
}

/// Opens a regular file, without waiting for a writer if it is a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(entries: &[(&str, u8)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let manifests: Vec<_> = entries
            .iter()
            .map(|(name, n)| {
                let annotations =
                    if name.is_empty() { serde_json::json!({}) } else { serde_json::json!({"org.opencontainers.image.ref.name": name}) };
                let digest = Sha256Digest([*n; 32]).to_string();
                serde_json::json!({"mediaType": crate::oci::media::OCI_MANIFEST, "digest": digest, "size": 1, "annotations": annotations})
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        std::fs::write(dir.path().join("index.json"), index.to_string()).expect("write");
        dir
    }

    #[test]
    fn a12_2_chooses_by_digest_tag_or_because_there_is_one() {
        let chosen = |entries: &[(&str, u8)], reference: &str| {
            let dir = layout(entries);
            Layout::new(dir.path(), DocumentLimits::default()).choose(&reference.parse().expect("reference")).map(|entry| entry.digest.0[0])
        };
        assert_eq!(chosen(&[("", 1)], "base"), Ok(1));
        assert_eq!(chosen(&[("1.2", 1)], "base"), Ok(1));
        assert_eq!(chosen(&[("a", 1), ("b", 2)], "base:b"), Ok(2));
        assert_eq!(chosen(&[("x.org/y:a", 1), ("x.org/y:b", 2)], "base:b"), Ok(2));
        assert_eq!(chosen(&[("a", 1), ("b", 1)], "base"), Ok(1));
        assert_eq!(chosen(&[("a", 1), ("b", 2)], &format!("base@{}", Sha256Digest([2; 32]))), Ok(2));
        assert!(chosen(&[("a", 1), ("b", 2)], "base").expect_err("two").contains("it has a, b"));
        assert!(chosen(&[("a", 1)], "base:c").is_err());
        assert!(chosen(&[], "base").is_err());
        assert!(chosen(&[("a", 1)], &format!("base@{}", Sha256Digest([3; 32]))).is_err());
    }

    #[test]
    fn damaged_blobs_are_refused() {
        let dir = layout(&[]);
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).expect("mkdir");
        let (good, bad) = (Sha256Digest::of(b"x"), Sha256Digest::of(b"y"));
        for digest in [good, bad] {
            std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), b"x").expect("write");
        }
        let layout = Layout::new(dir.path(), DocumentLimits::default());
        assert_eq!(layout.config(&good), Ok(b"x".to_vec()));
        assert!(layout.config(&bad).is_err());
        let strict = Layout::new(dir.path(), DocumentLimits { config_bytes: 0, ..DocumentLimits::default() });
        assert!(strict.config(&good).is_err_and(|error| error.contains("--limit config-bytes=N")));
    }
}
