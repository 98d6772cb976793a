//! Sources: what brings bytes in.

pub mod local;
