//! Looking up and running the vertices of one build: where the scheduler's decisions meet store, sources and sandbox.
//!
//! # Invariants
//!
//! - A hit uses the exact stack that was recorded, and only if all layers made here are still there. Layers of images may be absent: they
//!   are brought when something reads their files.
//! - A step runs under the lock of its key. Whoever had to wait for the lock looks again before running.
//! - A result is in the store when layer and records are committed in one transaction; until then everything is temporary.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use builder_snapshot::StopSignal;
use builder_snapshot::cache_mount::CacheMounts;
use builder_snapshot::exec::stubs::StubDirs;
use builder_snapshot::exec::{Cancel, Connector, NetworkLease, PrivateNetworks, name_servers};
use builder_snapshot::snapshot::{CommittedLayer, Snapshotter, SnapshotterKind};
use builder_snapshot::toc::LayerId;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::exec::{self, ExecEnd, ExecSettings, Execution};
use super::log::{LogEnd, LogTarget};
use super::{Blocking, TreeValue, file};
use crate::cache::{Commit, Key, KeyFields, Record};
use crate::content::{Stack, StackLayer, Store, lock};
use crate::error::StepError;
use crate::event::{TaskId, Tasks};
use crate::export::early::Made;
use crate::graph::{ExecOp, FileAction, FileOp, Graph, MountKind, Network, Op, SourceOp, VertexId};
use crate::plan::{self, FieldedKey};
use crate::request::LocalContext;
use crate::scheduler::state::VertexState;
use crate::scheduler::{Answer, LookUp, Run, Work};
use crate::source::image::{ImageSources, Progress};
use crate::source::local::LocalTree;
use crate::source::remote::RemoteSources;

/// How many lookups read tables or walk directories at a time: hashing is bound by processors and the disk.
const PARALLEL_LOOKUPS: usize = 4;

/// Age of what a later build makes durable, in seconds: kernels write back by themselves within half a minute, so that by then the sync has
/// little to do.
const SETTLE_AFTER_SECONDS: i64 = 600;

/// The same for cache mounts, which a crash would empty: a day's builds should not be lost with the power.
const SETTLE_CACHES_AFTER: Duration = Duration::from_secs(60);

/// What a vertex leaves.
#[derive(Debug, Clone)]
pub struct VertexValue {
    /// The tree.
    pub tree: TreeValue,
    /// When its layer was made.
    pub created: SystemTime,
}

/// Why a vertex failed.
#[derive(Debug)]
pub struct VertexFailure {
    /// Why.
    pub cause: StepError,
    /// What its process said.
    pub log: LogEnd,
}

impl From<StepError> for VertexFailure {
    fn from(cause: StepError) -> Self {
        Self { cause, log: LogEnd::default() }
    }
}

fn failure(error: impl std::fmt::Display) -> VertexFailure {
    StepError::other(error.to_string()).into()
}

/// The vertices of one build.
pub struct Vertices {
    graph: Graph,
    store: Arc<Store>,
    sources: Arc<ImageSources>,
    remotes: Arc<RemoteSources>,
    contexts: BTreeMap<String, LocalContext>,
    settings: Arc<ExecSettings>,
    tasks: Arc<Tasks>,
    /// Task of each vertex, by number.
    task_of: Vec<TaskId>,
    lookups: Blocking,
    runs: Blocking,
    /// Cache mounts that `--no-cache` has emptied in this build.
    cleared: Arc<Mutex<HashSet<String>>>,
    /// Layers of images that are reachable in this graph: who is told about their download.
    image_tasks: Vec<(Stack, TaskId)>,
    locals: Mutex<HashMap<String, Arc<LocalTree>>>,
    snapshots: Snapshotter,
    /// Mount points that images lack.
    stubs: OnceLock<StubDirs>,
    /// Networks of steps that ask for the default one, or why there are none but the machine's.
    networks: OnceLock<Result<PrivateNetworks, String>>,
    /// How many steps may ask for one.
    wanting_networks: usize,
    /// What earlier builds committed is made durable beside the first step that runs.
    settling: Mutex<Option<JoinHandle<()>>>,
    settle_once: Once,
    made: Made,
}

