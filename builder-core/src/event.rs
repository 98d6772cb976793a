//! Progress: what happens during a build, told sideways. Nothing that listens can change a build.

use std::sync::Arc;
use std::time::SystemTime;

use crate::diagnostic::Diagnostic;
use crate::graph::SourceLocation;

/// Identity of one line of progress within one build. Vertices of the graph and internal work (metadata, context, export) alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// Something happened.
#[derive(Debug, Clone)]
pub struct BuildEvent {
    /// When.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum EventKind {
    /// A task is known; it has not begun.
    Planned {
        /// Which.
        task: TaskId,
        /// Name (`features.md` C7.1).
        name: String,
        /// Where it stands in the definition.
        location: Option<SourceLocation>,
    },
    /// It began.
    Started {
        /// Which.
        task: TaskId,
    },
    /// Its result was in the store; it will not run.
    Cached {
        /// Which.
        task: TaskId,
    },
    /// It ended well.
    Done {
        /// Which.
        task: TaskId,
    },
    /// It ended badly.
    Failed {
        /// Which.
        task: TaskId,
        /// Why, in one line.
        message: String,
    },
    /// It was stopped because something else failed or the build was cancelled.
    Cancelled {
        /// Which.
        task: TaskId,
    },
    /// Output of a process.
    Log {
        /// Whose.
        task: TaskId,
        /// 1 or 2.
        stream: u8,
        /// As it came; secrets already masked.
        bytes: Arc<[u8]>,
    },
    /// Progress of a part of a task: a download, an export.
    Status {
        /// Whose.
        task: TaskId,
        /// Which part.
        id: String,
        /// So far, in bytes (or entries).
        current: u64,
        /// In all; 0 if not known.
        total: u64,
        /// Whether it ended.
        done: bool,
    },
    /// A finding that does not stop the build.
    Warning(Diagnostic),
    /// Something about this machine or this build that a person should know once (no private network, registry unreachable).
    Note(String),
}

/// Where events go. Called from several threads; must return quickly.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn event(&self, event: BuildEvent);
}

/// Takes nothing.
#[derive(Debug, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn event(&self, _: BuildEvent) {}
}

impl<F: Fn(BuildEvent) + Send + Sync> EventSink for F {
    fn event(&self, event: BuildEvent) {
        self(event);
    }
}
