//! A network of the steps' own: a network namespace that `pasta` connects to this machine's network through ordinary sockets.
//!
//! Nothing of the machine changes: no interface, no route, no packet filter rule, no forwarding; the namespace lives as long as a descriptor of it, and pasta as
//! long as the [`PrivateNetwork`] and no longer than this process. That is why pasta is used for root too, rather than a pair of interfaces and address translation.
//!
//! # Invariants
//! - What listens on this machine's loopback addresses, or on abstract sockets, cannot be reached from the namespace, nor the other way round: all forwarding of ports is off.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::sys::network;

/// How long pasta may take to connect a namespace; usual are some 20 milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Where name servers answer inside, when this machine's own listen on its loopback only.
pub const NAME_SERVER: &str = "169.254.1.1";

/// The device through which pasta sees packets.
const TUN: &str = "/dev/net/tun";

/// A network namespace with a way out.
#[derive(Debug)]
pub struct PrivateNetwork {
    namespace: OwnedFd,
    pasta: OwnedFd,
    /// Waits for pasta, which is tied to this thread's life.
    watcher: Option<JoinHandle<()>>,
    /// The file that the namespace is mounted on, in pasta's mount namespace only.
    place: PathBuf,
}

impl PrivateNetwork {
    /// A namespace that the program `pasta` connects. `dir` is a directory of this process's own. With `answers_names`, [`NAME_SERVER`] passes questions
    /// on to the name server of this machine; only then, because pasta takes the answers of that server, asked by its own address, for its own.
    ///
    /// # Errors
    /// The machine lets no such namespace be made, or pasta could not connect it; in words for people.
    pub fn start(pasta: &Path, dir: &Path, answers_names: bool) -> Result<Self, String> {
        use rustix::fs::Access;
        rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).map_err(|errno| format!("{TUN} cannot be opened: {}", io::Error::from(errno)))?;
        let namespace = network::new_namespace().map_err(|error| format!("no network namespace can be made: {error}"))?;
        let place = dir.join(format!("network-{}", network::number()));
        std::fs::File::create(&place).map_err(|error| format!("cannot make {}: {error}", place.display()))?;
        let inside = namespace.try_clone().map_err(|error| error.to_string())?;
        let command = command(pasta, &place, answers_names);
        let entered = CString::new(place.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        let (tell, told) = mpsc::channel();
        let watcher = std::thread::Builder::new().name("pasta".to_owned()).spawn(move || watch(command, inside, entered, &tell));
        let watcher = watcher.map_err(|error| format!("cannot start a thread: {error}"))?;
        let started = match told.recv() {
            Ok(Told::Started(pidfd)) => pidfd,
            Ok(Told::Ended(why)) => return Err(format!("{}: {why}", pasta.display())),
            Err(_) => return Err(format!("{} was lost sight of", pasta.display())),
        };
        // From here on dropping it ends pasta.
        let this = Self { namespace, pasta: started, watcher: Some(watcher), place };
        let until = Instant::now() + PATIENCE;
        while !network::has_default_route(this.namespace.as_fd()).map_err(|error| format!("cannot look into a network namespace: {error}"))? {
            match told.recv_timeout(BETWEEN_LOOKS) {
                Ok(Told::Ended(why)) => return Err(format!("{}: {why}", pasta.display())),
                _ if Instant::now() >= until => return Err(format!("{} connected nothing within {PATIENCE:?}", pasta.display())),
                _ => {}
            }
        }
        Ok(this)
    }

    /// For [`super::NetworkMode::Private`].
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        self.namespace.try_clone()
    }
}

impl Drop for PrivateNetwork {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = rustix::process::pidfd_send_signal(&self.pasta, Signal::KILL);
        if let Some(watcher) = self.watcher.take() {
            // A panic in it was told by the panic's own message.
            let _ = watcher.join();
        }
        // Swept with the directory otherwise.
        let _ = std::fs::remove_file(&self.place);
    }
}

enum Told {
    Started(OwnedFd),
    Ended(String),
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

/// Runs pasta to its end, tells when it began, and what it said if it ended by itself.
fn watch(mut command: Command, namespace: OwnedFd, place: CString, tell: &mpsc::Sender<Told>) {
    let started = network::enter_before_exec(&mut command, namespace, place).and_then(|()| command.spawn()).and_then(|child| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))?;
        Ok((rustix::process::pidfd_open(pid, PidfdFlags::empty())?, child))
    });
    // The copy of the namespace's descriptor goes with the command.
    drop(command);
    let ended = |why: String| drop(tell.send(Told::Ended(why)));
    match started {
        Ok((pidfd, mut child)) => {
            // Nobody listens any more when the network was given up.
            drop(tell.send(Told::Started(pidfd)));
            ended(last_words(&mut child));
        }
        Err(error) => ended(error.to_string()),
    }
}

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
