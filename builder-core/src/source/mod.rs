//! Sources: what brings bytes in.

pub mod image;
pub mod local;
pub(crate) mod missing;
pub(crate) mod pattern;
pub(crate) mod stack;
pub mod tree;
