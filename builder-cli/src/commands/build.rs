//! `rbuild build`: plan, engine, results.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use builder_core::builder::{Builder, BuilderConfig};
use builder_core::diagnostic::Diagnostic;
use builder_core::error::BuildError;
use builder_core::event::{EventSink, TaskId};
use builder_core::export::write_small_file;
use builder_core::request::{BuildReport, BuildRequest, OutputDest};
use builder_frontend::compile::{DockerfileFrontend, DockerfileSource};
use builder_snapshot::diagnosis::{self, Lack};
use builder_snapshot::user_namespace::{Entered, Ids, Isolation};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::call;
use crate::answer::answer;
use crate::args::{BuildArgs, GlobalArgs};
use crate::credentials::DockerCredentials;
use crate::environment::Environment;
use crate::exit_code::ExitCode;
use crate::progress::palette::Palette;
use crate::progress::{Progress, ProgressKind};
use crate::render::machine::Findings;
use crate::request::diagnostics::{self, MachineOutput};
use crate::request::{self, BuildPlan, Call};
use crate::signals::Interrupts;
use crate::{config, render, stdin_context};

/// Threads of the runtime. They only coordinate and talk to the network; work that computes or blocks has threads of its own.
const RUNTIME_THREADS: usize = 2;

/// Lines of progress for what is read here. The engine counts from 0 and never comes so far.
const ISOLATION: TaskId = TaskId(u64::MAX - 2);
const READING_DOCKERFILE: TaskId = TaskId(u64::MAX - 1);
const READING_IGNORE_FILE: TaskId = TaskId(u64::MAX);

/// Builds what was typed. An error is one of usage: nothing was begun.
pub(crate) fn run(global: &GlobalArgs, args: &BuildArgs, environment: &Environment, entered: Entered) -> Result<ExitCode> {
    no_core_dumps();
    builder_snapshot::give_large_buffers_back();
    let machine = args.diagnostics.as_deref().map(|text| diagnostics::read(text, environment)).transpose()?.flatten();
    let outcome = begin(global, args, environment, entered, machine.as_ref());
    if let (Err(error), Some(machine)) = (&outcome, &machine) {
        machine.write(&Findings::of_usage(error))?;
    }
    outcome
}

fn begin(global: &GlobalArgs, args: &BuildArgs, environment: &Environment, entered: Entered, machine: Option<&MachineOutput>) -> Result<ExitCode> {
    let palette = Palette::of(environment);
    let environment = &environment.with_outside(entered.outside);
    let mut plan = request::plan(args, environment, &mut std::io::stdin().lock())?;
    let writes_results = plan.quiet || plan.outputs.iter().any(|output| matches!(output.dest, OutputDest::Stdout));
    ensure!(
        !writes_results || machine.is_none_or(|machine| !machine.is_on_stdout()),
        "standard output can't hold a result and --diagnostics; give --diagnostics a file with ,dest=FILE"
    );
    if let Ids::One { lack } = &entered.ids {
        plan.warnings.push(format!("only user 0 is available to steps, and none of their programs can become another: {lack}"));
    }
    for warning in &plan.warnings {
        if !plan.quiet {
            say(&format!("{} {warning}\n", Palette::paint(&palette.warning, "WARNING:")));
        }
    }
    if let Some(iidfile) = &plan.iidfile {
        remove_old(iidfile)?;
    }
    let builder_config = builder_config(&plan, global, environment)?;
    if let Err(Lack { cause, remedy, .. }) = diagnosis::floor() {
        let error = BuildError::Machine { message: cause, help: remedy };
        return Voice { palette: &palette, machine }.failed(&error, &[], render::SHORT_TAIL_LINES);
    }
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let interrupts = Interrupts::listen().context("cannot listen for signals")?;
        tokio::select! {
            code = carry_out(plan, builder_config, &interrupts, Voice { palette: &palette, machine }) => code,
            () = interrupts.abandon.cancelled() => Ok(ExitCode::Cancelled),
        }
    });
    // Threads that are still busy (a second interrupt) end with the process; the store sweeps what they leave.
    runtime.shutdown_background();
    code
}

/// How the engine works here.
pub(super) fn builder_config(plan: &BuildPlan, global: &GlobalArgs, environment: &Environment) -> Result<BuilderConfig> {
    Ok(BuilderConfig {
        registries: config::registries(global, environment)?,
        credentials: Arc::new(DockerCredentials::new(environment)),
        search_path: environment.get_os("PATH").map(Into::into),
        // Of systemd's resolver, which /etc/resolv.conf may name by its loopback address.
        upstream_resolv_conf: std::fs::read("/run/systemd/resolve/resolv.conf").unwrap_or_default(),
        resolv_conf: std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        limits: plan.limits.clone(),
        snapshotter: config::snapshotter(plan.snapshotter, global, environment)?,
        ..BuilderConfig::new(config::store_root(global, environment)?)
    })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build().context("cannot start threads")
}

/// A core dump would hold secrets and passwords. One byte is less than any dump and, unlike none at all, keeps the kernel from handing one to a
/// machine's crash handler. The hard limit stays as it is: a step may be given it by `--ulimit`.
fn no_core_dumps() {
    let most = getrlimit(Resource::Core).maximum;
    // Lowering a soft limit does not fail; if it did, a build is better than none.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(most.unwrap_or(1).min(1)), maximum: most });
}

