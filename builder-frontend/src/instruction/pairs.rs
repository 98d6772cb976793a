//! ENV, LABEL and ARG: names and values (`features.md` A7).

use crate::ast::{ArgDeclaration, InstructionKind, KeyValue, Word};
use crate::diagnostic::Problem;
use crate::source::{Span, Spanned};

use super::{Line, flags, words};

pub(super) fn env(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    Ok(InstructionKind::Env(key_values(line, "ENV NAME=value")?))
}

pub(super) fn label(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    Ok(InstructionKind::Label(key_values(line, "LABEL name=value")?))
}

pub(super) fn arg(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    let words = words::quoted(line);
    if words.is_empty() {
        return Err(line.missing("missing-argument", "at least one argument", "ARG NAME=default"));
    }
    let declarations = words.into_iter().map(|word| match split(&word) {
        Some((name, _)) if name.value.is_empty() => Err(blank_name(line, word.span)),
        Some((name, default)) => Ok(ArgDeclaration { name, default: Some(default) }),
        None => Ok(ArgDeclaration { name: word, default: None }),
    });
    Ok(InstructionKind::Arg(declarations.collect::<Result<_, _>>()?))
}

/// `k=v` words, or the legacy form `k rest of the line`: the first word decides.
fn key_values(line: &Line<'_>, example: &str) -> Result<Vec<KeyValue>, Problem> {
    flags::none(line)?;
    let words = words::quoted(line);
    let Some(first) = words.first() else {
        return Err(line.missing("missing-argument", "at least one argument", example));
    };
    if !first.value.contains('=') {
        return legacy(line, example).map(|pair| vec![pair]);
    }
    let pairs = words.iter().enumerate().map(|(at, word)| match split(word) {
        Some((key, _)) if key.value.is_empty() => Err(blank_name(line, word.span)),
        Some((key, value)) => Ok(KeyValue { key, value, legacy: false }),
        None => {
            let next = words.get(at + 1).map_or("", |next| &next.value);
            Err(Problem::error("missing-equals", format!("no `=` in {:?}", word.value), word.span).label("expected NAME=value").help(
                if next.starts_with('=') { "write NAME=value without blanks around `=`" } else { "put quotes around a value that holds blanks" },
            ))
        }
    });
    pairs.collect()
}

fn legacy(line: &Line<'_>, example: &str) -> Result<KeyValue, Problem> {
    let text = line.text();
    let missing = || line.missing("missing-argument", "a name and a value", example);
    let end = text.find(words::is_blank).ok_or_else(missing)?;
    let value = &text[end..];
    let value_at = line.args.start + end + (value.len() - value.trim_start_matches(words::is_blank).len());
    Ok(KeyValue { key: line.word(line.args.start..line.args.start + end), value: line.word(value_at..line.args.end), legacy: true })
}

/// At the first `=`.
fn split(word: &Word) -> Option<(Word, Word)> {
    let (name, value) = word.value.split_once('=')?;
    let (start, end) = (word.span.start as usize, word.span.end as usize);
    // Where escapes at a line's end or a continuation make the text shorter than its span, the whole span stands for both parts.
    let exact = end - start == word.value.len();
    let name_span = if exact { Span::new(start, start + name.len()) } else { word.span };
    let value_span = if exact { Span::new(start + name.len() + 1, end) } else { word.span };
    Some((Spanned::new(name.to_owned(), name_span), Spanned::new(value.to_owned(), value_span)))
}

fn blank_name(line: &Line<'_>, span: Span) -> Problem {
    Problem::error("blank-name", format!("a name in {} can't be empty", line.name), span).help("write NAME=value without blanks around `=`")
}
