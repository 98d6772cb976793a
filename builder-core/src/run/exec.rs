//! Running a process on a stack of layers (`features.md` A8, E1): mounts, secrets, user, log, and the layer that comes of it.
//!
//! # Invariants
//! - Values of secrets are in memory only: in the sandbox's tmpfs and environment, never in a file, key, log or message.
//! - What a step may not do without being allowed is refused before anything is made.
//! - Nothing is left mounted or running, whatever the end: mounts are detached and die with their descriptors.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use builder_snapshot::diagnosis::Lack;
use builder_snapshot::exec::stubs::{self, StubDirs, StubKind};
use builder_snapshot::exec::{
    self, Cancel, ExecError, ExitReport, NetworkLease, NetworkMode, OutputSink as _, OutputStream, ProcessSpec, ResourceLimits, SandboxMount,
    SandboxMountSource, SecurityMode, Ulimit, resolve_user,
};
use builder_snapshot::snapshot::{ActiveSnapshot, CommittedLayer, Snapshotter, SnapshotterKind, View, ViewFiles, detach_tree};
use builder_snapshot::toc::Timestamp;
use builder_snapshot::tree::{FoundKind, MergedTree};
use builder_snapshot::user_namespace::{self, Isolation};
use builder_snapshot::{SnapshotError, StopSignal, TreePath};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::apt;
use super::caches::{Caches, Origin};
use super::emulator::{self, Emulation};
use super::host_ca;
use super::log::{LogEnd, LogTarget, Masker, StepLog};
use super::ssh::AgentProxy;
use crate::content::Store;
use crate::error::StepError;
use crate::graph::{ExecOp, Mount, MountKind, Network, Security};
use crate::request::Entitlement;
use crate::secret::Secret;

/// What processes get as PATH when neither image nor definition says one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Size of /dev/shm unless said otherwise.
const DEFAULT_SHM_BYTES: u64 = 64 * 1024 * 1024;

/// What all processes of a build share.
#[derive(Debug, Clone)]
pub struct ExecSettings {
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Agent sockets by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Entitlements granted.
    pub allow: Vec<Entitlement>,
    /// Network of processes that ask for the default.
    pub network: Network,
    /// What each process and everything it starts may use.
    pub resources: ResourceLimits,
    /// How long each process may run.
    pub step_timeout: Option<Duration>,
    /// Text of the machine's resolv.conf.
    pub resolv_conf: Vec<u8>,
    /// The same of the resolver that it may lead to on a loopback address: what that one asks.
    pub upstream_resolv_conf: Vec<u8>,
    /// Certificates that processes trust in the place of the image's.
    pub host_ca: Option<Arc<[u8]>>,
    /// Where programs of this machine are searched: emulators.
    pub search_path: Option<OsString>,
}

/// How a process ended.
pub enum ExecEnd {
    /// Well: this is what it changed.
    Committed {
        /// The layer.
        layer: CommittedLayer,
        /// What it said.
        log: LogEnd,
    },
    /// It was stopped.
    Stopped,
    /// Badly.
    Failed {
        /// Why.
        cause: StepError,
        /// What it said.
        log: LogEnd,
    },
}

/// One run of a process.
pub struct Execution<'a> {
    /// What runs.
    pub op: &'a ExecOp,
    /// Directories of the layers of each input, bottom first; all are there.
    pub inputs: &'a [Vec<PathBuf>],
    /// For the build.
    pub settings: &'a ExecSettings,
    /// Where things are.
    pub store: &'a Store,
    /// Makes what processes run on.
    pub snapshots: &'a Snapshotter,
    /// Mount points that images lack.
    pub stubs: &'a StubDirs,
    /// The network of a process that asks for the default; none for the machine's.
    pub private_network: &'a dyn Fn() -> Option<NetworkLease>,
    /// Where its log is kept.
    pub log_path: PathBuf,
    /// Where its output goes.
    pub target: Arc<dyn LogTarget>,
    /// Ends what is done before and after the process.
    pub stop: StopSignal,
    /// Whether cache mounts begin empty (`--no-cache`): says which ones were not emptied in this build yet.
    pub clear_cache: &'a dyn Fn(&str) -> bool,
}

