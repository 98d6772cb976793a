//! Text to syntax tree: the whole file, or one trigger out of an image's config.
//!
//! The parser never stops at the first problem and never panics: an instruction that can't be understood becomes a [`Problem`] and is left out of
//! the tree. It looks at every byte a bounded number of times.

use std::ops::Range;

use crate::ast::{Dockerfile, Heredoc, Instruction, InstructionKind};
use crate::diagnostic::Problem;
use crate::directive::{self, Top};
use crate::heredoc;
use crate::instruction::{self, Line};
use crate::lexer::{Lexer, LogicalLine, MAX_LINE_BYTES};
use crate::source::{SourceFile, Span};

/// Largest file: spans are 32 bit, and a Dockerfile is written by hand.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Most instructions of a file: far more than any generator writes, few enough that later passes stay cheap.
pub const MAX_INSTRUCTIONS: usize = 50_000;

/// Most problems that are kept; behind so many nobody reads on.
pub const MAX_PROBLEMS: usize = 1_000;

/// What was understood, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Every instruction that could be understood.
    pub dockerfile: Dockerfile,
    /// In the order of the text.
    pub problems: Vec<Problem>,
    /// The keywords of the instructions that could not be understood, as far as they can be told.
    pub unread: Vec<Option<&'static str>>,
}

/// Parses a whole file.
///
/// ```
/// use builder_frontend::{ast::InstructionKind, parser, source::SourceFile};
///
/// let parsed = parser::parse(&SourceFile::new("Dockerfile", "FROM alpine\nRUN echo hello\nCOPPY a b"));
/// assert!(matches!(parsed.dockerfile.instructions[1].kind, InstructionKind::Run(_)));
/// assert_eq!(parsed.problems[0].help.as_deref(), Some("did you mean `COPY`?"));
/// ```
#[must_use]
pub fn parse(source: &SourceFile) -> Parsed {
    let text = source.text.as_str();
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_FILE_BYTES} are read", text.len());
        return Parsed { problems: vec![Problem::error("file-too-large", message, Span::default())], ..Parsed::default() };
    }
    let top = directive::read(text);
    let mut reader = Reader::new(text, &top);
    let mut stages = Stages::default();
    let mut instructions = Vec::new();
    while let Some(line) = reader.next_line() {
        if instructions.len() == MAX_INSTRUCTIONS || reader.problems.len() >= MAX_PROBLEMS {
            let message = format!("more than {MAX_INSTRUCTIONS} instructions or {MAX_PROBLEMS} problems; the rest of the file is not read");
            reader.problems.push(Problem::error("too-many-instructions", message, line.span));
            break;
        }
        let before = stages.before_from(&line);
        let instruction = reader.instruction(&line);
        if let Some(problem) = before.filter(|_| instruction.is_some()) {
            reader.problems.push(problem);
        }
        instructions.extend(instruction);
    }
    let unread = std::mem::take(&mut reader.unread);
    let mut problems = reader.into_problems();
    problems.extend(stages.none(text).filter(|_| problems.is_empty()));
    problems.sort_by_key(|problem| problem.span.start);
    Parsed { dockerfile: Dockerfile { directives: top.directives, instructions }, problems, unread }
}

/// Parses one trigger as an image's config keeps it (A10.9). Spans are places in `text`.
pub fn parse_trigger(text: &str, escape: char) -> Result<Instruction, Problem> {
    let whole = Span::new(0, text.len());
    let mut reader = Reader::from(text, 0, escape);
    let Some(line) = reader.next_line() else {
        return Err(Problem::error("invalid-trigger", "the trigger has no instruction", whole));
    };
    let Some(instruction) = reader.instruction(&line) else {
        return Err(reader.problems.into_iter().next().unwrap_or_else(|| Problem::error("invalid-trigger", "the trigger can't be read", whole)));
    };
    if matches!(instruction.kind, InstructionKind::From(_) | InstructionKind::Onbuild(_)) {
        return Err(Problem::error("invalid-trigger", format!("{} can't be a trigger", instruction.keyword.value), instruction.keyword.span));
    }
    if let Some(second) = reader.next_line() {
        return Err(Problem::error("invalid-trigger", "a trigger holds one instruction", second.span).label("a second one begins here"));
    }
    Ok(instruction)
}

