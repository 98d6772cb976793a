//! What is fuzzed: every way in which text of others is read. Each takes any bytes and must neither panic nor hang nor grow without bounds.

use std::sync::Arc;

use builder_core::frontend::{Answer, Compilation, Frontend as _, MAX_ROUNDS, Need, Resolved, ResolvedImage, Selected};
use builder_core::oci::{ImageDocument, Platform, Sha256Digest};
use builder_frontend::compile::{CallOutcome, DockerfileFrontend, DockerfileSource, FrontendOptions, NamedContext};
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

/// The whole way to a graph, and every call that builds nothing, with answers to all that is asked for. Images have triggers: the lines of the file
/// itself that begin with `ONBUILD`.
pub(crate) fn build(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(platform) = "linux/amd64".parse::<Platform>() else { return };
    let source = DockerfileSource::Text { name: "Dockerfile".to_owned(), text: text.to_string() };
    let mut options = FrontendOptions::new(source, platform.clone());
    options.named_contexts.insert("ctx".to_owned(), NamedContext::Local { name: "ctx".to_owned() });
    options.context_ignore = IgnoreFile::parse(b"*.md\n!a.md\n").ok();
    if data.len().is_multiple_of(2) {
        options.platforms = vec![platform, Platform { os: "linux".into(), architecture: "arm64".into(), variant: String::new() }];
    }
    let frontend = DockerfileFrontend::new(options);
    let triggers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ONBUILD ")).collect();
    let mut resolved = Resolved::default();
    let mut graph = None;
    for round in 0.. {
        assert!(round < MAX_ROUNDS, "compiling does not end");
        match frontend.compile(&resolved) {
            Ok(Compilation::Needs(needs)) => learn(&mut resolved, needs, &triggers),
            Ok(Compilation::Ready(compiled)) => {
                graph = Some(compiled.graph.ids().count());
                break;
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "it fails for a reason");
                break;
            }
        }
    }
    settle(&mut resolved, &triggers, |resolved| Some(frontend.check(resolved)));
    settle(&mut resolved, &triggers, |resolved| frontend.outline(resolved).ok());
    settle(&mut resolved, &triggers, |resolved| frontend.targets(resolved).ok());
    // What the calls have asked for besides changes no build.
    if let (Some(vertices), Ok(Compilation::Ready(again))) = (graph, frontend.compile(&resolved)) {
        assert_eq!(again.graph.ids().count(), vertices);
    }
}

fn settle<T>(resolved: &mut Resolved, triggers: &[&str], call: impl Fn(&Resolved) -> Option<CallOutcome<T>>) {
    for round in 0.. {
        assert!(round < MAX_ROUNDS, "a call does not end");
        match call(resolved) {
            Some(CallOutcome::Needs(needs)) => learn(resolved, needs, triggers),
            Some(CallOutcome::Ready(_)) | None => return,
        }
    }
}

fn learn(resolved: &mut Resolved, needs: Vec<Need>, triggers: &[&str]) {
    assert!(!needs.is_empty(), "needs are never empty");
    for need in needs {
        let answer = match &need {
            Need::Image { reference, platform, .. } if reference.familiar() != "missing" => {
                let mut config = ImageDocument { os: "linux".into(), architecture: platform.architecture.clone(), ..ImageDocument::default() };
                config.config.on_build = Some(triggers.iter().map(|line| (*line).to_owned()).collect());
                let (manifest, diff_ids) = (Sha256Digest::of(b"m"), Vec::new());
                Answer::Image(Arc::new(ResolvedImage { manifest, diff_ids, config, platform: platform.clone() }))
            }
            Need::Selection { source, .. } if source.len().is_multiple_of(2) => Answer::Selection(Selected::Nothing),
            Need::Selection { .. } => Answer::Selection(Selected::LeftOut("a rule".to_owned())),
            Need::Time { .. } => Answer::Time(Some(1)),
            _ => Answer::Failed("it is missing".to_owned()),
        };
        assert!(resolved.answers.insert(need, answer).is_none(), "nothing is asked for twice");
    }
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
