//! From a target and its result to an image that can be exported: history and times. Pure.
//!
//! # Invariants
//! - Every layer has one history entry without `empty_layer`, in order (`features.md` A13.3).
//! - What came from the base image is not touched; with an epoch every new time is the epoch, so that nothing depends on when a layer
//!   was found or made (A13.4, A14.2).

use std::time::SystemTime;

use jiff::Timestamp;

use crate::content::Stack;
use crate::frontend::{HistoryEntry, TargetImage};
use crate::graph::VertexId;
use crate::oci::config::RootFs;
use crate::oci::{DiffId, History, ImageDocument, Platform};

/// `comment` of entries that a build step made; tools know it.
const STEP_COMMENT: &str = "buildkit.dockerfile.v0";
/// `comment` of entries for layers that their image's history does not mention.
const FILLED_COMMENT: &str = "buildkit.exporter.image.v0";

/// An image that lacks only its diff IDs, which depend on how it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct FinalImage {
    /// For which platform.
    pub platform: Platform,
    /// Its layers.
    pub stack: Stack,
    /// Its config; `rootfs` and `history` are empty.
    pub document: ImageDocument,
    /// Its history, one entry without `empty_layer` for each layer.
    pub history: Vec<History>,
}

/// How the layer of a vertex came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// When.
    pub created: SystemTime,
    /// The vertex's name in the progress.
    pub name: String,
}

/// Puts together the image of `target`, whose tree is `stack`. `made` says how the layer of a vertex came to be; with `epoch` all new
/// times are that.
#[must_use]
pub fn assemble(target: &TargetImage, stack: &Stack, made: &dyn Fn(VertexId) -> Made, epoch: Option<i64>) -> FinalImage {
    let epoch = epoch.map(rfc3339_of_seconds);
    let time_of = |vertex| epoch.clone().unwrap_or_else(|| rfc3339(made(vertex).created));
    let base = target.history.iter().take_while(|entry| matches!(entry, HistoryEntry::Base(_))).count();
    let mut history: Vec<History> = target
        .history
        .iter()
        .map(|entry| match entry {
            HistoryEntry::Base(entry) => entry.clone(),
            HistoryEntry::New { created_by, vertex } => History {
                created: vertex.map(time_of).or_else(|| epoch.clone()),
                created_by: Some(created_by.clone()),
                author: None,
                comment: Some(STEP_COMMENT.into()),
                empty_layer: vertex.is_none().then_some(true),
            },
        })
        .collect();
    let vertices: Vec<VertexId> = target
        .history
        .iter()
        .filter_map(|entry| match entry {
            HistoryEntry::New { vertex, .. } => *vertex,
            HistoryEntry::Base(_) => None,
        })
        .collect();
    match_layers(&mut history, stack.layers.len(), &|from_top| {
        // The layers on top are those of the last vertices.
        let vertex = vertices.iter().rev().nth(from_top)?;
        Some(History { created: Some(time_of(*vertex)), created_by: Some(made(*vertex).name), ..History::default() })
    });
    fill_times(&mut history, base);
    let mut document = target.config.clone();
    document.created = history.last().and_then(|entry| entry.created.clone()).or(epoch);
    document.rootfs = RootFs::default();
    document.history = Vec::new();
    FinalImage { platform: target.platform.clone(), stack: stack.clone(), document, history }
}

impl FinalImage {
    /// The config as a blob: keys in the order that BuildKit writes them.
    ///
    /// # Panics
    /// Never: a config is plain data.
    #[must_use]
    pub fn config_json(&self, diff_ids: &[DiffId]) -> Vec<u8> {
        let mut document = self.document.clone();
        document.rootfs = RootFs { diff_ids: diff_ids.iter().map(|id| id.0.to_string()).collect(), ..RootFs::default() };
        document.history = self.history.clone();
        let value = serde_json::to_value(&document).expect("a config is plain data");
        let serde_json::Value::Object(fields) = value else { unreachable!("a config is an object") };
        let mut sorted: Vec<_> = fields.into_iter().collect();
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        serde_json::to_vec(&sorted.into_iter().collect::<serde_json::Map<_, _>>()).expect("a config is plain data")
    }
}

/// Makes the number of entries with a layer equal to `layers`. What `about` knows of a layer, counted from the top, describes those that
/// the history does not mention. Entries are added at the end, where BuildKit adds them.
fn match_layers(history: &mut Vec<History>, layers: usize, about: &dyn Fn(usize) -> Option<History>) {
    let has_layer = |entry: &History| entry.empty_layer != Some(true);
    let entries = history.iter().filter(|entry| has_layer(entry)).count();
    for layer in entries..layers {
        let known = about(layers - 1 - layer).unwrap_or_default();
        history.push(History { comment: Some(FILLED_COMMENT.into()), ..known });
    }
    // More entries than layers: nobody knows which are wrong, so the oldest keep their layers, as BuildKit has it.
    let mut left = layers;
    for entry in history.iter_mut().filter(|entry| has_layer(entry)) {
        match left.checked_sub(1) {
            Some(less) => left = less,
            None => entry.empty_layer = Some(true),
        }
    }
}

