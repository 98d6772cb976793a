//! `--limit`: what archives and layers from elsewhere may cost.

use anyhow::{Context as _, Result, bail};
use builder_core::content::Limits;

use super::steps::size;

/// `NAME=VALUE`, of which the last of a name counts. A value may have a unit, as sizes have.
pub(crate) fn limits(given: &[String]) -> Result<Limits> {
    let mut limits = Limits::default();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid --limit {text:?}: expected NAME=VALUE"))?;
        if !limits.set(name, size("--limit", value)?) {
            bail!("invalid --limit {text:?}: there is no limit {name:?}; there are {}", Limits::NAMES.join(", "));
        }
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names_and_units() {
        let parse = |words: &[&str]| limits(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let set = parse(&["entries=5", "bytes=2g", "entries=6"]).expect("valid");
        assert_eq!((set.tar.entries, set.tar.bytes), (6, 2 << 30));
        for (bad, words) in [("entries", "NAME=VALUE"), ("colour=1", "there are entries, bytes"), ("bytes=x", "unknown unit")] {
            let error = format!("{:#}", parse(&[bad]).expect_err(bad));
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
