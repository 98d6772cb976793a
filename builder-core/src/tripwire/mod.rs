//! The tripwire: values of secrets are searched for in everything that an export would carry away (`SECURITY.md`, Secrets).
//!
//! A step may do with a lent secret what it likes, writing it into a file of the image among it. So while the bytes of a layer stream to hash and
//! compressor, and before configs and manifests are put down, they are searched for the values of all secrets of the build and for what common
//! encodings make of them ([`encodings`]); a find ends the export and names secret, layer and file.
//!
//! What is remembered from an earlier build is searched again, each time: a mark "this layer was searched for that secret" would let whoever reads the
//! store try guesses of the secret against it, so there is none. Layers of images from elsewhere were there before the secret was lent; they are not searched.
//!
//! # Invariants
//! - Without secrets nothing is searched, copied or built.
//! - No value, and nothing made from one, is written anywhere or shown in a message.

mod encodings;
mod locate;

use std::collections::BTreeMap;
use std::io::{self, Write};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

pub(crate) use encodings::patterns;
pub(crate) use locate::entry_at;

use crate::secret::Secret;

/// How much is gathered before it is searched: small writes cost no search each.
const SEARCH_BYTES: usize = 256 * 1024;

/// Searches for secrets.
#[derive(Debug)]
pub struct Tripwire {
    automaton: AhoCorasick,
    /// Of each pattern: whose it is, and in which form.
    meanings: Vec<(String, &'static str)>,
    longest: usize,
}

/// Where a secret was come upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// As what: "as it is", "in base64".
    pub form: &'static str,
    /// At which byte of what was searched.
    pub offset: u64,
}

impl Tripwire {
    /// A search for the values of `secrets` without those whose ids are in `allowed`; none if nothing is left to search for.
    #[must_use]
    pub fn new(secrets: &BTreeMap<String, Secret>, allowed: &[String]) -> Option<Self> {
        let mut needles: BTreeMap<Vec<u8>, (String, &'static str)> = BTreeMap::new();
        for (id, secret) in secrets.iter().filter(|(id, _)| !allowed.contains(id)) {
            for (pattern, form) in patterns(secret.expose()) {
                needles.entry(pattern).or_insert_with(|| (id.clone(), form));
            }
        }
        if needles.is_empty() {
            return None;
        }
        let longest = needles.keys().map(Vec::len).max().unwrap_or_default();
        // The compact automaton: a faster one takes kilobytes a byte of pattern. Leftmost, because only so a vector search runs ahead of it.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let automaton = AhoCorasick::builder().kind(kind).match_kind(MatchKind::LeftmostFirst).build(needles.keys()).ok()?;
        Some(Self { automaton, meanings: needles.into_values().collect(), longest })
    }

    /// The first secret in `bytes`.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<Found> {
        let found = self.automaton.find(bytes)?;
        let (id, form) = &self.meanings[found.pattern().as_usize()];
        Some(Found { id: id.clone(), form, offset: found.start() as u64 })
    }
}

/// Passes bytes on and searches them on the way. Writing fails once a secret was found.
pub struct Watched<'a, W: Write> {
    out: W,
    tripwire: Option<&'a Tripwire>,
    gathered: Vec<u8>,
    /// Offset of the first gathered byte.
    offset: u64,
    found: Option<Found>,
}

impl<'a, W: Write> Watched<'a, W> {
    /// Passes bytes on to `out`.
    pub fn new(tripwire: Option<&'a Tripwire>, out: W) -> Self {
        Self { out, tripwire, gathered: Vec::new(), offset: 0, found: None }
    }

    /// What was found, all bytes having been written.
    pub fn finish(mut self) -> Option<Found> {
        self.search();
        self.found
    }

    fn search(&mut self) {
        let Some(tripwire) = self.tripwire else { return };
        if self.found.is_none() {
            self.found = tripwire.find(&self.gathered).map(|found| Found { offset: found.offset + self.offset, ..found });
        }
        // A secret may begin in the last bytes and end in the next ones.
        let keep = (tripwire.longest - 1).min(self.gathered.len());
        let searched = self.gathered.len() - keep;
        self.gathered.drain(..searched);
        self.offset += searched as u64;
    }
}

