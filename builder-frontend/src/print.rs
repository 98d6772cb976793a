//! Syntax tree to text: one instruction a line, in a form that is parsed to the same tree.
//!
//! What a tree does not hold is not printed: line continuations, comments inside instructions and behind the last one, the blanks between words,
//! blanks behind a trigger, which spelling of several an instruction used. Whoever wants to change a file and keep all that edits its text by spans.
//!
//! *Invariant: the tree of the printed text is the tree that was printed, apart from places.*

use std::fmt::Write as _;

use crate::ast::{
    Add, ArgDeclaration, CommandLine, Comment, Copy, CopyPaths, Directives, Dockerfile, From, Healthcheck, Instruction, InstructionKind, KeyValue,
    Run, RunCommand, Word,
};
use crate::directive;
use crate::heredoc;
use crate::instruction::duration::go_duration;
use crate::instruction::words::is_blank;
use crate::quote::flag_word;

/// A whole file.
///
/// ```
/// use builder_frontend::{ast::InstructionKind, parser, print::print, source::SourceFile};
///
/// let text = "# escape=`\nfrom   alpine as build\nCOPY --chmod=644 `\n  # the lot\n  a b /dest/\n";
/// let mut dockerfile = parser::parse(&SourceFile::new("Dockerfile", text)).dockerfile;
/// if let InstructionKind::From(from) = &mut dockerfile.instructions[0].kind {
///     from.base.value = "alpine:3.22".into();
/// }
/// assert_eq!(print(&dockerfile), "# escape=`\nfrom alpine:3.22 as build\nCOPY --chmod=644 a b /dest/\n");
/// ```
#[must_use]
pub fn print(dockerfile: &Dockerfile) -> String {
    let mut out = String::new();
    let Directives { syntax, escape, check } = &dockerfile.directives;
    for (name, value) in [("syntax", syntax), ("check", check)] {
        if let Some(value) = value {
            let _ = writeln!(out, "# {name}={}", value.value);
        }
    }
    if *escape != '\\' {
        let _ = writeln!(out, "# escape={escape}");
    }
    let first = dockerfile.instructions.first().and_then(|instruction| instruction.comments.first());
    if first.is_some_and(|comment| directive::read(&comment_line(comment)).end > 0) {
        // Behind an empty line nothing is a directive any more.
        out.push('\n');
    }
    for instruction in &dockerfile.instructions {
        print_instruction(&mut out, instruction, *escape);
    }
    out
}

fn comment_line(comment: &Comment) -> String {
    format!("# {}", comment.text).trim_end().to_owned()
}

fn print_instruction(out: &mut String, instruction: &Instruction, escape: char) {
    for comment in &instruction.comments {
        let _ = writeln!(out, "{}", comment_line(comment));
        if comment.followed_by_blank {
            out.push('\n');
        }
    }
    let Parts { flags, arguments } = Parts::of(instruction);
    // Its text holds the bodies.
    let is_trigger = matches!(instruction.kind, InstructionKind::Onbuild(_));
    out.push_str(&instruction.keyword.value);
    for flag in &flags {
        let _ = write!(out, " {flag}");
    }
    if arguments.starts_with("--") {
        out.push_str(" --");
    }
    if !arguments.is_empty() {
        let _ = write!(out, " {arguments}");
    }
    let before_blanks = out.trim_end_matches([' ', '\t']).strip_suffix(escape);
    if (!is_trigger || instruction.heredocs.is_empty()) && before_blanks.is_some_and(|before| !before.ends_with(escape)) {
        // A blank to the parser, and to the lexer something that keeps the escape from continuing the line.
        out.push('\x0c');
    }
    out.push('\n');
    if !is_trigger {
        for heredoc in &instruction.heredocs {
            let _ = writeln!(out, "{}{}", heredoc.raw_body(), heredoc.name);
        }
    }
}

