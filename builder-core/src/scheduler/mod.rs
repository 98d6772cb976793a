//! Runs a graph: [`state`] decides, one loop acts.
//!
//! The loop knows nothing of stores and processes: it asks a [`Work`] to look vertices up and to run them. Everything it starts it also
//! awaits, whatever the end: when [`run`] returns, nothing that it began is going on.

pub mod state;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Key;
use crate::graph::{Graph, VertexId};
use state::{Action, Event, Outcome, RunEnd, State, VertexState, step};

/// What the scheduler works with.
pub trait Work: Send + Sync + 'static {
    /// A result.
    type Value: Clone + Send + Sync + 'static;
    /// What a lookup found out that the run will need.
    type Plan: Send + 'static;
    /// Why a vertex failed.
    type Failure: Send + 'static;

    /// Looks a vertex up. What takes no time is answered at once; the rest ends soon when `cancel` is cancelled.
    fn look_up(self: Arc<Self>, vertex: VertexId, inputs: Vec<Self::Value>, cancel: CancellationToken) -> Answer<LookUp<Self>>;

    /// Runs a vertex that was not found. When `cancel` is cancelled it ends soon, with nothing left running.
    fn run(self: Arc<Self>, vertex: VertexId, inputs: Vec<Self::Value>, plan: Self::Plan, cancel: CancellationToken)
    -> BoxFuture<'static, Run<Self>>;

    /// Tells people that a vertex reached a state.
    fn report(&self, vertex: VertexId, state: VertexState, failure: Option<&Self::Failure>);
}

/// An answer, now or later.
pub enum Answer<T> {
    /// Now.
    Now(T),
    /// Later.
    Later(BoxFuture<'static, T>),
}

/// How a lookup ended.
pub enum LookUp<W: Work + ?Sized> {
    /// There is a result.
    Hit(W::Value),
    /// There is none.
    Miss {
        /// What it will be filed under; vertices without one always run.
        key: Option<Key>,
        /// For the run.
        plan: W::Plan,
    },
    /// It was stopped.
    Stopped,
    /// It could not be looked up.
    Failed(W::Failure),
}

/// How a run ended.
pub enum Run<W: Work + ?Sized> {
    /// It made this.
    Made(W::Value),
    /// Another process had made it meanwhile.
    Found(W::Value),
    /// It was stopped.
    Stopped,
    /// It failed.
    Failed(W::Failure),
}

/// Why there are no results.
#[derive(Debug)]
pub enum Ended<F> {
    /// A vertex failed.
    Failed(VertexId, F),
    /// The build was cancelled.
    Cancelled,
}

/// Results and ends of all vertices.
#[derive(Debug)]
pub struct Results<V> {
    values: Vec<Option<V>>,
    states: Vec<VertexState>,
}

impl<V> Results<V> {
    /// The result of `vertex`; none if no target needed it.
    #[must_use]
    pub fn value(&self, vertex: VertexId) -> Option<&V> {
        self.values.get(vertex.0 as usize)?.as_ref()
    }

    /// How `vertex` ended.
    #[must_use]
    pub fn state(&self, vertex: VertexId) -> VertexState {
        self.states[vertex.0 as usize]
    }
}

/// Brings `targets` about, with at most `parallel` vertices running at a time.
///
/// # Errors
/// The first failure, or the cancellation; by then everything that was begun has ended.
///
/// # Panics
/// When a task of `work` panics, with its panic.
pub async fn run<W: Work>(
    work: Arc<W>,
    graph: &Graph,
    targets: &[VertexId],
    parallel: usize,
    cancel: &CancellationToken,
) -> Result<Results<W::Value>, Ended<W::Failure>> {
    let count = graph.ids().count();
    let mut scheduler = Loop {
        graph,
        values: vec![None; count],
        plans: (0..count).map(|_| None).collect(),
        tasks: JoinSet::new(),
        stop: cancel.child_token(),
        failure: None,
        outcome: None,
        work,
    };
    let mut state = State::new(graph, targets, parallel);
    let mut cancelled = false;
    let mut events = vec![Event::Begun];
    loop {
        // Answers that came at once are handled before anything is awaited.
        while let Some(event) = events.pop() {
            let (next, actions) = step(state, event);
            state = next;
            for action in actions {
                events.extend(scheduler.act(action));
            }
        }
        if scheduler.outcome.is_some() {
            break;
        }
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !cancelled => {
                cancelled = true;
                events.push(Event::CancelRequested);
            }
            Some(ended) = scheduler.tasks.join_next() => match ended {
                Ok(ended) => events.push(scheduler.ended(ended)),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => unreachable!("no task of the scheduler is aborted"),
                },
            },
        }
    }
    match (scheduler.outcome, scheduler.failure) {
        (Some(Outcome::Done), _) => Ok(Results { values: scheduler.values, states: state.all().to_vec() }),
        (Some(Outcome::Failed(_)), Some((vertex, failure))) => Err(Ended::Failed(vertex, failure)),
        _ => Err(Ended::Cancelled),
    }
}

