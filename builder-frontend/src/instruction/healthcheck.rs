//! HEALTHCHECK (`features.md` A10.8).

use std::time::Duration;

use crate::ast::{CommandLine, Healthcheck, InstructionKind};
use crate::diagnostic::Problem;

use super::command::command_line;
use super::duration::{self, GoDuration};
use super::flags::{Flags, Takes};
use super::{Line, words};

/// The shortest time the engines accept, unless it is zero (the default).
const MINIMUM: Duration = Duration::from_millis(1);

const FLAGS: &[(&str, Takes)] =
    &[("interval", Takes::Text), ("timeout", Takes::Text), ("start-period", Takes::Text), ("start-interval", Takes::Text), ("retries", Takes::Text)];

const EXAMPLE: &str = "HEALTHCHECK CMD wget -q localhost || exit 1";

pub(super) fn healthcheck(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(line, FLAGS)?;
    let text = line.text();
    let kind_end = line.args.start + text.find(char::is_whitespace).unwrap_or(text.len());
    let rest = words::trim(&line.logical.text, kind_end..line.args.end);
    let kind = line.args.start..kind_end;
    match line.logical.text[kind.clone()].to_ascii_uppercase().as_str() {
        "" => Err(line.missing("missing-argument", "at least one argument", EXAMPLE)),
        "NONE" if rest.is_empty() => Ok(InstructionKind::Healthcheck(Healthcheck::None)),
        "NONE" => Err(Problem::error("too-many-arguments", "HEALTHCHECK NONE takes no arguments", line.span_of(rest)).help("remove them")),
        "CMD" => {
            let command = command_line(line, rest.clone())?;
            let empty = match &command {
                CommandLine::Exec(words) => words.is_empty(),
                CommandLine::Shell(text) => text.value.is_empty(),
            };
            if empty {
                return Err(line.missing("missing-argument", "a command behind CMD", EXAMPLE));
            }
            Ok(InstructionKind::Healthcheck(Healthcheck::Command {
                command,
                interval: time(&flags, "interval")?,
                timeout: time(&flags, "timeout")?,
                start_period: time(&flags, "start-period")?,
                start_interval: time(&flags, "start-interval")?,
                retries: retries(&flags)?,
            }))
        }
        other => Err(Problem::error("healthcheck-kind", format!("HEALTHCHECK takes NONE or CMD, not {other:?}"), line.span_of(kind))
            .help(format!("write for example `{EXAMPLE}`"))),
    }
}

fn time(flags: &Flags, name: &str) -> Result<Option<Duration>, Problem> {
    let Some(word) = flags.text(name) else { return Ok(None) };
    let invalid = |reason: &str| {
        Problem::error("invalid-duration", format!("--{name}={} {reason}", word.value), word.span).help("write for example `30s`, `1m30s` or `500ms`")
    };
    match duration::parse(&word.value) {
        None => Err(invalid("is not a duration")),
        Some(GoDuration { negative: false, magnitude }) if magnitude.is_zero() => Ok(Some(magnitude)),
        Some(GoDuration { negative: false, magnitude }) if magnitude >= MINIMUM => Ok(Some(magnitude)),
        Some(GoDuration { magnitude, .. }) if magnitude.is_zero() => Ok(Some(magnitude)),
        Some(_) => Err(invalid("is less than 1ms")),
    }
}

fn retries(flags: &Flags) -> Result<Option<u32>, Problem> {
    let Some(word) = flags.text("retries") else { return Ok(None) };
    let invalid = || Problem::error("invalid-retries", format!("--retries={} is not a number from 0 to {}", word.value, i32::MAX), word.span);
    let digits = word.value.strip_prefix('+').unwrap_or(&word.value);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        // Go reads "-0" as 0.
        return if word.value == "-0" { Ok(Some(0)) } else { Err(invalid()) };
    }
    match digits.parse::<u32>() {
        Ok(count) if i32::try_from(count).is_ok() => Ok(Some(count)),
        _ => Err(invalid()),
    }
}
