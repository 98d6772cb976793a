//! A registry in this process that keeps what it is given and misbehaves as a script says.
//!
//! It speaks as much of the distribution protocol as a client needs: manifests, blobs with ranges, uploads whole and in pieces, mounts, bearer tokens. It is
//! strict where real ones are: a manifest is taken only when everything that it names is there, an upload only when it has its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::image::sha256;

/// How one answer goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Another status, with an error that the protocol knows.
    Status(u16),
    /// 429 that asks to wait for a second.
    RateLimit,
    /// The connection is reset before anything is said, even before the request's body is read.
    Reset,
    /// The connection is reset when half of the request's body has come; an upload keeps that half.
    TakeHalf,
    /// The body ends early, though more was announced.
    Truncate,
    /// The body ends early, and that is what was announced.
    Shorten,
    /// More bytes than there are.
    Lengthen,
    /// One bit of the body is another.
    Flip,
    /// Nothing more comes after the head.
    Stall,
    /// A byte now and then.
    Drip,
    /// A redirect to itself.
    RedirectLoop,
    /// A redirect to no web server.
    RedirectAstray,
    /// A body that is no document.
    Garbage,
    /// A body that does not end within any bound.
    Huge,
    /// JSON that is nested thousands of times.
    Deep,
    /// A document that can be read as two.
    Ambiguous,
    /// Another media type than the document has.
    WrongType,
    /// A digest in the head that the body does not have.
    WrongDigestHeader,
    /// No body, and 200.
    Empty,
    /// Bytes that are not HTTP.
    NotHttp,
}

/// All of them.
pub const FAULTS: [Fault; 27] = [
    Fault::Status(400),
    Fault::Status(401),
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(405),
    Fault::Status(413),
    Fault::Status(500),
    Fault::Status(503),
    Fault::RateLimit,
    Fault::Reset,
    Fault::TakeHalf,
    Fault::Truncate,
    Fault::Shorten,
    Fault::Lengthen,
    Fault::Flip,
    Fault::Stall,
    Fault::Drip,
    Fault::RedirectLoop,
    Fault::RedirectAstray,
    Fault::Garbage,
    Fault::Huge,
    Fault::Deep,
    Fault::Ambiguous,
    Fault::WrongType,
    Fault::WrongDigestHeader,
    Fault::Empty,
    Fault::NotHttp,
];

impl Fault {
    /// Whether a client that tries again, once the fault is over, must come to the right result.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Status(500 | 503) | Self::RateLimit | Self::Reset | Self::TakeHalf | Self::Truncate | Self::Stall | Self::Drip)
    }
}

/// Which requests go wrong.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Number of the first one, counted from 0.
    pub from: usize,
    /// How many from there on.
    pub count: usize,
    /// How.
    pub fault: Fault,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and blob: who may read what.
    repositories: BTreeSet<(String, String)>,
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    next_upload: usize,
    requests: Vec<String>,
    script: Option<Script>,
    /// Wants tokens; each is good for so many requests.
    token_uses: Option<usize>,
    /// How often each was used.
    tokens: BTreeMap<String, usize>,
    /// What a client did that none may do.
    offences: Vec<String>,
}

/// The registry. Ends with the test.
pub struct Faulty {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Default for Faulty {
    fn default() -> Self {
        Self::start()
    }
}

impl Faulty {
    /// An empty one.
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { address, state }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a blob to a repository; returns its digest.
    #[must_use]
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut state = self.state();
        state.repositories.insert((repository.to_owned(), digest.clone()));
        state.blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// Adds a manifest under its digest and, if there is one, a tag; returns its digest.
    #[must_use]
    pub fn put_manifest(&self, repository: &str, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let mut state = self.state();
        for name in tag.into_iter().chain([&*digest]) {
            state.manifests.insert((repository.to_owned(), name.to_owned()), (media_type.to_owned(), bytes.to_vec()));
        }
        digest
    }

