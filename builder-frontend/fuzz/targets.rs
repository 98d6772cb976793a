//! What is fuzzed: every way in which text of others is read. Each takes any bytes and must neither panic nor hang nor grow without bounds.

use builder_core::frontend::{Frontend as _, Resolved};
use builder_core::oci::Platform;
use builder_frontend::compile::{CallOutcome, DockerfileFrontend, DockerfileSource, FrontendOptions};
use builder_frontend::expand::{Environment, expand_heredoc, expand_word, expand_words};
use builder_frontend::ignore::IgnoreFile;
use builder_frontend::include::{Fetched, Includes, Policy, assemble};
use builder_frontend::print::print;
use builder_frontend::source::SourceFile;
use builder_frontend::{dump, glob, include, lexer, parser};

/// Lexer, parser, dump and printer; spans lie in the text, and what is printed is parsed to the same.
pub(crate) fn parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let source = SourceFile::new("Dockerfile", text.as_ref());
    let parsed = parser::parse(&source);
    for span in parsed.problems.iter().map(|problem| problem.span).chain(parsed.dockerfile.instructions.iter().map(|one| one.span)) {
        assert!(text.get(span.range()).is_some(), "{span:?}");
    }
    assert!(dump::dump(&source).map_or(true, |text| !text.is_empty()));
    let printed = print(&parsed.dockerfile);
    let again = parser::parse(&SourceFile::new("Dockerfile", printed.as_str()));
    // Joining continuations can make a line too long.
    if printed.lines().all(|line| line.len() <= lexer::MAX_LINE_BYTES) {
        assert_eq!(print(&again.dockerfile), printed, "printed again");
    }
}

/// Files that include each other: the text has several, cut at form feeds; the first is built, the others are called `a`, `b`, `c`.
pub(crate) fn include(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let files: Vec<&str> = text.split('\u{c}').collect();
    let beside = ["a".to_owned(), "b".to_owned()];
    let fetch = |path: &str| {
        let index = ["a", "b", "c", "d/e"].iter().position(|name| *name == path).and_then(|index| files.get(index + 1));
        match index {
            Some(text) => Fetched::Text((*text).into()),
            None if path.len() % 5 == 4 => Fetched::Unknown,
            None if path.len() % 5 == 3 => Fetched::Unusable("it can't be read".into()),
            None => Fetched::Absent(&beside),
        }
    };
    let whole = assemble("Dockerfile", files[0], &Policy::Follow(Includes { path: "Dockerfile", root: "the context", fetch: &fetch }));
    let of_whole = &whole.source.text;
    let parsed = parser::parse(&whole.source);
    let spans =
        parsed.problems.iter().chain(&whole.problems).map(|problem| problem.span).chain(parsed.dockerfile.instructions.iter().map(|one| one.head));
    for span in spans {
        assert!(of_whole.get(span.range()).is_some(), "{span:?} lies in the whole text");
        let (file, place) = whole.place(span);
        let shown = whole.files[file].source.text.get(place.range());
        let shown = shown.unwrap_or_else(|| panic!("{place:?} lies in file {file}"));
        assert!(of_whole[span.range()].starts_with(shown), "{span:?} shows what is there");
        assert!(whole.included_at(file).len() <= include::MAX_DEPTH);
    }
    // Without a problem there is nothing left to include, and every instruction is one of one file.
    if whole.problems.is_empty() && whole.unknown.is_empty() {
        let refuse = Policy::Refuse { reason: "nothing is left", help: "" };
        assert!(assemble("Dockerfile", of_whole, &refuse).problems.is_empty());
        for one in &parsed.dockerfile.instructions {
            let (file, place) = whole.place(one.head);
            assert_eq!(&whole.files[file].source.text[place.range()], &of_whole[one.head.range()]);
        }
    }
}

/// Converting: what comes out says nothing that only we understand, and converting it again changes nothing.
pub(crate) fn convert(data: &[u8]) {
    let Ok(platform) = "linux/amd64".parse::<Platform>() else { return };
    let converted = |text: &str| {
        let source = DockerfileSource::Text { name: "Dockerfile".to_owned(), text: text.to_owned() };
        let frontend = DockerfileFrontend::new(FrontendOptions::new(source, platform.clone()));
        match frontend.convert(&Resolved::default()) {
            Ok(CallOutcome::Ready(converted)) => Some(converted),
            Ok(CallOutcome::Needs(_)) | Err(_) => None,
        }
    };
    let Some(first) = converted(&String::from_utf8_lossy(data)) else { return };
    let second = converted(&first.text);
    let second = second.unwrap_or_else(|| panic!("{:?} can't be converted again", first.text));
    assert_eq!(second.text, first.text);
    // What stays are triggers, and names in stages that are not built.
    assert!(second.warnings.len() <= first.warnings.len(), "{:?}", second.warnings);
    let left_out = second.warnings.iter().filter(|warning| warning.message.contains("is left out"));
    assert_eq!(left_out.count(), 0);
}

/// Expansion of words and heredocs: the first line is an environment, the rest is expanded.
pub(crate) fn expand(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (variables, word) = text.split_once('\n').unwrap_or(("", &text));
    let environment: Environment = variables.split(' ').filter_map(|pair| pair.split_once('=')).collect();
    for escape in ['\\', '`'] {
        // An error is an answer.
        let whole = expand_word(word, &environment, escape);
        let words = expand_words(word, &environment, escape);
        assert_eq!(whole.is_ok(), words.is_ok());
    }
    let _ = expand_heredoc(word, &environment);
}

/// Ignore files and patterns: the last line is a path.
pub(crate) fn ignore(data: &[u8]) {
    let at = data.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    let (file, path) = data.split_at(at);
    let path = path.strip_prefix(b"\n").unwrap_or(path);
    if let Ok(ignore) = IgnoreFile::parse(file) {
        let excluded = ignore.excludes(path);
        assert_eq!(ignore.deciding_rule(path).is_some_and(|rule| !rule.negated), excluded);
        assert!(!ignore.prunes(path) || excluded);
    }
    let _ = glob::path_match(&String::from_utf8_lossy(file), path);
}

/// Options of a mount, through the whole frontend.
pub(crate) fn mount(data: &[u8]) {
    let options = String::from_utf8_lossy(data).replace(['\n', '\r'], " ");
    let text = format!("FROM scratch AS other\nFROM scratch\nARG A=b\nRUN --mount={options} true\n");
    let Ok(platform) = "linux/amd64".parse() else { return };
    let source = DockerfileSource::Text { name: "Dockerfile".to_owned(), text };
    let _ = DockerfileFrontend::new(FrontendOptions::new(source, platform)).compile(&Resolved::default());
}
