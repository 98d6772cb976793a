//! Servers of one test: a web server with one answer, and git repositories. They end with the test's process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::require;

/// The address of a server that gives every request the same answer, with `headers` (each with its line end) and `body`.
///
/// # Panics
/// When there is no port.
#[must_use]
pub fn answering(headers: &str, body: &[u8]) -> String {
    let answer = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let body = body.to_owned();
    replying(move |_, request| {
        let mut reply = answer.clone().into_bytes();
        if !request.starts_with("HEAD") {
            reply.extend_from_slice(&body);
        }
        reply
    })
}

/// The address of a server whose answers, status line and all, are made of its own address and of the request's head.
///
/// # Panics
/// When there is no port.
#[must_use]
pub fn replying(reply: impl Fn(&str, &str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let own = address.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            let request = BufReader::new(client.try_clone().expect("a socket")).lines().map_while(Result::ok);
            let head: Vec<String> = request.take_while(|line| !line.is_empty()).collect();
            // A client that has gone away has what it wanted.
            let _ = client.write_all(&reply(&own, &head.join("\n")));
        }
    });
    address
}

/// Commits everything in the directory, at `seconds` since 1970, and returns the `git://` address of a server that gives it away.
///
/// # Panics
/// When git fails or there is no port.
#[must_use]
pub fn git(dir: &Path, seconds: u64) -> String {
    let git = require::tool("git", "git");
    let date = format!("{seconds} +0000");
    for line in ["init -q -b main", "add -A", "-c user.name=t -c user.email=t@t commit -q -m 1"] {
        let mut command = Command::new(&git);
        command.args(line.split(' ')).current_dir(dir).env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        assert!(command.status().expect("git runs").success(), "git {line}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("git://{}/.git", listener.local_addr().expect("bound"));
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            let output = OwnedFd::from(client.try_clone().expect("a socket"));
            let mut daemon = Command::new(&git);
            daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", dir.display())).arg(&dir);
            let status = daemon.stdin(OwnedFd::from(client)).stdout(output).stderr(Stdio::null()).status();
            assert!(status.is_ok(), "git daemon runs");
        }
    });
    address
}
