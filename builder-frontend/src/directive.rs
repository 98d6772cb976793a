//! Parser directives: `# name=value` lines at the very top (`features.md` A1).
//!
//! Two readers look at the top of a file and differ on purpose, as the reference's do: the parser wants an unbroken run of known directives and allows
//! blanks before `#`; the detection of `syntax` and `check` does not, but skips a `#!` line and also reads `//` comments and JSON (A1.5).

use crate::ast::{Directives, Word};
use crate::diagnostic::Problem;
use crate::lexer::BYTE_ORDER_MARK;
use crate::source::{Span, Spanned};

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// What the top of a file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// The directives.
    pub directives: Directives,
    /// Where the first line begins that is no directive.
    pub end: usize,
    /// Where `escape` is set, if it is.
    pub escape_span: Option<Span>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Reads the directives at the top of a file.
#[must_use]
pub fn read(text: &str) -> Top {
    let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
    let mut top = Top { end: start, ..Top::default() };
    let mut seen: Vec<(&str, Span)> = Vec::new();
    let mut twice: Vec<&str> = Vec::new();
    for ((at, line), number) in lines(text, start).zip(1_usize..) {
        let trimmed = line.trim_start();
        let begin = at + (line.len() - trimmed.len());
        let Some((name, value)) = trimmed.strip_prefix('#').and_then(|rest| directive(rest, begin + 1)) else { break };
        let span = Span::new(begin, begin + trimmed.trim_end().len());
        top.end = (at + line.len() + 1).min(text.len());
        if let Some(&(_, first)) = seen.iter().find(|(known, _)| *known == name) {
            if !twice.contains(&name) {
                twice.push(name);
                let message = format!("only one `{name}` directive can be used");
                let label = format!("set here, and again on line {number}");
                top.problems.push(Problem::error("duplicate-directive", message, first).label(label).help("remove one of them"));
            }
            continue;
        }
        seen.push((name, span));
        if name == "escape" {
            top.escape_span = Some(value.span);
            match value.value.as_str() {
                "\\" => top.directives.escape = '\\',
                "`" => top.directives.escape = '`',
                other => top.problems.push(
                    Problem::error("invalid-escape", format!("the escape character can't be {other:?}"), value.span)
                        .label("neither ` nor \\")
                        .help("write `# escape=\\` or `# escape=``"),
                ),
            }
        }
    }
    top.directives.syntax = detect_syntax(text);
    top.directives.check = detect("check", "#", text);
    top
}

/// The `syntax` of a text in any of the forms of A1.5: the whole value; its first word names the frontend.
#[must_use]
pub fn detect_syntax(text: &str) -> Option<Word> {
    detect("syntax", "#", text).or_else(|| detect("syntax", "//", text)).or_else(|| syntax_in_json(text))
}

fn detect(wanted: &str, comment: &str, text: &str) -> Option<Word> {
    let mut seen: Vec<&str> = Vec::new();
    for (at, line) in lines(text, after_shebang(text)) {
        let (name, value) = line.strip_prefix(comment).and_then(|rest| directive(rest, at + comment.len()))?;
        if seen.contains(&name) {
            return None;
        }
        if name == wanted {
            return Some(value);
        }
        seen.push(name);
    }
    None
}

fn syntax_in_json(text: &str) -> Option<Word> {
    let start = after_shebang(text);
    let rest = text.get(start..)?;
    if !rest.trim_start().starts_with('{') {
        return None;
    }
    let document: serde_json::Value = serde_json::from_str(rest).ok()?;
    let value = document.get("syntax")?.as_str()?;
    Some(Spanned::new(value.to_owned(), Span::new(start, start + rest.lines().next().map_or(0, str::len))))
}

fn after_shebang(text: &str) -> usize {
    let start = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
    let rest = &text[start..];
    if rest.starts_with("#!") { rest.find('\n').map_or(text.len(), |end| start + end + 1) } else { start }
}

/// Lines and where they begin, without their `\n`.
fn lines(text: &str, start: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut at = start;
    text[start..].split_inclusive('\n').map(move |line| {
        let begin = at;
        at += line.len();
        (begin, line.strip_suffix('\n').unwrap_or(line))
    })
}

/// `name = value` of a known directive, behind the comment marker.
fn directive(rest: &str, at: usize) -> Option<(&'static str, Word)> {
    let (name, value) = rest.split_once('=')?;
    let trimmed = name.trim();
    let name = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(trimmed))?;
    let value_at = at + rest.len() - value.len();
    let text = value.trim();
    if text.is_empty() {
        return None;
    }
    let begin = value_at + (value.len() - value.trim_start().len());
    Some((name, Spanned::new(text.to_owned(), Span::new(begin, begin + text.len()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_2_the_run_at_the_top() {
        let table = [
            ("# escape=`\nFROM x", '`'),
            ("#   EsCaPe   =   `   \n", '`'),
            ("\t# escape=`", '`'),
            ("\u{feff}#escape=`\r\n", '`'),
            ("\n# escape=`", '\\'),
            ("# hello\n# escape=`", '\\'),
            ("# colour=blue\n# escape=`", '\\'),
            ("# syntax=x\n# escape=`", '`'),
            ("# escape=\\", '\\'),
            ("FROM x\n# escape=`", '\\'),
            ("# escape=\n", '\\'),
        ];
        for (text, escape) in table {
            let top = read(text);
            assert_eq!((top.directives.escape, top.problems.len()), (escape, 0), "{text:?}");
        }
    }

    #[test]
    fn a1_3_twice_is_an_error() {
        let top = read("# escape=`\n# escape=`\n");
        insta::assert_snapshot!(format!("{:?} {}: {:?}", top.problems[0].span, top.problems[0].message, top.problems[0].label), @r#"Span { start: 0, end: 10 } only one `escape` directive can be used: Some("set here, and again on line 2")"#);
    }

    #[test]
    fn a1_4_bad_escape() {
        let top = read("# escape=x\nFROM y");
        assert_eq!(top.problems[0].code, "invalid-escape");
        assert_eq!(top.directives.escape, '\\');
    }

    #[test]
    fn a1_5_detection_of_syntax() {
        let table = [
            ("# syntax=docker/dockerfile:1  # why\nFROM x", Some("docker/dockerfile:1  # why")),
            ("#!/usr/bin/x\n#syntax=a b", Some("a b")),
            ("// syntax=c\n", Some("c")),
            ("{\"syntax\": \"d\", \"x\": [1]}", Some("d")),
            ("  # syntax=e", None),
            ("# note\n# syntax=f", None),
            ("# escape=`\n# syntax=g", Some("g")),
            ("# SYNTAX = h\r\n", Some("h")),
            ("", None),
        ];
        for (text, syntax) in table {
            assert_eq!(detect_syntax(text).map(|word| word.value).as_deref(), syntax, "{text:?}");
        }
    }

    #[test]
    fn a1_8_check_is_found_with_its_place() {
        let text = "# check=skip=all;error=true\nFROM x";
        let check = read(text).directives.check.expect("it is there");
        assert_eq!(&text[check.span.range()], "skip=all;error=true");
    }
}
