//! The byte layout of keys.
//!
//! A key is the SHA-256 of a sequence of fields: length of the name (4 bytes, little endian), name, length of the value (8 bytes), value.
//! Lists are fields one after the other, preceded by their number. Nothing can be moved from one field to the next without changing the
//! digest. Each operation begins with its name and the version of its meaning: whoever changes what an operation does to equal inputs
//! raises the version.
//!
//! In a process's key (`features.md` B2.1): arguments, environment in order, directory, user, host name, network, security, mounts with
//! their options, names of extra hosts, limits set by `--ulimit`, platform. Not in it: proxies, values of secrets, names and contents of
//! cache mounts, addresses of extra hosts, size of /dev/shm.

use builder_snapshot::toc::ContentId;
use builder_snapshot::{Hasher, Sha256Digest};

use crate::cache::{Key, KeyFields};
use crate::graph::{Chmod, CopyAction, Dest, ExecOp, FileAction, FileOp, Mount, MountKind, Network, Owner, Security};

/// Version of what running a process means.
const EXEC_VERSION: u32 = 1;
/// Version of what file operations mean.
const FILE_VERSION: u32 = 1;

/// Longest value that is kept for explaining; longer ones are cut and told apart by their digest.
const SHOWN_VALUE_CHARS: usize = 160;

/// What of an input counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputContent {
    /// All of it.
    Whole(ContentId),
    /// What the operation selects.
    Part(Sha256Digest),
}

/// Writes the fields of one key.
pub struct KeyWriter {
    hasher: Hasher,
    fields: Vec<(String, String)>,
}

impl KeyWriter {
    /// The key of an operation called `op` whose meaning has `version`.
    #[must_use]
    pub fn new(op: &str, version: u32) -> Self {
        let mut writer = Self { hasher: Hasher::new(), fields: Vec::new() };
        writer.text("op", &format!("{op} {version}"));
        writer
    }

    /// A text.
    pub fn text(&mut self, name: &str, value: &str) {
        self.hash(name, value.as_bytes());
        let shown = match value.char_indices().nth(SHOWN_VALUE_CHARS) {
            None => value.to_owned(),
            Some((end, _)) => format!("{}… ({})", &value[..end], &Sha256Digest::of(value.as_bytes()).to_string()[..19]),
        };
        self.fields.push((name.to_owned(), shown));
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.text(name, &value.to_string());
    }

    /// A digest.
    pub fn digest(&mut self, name: &str, value: &Sha256Digest) {
        self.hash(name, &value.0);
        self.fields.push((name.to_owned(), value.to_string()));
    }

    /// A list of texts: its length, then each as a field of its own.
    pub fn texts<'a>(&mut self, name: &str, values: impl ExactSizeIterator<Item = &'a str>) {
        self.hash(name, &(values.len() as u64).to_le_bytes());
        for (position, value) in values.enumerate() {
            self.text(&format!("{name} {position}"), value);
        }
    }

    /// What counts of an input.
    pub fn input(&mut self, name: &str, content: &InputContent) {
        match content {
            InputContent::Whole(id) => self.digest(&format!("{name} tree"), &id.0),
            InputContent::Part(digest) => self.digest(&format!("{name} files"), digest),
        }
    }

    /// The key, and what went into it.
    #[must_use]
    pub fn finish(self) -> (Key, KeyFields) {
        (Key(self.hasher.finish()), KeyFields(self.fields))
    }

    fn hash(&mut self, name: &str, value: &[u8]) {
        self.hasher.update(&u32::try_from(name.len()).expect("names of fields are short").to_le_bytes());
        self.hasher.update(name.as_bytes());
        self.hasher.update(&(value.len() as u64).to_le_bytes());
        self.hasher.update(value);
    }
}

