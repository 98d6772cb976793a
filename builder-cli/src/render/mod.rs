//! What went wrong, for people and for the scripts that read docker's output.
//!
//! A problem of the Dockerfile is shown with its code, the place, an underline and what to do; a failed step with the last lines of its output. Both
//! end with the excerpt and the `ERROR:` line of `features.md` C7.6, which editors and CI systems look for.

pub(crate) mod machine;
mod snippet;
mod step;

use std::fmt::Write as _;
use std::sync::Arc;

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::error::{BuildError, StepError};
use builder_core::graph::{SourceLocation, SourceText};
use builder_frontend::diagnostic::Problem;
use builder_frontend::source::SourceFile;

pub(crate) use snippet::diagnostic;

use crate::exit_code;
use crate::progress::clean;
use crate::progress::palette::Palette;

/// Lines shown around those that an excerpt marks.
const AROUND: u32 = 4;

/// Most lines that an excerpt marks; of a longer instruction the first ones say which it is.
const MARKED: u32 = 30;

/// Lines of a failed step's output after progress that showed them already (`features.md` C7.5).
pub(crate) const SHORT_TAIL_LINES: usize = 10;

/// Longest piece of a line shown. Machine-made lines can have megabytes.
const MAX_COLUMNS: usize = 400;

/// The last words of a failed build, with so many lines of the failed step's output.
pub(crate) fn failure(error: &BuildError, palette: &Palette, tail_lines: usize) -> String {
    let mut text = String::new();
    let mut help = None;
    match error {
        BuildError::Definition(diagnostics) => {
            let errors = || diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
            errors().for_each(|diagnostic| text.push_str(&self::diagnostic(diagnostic, palette)));
            if let Some(location) = errors().find_map(|diagnostic| diagnostic.location.as_ref()) {
                text.push_str(&excerpt(location));
            }
        }
        BuildError::Step { name, location, log_tail, log_path, cause } => {
            text.push_str(&tail(name, log_tail, tail_lines));
            if let Some(path) = log_path {
                let _ = writeln!(text, "complete log: {}", path.display());
            }
            let found = step::diagnostic(location.as_ref(), cause);
            // What a process said for itself comes first; its status is in the last line.
            if !matches!(cause, StepError::ExitCode { .. }) {
                text.push_str(&diagnostic(&found, palette));
            } else if found.help.is_some() {
                help = found.help;
            }
            location.iter().for_each(|location| text.push_str(&excerpt(location)));
        }
        BuildError::Cancelled | BuildError::Export(_) | BuildError::Store(_) | BuildError::Machine { .. } | BuildError::Internal(_) => {}
    }
    let message = clean_lines(&error.to_string());
    let _ = writeln!(text, "{} failed to build: failed to solve: {message}", Palette::paint(&palette.error, "ERROR:"));
    if let Some(help) = help.as_deref().or_else(|| exit_code::remedy(&message)) {
        let _ = writeln!(text, "  = help: {}", clean_lines(help));
    }
    if let BuildError::Machine { help, .. } = error {
        let _ = writeln!(text, "  = help: {}", clean_lines(help));
    }
    if let BuildError::Internal(_) = error {
        text.push_str("  = help: this is a fault of rbuild; please report it with the Dockerfile and this message\n");
    }
    text
}

/// An error that ended things before a build began.
pub(crate) fn usage(error: &anyhow::Error, palette: &Palette) -> String {
    format!("{} {}\n", Palette::paint(&palette.error, "ERROR:"), clean_lines(&format!("{error:#}")))
}

/// The findings of a build that went on in spite of them (`features.md` A15.2).
pub(crate) fn warnings(found: &[Diagnostic], palette: &Palette) -> String {
    let mut text = String::new();
    for (severity, one, many) in [(Severity::Warning, "1 warning found", "warnings found"), (Severity::Note, "1 note", "notes")] {
        let found: Vec<&Diagnostic> = found.iter().filter(|found| found.severity == severity).collect();
        let count = match found.len() {
            0 => continue,
            1 => one.to_owned(),
            n => format!("{n} {many}"),
        };
        let _ = writeln!(text, "\n {} (rbuild --check shows the places):", Palette::paint(&palette.warning, &count));
        for warning in found {
            let line = warning.location.as_ref().map_or(String::new(), |location| match &location.source.included_at[..] {
                [] => format!(" (line {})", location.first_line),
                _ => format!(" ({}:{})", clean::text(&location.source.name), location.first_line),
            });
            let _ = writeln!(text, " - {}: {}{line}", warning.code, clean_lines(&warning.message));
        }
    }
    text
}