/// A cut line and what it says, put together.
pub(crate) fn assemble(line: &Line<'_>, kind: InstructionKind, span: Span) -> Instruction {
    let range = line.keyword.start..line.args.end.max(line.keyword.end);
    Instruction {
        kind,
        span: Span { start: line.span_of(range.clone()).start, end: span.end },
        head: line.span_of(range.clone()),
        keyword: line.word(line.keyword.clone()),
        original: line.logical.text[range].to_owned(),
        comments: Vec::new(),
        blank_continuation: line.logical.blank_continuation,
        heredocs: line.heredocs.to_vec(),
    }
}

/// The lexer and what went wrong so far.
pub(crate) struct Reader<'a> {
    lexer: Lexer<'a>,
    escape: char,
    pub(crate) problems: Vec<Problem>,
    /// The text of the instruction above.
    last: String,
    unread: Vec<Option<&'static str>>,
}

impl<'a> Reader<'a> {
    /// Reads what follows the directives at the top.
    pub(crate) fn new(text: &'a str, top: &Top) -> Self {
        Self { problems: top.problems.clone(), ..Self::from(text, top.end, top.directives.escape) }
    }

    /// Reads a text from `at` on.
    pub(crate) fn from(text: &'a str, at: usize, escape: char) -> Self {
        Self { lexer: Lexer::new(text, at, escape), escape, problems: Vec::new(), last: String::new(), unread: Vec::new() }
    }

    pub(crate) fn next_line(&mut self) -> Option<LogicalLine> {
        self.lexer.next_line()
    }

    /// Passes over the bodies of the heredocs that a line opens; they are no instructions. `false` if one has no end, which is a problem then.
    pub(crate) fn skip_heredocs(&mut self, line: &LogicalLine) -> bool {
        let range = Line::cut(line, 0..line.text.len(), self.escape).ok().and_then(|cut| cut.heredoc_range());
        range.is_none_or(|range| self.heredocs(line, range).is_some())
    }

