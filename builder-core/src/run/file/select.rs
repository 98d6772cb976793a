//! What a COPY or ADD selects from a tree: wildcards, `--parents`, `--exclude`, links named as sources (`features.md` A9.2–A9.7, A9.11, A9.12).
//!
//! # Invariants
//! - A selection depends on the tree and the action's sources, excludes and `parents`; not on the destination.
//! - Within a match the entries come in the order of a walk: a directory, then what is in it, names sorted.
//! - Nothing is listed that cannot hold a match.

use builder_snapshot::toc::Meta;
use builder_snapshot::{Hasher, Sha256Digest, TreePath};

use crate::error::StepError;
use crate::graph::CopyAction;
use crate::source::missing;
use crate::source::pattern::{PatternList, component_matches, has_wildcards};
use crate::source::tree::{Entry, EntryNode, SourceTree, resolve};

/// Everything one action selects: per source as written, its matches in order.
///
/// What is below a directory is not held but walked to, as often as it is asked for: a hundred thousand entries would take 24 MiB.
pub(super) struct Selection<'a> {
    selector: Selector<'a>,
    pub(super) sources: Vec<Vec<Match>>,
}

/// One thing that a source names.
#[derive(Debug, Clone)]
pub(super) struct Match {
    /// The name it goes by in a directory that it is copied into: of the link, if a link was named. Empty for the root.
    pub(super) base: Box<[u8]>,
    /// What it is, links followed.
    pub(super) root: Entry,
    /// What is below it, if it is a directory: these, then what a walk finds.
    first: Vec<Item>,
    walk: Option<Walk>,
}

/// A directory of which all that is not excluded is selected, or of that what is included.
#[derive(Debug, Clone)]
struct Walk {
    dir: TreePath,
    rel: TreePath,
    include: Option<PatternList>,
}

/// Something below a directory that was selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Where it goes, relative to the destination directory.
    pub(super) rel: TreePath,
    /// What it is.
    pub(super) entry: Entry,
}

/// Takes items in order.
type Visit<'v> = dyn FnMut(Item) -> Result<(), StepError> + 'v;

/// Selects, without digests.
///
/// # Errors
/// Literal sources that are missing; patterns of `--exclude` or `--parents` that are none; what can't be listed.
pub(super) fn select<'a>(tree: &'a dyn SourceTree, action: &CopyAction) -> Result<Selection<'a>, StepError> {
    let excludes = PatternList::new(action.excludes.iter().map(String::as_str)).map_err(|error| StepError::other(format!("--exclude: {error}")))?;
    let selector = Selector { tree, excludes };
    let sources = action.sources.iter().map(|source| if action.parents { selector.with_parents(source) } else { selector.plain(source) });
    Ok(Selection { sources: sources.collect::<Result<_, _>>()?, selector })
}

struct Selector<'a> {
    tree: &'a dyn SourceTree,
    excludes: PatternList,
}

