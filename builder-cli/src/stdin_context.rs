//! A build context that comes as an archive on standard input (`features.md` C5.2).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::run::file::open_archive;
use builder_frontend::compile::DockerfileSource;
use builder_snapshot::TreePath;
use builder_snapshot::layer::{ApplyLimits, extract};
use builder_snapshot::root::RootDir;
use builder_snapshot::snapshot::ActiveSnapshot;
use rustix::fs::{Mode, OFlags};

/// Longest Dockerfile taken from an archive.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// Unpacks an archive below `tmp`, which must exist. What was unpacked goes when the result is dropped.
pub(crate) fn unpack(archive: &mut dyn Read, tmp: &Path) -> Result<ActiveSnapshot> {
    let snapshot = ActiveSnapshot::create(tmp, &[]).context("cannot make a directory for the context on standard input")?;
    let mut tar = open_archive(archive).context("cannot read the context on standard input")?;
    let mut writer = snapshot.writer()?;
    extract(&mut tar, &mut writer, &TreePath::root(), Some((0, 0)), &ApplyLimits::default())
        .context("cannot unpack the context on standard input")?;
    writer.finish()?;
    Ok(snapshot)
}

/// The Dockerfile of an unpacked archive. It is opened beneath the directory: a link in the archive can't point at the user's files.
pub(crate) fn dockerfile(directory: &Path, path: &str) -> Result<DockerfileSource> {
    let root = RootDir::open(directory)?;
    let lower = Path::new(path).file_name().filter(|name| *name == "Dockerfile").map(|_| Path::new(path).with_file_name("dockerfile"));
    for name in [PathBuf::from(path)].into_iter().chain(lower) {
        match root.open_in_root(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                let mut text = String::new();
                let file = File::from(file);
                ensure!(file.metadata()?.is_file(), "failed to read dockerfile: {} on standard input is no file", name.display());
                file.take(MAX_DOCKERFILE_BYTES).read_to_string(&mut text).with_context(|| format!("failed to read dockerfile {}", name.display()))?;
                return Ok(DockerfileSource::Text { name: name.display().to_string(), text });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read dockerfile {} on standard input", name.display())),
        }
    }
    bail!("failed to read dockerfile: the archive on standard input holds no {path}; name the one it holds with -f")
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
        assert!(matches!(dockerfile(&inside, "Dockerfile").expect("lower case"), DockerfileSource::Text { text, .. } if text == "FROM scratch"));
        for bad in ["link", "missing", "../secret"] {
            assert!(dockerfile(&inside, bad).is_err(), "{bad}");
        }
    }
}
