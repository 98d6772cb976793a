//! Networks of the steps' own: network namespaces that something connects to this machine's network, one for every step that runs at a time.
//!
//! A step that has ended leaves its namespace to the next one, unless something of it is left there: a connection that the kernel still closes, say. A
//! sandboxed step cannot change the namespace (that takes CAP_NET_ADMIN), and all its processes are gone, so that the next one finds it as it was. Making one
//! takes some 30 ms and is done on a thread beside the build, so that a step hardly ever waits for it.
//!
//! # Invariants
//! - No two processes that run at the same time are in one namespace, and none is in one that was marked as spoiled or has sockets left.
//! - What listens on this machine's loopback addresses, or on abstract sockets, cannot be reached from a namespace, nor the other way round.
//! - Nothing of the machine changes that outlives the process; the namespaces live as long as descriptors of them.

mod pasta;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::sys::network::Namespace;

pub use pasta::NAME_SERVER;

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
}

/// The networks of a build. Dropping it ends them all.
#[derive(Debug)]
pub struct PrivateNetworks(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    connector: Connector,
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
    /// Why none can be made.
    refused: Option<String>,
    closing: bool,
}

/// A namespace with a way out, and what keeps it.
#[derive(Debug)]
struct Connected {
    namespace: Namespace,
    way: pasta::Running,
}

impl Connected {
    /// Whether a process may use it.
    fn is_usable(&self) -> bool {
        self.way.is_alive() && self.namespace.is_unused()
    }
}

impl PrivateNetworks {
    /// None is made yet. `dir` is a directory of this process's own; `expected` says how many processes will ask for a network, at most.
    #[must_use]
    pub fn new(connector: Connector, dir: PathBuf, expected: usize) -> Self {
        let state = Mutex::new(State { expected, ..State::default() });
        Self(Arc::new(Pool { connector, dir, state, changed: Condvar::new() }))
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
    /// The machine lets none be made, in words for people. The reason stays the same from then on.
    pub fn take(&self) -> Result<NetworkLease, String> {
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
            match &state.refused {
                Some(why) if state.leased == 0 && state.connecting == 0 => return Err(why.clone()),
                // One that could be made is given back some time.
                Some(_) => {}
                None if state.connecting > state.waiting => {}
                None => pool.begin(&mut state),
            }
            if state.refused.is_some() && state.leased == 0 && state.connecting == 0 {
                continue;
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

    /// Connects a namespace on a thread of its own, which the connection lives with.
    fn begin(self: &Arc<Self>, state: &mut State) {
        if state.closing || state.refused.is_some() {
            return;
        }
        let pool = Arc::clone(self);
        match std::thread::Builder::new().name("network".to_owned()).spawn(move || pool.connect()) {
            Ok(_) => state.connecting += 1,
            Err(error) => state.refused = Some(format!("cannot start a thread: {error}")),
        }
    }

    fn connect(&self) {
        let Connector::Pasta { program, answers_names } = &self.connector;
        let result = pasta::connect(program, &self.dir, *answers_names, &|| self.lock().closing);
        let mut state = self.lock();
        state.connecting -= 1;
        let watched = match result {
            Ok((namespace, way, child)) => {
                if !state.closing {
                    state.idle.push(Connected { namespace, way });
                }
                Some(child)
            }
            Err(why) => {
                state.refused = Some(why);
                None
            }
        };
        self.changed.notify_all();
        drop(state);
        if let Some(child) = watched {
            pasta::watch(child);
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
