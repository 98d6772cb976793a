//! `--resource`, the flags of older docker versions that mean the same, and `--step-timeout`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::request::ResourceLimits;

use super::steps;
use crate::args::BuildArgs;

/// Less is not enough to start a program in; docker's own floor.
const LEAST_MEMORY_BYTES: u64 = 6 * 1024 * 1024;

/// The period that `cpus` is a part of, as docker has it.
const PERIOD_US: u64 = 100_000;

/// Limits of each step. What is said later wins; `--resource` wins over the older flags.
pub(crate) fn limits(args: &BuildArgs) -> Result<ResourceLimits> {
    let legacy = &args.legacy;
    let older = [
        ("memory", &legacy.memory),
        ("memory-swap", &legacy.memory_swap),
        ("cpu-shares", &legacy.cpu_shares),
        ("cpu-period", &legacy.cpu_period),
        ("cpu-quota", &legacy.cpu_quota),
        ("cpuset-cpus", &legacy.cpuset_cpus),
        ("cpuset-mems", &legacy.cpuset_mems),
    ];
    let mut limits = ResourceLimits::default();
    for (name, value) in older {
        if let Some(value) = value {
            set(&mut limits, name, value).with_context(|| format!("invalid --{name} {value:?}"))?;
        }
    }
    for text in &args.resource {
        let mut last: Option<&str> = None;
        // A comma separates limits, and processors within one: what has no name belongs to the one before.
        let mut given: Vec<(String, String)> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match (part.split_once('='), last) {
                (Some((name, value)), _) => {
                    last = Some(name);
                    given.push((name.to_owned(), value.to_owned()));
                }
                (None, Some("cpuset-cpus" | "cpuset-mems")) => {
                    if let Some((_, value)) = given.last_mut() {
                        value.push(',');
                        value.push_str(part);
                    }
                }
                (None, _) => bail!("invalid --resource {text:?}: expected LIMIT=VALUE"),
            }
        }
        for (name, value) in given {
            set(&mut limits, &name, &value).with_context(|| format!("invalid --resource {text:?}"))?;
        }
    }
    if let (Some(memory), Some(both)) = (limits.memory_bytes, limits.memory_swap_bytes) {
        ensure!(both >= memory, "memory-swap is the sum of memory and swap: it must not be less than memory");
    }
    ensure!(limits.memory_swap_bytes.is_none() || limits.memory_bytes.is_some(), "memory-swap limits nothing without memory: give memory too");
    Ok(limits)
}

fn set(limits: &mut ResourceLimits, name: &str, value: &str) -> Result<()> {
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{name}: {text:?} is no number"));
    match name {
        "memory" => {
            let bytes = steps::size(name, value)?;
            ensure!(bytes == 0 || bytes >= LEAST_MEMORY_BYTES, "a step needs at least 6 MiB of memory");
            limits.memory_bytes = (bytes > 0).then_some(bytes);
        }
        "memory-swap" if value == "-1" => limits.memory_swap_bytes = Some(u64::MAX),
        "memory-swap" => limits.memory_swap_bytes = Some(steps::size(name, value)?).filter(|bytes| *bytes > 0),
        "cpus" => {
            let cpus: f64 =
                value.parse().ok().filter(|cpus: &f64| cpus.is_finite() && *cpus >= 0.01).context("cpus: expected a number such as 1.5")?;
            limits.cpu_period_us = Some(PERIOD_US);
            limits.cpu_quota_us = Some((cpus * PERIOD_US as f64).round() as u64);
        }
        "cpu-shares" => limits.cpu_shares = Some(number(value)?).filter(|shares| *shares > 0),
        "cpu-period" => limits.cpu_period_us = Some(number(value)?).filter(|period| *period > 0),
        // -1 is how the kernel says that there is no limit.
        "cpu-quota" if value == "-1" => limits.cpu_quota_us = None,
        "cpu-quota" => limits.cpu_quota_us = Some(number(value)?).filter(|quota| *quota > 0),
        "cpuset-cpus" | "cpuset-mems" => {
            let is_list = |range: &str| range.split('-').all(|number| number.parse::<u16>().is_ok()) && range.split('-').count() <= 2;
            ensure!(value.split(',').all(is_list), "{name}: expected a list such as 0-3,6");
            let list = Some(value.to_owned());
            if name == "cpuset-cpus" { limits.cpuset_cpus = list } else { limits.cpuset_mems = list }
        }
        other => {
            bail!("unknown limit {other:?}; there are memory, memory-swap, cpus, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems")
        }
    }
    Ok(())
}

/// `--step-timeout`: numbers with units from hours to milliseconds, as Go and systemd write durations. A bare number is seconds.
pub(crate) fn step_timeout(args: &BuildArgs) -> Result<Option<Duration>> {
    let Some(text) = args.step_timeout.as_deref() else { return Ok(None) };
    let timeout = duration(text).with_context(|| format!("invalid --step-timeout {text:?}: expected a duration such as 90s, 10m or 1h30m"))?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}

fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resource: &[&str], change: impl FnOnce(&mut BuildArgs)) -> Result<ResourceLimits> {
        let mut args = BuildArgs { resource: resource.iter().map(|&text| text.to_owned()).collect(), ..BuildArgs::default() };
        change(&mut args);
        limits(&args)
    }

    #[test]
    fn c1_resources() {
        let limits = of(&["memory=64m,cpus=1.5,cpuset-cpus=0-1,3", "cpu-shares=512"], |_| {}).expect("limits");
        let expected = ResourceLimits {
            memory_bytes: Some(64 << 20),
            cpu_shares: Some(512),
            cpu_period_us: Some(100_000),
            cpu_quota_us: Some(150_000),
            cpuset_cpus: Some("0-1,3".to_owned()),
            ..ResourceLimits::default()
        };
        assert_eq!(limits, expected);
        let older = of(&["memory=1g"], |args| {
            args.legacy.memory = Some("2g".into());
            args.legacy.memory_swap = Some("-1".into());
            args.legacy.cpu_quota = Some("-1".into());
        });
        let older = older.expect("older flags");
        assert_eq!((older.memory_bytes, older.memory_swap_bytes, older.cpu_quota_us), (Some(1 << 30), Some(u64::MAX), None));
        assert!(of(&[], |_| {}).expect("none").is_empty());
        for bad in [
            "memory=1",
            "memory=x",
            "cpus=0",
            "cpus=NaN",
            "cpuset-cpus=a",
            "cpuset-cpus=0-1-2",
            "disk=1",
            "memory",
            "memory=64m,memory-swap=32m",
            "memory-swap=1g",
        ] {
            assert!(of(&[bad], |_| {}).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("90", 90_000), ("90s", 90_000), ("1h30m", 5_400_000), ("1.5m", 90_000), ("250ms", 250), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1x", "1h30", "-1s", "1.2.3s", "99999999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
