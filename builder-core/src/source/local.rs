//! Directories of the request.

/// A directory of the request, walked when something is copied from it.
#[derive(Debug)]
pub struct LocalTree {}
