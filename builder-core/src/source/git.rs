//! Commits of git repositories (`features.md` A9.16, C5.4), brought by the machine's own `git`.
//!
//! # Invariants
//! - `git` is taken from fixed places, never from PATH or an image; its arguments are fixed words, with `--` before what users and servers say.
//! - Only http, https, ssh and git: no local files, no helper programs; no hooks, no filters, no configuration but ours, no questions.
//! - A reference is resolved first; what is then fetched must be exactly that commit.
//! - Files have modes 0644 and 0755, owner 0:0 and the commit's time, whatever this machine's umask and clock are.
//! - Secrets travel in the environment of that one process, never in arguments, messages or the store.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Command;

use builder_snapshot::TreePath;
use builder_snapshot::toc::Timestamp;

use super::checkout;
use super::remembered::{Remembered, keep, remember};
use crate::content::{Stack, StackLayer, Store};
use crate::error::StepError;
use crate::registry::ProxyConfig;
use crate::secret::{Secret, without_passwords};

/// Where `git` may lie.
const GIT_PLACES: [&str; 3] = ["/usr/bin/git", "/usr/local/bin/git", "/bin/git"];
/// Most bytes of git's own words in a message.
const MAX_MESSAGE_BYTES: usize = 4000;

/// Brings commits.
#[derive(Debug)]
pub struct GitSources {
    proxy: ProxyConfig,
    store: Arc<Store>,
}

/// What is asked for ([`crate::graph::SourceOp::Git`]).
#[derive(Debug, Clone, Copy)]
pub struct GitCommit<'a> {
    /// Address without fragment and query.
    pub url: &'a str,
    /// Branch, tag, ref or commit; none for the remote's HEAD.
    pub reference: Option<&'a str>,
    /// Directory inside.
    pub subdir: &'a TreePath,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// Expected commit: a prefix of its hex digits.
    pub checksum: Option<&'a str>,
}

/// What opens repositories.
#[derive(Debug, Clone, Copy)]
pub struct GitAccess<'a> {
    /// `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER`, with `.host` for one host only.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// Agent sockets; `default` is used.
    pub ssh: &'a BTreeMap<String, PathBuf>,
}

/// A commit that was brought.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its tree.
    pub stack: Stack,
    /// Its id, in hex digits.
    pub commit: String,
}

impl GitSources {
    /// Brings commits through `proxy` into `store`.
    #[must_use]
    pub fn new(proxy: ProxyConfig, store: Arc<Store>) -> Self {
        Self { proxy, store }
    }

    /// The tree of a commit. With the whole commit id known and its tree in the store, nothing is asked.
    ///
    /// # Errors
    /// No git on this machine, an address or reference that is refused, absent or locked, a commit that is not the expected one.
    pub async fn fetch(&self, wanted: GitCommit<'_>, access: GitAccess<'_>) -> Result<Fetched, StepError> {
        check_address(wanted.url)?;
        if let Some(reference) = wanted.reference {
            check_reference(reference)?;
        }
        let whole = wanted.reference.filter(|reference| is_commit_id(reference)).or(wanted.checksum.filter(|sum| is_commit_id(sum)));
        let session = Session::new(self, wanted, access)?;
        let resolved = match (whole, wanted.reference.is_some_and(is_commit_id)) {
            // A branch with an expected commit: if that is in the store there is nothing to ask; if not, the branch must lead to it.
            (Some(commit), false) if self.memory(&wanted, commit).load(&self.store).is_some() => Resolved::commit(commit),
            (Some(commit), true) => Resolved::commit(commit),
            _ => session.resolve(wanted.reference).await?,
        };
        if let Some(expected) = wanted.checksum
            && !resolved.commit.starts_with(&expected.to_ascii_lowercase())
        {
            return Err(StepError::other(format!(
                "{} {} is commit {}, expected {expected}",
                session.shown,
                wanted.reference.unwrap_or("HEAD"),
                resolved.commit
            )));
        }
        let memory = self.memory(&wanted, &resolved.commit);
        if let Some(known) = memory.load(&self.store) {
            return Ok(Fetched { stack: known.stack(), commit: resolved.commit });
        }
        let time = session.check_out(&resolved).await?;
        let stack = session.into_layer(time).await?;
        remember(&memory, &stack, Some(resolved.commit.clone()), None);
        Ok(Fetched { stack, commit: resolved.commit })
    }

