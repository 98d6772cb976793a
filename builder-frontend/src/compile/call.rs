//! Calls that build nothing: `--check`, `--call=outline`, `--call=targets`.

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::frontend::{Need, Resolved};
use builder_core::graph::SourceLocation;
use serde_json::{Map, Value, json};

use super::file::{Located, ParsedFile, Place};
use super::open::Opened;
use super::plan::{PlannedStage, mount_from};
use super::platform::{Origin, PlatformRun};
use super::state::StageState;
use super::{Compiler, DockerfileFrontend, located};
use crate::ast::{Instruction, InstructionKind};
use crate::expand;
use crate::lint;
use crate::stage::StageTable;

/// What a call comes to.
#[derive(Debug, Clone)]
pub enum CallOutcome<T> {
    /// Resolve these and call again.
    Needs(Vec<Need>),
    /// The answer.
    Ready(T),
}

/// Findings of `--check`.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Findings, in order of the file.
    pub warnings: Vec<Diagnostic>,
    /// What would end a build.
    pub errors: Vec<Diagnostic>,
    /// Findings beyond the checks of other builders.
    pub notes: Vec<Diagnostic>,
}

impl CheckReport {
    /// The JSON of `--call=check,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut sources = Vec::new();
        self.warnings.iter().chain(&self.errors).chain(&self.notes).filter_map(|found| found.location.as_ref()).for_each(|location| {
            if !sources.contains(&&location.source) {
                sources.push(&location.source);
            }
        });
        // As BuildKit's, which leaves out an index of 0.
        let placed = |location: Option<&SourceLocation>| {
            let mut placed = location_json(location);
            match location.and_then(|location| sources.iter().position(|source| *source == &location.source)) {
                Some(0) | None => {}
                Some(index) => placed["sourceIndex"] = json!(index),
            }
            placed
        };
        let finding = |found: &Diagnostic| {
            json!({
                "ruleName": found.code,
                "description": lint::rule(&found.code).map_or("", |rule| rule.description),
                "url": found.url,
                "detail": found.message,
                "location": placed(found.location.as_ref()),
            })
        };
        let warnings: Vec<Value> = self.warnings.iter().map(finding).collect();
        let mut report = Map::new();
        report.insert("warnings".into(), if warnings.is_empty() { Value::Null } else { Value::Array(warnings) });
        if !self.notes.is_empty() {
            report.insert("notes".into(), Value::Array(self.notes.iter().map(finding).collect()));
        }
        if let Some(error) = self.errors.first() {
            report.insert("buildError".into(), json!({"message": error.message, "location": placed(error.location.as_ref())}));
        }
        let sources = sources.iter().map(|source| json!({"filename": source.name, "language": "Dockerfile", "text": source.text}));
        report.insert("sources".into(), Value::Array(sources.collect()));
        Value::Object(report)
    }
}

/// Arguments, secrets and agents that a target takes (`--call=outline`).
#[derive(Debug, Clone, Default)]
pub struct Outline {
    /// The target.
    pub name: Option<String>,
    /// The comment above its FROM.
    pub description: Option<String>,
    /// Arguments that are used.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<OutlineSecret>,
    /// Agents.
    pub ssh: Vec<OutlineSecret>,
}

/// One argument.
#[derive(Debug, Clone)]
pub struct OutlineArg {
    /// Name.
    pub name: String,
    /// The comment above it.
    pub description: Option<String>,
    /// Its value, if it has one.
    pub value: Option<String>,
    /// Where it is declared.
    pub location: SourceLocation,
}

/// One secret or agent.
#[derive(Debug, Clone)]
pub struct OutlineSecret {
    /// Id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Where it is used first.
    pub location: SourceLocation,
}

impl Outline {
    /// The JSON of `--call=outline,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut outline = Map::new();
        let text = |map: &mut Map<String, Value>, key: &str, value: &Option<String>| {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                map.insert(key.into(), json!(value));
            }
        };
        text(&mut outline, "name", &self.name);
        text(&mut outline, "description", &self.description);
        let args = self.args.iter().map(|arg| {
            let mut map = Map::new();
            map.insert("name".into(), json!(arg.name));
            text(&mut map, "description", &arg.description);
            text(&mut map, "value", &arg.value);
            map.insert("location".into(), location_json(Some(&arg.location)));
            Value::Object(map)
        });
        let secrets = |list: &[OutlineSecret]| -> Vec<Value> {
            list.iter()
                .map(|secret| {
                    let mut map = Map::new();
                    map.insert("name".into(), json!(secret.name));
                    if secret.required {
                        map.insert("required".into(), json!(true));
                    }
                    map.insert("location".into(), location_json(Some(&secret.location)));
                    Value::Object(map)
                })
                .collect()
        };
        for (key, list) in [("args", args.collect()), ("secrets", secrets(&self.secrets)), ("ssh", secrets(&self.ssh))] {
            if !list.is_empty() {
                outline.insert(key.into(), Value::Array(list));
            }
        }
        Value::Object(outline)
    }
}

