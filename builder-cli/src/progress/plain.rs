//! `--progress=plain`: lines in blocks, one block a task at a time (`features.md` C7.2).
//!
//! A block belongs to one task. Lines of other tasks wait until it ends, or until it has been silent while they waited: then the block is left
//! with `#N ...` and theirs begins. So output of parallel steps does not interleave line by line, and nothing waits for long.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use builder_core::event::{BuildEvent, EventKind, TaskId};

use super::{Painter, amount, clean, seconds};

/// Silence of the current block, and waiting time of others, after which the block is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waiting time of others after which a block is left although it talks.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Longest line kept while waiting for its end; a longer one is broken.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The display.
pub(super) struct Plain {
    tasks: BTreeMap<TaskId, Task>,
    /// Numbers given so far.
    numbers: usize,
    current: Option<TaskId>,
    /// Whether anything was printed, so that blocks are separated by blank lines.
    begun: bool,
}

#[derive(Default)]
struct Task {
    name: String,
    number: Option<usize>,
    started: Option<SystemTime>,
    ended: bool,
    /// Lines to print, each with its end.
    waiting: String,
    /// Since when lines wait.
    waiting_since: Option<SystemTime>,
    /// When it last printed.
    printed_at: Option<SystemTime>,
    /// Beginnings of lines, by stream.
    partial: [Vec<u8>; 2],
    statuses: BTreeMap<String, Shown>,
}

/// What was last said about a part of a task.
struct Shown {
    current: u64,
    at: SystemTime,
    started: SystemTime,
}

impl Plain {
    pub(super) fn new() -> Self {
        Self { tasks: BTreeMap::new(), numbers: 0, current: None, begun: false }
    }

    fn begin(&mut self, out: &mut dyn Write) -> std::io::Result<()> {
        if !self.begun {
            self.begun = true;
            writeln!(out, "#0 building with \"rbuild\" instance using native driver\n")?;
        }
        Ok(())
    }

    /// Queues a line of a task, giving it a number if it is its first.
    fn say(&mut self, task: TaskId, now: SystemTime, line: impl FnOnce(usize, &Task) -> String) {
        let entry = self.tasks.entry(task).or_default();
        let number = *entry.number.get_or_insert_with(|| {
            self.numbers += 1;
            self.numbers
        });
        let line = line(number, entry);
        if !line.is_empty() {
            entry.waiting.push_str(&line);
            entry.waiting.push('\n');
        }
        entry.waiting_since.get_or_insert(now);
    }

    fn output(&mut self, task: TaskId, stream: u8, bytes: &[u8], now: SystemTime) {
        let entry = self.tasks.entry(task).or_default();
        let mut text = std::mem::take(&mut entry.partial[usize::from(stream == 2)]);
        text.extend_from_slice(bytes);
        let ended = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let whole = if text.len() - ended >= MAX_LINE_BYTES { text.len() } else { ended };
        self.log_lines(task, &text[..whole], now);
        text.drain(..whole);
        self.tasks.entry(task).or_default().partial[usize::from(stream == 2)] = text;
    }

    /// Queues lines; what follows the last end of a line is one as well.
    fn log_lines(&mut self, task: TaskId, lines: &[u8], now: SystemTime) {
        if lines.is_empty() {
            return;
        }
        self.say(task, now, |number, task| {
            let begin = format!("#{number} {} ", log_time(seconds(task.started.unwrap_or(now), now)));
            let mut text = String::with_capacity(lines.len() + lines.len() / 2);
            for line in lines.strip_suffix(b"\n").unwrap_or(lines).split(|&byte| byte == b'\n') {
                text.push_str(&begin);
                clean::push_line(&mut text, line);
                text.truncate(text.trim_end().len());
                text.push('\n');
            }
            // Whoever asked for it ends the last one.
            text.pop();
            text
        });
    }

    /// Ends a task with a last line.
    fn end(&mut self, task: TaskId, now: SystemTime, line: impl FnOnce(usize, &Task) -> String) {
        let partial = self.tasks.get_mut(&task).map(|task| std::mem::take(&mut task.partial)).unwrap_or_default();
        for rest in &partial {
            self.log_lines(task, rest, now);
        }
        self.say(task, now, line);
        if let Some(task) = self.tasks.get_mut(&task) {
            task.ended = true;
        }
    }

    fn status(&mut self, task: TaskId, id: &str, current: u64, total: u64, done: bool, now: SystemTime) {
        let entry = self.tasks.entry(task).or_default();
        if let Some(shown) = entry.statuses.get(id) {
            let step = if total == 0 { u64::MAX } else { (total / 20).max(1) };
            let moved = current.saturating_sub(shown.current) >= step || now.duration_since(shown.at).unwrap_or_default() >= LONGEST_WAIT;
            if !done && !moved {
                return;
            }
        }
        let started = entry.statuses.get(id).map_or(now, |shown| shown.started);
        entry.statuses.insert(id.to_owned(), Shown { current, at: now, started });
        let id = clean::text(id);
        self.say(task, now, |number, _| {
            let size = if current == 0 && total == 0 { String::new() } else { format!(" {}", amount(current, total)) };
            let time = seconds(started, now);
            format!(
                "#{number} {id}{size}{}{}",
                if time > 0.0 || done { format!(" {time:.1}s") } else { String::new() },
                if done { " done" } else { "" }
            )
        });
    }

