//! From a target and its result to an image that can be exported: history and times. Pure.

use std::time::SystemTime;

use crate::content::Stack;
use crate::frontend::TargetImage;
use crate::graph::VertexId;
use crate::oci::{History, ImageDocument, Platform};

/// An image that lacks only its diff IDs, which depend on how it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct FinalImage {
    /// For which platform.
    pub platform: Platform,
    /// Its layers.
    pub stack: Stack,
    /// Its config; `rootfs` and `history` are empty.
    pub document: ImageDocument,
    /// Its history, one entry without `empty_layer` for each layer.
    pub history: Vec<History>,
}

/// Puts together the image of `target`, whose tree is `stack`. `created` says when the layer of a vertex was made; with `epoch` all new
/// times are that.
#[must_use]
pub fn assemble(_target: &TargetImage, _stack: &Stack, _created: &dyn Fn(VertexId) -> SystemTime, _epoch: Option<i64>) -> FinalImage {
    todo!()
}
