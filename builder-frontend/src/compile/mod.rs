//! From a syntax tree to a build graph.
//!
//! [`DockerfileFrontend`] is a pure function of its [`FrontendOptions`] and of what the engine has resolved so far. A call goes through the file
//! once for each platform: global arguments and FROMs (`platform`), what the target reaches and which images that takes (`plan`), then the
//! stages in order (`stages`, with `metadata`, `run`, `mount` and `copy` for the instructions), all into one graph, so that platforms share
//! what is equal. As long as images are missing the answer is the list of them.
//!
//! # Invariants
//! - Nothing is read but the options and the answers; equal inputs give an equal graph, equal configs, equal diagnostics.
//! - A stage uses earlier stages only, so everything runs forwards and nothing recurses over stages.
//! - Only reachable stages ask for images and report problems; the rest is parsed and checked for style.

mod call;
mod control;
mod convert;
mod copy;
mod epoch;
mod file;
mod history;
mod metadata;
mod mount;
mod open;
mod options;
mod plan;
mod platform;
mod remote;
mod run;
mod stages;
mod state;
mod text;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::frontend::{Compilation, Compiled, Frontend, Need, Resolved, TargetImage};
use builder_core::graph::{GraphBuilder, SourceOp};
use builder_core::oci::Platform;
use serde_json::Value;

pub use call::{CallOutcome, CheckReport, Outline, OutlineArg, OutlineSecret, TargetStage, Targets};
pub use convert::Converted;
pub use options::{DockerfileSource, FrontendOptions, IncludeRoot, NamedContext, NoCache};
pub use remote::GitReference;

use crate::diagnostic::Problem;
use crate::lint::{CheckOptions, Linter};
use crate::source::Span;
use crate::stage::StageTable;
use control::Control;
use epoch::EpochOutcome;
use file::{Located, ParsedFile};
use open::Opened;
use platform::{Base, Origin, PlatformRun};
use state::StageState;

/// Compiles a Dockerfile.
#[derive(Debug)]
pub struct DockerfileFrontend {
    options: FrontendOptions,
    build_args: BTreeMap<String, String>,
    contexts: BTreeMap<String, NamedContext>,
}

/// One call's work on one file.
pub(crate) struct Compiler<'a> {
    frontend: &'a DockerfileFrontend,
    options: &'a FrontendOptions,
    build_args: &'a BTreeMap<String, String>,
    contexts: &'a BTreeMap<String, NamedContext>,
    file: &'a ParsedFile,
    table: &'a StageTable<'a>,
    resolved: &'a Resolved,
    /// Whether images may stay unknown and rights ungranted, because nothing will be built.
    lenient: bool,
    /// Whether the result is an index: names of steps begin with their platform.
    multi_platform: bool,
    graph: GraphBuilder,
    needs: BTreeSet<Need>,
    problems: Vec<Located>,
    /// What tells a problem from another, so that platforms don't repeat it.
    noted: HashSet<(&'static str, Span, String)>,
    linter: Linter,
    /// The stages whose layers are in the final image.
    final_stages: HashSet<usize>,
}

impl<'a> Compiler<'a> {
    fn new(frontend: &'a DockerfileFrontend, file: &'a ParsedFile, table: &'a StageTable<'a>, resolved: &'a Resolved, check: CheckOptions) -> Self {
        Self {
            frontend,
            options: &frontend.options,
            build_args: &frontend.build_args,
            contexts: &frontend.contexts,
            file,
            table,
            resolved,
            lenient: false,
            multi_platform: frontend.has_index(),
            graph: GraphBuilder::new(),
            needs: BTreeSet::new(),
            problems: Vec::new(),
            noted: HashSet::new(),
            linter: Linter::new(check),
            final_stages: HashSet::new(),
        }
    }

    /// Remembers which stages `target` is made of, one upon the other.
    fn follow_final(&mut self, run: &PlatformRun, target: usize) {
        let mut next = Some(target);
        while let Some(stage) = next.filter(|stage| self.final_stages.insert(*stage)) {
            next = match run.bases.get(stage) {
                Some(Ok(Base { origin: Origin::Stage(below), .. })) => Some(*below),
                _ => None,
            };
        }
    }

    /// Quoting and continuation character of the file.
    pub(crate) fn escape(&self) -> char {
        self.file.dockerfile.directives.escape
    }

    /// How many problems were noted.
    pub(crate) fn errors(&self) -> usize {
        self.problems.len()
    }

    /// The platforms to build for.
    fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &self.options.platforms {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        if platforms.is_empty() {
            platforms.push(self.options.build_platform.clone());
        }
        platforms
    }

    fn target_image(&self, target: &Platform, state: StageState) -> TargetImage {
        let platform = stages::result_platform(!self.options.platforms.is_empty(), target, &state);
        let (vertex, history) = (state.tree, state.history.clone());
        let mut document = state.into_document();
        document.os.clone_from(&platform.os);
        document.architecture.clone_from(&platform.architecture);
        document.variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
        if !self.options.labels.is_empty() {
            let labels = document.config.labels.get_or_insert_default();
            for (name, value) in &self.options.labels {
                labels.insert(name.clone(), Value::String(value.clone()));
            }
        }
        if let Some(labels) = document.config.labels.take() {
            let sorted: BTreeMap<String, Value> = labels.into_iter().collect();
            document.config.labels = Some(sorted.into_iter().collect());
        }
        TargetImage { platform, vertex, config: document, history: history.into_entries() }
    }

