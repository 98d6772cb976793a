//! Keys and records: what is looked up, and what is found.

use std::fmt;
use std::time::{Duration, SystemTime};

use builder_snapshot::Sha256Digest;
use builder_snapshot::toc::{ContentId, LayerId};

use crate::content::{Stack, StackLayer};

/// What a step does and the bytes it reads, as one digest (DESIGN §4). Made by [`crate::plan::key`] only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Sha256Digest);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", &self.0.hex()[..12])
    }
}

/// What went into a key, field by field, in order: name and short value. Kept beside the record so that a later miss can be explained.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFields(pub Vec<(String, String)>);

impl KeyFields {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in &self.0 {
            for text in [name, value] {
                out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut text = || -> Option<Option<String>> {
            let Some((length, rest)) = bytes.split_at_checked(4) else {
                return bytes.is_empty().then_some(None);
            };
            let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
            let (text, rest) = rest.split_at_checked(length)?;
            bytes = rest;
            Some(Some(String::from_utf8(text.to_vec()).ok()?))
        };
        let mut fields = Vec::new();
        while let Some(name) = text()? {
            fields.push((name, text()??));
        }
        Some(Self(fields))
    }
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The exact stack that the step left, the layers it was made on included.
    pub stack: Stack,
    /// When its layer was made.
    pub created: SystemTime,
    /// Name of its log in the store's directory of logs, if it ran a process.
    pub log: Option<String>,
}

/// First byte of an encoded record.
const VERSION: u8 = 1;

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let since = self.created.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let log = self.log.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(24 + log.len() + 64 * self.stack.layers.len());
        out.push(VERSION);
        out.extend_from_slice(&since.as_secs().to_le_bytes());
        out.extend_from_slice(&since.subsec_nanos().to_le_bytes());
        out.extend_from_slice(&u32::try_from(log.len()).unwrap_or_default().to_le_bytes());
        out.extend_from_slice(log.as_bytes());
        for layer in &self.stack.layers {
            out.extend_from_slice(&layer.id.0.0);
            out.extend_from_slice(&layer.content.0.0);
        }
        out
    }

    /// None for what this version cannot read: then there is no record.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(&[VERSION])?;
        let (seconds, bytes) = bytes.split_first_chunk::<8>()?;
        let (nanos, bytes) = bytes.split_first_chunk::<4>()?;
        let (log_length, bytes) = bytes.split_first_chunk::<4>()?;
        let (log, layers) = bytes.split_at_checked(usize::try_from(u32::from_le_bytes(*log_length)).ok()?)?;
        let (layers, rest) = layers.as_chunks::<64>();
        if !rest.is_empty() {
            return None;
        }
        let digest = |half: &[u8]| half.try_into().ok().map(Sha256Digest);
        let layers = layers
            .iter()
            .map(|pair| Some(StackLayer { id: LayerId(digest(&pair[..32])?), content: ContentId(digest(&pair[32..])?) }))
            .collect::<Option<Vec<_>>>()?;
        let since = Duration::from_secs(u64::from_le_bytes(*seconds)).checked_add(Duration::from_nanos(u32::from_le_bytes(*nanos).into()))?;
        Some(Self {
            stack: Stack { layers },
            created: SystemTime::UNIX_EPOCH.checked_add(since)?,
            log: (!log.is_empty()).then(|| String::from_utf8_lossy(log).into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_round_trip(layers in prop::collection::vec(any::<([u8; 32], [u8; 32])>(), 0..40), secs in 0..1_u64 << 40, nanos in 0..1_000_000_000_u32, log in "[a-z0-9.]{0,40}") {
            let stack = Stack { layers: layers.into_iter().map(|(id, content)| StackLayer { id: LayerId(Sha256Digest(id)), content: ContentId(Sha256Digest(content)) }).collect() };
            let record = Record { stack, created: SystemTime::UNIX_EPOCH + Duration::new(secs, nanos), log: (!log.is_empty()).then_some(log) };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _record = Record::decode(&bytes);
            let _fields = KeyFields::decode(&bytes);
        }

        #[test]
        fn fields_round_trip(fields in prop::collection::vec((".{0,20}", ".{0,60}"), 0..10)) {
            let fields = KeyFields(fields);
            prop_assert_eq!(KeyFields::decode(&fields.encode()), Some(fields));
        }
    }
}
