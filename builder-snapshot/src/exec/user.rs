//! Users and groups by the image's own files.

use super::ResolvedUser;
use super::error::UserError;
use crate::tree::MergedTree;

/// Who `text` (of a USER instruction) is in `tree`.
///
/// # Errors
/// Unknown names, malformed text, and files that cannot be read safely.
pub fn resolve_user(_text: &str, _tree: &MergedTree) -> Result<ResolvedUser, UserError> {
    todo!()
}

/// User and group ids of `text` (of `--chown`) in `tree`; without a tree only numbers and `root` are known.
///
/// # Errors
/// As [`resolve_user`].
pub fn resolve_owner(_text: &str, _tree: Option<&MergedTree>) -> Result<(u32, u32), UserError> {
    todo!()
}
