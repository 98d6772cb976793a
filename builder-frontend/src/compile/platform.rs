//! One platform's run through a file: its global arguments and what every FROM means for it.

use std::collections::BTreeMap;

use builder_core::frontend::{Need, NeedLocation};
use builder_core::oci::{Platform, Reference};

use super::{Compiler, NamedContext};
use crate::ast::InstructionKind;
use crate::diagnostic::Problem;
use crate::expand::{self, Environment};
use crate::lint;
use crate::source::Span;
use crate::stage::Stage;
use crate::suggest;

/// An image by name, for a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSource {
    pub(crate) reference: Reference,
    pub(crate) location: NeedLocation,
    pub(crate) platform: Platform,
}

impl ImageSource {
    pub(crate) fn need(&self) -> Need {
        Need::Image { reference: self.reference.clone(), location: self.location.clone(), platform: self.platform.clone() }
    }
}

/// Where files come from: the base of a stage, COPY --from, a mount's `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing.
    Scratch,
    /// A stage of the file.
    Stage(usize),
    /// An image.
    Image(ImageSource),
    /// A context that is no image.
    Context {
        /// The name by which it was given; none for the main context.
        name: Option<String>,
        /// What it is.
        context: NamedContext,
    },
}

/// What a FROM means.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) origin: Origin,
    /// The platform of the stage.
    pub(crate) platform: Platform,
    /// Whether a named context replaces the whole stage.
    pub(crate) replaced: bool,
}

/// An ARG before the first FROM.
#[derive(Debug, Clone)]
pub(crate) struct GlobalArg {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    pub(crate) place: Span,
    /// Whether a FROM or another global ARG that is used takes it.
    pub(crate) uses: Vec<String>,
}

/// One platform's run.
#[derive(Debug)]
pub(crate) struct PlatformRun {
    /// The platform asked for, or the build platform.
    pub(crate) target: Platform,
    /// Automatic and global arguments that have a value.
    pub(crate) globals: Environment,
    /// The same without build arguments, for `InvalidDefaultArgInFrom`.
    pub(crate) defaults: Environment,
    /// Global ARGs in order.
    pub(crate) declared: Vec<GlobalArg>,
    /// What each FROM means; the problems if it means nothing.
    pub(crate) bases: Vec<Result<Base, Vec<Problem>>>,
    /// Global names that each FROM looks at.
    pub(crate) from_uses: Vec<Vec<String>>,
}

/// Names of the automatic arguments and their values (`features.md` A7.7).
fn automatic(build: &Platform, target: &Platform, target_stage: &str) -> Vec<(&'static str, String)> {
    let names = [
        ["BUILDPLATFORM", "BUILDOS", "BUILDOSVERSION", "BUILDARCH", "BUILDVARIANT"],
        ["TARGETPLATFORM", "TARGETOS", "TARGETOSVERSION", "TARGETARCH", "TARGETVARIANT"],
    ];
    let mut all = Vec::new();
    for (names, platform) in names.into_iter().zip([build, target]) {
        let values = [platform.to_string(), platform.os.clone(), String::new(), platform.architecture.clone(), platform.variant.clone()];
        all.extend(names.into_iter().zip(values));
    }
    all.push(("TARGETSTAGE", target_stage.to_owned()));
    all
}

