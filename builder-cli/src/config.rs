//! `rbuild.toml`: how registries are reached, what steps run on. And where the store is.
//!
//! ```toml
//! snapshotter = "auto"
//! [registry."docker.io"]
//! mirrors = ["mirror.example.org", "127.0.0.1:5000"]
//! [registry."127.0.0.1:5000"]
//! http = true
//! [registry."registry.example.org"]
//! ca = ["/etc/ssl/example.pem"]
//! [[registry."registry.example.org".keypair]]
//! cert = "/etc/ssl/client.pem"
//! key = "/etc/ssl/client.key"
//! [network]
//! attempts = 5
//! ```
//!
//! Certificates are also found where docker and podman have them: `certs.d/HOST/*.crt` (authorities), `*.cert` with `*.key` (clients).
//!
//! The shape of the registries' tables is the one that BuildKit users know. An unknown key is an error: a misspelt `mirorrs` must not quietly do nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use builder_core::builder::SnapshotterKind;
use builder_core::registry::{ClientCertificate, ProxyConfig, RegistryConfig, RegistryHost, RetryPolicy};
use serde::Deserialize;

use crate::args::GlobalArgs;
use crate::environment::Environment;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    snapshotter: Option<String>,
    registry: BTreeMap<String, RegistryTable>,
    network: NetworkTable,
}

/// `[network]`: the patience with registries and web servers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NetworkTable {
    attempts: Option<u32>,
    first_wait_ms: Option<u64>,
    longest_wait_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
    idle_timeout_ms: Option<u64>,
    parallel: Option<usize>,
}

/// One `[registry."host"]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryTable {
    mirrors: Vec<String>,
    http: bool,
    insecure: bool,
    ca: Vec<PathBuf>,
    keypair: Vec<Keypair>,
}

/// One `[[registry."host".keypair]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keypair {
    cert: PathBuf,
    key: PathBuf,
}

/// Where Linux distributions keep the certificates they trust, in the order in which Go looks.
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// Reads how registries are reached: from the file, the environment's proxies and the machine's certificates.
pub(crate) fn registries(global: &GlobalArgs, environment: &Environment) -> Result<RegistryConfig> {
    let mut config = RegistryConfig { proxy: proxies(environment), ca: machine_certificates(environment), ..RegistryConfig::default() };
    for dir in certificate_dirs(environment) {
        read_certificate_dir(&dir, &mut config.registries);
    }
    let Some((file, path)) = file(global, environment)? else { return Ok(config) };
    let beside = path.parent().unwrap_or(Path::new("/"));
    for (host, table) in file.registry {
        let read = |path: &Path| read_certificate(&beside.join(path), &host);
        let ca: Vec<_> = table.ca.iter().map(|ca| read(ca)).collect::<Result<_>>()?;
        let pairs = table.keypair.iter().map(|pair| Ok(ClientCertificate { certificate: read(&pair.cert)?, key: read(&pair.key)? }));
        let client_certificates: Vec<_> = pairs.collect::<Result<_>>()?;
        let known: &mut RegistryHost = config.registries.entry(host.clone()).or_default();
        (known.mirrors, known.http, known.insecure) = (table.mirrors, table.http, table.insecure);
        known.ca.extend(ca);
        // Only the first pair is shown: what the file says counts before what directories hold.
        known.client_certificates.splice(0..0, client_certificates);
    }
    config.retry = patience(&file.network, config.retry)?;
    if let Some(parallel) = file.network.parallel {
        anyhow::ensure!(parallel > 0, "in the configuration file {}: network.parallel is 0", path.display());
        config.concurrency = parallel;
    }
    Ok(config)
}

fn patience(table: &NetworkTable, usual: RetryPolicy) -> Result<RetryPolicy> {
    anyhow::ensure!(table.attempts != Some(0), "network.attempts is 0: without a try nothing can be had");
    let milliseconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_millis);
    Ok(RetryPolicy {
        attempts: table.attempts.unwrap_or(usual.attempts),
        first_wait: milliseconds(table.first_wait_ms, usual.first_wait),
        longest_wait: milliseconds(table.longest_wait_ms, usual.longest_wait),
        connect_timeout: milliseconds(table.connect_timeout_ms, usual.connect_timeout),
        idle_timeout: milliseconds(table.idle_timeout_ms, usual.idle_timeout),
    })
}

/// Where docker and podman keep certificates by host.
fn certificate_dirs(environment: &Environment) -> Vec<PathBuf> {
    let home = environment.home();
    let docker = environment.get_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".docker")));
    let podman = environment.get_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".config")));
    let of_user = docker.into_iter().chain(podman.map(|config| config.join("containers"))).map(|dir| dir.join("certs.d"));
    of_user.chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from)).collect()
}

