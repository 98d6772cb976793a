//! Sources: what brings bytes in.

mod checkout;
pub(crate) mod definition;
pub mod git;
pub mod http;
pub mod image;
pub mod local;
pub(crate) mod missing;
pub mod oci_layout;
pub mod pattern;
mod pull;
mod remembered;
pub mod remote;
pub(crate) mod stack;
pub mod tree;
