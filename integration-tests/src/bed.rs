//! A scratch place for builds, and builds in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::image::Image;
use crate::registry::Registry;
use crate::require;

/// A scratch directory with a state directory and a configuration; everything goes when it is dropped.
pub struct Bed {
    dir: tempfile::TempDir,
    registry: Option<Registry>,
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

impl Bed {
    /// An empty one.
    ///
    /// # Panics
    /// When the temporary directory can't be written.
    #[must_use]
    pub fn new() -> Self {
        require::root();
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("rbuild.toml"), "").expect("configuration");
        Self { dir, registry: None }
    }

    /// One with a registry that stands in for docker.io and holds `busybox`.
    ///
    /// # Panics
    /// When the registry can't be started.
    #[must_use]
    pub fn with_registry() -> Self {
        let mut bed = Self::new();
        let registry = Registry::start(&bed.path("registry"));
        std::fs::write(bed.path("rbuild.toml"), registry.configuration()).expect("configuration");
        registry.push(&crate::fixtures::busybox(), "library/busybox:latest");
        bed.registry = Some(registry);
        bed
    }

    /// Writes the configuration that its builds read.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.path("rbuild.toml"), text).expect("configuration");
    }

    /// Its registry.
    ///
    /// # Panics
    /// When it was made without one.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("Bed::with_registry")
    }

    /// A path below the scratch directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The state directory of builds that name no other.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes files below the directory `name` and returns it. An empty text makes an empty file, a name with a slash at its end a directory.
    ///
    /// # Panics
    /// When they can't be written.
    #[must_use]
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path(name);
        std::fs::create_dir_all(&root).expect("context");
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("below the context")).expect("directory");
            std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        root
    }

    /// A build of `context` with this bed's state and configuration, `--progress plain`, exporting an OCI tar.
    #[must_use]
    pub fn build(&self, context: &Path) -> Build {
        let output = self.path(&format!("{}.tar", context.file_name().unwrap_or_default().to_string_lossy()));
        Build {
            dir: self.dir.path().to_owned(),
            context: context.to_owned(),
            user: None,
            under: Vec::new(),
            through: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::from([
                ("RBUILD_ROOT".into(), self.state().into()),
                ("RBUILD_CONFIG".into(), self.path("rbuild.toml").into()),
                ("NO_COLOR".into(), "1".into()),
            ]),
            output: Some(output),
            input: None,
        }
    }
}

/// One run of `rbuild build`.
#[derive(Clone)]
pub struct Build {
    /// The bed's scratch directory.
    dir: PathBuf,
    context: PathBuf,
    user: Option<User>,
    under: Vec<OsString>,
    through: Vec<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    output: Option<PathBuf>,
    /// What standard input is; nothing if none.
    input: Option<PathBuf>,
}

/// Another user of the machine.
#[derive(Clone)]
struct User {
    uid: u32,
    gid: u32,
    /// A directory of its own, with a copy of the binary: the checkout may be out of its reach.
    home: PathBuf,
}

impl User {
    /// The user of this name, or number (which need not be anybody's), with its directory in `dir`.
    fn at(dir: &Path, name: &str) -> Self {
        let number = |flag| -> u32 {
            let output = Command::new("id").args([flag, name]).output().expect("id starts");
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            text.parse().unwrap_or_else(|_| panic!("this test needs the user `{name}`: scripts/install-test-tools.sh makes it"))
        };
        let (uid, gid) = name.parse().map_or_else(|_| (number("-u"), number("-g")), |id| (id, id));
        let home = dir.join(format!("home-{name}"));
        if !home.is_dir() {
            std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
            std::fs::create_dir(&home).expect("ours");
            // By another process: what this one has open for writing is held open for an instant by everything that other tests start, and cannot be run then.
            let copied = Command::new("cp").arg(require::rbuild()).arg(home.join("rbuild")).status();
            assert!(copied.expect("cp").success(), "a copy of rbuild");
            std::os::unix::fs::chown(&home, Some(uid), Some(gid)).expect("root");
        }
        Self { uid, gid, home }
    }
}

impl Build {
    /// Run by another user, with a state directory, a home and an output of its own.
    ///
    /// # Panics
    /// When there is no such user.
    #[must_use]
    pub fn as_user(mut self, name: &str) -> Self {
        let user = User::at(&self.dir, name);
        self.output = self.output.map(|output| user.home.join(output.file_name().unwrap_or_default()));
        self = self.env("HOME", &user.home).env("RBUILD_ROOT", user.home.join("state"));
        self.user = Some(user);
        self
    }