/// Adds what `certs.d` has for each host. What is not there or can't be read is not ours to complain about: the host may never be asked.
fn read_certificate_dir(dir: &Path, registries: &mut BTreeMap<String, RegistryHost>) {
    let list = |dir: &Path| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    for host_dir in list(dir) {
        let Some(host) = host_dir.file_name().and_then(|name| name.to_str()) else { continue };
        let read =
            |path: &Path| std::fs::read(path).inspect_err(|error| tracing::debug!(path = %path.display(), %error, "cannot read a certificate")).ok();
        let (mut ca, mut own) = (Vec::new(), Vec::new());
        for path in list(&host_dir) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => ca.extend(read(&path)),
                Some("cert") => {
                    own.extend(read(&path).zip(read(&path.with_extension("key"))).map(|(certificate, key)| ClientCertificate { certificate, key }))
                }
                _ => {}
            }
        }
        if !ca.is_empty() || !own.is_empty() {
            let known: &mut RegistryHost = registries.entry(host.to_owned()).or_default();
            known.ca.extend(ca);
            known.client_certificates.extend(own);
        }
    }
}

/// What steps run on: as the flag says, else as the file says.
pub(crate) fn snapshotter(flag: Option<SnapshotterKind>, global: &GlobalArgs, environment: &Environment) -> Result<SnapshotterKind> {
    if let Some(kind) = flag {
        return Ok(kind);
    }
    let Some((ConfigFile { snapshotter: Some(word), .. }, path)) = file(global, environment)? else { return Ok(SnapshotterKind::Auto) };
    snapshotter_kind(&word).with_context(|| format!("in the configuration file {}: snapshotter = {word:?}", path.display()))
}

/// A kind of snapshotter by its name.
pub(crate) fn snapshotter_kind(word: &str) -> Result<SnapshotterKind> {
    Ok(match word {
        "auto" => SnapshotterKind::Auto,
        "overlay" => SnapshotterKind::Overlay,
        "copy" => SnapshotterKind::Copy,
        _ => anyhow::bail!("there are auto, overlay and copy"),
    })
}

/// The file that counts and where it is, if there is one.
fn file(global: &GlobalArgs, environment: &Environment) -> Result<Option<(ConfigFile, PathBuf)>> {
    let Some(path) = config_path(global, environment)? else { return Ok(None) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let file = parse(&text).with_context(|| format!("in the configuration file {}", path.display()))?;
    Ok(Some((file, path)))
}

fn parse(text: &str) -> Result<ConfigFile> {
    Ok(toml::from_str(text)?)
}

fn read_certificate(path: &Path, host: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the certificate {} of registry {host:?}", path.display()))
}

/// The file that counts: one that was named must be there, the usual ones need not.
fn config_path(global: &GlobalArgs, environment: &Environment) -> Result<Option<PathBuf>> {
    if let Some(named) = global.config.as_deref().or_else(|| environment.get_os("RBUILD_CONFIG")) {
        let path = environment.absolute(named);
        anyhow::ensure!(path.is_file(), "configuration file {} not found; mend --config or RBUILD_CONFIG", path.display());
        return Ok(Some(path));
    }
    let home = environment.get_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(environment.home()?.join(".config")));
    let usual = home.map(|home| home.join("rbuild/rbuild.toml")).into_iter().chain([PathBuf::from("/etc/rbuild/rbuild.toml")]);
    Ok(usual.into_iter().find(|path| path.is_file()))
}

fn proxies(environment: &Environment) -> ProxyConfig {
    // Lower case first, as curl does: HTTP_PROXY can be set by a client in CGI programs.
    let get = |lower: &str, upper: &str| environment.get(lower).or_else(|| environment.get(upper)).map(str::to_owned);
    ProxyConfig {
        http: get("http_proxy", "HTTP_PROXY"),
        https: get("https_proxy", "HTTPS_PROXY"),
        no_proxy: get("no_proxy", "NO_PROXY").unwrap_or_default(),
    }
}

/// The machine's own bundle, so that a company's certificate authority that the administrator installed is trusted here too.
pub(crate) fn machine_certificates(environment: &Environment) -> Vec<Vec<u8>> {
    if let Some(named) = environment.get_os("SSL_CERT_FILE") {
        return std::fs::read(named).into_iter().collect();
    }
    CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()).into_iter().collect()
}

