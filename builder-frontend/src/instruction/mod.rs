//! One instruction: keyword, flags, arguments, and the family that understands them.
//!
//! Everything works on ranges of the joined line, so that whatever is said about a word can point at it. Families are pure functions from a [`Line`] to
//! an [`InstructionKind`] or one [`Problem`].

mod command;
mod copy;
pub(crate) mod csv;
pub(crate) mod duration;
mod flags;
mod from;
mod healthcheck;
pub(crate) mod json;
mod metadata;
mod onbuild;
pub(crate) mod pairs;
mod run;
pub(crate) mod words;

use std::ops::Range;

use crate::ast::{Heredoc, InstructionKind, Word};
use crate::diagnostic::Problem;
use crate::lexer::LogicalLine;
use crate::source::{Span, Spanned};
use crate::suggest;

pub(crate) use flags::RawFlag;

/// Every keyword (A0.9).
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A line's parts, whatever its keyword is.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) keyword: Range<usize>,
    pub(crate) flags: Vec<RawFlag>,
    /// What follows the flags, without blanks around.
    pub(crate) args: Range<usize>,
}

/// Cuts `range` of a line into keyword, flags and arguments.
pub(crate) fn parts(line: &str, range: Range<usize>) -> Parts {
    let text = &line[range.clone()];
    let begin = range.start + (text.len() - text.trim_start().len());
    let end = begin + text.trim().len();
    let keyword = begin..line[begin..end].find(words::is_blank).map_or(end, |length| begin + length);
    let (flags, rest) = flags::cut(line, keyword.end..end);
    let args = words::trim(line, rest);
    Parts { keyword, flags, args }
}

/// The keyword in capitals, if there is such an instruction.
pub(crate) fn keyword_named(written: &str) -> Option<&'static str> {
    KEYWORDS.into_iter().find(|name| name.eq_ignore_ascii_case(written))
}

/// An instruction's line, cut but not understood.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) logical: &'a LogicalLine,
    /// The keyword in capitals, if there is such an instruction.
    pub(crate) name: &'static str,
    /// The keyword as written.
    pub(crate) keyword: Range<usize>,
    pub(crate) flags: Vec<RawFlag>,
    /// What follows the flags, without blanks around.
    pub(crate) args: Range<usize>,
    pub(crate) escape: char,
    pub(crate) heredocs: &'a [Heredoc],
}

impl<'a> Line<'a> {
    /// Cuts `range` of a line into keyword, flags and arguments.
    pub(crate) fn cut(logical: &'a LogicalLine, range: Range<usize>, escape: char) -> Result<Self, UnknownKeyword> {
        let Parts { keyword, flags, args } = parts(&logical.text, range);
        let written = &logical.text[keyword.clone()];
        let Some(name) = keyword_named(written) else {
            return Err(UnknownKeyword { nearest: suggest::nearest(written, KEYWORDS), keyword });
        };
        Ok(Self { logical, name, keyword, flags, args, escape, heredocs: &[] })
    }

    /// The arguments' text.
    pub(crate) fn text(&self) -> &'a str {
        &self.logical.text[self.args.clone()]
    }

    /// A part of the line as a word.
    pub(crate) fn word(&self, range: Range<usize>) -> Word {
        Spanned::new(self.logical.text[range.clone()].to_owned(), self.logical.span_of(range))
    }

    pub(crate) fn span_of(&self, range: Range<usize>) -> Span {
        self.logical.span_of(range)
    }

    /// The arguments, or the keyword if there are none: where to point.
    pub(crate) fn args_span(&self) -> Span {
        self.span_of(if self.args.is_empty() { self.keyword.clone() } else { self.args.clone() })
    }

    /// The instruction that may hold heredocs: itself, or a trigger's own.
    pub(crate) fn heredoc_range(&self) -> Option<Range<usize>> {
        match self.name {
            "RUN" | "COPY" | "ADD" if !json::is_string_array(self.text()) => Some(self.keyword.start..self.args.end),
            "ONBUILD" => {
                let inner = Self::cut(self.logical, self.args.clone(), self.escape).ok()?;
                if inner.name == "ONBUILD" { None } else { inner.heredoc_range() }
            }
            _ => None,
        }
    }

    fn missing(&self, code: &'static str, needs: &str, example: &str) -> Problem {
        Problem::error(code, format!("{} needs {needs}", self.name), self.args_span()).help(format!("write for example `{example}`"))
    }
}

/// A word that is no instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownKeyword {
    pub(crate) keyword: Range<usize>,
    pub(crate) nearest: Option<&'static str>,
}

impl UnknownKeyword {
    pub(crate) fn problem(&self, logical: &LogicalLine) -> Problem {
        let written = &logical.text[self.keyword.clone()];
        let span = logical.span_of(self.keyword.clone());
        if written.is_empty() {
            return Problem::error("unknown-instruction", "a line continuation with nothing to continue", logical.span).help("remove it");
        }
        let problem = Problem::error("unknown-instruction", format!("unknown instruction `{written}`"), span).label("not an instruction");
        match self.nearest {
            Some(nearest) => problem.help(format!("did you mean `{nearest}`?")),
            None => problem.help(format!("instructions are {}", KEYWORDS.join(", "))),
        }
    }
}

/// Understands a cut line.
pub(crate) fn parse(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    match line.name {
        "ADD" => copy::add(line),
        "ARG" => pairs::arg(line),
        "CMD" => command::cmd(line),
        "COPY" => copy::copy(line),
        "ENTRYPOINT" => command::entrypoint(line),
        "ENV" => pairs::env(line),
        "EXPOSE" => metadata::expose(line),
        "FROM" => from::from(line),
        "HEALTHCHECK" => healthcheck::healthcheck(line),
        "LABEL" => pairs::label(line),
        "MAINTAINER" => metadata::maintainer(line),
        "ONBUILD" => onbuild::onbuild(line),
        "RUN" => run::run(line),
        "SHELL" => command::shell(line),
        "STOPSIGNAL" => metadata::stopsignal(line),
        "USER" => metadata::user(line),
        "VOLUME" => metadata::volume(line),
        _ => metadata::workdir(line),
    }
}