    /// Run by another program, as that user: the words before those of `rbuild`.
    #[must_use]
    pub fn through<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.through = words.into_iter().map(Into::into).collect();
        self
    }

    /// Run by another program, as this test's user, whoever runs the build: words before all others.
    #[must_use]
    pub fn under<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.under = words.into_iter().map(Into::into).collect();
        self
    }

    /// The binary that is run.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.user.as_ref().map_or_else(require::rbuild, |user| user.home.join("rbuild"))
    }

    /// The directory of the user that runs it.
    ///
    /// # Panics
    /// Before [`Build::as_user`].
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.user.as_ref().expect("Build::as_user").home
    }

    /// Further words of the command line.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Another state directory.
    #[must_use]
    pub fn state(self, path: &Path) -> Self {
        self.env("RBUILD_ROOT", path)
    }

    /// No output but the store.
    #[must_use]
    pub fn no_output(mut self) -> Self {
        self.output = None;
        self
    }

    /// The OCI tar goes there.
    #[must_use]
    pub fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// The context is this archive, on standard input.
    #[must_use]
    pub fn archive(mut self, file: &Path) -> Self {
        self.context = "-".into();
        self.input = Some(file.to_owned());
        self
    }

    /// What `rbuild doctor` says where this build would run.
    ///
    /// # Panics
    /// When the binary can't be started.
    #[must_use]
    pub fn doctor(&self) -> Outcome {
        let mut command = self.rbuild();
        command.args(["doctor", "--format", "json"]);
        Running { child: command.spawn().expect("rbuild starts"), output: None }.wait()
    }

    /// The program, as whom and where it runs, without its words.
    fn rbuild(&self) -> Command {
        let mut words = self.under.clone();
        if let Some(User { uid, gid, .. }) = &self.user {
            words.push(require::tool("setpriv", "util-linux").into());
            words.extend([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "--".into()].map(OsString::from));
            words.extend(self.through.iter().cloned());
        }
        words.push(self.program().into());
        let mut command = Command::new(&words[0]);
        // The builder's own environment is small on purpose: nothing of the machine's leaks into a test.
        command.args(&words[1..]).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.env);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn command(&self) -> Command {
        let mut command = self.rbuild();
        command.args(["build", "--progress", "plain"]).args(&self.args);
        if let Some(output) = &self.output {
            command.arg("-o").arg(format!("type=oci,dest={}", output.display()));
        }
        if let Some(input) = &self.input {
            command.stdin(std::fs::File::open(input).expect("ours"));
        }
        command.arg(&self.context);
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When the binary can't be started.
    #[must_use]
    pub fn start(&self) -> Running {
        Running { child: self.command().spawn().expect("rbuild starts"), output: self.output.clone() }
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run(&self) -> Outcome {
        self.start().wait()
    }

    /// Runs it to its end, which must be a good one.
    ///
    /// # Panics
    /// When it fails, with everything it said.
    #[must_use]
    pub fn ok(&self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "rbuild failed:\n{}", outcome.log);
        outcome
    }
}

/// A build that has been started.
pub struct Running {
    child: Child,
    output: Option<PathBuf>,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it can't be waited for.
    #[must_use]
    pub fn wait(self) -> Outcome {
        let result = self.child.wait_with_output().expect("rbuild can be waited for");
        Outcome {
            code: result.status.code(),
            log: String::from_utf8_lossy(&result.stderr).into_owned(),
            stdout: String::from_utf8_lossy(&result.stdout).into_owned(),
            output: self.output,
        }
    }
}

/// What a build came to.
pub struct Outcome {
    /// Exit status; none for a signal.
    pub code: Option<i32>,
    /// Standard error: progress and errors.
    pub log: String,
    /// Standard output: results.
    pub stdout: String,
    output: Option<PathBuf>,
}

impl Outcome {
    /// Whether an image was asked for.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.output.is_some()
    }

    /// The exported image.
    ///
    /// # Panics
    /// When nothing was exported or it is no image.
    #[must_use]
    pub fn image(&self) -> Image {
        Image::read(self.output.as_deref().expect("an output"))
    }

    /// Names of the steps that ran: those of the form `[… n/m] …` that ended with DONE.
    #[must_use]
    pub fn ran(&self) -> Vec<String> {
        self.steps("DONE")
    }

    /// Names of the steps that were cached.
    #[must_use]
    pub fn cached(&self) -> Vec<String> {
        self.steps("CACHED")
    }

    fn steps(&self, ending: &str) -> Vec<String> {
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        let mut found = Vec::new();
        for line in self.log.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else { continue };
            let is_step = rest.starts_with('[') && !rest.starts_with("[internal]") && rest.split(']').next().is_some_and(|head| head.contains('/'));
            if is_step {
                names.entry(number).or_insert(rest);
            } else if rest.split(' ').next() == Some(ending)
                && let Some(name) = names.get(number)
                && !name.contains("] FROM ")
            {
                found.push((*name).to_owned());
            }
        }
        found
    }
}