    /// Warnings and notes, in order of the file.
    fn findings(&self) -> Vec<Diagnostic> {
        let mut findings: Vec<&Problem> = self.linter.findings().iter().collect();
        findings.sort_by_key(|finding| (finding.span.start, finding.span.end));
        findings.into_iter().map(|finding| self.file.diagnostic(&Located::own(finding.clone()))).collect()
    }

    /// The problems, in order of the file.
    fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut problems: Vec<&Located> = self.problems.iter().collect();
        problems.sort_by_key(|located| located.problem.span.start);
        problems.into_iter().map(|located| self.file.diagnostic(located)).collect()
    }
}

impl DockerfileFrontend {
    /// A frontend for one file and one set of options.
    #[must_use]
    pub fn new(options: FrontendOptions) -> Self {
        let mut build_args: BTreeMap<String, String> = options.build_args.iter().cloned().collect();
        if let Some(epoch) = options.source_date_epoch {
            build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.to_string());
        }
        let contexts = platform::comparable(&options.named_contexts);
        Self { options, build_args, contexts }
    }

    fn control(&self) -> Result<Control, Diagnostic> {
        Control::read(&self.build_args, self.options.platforms.len())
    }

    /// Whether the result is an index. Wrong values were told when the file was opened.
    fn has_index(&self) -> bool {
        self.control().ok().and_then(|control| control.multi_platform).unwrap_or(self.options.platforms.len() > 1)
    }

    /// What fetches the repository that is the main context.
    fn main_repository(&self, git: &GitReference) -> SourceOp {
        git.source(git.keep_git_dir.or(self.control().unwrap_or_default().keep_git_dir))
    }

    /// Problems that keep the file from being compiled, and those that can be told of the rest of it, so that one run shows all.
    fn with_the_rest(&self, mut problems: Vec<Located>, file: &ParsedFile, table: &StageTable<'_>, resolved: &Resolved) -> Vec<Diagnostic> {
        if file.rest_is_sound
            && problems.len() == file.problems.len()
            && let Ok(target) = table.target(self.options.target.as_deref())
            && !table.stages.is_empty()
        {
            let mut compiler = Compiler::new(self, file, table, resolved, CheckOptions::default());
            compiler.lenient = true;
            for platform in compiler.platforms() {
                let run = compiler.start_platform(platform);
                let plans = compiler.plan(&run, &[target]);
                compiler.compile_stages(&run, &plans, |_| false);
            }
            problems.append(&mut compiler.problems);
            problems.sort_by_key(|located| located.problem.span.start);
        }
        located(file, &problems)
    }

    /// Problems of the file as a whole, before any stage is looked at: syntax, other frontends, options of the checks.
    fn whole_file(&self, file: &ParsedFile, table_problems: Vec<Problem>) -> Result<CheckOptions, Vec<Located>> {
        let mut problems: Vec<Located> = file.problems.iter().cloned().map(Located::own).collect();
        if problems.is_empty() {
            problems.extend(table_problems.into_iter().map(Located::own));
        } else {
            // An instruction that could not be read may be the FROM that is missed.
            problems.extend(table_problems.into_iter().filter(|problem| problem.code == "invalid-stage-name").map(Located::own));
        }
        if let Some(target) = self.options.target.as_deref().filter(|target| self.options.strict && target.parse::<usize>().is_ok()) {
            let problem = Problem::error("own-extension", format!("--target {target}: stages by index are known to rbuild only"), Span::default());
            problems.push(Located::nowhere(problem.help("name the stage with FROM … AS name, or build without --strict-docker")));
        }
        match self.build_args.get("BUILDKIT_SYNTAX").map(String::as_str) {
            Some(image) => problems.extend(self.foreign_syntax(image, Span::default()).map(Located::nowhere)),
            None => {
                let word = file.dockerfile.directives.syntax.as_ref();
                problems.extend(word.and_then(|word| self.foreign_syntax(&word.value, word.span)).map(Located::own));
            }
        }
        let check = match (self.build_args.get("BUILDKIT_DOCKERFILE_CHECK"), &file.dockerfile.directives.check) {
            (Some(text), _) => CheckOptions::parse(text).map_err(|error| Located::nowhere(check_problem(&error, Span::default()))),
            (None, Some(word)) => CheckOptions::parse(&word.value).map_err(|error| Located::own(check_problem(&error, word.span))),
            (None, None) => Ok(CheckOptions::default()),
        };
        match check {
            Ok(check) if !problems.iter().any(|located| located.problem.severity == crate::diagnostic::Severity::Error) => Ok(check),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }
}

