//! FROM (`features.md` A6.1).

use crate::ast::{From, InstructionKind};
use crate::diagnostic::Problem;

use super::flags::{Flags, Takes};
use super::{Line, words};

pub(super) fn from(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(line, &[("platform", Takes::Text)])?;
    let platform = flags.text("platform");
    let mut words = words::plain(line).into_iter();
    let arguments = || Problem::error("from-arguments", "FROM takes an image, or an image, AS and a name", line.args_span());
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(base), None, ..) => Ok(InstructionKind::From(From { platform, base, name: None, as_keyword: None })),
        (Some(base), Some(as_keyword), Some(name), None) if as_keyword.value.eq_ignore_ascii_case("as") => {
            if !is_stage_name(&name.value.to_lowercase()) {
                return Err(Problem::error("invalid-stage-name", format!("{:?} can't be the name of a stage", name.value), name.span)
                    .label("a letter, then letters, digits, `-`, `_` and `.`"));
            }
            Ok(InstructionKind::From(From { platform, base, name: Some(name), as_keyword: Some(as_keyword) }))
        }
        (None, ..) => Err(arguments().help("write for example `FROM alpine:3.22`")),
        (Some(_), Some(second), ..) if second.value.starts_with('#') => {
            Err(arguments().label("a comment can't follow an instruction on its line").help("put the comment on a line of its own"))
        }
        _ => Err(arguments().help("write for example `FROM alpine:3.22 AS build`")),
    }
}

/// `[a-z][a-z0-9-_.]*`
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}
