//! Flags about how steps run: hosts, limits, network, rights.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use builder_core::graph::Network;
use builder_core::request::Entitlement;

/// `--add-host name:address`, also with `=`, several separated by commas; a bare address belongs to the name before it.
pub(crate) fn hosts(given: &[String]) -> Result<Vec<(String, String)>> {
    let mut hosts: Vec<(String, String)> = Vec::new();
    for text in given {
        let mut name: Option<&str> = None;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (host, address_text) = match (part.split_once('='), part.split_once(':')) {
                _ if name.is_some() && address(part).is_some() => (name.unwrap_or_default(), part),
                (Some(pair), _) | (None, Some(pair)) => pair,
                (None, None) => bail!("invalid --add-host {text:?}: expected HOST:ADDRESS"),
            };
            ensure!(!host.is_empty(), "invalid --add-host {text:?}: no host before the address");
            if address_text == "host-gateway" {
                bail!("invalid --add-host {text:?}: host-gateway needs a bridge network, which rbuild does not make; give the host's address");
            }
            let ip = address(address_text).with_context(|| format!("invalid --add-host {text:?}: {address_text:?} is no IP address"))?;
            hosts.push((host.to_owned(), ip.to_string()));
            name = Some(host);
        }
    }
    Ok(hosts)
}

fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok()
}

/// A size such as `64m`: a number with an optional unit, powers of 1024.
pub(crate) fn size(flag: &str, text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => bail!("invalid {flag} {text:?}: unknown unit {unit:?}; there are b, k, m, g and t"),
    };
    let whole: u64 = number.parse().with_context(|| format!("invalid {flag} {text:?}: expected a number with a unit, such as 64m"))?;
    whole.checked_mul(1 << shift).with_context(|| format!("invalid {flag} {text:?}: too large"))
}

/// Resource limits that Linux knows.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `--ulimit name=soft[:hard]`.
pub(crate) fn ulimits(given: &[String]) -> Result<Vec<(String, u64, u64)>> {
    given.iter().map(|text| ulimit(text).with_context(|| format!("invalid --ulimit {text:?}"))).collect()
}

fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    let (name, values) = text.split_once('=').context("expected NAME=SOFT[:HARD]")?;
    ensure!(LIMITS.contains(&name), "no such limit; there are {}", LIMITS.join(", "));
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse::<u64>().with_context(|| format!("{text:?} is no number")),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    ensure!(soft <= hard, "the soft limit is above the hard one");
    Ok((name.to_owned(), soft, hard))
}

/// `--network`.
pub(crate) fn network(given: Option<&str>) -> Result<Network> {
    match given {
        None | Some("default" | "sandbox" | "") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => bail!("unsupported network mode {other:?}; there are default, none and host"),
    }
}

/// `--allow`, and the right that `--network=host` asks for by itself.
pub(crate) fn rights(given: &[String], network: Network) -> Result<Vec<Entitlement>> {
    let mut rights = Vec::new();
    for right in given.iter().flat_map(|text| text.split(',')) {
        rights.push(match right {
            "network.host" => Entitlement::NetworkHost,
            "security.insecure" => Entitlement::SecurityInsecure,
            // Writing into any directory is what the user who runs rbuild may do anyway.
            "buildx.local.delete" => continue,
            _ if right.starts_with("device") => bail!("invalid --allow {right:?}: devices are not available in steps"),
            _ => bail!("invalid --allow {right:?}: there are network.host and security.insecure"),
        });
    }
    if network == Network::Host && !rights.contains(&Entitlement::NetworkHost) {
        rights.push(Entitlement::NetworkHost);
    }
    Ok(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_hosts() {
        let read = |text: &str| hosts(&[text.to_owned()]).map(|hosts| hosts.iter().map(|(h, a)| format!("{h} {a}")).collect::<Vec<_>>());
        assert_eq!(read("db:10.0.0.1").expect("colon"), ["db 10.0.0.1"]);
        assert_eq!(read("db=10.0.0.1,10.0.0.2,x:::1").expect("several"), ["db 10.0.0.1", "db 10.0.0.2", "x ::1"]);
        assert_eq!(read("db:[2001:db8::1]").expect("brackets"), ["db 2001:db8::1"]);
        for bad in ["db", ":10.0.0.1", "db:nowhere", "db:host-gateway"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn c1_sizes_and_limits() {
        for (text, bytes) in [("64m", 64 << 20), ("1g", 1 << 30), ("512", 512), ("2kb", 2048)] {
            assert_eq!(size("--shm-size", text).expect(text), bytes);
        }
        assert!(size("--shm-size", "much").is_err() && size("--shm-size", "1x").is_err() && size("--shm-size", "99999999999t").is_err());
        let limits = ulimits(&["nofile=123:456".into(), "core=unlimited".into()]).expect("limits");
        assert_eq!(limits, [("nofile".into(), 123, 456), ("core".into(), u64::MAX, u64::MAX)]);
        for bad in ["nofile", "files=1", "nofile=2:1", "nofile=x"] {
            assert!(ulimits(&[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn c1_host_network_brings_its_right() {
        assert_eq!(rights(&[], Network::Host).expect("host"), [Entitlement::NetworkHost]);
        assert!(rights(&["everything".into()], Network::Default).is_err());
        assert!(network(Some("bridge")).is_err());
    }
}
