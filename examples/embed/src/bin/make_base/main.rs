//! Makes a base image from this machine's own shell, a few small programs and their libraries: `make_base LAYOUT STORE`.
//!
//! With it the quickstart builds on a machine that reaches no registry. It is also an example of the library at work: files are gathered into a
//! directory, and a Dockerfile of four lines makes an OCI layout of them.

#![expect(clippy::print_stderr, reason = "a program for people")]

mod elf;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use builder_core::builder::{Builder, BuilderConfig, CancellationToken};
use builder_core::event::NoEvents;
use builder_core::oci::Platform;
use builder_core::request::{BuildRequest, LocalContext, Output, OutputDest, OutputKind};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, FrontendOptions};
use builder_snapshot::enter_user_namespace;
use builder_snapshot::user_namespace::Options;

/// What the quickstart's Dockerfile uses.
const PROGRAMS: [&str; 16] =
    ["sh", "cat", "chmod", "cp", "cut", "date", "head", "ls", "mkdir", "mv", "seq", "sha256sum", "sleep", "sort", "tr", "wc"];

/// Where programs are.
const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin"];

const DOCKERFILE: &str = "\
FROM scratch
COPY . /
ENV PATH=/bin
CMD [\"/bin/sh\"]
";

fn main() -> Result<()> {
    // An ordinary user becomes root of a namespace of its own. That must come before the runtime starts threads; root needs none of it.
    let _entered = enter_user_namespace(&Options { search_path: std::env::var_os("PATH"), user_name: None })?;
    tokio::runtime::Runtime::new()?.block_on(make_base())
}

async fn make_base() -> Result<()> {
    let [_, layout, store] = &std::env::args().collect::<Vec<_>>()[..] else { bail!("usage: make_base LAYOUT STORE") };
    let root = tempfile::tempdir()?;
    gather(root.path())?;

    let source = DockerfileSource::Text { name: "Dockerfile".into(), text: DOCKERFILE.into() };
    let frontend = DockerfileFrontend::new(FrontendOptions::new(source, Platform::host()));
    let mut request = BuildRequest::new(Arc::new(frontend));
    request.contexts.insert("context".into(), LocalContext::new(root.path()));
    request.outputs.push(Output::new(OutputKind::Oci { tar: false }, OutputDest::Path(std::path::absolute(layout)?)));
    let builder = Builder::new(BuilderConfig::new(store))?;
    let report = builder.build(request, Arc::new(NoEvents), CancellationToken::new()).await?;
    eprintln!("{layout}: {}", report.digest.context("a layout has a digest")?);
    Ok(())
}

/// Fills `root` with the programs, what they need, and the few other files that programs expect.
fn gather(root: &Path) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = find(PROGRAM_DIRS.iter().map(PathBuf::from), name).with_context(|| format!("this machine has no {name}"))?;
        put(&program, &root.join("bin").join(name))?;
        need(&program, &mut libraries)?;
    }
    for library in &libraries {
        put(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
    }
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n")?;
    std::fs::create_dir_all(root.join("tmp"))?;
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// Adds what `file` needs to `known`, and what that needs.
fn need(file: &Path, known: &mut BTreeSet<PathBuf>) -> Result<()> {
    let needs = elf::needs(file)?;
    let mut paths: Vec<PathBuf> = needs.interpreter.into_iter().collect();
    for name in needs.libraries {
        paths.push(
            find(library_dirs().into_iter(), &name).with_context(|| format!("{} needs {name}, which is in no library directory", file.display()))?,
        );
    }
    for path in paths {
        if known.insert(path.clone()) {
            need(&path, known)?;
        }
    }
    Ok(())
}

/// The loader's own directories and those that the administrator added.
fn library_dirs() -> Vec<PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let usual = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"].map(PathBuf::from);
    let multi = [format!("/lib/{triple}"), format!("/usr/lib/{triple}")].map(PathBuf::from);
    let files = std::fs::read_dir("/etc/ld.so.conf.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let added = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let added: Vec<PathBuf> =
        added.flat_map(|text| text.lines().filter(|line| line.starts_with('/')).map(PathBuf::from).collect::<Vec<_>>()).collect();
    multi.into_iter().chain(usual).chain(added).collect()
}

fn find(mut dirs: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}

/// Copies a file, whatever links lead to it, with its permissions.
fn put(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().context("a path has a parent")?)?;
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