/// One finding of `--check` (`features.md` A15.1).
pub(crate) fn finding(found: &Diagnostic, palette: &Palette) -> String {
    let word = if found.severity == Severity::Note { "NOTE" } else { "WARNING" };
    let kind = Palette::paint(&palette.warning, &format!("{word}: {}", found.code));
    let url = found.url.as_deref().map_or(String::new(), |url| format!(" - {url}"));
    let mut text = format!("{kind}{url}\n{}\n", clean_lines(&found.message));
    if let Some(help) = &found.help {
        let _ = writeln!(text, "  = help: {}", clean_lines(help));
    }
    if let Some(location) = &found.location {
        text.push_str(&excerpt(location));
    }
    text.push('\n');
    text
}

/// Problems of a file that nothing was built from.
pub(crate) fn problems(source: &SourceFile, problems: &[Problem], palette: &Palette) -> String {
    let text = Arc::new(SourceText::new(source.name.clone(), source.text.clone()));
    let shown = problems.iter().map(|problem| {
        let (first_line, last_line) = source.lines(problem.span);
        let span = problem.span.range();
        let location = SourceLocation { source: Arc::clone(&text), first_line, last_line, span: (!span.is_empty()).then_some(span) };
        let found = Diagnostic {
            severity: Severity::Error,
            code: problem.code.to_owned(),
            message: problem.message.clone(),
            location: Some(location),
            label: problem.label.clone(),
            help: problem.help.clone(),
            url: None,
        };
        diagnostic(&found, palette)
    });
    shown.collect()
}

/// The excerpt of C7.6: where, a rule, lines with the important ones marked, a rule.
pub(crate) fn excerpt(location: &SourceLocation) -> String {
    const RULE: &str = "--------------------";
    let (first, last) = (location.first_line, location.last_line.max(location.first_line));
    if location.source.text.trim().is_empty() {
        return format!("{}:{first}\n", clean::text(&location.source.name));
    }
    let until = last.min(first.saturating_add(MARKED - 1));
    let included: String = location.source.included_at.iter().map(|place| format!(", included at {}", clean::text(place))).collect();
    let mut text = format!("{}:{first}{included}\n{RULE}\n", clean::text(&location.source.name));
    let begin = first.saturating_sub(AROUND).max(1);
    for (number, line) in (begin..=until.saturating_add(AROUND)).zip(location.source.lines_from(begin)) {
        let mark = if (first..=until).contains(&number) { ">>>" } else { "   " };
        let _ = writeln!(text, "{}", format!(" {number:3} | {mark} {}", shown(line)).trim_end());
    }
    text.push_str(RULE);
    text.push('\n');
    text
}

/// The last lines of a failed step's output, in a box (C7.5).
fn tail(name: &str, log_tail: &[u8], most: usize) -> String {
    const RULE: &str = "------";
    let lines: Vec<&[u8]> = log_tail.strip_suffix(b"\n").unwrap_or(log_tail).split(|&byte| byte == b'\n').collect();
    let mut text = format!("{RULE}\n > {}:\n", clean::text(name));
    if !log_tail.is_empty() {
        for line in &lines[lines.len().saturating_sub(most)..] {
            let _ = writeln!(text, "{}", clean::line(line));
        }
    }
    text.push_str(RULE);
    text.push('\n');
    text
}

fn shown(line: &str) -> String {
    clean::text(line).replace('\t', "    ").chars().take(MAX_COLUMNS).collect()
}

