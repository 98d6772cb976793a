//! What to do next: a pure function from a state and an event to a state and actions. No clock, no thread, no store.
//!
//! Each vertex goes through
//!
//! ```text
//! Waiting → Keyed → Cached
//!                 → Queued → Running → Done | Cached | Failed | Cancelled
//!                 → Following ────────→ Cached
//! ```
//!
//! and from every state before `Running` to `Cancelled`. Vertices that no target needs are `NotNeeded` from the start.
//!
//! # Invariants (held by the simulation in `tests`)
//!
//! - A vertex is looked up once all its inputs have a result, and runs at most once.
//! - Of vertices with one key at most one runs; the others follow it.
//! - After a failure or a cancellation nothing is looked up or begun. The build finishes when what was begun has ended.
//! - Every vertex ends in one of the last states.

use std::collections::HashMap;

use crate::cache::Key;
use crate::graph::{Graph, Op, VertexId};

/// Where a vertex stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VertexState {
    /// Some inputs have no result yet.
    Waiting,
    /// Its inputs are known; it is being looked up.
    Keyed,
    /// It must run and waits for its turn.
    Queued,
    /// Another vertex with its key runs or will run.
    Following(VertexId),
    /// It runs.
    Running,
    /// Its result was there, or another vertex made it.
    Cached,
    /// It ran.
    Done,
    /// It failed.
    Failed,
    /// It was stopped, or not begun, because the build ends.
    Cancelled,
    /// No target needs it.
    NotNeeded,
}

impl VertexState {
    /// Whether there is a result for its readers.
    #[must_use]
    pub fn has_result(self) -> bool {
        matches!(self, Self::Cached | Self::Done)
    }

    /// Whether nothing more happens to it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cached | Self::Done | Self::Failed | Self::Cancelled | Self::NotNeeded)
    }
}

/// Something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The build begins.
    Begun,
    /// A lookup ended: there is a result.
    Hit(VertexId),
    /// A lookup ended: there is none. Vertices without a key run always.
    Miss {
        /// Which.
        vertex: VertexId,
        /// What it will be filed under.
        key: Option<Key>,
    },
    /// A lookup was ended by [`Action::Stop`].
    LookUpStopped(VertexId),
    /// A run ended.
    Ran {
        /// Which.
        vertex: VertexId,
        /// How.
        how: RunEnd,
    },
    /// A lookup or a run failed.
    Failed(VertexId),
    /// The build is to end.
    CancelRequested,
}

/// How a run ended well, or was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// It made its result.
    Made,
    /// Another process had made it meanwhile.
    Found,
    /// It was stopped.
    Stopped,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Look the vertex up; answer with [`Event::Hit`], [`Event::Miss`], [`Event::LookUpStopped`] or [`Event::Failed`].
    LookUp(VertexId),
    /// Run it; answer with [`Event::Ran`] or [`Event::Failed`].
    Run(VertexId),
    /// Give `to` the result of `from`.
    Share {
        /// Who has it.
        from: VertexId,
        /// Who gets it.
        to: VertexId,
    },
    /// Tell people that a vertex reached a state.
    Report(VertexId, VertexState),
    /// Stop everything that runs or is looked up; each still answers.
    Stop,
    /// The build is over.
    Finish(Outcome),
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every target has a result.
    Done,
    /// This vertex failed first.
    Failed(VertexId),
    /// It was cancelled.
    Cancelled,
}

/// The state of one build.
#[derive(Debug, Clone)]
pub struct State {
    vertices: Vec<VertexFacts>,
    states: Vec<VertexState>,
    /// Who runs, or ran, the step with a key.
    leaders: HashMap<Key, VertexId>,
    running: usize,
    parallel: usize,
    ending: Option<Outcome>,
    finished: bool,
}

#[derive(Debug, Clone)]
struct VertexFacts {
    inputs: Vec<VertexId>,
    readers: Vec<VertexId>,
    ignore_cache: bool,
    /// Weight of the heaviest path from here to a target, this vertex included.
    remaining: u32,
}

