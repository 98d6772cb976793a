//! What a person sees while a build runs (`features.md` C7).
//!
//! Events arrive from the threads of the build, pass a bounded queue, and are painted by one thread, so that a slow terminal slows a build's
//! output down but is never written to by two threads. Everything goes to standard error; standard output belongs to results.
//!
//! # Invariants
//! - Painters only look: nothing they do can change a build.
//! - What a step printed reaches the terminal cleaned ([`clean`]): it can't move the cursor, set titles or forge lines of ours.

pub(crate) mod clean;
pub(crate) mod palette;
mod plain;
mod rawjson;
mod tty;

use std::io::Write;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use builder_core::diagnostic::Diagnostic;
use builder_core::event::{BuildEvent, EventKind, EventSink, TaskId};

use palette::Palette;

/// Events that may wait for the painter; beyond it, steps wait for the terminal. Each may hold what one read from a process gave, 64 KiB, so
/// that this many are as much memory as output may ever take.
const QUEUE: usize = 64;

/// Time between two looks at the clock: how smooth the seconds of `tty` run.
const TICK: Duration = Duration::from_millis(100);

/// Ways to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressKind {
    /// A picture that is redrawn.
    Tty,
    /// Lines.
    Plain,
    /// Nothing; warnings neither.
    Quiet,
    /// One JSON object an event.
    RawJson,
    /// Nothing.
    None,
}

impl FromStr for ProgressKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tty" => Ok(Self::Tty),
            "plain" => Ok(Self::Plain),
            "quiet" => Ok(Self::Quiet),
            "rawjson" => Ok(Self::RawJson),
            "none" => Ok(Self::None),
            _ => Err(()),
        }
    }
}

/// Turns events into bytes.
trait Painter: Send {
    /// Something happened.
    fn event(&mut self, event: &BuildEvent, out: &mut dyn Write) -> std::io::Result<()>;
    /// Time has passed.
    fn tick(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()>;
    /// No more events will come.
    fn finish(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()>;
}

/// What passes the queue.
enum Message {
    Event(BuildEvent),
    /// The build is over; whatever else a straggler sends is nobody's news.
    End,
}

/// A running display.
pub(crate) struct Progress {
    events: SyncSender<Message>,
    painter: JoinHandle<()>,
    warnings: Arc<Mutex<Vec<Diagnostic>>>,
}

/// Takes the events of one build.
pub(crate) struct ProgressSink {
    events: SyncSender<Message>,
    warnings: Arc<Mutex<Vec<Diagnostic>>>,
}

impl Progress {
    /// Starts a display on standard error.
    pub(crate) fn start(kind: ProgressKind, palette: Palette) -> Self {
        let (events, queue) = sync_channel(QUEUE);
        let painter: Option<Box<dyn Painter>> = match kind {
            ProgressKind::Tty => Some(Box::new(tty::Tty::new(palette))),
            ProgressKind::Plain => Some(Box::new(plain::Plain::new())),
            ProgressKind::RawJson => Some(Box::new(rawjson::RawJson::default())),
            ProgressKind::Quiet | ProgressKind::None => None,
        };
        let painter = std::thread::spawn(move || paint(painter, &queue));
        Self { events, painter, warnings: Arc::default() }
    }

    /// Where the build sends its events.
    pub(crate) fn sink(&self) -> ProgressSink {
        ProgressSink { events: self.events.clone(), warnings: Arc::clone(&self.warnings) }
    }

    /// Ends the display and gives the warnings that came by.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        // Both fail only for a painter that panicked.
        let _ = self.events.send(Message::End);
        // A painter that panicked has said so; the build's outcome is worth more than its picture.
        let _ = self.painter.join();
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ProgressSink {
    /// Shows something that was done before the build began: reading the Dockerfile.
    pub(crate) fn already_done(&self, task: TaskId, name: String) {
        for kind in [EventKind::Planned { task, name, location: None }, EventKind::Started { task }, EventKind::Done { task }] {
            self.event(BuildEvent { at: SystemTime::now(), kind });
        }
    }
}

impl EventSink for ProgressSink {
    fn event(&self, event: BuildEvent) {
        if let EventKind::Warning(warning) = &event.kind {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.clone());
        }
        // The painter is gone only if it panicked; a build goes on without its picture.
        let _ = self.events.send(Message::Event(event));
    }
}

fn paint(mut painter: Option<Box<dyn Painter>>, queue: &Receiver<Message>) {
    let mut out = std::io::BufWriter::new(std::io::stderr());
    loop {
        let next = queue.recv_timeout(TICK);
        let over = matches!(next, Ok(Message::End) | Err(RecvTimeoutError::Disconnected));
        let painted = match (painter.as_mut(), &next) {
            (None, _) => Ok(()),
            (Some(painter), Ok(Message::Event(event))) => painter.event(event, &mut out),
            (Some(painter), Err(RecvTimeoutError::Timeout)) => painter.tick(SystemTime::now(), &mut out),
            (Some(painter), Ok(Message::End) | Err(RecvTimeoutError::Disconnected)) => painter.finish(SystemTime::now(), &mut out),
        };
        // Standard error may be a closed pipe (`rbuild … 2>&1 | head`). That is no reason to end a build, only to stop talking.
        if painted.and_then(|()| out.flush()).is_err() {
            painter = None;
        }
        if over {
            return;
        }
    }
}

/// A number of bytes as progress shows it: `512B`, `1.23MB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

/// `so far / in all`, or only `so far` if the end is not known.
fn amount(current: u64, total: u64) -> String {
    if total == 0 { bytes(current) } else { format!("{} / {}", bytes(current), bytes(total)) }
}

/// Seconds from one time to another; none for clocks that were set back.
fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}
