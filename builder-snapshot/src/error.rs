//! What can go wrong with trees and layers. Every message names its subject and, where there is one, the remedy.

use std::io;

use crate::digest::Sha256Digest;

/// Trees, snapshots and their overlay mounts.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: a verb, and a noun where the path alone is not clear.
        action: &'static str,
        /// On what: a path of the host, or an absolute path inside the tree.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// Nothing is at the path.
    #[error("{path} does not exist")]
    NotFound {
        /// The path inside the tree.
        path: String,
    },
    /// A directory was needed, something else is there.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path inside the tree.
        path: String,
    },
    /// A regular file was needed, something else is there.
    #[error("{path} is not a regular file")]
    NotARegularFile {
        /// The path inside the tree.
        path: String,
    },
    /// Symbolic links that never end.
    #[error("{path} leads through more than 40 symbolic links")]
    LinkLoop {
        /// The path that was to be resolved.
        path: String,
    },
    /// A path that no tree can hold.
    #[error(transparent)]
    Path(#[from] crate::path::PathError),
    /// A file is not what it was when it was hashed.
    #[error("{path} changed while it was copied: it had digest {expected}, now it has {found}; run the build again")]
    FileChanged {
        /// The path that was written.
        path: String,
        /// What the file had when it was looked at first.
        expected: Sha256Digest,
        /// What was read now.
        found: Sha256Digest,
    },
    /// More lower directories than the kernel stacks.
    #[error("the image has {count} layers, the kernel stacks at most {limit}; join steps, or flatten the base image")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// The kernel does not mount the overlay.
    #[error("cannot mount an overlay on {upper}: {source}{log}{}{remedy}", if remedy.is_empty() { "" } else { "; " })]
    Mount {
        /// The writable directory.
        upper: String,
        /// What the kernel answered.
        source: io::Error,
        /// What the kernel wrote about it, with a leading `; `.
        log: String,
        /// What to do; empty if nothing is known.
        remedy: String,
    },
    /// A writer needs a snapshot that nothing has written to.
    #[error("the snapshot {path} has been written to already: a writer starts on an empty one")]
    NotFresh {
        /// The upper directory.
        path: String,
    },
}

impl SnapshotError {
    /// What the machine refuses, and the remedy, without the names of a moment; none if it is not the machine that is at fault.
    #[must_use]
    pub fn refusal(&self) -> Option<(String, String)> {
        match self {
            Self::Mount { source, .. } if source.kind() == io::ErrorKind::StorageFull => None,
            Self::Mount { source, log, remedy, .. } => Some((format!("cannot mount an overlay: {source}{log}"), remedy.clone())),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Io { action, path, source }
    }
}

/// There is more of something than a limit allows, which protects against bombs and has a name by which it can be raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} {what}; if that is right, raise the limit with --limit {name}=N")]
pub struct LimitReached {
    /// The limit's name.
    pub name: &'static str,
    /// What there is too much of.
    pub what: &'static str,
    /// The limit.
    pub limit: u64,
}

/// Layers as tar, both ways.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Reading the tar stream fails.
    #[error("cannot read the tar stream: {0}")]
    Read(#[source] io::Error),
    /// Writing the tar stream fails.
    #[error("cannot write the tar stream: {0}")]
    Write(#[source] io::Error),
    /// The stream is no tar, or a damaged one.
    #[error("damaged tar: {reason} (at byte {offset})")]
    Damaged {
        /// What is wrong.
        reason: String,
        /// Where in the stream.
        offset: u64,
    },
    /// An entry that is not accepted.
    #[error("tar entry {entry:?} is refused: {reason}")]
    Refused {
        /// The entry's name as it stands in the tar.
        entry: String,
        /// Why.
        reason: String,
    },
    /// A limit that protects against bombs.
    #[error("the tar has {0}")]
    Limit(LimitReached),
    /// A hard link to nothing.
    #[error("tar entry {entry:?} is a hard link to {target:?}, which is no file of this or a lower layer")]
    LinkTarget {
        /// The entry.
        entry: String,
        /// What it links to.
        target: String,
    },
    /// A path that a layer's tar cannot say, because the name has a meaning of its own there.
    #[error("{path} cannot be stored in an image: names that begin with `.wh.` mean deletion there; rename it")]
    WhiteoutName {
        /// The path in the tree.
        path: String,
    },
    /// A file of the layer is not what its table says.
    #[error("{path} in the layer store is not what the layer's table says ({reason}): something changed the store; build again")]
    NotAsListed {
        /// The path in the layer.
        path: String,
        /// The difference.
        reason: String,
    },
    /// Putting an entry into the tree fails.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}
