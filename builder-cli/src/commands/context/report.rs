//! What there is to say about contexts: amounts, rules, readers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::Result;
use builder_core::frontend::Compiled;
use builder_core::graph::{SourceLocation, VertexId};
use builder_core::request::LocalContext;
use builder_core::run::file::{ContextSurvey, everything, survey};
use builder_core::source::tree::EntryNode;
use builder_frontend::ignore::IgnoreFile;
use builder_snapshot::TreePath;

use crate::request::context::Ignored;

/// Most files that are named as the largest.
const MAX_LARGEST: usize = 10;

/// The main context.
pub(super) const MAIN: &str = "context";

/// What is asked.
pub(super) struct Question {
    /// The directories.
    pub(super) contexts: BTreeMap<String, LocalContext>,
    /// Their ignore files.
    pub(super) ignores: BTreeMap<String, Ignored>,
    /// The Dockerfile, by the name that messages give it.
    pub(super) definition: Option<String>,
    /// Paths of the main context, as typed.
    pub(super) why: Vec<OsString>,
}

/// The answer.
pub(super) struct Report {
    /// One for each directory.
    pub(super) contexts: Vec<ContextReport>,
    /// One for each path that was asked about.
    pub(super) why: Vec<Why>,
}

/// Files, links and the like, and the bytes of the files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// One directory.
pub(super) struct ContextReport {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// What instructions select.
    pub(super) read: Amount,
    /// What the ignore file leaves out.
    pub(super) ignored: Amount,
    /// The rest.
    pub(super) unread: Amount,
    /// Rules that leave something out, in order of the file.
    pub(super) rules: Vec<RuleReport>,
    /// The largest files that are read, largest first.
    pub(super) largest: Vec<Largest>,
    /// Sources that are not there.
    pub(super) missing: Vec<Missing>,
}

/// A line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleLine {
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) pattern: String,
    pub(super) negated: bool,
}

/// What one line leaves out.
pub(super) struct RuleReport {
    pub(super) rule: RuleLine,
    pub(super) amount: Amount,
    /// The first path.
    pub(super) example: String,
}

/// A large file.
pub(super) struct Largest {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) readers: Vec<Instruction>,
}

/// A source that is not there.
pub(super) struct Missing {
    pub(super) instruction: Instruction,
    pub(super) message: String,
}

/// An instruction that selects something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instruction {
    pub(super) file: String,
    pub(super) line: u32,
    /// Its first line.
    pub(super) text: String,
}

/// Why a path is read or not.
pub(super) struct Why {
    pub(super) path: String,
    pub(super) verdict: Verdict,
    /// Whether it is the Dockerfile or the ignore file, which are read in any case.
    pub(super) is_definition: bool,
    /// Lines of the ignore file that speak of it; the last one decides.
    pub(super) rules: Vec<RuleLine>,
    /// Instructions that select it, or something below it.
    pub(super) instructions: Vec<Instruction>,
    /// Of a directory: what is below it, and how much of that is read and ignored.
    pub(super) below: Option<[Amount; 3]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An instruction selects it.
    Read,
    /// The ignore file leaves it out.
    Ignored,
    /// No instruction selects it.
    Unread,
    /// There is no such path.
    Absent,
    /// It leads out of the context.
    Outside,
}

impl Why {
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.verdict, Verdict::Absent | Verdict::Outside)
    }
}

/// Looks at everything there is.
pub(super) fn report(question: &Question, compiled: &Compiled) -> Result<Report> {
    let wanted: Vec<VertexId> = compiled.targets.iter().filter_map(|target| target.vertex).collect();
    let mut surveys = survey(&compiled.graph, &wanted, &question.contexts)?;
    let instruction = |reader: VertexId| instruction(compiled, reader);
    let mut contexts = Vec::new();
    let mut why = Vec::new();
    for (name, context) in &question.contexts {
        let found = surveys.remove(name).unwrap_or_default();
        let ignored = question.ignores.get(name);
        let mut asked: Vec<Asked> = if name == MAIN { question.why.iter().map(|typed| Asked::new(typed, context)).collect() } else { Vec::new() };
        contexts.push(look(name, context, ignored, &found, &mut asked, &instruction)?);
        why.extend(asked.into_iter().map(|asked| asked.answer(question, ignored, &found, &instruction)));
    }
    Ok(Report { contexts, why })
}

fn instruction(compiled: &Compiled, reader: VertexId) -> Instruction {
    let meta = &compiled.graph.vertex(reader).meta;
    match &meta.location {
        Some(SourceLocation { source, first_line, .. }) => {
            let text = source.lines_from(*first_line).next().unwrap_or_default().trim().to_owned();
            Instruction { file: source.name.clone(), line: *first_line, text }
        }
        None => Instruction { file: String::new(), line: 0, text: meta.name.clone() },
    }
}

