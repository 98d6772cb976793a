//! Heredoc words: finding them in a line, and reading one (`features.md` A3.2 to A3.4).
//!
//! The words of a line are found as the reference finds them: quotes and backslashes hold a word together, `<<` takes the blanks behind it into its
//! word, and a line whose quotes don't close has no heredocs at all. The escape is a backslash here whatever the directive says.

use std::ops::Range;

use crate::ast::Heredoc;
use crate::source::Span;

/// Most heredocs of one instruction; far more than anyone writes.
pub(crate) const MAX_HEREDOCS: usize = 1_000;

/// A heredoc word: what is known before its body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) fd: Option<u32>,
    pub(crate) expand: bool,
    pub(crate) strip_tabs: bool,
    pub(crate) range: Range<usize>,
}

impl Opening {
    /// With its body.
    pub(crate) fn with_body(self, raw: &str, word: &str, span: Span, body_span: Span) -> Heredoc {
        let stripped = self.strip_tabs.then(|| strip_tabs(raw));
        let (body, unstripped) = stripped.map_or_else(|| (raw.to_owned(), None), |body| (body, Some(raw.to_owned())));
        Heredoc { name: self.name, raw: word.to_owned(), fd: self.fd, expand: self.expand, chomp: self.strip_tabs, body, unstripped, span, body_span }
    }
}

/// The heredoc words of a line, in order.
pub(crate) fn find(text: &str, offset: usize) -> Vec<Opening> {
    if !text.contains("<<") {
        return Vec::new();
    }
    let Some(words) = words(text) else { return Vec::new() };
    let openings = words.into_iter().filter_map(|range| {
        let opening = read(&text[range.clone()])?;
        Some(Opening { range: range.start + offset..range.end + offset, ..opening })
    });
    openings.take(MAX_HEREDOCS).collect()
}

/// Reads one word as `[digits]<<[-][blanks]delimiter`.
pub(crate) fn read(word: &str) -> Option<Opening> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start_matches([' ', '\t', '\r', '\n', '\x0c']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    if words(rest)?.len() != 1 {
        return None;
    }
    let name = unquote(rest);
    if name.is_empty() {
        return None;
    }
    let quotes = |text: &str| text.chars().filter(|c| matches!(c, '\'' | '"')).count();
    let expand = quotes(&name) == quotes(rest);
    let fd = if digits == 0 { None } else { word[..digits].parse().ok() };
    Some(Opening { name, fd, expand, strip_tabs, range: 0..word.len() })
}

/// Ranges of the words, quotes and escapes kept; `None` if a quote does not close.
fn words(text: &str) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut start: Option<usize> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' | '"' => {
                start.get_or_insert(at);
                loop {
                    let (_, inner) = chars.next()?;
                    if inner == c {
                        break;
                    }
                    if inner == '\\' && c == '"' && chars.peek().is_some_and(|&(_, next)| matches!(next, '"' | '$' | '\\')) {
                        chars.next();
                    }
                }
            }
            '\\' => {
                start.get_or_insert(at);
                chars.next();
            }
            '<' => {
                start.get_or_insert(at);
                if chars.next_if(|&(_, next)| next == '<').is_some() {
                    while chars.next_if(|&(_, next)| matches!(next, ' ' | '\t' | '\r')).is_some() {}
                }
            }
            c if c.is_whitespace() => {
                if let Some(begin) = start.take() {
                    found.push(begin..at);
                }
            }
            _ => {
                start.get_or_insert(at);
            }
        }
    }
    if let Some(begin) = start {
        found.push(begin..text.len());
    }
    Some(found)
}

fn unquote(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut chars = word.chars().peekable();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '\\') => out.extend(chars.next()),
            (Some('"'), '\\') => out.push(chars.next_if(|next| matches!(next, '"' | '$' | '\\')).unwrap_or('\\')),
            _ => out.push(c),
        }
    }
    out
}

/// Without the tabs at the beginning of each line.
fn strip_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a3_2_words() {
        let table: &[(&str, &[&str])] = &[
            ("RUN <<EOF", &["EOF"]),
            ("RUN <<-EOF", &["EOF"]),
            ("RUN << EOF", &["EOF"]),
            ("RUN <<- EOF", &[]),
            ("RUN 4<<EOF", &["EOF"]),
            ("RUN <<EOF <<EOF2", &["EOF", "EOF2"]),
            ("RUN <<'E F'", &["E F"]),
            ("RUN <<A\"B\"", &["AB"]),
            ("RUN <<$X", &["$X"]),
            ("RUN '<<EOF'", &[]),
            ("RUN \"<<EOF\"", &[]),
            ("RUN <<<EOF", &[]),
            ("RUN cat<<EOF", &[]),
            ("RUN echo it's <<EOF", &[]),
            ("RUN <<", &[]),
            ("RUN cat <<A > /one && cat <<-B > /two", &["A", "B"]),
        ];
        for (line, names) in table {
            let found: Vec<String> = find(line, 0).into_iter().map(|opening| opening.name).collect();
            assert_eq!(found, *names, "{line}");
        }
    }

    #[test]
    fn a3_4_quotes_anywhere_stop_expansion() {
        for (word, expand) in [("<<E", true), ("<<'E'", false), ("<<\"E\"", false), ("<<'part'ly", false), ("<<-E", true)] {
            assert_eq!(read(word).map(|opening| opening.expand), Some(expand), "{word}");
        }
    }

    #[test]
    fn a3_3_tabs_go_blanks_stay() {
        assert_eq!(strip_tabs("\t\tone\n\t two\nthree"), "one\n two\nthree");
    }
}
