//! CMD, ENTRYPOINT and SHELL, and the two forms of a command (`features.md` A4.2, A4.3).

use std::ops::Range;

use crate::ast::{CommandLine, InstructionKind, Word};
use crate::diagnostic::Problem;
use crate::source::Spanned;

use super::json::{Json, string_array};
use super::{Line, flags};

pub(super) fn cmd(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    Ok(InstructionKind::Cmd(command_line(line, line.args.clone())?))
}

pub(super) fn entrypoint(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    Ok(InstructionKind::Entrypoint(command_line(line, line.args.clone())?))
}

pub(super) fn shell(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    const EXAMPLE: &str = "SHELL [\"/bin/bash\", \"-c\"]";
    flags::none(line)?;
    match elements(line, line.args.clone())? {
        Some(words) if words.is_empty() => Err(line.missing("missing-argument", "at least one argument", EXAMPLE)),
        Some(words) => Ok(InstructionKind::Shell(words)),
        None if line.args.is_empty() => Err(line.missing("missing-argument", "at least one argument", EXAMPLE)),
        None => Err(line.missing("shell-needs-json", "its arguments as a JSON array", EXAMPLE)),
    }
}

/// Exec form if it is a JSON array of strings, else the whole text for the shell.
pub(super) fn command_line(line: &Line<'_>, range: Range<usize>) -> Result<CommandLine, Problem> {
    Ok(elements(line, range.clone())?.map_or_else(|| CommandLine::Shell(line.word(range)), CommandLine::Exec))
}

/// The elements of the JSON form, or `None` if it is another form.
pub(super) fn elements(line: &Line<'_>, range: Range<usize>) -> Result<Option<Vec<Word>>, Problem> {
    let text = &line.logical.text[range.clone()];
    if !text.starts_with('[') {
        return Ok(None);
    }
    match string_array(text) {
        Json::Strings(elements) => {
            let word = |(text, part): (String, Range<usize>)| Spanned::new(text, line.span_of(range.start + part.start..range.start + part.end));
            Ok(Some(elements.into_iter().map(word).collect()))
        }
        Json::OtherElements => Err(Problem::error("json-not-strings", "a JSON array must hold strings only", line.span_of(range))
            .label("not all of these are strings")
            .help("put double quotes around every element")),
        Json::No => Ok(None),
    }
}
