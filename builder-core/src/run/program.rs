//! Programs of this machine that steps may need: where they are.

use std::ffi::OsStr;
use std::path::PathBuf;

/// The files called `name` in the directories of `path`, in order. Relative directories are skipped: what runs must not depend on where a build was started.
pub(super) fn candidates(name: &str, path: Option<&OsStr>) -> impl Iterator<Item = PathBuf> {
    let dirs: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    dirs.into_iter().filter(|dir| dir.is_absolute()).map(move |dir| dir.join(name)).filter(|file| file.is_file())
}