impl DockerfileFrontend {
    /// The problem with a syntax image that is not the language built in here. A named context called like it stands in for it (A1.6).
    fn foreign_syntax(&self, value: &str, span: Span) -> Option<Problem> {
        let image = value.split_whitespace().next().unwrap_or_default();
        let problem = |message: String| Problem::error("syntax-image", message, span).help("remove the syntax line, or name docker/dockerfile:1");
        match self.contexts.get(&platform::familiar(image)) {
            Some(NamedContext::Image { reference }) if is_own_syntax(&reference.familiar()) => None,
            Some(_) => Some(problem(format!("the context {image:?} stands in for the syntax image, and front ends are not fetched and run"))),
            None if is_own_syntax(value) => None,
            None => Some(problem(format!("the syntax image {value} is another front end, and front ends are not fetched and run"))),
        }
    }
}

impl Frontend for DockerfileFrontend {
    fn compile(&self, resolved: &Resolved) -> Result<Compilation, Vec<Diagnostic>> {
        let file = match self.open(resolved)? {
            Opened::Needs(needs) => return Ok(Compilation::Needs(needs)),
            Opened::File(file) => file,
        };
        let (table, problems) = StageTable::new(&file.dockerfile);
        let check = self.whole_file(&file, problems).map_err(|problems| self.with_the_rest(problems, &file, &table, resolved))?;
        let target = table.target(self.options.target.as_deref()).map_err(|problem| vec![file.diagnostic(&Located::nowhere(problem))])?;
        let mut build_args = self.build_args.clone();
        let source_date_epoch = match self.epoch(&file, &table, resolved)? {
            EpochOutcome::Need(need) => return Ok(Compilation::Needs(vec![*need])),
            EpochOutcome::Given(seconds) => Some(seconds),
            EpochOutcome::Found(seconds) => {
                // Processes that are told the epoch are told a number.
                build_args.insert(epoch::NAME.to_owned(), seconds.to_string());
                Some(seconds)
            }
            EpochOutcome::None => None,
        };
        let mut compiler = Compiler::new(self, &file, &table, resolved, check);
        compiler.build_args = &build_args;
        let mut planned = Vec::new();
        for platform in compiler.platforms() {
            let run = compiler.start_platform(platform);
            let plans = compiler.plan(&run, &[target]);
            planned.push((run, plans));
        }
        if !compiler.needs.is_empty() {
            // What is wrong already stays wrong: nothing is fetched for it.
            return if compiler.problems.is_empty() {
                Ok(Compilation::Needs(compiler.needs.into_iter().collect()))
            } else {
                Err(compiler.diagnostics())
            };
        }
        compiler.linter.check_syntax(&file.dockerfile, &table);
        let mut targets = Vec::new();
        for (run, plans) in &planned {
            compiler.follow_final(run, target);
            let mut states = compiler.compile_stages(run, plans, |stage| stage == target);
            if let Some(state) = states[target].take() {
                targets.push(compiler.target_image(&run.target, state));
            }
        }
        if !compiler.problems.is_empty() {
            return Err(compiler.diagnostics());
        }
        if !compiler.needs.is_empty() {
            return Ok(Compilation::Needs(compiler.needs.into_iter().collect()));
        }
        let warnings = compiler.findings();
        if compiler.linter.options().error && warnings.iter().any(|found| found.severity == Severity::Warning) {
            return Err(violations(warnings));
        }
        let graph = compiler.graph.finish();
        Ok(Compilation::Ready(Box::new(Compiled {
            graph,
            targets,
            warnings,
            sources: file.texts.clone(),
            source_date_epoch,
            index: self.has_index(),
        })))
    }
}

fn located(file: &ParsedFile, problems: &[Located]) -> Vec<Diagnostic> {
    problems.iter().map(|problem| file.diagnostic(problem)).collect()
}

/// A problem of no place in a file.
fn plain_error(code: &str, message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Error, code: code.to_owned(), message, location: None, label: None, help: None, url: None }
}

/// `error=true`: the findings, and the error that they are.
fn violations(mut warnings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut rules: Vec<&str> = Vec::new();
    for warning in warnings.iter().filter(|found| found.severity == Severity::Warning) {
        if !rules.contains(&warning.code.as_str()) {
            rules.push(&warning.code);
        }
    }
    let error = plain_error("lint-violation", format!("lint violation found for rules: {}", rules.join(", ")));
    warnings.push(error);
    warnings
}

fn check_problem(error: &crate::lint::InvalidCheckOptions, span: Span) -> Problem {
    Problem::error("check-options", format!("failed to parse check options: {error}"), span)
        .help("for example: # check=skip=JSONArgsRecommended,StageNameCasing;error=true")
}

/// Whether a syntax image is the language that is built in here (A1.7).
fn is_own_syntax(value: &str) -> bool {
    let image = value.split_whitespace().next().unwrap_or_default();
    let image = image.strip_prefix("docker.io/").or_else(|| image.strip_prefix("index.docker.io/")).unwrap_or(image);
    let name = image.split('@').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    image.is_empty() || image == "dockerfile.v0" || matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}
