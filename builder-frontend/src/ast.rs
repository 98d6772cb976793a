//! The syntax tree: what a Dockerfile says, before any variable is expanded or any stage is looked up.
//!
//! Every text that the language expands later is a [`Word`]: raw, with quotes and escapes as written.

use std::time::Duration;

use crate::source::{Span, Spanned};

/// A raw word (continuations joined), not expanded, quotes kept.
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dockerfile {
    /// Parser directives.
    pub directives: Directives,
    /// All instructions, in order.
    pub instructions: Vec<Instruction>,
}

/// `# name=value` lines at the top (`features.md` A1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `syntax`, as found by the looser detection of A1.5.
    pub syntax: Option<Word>,
    /// `escape`: backslash or backtick.
    pub escape: char,
    /// `check`.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None }
    }
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: InstructionKind,
    /// From the first byte of the keyword to the last byte (heredoc bodies and terminators included).
    pub span: Span,
    /// The same without heredoc bodies and terminators.
    pub head: Span,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole instruction as one line: continuations joined, comments dropped, keyword as written, heredoc bodies left out. For step names.
    pub original: String,
    /// The comment lines since the last instruction, in order (A2.4, A1.8), and whether a blank line stands between. Directives are none.
    pub comments: Vec<Comment>,
    /// Its continuation held a blank line (A2.3): the first one's place. The reference reports the last line of `head` instead.
    pub blank_continuation: Option<Span>,
    /// Heredocs in order; also inside the kinds that use them.
    pub heredocs: Vec<Heredoc>,
}

/// A comment line above an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Without `#`, blanks trimmed.
    pub text: String,
    /// Where.
    pub span: Span,
    /// Whether a blank line follows it before the instruction or the next comment.
    pub followed_by_blank: bool,
}

/// `<<EOF` and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes.
    pub name: String,
    /// The word as written (`<<-"EOF"`).
    pub raw: String,
    /// File descriptor, if digits preceded.
    pub fd: Option<u32>,
    /// Whether the body is expanded (no quotes in the delimiter).
    pub expand: bool,
    /// `<<-`: tabs were stripped.
    pub chomp: bool,
    /// Body, lines with their ends; with `<<-` without leading tabs.
    pub body: String,
    /// The body with its tabs, if tabs were stripped.
    pub unstripped: Option<String>,
    /// Place of the word.
    pub span: Span,
    /// Place of the body.
    pub body_span: Span,
}

impl Heredoc {
    /// The body as written: what is glued back together for a shell (A3.6), and what a trigger keeps.
    #[must_use]
    pub fn raw_body(&self) -> &str {
        self.unstripped.as_deref().unwrap_or(&self.body)
    }
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// FROM.
    From(From),
    /// RUN.
    Run(Run),
    /// CMD.
    Cmd(CommandLine),
    /// ENTRYPOINT.
    Entrypoint(CommandLine),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// ENV.
    Env(Vec<KeyValue>),
    /// ARG.
    Arg(Vec<ArgDeclaration>),
    /// MAINTAINER, word for word.
    Maintainer(Word),
    /// EXPOSE: words as written and in that order, before expansion (the reference sorts them before it expands).
    Expose(Vec<Word>),
    /// COPY.
    Copy(Copy),
    /// ADD.
    Add(Add),
    /// VOLUME: words or JSON elements.
    Volume(Vec<Word>),
    /// USER.
    User(Word),
    /// WORKDIR.
    Workdir(Word),
    /// ONBUILD.
    Onbuild(Onbuild),
    /// STOPSIGNAL.
    Stopsignal(Word),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// SHELL.
    Shell(Vec<Word>),
}

/// FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`.
    pub platform: Option<Word>,
    /// Base, as written.
    pub base: Word,
    /// Name after AS, as written; `as_keyword` is the word between.
    pub name: Option<Word>,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
}

/// Shell or exec form (A4.2, A4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// One text for the shell.
    Shell(Word),
    /// A JSON array, decoded.
    Exec(Vec<Word>),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`, as written.
    pub network: Option<Word>,
    /// `--security`, as written.
    pub security: Option<Word>,
    /// `--device`, as written.
    pub devices: Vec<Word>,
    /// `--timeout`, our own.
    pub timeout: Option<Spanned<Duration>>,
    /// `--retry`, our own.
    pub retry: Option<Spanned<u32>>,
    /// What runs.
    pub command: RunCommand,
}

/// The three heredoc cases of A3.6, and plain commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCommand {
    /// No heredoc.
    Plain(CommandLine),
    /// The whole argument is one heredoc: its body is the script.
    Script(Heredoc),
    /// As `Script`, and the body begins with `#!`.
    Shebang(Heredoc),
    /// A command line with heredocs, glued back together for the shell.
    Glued {
        /// Command line, line end, bodies and terminators.
        text: Word,
        /// They.
        heredocs: Vec<Heredoc>,
    },
}

/// One `--mount`: CSV fields, unexpanded (A8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The whole value.
    pub raw: Word,
    /// Fields in order: lower-cased key, and the value if there was `=`.
    pub fields: Vec<(Word, Option<Word>)>,
}

impl MountFlag {
    /// The key of a field, as keys are compared.
    pub(crate) fn key_of(field: &str) -> String {
        field.split('=').next().unwrap_or_default().to_lowercase()
    }
}

/// `KEY=value`, or the legacy form `KEY value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// As written.
    pub key: Word,
    /// As written.
    pub value: Word,
    /// Whether the legacy form was used.
    pub legacy: bool,
}

/// `NAME` or `NAME=default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// As written.
    pub name: Word,
    /// As written.
    pub default: Option<Word>,
}

/// Sources and destination of COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPaths {
    /// Path sources, in order.
    pub sources: Vec<Word>,
    /// Heredoc sources, in order.
    pub heredocs: Vec<Heredoc>,
    /// Destination.
    pub dest: Word,
}

/// COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Sources and destination.
    pub paths: CopyPaths,
    /// `--from`, as written.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<Word>,
}

/// ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Sources and destination.
    pub paths: CopyPaths,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// ONBUILD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger's text with heredoc bodies, as stored in the config.
    pub text: String,
    /// The trigger, parsed.
    pub inner: Box<Instruction>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// NONE.
    None,
    /// A command and its options.
    Command {
        /// What runs.
        command: CommandLine,
        /// `--interval`.
        interval: Option<Duration>,
        /// `--timeout`.
        timeout: Option<Duration>,
        /// `--start-period`.
        start_period: Option<Duration>,
        /// `--start-interval`.
        start_interval: Option<Duration>,
        /// `--retries`.
        retries: Option<u32>,
    },
}
