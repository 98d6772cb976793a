//! Variable expansion against a reference model that is slow and obviously right (`features.md` A5): the word is first read into a tree by the grammar,
//! then the tree is evaluated; patterns are tried on every part of the value, longest or shortest first, by plain backtracking.

use std::collections::BTreeMap;

use builder_frontend::expand::{Environment, expand_heredoc, expand_word, expand_words};
use proptest::prelude::*;
use proptest::sample::select;

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// As it is; in a word that is split, blanks in it separate only if it is not protected.
    Text { text: String, protected: bool },
    /// `$name`, or `${name}` with what follows the name.
    Variable { name: String, modifier: Modifier },
    /// The inside of double quotes.
    Quoted(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Modifier {
    None,
    /// `-`, `+`, `?`; with a colon before it.
    Default {
        sign: char,
        colon: bool,
        word: Vec<Part>,
    },
    /// `#`, `%`; doubled when the word begins with it again.
    Trim {
        sign: char,
        pattern: Vec<Part>,
    },
    Replace {
        all: bool,
        pattern: Vec<Part>,
        replacement: Vec<Part>,
    },
}

/// What kind of text is read.
#[derive(Clone, Copy)]
struct Mode {
    escape: char,
    /// Whether quotes mean something: not in heredocs.
    quotes: bool,
    /// Whether escapes stay, for a pattern to read them.
    keep: bool,
}

/// Reads parts from characters; every function consumes what it read.
struct Grammar<'a> {
    rest: &'a [char],
}

type Parsed<T> = Result<T, ()>;

impl Grammar<'_> {
    fn next(&mut self) -> Option<char> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Up to `stop`, which is consumed.
    fn parts(&mut self, stop: Option<char>, mode: Mode) -> Parsed<Vec<Part>> {
        let mut parts = Vec::new();
        loop {
            let Some(c) = self.next() else { return if stop.is_none() { Ok(parts) } else { Err(()) } };
            if Some(c) == stop {
                return Ok(parts);
            }
            let part = match c {
                '$' => self.dollar(mode)?,
                '\'' if mode.quotes => {
                    let length = self.rest.iter().position(|&c| c == '\'').ok_or(())?;
                    let text = self.rest[..length].iter().collect();
                    self.rest = &self.rest[length + 1..];
                    Part::Text { text, protected: true }
                }
                '"' if mode.quotes => Part::Quoted(self.double_quoted(mode)?),
                c if c == mode.escape => {
                    let kept = if mode.keep { Some(c) } else { None };
                    Part::Text { text: kept.into_iter().chain(self.next()).collect(), protected: true }
                }
                c => Part::Text { text: c.to_string(), protected: false },
            };
            parts.push(part);
        }
    }

    /// Behind the opening quote, up to the closing one.
    fn double_quoted(&mut self, mode: Mode) -> Parsed<Vec<Part>> {
        let mut parts = Vec::new();
        loop {
            let text = match self.next().ok_or(())? {
                '"' => return Ok(parts),
                '$' => {
                    parts.push(self.dollar(mode)?);
                    continue;
                }
                c if c == mode.escape => {
                    let mut text = if mode.keep { c.to_string() } else { String::new() };
                    match self.rest.first() {
                        Some(&next) if next == '"' || next == '$' || next == mode.escape => text.extend(self.next()),
                        Some(_) => text.push(c),
                        None => {}
                    }
                    text
                }
                c => c.to_string(),
            };
            parts.push(Part::Text { text, protected: true });
        }
    }

    fn name(&mut self) -> String {
        let class: fn(char) -> bool = match self.rest.first() {
            Some(c) if c.is_ascii_digit() => |c| c.is_ascii_digit(),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => return self.next().into_iter().collect(),
            _ => |c| c.is_alphanumeric() || c == '_',
        };
        let length = self.rest.iter().position(|&c| !class(c)).unwrap_or(self.rest.len());
        let name = self.rest[..length].iter().collect();
        self.rest = &self.rest[length..];
        name
    }

    /// Behind a `$`.
    fn dollar(&mut self, mode: Mode) -> Parsed<Part> {
        if self.rest.first() != Some(&'{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                Part::Text { text: "$".into(), protected: false }
            } else {
                Part::Variable { name, modifier: Modifier::None }
            });
        }
        self.next();
        if matches!(self.rest.first(), None | Some('{' | '}' | ':')) {
            return Err(());
        }
        let name = self.name();
        let word = Mode { keep: false, ..mode };
        let pattern = Mode { keep: true, ..mode };
        let modifier = match self.next().ok_or(())? {
            '}' => Modifier::None,
            ':' => match self.next().ok_or(())? {
                sign @ ('-' | '+' | '?') => Modifier::Default { sign, colon: true, word: self.parts(Some('}'), word)? },
                _ => return Err(()),
            },
            sign @ ('-' | '+' | '?') => Modifier::Default { sign, colon: false, word: self.parts(Some('}'), word)? },
            sign @ ('#' | '%') => Modifier::Trim { sign, pattern: self.parts(Some('}'), pattern)? },
            '/' => {
                let all = self.rest.first() == Some(&'/');
                if all {
                    self.next();
                }
                let wanted = self.parts(Some('/'), pattern)?;
                Modifier::Replace { all, pattern: wanted, replacement: self.parts(Some('}'), pattern)? }
            }
            _ => return Err(()),
        };
        Ok(Part::Variable { name, modifier })
    }
}

