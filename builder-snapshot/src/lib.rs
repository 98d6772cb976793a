//! File trees, layers and sandboxed processes: the blocking back end of rbuild.
//!
//! A *layer* is a directory of changes in overlay form (`fs`), described by its table of contents ([`toc::Toc`]): one entry a path,
//! with the digest of every file. Layers are stacked, bottom first. [`tree::MergedTree`] reads (and, on its top layer, writes) such a
//! stack without mounting it; [`snapshot::ActiveSnapshot`] mounts it as an overlay, so that a process can run on it
//! ([`exec`]), and turns what changed into a new layer ([`diff`]). [`layer`] converts between a layer and its tar, both ways.
//!
//! # Invariants
//!
//! - Nothing here knows images, registries, Dockerfiles or tokio; every function blocks.
//! - `unsafe` stands only in `sys`.
//! - A path inside a root file system is opened relative to a directory descriptor and cannot leave it ([`root::RootDir`]).
//! - A committed layer is never written to again.
//! - The mount table of the calling process never changes: all mounts are detached until a child attaches them in its own namespace.

pub mod digest;
pub mod path;
pub mod toc;

mod sys;

pub mod cache_mount;
pub mod diagnosis;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod layer;
pub mod root;
pub mod snapshot;
pub mod stop;
pub mod tree;
pub mod user_namespace;

mod error;

pub use digest::{Hasher, Sha256Digest};
pub use error::{LayerError, LimitReached, SnapshotError};
pub use path::{PathError, TreePath};
pub use stop::StopSignal;
pub use user_namespace::enter_user_namespace;

/// Makes the allocator of this process give large buffers back to the system when they are freed. Left alone glibc learns from the first ones to keep
/// the next in an arena a thread: a build that packs layers then keeps some 20 MiB more than it uses. For programs to call at their start; other C
/// libraries do it anyway.
pub fn give_large_buffers_back() {
    sys::memory::give_large_buffers_back();
}
