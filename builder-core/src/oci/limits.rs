//! What manifests, indexes and configs from elsewhere may cost.

use builder_snapshot::LimitReached;

/// Largest manifest or index that is read, in bytes: what registries commonly accept.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Largest image config that is read, in bytes. Real ones have some ten KiB.
pub const MAX_CONFIG_BYTES: u64 = 8 * 1024 * 1024;
/// Most layers of an image: far above what runtimes can mount, low enough to bound what a hostile manifest costs.
pub const MAX_LAYERS: usize = 2048;
/// Deepest nesting of JSON that is followed.
pub const MAX_JSON_DEPTH: usize = 64;
/// Deepest nesting of indexes that is followed.
pub const MAX_INDEX_DEPTH: usize = 3;

/// The depth at which the JSON reader itself gives up, whatever is asked for: each level costs stack.
pub const JSON_DEPTH_OF_THE_READER: usize = 127;

/// What the documents of images may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Bytes of a manifest or an index.
    pub manifest_bytes: u64,
    /// Bytes of a config.
    pub config_bytes: u64,
    /// Layers of an image.
    pub layers: usize,
    /// Nesting of JSON; at most [`JSON_DEPTH_OF_THE_READER`].
    pub json_depth: usize,
    /// Nesting of indexes.
    pub index_depth: usize,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self {
            manifest_bytes: MAX_MANIFEST_BYTES,
            config_bytes: MAX_CONFIG_BYTES,
            layers: MAX_LAYERS,
            json_depth: MAX_JSON_DEPTH,
            index_depth: MAX_INDEX_DEPTH,
        }
    }
}

impl DocumentLimits {
    /// That of a manifest's bytes, reached.
    #[must_use]
    pub fn manifest(&self) -> LimitReached {
        LimitReached { name: "manifest-bytes", what: "bytes", limit: self.manifest_bytes }
    }

    /// That of a config's bytes, reached.
    #[must_use]
    pub fn config(&self) -> LimitReached {
        LimitReached { name: "config-bytes", what: "bytes", limit: self.config_bytes }
    }

    /// That of nested JSON, reached.
    #[must_use]
    pub fn json(&self) -> LimitReached {
        LimitReached { name: "json-depth", what: "levels of JSON", limit: self.json_depth as u64 }
    }

    /// That of an image's layers, reached.
    #[must_use]
    pub fn layers(&self) -> LimitReached {
        LimitReached { name: "layers", what: "layers", limit: self.layers as u64 }
    }

    /// That of nested indexes, reached.
    #[must_use]
    pub fn indexes(&self) -> LimitReached {
        LimitReached { name: "index-depth", what: "indexes inside of each other", limit: self.index_depth as u64 }
    }
}
