//! `--annotation [level[platform],…:]name=value`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// Annotations of manifests from flags.
pub(crate) fn all(given: &[String]) -> Result<BTreeMap<String, String>> {
    let mut annotations = BTreeMap::new();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid --annotation {text:?}: expected [LEVEL:]NAME=VALUE"))?;
        let (levels, name) = name.split_once(':').unwrap_or(("manifest", name));
        for level in levels.split(',') {
            require_manifest(level).with_context(|| format!("invalid --annotation {text:?}"))?;
        }
        annotations.insert(name.to_owned(), value.to_owned());
    }
    Ok(annotations)
}

/// Manifests are the only level that carries annotations yet.
pub(crate) fn require_manifest(level: &str) -> Result<()> {
    match level {
        "" | "manifest" => Ok(()),
        "index" | "manifest-descriptor" | "index-descriptor" => bail!("annotations of level {level} are not available yet; use manifest"),
        _ if level.contains('[') => {
            bail!("annotations for one platform are not available yet; leave out {:?}", &level[level.find('[').unwrap_or(0)..])
        }
        _ => bail!("unknown level {level:?}; there is manifest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_levels() {
        let read = |text: &str| all(&[text.to_owned()]);
        assert_eq!(read("a.b=c=d").expect("plain"), BTreeMap::from([("a.b".into(), "c=d".into())]));
        assert_eq!(read("manifest:a=b").expect("level"), BTreeMap::from([("a".into(), "b".into())]));
        for bad in ["a", "index:a=b", "manifest[linux/amd64]:a=b", "nonsense:a=b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