impl Selector<'_> {
    /// A source without `--parents`.
    fn plain(&self, source: &str) -> Result<Vec<Match>, StepError> {
        let path = clipped(source)?;
        let components: Vec<&[u8]> = path.components().collect();
        let Some(first_wildcard) = components.iter().position(|component| has_wildcards(component)) else {
            let entry = resolve(self.tree, &path)?.ok_or_else(|| missing::error(self.tree, &path))?;
            let base = path.file_name().unwrap_or_default();
            // Excludes are relative to a directory that is copied; a file that is named has only its name.
            if !entry.is_dir() && self.excludes.matches(base) {
                return Ok(Vec::new());
            }
            return Ok(vec![make_match(base, entry)]);
        };
        let prefix = clipped(components[..first_wildcard].join(&b'/'))?;
        let mut matches = Vec::new();
        if let Some(dir) = resolve(self.tree, &prefix)?
            && dir.is_dir()
        {
            self.expand(&dir.path, &components[first_wildcard..], &mut matches)?;
        }
        Ok(matches)
    }

    /// Adds what matches `components` below `dir`. Links in the middle are not entered, those at the end are followed.
    fn expand(&self, dir: &TreePath, components: &[&[u8]], matches: &mut Vec<Match>) -> Result<(), StepError> {
        let Some((pattern, rest)) = components.split_first() else { return Ok(()) };
        for child in self.tree.list(dir)? {
            let name = child.path.file_name().unwrap_or_default();
            if !component_matches(pattern, name) {
                continue;
            }
            if !rest.is_empty() {
                if child.is_dir() {
                    self.expand(&child.path, rest, matches)?;
                }
                continue;
            }
            if self.excludes.matches(name) {
                continue;
            }
            let path = child.path.clone();
            let base: Box<[u8]> = name.into();
            let entry = match child.node {
                EntryNode::Symlink { .. } => resolve(self.tree, &path)?.ok_or_else(|| missing::error(self.tree, &path))?,
                _ => child,
            };
            matches.push(make_match(&base, entry));
        }
        Ok(())
    }

    /// A source with `--parents`: the directory before `/./` (or the root) is copied, but of it only what the rest names.
    fn with_parents(&self, source: &str) -> Result<Vec<Match>, StepError> {
        // A leading `./` is no pivot: there is nothing before it.
        let (pivot, rest) = source.split_once("/./").unwrap_or(("", source));
        let pivot = clipped(pivot)?;
        let wanted = clipped(rest)?;
        let literal = !wanted.components().any(has_wildcards);
        let Some(root) = resolve(self.tree, &pivot)?.filter(Entry::is_dir) else {
            return if literal { Err(missing::error(self.tree, &pivot.join(&wanted))) } else { Ok(Vec::new()) };
        };
        if wanted.is_root() {
            return Ok(vec![make_match(b"", root)]);
        }
        if literal {
            let (first, walk) = self.literal_with_parents(&root.path, &wanted)?;
            return Ok(vec![Match { base: Box::default(), root, first, walk }]);
        }
        let text = String::from_utf8_lossy(wanted.as_bytes());
        let include = PatternList::new([&*text]).map_err(|error| StepError::other(format!("--parents: {error}")))?;
        let walk = Walk { dir: root.path.clone(), rel: TreePath::root(), include: Some(include) };
        Ok(vec![Match { base: Box::default(), root, first: Vec::new(), walk: Some(walk) }])
    }

    /// The path `wanted` below `root` with the directories on its way. Links on the way are followed, each under the name it has there.
    fn literal_with_parents(&self, root: &TreePath, wanted: &TreePath) -> Result<(Vec<Item>, Option<Walk>), StepError> {
        let absent = || missing::error(self.tree, &root.join(wanted));
        let mut rel = TreePath::root();
        let mut here = root.clone();
        let mut parents = Vec::new();
        let count = wanted.components().count();
        for (at, name) in wanted.components().enumerate() {
            rel = rel.child(name);
            let path = here.child(name);
            let is_last = at + 1 == count;
            let entry = if is_last { self.tree.lookup(&path)? } else { resolve(self.tree, &path)? }.ok_or_else(absent)?;
            if self.excludes.matches(rel.as_bytes()) && !(entry.is_dir() && self.excludes.has_negations()) {
                return Ok((Vec::new(), None));
            }
            if is_last {
                let walk = entry.is_dir().then(|| Walk { dir: entry.path.clone(), rel: rel.clone(), include: None });
                parents.push(Item { rel, entry });
                return Ok((parents, walk));
            }
            if !entry.is_dir() {
                return Err(absent());
            }
            here = entry.path.clone();
            parents.push(Item { rel: rel.clone(), entry });
        }
        Ok((Vec::new(), None))
    }

    /// Visits what is below `dir`, as far as it is included and not excluded. Directories that are not selected themselves wait in `pending`
    /// until something below them is.
    fn walk(
        &self,
        dir: &TreePath,
        rel: &TreePath,
        include: Option<&PatternList>,
        pending: &mut Vec<Item>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StepError> {
        for entry in self.tree.list(dir)? {
            let rel = rel.child(entry.path.file_name().unwrap_or_default());
            let excluded = self.excludes.matches(rel.as_bytes());
            let included = include.is_none_or(|include| include.matches(rel.as_bytes()));
            let is_dir = entry.is_dir();
            let path = if is_dir { Some(entry.path.clone()) } else { None };
            if included && !excluded {
                for item in pending.drain(..) {
                    visit(item)?;
                }
                visit(Item { rel: rel.clone(), entry })?;
                if let Some(path) = path {
                    // Below a directory that matched everything matches.
                    self.walk(&path, &rel, None, pending, visit)?;
                }
            } else if let Some(path) = path
                && (!excluded || self.excludes.has_negations())
                && (included || include.is_none_or(|include| include.can_match_below(rel.as_bytes())))
            {
                pending.push(Item { rel: rel.clone(), entry });
                let waiting = pending.len();
                self.walk(&path, &rel, if included { None } else { include }, pending, visit)?;
                if pending.len() == waiting {
                    pending.pop();
                }
            }
        }
        Ok(())
    }
}

/// Something that is named, with all that is below it.
fn make_match(base: &[u8], root: Entry) -> Match {
    let walk = root.is_dir().then(|| Walk { dir: root.path.clone(), rel: TreePath::root(), include: None });
    Match { base: base.into(), root, first: Vec::new(), walk }
}

fn clipped(path: impl AsRef<[u8]>) -> Result<TreePath, StepError> {
    TreePath::clipped(path).map_err(|error| StepError::other(error.to_string()))
}