/// The network that `op` gets.
#[must_use]
pub fn effective_network(op: &ExecOp, default: Network) -> Network {
    if op.network == Network::Default { default } else { op.network }
}

/// What `op` asks for and may not have, or lacks; checked before anything is made.
///
/// # Errors
/// A missing entitlement; a required secret or agent that was not given.
pub fn check(op: &ExecOp, settings: &ExecSettings) -> Result<(), StepError> {
    let allowed = |entitlement: Entitlement, name: &str| {
        if settings.allow.contains(&entitlement) {
            return Ok(());
        }
        Err(StepError::Other { message: format!("entitlement {name} is not allowed"), help: Some(format!("allow it with --allow {name}")) })
    };
    if Isolation::current() == Isolation::None {
        return Err(refused_by_machine());
    }
    // Whoever makes it the default of the whole build has allowed it.
    if op.network == Network::Host && settings.network != Network::Host {
        allowed(Entitlement::NetworkHost, "network.host")?;
    }
    if op.security == Security::Insecure {
        allowed(Entitlement::SecurityInsecure, "security.insecure")?;
    }
    for mount in &op.mounts {
        match &mount.kind {
            MountKind::Secret { id, required: true, .. } if !settings.secrets.contains_key(id) => {
                return Err(StepError::Other {
                    message: format!("secret {id}: not found"),
                    help: Some(format!("give it with --secret id={id},src=FILE")),
                });
            }
            MountKind::Ssh { id, required: true, .. } if !settings.ssh.contains_key(id) => {
                return Err(StepError::Other { message: format!("ssh agent {id}: not found"), help: Some(format!("give it with --ssh {id}")) });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why no process can run at all.
fn refused_by_machine() -> StepError {
    let message = "cannot run a step: ";
    match user_namespace::lack() {
        Some(Lack { cause, remedy, .. }) => StepError::Machine { message: format!("{message}{cause}"), help: Some(remedy.clone()) },
        // Of a program that embeds the builder.
        None => StepError::Machine {
            message: format!("{message}this process may not mount (CAP_SYS_ADMIN), and has entered no user namespace"),
            help: Some("call builder_snapshot::enter_user_namespace before the first thread is started".to_owned()),
        },
    }
}

fn exec_failed(error: &ExecError, masker: &Masker) -> StepError {
    match error {
        ExecError::Sandbox { action, source, remedy } => StepError::Machine {
            message: mask_text(masker, &format!("cannot {action}: {source}")),
            help: Some(remedy.trim_start_matches("; ").to_owned()).filter(|help| !help.is_empty()),
        },
        ExecError::Program { program, reason } if !reason.contains("; ") => {
            let help = match () {
                () if reason.starts_with("no such program") => {
                    "the image does not have it: install it in an earlier instruction, or write its whole path"
                }
                () if reason.starts_with("no such file") => "paths are those of the image: copy the file into it in an earlier instruction",
                () => return StepError::other(mask_text(masker, &error.to_string())),
            };
            StepError::Other { message: mask_text(masker, &format!("cannot run {program:?}: {reason}")), help: Some(help.to_owned()) }
        }
        other => StepError::advised(&mask_text(masker, &other.to_string())),
    }
}

fn mount_failed(error: SnapshotError) -> StepError {
    match error.refusal() {
        Some((message, help)) => StepError::Machine { message, help: Some(help).filter(|help| !help.is_empty()) },
        None => text(error),
    }
}

/// Why an attempt failed, and whether it was the process itself that did: only then can another attempt help.
struct Failure {
    cause: StepError,
    ran: bool,
}

impl From<StepError> for Failure {
    fn from(cause: StepError) -> Self {
        Self { cause, ran: false }
    }
}

/// The longest pause before a process is run again.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long to wait before the n-th repetition: what failed because of a busy server should find it less busy.
fn pause_before(repetition: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(1 << (repetition - 1).min(5)).min(MAX_PAUSE)
}

/// Waits, but not longer than until the build is cancelled; says whether it was.
fn cancelled_within(cancel: &Cancel, time: Duration) -> bool {
    let timeout = Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(time.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::new(&cancel.0, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            // A signal for another thread; waiting a little longer does no harm.
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// What is kept alive while the process runs, and what is done with it afterwards.
#[derive(Default)]
struct Held {
    views: Vec<ViewFiles>,
    caches: Caches,
    agents: Vec<AgentProxy>,
}

impl Execution<'_> {
    /// Runs the process to its end. Blocks.
    #[must_use]
    pub fn run(self, cancel: &Cancel) -> ExecEnd {
        let values = |secret: &Secret| secret.expose().to_vec();
        // What another step was lent may have reached this one through a file.
        let masker =
            Masker::new(&self.used_secrets().map(values).collect::<Vec<_>>(), &self.settings.secrets.values().map(values).collect::<Vec<_>>());
        let mut log = StepLog::new(Arc::clone(&self.target), self.log_path.clone(), masker.clone());
        let mut again = 0;
        loop {
            match self.attempt(&mut log, &masker, cancel) {
                Ok(Some(layer)) => return ExecEnd::Committed { layer, log: log.finish() },
                Ok(None) => return ExecEnd::Stopped,
                Err(Failure { cause, ran: true }) if again < self.op.retries => {
                    again += 1;
                    let note = format!("[rbuild: {cause}; attempt {} of {}]\n", again + 1, self.op.retries.saturating_add(1));
                    log.output(OutputStream::Stderr, note.as_bytes());
                    if cancelled_within(cancel, pause_before(again)) {
                        return ExecEnd::Stopped;
                    }
                }
                Err(Failure { cause, .. }) => return ExecEnd::Failed { cause, log: log.finish() },
            }
        }
    }

    fn attempt(&self, log: &mut StepLog, masker: &Masker, cancel: &Cancel) -> Result<Option<CommittedLayer>, Failure> {
        let tmp = self.store.tmp_dir().map_err(|e| StepError::other(e.to_string()))?;
        let root_layers = self.inputs.first().ok_or_else(|| StepError::other("a process needs a root file system"))?;
        // Until the process has ended nobody links to the files that it sees.
        let lease = self.store.leases().hold(self.inputs).map_err(text)?;
        // Two layers that share an inode, which a stack comes by when layers are put onto others than they were made on: the process would
        // take two files for two names of one. In a copy they are two.
        let copies = lease.shares_inodes.then(|| Snapshotter::new(SnapshotterKind::Copy));
        let snapshots = copies.as_ref().unwrap_or(self.snapshots);
        let snapshot = snapshots.prepare(tmp, root_layers, &self.stop).map_err(text)?;
        if let Some(reason) = snapshot.why_copied() {
            self.target.warning(reason);
        }
        let tree = MergedTree::open(root_layers).map_err(text)?;
        let user =
            resolve_user(&self.op.user, &tree, self.store.limits().user_database_bytes).map_err(|error| StepError::advised(&error.to_string()))?;

        // Before anything is made: what is made counts as made by the step.
        let started = now();
        let mut targets = stubs::standard_targets();
        targets.retain(|(target, kind)| *kind != StubKind::Dir || !keep_directory(&snapshot, &tree, target));
        let origin = Origin { inputs: self.inputs, store: self.store, clear: self.clear_cache, direct: !self.snapshots.uses_overlay(tmp) };
        let mut held = Held { caches: Caches::take(self.op, &origin, cancel, self.target.as_ref())?, ..Held::default() };
        let mut mounts = Vec::with_capacity(self.op.mounts.len());
        for mount in &self.op.mounts {
            let target = TreePath::clipped(&mount.target).map_err(text)?;
            let Some(prepared) = self.prepare_mount(snapshots, mount, &mut held)? else { continue };
            targets.push((target.clone(), prepared.stub));
            mounts.push(SandboxMount { target, source: prepared.source, read_only: prepared.read_only });
        }
        let emulation = emulator::find(&self.op.platform, self.settings.search_path.as_deref(), tmp);
        let argv = self.command(&emulation, &tree, &mut targets, &mut mounts)?;
        let bundles = self.settings.host_ca.as_ref().map(|bundle| Ok::<_, StepError>((bundle, host_ca::replaced(&tree)?))).transpose()?;
        let mut shown = Vec::new();
        if let Some((bundle, replaced)) = &bundles {
            shown.extend(replaced.iter().map(|replaced| replaced.shown(bundle)));
            let source = SandboxMountSource::MemoryFile { bytes: bundle.to_vec(), mode: 0o444, uid: 0, gid: 0 };
            mounts.push(SandboxMount { target: TreePath::new(host_ca::FILE).expect("a clean constant"), source, read_only: true });
        }
        let apt = apt::setting(&tree).map_err(text)?;
        let has_apt_setting = apt.is_some();
        mounts.extend(apt);
        let top_lower = self.stubs.prepare_with(&tree, &targets, &shown).map_err(text)?;
        // The tree's descriptors are not needed any more.
        drop(tree);
        let root = snapshot.mount(top_lower.as_deref()).map_err(mount_failed)?;

        let (network, lease_of_network) = self.network()?;
        let resolv_conf = exec::resolv_conf(&self.settings.resolv_conf, &self.settings.upstream_resolv_conf, &network);
        let spec = ProcessSpec {
            root,
            argv,
            env: self.environment(has_apt_setting),
            cwd: PathBuf::from(&self.op.cwd),
            user,
            hostname: self.op.hostname.clone(),
            mounts,
            network,
            security: match self.op.security {
                Security::Sandbox => SecurityMode::Sandbox,
                Security::Insecure => SecurityMode::Insecure,
            },
            shm_size_bytes: self.op.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES),
            ulimits: self.op.ulimits.iter().map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard }).collect(),
            resources: self.settings.resources.clone(),
            timeout: self.timeout(),
            hosts: hosts(&self.op.hostname, &self.op.extra_hosts),
            resolv_conf,
            owners: snapshot.owners(),
        };
        let room = self.store.room();
        let times_full = room.times_full();
        let end = exec::run(spec, log, Some(cancel)).map_err(|e| self.exec_failed(&e, &emulation, masker));
        // Before anything that the step wrote goes: a full disk may be why it failed, or another step.
        room.look();
        let was_full = room.times_full() > times_full || log.met_full_disk();
        let ended_by_itself = matches!(end, Ok(ExitReport::Exited(_)));
        if ended_by_itself {
            held.caches.publish(self.target.as_ref());
        }
        drop(held.agents);
        drop(held.views);
        drop(lease);
        drop(lease_of_network);
        match end? {
            ExitReport::Exited(0) => {
                if let Some((bundle, replaced)) = bundles {
                    let touched: Vec<_> = replaced.into_iter().filter(|replaced| snapshot.has_touched(replaced.path())).collect();
                    host_ca::take_back(&snapshot.changed_files(), &touched, bundle)
                        .map_err(|error| StepError::other(format!("cannot take this machine's certificates out of the step's changes: {error}")))?;
                }
                Ok(Some(snapshot.commit(started).map_err(text)?))
            }
            ExitReport::Exited(code) => Err(Failure { cause: self.exit_code(code, masker, was_full), ran: true }),
            ExitReport::Signalled(signal) => Err(Failure { cause: self.exit_code(128 + signal, masker, was_full), ran: true }),
            ExitReport::OutOfMemory { limit_bytes } => Err(self.out_of_memory(limit_bytes, masker).into()),
            ExitReport::TimedOut => Err(Failure { cause: self.timed_out(masker), ran: true }),
            ExitReport::Cancelled => Ok(None),
        }
    }

    /// The process's network, and what must be kept until it has ended.
    fn network(&self) -> Result<(NetworkMode, Option<NetworkLease>), StepError> {
        Ok(match effective_network(self.op, self.settings.network) {
            Network::None => (NetworkMode::None, None),
            Network::Host => (NetworkMode::Host, None),
            Network::Default => match (self.private_network)() {
                Some(mut lease) => {
                    if self.op.security == Security::Insecure {
                        lease.spoil();
                    }
                    let namespace = lease.namespace().map_err(|error| StepError::other(format!("cannot enter the step's network: {error}")))?;
                    (NetworkMode::Private(namespace), Some(lease))
                }
                None => (NetworkMode::Host, None),
            },
        })
    }

    /// Program and arguments, with the emulator that they need, if any.
    fn command(
        &self,
        emulation: &Emulation,
        tree: &MergedTree,
        targets: &mut Vec<(TreePath, StubKind)>,
        mounts: &mut Vec<SandboxMount>,
    ) -> Result<Vec<OsString>, StepError> {
        let mut argv: Vec<OsString> = self.op.argv.iter().map(OsString::from).collect();
        let (emulator, target) = match emulation {
            Emulation::None | Emulation::Missing => return Ok(argv),
            Emulation::Shown(emulator) => (emulator, TreePath::clipped(emulator.as_os_str().as_encoded_bytes()).map_err(text)?),
            Emulation::InFront(emulator) => (emulator, TreePath::new(emulator::PLACE).expect("a clean constant")),
        };
        if matches!(emulation, Emulation::InFront(_)) {
            // It opens the program itself, by its path, and is told the name that the program was called by.
            if let Some(program) = argv.first().filter(|program| !program.as_encoded_bytes().contains(&b'/')) {
                let found = self.find_program(program, tree)?;
                argv[0] = found.unwrap_or_else(|| program.clone());
            }
            argv.insert(0, format!("/{}", target.display()).into());
            self.target.warning(&format!(
                "{} programs run through {}: the first one of each step only, since the kernel was not told about it (binfmt_misc); install binfmt-support, or run rbuild as an ordinary user",
                self.op.platform,
                emulator.display()
            ));
        } else if tree.resolve(&target).map_err(text)?.found.is_some() {
            // The image brings its own.
            return Ok(argv);
        } else {
            targets.push((target.clone(), StubKind::File));
        }
        let mount = detach_tree(emulator).map_err(|error| StepError::other(format!("cannot mount the emulator {}: {error}", emulator.display())))?;
        mounts.push(SandboxMount { target, source: whole(mount), read_only: true });
        Ok(argv)
    }

    /// A program of the image, searched on the step's PATH.
    fn find_program(&self, name: &OsString, tree: &MergedTree) -> Result<Option<OsString>, StepError> {
        let path = self.op.env.iter().rfind(|variable| variable.0 == "PATH").map_or(DEFAULT_PATH, |variable| variable.1.as_str());
        for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
            let file = Path::new(dir).join(name);
            if tree.resolve(&TreePath::clipped(file.as_os_str().as_encoded_bytes()).map_err(text)?).map_err(text)?.found.is_some() {
                return Ok(Some(file.into()));
            }
        }
        Ok(None)
    }

    fn exec_failed(&self, error: &ExecError, emulation: &Emulation, masker: &Masker) -> StepError {
        match error {
            ExecError::Program { reason, .. } if *emulation == Emulation::Missing && reason.starts_with("exec format error") => {
                StepError::Other { message: mask_text(masker, &error.to_string()), help: Some(emulator::remedy(&self.op.platform)) }
            }
            error => exec_failed(error, masker),
        }
    }

    /// If the store's disk was full when the process ended, that may be why it failed.
    fn exit_code(&self, code: i32, masker: &Masker, was_full: bool) -> StepError {
        let process = mask_text(masker, &self.op.argv.join(" "));
        if Isolation::current() == Isolation::OneId
            && let Some(lack) = user_namespace::lack()
        {
            // The program said no more than `Invalid argument`, or `Operation not permitted`.
            self.target.warning(&format!("if it wanted to become another user: here there is only user 0, because {lack}"));
        }
        if was_full { StepError::DiskFull { process, code, store: self.store.root().to_owned() } } else { StepError::ExitCode { process, code } }
    }

    fn out_of_memory(&self, limit_bytes: Option<u64>, masker: &Masker) -> StepError {
        let process = mask_text(masker, &self.op.argv.join(" "));
        let (limit, help) = match limit_bytes {
            Some(bytes) => (
                format!(" (limit {})", binary_size(bytes)),
                "the kernel killed one of its processes at the limit that this build was given: raise it with --resource memory=SIZE",
            ),
            None => (String::new(), "the kernel killed it; give the machine or its control group more memory, or run fewer steps at once"),
        };
        StepError::Other { message: format!("process {process:?} did not complete successfully: out of memory{limit}"), help: Some(help.to_owned()) }
    }

    /// How long the process may run: the shorter of what it and what the build was given.
    fn timeout(&self) -> Option<Duration> {
        self.op.timeout.into_iter().chain(self.settings.step_timeout).min()
    }

    fn timed_out(&self, masker: &Masker) -> StepError {
        let process = mask_text(masker, &self.op.argv.join(" "));
        let limit = self.timeout().unwrap_or_default();
        let of_its_own = self.op.timeout == Some(limit);
        let which = if of_its_own { " (its --timeout)" } else { "" };
        let remedy = if of_its_own { "give it more time, or see in its output what it waits for" } else { "raise --step-timeout, or leave it out" };
        StepError::Other {
            message: format!("process {process:?} did not complete successfully: it ran longer than {limit:?}{which}"),
            help: Some(format!("it and everything it started was killed; {remedy}")),
        }
    }

    fn used_secrets(&self) -> impl Iterator<Item = &Secret> {
        self.op.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => self.settings.secrets.get(id),
            _ => None,
        })
    }

    /// In this order (`features.md` E1.9): the stage's, proxies, PATH, secrets.
    fn environment(&self, has_apt_setting: bool) -> Vec<(OsString, OsString)> {
        use std::os::unix::ffi::OsStringExt as _;

        let mut env: Vec<(OsString, OsString)> =
            self.op.env.iter().map(|variable| &**variable).chain(&self.op.proxy_env).map(|(name, value)| (name.into(), value.into())).collect();
        if !env.iter().any(|(name, _)| name == "PATH") {
            env.push(("PATH".into(), DEFAULT_PATH.into()));
        }
        if self.settings.host_ca.is_some() {
            for name in host_ca::VARIABLES {
                // What the definition says is meant.
                if !env.iter().any(|(there, _)| there == name) {
                    env.push((name.into(), format!("/{}", host_ca::FILE).into()));
                }
            }
        }
        if has_apt_setting && !env.iter().any(|(name, _)| name == apt::VARIABLE) {
            env.push((apt::VARIABLE.into(), apt::VALUE.into()));
        }
        for mount in &self.op.mounts {
            if let MountKind::Secret { id, env: Some(name), .. } = &mount.kind {
                // An optional secret that was not given is an empty variable (observed with BuildKit).
                let value = self.settings.secrets.get(id).map(|secret| secret.expose().to_vec()).unwrap_or_default();
                env.push((name.into(), OsString::from_vec(value)));
            }
        }
        env
    }

    fn prepare_mount(&self, snapshots: &Snapshotter, mount: &Mount, held: &mut Held) -> Result<Option<Prepared>, StepError> {
        Ok(Some(match &mount.kind {
            MountKind::Bind { input, source, writable } => self.prepare_bind(snapshots, *input, source, *writable, held)?,
            MountKind::Cache { read_only, .. } => {
                Prepared { stub: StubKind::Dir, source: whole(held.caches.view(mount, self.inputs)?), read_only: *read_only }
            }
            MountKind::Tmpfs { size_bytes } => {
                Prepared { stub: StubKind::Dir, source: SandboxMountSource::Tmpfs { size_bytes: *size_bytes, mode: 0o1777 }, read_only: false }
            }
            MountKind::Secret { id, file: true, mode, uid, gid, .. } => match self.settings.secrets.get(id) {
                Some(secret) => Prepared {
                    stub: StubKind::File,
                    source: SandboxMountSource::MemoryFile { bytes: secret.expose().to_vec(), mode: *mode, uid: *uid, gid: *gid },
                    read_only: true,
                },
                None => return Ok(None),
            },
            MountKind::Secret { file: false, .. } => return Ok(None),
            MountKind::Ssh { id, mode, uid, gid, .. } => match self.settings.ssh.get(id) {
                Some(agent) => {
                    let tmp = self.store.tmp_dir().map_err(|e| StepError::other(e.to_string()))?;
                    let proxy = AgentProxy::start(agent, tmp, *mode, (*uid, *gid))
                        .map_err(|e| StepError::other(format!("cannot pass on the ssh agent {id} at {}: {e}", agent.display())))?;
                    let socket = detach_tree(proxy.socket()).map_err(|e| StepError::other(format!("cannot mount the ssh agent {id}: {e}")))?;
                    held.agents.push(proxy);
                    Prepared { stub: StubKind::File, source: whole(socket), read_only: false }
                }
                None => return Ok(None),
            },
        }))
    }

    fn prepare_bind(&self, snapshots: &Snapshotter, input: usize, source: &TreePath, writable: bool, held: &mut Held) -> Result<Prepared, StepError> {
        let layers = &self.inputs[input];
        let tree = MergedTree::open(layers).map_err(text)?;
        let resolution = tree.resolve(source).map_err(text)?;
        let Some(found) = resolution.found else {
            return Err(StepError::other(format!("cannot mount {}: no such file or directory", source.display())));
        };
        let stub = if matches!(found.kind, FoundKind::Dir) { StubKind::Dir } else { StubKind::File };
        // Writes go to an upper directory that nobody looks at again.
        let tmp = self.store.tmp_dir().map_err(|e| StepError::other(e.to_string()))?;
        let View { mount, subpath, files } = snapshots.view(tmp, layers, &resolution.path, &self.stop).map_err(text)?;
        held.views.push(files);
        Ok(Prepared { stub, source: SandboxMountSource::Tree { mount, subpath }, read_only: !writable })
    }
}

