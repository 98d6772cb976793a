//! Passing on an ssh agent: a socket of its own for a step, that lets keys be listed and used and nothing else (`features.md` A8.8).

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use builder_snapshot::user_namespace::IdMap;

/// Message numbers of the agent protocol (draft-miller-ssh-agent §5.1).
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// The answer `SSH_AGENT_FAILURE`, as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// Longest message either way: OpenSSH's own limit.
const MAX_MESSAGE_BYTES: u32 = 256 * 1024;

/// A socket that forwards to an agent for as long as this value lives.
#[derive(Debug)]
pub(super) struct AgentProxy {
    socket: PathBuf,
    /// The socket by way of `_dir`, short enough to connect to.
    address: PathBuf,
    _dir: fs::File,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AgentProxy {
    /// Listens in `dir` on a socket with this mode and owner.
    ///
    /// # Errors
    /// An agent that cannot be reached; a socket that cannot be made.
    pub(super) fn start(agent: &Path, dir: &Path, mode: u32, owner: (u32, u32)) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        UnixStream::connect(agent)?;
        let name = format!("agent-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let socket = dir.join(&name);
        // A socket's address holds 108 bytes, which a store's path may exceed: the descriptor of its directory makes a short one.
        let dir = fs::File::open(dir)?;
        let address = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
        let listener = UnixListener::bind(&address)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode))?;
        match chown(&socket, Some(owner.0), Some(owner.1)) {
            // Nobody: no process of this user namespace can be of an owner that it does not have.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) && !IdMap::current().is_initial => {}
            result => result?,
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let (agent, stop) = (agent.to_path_buf(), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let agent = agent.clone();
                // Ends when the process closes its side, at the latest when it is gone.
                std::thread::spawn(move || forward(client, &agent));
            }
        });
        Ok(Self { socket, address, _dir: dir, stopped, thread: Some(thread) })
    }

    /// The socket.
    #[must_use]
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for AgentProxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees the flag.
        let woken = UnixStream::connect(&self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It ends on the flag; a panic in it has no meaning for the step.
            drop(thread.join());
        }
        drop(fs::remove_file(&self.socket));
    }
}

fn forward(mut client: UnixStream, agent: &Path) {
    let Ok(mut agent) = UnixStream::connect(agent) else { return };
    while let Ok(request) = message(&mut client) {
        let answer = match request.get(4) {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => agent.write_all(&request).and_then(|()| message(&mut agent)),
            _ => Ok(FAILURE.to_vec()),
        };
        let Ok(answer) = answer else { return };
        if client.write_all(&answer).is_err() {
            return;
        }
    }
}

/// One message with its length in front.
fn message(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let size = u32::from_be_bytes(length);
    if size > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = length.to_vec();
    bytes.resize(4 + size as usize, 0);
    from.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_8_keys_are_listed_and_used_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("real");
        let real = UnixListener::bind(&path).expect("bind");
        // An agent that answers every message with its own bytes.
        std::thread::spawn(move || {
            for mut client in real.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    while let Ok(request) = message(&mut client) {
                        client.write_all(&request).expect("answer");
                    }
                });
            }
        });
        let mode = 0o600;
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let proxy = AgentProxy::start(&path, dir.path(), mode, owner).expect("start");
        let mut client = UnixStream::connect(proxy.socket()).expect("connect");
        let mut ask = |kind: u8| {
            client.write_all(&[0, 0, 0, 2, kind, 7]).expect("ask");
            message(&mut client).expect("answer")
        };
        assert_eq!(ask(REQUEST_IDENTITIES), [0, 0, 0, 2, REQUEST_IDENTITIES, 7]);
        assert_eq!(ask(SIGN_REQUEST), [0, 0, 0, 2, SIGN_REQUEST, 7]);
        // 17 adds a key, 19 removes all, 22 locks, 27 is an extension.
        for kind in [17, 19, 22, 27] {
            assert_eq!(ask(kind), FAILURE);
        }
        let socket = proxy.socket().to_path_buf();
        drop(client);
        drop(proxy);
        assert!(!socket.exists());
    }

    #[test]
    fn a8_8_a_store_may_lie_deeper_than_an_address_is_long() {
        let dir = tempfile::tempdir().expect("tempdir");
        let agent = dir.path().join("real");
        let _real = UnixListener::bind(&agent).expect("bind");
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).expect("mkdir");
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let proxy = AgentProxy::start(&agent, &deep, 0o600, owner).expect("start");
        let socket = proxy.socket().to_path_buf();
        assert!(socket.as_os_str().len() > 108 && socket.exists());
        drop(proxy);
        assert!(!socket.exists());
    }
}