    /// Prints what may be printed now.
    fn print(&mut self, now: SystemTime, everything: bool, out: &mut dyn Write) -> std::io::Result<()> {
        loop {
            if let Some(current) = self.current {
                self.print_lines(current, now, out)?;
                let task = &self.tasks[&current];
                if !task.ended && !everything && !self.should_leave(task, now) {
                    return Ok(());
                }
            }
            let Some(next) = self.longest_waiting() else { return Ok(()) };
            self.switch(next, out)?;
        }
    }

    /// Whether the current block is left although its task goes on.
    fn should_leave(&self, current: &Task, now: SystemTime) -> bool {
        let since = |time: Option<SystemTime>| time.map_or(Duration::ZERO, |time| now.duration_since(time).unwrap_or_default());
        let waited = self.longest_waiting().map_or(Duration::ZERO, |task| since(self.tasks[&task].waiting_since));
        waited >= LONGEST_WAIT || waited >= PATIENCE && since(current.printed_at) >= PATIENCE
    }

    fn longest_waiting(&self) -> Option<TaskId> {
        let waiting = self.tasks.iter().filter(|(id, task)| Some(**id) != self.current && task.waiting_since.is_some());
        waiting.min_by_key(|(_, task)| (task.waiting_since, task.number)).map(|(id, _)| *id)
    }

    fn switch(&mut self, to: TaskId, out: &mut dyn Write) -> std::io::Result<()> {
        if let Some(current) = self.current.take() {
            let task = &self.tasks[&current];
            if !task.ended {
                writeln!(out, "#{} ...", task.number.unwrap_or_default())?;
            }
            writeln!(out)?;
        }
        let task = &self.tasks[&to];
        writeln!(out, "#{} {}", task.number.unwrap_or_default(), task.name)?;
        self.current = Some(to);
        Ok(())
    }

    fn print_lines(&mut self, task: TaskId, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
        let Some(task) = self.tasks.get_mut(&task) else { return Ok(()) };
        if task.waiting_since.take().is_some() {
            task.printed_at = Some(now);
        }
        let lines = std::mem::take(&mut task.waiting);
        out.write_all(lines.as_bytes())
    }
}

impl Painter for Plain {
    fn event(&mut self, event: &BuildEvent, out: &mut dyn Write) -> std::io::Result<()> {
        let now = event.at;
        self.begin(out)?;
        match &event.kind {
            EventKind::Planned { task, name, .. } => self.tasks.entry(*task).or_default().name = clean::text(name),
            EventKind::Started { task } => {
                self.tasks.entry(*task).or_default().started = Some(now);
                self.say(*task, now, |_, _| String::new());
            }
            EventKind::Cached { task } => self.end(*task, now, |number, _| format!("#{number} CACHED")),
            EventKind::Done { task } => {
                self.end(*task, now, |number, task| format!("#{number} DONE {:.1}s", seconds(task.started.unwrap_or(now), now)));
            }
            EventKind::Failed { task, message } => {
                let message = clean::message(message);
                self.end(*task, now, |number, _| format!("#{number} ERROR: {message}"));
            }
            EventKind::Cancelled { task } => {
                // What never began is nobody's news.
                if self.tasks.get(task).is_some_and(|task| task.started.is_some()) {
                    self.end(*task, now, |number, _| format!("#{number} CANCELED"));
                }
            }
            EventKind::Log { task, stream, bytes } => self.output(*task, *stream, bytes, now),
            EventKind::Status { task, id, current, total, done } => self.status(*task, id, *current, *total, *done, now),
            // Warnings stand together after the build.
            EventKind::Warning(_) => {}
            EventKind::Note(text) => writeln!(out, "#0 {}", clean::message(text))?,
        }
        self.print(now, false, out)
    }

    fn tick(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
        self.print(now, false, out)
    }

    fn finish(&mut self, now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
        self.print(now, true, out)
    }
}

