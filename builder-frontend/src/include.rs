//! `# rbuild:include FILE`: the text of another file in the place of a comment line. Our own; nothing is included unless it is written.
//!
//! [`assemble`] puts the files together into one text, which is then parsed as if it had been written so, and keeps a map from that text back to the
//! files, so that every problem is shown where a person wrote it. Files are asked for by path through a function; whoever has them answers, or says
//! that it must find out first ([`Fetched::Unknown`]) and calls again.
//!
//! # What counts
//! - The line stands between instructions, as a comment line would: inside an instruction or a heredoc it is an error or plain text.
//! - FILE is relative to the directory of the file that includes it, and never leaves the root. It is taken as written: no variables, no quotes.
//! - An included file holds whole instructions. Its parser directives are comments, except that an `escape` other than that of the file that is built
//!   is an error: it would be read wrongly.
//! - The line itself becomes an empty line, so that what is included is never taken for parser directives.
//!
//! # Invariants
//! - Pure, and bounded: [`MAX_DEPTH`], [`MAX_INCLUDES`], and the parser's own limit on the length of a text.
//! - An include with a problem stays what it is to other builders, a comment; the problem points at it.

mod marker;

use std::borrow::Cow;

use crate::diagnostic::Problem;
use crate::directive;
use crate::lexer::BYTE_ORDER_MARK;
use crate::parser::MAX_FILE_BYTES;
use crate::source::{SourceFile, Span};
use crate::suggest;
use marker::{Marker, MarkerKind, PREFIX, Scan};

/// Deepest nesting: every level is a round of asking, and nobody follows more.
pub const MAX_DEPTH: usize = 10;

/// Most includes of one build, those of one file in several places counted each time.
pub const MAX_INCLUDES: usize = 1_000;

/// What is known of a file that is to be included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched<'a> {
    /// Its text.
    Text(Cow<'a, str>),
    /// It is not there; these names stand beside it.
    Absent(&'a [String]),
    /// It can't be used: why, as a fragment.
    Unusable(String),
    /// Nothing yet.
    Unknown,
}

/// Where the file that is built stands, and who has the others.
pub struct Includes<'a> {
    /// Path of the file that is built, relative to the root; only its directory counts if it has no name of its own there (standard input).
    pub path: &'a str,
    /// The root, in words: `the build context`.
    pub root: &'a str,
    /// Answers for paths relative to the root, without `.` and `..`.
    pub fetch: &'a dyn Fn(&str) -> Fetched<'a>,
}

impl std::fmt::Debug for Includes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Includes").field("path", &self.path).field("root", &self.root).finish_non_exhaustive()
    }
}

/// Whether includes are followed.
#[derive(Debug)]
pub enum Policy<'a> {
    /// They are.
    Follow(Includes<'a>),
    /// They are problems, for this reason and with this advice.
    Refuse {
        /// What is wrong.
        reason: &'a str,
        /// What to do.
        help: &'a str,
    },
}

/// One text made of several files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The whole, under the name of the file that is built.
    pub source: SourceFile,
    /// The file that is built, then the included ones in the order of the text; a file that is included twice is here twice.
    pub files: Vec<AssembledFile>,
    /// Paths to be fetched before the text is whole. Relative to the root, each once.
    pub unknown: Vec<String>,
    /// What is wrong with includes. Spans are places in `source`.
    pub problems: Vec<Problem>,
    /// Pieces of the text in order. Between them are at most line ends that no file has.
    pieces: Vec<Piece>,
}

/// A file that became part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledFile {
    /// Its name as messages show it, and its own text.
    pub source: SourceFile,
    /// The file (by its place in [`Assembled::files`]) and the line of it that included this one.
    pub included_at: Option<(usize, u32)>,
}

/// From `start` of the whole on, the text is that of `file` from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: usize,
    file: usize,
    offset: usize,
    length: usize,
}

