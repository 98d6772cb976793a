//! Finding the comment lines of one file that ask for another one; heredocs and instructions are passed over.

use crate::ast::Comment;
use crate::diagnostic::Problem;
use crate::parser::Reader;
use crate::source::Span;
use crate::suggest;

/// What begins a comment that is meant for us.
pub(super) const PREFIX: &str = "rbuild:";

/// A comment that is meant for us.
pub(super) struct Marker {
    /// Its line, without its end.
    pub(super) line: std::ops::Range<usize>,
    /// The comment.
    pub(super) span: Span,
    /// The path in it, or the comment.
    pub(super) path: Span,
    pub(super) kind: MarkerKind,
}

pub(super) enum MarkerKind {
    /// The path as written.
    Include(String),
    /// Something like it.
    Misspelt,
    /// An include inside an instruction.
    Inside,
}

/// What a file asks for.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) markers: Vec<Marker>,
    /// That the text ends inside an instruction, if it does.
    pub(super) open_end: Option<Problem>,
}

impl Scan {
    /// Reads a text from `start` on.
    pub(super) fn of(text: &str, start: usize, escape: char) -> Self {
        let mut scan = Self::default();
        let mut reader = Reader::from(text, start, escape);
        while let Some(line) = reader.next_line() {
            scan.comments(text, &line.comments);
            scan.inside(text, line.span.range().start, reader.lexer().position());
            if line.unfinished {
                scan.open_end = Some(
                    Problem::error("include-unfinished", "an included file must end where an instruction ends", line.span)
                        .label("the file ends inside this one")
                        .help("remove the line continuation at its end"),
                );
            } else if !reader.skip_heredocs(&line) {
                scan.open_end = reader.problems.last().cloned();
            }
        }
        scan.comments(text, reader.lexer().trailing_comments());
        scan
    }

    fn comments(&mut self, text: &str, comments: &[Comment]) {
        self.markers.extend(comments.iter().filter_map(|comment| Marker::of(text, comment)));
    }

    /// Comment lines between the lines of an instruction.
    fn inside(&mut self, text: &str, start: usize, end: usize) {
        if !text[start..end].contains(PREFIX) {
            return;
        }
        let mut at = start;
        for line in text[start..end].split_inclusive('\n') {
            let trimmed = line.trim_start();
            if let Some(comment) = trimmed.strip_prefix('#') {
                let span = Span::new(at + line.len() - trimmed.len(), at + line.trim_end().len());
                let comment = Comment { text: comment.trim().to_owned(), span, followed_by_blank: false };
                self.markers.extend(Marker::of(text, &comment).map(|marker| Marker { kind: MarkerKind::Inside, ..marker }));
            }
            at += line.len();
        }
    }
}

impl Marker {
    fn of(text: &str, comment: &Comment) -> Option<Self> {
        let rest = comment.text.strip_prefix(PREFIX)?;
        let Span { start, end } = comment.span;
        let (start, end) = (start as usize, end as usize);
        let line = text[..start].rfind('\n').map_or(0, |at| at + 1)..end;
        let (word, written) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let marker = |kind, path| Some(Self { line: line.clone(), span: comment.span, path, kind });
        if word == "include" {
            let written = written.trim();
            let at = text[start..end].rfind(written).filter(|_| !written.is_empty()).map(|at| start + at);
            let path = at.map_or(comment.span, |at| Span::new(at, at + written.len()));
            return marker(MarkerKind::Include(written.to_owned()), path);
        }
        let is_near = suggest::nearest(word, ["include"]).is_some() || rest.trim_start().to_lowercase().starts_with("include");
        if is_near { marker(MarkerKind::Misspelt, comment.span) } else { None }
    }
}