/// The store's directory (DESIGN §5).
pub(crate) fn store_root(global: &GlobalArgs, environment: &Environment) -> Result<PathBuf> {
    if let Some(root) = global.root.as_deref().or_else(|| environment.get_os("RBUILD_ROOT")) {
        return Ok(environment.absolute(root));
    }
    if environment.is_root {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    let data = environment.get_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| Some(environment.home()?.join(".local/share")));
    data.map(|data| data.join("rbuild")).context("no directory for the store: neither XDG_DATA_HOME nor HOME is set; give --root or set RBUILD_ROOT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(root: Option<&str>) -> GlobalArgs {
        GlobalArgs { root: root.map(Into::into), ..GlobalArgs::default() }
    }

    #[test]
    fn registries_are_read_from_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("ca.pem"), "PEM").expect("write");
        let text = "[registry.\"docker.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n[registry.\"127.0.0.1:5000\"]\nhttp = true\nca = [\"ca.pem\"]\n";
        std::fs::write(dir.path().join("rbuild.toml"), text).expect("write");
        let environment = Environment::of(dir.path(), &[("RBUILD_CONFIG", "rbuild.toml"), ("https_proxy", "http://p:1")]);
        let config = registries(&global(None), &environment).expect("config");
        assert_eq!(config.registries["docker.io"].mirrors, ["127.0.0.1:5000"]);
        assert!(config.registries["127.0.0.1:5000"].http);
        assert_eq!(config.registries["127.0.0.1:5000"].ca, [b"PEM".to_vec()]);
        assert_eq!(config.proxy.https.as_deref(), Some("http://p:1"));
    }

    #[test]
    fn f6_certificates_come_from_the_file_and_from_directories() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let certs = dir.path().join("certs.d/r.example:5000");
        std::fs::create_dir_all(&certs).expect("directory");
        for name in ["a.crt", "me.cert", "me.key", "lonely.cert", "notes.txt", "of-the-file.pem"] {
            std::fs::write(certs.join(name), name).expect("write");
        }
        let text = "[[registry.\"r.example:5000\".keypair]]\ncert = \"certs.d/r.example:5000/of-the-file.pem\"\nkey = \"certs.d/r.example:5000/me.key\"\n\
            [network]\nattempts = 2\nfirst_wait_ms = 5\nparallel = 8\n";
        std::fs::write(dir.path().join("rbuild.toml"), text).expect("write");
        let environment = Environment::of(dir.path(), &[("RBUILD_CONFIG", "rbuild.toml"), ("DOCKER_CONFIG", &dir.path().display().to_string())]);
        let config = registries(&global(None), &environment).expect("config");
        let host = &config.registries["r.example:5000"];
        assert_eq!(host.ca, [b"a.crt".to_vec()]);
        let own: Vec<&[u8]> = host.client_certificates.iter().map(|own| &own.certificate[..]).collect();
        assert_eq!(own, [&b"of-the-file.pem"[..], b"me.cert"]);
        assert_eq!((config.retry.attempts, config.retry.first_wait, config.concurrency), (2, Duration::from_millis(5), 8));
        std::fs::write(dir.path().join("rbuild.toml"), "[network]\nattempts = 0\n").expect("write");
        assert!(registries(&global(None), &environment).is_err());
    }

    #[test]
    fn what_steps_run_on_is_in_the_file_and_the_flag_wins() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let environment = Environment::of(dir.path(), &[("RBUILD_CONFIG", "rbuild.toml")]);
        let kind = |text: &str, flag| {
            std::fs::write(dir.path().join("rbuild.toml"), text).expect("write");
            snapshotter(flag, &global(None), &environment)
        };
        assert_eq!(kind("", None).expect("default"), SnapshotterKind::Auto);
        assert_eq!(kind("snapshotter = \"copy\"\n", None).expect("copy"), SnapshotterKind::Copy);
        assert_eq!(kind("snapshotter = \"copy\"\n", Some(SnapshotterKind::Overlay)).expect("flag"), SnapshotterKind::Overlay);
        let error = format!("{:#}", kind("snapshotter = \"btrfs\"\n", None).expect_err("unknown"));
        assert!(error.contains("rbuild.toml: snapshotter = \"btrfs\": there are auto, overlay and copy"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        let error = parse("[registry.\"docker.io\"]\nmirorrs = []\n").expect_err("misspelt").to_string();
        assert!(error.contains("mirorrs") && error.contains("mirrors"), "{error}");
    }

    #[test]
    fn the_store_is_where_design_says() {
        let root = |environment: &Environment, flag| store_root(&global(flag), environment).expect("root").display().to_string();
        let mut environment = Environment::of("/w", &[("HOME", "/home/u")]);
        assert_eq!(root(&environment, None), "/home/u/.local/share/rbuild");
        assert_eq!(root(&environment, Some("r")), "/w/r");
        environment.is_root = true;
        assert_eq!(root(&environment, None), "/var/lib/rbuild");
        assert_eq!(root(&Environment::of("/w", &[("RBUILD_ROOT", "/r")]), None), "/r");
        assert!(store_root(&global(None), &Environment::of("/w", &[])).is_err());
    }
}