impl Assembled {
    /// The file that a place of the whole text is in, and the place there. What reaches over a piece's end ends with it.
    #[must_use]
    pub fn place(&self, span: Span) -> (usize, Span) {
        let Span { start, end } = span;
        let (start, end) = (start as usize, end as usize);
        let index = self.pieces.partition_point(|piece| piece.start <= start).saturating_sub(1);
        let Some(piece) = self.pieces.get(index) else { return (0, span) };
        // Between pieces there are only line ends that no file has.
        let at = start.saturating_sub(piece.start).min(piece.length);
        let until = end.saturating_sub(piece.start).clamp(at, piece.length);
        (piece.file, Span::new(piece.offset + at, piece.offset + until))
    }

    /// `NAME:LINE` of the lines that included a file, innermost first; none for the file that is built.
    #[must_use]
    pub fn included_at(&self, file: usize) -> Vec<String> {
        let mut places = Vec::new();
        let mut next = self.files[file].included_at;
        while let Some((by, line)) = next {
            places.push(format!("{}:{line}", self.files[by].source.name));
            next = self.files[by].included_at;
        }
        places
    }
}

/// Puts `text` and what it includes together.
///
/// ```
/// use builder_frontend::include::{Fetched, Includes, Policy, assemble};
///
/// let fetch = |path: &str| match path {
///     "docker/tools.dockerfile" => Fetched::Text("RUN apk add git\nRUN apk add make".into()),
///     _ => Fetched::Absent(&[]),
/// };
/// let includes = Includes { path: "docker/Dockerfile", root: "the build context", fetch: &fetch };
/// let text = "FROM alpine\n# rbuild:include tools.dockerfile\nCMD [\"sh\"]\n";
/// let whole = assemble("docker/Dockerfile", text, &Policy::Follow(includes));
/// assert_eq!(whole.source.text, "FROM alpine\n\nRUN apk add git\nRUN apk add make\nCMD [\"sh\"]\n");
///
/// // Instructions are parsed in the whole text and shown in the files.
/// let parsed = builder_frontend::parser::parse(&whole.source);
/// let (file, span) = whole.place(parsed.dockerfile.instructions[2].span);
/// let file = &whole.files[file].source;
/// assert_eq!((file.name.as_str(), file.line_column(span.start)), ("docker/tools.dockerfile", (2, 1)));
/// ```
#[must_use]
pub fn assemble(name: &str, text: &str, policy: &Policy<'_>) -> Assembled {
    // Most files include nothing: one search instead of a walk through all lines.
    if !text.contains(PREFIX) {
        let source = SourceFile::new(name, text);
        let files = vec![AssembledFile { source: source.clone(), included_at: None }];
        let pieces = vec![Piece { start: 0, file: 0, offset: 0, length: text.len() }];
        return Assembled { source, files, unknown: Vec::new(), problems: Vec::new(), pieces };
    }
    let path = if let Policy::Follow(includes) = policy { includes.path } else { "" };
    let mut assembler = Assembler {
        policy,
        escape: directive::read(text).directives.escape,
        // Files are called as the one that is built: with what stands before its path in the root.
        prefix: name.strip_suffix(path).filter(|_| !path.is_empty()).unwrap_or_default().to_owned(),
        open: Vec::new(),
        includes: 0,
        whole: String::new(),
        out: Output::default(),
    };
    assembler.add(SourceFile::new(name, text), path, None);
    let Output { files, unknown, problems, pieces } = assembler.out;
    Assembled { source: SourceFile::new(name, assembler.whole), files, unknown, problems, pieces }
}

#[derive(Default)]
struct Output {
    files: Vec<AssembledFile>,
    unknown: Vec<String>,
    problems: Vec<Problem>,
    pieces: Vec<Piece>,
}

struct Assembler<'p, 'a> {
    policy: &'p Policy<'a>,
    escape: char,
    prefix: String,
    /// The paths of the files that are being read, outermost first, each with its place in the list of files.
    open: Vec<(String, usize)>,
    includes: usize,
    whole: String,
    out: Output,
}

