//! Carrying out file actions: destinations, merge rules, owners, modes (`features.md` A9.1, A9.4–A9.10, A9.14, A10.1).
//!
//! # Invariants
//! - Links in the destination are followed inside the destination tree, once, for the path that the instruction names; never for what is
//!   found below it while copying.
//! - Nothing is replaced by something of another kind: a directory over a file and a file over a directory are errors.
//! - A file that is there already, with the same bytes and metadata, is not written again, so that it enters no layer.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use builder_snapshot::exec::resolve_owner;
use builder_snapshot::layer::extract;
use builder_snapshot::snapshot::{Device, FileContent, ListedFile, TreeWriter};
use builder_snapshot::toc::{Meta, Timestamp};
use builder_snapshot::tree::{Found, FoundKind, MergedTree};
use builder_snapshot::{Hasher, Sha256Digest, SnapshotError, TreePath};

use super::archive::{self, Compression};
use super::links::{Links, Previous};
use super::select::{Match, Selection, select};
use crate::content::Limits;
use crate::error::StepError;
use crate::graph::{Chmod, CopyAction, Dest, Owner};
use crate::source::local::LocalTree;
use crate::source::stack::StackTree;
use crate::source::tree::{Entry, EntryNode, SourceTree};

/// What is copied from.
pub(super) enum Source<'a> {
    /// A directory of the host.
    Local(&'a LocalTree),
    /// A stack: its table, the files of its layers, and where the layers are.
    Stack { table: StackTree, files: MergedTree, dirs: Vec<PathBuf> },
}

impl Source<'_> {
    pub(super) fn tree(&self) -> &dyn SourceTree {
        match self {
            Self::Local(tree) => *tree,
            Self::Stack { table, .. } => table,
        }
    }

    fn open(&self, entry: &Entry) -> Result<File, StepError> {
        match self {
            Self::Local(tree) => tree.open_file(&entry.path),
            Self::Stack { files, .. } => files.open_file(&entry.path).map_err(snapshot_error),
        }
    }
}

/// Carries out actions on one tree.
pub(super) struct Copier<'a> {
    pub(super) writer: &'a mut TreeWriter,
    /// What archives may cost.
    pub(super) limits: &'a Limits,
    pub(super) links: Links<'a>,
    /// What an earlier version of the operation made.
    pub(super) previous: Option<&'a Previous>,
    /// Whether the tree has users to look names up for.
    pub(super) has_base: bool,
    /// The time of what the step itself makes.
    pub(super) started: Timestamp,
}

/// What `--chown` and `--chmod` make of metadata.
struct Marks<'a> {
    owner: Option<(u32, u32)>,
    chmod: Option<&'a Chmod>,
    reset_owner: bool,
}

impl Marks<'_> {
    fn meta(&self, entry: &Entry) -> Meta {
        let mut meta = entry.meta.clone();
        if self.reset_owner {
            (meta.uid, meta.gid) = (0, 0);
        }
        if let Some((uid, gid)) = self.owner {
            (meta.uid, meta.gid) = (uid, gid);
        }
        if let Some(chmod) = self.chmod
            && !matches!(entry.node, EntryNode::Symlink { .. })
        {
            meta.mode = chmod.apply(meta.mode, entry.is_dir());
        }
        meta
    }

    /// Of directories that are made because a destination lies in them: an octal mode counts for them too, a symbolic one does not.
    fn parent(&self, started: Timestamp) -> Meta {
        let mode = match self.chmod {
            Some(Chmod::Octal(mode)) => *mode,
            _ => 0o755,
        };
        let (uid, gid) = self.owner.unwrap_or_default();
        Meta { mode, uid, gid, mtime: started, made_by_step: true, ..Meta::default() }
    }
}