    fn memory(&self, wanted: &GitCommit<'_>, commit: &str) -> super::remembered::Memory {
        let flags = format!("keep={} submodules={}", wanted.keep_git_dir, wanted.submodules);
        Remembered::at(&self.store, "git 1", &[without_passwords(wanted.url).as_str(), commit, &wanted.subdir.display(), &flags])
    }
}

/// A reference that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resolved {
    commit: String,
    /// The full name of the reference, if there is one.
    name: Option<String>,
}

impl Resolved {
    fn commit(commit: &str) -> Self {
        Self { commit: commit.to_ascii_lowercase(), name: None }
    }
}

/// One repository being brought: a directory of its own, removed at the end.
struct Session<'a> {
    git: &'static str,
    wanted: GitCommit<'a>,
    store: Arc<Store>,
    dir: TemporaryDir,
    environment: Vec<(OsString, OsString)>,
    shown: String,
}

impl<'a> Session<'a> {
    fn new(sources: &GitSources, wanted: GitCommit<'a>, access: GitAccess<'_>) -> Result<Self, StepError> {
        let git = GIT_PLACES.iter().find(|place| Path::new(place).exists()).ok_or_else(|| StepError::Other {
            message: format!("cannot bring {}: this machine has no git", without_passwords(wanted.url)),
            help: Some(format!("install git; it is looked for in {}", GIT_PLACES.join(", "))),
        })?;
        let parent = sources.store.tmp_dir().map_err(|error| StepError::other(error.to_string()))?;
        let dir = TemporaryDir::new(parent).map_err(|error| StepError::other(format!("cannot make a directory in {}: {error}", parent.display())))?;
        let environment = environment(sources, &wanted, access, dir.path());
        Ok(Self { git, wanted, store: Arc::clone(&sources.store), environment, dir, shown: without_passwords(wanted.url) })
    }

