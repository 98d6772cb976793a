//! Times of a build: `SOURCE_DATE_EPOCH`, `--timestamps`, `--reproducible` (`features.md` A14.1, DESIGN §6).

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use builder_core::request::{LocalContext, Timestamps};

use crate::args::BuildArgs;
use crate::environment::Environment;

/// 1980-01-01T00:00:00Z, the epoch of a reproducible build whose context has no commit: the earliest time that zip archives can hold.
const WITHOUT_COMMIT: i64 = 315_532_800;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// What a build does with times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    /// Seconds since 1970.
    pub(crate) epoch: Option<i64>,
    /// What was said about layers.
    pub(crate) timestamps: Option<Timestamps>,
}

/// The times that flags and environment ask for. A build argument wins over the environment.
pub(crate) fn times(args: &BuildArgs, build_args: &[(String, String)], context: Option<&LocalContext>, environment: &Environment) -> Result<Times> {
    let timestamps = match args.timestamps.as_deref() {
        None => None,
        Some("keep") => Some(Timestamps::Keep),
        Some("clamp") => Some(Timestamps::Clamp),
        Some(other) => bail!("invalid --timestamps {other:?}; there are keep or clamp"),
    };
    let argument = build_args.iter().rev().find(|(name, _)| name == NAME).map(|(_, value)| value.as_str());
    let epoch = match argument.or_else(|| environment.get(NAME)).filter(|value| !value.is_empty()) {
        // The commit time of a git context; a local directory has none.
        Some("context") => None,
        Some(text) => Some(text.parse().with_context(|| format!("invalid {NAME} {text:?}: expected seconds since 1970"))?),
        None => None,
    };
    let wants_one = args.reproducible || timestamps == Some(Timestamps::Clamp);
    let epoch = epoch.or_else(|| wants_one.then(|| context.and_then(|context| commit_time(&context.path, environment)).unwrap_or(WITHOUT_COMMIT)));
    Ok(Times { epoch, timestamps: timestamps.or_else(|| args.reproducible.then_some(Timestamps::Clamp)) })
}

/// The time of the commit that a clean work tree holds; nothing if there is no git, no commit, or a change that no commit has.
fn commit_time(directory: &Path, environment: &Environment) -> Option<i64> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        // A repository's own configuration can name programs to run (fsmonitor); asking for the time must not start them.
        command.args(["-c", "core.fsmonitor=false", "-C"]).arg(directory).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        if let Some(path) = environment.get_os("PATH") {
            command.env("PATH", path);
        }
        let output = command.output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    git(&["status", "--porcelain", "--", "."]).filter(|changes| changes.is_empty())?;
    git(&["log", "-1", "--format=%ct"])?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(args: &BuildArgs, build_arg: Option<&str>, variable: Option<&str>) -> Result<Times> {
        let build_args: Vec<_> = build_arg.map(|value| (NAME.to_owned(), value.to_owned())).into_iter().collect();
        let variables: Vec<_> = variable.map(|value| (NAME, value)).into_iter().collect();
        times(args, &build_args, None, &Environment::of("/", &variables))
    }

    #[test]
    fn a14_1_where_the_epoch_comes_from() {
        let plain = BuildArgs::default();
        for (build_arg, variable, expected) in [
            (None, None, None),
            (None, Some("5"), Some(5)),
            (Some("7"), Some("5"), Some(7)),
            (Some("context"), Some("5"), None),
            (None, Some(""), None),
        ] {
            assert_eq!(epoch(&plain, build_arg, variable).expect("times").epoch, expected);
        }
        assert!(epoch(&plain, None, Some("yesterday")).is_err());
    }

    #[test]
    fn reproducible_needs_no_epoch() {
        let args = BuildArgs { reproducible: true, ..BuildArgs::default() };
        let expected = Times { epoch: Some(WITHOUT_COMMIT), timestamps: Some(Timestamps::Clamp) };
        assert_eq!(epoch(&args, None, None).expect("times"), expected);
        assert_eq!(epoch(&args, None, Some("5")).expect("times").epoch, Some(5));
    }
}
