//! Mount points that the image lacks, kept out of the layer.
//!
//! A mount needs something to stand on. What is missing is made in a directory of its own that becomes the topmost lower layer of the overlay, so that
//! it is there for the step and never in the step's own changes. Where an ancestor of a mount point exists, the stub's copy of it has the same mode,
//! owner, times and attributes: in an overlay the topmost directory's metadata is what is seen.
//!
//! Symbolic links of the image are resolved inside it: a mount on `/var/run/x` with `/var/run -> /run` needs its stub at `/run/x`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Mode;

use super::error::StubError;
use crate::path::TreePath;
use crate::root::{set_meta_of, set_mtime_of};
use crate::sys;
use crate::toc::Meta;
use crate::tree::{FoundKind, MergedTree};

/// What is mounted on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StubKind {
    /// A directory.
    Dir,
    /// A file.
    File,
}

/// The mount points that every sandbox needs.
#[must_use]
pub fn standard_targets() -> Vec<(TreePath, StubKind)> {
    [("proc", StubKind::Dir), ("sys", StubKind::Dir), ("dev", StubKind::Dir), ("etc/hosts", StubKind::File), ("etc/resolv.conf", StubKind::File)]
        .into_iter()
        .map(|(path, kind)| (TreePath::new(path).expect("a clean constant"), kind))
        .collect()
}

/// Directories of mount points, kept for as long as this value lives: steps on the same image mostly lack the same ones, and making
/// and removing half a dozen directories costs more than the rest of a short step.
#[derive(Debug)]
pub struct StubDirs {
    dir: PathBuf,
    made: Mutex<Vec<(BTreeMap<TreePath, Stub>, PathBuf)>>,
}

impl StubDirs {
    /// Directories of mount points below `dir`, which exists and belongs to this process. They are removed with this value.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, made: Mutex::default() }
    }

    /// As [`prepare`], but a directory that was made before is used again.
    ///
    /// # Errors
    /// As [`prepare`].
    pub fn prepare(&self, tree: &MergedTree, targets: &[(TreePath, StubKind)]) -> Result<Option<PathBuf>, StubError> {
        self.prepare_with(tree, targets, &[])
    }

    /// As [`StubDirs::prepare`], with files that stand in the place of the image's, or of nothing: at paths in which no symbolic link is left.
    ///
    /// # Errors
    /// As [`prepare`].
    pub fn prepare_with(
        &self,
        tree: &MergedTree,
        targets: &[(TreePath, StubKind)],
        files: &[(TreePath, Arc<[u8]>)],
    ) -> Result<Option<PathBuf>, StubError> {
        let Some(stubs) = missing(tree, targets, files)? else { return Ok(None) };
        // A panic elsewhere leaves complete entries only.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, dir)) = made.iter().find(|(known, _)| *known == stubs) {
            return Ok(Some(dir.clone()));
        }
        let dir = self.dir.join(format!("stubs-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        write(&stubs, &dir)?;
        made.push((stubs, dir.clone()));
        Ok(Some(dir))
    }
}

impl Drop for StubDirs {
    fn drop(&mut self) {
        for (_, dir) in self.made.get_mut().unwrap_or_else(PoisonError::into_inner) {
            // What cannot be removed here is swept with the process's own directory.
            drop(fs::remove_dir_all(dir));
        }
    }
}

/// Numbers the directories of one process, which may run several builds at once.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Makes, in the new directory `dir`, the mount points among `targets` that `tree` lacks. The result is given to
/// [`crate::snapshot::ActiveSnapshot::mount`] as `top_lower`; none if nothing is missing.
///
/// Targets below other targets are left to the sandbox: what is mounted above them decides whether they are there.
///
/// # Errors
/// Something else is where a mount point has to be, or `dir` cannot be written.
pub fn prepare(tree: &MergedTree, targets: &[(TreePath, StubKind)], dir: &Path) -> Result<Option<PathBuf>, StubError> {
    let Some(stubs) = missing(tree, targets, &[])? else { return Ok(None) };
    write(&stubs, dir)?;
    Ok(Some(dir.to_owned()))
}

/// The mount points that `tree` lacks, and `files`, with their ancestors; none if there are none.
fn missing(
    tree: &MergedTree,
    targets: &[(TreePath, StubKind)],
    files: &[(TreePath, Arc<[u8]>)],
) -> Result<Option<BTreeMap<TreePath, Stub>>, StubError> {
    let mut stubs: BTreeMap<TreePath, Stub> = BTreeMap::new();
    for (target, kind) in targets {
        let covered = targets.iter().any(|(other, kind)| *kind == StubKind::Dir && target.below(other).is_some_and(|below| !below.is_root()));
        if !covered {
            plan(tree, target, *kind, &mut stubs)?;
        }
    }
    for (path, content) in files {
        let meta = tree.lookup(path)?.map(|found| found.meta);
        plan_ancestors(tree, path, path, &mut stubs)?;
        stubs.insert(path.clone(), Stub::File { meta, content: Arc::clone(content) });
    }
    // The root's own metadata is that of the upper directory, whatever stands here.
    stubs.remove(&TreePath::root());
    Ok(stubs.values().any(|stub| !matches!(stub, Stub::Copy(_))).then_some(stubs))
}

