//! Manifests and indexes: read from bytes that others wrote, written as bytes of our own.
//!
//! Documents from elsewhere are kept as the bytes they came as, because digests are of bytes; what is read out of them goes through
//! `oci-spec`. Documents we write have their own types here: `oci-spec` keeps annotations in a hash map, so its JSON differs from run to run.
//!
//! # Invariants
//! - A document that one tool could read as a manifest and another as an index (CVE-2021-41190), that repeats a key, or has bytes after
//!   its end is refused.
//! - Only sha256 digests exist here; a digest string is never used as a path before it was parsed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{DocumentLimits, Platform, Sha256Digest, media};
use builder_snapshot::LimitReached;

/// What a manifest says about a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    #[serde(with = "digest_text")]
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Further places to get it from (foreign layers). Never followed with credentials.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// For an index's manifests: whom they are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformObject>,
}

/// A platform as manifests write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformObject {
    /// Go's name of the architecture.
    pub architecture: String,
    /// Go's name of the operating system.
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Required features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the processor.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl PlatformObject {
    /// The platform, normalised; none for `unknown/unknown` (attestations) and for names that are none.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let text = if self.variant.is_empty() {
            format!("{}/{}", self.os, self.architecture)
        } else {
            format!("{}/{}/{}", self.os, self.architecture, self.variant)
        };
        text.parse().ok().filter(|platform: &Platform| platform.os != "unknown")
    }
}

impl From<&Platform> for PlatformObject {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: None,
            os_features: None,
            variant: platform.variant.clone(),
        }
    }
}

mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Sha256Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Sha256Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sha256Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An image manifest, as we write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    pub media_type: String,
    /// The image config.
    pub config: Descriptor,
    /// Layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index of manifests, as we write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    pub media_type: String,
    /// Manifests (or further indexes), in order.
    pub manifests: Vec<Descriptor>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A document that a registry or a layout calls a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a few live at a time, and each is taken apart at once")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// No JSON, or not the fields that the specification asks for.
    #[error("it is no valid manifest: {0}")]
    Malformed(String),
    /// There is too much of something.
    #[error("it has {0}")]
    Limit(LimitReached),
    /// It can be read in two ways.
    #[error("it is ambiguous: {0}")]
    Ambiguous(String),
    /// A kind that no longer exists.
    #[error("it is a schema 1 manifest, which no current registry serves: push the image again with a current tool")]
    SchemaOne,
    /// Not about images.
    #[error("it is of type {0:?}, which is no image")]
    OtherType(String),
}

impl Document {
    /// Reads `raw`. `said` is what the registry or the descriptor that led here called it, if it called it anything.
    ///
    /// # Errors
    /// For everything that is not plainly one manifest or one index.
    pub fn parse(raw: &[u8], said: Option<&str>, limits: &DocumentLimits) -> Result<Self, DocumentError> {
        let fields = top_level_keys(raw, limits.json_depth).map_err(|e| match e.to_string() {
            _ if is_too_deep(&e) => DocumentError::Limit(limits.json()),
            text if e.is_data() && text.contains(REPEATED) => DocumentError::Ambiguous(text),
            text => DocumentError::Malformed(text),
        })?;
        let has = |key: &str| fields.iter().any(|field| field == key);
        if has("fslayers") || has("signatures") {
            return Err(DocumentError::SchemaOne);
        }
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "schemaVersion")]
            version: Option<u64>,
            #[serde(rename = "mediaType")]
            media_type: Option<String>,
        }
        let head: Head = serde_json::from_slice(raw).map_err(|e| DocumentError::Malformed(e.to_string()))?;
        match head.version {
            Some(2) => {}
            Some(1) => return Err(DocumentError::SchemaOne),
            _ => return Err(DocumentError::Malformed("schemaVersion is not 2".into())),
        }
        let said = said.map(|text| text.split(';').next().unwrap_or(text).trim()).filter(|text| media::is_index(text) || media::is_manifest(text));
        if let (Some(own), Some(said)) = (head.media_type.as_deref(), said)
            && own != said
        {
            return Err(DocumentError::Ambiguous(format!("it calls itself {own}, but it was served as {said}")));
        }
        let index = match (has("manifests"), has("layers") || has("config")) {
            (true, true) => return Err(DocumentError::Ambiguous("it has the fields of a manifest and of an index".into())),
            (true, false) => true,
            (false, true) => false,
            (false, false) => return Err(DocumentError::Malformed("it has neither layers nor manifests".into())),
        };
        match head.media_type.as_deref().or(said) {
            Some(kind) if !media::is_index(kind) && !media::is_manifest(kind) => return Err(DocumentError::OtherType(kind.to_owned())),
            Some(kind) if media::is_index(kind) != index => {
                return Err(DocumentError::Ambiguous(format!("it is called {kind}, but has other fields")));
            }
            _ => {}
        }
        if index { parse_index(raw).map(Self::Index) } else { parse_manifest(raw, limits).map(Self::Manifest) }
    }
}

