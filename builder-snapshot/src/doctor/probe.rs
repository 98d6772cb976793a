//! The child that tries, and the parent that listens.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, WaitOptions};

use super::facts::{ControlGroups, Disk, Emulation, Facts, Fault, Message, Network, words};
use super::{Question, TIME_LIMIT};
use crate::diagnosis::{self, Facility, Lack, Surroundings};
use crate::error::SnapshotError;
use crate::exec::{
    self, Connector, ExecError, NetworkMode, OutputSink, OutputStream, PrivateNetworks, ProcessSpec, ResolvedUser, ResourceLimits, SecurityMode,
    control_group, has_filter, stubs,
};
use crate::snapshot::{self, Snapshotter, SnapshotterKind};
use crate::sys;
use crate::tree::MergedTree;
use crate::user_namespace::{self, IdMap, Ids, Isolation, receive, send};

/// How long the second answer is waited for when the first one took all the time.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// Finds out everything. Only while there is one thread.
///
/// # Errors
/// No child can be started.
pub fn probe(question: &Question) -> io::Result<Facts> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(TIME_LIMIT))?;
    let child = sys::fork::fork(|| {
        let mut theirs = theirs;
        let mut message = Message::default();
        try_what_a_build_does(question, &mut message);
        // The parent may have lost its patience.
        let _ = send(&mut theirs, &message.0);
        let mut second = Message::default();
        try_network(question, &mut second);
        let _ = send(&mut theirs, &second.0);
    })?;
    let began = Instant::now();
    let mut disk = disk(&question.store);
    let heard = receive(&mut ours).map(Message);
    let left = TIME_LIMIT.saturating_sub(began.elapsed()).max(LEAST_WAIT);
    let second = ours.set_read_timeout(Some(left)).and_then(|()| receive(&mut ours)).map(Message);
    // What it has started goes with it. It may have ended already.
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
    let unanswered = heard.is_ok() && second.is_err();
    let (heard, second) = (heard.unwrap_or_default(), second.unwrap_or_default());
    let network = if unanswered { network_unanswered() } else { network(&second) };
    disk.other_ids = heard.text("made-with").zip(heard.text("now")).map(|(made_with, now)| [made_with, now]);
    Ok(Facts {
        place: Surroundings::read(),
        floor: diagnosis::floor().err(),
        ids: heard.ids(),
        overlay: heard.fault("overlay"),
        sandbox: heard.fault("sandbox"),
        sandbox_warning: heard.text("warning"),
        has_filter: has_filter(),
        disk,
        control_groups: control_groups(),
        emulation: Emulation {
            registered: interpreters(),
            on_path: emulators(question.enter.search_path.as_deref()),
            has_own_table: heard.text("formats").is_some(),
        },
        network,
        now_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
    })
}

fn try_what_a_build_does(question: &Question, message: &mut Message) {
    let entered = match user_namespace::enter_user_namespace(&question.enter) {
        Ok(entered) => entered,
        Err(error) => return message.put_fault("sandbox", &Fault { cause: error.to_string(), remedy: String::new() }),
    };
    message.put("ids", name_of(&entered.ids));
    match &entered.ids {
        Ids::One { lack } | Ids::None { lack } => message.put_lack("lack", lack),
        Ids::Own | Ids::Ranges => {}
    }
    let now = &IdMap::current().text;
    let made_with = question.ids_file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    if !made_with.is_empty() && made_with != *now {
        message.put("made-with", made_with);
        message.put("now", now.as_str());
    }
    if Isolation::current() == Isolation::None {
        return;
    }
    let place = existing(&question.store);
    let Ok(dir) = Scratch::create(&place) else { return };
    if has_own_formats(&dir.0) {
        message.put("formats", "own");
    }
    if let Err(text) = snapshot::probe(&dir.0) {
        message.put_fault("overlay", &Fault::of(text));
    }
    match try_sandbox(&dir.0) {
        Ok(warnings) => warnings.into_iter().take(1).for_each(|warning| message.put("warning", warning)),
        Err(fault) => message.put_fault("sandbox", &fault),
    }
}

/// Connects a network as a build does, and says by what.
fn try_network(question: &Question, message: &mut Message) {
    if Isolation::current() == Isolation::None {
        return;
    }
    let Ok(dir) = Scratch::create(&existing(&question.store)) else { return };
    let servers = exec::name_servers(&resolv_conf(), &fs::read("/run/systemd/resolve/resolv.conf").unwrap_or_default());
    let networks = PrivateNetworks::new(Connector::find(question.enter.search_path.as_deref(), &servers), dir.0.clone(), 1);
    match networks.take() {
        Ok(_) => networks.connector().into_iter().for_each(|connector| message.put("network.by", connector.to_string())),
        Err(unconnected) => message.put_lack("network", &unconnected.lack()),
    }
}

/// Whether formats of programs can be told to the kernel for this user namespace alone (Linux 6.7).
fn has_own_formats(dir: &Path) -> bool {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let place = dir.join("formats");
    // In the mount namespace that was entered: outside nothing is seen of it.
    !IdMap::current().is_initial
        && fs::create_dir(&place).is_ok()
        && mount("none", &place, "binfmt_misc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None).is_ok()
        && unmount(&place, UnmountFlags::DETACH).is_ok()
}

fn name_of(ids: &Ids) -> &'static str {
    match ids {
        Ids::Own => "own",
        Ids::Ranges => "ranges",
        Ids::One { .. } => "one",
        Ids::None { .. } => "none",
    }
}

