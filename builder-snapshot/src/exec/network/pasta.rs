//! `pasta` connects a namespace: it carries connections of the namespace through ordinary sockets of its own.
//!
//! It needs no privilege and changes nothing of the machine: no interface, no route, no packet filter rule, no forwarding. It lives as long as a [`Running`] and no
//! longer than this process.
//!
//! # Invariants
//! - All forwarding of ports is off, in both directions.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Connected, NAME_SERVER, Way};
use crate::diagnosis::{Facility, Lack};
use crate::sys::network::{self, Namespace};
use crate::sys::process::{wait_readable, wait_readable_now};

/// How long pasta may take to connect a namespace; usual are some 20 milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// The device through which pasta sees packets.
const TUN: &str = "/dev/net/tun";

/// A pasta that runs. Dropping it ends it, without waiting: its death is the kernel's work from then on, some 20 ms of it.
#[derive(Debug)]
pub(super) struct Running {
    pidfd: OwnedFd,
    _place: Place,
}

/// The file that a namespace is mounted on, in pasta's mount namespace only.
#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // Swept with the directory otherwise.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Running {
    /// Whether it has not ended.
    pub(super) fn is_alive(&self) -> bool {
        wait_readable_now(self.pidfd.as_fd()).is_ok_and(|ended| !ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// A new namespace that `pasta` connects, started by the calling thread, which it dies with: the thread is to [`watch`] the child. Gives up as soon as `stopped` says so.
///
/// # Errors
/// The machine lets no such namespace be made, or pasta could not connect it.
pub(super) fn connect(pasta: &Path, dir: &Path, answers_names: bool, stopped: &dyn Fn() -> bool) -> Result<(Connected, Child), Lack> {
    use rustix::fs::Access;
    rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).map_err(|errno| no_tunnel(&io::Error::from(errno)))?;
    let fault = |cause: String| refusal(cause, Some(pasta.display().to_string()), REMEDY);
    let namespace = Namespace::new().map_err(|error| fault(format!("no network namespace can be made: {error}")))?;
    let place = dir.join(format!("network-{}", network::number()));
    std::fs::File::create(&place).map_err(|error| fault(format!("cannot make {}: {error}", place.display())))?;
    let (running, mut child) =
        start(pasta, &namespace, Place(place), answers_names).map_err(|error| fault(format!("{}: {error}", pasta.display())))?;
    let until = Instant::now() + PATIENCE;
    while !namespace.has_way_out().map_err(|error| fault(format!("cannot look into a network namespace: {error}")))? {
        let [ended] = wait_readable([Some(running.pidfd.as_fd())], Some(Instant::now() + BETWEEN_LOOKS)).map_err(|error| fault(error.to_string()))?;
        if ended {
            return Err(fault(format!("{}: {}", pasta.display(), last_words(&mut child))));
        }
        if stopped() || Instant::now() >= until {
            drop(running);
            last_words(&mut child);
            return Err(fault(format!("{} connected nothing within {PATIENCE:?}", pasta.display())));
        }
    }
    Ok((Connected { namespace, way: Way::Pasta(running) }, child))
}

/// What helps when it does not work.
const REMEDY: &str = "see what `pasta --config-net true` says; a profile of AppArmor or SELinux may confine it";

/// There is no such program.
pub(super) fn missing() -> Lack {
    refusal("there is no pasta on PATH", Some("pasta".to_owned()), "install passt")
}

fn no_tunnel(error: &io::Error) -> Lack {
    let remedy = "as root, `chmod 0666 /dev/net/tun` (in a container: --device /dev/net/tun)";
    refusal(format!("{TUN} cannot be opened: {error}"), Some(TUN.to_owned()), remedy)
}

fn refusal(cause: impl Into<String>, responsible: Option<String>, remedy: &str) -> Lack {
    Lack { facility: Facility::Network, cause: cause.into(), responsible, remedy: remedy.to_owned() }
}

/// Waits until a pasta has ended.
pub(super) fn watch(mut child: Child) {
    let said = last_words(&mut child);
    tracing::debug!(%said, "pasta ended");
}

fn start(pasta: &Path, namespace: &Namespace, place: Place, answers_names: bool) -> io::Result<(Running, Child)> {
    let mut command = command(pasta, &place.0, answers_names);
    let entered = CString::new(place.0.as_os_str().as_bytes()).map_err(io::Error::other)?;
    network::enter_before_exec(&mut command, namespace.descriptor()?, entered)?;
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
    Ok((Running { pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())?, _place: place }, child))
}

fn command(pasta: &Path, place: &Path, answers_names: bool) -> Command {
    let mut command = Command::new(pasta);
    command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw", "--netns-only", "--no-netns-quit"]);
    // No port of this machine's appears inside, none from inside appears here.
    command.args(["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"]);
    if answers_names {
        command.args(["--dns-forward", NAME_SERVER]);
    }
    if rustix::process::geteuid().is_root() {
        // It would become nobody, who may not enter the namespace. It keeps two capabilities and closes itself in by its own system call filter.
        command.args(["--runas", "0:0"]);
    }
    command.arg("--netns").arg(place);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What it said last, once it has ended.
fn last_words(child: &mut Child) -> String {
    /// More than any message of it.
    const MOST_BYTES: u64 = 64 * 1024;
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is not said.
        let _ = stderr.take(MOST_BYTES).read_to_end(&mut said);
    }
    let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.contains("syslog"));
    last.map_or(status, str::to_owned)
}