impl<'a> Compiler<'a> {
    /// Works out global arguments and what every FROM means. Problems stay with their FROM until something reaches it.
    pub(crate) fn start_platform(&mut self, target: Platform) -> PlatformRun {
        let target_stage = self.options.target.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let mut globals = Environment::new();
        let mut defaults = Environment::new();
        for (name, value) in automatic(&self.options.build_platform, &target, &target_stage) {
            globals.set(name, self.build_args.get(name).cloned().unwrap_or_else(|| value.clone()));
            defaults.set(name, value);
        }
        let mut declared: Vec<GlobalArg> = Vec::new();
        for instruction in &self.table.globals {
            let InstructionKind::Arg(declarations) = &instruction.kind else { continue };
            for declaration in declarations {
                let name = declaration.name.value.clone();
                let mut uses = Vec::new();
                let mut value = self.build_args.get(&name).cloned();
                if let Some(default) = &declaration.default {
                    if value.is_none() {
                        match expand::expand_word(&default.value, &globals, self.escape()) {
                            Ok(expanded) => {
                                uses = expanded.used;
                                value = Some(expanded.text);
                            }
                            Err(error) => self.fail(super::file::Place::of(instruction), Problem::expansion(&error, default.span)),
                        }
                    }
                    if let Ok(expanded) = expand::expand_word(&default.value, &defaults, self.escape()) {
                        defaults.set(name.clone(), expanded.text);
                    }
                }
                if let Some(value) = &value {
                    globals.set(name.clone(), value.clone());
                }
                declared.push(GlobalArg { name, value, place: instruction.span, uses });
            }
        }
        let mut run = PlatformRun { target, globals, defaults, declared, bases: Vec::new(), from_uses: Vec::new() };
        let stages: &'a [Stage<'a>] = &self.table.stages;
        for stage in stages {
            self.check_default_args(&run, stage);
        }
        for stage in stages {
            let mut uses = Vec::new();
            let base = self.resolve_from(&run, stage, &mut uses);
            run.bases.push(base);
            run.from_uses.push(uses);
        }
        run
    }

    fn check_default_args(&mut self, run: &PlatformRun, stage: &Stage<'_>) {
        let text = &stage.from.base.value;
        if !text.contains('$') {
            return;
        }
        let Ok(expanded) = expand::expand_word(text, &run.defaults, self.escape()) else { return };
        let known = self.table.base(&expanded.text, stage.index).is_some();
        if expanded.text.is_empty() || (!known && expanded.text.parse::<Reference>().is_err()) {
            let detail = format!("Default value for ARG {text} results in empty or invalid base image name");
            self.linter.report(&lint::INVALID_DEFAULT_ARG_IN_FROM, stage.instruction, detail);
        }
    }

    fn check_from_names(&mut self, run: &PlatformRun, stage: &Stage<'_>, used: &[String]) {
        for name in used {
            if run.globals.get(name).is_some() || run.declared.iter().any(|arg| &arg.name == name) {
                continue;
            }
            let candidates = run.globals.names().chain(run.declared.iter().map(|arg| arg.name.as_str()));
            let hint = suggest::nearest(name, candidates).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            self.linter.report(&lint::UNDEFINED_ARG_IN_FROM, stage.instruction, format!("FROM argument '{name}' is not declared{hint}"));
        }
    }

    fn resolve_from(&mut self, run: &PlatformRun, stage: &Stage<'_>, uses: &mut Vec<String>) -> Result<Base, Vec<Problem>> {
        let from = stage.from;
        let mut problems = Vec::new();
        let mut text = String::new();
        match expand::expand_word(&from.base.value, &run.globals, self.escape()) {
            Ok(expanded) => {
                self.check_from_names(run, stage, &expanded.used);
                uses.extend(expanded.used);
                if expanded.text.trim().is_empty() {
                    let message = format!("base name ({}) should not be blank", from.base.value);
                    problems.push(
                        Problem::error("blank-base", message, from.base.span)
                            .help("give its ARG a default before the first FROM, or pass it with --build-arg"),
                    );
                }
                text = expanded.text;
            }
            Err(error) => problems.push(Problem::expansion(&error, from.base.span)),
        }
        let mut platform = None;
        if let Some(flag) = &from.platform {
            match expand::expand_word(&flag.value, &run.globals, self.escape()) {
                Ok(expanded) => {
                    self.check_from_names(run, stage, &expanded.used);
                    self.check_platform_flag(stage, &flag.value, &expanded.text, expanded.used.is_empty());
                    uses.extend(expanded.used);
                    if expanded.text.trim().is_empty() {
                        let message = format!("empty platform value from expression {}", flag.value);
                        problems.push(Problem::error("blank-platform", message, flag.span).help("write --platform=os/architecture"));
                    } else {
                        match expanded.text.parse::<Platform>() {
                            Ok(parsed) => platform = Some(parsed),
                            Err(error) => problems.push(Problem::error("bad-platform", format!("cannot use platform: {error}"), flag.span)),
                        }
                    }
                }
                Err(error) => problems.push(Problem::expansion(&error, flag.span)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let wanted = platform.clone().unwrap_or_else(|| run.target.clone());
        if let Some(name) = &stage.name
            && let Some(context) = self.named_context(name, &wanted)
        {
            let origin = context_origin(name, context, &wanted);
            return Ok(Base { origin, platform: wanted, replaced: true });
        }
        if let Some(index) = self.table.base(&text, stage.index) {
            if self.options.strict && text.chars().any(char::is_uppercase) {
                let message = format!("that FROM {text} finds stage {:?} in spite of its case is known to rbuild only", text.to_lowercase());
                let problem = Problem::error("own-extension", message, from.base.span);
                return Err(vec![problem.help(format!("write `FROM {}`, or build without --strict-docker", text.to_lowercase()))]);
            }
            // Without a flag of its own a stage is for the platform of the stage below it.
            let inherited = run.bases[index].as_ref().map(|base| base.platform.clone()).unwrap_or_else(|_| run.target.clone());
            return Ok(Base { origin: Origin::Stage(index), platform: platform.unwrap_or(inherited), replaced: false });
        }
        match self.outside_origin(&text, &wanted) {
            Ok(origin) => Ok(Base { origin, platform: wanted, replaced: false }),
            Err(reason) => {
                let problem = Problem::error("invalid-reference", format!("failed to parse stage name: {reason}"), from.base.span);
                let earlier = self.table.stages[..stage.index].iter().filter_map(|stage| stage.name.as_deref());
                let lower = text.to_lowercase();
                let in_lower_case = || (lower != text && lower.parse::<Reference>().is_ok()).then(|| format!("write `{lower}`"));
                Err(vec![match suggest::did_you_mean(&text, earlier).or_else(in_lower_case) {
                    Some(help) => problem.help(help),
                    None => problem,
                }])
            }
        }
    }

    fn check_platform_flag(&mut self, stage: &Stage<'_>, written: &str, value: &str, constant: bool) {
        if constant {
            if let Ok(platform) = value.parse::<Platform>() {
                let name = stage.name.as_deref().unwrap_or_default();
                if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
                    let detail = format!("FROM --platform flag should not use constant value {value:?}");
                    self.linter.report(&lint::FROM_PLATFORM_FLAG_CONST_DISALLOWED, stage.instruction, detail);
                }
            }
        } else if matches!(written, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let detail = format!("Setting platform to predefined {written} in FROM is redundant as this is the default behavior");
            self.linter.report(&lint::REDUNDANT_TARGET_PLATFORM, stage.instruction, detail);
        }
    }

    /// What a name means that is no stage: nothing, a named context or an image.
    pub(crate) fn outside_origin(&self, text: &str, platform: &Platform) -> Result<Origin, String> {
        if text == "scratch" {
            return Ok(Origin::Scratch);
        }
        if let Some(context) = self.named_context(text, platform) {
            return Ok(context_origin(text, context, platform));
        }
        let reference = text.parse::<Reference>().map_err(|error| format!("invalid reference format: {error}"))?;
        Ok(Origin::Image(ImageSource { reference, location: NeedLocation::Registry, platform: platform.clone() }))
    }

    pub(crate) fn named_context(&self, name: &str, platform: &Platform) -> Option<&'a NamedContext> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let name = familiar(name);
        self.contexts.get(&format!("{name}::{platform}")).or_else(|| self.contexts.get(&name))
    }
}