/// /proc, /sys and /dev of an image that lacks them stay in the layer of the first step that needs them, as everywhere else: whoever runs
/// the image needs them again. Says whether that was so.
fn keep_directory(snapshot: &ActiveSnapshot, tree: &MergedTree, target: &TreePath) -> bool {
    let is_missing = tree.resolve(target).is_ok_and(|resolution| resolution.found.is_none() && resolution.path == *target);
    // Where it can't be made, the stub is tried, which says why.
    is_missing && snapshot.make_dir(target, 0o755).is_ok()
}

struct Prepared {
    stub: StubKind,
    source: SandboxMountSource,
    read_only: bool,
}

fn whole(mount: OwnedFd) -> SandboxMountSource {
    SandboxMountSource::Tree { mount, subpath: TreePath::root() }
}

/// A size in the largest unit that leaves no fraction.
fn binary_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

fn mask_text(masker: &Masker, message: &str) -> String {
    String::from_utf8_lossy(&masker.mask_whole(message.as_bytes())).into_owned()
}

fn text(error: impl std::fmt::Display) -> StepError {
    StepError::other(error.to_string())
}

/// The clock that file systems stamp files with. The precise clock runs ahead of it, so a file made at once would look older than its step.
fn now() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timestamp { seconds: time.tv_sec, nanos: u32::try_from(time.tv_nsec).unwrap_or_default() }
}

