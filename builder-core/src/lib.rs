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
//! - Groups of modules stand below in the order in which they use each other: each knows those above it.

// The facade, to begin reading with; it uses everything below.
pub mod builder;

// Words: types that are passed around and do nothing.
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod frontend;
pub mod graph;
pub mod oci;
pub mod request;
pub mod secret;

// What is kept: the store, and what is known about it.
pub mod cache;
pub mod content;

// How blocking work is done and files are written.
pub mod threads;
mod whole_file;

// Bringing bytes in.
pub mod registry;
pub mod source;

// Bringing results about.
pub mod plan;
pub mod run;
pub mod scheduler;

// Sending results out.
pub mod export;
pub mod image;
pub mod layer;
pub mod tripwire;
