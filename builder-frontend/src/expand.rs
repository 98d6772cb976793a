//! Variable expansion (`features.md` A5): one word, one word that may become several, or the body of a heredoc.
//!
//! Pure text work: which variables an instruction sees, and whether it expands at all (A5.7), is the compiler's business. Words inside braces are always
//! expanded, also where their value is not used, as in the reference: a `?` in an unused default still ends the build.

mod pattern;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pattern::{Pattern, Reach};

/// Deepest nesting of braces and quotes: nobody reads such a word, and the reader is recursive.
pub const MAX_DEPTH: usize = 100;

/// Longest result: doubling a variable line by line must end somewhere, and the kernel takes no longer argument anyway.
pub const MAX_EXPANDED_BYTES: usize = 4 << 20;

/// Longest result of a heredoc, which is a file.
pub const MAX_EXPANDED_HEREDOC_BYTES: usize = 64 << 20;

/// How much of a word an error repeats.
const MAX_QUOTED_CHARS: usize = 200;

/// Names and values in the order they were first set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    // Shared with copies: stages and processes by the thousand have most variables in common.
    entries: Vec<Arc<(String, String)>>,
    index: HashMap<Arc<str>, usize>,
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
        let place = match self.index.get(name.as_str()) {
            Some(&at) => &mut self.entries[at],
            None => {
                self.index.insert(name.as_str().into(), self.entries.len());
                return self.entries.push(Arc::new((name, value)));
            }
        };
        *place = Arc::new((name, value));
    }

    /// Names and values in order, to share.
    #[must_use]
    pub fn entries(&self) -> &[Arc<(String, String)>] {
        &self.entries
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|entry| (entry.0.as_str(), entry.1.as_str()))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.0.as_str())
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
    /// Every variable that was looked at, set or not, once each, in order of first use.
    pub used: Vec<String>,
    /// Those of them that are not set; also where a default stands in, as the reference's check reports them.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandError {
    /// The word as written; a long one is cut.
    pub word: String,
    /// Why, naming the variable where one is the cause.
    pub reason: String,
    /// The variable that `?` requires and that has no value.
    pub required: Option<String>,
    /// What to do, where the word itself is wrong.
    pub help: Option<&'static str>,
}

impl std::error::Error for ExpandError {}

impl std::fmt::Display for ExpandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What the author of the file wrote behind the `?` is the message.
        if self.required.is_some() { f.write_str(&self.reason) } else { write!(f, "cannot expand `{}`: {}", self.word, self.reason) }
    }
}

/// Expands one word (A5.6): quotes and escapes are removed, variables replaced.
///
/// ```
/// use builder_frontend::expand::{Environment, expand_word};
///
/// let environment: Environment = [("TAG", "3.22")].into_iter().collect();
/// let expanded = expand_word("alpine:${TAG:-latest}$SUFFIX", &environment, '\\').unwrap();
/// assert_eq!(expanded.text, "alpine:3.22");
/// assert_eq!(expanded.undefined, ["SUFFIX"]);
/// ```
pub fn expand_word(word: &str, environment: &Environment, escape: char) -> Result<Expanded, ExpandError> {
    let mut expander = Expander::new(word, environment, escape, true, MAX_EXPANDED_BYTES);
    let (text, _) = expander.whole()?;
    Ok(Expanded { text, used: expander.used, undefined: expander.undefined })
}

/// Expands a word that may become several: blanks outside quotes separate, also those that come out of variables (EXPOSE).
pub fn expand_words(word: &str, environment: &Environment, escape: char) -> Result<ExpandedWords, ExpandError> {
    let mut expander = Expander::new(word, environment, escape, true, MAX_EXPANDED_BYTES);
    let (_, words) = expander.whole()?;
    Ok(ExpandedWords { words, used: expander.used, undefined: expander.undefined })
}

/// Expands the body of a heredoc (A3.5): quotes are plain characters and the escape is always a backslash.
pub fn expand_heredoc(body: &str, environment: &Environment) -> Result<Expanded, ExpandError> {
    let mut expander = Expander::new(body, environment, '\\', false, MAX_EXPANDED_HEREDOC_BYTES);
    let (text, _) = expander.whole()?;
    Ok(Expanded { text, used: expander.used, undefined: expander.undefined })
}

