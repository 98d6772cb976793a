//! Which stages a target reaches, and which images those need: everything that is known before any step is compiled.
//!
//! A stage may only use earlier ones, so one pass from the last stage to the first finds all that is reachable, without recursion;
//! what points forward or to itself is an error at that instruction (`features.md` A6.5).

use std::borrow::Cow;

use builder_core::frontend::{Answer, ResolvedImage};
use builder_core::oci::Reference;

use super::Compiler;
use super::file::{Located, Place};
use super::platform::{Base, ImageSource, Origin, PlatformRun};
use crate::ast::{Instruction, InstructionKind, MountFlag};
use crate::diagnostic::Problem;
use crate::expand::{self, Environment};
use crate::parser;
use crate::source::Span;
use crate::stage::StageReference;
use crate::suggest;

/// A reachable stage, ready to be compiled.
#[derive(Debug)]
pub(crate) struct PlannedStage<'a> {
    pub(crate) base: Base,
    /// Triggers of the base, then the stage's own instructions.
    pub(crate) steps: Vec<PlannedStep<'a>>,
}

/// One instruction and where it counts as standing.
#[derive(Debug)]
pub(crate) struct PlannedStep<'a> {
    pub(crate) instruction: Cow<'a, Instruction>,
    pub(crate) place: Place,
}

/// What is known of an image.
pub(crate) enum Known<'a> {
    /// Everything.
    Image(&'a ResolvedImage),
    /// It can't be had.
    Failed(&'a str),
    /// Nothing yet.
    Unknown,
}

/// The instruction that asks for an origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'b> {
    pub(crate) run: &'b PlatformRun,
    /// Its stage.
    pub(crate) index: usize,
    pub(crate) base: &'b Base,
    pub(crate) place: Place,
    pub(crate) asker: Asker,
}

/// Who asks for an origin; decides words and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Copy,
    Mount,
}

