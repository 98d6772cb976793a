//! `--annotation [TYPE[PLATFORM]:]KEY=VALUE`: which document each annotation is for.

use std::collections::BTreeMap;

use super::ExportError;
use crate::oci::Platform;

/// Annotations by document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    manifest: Vec<(Option<Platform>, String, String)>,
    descriptor: Vec<(Option<Platform>, String, String)>,
    /// Of the index.
    pub(super) index: BTreeMap<String, String>,
    /// Of the index's descriptor in `index.json`.
    pub(super) index_descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Of the manifest for `platform`.
    pub(super) fn of_manifest(&self, platform: &Platform) -> BTreeMap<String, String> {
        chosen(&self.manifest, platform)
    }

    /// Of the manifest's descriptor, in an index or in `index.json`.
    pub(super) fn of_descriptor(&self, platform: &Platform) -> BTreeMap<String, String> {
        chosen(&self.descriptor, platform)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn chosen(all: &[(Option<Platform>, String, String)], platform: &Platform) -> BTreeMap<String, String> {
    let fits = |wanted: &Option<Platform>| wanted.as_ref().is_none_or(|wanted| wanted == platform);
    // Those for one platform win over those for all.
    let (for_all, for_one): (Vec<_>, Vec<_>) = all.iter().filter(|(wanted, ..)| fits(wanted)).partition(|(wanted, ..)| wanted.is_none());
    for_all.into_iter().chain(for_one).map(|(_, key, value)| (key.clone(), value.clone())).collect()
}

/// Sorts annotations by what their keys' prefixes say.
pub(super) fn parse<'a>(all: impl Iterator<Item = (&'a String, &'a String)>) -> Result<Annotations, ExportError> {
    let mut found = Annotations::default();
    for (key, value) in all {
        let (kinds, key) = split(key);
        if key.is_empty() {
            return Err(ExportError::Request("an annotation has no key: write KEY=VALUE".into()));
        }
        for kind in kinds {
            let (kind, platform) = match kind.strip_suffix(']').and_then(|kind| kind.split_once('[')) {
                Some((kind, platform)) => {
                    let platform = platform.parse().map_err(|e| ExportError::Request(format!("annotation {key:?}: {e}")))?;
                    (kind, Some(platform))
                }
                None => (kind, None),
            };
            let (key, value) = (key.to_owned(), value.clone());
            match kind {
                "manifest" => found.manifest.push((platform, key, value)),
                "manifest-descriptor" => found.descriptor.push((platform, key, value)),
                "index" => drop(found.index.insert(key, value)),
                _ => drop(found.index_descriptor.insert(key, value)),
            }
        }
    }
    Ok(found)
}

/// The kinds of a key (`manifest` unless it says otherwise) and the key itself. A colon in a key that begins with no kind is part of it.
fn split(key: &str) -> (Vec<&str>, &str) {
    if let Some((kinds, rest)) = key.split_once(':') {
        let kinds: Vec<&str> = kinds.split(',').collect();
        let known = |kind: &&str| matches!(kind.split('[').next(), Some("manifest" | "manifest-descriptor" | "index" | "index-descriptor"));
        if kinds.iter().all(known) {
            return (kinds, rest);
        }
    }
    (vec!["manifest"], key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_annotations_go_where_their_prefix_says() {
        let all = [
            ("a", "1"),
            ("manifest:b", "2"),
            ("index,manifest-descriptor:c", "3"),
            ("manifest[linux/arm64]:a", "4"),
            ("index-descriptor:d", "5"),
            ("org.example:e", "6"),
        ];
        let all: Vec<(String, String)> = all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let found = parse(all.iter().map(|(k, v)| (k, v))).expect("valid");
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<BTreeMap<String, String>>();
        let (amd, arm) = ("linux/amd64".parse().expect("platform"), "linux/arm64".parse().expect("platform"));
        assert_eq!(found.of_manifest(&amd), map(&[("a", "1"), ("b", "2"), ("org.example:e", "6")]));
        assert_eq!(found.of_manifest(&arm), map(&[("a", "4"), ("b", "2"), ("org.example:e", "6")]));
        assert_eq!(found.of_descriptor(&amd), map(&[("c", "3")]));
        assert_eq!(found.index, map(&[("c", "3")]));
        assert_eq!(found.index_descriptor, map(&[("d", "5")]));
        assert!(parse([(&"index:".to_owned(), &String::new())].into_iter()).is_err());
        assert!(parse([(&"index[x]:a".to_owned(), &String::new())].into_iter()).is_err());
    }
}