    /// The manifest under a tag.
    #[must_use]
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        self.state().manifests.get(&(repository.to_owned(), tag.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    /// Everything works from now on, and requests are counted anew.
    pub fn heal(&self) {
        self.arm(None);
    }

    /// Requests are counted anew and go wrong as `script` says.
    pub fn arm(&self, script: Option<Script>) {
        let mut state = self.state();
        state.script = script;
        state.requests.clear();
    }

    /// Wants bearer tokens from now on, each good for `uses` requests.
    pub fn want_tokens(&self, uses: usize) {
        self.state().token_uses = Some(uses);
    }

    /// Methods and paths since the last time it was armed or healed.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// What clients did that none may do: manifests before what they name, credentials where they do not belong.
    #[must_use]
    pub fn offences(&self) -> Vec<String> {
        self.state().offences.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!(r#"{{"errors":[{{"code":"{code}","message":"as the script says"}}]}}"#))
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// One connection. Every failure of it is the other side's going away.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut input = BufReader::new(stream);
    loop {
        let (mut request, length) = head(&mut input)?;
        let (number, fault) = {
            let mut state = lock(state);
            state.requests.push(format!("{} {}", request.method, request.path));
            let number = state.requests.len() - 1;
            let hit = state.script.filter(|script| (script.from..script.from.saturating_add(script.count)).contains(&number));
            (number, hit.map(|script| script.fault))
        };
        if matches!(fault, Some(Fault::Reset | Fault::TakeHalf)) {
            if fault == Some(Fault::TakeHalf) {
                request.body = vec![0; length / 2];
                input.read_exact(&mut request.body).ok()?;
                if let Some(upload) = lock(state).uploads.get_mut(&request.path) {
                    upload.extend_from_slice(&request.body);
                }
            }
            // Closing with unread bytes resets the connection, and so does not lingering.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            return None;
        }
        request.body = vec![0; length];
        input.read_exact(&mut request.body).ok()?;
        let answer = lock(state).answer(&request, number);
        let is_head = request.method == "HEAD";
        match fault {
            None => send(stream, &answer, is_head, None)?,
            Some(fault) => {
                misbehave(stream, fault, answer, &request, is_head);
                drop(stream.shutdown(Shutdown::Both));
                return None;
            }
        }
    }
}

fn head(input: &mut impl BufRead) -> Option<(Request, usize)> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let plain = |text: &str| text.replace("%3A", ":").replace("%2F", "/");
    let query = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), plain(value))).collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    Some((Request { method, path: path.to_owned(), query, headers, body: Vec::new() }, length))
}

/// Sends an answer; of the body only the first `cut` bytes, though all are announced.
fn send(mut stream: &TcpStream, answer: &Answer, is_head: bool, cut: Option<usize>) -> Option<()> {
    let mut text = format!("HTTP/1.1 {} X\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| name == "content-length") {
        text += &format!("content-length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes()).ok()?;
    let body = if is_head { &[][..] } else { &answer.body };
    stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())]).ok()
}