/// The stages of a file (`--call=targets`).
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// In order.
    pub targets: Vec<TargetStage>,
}

/// One stage.
#[derive(Debug, Clone)]
pub struct TargetStage {
    /// Name in lower case.
    pub name: Option<String>,
    /// The comment above its FROM.
    pub description: Option<String>,
    /// Whether it is built when no target is given.
    pub default: bool,
    /// What its FROM names, as written.
    pub base: String,
    /// Its `--platform`, as written.
    pub platform: Option<String>,
    /// Its FROM.
    pub location: SourceLocation,
}

impl Targets {
    /// The JSON of `--call=targets,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                let mut map = Map::new();
                for (key, value) in [("name", &target.name), ("description", &target.description)] {
                    if let Some(value) = value {
                        map.insert(key.into(), json!(value));
                    }
                }
                if target.default {
                    map.insert("default".into(), json!(true));
                }
                map.insert("base".into(), json!(target.base));
                if let Some(platform) = &target.platform {
                    map.insert("platform".into(), json!(platform));
                }
                map.insert("location".into(), location_json(Some(&target.location)));
                Value::Object(map)
            })
            .collect();
        json!({"targets": targets})
    }
}

fn location_json(location: Option<&SourceLocation>) -> Value {
    match location {
        Some(location) => json!({"ranges": [{"start": {"line": location.first_line}, "end": {"line": location.last_line}}]}),
        None => json!({}),
    }
}

impl DockerfileFrontend {
    /// All build checks, on every stage when no target is given. Nothing is built; images are asked for so that their variables are known.
    #[must_use]
    pub fn check(&self, resolved: &Resolved) -> CallOutcome<CheckReport> {
        let failed = |errors| CallOutcome::Ready(CheckReport { errors, ..CheckReport::default() });
        let file = match self.open(resolved) {
            Ok(Opened::Needs(needs)) => return CallOutcome::Needs(needs),
            Ok(Opened::File(file)) => file,
            Err(errors) => return failed(errors),
        };
        let (table, problems) = StageTable::new(&file.dockerfile);
        let check = match self.whole_file(&file, problems) {
            Ok(check) => check,
            Err(problems) => return failed(self.with_the_rest(problems, &file, &table, resolved)),
        };
        let targets: Vec<usize> = match self.options.target.as_deref().filter(|target| !target.is_empty()) {
            Some(target) => match table.target(Some(target)) {
                Ok(target) => vec![target],
                Err(problem) => return failed(vec![file.diagnostic(&Located::nowhere(problem))]),
            },
            None => (0..table.stages.len()).collect(),
        };
        let mut compiler = Compiler::new(self, &file, &table, resolved, check);
        compiler.lenient = true;
        compiler.linter.check_syntax(&file.dockerfile, &table);
        let mut planned = Vec::new();
        for platform in compiler.platforms() {
            let run = compiler.start_platform(platform);
            let plans = compiler.plan(&run, &targets);
            planned.push((run, plans));
        }
        if compiler.problems.is_empty() && !compiler.needs.is_empty() {
            return CallOutcome::Needs(std::mem::take(&mut compiler.needs).into_iter().collect());
        }
        for (run, plans) in &planned {
            // Without a target it is the last stage that people build.
            targets.last().iter().for_each(|target| compiler.follow_final(run, **target));
            compiler.compile_stages(run, plans, |_| false);
        }
        if compiler.problems.is_empty() && !compiler.needs.is_empty() {
            return CallOutcome::Needs(std::mem::take(&mut compiler.needs).into_iter().collect());
        }
        compiler.check_unused_stages(&planned);
        let (warnings, notes) = compiler.findings().into_iter().partition(|found| found.severity == Severity::Warning);
        CallOutcome::Ready(CheckReport { warnings, errors: compiler.diagnostics(), notes })
    }

