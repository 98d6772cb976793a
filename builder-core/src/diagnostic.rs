//! Problems of a build definition, as values: what, where, why, what to do. Rendering is the caller's.

use crate::graph::SourceLocation;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Stable code: `unknown-stage`, or the name of a check (`StageNameCasing`).
    pub code: String,
    /// One sentence fragment.
    pub message: String,
    /// Where; the span is underlined.
    pub location: Option<SourceLocation>,
    /// Beside the underlined part.
    pub label: Option<String>,
    /// What to do ("did you mean `builder`?").
    pub help: Option<String>,
    /// Page about it, for checks.
    pub url: Option<String>,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The build can't go on.
    Error,
    /// It can.
    Warning,
    /// It can, and nothing that scripts look at changes: advice beyond what other builders check.
    Note,
}
