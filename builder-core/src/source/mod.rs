//! Sources: what brings bytes in.

pub mod image;
pub mod local;
pub(crate) mod missing;
pub mod oci_layout;
pub(crate) mod pattern;
mod pull;
pub(crate) mod stack;
pub mod tree;
