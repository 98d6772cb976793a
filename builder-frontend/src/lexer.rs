//! Physical lines to logical ones: comments dropped, continuations joined, the bodies of heredocs taken when the parser asks for them.
//!
//! A [`LogicalLine`] remembers for every byte of its joined text where it came from, so that problems point into the file and not into the joined line.
//! The lexer knows nothing of instructions. Its one quirk is the reference's: two escape characters at the end of a line continue nothing (A2.2).

use std::ops::Range;

use crate::ast::Comment;
use crate::source::Span;

/// Longest physical line in bytes, without its end (A0.2): the reference's limit, so that what builds here builds there.
pub const MAX_LINE_BYTES: usize = 65_535;

/// The byte order mark that is dropped from the first line.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// One instruction's text in one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogicalLine {
    /// Continuations joined, comments and line ends dropped, leading blanks of the first line dropped.
    pub text: String,
    /// From the first byte of the text to its last, without the line end.
    pub span: Span,
    /// The comments above.
    pub comments: Vec<Comment>,
    /// The first blank line inside.
    pub blank_continuation: Option<Span>,
    /// Whether the text ended where the line was to be continued.
    pub unfinished: bool,
    /// Which byte of the text begins a piece, and where the piece begins in the file. Both ascend.
    pieces: Vec<(usize, usize)>,
}

impl LogicalLine {
    /// A line that is the whole of a text, byte for byte.
    #[must_use]
    pub fn verbatim(text: &str) -> Self {
        Self { text: text.to_owned(), span: Span::new(0, text.len()), pieces: vec![(0, 0)], ..Self::default() }
    }

    /// Where a part of the text stands in the file. An empty part at a seam stands behind what precedes it.
    #[must_use]
    pub fn span_of(&self, range: Range<usize>) -> Span {
        let start = self.source_of(range.start);
        if range.is_empty() {
            return Span::new(start, start);
        }
        Span::new(start, self.source_of(range.end - 1) + 1)
    }

    fn source_of(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|&(begins, _)| begins <= at).saturating_sub(1);
        self.pieces.get(piece).map_or(at, |&(begins, source)| source + (at - begins))
    }
}

/// A heredoc's lines up to its terminator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The lines with their ends, as written.
    pub raw: String,
    /// Where they stand.
    pub span: Span,
    /// One past the last byte of the terminator, without its line end.
    pub end: usize,
    /// Whether the terminator was found.
    pub terminated: bool,
}

/// Walks a text once from its beginning to its end.
#[derive(Debug)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    comments: Vec<Comment>,
    long_lines: Vec<Span>,
}

/// A physical line: its content without its end, and where it begins.
#[derive(Debug, Clone, Copy)]
struct PhysicalLine<'a> {
    content: &'a str,
    start: usize,
    /// With the line end.
    whole: &'a str,
}

impl PhysicalLine<'_> {
    fn span(&self) -> Span {
        Span::new(self.start, self.start + self.content.len())
    }
}

impl<'a> Lexer<'a> {
    /// From `at` on, where the directives end.
    #[must_use]
    pub fn new(text: &'a str, at: usize, escape: char) -> Self {
        Self { text, at, escape, comments: Vec::new(), long_lines: Vec::new() }
    }

    /// The physical lines met so far that are longer than [`MAX_LINE_BYTES`].
    #[must_use]
    pub fn long_lines(&self) -> &[Span] {
        &self.long_lines
    }

