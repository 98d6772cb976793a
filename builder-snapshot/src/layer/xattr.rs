//! Which extended attributes belong to a tree's content.
//!
//! - From a tar, an archive, or a copy: `security.capability` and `user.*`. `trusted.overlay.*` and `user.overlay.*` would be marks of the stack itself (a
//!   hostile layer could hide or redirect what lies below), the rest means nothing on another machine (SELinux labels, IMA signatures) or is the file
//!   system's own (`system.*`); they are left out silently, as other builders do.
//! - From what a RUN made: only `security.capability`. Programs sprinkle `user.*` for purposes of their own.
//! - `user.rbuild.*` says what the disk cannot hold, see [`super::stand_in`]; from outside it would be a lie.

use std::io;
use std::os::fd::AsFd;

use crate::sys;
use crate::toc::Xattrs;
use crate::user_namespace::IdMap;

use super::stand_in;

/// File capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Whether an attribute of this name may come in from outside and is part of what a tree holds.
#[must_use]
pub(crate) fn belongs(name: &[u8]) -> bool {
    name == CAPABILITY || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.starts_with(stand_in::PREFIX))
}

/// Whether an attribute that a RUN left is part of its layer.
#[must_use]
pub(crate) fn exported_from_run(name: &[u8]) -> bool {
    name == CAPABILITY
}

/// The attributes of an open file or directory that belong to the tree.
pub(crate) fn read(file: impl AsFd) -> io::Result<Xattrs> {
    let mut xattrs = Vec::new();
    for name in sys::fs::list_xattrs(&file)? {
        if let Some(meant) = meant(&name)
            && let Some(value) = sys::fs::get_xattr(&file, &name)?
        {
            xattrs.push((meant, value));
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// The attribute of the tree that one of this name on disk is; none if it does not belong to the tree.
pub(crate) fn meant(name: &[u8]) -> Option<Box<[u8]>> {
    if name == stand_in::CAPABILITY && !IdMap::current().is_initial {
        return Some(CAPABILITY.into());
    }
    belongs(name).then(|| name.into())
}