impl Assembler<'_, '_> {
    fn add(&mut self, source: SourceFile, path: &str, included_at: Option<(usize, u32)>) {
        let file = self.out.files.len();
        let is_included = included_at.is_some();
        let text = source.text.clone();
        self.out.files.push(AssembledFile { source, included_at });
        self.open.push((path.to_owned(), file));
        let mark = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
        let scan = Scan::of(&text, mark, self.escape);
        let mut copied = if is_included { mark } else { 0 };
        for marker in &scan.markers {
            self.copy(file, &text, copied..marker.line.start);
            copied = marker.line.start;
            let at = self.whole.len();
            let in_whole = |span: Span| Span::new(at + span.start as usize - marker.line.start, at + span.end as usize - marker.line.start);
            match self.follow(marker, path) {
                Ok(Some((included, path))) => {
                    copied = marker.line.end + line_end(&text[marker.line.end..]);
                    self.copy(file, &text, marker.line.end..copied);
                    if copied == marker.line.end {
                        self.whole.push('\n');
                    }
                    let line = self.out.files[file].source.line_column(marker.span.start).0;
                    self.add(included, &path, Some((file, line)));
                }
                Ok(None) => {}
                Err(problem) => {
                    let span = in_whole(problem.span);
                    self.out.problems.push(Problem { span, ..problem });
                }
            }
        }
        let rest = self.whole.len();
        self.copy(file, &text, copied..text.len());
        if is_included {
            self.check_included(&text, file, copied, rest, &scan);
            if !self.whole.ends_with('\n') {
                self.whole.push('\n');
            }
        }
        self.open.pop();
    }

    fn copy(&mut self, file: usize, text: &str, range: std::ops::Range<usize>) {
        if !range.is_empty() {
            self.out.pieces.push(Piece { start: self.whole.len(), file, offset: range.start, length: range.len() });
            self.whole.push_str(&text[range]);
        }
    }

    /// What an included file must keep to.
    fn check_included(&mut self, text: &str, file: usize, copied: usize, rest: usize, scan: &Scan) {
        let top = directive::read(text);
        if let Some(span) = top.escape_span.filter(|_| top.directives.escape != self.escape) {
            let message = format!("an included file has the escape character of the file that is built, `{}`", self.escape);
            self.note_in(
                file,
                Problem::error("include-escape", message, span).label("another one here").help("use one escape character in all files of a build"),
            );
        }
        if let Some(problem) = &scan.open_end {
            // It lies in the last piece: nothing of this file is included behind it.
            let in_whole = |byte: u32| rest + (byte as usize).max(copied) - copied;
            let span = Span::new(in_whole(problem.span.start), in_whole(problem.span.end));
            self.out.problems.push(Problem { span, ..problem.clone() });
        }
    }

    /// A problem at a place of a file that is part of the whole.
    fn note_in(&mut self, file: usize, problem: Problem) {
        let at = problem.span.start as usize;
        let piece = self.out.pieces.iter().find(|piece| piece.file == file && (piece.offset..piece.offset + piece.length).contains(&at));
        let Some(piece) = piece else { return };
        let to_whole = |byte: u32| byte as usize - piece.offset + piece.start;
        let span = Span::new(to_whole(problem.span.start), to_whole(problem.span.end));
        self.out.problems.push(Problem { span, ..problem });
    }

