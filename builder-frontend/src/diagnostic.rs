//! Problems found in a Dockerfile: code, message, span, advice. Collected, never thrown at the first one; rendered elsewhere.

use crate::expand::ExpandError;
use crate::source::Span;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The build can't go on.
    Error,
    /// A finding of the build checks.
    Warning,
    /// A finding beyond the checks that other builders have; it never fails anything.
    Note,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Stable code: kebab-case for errors (`unknown-instruction`), the rule's name for checks (`StageNameCasing`).
    pub code: &'static str,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// Where.
    pub span: Span,
    /// Text beside the underlined part.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// An error.
    pub fn error(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), span, label: None, help: None }
    }

    /// A warning.
    pub fn warning(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message, span) }
    }

    /// Advice.
    pub fn note(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Note, ..Self::error(code, message, span) }
    }

    /// A word that can't be expanded.
    #[must_use]
    pub fn expansion(error: &ExpandError, span: Span) -> Self {
        let problem = Self::error("bad-substitution", error.to_string(), span);
        match (&error.required, error.help) {
            (Some(name), _) => problem
                .label(format!("{name} is required here and has no value"))
                .help(format!("give it a value with ENV or ARG above, or declare it there with `ARG {name}` and pass --build-arg {name}=…")),
            (None, Some(help)) => problem.help(help),
            (None, None) => problem,
        }
    }

    /// With text beside the underlined part.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// With advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
