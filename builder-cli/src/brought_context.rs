//! Build contexts that have to be brought first: an archive on standard input, one from the web, a git repository (`features.md` C5.2–C5.4).
//!
//! Each becomes a directory of the store's own, and from then on is a local context without an ignore file, since that is the sender's business.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::content::Store;
use builder_core::graph::SourceOp;
use builder_core::registry::RegistryConfig;
use builder_core::request::LocalContext;
use builder_core::run::file::open_archive;
use builder_core::source::remote::RemoteSources;
use builder_frontend::compile::{DockerfileSource, GitReference, NamedContext};
use builder_snapshot::TreePath;
use builder_snapshot::layer::{ApplyLimits, extract};
use builder_snapshot::root::RootDir;
use builder_snapshot::snapshot::ActiveSnapshot;
use rustix::fs::{Mode, OFlags};

use crate::request::BuildPlan;

/// Longest Dockerfile taken from a context.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// Name of the one file that a web address brings.
const DOWNLOAD: &str = "context";

/// Brings the main context of `plan` if it is not on this machine yet. What was unpacked goes when the result is dropped.
pub(crate) async fn bring(plan: &mut BuildPlan, store: &Arc<Store>, registries: &RegistryConfig) -> Result<Option<ActiveSnapshot>> {
    if let Some(start) = plan.archive.take() {
        let archive = &mut start.as_slice().chain(std::io::stdin().lock());
        return use_archive(plan, archive, store).context("the context on standard input").map(Some);
    }
    let source = match &plan.options.context {
        NamedContext::Git { url } => git(url)?,
        NamedContext::Http { url } => SourceOp::Http { url: url.clone(), filename: DOWNLOAD.into(), checksum: None },
        NamedContext::Local { .. } | NamedContext::Image { .. } | NamedContext::OciLayout { .. } => return Ok(None),
    };
    let sources = RemoteSources::new(registries, store, plan.secrets.clone(), plan.ssh.clone());
    let stack = sources.fetch(&source).await.context("cannot bring the build context")?;
    let layer = stack.layers.last().context("the build context is empty")?;
    let directory = store.layer_fs(layer.id);
    if matches!(source, SourceOp::Git { .. }) {
        become_local(plan, directory, false)?;
        return Ok(None);
    }
    let download = directory.join(DOWNLOAD);
    let mut file = File::open(&download).with_context(|| format!("cannot read {}", download.display()))?;
    if is_archive(&mut file)? {
        return use_archive(plan, &mut file, store).context("the context from the web").map(Some);
    }
    // What is no archive is the Dockerfile itself, without a context (C5.3).
    let text = read_text(file, "the Dockerfile from the web")?;
    plan.options.dockerfile = DockerfileSource::Text { name: "Dockerfile".into(), text };
    become_local(plan, directory, true)?;
    Ok(None)
}

/// What is asked of a git repository.
fn git(url: &str) -> Result<SourceOp> {
    let parsed = GitReference::parse(url).with_context(|| format!("{url} is no address of a git repository"))?;
    let git = parsed.map_err(|reason| anyhow::anyhow!("invalid context {url}: {reason}"))?;
    Ok(SourceOp::Git {
        url: git.url,
        reference: git.reference,
        subdir: TreePath::clipped(&git.subdir)?,
        keep_git_dir: git.keep_git_dir.unwrap_or(false),
        submodules: git.submodules.unwrap_or(true),
        checksum: git.checksum,
    })
}

fn is_archive(file: &mut File) -> Result<bool> {
    use std::io::Seek as _;
    let mut start = Vec::new();
    file.take(512).read_to_end(&mut start).context("cannot read the context from the web")?;
    file.rewind().context("cannot read the context from the web")?;
    Ok(crate::request::is_archive(&start))
}

/// Unpacks an archive and makes it the main context.
fn use_archive(plan: &mut BuildPlan, archive: &mut dyn Read, store: &Store) -> Result<ActiveSnapshot> {
    let unpacked = unpack(archive, store.tmp_dir()?)?;
    become_local(plan, unpacked.upper().to_owned(), false)?;
    Ok(unpacked)
}

/// Makes `directory` the main context and takes the Dockerfile from it if it is to be there.
fn become_local(plan: &mut BuildPlan, directory: PathBuf, empty: bool) -> Result<()> {
    if let DockerfileSource::InContext { path } = &plan.options.dockerfile {
        plan.options.dockerfile = dockerfile(&directory, path)?;
    }
    plan.options.context = NamedContext::Local { name: "context".into() };
    plan.contexts.insert("context".into(), LocalContext { path: directory, ignore: None, empty });
    Ok(())
}

/// Unpacks an archive below `tmp`, which must exist.
fn unpack(archive: &mut dyn Read, tmp: &Path) -> Result<ActiveSnapshot> {
    let snapshot = ActiveSnapshot::create(tmp, &[]).context("cannot make a directory")?;
    let mut tar = open_archive(archive).context("cannot be read")?;
    let mut writer = snapshot.writer()?;
    extract(&mut tar, &mut writer, &TreePath::root(), Some((0, 0)), &ApplyLimits::default()).context("cannot be unpacked")?;
    writer.finish()?;
    Ok(snapshot)
}

fn read_text(file: File, name: &str) -> Result<String> {
    let mut text = String::new();
    file.take(MAX_DOCKERFILE_BYTES).read_to_string(&mut text).with_context(|| format!("failed to read dockerfile: {name}"))?;
    Ok(text)
}

/// The Dockerfile of a context that was brought. It is opened beneath the directory: a link in it can't point at the user's files.
fn dockerfile(directory: &Path, path: &str) -> Result<DockerfileSource> {
    let root = RootDir::open(directory)?;
    let lower = Path::new(path).file_name().filter(|name| *name == "Dockerfile").map(|_| Path::new(path).with_file_name("dockerfile"));
    for name in [PathBuf::from(path)].into_iter().chain(lower) {
        match root.open_in_root(&name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                let file = File::from(file);
                ensure!(file.metadata()?.is_file(), "failed to read dockerfile: {} is no file", name.display());
                let text = read_text(file, &name.display().to_string())?;
                return Ok(DockerfileSource::Text { name: name.display().to_string(), text });
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
        assert!(matches!(dockerfile(&inside, "Dockerfile").expect("lower case"), DockerfileSource::Text { text, .. } if text == "FROM scratch"));
        for bad in ["link", "missing", "../secret"] {
            assert!(dockerfile(&inside, bad).is_err(), "{bad}");
        }
    }
}
