//! The wall between a build language and the engine: compilation is a pure function that says what it lacks until it lacks nothing.
//!
//! [`Frontend::compile`] is called with what has been resolved so far; it returns either further [`Need`]s, which the engine resolves in
//! parallel, or a graph. The rounds are bounded ([`MAX_ROUNDS`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, ImageLocation, SourceOp, SourceText, VertexId};
use crate::oci::{DiffId, ImageDocument, Platform, Reference, Sha256Digest};

/// Most rounds of needs: FROM, ONBUILD, COPY --from in triggers, named contexts and every level of included files each add one; more is a cycle.
pub const MAX_ROUNDS: usize = 32;

/// Compiles a build definition.
pub trait Frontend: Send + Sync {
    /// Pure: equal inputs, equal result.
    ///
    /// # Errors
    /// All problems found; at least one is an error.
    fn compile(&self, resolved: &Resolved) -> Result<Compilation, Vec<Diagnostic>>;
}

/// What a compilation comes to.
#[derive(Debug)]
pub enum Compilation {
    /// Resolve these and call again. Never empty, never something that was resolved before.
    Needs(Vec<Need>),
    /// Everything is known.
    Ready(Box<Compiled>),
}

/// Something only the engine can bring.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// Manifest and config of an image for a platform.
    Image {
        /// Which.
        reference: Reference,
        /// Where.
        location: NeedLocation,
        /// For which platform.
        platform: Platform,
    },
    /// A file of a context, such as the Dockerfile in a git repository; absent is an answer.
    File {
        /// `context` or a named context.
        context: String,
        /// Path inside.
        path: String,
    },
    /// A file of a context that is fetched first: the Dockerfile in a git repository or in a tar on a web server.
    RemoteFile {
        /// The context: [`SourceOp::Git`] or [`SourceOp::Http`].
        source: SourceOp,
        /// Path inside.
        path: String,
        /// Whether what a web server has instead of a tar is itself the file.
        or_download: bool,
    },
    /// Whether a COPY selects anything in a directory of the request. Only findings depend on it.
    Selection {
        /// `context` or a named context.
        context: String,
        /// The source as in [`CopyAction::sources`](crate::graph::CopyAction::sources), without `--parents`.
        source: String,
    },
    /// When what a source brings was made: the commit of a repository; of a download what its server says, else the newest entry of the archive.
    Time {
        /// [`SourceOp::Git`] or [`SourceOp::Http`].
        source: SourceOp,
    },
}

/// Where a needed image is ([`ImageLocation`], orderable).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NeedLocation {
    /// A registry or the local store.
    Registry,
    /// A layout directory, absolute.
    OciLayout(String),
}

impl From<NeedLocation> for ImageLocation {
    fn from(location: NeedLocation) -> Self {
        match location {
            NeedLocation::Registry => Self::Registry,
            NeedLocation::OciLayout(path) => Self::OciLayout { path },
        }
    }
}

/// What has been resolved so far.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Answers by need. A failed image is an answer too: the frontend reports it at the line that named it.
    pub answers: BTreeMap<Need, Answer>,
}

/// The answer to one need.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An image.
    Image(Arc<ResolvedImage>),
    /// A file's content.
    File(Arc<[u8]>),
    /// There is no such file.
    Absent {
        /// The files and directories where it was looked for, sorted; some of them if there are many.
        beside: Vec<String>,
    },
    /// What a selection finds.
    Selection(Selected),
    /// Seconds since 1970; none if nobody knows.
    Time(Option<i64>),
    /// It could not be resolved: the reason, as a fragment.
    Failed(String),
}

/// What a source of a COPY selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// Something.
    Something,
    /// Nothing.
    Nothing,
    /// Nothing, because of a rule of the ignore file: which, as people call it.
    LeftOut(String),
}

/// A resolved image.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Digest of the manifest for the platform.
    pub manifest: Sha256Digest,
    /// Its diff IDs, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// Its config.
    pub config: ImageDocument,
    /// The platform it says it is for.
    pub platform: Platform,
}

/// A compiled build.
#[derive(Debug)]
pub struct Compiled {
    /// The operations.
    pub graph: Graph,
    /// One image a platform, in the order asked for.
    pub targets: Vec<TargetImage>,
    /// Findings that don't stop the build.
    pub warnings: Vec<Diagnostic>,
    /// Files that were read.
    pub sources: Vec<Arc<SourceText>>,
    /// Seconds since 1970 that the definition itself asks for (`SOURCE_DATE_EPOCH`); the request's own come first.
    pub source_date_epoch: Option<i64>,
    /// Whether the result is an index also if it has one image only.
    pub index: bool,
}

impl Compiled {
    /// What in it cannot be: a vertex that the graph has not, an input that a vertex has not.
    ///
    /// # Errors
    /// A fragment that says which.
    pub fn check(&self) -> Result<(), String> {
        let history = self.targets.iter().flat_map(|target| &target.history).filter_map(|entry| match entry {
            HistoryEntry::New { vertex, .. } => *vertex,
            HistoryEntry::Base(_) => None,
        });
        let mut named = self.targets.iter().filter_map(|target| target.vertex).chain(history);
        if let Some(VertexId(id)) = named.find(|&id| !self.graph.contains(id)) {
            return Err(format!("it names vertex {id}, which its graph has not"));
        }
        match self.graph.with_missing_input() {
            Some(VertexId(id)) => Err(format!("its vertex {id} names an input that it has not")),
            None => Ok(()),
        }
    }
}

/// An image to assemble.
#[derive(Debug)]
pub struct TargetImage {
    /// For which platform.
    pub platform: Platform,
    /// Whose tree; none for an image without layers.
    pub vertex: Option<VertexId>,
    /// Its config: `rootfs`, `created` and the times of new history entries are filled in at the end.
    pub config: ImageDocument,
    /// History in order. Base entries first, as they came.
    pub history: Vec<HistoryEntry>,
}

/// One entry of a target's history.
#[derive(Debug, Clone)]
pub enum HistoryEntry {
    /// Taken over from the base image, untouched.
    Base(crate::oci::History),
    /// Made by this build.
    New {
        /// `created_by` as in `features.md` A13.2.
        created_by: String,
        /// The vertex whose layer it is; none for metadata.
        vertex: Option<VertexId>,
    },
}