impl<'a> Compiler<'a> {
    /// Plans what `targets` reach. Stages that aren't reached are none.
    pub(crate) fn plan(&mut self, run: &PlatformRun, targets: &[usize]) -> Vec<Option<PlannedStage<'a>>> {
        let count = self.table.stages.len();
        let mut needed = vec![false; count];
        for &target in targets {
            needed[target] = true;
        }
        let mut plans: Vec<Option<PlannedStage<'a>>> = (0..count).map(|_| None).collect();
        for index in (0..count).rev() {
            if needed[index] {
                plans[index] = self.plan_stage(run, index, &mut needed);
            }
        }
        plans
    }

    fn plan_stage(&mut self, run: &PlatformRun, index: usize, needed: &mut [bool]) -> Option<PlannedStage<'a>> {
        let table = self.table;
        let stage = &table.stages[index];
        let from_place = Place::of(stage.instruction);
        let base = match &run.bases[index] {
            Ok(base) => base.clone(),
            Err(problems) => {
                for problem in problems {
                    self.fail(from_place, problem.clone());
                }
                return None;
            }
        };
        let mut triggers = Vec::new();
        match &base.origin {
            Origin::Stage(below) => {
                needed[*below] = true;
                triggers = self.triggers_of_stage(run, *below);
            }
            Origin::Image(image) => match self.known(image) {
                Known::Image(resolved) => triggers = resolved.config.config.on_build.clone().unwrap_or_default(),
                Known::Failed(reason) => {
                    let problem = self.missing_image(image, reason, stage.from.base.span, index);
                    self.fail(from_place, problem);
                    return None;
                }
                Known::Unknown => {
                    self.needs.insert(image.need());
                }
            },
            Origin::Scratch | Origin::Context { .. } => {}
        }
        let mut steps = Vec::new();
        if !base.replaced {
            for trigger in &triggers {
                match parser::parse_trigger(trigger, self.escape()) {
                    Ok(instruction) => {
                        steps.push(PlannedStep {
                            instruction: Cow::Owned(instruction),
                            place: Place { lines: stage.instruction.span, trigger: true },
                        });
                    }
                    Err(mut problem) => {
                        problem.message = format!("trigger {trigger:?} of the base: {}", problem.message);
                        self.fail(Place { lines: stage.instruction.span, trigger: true }, problem);
                    }
                }
            }
            steps.extend(stage.body.iter().map(|instruction| PlannedStep { instruction: Cow::Borrowed(instruction), place: Place::of(instruction) }));
        }
        for step in &steps {
            self.plan_references(run, index, &base, step, needed);
        }
        Some(PlannedStage { base, steps })
    }

    /// The triggers that a stage of this file leaves to those that begin with it.
    fn triggers_of_stage(&mut self, run: &PlatformRun, index: usize) -> Vec<String> {
        if let Ok(Base { origin: Origin::Image(image), replaced: true, .. }) = &run.bases[index] {
            return match self.known(image) {
                Known::Image(resolved) => resolved.config.config.on_build.clone().unwrap_or_default(),
                Known::Failed(_) | Known::Unknown => Vec::new(),
            };
        }
        let own = self.table.stages[index].body.iter();
        own.filter_map(|instruction| match &instruction.kind {
            InstructionKind::Onbuild(onbuild) => Some(onbuild.text.clone()),
            _ => None,
        })
        .collect()
    }

    /// Where an instruction brings files from, besides the main context, each with the place of its name.
    fn references(&self, run: &PlatformRun, index: usize, base: &Base, step: &PlannedStep<'_>) -> Vec<(Result<Origin, Problem>, Span)> {
        let mut origins = Vec::new();
        let asking = |asker| Asking { run, index, base, place: step.place, asker };
        match &step.instruction.kind {
            InstructionKind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    origins.push((self.origin(&from.value, &asking(Asker::Copy)), from.span));
                }
            }
            InstructionKind::Run(command) => {
                for mount in &command.mounts {
                    if let Some(from) = mount_from(mount) {
                        origins.push((self.origin(&from.value, &asking(Asker::Mount)), from.span));
                    }
                }
            }
            _ => {}
        }
        origins
    }

    /// The stages that an instruction brings files from.
    pub(crate) fn stages_used(&self, run: &PlatformRun, index: usize, plan: &PlannedStage<'_>, step: &PlannedStep<'_>) -> Vec<usize> {
        let origins = self.references(run, index, &plan.base, step).into_iter();
        origins.filter_map(|(origin, _)| if let Ok(Origin::Stage(stage)) = origin { Some(stage) } else { None }).collect()
    }

    fn plan_references(&mut self, run: &PlatformRun, index: usize, base: &Base, step: &PlannedStep<'_>, needed: &mut [bool]) {
        for (origin, span) in self.references(run, index, base, step) {
            match origin {
                Ok(Origin::Stage(used)) => needed[used] = true,
                Ok(Origin::Image(image)) => match self.known(&image) {
                    Known::Image(_) => {}
                    Known::Failed(reason) => {
                        let problem = self.missing_image(&image, reason, span, index);
                        self.fail(step.place, problem);
                    }
                    Known::Unknown => {
                        self.needs.insert(image.need());
                    }
                },
                Ok(Origin::Scratch | Origin::Context { .. }) => {}
                Err(mut problem) => {
                    problem.span = span;
                    self.fail(step.place, problem);
                }
            }
        }
    }

    /// What `text` of a COPY --from or a mount's `from` means to an instruction.
    pub(crate) fn origin(&self, written: &str, asking: &Asking<'_>) -> Result<Origin, Problem> {
        let no_place = Span::default();
        let Asking { index, asker, .. } = *asking;
        let current = self.table.stages[index].display_name();
        let text = self.expand_from(written, asking)?;
        let text = text.as_ref();
        let reference = match asker {
            Asker::Copy => self.table.source(text),
            Asker::Mount => self.table.by_name(text).map_or(StageReference::Other, StageReference::Stage),
        };
        match reference {
            StageReference::Stage(used) if used == index => {
                let problem = Problem::error("stage-cycle", format!("circular dependency detected on stage: {current}"), no_place);
                Err(problem.help("a stage can use only what earlier stages made"))
            }
            StageReference::Stage(used) if used > index => {
                let later = self.table.stages[used].display_name();
                let message = match asker {
                    Asker::Copy => format!("cannot copy from stage {later:?}, it needs to be defined before current stage {current:?}"),
                    Asker::Mount => format!("cannot mount from stage {later:?}, it needs to be defined before current stage {current:?}"),
                };
                Err(Problem::error("later-stage", message, no_place).help(format!("move stage {later:?} above stage {current:?}")))
            }
            StageReference::Stage(used) => Ok(Origin::Stage(used)),
            StageReference::NoSuchIndex => {
                let problem = Problem::error("unknown-stage", format!("invalid stage index {text}"), no_place);
                Err(match index {
                    0 => problem.help("no stage stands above this one; name a stage or an image"),
                    1 => problem.help("the one stage above this one is 0; better name it with FROM … AS name"),
                    _ => problem.help(format!("the stages above this one are 0 to {}; better name them with FROM … AS name", index - 1)),
                })
            }
            StageReference::Other if asker == Asker::Mount && text.parse::<u64>().is_ok() => {
                Err(Problem::error("unknown-stage", format!("from={text} names no stage: a mount takes a stage's name, not its index"), no_place)
                    .help("name the stage with FROM … AS name and write from=name"))
            }
            StageReference::Other => self.outside_origin(text, &asking.base.platform).map_err(|reason| {
                let problem = Problem::error("unknown-stage", format!("{text:?} is no stage, no named context and no image: {reason}"), no_place);
                let lower = text.to_lowercase();
                let in_lower_case = || (lower != text && lower.parse::<Reference>().is_ok()).then(|| format!("write `{lower}`"));
                match suggest::did_you_mean(text, self.table.names()).or_else(in_lower_case) {
                    Some(help) => problem.help(help),
                    None => problem,
                }
            }),
        }
    }

    /// The name in a COPY --from or a mount's `from`, its variables replaced. `${NAME}` is our own; without braces it is refused, as other builders do.
    ///
    /// Only what is known before anything is built counts: ARGs of the stage above the instruction, and those before the first FROM. Which stages
    /// are reached depends on it.
    pub(crate) fn expand_from<'t>(&self, written: &'t str, asking: &Asking<'_>) -> Result<Cow<'t, str>, Problem> {
        let Some(dollar) = written.find('$').filter(|at| at + 1 < written.len()) else { return Ok(Cow::Borrowed(written)) };
        let refused = |help: &str| {
            let message = match asking.asker {
                Asker::Copy => "variable expansion is not supported for --from",
                Asker::Mount => "'from' doesn't support variable expansion",
            };
            Problem::error("from-variable", message, Span::default()).help(help.to_owned())
        };
        let bare = written.match_indices('$').any(|(at, _)| !written[at + 1..].starts_with('{'));
        if self.options.strict && !bare {
            return Err(refused(
                "define a new stage with FROM, using an ARG from global scope, and name that stage here; or build without --strict-docker",
            )
            .label("${…} is expanded here by rbuild only, and --strict-docker refuses it"));
        }
        if bare {
            let name: String = written[dollar + 1..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let own = if self.options.strict { String::new() } else { format!("; or write ${{{name}}}, which only rbuild knows") };
            return Err(refused(&format!("define a new stage with FROM, using an ARG from global scope, and name that stage here{own}")));
        }
        let known = self.static_arguments(asking);
        let expanded = expand::expand_word(written, &known, self.escape()).map_err(|error| Problem::expansion(&error, Span::default()))?;
        if let Some(name) = expanded.undefined.first() {
            let problem = Problem::error("from-variable", format!("{name} has no value that is known before the build"), Span::default());
            return Err(match suggest::did_you_mean(name, known.names()) {
                Some(help) => problem.help(help),
                None => problem.help(format!("declare it above with `ARG {name}=…`, or give it with --build-arg {name}=…")),
            });
        }
        Ok(Cow::Owned(expanded.text))
    }

    /// ARGs before the first FROM, and those of the stage above the instruction.
    fn static_arguments(&self, asking: &Asking<'_>) -> Environment {
        let mut known = asking.run.globals.clone();
        let stage = &self.table.stages[asking.index];
        let above = stage.body.iter().take_while(|other| !asking.place.trigger && other.span.start < asking.place.lines.start);
        for instruction in above {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let default = || expand::expand_word(&declaration.default.as_ref()?.value, &known, self.escape()).ok().map(|expanded| expanded.text);
                if let Some(value) = self.build_args.get(&declaration.name.value).cloned().or_else(default) {
                    known.set(declaration.name.value.clone(), value);
                }
            }
        }
        known
    }

    /// What has been resolved of an image.
    pub(crate) fn known(&self, image: &ImageSource) -> Known<'a> {
        match self.resolved.answers.get(&image.need()) {
            Some(Answer::Image(resolved)) => Known::Image(resolved),
            Some(Answer::Failed(reason)) => Known::Failed(reason),
            _ => Known::Unknown,
        }
    }

    fn missing_image(&self, image: &ImageSource, reason: &str, span: crate::source::Span, index: usize) -> Problem {
        let reference = &image.reference;
        // The reason often begins with the name, which stands here already.
        let reason = reason.strip_prefix(&format!("{reference}: ")).unwrap_or(reason);
        let problem = Problem::error("image", format!("failed to resolve source metadata for {reference}: {reason}"), span);
        let stages = self.table.stages[..index].iter().filter_map(|stage| stage.name.as_deref());
        let near = suggest::nearest(&reference.familiar(), stages);
        match near {
            Some(near) => {
                problem.label("no stage above has this name, so it was looked for as an image").help(format!("did you mean the stage `{near}`?"))
            }
            None if reason.ends_with("not found") => {
                problem.help("no such image or tag is there, or it is shown only to who has logged in: check the name, or `docker login` first")
            }
            None => problem,
        }
    }

    /// Notes a problem of an instruction.
    pub(crate) fn fail(&mut self, place: Place, problem: Problem) {
        let located = place.locate(problem);
        self.note(located);
    }

    /// Notes a problem, once.
    pub(crate) fn note(&mut self, located: Located) {
        if self.noted.insert((located.problem.code, located.problem.span, located.problem.message.clone())) {
            self.problems.push(located);
        }
    }
}

/// The `from` of a mount.
pub(crate) fn mount_from(mount: &MountFlag) -> Option<&crate::ast::Word> {
    mount.fields.iter().rfind(|(key, _)| key.value == "from").and_then(|(_, value)| value.as_ref()).filter(|value| !value.value.is_empty())
}