fn parse_manifest(raw: &[u8], limits: &DocumentLimits) -> Result<Manifest, DocumentError> {
    let read: oci_spec::image::ImageManifest = serde_json::from_slice(raw).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    if read.layers().len() > limits.layers {
        return Err(DocumentError::Limit(limits.layers()));
    }
    Ok(Manifest {
        schema_version: 2,
        media_type: read.media_type().as_ref().map_or_else(|| media::OCI_MANIFEST.to_owned(), ToString::to_string),
        config: descriptor(read.config())?,
        layers: read.layers().iter().map(descriptor).collect::<Result<_, _>>()?,
        annotations: read.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
    })
}

fn parse_index(raw: &[u8]) -> Result<Index, DocumentError> {
    let read: oci_spec::image::ImageIndex = serde_json::from_slice(raw).map_err(|e| DocumentError::Malformed(e.to_string()))?;
    Ok(Index {
        schema_version: 2,
        media_type: read.media_type().as_ref().map_or_else(|| media::OCI_INDEX.to_owned(), ToString::to_string),
        manifests: read.manifests().iter().map(descriptor).collect::<Result<_, _>>()?,
        annotations: read.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
    })
}

fn descriptor(read: &oci_spec::image::Descriptor) -> Result<Descriptor, DocumentError> {
    let digest = read.digest().to_string();
    let platform = read.platform().as_ref().map(|platform| PlatformObject {
        architecture: platform.architecture().to_string(),
        os: platform.os().to_string(),
        os_version: platform.os_version().clone(),
        os_features: platform.os_features().clone(),
        variant: platform.variant().clone().unwrap_or_default(),
    });
    Ok(Descriptor {
        media_type: read.media_type().to_string(),
        digest: digest.parse().map_err(|_| DocumentError::Malformed(format!("{digest:?} is no sha256 digest")))?,
        size: read.size(),
        urls: read.urls().clone().unwrap_or_default(),
        annotations: read.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        platform,
    })
}

/// JSON as BuildKit writes documents: two spaces of indentation, no line feed at the end.
///
/// # Panics
/// Never: the types written here are plain data.
#[must_use]
pub fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("plain data is always written")
}

/// Chooses from an index the manifest that serves `wanted` best (`features.md` A6.10, E4.4).
///
/// # Errors
/// The platforms that there are, if none fits.
pub fn select<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, Vec<String>> {
    let usable = |entry: &&Descriptor| !entry.annotations.contains_key("vnd.docker.reference.type");
    let best = index
        .manifests
        .iter()
        .filter(usable)
        .filter_map(|entry| {
            // An entry without platform is taken when nothing better fits: the config behind it says what it is.
            let rank = match &entry.platform {
                Some(object) => object.platform().and_then(|offered| wanted.rank(&offered))?,
                None => u32::MAX,
            };
            Some((rank, entry))
        })
        .min_by_key(|(rank, _)| *rank);
    best.map(|(_, entry)| entry).ok_or_else(|| {
        let mut names: Vec<String> =
            index.manifests.iter().filter(usable).filter_map(|entry| Some(entry.platform.as_ref()?.platform()?.to_string())).collect();
        names.dedup();
        names
    })
}

/// Marks the error about a repeated key.
const REPEATED: &str = "key is repeated";

/// Objects whose keys are no field names of the specification's, in lower case.
const NAMED_BY_USERS: [&str; 4] = ["annotations", "labels", "exposedports", "volumes"];

/// Marks the error about nesting.
const TOO_DEEP: &str = "it is nested too deeply";

/// Whether JSON is nested deeper than the limit, or than its reader follows.
fn is_too_deep(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    text.contains(TOO_DEEP) || text.starts_with("recursion limit exceeded")
}

/// Refuses a config document that can be read in two ways: with a key that is repeated, in whatever case.
///
/// # Errors
/// Such a key, or no JSON object.
pub(crate) fn check_config(raw: &[u8], limits: &DocumentLimits) -> Result<(), String> {
    top_level_keys(raw, limits.json_depth).map(drop).map_err(|e| if is_too_deep(&e) { format!("it has {}", limits.json()) } else { e.to_string() })
}

/// The keys of the outermost object in lower case. Walks the whole document, so that a key that is repeated anywhere is found: parsers disagree on which
/// of two equal keys counts.
fn top_level_keys(raw: &[u8], max_depth: usize) -> serde_json::Result<Vec<String>> {
    let mut keys = Vec::new();
    let mut from = serde_json::Deserializer::from_slice(raw);
    Walk { left: max_depth, fold: true, keys: Some(&mut keys) }.deserialize(&mut from)?;
    from.end()?;
    Ok(keys)
}