impl<W: Write> Write for Watched<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tripwire.is_some() {
            self.gathered.extend_from_slice(bytes);
            if self.gathered.len() >= SEARCH_BYTES {
                self.search();
            }
            if self.found.is_some() {
                return Err(io::Error::other("a secret was found"));
            }
        }
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The place in a JSON document of the first text that holds a secret, such as `history[2].created_by`; none if only the document as a whole does.
pub(crate) fn place_in_json(tripwire: &Tripwire, document: &[u8]) -> Option<String> {
    fn walk(tripwire: &Tripwire, value: &serde_json::Value, path: &str) -> Option<String> {
        let holds = |text: &str| tripwire.find(text.as_bytes()).is_some();
        match value {
            serde_json::Value::String(text) => holds(text).then(|| path.to_owned()),
            serde_json::Value::Array(items) => items.iter().enumerate().find_map(|(n, item)| walk(tripwire, item, &format!("{path}[{n}]"))),
            serde_json::Value::Object(fields) => fields.iter().find_map(|(key, value)| {
                // A name that is itself the secret is not repeated.
                if holds(key) {
                    return Some(format!("{path}, the name of a field"));
                }
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(tripwire, value, &below)
            }),
            _ => None,
        }
    }
    walk(tripwire, &serde_json::from_slice(document).ok()?, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tripwire(values: &[&[u8]], allowed: &[&str]) -> Option<Tripwire> {
        let secrets = values.iter().enumerate().map(|(n, value)| (format!("s{n}"), Secret::new(value.to_vec()))).collect();
        Tripwire::new(&secrets, &allowed.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn without_secrets_that_can_be_searched_for_there_is_none() {
        assert!(tripwire(&[], &[]).is_none());
        assert!(tripwire(&[b"short", b"1234567\n", b""], &[]).is_none());
        assert!(tripwire(&[b"long enough"], &["s0"]).is_none());
        let one = tripwire(&[b"first secret", b"second secret"], &["s0"]).expect("one is left");
        assert!(one.find(b"the first secret").is_none());
        assert_eq!(one.find(b"the second secret").map(|found| (found.id, found.form, found.offset)), Some(("s1".to_owned(), "as it is", 4)));
    }

    #[test]
    fn places_in_documents_are_named_and_secrets_are_not() {
        let one = tripwire(&[b"hunter2hunter2"], &[]).expect("a secret");
        let place = |text: &str| place_in_json(&one, text.as_bytes());
        assert_eq!(place(r#"{"history":[{},{"created_by":"RUN x hunter2hunter2"}]}"#).as_deref(), Some("history[1].created_by"));
        assert_eq!(place(r#"{"config":{"Labels":{"a.b":"hunter2hunter2"}}}"#).as_deref(), Some("config.Labels.a.b"));
        assert_eq!(place(r#"{"config":{"Labels":{"hunter2hunter2":""}}}"#).as_deref(), Some("config.Labels, the name of a field"));
        assert_eq!(place(r#"{"a":1}"#), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_secret_is_found_wherever_writes_cut_it(before in 0..600_000_usize, writes in prop::collection::vec(1..300_000_usize, 1..5)) {
            let one = tripwire(&[b"the-secret-value"], &[]).expect("a secret");
            let mut data = vec![b'.'; before];
            data.extend_from_slice(b"the-secret-value");
            data.resize(before + 5000, b'.');
            let mut out = Vec::new();
            let mut watched = Watched::new(Some(&one), &mut out);
            let mut rest = &data[..];
            for size in writes.iter().cycle() {
                let n = (*size).min(rest.len());
                if rest.is_empty() || watched.write(&rest[..n]).is_err() {
                    break;
                }
                rest = &rest[n..];
            }
            prop_assert_eq!(watched.finish().map(|found| found.offset), Some(before as u64));
        }
    }
}
