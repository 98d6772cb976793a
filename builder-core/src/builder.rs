//! The facade: from a request to a report.
//!
//! ```text
//! frontend ⇄ needs (resolved in parallel) → graph → scheduler over [`Vertices`] → assembled images → outputs
//! ```
//!
//! # Invariants
//! - [`Builder::new`] opens the store and nothing else: no network, no walk, no thread.
//! - When [`Builder::build`] returns, every process and task of the build has ended, whatever the outcome.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// What processes run on.
pub use builder_snapshot::snapshot::SnapshotterKind;
use builder_snapshot::user_namespace::Isolation;
use futures_util::future::join_all;
/// Cancels a build from elsewhere.
pub use tokio_util::sync::CancellationToken;

use crate::content::{Limits, Stack, Store, StoreError};
use crate::error::{BuildError, StepError};
use crate::event::{EventSink, TaskId, Tasks};
use crate::export::early::Early;
use crate::export::{self, ExportRequest, Exported};
use crate::frontend::{Answer, Compilation, Compiled, MAX_ROUNDS, Need, Resolved, TargetImage};
use crate::graph::{Graph, Op, SourceOp, VertexId};
use crate::image::{self, FinalImage, Made};
use crate::registry::{CredentialProvider, NoCredentials, RegistryConfig};
use crate::request::{BuildReport, BuildRequest, Output, OutputKind};
use crate::run::exec::ExecSettings;
use crate::run::file::Download;
use crate::run::vertex::{VertexFailure, VertexValue, Vertices, VerticesOf};
use crate::run::{self, Blocking};
use crate::scheduler::state::VertexState;
use crate::scheduler::{self, Ended, Results};
use crate::secret::without_passwords;
use crate::source::definition;
use crate::source::image::{ImageSources, Progress, SourceError};
use crate::source::remote::RemoteSources;
use crate::tripwire::Tripwire;

/// How a [`Builder`] works: everything that belongs to the machine rather than to one build.
pub struct BuilderConfig {
    /// Where the store is.
    pub root: PathBuf,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// Knows their passwords.
    pub credentials: Arc<dyn CredentialProvider>,
    /// The text of the machine's resolv.conf, for steps that use its network.
    pub resolv_conf: Vec<u8>,
    /// What may come from elsewhere: archives, images, answers of servers.
    pub limits: Limits,
    /// The resolv.conf of a resolver that listens on a loopback address of this machine: which servers it asks. For steps with another network.
    pub upstream_resolv_conf: Vec<u8>,
    /// Directories, as in PATH, where programs of this machine are searched that steps may need: emulators, and `pasta` for a network of their own.
    pub search_path: Option<OsString>,
    /// Most steps at a time. Steps of different stages may wait for each other, so this is no count of processors.
    pub max_parallel: usize,
    /// What processes run on: overlays, or copies where none can be mounted.
    pub snapshotter: SnapshotterKind,
}

/// Enough for stages that wait for each other; more would only cost memory.
const DEFAULT_PARALLEL: usize = 16;

impl BuilderConfig {
    /// A store at `root` and defaults for the rest.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            registries: RegistryConfig::default(),
            credentials: Arc::new(NoCredentials),
            resolv_conf: Vec::new(),
            upstream_resolv_conf: Vec::new(),
            search_path: None,
            limits: Limits::default(),
            max_parallel: DEFAULT_PARALLEL,
            snapshotter: SnapshotterKind::Auto,
        }
    }
}

/// Builds images.
pub struct Builder {
    store: Arc<Store>,
    config: BuilderConfig,
}

impl Builder {
    /// A builder on the store of `config`.
    ///
    /// # Errors
    /// A store that cannot be made or opened.
    pub fn new(mut config: BuilderConfig) -> Result<Self, StoreError> {
        config.registries.limits.clone_from(&config.limits);
        Ok(Self { store: Arc::new(Store::open(&config.root)?.limited(config.limits.clone())), config })
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Builds what `request` says. Progress goes to `events`; when `cancel` is cancelled, all processes are ended and awaited first.
    ///
    /// # Errors
    /// Why the build ended.
    pub async fn build(&self, request: BuildRequest, events: Arc<dyn EventSink>, cancel: CancellationToken) -> Result<BuildReport, BuildError> {
        let build = self.begin(request, events, cancel);
        let outcome = build.run().await;
        if outcome.is_err() {
            build.tasks.cancel_the_rest();
            // What was begun on threads and is not waited for any more has been told to stop.
            build.sources.threads.ended().await;
        }
        outcome
    }

    /// Prepares to bring what a frontend needs to say something about a definition. Nothing is built; of `request` only where things are counts.
    #[must_use]
    pub fn inquire(&self, request: BuildRequest, events: Arc<dyn EventSink>) -> Inquiry<'_> {
        Inquiry(self.begin(request, events, CancellationToken::new()))
    }

