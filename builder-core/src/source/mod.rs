//! Sources: what brings bytes in.

pub mod image;
pub mod local;