    fn work_tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.git);
        command
            .args(FIXED)
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(if self.work_tree().is_dir() { self.work_tree() } else { self.dir.path().to_path_buf() })
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// A few objects can say any number of files: they are counted before one is made.
    async fn check_size(&self, commit: &str) -> Result<(), StepError> {
        let failed = |error: std::io::Error| self.failed(&error.to_string());
        let limits = &self.store.limits().tar;
        let mut command = self.command(&["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
        let mut listed = tokio::io::BufReader::new(child.stdout.take().expect("piped"));
        let (mut entries, mut bytes, mut line) = (0_u64, 0_u64, Vec::new());
        while listed.read_until(0, &mut line).await.map_err(failed)? > 0 {
            entries += 1;
            // Mode, kind, object, size, and the path after a tab. A directory has no size.
            let size = line.split(|&b| b == b'\t').next().and_then(|head| head.rsplit(|&b| b == b' ').next());
            bytes = bytes.saturating_add(size.and_then(|size| std::str::from_utf8(size).ok()?.parse().ok()).unwrap_or(0));
            for (is, limit, what, name) in [(entries, limits.entries, "entries", "entries"), (bytes, limits.bytes, "bytes", "bytes")] {
                if is > limit {
                    return Err(StepError::Other {
                        message: format!("cannot bring {}: the commit has more than {limit} {what}", self.shown),
                        help: Some(format!("if that is right, raise the limit with --limit {name}=N")),
                    });
                }
            }
            line.clear();
        }
        Ok(())
    }

    /// Runs git in the work tree and returns what it prints.
    async fn git(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let output = self.command(arguments).output().await.map_err(|error| format!("cannot run {}: {error}", self.git))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(MAX_MESSAGE_BYTES)]).trim().replace('\n', "; ");
        Err(words.replace(self.wanted.url, &self.shown))
    }

    fn failed(&self, detail: &str) -> StepError {
        let locked = ["could not read Username", "Authentication failed", "terminal prompts disabled", "Permission denied"];
        let help = locked
            .iter()
            .any(|words| detail.contains(words))
            .then(|| "give the secret GIT_AUTH_TOKEN (--secret id=GIT_AUTH_TOKEN,env=…) or, for ssh, an agent (--ssh default)".to_owned());
        StepError::Other { message: format!("cannot bring {}: {detail}", self.shown), help }
    }

    /// Which commit the remote has under `reference`: branches first, as git itself prefers them, then tags, then other references.
    async fn resolve(&self, reference: Option<&str>) -> Result<Resolved, StepError> {
        let name = reference.unwrap_or("HEAD");
        let peeled = format!("{name}^{{}}");
        let listed = self.git(&["ls-remote", "--", self.wanted.url, name, &peeled]).await.map_err(|detail| self.failed(&detail))?;
        choose(&String::from_utf8_lossy(&listed), name).ok_or_else(|| StepError::Other {
            message: format!("repository {} does not contain ref {name}", self.shown),
            help: Some("branches, tags, full references (refs/…) and full commit ids can be named".to_owned()),
        })
    }

    /// Fetches and checks out; returns the commit's time.
    async fn check_out(&self, resolved: &Resolved) -> Result<Timestamp, StepError> {
        let failed = |detail: String| self.failed(&detail);
        self.git(&["init", "-q", "--", "tree"]).await.map_err(failed)?;
        self.git(&["remote", "add", "--", "origin", &self.shown]).await.map_err(failed)?;
        let source = resolved.name.as_deref().unwrap_or(&resolved.commit);
        let shallow = self.git(&["fetch", "-q", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", self.wanted.url, source]).await;
        if shallow.is_err() {
            // A server that gives no single commit or no shallow history: everything, then.
            let everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
            let arguments = [&["fetch", "-q", "--no-recurse-submodules", "--", self.wanted.url][..], &everything].concat();
            self.git(&arguments).await.map_err(failed)?;
        }
        let commit = format!("{}^{{commit}}", resolved.commit);
        let there = self.git(&["rev-parse", "-q", "--verify", "--end-of-options", &commit]).await;
        let found = there.map_err(|_| failed(format!("it has no commit {}, or its references changed meanwhile", resolved.commit)))?;
        if String::from_utf8_lossy(&found).trim() != resolved.commit {
            return Err(failed(format!("{} is no commit", resolved.commit)));
        }
        self.check_size(&resolved.commit).await?;
        // A branch keeps its name in a `.git` that stays; everything else is a detached HEAD.
        match resolved.name.as_deref().and_then(|name| name.strip_prefix("refs/heads/")) {
            Some(branch) if self.wanted.keep_git_dir => {
                self.git(&["checkout", "-q", "--no-recurse-submodules", "-B", branch, &resolved.commit, "--"]).await
            }
            _ => self.git(&["checkout", "-q", "--no-recurse-submodules", "--detach", &resolved.commit, "--"]).await,
        }
        .map_err(failed)?;
        if self.wanted.submodules && self.work_tree().join(".gitmodules").is_file() {
            // Relative addresses of submodules are relative to where this came from.
            self.git(&["remote", "set-url", "--", "origin", self.wanted.url]).await.map_err(failed)?;
            self.git(&["submodule", "-q", "update", "--init", "--recursive", "--depth=1"]).await.map_err(failed)?;
            self.git(&["remote", "set-url", "--", "origin", &self.shown]).await.map_err(failed)?;
        }
        let time = self.git(&["show", "-s", "--format=%ct", "--end-of-options", &resolved.commit, "--"]).await.map_err(failed)?;
        let seconds = String::from_utf8_lossy(&time).trim().parse().map_err(|_| failed("the commit has no time".to_owned()))?;
        Ok(Timestamp { seconds, nanos: 0 })
    }

    /// Makes a layer of the work tree, or the part that is wanted.
    async fn into_layer(self, time: Timestamp) -> Result<Stack, StepError> {
        let subdir = self.wanted.subdir.clone();
        let keep_git_dir = self.wanted.keep_git_dir;
        let Self { store, dir, shown, .. } = self;
        let making = tokio::task::spawn_blocking(move || {
            if !keep_git_dir && subdir.components().next() == Some(b".git") {
                return Err(StepError::other(format!("{shown}: the directory .git can't be chosen")));
            }
            let layer = checkout::to_layer(&dir.path().join("tree"), &subdir, keep_git_dir, time, &store)?;
            let kept = StackLayer { id: layer.id, content: layer.content };
            keep(&store, layer).map_err(|error| StepError::other(error.to_string()))?;
            Ok(Stack { layers: vec![kept] })
        });
        making.await.map_err(|error| StepError::other(format!("internal fault: {error}")))?
    }
}

/// What every call of git begins with.
const FIXED: [&str; 20] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.symlinks=true",
    "-c",
    "core.autocrlf=false",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.sshCommand=ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null",
    "-c",
    "transfer.fsckObjects=true",
    "-c",
    "gc.auto=0",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "advice.detachedHead=false",
    "-c",
    "protocol.file.allow=never",
];

