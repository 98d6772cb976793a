//! A server that steps of a build call: it counts, and it lets callers wait for each other.
//!
//! `GET /count/NAME` counts and answers at once; `GET /meet/NAME/N` answers when N different callers have asked for NAME. Waiting is bounded by the
//! build's own time limit in the test runner, not by a clock here.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Default)]
struct State {
    counts: Mutex<BTreeMap<String, usize>>,
    changed: Condvar,
}

/// The server; its threads end with the test's process.
pub struct Meeting {
    port: u16,
    state: Arc<State>,
}

impl Default for Meeting {
    fn default() -> Self {
        Self::start()
    }
}

impl Meeting {
    /// Starts listening on a free loopback port.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        Self { port, state }
    }

    /// Its address, as `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Counts as a caller that asks for `name` and does not wait.
    ///
    /// # Panics
    /// Never.
    pub fn join(&self, name: &str) {
        *self.state.counts.lock().expect("no thread panics").entry(name.to_owned()).or_default() += 1;
        self.state.changed.notify_all();
    }

    /// How often each name was asked for.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.state.counts.lock().expect("no thread panics").clone()
    }
}

/// Asks a meeting's server for `url` and waits for its answer.
///
/// # Panics
/// When it can't be reached.
pub fn call(url: &str) {
    let (address, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(address).expect("the server");
    write!(stream, "GET /{path} HTTP/1.0\r\n\r\n").expect("a request");
    std::io::copy(&mut stream, &mut std::io::sink()).expect("an answer");
}

fn serve(state: &State, stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    if reader.read_line(&mut request).is_err() {
        return;
    }
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(n) if n > 2 => {}
            _ => break,
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let (kind, name, wanted) = (parts.next(), parts.next().unwrap_or_default().to_owned(), parts.next().and_then(|n| n.parse().ok()).unwrap_or(0));
    let mut counts = state.counts.lock().expect("no thread panics");
    *counts.entry(name.clone()).or_default() += 1;
    state.changed.notify_all();
    if kind == Some("meet") {
        while counts.get(&name).copied().unwrap_or(0) < wanted {
            counts = state.changed.wait(counts).expect("no thread panics");
        }
    }
    drop(counts);
    // A caller that went away is its own affair.
    let _ = (&stream).write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
}