impl Selection<'_> {
    /// Visits what is below a match, in order.
    ///
    /// # Errors
    /// What can't be listed, and what `visit` says.
    pub(super) fn each_below(&self, found: &Match, visit: &mut Visit<'_>) -> Result<(), StepError> {
        for item in &found.first {
            let mut item = item.clone();
            refresh(self.selector.tree, &mut item.entry)?;
            visit(item)?;
        }
        let Some(Walk { dir, rel, include }) = &found.walk else { return Ok(()) };
        // Only what is selected is looked at: with patterns nobody knows before what that is.
        if include.is_none() && self.selector.excludes.is_empty() {
            self.selector.tree.expect_walk(dir);
        }
        self.selector.walk(dir, rel, include.as_ref(), &mut Vec::new(), visit)
    }

    /// Has the tree find out the digests of all files.
    ///
    /// # Errors
    /// What can't be read.
    pub(super) fn fill_digests(&mut self) -> Result<(), StepError> {
        let mut unknown: Vec<TreePath> = Vec::new();
        let mut note = |entry: Entry| {
            if matches!(entry.node, EntryNode::File { digest: None, .. }) {
                unknown.push(entry.path);
            }
        };
        for found in self.sources.iter().flatten() {
            note(found.root.clone());
            self.each_below(found, &mut |item| {
                note(item.entry);
                Ok(())
            })?;
        }
        if unknown.is_empty() {
            return Ok(());
        }
        self.selector.tree.read_digests(&unknown)?;
        for found in self.sources.iter_mut().flatten() {
            refresh(self.selector.tree, &mut found.root)?;
        }
        Ok(())
    }

    /// Adds what was selected to `hasher`; all digests must be filled in. What a match's own directory is counts for nothing: only its contents
    /// are copied (`features.md` B3.3).
    ///
    /// # Errors
    /// What can't be listed.
    pub(super) fn hash(&self, hasher: &mut Hasher) -> Result<(), StepError> {
        put(hasher, &(self.sources.len() as u64).to_le_bytes());
        for matches in &self.sources {
            put(hasher, &(matches.len() as u64).to_le_bytes());
            for found in matches {
                if found.root.is_dir() {
                    put(hasher, b"contents");
                } else {
                    put(hasher, b"file");
                    put(hasher, &found.base);
                    put(hasher, &entry_digest(&found.root).0);
                }
                self.each_below(found, &mut |item| {
                    put(hasher, item.rel.as_bytes());
                    put(hasher, &entry_digest(&item.entry).0);
                    Ok(())
                })?;
                // No item has an empty path.
                put(hasher, b"");
            }
        }
        Ok(())
    }
}

/// What the tree knows of a file's content by now.
fn refresh(tree: &dyn SourceTree, entry: &mut Entry) -> Result<(), StepError> {
    if matches!(entry.node, EntryNode::File { digest: None, .. })
        && let Some(known) = tree.lookup(&entry.path)?
    {
        *entry = known;
    }
    Ok(())
}

/// Adds bytes in a form that no other sequence of bytes has.
pub(super) fn put(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Digest of one entry: all that counts of it (`features.md` B3.1, B3.2); hard links count as the file they are.
pub(super) fn entry_digest(entry: &Entry) -> Sha256Digest {
    let Meta { mode, uid, gid, xattrs, mtime: _, made_by_step: _ } = &entry.meta;
    let mut hasher = Hasher::new();
    let numbers = |kind: u32, a: u64, b: u64| [kind.to_le_bytes().to_vec(), a.to_le_bytes().to_vec(), b.to_le_bytes().to_vec()].concat();
    match &entry.node {
        EntryNode::File { size, digest, .. } => {
            put(&mut hasher, &numbers(1, *size, 0));
            put(&mut hasher, &digest.unwrap_or(Sha256Digest([0; 32])).0);
        }
        EntryNode::Dir => put(&mut hasher, &numbers(2, 0, 0)),
        EntryNode::Symlink { target } => {
            put(&mut hasher, &numbers(3, 0, 0));
            put(&mut hasher, target);
        }
        EntryNode::CharDevice { major, minor } => put(&mut hasher, &numbers(4, (*major).into(), (*minor).into())),
        EntryNode::BlockDevice { major, minor } => put(&mut hasher, &numbers(5, (*major).into(), (*minor).into())),
        EntryNode::Fifo => put(&mut hasher, &numbers(6, 0, 0)),
        EntryNode::Socket => put(&mut hasher, &numbers(7, 0, 0)),
    }
    put(&mut hasher, &numbers(*mode, (*uid).into(), (*gid).into()));
    for (name, value) in xattrs {
        put(&mut hasher, name);
        put(&mut hasher, value);
    }
    hasher.finish()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
