//! The file that is compiled, and problems at places in it.

use std::sync::Arc;

use builder_core::diagnostic::{Diagnostic, Severity as CoreSeverity};
use builder_core::graph::{SourceLocation, SourceText};

use crate::ast::{Dockerfile, Instruction};
use crate::diagnostic::{Problem, Severity};
use crate::lint;
use crate::parser;
use crate::source::{SourceFile, Span};

/// A parsed file.
#[derive(Debug)]
pub(crate) struct ParsedFile {
    pub(crate) source: SourceFile,
    pub(crate) text: Arc<SourceText>,
    pub(crate) dockerfile: Dockerfile,
    pub(crate) problems: Vec<Problem>,
    /// Whether what could not be understood leaves the meaning of all other instructions as it is.
    pub(crate) rest_is_sound: bool,
}

impl ParsedFile {
    pub(crate) fn parse(name: &str, text: &str) -> Self {
        let source = SourceFile::new(name, text);
        let parsed = parser::parse(&source);
        let text = Arc::new(SourceText { name: source.name.clone(), text: source.text.clone() });
        // Whoever misspells FROM, ARG or ENV would hear of stages and variables that are only missing because of that.
        let harmless = |unread: &Option<&str>| !matches!(unread, Some("FROM" | "ARG" | "ENV"));
        let all_local = parsed.problems.len() == parsed.unread.len();
        let rest_is_sound = all_local && parsed.unread.iter().all(harmless);
        Self { source, text, dockerfile: parsed.dockerfile, problems: parsed.problems, rest_is_sound }
    }

    /// The place of `span`, widened to the lines of `lines`.
    pub(crate) fn location(&self, span: Span, lines: Span) -> SourceLocation {
        let (first_line, last_line) = self.source.lines(lines);
        let range = span.range();
        SourceLocation { source: Arc::clone(&self.text), first_line, last_line, span: (!range.is_empty()).then_some(range) }
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
