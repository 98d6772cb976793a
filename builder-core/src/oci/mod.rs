//! The vocabulary of images: references, platforms, digests, configs. Types only, no I/O.

pub mod config;
pub mod limits;
pub mod manifest;
pub mod media;
pub mod platform;
pub mod reference;

pub use builder_snapshot::Sha256Digest;
pub use config::{History, ImageConfig, ImageDocument};
pub use limits::{DocumentLimits, JSON_DEPTH_OF_THE_READER};
pub use manifest::Descriptor;
pub use platform::Platform;
pub use reference::Reference;

/// Digest of an uncompressed layer tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiffId(pub Sha256Digest);

/// Digest of a stack of diff IDs (OCI image specification, "Layer ChainID").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(pub Sha256Digest);

impl ChainId {
    /// The chain ID of `layers`, bottom first; none for no layers.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        Some(rest.iter().fold(Self(first.0), |chain, layer| Self(Sha256Digest::of(format!("{} {}", chain.0, layer.0).as_bytes()))))
    }
}
