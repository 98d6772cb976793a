//! Passwords for registries, from where `docker login` and `podman login` keep them (`features.md` F2).
//!
//! Read when a registry first asks, never before: a build that pulls nothing starts no helper. No value ever reaches a message.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use builder_core::registry::{CredentialProvider, Credentials};
use builder_snapshot::user_namespace::{self, Outside};
use serde::Deserialize;

use crate::environment::Environment;

/// The name under which Docker keeps the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Docker's `config.json`, as far as it concerns us. Unknown keys belong to others.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DockerConfig {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
    /// Proxies for builds, by engine address or `default`.
    pub(crate) proxies: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

/// What a credential helper answers.
#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Credentials from Docker's and Podman's files.
#[derive(Debug)]
pub(crate) struct DockerCredentials {
    files: Vec<PathBuf>,
    /// Where helpers are looked for.
    path: Option<OsString>,
    /// Where helpers run when this process is in a user namespace: a keyring gives its user's secrets to that user only, not to a root of something.
    outside: Option<Outside>,
}

/// The files that may hold credentials, the first that knows a host wins.
fn files(environment: &Environment) -> Vec<PathBuf> {
    let docker = environment.get_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(environment.home()?.join(".docker")));
    let podman = environment.get_os("XDG_RUNTIME_DIR").map(|run| PathBuf::from(run).join("containers/auth.json"));
    docker.map(|dir| dir.join("config.json")).into_iter().chain(podman).collect()
}

/// Docker's own file; an absent or unreadable one is an empty one, since builds work without.
pub(crate) fn docker_config(environment: &Environment) -> DockerConfig {
    files(environment).first().and_then(|path| std::fs::read(path).ok()).and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

impl DockerCredentials {
    /// Will look where `environment` says.
    pub(crate) fn new(environment: &Environment, outside: Option<Outside>) -> Self {
        Self { files: files(environment), path: environment.get_os("PATH").map(Into::into), outside }
    }

    fn ask_helper(&self, helper: &str, server: &str) -> Result<Option<Credentials>, String> {
        let program = format!("docker-credential-{helper}");
        let failed = |what: &dyn std::fmt::Display| {
            format!("credential helper {program} failed: {what}; log in again, or mend credsStore in Docker's config.json")
        };
        let output = match &self.outside {
            Some(outside) => outside.run(program.as_ref(), &["get".into()], server.as_bytes(), self.path.as_deref()),
            None => user_namespace::run(program.as_ref(), &["get".into()], server.as_bytes(), self.path.as_deref()),
        };
        let output = output.map_err(|e| failed(&e))?;
        if !output.success {
            // "credentials not found" is the protocol's way of saying that it has none; what else helpers say differs by helper.
            return Ok(None);
        }
        let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|_| failed(&"its answer is not JSON"))?;
        Ok(match answer.username.as_str() {
            "" => None,
            "<token>" => Some(Credentials::IdentityToken(answer.secret)),
            _ => Some(Credentials::Password { username: answer.username, password: answer.secret }),
        })
    }
}

impl CredentialProvider for DockerCredentials {
    fn credentials(&self, host: &str) -> Result<Credentials, String> {
        for file in &self.files {
            let Ok(text) = std::fs::read(file) else { continue };
            let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
            let server = if host == "docker.io" { DOCKER_HUB } else { host };
            if let Some(helper) = config.cred_helpers.get(server).or_else(|| config.cred_helpers.get(host)).filter(|helper| !helper.is_empty())
                && let Some(found) = self.ask_helper(helper, server)?
            {
                return Ok(found);
            }
            if !config.creds_store.is_empty()
                && config.auths.keys().any(|key| names_host(key, host))
                && let Some(found) = self.ask_helper(&config.creds_store, server)?
            {
                return Ok(found);
            }
            if let Some(found) = config.auths.iter().filter(|(key, _)| names_host(key, host)).find_map(|(_, auth)| from_auth(auth)) {
                return Ok(found);
            }
        }
        Ok(Credentials::Anonymous)
    }
}

/// Whether a key of `auths` (a host, or an address with scheme and path) is about `host`.
fn names_host(key: &str, host: &str) -> bool {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.split('/').next().unwrap_or(bare);
    bare == host || host == "docker.io" && ["index.docker.io", "registry-1.docker.io"].contains(&bare)
}

fn from_auth(auth: &Auth) -> Option<Credentials> {
    if !auth.registrytoken.is_empty() {
        return Some(Credentials::RegistryToken(auth.registrytoken.clone()));
    }
    if !auth.identitytoken.is_empty() {
        return Some(Credentials::IdentityToken(auth.identitytoken.clone()));
    }
    if !auth.username.is_empty() {
        return Some(Credentials::Password { username: auth.username.clone(), password: auth.password.clone() });
    }
    let decoded = String::from_utf8(crate::base64::decode(&auth.auth)?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Credentials::Password { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_credentials_by_host() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r.example:5000": {"identitytoken": "t"}}, "other": 1}"#;
        std::fs::write(dir.path().join("config.json"), text).expect("write");
        let provider = DockerCredentials::new(&Environment::of("/", &[("DOCKER_CONFIG", &dir.path().display().to_string())]), None);
        let password = Credentials::Password { username: "u".into(), password: "p:q".into() };
        assert!(provider.credentials("docker.io").expect("hub") == password);
        assert!(provider.credentials("r.example:5000").expect("own") == Credentials::IdentityToken("t".into()));
        assert!(provider.credentials("elsewhere").expect("none") == Credentials::Anonymous);
    }
}
