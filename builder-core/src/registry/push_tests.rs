//! Pushing to a small registry that keeps what it gets and misbehaves on demand.

use std::collections::HashMap;

use super::super::RegistryHost;
use super::super::tests::{Passwords, Reply, Request, Server, config, content, reference, registry, reply};
use super::*;

struct InMemory(Vec<u8>);

impl PushBlob for InMemory {
    fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&content())
    }

    fn size_bytes(&self) -> u64 {
        content().len() as u64
    }

    fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0)
    }
}

fn blob() -> Arc<dyn PushBlob> {
    Arc::new(InMemory(content()))
}

fn silent() -> Arc<dyn Fn(u64) + Send + Sync> {
    Arc::new(|_| {})
}

/// Uploads and blobs of one repository.
#[derive(Default)]
struct Shelf {
    uploads: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
}

impl Shelf {
    /// What a registry that behaves answers.
    fn answer(&mut self, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).map(|digest| digest.replace("%3A", ":"));
        let at = |path: &str, upload: &[u8]| {
            let range = format!("0-{}", upload.len().saturating_sub(1));
            reply(202, "").header("location", path).header("range", range).header("docker-upload-uuid", "u")
        };
        match (request.method.as_str(), path.strip_prefix("/v2/a/b/").unwrap_or_default()) {
            ("HEAD", blob) => match self.blobs.get(blob.trim_start_matches("blobs/")) {
                Some(bytes) => reply(200, bytes.clone()),
                None => reply(404, ""),
            },
            ("POST", "blobs/uploads/") => {
                let name = format!("/v2/a/b/blobs/uploads/{}", self.uploads.len());
                self.uploads.insert(name.clone(), Vec::new());
                at(&name, &[])
            }
            (method, _) => {
                let Some(upload) = self.uploads.get_mut(path) else { return reply(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#) };
                let expected = format!("{}-{}", upload.len(), upload.len() + request.body.len().max(1) - 1);
                if method == "PATCH" && request.headers["content-range"] != expected {
                    return at(path, upload).header("x", "wrong place");
                }
                upload.extend_from_slice(&request.body);
                match (method, digest) {
                    ("GET", _) => Reply { status: 204, ..at(path, upload) },
                    ("PATCH", _) => at(path, upload),
                    ("PUT", Some(digest)) if Sha256Digest::of(upload).to_string() == digest => {
                        self.blobs.insert(digest.clone(), upload.clone());
                        reply(201, "").header("docker-content-digest", digest)
                    }
                    _ => reply(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#),
                }
            }
        }
    }
}

/// A registry where `fault` may answer in place of it, and change what it has.
async fn shelf(fault: impl Fn(&mut Shelf, &Request, usize) -> Option<Reply> + Send + Sync + 'static) -> (Server, Arc<Mutex<Shelf>>) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let inside = Arc::clone(&shelf);
    let server = Server::start(move |request, number| {
        let mut shelf = lock(&inside);
        match fault(&mut shelf, request, number) {
            Some(reply) => reply,
            None => shelf.answer(request),
        }
    })
    .await;
    (server, shelf)
}

fn requests(server: &Server) -> Vec<String> {
    server.seen().iter().map(|request| format!("{} {}", request.method, request.headers.get("content-length").map_or("-", |length| length))).collect()
}

fn has_it(shelf: &Mutex<Shelf>) -> bool {
    lock(shelf).blobs.get(&Sha256Digest::of(&content()).to_string()) == Some(&content())
}

#[tokio::test]
async fn f5_a_blob_is_uploaded_once() {
    let (server, shelf) = shelf(|_, _, _| None).await;
    let registry = registry(config());
    let (to, size) = (reference(&server), content().len() as u64);
    assert!(!registry.has_blob(&to, &blob().digest(), size).await.expect("asked"));
    registry.upload_blob(&to, &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&shelf));
    assert!(registry.has_blob(&to, &blob().digest(), size).await.expect("asked"));
    assert!(!registry.has_blob(&to, &blob().digest(), size + 1).await.expect("asked"), "another size is another blob");
    assert_eq!(requests(&server), ["HEAD -", "POST 0", "PUT 400000", "HEAD -", "HEAD -"]);
}

#[tokio::test]
async fn f5_broken_uploads_go_on_where_the_registry_stands() {
    // The PUT fails when the registry has 150,000 bytes; asked, it says so.
    let (server, stored) = shelf(|shelf, request, number| {
        (number == 1).then(|| {
            shelf.uploads.values_mut().for_each(|upload| upload.extend_from_slice(&request.body[..150_000]));
            reply(503, "").header("retry-after", "0")
        })
    })
    .await;
    registry(config()).upload_blob(&reference(&server), &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&stored));
    assert_eq!(requests(&server), ["POST 0", "PUT 400000", "GET -", "PATCH 250000", "PUT 0"]);

