//! Problems for programs: `--diagnostics json` and `--diagnostics sarif`.
//!
//! JSON is one object on one line. `version` grows when a field changes its meaning or goes; new fields may come at any time:
//!
//! ```json
//! {"version": 1, "status": "failed", "diagnostics": [{"severity": "error", "code": "unknown-instruction", "message": "…", "file": "Dockerfile",
//!   "line": 3, "column": 1, "endLine": 3, "endColumn": 6, "label": "…", "help": "…", "url": null}],
//!  "step": {"name": "[2/3] RUN make", "exitCode": 2, "process": "/bin/sh -c make", "log": "/path/of/the/whole/log", "tail": ["last", "lines"]}}
//! ```
//!
//! A problem in a file that `# rbuild:include` brought has `"includedAt": ["NAME:LINE"]` as well, innermost first.
//! Columns count characters from 1; the end is one past the last character. SARIF is version 2.1.0, for code hosts and editors.

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::error::{BuildError, StepError};
use builder_core::graph::SourceLocation;
use builder_frontend::lint;
use builder_frontend::source::{SourceFile, Span};
use serde_json::{Value, json};

use super::step;
use crate::exit_code::ExitCode;
use crate::progress::clean;

/// Which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object on one line.
    Json,
    /// SARIF 2.1.0.
    Sarif,
}

/// Lines of a failed step's output that are repeated.
const TAIL_LINES: usize = 20;

/// Everything there is to say about a run.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    diagnostics: Vec<Diagnostic>,
    step: Option<Value>,
    status: &'static str,
}

impl Findings {
    /// Of a build that went well, or a check.
    pub(crate) fn of(diagnostics: &[Diagnostic], code: ExitCode) -> Self {
        let status = if code == ExitCode::Success { "ok" } else { "failed" };
        Self { diagnostics: diagnostics.to_vec(), step: None, status }
    }

    /// Of a command line that makes no sense, or files that can't be read.
    pub(crate) fn of_usage(error: &anyhow::Error) -> Self {
        Self { diagnostics: vec![plain("usage", super::clean_lines(&format!("{error:#}")))], step: None, status: "failed" }
    }

    /// Of a build that failed.
    pub(crate) fn of_failure(error: &BuildError, warnings: &[Diagnostic]) -> Self {
        let mut step = None;
        let mut diagnostics = match error {
            BuildError::Definition(diagnostics) => diagnostics.clone(),
            BuildError::Step { name, location, log_tail, log_path, cause } => {
                let (process, code) = match cause {
                    StepError::ExitCode { process, code } => (json!(process), json!(code)),
                    _ => (Value::Null, Value::Null),
                };
                let lines: Vec<String> = log_tail.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(clean::line).collect();
                let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
                step = Some(json!({"name": clean::text(name), "exitCode": code, "process": process, "log": log_path, "tail": tail}));
                vec![step::diagnostic(location.as_ref(), cause)]
            }
            BuildError::Cancelled => vec![plain("cancelled", error.to_string())],
            BuildError::Export(_) => vec![plain("export", super::clean_lines(&error.to_string()))],
            BuildError::Store(_) => vec![plain("store", super::clean_lines(&error.to_string()))],
            BuildError::Machine { help, .. } => {
                vec![Diagnostic { help: Some(super::clean_lines(help)), ..plain("machine", super::clean_lines(&error.to_string())) }]
            }
            BuildError::Internal(_) => vec![plain("internal", super::clean_lines(&error.to_string()))],
        };
        for warning in warnings {
            if !diagnostics.contains(warning) {
                diagnostics.push(warning.clone());
            }
        }
        Self { diagnostics, step, status: "failed" }
    }

    /// Written in a form.
    pub(crate) fn render(&self, format: Format) -> String {
        match format {
            Format::Json => {
                let diagnostics: Vec<Value> = self.diagnostics.iter().map(to_json).collect();
                format!("{}\n", json!({"version": 1, "status": self.status, "diagnostics": diagnostics, "step": self.step}))
            }
            Format::Sarif => format!("{:#}\n", self.sarif()),
        }
    }

    fn sarif(&self) -> Value {
        let mut codes: Vec<&str> = self.diagnostics.iter().map(|found| found.code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        let rules: Vec<Value> = codes
            .iter()
            .map(|code| match lint::rule(code) {
                Some(rule) => match rule.url() {
                    Some(url) => json!({"id": code, "shortDescription": {"text": rule.description}, "helpUri": url}),
                    None => json!({"id": code, "shortDescription": {"text": rule.description}}),
                },
                None => json!({"id": code}),
            })
            .collect();
        let results: Vec<Value> = self.diagnostics.iter().map(|found| to_sarif(found, &codes)).collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {"name": "rbuild", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }],
        })
    }
}

fn plain(code: &str, message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Error, code: code.to_owned(), message, location: None, label: None, help: None, url: None }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// First line and column, last line and the column behind it.
struct Place {
    start: (u32, u32),
    end: (u32, u32),
}

fn place(location: &SourceLocation) -> Place {
    let source = SourceFile::new(location.source.name.clone(), location.source.text.clone());
    match &location.span {
        Some(span) => {
            let span = Span::new(span.start, span.end);
            Place { start: source.line_column(span.start), end: source.line_column(span.end) }
        }
        None => {
            let last = location.last_line.max(location.first_line);
            let length = source.text.lines().nth(last.saturating_sub(1) as usize).map_or(0, |line| line.chars().count());
            Place { start: (location.first_line, 1), end: (last, u32::try_from(length + 1).unwrap_or(u32::MAX)) }
        }
    }
}

fn to_json(found: &Diagnostic) -> Value {
    let mut object = json!({
        "severity": word(found.severity),
        "code": found.code,
        "message": super::clean_lines(&found.message),
        "file": null, "line": null, "column": null, "endLine": null, "endColumn": null,
        "label": found.label,
        "help": found.help,
        "url": found.url,
    });
    if let Some(location) = &found.location {
        let Place { start, end } = place(location);
        object["file"] = json!(location.source.name);
        object["line"] = json!(start.0);
        object["column"] = json!(start.1);
        object["endLine"] = json!(end.0);
        object["endColumn"] = json!(end.1);
        if !location.source.included_at.is_empty() {
            object["includedAt"] = json!(location.source.included_at);
        }
    }
    object
}

fn to_sarif(found: &Diagnostic, codes: &[&str]) -> Value {
    let message = super::clean_lines(&found.message);
    let text = match &found.help {
        Some(help) => format!("{message}\n{help}"),
        None => message,
    };
    let mut result = json!({
        "ruleId": found.code,
        "ruleIndex": codes.iter().position(|code| *code == found.code),
        "level": word(found.severity),
        "message": {"text": text},
    });
    if let Some(location) = &found.location {
        let Place { start, end } = place(location);
        result["locations"] = json!([{"physicalLocation": {
            "artifactLocation": {"uri": location.source.name},
            "region": {"startLine": start.0, "startColumn": start.1, "endLine": end.0, "endColumn": end.1},
        }}]);
    }
    result
}
