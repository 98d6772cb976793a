//! `rbuild doctor`: what this machine lets builds do, and what to do about the rest.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use builder_core::content::Store;
use builder_snapshot::diagnosis;
use builder_snapshot::doctor::{self, Builds, Finding, Question, Report, Status};

use crate::answer::answer;
use crate::args::{AnswerFormat, DoctorArgs, GlobalArgs};
use crate::config;
use crate::environment::Environment;
use crate::exit_code::ExitCode;
use crate::progress::palette::Palette;
use crate::render::clean_lines;

/// Answers on standard output. Before any thread is started.
pub(crate) fn run(global: &GlobalArgs, args: &DoctorArgs, environment: &Environment) -> Result<ExitCode> {
    if args.apparmor_profile {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        answer(&diagnosis::apparmor_profile(&program))?;
        return Ok(ExitCode::Success);
    }
    let store = config::store_root(global, environment)?;
    let question = Question { enter: super::namespace_options(environment), ids_file: Some(Store::ids_file(&store)), store };
    let report = doctor::examine(&question).context("cannot start a process")?;
    let text = match args.format {
        AnswerFormat::Text => text(&report, &Palette::of(environment)),
        AnswerFormat::Json => format!("{:#}\n", json(&report)),
    };
    // A script that asks wants to know whether RUN works.
    answer(&text)?;
    Ok(if report.builds == Builds::All { ExitCode::Success } else { ExitCode::Machine })
}

fn text(report: &Report, palette: &Palette) -> String {
    let headline = match report.builds {
        Builds::All => "every build can run here",
        Builds::WithoutRun => "only builds without RUN can run here",
        Builds::None => "no build can run here",
    };
    let mut text = format!("{headline} (isolation: {})\n\n", report.isolation.describe());
    let width = report.findings.iter().map(|finding| finding.facility.name().len()).max().unwrap_or_default();
    for Finding { facility, status, detail, lack } in &report.findings {
        let colour = match status {
            Status::Good => None,
            Status::Limited => Some(&palette.warning),
            Status::Missing => Some(&palette.error),
        };
        // Padded before it is painted: colours have no width.
        let padded = format!("{:7}", status.name());
        let word = colour.map_or_else(|| padded.clone(), |colour| Palette::paint(colour, &padded));
        let _ = writeln!(text, "{word}  {:width$}  {}", facility.name(), clean_lines(detail));
        if let Some(lack) = lack {
            let _ = writeln!(text, "{:9}why: {}", "", clean_lines(&lack.cause));
            if let Some(responsible) = &lack.responsible {
                let _ = writeln!(text, "{:9}see: {}", "", clean_lines(responsible));
            }
            let _ = writeln!(text, "{:9}do:  {}", "", clean_lines(&lack.remedy));
        }
    }
    text
}

fn json(report: &Report) -> serde_json::Value {
    let findings: Vec<serde_json::Value> = report
        .findings
        .iter()
        .map(|Finding { facility, status, detail, lack }| {
            serde_json::json!({
                "facility": facility.name(),
                "status": status.name(),
                "detail": detail,
                // In the words of a build's error.
                "cause": lack.as_ref().map(|lack| clean_lines(&lack.cause)),
                "responsible": lack.as_ref().and_then(|lack| lack.responsible.as_deref()),
                "remedy": lack.as_ref().map(|lack| clean_lines(&lack.remedy)),
            })
        })
        .collect();
    serde_json::json!({ "builds": report.builds.name(), "isolation": report.isolation.name(), "findings": findings })
}