    /// The next instruction's text, or `None` at the end of the file.
    pub fn next_line(&mut self) -> Option<LogicalLine> {
        let mut line = loop {
            let physical = self.physical()?;
            let trimmed = physical.content.trim_start();
            let start = physical.start + (physical.content.len() - trimmed.len());
            if trimmed.is_empty() {
                if let Some(last) = self.comments.last_mut() {
                    last.followed_by_blank = true;
                }
            } else if let Some(comment) = trimmed.strip_prefix('#') {
                let span = Span::new(start, physical.start + physical.content.len());
                self.comments.push(Comment { text: comment.trim().to_owned(), span, followed_by_blank: false });
            } else {
                let (text, continued) = self.strip_continuation(trimmed);
                let mut line = LogicalLine {
                    text: text.to_owned(),
                    span: Span::new(start, start + text.len()),
                    comments: std::mem::take(&mut self.comments),
                    blank_continuation: None,
                    unfinished: continued,
                    pieces: vec![(0, start)],
                };
                if !continued {
                    return Some(line);
                }
                line.span.end = line.span.end.max(Span::new(0, start + 1).end);
                break line;
            }
        };
        while let Some(physical) = self.physical() {
            let trimmed = physical.content.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                line.blank_continuation.get_or_insert(physical.span());
                continue;
            }
            let (text, continued) = self.strip_continuation(physical.content);
            line.pieces.push((line.text.len(), physical.start));
            line.text.push_str(text);
            line.span = line.span.to(Span::new(physical.start, physical.start + text.len()));
            if !continued {
                line.unfinished = false;
                break;
            }
        }
        Some(line)
    }

    /// Where reading goes on: behind everything that was returned.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Takes lines up to one that is exactly `name`; with `strip_tabs` the terminator may be indented with tabs.
    pub fn heredoc_body(&mut self, name: &str, strip_tabs: bool) -> Body {
        let start = self.at;
        while let Some(physical) = self.physical() {
            let candidate = if strip_tabs { physical.content.trim_start_matches('\t') } else { physical.content };
            if candidate == name {
                let end = physical.start + physical.content.len();
                return Body { raw: self.text[start..physical.start].to_owned(), span: Span::new(start, physical.start), end, terminated: true };
            }
        }
        let raw = self.text[start..self.at].to_owned();
        Body { span: Span::new(start, self.at), end: start + raw.trim_end().len(), raw, terminated: false }
    }

    /// Whether blanks stand before a span on its line.
    #[must_use]
    pub fn is_indented(&self, span: Span) -> bool {
        self.text[..span.range().start].ends_with([' ', '\t'])
    }

    /// Comments that no instruction followed.
    #[must_use]
    pub fn trailing_comments(&self) -> &[Comment] {
        &self.comments
    }

    fn physical(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let whole = rest.find('\n').map_or(rest, |end| &rest[..=end]);
        let line = PhysicalLine { content: whole.trim_end_matches(['\r', '\n']), start: self.at, whole };
        self.at += line.whole.len();
        if line.content.len() > MAX_LINE_BYTES {
            self.long_lines.push(line.span());
        }
        Some(line)
    }

    /// The text before a continuation, and whether there is one: the escape, blanks, end of line; the escape not itself escaped.
    fn strip_continuation<'t>(&self, text: &'t str) -> (&'t str, bool) {
        let Some(before) = text.trim_end_matches([' ', '\t']).strip_suffix(self.escape) else { return (text, false) };
        if before.ends_with(self.escape) { (text, false) } else { (before, true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let mut lexer = Lexer::new(text, 0, '\\');
        std::iter::from_fn(|| lexer.next_line()).map(|line| line.text).collect()
    }

    #[test]
    fn a2_2_continuation() {
        let table: &[(&str, &[&str])] = &[
            ("a \\\n  b\nc", &["a   b", "c"]),
            ("a\\  \t\n b", &["a b"]),
            ("a\\\\\nb", &["a\\\\", "b"]),
            ("a\\\\\\\nb", &["a\\\\\\", "b"]),
            ("a \\\n# no\n   # nor this\n b", &["a  b"]),
            ("a \\\n\n \t\n b", &["a  b"]),
            ("a \\", &["a "]),
            ("\\\n a", &[" a"]),
            ("  \ta \r\n", &["a "]),
            ("# only\n\n", &[]),
            ("a # b", &["a # b"]),
        ];
        for (text, wanted) in table {
            assert_eq!(lines(text), *wanted, "{text:?}");
        }
    }

    #[test]
    fn places_survive_joining() {
        let text = "  RUN one \\\n# c\n\ttwo";
        let mut lexer = Lexer::new(text, 0, '\\');
        let line = lexer.next_line().expect("there is one line");
        assert_eq!(line.text, "RUN one \ttwo");
        let at = line.text.find("two").expect("it is there");
        assert_eq!(&text[line.span_of(at..at + 3).range()], "two");
        assert_eq!(&text[line.span.range()], "RUN one \\\n# c\n\ttwo");
    }

    #[test]
    fn a2_4_comments_keep_their_distance() {
        let mut lexer = Lexer::new("# a\n\n#  b \nFROM x", 0, '\\');
        let line = lexer.next_line().expect("there is one line");
        let seen: Vec<_> = line.comments.iter().map(|c| (c.text.as_str(), c.followed_by_blank)).collect();
        assert_eq!(seen, [("a", true), ("b", false)]);
    }

    #[test]
    fn a3_3_terminators() {
        let table = [
            ("x\nE\n", false, "x\n", true),
            (" E\nE \nE", false, " E\nE \n", true),
            ("\tx\n\tE\nrest", true, "\tx\n", true),
            ("x\r\nE\r\n", false, "x\r\n", true),
            ("x\n", false, "x\n", false),
            ("", false, "", false),
        ];
        for (text, tabs, body, terminated) in table {
            let found = Lexer::new(text, 0, '\\').heredoc_body("E", tabs);
            assert_eq!((found.raw.as_str(), found.terminated), (body, terminated), "{text:?}");
        }
    }
}