impl Copier<'_> {
    /// `COPY` and `ADD`.
    pub(super) fn copy(&mut self, action: &CopyAction, source: &Source<'_>) -> Result<(), StepError> {
        let mut selection = select(source.tree(), action)?;
        selection.fill_digests()?;
        let marks = Marks { owner: self.owner(action.owner.as_ref())?, chmod: action.chmod.as_ref(), reset_owner: action.reset_owner };
        for found in selection.sources.iter().flatten() {
            if action.unpack && matches!(found.root.node, EntryNode::File { .. }) && self.unpack(&action.dest, found, source, &marks)? {
                continue;
            }
            self.copy_match(&action.dest, &selection, found, source, &marks)?;
        }
        Ok(())
    }

    /// `WORKDIR`: a directory with its parents; one that is there stays as it is.
    pub(super) fn make_dir(&mut self, path: &str, mode: u32, owner: Option<&Owner>) -> Result<(), StepError> {
        let (path, found) = self.resolve(&tree_path(path)?)?;
        match found.map(|found| found.kind) {
            Some(FoundKind::Dir) => Ok(()),
            Some(_) => Err(StepError::other(format!("cannot make the directory {}: a file is there", path.display()))),
            None => {
                let (uid, gid) = self.owner(owner)?.unwrap_or_default();
                let meta = Meta { mode, uid, gid, mtime: self.started, made_by_step: true, ..Meta::default() };
                self.writer.make_dirs(&path, &meta).map(drop).map_err(snapshot_error)
            }
        }
    }

    /// A heredoc: a file called `name`, copied to `dest`.
    pub(super) fn make_file(&mut self, dest: &Dest, name: &str, data: &[u8], chmod: Option<&Chmod>, owner: Option<&Owner>) -> Result<(), StepError> {
        let marks = Marks { owner: self.owner(owner)?, chmod, reset_owner: true };
        let (uid, gid) = marks.owner.unwrap_or_default();
        let mode = chmod.map_or(0o644, |chmod| chmod.apply(0o644, false));
        let meta = Meta { mode, uid, gid, mtime: self.started, made_by_step: true, ..Meta::default() };
        let (path, found) = self.destination(dest, &marks)?;
        let target = match found {
            Some(Found { kind: FoundKind::Dir, .. }) => path.join(&tree_path(name)?),
            _ => path,
        };
        self.refuse_directory(&target)?;
        self.writer.put_file(&target, FileContent::Bytes(data), &meta).map(drop).map_err(snapshot_error)
    }

    fn owner(&self, owner: Option<&Owner>) -> Result<Option<(u32, u32)>, StepError> {
        let Some(owner) = owner else { return Ok(None) };
        let tree = self.has_base.then(|| self.writer.tree());
        let found = resolve_owner(&owner.text, tree, self.limits.user_database_bytes);
        found.map(Some).map_err(|error| StepError::advised(&error.to_string()))
    }

    fn resolve(&self, path: &TreePath) -> Result<(TreePath, Option<Found>), StepError> {
        let resolution = self.writer.tree().resolve(path).map_err(snapshot_error)?;
        Ok((resolution.path, resolution.found))
    }

    /// Makes what must be there before `dest` is written: the directory itself if it was written as one, else its parents.
    /// Returns where it really is and what is there.
    fn destination(&mut self, dest: &Dest, marks: &Marks<'_>) -> Result<(TreePath, Option<Found>), StepError> {
        let path = tree_path(&dest.path)?;
        let needed = if dest.is_dir { Some(path.clone()) } else { path.parent() };
        if let Some(needed) = needed {
            self.make_parents(&needed, marks)?;
        }
        self.resolve(&path)
    }

    /// Makes the directory `path`, links followed, with its parents.
    fn make_parents(&mut self, path: &TreePath, marks: &Marks<'_>) -> Result<TreePath, StepError> {
        let (path, found) = self.resolve(path)?;
        match found.map(|found| found.kind) {
            Some(FoundKind::Dir) => {}
            Some(_) => return Err(no_directory(path.display())),
            None => drop(self.writer.make_dirs(&path, &marks.parent(self.started)).map_err(snapshot_error)?),
        }
        Ok(path)
    }

    fn copy_match(&mut self, dest: &Dest, selection: &Selection<'_>, found: &Match, source: &Source<'_>, marks: &Marks<'_>) -> Result<(), StepError> {
        let (path, there) = self.destination(dest, marks)?;
        if !found.root.is_dir() {
            let target = match there {
                Some(Found { kind: FoundKind::Dir, .. }) if !found.base.is_empty() => path.child(&found.base),
                _ => path,
            };
            return self.put(&target, &found.root, source, marks, true, &mut HashMap::new());
        }
        // Directories that were made here and are still being filled, outermost first: nothing can be in their way.
        let mut fresh: Vec<TreePath> = Vec::new();
        let top = match there.map(|there| there.kind) {
            Some(FoundKind::Dir) => path,
            Some(_) => return Err(no_directory(path.display())),
            None => {
                let path = self.make_parents(&path, marks)?;
                fresh.push(path.clone());
                path
            }
        };
        let mut links = HashMap::new();
        selection.each_below(found, &mut |item| {
            let target = top.join(&item.rel);
            while fresh.last().is_some_and(|dir| !target.is_below(dir)) {
                fresh.pop();
            }
            let may_exist = target.parent().as_ref() != fresh.last();
            if !item.entry.is_dir() {
                return self.put(&target, &item.entry, source, marks, may_exist, &mut links);
            }
            if self.put_dir(&target, &marks.meta(&item.entry), may_exist)? {
                fresh.push(target);
            }
            Ok(())
        })?;
        // The directory itself keeps its mode and owner, or has those of a made one; only its time is the source's.
        if let Some(there) = self.writer.tree().lookup(&top).map_err(snapshot_error)? {
            let meta = Meta { mtime: found.root.meta.mtime, made_by_step: found.root.meta.made_by_step, ..there.meta.clone() };
            if !same_meta(&there.meta, &meta) {
                self.writer.set_meta(&top, &meta).map_err(snapshot_error)?;
            }
        }
        Ok(())
    }

    /// Makes a directory below the destination, or gives the one that is there the source's metadata. Returns whether it was made.
    fn put_dir(&mut self, target: &TreePath, meta: &Meta, may_exist: bool) -> Result<bool, StepError> {
        let there = if may_exist { self.writer.tree().lookup(target).map_err(snapshot_error)? } else { None };
        match there {
            Some(there) if there.kind == FoundKind::Dir => {
                if !same_meta(&there.meta, meta) {
                    self.writer.set_meta(target, meta).map_err(snapshot_error)?;
                }
                Ok(false)
            }
            Some(_) => Err(no_directory(target.display())),
            None => {
                self.writer.make_dir(target, meta).map_err(snapshot_error)?;
                Ok(true)
            }
        }
    }

    fn refuse_directory(&self, target: &TreePath) -> Result<Option<Found>, StepError> {
        match self.writer.tree().lookup(target).map_err(snapshot_error)? {
            Some(Found { kind: FoundKind::Dir, .. }) => Err(StepError::Other {
                message: format!("cannot replace the directory {} with a file", target.display()),
                help: Some("remove the directory in an earlier instruction, or copy to another path".to_owned()),
            }),
            there => Ok(there),
        }
    }

    /// Puts what is no directory at exactly `target`.
    fn put(
        &mut self,
        target: &TreePath,
        entry: &Entry,
        source: &Source<'_>,
        marks: &Marks<'_>,
        may_exist: bool,
        links: &mut HashMap<(u64, u64), TreePath>,
    ) -> Result<(), StepError> {
        let meta = marks.meta(entry);
        let there = if may_exist { self.refuse_directory(target)? } else { None };
        let device = |block, major, minor| Device { block, major, minor };
        match &entry.node {
            EntryNode::File { group, .. } => {
                if let Some(first) = group.and_then(|group| links.get(&group)) {
                    return self.writer.hard_link(first, target).map_err(snapshot_error);
                }
                links.extend(group.map(|group| (group, target.clone())));
                self.put_file(target, entry, source, &meta, there.as_ref())
            }
            EntryNode::Dir => self.put_dir(target, &meta, true).map(drop),
            EntryNode::Symlink { target: link } => self.writer.put_symlink(target, link, &meta).map_err(snapshot_error),
            EntryNode::CharDevice { major, minor } => self.writer.put_device(target, device(false, *major, *minor), &meta).map_err(snapshot_error),
            EntryNode::BlockDevice { major, minor } => self.writer.put_device(target, device(true, *major, *minor), &meta).map_err(snapshot_error),
            EntryNode::Fifo => self.writer.put_fifo(target, &meta).map_err(snapshot_error),
            EntryNode::Socket => self.writer.put_socket(target, &meta).map_err(snapshot_error),
        }
    }

    fn put_file(&mut self, target: &TreePath, entry: &Entry, source: &Source<'_>, meta: &Meta, there: Option<&Found>) -> Result<(), StepError> {
        let EntryNode::File { size, digest, .. } = entry.node else { return Ok(()) };
        if let Some(there) = there
            && self.is_same_file(target, there, size, digest, meta)?
        {
            return Ok(());
        }
        if let Some(digest) = digest
            && self.link(target, entry, ListedFile { path: &entry.path, size, digest }, source, meta)?
        {
            return Ok(());
        }
        let file = source.open(entry)?;
        match self.writer.put_file(target, FileContent::CopyOf { file: &file, expected: digest }, meta) {
            Ok(_) => Ok(()),
            Err(SnapshotError::FileChanged { .. }) => Err(changed(entry, source)),
            Err(error) => Err(snapshot_error(error)),
        }
    }

    /// Makes `target` another name of the file that a layer holds already, if one does and it may be.
    fn link(&mut self, target: &TreePath, entry: &Entry, listed: ListedFile<'_>, source: &Source<'_>, meta: &Meta) -> Result<bool, StepError> {
        // The second name of a group would be one more link, with no batch open: groups are rare, they are copied.
        if matches!(entry.node, EntryNode::File { group: Some(_), .. }) {
            return Ok(false);
        }
        match source {
            Source::Stack { dirs, .. } => match entry.layer.and_then(|layer| dirs.get(layer)) {
                Some(fs) if *meta == entry.meta => self.links.link(self.writer, target, fs, listed, meta),
                _ => Ok(false),
            },
            Source::Local(_) => match self.previous {
                Some(previous) if previous.holds(target, listed.size, listed.digest, meta) => {
                    self.links.link(self.writer, target, &previous.fs, ListedFile { path: target, ..listed }, meta)
                }
                _ => Ok(false),
            },
        }
    }

    /// Whether the file at `target` is what would be put there, so that nothing is to be done.
    fn is_same_file(&self, target: &TreePath, there: &Found, size: u64, digest: Option<Sha256Digest>, meta: &Meta) -> Result<bool, StepError> {
        let FoundKind::File { size: size_there, .. } = there.kind else { return Ok(false) };
        if size_there != size || !same_meta(&there.meta, meta) {
            return Ok(false);
        }
        let file = self.writer.tree().open_file(target).map_err(snapshot_error)?;
        let (found, _) = Hasher::of_reader(file).map_err(|error| StepError::other(format!("cannot read {}: {error}", target.display())))?;
        Ok(Some(found) == digest)
    }

    /// Unpacks the file if it is an archive; says whether it was.
    fn unpack(&mut self, dest: &Dest, found: &Match, source: &Source<'_>, marks: &Marks<'_>) -> Result<bool, StepError> {
        let name = found.root.path.display();
        let unreadable = |error: io::Error| StepError::other(format!("cannot read {name}: {error}"));
        let mut file = source.open(&found.root)?;
        let Some(compression) = archive::sniff(&mut file, self.limits).map_err(unreadable)? else { return Ok(false) };
        let dir = self.make_parents(&tree_path(&dest.path)?, &Marks { chmod: None, ..*marks })?;
        let mut bytes = Hashing { file: &file, hasher: Hasher::new() };
        {
            let damaged = |error: &dyn std::fmt::Display, is_stream: bool| StepError::Other {
                message: format!("cannot unpack the archive {name}: {error}{}", if is_stream { words_of_others(compression) } else { "" }),
                help: Some("if it is to be copied as it is, use COPY or ADD --unpack=false".to_owned()),
            };
            let limits = self.limits;
            let has_failed = Cell::new(false);
            let packed = |packed| Ok(Decompressed { stream: archive::decompress(packed, compression, limits)?, has_failed: &has_failed });
            let mut stream = limits.watch(&mut bytes, packed).map_err(|error| damaged(&error, true))?;
            extract(&mut stream, self.writer, &dir, marks.owner, &limits.tar).map_err(|error| damaged(&error, has_failed.get()))?;
        }
        // The digest is of the whole file, whatever of it the archive needs.
        io::copy(&mut bytes, &mut io::sink()).map_err(unreadable)?;
        if let EntryNode::File { digest: Some(digest), .. } = &found.root.node
            && bytes.hasher.finish() != *digest
        {
            return Err(changed(&found.root, source));
        }
        Ok(true)
    }
}