/// Seconds since a step began, with fewer decimals as they grow.
fn log_time(at: f64) -> String {
    match at {
        _ if at < 10.0 => format!("{at:.3}"),
        _ if at < 100.0 => format!("{at:.2}"),
        _ => format!("{at:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays events at the given milliseconds and gives what was printed.
    fn play(events: &[(u64, EventKind)]) -> String {
        let (mut plain, mut out) = (Plain::new(), Vec::new());
        let mut last = 0;
        for (at, kind) in events {
            let at_ms = SystemTime::UNIX_EPOCH + Duration::from_millis(*at);
            plain.tick(at_ms, &mut out).expect("tick");
            plain.event(&BuildEvent { at: at_ms, kind: kind.clone() }, &mut out).expect("event");
            last = *at;
        }
        plain.finish(SystemTime::UNIX_EPOCH + Duration::from_millis(last), &mut out).expect("finish");
        String::from_utf8(out).expect("text")
    }

    fn planned(task: u64, name: &str) -> (u64, EventKind) {
        (0, EventKind::Planned { task: TaskId(task), name: name.into(), location: None })
    }

    fn started(task: u64) -> EventKind {
        EventKind::Started { task: TaskId(task) }
    }

    fn done(task: u64) -> EventKind {
        EventKind::Done { task: TaskId(task) }
    }

    fn log(task: u64, text: &str) -> EventKind {
        EventKind::Log { task: TaskId(task), stream: 1, bytes: text.as_bytes().into() }
    }

    #[test]
    fn c7_2_blocks() {
        let printed = play(&[
            planned(7, "[internal] load build definition from Dockerfile"),
            planned(8, "[build 1/2] FROM busybox"),
            planned(9, "[build 2/2] RUN echo hi"),
            (0, started(7)),
            (20, done(7)),
            (30, EventKind::Cached { task: TaskId(8) }),
            (40, started(9)),
            (1240, log(9, "hi\nhal")),
            (12_500, log(9, "lo\n\x1b[31mred\n")),
            (12_540, EventKind::Failed { task: TaskId(9), message: "exit code: 3".into() }),
        ]);
        insta::assert_snapshot!(printed, @r#"
        #0 building with "rbuild" instance using native driver

        #1 [internal] load build definition from Dockerfile
        #1 DONE 0.0s

        #2 [build 1/2] FROM busybox
        #2 CACHED

        #3 [build 2/2] RUN echo hi
        #3 1.200 hi
        #3 12.46 hallo
        #3 12.46 red
        #3 ERROR: exit code: 3
        "#);
    }

    #[test]
    fn c7_2_parallel_steps_keep_their_blocks() {
        let printed = play(&[
            planned(1, "a"),
            planned(2, "b"),
            (0, started(1)),
            (0, started(2)),
            (100, log(1, "a1\n")),
            (150, log(2, "b1\n")),
            (200, log(1, "a2\n")),
            // a is silent for more than a second while b waits.
            (1500, log(2, "b2\n")),
            (1600, log(1, "a3\n")),
            (1700, done(2)),
            (1800, done(1)),
        ]);
        insta::assert_snapshot!(printed, @r#"
        #0 building with "rbuild" instance using native driver

        #1 a
        #1 0.100 a1
        #1 0.200 a2
        #1 ...

        #2 b
        #2 0.150 b1
        #2 1.500 b2
        #2 DONE 1.7s

        #1 a
        #1 1.600 a3
        #1 DONE 1.8s
        "#);
    }

    #[test]
    fn c7_2_lines_are_the_same_however_they_come() {
        let text = "one\n\ntwo  \r\n\x1b[1mthree\x1b[0m\tgrün\nfour";
        let whole = play(&[(0, started(1)), (9, log(1, text)), (9, done(1))]);
        for size in 1..text.len() {
            let pieces = text.as_bytes().chunks(size).map(|bytes| (9, EventKind::Log { task: TaskId(1), stream: 1, bytes: bytes.into() }));
            let events: Vec<_> = std::iter::once((0, started(1))).chain(pieces).chain([(9, done(1))]).collect();
            assert_eq!(play(&events), whole, "pieces of {size} bytes");
        }
        assert!(whole.ends_with("#1 0.009 one\n#1 0.009\n#1 0.009 two\n#1 0.009 three\tgrün\n#1 0.009 four\n#1 DONE 0.0s\n"), "{whole}");
    }

    #[test]
    fn c7_2_status_lines_are_throttled() {
        let status = |current, done| EventKind::Status { task: TaskId(1), id: "sha256:ab".into(), current, total: 1_000_000, done };
        let printed = play(&[
            planned(1, "[1/1] FROM x"),
            (0, started(1)),
            (0, status(0, false)),
            (100, status(1000, false)),
            (200, status(2000, false)),
            (300, status(500_000, false)),
            (400, status(1_000_000, true)),
            (400, EventKind::Note("no private network here".into())),
            (500, done(1)),
        ]);
        insta::assert_snapshot!(printed, @r#"
        #0 building with "rbuild" instance using native driver

        #1 [1/1] FROM x
        #1 sha256:ab 0B / 1.00MB
        #1 sha256:ab 500.00kB / 1.00MB 0.3s
        #1 sha256:ab 1.00MB / 1.00MB 0.4s done
        #0 no private network here
        #1 DONE 0.5s
        "#);
    }
}