struct Walk<'a> {
    /// Levels that may still be below.
    left: usize,
    /// Whether keys are field names. Go's decoder matches those in any case, so `Layers` and `layers` would be one key to it and two to us.
    fold: bool,
    keys: Option<&'a mut Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.keys.is_some() { from.deserialize_map(self) } else { from.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let left = self.left.checked_sub(1).ok_or_else(|| de::Error::custom(TOO_DEEP))?;
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(if self.fold { key.to_lowercase() } else { key.clone() }) {
                return Err(de::Error::custom(format!("{key:?}: {REPEATED}")));
            }
            let fold = self.fold && !NAMED_BY_USERS.contains(&key.to_ascii_lowercase().as_str());
            map.next_value_seed(Walk { left, fold, keys: None })?;
        }
        if let Some(keys) = self.keys {
            keys.extend(seen);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let left = self.left.checked_sub(1).ok_or_else(|| de::Error::custom(TOO_DEEP))?;
        while seq.next_element_seed(Walk { left, fold: self.fold, keys: None })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(raw: &[u8], said: Option<&str>) -> Result<Document, DocumentError> {
        Document::parse(raw, said, &DocumentLimits::default())
    }

    fn manifest() -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{m}","config":{{"mediaType":"{c}","digest":"{D}","size":0}},"layers":[{{"mediaType":"{l}","digest":"{D}","size":0}}]}}"#,
            m = media::OCI_MANIFEST,
            c = media::OCI_CONFIG,
            l = media::OCI_LAYER_GZIP
        )
    }

    #[test]
    fn f4_reads_a_manifest_and_keeps_its_parts() {
        let Ok(Document::Manifest(read)) = parse(manifest().as_bytes(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")) else {
            panic!("no manifest");
        };
        assert_eq!(read.layers[0].media_type, media::OCI_LAYER_GZIP);
        assert_eq!(parse(&to_json(&read), None), Ok(Document::Manifest(read)));
    }

    #[test]
    fn cve_2021_41190_ambiguous_documents_are_refused() {
        let manifest = manifest();
        let both = manifest.replacen('{', r#"{"manifests":[],"#, 1);
        let other_case = manifest.replacen('{', r#"{"Layers":[],"#, 1);
        let twice = manifest.replacen('{', r#"{"schemaVersion":2,"#, 1);
        let nested = manifest.replace(r#""size":0}]"#, r#""size":0,"size":1}]"#);
        for bad in [&both, &other_case, &twice, &nested] {
            assert!(matches!(parse(bad.as_bytes(), None), Err(DocumentError::Ambiguous(_))), "{bad}");
        }
        assert!(matches!(parse(manifest.as_bytes(), Some(media::OCI_INDEX)), Err(DocumentError::Ambiguous(_))));
        let as_index = manifest.replace(media::OCI_MANIFEST, media::OCI_INDEX);
        assert!(matches!(parse(as_index.as_bytes(), None), Err(DocumentError::Ambiguous(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = parse(&bytes, None);
        }

        #[test]
        fn a_damaged_manifest_is_refused_or_reads_the_same_twice(at in 0..400_usize, byte in any::<u8>()) {
            let mut bytes = manifest().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            // What is read is what is written again: nothing is understood in two ways.
            if let Ok(Document::Manifest(read)) = parse(&bytes, None) {
                prop_assert_eq!(parse(&to_json(&read), None), Ok(Document::Manifest(read)));
            }
        }
    }

    #[test]
    fn malformed_documents_are_refused() {
        let manifest = manifest();
        let traversal = manifest.replace(D, "sha256:../../x");
        let sha512 = manifest.replace(D, &format!("sha512:{}", "0".repeat(128)));
        let trailing = format!("{manifest}x");
        let deep = format!(r#"{{"schemaVersion":2,"a":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        for bad in [traversal.as_str(), &sha512, &trailing, &deep, "", "[]", "{}", r#"{"schemaVersion":2}"#, r#"{"schemaVersion":3,"layers":[]}"#] {
            assert!(parse(bad.as_bytes(), None).is_err(), "{bad}");
        }
        assert_eq!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None), Err(DocumentError::SchemaOne));
    }

    #[test]
    fn a6_10_selects_the_best_platform_and_skips_attestations() {
        let entry = |os: &str, arch: &str, variant: &str, n: u8| Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Sha256Digest([n; 32]),
            size: 1,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: Some(PlatformObject { architecture: arch.into(), os: os.into(), os_version: None, os_features: None, variant: variant.into() }),
        };
        let mut attestation = entry("unknown", "unknown", "", 9);
        attestation.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let index = Index {
            schema_version: 2,
            media_type: media::OCI_INDEX.into(),
            manifests: vec![attestation, entry("linux", "arm", "v5", 1), entry("linux", "arm", "v6", 2), entry("linux", "arm64", "v8", 3)],
            annotations: BTreeMap::new(),
        };
        let platform = |text: &str| text.parse::<Platform>().expect("platform");
        assert_eq!(select(&index, &platform("linux/arm/v7")).expect("fits").digest.0[0], 2);
        assert_eq!(select(&index, &platform("linux/arm64")).expect("fits").digest.0[0], 3);
        assert_eq!(select(&index, &platform("linux/amd64")).expect_err("none"), ["linux/arm/v5", "linux/arm/v6", "linux/arm64"]);
    }
}
