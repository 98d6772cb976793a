//! What is lent to steps and never kept: secrets (`--secret`) and agents (`--ssh`).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::secret::{MAX_SECRET_BYTES, Secret};

use super::csv;
use crate::environment::Environment;

/// Secrets by id. Read now, so that a missing file is a usage error and not a failure after an hour.
pub(crate) fn secrets(given: &[String], environment: &Environment) -> Result<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for text in given {
        // The text names files and variables, never values, so it may stand in a message.
        let fields = csv::pairs("--secret", text, &[])?;
        let (id, value) = secret(fields, environment).with_context(|| format!("invalid --secret {text:?}"))?;
        secrets.insert(id, value);
    }
    Ok(secrets)
}

/// Ids of `--allow-secret-in-image`; each must be that of a secret, lest a misspelt one quietly allow nothing.
pub(crate) fn allowed_in_image(ids: &[String], given: &[String]) -> Result<Vec<String>> {
    for id in ids {
        let is_given =
            given.iter().filter_map(|text| csv::pairs("--secret", text, &[]).ok()).flatten().any(|(key, value)| key == "id" && value == *id);
        ensure!(is_given, "--allow-secret-in-image={id}: there is no --secret with this id");
    }
    Ok(ids.to_vec())
}

fn secret(fields: Vec<(String, String)>, environment: &Environment) -> Result<(String, Secret)> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => bail!("unsupported type {value:?}; there are file and env"),
            other => bail!("unknown key {other:?}; the keys are id, src, env and type"),
        }
    }
    let id = id.filter(|id| !id.is_empty()).context("it has no id")?;
    if kind.as_deref() == Some("env") {
        variable = variable.or(source.take());
    }
    let from_variable = |name: &str| {
        let value = environment.get_even_if_empty(name);
        value.map(|value| value.as_bytes().to_vec()).with_context(|| format!("environment variable {name} is not set"))
    };
    let value = match (source, variable) {
        (Some(path), _) => from_file(&path, environment)?,
        (None, Some(name)) => from_variable(&name)?,
        (None, None) if kind.as_deref() != Some("file") && environment.get_even_if_empty(&id).is_some() => from_variable(&id)?,
        (None, None) if kind.as_deref() == Some("env") => from_variable(&id)?,
        (None, None) => from_file(&id, environment)?,
    };
    ensure!(value.len() <= MAX_SECRET_BYTES, "the secret has more than {MAX_SECRET_BYTES} bytes");
    Ok((id, Secret::new(value)))
}

fn from_file(path: &str, environment: &Environment) -> Result<Vec<u8>> {
    let path = environment.absolute(path);
    let read = || {
        let mut value = Vec::new();
        // One byte more than is accepted tells a secret that is too long from one that is not, also when the file never ends.
        std::fs::File::open(&path)?.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut value)?;
        std::io::Result::Ok(value)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// Agent sockets by id.
pub(crate) fn agents(given: &[String], environment: &Environment) -> Result<BTreeMap<String, PathBuf>> {
    given.iter().map(|text| agent(text, environment).with_context(|| format!("invalid --ssh {text:?}"))).collect()
}

fn agent(text: &str, environment: &Environment) -> Result<(String, PathBuf)> {
    let (id, path) = text.split_once('=').map_or((text, None), |(id, path)| (id, Some(path)));
    let path = match path {
        Some(path) => environment.absolute(path),
        None => environment
            .get_os("SSH_AUTH_SOCK")
            .map(PathBuf::from)
            .context("no agent: SSH_AUTH_SOCK is not set; start ssh-agent, or give ID=SOCKET")?,
    };
    let found = std::fs::metadata(&path).with_context(|| format!("cannot use {}", path.display()))?;
    ensure!(found.file_type().is_socket(), "{} is no socket; keys are not read: run `ssh-add {}` and give the agent", path.display(), path.display());
    Ok((id.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("f"), "in file").expect("write");
        let environment = Environment::of(dir.path(), &[("V", "in variable"), ("EMPTY", "")]);
        let read = |text: &str| secrets(&[text.to_owned()], &environment).map(|s| s.into_iter().next().expect("one"));
        for (text, id, value) in [
            ("id=a,src=f", "a", "in file"),
            ("id=a,source=f,type=file", "a", "in file"),
            ("id=a,env=V", "a", "in variable"),
            ("id=a,type=env,src=V", "a", "in variable"),
            ("id=V", "V", "in variable"),
            ("id=EMPTY", "EMPTY", ""),
            ("id=f", "f", "in file"),
        ] {
            let (got_id, got) = read(text).expect(text);
            assert_eq!((got_id.as_str(), got.expose()), (id, value.as_bytes()), "{text}");
        }
        for bad in ["src=f", "id=a,src=nope", "id=a,env=NOPE", "id=a,colour=red", "a", "id=a,type=x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_secrets_that_are_given_can_be_allowed() {
        let given = ["id=a,src=f".to_owned(), "src=g,id=b".to_owned()];
        assert_eq!(allowed_in_image(&["b".to_owned()], &given).expect("given"), ["b"]);
        assert!(allowed_in_image(&["c".to_owned()], &given).expect_err("misspelt").to_string().contains("no --secret with this id"));
    }

    #[test]
    fn c1_agents_are_sockets() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        std::fs::write(dir.path().join("key"), "").expect("write");
        let environment = Environment::of(dir.path(), &[("SSH_AUTH_SOCK", &socket.display().to_string())]);
        for text in ["default", "default=s", "deploy"] {
            assert_eq!(agents(&[text.into()], &environment).expect(text).into_values().next(), Some(socket.clone()));
        }
        assert!(format!("{:#}", agents(&["a=key".into()], &environment).expect_err("a key")).contains("ssh-add"));
        assert!(agents(&["default".into()], &Environment::of("/", &[])).is_err());
    }
}
