//! The parse tree as BuildKit's parser dumps it: one S-expression an instruction, for tests and for tools of others (`rbuild debug ast`).
//!
//! This is the level below [`crate::parser`]: lines are joined, flags and arguments cut apart, JSON forms read, and nothing else is looked at. Unknown
//! instructions and flags, missing arguments and misplaced instructions are therefore no problems here, exactly as they are none for that parser.

use std::ops::Range;

use crate::diagnostic::Problem;
use crate::directive;
use crate::instruction::json::{Json, string_array};
use crate::instruction::{Parts, keyword_named, parts, words};
use crate::lexer::LogicalLine;
use crate::parser::Reader;
use crate::quote::{go_quote, go_quoted_list};
use crate::source::{SourceFile, Span};

/// Every instruction as an S-expression on a line of its own, in the order of the text.
///
/// First the keyword in lower case; then, if there are flags, a list of them in brackets; then the arguments as they were read (continuations joined,
/// nothing expanded, quotes kept), quoted as Go quotes strings. ENV and LABEL show name, value and what stood between: `"="`, or `""` for the legacy
/// form. ONBUILD holds the expression of its trigger.
///
/// ```
/// use builder_frontend::{dump, source::SourceFile};
///
/// let text = "FROM scratch\nCOPY --from=x a \\\n  b\nENV A=1\nONBUILD RUN [\"echo\", \"test\"]\n";
/// assert_eq!(
///     dump::dump(&SourceFile::new("Dockerfile", text)).unwrap(),
///     "(from \"scratch\")\n(copy [\"--from=x\"] \"a\" \"b\")\n(env \"A\" \"1\" \"=\")\n(onbuild (run \"echo\" \"test\"))\n"
/// );
/// ```
///
/// # Errors
/// All problems that keep the text from being parsed; at least one.
pub fn dump(source: &SourceFile) -> Result<String, Vec<Problem>> {
    let text = source.text.as_str();
    let top = directive::read(text);
    let mut reader = Reader::new(text, &top);
    let mut out = String::new();
    while let Some(line) = reader.next_line() {
        reader.skip_heredocs(&line);
        match expression(&line, 0..line.text.len(), top.directives.escape) {
            Ok(expression) => {
                out.push_str(&expression);
                out.push('\n');
            }
            Err(problem) => reader.problems.push(problem),
        }
    }
    let mut problems = reader.into_problems();
    if problems.is_empty() && out.is_empty() {
        problems.push(Problem::error("no-instructions", "the Dockerfile has no instructions", Span::default()).help("begin it with FROM"));
    }
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

fn expression(line: &LogicalLine, range: Range<usize>, escape: char) -> Result<String, Problem> {
    let Parts { keyword, flags, args } = parts(&line.text, range);
    let written = &line.text[keyword];
    let mut out = format!("({}", written.to_lowercase());
    if !flags.is_empty() {
        let flags: Vec<String> = flags.iter().map(crate::instruction::RawFlag::word).collect();
        out.push_str(&format!(" {}", go_quoted_list(&flags)));
    }
    if keyword_named(written) == Some("ONBUILD") {
        if !args.is_empty() {
            out.push_str(&format!(" {}", expression(line, args, escape)?));
        }
    } else {
        for argument in arguments(line, keyword_named(written), args, escape)? {
            out.push_str(&format!(" {}", go_quote(&argument)));
        }
    }
    out.push(')');
    Ok(out)
}

fn arguments(line: &LogicalLine, keyword: Option<&'static str>, args: Range<usize>, escape: char) -> Result<Vec<String>, Problem> {
    let text = &line.text[args.clone()];
    let Some(keyword) = keyword else { return Ok(vec![String::new()]) };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(match keyword {
        "ADD" | "COPY" | "VOLUME" => json(line, args)?.unwrap_or_else(|| blank_separated(text)),
        "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" => json(line, args)?.unwrap_or_else(|| vec![text.to_owned()]),
        "EXPOSE" | "FROM" => blank_separated(text),
        "ARG" => words::quoted_ranges(text, escape).into_iter().map(|(word, _)| word).collect(),
        "ENV" | "LABEL" => pairs(line, keyword, args, escape)?,
        "HEALTHCHECK" => {
            let kind_end = text.find(char::is_whitespace).unwrap_or(text.len());
            let rest = words::trim(&line.text, args.start + kind_end..args.end);
            let mut all = vec![text[..kind_end].to_owned()];
            if !rest.is_empty() {
                let shell = line.text[rest.clone()].to_owned();
                all.extend(json(line, rest)?.unwrap_or_else(|| vec![shell]));
            }
            all
        }
        _ => vec![text.to_owned()],
    })
}

/// The elements of the JSON form; none if the text is another form.
fn json(line: &LogicalLine, range: Range<usize>) -> Result<Option<Vec<String>>, Problem> {
    match string_array(&line.text[range.clone()]) {
        Json::Strings(elements) => Ok(Some(elements.into_iter().map(|(text, _)| text).collect())),
        Json::OtherElements => Err(Problem::error("json-not-strings", "a JSON array must hold strings only", line.span_of(range))
            .label("not all of these are strings")
            .help("put double quotes around every element")),
        Json::No => Ok(None),
    }
}

fn blank_separated(text: &str) -> Vec<String> {
    text.split(words::is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Name, value, separator of every pair; the first word decides which form it is.
fn pairs(line: &LogicalLine, keyword: &str, args: Range<usize>, escape: char) -> Result<Vec<String>, Problem> {
    let text = &line.text[args.clone()];
    let words = words::quoted_ranges(text, escape);
    let Some((first, _)) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let Some(end) = text.find(words::is_blank) else {
            return Err(Problem::error("missing-argument", format!("{keyword} needs a name and a value"), line.span_of(args))
                .help(format!("write for example `{keyword} NAME=value`")));
        };
        let value = text[end..].trim_start_matches(words::is_blank);
        return Ok(vec![text[..end].to_owned(), value.to_owned(), String::new()]);
    }
    let mut all = Vec::with_capacity(3 * words.len());
    for (word, range) in words {
        let Some((name, value)) = word.split_once('=') else {
            let span = line.span_of(args.start + range.start..args.start + range.end);
            return Err(Problem::error("missing-equals", format!("no `=` in {word:?}"), span)
                .label("expected NAME=value")
                .help("put quotes around a value that holds blanks"));
        };
        all.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(all)
}
