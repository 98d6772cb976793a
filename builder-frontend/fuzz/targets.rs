//! What is fuzzed: every way in which text of others is read. Each takes any bytes and must neither panic nor hang nor grow without bounds.

use builder_core::frontend::{Frontend as _, Resolved};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, FrontendOptions};
use builder_frontend::expand::{Environment, expand_heredoc, expand_word, expand_words};
use builder_frontend::ignore::IgnoreFile;
use builder_frontend::source::SourceFile;
use builder_frontend::{dump, glob, parser};

/// Lexer, parser and dump; spans lie in the text.
pub(crate) fn parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let source = SourceFile::new("Dockerfile", text.as_ref());
    let parsed = parser::parse(&source);
    for span in parsed.problems.iter().map(|problem| problem.span).chain(parsed.dockerfile.instructions.iter().map(|one| one.span)) {
        assert!(text.get(span.range()).is_some(), "{span:?}");
    }
    assert!(dump::dump(&source).is_ok_and(|text| !text.is_empty()) || dump::dump(&source).is_err());
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
