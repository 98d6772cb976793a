//! The history of a stage, shared with the stages that begin with it.
//!
//! A chain of thousands of stages would copy its history thousands of times; here a stage that is begun with is sealed, and those above point at it.

use std::sync::Arc;

use builder_core::frontend::HistoryEntry;

/// Entries in order: those of the stages below, then one's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct StageHistory {
    below: Option<Arc<Sealed>>,
    own: Vec<HistoryEntry>,
}

/// What no longer changes.
#[derive(Debug)]
struct Sealed {
    below: Option<Arc<Sealed>>,
    own: Vec<HistoryEntry>,
}

impl StageHistory {
    /// Begins with the entries of an image.
    pub(crate) fn of(entries: Vec<HistoryEntry>) -> Self {
        Self { below: None, own: entries }
    }

    pub(crate) fn push(&mut self, entry: HistoryEntry) {
        self.own.push(entry);
    }

    /// For a stage that begins here. This one shares what it has so far.
    pub(crate) fn child(&self) -> Self {
        if self.own.is_empty() {
            return self.clone();
        }
        let sealed = Sealed { below: self.below.clone(), own: self.own.clone() };
        Self { below: Some(Arc::new(sealed)), own: Vec::new() }
    }

    /// All entries, oldest first.
    pub(crate) fn into_entries(self) -> Vec<HistoryEntry> {
        let mut parts: Vec<&[HistoryEntry]> = vec![&self.own];
        let mut below = self.below.as_deref();
        while let Some(sealed) = below {
            parts.push(&sealed.own);
            below = sealed.below.as_deref();
        }
        parts.into_iter().rev().flatten().cloned().collect()
    }
}

impl Drop for Sealed {
    /// One by one: a long chain that drops itself level by level would need as much stack.
    fn drop(&mut self) {
        let mut next = self.below.take();
        while let Some(mut sealed) = next.and_then(Arc::into_inner) {
            next = sealed.below.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: String) -> HistoryEntry {
        HistoryEntry::New { created_by: text, vertex: None }
    }

    #[test]
    fn children_have_what_was_there_when_they_began() {
        let mut below = StageHistory::of(vec![entry("1".into())]);
        let mut child = below.child();
        below.push(entry("later".into()));
        child.push(entry("2".into()));
        let texts = |history: StageHistory| history.into_entries().iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>().join(",");
        assert!(texts(child.child()).contains("\"1\"") && texts(child.clone()).contains("\"2\"") && !texts(child).contains("later"));
        assert!(texts(below).contains("later"));
    }

    #[test]
    fn a_chain_of_any_length_can_be_dropped() {
        let mut history = StageHistory::default();
        for number in 0..100_000 {
            history.push(entry(number.to_string()));
            history = history.child();
        }
        assert_eq!(history.into_entries().len(), 100_000);
    }
}
