//! `rbuild context`: what of a context a build would read, and why.
//!
//! The Dockerfile is compiled as for a build and the engine makes the selections of its instructions; only digests and results are left out. What
//! is ignored is found by a walk of its own through all that is there.
//!
//! # Invariants
//! - No file of the context is read but the Dockerfile and the ignore files; nothing is written but what images leave in the store.

mod report;
mod show;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use builder_core::builder::Builder;
use builder_core::error::BuildError;
use builder_core::event::NoEvents;
use builder_core::frontend::{Compilation, Compiled, Frontend as _, MAX_ROUNDS, Resolved};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource, NamedContext};
use builder_snapshot::user_namespace::Entered;

use self::report::{Question, report};
use super::build::{Voice, builder_config, request, runtime, say};
use crate::answer::answer;
use crate::args::{AnswerFormat, BuildArgs, ContextArgs, GlobalArgs};
use crate::environment::Environment;
use crate::exit_code::ExitCode;
use crate::progress::palette::Palette;
use crate::render;
use crate::request::context::DOCKERFILE_DIRECTORY;
use crate::request::{self, BuildPlan};
use crate::signals::Interrupts;

/// Answers on standard output.
pub(crate) fn run(global: &GlobalArgs, args: &ContextArgs, environment: &Environment, entered: Entered) -> Result<ExitCode> {
    let palette = Palette::of(environment);
    let environment = &environment.with_outside(entered.outside);
    let ContextArgs { context, definition, build_context, why, format } = args.clone();
    ensure!(context.as_deref().is_none_or(|context| context != "-"), "rbuild context tells about directories; unpack the archive first");
    let build = BuildArgs { context, build_context, ..definition.build() };
    let plan = request::plan(&build, environment, &mut std::io::stdin().lock())?;
    ensure!(
        matches!(plan.options.context, NamedContext::Local { .. }),
        "rbuild context tells about directories; of a context from elsewhere everything is fetched"
    );
    let builder = Builder::new(builder_config(&plan, global, environment)?)?;
    let voice = Voice { palette: &palette, machine: None };
    let runtime = runtime()?;
    let question = Question {
        contexts: plan.contexts.iter().filter(|(name, _)| *name != DOCKERFILE_DIRECTORY).map(|(name, found)| (name.clone(), found.clone())).collect(),
        ignores: plan.ignores.clone(),
        definition: if let DockerfileSource::Text { name, .. } = &plan.options.dockerfile { Some(name.clone()) } else { None },
        why,
    };
    let compiled = runtime.block_on(async {
        let interrupts = Interrupts::listen().context("cannot listen for signals")?;
        tokio::select! {
            compiled = compile(plan, &builder) => Ok::<_, anyhow::Error>(compiled),
            () = interrupts.cancel.cancelled() => Ok(Err(BuildError::Cancelled)),
        }
    });
    runtime.shutdown_background();
    let compiled = match compiled? {
        Ok(compiled) => compiled,
        Err(error) => return voice.failed(&error, &[], render::SHORT_TAIL_LINES),
    };
    let report = report(&question, &compiled)?;
    let text = match format {
        AnswerFormat::Text => show::text(&report),
        AnswerFormat::Json => format!("{:#}\n", show::json(&report)),
    };
    answer(&text)?;
    for missing in report.contexts.iter().flat_map(|context| &context.missing) {
        say(&format!("{} {}\n", Palette::paint(&palette.error, "ERROR:"), render::clean_lines(&show::missing(missing))));
    }
    let fails = report.contexts.iter().any(|context| !context.missing.is_empty()) || report.why.iter().any(|why| !why.is_there());
    Ok(if fails { ExitCode::Failure } else { ExitCode::Success })
}

/// Compiles as a build would, images resolved.
async fn compile(plan: BuildPlan, builder: &Builder) -> Result<Compiled, BuildError> {
    let frontend = DockerfileFrontend::new(plan.options.clone());
    let inquiry = builder.inquire(request(plan), Arc::new(NoEvents));
    let mut resolved = Resolved::default();
    for _ in 0..MAX_ROUNDS {
        match frontend.compile(&resolved).map_err(BuildError::Definition)? {
            Compilation::Ready(compiled) => return Ok(*compiled),
            Compilation::Needs(needs) => inquiry.bring(needs, &mut resolved).await,
        }
    }
    Err(BuildError::Internal("the Dockerfile needs ever more images".into()))
}
