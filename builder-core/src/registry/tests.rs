//! The client against a small server that misbehaves on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::oci::Descriptor;

/// A request as the server sees it; header names in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body after which the connection breaks, though all were announced.
    pub(crate) cut: Option<usize>,
    /// Sends nothing of the body and keeps the connection.
    pub(crate) stall: bool,
}

pub(crate) fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, body: body.into(), ..Reply::default() }
}

impl Reply {
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

pub(crate) struct Server {
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// `handler` gets each request and its number, counted from 0.
    pub(crate) async fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let host = listener.local_addr().expect("address").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let requests = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&handler), Arc::clone(&requests)));
            }
        });
        Self { host, seen, task }
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }
}

async fn serve(stream: TcpStream, handler: Arc<Handler>, seen: Arc<Mutex<Vec<Request>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let mut first = lines[0].split(' ');
        let (method, path) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
        let headers: HashMap<String, String> =
            lines[1..].iter().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_lowercase(), v.trim().to_owned())).collect();
        let mut body = vec![0; headers.get("content-length").map_or(0, |text| text.parse().expect("a number"))];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let request = Request { method, path, headers, body };
        let number = {
            let mut seen = seen.lock().expect("no panic");
            seen.push(request.clone());
            seen.len() - 1
        };
        let reply = handler(&request, number);
        let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        if reply.stall {
            drop(stream.write_all(head.as_bytes()).await);
            return std::future::pending().await;
        }
        let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..reply.cut.unwrap_or(reply.body.len())] };
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body).await.is_err() || reply.cut.is_some() {
            return;
        }
    }
}

pub(crate) fn config() -> RegistryConfig {
    let retry = RetryPolicy { attempts: 4, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(20), ..RetryPolicy::default() };
    RegistryConfig { retry, ..RegistryConfig::default() }
}

pub(super) fn registry(config: RegistryConfig) -> Registry {
    Registry::new(config, Arc::new(NoCredentials))
}

pub(super) fn reference(server: &Server) -> Reference {
    format!("{}/a/b:t", server.host).parse().expect("reference")
}

fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: crate::oci::media::OCI_LAYER.into(),
        digest: Sha256Digest::of(content),
        size: content.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    }
}

pub(super) struct Passwords;

impl CredentialProvider for Passwords {
    fn credentials(&self, _: &str) -> Result<Credentials, String> {
        Ok(Credentials::Password { username: "u".into(), password: "p".into() })
    }
}

