//! RUN: flags, command, and the three ways a heredoc becomes a script (`features.md` A3.6, A8).

use std::time::Duration;

use crate::ast::{CommandLine, InstructionKind, MountFlag, Run, RunCommand, Word};
use crate::diagnostic::Problem;
use crate::heredoc;
use crate::source::{Span, Spanned};
use crate::suggest;

use super::command::command_line;
use super::duration::{self, GoDuration};
use super::flags::{Flags, Takes};
use super::{Line, csv};

const RUN_FLAGS: &[(&str, Takes)] = &[
    ("mount", Takes::List),
    ("network", Takes::Text),
    ("security", Takes::Text),
    ("device", Takes::List),
    ("timeout", Takes::Text),
    ("retry", Takes::Text),
];

/// Every key of a mount, aliases included (A8.3).
const MOUNT_KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Keys that may stand alone.
const BARE_MOUNT_KEYS: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

pub(super) fn run(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(line, RUN_FLAGS)?;
    let mounts = flags.list("mount").into_iter().map(mount).collect::<Result<_, _>>()?;
    let network = one_of(flags.text("network"), "network mode", &["default", "none", "host"])?;
    let security = one_of(flags.text("security"), "security mode", &["sandbox", "insecure"])?;
    let timeout = flags.text("timeout").map(timeout).transpose()?;
    let retry = flags.text("retry").map(retry).transpose()?;
    Ok(InstructionKind::Run(Run { mounts, network, security, devices: flags.list("device"), timeout, retry, command: command(line)? }))
}

fn command(line: &Line<'_>) -> Result<RunCommand, Problem> {
    let command = command_line(line, line.args.clone())?;
    match (&command, line.heredocs.first()) {
        (CommandLine::Exec(words), _) if words.is_empty() => Err(line.missing("missing-argument", "a command", "RUN [\"echo\", \"hello\"]")),
        (CommandLine::Exec(_), _) | (CommandLine::Shell(_), None) => Ok(RunCommand::Plain(command)),
        (CommandLine::Shell(text), Some(first)) => {
            if heredoc::read(&text.value).is_some() {
                let script = first.body.starts_with("#!");
                return Ok(if script { RunCommand::Shebang(first.clone()) } else { RunCommand::Script(first.clone()) });
            }
            let mut glued = text.value.clone();
            for heredoc in line.heredocs {
                glued.push('\n');
                glued.push_str(heredoc.raw_body());
                glued.push_str(&heredoc.name);
            }
            Ok(RunCommand::Glued { text: Spanned::new(glued, text.span), heredocs: line.heredocs.to_vec() })
        }
    }
}

/// Most repetitions: with pauses that double, more would wait for hours.
const MAX_RETRIES: u32 = 100;

fn timeout(word: Word) -> Result<Spanned<Duration>, Problem> {
    match duration::parse(&word.value) {
        Some(GoDuration { negative: false, magnitude }) if !magnitude.is_zero() => Ok(Spanned::new(magnitude, word.span)),
        _ => Err(Problem::error("invalid-duration", format!("--timeout={} is no time to wait", word.value), word.span)
            .help("write for example `30s`, `10m` or `1h30m`")),
    }
}

fn retry(word: Word) -> Result<Spanned<u32>, Problem> {
    match word.value.parse::<u32>() {
        Ok(count) if count <= MAX_RETRIES => Ok(Spanned::new(count, word.span)),
        _ => Err(Problem::error("invalid-retry", format!("--retry={} is no number from 0 to {MAX_RETRIES}", word.value), word.span)
            .help("write how often a command that fails is run again, for example `--retry=3`")),
    }
}

fn one_of(value: Option<Word>, what: &str, allowed: &[&'static str]) -> Result<Option<Word>, Problem> {
    let Some(value) = value else { return Ok(None) };
    if allowed.contains(&value.value.as_str()) {
        return Ok(Some(value));
    }
    let problem = Problem::error("flag-value", format!("unknown {what} {:?}", value.value), value.span);
    Err(match suggest::did_you_mean(&value.value, allowed.iter().copied()) {
        Some(help) => problem.help(help),
        None => problem.help(format!("allowed are {}", allowed.join(", "))),
    })
}

/// Cuts a mount into its fields. Values are expanded later, so only keys are checked here, and `from`, which is never expanded (A5.7).
fn mount(raw: Word) -> Result<MountFlag, Problem> {
    let invalid = |message: String, span: Span| Problem::error("invalid-mount", message, span);
    let fields = csv::fields(&raw.value).map_err(|reason| invalid(format!("can't read the mount {:?}: {reason}", raw.value), raw.span))?;
    let mut out = Vec::with_capacity(fields.len());
    for (field, at) in fields {
        let exact = (raw.span.end - raw.span.start) as usize == raw.value.len();
        let start = raw.span.start as usize + at;
        let span = if exact { Span::new(start, start + field.len()) } else { raw.span };
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let lower = MountFlag::key_of(&field);
        if !MOUNT_KEYS.contains(&lower.as_str()) {
            let problem = invalid(format!("unknown mount option {key:?} in {field:?}"), span);
            return Err(match suggest::did_you_mean(&lower, MOUNT_KEYS) {
                Some(help) => problem.help(help),
                None => problem.help(format!("options are {}", MOUNT_KEYS.join(", "))),
            });
        }
        match value {
            None if !BARE_MOUNT_KEYS.contains(&lower.as_str()) => {
                return Err(invalid(format!("mount option {key:?} needs a value"), span).help(format!("write `{key}=...`")));
            }
            Some(value) if lower == "from" && has_bare_variable(value) => {
                return Err(invalid("variables are not expanded in `from`".to_owned(), span).help(
                    "give the image a name with `FROM ... AS name` (global ARGs are expanded there) and use that name; \
                     or write ${NAME} with braces, which only rbuild knows",
                ));
            }
            _ => {}
        }
        let key_length = key.len();
        let key_span = if exact { Span::new(start, start + key_length) } else { raw.span };
        let value_span = if exact { Span::new((start + key_length + 1).min(start + field.len()), start + field.len()) } else { raw.span };
        out.push((Spanned::new(lower, key_span), value.map(|value| Spanned::new(value.to_owned(), value_span))));
    }
    Ok(MountFlag { raw, fields: out })
}

/// A variable without braces. With them it is our own extension, and the compiler's business.
fn has_bare_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| at + 1 < text.len() && !text[at + 1..].starts_with('{'))
}
