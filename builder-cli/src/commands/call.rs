//! `--check`, `--call=outline`, `--call=targets`, `rbuild convert`: answers about a Dockerfile, nothing is built.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use builder_core::builder::Builder;
use builder_core::diagnostic::Diagnostic;
use builder_core::error::BuildError;
use builder_core::event::NoEvents;
use builder_core::export::write_small_file;
use builder_core::frontend::Resolved;
use builder_frontend::compile::{CallOutcome, CheckReport, DockerfileFrontend, Outline, Targets};

use super::build::{Voice, request, say};
use crate::exit_code::ExitCode;
use crate::progress::palette::Palette;
use crate::render;
use crate::render::machine::Findings;
use crate::request::{BuildPlan, Call, CallFormat};
use crate::signals::Interrupts;

/// Answers on standard output. Findings and errors make the status 1.
pub(crate) async fn run(plan: BuildPlan, builder: &Builder, interrupts: &Interrupts, voice: Voice<'_>) -> Result<ExitCode> {
    let (call, file) = (plan.call, plan.converted.clone());
    let frontend = DockerfileFrontend::new(plan.options.clone());
    let inquiry = builder.inquire(request(plan), Arc::new(NoEvents));
    let mut resolved = Resolved::default();
    for _ in 0..builder_core::frontend::MAX_ROUNDS {
        let needs = match ask(&frontend, call, &resolved) {
            Ok(CallOutcome::Needs(needs)) => needs,
            Ok(CallOutcome::Ready(answer)) => return say_answer(&answer, file.as_deref(), voice),
            Err(errors) => return voice.failed(&BuildError::Definition(errors), &[], render::SHORT_TAIL_LINES),
        };
        tokio::select! {
            () = inquiry.bring(needs, &mut resolved) => {}
            () = interrupts.cancel.cancelled() => return Ok(ExitCode::Cancelled),
        }
    }
    voice.failed(&BuildError::Internal("the Dockerfile needs ever more images".into()), &[], render::SHORT_TAIL_LINES)
}

/// What a call comes to.
struct Answer {
    text: String,
    /// What is said besides, on standard error.
    aside: String,
    code: ExitCode,
    findings: Vec<Diagnostic>,
}

fn say_answer(answer: &Answer, file: Option<&Path>, voice: Voice<'_>) -> Result<ExitCode> {
    say(&answer.aside);
    if let Some(file) = file {
        write_small_file(file, answer.text.as_bytes()).map_err(|error| anyhow!("--output: {error}"))?;
    } else if voice.machine.is_none_or(|machine| !machine.is_on_stdout()) {
        crate::answer::answer(&answer.text)?;
    }
    voice.machine.map(|machine| machine.write(&Findings::of(&answer.findings, answer.code))).transpose()?;
    Ok(answer.code)
}

/// One round: what is needed, or the answer.
fn ask(frontend: &DockerfileFrontend, call: Call, resolved: &Resolved) -> Result<CallOutcome<Answer>, Vec<Diagnostic>> {
    fn ready<T>(outcome: CallOutcome<T>, show: impl FnOnce(&T) -> Answer) -> CallOutcome<Answer> {
        match outcome {
            CallOutcome::Needs(needs) => CallOutcome::Needs(needs),
            CallOutcome::Ready(answer) => CallOutcome::Ready(show(&answer)),
        }
    }
    let json = |value: serde_json::Value| format!("{value:#}\n");
    let good = |text| Answer { text, aside: String::new(), code: ExitCode::Success, findings: Vec::new() };
    match call {
        Call::Check(format) => Ok(ready(frontend.check(resolved), |report| {
            let text = if format == CallFormat::Json { json(report.to_json()) } else { check_text(report) };
            let code = if report.warnings.is_empty() && report.errors.is_empty() { ExitCode::Success } else { ExitCode::Failure };
            let findings = report.errors.iter().chain(&report.warnings).chain(&report.notes).cloned().collect();
            Answer { text, aside: String::new(), code, findings }
        })),
        Call::Outline(format) => Ok(ready(frontend.outline(resolved)?, |outline| {
            good(if format == CallFormat::Json { json(outline.to_json()) } else { outline_text(outline) })
        })),
        Call::Targets(format) => Ok(ready(frontend.targets(resolved)?, |targets| {
            good(if format == CallFormat::Json { json(targets.to_json()) } else { targets_text(targets) })
        })),
        Call::Convert => Ok(ready(frontend.convert(resolved)?, |converted| {
            let aside = converted.warnings.iter().map(|warning| render::diagnostic(warning, &Palette::default())).collect();
            Answer { aside, ..good(converted.text.clone()) }
        })),
        Call::Build => unreachable!("a build is no call"),
    }
}