#[tokio::test]
async fn f3_bearer_tokens_are_fetched_once_and_sent_again() {
    let server = Server::start(|request, _| {
        let host = &request.headers["host"];
        match (request.path.split('?').next().unwrap_or_default(), request.headers.get("authorization").map(String::as_str)) {
            ("/token", Some("Basic dTpw")) => reply(200, r#"{"token":"T","expires_in":300}"#),
            ("/token", _) => reply(401, ""),
            (_, Some("Bearer T")) => reply(200, "{}"),
            _ => reply(401, "").header("www-authenticate", format!(r#"Bearer realm="http://{host}/token",service="s",scope="repository:a/b:pull""#)),
        }
    })
    .await;
    let registry = Registry::new(config(), Arc::new(Passwords));
    for _ in 0..2 {
        registry.manifest(&reference(&server), None, Patience::Full).await.expect("manifest");
    }
    let paths: Vec<_> = server.seen().iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths, ["/v2/a/b/manifests/t", "/token?service=s&scope=repository%3Aa%2Fb%3Apull", "/v2/a/b/manifests/t", "/v2/a/b/manifests/t"]);
}

#[tokio::test]
async fn f3_a_refused_token_is_not_fetched_forever() {
    let server = Server::start(|request, _| {
        let host = &request.headers["host"];
        if request.path.starts_with("/token") {
            return reply(200, r#"{"token":"T"}"#);
        }
        reply(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"no \u001b[31mway"}]}"#)
            .header("www-authenticate", format!(r#"Bearer realm="http://{host}/token",error="insufficient_scope""#))
    })
    .await;
    let error = registry(config()).manifest(&reference(&server), None, Patience::Full).await.expect_err("refused");
    assert!(matches!(&error, RegistryError::Denied { status: 401, detail, .. } if detail == "UNAUTHORIZED no [31mway"), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn f12_rate_limits_are_waited_out_and_then_told() {
    let server = Server::start(|_, number| if number < 2 { reply(429, "").header("retry-after", "0") } else { reply(200, "{}") }).await;
    registry(config()).manifest(&reference(&server), None, Patience::Full).await.expect("manifest");
    assert_eq!(server.seen().len(), 3);

    let server = Server::start(|_, _| reply(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)).await;
    let error = registry(config()).manifest(&reference(&server), None, Patience::Full).await.expect_err("limited");
    assert!(error.to_string().contains("429") && error.to_string().contains("slow down"), "{error}");
    assert!(error.is_unreachable());
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn f4_server_errors_are_asked_again_and_client_errors_are_not() {
    let server = Server::start(|_, number| if number < 3 { reply(502, "") } else { reply(200, "{}") }).await;
    registry(config()).manifest(&reference(&server), None, Patience::Full).await.expect("manifest");
    for (status, times) in [(404, 1), (403, 1), (405, 1), (500, 4)] {
        let server = Server::start(move |_, _| reply(status, "")).await;
        registry(config()).manifest(&reference(&server), None, Patience::Full).await.expect_err("fails");
        assert_eq!(server.seen().len(), times, "{status}");
    }
    let server = Server::start(|_, _| reply(500, "")).await;
    registry(config()).head_manifest(&reference(&server), Patience::Short).await.expect_err("fails");
    assert_eq!(server.seen().len(), 1);
}

async fn fetch(registry: &Registry, reference: &Reference, content: &[u8]) -> Result<Vec<u8>, RegistryError> {
    registry.config(reference, &descriptor(content)).await
}

pub(super) fn content() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn f4_broken_downloads_go_on_where_they_stopped() {
    for honours_ranges in [true, false] {
        let server = Server::start(move |request, _| {
            let content = content();
            let from: usize = request
                .headers
                .get("range")
                .and_then(|range| range.strip_prefix("bytes="))
                .and_then(|range| range.strip_suffix('-'))
                .map_or(0, |from| from.parse().expect("a number"));
            let from = if honours_ranges { from } else { 0 };
            let rest = content[from..].to_vec();
            let cut = if honours_ranges { 150_000 } else { 399_000 };
            let cut = (rest.len() > cut && (honours_ranges || !request.headers.contains_key("range"))).then_some(cut);
            let mut answer = reply(if from > 0 { 206 } else { 200 }, rest);
            if from > 0 {
                answer = answer.header("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len()));
            }
            answer.cut = cut;
            answer
        })
        .await;
        let fetched = fetch(&registry(config()), &reference(&server), &content()).await.expect("whole");
        assert!(fetched == content());
        assert!(server.seen().len() >= 2);
    }
}

#[tokio::test]
async fn f4_a_connection_that_always_breaks_is_an_error() {
    let server = Server::start(|_, _| Reply { cut: Some(0), ..reply(200, content()) }).await;
    let error = fetch(&registry(config()), &reference(&server), &content()).await.expect_err("broken");
    assert!(matches!(error, RegistryError::Network { .. }), "{error}");
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    let server = Server::start(|request, _| match request.path.as_str() {
        path if path.contains("blobs") => reply(200, vec![7; content().len()]),
        _ => reply(200, "{}").header("docker-content-digest", Sha256Digest::of(b"other").to_string()),
    })
    .await;
    let registry = registry(config());
    assert!(matches!(fetch(&registry, &reference(&server), &content()).await, Err(RegistryError::Mismatch { .. })));
    assert!(matches!(fetch(&registry, &reference(&server), &content()[1..]).await, Err(RegistryError::TooLarge { .. })));
    assert!(matches!(registry.manifest(&reference(&server), None, Patience::Full).await, Err(RegistryError::Mismatch { .. })));
    let pinned = Sha256Digest::of(b"pinned");
    assert!(matches!(registry.manifest(&reference(&server), Some(&pinned), Patience::Full).await, Err(RegistryError::Mismatch { .. })));
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let server = Server::start(|request, _| match request.path.as_str() {
        path if path.contains("manifests/loop") => reply(307, "").header("location", "/v2/a/b/manifests/loop"),
        _ => reply(200, vec![b' '; 5 << 20]),
    })
    .await;
    let registry = registry(config());
    let error = registry.manifest(&reference(&server), None, Patience::Full).await.expect_err("too large");
    assert!(matches!(error, RegistryError::Limit { .. }), "{error}");
    let looping: Reference = format!("{}/a/b:loop", server.host).parse().expect("reference");
    let error = registry.manifest(&looping, None, Patience::Full).await.expect_err("endless");
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error}");
    assert!(server.seen().len() < 20);
}

#[tokio::test]
async fn cve_2020_15157_credentials_stay_with_their_host() {
    let storage = Server::start(|_, _| reply(200, content())).await;
    let target = format!("http://{}/store?signature=x", storage.host);
    let server = Server::start(move |request, _| match request.headers.get("authorization") {
        Some(_) => reply(307, "").header("location", target.clone()),
        None => reply(401, "").header("www-authenticate", r#"Basic realm="r""#),
    })
    .await;
    let registry = Registry::new(config(), Arc::new(Passwords));
    fetch(&registry, &reference(&server), &content()).await.expect("fetched");
    assert_eq!(storage.seen().len(), 1);
    assert!(!storage.seen()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn f6_mirrors_come_first_and_the_registry_last() {
    let origin = Server::start(|_, _| reply(200, content())).await;
    let mirror = Server::start(|_, _| reply(200, content())).await;
    let gone = { Server::start(|_, _| reply(200, "")).await.host.clone() };
    let missing = Server::start(|_, _| reply(404, "")).await;
    let with = |mirrors: Vec<String>| {
        let mut config = config();
        config.registries.insert(origin.host.clone(), RegistryHost { mirrors, ..RegistryHost::default() });
        registry(config)
    };
    fetch(&with(vec![format!("{}/prefix", mirror.host)]), &reference(&origin), &content()).await.expect("from the mirror");
    assert_eq!(mirror.seen()[0].path, format!("/v2/prefix/a/b/blobs/{}", Sha256Digest::of(&content())));
    assert_eq!(origin.seen().len(), 0);
    fetch(&with(vec![gone, missing.host.clone()]), &reference(&origin), &content()).await.expect("from the registry");
    assert_eq!((missing.seen().len(), origin.seen().len()), (1, 1));
}

#[test]
fn f1_docker_hub_has_another_host() {
    let found = endpoints(&RegistryConfig::default(), &"busybox".parse().expect("reference"));
    assert_eq!(found, [Endpoint { host: "registry-1.docker.io".into(), name: "docker.io".into(), repository: "library/busybox".into() }]);
    for (host, local) in [("localhost:5000", true), ("127.0.0.1", true), ("[::1]:5000", true), ("127.0.0.1.evil.org", false), ("example.org", false)]
    {
        assert_eq!(is_loopback(host), local, "{host}");
    }
}

#[tokio::test]
async fn a_mirror_that_sends_other_bytes_is_passed_over_for_configs_too() {
    let origin = Server::start(|_, _| reply(200, content())).await;
    let mirror = Server::start(|_, _| reply(200, vec![7; content().len()])).await;
    let mut config = config();
    config.registries.insert(origin.host.clone(), RegistryHost { mirrors: vec![mirror.host.clone()], ..RegistryHost::default() });
    fetch(&registry(config), &reference(&origin), &content()).await.expect("from the registry");
    assert_eq!((mirror.seen().len(), origin.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_host_that_breaks_off_after_every_byte_is_given_up() {
    let server = Server::start(|request, _| {
        let content = content();
        let from: usize = request.headers.get("range").map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().expect("a number"));
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        let answer = reply(if from > 0 { 206 } else { 200 }, &content[from..]).header("content-range", range);
        Reply { cut: Some(1), ..answer }
    })
    .await;
    let error = fetch(&registry(config()), &reference(&server), &content()).await.expect_err("given up");
    assert!(matches!(error, RegistryError::Network { .. }), "{error}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_host_that_falls_silent_is_given_up() {
    let mut config = config();
    config.retry.idle_timeout = Duration::from_millis(40);
    config.retry.attempts = 2;
    let server = Server::start(|_, _| Reply { stall: true, ..reply(200, content()) }).await;
    let error = fetch(&registry(config), &reference(&server), &content()).await.expect_err("given up");
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_token_server_elsewhere_or_without_tls_is_not_asked() {
    for realm in ["http://127.0.0.1:1/t", "http://169.254.169.254/t", "http://tokens.example/t", "file:///etc/passwd"] {
        let base = reqwest::Url::parse("https://registry.example/v2/").expect("url");
        let endpoint = Endpoint { host: "registry.example".into(), name: "registry.example".into(), repository: "a".into() };
        let challenge = auth::Challenge::Bearer { realm: realm.into(), service: None, scope: None };
        let Err(failure) = registry(config()).authorize(&endpoint, &base, &challenge, &["s".into()]).await else { panic!("{realm} was asked") };
        assert!(matches!(failure.error, RegistryError::Config { .. }) && failure.error.to_string().contains("insecure = true"), "{}", failure.error);
    }
}

#[tokio::test]
async fn foreign_layers_are_fetched_from_the_public_web_only() {
    let server = Server::start(|_, _| reply(200, content())).await;
    let registry = registry(config());
    for url in [format!("http://{}/x", server.host), "http://169.254.169.254/x".into(), "http://example.org/x".into(), "file:///etc/passwd".into()] {
        let descriptor = Descriptor { urls: vec![url], ..descriptor(&content()) };
        let error = registry.foreign_blob(&descriptor).next().await.expect_err("refused");
        assert!(matches!(error, RegistryError::Config { .. }), "{error}");
    }
    assert_eq!(server.seen().len(), 0);
}
