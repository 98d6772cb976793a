//! Networks of the steps' own: network namespaces that something connects to this machine's network, one for every step that runs at a time.
//!
//! What connects them is the first of two that works here: the program `pasta`, which carries connections through ordinary sockets, and, for root, a pair of interfaces
//! whose packets the kernel forwards ([`veth`]). `pasta` comes first because it needs nothing of the machine, reaches what has IPv6 only, and takes less time to start
//! (7 ms against 12 and waits for the kernel's lock); the pair carries twice as much in a second, where there is a line that fast.
//!
//! A step that has ended leaves its namespace to the next one, unless something of it is left there: a connection that the kernel still closes, say. A
//! sandboxed step cannot change the namespace (that takes CAP_NET_ADMIN), and all its processes are gone, so that the next one finds it as it was. Making one
//! takes some 20 or 30 ms and is done on a thread beside the build, so that a step hardly ever waits for it.
//!
//! # Invariants
//! - No two processes that run at the same time are in one namespace, and none is in one that was marked as spoiled or has sockets left.
//! - What listens on this machine's addresses, or on abstract sockets, cannot be reached from a namespace, nor the other way round.
//! - Nothing of the machine changes that outlives the process; the namespaces live as long as descriptors of them.

mod block;
mod names;
mod pasta;
mod veth;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::diagnosis::{Facility, Lack};
use crate::sys::network::Namespace;
use crate::user_namespace::{IdMap, find_on, find_tool};

pub use names::{NAME_SERVER, name_servers, resolv_conf};
pub use veth::Veth;

/// What connects network namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connector {
    /// The program `pasta`, which carries connections through ordinary sockets.
    Pasta {
        /// Where it is.
        program: PathBuf,
        /// Whether [`NAME_SERVER`] passes questions on to the name server of this machine. Only then, because pasta takes the answers of that server,
        /// asked by its own address, for its own.
        answers_names: bool,
    },
    /// A pair of interfaces, and packet filter rules.
    Veth(Veth),
}

impl Connector {
    /// Those that may work here, the preferred one first, and what others lack. Nothing is started or changed.
    ///
    /// `search_path` is searched for programs (the value of PATH); `name_servers` are what [`name_servers`] says.
    #[must_use]
    pub fn find(search_path: Option<&OsStr>, name_servers: &[IpAddr]) -> (Vec<Self>, Vec<Lack>) {
        let (mut found, mut lacks) = (Vec::new(), Vec::new());
        match find_on("pasta", search_path) {
            Some(program) => found.push(Self::Pasta { program, answers_names: name_servers.is_empty() }),
            None => lacks.push(pasta::missing()),
        }
        if IdMap::current().is_initial && rustix::process::geteuid().is_root() {
            match Veth::find(|name| find_tool(name, search_path), name_servers) {
                Ok(veth) => found.push(Self::Veth(veth)),
                Err(lack) => lacks.push(lack),
            }
        }
        (found, lacks)
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Veth(veth) => write!(f, "a pair of interfaces and {}", veth.filter_program().display()),
            Self::Pasta { program, .. } => program.display().fmt(f),
        }
    }
}

/// Why no network of a process's own can be made: what each way lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconnected(pub Vec<Lack>);

impl Unconnected {
    /// What is in the way, all in one.
    #[must_use]
    pub fn lack(&self) -> Lack {
        let all = |part: fn(&Lack) -> &str, between: &str| self.0.iter().map(part).collect::<Vec<_>>().join(between);
        let responsible = self.0.first().and_then(|lack| lack.responsible.clone());
        Lack { facility: Facility::Network, cause: all(|lack| &lack.cause, ", and "), responsible, remedy: all(|lack| &lack.remedy, ", or ") }
    }
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lack { cause, remedy, .. } = self.lack();
        write!(f, "{cause}; {remedy}, for a network of their own")
    }
}

/// The networks of a build. Dropping it ends them all.
#[derive(Debug)]
pub struct PrivateNetworks(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    connectors: Vec<Connector>,
    /// A directory of this process's own.
    dir: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connected>,
    connecting: usize,
    leased: usize,
    /// Who waits for one.
    waiting: usize,
    /// How many will be asked for yet, at most.
    expected: usize,
    /// Which connector is used: those before it could make none.
    at: usize,
    /// What is in the way.
    lacks: Vec<Lack>,
    closing: bool,
}

/// A namespace with a way out, and what keeps it.
#[derive(Debug)]
struct Connected {
    namespace: Namespace,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Pasta(pasta::Running),
    Veth(veth::Running),
}

impl Connected {
    /// Whether a process may use it.
    fn is_usable(&self) -> bool {
        let is_alive = match &self.way {
            Way::Pasta(running) => running.is_alive(),
            Way::Veth(running) => running.is_alive(),
        };
        is_alive && self.namespace.is_unused() && self.namespace.has_way_out().unwrap_or(false)
    }
}

/// What has to be waited for by the thread that connected a namespace.
#[derive(Debug)]
enum Watch {
    Pasta(std::process::Child),
    Veth(veth::Filter),
}

impl Watch {
    fn wait(self) {
        match self {
            Self::Pasta(child) => pasta::watch(child),
            Self::Veth(filter) => filter.watch(),
        }
    }
}