fn environment(sources: &GitSources, wanted: &GitCommit<'_>, access: GitAccess<'_>, home: &Path) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LC_ALL", "C"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ASKPASS", "/bin/false"),
        ("SSH_ASKPASS", "/bin/false"),
        ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
    ]
    .iter()
    .map(|(name, value)| (OsString::from(name), OsString::from(value)))
    .collect();
    let mut add = |name: &str, value: OsString| environment.push((OsString::from(name), value));
    add("HOME", home.into());
    add("XDG_CONFIG_HOME", home.into());
    // Nothing above our own directory is taken for a repository.
    add("GIT_CEILING_DIRECTORIES", home.into());
    let proxy = &sources.proxy;
    for (name, value) in [("http_proxy", &proxy.http), ("https_proxy", &proxy.https)] {
        if let Some(value) = value {
            add(name, value.into());
        }
    }
    add("no_proxy", format!("localhost,127.0.0.0/8,::1,{}", proxy.no_proxy).into());
    if let Some(socket) = access.ssh.get("default") {
        add("SSH_AUTH_SOCK", socket.into());
    }
    if let Some((origin, header)) = authorization(wanted.url, access.secrets) {
        add("GIT_CONFIG_COUNT", "1".into());
        add("GIT_CONFIG_KEY_0", format!("http.{origin}.extraHeader").into());
        add("GIT_CONFIG_VALUE_0", header.into());
    }
    environment
}

/// The origin that a secret is for, and the header it makes.
fn authorization(url: &str, secrets: &BTreeMap<String, Secret>) -> Option<(String, String)> {
    let url = url::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let host = url.host_str()?;
    let with_port = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let named = |name: &str| {
        let names = [format!("{name}.{with_port}"), format!("{name}.{host}"), name.to_owned()];
        names.iter().find_map(|name| secrets.get(name)).map(|secret| String::from_utf8_lossy(secret.expose()).trim().to_owned())
    };
    let value = match (named("GIT_AUTH_HEADER"), named("GIT_AUTH_TOKEN")) {
        (Some(header), _) => header,
        (None, Some(token)) => format!("basic {}", base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"))),
        (None, None) => return None,
    };
    // A line break would begin another header.
    (!value.contains(['\n', '\r'])).then(|| (format!("{}://{with_port}/", url.scheme()), format!("Authorization: {value}")))
}

/// From what `git ls-remote` prints, the commit of `name`.
fn choose(listed: &str, name: &str) -> Option<Resolved> {
    let rows: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).filter(|(commit, _)| is_commit_id(commit)).collect();
    let find = |wanted: &str| rows.iter().find(|(_, name)| *name == wanted).map(|(commit, _)| (*commit).to_owned());
    let short = name.strip_prefix("refs/").unwrap_or(name);
    let candidates = [format!("refs/heads/{name}"), format!("refs/tags/{name}"), name.to_owned(), format!("refs/{short}")];
    for full in candidates {
        // An annotated tag is an object of its own; the commit is what it points to.
        if let Some(commit) = find(&format!("{full}^{{}}")).or_else(|| find(&full)) {
            return Some(Resolved { commit, name: Some(full) });
        }
    }
    None
}

fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Addresses that git would take for an option, a helper program or a local path are refused.
fn check_address(url: &str) -> Result<(), StepError> {
    let refused = |why: &str| Err(StepError::other(format!("the git address {:?} is refused: {why}", without_passwords(url))));
    if url.starts_with('-') || url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return refused("it begins with - or has blanks or control characters");
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        if !matches!(scheme, "http" | "https" | "ssh" | "git") {
            return refused("only http, https, ssh and git are allowed");
        }
        // A host that begins with - would be an option to ssh.
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || host.starts_with('-') || host.rsplit('@').next().is_some_and(|host| host.starts_with('-')) {
            return refused("it has no host");
        }
        return Ok(());
    }
    match url.split_once(':') {
        Some((host, path)) if !host.is_empty() && !host.contains('/') && !host.contains("@-") && !path.starts_with(':') && !path.is_empty() => Ok(()),
        _ => refused("it is neither a URL nor user@host:path"),
    }
}

fn check_reference(reference: &str) -> Result<(), StepError> {
    let bad = reference.is_empty()
        || reference.starts_with(['-', '/', '.'])
        || reference.ends_with(['/', '.'])
        || reference.contains("..")
        || reference.contains("@{")
        || reference.bytes().any(|b| b.is_ascii_control() || b" ~^:?*[\\".contains(&b));
    if bad { Err(StepError::other(format!("{reference:?} is no git reference"))) } else { Ok(()) }
}

/// A directory that is removed when dropped.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new(parent: &Path) -> std::io::Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = parent.join(format!("git-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What is left is swept with the process's directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