/// What belongs to one build.
pub struct VerticesOf {
    /// What is built.
    pub graph: Graph,
    /// What of it is needed: those get a task, in this order.
    pub needed: Vec<VertexId>,
    /// The store.
    pub store: Arc<Store>,
    /// Where images come from.
    pub sources: Arc<ImageSources>,
    /// Where files of web servers and commits come from.
    pub remotes: Arc<RemoteSources>,
    /// Directories by name.
    pub contexts: BTreeMap<String, LocalContext>,
    /// For processes.
    pub settings: ExecSettings,
    /// What processes run on.
    pub snapshotter: SnapshotterKind,
    /// Progress.
    pub tasks: Arc<Tasks>,
    /// Most steps at a time.
    pub parallel: usize,
    /// Is told of layers that steps have made.
    pub made: Made,
}

/// Keys of a vertex that must run, the most specific last.
pub struct RunPlan {
    keys: Vec<FieldedKey>,
}

/// Whether a process gets a network of its own, if there is one.
fn wants_network(op: &ExecOp, settings: &ExecSettings) -> bool {
    exec::effective_network(op, settings.network) == Network::Default
}

impl Vertices {
    /// The vertices of `build`; announces the needed ones.
    #[must_use]
    pub fn new(build: VerticesOf) -> Self {
        let VerticesOf { graph, needed, store, sources, remotes, contexts, settings, snapshotter, tasks, parallel, made } = build;
        let hidden = tasks.plan("", None);
        let mut task_of = vec![hidden; graph.ids().count()];
        let mut image_tasks = Vec::new();
        for &id in &needed {
            let vertex = graph.vertex(id);
            // Stacking takes no time and says nothing that its inputs don't.
            let name = if matches!(vertex.op, Op::Merge) { "" } else { &vertex.meta.name };
            let task = tasks.plan(name, vertex.meta.location.clone());
            task_of[id.0 as usize] = task;
            if let Op::Source(SourceOp::Image { diff_ids, .. }) = &vertex.op {
                image_tasks.push((Stack::of_image(diff_ids), task));
            }
        }
        let wants = |id: &&VertexId| matches!(&graph.vertex(**id).op, Op::Exec(op) if wants_network(op, &settings));
        let wanting_networks = needed.iter().filter(wants).count();
        Self {
            graph,
            store,
            sources,
            remotes,
            contexts,
            settings: Arc::new(settings),
            tasks,
            task_of,
            lookups: Blocking::new(PARALLEL_LOOKUPS),
            runs: Blocking::new(parallel),
            cleared: Arc::default(),
            image_tasks,
            locals: Mutex::default(),
            snapshots: Snapshotter::new(snapshotter),
            stubs: OnceLock::new(),
            networks: OnceLock::new(),
            wanting_networks,
            settling: Mutex::default(),
            settle_once: Once::new(),
            made,
        }
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// After the build: images whose layers nobody asked for are as good as cached.
    pub fn finish_images(&self) {
        for (_, task) in &self.image_tasks {
            self.tasks.cached(*task);
        }
    }

    fn begin_settling(&self) {
        self.settle_once.call_once(|| {
            let store = Arc::clone(&self.store);
            let settled = tokio::task::spawn_blocking(move || {
                // A failure costs a later check, no more.
                if let Err(error) = store.settle(SETTLE_AFTER_SECONDS) {
                    tracing::debug!(%error, "cannot settle the store");
                }
                if let Err(error) = settle_caches(&store) {
                    tracing::debug!(%error, "cannot settle cache mounts");
                }
            });
            *lock(&self.settling) = Some(settled);
        });
    }

    /// Waits for what is going on beside the build.
    pub async fn finish_settling(&self) {
        let settling = lock(&self.settling).take();
        if let Some(settling) = settling
            && let Err(error) = settling.await
        {
            tracing::debug!(%error, "cannot settle the store");
        }
    }

    /// Directories of the layers of `stack`, bottom first; brings what is missing.
    ///
    /// # Errors
    /// Layers that nobody has.
    pub async fn layer_dirs(&self, stack: &Stack) -> Result<Vec<PathBuf>, StepError> {
        // A layer of an image may depend on those below it, so that only the sources know where it lies.
        let only_ours = stack.layers.iter().all(|layer| !layer.is_from_image() && self.store.has_layer(layer.id));
        if only_ours {
            return Ok(self.store.stack_dirs(stack));
        }
        let bringing = stack.layers.iter().any(|layer| !self.store.has_layer(layer.id));
        let task = self.image_task(stack);
        let progress = ImageProgress { tasks: &self.tasks, task };
        let dirs = self.sources.ensure_layers(stack, &progress).await.map_err(|e| StepError::other(e.to_string()))?;
        if let Some(task) = task {
            if bringing {
                self.tasks.done(task);
            } else {
                self.tasks.cached(task);
            }
        }
        Ok(dirs)
    }

    /// The image that the bottom of `stack` is.
    fn image_task(&self, stack: &Stack) -> Option<TaskId> {
        let of_this = self.image_tasks.iter().filter(|(image, _)| stack.layers.starts_with(&image.layers));
        of_this.max_by_key(|(image, _)| image.layers.len()).map(|(_, task)| *task)
    }

    fn stubs(&self) -> Result<&StubDirs, VertexFailure> {
        let tmp = self.store.tmp_dir().map_err(failure)?;
        Ok(self.stubs.get_or_init(|| StubDirs::new(tmp.to_path_buf())))
    }

    /// The networks of the build's steps, or why there can be none.
    fn networks(&self) -> Result<&PrivateNetworks, String> {
        let networks = self.networks.get_or_init(|| {
            let tmp = self.store.tmp_dir().map_err(|error| error.to_string())?;
            let servers = name_servers(&self.settings.resolv_conf, &self.settings.upstream_resolv_conf);
            let found = Connector::find(self.settings.search_path.as_deref(), &servers);
            Ok(PrivateNetworks::new(found, tmp.to_path_buf(), self.wanting_networks))
        });
        networks.as_ref().map_err(Clone::clone)
    }

    /// A network of a step's own; none where none can be made, which is said once.
    fn private_network(&self) -> Option<NetworkLease> {
        let began = Instant::now();
        let network = self.networks().and_then(|networks| networks.take().map_err(|why| why.to_string()));
        tracing::debug!(took = ?began.elapsed(), "network taken");
        network.map_err(|why| self.tasks.note(&format!("steps use the network of this machine: {why}"))).ok()
    }

    fn task(&self, vertex: VertexId) -> TaskId {
        self.task_of[vertex.0 as usize]
    }

    fn look_up_source(&self, vertex: VertexId, source: &SourceOp, cancel: &CancellationToken) -> Answer<LookUp<Self>> {
        let hit = |tree| Answer::Now(LookUp::Hit(VertexValue { tree, created: SystemTime::UNIX_EPOCH }));
        match source {
            SourceOp::Image { diff_ids, .. } => {
                let stack = Stack::of_image(diff_ids);
                if stack.layers.iter().all(|layer| self.store.has_layer(layer.id)) {
                    self.tasks.cached(self.task(vertex));
                }
                hit(TreeValue::Stack(stack))
            }
            SourceOp::Local { name } => {
                self.tasks.start(self.task(vertex));
                match self.local(name, cancel) {
                    Ok(tree) => hit(TreeValue::Local(tree)),
                    Err(cause) => Answer::Now(LookUp::Failed(cause.into())),
                }
            }
            SourceOp::Http { .. } | SourceOp::Git { .. } => Answer::Now(LookUp::Miss { key: None, plan: RunPlan { keys: Vec::new() } }),
        }
    }

    fn local(&self, name: &str, cancel: &CancellationToken) -> Result<Arc<LocalTree>, StepError> {
        let mut locals = lock(&self.locals);
        if let Some(tree) = locals.get(name) {
            return Ok(Arc::clone(tree));
        }
        let context = self.contexts.get(name).ok_or_else(|| StepError::other(format!("there is no build context named {name:?}")))?;
        let tree = Arc::new(LocalTree::open(context, &self.store)?.stop_when(stop_of(cancel)));
        locals.insert(name.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    fn whole_key(&self, op: &Op, inputs: &[TreeValue]) -> Option<FieldedKey> {
        match op {
            Op::Exec(op) => plan::whole_exec_key(op, self.settings.network, inputs),
            Op::File(op) => plan::whole_file_key(op, inputs),
            Op::Source(_) | Op::Merge => None,
        }
    }

    fn part_key(&self, op: &Op, inputs: &[TreeValue]) -> Result<Option<FieldedKey>, StepError> {
        match op {
            Op::Exec(op) => plan::part_exec_key(op, self.settings.network, inputs, &self.store),
            Op::File(op) => plan::part_file_key(op, inputs, &self.store),
            Op::Source(_) | Op::Merge => Ok(None),
        }
    }

    /// The first of `keys` whose record can be used.
    fn find(&self, keys: &[Key]) -> Result<Option<(usize, Record)>, VertexFailure> {
        for (position, key) in keys.iter().enumerate() {
            if let Some((_, record)) = self.store.db().record(&[*key]).map_err(failure)?
                && self.is_usable(&record.stack)
            {
                return Ok(Some((position, record)));
            }
        }
        Ok(None)
    }

    fn is_usable(&self, stack: &Stack) -> bool {
        stack.layers.iter().all(|layer| layer.is_from_image() || self.store.has_layer(layer.id))
    }

    async fn look_up_parts(
        self: Arc<Self>,
        vertex: VertexId,
        inputs: Vec<TreeValue>,
        mut keys: Vec<FieldedKey>,
        cancel: CancellationToken,
    ) -> LookUp<Self> {
        // Tables of contents come with their layers, which may have to be downloaded.
        for position in read_in_part(&self.graph.vertex(vertex).op) {
            if let Some(TreeValue::Stack(stack)) = inputs.get(position) {
                let brought = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return LookUp::Stopped,
                    brought = self.layer_dirs(stack) => brought,
                };
                if let Err(cause) = brought {
                    return LookUp::Failed(cause.into());
                }
            }
        }
        match self.try_parts(vertex, inputs, &mut keys).await {
            Ok(Some(record)) => LookUp::Hit(value_of(record)),
            Ok(None) => LookUp::Miss { key: keys.last().map(|(key, _)| *key), plan: RunPlan { keys } },
            // What goes wrong because everything is being stopped is no failure of this vertex.
            Err(_) if cancel.is_cancelled() => LookUp::Stopped,
            Err(failure) => LookUp::Failed(failure),
        }
    }

    async fn try_parts(
        self: &Arc<Self>,
        vertex: VertexId,
        inputs: Vec<TreeValue>,
        keys: &mut Vec<FieldedKey>,
    ) -> Result<Option<Record>, VertexFailure> {
        let facts = self.graph.vertex(vertex);
        let this = Arc::clone(self);
        let part = self.lookups.run(move || this.part_key(&this.graph.vertex(vertex).op, &inputs)).await?;
        for (position, input) in facts.inputs.iter().enumerate() {
            if matches!(self.graph.vertex(*input).op, Op::Source(SourceOp::Local { .. })) && read_in_part(&facts.op).contains(&position) {
                self.tasks.done(self.task(*input));
            }
        }
        let Some(part) = part? else { return Ok(None) };
        if keys.iter().any(|(key, _)| *key == part.0) {
            return Ok(None);
        }
        let found = if facts.meta.ignore_cache { None } else { self.find(&[part.0])? };
        if let Some((_, record)) = found {
            // Next time the whole inputs' key is enough.
            if !keys.is_empty() {
                self.store.db().add_keys(keys, &record, &facts.meta.name).map_err(failure)?;
            }
            return Ok(Some(record));
        }
        keys.push(part);
        Ok(None)
    }

    async fn run_keyed(self: Arc<Self>, vertex: VertexId, inputs: Vec<VertexValue>, plan: RunPlan, cancel: CancellationToken) -> Run<Self> {
        match self.attempt(vertex, inputs, &plan.keys, &cancel).await {
            Ok(run) => run,
            // What goes wrong because everything is being stopped is no failure of this vertex.
            Err(_) if cancel.is_cancelled() => Run::Stopped,
            Err(failure) => Run::Failed(failure),
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        vertex: VertexId,
        inputs: Vec<VertexValue>,
        keys: &[FieldedKey],
        cancel: &CancellationToken,
    ) -> Result<Run<Self>, VertexFailure> {
        let facts = self.graph.vertex(vertex);
        let _lock = match keys.last() {
            Some((key, _)) => {
                let Some((held, _)) = self.store.locks().acquire(key, cancel).await.map_err(failure)? else { return Ok(Run::Stopped) };
                // Between the lookup and the lock another process may have made it.
                if !facts.meta.ignore_cache {
                    let all: Vec<Key> = keys.iter().map(|(key, _)| *key).collect();
                    if let Some((_, record)) = self.find(&all)? {
                        return Ok(Run::Found(value_of(record)));
                    }
                }
                Some(held)
            }
            None => None,
        };
        if cancel.is_cancelled() {
            return Ok(Run::Stopped);
        }
        self.begin_settling();
        let inputs: Vec<TreeValue> = inputs.into_iter().map(|input| input.tree).collect();
        match &facts.op {
            Op::Exec(op) => self.run_exec(vertex, op, &inputs, keys, cancel).await,
            Op::File(op) => self.run_file(vertex, op, inputs, keys, cancel).await,
            Op::Source(source) => self.run_source(vertex, source, cancel).await,
            Op::Merge => Err(failure("internal fault: a merge was to run")),
        }
    }

    async fn dirs_unless_cancelled(
        &self,
        inputs: &[TreeValue],
        cancel: &CancellationToken,
    ) -> Result<Option<HashMap<Stack, Vec<PathBuf>>>, StepError> {
        let mut dirs = HashMap::new();
        for input in inputs {
            if let TreeValue::Stack(stack) = input {
                let found = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Ok(None),
                    found = self.layer_dirs(stack) => found?,
                };
                dirs.insert(stack.clone(), found);
            }
        }
        Ok(Some(dirs))
    }

    async fn run_exec(
        self: &Arc<Self>,
        vertex: VertexId,
        op: &ExecOp,
        inputs: &[TreeValue],
        keys: &[FieldedKey],
        cancel: &CancellationToken,
    ) -> Result<Run<Self>, VertexFailure> {
        exec::check(op, &self.settings)?;
        if wants_network(op, &self.settings)
            && let Ok(networks) = self.networks()
        {
            networks.prepare();
        }
        let root = inputs.first().ok_or_else(|| failure("a process needs a root file system"))?.stack()?.clone();
        let Some(dirs) = self.dirs_unless_cancelled(inputs, cancel).await? else { return Ok(Run::Stopped) };
        let task = self.task(vertex);
        self.tasks.start(task);
        let layers: Vec<Vec<PathBuf>> =
            inputs.iter().map(|input| input.stack().map(|stack| dirs.get(stack).cloned().unwrap_or_default())).collect::<Result<_, _>>()?;
        let log_name = keys.last().map_or_else(|| "unkeyed.log".to_owned(), |(key, _)| format!("{}.log", key.0.hex()));
        let (cancel_end, stop) = cancel_pair()?;
        let stop_signal = stop_of(cancel);
        let this = Arc::clone(self);
        let work = {
            let (log_name, root, keys) = (log_name.clone(), root.clone(), keys.to_vec());
            let began = Instant::now();
            move || {
                let facts = this.graph.vertex(vertex);
                let Op::Exec(op) = &facts.op else { return Err(failure("internal fault: the vertex is no process")) };
                let cleared = |name: &str| facts.meta.ignore_cache && lock(&this.cleared).insert(name.to_owned());
                let stubs = this.stubs()?;
                let end = Execution {
                    op,
                    inputs: &layers,
                    settings: &this.settings,
                    store: &this.store,
                    snapshots: &this.snapshots,
                    stubs,
                    private_network: &|| this.private_network(),
                    log_path: this.store.logs_dir().join(&log_name),
                    target: Arc::new(TaskLog { tasks: Arc::clone(&this.tasks), task }),
                    stop: stop_signal,
                    clear_cache: &cleared,
                }
                .run(&cancel_end);
                tracing::debug!(?vertex, took = ?began.elapsed(), "process ended");
                match end {
                    ExecEnd::Committed { layer, log } => {
                        let log = log.path.map(|_| log_name);
                        this.file(vertex, &root, layer, log, &keys).map(Run::Made)
                    }
                    ExecEnd::Stopped => Ok(Run::Stopped),
                    ExecEnd::Failed { cause, log } => Err(VertexFailure { cause, log }),
                }
            }
        };
        let running = self.runs.run(work);
        tokio::pin!(running);
        tokio::select! {
            biased;
            ended = &mut running => ended?,
            () = cancel.cancelled() => {
                // Closing this end kills the process; the thread then ends by itself.
                drop(stop);
                running.await?
            }
        }
    }

    async fn run_file(
        self: &Arc<Self>,
        vertex: VertexId,
        op: &FileOp,
        inputs: Vec<TreeValue>,
        keys: &[FieldedKey],
        cancel: &CancellationToken,
    ) -> Result<Run<Self>, VertexFailure> {
        let base =
            if op.base { inputs.first().ok_or_else(|| failure("a file operation lacks its base"))?.stack()?.clone() } else { Stack::default() };
        let Some(dirs) = self.dirs_unless_cancelled(&inputs, cancel).await? else { return Ok(Run::Stopped) };
        self.tasks.start(self.task(vertex));
        let (this, keys, stop) = (Arc::clone(self), keys.to_vec(), stop_of(cancel));
        self.runs
            .run(move || {
                let Op::File(op) = &this.graph.vertex(vertex).op else { return Err(failure("internal fault: the vertex is no file operation")) };
                let layer_dirs = |stack: &Stack| dirs.get(stack).cloned().unwrap_or_else(|| this.store.stack_dirs(stack));
                let version = this.version_key(vertex, op);
                let previous = version.as_ref().and_then(|(key, _)| this.previous(key));
                let layer = file::execute(op, &inputs, &layer_dirs, &this.store, previous.as_ref(), stop)?;
                let keys: Vec<FieldedKey> = keys.into_iter().chain(version).collect();
                this.file(vertex, &base, layer, None, &keys).map(Run::Made)
            })
            .await?
    }

    /// What names all versions of a file operation that copies from directories of the request, whatever they hold; none if it copies from none.
    fn version_key(&self, vertex: VertexId, op: &FileOp) -> Option<FieldedKey> {
        let local = |input: &VertexId| match &self.graph.vertex(*input).op {
            Op::Source(SourceOp::Local { name }) => self.contexts.get(name).map(|context| context.path.to_string_lossy().into_owned()),
            _ => None,
        };
        let paths: Vec<Option<String>> = self.graph.vertex(vertex).inputs.iter().map(local).collect();
        paths.iter().any(Option::is_some).then(|| plan::key::version(op, &paths))
    }

    /// The layer that the last version made, if it is still there. Whatever is wrong with it, everything can be copied.
    fn previous(&self, version: &Key) -> Option<file::Previous> {
        let (_, record) = self.store.db().record(&[*version]).ok()??;
        let layer = record.stack.layers.last()?.id;
        if !self.store.has_layer(layer) {
            return None;
        }
        Some(file::Previous { fs: self.store.layer_fs(layer), toc: self.store.read_packed_toc(layer).ok()? })
    }

    async fn run_source(self: &Arc<Self>, vertex: VertexId, source: &SourceOp, cancel: &CancellationToken) -> Result<Run<Self>, VertexFailure> {
        self.tasks.start(self.task(vertex));
        tokio::select! {
            biased;
            stack = self.remotes.fetch(source) => Ok(Run::Made(VertexValue { tree: TreeValue::Stack(stack?), created: SystemTime::UNIX_EPOCH })),
            () = cancel.cancelled() => Ok(Run::Stopped),
        }
    }

    /// Makes `layer` on `below` the result of a vertex: published, then committed with its records.
    fn file(
        &self,
        vertex: VertexId,
        below: &Stack,
        layer: CommittedLayer,
        log: Option<String>,
        keys: &[(Key, KeyFields)],
    ) -> Result<VertexValue, VertexFailure> {
        let stack_layer = StackLayer { id: layer.id, content: layer.content };
        self.store.publish(layer).map_err(failure)?;
        let record = Record { stack: below.with(stack_layer), created: SystemTime::now(), log };
        let id: LayerId = stack_layer.id;
        self.store.db().commit(&Commit { layer: Some(id), keys, record: &record, name: &self.graph.vertex(vertex).meta.name }).map_err(failure)?;
        self.made.layer(vertex, id);
        Ok(value_of(record))
    }
}

impl Work for Vertices {
    type Value = VertexValue;
    type Plan = RunPlan;
    type Failure = VertexFailure;

    fn look_up(self: Arc<Self>, vertex: VertexId, inputs: Vec<VertexValue>, cancel: CancellationToken) -> Answer<LookUp<Self>> {
        let facts = self.graph.vertex(vertex);
        match &facts.op {
            Op::Source(source) => return self.look_up_source(vertex, source, &cancel),
            Op::Merge => return Answer::Now(merge(&inputs)),
            Op::File(op) if op.actions.is_empty() => return Answer::Now(merge(if op.base { &inputs[..1] } else { &[] })),
            Op::Exec(_) | Op::File(_) => {}
        }
        let inputs: Vec<TreeValue> = inputs.into_iter().map(|input| input.tree).collect();
        let keys: Vec<FieldedKey> = self.whole_key(&facts.op, &inputs).into_iter().collect();
        if !facts.meta.ignore_cache
            && let Some((key, _)) = keys.first()
        {
            match self.find(&[*key]) {
                Ok(Some((_, record))) => return Answer::Now(LookUp::Hit(value_of(record))),
                Ok(None) => {}
                Err(failure) => return Answer::Now(LookUp::Failed(failure)),
            }
        }
        if read_in_part(&facts.op).is_empty() {
            return Answer::Now(LookUp::Miss { key: keys.last().map(|(key, _)| *key), plan: RunPlan { keys } });
        }
        Answer::Later(Box::pin(self.look_up_parts(vertex, inputs, keys, cancel)))
    }

    fn run(self: Arc<Self>, vertex: VertexId, inputs: Vec<VertexValue>, plan: RunPlan, cancel: CancellationToken) -> BoxFuture<'static, Run<Self>> {
        Box::pin(self.run_keyed(vertex, inputs, plan, cancel))
    }

    fn report(&self, vertex: VertexId, state: VertexState, failure: Option<&VertexFailure>) {
        let task = self.task(vertex);
        let is_step = matches!(self.graph.vertex(vertex).op, Op::Exec(_) | Op::File(_));
        match state {
            VertexState::Cached if is_step => self.tasks.cached(task),
            VertexState::Done => self.tasks.done(task),
            VertexState::Failed => self.tasks.failed(task, &failure.map_or_else(String::new, |failure| failure.cause.to_string())),
            VertexState::Cancelled => self.tasks.cancelled(task),
            _ => {}
        }
    }
}

/// Inputs of which a part is read, so that a digest of that part may say more than the whole.
fn read_in_part(op: &Op) -> Vec<usize> {
    let mut positions: Vec<usize> = match op {
        Op::Exec(op) => op
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Bind { input, .. } if *input != 0 => Some(*input),
                _ => None,
            })
            .collect(),
        Op::File(op) => op
            .actions
            .iter()
            .filter_map(|action| match action {
                FileAction::Copy(copy) if !(op.base && copy.input == 0) => Some(copy.input),
                _ => None,
            })
            .collect(),
        Op::Source(_) | Op::Merge => Vec::new(),
    };
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// The layers of all inputs, one stack on the other.
fn merge(inputs: &[VertexValue]) -> LookUp<Vertices> {
    let mut layers = Vec::new();
    for input in inputs {
        match input.tree.stack() {
            Ok(stack) => layers.extend_from_slice(&stack.layers),
            Err(cause) => return LookUp::Failed(cause.into()),
        }
    }
    let created = inputs.last().map_or(SystemTime::UNIX_EPOCH, |input| input.created);
    LookUp::Hit(VertexValue { tree: TreeValue::Stack(Stack { layers }), created })
}