    fn begin(&self, request: BuildRequest, events: Arc<dyn EventSink>, cancel: CancellationToken) -> Build<'_> {
        let sources = ImageSources::new(self.config.registries.clone(), Arc::clone(&self.config.credentials), Arc::clone(&self.store));
        let remotes = RemoteSources::new(&self.config.registries, &self.store, request.secrets.clone(), request.ssh.clone());
        Build {
            store: &self.store,
            config: &self.config,
            request,
            sources: Arc::new(sources),
            remotes: Arc::new(remotes),
            tasks: Arc::new(Tasks::new(events)),
            cancel,
        }
    }
}

/// Answers to needs without a build. See [`Builder::inquire`].
pub struct Inquiry<'a>(Build<'a>);

impl Inquiry<'_> {
    /// Brings all of `needs` and adds the answers. What can't be had is an answer too. Dropping the future ends what was begun.
    pub async fn bring(&self, needs: Vec<Need>, resolved: &mut Resolved) {
        self.0.bring(needs, resolved).await;
    }
}

/// One build under way.
struct Build<'a> {
    store: &'a Arc<Store>,
    config: &'a BuilderConfig,
    request: BuildRequest,
    sources: Arc<ImageSources>,
    remotes: Arc<RemoteSources>,
    tasks: Arc<Tasks>,
    cancel: CancellationToken,
}

