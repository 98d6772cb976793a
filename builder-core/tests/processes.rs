//! RUN through the facade: processes that meet, that run once, that fail, that are cancelled. Needs root and Debian's busybox-static.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use builder_core::builder::{Builder, BuilderConfig};
use builder_core::diagnostic::Diagnostic;
use builder_core::error::{BuildError, StepError};
use builder_core::event::{BuildEvent, EventKind};
use builder_core::frontend::{Compilation, Compiled, Frontend, Resolved, TargetImage};
use builder_core::graph::{
    CopyAction, Dest, ExecOp, FileAction, FileOp, GraphBuilder, Mount, MountKind, Network, Op, Security, SourceOp, VertexId, VertexMeta,
};
use builder_core::oci::{ImageDocument, Platform};
use builder_core::request::{BuildReport, BuildRequest, LocalContext};
use builder_core::secret::Secret;
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "/usr/bin/busybox";

struct Fixed(Graph);

/// A graph that begins with busybox in an empty tree.
#[derive(Clone)]
struct Graph {
    graph: builder_core::graph::Graph,
    target: VertexId,
}

impl Frontend for Fixed {
    fn compile(&self, _: &Resolved) -> Result<Compilation, Vec<Diagnostic>> {
        let target = TargetImage { platform: Platform::host(), vertex: Some(self.0.target), config: ImageDocument::default(), history: vec![] };
        let compiled =
            Compiled { graph: self.0.graph.clone(), targets: vec![target], warnings: vec![], sources: vec![], source_date_epoch: None, index: false };
        Ok(Compilation::Ready(Box::new(compiled)))
    }
}

fn meta(name: &str) -> VertexMeta {
    VertexMeta { name: name.into(), ..VertexMeta::default() }
}

fn run(script: &str, mounts: Vec<Mount>) -> Op {
    Op::Exec(ExecOp {
        argv: ["/busybox", "sh", "-c", script].map(Into::into).to_vec(),
        env: vec![],
        proxy_env: vec![],
        cwd: "/".into(),
        user: String::new(),
        hostname: "box".into(),
        network: Network::Default,
        security: Security::Sandbox,
        mounts,
        extra_hosts: vec![],
        shm_size_bytes: None,
        ulimits: vec![],
        timeout: None,
        retries: 0,
        platform: Platform::host(),
    })
}

/// One stage a script, all on busybox, joined by a step that reads them all.
fn stages(scripts: &[String], mounts: &[Mount]) -> Graph {
    let mut graph = GraphBuilder::new();
    let context = graph.add(Op::Source(SourceOp::Local { name: "context".into() }), vec![], meta("context"));
    let copy = CopyAction {
        input: 0,
        sources: vec!["busybox".into()],
        dest: Dest { path: "/busybox".into(), is_dir: false },
        owner: None,
        chmod: None,
        parents: false,
        excludes: vec![],
        unpack: false,
        reset_owner: true,
    };
    let base = graph.add(Op::File(FileOp { base: false, actions: vec![FileAction::Copy(copy)] }), vec![context], meta("COPY busybox"));
    let mut ends: Vec<VertexId> =
        scripts.iter().map(|script| graph.add(run(script, mounts.to_vec()), vec![base], meta(&format!("RUN {script}")))).collect();
    ends.insert(0, base);
    let target = graph.add(Op::Merge, ends, meta("all"));
    Graph { graph: graph.finish(), target }
}

struct World {
    root: tempfile::TempDir,
    context: tempfile::TempDir,
    secrets: BTreeMap<String, Secret>,
}

impl World {
    fn new() -> Self {
        let context = tempfile::tempdir().expect("tempdir");
        fs::copy(BUSYBOX, context.path().join("busybox")).expect("busybox-static is installed");
        Self { root: tempfile::tempdir().expect("tempdir"), context, secrets: BTreeMap::new() }
    }

    async fn build(&self, graph: &Graph, cancel: &CancellationToken) -> (Result<BuildReport, BuildError>, Vec<u8>) {
        let builder = Builder::new(BuilderConfig::new(self.root.path())).expect("builder");
        let request = BuildRequest {
            contexts: BTreeMap::from([("context".to_owned(), LocalContext::new(self.context.path()))]),
            secrets: self.secrets.clone(),
            ..BuildRequest::new(Arc::new(Fixed(graph.clone())))
        };
        let output = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&output);
        let events = move |event: BuildEvent| {
            if let EventKind::Log { bytes, .. } = event.kind {
                sink.lock().expect("output").extend_from_slice(&bytes);
            }
        };
        let report = builder.build(request, Arc::new(events), cancel.clone()).await;
        drop(builder);
        let output = output.lock().expect("output").clone();
        (report, output)
    }

    /// Nothing temporary stays, however a build ended.
    fn assert_swept(&self) {
        assert_eq!(fs::read_dir(self.root.path().join("v1/tmp")).expect("tmp").count(), 0);
    }
}

