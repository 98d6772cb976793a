//! Instructions that only describe: EXPOSE, VOLUME, USER, WORKDIR, STOPSIGNAL, MAINTAINER (`features.md` A10).

use crate::ast::{InstructionKind, Word};
use crate::diagnostic::Problem;

use super::command::elements;
use super::{Line, flags, words};

pub(super) fn expose(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    let words = words::plain(line);
    if words.is_empty() {
        return Err(line.missing("missing-argument", "at least one argument", "EXPOSE 8080"));
    }
    Ok(InstructionKind::Expose(words))
}

pub(super) fn volume(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    let mut words = match elements(line, line.args.clone())? {
        Some(elements) => elements,
        None => words::plain(line),
    };
    if words.is_empty() {
        return Err(line.missing("missing-argument", "at least one argument", "VOLUME /data"));
    }
    for word in &mut words {
        let trimmed = word.value.trim();
        if trimmed.is_empty() {
            return Err(Problem::error("empty-volume", "a volume's path can't be empty", word.span).help("name a directory, or remove it"));
        }
        if trimmed.len() != word.value.len() {
            word.value = trimmed.to_owned();
        }
    }
    Ok(InstructionKind::Volume(words))
}

pub(super) fn user(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    rest_of_line(line, "USER app").map(InstructionKind::User)
}

pub(super) fn workdir(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    rest_of_line(line, "WORKDIR /app").map(InstructionKind::Workdir)
}

pub(super) fn stopsignal(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    rest_of_line(line, "STOPSIGNAL SIGTERM").map(InstructionKind::Stopsignal)
}

pub(super) fn maintainer(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    rest_of_line(line, "LABEL org.opencontainers.image.authors=\"...\"").map(InstructionKind::Maintainer)
}

/// The whole rest of the line is the one argument (A4.5).
fn rest_of_line(line: &Line<'_>, example: &str) -> Result<Word, Problem> {
    flags::none(line)?;
    if line.args.is_empty() {
        return Err(line.missing("missing-argument", "exactly one argument", example));
    }
    Ok(line.word(line.args.clone()))
}