/// Sends what it can: whoever does not listen any more has had enough of it.
fn misbehave(mut stream: &TcpStream, fault: Fault, mut answer: Answer, request: &Request, is_head: bool) {
    let body = |body: Vec<u8>, answer: Answer| Answer { body, headers: answer.headers, status: 200 };
    let half = answer.body.len() / 2;
    let answer = match fault {
        Fault::Status(status) => Answer::error(status, "SCRIPTED"),
        Fault::RateLimit => Answer::error(429, "TOOMANYREQUESTS").header("retry-after", "1"),
        Fault::Truncate | Fault::Stall => {
            let _ = send(stream, &answer, is_head, Some(if fault == Fault::Stall { 0 } else { half }));
            if fault == Fault::Stall {
                // Until the other side gives up.
                drop(stream.read(&mut [0]));
            }
            return;
        }
        Fault::Drip => {
            let _ = send(stream, &answer, is_head, Some(0));
            for byte in &answer.body {
                // Slower than any download, faster than silence.
                std::thread::sleep(Duration::from_millis(10));
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
            return;
        }
        Fault::Shorten => {
            answer.body.truncate(half);
            answer
        }
        Fault::Lengthen => {
            answer.body.extend_from_slice(b"more");
            answer
        }
        Fault::Flip => {
            if let Some(byte) = answer.body.get_mut(half) {
                *byte ^= 1;
            }
            answer
        }
        Fault::RedirectLoop => Answer::new(307, "").header("location", &*request.path),
        Fault::RedirectAstray => Answer::new(307, "").header("location", "file:///etc/passwd"),
        Fault::Garbage => body(b"\x00\xff<html>not here</html>".to_vec(), answer),
        Fault::Huge => {
            let answer = Answer::new(200, "").header("content-length", (1_u64 << 40).to_string());
            let _ = send(stream, &answer, is_head, None);
            while stream.write_all(&[b' '; 65536]).is_ok() {}
            return;
        }
        Fault::Deep => body([vec![b'['; 100_000], vec![b']'; 100_000]].concat(), answer),
        Fault::Ambiguous => body(br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.to_vec(), answer),
        Fault::WrongType => answer.header("content-type", "application/vnd.docker.distribution.manifest.v1+json"),
        Fault::WrongDigestHeader => answer.header("docker-content-digest", sha256(b"something else")),
        Fault::Empty => Answer { status: 200, ..Answer::new(200, "") },
        Fault::NotHttp => {
            drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
            return;
        }
        Fault::Reset | Fault::TakeHalf => return,
    };
    let _ = send(stream, &answer, is_head, None);
}

impl State {
    fn answer(&mut self, request: &Request, number: usize) -> Answer {
        let authorization = request.headers.get("authorization").cloned();
        if request.path == "/token" {
            if authorization.as_deref() != Some("Basic dTpwdw==") {
                return Answer::error(401, "UNAUTHORIZED");
            }
            self.tokens.insert(format!("Bearer T{number}"), 0);
            return Answer::new(200, format!(r#"{{"token":"T{number}","expires_in":300}}"#));
        }
        if let Some(uses) = self.token_uses {
            if authorization.as_deref().is_some_and(|authorization| authorization.starts_with("Basic")) {
                self.offences.push(format!("a password came with {}", request.path));
            }
            match authorization.and_then(|authorization| self.tokens.get_mut(&authorization)) {
                Some(used) if *used < uses => *used += 1,
                _ => {
                    let host = &request.headers["host"];
                    let challenge = format!(r#"Bearer realm="http://{host}/token",service="tests",scope="repository:x:pull""#);
                    return Answer::error(401, "UNAUTHORIZED").header("www-authenticate", challenge);
                }
            }
        } else if authorization.is_some() {
            self.offences.push(format!("credentials came with {} unasked", request.path));
        }
        let Some(path) = request.path.strip_prefix("/v2/") else { return Answer::error(404, "UNKNOWN") };
        for kind in ["/manifests/", "/blobs/uploads/", "/blobs/"] {
            if let Some((repository, name)) = path.split_once(kind) {
                let (repository, name) = (repository.to_owned(), name.to_owned());
                return match kind {
                    "/manifests/" => self.on_manifest(request, repository, &name),
                    "/blobs/" => self.on_blob(request, repository, name),
                    _ => self.on_upload(request, &repository),
                };
            }
        }
        Answer::error(404, "UNKNOWN")
    }

    fn on_manifest(&mut self, request: &Request, repository: String, name: &str) -> Answer {
        if request.method != "PUT" {
            return match self.manifests.get(&(repository, name.to_owned())) {
                Some((kind, bytes)) => {
                    Answer::new(200, bytes.clone()).header("content-type", kind.clone()).header("docker-content-digest", sha256(bytes))
                }
                None => Answer::error(404, "MANIFEST_UNKNOWN"),
            };
        }
        let document: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let digest = sha256(&request.body);
        let listed = |key: &str| document[key].as_array().cloned().unwrap_or_default();
        let named = |entry: &Value| entry["digest"].as_str().unwrap_or_default().to_owned();
        let blobs = listed("layers").iter().chain([&document["config"]]).filter(|entry| entry.is_object()).map(named).collect::<Vec<_>>();
        let has_blobs = blobs.iter().all(|blob| self.repositories.contains(&(repository.clone(), blob.clone())));
        let has_manifests = listed("manifests").iter().all(|entry| self.manifests.contains_key(&(repository.clone(), named(entry))));
        if !has_blobs || !has_manifests || blobs.is_empty() && listed("manifests").is_empty() {
            self.offences.push(format!("{name} came before what it names"));
            return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let kind = request.headers.get("content-type").cloned().unwrap_or_default();
        for name in [name, &digest] {
            self.manifests.insert((repository.clone(), name.to_owned()), (kind.clone(), request.body.clone()));
        }
        Answer::new(201, "").header("docker-content-digest", digest)
    }

    fn on_blob(&mut self, request: &Request, repository: String, digest: String) -> Answer {
        if !self.repositories.contains(&(repository, digest.clone())) {
            return Answer::error(404, "BLOB_UNKNOWN");
        }
        let bytes = &self.blobs[&digest];
        let from = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Answer::new(206, &bytes[from..]).header("content-range", range)
            }
            Some(_) => Answer::error(416, "RANGE_INVALID"),
            None => Answer::new(200, bytes.clone()).header("docker-content-digest", digest),
        }
    }

    fn on_upload(&mut self, request: &Request, repository: &str) -> Answer {
        let created = |digest: &str| Answer::new(201, "").header("docker-content-digest", digest);
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (request.query.get("mount"), request.query.get("from"))
                && self.repositories.contains(&(from.clone(), digest.clone()))
            {
                self.repositories.insert((repository.to_owned(), digest.clone()));
                return created(digest);
            }
            let location = format!("/v2/{repository}/blobs/uploads/{}", self.next_upload);
            self.next_upload += 1;
            self.uploads.insert(location.clone(), Vec::new());
            return Answer::new(202, "").header("location", location).header("range", "0-0");
        }
        let Some(upload) = self.uploads.get_mut(&request.path) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
        if let Some(range) = request.headers.get("content-range")
            && range.split('-').next().and_then(|first| first.parse().ok()) != Some(upload.len())
        {
            return Answer::error(416, "RANGE_INVALID");
        }
        upload.extend_from_slice(&request.body);
        let at = format!("0-{}", upload.len().saturating_sub(1));
        match (&*request.method, request.query.get("digest")) {
            ("GET", _) => Answer::new(204, "").header("location", &*request.path).header("range", at),
            ("PATCH", _) => Answer::new(202, "").header("location", &*request.path).header("range", at),
            ("PUT", Some(digest)) if sha256(upload) == *digest => {
                self.blobs.insert(digest.clone(), upload.clone());
                self.repositories.insert((repository.to_owned(), digest.clone()));
                created(digest)
            }
            _ => Answer::error(400, "DIGEST_INVALID"),
        }
    }
}
