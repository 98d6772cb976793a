//! `--load`: images into a container engine of this machine, by its own command (`features.md` D10).
//!
//! The engine is asked whether it is there before anything is built. As root the archive goes through a pipe. In a user namespace the command has to
//! run outside of it, with the user's own ids, and reads a file: what is started there gets bytes only that fit into memory.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Result, bail};
use builder_core::request::EngineLoader;

use crate::environment::Environment;

/// What to do where there is no engine.
const WITHOUT: &str = "or write an archive with -o type=docker,dest=image.tar and load it there";

/// An engine and its command.
#[derive(Debug)]
struct CommandEngine {
    program: PathBuf,
    /// Words before `load`.
    words: Vec<OsString>,
    name: String,
    environment: Environment,
}

/// The engine to load into: docker if it answers, else podman. With a `context` only docker will do.
pub(crate) fn find(environment: &Environment, context: Option<&str>) -> Result<Arc<dyn EngineLoader>> {
    let words: Vec<OsString> = context.map_or_else(Vec::new, |context| vec!["--context".into(), context.into()]);
    let engine = |program: PathBuf, words, name: &str| -> Arc<dyn EngineLoader> {
        Arc::new(CommandEngine { program, words, name: name.to_owned(), environment: environment.clone() })
    };
    let mut docker_says = None;
    if let Some(program) = environment.find_program("docker") {
        let mut probe = words.clone();
        probe.extend(["version", "--format", "{{.Server.Version}}"].map(OsString::from));
        match environment.run(program.as_os_str(), &probe, b"") {
            Ok(output) if output.success => return Ok(engine(program, words, "docker")),
            Ok(output) => docker_says = Some(first_line(&output.stderr)),
            Err(error) => docker_says = Some(error.to_string()),
        }
    }
    match (context, environment.find_program("podman"), docker_says) {
        (None, Some(program), _) => Ok(engine(program, Vec::new(), "podman")),
        (_, _, Some(says)) => bail!("there is no container engine to load into: docker says: {says}; start it, {WITHOUT}"),
        (Some(_), _, None) => bail!("there is no docker in PATH to load into; install it, {WITHOUT}"),
        (None, None, None) => bail!("there is no container engine to load into: neither docker nor podman is in PATH; install one, {WITHOUT}"),
    }
}

impl CommandEngine {
    fn through_a_pipe(&self, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
        let spawned =
            Command::new(&self.program).args(&self.words).arg("load").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let written = match child.stdin.take() {
            Some(stdin) => {
                let mut out = BufWriter::with_capacity(128 * 1024, stdin);
                write(&mut out).and_then(|()| out.flush())
            }
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        match (output.status.success(), written) {
            (true, Ok(())) => Ok(()),
            (true, Err(error)) => Err(error.to_string()),
            (false, _) => Err(last_lines(&output.stderr)),
        }
    }

    fn through_a_file(&self, tmp: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
        let path = tmp.join("load.tar");
        let written = File::create(&path).and_then(|file| {
            let mut out = BufWriter::with_capacity(128 * 1024, file);
            write(&mut out).and_then(|()| out.flush())
        });
        let loaded = written.map_err(|error| error.to_string()).and_then(|()| {
            let mut words = self.words.clone();
            words.extend(["load".into(), "-i".into(), path.clone().into_os_string()]);
            let output = self.environment.run(self.program.as_os_str(), &words, b"").map_err(|error| error.to_string())?;
            if output.success { Ok(()) } else { Err(last_lines(&output.stderr)) }
        });
        // What stays is swept with the directory.
        drop(std::fs::remove_file(&path));
        loaded
    }
}

impl EngineLoader for CommandEngine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn load(&self, tmp: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), String> {
        if self.environment.outside.is_some() { self.through_a_file(tmp, write) } else { self.through_a_pipe(write) }
    }
}

fn first_line(text: &[u8]) -> String {
    clean(String::from_utf8_lossy(text).lines().next().unwrap_or("nothing"))
}

/// The end of what a command says, which is where it says why it failed.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.trim().lines().collect();
    let tail = lines[lines.len().saturating_sub(3)..].iter().map(|line| clean(line)).collect::<Vec<_>>().join("; ");
    if tail.is_empty() { "it failed without a word".to_owned() } else { tail }
}

fn clean(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Engines by name that do what the scripts say.
    fn environment(dir: &Path, engines: &[(&str, &str)]) -> Environment {
        for (name, script) in engines {
            let path = dir.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
        }
        Environment::of("/", &[("PATH", &dir.display().to_string())])
    }

    #[test]
    fn d10_docker_if_it_answers_else_podman() {
        let chosen = |engines: &[(&str, &str)], context| {
            let dir = tempfile::tempdir().expect("temporary directory");
            find(&environment(dir.path(), engines), context).map(|engine| engine.name()).map_err(|error| error.to_string())
        };
        let (up, down) = ("exit 0", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
        assert_eq!(chosen(&[("docker", up), ("podman", up)], None).as_deref(), Ok("docker"));
        assert_eq!(chosen(&[("docker", down), ("podman", up)], None).as_deref(), Ok("podman"));
        assert_eq!(chosen(&[("docker", "[ \"$1 $2\" = '--context far' ]")], Some("far")).as_deref(), Ok("docker"));
        for (engines, context, words) in [
            (&[("docker", down)][..], None, "Cannot connect to the Docker daemon"),
            (&[], None, "neither docker nor podman"),
            (&[("podman", up)], Some("far"), "no docker in PATH"),
        ] {
            let error = chosen(engines, context).expect_err("none");
            assert!(error.contains(words) && error.contains("dest=image.tar"), "{error}");
        }
    }

    #[test]
    fn d10_an_engine_gets_the_archive_and_its_words_are_passed_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let got = dir.path().join("got");
        let script = format!("[ $1 = load ] && /bin/cat > {}", got.display());
        let engine = find(&environment(dir.path(), &[("podman", &script)]), None).expect("podman");
        engine.load(dir.path(), &mut |out| out.write_all(b"archive")).expect("loaded");
        assert_eq!(std::fs::read(&got).expect("written"), b"archive");
        let engine =
            find(&environment(dir.path(), &[("podman", "echo one >&2; printf 'no \\033[31mspace\\n' >&2; exit 125")]), None).expect("podman");
        // More than a pipe holds: the engine has gone before it is written.
        let error = engine.load(dir.path(), &mut |out| out.write_all(&vec![0; 1 << 20])).expect_err("fails");
        assert_eq!(error, "one; no [31mspace");
    }
}
