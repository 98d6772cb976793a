//! Stacks of layers: what a tree is made of, exactly and by content.

use builder_snapshot::toc::{ContentId, LayerId};
use builder_snapshot::{Hasher, Sha256Digest};

use crate::oci::DiffId;

/// One layer of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackLayer {
    /// Which layer exactly: digest of its table with times; the diff ID for layers of images.
    pub id: LayerId,
    /// What is in it: digest of its table without times; the diff ID for layers of images.
    pub content: ContentId,
}

impl StackLayer {
    /// A layer of an image from elsewhere. Its diff ID names it before it is here and does not change when it arrives.
    #[must_use]
    pub fn of_image(diff_id: DiffId) -> Self {
        Self { id: LayerId(diff_id.0), content: ContentId(diff_id.0) }
    }

    /// Whether this layer came with an image, so that it may be absent and can be brought.
    #[must_use]
    pub fn is_from_image(&self) -> bool {
        // A layer made here has different digests: its table is hashed once with times and once without, under different headings.
        self.id.0 == self.content.0
    }
}

/// Layers, bottom first. The empty stack is an empty tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Stack {
    /// Bottom first.
    pub layers: Vec<StackLayer>,
}

impl Stack {
    /// The layers of an image.
    #[must_use]
    pub fn of_image(diff_ids: &[DiffId]) -> Self {
        Self { layers: diff_ids.iter().copied().map(StackLayer::of_image).collect() }
    }

    /// This stack with `layer` on top.
    #[must_use]
    pub fn with(&self, layer: StackLayer) -> Self {
        let mut layers = Vec::with_capacity(self.layers.len() + 1);
        layers.extend_from_slice(&self.layers);
        layers.push(layer);
        Self { layers }
    }

    /// Digest of the content of all layers in order: equal stacks of equal content, whenever they were made.
    #[must_use]
    pub fn content_id(&self) -> ContentId {
        ContentId(self.chain(b"rbuild stack content 1\n", |layer| layer.content.0))
    }

    fn chain(&self, heading: &[u8], part: impl Fn(&StackLayer) -> Sha256Digest) -> Sha256Digest {
        let mut hasher = Hasher::new();
        hasher.update(heading);
        for layer in &self.layers {
            hasher.update(&part(layer).0);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ids_see_order_and_nothing_but_content() {
        let layer = |id: u8, content: u8| StackLayer { id: LayerId(Sha256Digest([id; 32])), content: ContentId(Sha256Digest([content; 32])) };
        let stack = |layers: &[StackLayer]| Stack { layers: layers.to_vec() }.content_id();
        assert_eq!(stack(&[layer(1, 9), layer(2, 8)]), stack(&[layer(3, 9), layer(4, 8)]));
        assert_ne!(stack(&[layer(1, 9), layer(2, 8)]), stack(&[layer(2, 8), layer(1, 9)]));
        assert_ne!(stack(&[]), stack(&[layer(1, 9)]));
    }
}