    // It has forgotten the upload: from the start.
    let (server, stored) = shelf(|shelf, _, number| {
        (number == 1).then(|| {
            shelf.uploads.clear();
            reply(502, "")
        })
    })
    .await;
    registry(config()).upload_blob(&reference(&server), &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&stored));
    assert_eq!(requests(&server), ["POST 0", "PUT 400000", "GET -", "POST 0", "PUT 400000"]);
}

#[tokio::test]
async fn f5_bytes_that_changed_on_the_way_are_sent_again() {
    let (server, shelf) = shelf(|shelf, request, _| {
        let is_first = shelf.uploads.len() == 1 && request.method == "PUT";
        is_first.then(|| reply(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))
    })
    .await;
    registry(config()).upload_blob(&reference(&server), &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&shelf));
}

#[tokio::test]
async fn f5_registries_that_refuse_a_whole_blob_get_chunks() {
    struct Large(Vec<u8>);
    impl PushBlob for Large {
        fn digest(&self) -> Sha256Digest {
            Sha256Digest::of(&self.0)
        }
        fn size_bytes(&self) -> u64 {
            self.0.len() as u64
        }
        fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(&self.0)
        }
    }
    let bytes: Vec<u8> = content().repeat(50);
    let limit = 9 << 20;
    let (server, shelf) = shelf(move |_, request, _| (request.body.len() > limit).then(|| reply(413, ""))).await;
    let large: Arc<dyn PushBlob> = Arc::new(Large(bytes.clone()));
    registry(config()).upload_blob(&reference(&server), &large, None, &silent()).await.expect("uploaded");
    assert_eq!(lock(&shelf).blobs.get(&large.digest().to_string()), Some(&bytes));
    assert_eq!(requests(&server)[2..], ["POST 0", "PATCH 8388608", "PATCH 8388608", "PATCH 3222784", "PUT 0"]);
}

#[tokio::test]
async fn f5_uploads_end_when_nothing_gets_on() {
    for (status, least) in [(500, 4), (429, 4), (403, 1), (401, 1), (405, 1), (413, 1), (301, 1)] {
        let (server, stored) = shelf(move |_, request, _| {
            let fails = matches!(request.method.as_str(), "PUT" | "PATCH");
            fails.then(|| reply(status, "").header("retry-after", "0").header("location", "/elsewhere"))
        })
        .await;
        let error = registry(config()).upload_blob(&reference(&server), &blob(), None, &silent()).await.expect_err("fails");
        assert!(error.to_string().contains(&server.host), "{status}: {error}");
        let puts = server.seen().iter().filter(|request| request.method == "PUT").count();
        assert_eq!(puts, least, "{status}: {error}");
        assert!(!has_it(&stored));
    }
}