fn check_text(report: &CheckReport) -> String {
    // Results go to files as often as to terminals: no colours.
    let palette = Palette::default();
    let mut text: String = report.warnings.iter().chain(&report.notes).map(|finding| render::finding(finding, &palette)).collect();
    for error in &report.errors {
        text.push_str(&render::diagnostic(error, &palette));
        error.location.iter().for_each(|location| text.push_str(&render::excerpt(location)));
        let _ = writeln!(text, "ERROR: {}\n", error.message);
    }
    let errors = match report.errors.len() {
        0 => String::new(),
        1 => " and 1 error".to_owned(),
        n => format!(" and {n} errors"),
    };
    let _ = match report.warnings.len() {
        0 if report.errors.is_empty() => writeln!(text, "Check complete, no warnings found."),
        0 => writeln!(text, "Check complete, 0 warnings{errors} have been found!"),
        1 => writeln!(text, "Check complete, 1 warning{errors} has been found!"),
        n => writeln!(text, "Check complete, {n} warnings{errors} have been found!"),
    };
    if !report.notes.is_empty() {
        let _ = writeln!(text, "Notes are advice beyond the checks of other builders; they do not change the exit status.");
    }
    text
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "TARGET:      {}", outline.name.as_deref().unwrap_or("(default)"));
    if let Some(description) = &outline.description {
        let _ = writeln!(text, "DESCRIPTION: {description}");
    }
    let rows: Vec<[&str; 3]> = outline
        .args
        .iter()
        .map(|arg| [arg.name.as_str(), arg.value.as_deref().unwrap_or_default(), arg.description.as_deref().unwrap_or_default()])
        .collect();
    text.push_str(&table(["BUILD ARG", "VALUE", "DESCRIPTION"], &rows));
    for (heading, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows: Vec<[&str; 3]> = list.iter().map(|item| [item.name.as_str(), if item.required { "true" } else { "" }, ""]).collect();
        text.push_str(&table([heading, "REQUIRED", ""], &rows));
    }
    text
}

fn targets_text(targets: &Targets) -> String {
    let rows: Vec<[String; 3]> = targets
        .targets
        .iter()
        .map(|target| {
            let name = target.name.as_deref().unwrap_or("(unnamed)");
            let name = if target.default { format!("{name} (default)") } else { name.to_owned() };
            [name, target.base.clone(), target.description.clone().unwrap_or_default()]
        })
        .collect();
    let rows: Vec<[&str; 3]> = rows.iter().map(|row| [row[0].as_str(), row[1].as_str(), row[2].as_str()]).collect();
    table(["TARGET", "BASE", "DESCRIPTION"], &rows)
}

/// Columns under headings; nothing without rows.
fn table(headings: [&str; 3], rows: &[[&str; 3]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).chain([headings[at].len()]).max().unwrap_or_default() + 3;
    let (first, second) = (width(0), width(1));
    let mut text = String::from("\n");
    for row in std::iter::once(&headings).chain(rows) {
        let _ = writeln!(text, "{}", format!("{:first$}{:second$}{}", row[0], row[1], row[2]).trim_end());
    }
    text
}