/// Why a part of a word can't be expanded; as in [`ExpandError`].
struct Reason {
    text: String,
    required: Option<String>,
    help: Option<&'static str>,
}

impl Reason {
    fn with(text: impl Into<String>, help: &'static str) -> Self {
        Self { text: text.into(), required: None, help: Some(help) }
    }

    /// Nothing ends a brace.
    fn open(missing: char) -> Self {
        Self::with(format!("syntax error: missing '{missing}'"), "close the brace, as in `${NAME}`")
    }

    fn modifier(written: &str) -> Self {
        Self::with(
            format!("unsupported modifier ({written}) in substitution"),
            "behind a name stand `}`, or -, +, ? (with : before it also for empty values), #, ##, %, %%, / or // and a word",
        )
    }

    fn quote(which: &str) -> Self {
        Self::with(format!("a {which} quote is not closed"), "close it; to mean the sign itself, put the escape character before it")
    }

    fn required(name: &str, why: &str) -> Self {
        Self { text: format!("{name}: {why}"), required: Some(name.to_owned()), help: None }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text, required: None, help: None }
    }
}

/// Collects words while text is added: blanks separate unless they are literal.
#[derive(Default)]
struct Words {
    word: String,
    done: Vec<String>,
}

impl Words {
    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.done.push(std::mem::take(&mut self.word));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

struct Expander<'a> {
    source: &'a str,
    rest: &'a str,
    environment: &'a Environment,
    escape: char,
    quotes: bool,
    depth: usize,
    produced: usize,
    limit: usize,
    seen: HashSet<&'a str>,
    used: Vec<String>,
    undefined: Vec<String>,
}

impl<'a> Expander<'a> {
    fn new(source: &'a str, environment: &'a Environment, escape: char, quotes: bool, limit: usize) -> Self {
        Self {
            source,
            rest: source,
            environment,
            escape,
            quotes,
            depth: 0,
            produced: 0,
            limit,
            seen: HashSet::new(),
            used: Vec::new(),
            undefined: Vec::new(),
        }
    }

