//! Files that a build definition is made of: the Dockerfile where the engine brings it, and what it includes.
//!
//! *Invariant: what is read lies in the directory, whatever links in it say (the kernel resolves paths as for a process whose root it is); nothing
//! that would make reading wait (pipes, devices) is read; what is not there is answered with what stands beside it.*

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use builder_snapshot::TreePath;
use builder_snapshot::root::RootDir;
use builder_snapshot::tree::MergedTree;
use rustix::fs::{Dir, FileType, Mode, OFlags};

use crate::content::Limits;
use crate::frontend::Answer;
use crate::request::LocalContext;

/// Most names that an answer lists.
const MAX_BESIDE: usize = 1_000;

/// The file `path` of a local directory.
pub(crate) fn read_local(context: &LocalContext, path: &str, limits: &Limits) -> Answer {
    if context.empty {
        return Answer::Absent { beside: Vec::new() };
    }
    let read = RootDir::open(&context.path).and_then(|root| match root.open_in_root(Path::new(path), OPEN, Mode::empty()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => absent(&root, path),
        opened => whole(File::from(opened?), limits).map(Answer::File),
    });
    read.unwrap_or_else(|error| Answer::Failed(format!("cannot read {path:?}: {error}")))
}

/// The file `path` of a tree that was fetched.
pub(crate) fn read_tree(tree: &MergedTree, path: &TreePath, limits: &Limits) -> Result<Answer, String> {
    let found = tree.resolve(path).map_err(|error| error.to_string())?;
    if found.found.is_some() {
        let file = tree.open_file(&found.path).map_err(|error| error.to_string())?;
        return whole(file, limits).map(Answer::File).map_err(|error| error.to_string());
    }
    let directory = path.parent().unwrap_or_else(TreePath::root);
    // The directory may be missing too, and then nothing stands beside.
    let entries = tree.resolve(&directory).and_then(|found| tree.read_dir(&found.path)).unwrap_or_default();
    Ok(Answer::Absent { beside: listed(entries.into_iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned())) })
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn whole(file: File, limits: &Limits) -> io::Result<Arc<[u8]>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    limits.read_definition(file).map(Arc::from)
}

/// What to say of a path that leads to nothing inside the directory.
fn absent(root: &RootDir, path: &str) -> io::Result<Answer> {
    let exact = TreePath::clipped(path).map_err(io::Error::other)?;
    let mut at = TreePath::root();
    for name in exact.components() {
        at = at.child(name);
        // A link that leads out is there for whoever looks from outside: say what is wrong with it.
        let is_link = matches!(root.stat(&at), Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if is_link && root.open_in_root(at.as_path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_err() {
            return Ok(Answer::Failed(format!("{} is a symbolic link to nothing inside this directory", at.as_path().display())));
        }
    }
    let directory = exact.parent().unwrap_or_else(TreePath::root);
    let Ok(directory) = root.open_in_root(directory.as_path(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(Answer::Absent { beside: Vec::new() });
    };
    let names = Dir::read_from(&directory)?.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(Answer::Absent { beside: listed(names.filter(|name| !matches!(name.as_str(), "." | ".."))) })
}

fn listed(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.take(MAX_BESIDE).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn answers(directory: &Path, path: &str) -> String {
        match read_local(&LocalContext::new(directory), path, &Limits::default()) {
            Answer::File(bytes) => format!("file {}", String::from_utf8_lossy(&bytes)),
            Answer::Absent { beside } => format!("absent {}", beside.join(" ")),
            Answer::Failed(reason) => reason,
            Answer::Image(_) | Answer::Selection(_) | Answer::Time(_) => "something else".into(),
        }
    }

    #[test]
    fn a_definition_stays_in_its_directory() {
        let dir = tempfile::tempdir().expect("directory");
        let root: PathBuf = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).expect("directory");
        std::fs::write(dir.path().join("secret"), "secret").expect("file");
        std::fs::write(root.join("a"), "A").expect("file");
        std::fs::write(root.join("sub/b"), "B").expect("file");
        for (link, target) in [("out", "../secret"), ("absolute", "/a"), ("up", ".."), ("sub/back", "../a")] {
            symlink(target, root.join(link)).expect("link");
        }
        symlink(dir.path().join("secret"), root.join("far")).expect("link");
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("pipe");
        for (path, wanted) in [
            ("a", "file A"),
            ("sub/b", "file B"),
            ("sub/back", "file A"),
            ("absolute", "file A"),
            ("../a", "file A"),
            ("out", "out is a symbolic link to nothing inside this directory"),
            ("far", "far is a symbolic link to nothing inside this directory"),
            ("up/secret", "absent a absolute far out pipe sub up"),
            ("sub/c", "absent b back"),
            ("a/b", "absent "),
            ("none/x", "absent "),
            ("pipe", "cannot read \"pipe\": it is no regular file"),
            ("sub", "cannot read \"sub\": it is no regular file"),
        ] {
            assert_eq!(answers(&root, path), wanted, "{path}");
        }
        assert!(matches!(read_local(&LocalContext { empty: true, ..LocalContext::new(&root) }, "a", &Limits::default()), Answer::Absent { .. }));
    }
}