impl State {
    /// The state before a build of `targets`, with at most `parallel` vertices running at a time.
    #[must_use]
    pub fn new(graph: &Graph, targets: &[VertexId], parallel: usize) -> Self {
        let count = graph.ids().count();
        let mut states = vec![VertexState::NotNeeded; count];
        let mut vertices: Vec<VertexFacts> = graph
            .ids()
            .map(|id| {
                let vertex = graph.vertex(id);
                let mut inputs = vertex.inputs.clone();
                inputs.sort_unstable();
                inputs.dedup();
                VertexFacts { inputs, readers: Vec::new(), ignore_cache: vertex.meta.ignore_cache, remaining: weight(&vertex.op) }
            })
            .collect();
        let needed = graph.reachable(targets);
        for &id in needed.iter().rev() {
            states[index(id)] = VertexState::Waiting;
            let remaining = vertices[index(id)].remaining;
            for input in vertices[index(id)].inputs.clone() {
                let facts = &mut vertices[index(input)];
                facts.readers.push(id);
                // Readers come after their inputs, so `remaining` of this reader is final here.
                facts.remaining = facts.remaining.max(weight(&graph.vertex(input).op) + remaining);
            }
        }
        Self { vertices, states, leaders: HashMap::new(), running: 0, parallel: parallel.max(1), ending: None, finished: false }
    }

    /// Where `vertex` stands.
    #[must_use]
    pub fn of(&self, vertex: VertexId) -> VertexState {
        self.states[index(vertex)]
    }

    /// All states, by number of vertex.
    #[must_use]
    pub fn all(&self) -> &[VertexState] {
        &self.states
    }

    fn set(&mut self, vertex: VertexId, state: VertexState, actions: &mut Vec<Action>) {
        self.states[index(vertex)] = state;
        actions.push(Action::Report(vertex, state));
    }

    fn ids(&self) -> impl Iterator<Item = VertexId> + use<> {
        (0..u32::try_from(self.states.len()).expect("a graph has less than 2³² vertices")).map(VertexId)
    }
}

/// What the state becomes, and what is to be done.
#[must_use]
pub fn step(mut state: State, event: Event) -> (State, Vec<Action>) {
    let mut actions = Vec::new();
    match event {
        Event::Begun => {
            for id in state.ids() {
                look_up_if_ready(&mut state, id, &mut actions);
            }
        }
        Event::Hit(vertex) => {
            debug_assert_eq!(state.of(vertex), VertexState::Keyed);
            if state.ending.is_some() {
                state.set(vertex, VertexState::Cancelled, &mut actions);
            } else {
                settle(&mut state, vertex, VertexState::Cached, &mut actions);
            }
        }
        Event::Miss { vertex, key } => {
            debug_assert_eq!(state.of(vertex), VertexState::Keyed);
            if state.ending.is_some() {
                state.set(vertex, VertexState::Cancelled, &mut actions);
            } else {
                queue_or_follow(&mut state, vertex, key, &mut actions);
            }
        }
        Event::LookUpStopped(vertex) => {
            state.set(vertex, VertexState::Cancelled, &mut actions);
            end(&mut state, Outcome::Cancelled, &mut actions);
        }
        Event::Ran { vertex, how } => {
            debug_assert_eq!(state.of(vertex), VertexState::Running);
            state.running -= 1;
            match how {
                RunEnd::Made => settle(&mut state, vertex, VertexState::Done, &mut actions),
                RunEnd::Found => settle(&mut state, vertex, VertexState::Cached, &mut actions),
                RunEnd::Stopped => {
                    state.set(vertex, VertexState::Cancelled, &mut actions);
                    end(&mut state, Outcome::Cancelled, &mut actions);
                }
            }
        }
        Event::Failed(vertex) => {
            if state.of(vertex) == VertexState::Running {
                state.running -= 1;
            }
            state.set(vertex, VertexState::Failed, &mut actions);
            end(&mut state, Outcome::Failed(vertex), &mut actions);
        }
        Event::CancelRequested => end(&mut state, Outcome::Cancelled, &mut actions),
    }
    run_what_fits(&mut state, &mut actions);
    finish_if_over(&mut state, &mut actions);
    (state, actions)
}

