//! The build graph: vertices that do something to trees, edges that carry them.
//!
//! A graph is immutable once built. [`GraphBuilder`] merges equal vertices as they are added, so two stages with the same steps are one.
//!
//! # Invariants
//! - Acyclic by construction: an input must exist before the vertex that reads it.
//! - Metadata ([`VertexMeta`]) never counts for equality; the first one added stays, except that `ignore_cache` is never shared.

mod chmod;
pub mod op;

pub use chmod::ChmodError;
pub use op::*;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

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
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// As given (`Dockerfile`, `docker/app.Dockerfile`).
    pub name: String,
    /// Content.
    pub text: String,
    /// `NAME:LINE` of the lines that included it, innermost first; none for a file that was asked for itself.
    pub included_at: Vec<String>,
}

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

/// Makes a [`Graph`].
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    known: HashMap<(Op, Vec<VertexId>, bool), VertexId>,
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
        let key = (op, inputs, meta.ignore_cache);
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let (op, inputs, _) = key.clone();
        assert!(inputs.iter().all(|input| (input.0 as usize) < self.graph.dag.node_count()), "inputs are added before their readers");
        let index = self.graph.dag.add_node(Arc::new(Vertex { op, inputs: inputs.clone(), meta }));
        for input in inputs {
            self.graph.dag.add_edge(NodeIndex::new(input.0 as usize), index, ());
        }
        let id = VertexId(u32::try_from(index.index()).expect("a graph has less than 2³² vertices"));
        self.known.insert(key, id);
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
