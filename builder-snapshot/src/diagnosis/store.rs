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

/// A store that was made with other ids (or by another user) than this process has: its files would be taken for those of others.
#[must_use]
pub fn other_ids(store: &Path, made_with: &str, now: &str) -> Lack {
    let one_line = |text: &str| text.trim_end().replace('\n', ", ");
    let cause = format!("the store {store:?} was made with other user ids ({}) than this process has ({})", one_line(made_with), one_line(now));
    Lack::new(Facility::Disk, cause, Some(&store.display().to_string()), "use another one (--root or RBUILD_ROOT), or remove it")
}
