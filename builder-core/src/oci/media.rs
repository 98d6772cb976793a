//! Media types of the documents and layers that we read and write, Docker's and OCI's.
//!
//! What a layer's bytes really are is told by their first bytes ([`Packing::sniff`]), not by its media type: Docker archives and old
//! registries call gzip streams plain tar, and the digest decides what they are either way.

/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, plain.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer, plain.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What we accept when asking for a manifest.
pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Whether `media_type` is that of an index or manifest list.
#[must_use]
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether `media_type` is that of an image manifest.
#[must_use]
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether `media_type` is that of a layer tar, packed or not, foreign or not.
#[must_use]
pub fn is_layer(media_type: &str) -> bool {
    let base = media_type.split_once([';', '+']).map_or(media_type, |(base, _)| base);
    let base = base.trim_end_matches(".gzip").trim_end_matches(".zstd");
    matches!(
        base,
        OCI_LAYER | DOCKER_LAYER | "application/vnd.oci.image.layer.nondistributable.v1.tar" | "application/vnd.docker.image.rootfs.foreign.diff.tar"
    )
}

/// Whether `media_type` is that of a layer that its image does not let be passed on.
#[must_use]
pub fn is_foreign(media_type: &str) -> bool {
    is_layer(media_type) && (media_type.contains(".nondistributable.") || media_type.contains(".foreign."))
}

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// What the first bytes of a blob say. A tar starts with a file's name, never with these bytes.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or a skippable frame, with which zstd:chunked blobs may begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// The media type of a layer that is packed like this.
    #[must_use]
    pub fn layer_media_type(self, oci: bool) -> &'static str {
        match (self, oci) {
            (Self::Plain, true) => OCI_LAYER,
            (Self::Gzip, true) => OCI_LAYER_GZIP,
            (Self::Zstd, true) => OCI_LAYER_ZSTD,
            (Self::Plain, false) => DOCKER_LAYER,
            (Self::Gzip, false) => DOCKER_LAYER_GZIP,
            (Self::Zstd, false) => DOCKER_LAYER_ZSTD,
        }
    }

    /// What a layer's media type says; none for a type that is no layer.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        if !is_layer(media_type) {
            return None;
        }
        Some(match media_type.rsplit(['+', '.']).next() {
            Some("gzip") => Self::Gzip,
            Some("zstd") => Self::Zstd,
            _ => Self::Plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f7_layer_media_types() {
        for (text, packing) in [
            (OCI_LAYER, Packing::Plain),
            (OCI_LAYER_GZIP, Packing::Gzip),
            (OCI_LAYER_ZSTD, Packing::Zstd),
            (DOCKER_LAYER, Packing::Plain),
            (DOCKER_LAYER_GZIP, Packing::Gzip),
            (DOCKER_LAYER_ZSTD, Packing::Zstd),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Packing::Gzip),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Packing::Zstd),
        ] {
            assert_eq!(Packing::of_media_type(text), Some(packing), "{text}");
        }
        for other in ["application/vnd.in-toto+json", OCI_CONFIG, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", ""] {
            assert_eq!(Packing::of_media_type(other), None, "{other}");
        }
    }
}
