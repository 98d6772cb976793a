//! Paths inside a tree: relative, clean, raw bytes.
//!
//! A [`TreePath`] never starts with `/`, never holds `.`, `..`, an empty component or a NUL, so it can be walked beneath a directory
//! descriptor component by component. The empty path is the tree's root. The order is component by component, so a directory's
//! entries follow it directly (`a`, `a/b`, `a.b`), unlike plain byte order.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A clean relative path inside a tree; the empty path is its root.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// Longest path that is accepted, in bytes: Linux's PATH_MAX, beyond which nothing could open it in one call.
pub const MAX_PATH_BYTES: usize = 4096;

/// Why bytes are no [`TreePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is `..`, which could climb out of the tree.
    #[error("path {0:?} has a `..` component")]
    ParentComponent(String),
    /// A NUL byte, which no path can hold.
    #[error("path {0:?} has a NUL byte")]
    Nul(String),
    /// Longer than [`MAX_PATH_BYTES`].
    #[error("path of {0} bytes is longer than 4096")]
    TooLong(usize),
}

impl TreePath {
    /// The tree's root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Cleans `bytes`: leading, trailing and doubled slashes and `.` components vanish.
    ///
    /// # Errors
    /// `..`, NUL and overlong paths are refused: whoever wants `..` clipped uses [`TreePath::clipped`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        Self::build(bytes.as_ref(), false)
    }

    /// As [`TreePath::new`], but `..` goes up one component and stops at the root, as Docker treats paths in contexts and images.
    ///
    /// # Errors
    /// NUL and overlong paths.
    pub fn clipped(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        Self::build(bytes.as_ref(), true)
    }

    fn build(bytes: &[u8], clip: bool) -> Result<Self, PathError> {
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong(bytes.len()));
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul(String::from_utf8_lossy(bytes).into_owned()));
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in bytes.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." if clip => {
                    parts.pop();
                }
                b".." => return Err(PathError::ParentComponent(String::from_utf8_lossy(bytes).into_owned())),
                part => parts.push(part),
            }
        }
        Ok(Self(parts.join(&b'/').into()))
    }

    /// Takes bytes that are clean already; none if they are not.
    #[must_use]
    pub fn from_clean(bytes: Vec<u8>) -> Option<Self> {
        let is_clean = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        let clean = bytes.len() <= MAX_PATH_BYTES && !bytes.contains(&0) && (bytes.is_empty() || bytes.split(|&b| b == b'/').all(is_clean));
        clean.then(|| Self(bytes.into()))
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a path for system calls, relative; `.` for the root.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        if self.is_root() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }

    /// Whether this is the tree's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without its last component; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// The last component; none for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|&b| b == b'/').next().filter(|name| !name.is_empty())
    }

    /// This path and one component below it. `name` must be one clean component.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..");
        if self.is_root() {
            return Self(name.into());
        }
        Self([&self.0, &b"/"[..], name].concat().into())
    }

    /// As [`TreePath::child`], if the path is not too long for one more component.
    pub(crate) fn checked_child(&self, name: &[u8]) -> Result<Self, PathError> {
        let bytes = self.0.len() + 1 + name.len();
        if bytes > MAX_PATH_BYTES { Err(PathError::TooLong(bytes)) } else { Ok(self.child(name)) }
    }

    /// This path with `below` appended.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            _ => Self([&self.0, &b"/"[..], &below.0].concat().into()),
        }
    }

    /// What is left of this path below `ancestor` (the empty path if they are equal); none if it does not lie there.
    #[must_use]
    pub fn below(&self, ancestor: &Self) -> Option<Self> {
        if ancestor.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(&ancestor.0[..])?;
        match rest.split_first() {
            None => Some(Self::root()),
            Some((b'/', rest)) => Some(Self(rest.into())),
            Some(_) => None,
        }
    }

    /// Whether this path is `ancestor` or lies below it.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        let rest = self.0.strip_prefix(&ancestor.0[..]);
        ancestor.is_root() || rest.is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
    }

    /// The components, first to last.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|part| !part.is_empty())
    }

    /// Absolute text form for people: a leading slash, bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn display(&self) -> String {
        format!("/{}", String::from_utf8_lossy(&self.0))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
    }
}

/// The order of paths, of the bytes of clean ones.
pub(crate) fn order(a: &[u8], b: &[u8]) -> Ordering {
    // The separator sorts before every other byte: the order of components without splitting.
    let differing = a.iter().zip(b).find(|(a, b)| a != b);
    match differing {
        Some((b'/', _)) => Ordering::Less,
        Some((_, b'/')) => Ordering::Greater,
        Some((a, b)) => a.cmp(b),
        None => a.len().cmp(&b.len()),
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_clips_and_refuses() {
        for (given, clean) in [("", ""), ("/", ""), ("a//b/", "a/b"), ("./a/./b", "a/b"), ("/x", "x")] {
            assert_eq!(TreePath::new(given).expect(given).as_bytes(), clean.as_bytes());
        }
        for (given, clean) in [("../x", "x"), ("a/../../b", "b"), ("a/..", "")] {
            assert!(TreePath::new(given).is_err(), "{given}");
            assert_eq!(TreePath::clipped(given).expect(given).as_bytes(), clean.as_bytes());
        }
        assert!(TreePath::clipped(b"a\0b").is_err());
        for text in ["", "a", "a/b", "...", "a/", "/a", "a//b", ".", "a/.", "../a", "a/..", "a\0b"] {
            let clean = TreePath::new(text).ok().filter(|path| path.as_bytes() == text.as_bytes());
            assert_eq!(TreePath::from_clean(text.as_bytes().to_vec()), clean, "{text:?}");
        }
    }

    #[test]
    fn sorts_a_directory_before_its_entries_and_those_before_its_neighbours() {
        let mut paths: Vec<_> = ["a.b", "a/b", "a", "a/b/c", "", "a0"].iter().map(|p| TreePath::new(p).expect("clean")).collect();
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(|p| String::from_utf8_lossy(p.as_bytes()).into_owned()).collect();
        assert_eq!(sorted, ["", "a", "a/b", "a/b/c", "a.b", "a0"]);
    }

    #[test]
    fn family() {
        let path = TreePath::new("a/b/c").expect("clean");
        assert_eq!(path.parent(), Some(TreePath::new("a/b").expect("clean")));
        assert_eq!(path.file_name(), Some(&b"c"[..]));
        assert_eq!(path.below(&TreePath::new("a").expect("clean")), Some(TreePath::new("b/c").expect("clean")));
        assert_eq!(path.below(&TreePath::new("a/b/cc").expect("clean")), None);
        for (path, ancestor) in [("a/b", "a/b"), ("a/b/c", "a/b"), ("a/bc", "a/b"), ("a", "a/b"), ("a", ""), ("", "")] {
            let (path, ancestor) = (TreePath::new(path).expect("clean"), TreePath::new(ancestor).expect("clean"));
            assert_eq!(path.is_below(&ancestor), path.below(&ancestor).is_some(), "{path:?} {ancestor:?}");
        }
        assert_eq!(TreePath::root().parent(), None);
    }
}
