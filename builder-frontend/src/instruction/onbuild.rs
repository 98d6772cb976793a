//! ONBUILD: a trigger that is parsed now and stored as text (`features.md` A10.9).

use crate::ast::{InstructionKind, Onbuild};
use crate::diagnostic::Problem;
use crate::parser;

use super::{Line, flags};

pub(super) fn onbuild(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    flags::none(line)?;
    if line.args.is_empty() {
        return Err(line.missing("missing-argument", "an instruction", "ONBUILD COPY . /app"));
    }
    let mut inner = Line::cut(line.logical, line.args.clone(), line.escape).map_err(|unknown| unknown.problem(line.logical))?;
    if matches!(inner.name, "ONBUILD" | "FROM" | "MAINTAINER") {
        let span = line.span_of(inner.keyword.clone());
        return Err(Problem::error("invalid-trigger", format!("{} can't be a trigger of ONBUILD", inner.name), span)
            .help("triggers are instructions that run in the image built on this one"));
    }
    inner.heredocs = line.heredocs;
    let kind = super::parse(&inner)?;
    let mut text = line.logical.text[line.args.start..].to_owned();
    for heredoc in line.heredocs {
        text.push('\n');
        text.push_str(heredoc.raw_body());
        text.push_str(&heredoc.name);
    }
    let inner = parser::assemble(&inner, kind, line.logical.span);
    Ok(InstructionKind::Onbuild(Onbuild { text, inner: Box::new(inner) }))
}