/// What stands behind the keyword.
#[derive(Default)]
struct Parts {
    /// As they are written.
    flags: Vec<String>,
    arguments: String,
}

impl Parts {
    fn new(arguments: impl Into<String>) -> Self {
        Self { flags: Vec::new(), arguments: arguments.into() }
    }

    fn of(instruction: &Instruction) -> Self {
        match &instruction.kind {
            InstructionKind::From(from) => Self::from(from),
            InstructionKind::Run(run) => Self::run(run),
            InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => Self::new(command_line(command)),
            InstructionKind::Label(pairs) | InstructionKind::Env(pairs) => Self::new(joined(pairs.iter().map(key_value))),
            InstructionKind::Arg(declarations) => Self::new(joined(declarations.iter().map(declaration))),
            InstructionKind::Maintainer(word) | InstructionKind::User(word) | InstructionKind::Workdir(word) | InstructionKind::Stopsignal(word) => {
                Self::new(&word.value)
            }
            InstructionKind::Expose(words) => Self::new(joined(words.iter().map(|word| word.value.clone()))),
            InstructionKind::Copy(copy) => Self::copy(copy, instruction),
            InstructionKind::Add(add) => Self::add(add, instruction),
            InstructionKind::Volume(words) | InstructionKind::Shell(words) => Self::new(json(words)),
            InstructionKind::Onbuild(onbuild) => Self::new(onbuild.text.trim_end()),
            InstructionKind::Healthcheck(healthcheck) => Self::healthcheck(healthcheck),
        }
    }

    fn flag(&mut self, name: &str, value: impl AsRef<str>) {
        self.flags.push(flag_word(&format!("--{name}={}", value.as_ref())));
    }

    fn word(&mut self, name: &str, word: Option<&Word>) {
        word.into_iter().for_each(|word| self.flag(name, &word.value));
    }

    fn words(&mut self, name: &str, words: &[Word]) {
        words.iter().for_each(|word| self.flag(name, &word.value));
    }

    fn set(&mut self, name: &str, is_set: bool) {
        self.flags.extend(is_set.then(|| format!("--{name}")));
    }

    fn from(from: &From) -> Self {
        let mut parts = Self::new(&from.base.value);
        parts.word("platform", from.platform.as_ref());
        if let Some(name) = &from.name {
            let keyword = from.as_keyword.as_ref().map_or("AS", |word| word.value.as_str());
            let _ = write!(parts.arguments, " {keyword} {}", name.value);
        }
        parts
    }

    fn run(run: &Run) -> Self {
        let mut parts = Self::new(match &run.command {
            RunCommand::Plain(command) => command_line(command),
            RunCommand::Script(heredoc) | RunCommand::Shebang(heredoc) => heredoc.raw.clone(),
            // The bodies follow.
            RunCommand::Glued { text, .. } => text.value.lines().next().unwrap_or_default().to_owned(),
        });
        for mount in &run.mounts {
            parts.flag("mount", &mount.raw.value);
        }
        parts.word("network", run.network.as_ref());
        parts.word("security", run.security.as_ref());
        parts.words("device", &run.devices);
        run.timeout.iter().for_each(|timeout| parts.flag("timeout", go_duration(timeout.value)));
        run.retry.iter().for_each(|retry| parts.flag("retry", retry.value.to_string()));
        parts
    }

    fn copy(copy: &Copy, instruction: &Instruction) -> Self {
        let mut parts = Self::new(paths(&copy.paths, instruction));
        parts.word("from", copy.from.as_ref());
        parts.word("chown", copy.chown.as_ref());
        parts.word("chmod", copy.chmod.as_ref());
        parts.set("link", copy.link);
        parts.set("parents", copy.parents);
        parts.words("exclude", &copy.excludes);
        parts
    }

