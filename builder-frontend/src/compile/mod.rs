//! From a syntax tree to a build graph.

mod options;

use builder_core::diagnostic::Diagnostic;
use builder_core::frontend::{Compilation, Frontend, Need, Resolved};
use serde_json::Value;

pub use options::{DockerfileSource, FrontendOptions, NamedContext, NoCache};

/// Compiles a Dockerfile.
#[derive(Debug)]
pub struct DockerfileFrontend {
    #[expect(dead_code, reason = "being raised")]
    options: FrontendOptions,
}

/// What a call that builds nothing (`--call`) comes to.
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
}

impl CheckReport {
    /// The JSON of `--call=check,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Null
    }
}

/// Arguments, secrets and agents of a target (`--call=outline`).
#[derive(Debug, Clone, Default)]
pub struct Outline {}

impl Outline {
    /// The JSON of `--call=outline,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Null
    }
}

/// The stages of a file (`--call=targets`).
#[derive(Debug, Clone, Default)]
pub struct Targets {}

impl Targets {
    /// The JSON of `--call=targets,format=json`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        Value::Null
    }
}

impl DockerfileFrontend {
    /// A frontend for one file and one set of options.
    #[must_use]
    pub fn new(options: FrontendOptions) -> Self {
        Self { options }
    }

    /// All build checks, on every stage when no target is given. Nothing is built; images are asked for so that their variables are known.
    #[must_use]
    pub fn check(&self, _resolved: &Resolved) -> CallOutcome<CheckReport> {
        CallOutcome::Ready(CheckReport::default())
    }

    /// What the target takes.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    pub fn outline(&self, _resolved: &Resolved) -> Result<CallOutcome<Outline>, Vec<Diagnostic>> {
        Ok(CallOutcome::Ready(Outline::default()))
    }

    /// The stages.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    pub fn targets(&self, _resolved: &Resolved) -> Result<CallOutcome<Targets>, Vec<Diagnostic>> {
        Ok(CallOutcome::Ready(Targets::default()))
    }
}

impl Frontend for DockerfileFrontend {
    fn compile(&self, _resolved: &Resolved) -> Result<Compilation, Vec<Diagnostic>> {
        Ok(Compilation::Needs(Vec::new()))
    }
}
