//! Secrets: values that no key, log, layer, history or event may hold.

use std::fmt;
use std::sync::Arc;

/// A secret's value. Its `Debug` form shows the length only.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

/// Longest secret, in bytes (`features.md` A8.7).
pub const MAX_SECRET_BYTES: usize = 500 * 1024;

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Arc<[u8]>>) -> Self {
        Self(value.into())
    }

    /// The value.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}
