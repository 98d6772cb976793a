//! The facade with hand-made graphs: what runs, what is found, what is told. Needs root, as layers keep owners.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use builder_core::builder::{Builder, BuilderConfig};
use builder_core::diagnostic::Diagnostic;
use builder_core::error::BuildError;
use builder_core::event::{BuildEvent, EventKind};
use builder_core::frontend::{Compilation, Compiled, Frontend, Resolved, TargetImage};
use builder_core::graph::{CopyAction, Dest, FileAction, FileOp, Graph, GraphBuilder, Op, SourceOp, VertexId, VertexMeta};
use builder_core::oci::{ImageDocument, Platform};
use builder_core::request::{BuildReport, BuildRequest, LocalContext, Output, OutputDest, OutputKind};
use tokio_util::sync::CancellationToken;

/// A frontend that has one graph.
struct Fixed {
    graph: Graph,
    target: VertexId,
}

impl Frontend for Fixed {
    fn compile(&self, _: &Resolved) -> Result<Compilation, Vec<Diagnostic>> {
        let target = TargetImage { platform: Platform::host(), vertex: Some(self.target), config: ImageDocument::default(), history: vec![] };
        Ok(Compilation::Ready(Box::new(Compiled {
            graph: self.graph.clone(),
            targets: vec![target],
            warnings: vec![],
            sources: vec![],
            source_date_epoch: None,
            index: false,
        })))
    }
}

fn meta(name: &str) -> VertexMeta {
    VertexMeta { name: name.into(), ..VertexMeta::default() }
}

fn copy(input: usize, source: &str, dest: &str) -> FileAction {
    FileAction::Copy(CopyAction {
        input,
        sources: vec![source.into()],
        dest: Dest { path: dest.into(), is_dir: false },
        owner: None,
        chmod: None,
        parents: false,
        excludes: vec![],
        unpack: false,
        reset_owner: true,
    })
}

/// `COPY a /a` and then `COPY b /b` on it.
fn two_copies(ignore_cache: bool) -> Fixed {
    let mut graph = GraphBuilder::new();
    let context = graph.add(Op::Source(SourceOp::Local { name: "context".into() }), vec![], meta("[internal] load build context"));
    let no_cache = |name| VertexMeta { ignore_cache, ..meta(name) };
    let first = graph.add(Op::File(FileOp { base: false, actions: vec![copy(0, "a", "/a")] }), vec![context], no_cache("COPY a"));
    let second = graph.add(Op::File(FileOp { base: true, actions: vec![copy(1, "b", "/b")] }), vec![first, context], no_cache("COPY b"));
    Fixed { graph: graph.finish(), target: second }
}

async fn build(root: &Path, context: &Path, frontend: Fixed, outputs: Vec<Output>) -> (Result<BuildReport, BuildError>, Vec<String>) {
    let builder = Builder::new(BuilderConfig::new(root)).expect("builder");
    let request = BuildRequest {
        contexts: BTreeMap::from([("context".to_owned(), LocalContext::new(context))]),
        outputs,
        ..BuildRequest::new(Arc::new(frontend))
    };
    let names = Mutex::new(BTreeMap::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let events = move |event: BuildEvent| {
        let mut names = names.lock().expect("names");
        let (word, task) = match event.kind {
            EventKind::Planned { task, name, .. } => {
                names.insert(task, name);
                return;
            }
            EventKind::Cached { task } => ("cached", task),
            EventKind::Done { task } => ("done", task),
            EventKind::Failed { task, .. } => ("failed", task),
            EventKind::Cancelled { task } => ("cancelled", task),
            _ => return,
        };
        sink.lock().expect("told").push(format!("{word}: {}", names[&task]));
    };
    let report = builder.build(request, Arc::new(events), CancellationToken::new()).await;
    drop(builder);
    let told = told.lock().expect("told").clone();
    (report, told)
}

fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("a"), "one").expect("a");
    fs::write(dir.path().join("b"), "two").expect("b");
    dir
}

fn counts(outcome: (Result<BuildReport, BuildError>, Vec<String>)) -> (usize, usize) {
    let report = outcome.0.expect("built");
    (report.steps_run, report.steps_cached)
}