fn write(stubs: &BTreeMap<TreePath, Stub>, dir: &Path) -> Result<(), StubError> {
    make(&TreePath::root(), || fs::create_dir(dir).and_then(|()| Ok(rustix::fs::chmod(dir, Mode::from_raw_mode(0o755))?)))?;
    for (path, stub) in stubs {
        let place = dir.join(path.as_path());
        match stub {
            Stub::Copy(_) | Stub::NewDir => make(path, || fs::create_dir(&place))?,
            Stub::NewFile => make(path, || fs::File::create_new(&place).map(drop))?,
            Stub::File { content, .. } => make(path, || fs::write(&place, content))?,
        }
    }
    // Children before parents, whose times change when something is made in them.
    for (path, stub) in stubs.iter().rev() {
        let place = dir.join(path.as_path());
        make(path, || match stub {
            Stub::Copy(meta) => copy_meta(&place, meta),
            Stub::NewDir => Ok(rustix::fs::chmod(&place, Mode::from_raw_mode(0o755))?),
            Stub::NewFile | Stub::File { meta: None, .. } => Ok(rustix::fs::chmod(&place, Mode::from_raw_mode(0o644))?),
            Stub::File { meta: Some(meta), .. } => {
                let file = fs::File::open(&place)?;
                set_meta_of(&file, meta)?;
                set_mtime_of(&file, meta.mtime)
            }
        })?;
    }
    Ok(())
}

/// One entry of the directory of mount points.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stub {
    /// A directory that the image has, with its metadata.
    Copy(Meta),
    /// One that it lacks.
    NewDir,
    /// A file that it lacks.
    NewFile,
    /// A file with content, in the place of one that the image has, with its metadata.
    File { meta: Option<Meta>, content: Arc<[u8]> },
}

fn plan(tree: &MergedTree, target: &TreePath, kind: StubKind, stubs: &mut BTreeMap<TreePath, Stub>) -> Result<(), StubError> {
    let resolution = tree.resolve(target)?;
    let real = resolution.path;
    if let Some(found) = resolution.found {
        return match (kind, &found.kind) {
            (StubKind::Dir, FoundKind::Dir) => Ok(()),
            // Anything but a directory can be covered by a file.
            (StubKind::File, kind) if *kind != FoundKind::Dir => Ok(()),
            (kind, there) => Err(in_the_way(target, &real, there, kind)),
        };
    }
    plan_ancestors(tree, target, &real, stubs)?;
    stubs.entry(real).or_insert(if kind == StubKind::Dir { Stub::NewDir } else { Stub::NewFile });
    Ok(())
}

/// The directories above `real`, for people at `target`.
fn plan_ancestors(tree: &MergedTree, target: &TreePath, real: &TreePath, stubs: &mut BTreeMap<TreePath, Stub>) -> Result<(), StubError> {
    let mut ancestor = real.parent();
    while let Some(path) = ancestor {
        ancestor = path.parent();
        if stubs.contains_key(&path) {
            continue;
        }
        let stub = match tree.lookup(&path)? {
            Some(found) if found.kind == FoundKind::Dir => Stub::Copy(found.meta),
            Some(found) => return Err(in_the_way(target, &path, &found.kind, StubKind::Dir)),
            // A tree without layers has no root entry; it shows as any new directory.
            None => Stub::NewDir,
        };
        stubs.insert(path, stub);
    }
    Ok(())
}

fn in_the_way(target: &TreePath, path: &TreePath, found: &FoundKind, wanted: StubKind) -> StubError {
    StubError::InTheWay {
        target: target.display(),
        path: path.display(),
        found: match found {
            FoundKind::File { .. } => "a file",
            FoundKind::Dir => "a directory",
            FoundKind::Symlink { .. } => "a symbolic link",
            FoundKind::CharDevice { .. } | FoundKind::BlockDevice { .. } => "a device",
            FoundKind::Fifo => "a named pipe",
            FoundKind::Socket => "a socket",
        },
        wanted: match wanted {
            StubKind::Dir => "a directory",
            StubKind::File => "a file",
        },
    }
}

fn make(path: &TreePath, action: impl FnOnce() -> io::Result<()>) -> Result<(), StubError> {
    action().map_err(|source| StubError::Io { path: path.display(), source })
}

fn copy_meta(place: &Path, meta: &Meta) -> io::Result<()> {
    let dir = sys::fs::open_dir(place)?;
    set_meta_of(&dir, meta)?;
    set_mtime_of(&dir, meta.mtime)
}