struct Loop<'a, W: Work> {
    work: Arc<W>,
    graph: &'a Graph,
    values: Vec<Option<W::Value>>,
    plans: Vec<Option<W::Plan>>,
    tasks: JoinSet<TaskEnd<W>>,
    stop: CancellationToken,
    failure: Option<(VertexId, W::Failure)>,
    outcome: Option<Outcome>,
}

enum TaskEnd<W: Work> {
    LookedUp(VertexId, LookUp<W>),
    Ran(VertexId, Run<W>),
}

impl<W: Work> Loop<'_, W> {
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::LookUp(vertex) => match Arc::clone(&self.work).look_up(vertex, self.inputs(vertex), self.stop.clone()) {
                Answer::Now(found) => return Some(self.ended(TaskEnd::LookedUp(vertex, found))),
                Answer::Later(later) => {
                    self.tasks.spawn(async move { TaskEnd::LookedUp(vertex, later.await) });
                }
            },
            Action::Run(vertex) => {
                let plan = self.plans[vertex.0 as usize].take().expect("a vertex is looked up before it runs");
                let running = Arc::clone(&self.work).run(vertex, self.inputs(vertex), plan, self.stop.clone());
                self.tasks.spawn(async move { TaskEnd::Ran(vertex, running.await) });
            }
            Action::Share { from, to } => self.values[to.0 as usize] = self.values[from.0 as usize].clone(),
            Action::Report(vertex, state) => {
                let failure = self.failure.as_ref().filter(|(failed, _)| *failed == vertex).map(|(_, failure)| failure);
                self.work.report(vertex, state, failure);
            }
            Action::Stop => self.stop.cancel(),
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
        None
    }

    fn ended(&mut self, ended: TaskEnd<W>) -> Event {
        match ended {
            TaskEnd::LookedUp(vertex, LookUp::Hit(value)) => {
                self.values[vertex.0 as usize] = Some(value);
                Event::Hit(vertex)
            }
            TaskEnd::LookedUp(vertex, LookUp::Miss { key, plan }) => {
                self.plans[vertex.0 as usize] = Some(plan);
                Event::Miss { vertex, key }
            }
            TaskEnd::LookedUp(vertex, LookUp::Stopped) => Event::LookUpStopped(vertex),
            TaskEnd::Ran(vertex, Run::Made(value)) => {
                self.values[vertex.0 as usize] = Some(value);
                Event::Ran { vertex, how: RunEnd::Made }
            }
            TaskEnd::Ran(vertex, Run::Found(value)) => {
                self.values[vertex.0 as usize] = Some(value);
                Event::Ran { vertex, how: RunEnd::Found }
            }
            TaskEnd::Ran(vertex, Run::Stopped) => Event::Ran { vertex, how: RunEnd::Stopped },
            TaskEnd::LookedUp(vertex, LookUp::Failed(failure)) | TaskEnd::Ran(vertex, Run::Failed(failure)) => {
                // What fails while everything is being stopped is a consequence of the first failure.
                if self.failure.is_none() {
                    self.failure = Some((vertex, failure));
                }
                Event::Failed(vertex)
            }
        }
    }

    fn inputs(&self, vertex: VertexId) -> Vec<W::Value> {
        let value = |input: &VertexId| self.values[input.0 as usize].clone().expect("inputs have results before their readers begin");
        self.graph.vertex(vertex).inputs.iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests;
