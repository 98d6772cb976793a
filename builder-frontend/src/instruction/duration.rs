//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`, `0`.

use std::time::Duration;

/// A duration and its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoDuration {
    pub(crate) negative: bool,
    pub(crate) magnitude: Duration,
}

/// What a Go duration can hold at most.
const MAX_NANOSECONDS: u64 = i64::MAX as u64;

/// Reads one; `None` if it is none or too long.
pub(crate) fn parse(text: &str) -> Option<GoDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(GoDuration { negative, magnitude: Duration::ZERO });
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole_end = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, after) = rest.split_at(whole_end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len()),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit = nanoseconds(unit)?;
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut part = whole.checked_mul(unit)?;
        // More digits than these are worth less than a nanosecond of an hour.
        let digits = &fraction[..fraction.len().min(18)];
        let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
        let numerator: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        part = part.checked_add(u64::try_from(u128::from(unit) * numerator / scale).ok()?)?;
        total = total.checked_add(part).filter(|&total| total <= MAX_NANOSECONDS)?;
        rest = after;
    }
    Some(GoDuration { negative, magnitude: Duration::from_nanos(total) })
}

/// As Go's `time.Duration` prints: `1m30s`, `500ms`, `0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |value: u128, unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let rest = format!("{:0digits$}", value % unit);
        let rest = rest.trim_end_matches('0');
        let whole = value / unit;
        if rest.is_empty() { format!("{whole}{name}") } else { format!("{whole}.{rest}{name}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a10_8_durations() {
        let table = [
            ("0", Some((false, 0))),
            ("30s", Some((false, 30_000_000_000))),
            ("1m30s", Some((false, 90_000_000_000))),
            ("1.5h", Some((false, 5_400_000_000_000))),
            (".5s", Some((false, 500_000_000))),
            ("1.s", Some((false, 1_000_000_000))),
            ("1us", Some((false, 1_000))),
            ("1\u{b5}s", Some((false, 1_000))),
            ("-2ms", Some((true, 2_000_000))),
            ("+2ms", Some((false, 2_000_000))),
            ("", None),
            ("-", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1 s", None),
            ("9999999h", None),
        ];
        for (text, wanted) in table {
            let found = parse(text).map(|d| (d.negative, d.magnitude.as_nanos()));
            assert_eq!(found, wanted, "{text:?}");
        }
    }
}
