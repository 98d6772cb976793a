//! `--annotation [level[platform],…:]name=value`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::oci::Platform;

/// The documents that can carry annotations.
const LEVELS: [&str; 4] = ["manifest", "manifest-descriptor", "index", "index-descriptor"];

/// Annotations from flags, keyed by level and name as the engine reads them.
pub(crate) fn all(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut annotations = BTreeMap::new();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid --annotation {text:?}: expected [LEVEL:]NAME=VALUE"))?;
        // A name may have a colon; what is before it is a level only if it looks like one.
        let (levels, name) = name.split_once(':').filter(|(levels, _)| !levels.contains('.')).unwrap_or(("manifest", name));
        let key = key(levels, name).with_context(|| format!("invalid --annotation {text:?}"))?;
        annotations.insert(key, value.to_owned());
    }
    Ok(annotations)
}

/// The key of an annotation `name` for `levels`.
pub(crate) fn key(levels: &str, name: &str) -> Result<String> {
    ensure!(!name.is_empty(), "an annotation has no name: write NAME=VALUE");
    for level in levels.split(',') {
        let (level, platform) = level.split_once('[').unwrap_or((level, ""));
        ensure!(LEVELS.contains(&level), "unknown level {level:?}; there are {}", LEVELS.join(", "));
        if let Some(platform) = platform.strip_suffix(']') {
            ensure!(level.starts_with("manifest"), "level {level} is not for one platform; leave out [{platform}]");
            platform.parse::<Platform>()?;
        } else if !platform.is_empty() {
            bail!("level {level:?}: the platform does not end; write {level}[{platform}]");
        }
    }
    Ok(format!("{levels}:{name}"))
}

/// Whether a key is for an index, which only several platforms have.
pub(crate) fn is_for_index(key: &str) -> bool {
    key.split_once(':').is_some_and(|(levels, _)| levels.split(',').any(|level| level.starts_with("index")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_levels() {
        let read =
            |text: &str| all(&[text.to_owned()]).map(|found| found.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<String>());
        assert_eq!(read("a.b=c=d").expect("plain"), "manifest:a.b=c=d");
        assert_eq!(read("manifest:a=b").expect("level"), "manifest:a=b");
        assert_eq!(read("index,manifest-descriptor[linux/arm64]:a=b").expect("levels"), "index,manifest-descriptor[linux/arm64]:a=b");
        assert_eq!(read("org.example:a=b").expect("name"), "manifest:org.example:a=b");
        for bad in ["a", "index[linux/amd64]:a=b", "manifest[linux/amd64:a=b", "manifest[x]:a=b", "nonsense:a=b", "manifest:=b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(is_for_index("manifest,index:a") && is_for_index("index-descriptor:a") && !is_for_index("manifest:index:a"));
    }
}