type Variables = BTreeMap<String, String>;

/// Pieces of the result, each with whether its blanks are protected.
fn evaluate(parts: &[Part], variables: &Variables) -> Parsed<Vec<(String, bool)>> {
    let mut out = Vec::new();
    for part in parts {
        match part {
            Part::Text { text, protected } => out.push((text.clone(), *protected)),
            Part::Quoted(inside) => out.push((text_of(inside, variables)?, true)),
            Part::Variable { name, modifier } => out.push((value(name, modifier, variables)?, false)),
        }
    }
    Ok(out)
}

fn text_of(parts: &[Part], variables: &Variables) -> Parsed<String> {
    Ok(evaluate(parts, variables)?.into_iter().map(|(text, _)| text).collect())
}

fn value(name: &str, modifier: &Modifier, variables: &Variables) -> Parsed<String> {
    let set = variables.get(name).cloned();
    match modifier {
        Modifier::None => Ok(set.unwrap_or_default()),
        Modifier::Default { sign, colon, word } => {
            let word = text_of(word, variables)?;
            let usable = set.filter(|value| !(*colon && value.is_empty()));
            match (sign, usable) {
                ('+', usable) => Ok(if usable.is_some() { word } else { String::new() }),
                (_, Some(value)) => Ok(value),
                ('-', None) => Ok(word),
                (_, None) => Err(()),
            }
        }
        Modifier::Trim { sign, pattern } => {
            let value: Vec<char> = set.unwrap_or_default().chars().collect();
            let word = text_of(pattern, variables)?;
            let (longest, word) = word.strip_prefix(*sign).map_or((false, word.as_str()), |word| (true, word));
            let pattern = read_pattern(word)?;
            // Lengths of the part that goes, in the order they are tried.
            let mut lengths: Vec<usize> = (0..=value.len()).collect();
            if longest {
                lengths.reverse();
            }
            let gone = |length: usize| if *sign == '#' { &value[..length] } else { &value[value.len() - length..] };
            let length = lengths.into_iter().find(|&length| matches(&pattern, gone(length))).unwrap_or(0);
            Ok(if *sign == '#' { &value[length..] } else { &value[..value.len() - length] }.iter().collect())
        }
        Modifier::Replace { all, pattern, replacement } => {
            let value: Vec<char> = set.unwrap_or_default().chars().collect();
            let pattern = read_pattern(&text_of(pattern, variables)?)?;
            let replacement = text_of(replacement, variables)?;
            let mut out = String::new();
            let (mut at, mut behind_match) = (0, false);
            while at <= value.len() {
                let found = (at..=value.len()).rev().find(|&end| matches(&pattern, &value[at..end]));
                match found {
                    // An empty match right behind another one is none.
                    Some(end) if end > at || !behind_match => {
                        out.push_str(&replacement);
                        if !all {
                            out.extend(&value[end..]);
                            return Ok(out);
                        }
                        behind_match = end > at;
                        if end == at {
                            out.extend(value.get(at));
                            at += 1;
                        } else {
                            at = end;
                        }
                    }
                    _ => {
                        behind_match = false;
                        out.extend(value.get(at));
                        at += 1;
                    }
                }
            }
            Ok(out)
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Glob {
    One(char),
    Any,
    Run,
}

fn read_pattern(text: &str) -> Parsed<Vec<Glob>> {
    let mut chars = text.chars();
    let mut pattern = Vec::new();
    while let Some(c) = chars.next() {
        pattern.push(match c {
            '*' => Glob::Run,
            '?' => Glob::Any,
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Glob::One(c),
                _ => return Err(()),
            },
            c => Glob::One(c),
        });
    }
    Ok(pattern)
}

/// Whether a pattern is the whole of a text.
fn matches(pattern: &[Glob], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, first) => first.is_none(),
        (Some((Glob::Run, behind)), first) => matches(behind, text) || first.is_some_and(|(c, rest)| *c != '\n' && matches(pattern, rest)),
        (Some((Glob::Any, behind)), Some((c, rest))) => *c != '\n' && matches(behind, rest),
        (Some((Glob::One(wanted), behind)), Some((c, rest))) => c == wanted && matches(behind, rest),
        (Some(_), None) => false,
    }
}

