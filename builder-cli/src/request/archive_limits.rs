//! `--limit`: what archives, images and servers may cost.

use anyhow::{Context as _, Result, anyhow};
use builder_core::content::Limits;

use super::steps::size;

/// `NAME=VALUE`, of which the last of a name counts. A value may have a unit, as sizes have.
pub(crate) fn limits(given: &[String]) -> Result<Limits> {
    let mut limits = Limits::default();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid --limit {text:?}: expected NAME=VALUE"))?;
        limits.set(name, size("--limit", value)?).map_err(|reason| anyhow!("invalid --limit {text:?}: {reason}"))?;
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
