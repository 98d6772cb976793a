//! A build context that comes as an archive on standard input (`features.md` C5.2).
//!
//! It becomes a directory of the store's own, and from then on is a local context without an ignore file, since that is the sender's business.
//! Contexts from the web and from git are the engine's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::content::{Limits, Store};
use builder_core::request::LocalContext;
use builder_core::run::file::open_archive;
use builder_frontend::compile::{DockerfileSource, IncludeRoot};
use builder_snapshot::TreePath;
use builder_snapshot::layer::extract;
use builder_snapshot::root::RootDir;
use builder_snapshot::snapshot::ActiveSnapshot;
use rustix::fs::{Mode, OFlags};

use crate::request::BuildPlan;

/// Unpacks the archive on standard input, if the main context of `plan` is one. What was unpacked goes when the result is dropped.
pub(crate) fn bring(plan: &mut BuildPlan, store: &Store) -> Result<Option<ActiveSnapshot>> {
    let Some(start) = plan.archive.take() else { return Ok(None) };
    let archive = &mut start.as_slice().chain(std::io::stdin().lock());
    let unpacked = unpack(archive, store.tmp_dir()?, store.limits()).context("the context on standard input")?;
    let directory = unpacked.upper();
    if let DockerfileSource::InContext { path } = &plan.options.dockerfile {
        let (dockerfile, found) = dockerfile(directory, path, store.limits())?;
        plan.options.dockerfile = dockerfile;
        plan.options.includes = IncludeRoot::Context { dockerfile: found };
    }
    plan.contexts.insert("context".into(), LocalContext::new(directory));
    Ok(Some(unpacked))
}

/// Unpacks an archive below `tmp`, which must exist.
fn unpack(archive: &mut dyn Read, tmp: &Path, limits: &Limits) -> Result<ActiveSnapshot> {
    let snapshot = ActiveSnapshot::create(tmp, &[]).context("cannot make a directory")?;
    let mut tar = open_archive(archive, limits).context("cannot be read")?;
    let mut writer = snapshot.writer()?;
    extract(&mut tar, &mut writer, &TreePath::root(), Some((0, 0)), &limits.tar).context("cannot be unpacked")?;
    writer.finish()?;
    Ok(snapshot)
}

fn read_text(file: File, name: &str, limits: &Limits) -> Result<String> {
    let read = limits.read_definition(file).map_err(anyhow::Error::from).and_then(|bytes| Ok(String::from_utf8(bytes)?));
    read.with_context(|| format!("failed to read dockerfile: {name}"))
}

/// The Dockerfile of a context that was brought, and its path. It is opened beneath the directory: a link in it can't point at the user's files.
fn dockerfile(directory: &Path, path: &str, limits: &Limits) -> Result<(DockerfileSource, String)> {
    let root = RootDir::open(directory)?;
    let lower = Path::new(path).file_name().filter(|name| *name == "Dockerfile").map(|_| Path::new(path).with_file_name("dockerfile"));
    for name in [PathBuf::from(path)].into_iter().chain(lower) {
        match root.open_in_root(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                let file = File::from(file);
                ensure!(file.metadata()?.is_file(), "failed to read dockerfile: {} is no file", name.display());
                let name = name.display().to_string();
                let text = read_text(file, &name, limits)?;
                return Ok((DockerfileSource::Text { name: name.clone(), text }, name));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read dockerfile {}", name.display())),
        }
    }
    bail!("failed to read dockerfile: the context holds no {path}; name the one it holds with -f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_2_the_dockerfile_stays_inside_the_archive() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).expect("directory");
        std::fs::write(dir.path().join("secret"), "secret").expect("file");
        std::fs::write(inside.join("dockerfile"), "FROM scratch").expect("file");
        std::os::unix::fs::symlink("../secret", inside.join("link")).expect("link");
        assert!(
            matches!(dockerfile(&inside, "Dockerfile", &Limits::default()).expect("lower case").0, DockerfileSource::Text { text, .. } if text == "FROM scratch")
        );
        for bad in ["link", "missing", "../secret"] {
            assert!(dockerfile(&inside, bad, &Limits::default()).is_err(), "{bad}");
        }
    }
}
