//! `--diagnostics`: in which form problems are written for programs, and where.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use crate::answer::answer;
use crate::environment::Environment;
use crate::render::machine::{Findings, Format};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineOutput {
    format: Format,
    /// A file, absolute; else standard output.
    dest: Option<PathBuf>,
}

/// Reads `json`, `sarif` or `text`, and `dest=FILE`.
pub(crate) fn read(text: &str, environment: &Environment) -> Result<Option<MachineOutput>> {
    let (kind, rest) = text.split_once(',').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let dest = match rest {
        None => None,
        Some(rest) => {
            let path = rest.strip_prefix("dest=").with_context(|| format!("invalid --diagnostics {text:?}: expected FORMAT,dest=FILE"))?;
            ensure!(!path.is_empty(), "invalid --diagnostics {text:?}: dest is empty");
            Some(environment.absolute(std::ffi::OsStr::new(path)))
        }
    };
    let format = match kind {
        "json" => Format::Json,
        "sarif" => Format::Sarif,
        "text" => return Ok(None),
        other => bail!("invalid --diagnostics {text:?}: unknown format {other:?}; there are text, json and sarif"),
    };
    Ok(Some(MachineOutput { format, dest }))
}

impl MachineOutput {
    /// Whether it is the one thing on standard output.
    pub(crate) fn is_on_stdout(&self) -> bool {
        self.dest.is_none()
    }

    /// Writes it.
    pub(crate) fn write(&self, findings: &Findings) -> Result<()> {
        let text = findings.render(self.format);
        match &self.dest {
            Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write --diagnostics to {}", path.display())),
            None => answer(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_places() {
        let environment = Environment::of("/w", &[]);
        let of = |text: &str| read(text, &environment);
        assert_eq!(of("text").expect("text"), None);
        assert_eq!(of("json").expect("json"), Some(MachineOutput { format: Format::Json, dest: None }));
        assert_eq!(of("sarif,dest=a/b").expect("sarif"), Some(MachineOutput { format: Format::Sarif, dest: Some("/w/a/b".into()) }));
        for bad in ["", "xml", "json,", "json,dest=", "json,file=x"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