fn value_of(record: Record) -> VertexValue {
    VertexValue { tree: TreeValue::Stack(record.stack), created: record.created }
}

fn stop_of(cancel: &CancellationToken) -> StopSignal {
    let cancel = cancel.clone();
    StopSignal::new(move || cancel.is_cancelled())
}

fn settle_caches(store: &Store) -> Result<(), StepError> {
    let tmp = store.tmp_dir().map_err(|e| StepError::other(e.to_string()))?;
    let caches = CacheMounts::open(store.mounts_dir(), tmp);
    caches.and_then(|caches| caches.make_durable(SETTLE_CACHES_AFTER)).map_err(|e| StepError::other(e.to_string()))
}

fn cancel_pair() -> Result<(Cancel, OwnedFd), VertexFailure> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failure(format!("cannot make a pipe: {e}")))?;
    Ok((Cancel(read), write))
}

struct TaskLog {
    tasks: Arc<Tasks>,
    task: TaskId,
}

impl LogTarget for TaskLog {
    fn log(&self, stream: u8, bytes: &[u8]) {
        self.tasks.log(self.task, stream, bytes);
    }

    fn warning(&self, text: &str) {
        self.tasks.note(text);
    }
}

struct ImageProgress<'a> {
    tasks: &'a Tasks,
    task: Option<TaskId>,
}

impl Progress for ImageProgress<'_> {
    fn status(&self, id: &str, current: u64, total: u64, done: bool) {
        if let Some(task) = self.task {
            self.tasks.status(task, id, current, total, done);
        }
    }
}
