//! Compiling stages: from the base on, one instruction after the other.

use builder_core::graph::{CopyAction, Dest, FileAction, FileOp, Op, SourceOp, VertexId, VertexMeta};
use builder_core::oci::Platform;

use super::file::Place;
use super::plan::{Asker, Asking, Known, PlannedStage, PlannedStep};
use super::platform::{Base, ImageSource, Origin, PlatformRun};
use super::remote::GitReference;
use super::state::{StageState, StepNames};
use super::{Compiler, NamedContext, NoCache};
use crate::ast::{InstructionKind, Word};
use crate::diagnostic::Problem;
use crate::expand;
use crate::lint;
use crate::source::Span;
use crate::suggest;

/// Arguments that direct the builder and are never seen by processes (`features.md` A7.8).
pub(crate) const NEVER_EXPORTED: &[&str] = &["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// One step being compiled: what it says, where it stands, in which stage.
pub(crate) struct Step<'s> {
    pub(crate) planned: &'s PlannedStep<'s>,
    /// Index of its stage.
    pub(crate) stage: usize,
    /// Whether existing records are passed over.
    pub(crate) ignore_cache: bool,
    pub(crate) run: &'s PlatformRun,
    pub(crate) plan: &'s PlannedStage<'s>,
    /// Results of the stages before.
    pub(crate) done: &'s [Option<StageState>],
}

impl Step<'_> {
    pub(crate) fn place(&self) -> Place {
        self.planned.place
    }

    pub(crate) fn asking(&self, asker: Asker) -> Asking<'_> {
        Asking { run: self.run, index: self.stage, base: &self.plan.base, place: self.place(), asker }
    }
}

