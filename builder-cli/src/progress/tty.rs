//! `--progress=tty`: a picture that is redrawn in place (`features.md` C7.3).

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::{Duration, SystemTime};

use builder_core::event::{BuildEvent, EventKind, TaskId};

use super::palette::Palette;
use super::{Painter, amount, clean, seconds};

/// Shortest time between two pictures.
const REDRAW: Duration = Duration::from_millis(100);

/// Lines of output shown below a running step.
const TAIL_LINES: usize = 6;

/// Size of a terminal that does not tell.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// The display.
pub(super) struct Tty {
    palette: Palette,
    tasks: BTreeMap<TaskId, Task>,
    /// Tasks in the order in which they began.
    order: Vec<TaskId>,
    notes: Vec<String>,
    began: Option<SystemTime>,
    drawn_at: Option<SystemTime>,
    /// Lines of the last picture, to go back over.
    drawn_lines: usize,
    /// Asks the terminal; a test gives a constant.
    size: fn() -> (usize, usize),
}

#[derive(Default)]
struct Task {
    name: String,
    started: Option<SystemTime>,
    ended: Option<(SystemTime, End)>,
    tail: VecDeque<String>,
    partial: Vec<u8>,
    statuses: Vec<(String, Status)>,
}

#[derive(Clone, Copy)]
struct Status {
    current: u64,
    total: u64,
    started: SystemTime,
    ended: Option<SystemTime>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Cached,
    Failed,
    Cancelled,
}

impl Tty {
    pub(super) fn new(palette: Palette) -> Self {
        Self {
            palette,
            tasks: BTreeMap::new(),
            order: Vec::new(),
            notes: Vec::new(),
            began: None,
            drawn_at: None,
            drawn_lines: 0,
            size: terminal_size,
        }
    }

    fn task(&mut self, id: TaskId) -> &mut Task {
        self.tasks.entry(id).or_default()
    }

    fn appear(&mut self, id: TaskId, now: SystemTime) -> &mut Task {
        if !self.order.contains(&id) {
            self.order.push(id);
        }
        let task = self.task(id);
        task.started.get_or_insert(now);
        task
    }

    fn end(&mut self, id: TaskId, now: SystemTime, end: End) {
        self.appear(id, now).ended = Some((now, end));
    }

    fn take(&mut self, event: &BuildEvent) {
        let now = event.at;
        self.began.get_or_insert(now);
        match &event.kind {
            EventKind::Planned { task, name, .. } => self.task(*task).name = clean::text(name),
            EventKind::Started { task } => drop(self.appear(*task, now)),
            EventKind::Cached { task } => self.end(*task, now, End::Cached),
            EventKind::Done { task } => self.end(*task, now, End::Done),
            EventKind::Failed { task, .. } => self.end(*task, now, End::Failed),
            EventKind::Cancelled { task } if self.order.contains(task) => self.end(*task, now, End::Cancelled),
            EventKind::Cancelled { .. } | EventKind::Warning(_) => {}
            EventKind::Log { task, bytes, .. } => self.appear(*task, now).log(bytes),
            EventKind::Status { task, id, current, total, done } => {
                self.appear(*task, now).status(id, *current, *total, done.then_some(now), now);
            }
            EventKind::Note(text) => self.notes.push(clean::message(text)),
        }
    }

    /// All lines of the picture, unpainted ones cut to the width.
    fn picture(&self, now: SystemTime, finished: bool, (width, height): (usize, usize)) -> Vec<String> {
        let ended = self.tasks.values().filter(|task| task.ended.is_some()).count();
        let time = seconds(self.began.unwrap_or(now), now);
        let state = if finished { " FINISHED" } else { "" };
        let header = format!("[+] Building {time:.1}s ({ended}/{}){state}", self.tasks.len());
        let name = "rbuild";
        let gap = width.saturating_sub(header.chars().count() + name.len()).max(1);
        let mut blocks: Vec<Vec<String>> = self.order.iter().map(|id| self.tasks[id].lines(now, width, &self.palette)).collect();
        if !finished {
            self.fit(&mut blocks, height.saturating_sub(2));
        }
        let notes = self.notes.iter().map(|note| cut(&format!(" => note: {note}"), width));
        let header = Palette::paint(if finished { &self.palette.run } else { "" }, &format!("{header}{}{name}", " ".repeat(gap)));
        std::iter::once(header).chain(notes).chain(blocks.into_iter().flatten()).collect()
    }

