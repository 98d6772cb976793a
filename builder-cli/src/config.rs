//! `rbuild.toml`: how registries are reached. And where the store is.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example.org", "127.0.0.1:5000"]
//! [registry."127.0.0.1:5000"]
//! http = true
//! [registry."registry.example.org"]
//! ca = ["/etc/ssl/example.pem"]
//! ```
//!
//! The shape of the tables is the one that BuildKit users know. An unknown key is an error: a misspelt `mirorrs` must not quietly do nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use builder_core::registry::{ProxyConfig, RegistryConfig, RegistryHost};
use serde::Deserialize;

use crate::args::GlobalArgs;
use crate::environment::Environment;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    registry: BTreeMap<String, RegistryTable>,
}

/// One `[registry."host"]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistryTable {
    mirrors: Vec<String>,
    http: bool,
    insecure: bool,
    ca: Vec<PathBuf>,
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
    let Some(path) = config_path(global, environment)? else { return Ok(config) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let file = parse(&text).with_context(|| format!("in the configuration file {}", path.display()))?;
    for (host, table) in file.registry {
        let beside = path.parent().unwrap_or(Path::new("/"));
        let ca = table.ca.iter().map(|ca| read_certificate(&beside.join(ca), &host)).collect::<Result<_>>()?;
        config.registries.insert(host, RegistryHost { mirrors: table.mirrors, http: table.http, insecure: table.insecure, ca });
    }
    Ok(config)
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
fn machine_certificates(environment: &Environment) -> Vec<Vec<u8>> {
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
