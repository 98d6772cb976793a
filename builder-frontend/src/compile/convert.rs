//! The plain Dockerfile that builds the same image: what only this frontend understands is put into words that all builders know, or left out where
//! it does not change the image.
//!
//! The text is edited in place, by spans: comments, continuations, blanks and everything else stay byte for byte. Built with the same arguments and
//! target the result gives the same image.

use std::collections::HashMap;
use std::ops::Range;

use builder_core::diagnostic::Diagnostic;
use builder_core::frontend::Resolved;

use super::call::CallOutcome;
use super::file::{Located, ParsedFile, Place};
use super::open::Opened;
use super::plan::{Asker, Asking, mount_from};
use super::platform::{Base, Origin, PlatformRun};
use super::{Compiler, DockerfileFrontend};
use crate::ast::{Instruction, InstructionKind, MountFlag, Word};
use crate::diagnostic::Problem;
use crate::directive;
use crate::instruction::{Line, RawFlag, csv};
use crate::lexer::LogicalLine;
use crate::parser::Reader;
use crate::quote::flag_word;
use crate::source::Span;
use crate::stage::StageTable;

/// A Dockerfile for every builder.
#[derive(Debug, Clone, Default)]
pub struct Converted {
    /// Its text.
    pub text: String,
    /// What was left out or could not be put otherwise.
    pub warnings: Vec<Diagnostic>,
}

impl DockerfileFrontend {
    /// The same build without anything that only this frontend understands. No image is asked for, only files that are included.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    pub fn convert(&self, resolved: &Resolved) -> Result<CallOutcome<Converted>, Vec<Diagnostic>> {
        let file = match self.open(resolved)? {
            Opened::Needs(needs) => return Ok(CallOutcome::Needs(needs)),
            Opened::File(file) => file,
        };
        let (table, problems) = StageTable::new(&file.dockerfile);
        let check = self.whole_file(&file, problems).map_err(|problems| self.with_the_rest(problems, &file, &table, resolved))?;
        let target = table.target(self.options.target.as_deref()).map_err(|problem| vec![file.diagnostic(&Located::nowhere(problem))])?;
        let mut compiler = Compiler::new(self, &file, &table, resolved, check);
        let mut runs = Vec::new();
        for platform in compiler.platforms() {
            let run = compiler.start_platform(platform);
            let reached = compiler.plan(&run, &[target]).iter().map(Option::is_some).collect();
            runs.push((run, reached));
        }
        if !compiler.problems.is_empty() {
            return Err(compiler.diagnostics());
        }
        let mut names = Names::default();
        compiler.resolve_names(&runs, &mut names);
        if !compiler.problems.is_empty() {
            return Err(compiler.diagnostics());
        }
        let mut warnings = names.warnings;
        let text = rewritten(&file, &names.by_instruction, &mut warnings);
        warnings.sort_by_key(|located| located.problem.span.start);
        Ok(CallOutcome::Ready(Converted { text, warnings: warnings.iter().map(|located| file.diagnostic(located)).collect() }))
    }
}

/// What the variables in `--from` and in mounts' `from` stand for.
#[derive(Default)]
struct Names {
    /// By the first byte of the instruction: one for COPY, one a mount for RUN; none where there is nothing to replace.
    by_instruction: HashMap<u32, Vec<Option<String>>>,
    warnings: Vec<Located>,
}

impl Compiler<'_> {
    fn resolve_names(&mut self, runs: &[(PlatformRun, Vec<bool>)], names: &mut Names) {
        let table = self.table;
        for stage in &table.stages {
            for instruction in stage.body {
                let place = Place::of(instruction);
                let words = match &instruction.kind {
                    InstructionKind::Copy(copy) => vec![(copy.from.as_ref(), Asker::Copy)],
                    InstructionKind::Run(run) => run.mounts.iter().map(|mount| (mount_from(mount), Asker::Mount)).collect(),
                    InstructionKind::Onbuild(onbuild) => {
                        names.warnings.extend(own_in_trigger(&onbuild.inner).map(|problem| place.locate(problem)));
                        continue;
                    }
                    _ => continue,
                };
                let mut found = Vec::with_capacity(words.len());
                for (word, asker) in words {
                    let Some(word) = word.filter(|word| word.value.contains("${")) else {
                        found.push(None);
                        continue;
                    };
                    match self.name_on_all(word, stage.index, place, asker, runs) {
                        Ok(name) => found.push(Some(name)),
                        Err(problem) if runs.iter().any(|(_, reached)| reached[stage.index]) => {
                            self.fail(place, problem);
                            found.push(None);
                        }
                        // Nobody builds it; elsewhere it is as wrong as here.
                        Err(problem) => {
                            let message = format!("{}; the stage is not built, and the line stays as it is", problem.message);
                            names.warnings.push(place.locate(Problem { message, ..Problem::warning(problem.code, "", problem.span) }));
                            found.push(None);
                        }
                    }
                }
                if found.iter().any(Option::is_some) {
                    names.by_instruction.insert(instruction.span.start, found);
                }
            }
        }
    }

    /// What a `from` stands for, which must be the same for all platforms.
    fn name_on_all(&self, word: &Word, index: usize, place: Place, asker: Asker, runs: &[(PlatformRun, Vec<bool>)]) -> Result<String, Problem> {
        let mut name: Option<String> = None;
        for (run, _) in runs {
            // Only the arguments above the instruction count here, whatever the stage begins with.
            let base = Base { origin: Origin::Scratch, platform: run.target.clone(), replaced: false };
            let asking = Asking { run, index, base: &base, place, asker };
            let one = self.expand_from(&word.value, &asking).map_err(|problem| Problem { span: word.span, ..problem })?.into_owned();
            match &name {
                _ if one.contains('$') => {
                    let message = format!("{} stands for {one:?}, which can't be the name of a stage or image", word.value);
                    return Err(Problem::error("from-variable", message, word.span));
                }
                Some(other) if *other != one => {
                    let message = format!("{} is {other:?} for one platform and {one:?} for another", word.value);
                    return Err(Problem::error("from-variable", message, word.span).help("convert for one platform at a time, with --platform"));
                }
                _ => name = Some(one),
            }
        }
        Ok(name.unwrap_or_default())
    }
}

