//! `rbuild debug`: the small languages inside a Dockerfile as filters from standard input to standard output, for tests and for tools of others.
//!
//! `ast` takes a Dockerfile; the others take and give one JSON object a line, in order, so that one process answers any number of questions. A line
//! that can't be answered is answered with its error, and the next one is read.

use std::io::{BufRead as _, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use builder_frontend::dump;
use builder_frontend::expand::{Environment as Variables, expand_word, expand_words};
use builder_frontend::ignore::IgnoreFile;
use builder_frontend::source::SourceFile;
use serde_json::{Value, json};

use super::build::say;
use crate::answer::{answer, is_read};
use crate::args::DebugFilter;
use crate::environment::Environment;
use crate::exit_code::ExitCode;
use crate::progress::palette::Palette;
use crate::render;

/// Longest line of questions; a Dockerfile of this length is refused as well.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Filters standard input.
pub(crate) fn run(filter: DebugFilter, environment: &Environment) -> Result<ExitCode> {
    match filter {
        DebugFilter::Ast => ast(&Palette::of(environment)),
        DebugFilter::Words => lines(words),
        DebugFilter::Match => lines(matches),
    }
}

fn ast(palette: &Palette) -> Result<ExitCode> {
    let mut text = Vec::new();
    std::io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut text).context("cannot read standard input")?;
    ensure!(text.len() as u64 <= MAX_INPUT_BYTES, "standard input is longer than {} MiB", MAX_INPUT_BYTES >> 20);
    let source = SourceFile::new("Dockerfile", String::from_utf8(text).context("standard input is not UTF-8")?);
    match dump::dump(&source) {
        Ok(text) => {
            answer(&text)?;
            Ok(ExitCode::Success)
        }
        Err(problems) => {
            say(&render::problems(&source, &problems, palette));
            Ok(ExitCode::Failure)
        }
    }
}

/// Answers every line that is not blank.
fn lines(answer: impl Fn(&Value) -> Result<Value>) -> Result<ExitCode> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::BufWriter::new(std::io::stdout().lock()));
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut input).take(MAX_INPUT_BYTES).read_until(b'\n', &mut line).context("cannot read standard input")?;
        if line.is_empty() {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let question = serde_json::from_slice(&line).context("the line is no JSON object");
        let answer = question.and_then(|question| answer(&question)).unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        if !is_read(writeln!(output, "{answer}"))? {
            return Ok(ExitCode::Success);
        }
    }
    is_read(output.flush())?;
    Ok(ExitCode::Success)
}

/// `{"mode":"word"|"words","input":TEXT,"env":{NAME:VALUE}}` gives `{"out":TEXT}` or `{"out":[TEXT]}`; `"escape"` may name the escape character.
fn words(question: &Value) -> Result<Value> {
    let input = text(question, "input")?;
    let escape = match question.get("escape") {
        None => '\\',
        Some(escape) => escape.as_str().and_then(|text| text.chars().next()).context("escape is no character")?,
    };
    let mut variables = Variables::new();
    if let Some(env) = question.get("env").filter(|env| !env.is_null()) {
        for (name, value) in env.as_object().context("env is no object")? {
            variables.set(name.clone(), value.as_str().with_context(|| format!("the value of {name} in env is no string"))?);
        }
    }
    match question.get("mode").and_then(Value::as_str).unwrap_or("word") {
        "word" => Ok(json!({"out": expand_word(input, &variables, escape)?.text})),
        "words" => Ok(json!({"out": expand_words(input, &variables, escape)?.words})),
        other => anyhow::bail!("mode {other:?} is neither \"word\" nor \"words\""),
    }
}

/// `{"patterns":[TEXT],"path":TEXT}` gives `{"match":BOOL}`: whether the patterns match the path or a directory above it and no later `!` takes that
/// back (`MatchesOrParentMatches` of BuildKit's matcher). The walk of a build asks directory by directory, which differs for `dir/f`, `!dir`.
fn matches(question: &Value) -> Result<Value> {
    let patterns = question.get("patterns").and_then(Value::as_array).context("patterns is no array")?;
    let patterns: Vec<&str> = patterns.iter().map(|pattern| pattern.as_str().context("a pattern is no string")).collect::<Result<_>>()?;
    let ignore = IgnoreFile::from_patterns(patterns)?;
    Ok(json!({"match": ignore.matches_or_parent_matches(cleaned(text(question, "path")?).as_bytes())}))
}

/// The path as a walk would ask for it: no `.`, no double slashes, none at the end. The context itself is never left out.
fn cleaned(path: &str) -> String {
    let rooted = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("{rooted}{}", parts.join("/"))
}

fn text<'a>(question: &'a Value, key: &str) -> Result<&'a str> {
    question.get(key).and_then(Value::as_str).with_context(|| format!("{key} is no string"))
}