#[tokio::test]
async fn damaged_bytes_never_arrive_whole() {
    struct Damaged(usize);
    impl PushBlob for Damaged {
        fn digest(&self) -> Sha256Digest {
            Sha256Digest::of(&content())
        }
        fn size_bytes(&self) -> u64 {
            content().len() as u64
        }
        fn pour(&self, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(&content()[..self.0])?;
            Err(io::Error::other("blob x is damaged"))
        }
    }
    for (blob, words) in [
        (Arc::new(Damaged(content().len() - 1)) as Arc<dyn PushBlob>, "blob x is damaged"),
        (Arc::new(Damaged(0)), "blob x is damaged"),
        (Arc::new(InMemory(content()[1..].to_vec())), "1 bytes are missing"),
    ] {
        let (server, shelf) = shelf(|_, _, _| None).await;
        let error = registry(config()).upload_blob(&reference(&server), &blob, None, &silent()).await.expect_err("unreadable");
        assert!(matches!(error, RegistryError::Unreadable { .. }) && error.to_string().contains(words), "{error}");
        assert!(!has_it(&shelf));
        assert_eq!(server.seen().iter().filter(|request| request.method == "PUT").count(), 0, "the body never came whole");
    }
}

#[tokio::test]
async fn f5_blobs_are_taken_over_from_other_repositories() {
    for (status, mounted) in [(201, true), (202, false)] {
        let (server, _) = shelf(move |shelf, request, _| {
            let begun = request.path.contains("mount=").then(|| shelf.answer(&Request { path: "/v2/a/b/blobs/uploads/".into(), ..request.clone() }));
            begun.map(|begun| Reply { status, ..begun })
        })
        .await;
        let registry = registry(config());
        let (to, digest) = (reference(&server), blob().digest());
        let answer = registry.mount_blob(&to, &digest, "library/base").await.expect("answered");
        assert_eq!(server.seen()[0].path, format!("/v2/a/b/blobs/uploads/?mount={digest}&from=library%2Fbase"));
        match answer {
            Mount::Done => assert!(mounted),
            Mount::Begun(session) => {
                assert!(!mounted);
                registry.upload_blob(&to, &blob(), Some(session), &silent()).await.expect("uploaded");
                assert_eq!(requests(&server), ["POST 0", "PUT 400000"], "the session that was begun is used");
            }
        }
    }
    let (server, _) = shelf(|_, _, _| Some(reply(403, ""))).await;
    assert!(registry(config()).mount_blob(&reference(&server), &blob().digest(), "secret/base").await.is_none());
}

