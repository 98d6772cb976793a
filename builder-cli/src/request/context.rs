//! Where the files of a build are: the main context, named contexts, the Dockerfile and the ignore files (`features.md` A0.8, A11.1, A12, C5).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::oci::Reference;
use builder_core::request::{IgnoreRules, LocalContext};
use builder_frontend::compile::{DockerfileSource, IncludeRoot, NamedContext};
use builder_frontend::ignore::IgnoreFile;
use builder_frontend::suggest;

use crate::environment::Environment;

/// Name of the Dockerfile if none is given.
const DOCKERFILE: &str = "Dockerfile";

/// The directory of a Dockerfile outside of the context, for what it includes. No name that is typed holds `=`.
pub(crate) const DOCKERFILE_DIRECTORY: &str = "=dockerfile";

/// Longest Dockerfile or ignore file. Thousands of times what anyone writes; it keeps a wrong path (`-f /dev/zero`) from filling memory.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Most Dockerfiles that are listed for somebody who named one that is not there.
const MAX_SUGGESTED: usize = 5;

/// First bytes of archives that can be a context on standard input: gzip, bzip2, xz, zstd.
const ARCHIVE_STARTS: [&[u8]; 4] = [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];

/// Everything that is read from.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// The main context, as the frontend sees it.
    pub(crate) context: NamedContext,
    /// The Dockerfile.
    pub(crate) dockerfile: DockerfileSource,
    /// Where the files are that it includes.
    pub(crate) includes: IncludeRoot,
    /// Named contexts, as the frontend sees them.
    pub(crate) named: BTreeMap<String, NamedContext>,
    /// Local directories.
    pub(crate) locals: BTreeMap<String, LocalContext>,
    /// Ignore files of local directories, by the name of the context.
    pub(crate) ignores: BTreeMap<String, Ignored>,
    /// An archive on standard input that is the main context: what was read of it so far. It is unpacked when the store is open.
    pub(crate) archive: Option<Vec<u8>>,
}

/// A context's ignore file.
#[derive(Debug, Clone)]
pub(crate) struct Ignored {
    /// As people call it: `.dockerignore`.
    pub(crate) name: String,
    /// Its patterns.
    pub(crate) rules: IgnoreFile,
}

impl IgnoreRules for Ignored {
    fn is_ignored(&self, path: &[u8]) -> bool {
        self.rules.excludes(path)
    }

    fn prunes(&self, path: &[u8]) -> bool {
        self.rules.prunes(path)
    }

    fn deciding_rule(&self, path: &[u8]) -> Option<String> {
        self.rules.deciding_rule(path).map(|rule| format!("line {} of {}: {}", rule.line, self.name, rule.pattern))
    }
}

/// Finds the inputs that flags name.
pub(crate) fn find(context: &OsStr, file: Option<&OsStr>, named: &[String], environment: &Environment, stdin: &mut dyn Read) -> Result<Inputs> {
    let Named { contexts: named, mut locals, mut ignores } = named_contexts(named, environment)?;
    let from_stdin = file == Some(OsStr::new("-"));
    let web = file.and_then(OsStr::to_str).filter(|file| is_web(file));
    if context == "-" {
        ensure!(!from_stdin, "standard input can't be both the context and the Dockerfile; give one of them as a path");
        let (dockerfile, archive) = on_stdin(file, stdin)?;
        let empty = LocalContext { path: environment.cwd.clone(), ignore: None, empty: true };
        locals.insert("context".into(), empty);
        let includes = IncludeRoot::Nowhere;
        return Ok(Inputs { context: main_local(), dockerfile, includes, named, locals, ignores, archive });
    }
    let stdin_text = if from_stdin { Some(text_of(&mut *stdin, "standard input")?) } else { None };
    if let Some(remote) = context.to_str().and_then(remote) {
        let dockerfile = match (stdin_text, web) {
            (Some(text), _) => DockerfileSource::Text { name: DOCKERFILE.into(), text },
            (None, Some(url)) => DockerfileSource::Web { url: url.to_owned() },
            (None, None) => DockerfileSource::InContext { path: file.map_or(DOCKERFILE.into(), |file| file.to_string_lossy().into_owned()) },
        };
        return Ok(Inputs { context: remote, dockerfile, includes: root_of_context(), named, locals, ignores, archive: None });
    }
    let directory = directory(context, environment)?;
    let (dockerfile, beside) = match (stdin_text, web) {
        (Some(text), _) => (DockerfileSource::Text { name: DOCKERFILE.into(), text }, None),
        (None, Some(url)) => (DockerfileSource::Web { url: url.to_owned() }, None),
        (None, None) => local_dockerfile(file, &directory, environment)?,
    };
    let includes = beside.as_deref().map_or_else(root_of_context, |path| include_root(path, &directory, &mut locals));
    let ignore = ignore_file(beside.as_deref(), &directory)?;
    locals.insert("context".into(), local(directory, ignore.clone()));
    ignores.extend(ignore.map(|ignore| ("context".to_owned(), ignore)));
    Ok(Inputs { context: main_local(), dockerfile, includes, named, locals, ignores, archive: None })
}