/// /etc/hosts (`features.md` E1.4).
fn hosts(hostname: &str, extra: &[(String, String)]) -> Vec<u8> {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        writeln!(text, "{address}\t{name}").expect("writing to a string does not fail");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Platform;

    fn op(mounts: Vec<MountKind>) -> ExecOp {
        ExecOp {
            argv: vec!["true".into()],
            env: vec![("A".to_owned(), "1".to_owned()).into()],
            proxy_env: vec![("http_proxy".into(), "http://proxy".into())],
            cwd: "/".into(),
            user: String::new(),
            hostname: "h".into(),
            network: Network::Default,
            security: Security::Sandbox,
            mounts: mounts.into_iter().map(|kind| Mount { target: "/m".into(), kind }).collect(),
            extra_hosts: vec![],
            shm_size_bytes: None,
            ulimits: vec![],
            timeout: None,
            retries: 0,
            platform: Platform::host(),
        }
    }

    fn settings() -> ExecSettings {
        ExecSettings {
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            allow: vec![],
            network: Network::Default,
            resources: ResourceLimits::default(),
            step_timeout: None,
            resolv_conf: vec![],
            upstream_resolv_conf: vec![],
            host_ca: None,
            search_path: None,
        }
    }

    fn secret(id: &str, required: bool, env: Option<&str>) -> MountKind {
        MountKind::Secret { id: id.into(), file: true, env: env.map(Into::into), required, mode: 0o400, uid: 0, gid: 0 }
    }

    fn refusal(op: &ExecOp, settings: &ExecSettings) -> String {
        check(op, settings).expect_err("refused").to_string()
    }

    #[test]
    fn e3_2_entitlements_are_needed() {
        let host = ExecOp { network: Network::Host, ..op(vec![]) };
        assert_eq!(refusal(&host, &settings()), "entitlement network.host is not allowed");
        assert!(check(&host, &ExecSettings { network: Network::Host, ..settings() }).is_ok());
        let insecure = ExecOp { security: Security::Insecure, ..op(vec![]) };
        assert_eq!(refusal(&insecure, &settings()), "entitlement security.insecure is not allowed");
        let all = ExecSettings { allow: vec![Entitlement::NetworkHost, Entitlement::SecurityInsecure], ..settings() };
        assert!(check(&host, &all).is_ok() && check(&insecure, &all).is_ok());
    }

    #[test]
    fn e3_1_a_required_secret_must_be_given() {
        assert_eq!(refusal(&op(vec![secret("token", true, None)]), &settings()), "secret token: not found");
        assert!(check(&op(vec![secret("token", false, None)]), &settings()).is_ok());
    }

    #[test]
    fn e1_9_environment_comes_in_order() {
        let root = tempfile::tempdir().expect("tempdir");
        let store = Store::open(root.path()).expect("store");
        let mut settings = settings();
        settings.secrets.insert("s".into(), Secret::new(*b"value"));
        let op = op(vec![secret("s", true, Some("S")), secret("none", false, Some("N"))]);
        struct Nowhere;
        impl LogTarget for Nowhere {
            fn log(&self, _: u8, _: &[u8]) {}
            fn warning(&self, _: &str) {}
        }
        let execution = Execution {
            op: &op,
            inputs: &[],
            settings: &settings,
            store: &store,
            snapshots: &Snapshotter::new(SnapshotterKind::Auto),
            stubs: &StubDirs::new(PathBuf::new()),
            private_network: &|| None,
            log_path: PathBuf::new(),
            target: Arc::new(Nowhere),
            stop: StopSignal::default(),
            clear_cache: &|_| false,
        };
        let env: Vec<String> = execution.environment(false).iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(env, ["A=1", "http_proxy=http://proxy", &format!("PATH={DEFAULT_PATH}"), "S=value", "N="]);
    }

    #[test]
    fn sizes_in_messages_are_exact() {
        for (bytes, text) in [(64 << 20, "64 MiB"), (1 << 30, "1 GiB"), (1536 << 20, "1536 MiB"), (1000, "1000 bytes"), (0, "0 bytes")] {
            assert_eq!(binary_size(bytes), text);
        }
    }

    #[test]
    fn e1_4_hosts() {
        let hosts = String::from_utf8(hosts("box", &[("db".into(), "10.0.0.2".into())])).expect("text");
        assert_eq!(hosts, "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tdb\n");
    }
}
