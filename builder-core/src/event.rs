//! Progress: what happens during a build, told sideways. Nothing that listens can change a build.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::diagnostic::Diagnostic;
use crate::graph::SourceLocation;

/// Identity of one line of progress within one build. Vertices of the graph and internal work (metadata, context, export) alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

impl TaskId {
    /// The first id that builds never use: callers number their own tasks (reading the definition, say) from here.
    pub const FIRST_OF_CALLER: Self = Self(1 << 32);
}

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

/// Numbers the tasks of one build and keeps their events in order: nothing happens to a task before it began, nothing after it ended.
pub struct Tasks {
    events: Arc<dyn EventSink>,
    stages: Mutex<Vec<TaskStage>>,
    notes: Mutex<HashSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskStage {
    /// No line of its own.
    Hidden,
    Planned,
    Started,
    Ended,
}

impl Tasks {
    /// Tasks whose events go to `events`.
    #[must_use]
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self { events, stages: Mutex::default(), notes: Mutex::default() }
    }

    /// A new task. Without a name it is never shown.
    pub fn plan(&self, name: &str, location: Option<SourceLocation>) -> TaskId {
        let stage = if name.is_empty() { TaskStage::Hidden } else { TaskStage::Planned };
        let task = {
            let mut stages = self.stages();
            stages.push(stage);
            TaskId(stages.len() as u64 - 1)
        };
        if stage == TaskStage::Planned {
            self.send(EventKind::Planned { task, name: name.to_owned(), location });
        }
        task
    }

    /// It begins; nothing if it did already.
    pub fn start(&self, task: TaskId) {
        if self.advance(task, &[TaskStage::Planned], TaskStage::Started) {
            self.send(EventKind::Started { task });
        }
    }

    /// Its result was there.
    pub fn cached(&self, task: TaskId) {
        if self.advance(task, &[TaskStage::Planned, TaskStage::Started], TaskStage::Ended) {
            self.send(EventKind::Cached { task });
        }
    }

    /// It ended well.
    pub fn done(&self, task: TaskId) {
        self.start(task);
        if self.advance(task, &[TaskStage::Started], TaskStage::Ended) {
            self.send(EventKind::Done { task });
        }
    }

    /// It ended badly.
    pub fn failed(&self, task: TaskId, message: &str) {
        self.start(task);
        if self.advance(task, &[TaskStage::Started], TaskStage::Ended) {
            self.send(EventKind::Failed { task, message: message.to_owned() });
        }
    }

    /// It was stopped. One that had not begun is not mentioned.
    pub fn cancelled(&self, task: TaskId) {
        if self.advance(task, &[TaskStage::Started], TaskStage::Ended) {
            self.send(EventKind::Cancelled { task });
        }
    }

    /// Output of its process.
    pub fn log(&self, task: TaskId, stream: u8, bytes: &[u8]) {
        self.send(EventKind::Log { task, stream, bytes: bytes.into() });
    }

    /// Progress of a part of it.
    pub fn status(&self, task: TaskId, id: &str, current: u64, total: u64, done: bool) {
        self.start(task);
        self.send(EventKind::Status { task, id: id.to_owned(), current, total, done });
    }

    /// Something that people should know, said once.
    pub fn note(&self, text: &str) {
        if self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned()) {
            self.send(EventKind::Note(text.to_owned()));
        }
    }

    /// A finding.
    pub fn warning(&self, diagnostic: Diagnostic) {
        self.send(EventKind::Warning(diagnostic));
    }

    /// All tasks that began and did not end: the build ends without them.
    pub fn cancel_the_rest(&self) {
        let count = self.stages().len();
        for number in 0..count {
            self.cancelled(TaskId(number as u64));
        }
    }

    fn advance(&self, task: TaskId, from: &[TaskStage], to: TaskStage) -> bool {
        let mut stages = self.stages();
        match usize::try_from(task.0).ok().and_then(|number| stages.get_mut(number)) {
            Some(stage) if from.contains(stage) => {
                *stage = to;
                true
            }
            _ => false,
        }
    }

    fn stages(&self) -> MutexGuard<'_, Vec<TaskStage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, kind: EventKind) {
        self.events.event(BuildEvent { at: SystemTime::now(), kind });
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_task_come_in_order_and_end_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let tasks = Tasks::new(Arc::new(move |event: BuildEvent| {
            let word = match event.kind {
                EventKind::Planned { task, .. } => format!("planned {}", task.0),
                EventKind::Started { task } => format!("started {}", task.0),
                EventKind::Done { task } => format!("done {}", task.0),
                EventKind::Cached { task } => format!("cached {}", task.0),
                EventKind::Cancelled { task } => format!("cancelled {}", task.0),
                EventKind::Note(text) => text,
                _ => "other".to_owned(),
            };
            sink.lock().expect("sink").push(word);
        }));
        let (one, two, hidden) = (tasks.plan("one", None), tasks.plan("two", None), tasks.plan("", None));
        tasks.done(one);
        tasks.cached(one);
        tasks.cancelled(two);
        tasks.start(two);
        tasks.start(two);
        tasks.done(hidden);
        tasks.note("n");
        tasks.note("n");
        tasks.cancel_the_rest();
        assert_eq!(*seen.lock().expect("sink"), ["planned 0", "planned 1", "started 0", "done 0", "started 1", "n", "cancelled 1"]);
    }
}