/// A Dockerfile that has no place of its own includes from the root of the context.
fn root_of_context() -> IncludeRoot {
    IncludeRoot::Context { dockerfile: String::new() }
}

/// Where the Dockerfile at `path` includes files from: the context if it lies in it, else its own directory.
fn include_root(path: &Path, context: &Path, locals: &mut BTreeMap<String, LocalContext>) -> IncludeRoot {
    if is_descriptor(path) {
        return root_of_context();
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let has_steps_up = path.components().any(|part| part == std::path::Component::ParentDir);
    let inside = path.strip_prefix(context).ok().filter(|_| !has_steps_up).or_else(|| real.strip_prefix(context).ok());
    if let Some(dockerfile) = inside.and_then(Path::to_str) {
        return IncludeRoot::Context { dockerfile: dockerfile.to_owned() };
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return root_of_context() };
    locals.insert(DOCKERFILE_DIRECTORY.to_owned(), local(directory.to_owned(), None));
    IncludeRoot::Directory { name: DOCKERFILE_DIRECTORY.to_owned(), dockerfile: name.to_string_lossy().into_owned() }
}

/// Whether a path means one of this process's own descriptors (`-f <(generate)`).
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd") || path == Path::new("/dev/stdin")
}

fn main_local() -> NamedContext {
    NamedContext::Local { name: "context".into() }
}

fn local(path: PathBuf, ignore: Option<Ignored>) -> LocalContext {
    LocalContext { path, ignore: ignore.map(|ignore| Arc::new(ignore) as Arc<dyn IgnoreRules>), empty: false }
}

/// The directory `text` names.
fn directory(text: &OsStr, environment: &Environment) -> Result<PathBuf> {
    let path = environment.absolute(text);
    let found = std::fs::metadata(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::anyhow!("unable to prepare context: path {} not found{}", Path::new(text).display(), nearest_beside(&path))
        }
        _ => anyhow::anyhow!("unable to prepare context: cannot look at {}: {error}", Path::new(text).display()),
    })?;
    if !found.is_dir() {
        bail!("unable to prepare context: {} is no directory; a Dockerfile is given with -f", Path::new(text).display());
    }
    // Symbolic links of the context's own path are the user's way of naming it; they are followed once, here.
    path.canonicalize().with_context(|| format!("unable to prepare context: cannot resolve {}", path.display()))
}

/// What stands beside a path that is not there and is called nearly so, as advice.
fn nearest_beside(path: &Path) -> String {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else { return String::new() };
    let names: Vec<String> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    suggest::nearest(name, names.iter().map(String::as_str)).map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What an address as context means (C5.3, C5.4); nothing for a path.
fn remote(text: &str) -> Option<NamedContext> {
    let without_fragment = text.split(['#', '?']).next().unwrap_or(text);
    let is_web = is_web(text);
    let is_scp = || text.split_once('@').is_some_and(|(user, rest)| !user.contains(['/', ':']) && rest.contains(':') && !rest.contains("://"));
    if text.starts_with("git://")
        || text.starts_with("ssh://")
        || text.starts_with("github.com/")
        || is_web && without_fragment.ends_with(".git")
        || is_scp()
    {
        return Some(NamedContext::Git { url: text.into() });
    }
    is_web.then(|| NamedContext::Http { url: text.into() })
}

/// `--build-context`.
#[derive(Debug, Default)]
struct Named {
    contexts: BTreeMap<String, NamedContext>,
    locals: BTreeMap<String, LocalContext>,
    ignores: BTreeMap<String, Ignored>,
}

fn named_contexts(given: &[String], environment: &Environment) -> Result<Named> {
    let mut named = Named::default();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid --build-context {text:?}: expected NAME=VALUE"))?;
        ensure!(!name.is_empty() && !value.is_empty(), "invalid --build-context {text:?}: expected NAME=VALUE");
        ensure!(!["context", "scratch"].contains(&name), "invalid --build-context {text:?}: {name:?} can't stand for anything else");
        let context = named_context(name, value, environment, &mut named).with_context(|| format!("invalid --build-context {text:?}"))?;
        named.contexts.insert(name.to_owned(), context);
    }
    Ok(named)
}