/// What only we understand in a trigger: its text is part of the image, so it stays.
fn own_in_trigger(inner: &Instruction) -> Option<Problem> {
    let has_variable = |word: &&Word| word.value.contains("${");
    let own = match &inner.kind {
        InstructionKind::Copy(copy) => copy.from.as_ref().filter(has_variable).map(|word| word.span),
        InstructionKind::Run(run) => {
            let from = run.mounts.iter().filter_map(mount_from).find(has_variable).map(|word| word.span);
            from.or(run.timeout.as_ref().map(|flag| flag.span)).or(run.retry.as_ref().map(|flag| flag.span))
        }
        _ => None,
    };
    let message = "a trigger is stored in the image as it is written, so this stays; other builders will refuse it when it is triggered";
    own.map(|span| Problem::warning("own-extension", message, span).help("write the trigger without it"))
}

/// The text with all names put in and our own flags left out.
fn rewritten(file: &ParsedFile, names: &HashMap<u32, Vec<Option<String>>>, warnings: &mut Vec<Located>) -> String {
    let text = file.whole.source.text.as_str();
    let top = directive::read(text);
    let escape = top.directives.escape;
    let mut reader = Reader::new(text, &top);
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    while let Some(logical) = reader.next_line() {
        reader.skip_heredocs(&logical);
        let Ok(line) = Line::cut(&logical, 0..logical.text.len(), escape) else { continue };
        for (range, replacement) in edits(&line, &logical, text, names, warnings) {
            out.push_str(&text[copied..range.start]);
            out.push_str(&replacement);
            copied = range.end;
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// What changes in one instruction, in order: parts of the whole text, and what comes in their places.
fn edits(
    line: &Line<'_>,
    logical: &LogicalLine,
    text: &str,
    names: &HashMap<u32, Vec<Option<String>>>,
    warnings: &mut Vec<Located>,
) -> Vec<(Range<usize>, String)> {
    let mut edits = Vec::new();
    let mut found = names.get(&logical.span.start).into_iter().flatten();
    for flag in &line.flags {
        let span = logical.span_of(flag.range.clone());
        let (name, value) = flag.name_and_value();
        match (line.name, name) {
            ("COPY", "from") => {
                if let Some(Some(resolved)) = found.next() {
                    edits.push((span.range(), flag_word(&format!("--from={resolved}"))));
                }
            }
            ("RUN", "mount") => {
                if let Some(Some(resolved)) = found.next() {
                    edits.push((span.range(), flag_word(&format!("--mount={}", with_from(value.unwrap_or_default(), resolved)))));
                }
            }
            ("RUN", "timeout" | "retry") => {
                warnings.push(left_out(flag, span));
                edits.push(removal(text, span, line.escape));
            }
            _ => {}
        }
    }
    edits
}

fn left_out(flag: &RawFlag, span: Span) -> Located {
    let message = format!("{} is left out: other builders have nothing like it, and it does not change the image", flag.word());
    Located::own(Problem::warning("own-extension", message, span))
}

/// The fields of a mount, `from` replaced.
fn with_from(fields: &str, name: &str) -> String {
    let fields = csv::fields(fields).unwrap_or_default();
    let last = fields.iter().rposition(|(field, _)| MountFlag::key_of(field) == "from");
    let replaced = fields.iter().enumerate().map(|(index, (field, _))| {
        let key = field.split('=').next().unwrap_or_default();
        csv::field(&if Some(index) == last { format!("{key}={name}") } else { field.clone() })
    });
    replaced.collect::<Vec<_>>().join(",")
}

/// What goes with a flag: the blanks behind it, or its whole line where nothing else stands on it; and what comes in its place.
fn removal(text: &str, span: Span, escape: char) -> (Range<usize>, String) {
    let Range { start, end } = span.range();
    let rest = &text[end..];
    let behind = rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let continues = behind.strip_prefix(escape).map(|rest| rest.trim_start_matches([' ', '\t', '\r'])).filter(|rest| rest.starts_with('\n'));
    match continues {
        Some(next) if text[line_start..start].trim().is_empty() => (line_start..text.len() - next.len() + 1, String::new()),
        // At the beginning of a line `#` would make a comment of the command, and nothing at all would continue the line.
        _ if behind.is_empty() || behind.starts_with(['#', '\n']) => (start..end, "--".to_owned()),
        _ => (start..end + (rest.len() - behind.len()), String::new()),
    }
}
