//! COPY and ADD: flags, sources, destination (`features.md` A9).

use std::collections::HashMap;

use crate::ast::{Add, Copy, CopyPaths, Heredoc, InstructionKind, Word};
use crate::diagnostic::Problem;
use crate::heredoc;

use super::command::elements;
use super::flags::{Flags, Takes};
use super::{Line, words};

const COPY_FLAGS: &[(&str, Takes)] = &[
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::List),
];

const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("exclude", Takes::List),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Text),
    ("unpack", Takes::Bool),
];

pub(super) fn copy(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(line, COPY_FLAGS)?;
    Ok(InstructionKind::Copy(Copy {
        paths: paths(line)?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
        excludes: flags.list("exclude"),
    }))
}

pub(super) fn add(line: &Line<'_>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(line, ADD_FLAGS)?;
    Ok(InstructionKind::Add(Add {
        paths: paths(line)?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        excludes: flags.list("exclude"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
    }))
}

fn paths(line: &Line<'_>) -> Result<CopyPaths, Problem> {
    let json = elements(line, line.args.clone())?;
    let is_json = json.is_some();
    let mut words = json.unwrap_or_else(|| words::plain(line));
    let Some(dest) = words.pop().filter(|_| !words.is_empty()) else {
        let needs = "at least two arguments, sources and a destination";
        return Err(line.missing("missing-argument", needs, &format!("{} file.txt /dest/", line.name)));
    };
    if is_json {
        return Ok(CopyPaths { sources: words, heredocs: Vec::new(), dest });
    }
    if heredoc::read(&dest.value).is_some() {
        return Err(Problem::error("heredoc-destination", format!("{} can't have a heredoc as its destination", line.name), dest.span)
            .label("the last argument is the destination")
            .help("name a path behind the heredoc"));
    }
    let (sources, heredocs) = tell_apart(line, words);
    Ok(CopyPaths { sources, heredocs, dest })
}

/// Of heredocs with one name every file gets the last body, as in the reference (A3.5).
fn tell_apart(line: &Line<'_>, words: Vec<Word>) -> (Vec<Word>, Vec<Heredoc>) {
    let bodies: HashMap<&str, &Heredoc> = line.heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc)).collect();
    let (mut sources, mut heredocs) = (Vec::new(), Vec::new());
    for word in words {
        let opening = heredoc::read(&word.value).and_then(|opening| bodies.get(opening.name.as_str()).map(|body| (opening, *body)));
        match opening {
            Some((opening, body)) => heredocs.push(opening.with_body(body.raw_body(), &word.value, word.span, body.body_span)),
            None => sources.push(word),
        }
    }
    (sources, heredocs)
}
