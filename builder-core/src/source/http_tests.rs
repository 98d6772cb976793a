//! Tests of web servers: what is downloaded, asked again and refused.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Duration;

use super::super::stack::StackTree;
use super::super::tree::{EntryNode, SourceTree};
use super::*;

/// Answers each request with what `answer` makes of its head, and remembers the heads.
struct Server {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = String::new();
                let mut lines = BufReader::new(stream.try_clone().expect("a stream"));
                while lines.read_line(&mut head).is_ok_and(|n| n > 2) {}
                let answer = answer(&head);
                seen.lock().expect("the heads").push(head);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { address, heads }
    }

    fn requests(&self) -> Vec<String> {
        self.heads.lock().expect("the heads").drain(..).map(|head| head.lines().next().unwrap_or_default().to_owned()).collect()
    }
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

struct Case {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    sources: HttpSources,
}

impl Case {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RegistryConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path()).expect("a store"));
        let mut config = RegistryConfig::default();
        config.retry.attempts = 2;
        config.retry.first_wait = Duration::from_millis(1);
        change(&mut config);
        Self { sources: HttpSources::new(config, Arc::clone(&store)), store, _dir: dir }
    }

    fn fetch(&self, url: &str, checksum: Option<&Sha256Digest>, secrets: &BTreeMap<String, Secret>) -> Result<Stack, StepError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.sources.fetch(HttpFile { url, filename: "f", checksum }, secrets))
    }

    fn file(&self, stack: &Stack) -> (u32, i64, Option<Sha256Digest>) {
        let entry = StackTree::read(stack, &self.store).expect("tables").lookup(&TreePath::new("f").expect("clean")).expect("looked").expect("there");
        let EntryNode::File { digest, .. } = entry.node else { panic!("{entry:?}") };
        (entry.meta.mode, entry.meta.mtime.seconds, digest)
    }
}

#[test]
fn a9_15_a_file_has_mode_0600_and_the_servers_time() {
    let case = Case::new();
    let server = Server::new(|_| ok("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "body"));
    let stack = case.fetch(&format!("{}/f", server.address), None, &BTreeMap::new()).expect("fetched");
    assert_eq!(case.file(&stack), (0o600, 784_111_777, Some(Sha256Digest::of(b"body"))));
    let plain = Server::new(|_| ok("", "body"));
    let stack = case.fetch(&format!("{}/f", plain.address), None, &BTreeMap::new()).expect("fetched");
    assert_eq!(case.file(&stack).1, 0);
}

#[test]
fn a9_15_what_has_not_changed_is_not_brought_again() {
    let case = Case::new();
    let server = Server::new(|head| {
        if head.to_lowercase().contains("if-none-match: \"1\"") {
            "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned()
        } else {
            ok("ETag: \"1\"\r\n", "body")
        }
    });
    let url = format!("{}/f", server.address);
    let first = case.fetch(&url, None, &BTreeMap::new()).expect("fetched");
    assert_eq!(server.requests(), ["GET /f HTTP/1.1"]);
    assert_eq!(case.fetch(&url, None, &BTreeMap::new()).expect("known"), first);
    assert_eq!(server.requests(), ["HEAD /f HTTP/1.1"]);
    let digest = Sha256Digest::of(b"body");
    assert_eq!(case.fetch(&url, Some(&digest), &BTreeMap::new()).expect("known"), first);
    assert!(server.requests().is_empty(), "a digest that is in the store asks nobody");
    let other = format!("{}/other", server.address);
    case.fetch(&other, Some(&digest), &BTreeMap::new()).expect("fetched");
    assert_eq!(server.requests(), ["GET /other HTTP/1.1"], "known by address only");
    assert_eq!(case.fetch(&format!("{}/third", server.address), Some(&digest), &BTreeMap::new()).expect("known"), first);
    assert!(server.requests().is_empty(), "a digest that is in the store asks nobody");
}

#[test]
fn a9_15_failures_name_the_address() {
    let case = Case::new();
    let server = Server::new(|head| match head.split(' ').nth(1) {
        Some("/gone.txt") => "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
        Some("/cut") => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\nshort".to_owned(),
        _ => ok("", "x"),
    });
    let error = case.fetch(&format!("{}/gone.txt", server.address), None, &BTreeMap::new()).expect_err("404").to_string();
    assert!(error.contains("404") && error.contains("gone.txt"), "{error}");
    assert_eq!(server.requests().len(), 1, "what is not there is not asked for twice");
    let error = case.fetch(&format!("{}/cut", server.address), None, &BTreeMap::new()).expect_err("cut").to_string();
    assert!(error.contains("/cut"), "{error}");
    assert_eq!(server.requests().len(), 2, "a connection that breaks is tried again");
    let wrong = Sha256Digest([0; 32]);
    let error = case.fetch(&format!("{}/x", server.address), Some(&wrong), &BTreeMap::new()).expect_err("wrong").to_string();
    assert!(error.contains(&Sha256Digest::of(b"x").to_string()) && error.contains(&wrong.to_string()), "{error}");
    let with_password = format!("{}/gone.txt", server.address.replace("http://", "http://user:hunter2@"));
    let error = case.fetch(&with_password, None, &BTreeMap::new()).expect_err("404").to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a9_15_secrets_open_their_host_only() {
    let case = Case::new();
    let elsewhere = Server::new(|_| ok("", "x"));
    let target = elsewhere.address.replace("127.0.0.1", "localhost");
    let server = Server::new(move |_| format!("HTTP/1.1 302 Found\r\nLocation: {target}/x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    let secrets = BTreeMap::from([("HTTP_AUTH_TOKEN_127.0.0.1".to_owned(), Secret::new(&b"token\n"[..]))]);
    case.fetch(&format!("{}/x", server.address), None, &secrets).expect("fetched");
    let head = |server: &Server| server.heads.lock().expect("the heads").concat().to_lowercase();
    assert!(head(&server).contains("authorization: bearer token\r\n"), "{}", head(&server));
    assert!(!head(&elsewhere).contains("authorization"), "{}", head(&elsewhere));
}

/// Its bytes come often enough for every one of them to be awaited, for days on end.
#[test]
fn a9_15_a_server_that_drips_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/drip", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while stream.write_all(b"x").is_ok() {
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
    });
    let case = Case::with(|config| config.retry.idle_timeout = Duration::from_millis(300));
    let error = case.fetch(&address, None, &BTreeMap::new()).expect_err("given up").to_string();
    assert!(error.contains("/drip") && error.contains("too slowly"), "{error}");
}
