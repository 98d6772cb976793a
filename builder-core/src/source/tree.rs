//! What file operations copy from, seen as one kind of tree: a directory of the host under ignore rules
//! ([`LocalTree`](super::local::LocalTree)), or a stack of layers read from its tables of contents.
//!
//! # Invariants
//! - No path leaves the tree: links are resolved here, component by component, with the tree's root as `/`.
//! - Directory listings are sorted by name, so every walk has one order.

use builder_snapshot::toc::Meta;
use builder_snapshot::{Sha256Digest, TreePath};

use crate::error::StepError;

/// Most links followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// One path of a source tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the source.
    pub path: TreePath,
    /// What it is.
    pub node: EntryNode,
    /// Mode, owner, time, attributes, as the tree has them.
    pub meta: Meta,
    /// In a stack, which of its layers it comes from.
    pub layer: Option<usize>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryNode {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Digest of the content, once it is known.
        digest: Option<Sha256Digest>,
        /// Which other names of the tree are the same file: equal groups are.
        group: Option<(u64, u64)>,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The bytes of the link.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Entry {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self.node, EntryNode::Dir)
    }
}

/// Something to copy from.
pub trait SourceTree {
    /// What stands at exactly `path`; no link is followed, also not on the way.
    ///
    /// # Errors
    /// What can't be looked at.
    fn lookup(&self, path: &TreePath) -> Result<Option<Entry>, StepError>;

    /// What stands in the directory `path`, sorted by name.
    ///
    /// # Errors
    /// What can't be read.
    fn list(&self, path: &TreePath) -> Result<Vec<Entry>, StepError>;

    /// Finds out the digests (and attributes that only opening shows) of these regular files: what is looked up or listed from now on has them.
    ///
    /// # Errors
    /// Files that can't be read, that vanished or change while they are read.
    fn read_digests(&self, files: &[TreePath]) -> Result<(), StepError>;

    /// Everything below the directory `path` is going to be listed: a tree whose listings take time may get them on several threads.
    fn expect_walk(&self, path: &TreePath) {
        let _ = path;
    }

    /// What leaves out a path that would be there otherwise, in words: `line 3 of .dockerignore: *.md`.
    fn left_out_by(&self, path: &TreePath) -> Option<String> {
        let _ = path;
        None
    }

    /// How the tree is called in messages: `the build context`.
    fn describe(&self) -> String;
}

/// Follows links in all components of `path`, `..` of link targets stopping at the root.
/// None if something on the way is missing or no directory.
///
/// # Errors
/// What can't be looked at, and chains of more than 40 links.
pub fn resolve(tree: &dyn SourceTree, path: &TreePath) -> Result<Option<Entry>, StepError> {
    let mut links = 0;
    let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
    let Some(mut here) = tree.lookup(&TreePath::root())? else { return Ok(None) };
    while let Some(name) = todo.pop() {
        if name == b".." {
            let parent = here.path.parent().unwrap_or_default();
            match tree.lookup(&parent)? {
                Some(entry) => here = entry,
                None => return Ok(None),
            }
            continue;
        }
        if !here.is_dir() {
            return Ok(None);
        }
        let Some(entry) = tree.lookup(&here.path.child(&name))? else { return Ok(None) };
        let EntryNode::Symlink { target } = &entry.node else {
            here = entry;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(StepError::other(format!("{} in {}: more than {MAX_LINKS} symbolic links in a row", path.display(), tree.describe())));
        }
        if target.first() == Some(&b'/') {
            match tree.lookup(&TreePath::root())? {
                Some(root) => here = root,
                None => return Ok(None),
            }
        }
        todo.extend(target.split(|b| *b == b'/').rev().filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec));
    }
    Ok(Some(here))
}
