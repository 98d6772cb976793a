//! `.dockerignore` and `--exclude`: which paths are left out (`features.md` A11).

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: pattern {pattern:?} {reason}")]
pub struct IgnoreError {
    /// Line, from 1 (for `--exclude`: which one).
    pub line: u32,
    /// As written.
    pub pattern: String,
    /// Reason.
    pub reason: String,
}

/// Compiled patterns.
#[derive(Debug, Clone, Default)]
pub struct IgnoreFile {
    patterns: Vec<String>,
}

impl IgnoreFile {
    /// Compiles an ignore file.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let _ = text;
        Ok(Self::default())
    }

    /// Compiles patterns given one by one (`--exclude`).
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let _ = patterns;
        Ok(Self::default())
    }

    /// Whether there is nothing to match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether any pattern lets paths in again.
    #[must_use]
    pub fn has_negations(&self) -> bool {
        false
    }

    /// Whether the path (relative, slashes, no leading slash) is left out.
    #[must_use]
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.decision(path) == Some(true)
    }

    /// `Some(true)`: left out. `Some(false)`: let in again by a `!` pattern. `None`: no pattern speaks of it.
    #[must_use]
    pub fn decision(&self, path: &[u8]) -> Option<bool> {
        let _ = path;
        None
    }

    /// Whether a walk needn't enter this directory: it is left out and nothing below it can be let in again.
    #[must_use]
    pub fn prunes(&self, dir: &[u8]) -> bool {
        let _ = dir;
        false
    }

    /// The line of the pattern that decides about the path.
    #[must_use]
    pub fn deciding_rule(&self, path: &[u8]) -> Option<u32> {
        let _ = path;
        None
    }
}