    /// What the target takes. Values come from the file and the build arguments; images are asked for because their triggers count.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    pub fn outline(&self, resolved: &Resolved) -> Result<CallOutcome<Outline>, Vec<Diagnostic>> {
        let file = match self.open(resolved)? {
            Opened::Needs(needs) => return Ok(CallOutcome::Needs(needs)),
            Opened::File(file) => file,
        };
        let (table, problems) = StageTable::new(&file.dockerfile);
        let check = self.whole_file(&file, problems).map_err(|problems| located(&file, &problems))?;
        let target = table.target(self.options.target.as_deref()).map_err(|problem| vec![file.diagnostic(&Located::nowhere(problem))])?;
        let mut compiler = Compiler::new(self, &file, &table, resolved, check);
        compiler.lenient = true;
        let Some(platform) = compiler.platforms().into_iter().next() else { return Ok(CallOutcome::Ready(Outline::default())) };
        let run = compiler.start_platform(platform);
        let plans = compiler.plan(&run, &[target]);
        if compiler.problems.is_empty() && !compiler.needs.is_empty() {
            return Ok(CallOutcome::Needs(std::mem::take(&mut compiler.needs).into_iter().collect()));
        }
        let states = compiler.compile_stages(&run, &plans, |_| true);
        if !compiler.problems.is_empty() {
            return Err(compiler.diagnostics());
        }
        Ok(CallOutcome::Ready(compiler.outline(&run, &plans, &states, target)))
    }

    /// The stages.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    pub fn targets(&self, resolved: &Resolved) -> Result<CallOutcome<Targets>, Vec<Diagnostic>> {
        let file = match self.open(resolved)? {
            Opened::Needs(needs) => return Ok(CallOutcome::Needs(needs)),
            Opened::File(file) => file,
        };
        let (table, problems) = StageTable::new(&file.dockerfile);
        self.whole_file(&file, problems).map_err(|problems| located(&file, &problems))?;
        let last = table.stages.len().saturating_sub(1);
        let targets = table
            .stages
            .iter()
            .map(|stage| TargetStage {
                name: stage.name.clone(),
                description: stage.name.as_deref().and_then(|name| description(stage.instruction, name)),
                default: stage.index == last,
                base: stage.from.base.value.clone(),
                platform: stage.from.platform.as_ref().map(|platform| platform.value.clone()),
                location: place_of(&file, stage.instruction),
            })
            .collect();
        Ok(CallOutcome::Ready(Targets { targets }))
    }
}