fn look(
    name: &str,
    context: &LocalContext,
    ignored: Option<&Ignored>,
    found: &ContextSurvey,
    asked: &mut [Asked],
    instruction: &dyn Fn(VertexId) -> Instruction,
) -> Result<ContextReport> {
    let mut amounts = [Amount::default(); 3];
    let mut rules: BTreeMap<u32, RuleReport> = BTreeMap::new();
    let none = IgnoreFile::default();
    let mut walker = ignored.map_or(&none, |ignored| &ignored.rules).walker();
    let mut largest: Vec<(u64, &TreePath)> = Vec::new();
    everything(context, &mut |entry| {
        let path = entry.path.as_bytes();
        let rule = walker.deciding_rule(path);
        let is_ignored = rule.is_some_and(|rule| !rule.negated);
        asked.iter_mut().filter(|asked| asked.path.as_ref() == Some(&entry.path)).for_each(|asked| asked.is_dir = Some(entry.is_dir()));
        if entry.is_dir() {
            return;
        }
        let bytes = if let EntryNode::File { size, .. } = entry.node { size } else { 0 };
        let selected = found.selected.get_key_value(&entry.path);
        let kind = if selected.is_some() {
            0
        } else if is_ignored {
            1
        } else {
            2
        };
        amounts[kind].add(bytes);
        if let Some((path, _)) = selected {
            largest.push((bytes, path));
        }
        for asked in asked.iter_mut().filter(|asked| asked.holds(&entry.path)) {
            asked.below[kind].add(bytes);
        }
        if let (1, Some(rule), Some(ignored)) = (kind, rule, ignored) {
            let rule = rules.entry(rule.line).or_insert_with(|| RuleReport {
                rule: RuleLine { file: ignored.name.clone(), line: rule.line, pattern: rule.pattern.to_owned(), negated: false },
                amount: Amount::default(),
                example: shown(&entry.path),
            });
            rule.amount.add(bytes);
        }
        // The list never grows beyond what is shown, and some more.
        if largest.len() > 64 * MAX_LARGEST {
            keep_largest(&mut largest);
        }
    })?;
    keep_largest(&mut largest);
    let readers = |path: &TreePath| {
        let mut readers: Vec<Instruction> =
            found.selected.get(path).into_iter().flat_map(|known| &known.readers).map(|&id| instruction(id)).collect();
        readers.dedup();
        readers
    };
    let [read, ignored, unread] = amounts;
    Ok(ContextReport {
        name: name.to_owned(),
        path: context.path.clone(),
        read,
        ignored,
        unread,
        rules: rules.into_values().collect(),
        largest: largest.into_iter().map(|(bytes, path)| Largest { path: shown(path), bytes, readers: readers(path) }).collect(),
        missing: found.failures.iter().map(|(reader, error)| Missing { instruction: instruction(*reader), message: error.to_string() }).collect(),
    })
}

fn keep_largest(largest: &mut Vec<(u64, &TreePath)>) {
    largest.sort_by(|(a, a_path), (b, b_path)| b.cmp(a).then_with(|| a_path.as_bytes().cmp(b_path.as_bytes())));
    largest.truncate(MAX_LARGEST);
}

fn shown(path: &TreePath) -> String {
    path.display().trim_start_matches('/').to_owned()
}

/// A path that was asked about, and what the walk sees of it.
struct Asked {
    typed: String,
    /// None if it leads out of the context.
    path: Option<TreePath>,
    is_dir: Option<bool>,
    /// Read, ignored, neither.
    below: [Amount; 3],
}

impl Asked {
    fn new(typed: &OsString, context: &LocalContext) -> Self {
        let path = std::path::Path::new(typed);
        let inside = if path.is_absolute() { path.strip_prefix(&context.path).ok() } else { Some(path) };
        let path = inside.and_then(within);
        let is_dir = path.as_ref().is_some_and(TreePath::is_root).then_some(true);
        Self { typed: typed.to_string_lossy().into_owned(), path, is_dir, below: [Amount::default(); 3] }
    }

    /// Whether `path` lies below it.
    fn holds(&self, path: &TreePath) -> bool {
        let Some(dir) = self.path.as_ref().filter(|_| self.is_dir == Some(true)) else { return false };
        dir.is_root() || path.as_bytes().strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    fn answer(self, question: &Question, ignored: Option<&Ignored>, found: &ContextSurvey, instruction: &dyn Fn(VertexId) -> Instruction) -> Why {
        let name = self.path.as_ref().map_or(self.typed.clone(), |path| if path.is_root() { ".".to_owned() } else { shown(path) });
        let mut why = Why { path: name, verdict: Verdict::Outside, is_definition: false, rules: Vec::new(), instructions: Vec::new(), below: None };
        let Some(path) = &self.path else { return why };
        let Some(is_dir) = self.is_dir else {
            why.verdict = Verdict::Absent;
            why.rules = rules(ignored, path);
            return why;
        };
        why.is_definition = question.definition.as_deref() == Some(&why.path) || ignored.is_some_and(|ignored| ignored.name == why.path);
        why.rules = rules(ignored, path);
        let reading = found.selected.iter().filter(|(other, _)| *other == path || is_dir && self.holds(other));
        let mut instructions: Vec<Instruction> = reading.flat_map(|(_, known)| &known.readers).map(|&reader| instruction(reader)).collect();
        instructions.sort_by(|a, b| (a.line, a).cmp(&(b.line, b)));
        instructions.dedup();
        let is_ignored = why.rules.last().is_some_and(|rule| !rule.negated);
        why.verdict = if !instructions.is_empty() {
            Verdict::Read
        } else if is_ignored {
            Verdict::Ignored
        } else {
            Verdict::Unread
        };
        why.instructions = instructions;
        why.below = is_dir.then_some(self.below);
        why
    }
}

fn rules(ignored: Option<&Ignored>, path: &TreePath) -> Vec<RuleLine> {
    let Some(ignored) = ignored else { return Vec::new() };
    let rules = ignored.rules.matching_rules(path.as_bytes()).into_iter();
    rules.map(|rule| RuleLine { file: ignored.name.clone(), line: rule.line, pattern: rule.pattern.to_owned(), negated: rule.negated }).collect()
}

/// The path cleaned; none if it leads out.
fn within(path: &std::path::Path) -> Option<TreePath> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    TreePath::clipped(parts.join(&b'/')).ok()
}