impl Build<'_> {
    async fn run(&self) -> Result<BuildReport, BuildError> {
        let compiled = self.or_cancelled(self.compile()).await??;
        for warning in &compiled.warnings {
            self.tasks.warning(warning.clone());
        }
        let epoch = self.request.source_date_epoch.or(compiled.source_date_epoch);
        if epoch.is_none() && self.request.outputs.iter().any(|output| output.rewrite_timestamp) {
            self.tasks.note("rewrite-timestamp=true does nothing without an epoch: give SOURCE_DATE_EPOCH, or --reproducible");
        }
        let Compiled { graph, targets, index, .. } = compiled;
        let wanted: Vec<VertexId> = targets.iter().filter_map(|target| target.vertex).collect();
        let needed = graph.reachable(&wanted);
        let export = self.export_request(epoch, index);
        let (made, early) = Early::new(&export, &graph, &wanted, self.store, &self.sources.threads);
        let vertices = Arc::new(Vertices::new(VerticesOf {
            graph: graph.clone(),
            needed: needed.clone(),
            store: Arc::clone(self.store),
            sources: Arc::clone(&self.sources),
            remotes: Arc::clone(&self.remotes),
            contexts: self.request.contexts.clone(),
            settings: self.exec_settings(),
            snapshotter: self.config.snapshotter,
            tasks: Arc::clone(&self.tasks),
            parallel: self.config.max_parallel,
            made,
        }));
        let scheduled = self.schedule(&vertices, &graph, &wanted, early).await;
        if scheduled.is_err() {
            vertices.finish_settling().await;
        }
        let results = scheduled.map_err(|ended| step_error(&graph, ended))?;
        let images = assemble(&targets, &graph, &results, epoch).map_err(|cause| BuildError::Internal(cause.to_string()))?;
        let exported = self.export(&images, &export).await?;
        vertices.finish_images();
        let count = |state| needed.iter().filter(|&&id| is_step(&graph, id) && results.state(id) == state).count();
        let (steps_run, steps_cached) = (count(VertexState::Done), count(VertexState::Cached));
        vertices.finish_settling().await;
        let Exported { mut metadata, digest, images } = exported;
        let isolation = Isolation::current();
        metadata.insert("rbuild.isolation".to_owned(), isolation.name().into());
        Ok(BuildReport { images, digest, metadata, isolation, steps_run, steps_cached })
    }

    /// Asks the frontend until it lacks nothing.
    async fn compile(&self) -> Result<Compiled, BuildError> {
        let mut resolved = Resolved::default();
        for _ in 0..MAX_ROUNDS {
            // Whoever embeds the builder may bring a frontend of its own, whose faults shall be the end of its build and of no other's.
            let compiled = std::panic::catch_unwind(AssertUnwindSafe(|| self.request.frontend.compile(&resolved)));
            let fault = |what: &str| BuildError::Internal(format!("the frontend's: {what}"));
            match compiled.map_err(|_| fault("it panicked"))?.map_err(BuildError::Definition)? {
                Compilation::Ready(compiled) => return compiled.check().map(|()| *compiled).map_err(|what| fault(&what)),
                Compilation::Needs(needs) => self.bring(needs, &mut resolved).await,
            }
        }
        Err(BuildError::Internal(format!("the build definition still lacks something after {MAX_ROUNDS} rounds")))
    }

    async fn bring(&self, needs: Vec<Need>, resolved: &mut Resolved) {
        let answers = join_all(needs.iter().map(|need| self.answer(need))).await;
        resolved.answers.extend(needs.into_iter().zip(answers));
    }

    async fn answer(&self, need: &Need) -> Answer {
        match need {
            Need::Image { reference, location, platform } => {
                let task = self.tasks.plan(&format!("[internal] load metadata for {reference}"), None);
                self.tasks.start(task);
                let note = |text: String| self.tasks.note(&text);
                match self.sources.resolve(reference, location, platform, self.request.pull, &note).await {
                    Ok(image) => {
                        self.tasks.done(task);
                        Answer::Image(Arc::new(image))
                    }
                    Err(error) => {
                        self.tasks.failed(task, &error.to_string());
                        // The frontend says which image; here is why.
                        Answer::Failed(match error {
                            SourceError::Resolve { reference, cause } => format!("{reference}: {cause}"),
                            error => error.to_string(),
                        })
                    }
                }
            }
            Need::File { context, path } => self.answer_file(context, path).await,
            Need::RemoteFile { source, path, or_download } => self.answer_remote_file(source, path, *or_download).await,
            Need::Selection { context, source } => self.answer_selection(context, source).await,
            Need::Time { source } => self.answer_time(source).await,
        }
    }

    async fn answer_selection(&self, context: &str, source: &str) -> Answer {
        let Some(found) = self.request.contexts.get(context).cloned() else {
            return Answer::Failed(format!("there is no build context named {context:?}"));
        };
        let source = source.to_owned();
        match Blocking::new(1).run(move || run::file::selects(&found, &source)).await.and_then(|selected| selected) {
            Ok(selected) => Answer::Selection(selected),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    async fn answer_time(&self, source: &SourceOp) -> Answer {
        let is_file = matches!(source, SourceOp::Http { .. });
        let asked = async {
            let stack = self.remotes.fetch(source).await?;
            let store = Arc::clone(self.store);
            Blocking::new(1).run(move || run::file::time_of_remote(&stack, is_file, &store)).await?
        };
        match asked.await {
            Ok(time) => Answer::Time(time),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    async fn answer_file(&self, context: &str, path: &str) -> Answer {
        let Some(found) = self.request.contexts.get(context) else {
            return Answer::Failed(format!("there is no build context named {context:?}"));
        };
        let (context, path, store) = (found.clone(), path.to_owned(), Arc::clone(self.store));
        let read = Blocking::new(1).run(move || definition::read_local(&context, &path, store.limits())).await;
        read.unwrap_or_else(|error| Answer::Failed(error.to_string()))
    }

    async fn answer_remote_file(&self, source: &SourceOp, path: &str, or_download: bool) -> Answer {
        let (what, download) = match source {
            SourceOp::Git { url, .. } => (format!("[internal] load git source {}", without_passwords(url)), None),
            _ => ("[internal] load remote build context".to_owned(), Some(Download { is_the_file: or_download })),
        };
        let task = self.tasks.plan(&what, None);
        self.tasks.start(task);
        let read = async {
            let stack = self.remotes.fetch(source).await?;
            let (store, path) = (Arc::clone(self.store), path.to_owned());
            Blocking::new(1).run(move || run::file::read_remote(&stack, &path, download, &store)).await?
        };
        match read.await {
            Ok(answer) => {
                self.tasks.done(task);
                answer
            }
            Err(error) => {
                self.tasks.failed(task, &error.to_string());
                Answer::Failed(error.to_string())
            }
        }
    }

    fn exec_settings(&self) -> ExecSettings {
        ExecSettings {
            secrets: self.request.secrets.clone(),
            ssh: self.request.ssh.clone(),
            allow: self.request.allow.clone(),
            network: self.request.network,
            resources: self.request.resources.clone(),
            step_timeout: self.request.step_timeout,
            host_ca: self.request.host_ca.clone(),
            search_path: self.config.search_path.clone(),
            resolv_conf: self.config.resolv_conf.clone(),
            upstream_resolv_conf: self.config.upstream_resolv_conf.clone(),
        }
    }

    /// Runs the graph, and packs its layers beside.
    async fn schedule(
        &self,
        vertices: &Arc<Vertices>,
        graph: &Graph,
        wanted: &[VertexId],
        early: Early,
    ) -> Result<Results<VertexValue>, Ended<VertexFailure>> {
        let packed_enough = early.ending();
        let packing = early.run();
        let scheduling = async {
            let scheduled = scheduler::run(Arc::clone(vertices), graph, wanted, self.config.max_parallel, &self.cancel).await;
            packed_enough.cancel();
            scheduled
        };
        tokio::pin!(packing, scheduling);
        let scheduled = tokio::select! {
            biased;
            scheduled = &mut scheduling => scheduled,
            () = &mut packing => return scheduling.await,
        };
        if scheduled.is_ok() {
            // The layer in work is wanted; of a build that failed it is not, and is dropped.
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Ended::Cancelled),
                () = packing => {}
            }
        }
        scheduled
    }

    fn export_request(&self, epoch: Option<i64>, index: bool) -> ExportRequest<'_> {
        ExportRequest {
            outputs: &self.request.outputs,
            tags: &self.request.tags,
            annotations: &self.request.annotations,
            source_date_epoch: epoch,
            timestamps: self.request.timestamps,
            tripwire: Tripwire::new(&self.request.secrets, &self.request.allow_secret_in_image).map(Arc::new),
            index,
        }
    }

    async fn export(&self, images: &[FinalImage], request: &ExportRequest<'_>) -> Result<Exported, BuildError> {
        let name = export_name(&self.request.outputs, !self.request.tags.is_empty());
        let task = self.tasks.plan(name, None);
        self.tasks.start(task);
        let progress = TaskProgress { tasks: &self.tasks, task };
        match self.or_cancelled(export::export(request, images, self.store, &self.sources, &progress)).await? {
            Ok(exported) => {
                self.tasks.done(task);
                Ok(exported)
            }
            Err(error) => {
                self.tasks.failed(task, &error.to_string());
                Err(BuildError::Export(error.to_string()))
            }
        }
    }

    async fn or_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, BuildError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(BuildError::Cancelled),
            value = work => Ok(value),
        }
    }
}

