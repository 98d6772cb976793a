//! The file that is compiled, with what it includes, and problems at places in it.

use std::sync::Arc;

use builder_core::diagnostic::{Diagnostic, Severity as CoreSeverity};
use builder_core::graph::{SourceLocation, SourceText};

use crate::ast::{Dockerfile, Instruction};
use crate::diagnostic::{Problem, Severity};
use crate::include::Assembled;
use crate::lint;
use crate::parser;
use crate::source::Span;

/// A parsed file. Spans are places in the whole text, includes in their places.
#[derive(Debug)]
pub(crate) struct ParsedFile {
    pub(crate) whole: Assembled,
    /// The files of `whole`, in its order.
    pub(crate) texts: Vec<Arc<SourceText>>,
    pub(crate) dockerfile: Dockerfile,
    pub(crate) problems: Vec<Problem>,
    /// Whether what could not be understood leaves the meaning of all other instructions as it is.
    pub(crate) rest_is_sound: bool,
}

impl ParsedFile {
    pub(crate) fn parse(whole: Assembled) -> Self {
        let parsed = parser::parse(&whole.source);
        let text = |(index, file): (usize, &crate::include::AssembledFile)| {
            Arc::new(SourceText::new(file.source.name.clone(), file.source.text.clone()).included(whole.included_at(index)))
        };
        let texts = whole.files.iter().enumerate().map(text).collect();
        // Whoever misspells FROM, ARG or ENV would hear of stages and variables that are only missing because of that.
        let harmless = |unread: &Option<&str>| !matches!(unread, Some("FROM" | "ARG" | "ENV"));
        let all_local = parsed.problems.len() == parsed.unread.len();
        let rest_is_sound = whole.problems.is_empty() && all_local && parsed.unread.iter().all(harmless);
        let mut problems = parsed.problems;
        if !whole.problems.is_empty() {
            // What could not be included may hold the FROM that is missed.
            problems.retain(|problem| !matches!(problem.code, "no-stage" | "no-stages" | "no-instructions" | "empty-file"));
            problems.extend(whole.problems.iter().cloned());
            problems.sort_by_key(|problem| problem.span.start);
            // A heredoc without an end may have been found twice: in its file, and in the whole.
            problems.dedup();
        }
        Self { texts, dockerfile: parsed.dockerfile, problems, rest_is_sound, whole }
    }

    /// The place of `span`, widened to the lines of `lines`.
    pub(crate) fn location(&self, span: Span, lines: Span) -> SourceLocation {
        let (file, lines) = self.whole.place(lines);
        let (first_line, last_line) = self.whole.files[file].source.lines(lines);
        let span = match self.whole.place(span) {
            (other, span) if other == file => span.range(),
            _ => 0..0,
        };
        SourceLocation { source: Arc::clone(&self.texts[file]), first_line, last_line, span: (!span.is_empty()).then_some(span) }
    }

    /// A problem as a diagnostic; one without a place (an unknown target) has no location.
    pub(crate) fn diagnostic(&self, located: &Located) -> Diagnostic {
        let Located { problem, lines } = located;
        Diagnostic {
            severity: match problem.severity {
                Severity::Error => CoreSeverity::Error,
                Severity::Warning => CoreSeverity::Warning,
                Severity::Note => CoreSeverity::Note,
            },
            code: problem.code.to_owned(),
            message: problem.message.clone(),
            location: lines.map(|lines| self.location(problem.span, lines)),
            label: problem.label.clone(),
            help: problem.help.clone(),
            url: lint::rule(problem.code).and_then(lint::Rule::url),
        }
    }
}

/// A problem and the instruction whose lines are shown for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) problem: Problem,
    pub(crate) lines: Option<Span>,
}

impl Located {
    /// A problem that is shown with its own lines.
    pub(crate) fn own(problem: Problem) -> Self {
        let lines = Some(problem.span);
        Self { problem, lines }
    }

    /// A problem of no line.
    pub(crate) fn nowhere(problem: Problem) -> Self {
        Self { problem, lines: None }
    }
}

/// The place of an instruction: its own lines, or for a trigger those of the FROM that set it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The lines.
    pub(crate) lines: Span,
    /// Whether the instruction is a trigger, whose spans are places in another text.
    pub(crate) trigger: bool,
}

impl Place {
    /// An instruction of the file.
    pub(crate) fn of(instruction: &Instruction) -> Self {
        Self { lines: instruction.span, trigger: false }
    }

    /// A problem at this place: a trigger's spans mean nothing in the file.
    pub(crate) fn locate(self, mut problem: Problem) -> Located {
        if self.trigger || problem.span == Span::default() {
            problem.span = self.lines;
        }
        Located { problem, lines: Some(self.lines) }
    }
}
