//! A report as text and as JSON. Names in it come from anywhere: they are made harmless for terminals.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::report::{Amount, ContextReport, Instruction, Largest, MAIN, Missing, Report, RuleLine, RuleReport, Verdict, Why};
use crate::progress::{bytes, clean};

/// For people: only what was asked for.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.why.is_empty() {
        report.contexts.iter().for_each(|context| about(context, &mut text));
    }
    report.why.iter().for_each(|why| reason(why, &mut text));
    clean_lines(&text)
}

fn clean_lines(text: &str) -> String {
    text.split('\n').map(clean::text).collect::<Vec<_>>().join("\n")
}

fn files(amount: Amount) -> String {
    let Amount { files, bytes: n } = amount;
    if files == 1 { format!("1 file, {}", bytes(n)) } else { format!("{files} files, {}", bytes(n)) }
}

fn about(context: &ContextReport, text: &mut String) {
    let ContextReport { name, path, read, ignored, unread, rules, largest, .. } = context;
    if !text.is_empty() {
        text.push('\n');
    }
    let title = if name == MAIN { "context".to_owned() } else { format!("context {name}") };
    let _ = writeln!(text, "{title}: {}", path.display());
    let _ = writeln!(text, "  read      {}", files(*read));
    let _ = writeln!(text, "  ignored   {}", files(*ignored));
    let _ = writeln!(text, "  neither   {}", files(*unread));
    if !largest.is_empty() {
        let _ = writeln!(text, "largest files that are read:");
        let width = largest.iter().map(|large| large.path.chars().count()).max().unwrap_or_default().min(60);
        for Largest { path, bytes: n, readers } in largest {
            let by = readers.first().map(at).unwrap_or_default();
            let _ = writeln!(text, "  {:>9}  {path:width$}  {by}", bytes(*n));
        }
    }
    if !rules.is_empty() {
        let _ = writeln!(text, "ignored by:");
        for RuleReport { rule, amount, example } in rules {
            let _ = writeln!(text, "  {}: {}  {}, such as {example}", rule_at(rule), rule.pattern, files(*amount));
        }
    }
}

fn at(instruction: &Instruction) -> String {
    if instruction.line == 0 { instruction.text.clone() } else { format!("{}:{}", instruction.file, instruction.line) }
}

fn rule_at(rule: &RuleLine) -> String {
    format!("{}:{}", rule.file, rule.line)
}

fn reason(why: &Why, text: &mut String) {
    let verdict = match why.verdict {
        Verdict::Read if why.below.is_some() => "something below it is read",
        Verdict::Read => "read",
        Verdict::Ignored => "ignored",
        Verdict::Unread if why.is_definition => "read as the definition of the build; no instruction copies it",
        Verdict::Unread => "not read: no instruction that the target needs selects it",
        Verdict::Absent => "not there",
        Verdict::Outside => "outside the context, where no instruction can reach it",
    };
    let _ = writeln!(text, "{}: {verdict}", why.path);
    if why.is_definition && why.verdict == Verdict::Ignored {
        let _ = writeln!(text, "  as the definition of the build it is read in any case; it can't be copied");
    }
    for rule in &why.rules {
        let does = match (rule.negated, why.verdict) {
            (true, _) => "lets it in again",
            (false, Verdict::Absent) => "would leave it out",
            (false, _) => "leaves it out",
        };
        let _ = writeln!(text, "  {}: {}  {does}", rule_at(rule), rule.pattern);
    }
    for instruction in &why.instructions {
        let _ = writeln!(text, "  {}: {}", at(instruction), instruction.text);
    }
    if let Some([read, ignored, neither]) = why.below {
        let _ = writeln!(text, "  below it: read {}; ignored {}; neither {}", files(read), files(ignored), files(neither));
    }
}

/// In a line.
pub(super) fn missing(missing: &Missing) -> String {
    format!("{}: {}", at(&missing.instruction), missing.message)
}

/// For programs: everything.
pub(super) fn json(report: &Report) -> Value {
    json!({
        "contexts": report.contexts.iter().map(context_json).collect::<Vec<_>>(),
        "why": report.why.iter().map(why_json).collect::<Vec<_>>(),
    })
}

fn amount_json(amount: Amount) -> Value {
    json!({ "files": amount.files, "bytes": amount.bytes })
}

fn rule_json(rule: &RuleLine) -> Value {
    json!({ "file": rule.file, "line": rule.line, "pattern": rule.pattern, "negated": rule.negated })
}

fn instructions_json(instructions: &[Instruction]) -> Value {
    instructions.iter().map(instruction_json).collect()
}

fn instruction_json(instruction: &Instruction) -> Value {
    json!({ "file": instruction.file, "line": instruction.line, "text": instruction.text })
}

fn context_json(context: &ContextReport) -> Value {
    let rule = |RuleReport { rule, amount, example }: &RuleReport| {
        let mut value = rule_json(rule);
        value["files"] = json!(amount.files);
        value["bytes"] = json!(amount.bytes);
        value["example"] = json!(example);
        value
    };
    json!({
        "name": context.name,
        "path": context.path.display().to_string(),
        "read": amount_json(context.read),
        "ignored": amount_json(context.ignored),
        "unread": amount_json(context.unread),
        "rules": context.rules.iter().map(rule).collect::<Vec<_>>(),
        "largest": context.largest.iter()
            .map(|large| json!({ "path": large.path, "bytes": large.bytes, "instructions": instructions_json(&large.readers) }))
            .collect::<Vec<_>>(),
        "missing": context.missing.iter()
            .map(|missing| json!({ "instruction": instruction_json(&missing.instruction), "message": missing.message }))
            .collect::<Vec<_>>(),
    })
}

fn why_json(why: &Why) -> Value {
    let verdict = match why.verdict {
        Verdict::Read => "read",
        Verdict::Ignored => "ignored",
        Verdict::Unread => "unread",
        Verdict::Absent => "absent",
        Verdict::Outside => "outside",
    };
    json!({
        "path": why.path,
        "verdict": verdict,
        "definition": why.is_definition,
        "rules": why.rules.iter().map(rule_json).collect::<Vec<_>>(),
        "instructions": instructions_json(&why.instructions),
        "below": why.below.map(|[read, ignored, unread]| {
            json!({ "read": amount_json(read), "ignored": amount_json(ignored), "unread": amount_json(unread) })
        }),
    })
}