impl PrivateNetworks {
    /// None is made yet. The first of `connectors` that works is used; `lacks` are those of others that are not even tried. `dir` is a directory of this
    /// process's own; `expected` says how many processes will ask for a network, at most.
    #[must_use]
    pub fn new((connectors, lacks): (Vec<Connector>, Vec<Lack>), dir: PathBuf, expected: usize) -> Self {
        let state = Mutex::new(State { expected, lacks, ..State::default() });
        Self(Arc::new(Pool { connectors, dir, state, changed: Condvar::new() }))
    }

    /// What makes them, as far as is known.
    #[must_use]
    pub fn connector(&self) -> Option<&Connector> {
        self.0.connectors.get(self.0.lock().at)
    }

    /// Begins to make one, if there is none that could be used. Returns at once.
    pub fn prepare(&self) {
        let mut state = self.0.lock();
        if state.idle.is_empty() && state.connecting == 0 {
            self.0.begin(&mut state);
        }
    }

    /// One that nobody else uses; waits until there is one.
    ///
    /// # Errors
    /// The machine lets none be made. The reason stays the same from then on.
    pub fn take(&self) -> Result<NetworkLease, Unconnected> {
        let pool = &self.0;
        let mut state = pool.lock();
        state.expected = state.expected.saturating_sub(1);
        loop {
            // The others are dropped with what they hold.
            state.idle.retain(Connected::is_usable);
            if let Some(network) = state.idle.pop() {
                state.leased += 1;
                return Ok(NetworkLease { network: Some(network), pool: Arc::clone(pool) });
            }
            // One that could be made before is given back some time.
            if !pool.has_given_up(&state) && state.connecting <= state.waiting {
                pool.begin(&mut state);
            }
            if pool.has_given_up(&state) && state.leased == 0 && state.connecting == 0 {
                return Err(Unconnected(state.lacks.clone()));
            }
            state.waiting += 1;
            state = pool.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }
}

impl Drop for PrivateNetworks {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closing = true;
        state.idle.clear();
        // Threads that connect look at `closing` all the time.
        while state.connecting > 0 {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none of the connectors makes any more.
    fn has_given_up(&self, state: &State) -> bool {
        state.at >= self.connectors.len()
    }

    /// Connects a namespace on a thread of its own, which the connection lives with.
    fn begin(self: &Arc<Self>, state: &mut State) {
        if state.closing || self.has_given_up(state) {
            return;
        }
        let pool = Arc::clone(self);
        match std::thread::Builder::new().name("network".to_owned()).spawn(move || pool.connect()) {
            Ok(_) => state.connecting += 1,
            Err(error) => {
                let cause = format!("cannot start a thread: {error}");
                state.lacks.push(Lack { facility: Facility::Network, cause, responsible: None, remedy: "raise the limit of processes".to_owned() });
                state.at = self.connectors.len();
            }
        }
    }

    fn connect(&self) {
        let connected = self.connect_somehow();
        let mut state = self.lock();
        state.connecting -= 1;
        let watch = connected.map(|(connected, watch)| {
            if !state.closing {
                state.idle.push(connected);
            }
            watch
        });
        self.changed.notify_all();
        drop(state);
        if let Some(watch) = watch {
            watch.wait();
        }
    }

    /// By the first connector that can; none if none can, or none is wanted any more.
    fn connect_somehow(&self) -> Option<(Connected, Watch)> {
        let stopped = || self.lock().closing;
        loop {
            let at = self.lock().at;
            let result = match self.connectors.get(at)? {
                Connector::Veth(veth) => veth.connect(&stopped).map(|(connected, filter)| (connected, Watch::Veth(filter))),
                Connector::Pasta { program, answers_names } => {
                    pasta::connect(program, &self.dir, *answers_names, &stopped).map(|(connected, child)| (connected, Watch::Pasta(child)))
                }
            };
            let lack = match result {
                Ok(connected) => return Some(connected),
                Err(lack) => lack,
            };
            tracing::debug!(cause = %lack.cause, "no network");
            let mut state = self.lock();
            if state.closing {
                return None;
            }
            // Others may have found out the same meanwhile.
            if state.at == at {
                state.lacks.push(lack);
                state.at += 1;
            }
        }
    }

    fn give_back(self: &Arc<Self>, network: Option<Connected>) {
        let mut state = self.lock();
        state.leased -= 1;
        match network.filter(|network| !state.closing && network.is_usable()) {
            Some(network) => state.idle.push(network),
            // Made while the next step is being prepared, rather than when it asks.
            None if state.expected > 0 && state.idle.is_empty() && state.connecting == 0 => self.begin(&mut state),
            None => {}
        }
        self.changed.notify_all();
    }
}

/// A network that one process uses. Dropping it gives it back.
#[derive(Debug)]
pub struct NetworkLease {
    network: Option<Connected>,
    pool: Arc<Pool>,
}

impl NetworkLease {
    /// For [`super::NetworkMode::Private`].
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        match &self.network {
            Some(network) => network.namespace.descriptor(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Nobody else gets it: its process could change it.
    pub fn spoil(&mut self) {
        // What keeps it connected goes when the lease does.
        if let Some(network) = &mut self.network {
            network.namespace.spoil();
        }
    }
}

impl Drop for NetworkLease {
    fn drop(&mut self) {
        self.pool.give_back(self.network.take());
    }
}