fn look_up_if_ready(state: &mut State, vertex: VertexId, actions: &mut Vec<Action>) {
    let ready = state.of(vertex) == VertexState::Waiting && state.vertices[index(vertex)].inputs.iter().all(|&input| state.of(input).has_result());
    if ready && state.ending.is_none() {
        state.states[index(vertex)] = VertexState::Keyed;
        actions.push(Action::LookUp(vertex));
    }
}

fn queue_or_follow(state: &mut State, vertex: VertexId, key: Option<Key>, actions: &mut Vec<Action>) {
    let leader = key.and_then(|key| state.leaders.get(&key).copied());
    match leader {
        // Whoever passes records over wants a step that ran in this build.
        Some(leader)
            if state.of(leader) == VertexState::Done || state.of(leader) == VertexState::Cached && !state.vertices[index(vertex)].ignore_cache =>
        {
            actions.push(Action::Share { from: leader, to: vertex });
            settle(state, vertex, VertexState::Cached, actions);
        }
        Some(leader) if !state.of(leader).is_final() => state.states[index(vertex)] = VertexState::Following(leader),
        _ => {
            if let Some(key) = key {
                state.leaders.insert(key, vertex);
            }
            state.states[index(vertex)] = VertexState::Queued;
        }
    }
}

/// A vertex has its result: followers share it, readers may be ready.
fn settle(state: &mut State, vertex: VertexId, to: VertexState, actions: &mut Vec<Action>) {
    state.set(vertex, to, actions);
    for follower in state.ids().filter(|&id| state.of(id) == VertexState::Following(vertex)).collect::<Vec<_>>() {
        actions.push(Action::Share { from: vertex, to: follower });
        settle(state, follower, VertexState::Cached, actions);
    }
    for reader in state.vertices[index(vertex)].readers.clone() {
        look_up_if_ready(state, reader, actions);
    }
}

fn end(state: &mut State, outcome: Outcome, actions: &mut Vec<Action>) {
    // The first reason stays: what fails while everything is being stopped is a consequence.
    if state.ending.is_some() || state.finished {
        return;
    }
    state.ending = Some(outcome);
    for vertex in state.ids() {
        if matches!(state.of(vertex), VertexState::Waiting | VertexState::Queued | VertexState::Following(_)) {
            state.set(vertex, VertexState::Cancelled, actions);
        }
    }
    actions.push(Action::Stop);
}

fn run_what_fits(state: &mut State, actions: &mut Vec<Action>) {
    while state.ending.is_none() && state.running < state.parallel {
        let next = state
            .ids()
            .filter(|&id| state.of(id) == VertexState::Queued)
            .max_by_key(|&id| (state.vertices[index(id)].remaining, std::cmp::Reverse(id)));
        let Some(vertex) = next else { return };
        state.running += 1;
        state.set(vertex, VertexState::Running, actions);
        actions.push(Action::Run(vertex));
    }
}

fn finish_if_over(state: &mut State, actions: &mut Vec<Action>) {
    if !state.finished && state.states.iter().all(|vertex| vertex.is_final()) {
        state.finished = true;
        actions.push(Action::Finish(state.ending.unwrap_or(Outcome::Done)));
    }
}

/// Processes take longest, then copying; the rest takes next to nothing.
fn weight(op: &Op) -> u32 {
    match op {
        Op::Exec(_) => 8,
        Op::File(_) => 2,
        Op::Source(_) | Op::Merge => 1,
    }
}

fn index(vertex: VertexId) -> usize {
    vertex.0 as usize
}

#[cfg(test)]
mod tests;
