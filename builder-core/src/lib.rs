//! From a build graph to an image.
//!
//! A [`Frontend`](frontend::Frontend) compiles text to a [`Graph`](graph::Graph) of operations and an image config for each target; the
//! [`Builder`](builder::Builder) resolves what the frontend needs, keys every vertex by content, runs what is not in the store yet, and exports the result.
//!
//! # Invariants
//!
//! - Nothing here knows Dockerfile words, terminals, environment variables or home directories: all of it arrives as values in a
//!   [`BuildRequest`](request::BuildRequest).
//! - Progress leaves sideways as [`BuildEvent`](event::BuildEvent)s and never influences a build.
//! - Modules are ordered as listed below; each uses only those above it.

pub mod builder;
pub mod cache;
pub mod content;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod export;
pub mod frontend;
pub mod graph;
pub mod image;
pub mod layer;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod request;
pub mod run;
pub mod scheduler;
pub mod secret;
pub mod source;