/// The model's answer: the text, and the words it splits into.
fn model(word: &str, variables: &Variables, escape: char, quotes: bool) -> Parsed<(String, Vec<String>)> {
    let chars: Vec<char> = word.chars().collect();
    let parts = Grammar { rest: &chars }.parts(None, Mode { escape, quotes, keep: false })?;
    let pieces = evaluate(&parts, variables)?;
    let text = pieces.iter().map(|(text, _)| text.as_str()).collect();
    let mut words = vec![String::new()];
    for (c, protected) in pieces.iter().flat_map(|(text, protected)| text.chars().map(move |c| (c, *protected))) {
        if c.is_whitespace() && !protected {
            words.push(String::new());
        } else if let Some(last) = words.last_mut() {
            last.push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    Ok((text, words))
}

/// Words made of what means something here, nested a few levels deep.
fn word() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "a",
        "ab",
        "b*",
        "?",
        "*",
        "**",
        "/",
        "//",
        "\\*",
        "\\?",
        "\\\\",
        "\\/",
        "\\}",
        "\\x",
        "`",
        "`$",
        "$A",
        "$B",
        "$EMPTY",
        "$NOT",
        "${A}",
        "$1",
        "$12",
        "$@",
        "$",
        "é",
        " ",
        "  ",
        "\t",
        "\n",
        "#",
        "%",
        ":",
        "-",
        "}",
        "{",
        "'",
        "\"",
        "'$A'",
        "\"$A b\"",
        "\"\\a\\$\\\"\"",
        "\\",
        "_",
        "aXbXa",
    ]);
    let leaf = proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name = select(vec!["A", "B", "EMPTY", "NOT", "LINES", "1", "#", "", "é"]);
        let sign = select(vec![":-", ":+", ":?", "-", "+", "?", "#", "##", "%", "%%", "/", "//", ":#", ":", "!"]);
        let modified = (name, sign, inner.clone(), proptest::option::of(inner.clone())).prop_map(|(name, sign, first, second)| {
            format!("${{{name}{sign}{first}{}}}", second.map_or(String::new(), |second| format!("/{second}")))
        });
        prop_oneof![modified, (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}{b}")), inner.prop_map(|inner| format!("\"{inner}\""))]
    })
}

fn variables() -> impl Strategy<Value = Variables> {
    let value = select(vec!["", "a", "ab", "aXbXa", "a/b/c", "x y", " x  y ", "$A", "*", "a\nb", "éa", "\\"]);
    (value.clone(), value.clone(), value).prop_map(|(a, b, lines)| {
        let set = [("A", a), ("B", b), ("LINES", lines), ("EMPTY", ""), ("1", "one"), ("é", "accent")];
        set.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    })
}

proptest! {
    #[test]
    fn a5_expansion_is_that_of_the_model(word in word(), variables in variables(), escape in select(vec!['\\', '`'])) {
        let environment: Environment = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let wanted = model(&word, &variables, escape, true);
        let text = expand_word(&word, &environment, escape);
        let words = expand_words(&word, &environment, escape);
        match wanted {
            Ok((wanted_text, wanted_words)) => {
                prop_assert_eq!(text.map(|expanded| expanded.text), Ok(wanted_text));
                prop_assert_eq!(words.map(|expanded| expanded.words), Ok(wanted_words));
            }
            Err(()) => prop_assert!(text.is_err() && words.is_err(), "{:?}", text),
        }
    }

    #[test]
    fn a3_5_heredocs_are_expanded_as_by_the_model(word in word(), variables in variables()) {
        let environment: Environment = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let wanted = model(&word, &variables, '\\', false).map(|(text, _)| text);
        prop_assert_eq!(expand_heredoc(&word, &environment).map(|expanded| expanded.text).map_err(|_| ()), wanted);
    }
}

#[test]
fn a5_the_model_itself() {
    let variables: Variables = [("A", "aXbXa"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (word, wanted) in [
        ("x$A", Some("xaXbXa")),
        ("${A#*X}", Some("bXa")),
        ("${A##*X}", Some("a")),
        ("${A%X*}", Some("aXb")),
        ("${A%%X*}", Some("a")),
        ("${A/X/-}", Some("a-bXa")),
        ("${A//X/-}", Some("a-b-a")),
        ("${EMPTY:-${NOT-d}}", Some("d")),
        ("${EMPTY-d}", Some("")),
        ("'$A'\"$EMPTY\"", Some("$A")),
        ("${NOT?}", None),
        ("${A", None),
    ] {
        assert_eq!(model(word, &variables, '\\', true).ok().map(|(text, _)| text).as_deref(), wanted, "{word}");
    }
}