/// The key of a process. `network` is the one it gets when it asks for the default.
#[must_use]
pub fn exec(op: &ExecOp, network: Network, inputs: &[InputContent]) -> (Key, KeyFields) {
    let mut key = KeyWriter::new("exec", EXEC_VERSION);
    key.texts("argument", op.argv.iter().map(String::as_str));
    key.number("variables", op.env.len() as u64);
    for variable in &op.env {
        let (name, value) = &**variable;
        key.text(&format!("variable {name}"), value);
    }
    key.text("directory", &op.cwd);
    key.text("user", &op.user);
    key.text("host name", &op.hostname);
    let network = if op.network == Network::Default { network } else { op.network };
    key.text(
        "network",
        match network {
            Network::Default => "default",
            Network::None => "none",
            Network::Host => "host",
        },
    );
    key.text(
        "security",
        match op.security {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        },
    );
    key.texts("extra host", op.extra_hosts.iter().map(|(name, _)| name.as_str()));
    let ulimits: Vec<String> = op.ulimits.iter().map(|(name, soft, hard)| format!("{name}={soft}:{hard}")).collect();
    key.texts("ulimit", ulimits.iter().map(String::as_str));
    key.text("platform", &op.platform.to_string());
    key.number("mounts", op.mounts.len() as u64);
    for mount in &op.mounts {
        write_mount(&mut key, mount, inputs);
    }
    if let Some(root) = inputs.first() {
        key.input("root", root);
    }
    key.finish()
}

fn write_mount(key: &mut KeyWriter, mount: &Mount, inputs: &[InputContent]) {
    let name = format!("mount {}", mount.target);
    let owned = |uid: u32, gid: u32, mode: u32| format!("uid={uid},gid={gid},mode={mode:o}");
    match &mount.kind {
        MountKind::Bind { input, source, writable } => {
            key.text(&name, &format!("bind,writable={writable}"));
            // What the selected part is called counts as little as the directories above it.
            if matches!(inputs[*input], InputContent::Whole(_)) {
                key.text(&format!("{name} source"), &source.display());
            }
            key.input(&name, &inputs[*input]);
        }
        MountKind::Cache { id: _, sharing: _, from, source, read_only, mode, uid, gid } => {
            key.text(&name, &format!("cache,read_only={read_only},{}", owned(*uid, *gid, *mode)));
            if let Some(from) = from {
                key.text(&format!("{name} source"), &source.display());
                key.input(&name, &inputs[*from]);
            }
        }
        MountKind::Tmpfs { size_bytes } => key.text(&name, &format!("tmpfs,size={size_bytes:?}")),
        MountKind::Secret { id: _, file, env, required, mode, uid, gid } => {
            key.text(&name, &format!("secret,file={file},required={required},{}", owned(*uid, *gid, *mode)));
            key.text(&format!("{name} variable"), env.as_deref().unwrap_or_default());
        }
        MountKind::Ssh { id: _, required, mode, uid, gid } => key.text(&name, &format!("ssh,required={required},{}", owned(*uid, *gid, *mode))),
    }
    // Names of secrets and agents count, their values never do.
    if let MountKind::Secret { id, .. } | MountKind::Ssh { id, .. } = &mount.kind {
        key.text(&format!("{name} id"), id);
    }
}

/// The key of file operations.
#[must_use]
pub fn file(op: &FileOp, inputs: &[InputContent]) -> (Key, KeyFields) {
    let mut key = KeyWriter::new("file", FILE_VERSION);
    write_actions(&mut key, op);
    key.number("inputs", inputs.len() as u64);
    for (position, input) in inputs.iter().enumerate() {
        let name = if op.base && position == 0 { "base".to_owned() } else { format!("input {position}") };
        key.input(&name, input);
    }
    key.finish()
}

fn write_actions(key: &mut KeyWriter, op: &FileOp) {
    key.text("on a base", if op.base { "yes" } else { "no" });
    key.number("actions", op.actions.len() as u64);
    for action in &op.actions {
        match action {
            FileAction::Copy(copy) => write_copy(key, copy),
            FileAction::MakeDir { path, mode, owner } => {
                key.text("make directory", path);
                key.text("mode", &format!("{mode:o}"));
                write_owner(key, owner.as_ref());
            }
            FileAction::MakeFile { dest, name, data, chmod, owner } => {
                write_dest(key, "write file", dest);
                key.text("name", name);
                key.digest("content", &Sha256Digest::of(data));
                write_chmod(key, chmod.as_ref());
                write_owner(key, owner.as_ref());
            }
        }
    }
}