    fn add(add: &Add, instruction: &Instruction) -> Self {
        let mut parts = Self::new(paths(&add.paths, instruction));
        parts.word("chown", add.chown.as_ref());
        parts.word("chmod", add.chmod.as_ref());
        parts.set("link", add.link);
        parts.words("exclude", &add.excludes);
        add.keep_git_dir.iter().for_each(|keep| parts.flag("keep-git-dir", keep.to_string()));
        parts.word("checksum", add.checksum.as_ref());
        add.unpack.iter().for_each(|unpack| parts.flag("unpack", unpack.to_string()));
        parts
    }

    fn healthcheck(healthcheck: &Healthcheck) -> Self {
        let Healthcheck::Command { command, interval, timeout, start_period, start_interval, retries } = healthcheck else {
            return Self::new("NONE");
        };
        let mut parts = Self::new(format!("CMD {}", command_line(command)));
        for (name, duration) in [("interval", interval), ("timeout", timeout), ("start-period", start_period), ("start-interval", start_interval)] {
            duration.iter().for_each(|duration| parts.flag(name, go_duration(*duration)));
        }
        retries.iter().for_each(|retries| parts.flag("retries", retries.to_string()));
        parts
    }
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn json(words: &[Word]) -> String {
    let quoted = words.iter().map(|word| serde_json::Value::from(word.value.as_str()).to_string());
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

fn command_line(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(text) => text.value.clone(),
        CommandLine::Exec(words) => json(words),
    }
}

fn key_value(pair: &KeyValue) -> String {
    let KeyValue { key, value, legacy } = pair;
    if !legacy {
        return format!("{}={}", key.value, value.value);
    }
    // An escape before a single blank would join both words where it is decided which form this is.
    let escaped = key.value.ends_with(['\\', '`']);
    format!("{}{}{}", key.value, if escaped { "  " } else { " " }, value.value)
}

fn declaration(argument: &ArgDeclaration) -> String {
    let default = argument.default.as_ref().map_or(String::new(), |default| format!("={}", default.value));
    format!("{}{default}", argument.name.value)
}

/// Words with the blanks that were between them, if these are the words a line ends with. To the reader of heredocs not all blanks are the same: `<<`
/// and a backslash may take one into their word.
fn as_written<'a>(line: &'a str, words: &[&str]) -> Option<&'a str> {
    let mut before = line;
    for (index, word) in words.iter().rev().enumerate() {
        let rest = before.trim_end_matches(is_blank);
        if index > 0 && rest.len() == before.len() {
            return None;
        }
        before = rest.strip_suffix(word)?;
    }
    Some(line[before.len()..].trim_end_matches(is_blank))
}

/// As words where they can be told apart; in order, because heredocs' bodies follow in it. Else as JSON.
fn paths(paths: &CopyPaths, instruction: &Instruction) -> String {
    let mut words: Vec<(u32, &str)> = paths.sources.iter().map(|word| (word.span.start, word.value.as_str())).collect();
    words.extend(paths.heredocs.iter().map(|heredoc| (heredoc.span.start, heredoc.raw.as_str())));
    // Stable: where there are no spans, sources come first.
    words.sort_by_key(|(start, _)| *start);
    words.push((u32::MAX, paths.dest.value.as_str()));
    let words: Vec<&str> = words.into_iter().map(|(_, word)| word).collect();
    if !instruction.heredocs.is_empty() {
        return as_written(&instruction.original, &words).map_or_else(|| words.join(" "), str::to_owned);
    }
    let plain = words.join(" ");
    let is_word = |word: &str| !word.is_empty() && !word.contains(char::is_whitespace) && !word.contains(is_blank);
    let is_plain = words.iter().all(|word| is_word(word))
        && !plain.starts_with('[')
        && heredoc::find(&plain, 0).is_empty()
        && heredoc::read(&paths.dest.value).is_none();
    if is_plain {
        return plain;
    }
    let all: Vec<Word> = paths.sources.iter().chain([&paths.dest]).cloned().collect();
    json(&all)
}