/// To whom problems are told: people, in colours, and perhaps a program.
#[derive(Clone, Copy)]
pub(super) struct Voice<'a> {
    pub(super) palette: &'a Palette,
    pub(super) machine: Option<&'a MachineOutput>,
}

impl Voice<'_> {
    /// Says why a build failed, with so many lines of the failed step's output.
    pub(super) fn failed(self, error: &BuildError, warnings: &[Diagnostic], tail_lines: usize) -> Result<ExitCode> {
        say(&render::failure(error, self.palette, tail_lines));
        self.machine.map(|machine| machine.write(&Findings::of_failure(error, warnings))).transpose()?;
        Ok(ExitCode::of(error))
    }
}

async fn carry_out(plan: BuildPlan, config: BuilderConfig, interrupts: &Interrupts, voice: Voice<'_>) -> Result<ExitCode> {
    let builder = match Builder::new(config) {
        Ok(builder) => builder,
        Err(error) => return voice.failed(&BuildError::from(error), &[], render::SHORT_TAIL_LINES),
    };
    let mut plan = plan;
    // The directory of an unpacked context lives until the build is over.
    let _unpacked = stdin_context::bring(&mut plan, builder.store())?;
    match plan.call {
        Call::Build => build(plan, &builder, interrupts, voice).await,
        Call::Check(_) | Call::Outline(_) | Call::Targets(_) | Call::Convert => call::run(plan, &builder, interrupts, voice).await,
    }
}

async fn build(plan: BuildPlan, builder: &Builder, interrupts: &Interrupts, voice: Voice<'_>) -> Result<ExitCode> {
    let (quiet, kind, iidfile, metadata_file) = (plan.quiet, plan.progress, plan.iidfile.clone(), plan.metadata_file.clone());
    let by_manifest = plan.id_is_manifest;
    let progress = Progress::start(kind, voice.palette.clone());
    let sink = progress.sink();
    if let DockerfileSource::Text { name, .. } = &plan.options.dockerfile {
        sink.already_done(READING_DOCKERFILE, format!("[internal] load build definition from {name}"));
    }
    if plan.options.context_ignore.is_some() {
        sink.already_done(READING_IGNORE_FILE, "[internal] load .dockerignore".to_owned());
    }
    sink.already_done(ISOLATION, format!("[internal] isolation: {}", Isolation::current().describe()));
    let sink: Arc<dyn EventSink> = Arc::new(sink);
    let outcome = builder.build(request(plan), sink, interrupts.cancel.clone()).await;
    let warnings = progress.finish();
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            // The picture of a terminal showed a few lines only; lines that were printed need not be repeated all.
            let tail_lines = if kind == ProgressKind::Plain { render::SHORT_TAIL_LINES } else { usize::MAX };
            return voice.failed(&error, &warnings, tail_lines);
        }
    };
    if matches!(kind, ProgressKind::Plain | ProgressKind::Tty) {
        say(&render::warnings(&warnings, voice.palette));
    }
    voice.machine.map(|machine| machine.write(&Findings::of(&warnings, ExitCode::Success))).transpose()?;
    let id = image_id(&report, by_manifest);
    if let (Some(path), Some(id)) = (&iidfile, &id) {
        write_small_file(path, id.as_bytes()).map_err(|error| anyhow!("--iidfile: {error}"))?;
    }
    if let Some(path) = &metadata_file {
        let text = serde_json::to_string_pretty(&report.metadata).context("metadata")?;
        write_small_file(path, (text + "\n").as_bytes()).map_err(|error| anyhow!("--metadata-file: {error}"))?;
    }
    if let (true, Some(id)) = (quiet, id) {
        answer(&format!("{id}\n"))?;
    }
    Ok(ExitCode::Success)
}

pub(super) fn request(plan: BuildPlan) -> BuildRequest {
    BuildRequest {
        network: plan.options.network,
        resources: plan.resources,
        step_timeout: plan.step_timeout,
        host_ca: plan.host_ca,
        frontend: Arc::new(DockerfileFrontend::new(plan.options)),
        contexts: plan.contexts,
        secrets: plan.secrets,
        allow_secret_in_image: plan.allow_secret_in_image,
        ssh: plan.ssh,
        outputs: plan.outputs,
        tags: plan.tags,
        allow: plan.allow,
        source_date_epoch: plan.epoch,
        timestamps: plan.timestamps,
        pull: plan.pull,
        annotations: plan.annotations,
    }
}

/// The digest of the config, as docker's image ids are; for several platforms, that of the index (`features.md` D9).
fn image_id(report: &BuildReport, by_manifest: bool) -> Option<String> {
    let only = match &report.images[..] {
        [image] if !by_manifest => image.config.or(image.manifest),
        _ => None,
    };
    only.or(report.digest).map(|digest| digest.to_string())
}

/// Writes to standard error. That it may be closed is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn remove_old(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("cannot replace {}", path.display())),
        _ => Ok(()),
    }
}