    fn whole(&mut self) -> Result<(String, Vec<String>), ExpandError> {
        self.until(None, false).map_err(|reason| {
            let mut word: String = self.source.chars().take(MAX_QUOTED_CHARS).collect();
            if word.len() < self.source.len() {
                word.push_str("...");
            }
            ExpandError { word, reason: reason.text, required: reason.required, help: reason.help }
        })
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn next_if(&mut self, wanted: char) -> bool {
        let found = self.rest.strip_prefix(wanted);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Up to and without `stop`, or to the end. With `keep_escapes` escapes stay, for patterns.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>), Reason> {
        if self.depth == MAX_DEPTH {
            return Err(format!("braces and quotes are nested deeper than {MAX_DEPTH}").into());
        }
        self.depth += 1;
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.next() {
            if Some(c) == stop {
                self.depth -= 1;
                return Ok((text, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.count(&value)?;
                    words.split(&value);
                    text.push_str(&value);
                }
                '\'' if self.quotes => {
                    let (inside, rest) = self.rest.split_once('\'').ok_or_else(|| Reason::quote("single"))?;
                    self.rest = rest;
                    words.word.push_str(inside);
                    text.push_str(inside);
                }
                '"' if self.quotes => {
                    let inside = self.double_quoted(keep_escapes)?;
                    words.word.push_str(&inside);
                    text.push_str(&inside);
                }
                c if c == self.escape => {
                    if keep_escapes {
                        words.word.push(c);
                        text.push(c);
                    }
                    // At the very end it means nothing.
                    if let Some(next) = self.next() {
                        words.word.push(next);
                        text.push(next);
                    }
                }
                c => {
                    words.split(c.encode_utf8(&mut [0; 4]));
                    text.push(c);
                }
            }
        }
        self.depth -= 1;
        match stop {
            None => Ok((text, words.finish())),
            Some('/') => Err(Reason::with("syntax error: missing '/' in ${}", "write `${NAME/PATTERN/REPLACEMENT}`")),
            Some(stop) => Err(Reason::open(stop)),
        }
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, Reason> {
        let mut text = String::new();
        loop {
            match self.next().ok_or_else(|| Reason::quote("double"))? {
                '"' => return Ok(text),
                '$' => {
                    let value = self.dollar()?;
                    self.count(&value)?;
                    text.push_str(&value);
                }
                c if c == self.escape => {
                    if keep_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            self.next();
                            text.push(next);
                        }
                        // Any other backslash stays as it is.
                        Some(_) => text.push(c),
                        None => {}
                    }
                }
                c => text.push(c),
            }
        }
    }

    /// Behind a `$`.
    fn dollar(&mut self) -> Result<String, Reason> {
        if !self.next_if('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.look_up(name).unwrap_or_default().to_owned() });
        }
        match self.peek() {
            None => return Err(Reason::open('}')),
            Some('{' | '}' | ':') => {
                return Err(Reason::with(
                    "syntax error: bad substitution",
                    "write a name, as in `${NAME}`; for the sign itself put the escape character before `$`",
                ));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(Reason::open('}')),
            Some('}') => Ok(self.look_up(name).unwrap_or_default().to_owned()),
            Some(':') => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.default(name, c, true),
                Some(c) => Err(Reason::modifier(&format!(":{c}"))),
                None => Err(Reason::open('}')),
            },
            Some(c @ ('-' | '+' | '?')) => self.default(name, c, false),
            Some(c @ ('#' | '%')) => self.trim(name, c),
            Some('/') => self.replace(name),
            Some(c) => Err(Reason::modifier(&c.to_string())),
        }
    }

    fn default(&mut self, name: &'a str, modifier: char, empty_is_unset: bool) -> Result<String, Reason> {
        let (word, _) = self.until(Some('}'), false)?;
        let value = self.look_up(name);
        let usable = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, usable) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value.to_owned()),
            ('-', None) => Ok(word),
            (_, None) if !word.is_empty() => Err(Reason::required(name, &word)),
            (_, None) if value.is_some() => Err(Reason::required(name, "is not allowed to be empty")),
            (_, None) => Err(Reason::required(name, "is not allowed to be unset")),
        }
    }

    fn trim(&mut self, name: &'a str, modifier: char) -> Result<String, Reason> {
        let (word, _) = self.until(Some('}'), true)?;
        let (word, reach) = word.strip_prefix(modifier).map_or((word.as_str(), Reach::Shortest), |word| (word, Reach::Longest));
        let value = self.look_up(name).unwrap_or_default();
        let pattern = Pattern::new(word);
        let trimmed = pattern.and_then(|pattern| if modifier == '#' { pattern.trim_prefix(value, reach) } else { pattern.trim_suffix(value, reach) });
        trimmed.map_err(|error| format!("{name}: {error}").into())
    }

    fn replace(&mut self, name: &'a str) -> Result<String, Reason> {
        let all = self.next_if('/');
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let value = self.look_up(name).unwrap_or_default();
        if all && value.len().saturating_add(1).saturating_mul(replacement.len()) > self.limit.saturating_mul(4) {
            return Err(format!("{name}: the replacement makes the value too long").into());
        }
        Pattern::new(&pattern).and_then(|pattern| pattern.replace(value, &replacement, all)).map_err(|error| format!("{name}: {error}").into())
    }

    /// A run of digits, one special parameter, or letters, digits and underscores (A5.5).
    fn name(&mut self) -> &'a str {
        let length = match self.peek() {
            Some(c) if c.is_ascii_digit() => self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len(),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len()),
        };
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name
    }

    fn look_up(&mut self, name: &'a str) -> Option<&'a str> {
        let value = self.environment.get(name);
        if self.seen.insert(name) {
            self.used.push(name.to_owned());
            if value.is_none() {
                self.undefined.push(name.to_owned());
            }
        }
        value
    }

    fn count(&mut self, value: &str) -> Result<(), Reason> {
        self.produced += value.len();
        if self.produced > self.limit {
            return Err(format!("the variables' values make it longer than {} bytes", self.limit).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