/// Lines made harmless for a terminal, and without the numbers that the system gives its errors: the words stand before them.
pub(crate) fn clean_lines(text: &str) -> String {
    text.lines().map(clean::message).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use builder_core::error::StepError;

    use super::*;

    fn source() -> Arc<SourceText> {
        Arc::new(SourceText::new(
            "Dockerfile",
            "FROM busybox AS builder\nLABEL a=b\nRUN echo last words && \\\n    exit 17\nCOPY --from=biulder /app /app\n",
        ))
    }

    #[test]
    fn c7_6_a_failed_step() {
        let error = BuildError::Step {
            name: "[2/2] RUN echo last words".into(),
            location: Some(SourceLocation { source: source(), first_line: 3, last_line: 4, span: None }),
            log_tail: b"last words\n\x1b[2Jmore\n".to_vec(),
            log_path: None,
            cause: StepError::ExitCode { process: "/bin/sh -c echo last words &&     exit 17".into(), code: 17 },
        };
        insta::assert_snapshot!(failure(&error, &Palette::default(), SHORT_TAIL_LINES), @r#"
        ------
         > [2/2] RUN echo last words:
        last words
        more
        ------
        Dockerfile:3
        --------------------
           1 |     FROM busybox AS builder
           2 |     LABEL a=b
           3 | >>> RUN echo last words && \
           4 | >>>     exit 17
           5 |     COPY --from=biulder /app /app
        --------------------
        ERROR: failed to build: failed to solve: process "/bin/sh -c echo last words &&     exit 17" did not complete successfully: exit code: 17
        "#);
    }

    fn unknown_stage() -> Diagnostic {
        let source = source();
        let start = source.text.find("biulder").expect("word");
        Diagnostic {
            severity: Severity::Error,
            code: "unknown-stage".into(),
            message: "no earlier stage is named `biulder`".into(),
            location: Some(SourceLocation { source, first_line: 5, last_line: 5, span: Some(start..start + 7) }),
            label: Some("not found; stages so far: builder".into()),
            help: Some("did you mean `builder`?".into()),
            url: None,
        }
    }

    #[test]
    fn a0_7_a_definition_with_an_error() {
        insta::assert_snapshot!(failure(&BuildError::Definition(vec![unknown_stage()]), &Palette::default(), SHORT_TAIL_LINES), @r"
        error[unknown-stage]: no earlier stage is named `biulder`
          ╭▸ Dockerfile:5:13
          │
        5 │ COPY --from=biulder /app /app
          │             ━━━━━━━ not found; stages so far: builder
          │
          ╰ help: did you mean `builder`?

        Dockerfile:5
        --------------------
           1 |     FROM busybox AS builder
           2 |     LABEL a=b
           3 |     RUN echo last words && \
           4 |         exit 17
           5 | >>> COPY --from=biulder /app /app
        --------------------
        ERROR: failed to build: failed to solve: no earlier stage is named `biulder`
        ");
    }

    #[test]
    fn a15_findings() {
        let mut found = Diagnostic { severity: Severity::Warning, code: "LegacyKeyValueFormat".into(), label: None, help: None, ..unknown_stage() };
        found.message = "`LABEL k v` is an old form; write `LABEL k=v`".into();
        found.url = Some("https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/".into());
        insta::assert_snapshot!(warnings(&[found.clone()], &Palette::default()), @r"

        1 warning found (rbuild --check shows the places):
        - LegacyKeyValueFormat: `LABEL k v` is an old form; write `LABEL k=v` (line 5)
        ");
        let text = finding(&found, &Palette::default());
        assert!(text.starts_with("WARNING: LegacyKeyValueFormat - https://docs"), "{text}");
        assert!(text.contains("\nDockerfile:5\n"), "{text}");
    }

    #[test]
    fn numbers_of_the_system_are_left_out() {
        for (text, shown) in [
            ("cannot open x: No such file or directory (os error 2)", "cannot open x: No such file or directory"),
            ("a (os error 13): b (os error 2)", "a: b"),
            ("(os error 2) (os error x) (os error ", "(os error 2) (os error x) (os error "),
        ] {
            assert_eq!(clean_lines(text), shown);
        }
    }

    #[test]
    fn spans_at_the_edges_do_no_harm() {
        let source = Arc::new(SourceText::new("D", "ä\tb\n"));
        for span in [0..0, 0..1, 1..2, 4..400, 5..5, 400..500] {
            let location = SourceLocation { source: Arc::clone(&source), first_line: 1, last_line: 9, span: Some(span) };
            let found = Diagnostic { location: Some(location), ..unknown_stage() };
            assert!(failure(&BuildError::Definition(vec![found]), &Palette::default(), SHORT_TAIL_LINES).contains("ERROR:"));
        }
    }
}
