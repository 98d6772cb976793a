//! What can be said about a failed step beyond its own words: which part of its instruction is meant, and what usually helps.

use std::ops::Range;

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::error::{MissingSource, StepError};
use builder_core::graph::SourceLocation;

/// The failure as a diagnostic, its subject underlined.
pub(crate) fn diagnostic(location: Option<&SourceLocation>, cause: &StepError) -> Diagnostic {
    let (code, subject) = match cause {
        StepError::ExitCode { .. } => ("exit-code", None),
        StepError::MissingSource(missing) => ("missing-source", Some(missing.path.as_str())),
        StepError::DiskFull { .. } => ("disk-full", None),
        StepError::Machine { .. } => ("machine", None),
        // Messages put what they are about in quotes.
        StepError::Other { message, .. } => ("step", message.split('"').nth(1)),
    };
    let span = location.zip(subject).and_then(|(location, subject)| word(location, subject));
    let written = location.zip(span.clone()).and_then(|(location, span)| location.source.text.get(span)).unwrap_or_default();
    let (label, advice) = match cause {
        StepError::MissingSource(missing) => about_source(missing, written),
        _ => (None, None),
    };
    let help = match cause {
        StepError::ExitCode { process, code } => exit_help(process, *code),
        other => other.help().map(str::to_owned),
    };
    let help: Vec<String> = help.into_iter().chain(advice).collect();
    Diagnostic {
        severity: Severity::Error,
        code: code.to_owned(),
        message: cause.to_string(),
        location: location.map(|location| SourceLocation { span, ..location.clone() }),
        label,
        help: (!help.is_empty()).then(|| help.join("\n")),
        url: None,
    }
}

/// The word of the instruction that holds `subject`, which was cleaned: it has a slash before it that may not be written.
fn word(location: &SourceLocation, subject: &str) -> Option<Range<usize>> {
    let text = &location.source.text;
    let begin = location.source.line_start(location.first_line.max(1))?;
    let end = location.source.line_start(location.last_line.saturating_add(1)).unwrap_or(text.len());
    let lines = text.get(begin..end)?;
    let wanted = subject.trim_start_matches('/');
    let at = begin + lines.find(wanted).filter(|_| !wanted.is_empty())?;
    let is_edge = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '=');
    let start = text[..at].rfind(is_edge).map_or(0, |edge| edge + 1);
    let until = text[at + wanted.len()..].find(is_edge).map_or(text.len(), |edge| at + wanted.len() + edge);
    Some(start..until)
}

/// Label and advice for a source that is not there, from how it was written.
fn about_source(missing: &MissingSource, written: &str) -> (Option<String>, Option<String>) {
    if missing.near.iter().any(|near| near.contains(' ')) {
        return (None, Some("a path with blanks needs the JSON form: [\"a path\", \"/destination/\"]".to_owned()));
    }
    if !missing.place.starts_with("the build context") || missing.reason.is_some() {
        return (None, None);
    }
    if written.split('/').any(|part| part == "..") {
        let label = "`..` does not lead out of the context".to_owned();
        let advice = "give a directory outside with --build-context NAME=DIR and copy with --from=NAME, or build with a CONTEXT further up";
        return (Some(label), Some(advice.to_owned()));
    }
    if written.starts_with('/') {
        let advice = "copy the file into the context first; or give its directory with --build-context NAME=DIR and copy with --from=NAME";
        return (Some("paths begin at the context, not at the machine's root".to_owned()), Some(advice.to_owned()));
    }
    (None, None)
}

/// What the common exit statuses of shells mean.
fn exit_help(process: &str, code: i32) -> Option<String> {
    let command = process.split_once(" -c ").map_or(process, |(_, command)| command).trim();
    match code {
        127 if command.starts_with('[') && command.ends_with(']') => Some(
            "this is no JSON and so was given to the shell: the exec form needs double quotes around every word, and commas between them".to_owned(),
        ),
        126 => Some("the program is there and may not be run: give it the right with COPY --chmod=755, or with RUN chmod +x".to_owned()),
        127 => Some(
            "the shell found no such program in the image; for a script that is there, the interpreter in its first line is missing, \
             or that line ends as Windows ends lines"
                .to_owned(),
        ),
        137 => Some("something killed the process (SIGKILL), most often for want of memory".to_owned()),
        139 => Some("the process crashed (SIGSEGV); a program built for another machine or C library does this".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder_core::graph::SourceText;
    use std::sync::Arc;

    #[test]
    fn subjects_are_found_as_they_were_written() {
        let text = "FROM x\nCOPY --chown=node:node \\\n  ../a/b.txt [\"c d\"] /a/b.txt/\n";
        let source = Arc::new(SourceText::new("Dockerfile", text));
        let location = SourceLocation { source, first_line: 2, last_line: 3, span: None };
        for (subject, written) in
            [("/a/b.txt", Some("../a/b.txt")), ("node", Some("node:node")), ("nowhere", None), ("", None), ("x", Some("../a/b.txt"))]
        {
            assert_eq!(word(&location, subject).map(|span| &text[span]), written, "{subject}");
        }
    }
}