/// What a named context brings: an image, or files.
fn context_origin(name: &str, context: &NamedContext, platform: &Platform) -> Origin {
    let image = |reference: &Reference, location| Origin::Image(ImageSource { reference: reference.clone(), location, platform: platform.clone() });
    match context {
        // The name that no image has (A6.2).
        NamedContext::Image { reference } if reference.familiar() == "scratch" => Origin::Scratch,
        NamedContext::Image { reference } => image(reference, NeedLocation::Registry),
        NamedContext::OciLayout { path, reference } => image(reference, NeedLocation::OciLayout(path.clone())),
        NamedContext::Local { .. } | NamedContext::Http { .. } | NamedContext::Git { .. } => {
            Origin::Context { name: Some(name.to_owned()), context: context.clone() }
        }
    }
}

/// The form in which names of contexts are compared: as short as people write it, `:latest` left out.
pub(crate) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_lowercase(), |reference| reference.familiar())
}

/// Named contexts by the form in which they are compared.
pub(crate) fn comparable(contexts: &BTreeMap<String, NamedContext>) -> BTreeMap<String, NamedContext> {
    let key = |name: &String| match name.split_once("::") {
        Some((name, platform)) => {
            let platform = platform.parse::<Platform>().map_or_else(|_| platform.to_owned(), |platform| platform.to_string());
            format!("{}::{platform}", familiar(name))
        }
        None => familiar(name),
    };
    contexts.iter().map(|(name, context)| (key(name), context.clone())).collect()
}
