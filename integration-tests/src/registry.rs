//! Debian's `docker-registry` on a loopback port, with its access log.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::{peers, require};

/// A running registry; ended when dropped.
pub struct Registry {
    child: Child,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
}

/// It ends when its input does: with this value, or with the test's process, whose statics are never dropped and which may be killed.
const WHILE_THE_TEST_LIVES: &str = "\"$0\" serve \"$1\" </dev/null & server=$!; exec 2>/dev/null; cat >/dev/null; kill -9 $server; wait $server";

impl Registry {
    /// Starts one that keeps its data below `dir`.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::configured(dir, "")
    }

    /// Starts one that wants the password `pw` of the user `u`.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn with_password(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("registry's directory");
        let users = dir.join("htpasswd");
        std::fs::write(&users, "u:$2y$05$abcdefghijklmnopqrstuuHIrMEWpUCQe2YqFR3sXwQ75u4od..9q\n").expect("users");
        Self::configured(dir, &format!("auth:\n  htpasswd: {{realm: tests, path: {}}}\n", users.display()))
    }

    /// Starts one that speaks TLS, with a certificate of the authority `DIR/ca.crt`, and only to those who show one of it: `DIR/client.cert` with
    /// `DIR/client.key`.
    ///
    /// # Panics
    /// When openssl or the registry fails.
    #[must_use]
    pub fn with_tls(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("registry's directory");
        let openssl = |words: &str| {
            let _ = peers::run(Command::new(require::tool("openssl", "openssl")).args(words.split(' ')).current_dir(dir));
        };
        openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests -keyout ca.key -out ca.crt");
        std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("names");
        for (name, file) in [("server", "server.crt"), ("client", "client.cert")] {
            openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
            openssl(&format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {file}"));
        }
        let at = |name: &str| dir.join(name).display().to_string();
        Self::configured(dir, &format!("  tls: {{certificate: {}, key: {}, clientcas: [{}]}}\n", at("server.crt"), at("server.key"), at("ca.crt")))
    }

    fn configured(dir: &Path, more: &str) -> Self {
        std::fs::create_dir_all(dir).expect("registry's directory");
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\n  accesslog: {{disabled: false}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: 127.0.0.1:0\n{more}",
            dir.join("data").display()
        );
        std::fs::write(&config, text).expect("registry's configuration");
        let mut child = Command::new("/bin/sh")
            .args(["-c", WHILE_THE_TEST_LIVES])
            .arg(require::tool("docker-registry", "docker-registry"))
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("docker-registry ended:\n{said}")).expect("text");
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            }
            said += &line;
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().expect("no reader panics").push(line);
            }
        });
        Self { child, address, log }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A configuration that makes it docker.io's mirror.
    #[must_use]
    pub fn configuration(&self) -> String {
        let address = &self.address;
        format!("[registry.\"docker.io\"]\nmirrors = [\"{address}\"]\n[registry.\"{address}\"]\nhttp = true\n")
    }

    /// Pushes an OCI layout directory under `name`.
    ///
    /// # Panics
    /// When skopeo fails.
    pub fn push(&self, layout: &Path, name: &str) {
        peers::copy(&format!("oci:{}", layout.display()), &self.at(name));
    }

    /// `name` as skopeo and podman call it.
    #[must_use]
    pub fn at(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    /// Where requests are counted from: pass it to [`Registry::requests_since`].
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.log.lock().expect("no reader panics").len()
    }

    /// Lines of the log since `mark` that hold `word`.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn requests_since(&self, mark: usize, word: &str) -> Vec<String> {
        self.log.lock().expect("no reader panics")[mark..].iter().filter(|line| line.contains(word)).cloned().collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Its input ends first. Nothing is left to do when it has already gone.
        let _ = self.child.wait();
    }
}