impl Compiler<'_> {
    /// `UnusedStage`, when all stages are looked at: those that neither the last one nor any other needs.
    fn check_unused_stages(&mut self, planned: &[(PlatformRun, Vec<Option<PlannedStage<'_>>>)]) {
        let Some(last) = self.table.stages.len().checked_sub(1) else { return };
        if self.options.target.as_deref().is_some_and(|target| !target.is_empty()) {
            return;
        }
        let mut used = vec![false; self.table.stages.len()];
        used[last] = true;
        for (run, plans) in planned {
            for (index, plan) in plans.iter().enumerate() {
                let Some(plan) = plan else { continue };
                if let Origin::Stage(below) = plan.base.origin {
                    used[below] = true;
                }
                for step in &plan.steps {
                    self.stages_used(run, index, plan, step).into_iter().for_each(|stage| used[stage] = true);
                }
            }
        }
        for stage in self.table.stages.iter().filter(|stage| !used[stage.index]) {
            let detail = match &stage.name {
                Some(name) => format!("No stage uses stage {name:?}; it is built only with --target {name}"),
                None => "No stage uses this one, and without a name it can't be a target".to_owned(),
            };
            self.linter.report(&lint::UNUSED_STAGE, stage.instruction, detail);
        }
    }

    fn outline(&self, run: &PlatformRun, plans: &[Option<PlannedStage<'_>>], states: &[Option<StageState>], target: usize) -> Outline {
        let stage = &self.table.stages[target];
        let mut outline = Outline {
            name: stage.name.clone(),
            description: stage.name.as_deref().and_then(|name| description(stage.instruction, name)),
            ..Outline::default()
        };
        self.outline_globals(run, plans, &mut outline);
        for (index, plan) in plans.iter().enumerate() {
            let Some(plan) = plan else { continue };
            for step in &plan.steps {
                self.outline_step(&step.instruction, step.place, states[index].as_ref(), &mut outline);
            }
        }
        outline
    }

    /// Global ARGs that a reachable FROM takes, directly or through the default of another one.
    fn outline_globals(&self, run: &PlatformRun, plans: &[Option<PlannedStage<'_>>], outline: &mut Outline) {
        let (mut used, mut names_in): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for (index, _) in plans.iter().enumerate().filter(|(_, plan)| plan.is_some()) {
            used.extend(run.from_uses[index].iter().map(String::as_str));
        }
        for plan in plans.iter().flatten() {
            for step in &plan.steps {
                match &step.instruction.kind {
                    InstructionKind::Arg(declarations) => {
                        used.extend(declarations.iter().filter(|arg| arg.default.is_none()).map(|arg| arg.name.value.as_str()));
                    }
                    InstructionKind::Copy(copy) => names_in.extend(copy.from.iter().map(|from| from.value.as_str())),
                    InstructionKind::Run(command) => {
                        names_in.extend(command.mounts.iter().filter_map(mount_from).map(|from| from.value.as_str()));
                    }
                    _ => {}
                }
            }
        }
        // `--from=${NAME}` takes global ARGs without any declaration in the stage.
        let names_in: Vec<String> = names_in
            .into_iter()
            .filter(|text| text.contains('$'))
            .filter_map(|text| expand::expand_word(text, &run.globals, self.escape()).ok())
            .flat_map(|expanded| expanded.used)
            .collect();
        used.extend(names_in.iter().map(String::as_str));
        let mut wanted = vec![false; run.declared.len()];
        for (index, arg) in run.declared.iter().enumerate().rev() {
            wanted[index] = used.contains(&arg.name.as_str());
            if wanted[index] {
                used.extend(arg.uses.iter().map(String::as_str));
            }
        }
        for (arg, _) in run.declared.iter().zip(&wanted).filter(|(_, wanted)| **wanted) {
            let instruction = self.table.globals.iter().find(|instruction| instruction.span == arg.place);
            outline.args.push(OutlineArg {
                name: arg.name.clone(),
                description: instruction.and_then(|instruction| description(instruction, &arg.name)),
                value: arg.value.clone(),
                location: self.file.location(arg.place, arg.place),
            });
        }
    }

    fn outline_step(&self, instruction: &Instruction, place: Place, state: Option<&StageState>, outline: &mut Outline) {
        let location = || self.file.location(place.lines, place.lines);
        match &instruction.kind {
            InstructionKind::Arg(declarations) => {
                for arg in declarations {
                    let name = &arg.name.value;
                    // Without a default of its own it is the global one, which is listed already.
                    if outline.args.iter().any(|known| known.name == *name) && arg.default.is_none() {
                        continue;
                    }
                    outline.args.retain(|known| known.name != *name);
                    let value = state.and_then(|state| state.args.value(name)).map(str::to_owned);
                    outline.args.push(OutlineArg { name: name.clone(), description: description(instruction, name), value, location: location() });
                }
            }
            InstructionKind::Run(run) => {
                for mount in &run.mounts {
                    let field = |name: &str| mount.fields.iter().rfind(|(key, _)| key.value == name);
                    let text = |name: &str| field(name).and_then(|(_, value)| value.as_ref()).map(|value| value.value.clone());
                    let required =
                        field("required").is_some_and(|(_, value)| value.as_ref().is_none_or(|value| value.value.eq_ignore_ascii_case("true")));
                    let kind = text("type").unwrap_or_default().to_lowercase();
                    let (name, list) = match kind.as_str() {
                        "secret" => {
                            let target = || text("target").or_else(|| text("dst")).or_else(|| text("destination"));
                            let name = text("id").or_else(|| text("source")).or_else(|| text("src"));
                            (name.or_else(|| target().map(|target| super::text::base_name(&target).to_owned())), &mut outline.secrets)
                        }
                        "ssh" => (text("id").or_else(|| Some("default".to_owned())), &mut outline.ssh),
                        _ => continue,
                    };
                    let Some(name) = name else { continue };
                    match list.iter_mut().find(|known| known.name == name) {
                        Some(known) => known.required |= required,
                        None => list.push(OutlineSecret { name, required, location: location() }),
                    }
                }
            }
            _ => {}
        }
    }
}

/// The comment line above an instruction that begins with `name`, without the name (A2.4).
fn description(instruction: &Instruction, name: &str) -> Option<String> {
    instruction.comments.iter().rev().find_map(|comment| {
        let (word, rest) = comment.text.split_once(char::is_whitespace)?;
        word.eq_ignore_ascii_case(name).then(|| rest.trim().to_owned())
    })
}

fn place_of(file: &ParsedFile, instruction: &Instruction) -> SourceLocation {
    file.location(instruction.span, instruction.span)
}
