//! What remote sources left in the store before, so that they are asked only for what changed.
//!
//! One small file each beside the stat indexes. What it says counts only if the layer it names is in the store and can be trusted.

use std::fs;
use std::path::PathBuf;

use builder_snapshot::snapshot::CommittedLayer;
use builder_snapshot::toc::{ContentId, LayerId};
use builder_snapshot::{Hasher, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::cache::ObjectKind;
use crate::content::{Stack, StackLayer, Store, StoreError};

/// Where a memory lies.
#[derive(Debug)]
pub(super) struct Memory(PathBuf);

/// What is remembered of one source.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    layer: StackLayer,
    /// ETag of the answer, or commit.
    pub(super) tag: Option<String>,
    /// Digest of the file.
    pub(super) digest: Option<Sha256Digest>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    layer: String,
    content: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Remembered {
    /// The memory of the source of this kind with these parts.
    pub(super) fn at(store: &Store, kind: &str, parts: &[&str]) -> Memory {
        let mut hasher = Hasher::new();
        for part in std::iter::once(&kind).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        // Addresses can hold passwords: only a digest of them reaches the disk.
        Memory(store.contexts_dir().join(format!("{}.source", hasher.finish().hex())))
    }

    pub(super) fn stack(&self) -> Stack {
        Stack { layers: vec![self.layer] }
    }
}

impl Memory {
    /// What is remembered, if its layer is still there.
    pub(super) fn load(&self, store: &Store) -> Option<Remembered> {
        let stored: Stored = serde_json::from_slice(&fs::read(&self.0).ok()?).ok()?;
        let layer = StackLayer { id: LayerId(Sha256Digest::from_hex(&stored.layer)?), content: ContentId(Sha256Digest::from_hex(&stored.content)?) };
        let digest = match stored.digest {
            Some(hex) => Some(Sha256Digest::from_hex(&hex)?),
            None => None,
        };
        store.has_layer(layer.id).then_some(Remembered { layer, tag: stored.tag, digest })
    }
}

/// Remembers a source of one layer. What can't be remembered is asked for again.
pub(super) fn remember(memory: &Memory, stack: &Stack, tag: Option<String>, digest: Option<Sha256Digest>) {
    let [layer] = stack.layers[..] else { return };
    let stored = Stored { layer: layer.id.0.hex(), content: layer.content.0.hex(), tag, digest: digest.map(|digest| digest.hex()) };
    let temporary = memory.0.with_extension(format!("{}.tmp", std::process::id()));
    let written = serde_json::to_vec(&stored)
        .map_err(std::io::Error::from)
        .and_then(|bytes| fs::write(&temporary, bytes))
        .and_then(|()| fs::rename(&temporary, &memory.0));
    if let Err(error) = written {
        tracing::warn!(path = %memory.0.display(), %error, "cannot remember what a remote source holds");
    }
}

/// Puts a layer into the store under its id.
pub(super) fn keep(store: &Store, layer: CommittedLayer) -> Result<(), StoreError> {
    let id = layer.id;
    store.publish(layer)?;
    store.db().add_object(ObjectKind::Layer, &id.0)
}