fn changed(entry: &Entry, source: &Source<'_>) -> StepError {
    StepError::Other {
        message: format!("{} changed in {} while the build was reading it", entry.path.display(), source.tree().describe()),
        help: Some("run the build again when nothing writes to the context, or add the file to the ignore file".to_owned()),
    }
}

/// How docker build says that a compressed stream is damaged, for those who look for its words in logs: it runs `unpigz` for gzip, and passes on
/// what that says. Other streams it decompresses itself.
fn words_of_others(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => " (docker build reports this as \"exit status 1: unpigz: skipping: <stdin>: corrupted\")",
        Compression::None | Compression::Bzip2 | Compression::Xz | Compression::Zstd => "",
    }
}

/// A decompressed stream that tells whether it was the stream that failed, or what reads it.
struct Decompressed<'a> {
    stream: Box<dyn Read + 'a>,
    has_failed: &'a Cell<bool>,
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).inspect_err(|error| {
            let is_damage = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
            self.has_failed.set(is_damage);
        })
    }
}

/// A file that is hashed as it is read.
struct Hashing<'a> {
    file: &'a File,
    hasher: Hasher,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.file.read(buffer)?;
        self.hasher.update(&buffer[..size]);
        Ok(size)
    }
}

fn same_meta(a: &Meta, b: &Meta) -> bool {
    (a.mode, a.uid, a.gid, a.mtime, &a.xattrs) == (b.mode, b.uid, b.gid, b.mtime, &b.xattrs)
}

fn tree_path(path: &str) -> Result<TreePath, StepError> {
    TreePath::clipped(path).map_err(|error| StepError::other(error.to_string()))
}

/// Where a directory must be, something else is.
fn no_directory(path: impl std::fmt::Display) -> StepError {
    StepError::Other {
        message: format!("cannot copy to non-directory: {path}"),
        help: Some(
            "something that is no directory has this path in the image: remove it in an earlier instruction, or copy to another path".to_owned(),
        ),
    }
}

fn snapshot_error(error: SnapshotError) -> StepError {
    match error {
        SnapshotError::NotADirectory { path } => no_directory(path),
        error => StepError::other(error.to_string()),
    }
}
