//! The build graph: vertices that do something to trees, edges that carry them.
//!
//! A graph is immutable once built. [`GraphBuilder`] merges equal vertices as they are added, so two stages with the same steps are one.
//!
//! # Invariants
//! - Acyclic by construction: an input must exist before the vertex that reads it.
//! - Metadata ([`VertexMeta`]) never counts for equality; the first one added stays, except that `ignore_cache` is never shared.

mod chmod;
pub mod op;

use crate::secret::without_passwords;
pub use chmod::ChmodError;
pub use op::*;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A vertex of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub u32);

/// What a vertex does to what, and how it is shown.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// The operation.
    pub op: Op,
    /// What it reads, by position.
    pub inputs: Vec<VertexId>,
    /// For people.
    pub meta: VertexMeta,
}

/// What people see of a vertex. Never part of its identity.
#[derive(Debug, Clone, Default)]
pub struct VertexMeta {
    /// Name in the progress (`features.md` C7.1).
    pub name: String,
    /// Where it stands.
    pub location: Option<SourceLocation>,
    /// Whether existing records are passed over (`--no-cache`).
    pub ignore_cache: bool,
}

/// A place in a file that the frontend read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file.
    pub source: Arc<SourceText>,
    /// Lines, counted from 1, both included.
    pub first_line: u32,
    /// Last line.
    pub last_line: u32,
    /// Byte range in the text of the part that matters, if narrower than the lines.
    pub span: Option<Range<usize>>,
}

/// A file that the frontend read.
#[derive(Debug)]
pub struct SourceText {
    /// As given (`Dockerfile`, `docker/app.Dockerfile`).
    pub name: String,
    /// Content.
    pub text: String,
    /// `NAME:LINE` of the lines that included it, innermost first; none for a file that was asked for itself.
    pub included_at: Vec<String>,
    /// Where its lines begin, once somebody has asked: findings by the thousand each ask for theirs.
    line_starts: OnceLock<Vec<usize>>,
}

impl SourceText {
    /// A file with its name.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), included_at: Vec::new(), line_starts: OnceLock::new() }
    }

    /// The same, included at these places.
    #[must_use]
    pub fn included(self, included_at: Vec<String>) -> Self {
        Self { included_at, ..self }
    }

    fn line_starts(&self) -> &[usize] {
        self.line_starts.get_or_init(|| std::iter::once(0).chain(self.text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// Where the line begins, counted from 1; none if there is no such line.
    #[must_use]
    pub fn line_start(&self, line: u32) -> Option<usize> {
        self.line_starts().get((line as usize).checked_sub(1)?).copied()
    }

    /// The line that the byte is in, counted from 1.
    #[must_use]
    pub fn line_of(&self, byte: usize) -> usize {
        self.line_starts().partition_point(|&start| start <= byte)
    }

    /// The lines from this one on, counted from 1, without their ends.
    pub fn lines_from(&self, line: u32) -> std::str::Lines<'_> {
        self.line_start(line).and_then(|start| self.text.get(start..)).unwrap_or_default().lines()
    }
}

impl PartialEq for SourceText {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.text, &self.included_at) == (&other.name, &other.text, &other.included_at)
    }
}

impl Eq for SourceText {}

/// An immutable graph.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    dag: StableDiGraph<Arc<Vertex>, ()>,
}

impl Graph {
    /// The vertex `id`.
    ///
    /// # Panics
    /// For an id of another graph.
    #[must_use]
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.dag[NodeIndex::new(id.0 as usize)]
    }

    /// All vertices, inputs before their readers.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = VertexId> + '_ {
        self.dag.node_indices().map(|index| VertexId(u32::try_from(index.index()).expect("a graph has less than 2³² vertices")))
    }

    /// Whether `id` is one of its vertices.
    #[must_use]
    pub fn contains(&self, id: VertexId) -> bool {
        (id.0 as usize) < self.dag.node_count()
    }

    /// A vertex whose operation names an input that the vertex has not; none if there is none. A frontend that was not written here may have made it.
    #[must_use]
    pub fn with_missing_input(&self) -> Option<VertexId> {
        self.ids().find(|&id| {
            let vertex = self.vertex(id);
            vertex.op.most_inputs_named() > vertex.inputs.len()
        })
    }

    /// What `targets` need, themselves included, inputs first.
    #[must_use]
    pub fn reachable(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut needed = vec![false; self.dag.node_count()];
        for target in targets {
            needed[target.0 as usize] = true;
        }
        for id in self.ids().rev() {
            if needed[id.0 as usize] {
                for input in &self.vertex(id).inputs {
                    needed[input.0 as usize] = true;
                }
            }
        }
        self.ids().filter(|id| needed[id.0 as usize]).collect()
    }
}

/// Equal for equal vertices. Of a process its environment, which can be long and is the same for most, is left to the comparison.
fn fingerprint(op: &Op, inputs: &[VertexId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    match op {
        Op::Exec(exec) => (&exec.argv, exec.env.len(), &exec.mounts).hash(&mut hasher),
        op => op.hash(&mut hasher),
    }
    hasher.finish()
}

/// Makes a [`Graph`].
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    /// Vertices by what [`fingerprint`] sees of them.
    known: HashMap<u64, Vec<VertexId>>,
}

impl GraphBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex, or finds an equal one.
    ///
    /// # Panics
    /// For inputs that were not added before.
    pub fn add(&mut self, op: Op, inputs: Vec<VertexId>, meta: VertexMeta) -> VertexId {
        let fingerprint = fingerprint(&op, &inputs);
        for &id in self.known.get(&fingerprint).into_iter().flatten() {
            let known = self.graph.vertex(id);
            if known.op == op && known.inputs == inputs && known.meta.ignore_cache == meta.ignore_cache {
                return id;
            }
        }
        assert!(inputs.iter().all(|input| (input.0 as usize) < self.graph.dag.node_count()), "inputs are added before their readers");
        // Names go into progress, errors and logs.
        let meta = VertexMeta { name: without_passwords(&meta.name), ..meta };
        let index = self.graph.dag.add_node(Arc::new(Vertex { op, inputs: inputs.clone(), meta }));
        for input in inputs {
            self.graph.dag.add_edge(NodeIndex::new(input.0 as usize), index, ());
        }
        let id = VertexId(u32::try_from(index.index()).expect("a graph has less than 2³² vertices"));
        self.known.entry(fingerprint).or_default().push(id);
        id
    }

    /// The graph so far.
    #[must_use]
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        self.graph.vertex(id)
    }

    /// Ends building.
    #[must_use]
    pub fn finish(self) -> Graph {
        self.graph
    }
}