/// Answers `GET` when `together` requests are waiting.
fn meeting(together: usize) -> (u16, Arc<AtomicUsize>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let (told, arrived) = mpsc::channel();
    std::thread::spawn(move || {
        let mut waiting: Vec<TcpStream> = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let _length = client.read(&mut request).expect("request");
            waiting.push(client);
            // Nobody may be listening.
            let _ = told.send(());
            if waiting.len() >= together {
                for mut client in waiting.drain(..) {
                    client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("answer");
                }
            }
        }
    });
    (port, count, arrived)
}

fn call(port: u16, name: &str) -> String {
    format!("/busybox wget -q -O /{name} http://127.0.0.1:{port}/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_that_wait_for_each_other_finish() {
    let world = World::new();
    let (port, count, _) = meeting(3);
    let graph = stages(&["a", "b", "c"].map(|name| call(port, name)), &[]);
    let report = world.build(&graph, &CancellationToken::new()).await.0.expect("built");
    assert_eq!((report.steps_run, count.load(Ordering::SeqCst)), (4, 3));
    let report = world.build(&graph, &CancellationToken::new()).await.0.expect("built");
    assert_eq!((report.steps_cached, count.load(Ordering::SeqCst)), (4, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_builds_on_one_store_run_each_step_once() {
    let world = World::new();
    let (port, count, _) = meeting(1);
    let graph = stages(&["a", "b", "c", "d"].map(|name| format!("{}; /busybox sleep 0.05", call(port, name))), &[]);
    let never = CancellationToken::new();
    let builds = futures_util::future::join_all((0..3).map(|_| world.build(&graph, &never))).await;
    let reports: Vec<BuildReport> = builds.into_iter().map(|(report, _)| report.expect("built")).collect();
    assert_eq!(count.load(Ordering::SeqCst), 4);
    assert_eq!(reports.iter().map(|report| report.steps_run).sum::<usize>(), 5, "and the copy");
    world.assert_swept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_ends_the_processes() {
    let world = World::new();
    // Nobody is ever answered.
    let (port, _, arrived) = meeting(100);
    let graph = stages(&["a", "b"].map(|name| call(port, name)), &[]);
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let watcher = std::thread::spawn(move || {
        for _ in 0..2 {
            arrived.recv().expect("a step called");
        }
        token.cancel();
    });
    let (report, _) = world.build(&graph, &cancel).await;
    watcher.join().expect("watcher");
    assert!(matches!(report, Err(BuildError::Cancelled)), "{report:?}");
    world.assert_swept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_1_a_failing_process_says_so_and_stops_the_others() {
    let world = World::new();
    let (port, _, _) = meeting(100);
    let failing = "echo first; echo second >&2; exit 7".to_owned();
    let graph = stages(&[call(port, "never"), failing], &[]);
    let (report, _) = world.build(&graph, &CancellationToken::new()).await;
    let Err(BuildError::Step { name, log_tail, log_path, cause, .. }) = report else { panic!("{report:?}") };
    assert_eq!(name, "RUN echo first; echo second >&2; exit 7");
    assert!(matches!(cause, StepError::ExitCode { code: 7, .. }));
    assert_eq!(cause.to_string(), "process \"/busybox sh -c echo first; echo second >&2; exit 7\" did not complete successfully: exit code: 7");
    let tail = String::from_utf8(log_tail).expect("text");
    assert!(tail.contains("first\n") && tail.contains("second\n"), "{tail}");
    assert_eq!(fs::read_to_string(log_path.expect("kept")).expect("log"), tail);
    world.assert_swept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_7_a_secret_is_seen_by_its_step_and_found_nowhere_else() {
    let mut world = World::new();
    let value = "correct-horse-battery-staple";
    world.secrets.insert("key".into(), Secret::new(format!("{value}\n").into_bytes()));
    let secret = Mount {
        target: "/run/secrets/key".into(),
        kind: MountKind::Secret { id: "key".into(), file: true, env: Some("KEY".into()), required: true, mode: 0o400, uid: 0, gid: 0 },
    };
    // The script itself must not hold the value that is searched for: a shell puts the pieces together.
    let cut = value.replace('-', "\"-\"");
    let script = format!("x=$(/busybox cat /run/secrets/key); test \"$x\" = {cut} && test \"$(echo $KEY)\" = {cut} && /busybox cat /run/secrets/key");
    let (report, output) = world.build(&stages(&[script], &[secret]), &CancellationToken::new()).await;
    report.expect("the step reads both");
    assert_eq!(String::from_utf8_lossy(&output), "****\n");
    assert!(!holds(world.root.path(), value.as_bytes()));
    world.assert_swept();
}

fn holds(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).expect("list").any(|entry| {
        let entry = entry.expect("entry");
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            holds(&entry.path(), needle)
        } else {
            kind.is_file() && fs::read(entry.path()).expect("read").windows(needle.len()).any(|window| window == needle)
        }
    })
}