fn named_context(name: &str, value: &str, environment: &Environment, named: &mut Named) -> Result<NamedContext> {
    if let Some(reference) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image { reference: reference.parse()? });
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return oci_layout(name, layout, environment);
    }
    if value.starts_with("target:") {
        bail!("target: names a target of a bake file, which there is none of");
    }
    if let Some(remote) = remote(value) {
        return Ok(remote);
    }
    let path = directory(OsStr::new(value.strip_prefix("local:").unwrap_or(value)), environment)?;
    let ignore = ignore_file(None, &path)?;
    named.locals.insert(name.to_owned(), local(path, ignore.clone()));
    named.ignores.extend(ignore.map(|ignore| (name.to_owned(), ignore)));
    Ok(NamedContext::Local { name: name.to_owned() })
}

/// `PATH[:TAG][@DIGEST]`; people see it under the name of the context.
fn oci_layout(name: &str, text: &str, environment: &Environment) -> Result<NamedContext> {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    let (path, tag) = rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or((rest, None), |(path, tag)| (path, Some(tag)));
    let digest = digest.map(|digest| digest.parse().map_err(|_| anyhow::anyhow!("{digest:?} is no sha256 digest"))).transpose()?;
    let path = directory(OsStr::new(path), environment)?;
    ensure!(path.join("index.json").is_file(), "{} is no OCI layout: it has no index.json", path.display());
    // Shown under the name that people gave it, whatever the layout calls it.
    let shown = name.split("::").next().unwrap_or(name).to_lowercase();
    let (domain, path_shown) = match shown.parse::<Reference>() {
        Ok(Reference { domain, path, .. }) => (domain, path),
        Err(_) => ("docker.io".to_owned(), "library/layout".to_owned()),
    };
    let reference = Reference { domain, path: path_shown, tag: tag.map(str::to_owned), digest };
    Ok(NamedContext::OciLayout { path: path.to_str().context("the path of a layout must be UTF-8")?.to_owned(), reference })
}

/// The Dockerfile of a local context, and its path for the ignore file beside it.
fn local_dockerfile(file: Option<&OsStr>, context: &Path, environment: &Environment) -> Result<(DockerfileSource, Option<PathBuf>)> {
    let path = match file {
        Some(file) => environment.absolute(file),
        None => context.join(DOCKERFILE),
    };
    let path = match path.file_name() {
        Some(name) if name == DOCKERFILE && !path.exists() => Some(path.with_file_name("dockerfile")).filter(|lower| lower.is_file()).unwrap_or(path),
        _ => path,
    };
    let name = shown_name(&path, file, context);
    let opened = open_text(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::anyhow!("failed to read dockerfile: {name} not found{}", dockerfiles_beside(&path, context)),
        _ => anyhow::anyhow!("failed to read dockerfile: cannot open {}: {error}", path.display()),
    })?;
    let text = text_of(&mut { opened }, &path.display().to_string())?;
    Ok((DockerfileSource::Text { name, text }, Some(path)))
}

/// Where Dockerfiles are, as advice for somebody who named one that is not there.
fn dockerfiles_beside(path: &Path, context: &Path) -> String {
    let mut found: Vec<String> = Vec::new();
    for dir in path.parent().into_iter().chain([context]) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_one = name.to_lowercase().contains("dockerfile") && !name.ends_with(".dockerignore") || name == "Containerfile";
            let shown = shown_name(&entry.path(), None, context);
            if is_one && entry.path().is_file() && !found.contains(&shown) {
                found.push(shown);
            }
        }
    }
    found.sort();
    found.truncate(MAX_SUGGESTED);
    match &found[..] {
        [] if path.parent().is_some_and(Path::is_dir) => "; choose one with -f, or the directory that holds it as CONTEXT".to_owned(),
        [] => "; its directory is not there either".to_owned(),
        names => format!("; there is {}: choose one with -f", names.join(", ")),
    }
}

/// How messages call a Dockerfile: by its path inside the context, else as it was typed, else (an absolute path elsewhere) by its name.
fn shown_name(path: &Path, typed: Option<&OsStr>, context: &Path) -> String {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let inside = path.strip_prefix(context).or_else(|_| real.strip_prefix(context)).ok();
    let shown = inside.or_else(|| typed.map(Path::new).filter(|typed| typed.is_relative())).or_else(|| path.file_name().map(Path::new));
    shown.unwrap_or(path).display().to_string()
}

