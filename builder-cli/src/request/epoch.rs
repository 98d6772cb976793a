//! Times of a build: `SOURCE_DATE_EPOCH`, `--timestamps`, `--reproducible` (`features.md` A14.1, DESIGN §6).

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use builder_core::request::{LocalContext, Timestamps};

use crate::args::BuildArgs;
use crate::environment::Environment;

/// 1980-01-01T00:00:00Z, the epoch of a reproducible build whose context has no commit: the earliest time that zip archives can hold.
const WITHOUT_COMMIT: i64 = 315_532_800;

/// The argument, and the variable.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What a build does with times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Times {
    /// Seconds since 1970.
    pub(crate) epoch: Option<i64>,
    /// A word in place of them, which the frontend understands.
    pub(crate) word: Option<String>,
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
    let text = argument.or_else(|| environment.get(NAME)).filter(|value| !value.is_empty());
    let epoch = text.and_then(|text| text.parse().ok());
    // A local directory has no time of its own; everything else that can be named is the frontend's to find, or to refuse.
    let word = text.filter(|word| epoch.is_none() && !(*word == "context" && context.is_some())).map(str::to_owned);
    if word.is_some() {
        let timestamps = timestamps.or_else(|| args.reproducible.then_some(Timestamps::Clamp));
        return Ok(Times { epoch: None, word, timestamps });
    }
    let wants_one = args.reproducible || timestamps == Some(Timestamps::Clamp);
    let epoch = epoch.or_else(|| wants_one.then(|| context.and_then(|context| commit_time(&context.path, environment)).unwrap_or(WITHOUT_COMMIT)));
    Ok(Times { epoch, word: None, timestamps: timestamps.or_else(|| args.reproducible.then_some(Timestamps::Clamp)) })
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
            (None, Some("stage"), None),
        ] {
            assert_eq!(epoch(&plain, build_arg, variable).expect("times").epoch, expected);
        }
        let words = |variable| epoch(&plain, None, Some(variable)).expect("times").word;
        assert_eq!((words("stage").as_deref(), words("7"), words("")), (Some("stage"), None, None));
        let here = LocalContext::new("/");
        let local = times(&plain, &[], Some(&here), &Environment::of("/", &[(NAME, "context")])).expect("times");
        assert_eq!((local.epoch, local.word), (None, None), "a directory has no time");
    }

    #[test]
    fn reproducible_needs_no_epoch() {
        let args = BuildArgs { reproducible: true, ..BuildArgs::default() };
        let expected = Times { epoch: Some(WITHOUT_COMMIT), word: None, timestamps: Some(Timestamps::Clamp) };
        assert_eq!(epoch(&args, None, None).expect("times"), expected);
        assert_eq!(epoch(&args, None, Some("5")).expect("times").epoch, Some(5));
    }
}
