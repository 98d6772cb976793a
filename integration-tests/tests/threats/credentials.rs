//! Credentials, wherever they come in, in nothing that comes out: progress in every form, traces, diagnostics, metadata, results, the store.

use std::path::Path;

use integration_tests::{Build, web};

use crate::yard::Yard;

/// In every address, password, header and token of these tests.
const SECRET: &str = "cr3dential-e4b1";

/// Everything below `path` that holds the secret, plain or as basic authentication sends it (which begins where the user's name ends).
fn holding(path: &Path, found: &mut Vec<String>) {
    if path.is_dir() {
        std::fs::read_dir(path).expect("ours").for_each(|entry| holding(&entry.expect("entry").path(), found));
    } else if let Ok(bytes) = std::fs::read(path)
        && leaks(&String::from_utf8_lossy(&bytes))
    {
        found.push(path.display().to_string());
    }
}

fn leaks(text: &str) -> bool {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("user:{SECRET}"));
    text.contains(SECRET) || text.contains(&encoded)
}

/// A server that wants authorisation for everything and then answers `/v2/…` with a fault, other paths with a file.
fn guarded() -> String {
    let reply = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    };
    web::replying(move |own, request| {
        let is_authorised = request.to_ascii_lowercase().contains("\nauthorization: ");
        match request.split(' ').nth(1).unwrap_or_default() {
            path if path.starts_with("/token") => reply("200 OK", "", &format!("{{\"token\":\"{SECRET}-bearer\"}}")),
            path if path.starts_with("/v2/") && !is_authorised => {
                reply("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"{own}/token\",service=\"s\"\r\n"), "")
            }
            path if path.starts_with("/v2/") => reply("403 Forbidden", "", r#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
            path if path.starts_with("/moved") => reply("302 Found", &format!("Location: /file?signature={SECRET}\r\n"), ""),
            _ if is_authorised => reply("200 OK", "ETag: \"1\"\r\n", "content"),
            _ => reply("404 Not Found", "", ""),
        }
    })
}

#[test]
fn cve_2025_0495_credentials_are_in_no_trace_metadata_log_or_record() {
    let yard = Yard::new();
    let server = guarded();
    let host = server.trim_start_matches("http://").to_owned();
    let docker = yard.bed.context("docker", &[]);
    let auths = serde_json::json!({"auths": {host.clone(): {"username": "user", "password": SECRET}}});
    std::fs::write(docker.join("config.json"), auths.to_string()).expect("ours");
    yard.bed.configure("[network]\nattempts = 1\n");
    let with_password = format!("http://user:{SECRET}@{host}");
    let nobody = format!("user:{SECRET}@127.0.0.1:1");
    let adding = |name: &str, url: &str| {
        // By an argument: what stands in the Dockerfile itself is shown beside an error.
        let build = yard.build(name, &[("Dockerfile", "FROM scratch\nARG URL\nADD ${URL} /in/\n")]).no_output();
        build.args(["--build-arg".to_owned(), format!("URL={url}")])
    };
    let from = |name: &str, image: &str| yard.build(name, &[("Dockerfile", &format!("FROM {image}\n"))]).no_output();
    let secret = |build: Build, id: &str, value: String| build.args(["--secret".to_owned(), format!("id={id},env=S")]).env("S", value);
    let cases: Vec<(&str, Build, bool)> = vec![
        ("password in an address", adding("a", &format!("{with_password}/file")), true),
        ("password in an address that is moved", adding("b", &format!("{with_password}/moved")), true),
        ("signature in an address", adding("c", &format!("{server}/none?X-Amz-Signature=x&X-Amz-Credential=y")), false),
        ("password for nobody", adding("d", &format!("https://{nobody}/file")), false),
        ("password for git", adding("e", &format!("https://{nobody}/r.git#main")), false),
        ("token for git in an address", adding("f", &format!("https://{SECRET}@127.0.0.1:1/r.git")), false),
        ("token header", secret(adding("g", &format!("{server}/file")), "HTTP_AUTH_TOKEN_127.0.0.1", SECRET.into()), true),
        ("whole header", secret(adding("h", &format!("{server}/file")), "HTTP_AUTH_HEADER_127.0.0.1", format!("Basic {SECRET}")), true),
        ("token of git", secret(adding("i", "https://127.0.0.1:1/r.git"), "GIT_AUTH_TOKEN", SECRET.into()), false),
        ("named context", from("j", "repo").args(["--build-context", &format!("repo=https://{nobody}/r.git")]), false),
        ("registry", from("k", &format!("{host}/image")).env("DOCKER_CONFIG", &docker), false),
        ("proxy", from("l", "127.9.9.9:1/image").env("HTTPS_PROXY", format!("http://{nobody}")).env("HTTP_PROXY", format!("http://{nobody}")), false),
    ];
    let metadata = yard.bed.path("metadata.json");
    for (name, build, is_good) in &cases {
        for (form, flags) in [
            ("plain", &["--progress", "plain", "--no-cache"][..]),
            ("rawjson", &["--progress", "rawjson", "--diagnostics", "json"]),
            ("trace", &["--debug", "--no-cache"]),
        ] {
            let build = build.clone().env("RUST_LOG", "trace").args(flags.iter().copied()).args(["--metadata-file".into(), metadata.clone()]);
            let outcome = yard.run(&build);
            assert_eq!(outcome.code == Some(0), *is_good, "{name}, {form}: {}", outcome.log);
            for (place, text) in [("log", &outcome.log), ("output", &outcome.stdout)] {
                assert!(!leaks(text), "{name}: it is in the {place} ({form}):\n{text}");
            }
            let mut found = Vec::new();
            holding(&yard.bed.state(), &mut found);
            if metadata.exists() {
                holding(&metadata, &mut found);
            }
            assert!(found.is_empty(), "{name}, {form}: it is in {found:?}");
        }
    }
    yard.store_is_good();
}
