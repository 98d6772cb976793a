//! The stages of a file: their names, indexes and bodies, and how one instruction finds the stage that another one made.
//!
//! Nothing here expands a variable or knows an image; whether a name that is no stage is one is for the caller to find out.
//!
//! # Invariants
//! - Stage names are compared in lower case everywhere, in FROM too.
//! - FROM sees the latest earlier stage of a name; COPY --from, mounts and targets see the last one in the file (`features.md` A6.3).

use std::collections::HashMap;

use crate::ast::{Dockerfile, From, Instruction, InstructionKind};
use crate::diagnostic::Problem;
use crate::source::Span;
use crate::suggest;

/// All stages of a file, and the ARGs before the first.
#[derive(Debug, Clone)]
pub struct StageTable<'a> {
    /// ARG instructions before the first FROM.
    pub globals: Vec<&'a Instruction>,
    /// Stages in order; a stage's index is its place here.
    pub stages: Vec<Stage<'a>>,
    /// Indexes by name, ascending.
    by_name: HashMap<String, Vec<usize>>,
}

/// One stage.
#[derive(Debug, Clone)]
pub struct Stage<'a> {
    /// Place in the file, from 0.
    pub index: usize,
    /// Name in lower case.
    pub name: Option<String>,
    /// What its FROM says.
    pub from: &'a From,
    /// Its FROM.
    pub instruction: &'a Instruction,
    /// What follows up to the next FROM.
    pub body: &'a [Instruction],
}

impl Stage<'_> {
    /// Name in the progress: `stage-2` for an unnamed third stage (`features.md` A6.7).
    #[must_use]
    pub fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("stage-{}", self.index))
    }
}

/// What the text of a COPY --from names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageReference {
    /// A stage, by name or index.
    Stage(usize),
    /// A number that no stage has.
    NoSuchIndex,
    /// No stage: perhaps a named context or an image.
    Other,
}

impl<'a> StageTable<'a> {
    /// Divides a file into stages. Also returns what is wrong with the division: no stage, other instructions before the first, bad names.
    #[must_use]
    pub fn new(dockerfile: &'a Dockerfile) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut globals = Vec::new();
        let instructions = &dockerfile.instructions;
        let first = instructions.iter().position(is_from).unwrap_or(instructions.len());
        for instruction in &instructions[..first] {
            if matches!(instruction.kind, InstructionKind::Arg(_)) {
                globals.push(instruction);
            } else if first < instructions.len() || problems.is_empty() {
                problems.push(
                    Problem::error(
                        "instruction-before-from",
                        format!("no build stage in current context: {} stands before the first FROM", instruction.keyword.value.to_uppercase()),
                        instruction.span,
                    )
                    .help("only ARG may stand before the first FROM"),
                );
            }
        }
        let mut stages: Vec<Stage<'a>> = Vec::new();
        let mut rest = &instructions[first..];
        while let Some((instruction, after)) = rest.split_first() {
            let end = after.iter().position(is_from).unwrap_or(after.len());
            let (body, next) = after.split_at(end);
            if let InstructionKind::From(from) = &instruction.kind {
                let name = from.name.as_ref().map(|name| name.value.to_lowercase());
                if let (Some(lower), Some(written)) = (&name, &from.name)
                    && !is_stage_name(lower)
                {
                    problems.push(
                        Problem::error(
                            "invalid-stage-name",
                            format!("invalid name for build stage: {:?}, name can't start with a number or contain symbols", written.value),
                            written.span,
                        )
                        .help("a stage name is a letter, then letters, digits, `-`, `_` and `.`"),
                    );
                }
                stages.push(Stage { index: stages.len(), name, from, instruction, body });
            }
            rest = next;
        }
        if stages.is_empty() && problems.is_empty() {
            let span = instructions.iter().map(|instruction| instruction.span).reduce(Span::to).unwrap_or_default();
            problems.push(if instructions.is_empty() {
                Problem::error("empty-file", "the Dockerfile has no instructions", span).help("begin with FROM and the image to start from")
            } else {
                Problem::error("no-stages", "the Dockerfile has no build stage", span).help("add FROM and the image to start from")
            });
        }
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for stage in &stages {
            if let Some(name) = &stage.name {
                by_name.entry(name.clone()).or_default().push(stage.index);
            }
        }
        (Self { globals, stages, by_name }, problems)
    }

    /// The stage that FROM in stage `before` means by `name`.
    #[must_use]
    pub fn base(&self, name: &str, before: usize) -> Option<usize> {
        let indexes = self.by_name.get(&name.to_lowercase())?;
        indexes[..indexes.partition_point(|&index| index < before)].last().copied()
    }

    /// The last stage of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.base(name, self.stages.len())
    }

    /// What COPY --from means by `text`.
    #[must_use]
    pub fn source(&self, text: &str) -> StageReference {
        if let Ok(index) = text.parse::<i64>() {
            return usize::try_from(index).ok().filter(|&index| index < self.stages.len()).map_or(StageReference::NoSuchIndex, StageReference::Stage);
        }
        self.by_name(text).map_or(StageReference::Other, StageReference::Stage)
    }

    /// The stage that is built: the last one, or the one that `target` names or counts.
    ///
    /// # Errors
    /// A target that is no stage; the message suggests one.
    pub fn target(&self, target: Option<&str>) -> Result<usize, Problem> {
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            return Ok(self.stages.len().saturating_sub(1));
        };
        if let Some(index) = self.by_name(target) {
            return Ok(index);
        }
        if let Some(index) = target.parse::<usize>().ok().filter(|&index| index < self.stages.len()) {
            return Ok(index);
        }
        let problem = Problem::error("unknown-target", format!("target stage {target:?} could not be found"), Span::default());
        Err(match suggest::did_you_mean(target, self.names()) {
            Some(help) => problem.help(help),
            None if self.names().next().is_none() => problem.help("no stage of this file has a name: name one with FROM … AS name"),
            None => problem.help(format!("stages: {}", self.names().collect::<Vec<_>>().join(", "))),
        })
    }

    /// All stage names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }
}

fn is_from(instruction: &Instruction) -> bool {
    matches!(instruction.kind, InstructionKind::From(_))
}

fn is_stage_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}
