//! The loop with scripted work: what starts ends, what waits for each other meets, cancellation reaches what runs.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Barrier;

use super::*;
use crate::graph::{FileAction, FileOp, GraphBuilder, Op, VertexMeta};

enum Script {
    Hit,
    Return,
    Meet(Arc<Barrier>),
    WaitForCancel,
    Fail,
    LookForever,
}

#[derive(Default)]
struct Scripted {
    scripts: HashMap<VertexId, Script>,
    running: AtomicUsize,
    reports: Mutex<Vec<(VertexId, VertexState)>>,
}

impl Work for Scripted {
    type Value = u32;
    type Plan = ();
    type Failure = String;

    fn look_up(self: Arc<Self>, vertex: VertexId, inputs: Vec<u32>, cancel: CancellationToken) -> Answer<LookUp<Self>> {
        let sum = inputs.iter().sum::<u32>() + 1;
        match self.scripts[&vertex] {
            Script::Hit => Answer::Now(LookUp::Hit(sum)),
            Script::LookForever => Answer::Later(Box::pin(async move {
                cancel.cancelled().await;
                LookUp::Stopped
            })),
            _ => Answer::Later(Box::pin(async { LookUp::Miss { key: None, plan: () } })),
        }
    }

    fn run(self: Arc<Self>, vertex: VertexId, inputs: Vec<u32>, (): (), cancel: CancellationToken) -> BoxFuture<'static, Run<Self>> {
        Box::pin(async move {
            self.running.fetch_add(1, Ordering::SeqCst);
            let end = match &self.scripts[&vertex] {
                Script::Meet(barrier) => {
                    barrier.wait().await;
                    Run::Made(inputs.iter().sum::<u32>() + 1)
                }
                Script::WaitForCancel => {
                    cancel.cancelled().await;
                    Run::Stopped
                }
                Script::Fail => Run::Failed("it broke".into()),
                _ => Run::Made(inputs.iter().sum::<u32>() + 1),
            };
            self.running.fetch_sub(1, Ordering::SeqCst);
            end
        })
    }

    fn report(&self, vertex: VertexId, state: VertexState, _: Option<&String>) {
        self.reports.lock().expect("reports").push((vertex, state));
    }
}

/// A graph from the inputs of each vertex, with its script.
fn build(plan: Vec<(&[u32], Script)>) -> (Graph, Arc<Scripted>) {
    let mut builder = GraphBuilder::new();
    let mut scripts = HashMap::new();
    for (position, (inputs, script)) in plan.into_iter().enumerate() {
        let mode = u32::try_from(position).expect("small");
        let op = Op::File(FileOp { base: false, actions: vec![FileAction::MakeDir { path: "/d".into(), mode, owner: None }] });
        let id = builder.add(op, inputs.iter().map(|&input| VertexId(input)).collect(), VertexMeta::default());
        scripts.insert(id, script);
    }
    (builder.finish(), Arc::new(Scripted { scripts, ..Scripted::default() }))
}

#[tokio::test]
async fn stages_that_wait_for_each_other_meet() {
    let barrier = Arc::new(Barrier::new(2));
    let (graph, work) = build(vec![
        (&[], Script::Hit),
        (&[0], Script::Meet(Arc::clone(&barrier))),
        (&[0], Script::Meet(barrier)),
        (&[1, 2], Script::Return),
        (&[0], Script::Fail),
    ]);
    let results = run(Arc::clone(&work), &graph, &[VertexId(3)], 16, &CancellationToken::new()).await.expect("done");
    assert_eq!(results.value(VertexId(3)), Some(&5));
    assert_eq!(
        (results.state(VertexId(0)), results.state(VertexId(3)), results.state(VertexId(4))),
        (VertexState::Cached, VertexState::Done, VertexState::NotNeeded)
    );
    assert_eq!(results.value(VertexId(4)), None);
}

#[tokio::test]
async fn the_first_failure_stops_what_runs_and_is_the_reason() {
    let (graph, work) = build(vec![(&[], Script::WaitForCancel), (&[], Script::Fail), (&[], Script::LookForever), (&[0, 1, 2], Script::Return)]);
    let ended = run(Arc::clone(&work), &graph, &[VertexId(3)], 16, &CancellationToken::new()).await.expect_err("failed");
    assert!(matches!(ended, Ended::Failed(VertexId(1), reason) if reason == "it broke"));
    assert_eq!(work.running.load(Ordering::SeqCst), 0, "everything that was begun has ended");
    let reports = work.reports.lock().expect("reports");
    for stopped in [0, 2, 3] {
        assert!(reports.contains(&(VertexId(stopped), VertexState::Cancelled)));
    }
}

#[tokio::test]
async fn cancelling_ends_what_runs_and_begins_nothing() {
    let (graph, work) = build(vec![(&[], Script::WaitForCancel), (&[0], Script::Return)]);
    let cancel = CancellationToken::new();
    let (running, token) = (Arc::clone(&work), cancel.clone());
    let watcher = tokio::spawn(async move {
        while running.running.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        token.cancel();
    });
    let ended = run(Arc::clone(&work), &graph, &[VertexId(1)], 16, &cancel).await.expect_err("cancelled");
    watcher.await.expect("watcher");
    assert!(matches!(ended, Ended::Cancelled));
    assert_eq!(work.running.load(Ordering::SeqCst), 0);
    assert!(!work.reports.lock().expect("reports").iter().any(|(_, state)| state.has_result()));
}