    /// Leaves out the oldest finished tasks, then the tails, until the picture fits: a picture higher than the terminal can't be redrawn.
    fn fit(&self, blocks: &mut Vec<Vec<String>>, height: usize) {
        let mut excess = blocks.iter().map(Vec::len).sum::<usize>().saturating_sub(height);
        for (block, id) in blocks.iter_mut().zip(&self.order) {
            if excess > 0 && self.tasks[id].ended.is_some() {
                excess = excess.saturating_sub(block.len());
                block.clear();
            }
        }
        for block in blocks.iter_mut().filter(|block| block.len() > 1) {
            if excess > 0 {
                excess = excess.saturating_sub(block.len() - 1);
                block.truncate(1);
            }
        }
        let lines: usize = blocks.iter().map(Vec::len).sum();
        if lines > height {
            let mut surplus = lines - height;
            blocks.retain(|block| {
                let keep = surplus == 0 || block.is_empty();
                surplus = surplus.saturating_sub(if keep { 0 } else { block.len() });
                keep
            });
        }
    }

    fn draw(&mut self, now: SystemTime, finished: bool, out: &mut dyn Write) -> std::io::Result<()> {
        let lines = self.picture(now, finished, (self.size)());
        // Autowrap is off while drawing, so that a line that is wider than thought can't become two.
        write!(out, "\u{1b}[?7l\u{1b}[?25l")?;
        if self.drawn_lines > 0 {
            write!(out, "\u{1b}[{}A", self.drawn_lines)?;
        }
        for line in &lines {
            writeln!(out, "\r{line}\u{1b}[K")?;
        }
        write!(out, "\u{1b}[J\u{1b}[?7h\u{1b}[?25h")?;
        self.drawn_lines = lines.len();
        self.drawn_at = Some(now);
        Ok(())
    }
}

impl Task {
    fn log(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') {
            // Those before are gone before anyone can see them.
            let last: Vec<&[u8]> = self.partial[..end].rsplit(|&byte| byte == b'\n').take(TAIL_LINES).collect();
            self.tail.extend(last.into_iter().rev().map(clean::line));
            self.partial.drain(..=end);
        }
        let surplus = self.partial.len().saturating_sub(4096);
        self.partial.drain(..surplus);
        while self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }

    fn status(&mut self, id: &str, current: u64, total: u64, ended: Option<SystemTime>, now: SystemTime) {
        let at = self.statuses.iter().position(|(known, _)| known == id).unwrap_or_else(|| {
            self.statuses.push((id.to_owned(), Status { current, total, started: now, ended }));
            self.statuses.len() - 1
        });
        let status = &mut self.statuses[at].1;
        (status.current, status.total, status.ended) = (current, total, ended);
    }

    fn lines(&self, now: SystemTime, width: usize, palette: &Palette) -> Vec<String> {
        let (until, colour, prefix) = match self.ended {
            None => (now, "", ""),
            Some((at, End::Done)) => (at, palette.run.as_str(), ""),
            Some((at, End::Cached)) => (at, palette.run.as_str(), "CACHED "),
            Some((at, End::Failed)) => (at, palette.error.as_str(), "ERROR "),
            Some((at, End::Cancelled)) => (at, palette.cancel.as_str(), "CANCELED "),
        };
        let time = seconds(self.started.unwrap_or(until), until);
        let mut lines = vec![Palette::paint(colour, &aligned(&format!(" => {prefix}{}", self.name), &format!("{time:.1}s"), width))];
        for (id, status) in &self.statuses {
            let time = seconds(status.started, status.ended.unwrap_or(until));
            let text = format!(" => => {} {}", clean::text(id), amount(status.current, status.total));
            lines.push(Palette::paint(if status.ended.is_some() { colour } else { "" }, &aligned(&text, &format!("{time:.1}s"), width)));
        }
        if self.ended.is_none() {
            lines.extend(self.tail.iter().map(|line| cut(&format!(" => => # {line}"), width)));
        }
        lines
    }
}