impl Fault {
    /// Of a message that has the remedy behind the last semicolon.
    fn of(text: String) -> Self {
        match text.rsplit_once("; ") {
            Some((cause, remedy)) => Self { cause: cause.to_owned(), remedy: remedy.to_owned() },
            None => Self { cause: text, remedy: String::new() },
        }
    }
}

impl From<SnapshotError> for Fault {
    fn from(error: SnapshotError) -> Self {
        match error.refusal() {
            Some((cause, remedy)) => Self { cause, remedy },
            None => Self { cause: error.to_string(), remedy: String::new() },
        }
    }
}

/// A program that no image has: a sandbox that can only not start it is whole.
const MISSING_PROGRAM: &str = "/.rbuild-doctor";

/// What is said of a sandbox that can be made, but not as it should be.
fn try_sandbox(dir: &Path) -> Result<Vec<String>, Fault> {
    let snapshot = Snapshotter::new(SnapshotterKind::Auto).prepare(dir, &[], &crate::StopSignal::default())?;
    let tree = MergedTree::open(&[])?;
    let points = dir.join("stubs");
    fs::create_dir(&points)
        .map_err(|error| Fault { cause: format!("cannot make directory {}: {error}", points.display()), remedy: String::new() })?;
    let stubs = stubs::StubDirs::new(points);
    let top = stubs.prepare(&tree, &stubs::standard_targets()).map_err(|error| Fault { cause: error.to_string(), remedy: String::new() })?;
    let spec = ProcessSpec {
        root: snapshot.mount(top.as_deref())?,
        argv: vec![MISSING_PROGRAM.into()],
        env: Vec::new(),
        cwd: PathBuf::from("/"),
        user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
        hostname: "doctor".to_owned(),
        mounts: Vec::new(),
        network: NetworkMode::None,
        security: SecurityMode::Sandbox,
        shm_size_bytes: 1 << 20,
        ulimits: Vec::new(),
        resources: ResourceLimits::default(),
        timeout: None,
        hosts: Vec::new(),
        resolv_conf: Vec::new(),
        owners: Arc::default(),
    };
    let mut heard = Warnings(Vec::new());
    match exec::run(spec, &mut heard, None) {
        Ok(_) | Err(ExecError::Program { .. }) => Ok(heard.0),
        Err(ExecError::Sandbox { action, source, remedy }) => {
            Err(Fault { cause: format!("cannot {action}: {source}"), remedy: remedy.trim_start_matches("; ").to_owned() })
        }
        Err(error) => Err(Fault { cause: error.to_string(), remedy: String::new() }),
    }
}

struct Warnings(Vec<String>);

impl OutputSink for Warnings {
    fn output(&mut self, _: OutputStream, _: &[u8]) {}

    fn warning(&mut self, warning: &str) {
        self.0.push(warning.to_owned());
    }
}

/// A directory of ours that goes when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(place: &Path) -> io::Result<Self> {
        let path = place.join(format!(".rbuild-doctor-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the doctor's directory stays");
        }
    }
}

/// The directory itself, or the first one above it that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(store: &Path) -> Disk {
    let path = existing(store);
    let mut disk = Disk { store: store.to_owned(), path: path.clone(), ..Disk::default() };
    if let Ok(stat) = rustix::fs::statvfs(&path) {
        disk.free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    }
    let mut look = || -> io::Result<()> {
        let scratch = Scratch::create(&path)?;
        let name = scratch.0.join("file");
        let mut file = fs::File::create(&name)?;
        file.write_all(b"rbuild")?;
        disk.keeps_attributes = rustix::fs::fsetxattr(&file, c"user.rbuild.probe", b"1", rustix::fs::XattrFlags::empty()).is_ok();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        disk.skew_seconds = file.metadata()?.mtime() - i64::try_from(now).unwrap_or(i64::MAX);
        Ok(())
    };
    disk.fault = look().err().map(|error| words(&error));
    disk
}

fn control_groups() -> ControlGroups {
    match control_group::reach() {
        Some(control_group::Reach { memory, cpu, devices }) => ControlGroups { is_seen: true, memory, cpu, devices },
        None => ControlGroups::default(),
    }
}

/// Names of emulators, as a build looks for them.
fn emulators(path: Option<&OsStr>) -> Vec<String> {
    let dirs = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    let entries = dirs.iter().filter(|dir| dir.is_absolute()).filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_emulator = |name: &String| name.starts_with("buildkit-qemu-") || (name.starts_with("qemu-") && name.ends_with("-static"));
    let mut names: Vec<String> = names.filter(is_emulator).collect();
    names.sort();
    names.dedup();
    names
}

fn interpreters() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc/sys/fs/binfmt_misc") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            fs::read_to_string(Path::new("/proc/sys/fs/binfmt_misc").join(name)).is_ok_and(|text| text.starts_with("enabled\ninterpreter"))
        })
        .collect();
    names.sort();
    names
}

fn network(message: &Message) -> Network {
    Network {
        by: message.text("network.by"),
        lack: message.lack("network", Facility::Network),
        has_name_server: String::from_utf8_lossy(&resolv_conf()).lines().any(|line| line.trim_start().starts_with("nameserver")),
    }
}

fn network_unanswered() -> Network {
    let cause = format!("nothing was connected within {TIME_LIMIT:?}");
    let remedy = "see what `pasta --config-net true` says".to_owned();
    Network { lack: Some(Lack { facility: Facility::Network, cause, responsible: None, remedy }), ..network(&Message::default()) }
}

fn resolv_conf() -> Vec<u8> {
    fs::read("/etc/resolv.conf").unwrap_or_default()
}
