//! `--name=value` words before the arguments (`features.md` A4.1).

use std::ops::Range;

use crate::ast::Word;
use crate::diagnostic::Problem;
use crate::source::Spanned;
use crate::suggest;

use super::Line;
use super::words::is_blank;

/// A flag as written, quotes and escapes taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFlag {
    /// `name` or `name=value`, without the dashes.
    text: String,
    /// Where it stands in its line.
    pub(crate) range: Range<usize>,
}

impl RawFlag {
    /// Without the dashes; no value where there is no `=`.
    pub(crate) fn name_and_value(&self) -> (&str, Option<&str>) {
        self.text.split_once('=').map_or((self.text.as_str(), None), |(name, value)| (name, Some(value)))
    }

    /// As it is dumped: with the dashes.
    pub(crate) fn word(&self) -> String {
        format!("--{}", self.text)
    }
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A value, once.
    Text,
    /// A value, any number of times.
    List,
    /// Nothing, `true` or `false`, once.
    Bool,
}

/// The leading words that begin with `--`, and the rest of the range. The escape is a backslash here whatever the directive says.
pub(crate) fn cut(text: &str, range: Range<usize>) -> (Vec<RawFlag>, Range<usize>) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let rest = &text[at..range.end];
        let begin = at + (rest.len() - rest.trim_start().len());
        if !text[begin..range.end].starts_with("--") {
            return (flags, begin..range.end);
        }
        let (word, end) = word(text, begin..range.end);
        at = end;
        if word == "--" {
            return (flags, end..range.end);
        }
        flags.push(RawFlag { text: word.strip_prefix("--").unwrap_or(&word).to_owned(), range: begin..end });
    }
}

fn word(text: &str, range: Range<usize>) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, range.start + at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == '\\' => word.extend(chars.next().map(|(_, next)| next)),
            _ => word.push(c),
        }
    }
    (word, range.end)
}

/// The flags of one instruction, checked.
#[derive(Debug)]
pub(crate) struct Flags {
    values: Vec<(&'static str, Word, bool)>,
}

impl Flags {
    /// Checks the line's flags against those that its instruction knows.
    pub(crate) fn read(line: &Line<'_>, known: &'static [(&'static str, Takes)]) -> Result<Self, Problem> {
        let mut values: Vec<(&'static str, Word, bool)> = Vec::new();
        for flag in &line.flags {
            let span = line.span_of(flag.range.clone());
            let (name, value) = flag.name_and_value();
            let Some(&(known_name, takes)) = known.iter().find(|(known_name, _)| *known_name == name) else {
                return Err(unknown(line, name, known, span));
            };
            if takes != Takes::List && values.iter().any(|(seen, ..)| *seen == known_name) {
                return Err(Problem::error("duplicate-flag", format!("--{name} is given twice"), span).help("remove one of them"));
            }
            let value_span = line.span_of(value_range(line, flag));
            let value = match (takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some(value)) if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") => value.to_ascii_lowercase(),
                (Takes::Bool, Some(value)) => {
                    let message = format!("--{name} is true or false, not {value:?}");
                    return Err(Problem::error("flag-value", message, span).help(format!("write `--{name}` or `--{name}=false`")));
                }
                (_, None) => {
                    return Err(Problem::error("flag-value", format!("--{name} needs a value"), span).help(format!("write `--{name}=...`")));
                }
                (_, Some(value)) => value.to_owned(),
            };
            values.push((known_name, Spanned::new(value, value_span), takes == Takes::List));
        }
        Ok(Self { values })
    }

    /// A text flag; an empty value is no value.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.values.iter().find(|(seen, value, _)| *seen == name && !value.value.is_empty()).map(|(_, value, _)| value.clone())
    }

    /// All values of a list flag.
    pub(crate) fn list(&self, name: &str) -> Vec<Word> {
        self.values.iter().filter(|(seen, ..)| *seen == name).map(|(_, value, _)| value.clone()).collect()
    }

    /// A boolean flag, if it is given.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value.value == "true")
    }
}

/// Refuses any flag.
pub(crate) fn none(line: &Line<'_>) -> Result<(), Problem> {
    Flags::read(line, &[]).map(|_| ())
}

fn unknown(line: &Line<'_>, name: &str, known: &'static [(&'static str, Takes)], span: crate::source::Span) -> Problem {
    let problem = Problem::error("unknown-flag", format!("unknown flag --{name} for {}", line.name), span);
    let names = known.iter().map(|(name, _)| *name);
    if let Some(nearest) = suggest::nearest(name, names.clone()) {
        return problem.help(format!("did you mean `--{nearest}`?"));
    }
    if known.is_empty() {
        return problem.help(format!("{} has no flags; `--` before the arguments ends the flags", line.name));
    }
    problem.help(format!("{} has {}", line.name, names.map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ")))
}

/// Where the value stands: behind the first `=`, without a quote.
fn value_range(line: &Line<'_>, flag: &RawFlag) -> Range<usize> {
    let text = &line.logical.text[flag.range.clone()];
    let Some(equals) = text.find('=') else { return flag.range.clone() };
    let value = &text[equals + 1..];
    let quoted = value.len() >= 2 && value.starts_with(['"', '\'']) && value.ends_with(['"', '\'']) && !value[1..value.len() - 1].contains(is_blank);
    let start = flag.range.start + equals + 1;
    if quoted { start + 1..flag.range.end - 1 } else { start..flag.range.end }
}