/// `left`, cut if need be, and `right` at the edge.
fn aligned(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(right.len() + 1).max(8);
    let left = cut(left, room);
    let gap = width.saturating_sub(left.chars().count() + right.len()).max(1);
    format!("{left}{}{right}", " ".repeat(gap))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(3)).chain("...".chars()).collect()
}

fn terminal_size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(DEFAULT_SIZE, |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

impl Painter for Tty {
    fn event(&mut self, event: &BuildEvent, out: &mut dyn Write) -> std::io::Result<()> {
        self.take(event);
        self.tick(event.at, out)
    }

    fn tick(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
        let due = self.drawn_at.is_none_or(|at| now.duration_since(at).unwrap_or_default() >= REDRAW);
        if due && self.began.is_some() { self.draw(now, false, out) } else { Ok(()) }
    }

    fn finish(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
        if self.began.is_some() { self.draw(now, true, out) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn filled() -> Tty {
        let mut tty = Tty { size: || (48, 24), ..Tty::new(Palette::default()) };
        for (ms, kind) in [
            (0, EventKind::Planned { task: TaskId(1), name: "[internal] load build context".into(), location: None }),
            (0, EventKind::Planned { task: TaskId(2), name: "[deps 2/2] RUN a very long command that can't be shown".into(), location: None }),
            (0, EventKind::Planned { task: TaskId(3), name: "[stage-1 1/1] COPY x y".into(), location: None }),
            (0, EventKind::Planned { task: TaskId(4), name: "never begins".into(), location: None }),
            (0, EventKind::Started { task: TaskId(1) }),
            (0, EventKind::Status { task: TaskId(1), id: "transferring".into(), current: 2048, total: 0, done: true }),
            (200, EventKind::Done { task: TaskId(1) }),
            (200, EventKind::Cached { task: TaskId(3) }),
            (300, EventKind::Started { task: TaskId(2) }),
            (400, EventKind::Log { task: TaskId(2), stream: 1, bytes: (*b"1\n2\n3\n4\n5\n6\n7\n\x1b[2Jevil\n").into() }),
            (500, EventKind::Cancelled { task: TaskId(4) }),
        ] {
            tty.take(&BuildEvent { at: at(ms), kind });
        }
        tty
    }

    #[test]
    fn c7_3_picture() {
        insta::assert_snapshot!(filled().picture(at(1500), false, (48, 24)).join("\n"), @r"
        [+] Building 1.5s (2/4)                   rbuild
         => [internal] load build context           0.2s
         => => transferring 2.05kB                  0.0s
         => CACHED [stage-1 1/1] COPY x y           0.0s
         => [deps 2/2] RUN a very long command t... 1.2s
         => => # 3
         => => # 4
         => => # 5
         => => # 6
         => => # 7
         => => # evil
        ");
    }

    #[test]
    fn c7_3_a_low_terminal_shows_what_runs() {
        insta::assert_snapshot!(filled().picture(at(1500), false, (48, 5)).join("\n"), @r"
        [+] Building 1.5s (2/4)                   rbuild
         => [deps 2/2] RUN a very long command t... 1.2s
        ");
    }

    #[test]
    fn c7_3_redraws_over_itself_and_not_too_often() {
        let mut tty = filled();
        let mut out = Vec::new();
        tty.tick(at(1000), &mut out).expect("draw");
        let first = out.len();
        tty.tick(at(1050), &mut out).expect("too early");
        assert_eq!(out.len(), first);
        tty.finish(at(1060), &mut out).expect("draw");
        let text = String::from_utf8_lossy(&out[first..]).into_owned();
        assert!(text.contains("\u{1b}[11A") && text.contains("FINISHED"), "{text:?}");
    }
}