/// Gives entries without layer (and thus without a time of their own) the time of the layer before them, or of the first new one after.
fn fill_times(history: &mut [History], base: usize) {
    let new = history.split_at_mut(base);
    let last_of_base = new.0.iter().rev().find_map(|entry| entry.created.clone());
    let mut current = new.1.iter().find_map(|entry| entry.created.clone()).or(last_of_base);
    for entry in new.1 {
        match &entry.created {
            Some(created) => current = Some(created.clone()),
            None => entry.created.clone_from(&current),
        }
    }
}

/// Seconds since 1970 as RFC 3339, the way Go writes it.
#[must_use]
pub fn rfc3339_of_seconds(seconds: i64) -> String {
    // Only years beyond 9999 cannot be written; they are as wrong as any.
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// A time as RFC 3339 with as many digits of its fraction as it has.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use builder_snapshot::Sha256Digest;

    use super::*;

    fn target(history: Vec<HistoryEntry>) -> TargetImage {
        TargetImage { platform: "linux/amd64".parse().expect("platform"), vertex: None, config: ImageDocument::default(), history }
    }

    fn base(created: Option<&str>, empty: bool) -> HistoryEntry {
        HistoryEntry::Base(History { created: created.map(Into::into), empty_layer: empty.then_some(true), ..History::default() })
    }

    fn step(vertex: Option<u32>) -> HistoryEntry {
        HistoryEntry::New { created_by: "x".into(), vertex: vertex.map(VertexId) }
    }

    fn stack(layers: u8) -> Stack {
        Stack::of_image(&(0..layers).map(|n| DiffId(Sha256Digest([n; 32]))).collect::<Vec<_>>())
    }

    fn at(vertex: VertexId) -> Made {
        let created = SystemTime::UNIX_EPOCH + Duration::new(1000 + u64::from(vertex.0), 500_000_000);
        Made { created, name: format!("vertex {}", vertex.0) }
    }

    fn times(image: &FinalImage) -> Vec<&str> {
        image.history.iter().map(|entry| entry.created.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn a13_4_metadata_takes_the_time_of_its_neighbour() {
        let target = target(vec![base(Some("B"), false), base(None, true), step(None), step(Some(1)), step(None), step(Some(2)), step(None)]);
        let image = assemble(&target, &stack(3), &at, None);
        let (one, two) = ("1970-01-01T00:16:41.5Z", "1970-01-01T00:16:42.5Z");
        assert_eq!(times(&image), ["B", "-", one, one, one, two, two]);
        assert_eq!(image.document.created.as_deref(), Some(two));
    }

    #[test]
    fn a14_2_an_epoch_is_every_new_time_and_no_old_one() {
        let target = target(vec![base(Some("B"), false), step(None), step(Some(1))]);
        let image = assemble(&target, &stack(2), &at, Some(1_700_000_000));
        assert_eq!(times(&image), ["B", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"]);
        assert_eq!(image.document.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn metadata_alone_takes_the_time_of_the_base() {
        let image = assemble(&target(vec![base(Some("B"), false), step(None)]), &stack(1), &at, None);
        assert_eq!(times(&image), ["B", "B"]);
        assert_eq!(assemble(&target(vec![step(None)]), &stack(0), &at, None).document.created, None);
    }

    #[test]
    fn a13_3_missing_entries_are_filled_and_surplus_ones_lose_their_layer() {
        let image = assemble(&target(vec![base(Some("B"), false), step(Some(1))]), &stack(4), &at, None);
        let shown: Vec<_> = image.history.iter().map(|entry| (entry.comment.as_deref(), entry.created_by.as_deref())).collect();
        let own = (Some(STEP_COMMENT), Some("x"));
        assert_eq!(shown, [(None, None), own, (Some(FILLED_COMMENT), None), (Some(FILLED_COMMENT), Some("vertex 1"))]);
        let image = assemble(&target(vec![base(None, false), base(None, false), step(Some(1))]), &stack(2), &at, None);
        assert_eq!(image.history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(), [None, None, Some(true)]);
    }

    #[test]
    fn configs_are_written_with_sorted_keys() {
        let image = assemble(&target(vec![step(Some(1))]), &stack(1), &at, Some(0));
        let json = String::from_utf8(image.config_json(&[DiffId(Sha256Digest([0; 32]))])).expect("text");
        assert!(json.starts_with(r#"{"architecture":"","config":{},"created":"1970-01-01T00:00:00Z","history":[{"created":"#), "{json}");
        assert!(json.ends_with(&format!(r#""os":"","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, "0".repeat(64))), "{json}");
    }
}