impl Compiler<'_> {
    /// Compiles the planned stages in order. A stage with problems yields none, and so does what begins with it. Of stages that `keeps` does not
    /// name only the tree is left once the last stage that begins with them has begun: of thousands most are alike.
    pub(crate) fn compile_stages(
        &mut self,
        run: &PlatformRun,
        plans: &[Option<PlannedStage<'_>>],
        keeps: impl Fn(usize) -> bool,
    ) -> Vec<Option<StageState>> {
        let mut last_child = vec![None; plans.len()];
        for (index, plan) in plans.iter().enumerate() {
            if let Some(PlannedStage { base: Base { origin: Origin::Stage(below), .. }, .. }) = plan {
                last_child[*below] = Some(index).filter(|_| !keeps(*below));
            }
        }
        let mut done: Vec<Option<StageState>> = Vec::with_capacity(plans.len());
        for (index, plan) in plans.iter().enumerate() {
            let state = plan.as_ref().and_then(|plan| {
                let below = match plan.base.origin {
                    Origin::Stage(below) => {
                        let state = done[below].as_mut()?;
                        Some(if last_child[below] == Some(index) { state.last_child() } else { state.child() })
                    }
                    _ => None,
                };
                self.compile_stage(run, plan, index, below, &done)
            });
            done.push(state);
        }
        done
    }

    fn compile_stage(
        &mut self,
        run: &PlatformRun,
        plan: &PlannedStage<'_>,
        index: usize,
        below: Option<StageState>,
        done: &[Option<StageState>],
    ) -> Option<StageState> {
        let mut names = self.step_names(run, plan, index);
        let mut state = self.begin_stage(plan, index, below, &mut names)?;
        let problems_before = self.errors();
        let ignore_cache = self.ignores_cache(index);
        for planned in &plan.steps {
            let step = Step { planned, stage: index, ignore_cache, run, plan, done };
            self.compile_step(&mut state, &step, &mut names);
        }
        (self.errors() == problems_before || self.lenient).then_some(state)
    }

    fn ignores_cache(&self, index: usize) -> bool {
        match &self.options.no_cache {
            NoCache::None => false,
            NoCache::All => true,
            NoCache::Stages(stages) => {
                let name = self.table.stages[index].name.as_deref();
                stages.iter().any(|wanted| name.is_some_and(|name| name.eq_ignore_ascii_case(wanted)))
            }
        }
    }

    fn step_names(&self, run: &PlatformRun, plan: &PlannedStage<'_>, index: usize) -> StepNames {
        let counted = |step: &&PlannedStep<'_>| {
            matches!(
                step.instruction.kind,
                InstructionKind::Run(_) | InstructionKind::Copy(_) | InstructionKind::Add(_) | InstructionKind::Workdir(_)
            )
        };
        let outside = matches!(plan.base.origin, Origin::Image(_) | Origin::Context { .. });
        let total = plan.steps.iter().filter(counted).count() + usize::from(outside);
        let mut prefix = Vec::new();
        if self.multi_platform {
            prefix.push(if plan.base.platform == run.target {
                plan.base.platform.to_string()
            } else {
                format!("{}->{}", plan.base.platform, run.target.architecture)
            });
        }
        if self.table.stages.len() > 1 {
            prefix.push(self.table.stages[index].display_name());
        }
        StepNames { prefix, total, index: 0 }
    }

    /// What a stage starts as; `below` is what the stage that it begins with leaves it.
    fn begin_stage(&mut self, plan: &PlannedStage<'_>, index: usize, below: Option<StageState>, names: &mut StepNames) -> Option<StageState> {
        let stage = &self.table.stages[index];
        let platform = plan.base.platform.clone();
        let place = Place::of(stage.instruction);
        match &plan.base.origin {
            Origin::Scratch => Some(StageState::empty(platform, None)),
            Origin::Stage(_) => {
                let mut state = below?;
                state.platform = if stage.from.platform.is_some() { platform } else { state.platform };
                Some(state)
            }
            Origin::Image(image) => match self.known(image) {
                Known::Image(resolved) => {
                    let wanted = &image.platform;
                    let mut actual = platform;
                    if wanted.rank(&resolved.platform).is_none() {
                        // Nobody asked for a platform: the build becomes one for the image's (A6.10).
                        if self.options.platforms.is_empty() && stage.from.platform.is_none() && resolved.platform.os == wanted.os {
                            actual = resolved.platform.clone();
                        } else {
                            let detail = format!(
                                "Base image {} was pulled with platform {:?}, expected {:?} for current build",
                                image.reference.familiar(),
                                resolved.platform.to_string(),
                                wanted.to_string()
                            );
                            self.linter.report(&lint::INVALID_BASE_IMAGE_PLATFORM, stage.instruction, detail);
                        }
                    }
                    let name = names.next(&format!("FROM {}@{}", named(image), resolved.manifest));
                    let tree = self.image_vertex(image, resolved, name, place);
                    Some(StageState::from_image(resolved.config.clone(), actual, Some(tree)))
                }
                // Something is there, so that nothing is said about an empty stage.
                Known::Failed(_) | Known::Unknown if self.lenient => Some(StageState::empty(platform, Some(self.empty_tree()))),
                Known::Failed(_) | Known::Unknown => None,
            },
            Origin::Context { name, context } => {
                let tree = self.context_tree(name.as_deref(), context, place);
                Some(StageState::empty(platform, Some(tree)))
            }
        }
    }

    fn image_vertex(&mut self, image: &ImageSource, resolved: &builder_core::frontend::ResolvedImage, name: String, place: Place) -> VertexId {
        let op = Op::Source(SourceOp::Image {
            reference: image.reference.clone(),
            location: image.location.clone().into(),
            manifest: resolved.manifest,
            diff_ids: resolved.diff_ids.clone(),
        });
        let meta = self.meta(name, place, false);
        self.graph.add(op, Vec::new(), meta)
    }

    /// The vertex of a context, to copy from. Of a local one only file operations can read.
    pub(crate) fn context_vertex(&mut self, name: Option<&str>, context: &NamedContext, place: Place) -> VertexId {
        let shown = name.map_or_else(|| "[internal] load build context".to_owned(), |name| format!("[context {name}] load from client"));
        match context {
            NamedContext::Local { name: local } => {
                // Not a step of the file: no location, so that all that copy from it share it.
                let meta = VertexMeta { name: shown, ..VertexMeta::default() };
                self.graph.add(Op::Source(SourceOp::Local { name: local.clone() }), Vec::new(), meta)
            }
            NamedContext::Http { url } => {
                let source = self.http_vertex(url, None, shown.clone(), place);
                let copy = copy_everything(true, false);
                let meta = self.meta(shown, place, false);
                self.graph.add(Op::File(FileOp { base: false, actions: vec![copy] }), vec![source], meta)
            }
            NamedContext::Git { url } => match GitReference::parse(url) {
                Some(Ok(git)) => {
                    let meta = self.meta(shown, place, false);
                    let source = if name.is_none() { self.frontend.main_repository(&git) } else { git.source(None) };
                    self.graph.add(Op::Source(source), Vec::new(), meta)
                }
                Some(Err(reason)) => {
                    self.fail(place, Problem::error("git-reference", format!("cannot use git repository {url}: {reason}"), place.lines));
                    self.empty_tree()
                }
                None => {
                    self.fail(place, Problem::error("git-reference", format!("{url:?} is no address of a git repository"), place.lines));
                    self.empty_tree()
                }
            },
            NamedContext::Image { .. } | NamedContext::OciLayout { .. } => self.empty_tree(),
        }
    }

    /// A context as a tree of its own, to begin a stage with or to mount.
    fn context_tree(&mut self, name: Option<&str>, context: &NamedContext, place: Place) -> VertexId {
        let vertex = self.context_vertex(name, context, place);
        if !matches!(context, NamedContext::Local { .. }) {
            return vertex;
        }
        let copy = copy_everything(false, true);
        let shown = format!("[context {}] load from client", name.unwrap_or("context"));
        let meta = self.meta(shown, place, false);
        self.graph.add(Op::File(FileOp { base: false, actions: vec![copy] }), vec![vertex], meta)
    }

    /// The empty tree, for what must have one.
    pub(crate) fn empty_tree(&mut self) -> VertexId {
        self.graph.add(Op::Merge, Vec::new(), VertexMeta { name: "empty tree".to_owned(), ..VertexMeta::default() })
    }

    /// One file from a web server, called as the last part of its address.
    pub(crate) fn http_vertex(&mut self, url: &str, checksum: Option<builder_core::oci::Sha256Digest>, name: String, place: Place) -> VertexId {
        let op = SourceOp::Http { url: url.to_owned(), filename: super::remote::http_filename(url), checksum };
        let meta = self.meta(name, place, false);
        self.graph.add(Op::Source(op), Vec::new(), meta)
    }

    /// A stage that a directory of the request stands in for is read like that directory: only what is asked for.
    pub(crate) fn seen_through(origin: Origin, run: &PlatformRun) -> Origin {
        if let Origin::Stage(index) = origin
            && let Some(Ok(base)) = run.bases.get(index)
            && base.replaced
            && matches!(base.origin, Origin::Context { context: NamedContext::Local { .. }, .. })
        {
            return base.origin.clone();
        }
        origin
    }

    /// The vertex that holds what an origin brings, for COPY --from and mounts, and whether its owners become 0:0.
    pub(crate) fn origin_vertex(&mut self, origin: &Origin, step: &Step<'_>) -> Option<(VertexId, bool)> {
        match origin {
            Origin::Scratch => Some((self.empty_tree(), false)),
            Origin::Stage(index) => {
                let tree = step.done.get(*index)?.as_ref()?.tree;
                Some((tree.unwrap_or_else(|| self.empty_tree()), false))
            }
            Origin::Image(image) => match self.known(image) {
                Known::Image(resolved) => {
                    let name = format!("FROM {}@{}", named(image), resolved.manifest);
                    Some((self.image_vertex(image, resolved, name, step.place()), false))
                }
                Known::Failed(_) | Known::Unknown => self.lenient.then(|| (self.empty_tree(), false)),
            },
            Origin::Context { name, context } => {
                let local = matches!(context, NamedContext::Local { .. });
                Some((self.context_vertex(name.as_deref(), context, step.place()), local))
            }
        }
    }

    /// How a vertex is shown.
    pub(crate) fn meta(&self, name: String, place: Place, ignore_cache: bool) -> VertexMeta {
        VertexMeta { name, location: Some(self.file.location(place.lines, place.lines)), ignore_cache }
    }

    /// How a step is shown: as written, the keyword in capitals, values of known variables put in.
    pub(crate) fn step_text(&self, step: &Step<'_>, state: &StageState, masked: &[String]) -> String {
        let instruction = &step.planned.instruction;
        let written = &instruction.original;
        let keyword = instruction.keyword.value.as_str();
        let mut text = match written.get(..keyword.len()) {
            Some(start) if start.eq_ignore_ascii_case(keyword) => format!("{}{}", keyword.to_uppercase(), &written[keyword.len()..]),
            _ => written.clone(),
        };
        if matches!(instruction.kind, InstructionKind::Run(_))
            && let Some(heredoc) = instruction.heredocs.first()
        {
            let mut lines = heredoc.body.trim().lines();
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            text = format!("{text} ({first}{more})");
        }
        let shown =
            super::text::show_variables(
                &text,
                |name| {
                    if masked.iter().any(|secret| secret == name) { Some("****") } else { state.variables.get(name) }
                },
            );
        if step.place().trigger { format!("ONBUILD {shown}") } else { shown }
    }

    /// Expands a word with the stage's variables; reports what it can't and what is not defined.
    pub(crate) fn expand(&mut self, word: &Word, state: &StageState, step: &Step<'_>) -> Option<String> {
        self.expand_text(&word.value, word.span, state, step)
    }

    pub(crate) fn expand_text(&mut self, text: &str, span: Span, state: &StageState, step: &Step<'_>) -> Option<String> {
        match expand::expand_word(text, &state.variables, self.escape()) {
            Ok(expanded) => {
                self.check_defined(&expanded.used, state, step);
                Some(expanded.text)
            }
            Err(error) => {
                self.fail(step.place(), Problem::expansion(&error, span));
                None
            }
        }
    }

    pub(crate) fn check_defined(&mut self, used: &[String], state: &StageState, step: &Step<'_>) {
        for name in used {
            if state.variables.get(name).is_some() || state.args.contains(name) || NEVER_EXPORTED.contains(&name.as_str()) {
                continue;
            }
            let near = || suggest::nearest(name, state.variables.names());
            let hint = match () {
                () if step.run.globals.get(name).is_some() || step.run.declared.iter().any(|arg| arg.name == *name) => {
                    format!(" (it is known before the first FROM only: write `ARG {name}` in this stage, too)")
                }
                () => near().map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default(),
            };
            self.lint(&lint::UNDEFINED_VAR, step, format!("Usage of undefined variable '${name}'{hint}"));
        }
    }

    /// Reports a finding at a step.
    pub(crate) fn lint(&mut self, rule: &'static lint::Rule, step: &Step<'_>, detail: String) {
        self.linter.report_at(rule, &step.planned.instruction, step.place().lines, detail);
    }

    /// `SecretsUsedInArgOrEnv`.
    pub(crate) fn check_secret(&mut self, keyword: &str, name: &str, instruction: &crate::ast::Instruction) {
        if lint::names_a_secret(name) {
            let detail = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.linter.report(&lint::SECRETS_USED_IN_ARG_OR_ENV, instruction, detail);
        }
    }

    /// `SecretValueInArgOrEnv`. The value itself is not repeated.
    pub(crate) fn check_secret_value(&mut self, keyword: &str, name: &str, value: &str, step: &Step<'_>) {
        if let Some(kind) = crate::advice::secret_kind(value) {
            let detail = format!("The value of {keyword} {name} looks like {kind} and stays in the image's history; use RUN --mount=type=secret");
            self.lint(&lint::SECRET_VALUE, step, detail);
        }
    }
}

/// Input 0, whole.
fn copy_everything(unpack: bool, reset_owner: bool) -> FileAction {
    // A download is one file, known as an archive only when it is named itself.
    let source = if unpack { "*" } else { "" };
    let dest = Dest { path: "/".to_owned(), is_dir: true };
    FileAction::Copy(CopyAction { unpack, reset_owner, ..CopyAction::plain(0, vec![source.to_owned()], dest) })
}

fn named(image: &ImageSource) -> String {
    let builder_core::oci::Reference { domain, path, tag, .. } = &image.reference;
    match tag {
        Some(tag) => format!("{domain}/{path}:{tag}"),
        None => format!("{domain}/{path}"),
    }
}

/// The platform written into a config: the one asked for, or the stage's own when nobody asked.
pub(crate) fn result_platform(asked: bool, target: &Platform, state: &StageState) -> Platform {
    if asked { target.clone() } else { state.platform.clone() }
}
