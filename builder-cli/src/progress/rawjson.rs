//! `--progress=rawjson`: one JSON object an event, in BuildKit's shape (`features.md` C7.4).

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use builder_core::diagnostic::{Diagnostic, Severity};
use builder_core::event::{BuildEvent, EventKind, TaskId};
use builder_core::oci::Sha256Digest;
use serde_json::{Value, json};

use super::Painter;
use crate::base64;

/// The display.
#[derive(Default)]
pub(super) struct RawJson {
    vertexes: BTreeMap<TaskId, Value>,
    statuses: BTreeMap<(TaskId, String), String>,
}

impl RawJson {
    /// The vertex of a task with `changes` applied.
    fn vertex(&mut self, task: TaskId, changes: &[(&str, Value)]) -> Value {
        let vertex = self.vertexes.entry(task).or_insert_with(|| json!({"digest": digest(task)}));
        for (key, value) in changes {
            vertex[*key] = value.clone();
        }
        json!({"vertexes": [vertex]})
    }

    fn object(&mut self, event: &BuildEvent) -> Value {
        let at = json!(rfc3339(event.at));
        match &event.kind {
            EventKind::Planned { task, name, .. } => self.vertex(*task, &[("name", json!(name))]),
            EventKind::Started { task } => self.vertex(*task, &[("started", at)]),
            EventKind::Cached { task } => self.vertex(*task, &[("started", at.clone()), ("completed", at), ("cached", json!(true))]),
            EventKind::Done { task } => self.vertex(*task, &[("completed", at)]),
            EventKind::Failed { task, message } => self.vertex(*task, &[("completed", at), ("error", json!(message))]),
            EventKind::Cancelled { task } => self.vertex(*task, &[("completed", at), ("error", json!("context canceled"))]),
            EventKind::Log { task, stream, bytes } => {
                json!({"logs": [{"vertex": digest(*task), "stream": stream, "data": base64::encode(bytes), "timestamp": at}]})
            }
            EventKind::Status { task, id, current, total, done } => {
                let started = self.statuses.entry((*task, id.clone())).or_insert_with(|| rfc3339(event.at)).clone();
                let mut status = json!({"id": id, "vertex": digest(*task), "current": current, "total": total, "timestamp": at, "started": started});
                if *done {
                    status["completed"] = at;
                }
                json!({"statuses": [status]})
            }
            EventKind::Warning(diagnostic) => json!({"warnings": [warning(diagnostic)]}),
            EventKind::Note(text) => json!({"warnings": [{"level": 0, "short": base64::encode(text.as_bytes())}]}),
        }
    }
}

/// What identifies a task in this stream. Tasks are no content, so the digest is one of their number.
fn digest(task: TaskId) -> String {
    Sha256Digest::of(format!("rbuild task {}", task.0).as_bytes()).to_string()
}

fn warning(diagnostic: &Diagnostic) -> Value {
    let short = format!("{}: {}", diagnostic.code, diagnostic.message);
    let mut warning = json!({"level": u8::from(diagnostic.severity == Severity::Warning), "short": base64::encode(short.as_bytes())});
    if let Some(help) = &diagnostic.help {
        warning["detail"] = json!([base64::encode(help.as_bytes())]);
    }
    if let Some(url) = &diagnostic.url {
        warning["url"] = json!(url);
    }
    if let Some(location) = &diagnostic.location {
        warning["sourceInfo"] = json!({"filename": location.source.name, "data": base64::encode(location.source.text.as_bytes())});
        warning["range"] = json!([{"start": {"line": location.first_line}, "end": {"line": location.last_line}}]);
    }
    warning
}

/// A time as RFC 3339 in UTC with nanoseconds.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z", of_day / 3600, of_day / 60 % 60, of_day % 60, since.subsec_nanos())
}

/// Year, month and day of a number of days since 1970, in the proleptic Gregorian calendar. Years begin in March here, so that the leap day is
/// a year's last day and months have regular lengths.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    let from_era = days + 719_468;
    let (era, day_of_era) = (from_era / DAYS_OF_ERA, from_era % DAYS_OF_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * month_from_march + 2) / 5 + 1)
}

impl Painter for RawJson {
    fn event(&mut self, event: &BuildEvent, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "{}", self.object(event))
    }

    fn tick(&mut self, _: SystemTime, _: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: SystemTime, _: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn c7_4_vertexes_and_logs() {
        let mut raw = RawJson::default();
        let mut out = Vec::new();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        for kind in [
            EventKind::Planned { task: TaskId(1), name: "RUN x".into(), location: None },
            EventKind::Started { task: TaskId(1) },
            EventKind::Log { task: TaskId(1), stream: 2, bytes: (*b"hi").into() },
            EventKind::Cached { task: TaskId(2) },
        ] {
            raw.event(&BuildEvent { at, kind }, &mut out).expect("write");
        }
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[1]["vertexes"][0]["name"], "RUN x");
        assert_eq!(lines[1]["vertexes"][0]["started"], "2024-02-29T12:34:56.000000000Z");
        assert_eq!((&lines[2]["logs"][0]["data"], &lines[2]["logs"][0]["stream"]), (&json!("aGk="), &json!(2)));
        assert_eq!(lines[2]["logs"][0]["vertex"], lines[0]["vertexes"][0]["digest"]);
        assert_eq!(lines[3]["vertexes"][0]["cached"], true);
    }
}