/// What all versions of a file operation have in common: what it does, and which directories of the machine it copies from (`paths`, by input).
/// The last version's record is kept under it, to link unchanged files from; no result is ever looked up by it.
#[must_use]
pub fn version(op: &FileOp, paths: &[Option<String>]) -> (Key, KeyFields) {
    let mut key = KeyWriter::new("version of file", FILE_VERSION);
    write_actions(&mut key, op);
    key.texts("directory", paths.iter().map(|path| path.as_deref().unwrap_or_default()).collect::<Vec<_>>().into_iter());
    key.finish()
}

fn write_copy(key: &mut KeyWriter, copy: &CopyAction) {
    let CopyAction { input, sources, dest, owner, chmod, parents, excludes, unpack, reset_owner } = copy;
    write_dest(key, "copy to", dest);
    key.number("from input", *input as u64);
    key.texts("source", sources.iter().map(String::as_str));
    write_owner(key, owner.as_ref());
    write_chmod(key, chmod.as_ref());
    key.texts("exclude", excludes.iter().map(String::as_str));
    key.text("options", &format!("parents={parents},unpack={unpack},reset_owner={reset_owner}"));
}

fn write_dest(key: &mut KeyWriter, name: &str, dest: &Dest) {
    key.text(name, &dest.path);
    key.text("destination is a directory", if dest.is_dir { "yes" } else { "no" });
}

fn write_owner(key: &mut KeyWriter, owner: Option<&Owner>) {
    key.texts("owner", owner.map(|owner| owner.text.as_str()).into_iter().collect::<Vec<_>>().into_iter());
}

fn write_chmod(key: &mut KeyWriter, chmod: Option<&Chmod>) {
    let text = match chmod {
        None => String::new(),
        Some(Chmod::Octal(mode)) => format!("{mode:o}"),
        Some(Chmod::Symbolic(text)) => text.clone(),
    };
    key.text("chmod", &text);
}

#[cfg(test)]
mod tests {
    use builder_snapshot::TreePath;

    use super::*;
    use crate::graph::Sharing;
    use crate::oci::Platform;

    fn variable(name: &str, value: &str) -> crate::graph::Variable {
        (name.to_owned(), value.to_owned()).into()
    }