#[tokio::test]
async fn f3_tokens_for_pushing_name_all_scopes_and_are_fetched_again_when_refused() {
    let (server, shelf) = shelf(|shelf, request, number| {
        let host = &request.headers["host"];
        if request.path.starts_with("/token") {
            return Some(reply(200, format!(r#"{{"token":"T{number}","expires_in":300}}"#)));
        }
        // The first token ends with the POST.
        let valid = if shelf.uploads.is_empty() { "Bearer T1" } else { "Bearer T5" };
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s",scope="repository:a/b:pull,push""#);
        (request.headers.get("authorization").map(String::as_str) != Some(valid)).then(|| reply(401, "").header("www-authenticate", challenge))
    })
    .await;
    let registry = Registry::new(config(), Arc::new(Passwords));
    let to = reference(&server);
    assert!(!registry.has_blob(&to, &blob().digest(), 1).await.expect("asked"));
    registry.upload_blob(&to, &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&shelf));
    let seen = server.seen();
    assert_eq!(seen[1].path, "/token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush");
    assert_eq!(requests(&server), ["HEAD -", "GET -", "HEAD -", "POST 0", "PUT 400000", "GET -", "PUT 400000"]);
    assert!(registry.mount_blob(&to, &blob().digest(), "c/d").await.is_none());
    let last = server.seen().pop().expect("requests");
    let asked = server.seen().iter().rev().find(|request| request.path.starts_with("/token")).map(|request| request.path.clone());
    assert_eq!(asked.as_deref(), Some("/token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%2Fd%3Apull"), "{last:?}");
}

#[tokio::test]
async fn cve_2020_15157_credentials_do_not_follow_an_upload_elsewhere() {
    let (storage, _) = shelf(|_, _, _| Some(reply(201, ""))).await;
    let elsewhere = format!("http://{}/upload?x=y", storage.host);
    let (server, _) = shelf(move |_, request, _| match request.headers.get("authorization") {
        Some(_) => Some(reply(202, "").header("location", elsewhere.clone())),
        None => Some(reply(401, "").header("www-authenticate", r#"Basic realm="r""#)),
    })
    .await;
    let registry = Registry::new(config(), Arc::new(Passwords));
    registry.upload_blob(&reference(&server), &blob(), None, &silent()).await.expect("uploaded");
    assert_eq!(storage.seen().len(), 1);
    assert!(storage.seen()[0].path.starts_with("/upload?x=y&digest=sha256"), "{:?}", storage.seen()[0].path);
    assert!(!storage.seen()[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn an_upload_is_not_sent_to_this_machine_by_a_registry_elsewhere() {
    let registry = registry(config());
    let endpoint = Endpoint { host: "registry.example".into(), name: "registry.example".into(), repository: "a".into() };
    for place in ["https://127.0.0.1:1/x", "http://169.254.169.254/latest", "http://storage.example/x"] {
        let location = Url::parse(place).expect("url");
        let ask = Ask { access: PUSH, target: Target::Location(&location), ..Ask::read(Method::PUT, "") };
        let Err(failure) = registry.once(&endpoint, &ask).await else { panic!("{place} was sent to") };
        assert!(matches!(failure.error, RegistryError::Config { .. }), "{place}: {}", failure.error);
    }
}

#[tokio::test]
async fn f5_manifests_say_what_they_are_and_are_checked() {
    let (server, _) = shelf(|_, request, number| {
        let digest = Sha256Digest::of(if number < 3 { &request.body } else { b"other" });
        Some(if number == 0 { reply(503, "") } else { reply(201, "").header("docker-content-digest", digest.to_string()) })
    })
    .await;
    let registry = registry(config());
    registry.push_manifest(&reference(&server), "t", "application/x", b"{}").await.expect("pushed");
    registry.push_manifest(&reference(&server), "u", "application/x", b"{}").await.expect("pushed");
    assert_eq!((&*server.seen()[1].path, &*server.seen()[1].headers["content-type"]), ("/v2/a/b/manifests/t", "application/x"));
    let error = registry.push_manifest(&reference(&server), "t", "application/x", b"{}").await.expect_err("other");
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
}

#[tokio::test]
async fn f5_who_says_yes_to_everything_is_asked_for_the_manifest() {
    // Some registries accept manifests with 202 and say nothing of digests.
    for (answer, has_it) in [("{}", true), ("", false), ("{\"other\": 1}", false)] {
        let (server, _) = shelf(move |_, request, _| Some(if request.method == "PUT" { reply(202, "") } else { reply(200, answer) })).await;
        let registry = registry(config());
        assert!(!registry.has_blob(&reference(&server), &blob().digest(), 400_000).await.expect("asked"), "it names neither digest nor size");
        let pushed = registry.push_manifest(&reference(&server), "t", "application/x", b"{}").await;
        match pushed {
            Ok(()) => assert!(has_it, "{answer:?}"),
            Err(error) => assert!(!has_it && error.to_string().contains("does not give it back"), "{answer:?}: {error}"),
        }
    }
}

#[tokio::test]
async fn f5_mirrors_are_not_pushed_to() {
    let (mirror, _) = shelf(|_, _, _| None).await;
    let (server, shelf) = shelf(|_, _, _| None).await;
    let mut config = config();
    config.registries.insert(server.host.clone(), RegistryHost { mirrors: vec![mirror.host.clone()], ..RegistryHost::default() });
    registry(config).upload_blob(&reference(&server), &blob(), None, &silent()).await.expect("uploaded");
    assert!(has_it(&shelf) && mirror.seen().is_empty());
}

#[test]
fn f5_ranges_of_uploads() {
    for (text, received) in [("0-9", Some(10)), ("bytes=0-0", Some(1)), (" 0 - 4 ", Some(5))] {
        assert_eq!(parse_received(text), received, "{text}");
    }
    for text in ["", "1-5", "0", "0-", "-5", "0-x", "0-18446744073709551615"] {
        assert_eq!(parse_received(text), None, "{text}");
    }
}
