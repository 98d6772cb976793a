//! Why there is no place for a store.

use std::path::Path;

use super::{Facility, Lack};

/// Where to go instead.
const ELSEWHERE: &str = "make the store writable for the user who builds, or use another one (--root or RBUILD_ROOT)";

/// A store that can be neither made nor written; `said` are the words of the error.
#[must_use]
pub fn unwritable_store(store: &Path, said: &str) -> Lack {
    let path = store.display().to_string();
    Lack::new(Facility::Disk, format!("nothing can be written to the store {path}: {said}"), Some(&path), ELSEWHERE)
}