    /// The file that a marker names, and its path; none if it must be fetched first.
    fn follow(&mut self, marker: &Marker, from: &str) -> Result<Option<(SourceFile, String)>, Problem> {
        let written = match &marker.kind {
            MarkerKind::Include(written) => written,
            MarkerKind::Misspelt => {
                return Err(Problem::error(
                    "unknown-directive",
                    "a comment that begins with `rbuild:` says something that is not known",
                    marker.span,
                )
                .help("write `# rbuild:include FILE` to include a file, or change the comment"));
            }
            MarkerKind::Inside => {
                return Err(Problem::error("include-inside", "a file can't be included inside an instruction", marker.span)
                    .label("the instruction above goes on behind this line")
                    .help("put it above or below the instruction"));
            }
        };
        let includes = match self.policy {
            Policy::Follow(includes) => includes,
            Policy::Refuse { reason, help } => return Err(Problem::error("include", *reason, marker.span).help(*help)),
        };
        if written.is_empty() {
            return Err(Problem::error("include", "an include names no file", marker.span).help("write `# rbuild:include FILE`"));
        }
        let path = self.resolve(written, from, includes.root).map_err(|problem| Problem { span: marker.path, ..problem })?;
        if let Some(first) = self.open.iter().position(|(known, _)| *known == path) {
            let names = self.open[first..].iter().map(|(_, file)| self.out.files[*file].source.name.as_str());
            let again = self.out.files[self.open[first].1].source.name.as_str();
            let cycle = names.chain([again]).collect::<Vec<_>>().join(" → ");
            return Err(Problem::error("include-cycle", format!("a file includes itself: {cycle}"), marker.span)
                .label("here the circle closes")
                .help("remove one of these includes"));
        }
        if self.open.len() > MAX_DEPTH {
            let names = self.open.iter().map(|(_, file)| self.out.files[*file].source.name.as_str()).collect::<Vec<_>>().join(" → ");
            return Err(Problem::error("include-depth", format!("includes are nested deeper than {MAX_DEPTH}: {names}"), marker.span));
        }
        self.includes += 1;
        if self.includes > MAX_INCLUDES {
            return Err(Problem::error("include-count", format!("more than {MAX_INCLUDES} files are included"), marker.span));
        }
        let text = match (includes.fetch)(&path) {
            Fetched::Text(text) => text,
            Fetched::Unknown => {
                if !self.out.unknown.contains(&path) {
                    self.out.unknown.push(path);
                }
                return Ok(None);
            }
            Fetched::Unusable(reason) => {
                return Err(Problem::error("include-missing", format!("cannot include {written:?}: {reason}"), marker.path));
            }
            Fetched::Absent(beside) => return Err(absent(written, &path, from, includes.root, beside, marker.path)),
        };
        // What follows in the files that are open comes on top, and is counted when it is added.
        let open: usize = self.open.iter().map(|(_, file)| self.out.files[*file].source.text.len()).sum();
        if self.whole.len() + text.len() + open > MAX_FILE_BYTES {
            let message = format!("with this file there are more than {MAX_FILE_BYTES} bytes; so many are not read");
            return Err(Problem::error("file-too-large", message, marker.path));
        }
        Ok(Some((SourceFile::new(format!("{}{path}", self.prefix), text), path)))
    }

    /// A path as it is written in the file `from`, relative to the root.
    fn resolve(&self, written: &str, from: &str, root: &str) -> Result<String, Problem> {
        let refused = |message: String, help: &str| Problem::error("include-outside", message, Span::default()).help(help.to_owned());
        if written.starts_with('/') {
            return Err(refused(
                format!("cannot include {written:?}: the path must be relative"),
                "write it relative to the directory of the file that includes it",
            ));
        }
        let mut parts: Vec<&str> = from.split('/').collect();
        parts.pop();
        for part in written.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return Err(refused(
                            format!("cannot include {written:?}: it lies outside of {root}"),
                            "files are included only from where the Dockerfile comes from; move the file there",
                        ));
                    }
                }
                part => parts.push(part),
            }
        }
        Ok(parts.join("/"))
    }
}

fn absent(written: &str, path: &str, from: &str, root: &str, beside: &[String], span: Span) -> Problem {
    let shown = if path.is_empty() { "its root" } else { path };
    let where_found = if path == written { String::new() } else { format!(", as {shown:?}") };
    let problem = Problem::error("include-missing", format!("cannot include {written:?}: {root} has no such file{where_found}"), span);
    let name = path.rsplit('/').next().unwrap_or(path);
    let typed = written.rsplit_once('/').map_or("", |(dir, _)| dir);
    if let Some(near) = suggest::nearest(name, beside.iter().map(String::as_str)) {
        let near = if typed.is_empty() { near.to_owned() } else { format!("{typed}/{near}") };
        return problem.help(format!("did you mean `{near}`?"));
    }
    if written.contains('$') {
        return problem.help("variables are not expanded here");
    }
    let directory = from.rsplit_once('/').map_or_else(|| format!("the root of {root}"), |(dir, _)| format!("{dir:?}"));
    problem.help(format!("paths are relative to the file that includes; here to {directory}"))
}

/// The length of the line end that a text begins with.
fn line_end(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |at| at + 1)
}
