//! OCI layouts as directories and tars, and docker archives, which are layouts with a `manifest.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use builder_snapshot::StopSignal;
use serde_json::json;

use super::archive::Archive;
use super::documents::{Blob, Documents};
use super::{ExportError, write_file};
use crate::content::Store;
use crate::oci::DocumentLimits;
use crate::oci::manifest::{Document, Index, to_json};
use crate::oci::{Descriptor, Reference, media};

const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
const CREATED: &str = "org.opencontainers.image.created";

/// The entries of `index.json`: one a name, or one without.
pub(super) fn entries(documents: &Documents, names: &[Reference], created: Option<&str>) -> Vec<Descriptor> {
    let entry = |name: Option<&Reference>| {
        let mut entry = documents.top.clone();
        if let Some(created) = created {
            entry.annotations.insert(CREATED.into(), created.to_owned());
        }
        if let Some(name) = name {
            entry.annotations.insert(IMAGE_NAME.into(), name.to_string());
            if let Some(tag) = &name.tag {
                entry.annotations.insert(REF_NAME.into(), tag.clone());
            }
        }
        entry
    };
    if names.is_empty() { vec![entry(None)] } else { names.iter().map(|name| entry(Some(name))).collect() }
}

fn index_json(manifests: Vec<Descriptor>) -> Vec<u8> {
    let index = Index { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests, annotations: Default::default() };
    serde_json::to_vec(&index).unwrap_or_else(|_| to_json(&index))
}

/// `manifest.json` of a docker archive.
pub(super) fn docker_manifest(documents: &Documents, names: &[Reference]) -> Vec<u8> {
    let path = |blob: &Descriptor| format!("blobs/sha256/{}", blob.digest.hex());
    let tags: Vec<String> = names.iter().map(|name| format!("{}:{}", name.familiar_name(), name.tag.as_deref().unwrap_or("latest"))).collect();
    let images: Vec<_> = documents
        .images
        .iter()
        .map(|image| {
            let tags = if tags.is_empty() { json!(null) } else { json!(tags) };
            json!({"Config": path(&image.config), "RepoTags": tags, "Layers": image.layers.iter().map(path).collect::<Vec<_>>()})
        })
        .collect();
    json!(images).to_string().into_bytes()
}

/// Writes a layout as a tar.
pub(super) fn write_tar(
    out: &mut dyn Write,
    documents: &Documents,
    entries: &[Descriptor],
    docker: Option<&[u8]>,
    store: &Store,
) -> Result<(), ExportError> {
    let failed = |source: io::Error| ExportError::Io { action: "write", path: "the archive".into(), source };
    let mut archive = Archive::new(out);
    let small = |archive: &mut Archive<'_>, name: &str, bytes: &[u8]| archive.file(name, bytes.len() as u64, &mut &bytes[..]);
    small(&mut archive, "oci-layout", LAYOUT_VERSION).map_err(failed)?;
    small(&mut archive, "index.json", &index_json(entries.to_vec())).map_err(failed)?;
    if let Some(docker) = docker {
        small(&mut archive, "manifest.json", docker).map_err(failed)?;
    }
    for directory in ["blobs/", "blobs/sha256/"] {
        archive.directory(directory).map_err(failed)?;
    }
    for (digest, blob) in documents.blobs() {
        let name = format!("blobs/sha256/{}", digest.hex());
        match blob {
            Blob::Here(bytes) => small(&mut archive, &name, bytes).map_err(failed)?,
            Blob::Stored(size) => archive.file(&name, size, &mut store.blobs().open_verified(&digest)?).map_err(failed)?,
        }
    }
    archive.finish().map_err(failed)
}

/// Writes a layout directory, or adds to one: other names' entries stay. `index.json` comes last, so what it lists is always there.
pub(super) fn write_directory(
    path: &Path,
    documents: &Documents,
    entries: Vec<Descriptor>,
    store: &Store,
    stop: &StopSignal,
) -> Result<(), ExportError> {
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(ExportError::io("make directory", &blobs))?;
    for (digest, blob) in documents.blobs() {
        let dest = blobs.join(digest.hex());
        let size = match &blob {
            Blob::Here(bytes) => bytes.len() as u64,
            Blob::Stored(size) => *size,
        };
        if fs::metadata(&dest).is_ok_and(|there| there.is_file() && there.len() == size) {
            continue;
        }
        write_file(&dest, stop, |out| {
            let copied = match blob {
                Blob::Here(bytes) => out.write_all(bytes),
                Blob::Stored(_) => io::copy(&mut store.blobs().open_verified(&digest)?, out).map(drop),
            };
            copied.map_err(ExportError::io("write", &dest))
        })?;
    }
    let file = path.join("oci-layout");
    write_file(&file, stop, |out| out.write_all(LAYOUT_VERSION).map_err(ExportError::io("write", &file)))?;
    let file = path.join("index.json");
    let index = index_json(merged(&file, entries)?);
    write_file(&file, stop, |out| out.write_all(&index).map_err(ExportError::io("write", &file)))
}

/// What a layout lists already, without what the new entries replace.
///
/// # Errors
/// There is an index that is none, or that can't be read: what it lists would be lost.
fn merged(index: &Path, new: Vec<Descriptor>) -> Result<Vec<Descriptor>, ExportError> {
    let mut all = listed(index)?;
    let name = |entry: &Descriptor| (entry.annotations.get(IMAGE_NAME).cloned(), entry.annotations.get(REF_NAME).cloned());
    all.retain(|old| new.iter().all(|new| name(new) != name(old)));
    all.extend(new);
    Ok(all)
}

fn listed(index: &Path) -> Result<Vec<Descriptor>, ExportError> {
    let limits = DocumentLimits::default();
    let mut bytes = Vec::new();
    match File::open(index) {
        Ok(file) => io::Read::read_to_end(&mut io::Read::take(file, limits.manifest_bytes), &mut bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    }
    .map_err(ExportError::io("read", index))?;
    let what = match Document::parse(&bytes, None, &limits) {
        Ok(Document::Index(index)) => return Ok(index.manifests),
        Ok(Document::Manifest(_)) => "it is a manifest".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = format!("what is there is no index of a layout ({what}), and what it lists would be lost; remove it, or name another directory");
    Err(ExportError::InTheWay { path: index.to_owned(), reason })
}