fn assemble(targets: &[TargetImage], graph: &Graph, results: &Results<VertexValue>, epoch: Option<i64>) -> Result<Vec<FinalImage>, StepError> {
    let made = |vertex: VertexId| Made {
        created: results.value(vertex).map_or(SystemTime::UNIX_EPOCH, |value| value.created),
        name: graph.vertex(vertex).meta.name.clone(),
    };
    targets
        .iter()
        .map(|target| {
            let stack = match target.vertex.and_then(|vertex| results.value(vertex)) {
                Some(value) => value.tree.stack()?.clone(),
                None => Stack::default(),
            };
            Ok(image::assemble(target, &stack, &made, epoch))
        })
        .collect()
}

fn step_error(graph: &Graph, ended: Ended<VertexFailure>) -> BuildError {
    match ended {
        Ended::Cancelled => BuildError::Cancelled,
        Ended::Failed(vertex, failure) => {
            let meta = &graph.vertex(vertex).meta;
            BuildError::Step {
                name: meta.name.clone(),
                location: meta.location.clone(),
                log_tail: failure.log.tail,
                log_path: failure.log.path,
                cause: failure.cause,
            }
        }
    }
}

fn is_step(graph: &Graph, vertex: VertexId) -> bool {
    matches!(graph.vertex(vertex).op, Op::Exec(_) | Op::File(_))
}

/// The task's name, as BuildKit's users know it; none if nothing is exported.
fn export_name(outputs: &[Output], named: bool) -> &'static str {
    let kinds = outputs.iter().map(|output| match output.kind {
        OutputKind::Oci { .. } => "exporting to oci image format",
        OutputKind::Docker => "exporting to docker image format",
        OutputKind::Local => "exporting to client directory",
        OutputKind::Tar => "exporting to client tarball",
        OutputKind::Image => "exporting to image",
        OutputKind::CacheOnly => "",
    });
    let first = kinds.into_iter().find(|name| !name.is_empty());
    first.unwrap_or(if named { "exporting to image" } else { "" })
}

struct TaskProgress<'a> {
    tasks: &'a Tasks,
    task: TaskId,
}

impl Progress for TaskProgress<'_> {
    fn status(&self, id: &str, current: u64, total: u64, done: bool) {
        self.tasks.status(self.task, id, current, total, done);
    }
}