    pub(crate) fn lexer(&self) -> &Lexer<'a> {
        &self.lexer
    }

    /// Everything that went wrong, in no order.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        for span in self.lexer.long_lines() {
            let message = format!("a line has {} bytes; at most {MAX_LINE_BYTES} are allowed", span.end - span.start);
            let start = Span { start: span.start, end: span.start };
            self.problems.push(Problem::error("line-too-long", message, start).help("break it with line continuations, or copy a file instead"));
        }
        self.problems
    }

    /// One instruction with its heredocs; `None` if it has a problem.
    fn instruction(&mut self, logical: &LogicalLine) -> Option<Instruction> {
        let mut line = match Line::cut(logical, 0..logical.text.len(), self.escape) {
            Ok(line) => line,
            Err(unknown) => {
                self.unread.push(unknown.nearest);
                let problem = unknown.problem(logical);
                let help = self.broken_continuation(logical, unknown.nearest.is_some());
                self.problems.push(Problem { help: help.or(problem.help), ..problem });
                self.last.clone_from(&logical.text);
                // A misspelt RUN has its body all the same; reading it as instructions would only add noise.
                if matches!(unknown.nearest, Some("RUN" | "COPY" | "ADD" | "ONBUILD")) {
                    self.heredocs(logical, 0..logical.text.len());
                }
                return None;
            }
        };
        self.last.clone_from(&logical.text);
        let heredocs = match line.heredoc_range() {
            Some(range) => self.heredocs(logical, range)?,
            None => Heredocs::default(),
        };
        line.heredocs = &heredocs.list;
        let span = Span { start: logical.span.start, end: logical.span.end.max(heredocs.end) };
        match instruction::parse(&line) {
            Ok(kind) => {
                let instruction = assemble(&line, kind, span);
                Some(Instruction { comments: logical.comments.clone(), ..instruction })
            }
            Err(problem) => {
                self.unread.push(Some(line.name));
                self.problems.push(problem);
                None
            }
        }
    }

    /// Advice for a line that was perhaps meant to continue the one above.
    fn broken_continuation(&self, line: &LogicalLine, misspelt: bool) -> Option<String> {
        let escape = self.escape;
        if self.last.rsplit_once('#').is_some_and(|(before, _)| before.trim_end().ends_with(escape)) {
            return Some(format!("the `{escape}` above continues nothing, because a comment follows it: put the comment on a line of its own"));
        }
        let joins = |text: &str| text.ends_with("&&") || text.ends_with('|');
        let is_indented = self.lexer.is_indented(line.span);
        let goes_on = line.text.starts_with(['&', '|', ';', '-', ')']) || joins(self.last.trim_end()) || is_indented && !misspelt;
        (goes_on && !self.last.is_empty()).then(|| format!("to continue the instruction above, end its line with `{escape}`"))
    }

    /// The bodies of the heredocs that a line opens; `None` if one has no end.
    fn heredocs(&mut self, logical: &LogicalLine, range: Range<usize>) -> Option<Heredocs> {
        let mut heredocs = Heredocs::default();
        for opening in heredoc::find(&logical.text[range.clone()], range.start) {
            let word = &logical.text[opening.range.clone()];
            let span = logical.span_of(opening.range.clone());
            let body = self.lexer.heredoc_body(&opening.name, opening.strip_tabs);
            if !body.terminated {
                let tabs = if opening.strip_tabs { "" } else { "; `<<-` takes away tabs before it" };
                let help = match body.raw.lines().find(|line| line.trim() == opening.name) {
                    Some(line) => format!("blanks stand around its name in the line {line:?}: remove them{tabs}"),
                    None => "end it with its name on a line of its own, without blanks; put quotes around `<<` if no heredoc is meant".to_owned(),
                };
                self.problems.push(
                    Problem::error("unterminated-heredoc", format!("the heredoc `{word}` has no end"), span)
                        .label(format!("no line after this is exactly `{}`", opening.name))
                        .help(help),
                );
                return None;
            }
            heredocs.list.push(opening.with_body(&body.raw, word, span, body.span));
            heredocs.end = Span::new(0, body.end).end;
        }
        Some(heredocs)
    }
}

/// The heredocs of one line.
#[derive(Debug, Default)]
struct Heredocs {
    list: Vec<Heredoc>,
    /// One past the last terminator; 0 if there are none.
    end: u32,
}

/// Whether instructions stand where they may (A0.3, A0.4).
#[derive(Debug, Default)]
struct Stages {
    from: bool,
    instruction: bool,
    /// An instruction before the first FROM has been reported, or one there is unknown and may have been meant as FROM.
    said: bool,
}

impl Stages {
    fn before_from(&mut self, line: &LogicalLine) -> Option<Problem> {
        self.instruction = true;
        let keyword = line.text.split_whitespace().next().unwrap_or_default();
        if keyword.eq_ignore_ascii_case("FROM") {
            self.from = true;
        }
        if self.from || self.said || keyword.eq_ignore_ascii_case("ARG") {
            return None;
        }
        self.said = true;
        Some(
            Problem::error(
                "no-stage",
                format!("{} stands before the first FROM, where there is no build stage yet", keyword.to_uppercase()),
                line.span,
            )
            .label("only ARG may stand here")
            .help("move it below a FROM"),
        )
    }

    fn none(&self, text: &str) -> Option<Problem> {
        let last = text.trim_end();
        let start = last.rfind('\n').map_or(0, |end| end + 1);
        let span = Span::new(start, last.len());
        if text.trim_start_matches(crate::lexer::BYTE_ORDER_MARK).is_empty() {
            return Some(Problem::error("empty-file", "the Dockerfile is empty", Span::default()).help("begin it with FROM"));
        }
        if !self.instruction {
            return Some(Problem::error("no-instructions", "the Dockerfile has no instructions", span).help("begin it with FROM"));
        }
        (!self.from).then(|| Problem::error("no-stages", "the Dockerfile has no stage to build", span).help("add a FROM"))
    }
}