#[tokio::test]
async fn b1_6_a_second_build_runs_nothing_and_one_change_reruns_what_reads_it() {
    let (root, context) = (tempfile::tempdir().expect("tempdir"), context());
    let (report, told) = build(root.path(), context.path(), two_copies(false), vec![]).await;
    assert_eq!(report.expect("built").steps_run, 2);
    assert_eq!(told, ["done: [internal] load build context", "done: COPY a", "done: COPY b"]);

    let (report, told) = build(root.path(), context.path(), two_copies(false), vec![]).await;
    assert_eq!(report.expect("built").steps_cached, 2);
    assert_eq!(told, ["done: [internal] load build context", "cached: COPY a", "cached: COPY b"]);

    let old = fs::File::open(context.path().join("a")).expect("open");
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touch");
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (0, 2), "times do not count");

    fs::write(context.path().join("b"), "three").expect("change");
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (1, 1));
}

#[tokio::test]
async fn b4_1_no_cache_runs_everything_and_files_it() {
    let (root, context) = (tempfile::tempdir().expect("tempdir"), context());
    assert_eq!(counts(build(root.path(), context.path(), two_copies(true), vec![]).await), (2, 0));
    assert_eq!(counts(build(root.path(), context.path(), two_copies(true), vec![]).await), (2, 0));
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (0, 2));
}

#[tokio::test]
async fn a_missing_source_fails_the_step_that_names_it_and_the_next_build_works() {
    let (root, context) = (tempfile::tempdir().expect("tempdir"), context());
    fs::remove_file(context.path().join("b")).expect("remove");
    let (report, told) = build(root.path(), context.path(), two_copies(false), vec![]).await;
    match report.expect_err("failed") {
        BuildError::Step { name, cause, .. } => {
            assert_eq!(name, "COPY b");
            assert!(cause.to_string().contains("\"/b\": not found"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(told.last().map(String::as_str), Some("failed: COPY b"));
    fs::write(context.path().join("b"), "two").expect("b");
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (1, 1));
    let left = fs::read_dir(root.path().join("v1/tmp")).expect("tmp").count();
    assert_eq!(left, 0, "nothing temporary stays");
}

#[tokio::test]
async fn a_layer_that_is_gone_is_no_hit() {
    let (root, context) = (tempfile::tempdir().expect("tempdir"), context());
    build(root.path(), context.path(), two_copies(false), vec![]).await.0.expect("built");
    for layer in fs::read_dir(root.path().join("v1/layers")).expect("layers") {
        fs::remove_dir_all(layer.expect("entry").path()).expect("remove");
    }
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (2, 0));
}

/// What a crash of the machine leaves: rows of an earlier boot, and files that lost their bytes.
#[tokio::test]
async fn what_a_power_failure_took_is_noticed_and_made_again() {
    let (root, context) = (tempfile::tempdir().expect("tempdir"), context());
    build(root.path(), context.path(), two_copies(false), vec![]).await.0.expect("built");
    let another_boot = || {
        let db = rusqlite::Connection::open(root.path().join("v1/db")).expect("db");
        db.execute("UPDATE objects SET boot = zeroblob(16)", []).expect("age");
    };

    another_boot();
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (0, 2), "whole layers are trusted again");

    another_boot();
    let lost =
        fs::read_dir(root.path().join("v1/layers")).expect("layers").map(|layer| layer.expect("entry").path().join("fs/b")).find(|b| b.exists());
    let lost = lost.expect("the layer of the second step");
    fs::File::create(&lost).expect("truncate");
    assert_eq!(counts(build(root.path(), context.path(), two_copies(false), vec![]).await), (1, 1), "only what was lost is made again");
    assert_eq!(fs::read_to_string(&lost).expect("made again"), "two");
}

#[tokio::test]
async fn d1_a_directory_holds_what_was_copied() {
    let (root, context, out) = (tempfile::tempdir().expect("tempdir"), context(), tempfile::tempdir().expect("tempdir"));
    let output = Output::new(OutputKind::Local, OutputDest::Path(out.path().to_path_buf()));
    build(root.path(), context.path(), two_copies(false), vec![output]).await.0.expect("built");
    assert_eq!(fs::read_to_string(out.path().join("b")).expect("b"), "two");
}
