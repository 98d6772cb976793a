//! `SOURCE_DATE_EPOCH`: a number, or what has a time (`features.md` A14.1).

use builder_core::diagnostic::Diagnostic;
use builder_core::frontend::{Answer, Need, Resolved};
use builder_core::graph::{FileAction, Op, SourceOp};

use super::file::{Located, ParsedFile};
use super::platform::PlatformRun;
use super::remote::{self, GitReference};
use super::{Compiler, DockerfileFrontend, NamedContext};
use crate::ast::InstructionKind;
use crate::diagnostic::Problem;
use crate::lint::CheckOptions;
use crate::source::Span;
use crate::stage::StageTable;
use crate::suggest;

/// The argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// The main context.
const CONTEXT: &str = "context";

/// What is known about the epoch.
pub(super) enum EpochOutcome {
    /// Seconds since 1970, as written.
    Given(i64),
    /// Seconds since 1970, of what a word names.
    Found(i64),
    /// There is none.
    None,
    /// This must be known first.
    Need(Box<Need>),
}

/// What a word names that may have a time.
enum Dated {
    /// This has one.
    Source(SourceOp),
    /// Directories have none.
    Local,
}

impl DockerfileFrontend {
    /// The epoch that the file or a build argument asks for.
    pub(super) fn epoch(&self, file: &ParsedFile, table: &StageTable<'_>, resolved: &Resolved) -> Result<EpochOutcome, Vec<Diagnostic>> {
        let mut compiler = Compiler::new(self, file, table, resolved, CheckOptions::default());
        compiler.lenient = true;
        let Some(platform) = compiler.platforms().into_iter().next() else { return Ok(EpochOutcome::None) };
        let given = self.build_args.get(NAME).map(|text| (text.clone(), Span::default()));
        let is_declared = table.globals.iter().any(|instruction| match &instruction.kind {
            InstructionKind::Arg(declarations) => declarations.iter().any(|declaration| declaration.name.value == NAME),
            _ => false,
        });
        let mut run = None;
        let declared = if is_declared {
            let run = run.insert(compiler.start_platform(platform.clone()));
            run.declared.iter().rfind(|arg| arg.name == NAME).and_then(|arg| Some((arg.value.clone()?, arg.place)))
        } else {
            None
        };
        let Some((text, place)) = declared.or(given).filter(|(text, _)| !text.is_empty()) else { return Ok(EpochOutcome::None) };
        if let Ok(seconds) = text.parse() {
            return Ok(EpochOutcome::Given(seconds));
        }
        let run = run.unwrap_or_else(|| compiler.start_platform(platform));
        let source = match compiler.dated(&run, &text, place) {
            Ok(Dated::Source(source)) => source,
            Ok(Dated::Local) => return Ok(EpochOutcome::None),
            Err(problem) => {
                let located = if place == Span::default() { Located::nowhere(problem) } else { Located::own(problem) };
                return Err(vec![file.diagnostic(&located)]);
            }
        };
        let need = Need::Time { source };
        match resolved.answers.get(&need) {
            None => Ok(EpochOutcome::Need(Box::new(need))),
            Some(Answer::Time(Some(seconds))) => Ok(EpochOutcome::Found(*seconds)),
            Some(answer) => {
                let reason = match answer {
                    Answer::Failed(reason) => reason.as_str(),
                    _ => "its server does not say when it was made",
                };
                let problem = Problem::error("source-date-epoch", format!("{NAME}={text} has no time: {reason}"), place).help(IN_NUMBERS);
                let located = if place == Span::default() { Located::nowhere(problem) } else { Located::own(problem) };
                Err(vec![file.diagnostic(&located)])
            }
        }
    }
}

const IN_NUMBERS: &str = "write seconds since 1970, such as the output of `git log -1 --format=%ct`";

impl Compiler<'_> {
    /// What the word is that stands for a time: the main context, a named one, or a stage.
    fn dated(&mut self, run: &PlatformRun, word: &str, place: Span) -> Result<Dated, Problem> {
        let context = if word == CONTEXT { Some(self.options.context.clone()) } else { self.named_context(word, &run.target).cloned() };
        if let Some(context) = context {
            return match context {
                NamedContext::Local { .. } => Ok(Dated::Local),
                NamedContext::Http { url } => Ok(Dated::Source(SourceOp::Http { filename: remote::http_filename(&url), url, checksum: None })),
                NamedContext::Git { url } => match GitReference::parse(&url) {
                    Some(Ok(git)) if word == CONTEXT => Ok(Dated::Source(self.frontend.main_repository(&git))),
                    Some(Ok(git)) => Ok(Dated::Source(git.source(None))),
                    Some(Err(reason)) => Err(Problem::error("git-reference", format!("cannot use git repository {url}: {reason}"), place)),
                    None => Err(Problem::error("git-reference", format!("{url:?} is no address of a git repository"), place)),
                },
                NamedContext::Image { .. } | NamedContext::OciLayout { .. } => {
                    Err(Problem::error("source-date-epoch", format!("{NAME}={word} names an image, whose time is that of its build"), place)
                        .help(IN_NUMBERS))
                }
            };
        }
        let Some(stage) = self.table.by_name(word) else {
            let names = self.table.names().chain(self.contexts.keys().map(String::as_str)).chain([CONTEXT]);
            let message = format!("invalid {NAME}: {word:?} is no number of seconds, no stage and no context");
            return Err(
                Problem::error("source-date-epoch", message, place).help(suggest::did_you_mean(word, names).unwrap_or_else(|| IN_NUMBERS.to_owned()))
            );
        };
        self.dated_stage(run, stage).map(Dated::Source).ok_or_else(|| {
            let message = format!("{NAME}={word} names a stage that is not made of FROM scratch, ARG and one ADD of an address");
            Problem::error("source-date-epoch", message, place).help("such a stage has the time of what it adds; of other stages there is none")
        })
    }

    /// What a stage adds that is made of nothing else.
    fn dated_stage(&mut self, run: &PlatformRun, index: usize) -> Option<SourceOp> {
        let body = self.table.stages[index].body;
        let mut adds = body.iter().filter(|instruction| !matches!(instruction.kind, InstructionKind::Arg(_)));
        let (Some(InstructionKind::Add(_)), None) = (adds.next().map(|add| &add.kind), adds.next()) else { return None };
        let plans = self.plan(run, &[index]);
        let vertex = self.compile_stages(run, &plans, |stage| stage == index).get(index)?.as_ref()?.tree?;
        let made = self.graph.vertex(vertex);
        let Op::File(op) = &made.op else { return None };
        let ([FileAction::Copy(_)], [input], false) = (&op.actions[..], &made.inputs[..], op.base) else { return None };
        match &self.graph.vertex(*input).op {
            Op::Source(source @ (SourceOp::Http { .. } | SourceOp::Git { .. })) => Some(source.clone()),
            _ => None,
        }
    }
}
