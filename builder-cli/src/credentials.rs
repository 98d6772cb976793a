//! Passwords for registries, from where `docker login` and `podman login` keep them (`features.md` F2).
//!
//! Read when a registry first asks, never before: a build that pulls nothing starts no helper. No value ever reaches a message.

use std::collections::BTreeMap;
use std::path::PathBuf;

use builder_core::registry::{CredentialProvider, Credentials};
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
    environment: Environment,
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
    pub(crate) fn new(environment: &Environment) -> Self {
        Self { files: files(environment), environment: environment.clone() }
    }

    /// Asks a credential helper. `is_expected`: the file says that there are credentials, so that a helper that does not work is an error; else
    /// it only cannot help.
    fn ask_helper(&self, helper: &str, server: &str, is_expected: bool) -> Result<Option<Credentials>, String> {
        let program = format!("docker-credential-{helper}");
        let failed = |what: String| {
            if is_expected {
                return Err(format!(
                    "credential helper {program} failed: {what}; log in again, or mend credsStore or credHelpers in Docker's config.json"
                ));
            }
            tracing::debug!(program, what, "a credential helper does not help");
            Ok(None)
        };
        // A name with a slash would be a path, from a file that others may have written for us.
        if helper.contains('/') {
            return failed("its name is a path".to_owned());
        }
        let output = match self.environment.run(program.as_ref(), &["get".into()], server.as_bytes()) {
            Ok(output) => output,
            Err(error) => return failed(error.to_string()),
        };
        if !output.success {
            let said = String::from_utf8_lossy(if output.stdout.trim_ascii().is_empty() { &output.stderr } else { &output.stdout }).into_owned();
            if NOT_FOUND.iter().any(|words| said.contains(words)) {
                return Ok(None);
            }
            return failed(said.lines().next().unwrap_or("no reason given").chars().filter(|c| !c.is_control()).take(200).collect());
        }
        let Ok(answer) = serde_json::from_slice::<HelperAnswer>(&output.stdout) else { return failed("its answer is not JSON".to_owned()) };
        Ok(match answer.username.as_str() {
            "" => None,
            "<token>" => Some(Credentials::IdentityToken(answer.secret)),
            _ => Some(Credentials::Password { username: answer.username, password: answer.secret }),
        })
    }
}

/// How helpers say that they have no credentials for a host: the protocol's words, and what some say in their place.
const NOT_FOUND: [&str; 2] = ["credentials not found", "no credentials server URL"];

impl CredentialProvider for DockerCredentials {
    fn credentials(&self, host: &str) -> Result<Credentials, String> {
        for file in &self.files {
            let Ok(text) = std::fs::read(file) else { continue };
            let config: DockerConfig = serde_json::from_slice(&text).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
            let server = if host == "docker.io" { DOCKER_HUB } else { host };
            // A helper of the host's own takes the place of the general one, as in docker.
            let own = config.cred_helpers.get(server).or_else(|| config.cred_helpers.get(host));
            let is_listed = config.auths.keys().any(|key| names_host(key, host));
            let (helper, is_expected) = own.map_or((&config.creds_store, is_listed), |own| (own, true));
            if !helper.is_empty()
                && let Some(found) = self.ask_helper(helper, server, is_expected)?
            {
                return Ok(found);
            }
            // The host's plain name counts most: an address with a path may be for something else on it.
            let exact = config.auths.get_key_value(host).into_iter();
            let others = config.auths.iter().filter(|(key, _)| *key != host && names_host(key, host));
            if let Some(found) = exact.chain(others).find_map(|(_, auth)| from_auth(auth)) {
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
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// What looks into `dir` for the configuration and for helpers.
    fn provider(dir: &Path) -> DockerCredentials {
        let path = format!("{}:/usr/bin:/bin", dir.display());
        DockerCredentials::new(&Environment::of("/", &[("DOCKER_CONFIG", &dir.display().to_string()), ("PATH", &path)]))
    }

    /// A helper that knows `r.example` and `t.example`.
    fn helper(dir: &Path) {
        let text = "#!/bin/sh\n[ $1 = get ] || exit 2\nread server\necho \"$server\" >> \"$0.asked\"\ncase $server in\n\
            r.example) echo '{\"ServerURL\":\"r.example\",\"Username\":\"u\",\"Secret\":\"s\"}' ;;\n\
            t.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}' ;;\n\
            locked.example) echo 'the keyring is locked'; exit 1 ;;\n\
            odd.example) echo nonsense ;;\n\
            *) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n";
        let path = dir.join("docker-credential-mine");
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }

    #[test]
    fn f2_helpers_are_asked_through_their_pipes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        helper(dir.path());
        let with = |text: &str| {
            std::fs::write(dir.path().join("config.json"), text).expect("write");
            provider(dir.path())
        };
        let password = Credentials::Password { username: "u".into(), password: "s".into() };
        let store = with(r#"{"credsStore": "mine", "auths": {"locked.example": {}, "odd.example": {}}}"#);
        assert!(store.credentials("r.example").expect("known") == password);
        assert!(store.credentials("t.example").expect("known") == Credentials::IdentityToken("t".into()));
        assert!(store.credentials("docker.io").expect("none") == Credentials::Anonymous);
        for (host, words) in [("locked.example", "the keyring is locked"), ("odd.example", "not JSON")] {
            let error = store.credentials(host).expect_err("does not work");
            assert!(error.contains("docker-credential-mine") && error.contains(words), "{error}");
        }
        let asked = std::fs::read_to_string(dir.path().join("docker-credential-mine.asked")).expect("asked");
        assert!(asked.contains(DOCKER_HUB), "{asked}");

        let own = with(r#"{"credsStore": "missing", "credHelpers": {"r.example": "mine"}, "auths": {"x.example": {}}}"#);
        assert!(own.credentials("r.example").expect("known") == password);
        assert!(own.credentials("y.example").expect("nothing was promised") == Credentials::Anonymous);
        assert!(own.credentials("x.example").expect_err("promised").contains("docker-credential-missing"));
        assert!(with(r#"{"credHelpers": {"r.example": "../mine"}}"#).credentials("r.example").is_err());
    }

    #[test]
    fn f2_credentials_by_host() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r.example:5000": {"identitytoken": "t"}}, "other": 1}"#;
        std::fs::write(dir.path().join("config.json"), text).expect("write");
        let provider = provider(dir.path());
        let password = Credentials::Password { username: "u".into(), password: "p:q".into() };
        assert!(provider.credentials("docker.io").expect("hub") == password);
        assert!(provider.credentials("r.example:5000").expect("own") == Credentials::IdentityToken("t".into()));
        assert!(provider.credentials("elsewhere").expect("none") == Credentials::Anonymous);
    }
}
