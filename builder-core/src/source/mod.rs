//! Sources: what brings bytes in.

pub mod image;
pub mod local;
pub(crate) mod pattern;
pub mod tree;