    fn op() -> ExecOp {
        ExecOp {
            argv: vec!["/bin/sh".into(), "-c".into(), "true".into()],
            env: vec![variable("PATH", "/bin"), variable("A", "1")],
            proxy_env: vec![],
            cwd: "/".into(),
            user: String::new(),
            hostname: "buildkitsandbox".into(),
            network: Network::Default,
            security: Security::Sandbox,
            mounts: vec![],
            extra_hosts: vec![("h".into(), "1.2.3.4".into())],
            shm_size_bytes: None,
            ulimits: vec![("nofile".into(), 5, 6)],
            timeout: None,
            retries: 0,
            platform: Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() },
        }
    }

    fn content(n: u8) -> InputContent {
        InputContent::Whole(ContentId(Sha256Digest([n; 32])))
    }

    fn exec_key(op: &ExecOp) -> Key {
        exec(op, Network::Default, &[content(1), content(2)]).0
    }

    fn changed(change: impl FnOnce(&mut ExecOp)) -> bool {
        let mut other = op();
        change(&mut other);
        exec_key(&other) != exec_key(&op())
    }

    fn mount(target: &str, kind: MountKind) -> Mount {
        Mount { target: target.into(), kind }
    }

    #[test]
    fn b2_1_what_counts_for_a_process() {
        assert!(changed(|op| op.argv[2] = "false".into()));
        assert!(changed(|op| op.argv = vec!["/bin/sh".into(), "-ctrue".into()]), "fields cannot run together");
        assert!(changed(|op| op.env.swap(0, 1)));
        assert!(changed(|op| op.env[1] = variable("A", "2")));
        assert!(changed(|op| op.cwd = "/x".into()));
        assert!(changed(|op| op.user = "1".into()));
        assert!(changed(|op| op.hostname = "h".into()));
        assert!(changed(|op| op.network = Network::None));
        assert!(changed(|op| op.security = Security::Insecure));
        assert!(changed(|op| op.extra_hosts[0].0 = "other".into()));
        assert!(changed(|op| op.ulimits[0].1 = 4));
        assert!(changed(|op| op.platform.architecture = "arm64".into()));
        assert!(changed(|op| op.mounts.push(mount("/t", MountKind::Tmpfs { size_bytes: None }))));
        assert_ne!(exec(&op(), Network::Default, &[content(1)]), exec(&op(), Network::Default, &[content(3)]));
        assert_ne!(exec(&op(), Network::None, &[content(1)]).0, exec(&op(), Network::Default, &[content(1)]).0);
    }

    #[test]
    fn b2_1_what_does_not_count_for_a_process() {
        assert!(!changed(|op| op.proxy_env = vec![("HTTP_PROXY".into(), "http://p".into())]));
        assert!(!changed(|op| op.extra_hosts[0].1 = "5.6.7.8".into()));
        assert!(!changed(|op| op.shm_size_bytes = Some(1)));
        assert!(!changed(|op| op.timeout = Some(std::time::Duration::from_secs(1))) && !changed(|op| op.retries = 1));
    }

    #[test]
    fn b2_1_mounts_count_by_their_options_and_what_they_show() {
        let cache = |id: &str, sharing, mode| {
            mount("/c", MountKind::Cache { id: id.into(), sharing, from: None, source: TreePath::root(), read_only: false, mode, uid: 0, gid: 0 })
        };
        let secret = |id: &str| mount("/s", MountKind::Secret { id: id.into(), file: true, env: None, required: false, mode: 0o400, uid: 0, gid: 0 });
        let with = |mount: Mount| exec_key(&ExecOp { mounts: vec![mount], ..op() });
        assert_eq!(with(cache("a", Sharing::Shared, 0o755)), with(cache("b", Sharing::Locked, 0o755)));
        assert_ne!(with(cache("a", Sharing::Shared, 0o755)), with(cache("a", Sharing::Shared, 0o700)));
        assert_ne!(with(secret("a")), with(secret("b")));

        let bind = |source: &str| MountKind::Bind { input: 1, source: TreePath::new(source).expect("path"), writable: false };
        let bound = |source, input| exec(&ExecOp { mounts: vec![mount("/b", bind(source))], ..op() }, Network::Default, &[content(1), input]).0;
        assert_ne!(bound("a", content(2)), bound("b", content(2)));
        let part = InputContent::Part(Sha256Digest([7; 32]));
        assert_eq!(bound("a", part), bound("b", part), "a selected part counts by its content alone");
    }

    #[test]
    fn fields_tell_what_differs() {
        let mut other = op();
        other.env[1] = variable("A", "2");
        let (one, two) = (exec(&op(), Network::Default, &[content(1)]).1, exec(&other, Network::Default, &[content(1)]).1);
        let differing: Vec<_> = one.0.iter().zip(&two.0).filter(|(a, b)| a != b).map(|(a, _)| a.0.as_str()).collect();
        assert_eq!(differing, ["variable A"]);
    }

    #[test]
    fn long_values_are_cut_and_still_told_apart() {
        let shown = |value: &str| {
            let mut key = KeyWriter::new("x", 1);
            key.text("v", value);
            key.finish().1.0.pop().expect("field").1
        };
        let long = "ä".repeat(1000);
        assert!(shown(&long).len() < 400);
        assert_ne!(shown(&long), shown(&format!("{long}x")));
    }
}