/// The ignore file that counts: the one named after the Dockerfile, else the context's.
fn ignore_file(dockerfile: Option<&Path>, context: &Path) -> Result<Option<Ignored>> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([context.join(".dockerignore")]) {
        match open_text(&path) {
            Ok(mut file) => {
                let text = bytes_of(&mut file, &path.display().to_string())?;
                let rules = IgnoreFile::parse(&text).with_context(|| format!("in {}", path.display()))?;
                let name = path.strip_prefix(context).unwrap_or(&path).display().to_string();
                return Ok(Some(Ignored { name, rules }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(None)
}

/// Whether a file that begins like this (512 bytes are enough) is a tar archive, compressed or not.
fn is_archive(start: &[u8]) -> bool {
    start.get(257..262) == Some(b"ustar") || ARCHIVE_STARTS.iter().any(|magic| start.starts_with(magic))
}

/// Opens a file to read a text from. A context may come from anywhere: what would make reading wait or never end, a named pipe or a device, is
/// refused, unless it is one of this process's own descriptors.
fn open_text(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};

    if is_descriptor(path) {
        return std::fs::File::open(path);
    }
    let file = std::fs::File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
    let what = if kind.is_dir() {
        "it is a directory"
    } else if kind.is_fifo() {
        "it is a named pipe; it must be a regular file"
    } else if !kind.is_file() {
        "it is no regular file"
    } else {
        return Ok(file);
    };
    Err(std::io::Error::other(what))
}

/// Tells a tar archive from a Dockerfile on standard input (C5.2).
fn on_stdin(file: Option<&OsStr>, stdin: &mut dyn Read) -> Result<(DockerfileSource, Option<Vec<u8>>)> {
    let mut start = Vec::new();
    stdin.take(512).read_to_end(&mut start).context("cannot read standard input")?;
    if is_archive(&start) {
        let path = file.map_or(DOCKERFILE.into(), |file| file.to_string_lossy().into_owned());
        let dockerfile = if is_web(&path) { DockerfileSource::Web { url: path } } else { DockerfileSource::InContext { path } };
        return Ok((dockerfile, Some(start)));
    }
    ensure!(file.is_none(), "standard input is no archive, so there is no context in which -f could be; leave -f out");
    let text = text_of(&mut start.chain(stdin), "standard input")?;
    Ok((DockerfileSource::Text { name: DOCKERFILE.into(), text }, None))
}

fn bytes_of(from: &mut dyn Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    ensure!(bytes.len() as u64 <= MAX_TEXT_BYTES, "{name} is longer than {} MiB; it is no Dockerfile or ignore file", MAX_TEXT_BYTES >> 20);
    Ok(bytes)
}

fn text_of(from: &mut dyn Read, name: &str) -> Result<String> {
    let bytes = bytes_of(from, name)?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("{name} is not UTF-8: see line {line}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            std::fs::write(path, text).expect("file");
        }
        dir
    }

    fn inputs(dir: &tempfile::TempDir, context: &str, file: Option<&str>, stdin: &[u8]) -> Result<Inputs> {
        find(OsStr::new(context), file.map(OsStr::new), &[], &Environment::of(dir.path(), &[]), &mut &*stdin)
    }

    fn name_and_text(inputs: Inputs) -> (String, String) {
        match inputs.dockerfile {
            DockerfileSource::Text { name, text } => (name, text),
            DockerfileSource::InContext { path } => (path, "in context".into()),
            DockerfileSource::Web { url } => (url, "on the web".into()),
        }
    }

    #[test]
    fn c1_a_dockerfile_may_be_on_the_web() {
        let dir = tree(&[(".dockerignore", "a")]);
        let url = "https://h/Dockerfile";
        for context in [".", "https://h/r.git"] {
            assert_eq!(name_and_text(inputs(&dir, context, Some(url), b"").expect(context)), (url.into(), "on the web".into()));
        }
        assert!(inputs(&dir, ".", Some(url), b"").expect("local").ignores.contains_key("context"));
    }

    #[test]
    fn a0_8_dockerfile_then_lower_case() {
        let dir = tree(&[("dockerfile", "lower"), ("both/Dockerfile", "upper"), ("both/dockerfile", "lower"), ("none/x", "")]);
        assert_eq!(name_and_text(inputs(&dir, ".", None, b"").expect("lower")), ("dockerfile".into(), "lower".into()));
        assert_eq!(name_and_text(inputs(&dir, "both", None, b"").expect("both")), ("Dockerfile".into(), "upper".into()));
        let error = format!("{:#}", inputs(&dir, "none", None, b"").expect_err("none"));
        assert!(error.contains("Dockerfile not found; choose one with -f"), "{error}");
        let error = format!("{:#}", inputs(&dir, "none", Some("both/Dockrfile"), b"").expect_err("misspelt"));
        assert!(error.contains("both/Dockrfile not found; there is Dockerfile, dockerfile"), "{error}");
    }

    #[test]
    fn c1_file_is_relative_to_the_working_directory() {
        let dir = tree(&[("df/app.Dockerfile", "a"), ("ctx/app.Dockerfile", "b"), ("ctx/sub/D", "c")]);
        assert_eq!(name_and_text(inputs(&dir, "ctx", Some("df/app.Dockerfile"), b"").expect("df")), ("df/app.Dockerfile".into(), "a".into()));
        assert_eq!(name_and_text(inputs(&dir, "ctx", Some("ctx/sub/D"), b"").expect("sub")), ("sub/D".into(), "c".into()));
        let absolute = dir.path().join("df/app.Dockerfile");
        assert_eq!(name_and_text(inputs(&dir, "ctx", absolute.to_str(), b"").expect("absolute")).0, "app.Dockerfile");
        assert_eq!(name_and_text(inputs(&dir, "ctx", Some("-"), b"FROM x").expect("stdin")), ("Dockerfile".into(), "FROM x".into()));
    }

    #[test]
    fn a11_1_the_ignore_file_of_the_dockerfile_wins() {
        let dir = tree(&[("Dockerfile", ""), (".dockerignore", "a"), ("x.Dockerfile", ""), ("x.Dockerfile.dockerignore", "b")]);
        assert!(inputs(&dir, ".", Some("x.Dockerfile"), b"").expect("x").ignores.contains_key("context"));
        assert!(inputs(&dir, ".", None, b"").expect("plain").ignores.contains_key("context"));
    }

    #[test]
    fn c5_2_standard_input_is_sniffed() {
        let dir = tree(&[]);
        let plain = inputs(&dir, "-", None, b"FROM scratch").expect("dockerfile");
        assert!(plain.locals["context"].empty && plain.archive.is_none());
        assert_eq!(name_and_text(plain).1, "FROM scratch");
        let archive = inputs(&dir, "-", Some("sub/D"), &[0x1f, 0x8b, 8]).expect("archive");
        assert_eq!(archive.archive.as_deref(), Some(&[0x1f, 0x8b, 8][..]));
        assert_eq!(name_and_text(archive).0, "sub/D");
        assert!(inputs(&dir, "-", Some("-"), b"").is_err());
    }

    #[test]
    fn c5_4_addresses() {
        let git = |url: &str| Some(NamedContext::Git { url: url.into() });
        for url in ["https://h/r.git", "http://h/r.git#v1:sub", "https://h/r.git?ref=a", "git://h/r", "git@h:r.git", "ssh://h/r", "github.com/a/b"] {
            assert_eq!(remote(url), git(url));
        }
        assert_eq!(remote("https://h/ctx.tar.gz"), Some(NamedContext::Http { url: "https://h/ctx.tar.gz".into() }));
        for path in [".", "/a/b", "a:b", "dir@x/y", "./git@h"] {
            assert_eq!(remote(path), None, "{path}");
        }
    }

    #[test]
    fn c5_6_a_missing_context_is_named() {
        let error = format!("{:#}", inputs(&tree(&[]), "no-context", None, b"").expect_err("missing"));
        assert!(error.contains("no-context not found"), "{error}");
    }

    #[test]
    fn a12_2_named_contexts() {
        let dir = tree(&[("d/f", ""), ("l/index.json", "{}"), ("Dockerfile", "")]);
        let read = |text: &str| find(OsStr::new("."), None, &[text.to_owned()], &Environment::of(dir.path(), &[]), &mut &b""[..]);
        assert!(read("x=d").expect("directory").locals.contains_key("x"));
        let NamedContext::OciLayout { reference, .. } = read("x=oci-layout://l:tag").expect("layout").named["x"].clone() else { panic!("layout") };
        assert_eq!(reference.tag.as_deref(), Some("tag"));
        assert!(matches!(read("x=docker-image://a:1").expect("image").named["x"], NamedContext::Image { .. }));
        for bad in ["x", "=d", "x=", "context=d", "x=missing", "x=oci-layout://d", "x=docker-image://A A", "x=target:y"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
