//! Simulation: random graphs, random answers, random faults and cancellations. A failure prints its seed's inputs through proptest.

use std::collections::{BTreeMap, HashMap, HashSet};

use builder_snapshot::Sha256Digest;
use proptest::prelude::*;

use super::*;
use crate::graph::{FileOp, GraphBuilder, VertexMeta};

/// One random build: for each vertex its inputs (positions before it), what it is filed under, whether it is found, whether it fails.
#[derive(Debug, Clone)]
struct Build {
    vertices: Vec<Planned>,
    targets: Vec<usize>,
    parallel: usize,
    /// After how many events the build is cancelled.
    cancel_after: Option<usize>,
    /// Which of the pending answers comes next, over and over.
    order: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Planned {
    inputs: Vec<usize>,
    key: Option<u8>,
    found: bool,
    fails: bool,
    found_late: bool,
    ignore_cache: bool,
}

fn builds() -> impl Strategy<Value = Build> {
    let planned = (
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop::option::weighted(0.9, 0..40_u8),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    (
        prop::collection::vec(planned, 1..40),
        prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        1..6_usize,
        prop::option::weighted(0.3, 0..80_usize),
        prop::collection::vec(any::<usize>(), 1..50),
    )
        .prop_map(|(vertices, targets, parallel, cancel_after, order)| {
            let targets = targets.iter().map(|target| target.index(vertices.len())).collect();
            let vertices = vertices
                .into_iter()
                .enumerate()
                .map(|(position, (inputs, key, found, fails, found_late, ignore_cache))| Planned {
                    inputs: if position == 0 { vec![] } else { inputs.iter().map(|input| input.index(position)).collect() },
                    key,
                    found,
                    fails,
                    found_late,
                    ignore_cache,
                })
                .collect();
            Build { vertices, targets, parallel, cancel_after, order }
        })
}

fn graph(build: &Build) -> Graph {
    let mut builder = GraphBuilder::new();
    for (position, planned) in build.vertices.iter().enumerate() {
        // The mode makes operations differ, so that the graph keeps all vertices.
        let mode = u32::try_from(position).expect("small");
        let op = Op::File(FileOp { base: false, actions: vec![crate::graph::FileAction::MakeDir { path: "/d".into(), mode, owner: None }] });
        let meta = VertexMeta { ignore_cache: planned.ignore_cache, ..VertexMeta::default() };
        builder.add(op, planned.inputs.iter().map(|&input| VertexId(u32::try_from(input).expect("small"))).collect(), meta);
    }
    builder.finish()
}

fn key(n: u8) -> Key {
    Key(Sha256Digest([n; 32]))
}

#[derive(Debug, Default)]
struct Observed {
    begun: HashMap<VertexId, usize>,
    looked_up: HashSet<VertexId>,
    ran_by_key: HashMap<u8, usize>,
    results: HashSet<VertexId>,
    stopped: bool,
    most_running: usize,
    outcome: Option<Outcome>,
}

fn simulate(build: &Build) -> (State, Observed) {
    let graph = graph(build);
    let targets: Vec<_> = build.targets.iter().map(|&target| VertexId(u32::try_from(target).expect("small"))).collect();
    let mut state = State::new(&graph, &targets, build.parallel);
    let mut seen = Observed::default();
    // Answers that will come, in the order they were asked for; the simulation picks any.
    let mut pending: BTreeMap<VertexId, Event> = BTreeMap::new();
    let mut event = Event::Begun;
    for turn in 0.. {
        assert!(turn < 10_000, "the build does not end");
        let (next, actions) = step(state, event);
        state = next;
        for action in actions {
            assert!(seen.outcome.is_none(), "{action:?} after the end");
            act(build, &graph, action, &mut pending, &mut seen);
        }
        seen.most_running = seen.most_running.max(state.running);
        if build.cancel_after == Some(turn) && seen.outcome.is_none() {
            event = Event::CancelRequested;
            continue;
        }
        if pending.is_empty() {
            break;
        }
        let picked = *pending.keys().nth(build.order[turn % build.order.len()] % pending.len()).expect("not empty");
        event = pending.remove(&picked).expect("pending");
    }
    (state, seen)
}

fn act(build: &Build, graph: &Graph, action: Action, pending: &mut BTreeMap<VertexId, Event>, seen: &mut Observed) {
    let planned = |vertex: VertexId| &build.vertices[index(vertex)];
    match action {
        Action::LookUp(vertex) => {
            assert!(!seen.stopped, "looked up after the stop");
            assert!(seen.looked_up.insert(vertex), "{vertex:?} looked up twice");
            for input in &graph.vertex(vertex).inputs {
                assert!(seen.results.contains(input), "{vertex:?} looked up before {input:?} has a result");
            }
            let hit = planned(vertex).found && !planned(vertex).ignore_cache;
            let answer = if hit { Event::Hit(vertex) } else { Event::Miss { vertex, key: planned(vertex).key.map(key) } };
            pending.insert(vertex, answer);
        }
        Action::Run(vertex) => {
            assert!(!seen.stopped, "ran after the stop");
            *seen.begun.entry(vertex).or_default() += 1;
            if let Some(key) = planned(vertex).key {
                *seen.ran_by_key.entry(key).or_default() += 1;
            }
            let how = if planned(vertex).found_late { RunEnd::Found } else { RunEnd::Made };
            pending.insert(vertex, if planned(vertex).fails { Event::Failed(vertex) } else { Event::Ran { vertex, how } });
        }
        Action::Share { from, to } => {
            assert!(seen.results.contains(&from), "{from:?} has nothing to share");
            seen.results.insert(to);
        }
        Action::Report(vertex, state) => {
            if state.has_result() {
                seen.results.insert(vertex);
            }
        }
        Action::Stop => {
            assert!(!seen.stopped, "stopped twice");
            seen.stopped = true;
            for event in pending.values_mut() {
                match event {
                    Event::Ran { how, .. } => *how = RunEnd::Stopped,
                    // Some lookups take time and are stopped; others had their answer.
                    Event::Miss { vertex, key: None } => *event = Event::LookUpStopped(*vertex),
                    _ => {}
                }
            }
        }
        Action::Finish(outcome) => seen.outcome = Some(outcome),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_build_ends_once_and_as_it_should(build in builds()) {
        let (state, seen) = simulate(&build);
        let outcome = seen.outcome.expect("the build ends");
        prop_assert!(state.all().iter().all(|vertex| vertex.is_final()));
        prop_assert!(seen.begun.values().all(|&times| times == 1));
        prop_assert!(seen.most_running <= build.parallel);
        let failed = state.all().contains(&VertexState::Failed);
        match outcome {
            Outcome::Done => {
                prop_assert!(!failed && !seen.stopped);
                for &target in &build.targets {
                    prop_assert!(state.all()[target].has_result());
                }
            }
            Outcome::Failed(vertex) => prop_assert_eq!(state.of(vertex), VertexState::Failed),
            Outcome::Cancelled => prop_assert!(build.cancel_after.is_some()),
        }
    }

    #[test]
    fn a_key_runs_at_most_once(mut build in builds()) {
        // With `--no-cache` a step may run although another process had made it: leave those to the other property.
        for vertex in &mut build.vertices {
            vertex.ignore_cache = false;
        }
        let (_, seen) = simulate(&build);
        prop_assert!(seen.ran_by_key.values().all(|&times| times == 1), "{:?}", seen.ran_by_key);
    }

    #[test]
    fn only_what_a_target_needs_is_touched(build in builds()) {
        let graph = graph(&build);
        let targets: Vec<_> = build.targets.iter().map(|&target| VertexId(u32::try_from(target).expect("small"))).collect();
        let needed: HashSet<_> = graph.reachable(&targets).into_iter().collect();
        let (_, seen) = simulate(&build);
        prop_assert!(seen.looked_up.iter().all(|vertex| needed.contains(vertex)));
    }
}

#[test]
fn the_longest_way_goes_first() {
    // One may run at a time. While 0 runs, 1 and the longer way 2 ← 3 get ready.
    let planned =
        |inputs: &[usize]| Planned { inputs: inputs.to_vec(), key: None, found: false, fails: false, found_late: false, ignore_cache: false };
    let build = Build {
        vertices: vec![planned(&[]), planned(&[]), planned(&[]), planned(&[2])],
        targets: vec![0, 1, 3],
        parallel: 1,
        cancel_after: None,
        order: vec![0],
    };
    let mut state = State::new(&graph(&build), &[VertexId(0), VertexId(1), VertexId(3)], 1);
    let mut begun = Vec::new();
    let mut events = vec![Event::Begun];
    while let Some(event) = events.pop() {
        let (next, actions) = step(state, event);
        state = next;
        for action in actions {
            match action {
                Action::LookUp(vertex) => events.insert(0, Event::Miss { vertex, key: None }),
                Action::Run(vertex) => {
                    begun.push(vertex.0);
                    events.insert(0, Event::Ran { vertex, how: RunEnd::Made });
                }
                _ => {}
            }
        }
    }
    assert_eq!(begun, [0, 2, 1, 3]);
}
