//! Platforms as `os/architecture[/variant]`, normalised as containerd does (`features.md` E4.4).

use std::fmt;
use std::str::FromStr;

/// An operating system and processor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// Go's name of the operating system.
    pub os: String,
    /// Go's name of the architecture.
    pub architecture: String,
    /// Variant, empty if none.
    pub variant: String,
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: expected os/architecture or os/architecture/variant, such as linux/arm64")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "riscv64gc" => "riscv64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        let variant = if architecture == "arm" { "v7" } else { "" };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well an image for `offered` serves a wish for `self`: lower is better, none is not at all.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let number = |variant: &str, default: u32| variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok()).unwrap_or(default);
        let default = match self.architecture.as_str() {
            "arm" => 7,
            "arm64" => 8,
            _ => 1,
        };
        let (wanted, has) = (number(&self.variant, default), number(&offered.variant, default));
        (has <= wanted).then(|| wanted - has)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let invalid = || InvalidPlatform(text.chars().take(100).collect());
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| word(part)) {
            return Err(invalid());
        }
        if let [one] = parts[..] {
            return match one {
                "linux" => Ok(Self { os: "linux".into(), ..Self::host() }),
                "local" => Ok(Self::host()),
                _ => {
                    let (architecture, variant) = normalise(one, "");
                    KNOWN_ARCHITECTURES
                        .contains(&architecture.as_str())
                        .then_some(Self { os: "linux".into(), architecture, variant })
                        .ok_or_else(invalid)
                }
            };
        }
        let os = match parts[0] {
            "macos" => "darwin",
            os => os,
        };
        let (architecture, variant) = normalise(parts[1], parts.get(2).copied().unwrap_or(""));
        Ok(Self { os: os.into(), architecture, variant })
    }
}

const KNOWN_ARCHITECTURES: &[&str] =
    &["386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64", "s390x", "wasm"];

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4_4_reads_and_normalises() {
        for (given, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("LINUX/ARM64/v8", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(given.parse::<Platform>().expect(given).to_string(), shown);
        }
        for bad in ["", "/", "linux/", "linux/a/b/c", "nonsense", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn e4_4_ranks_compatible_variants() {
        let p = |text: &str| text.parse::<Platform>().expect("platform");
        assert_eq!(p("linux/arm/v7").rank(&p("linux/arm/v7")), Some(0));
        assert_eq!(p("linux/arm/v7").rank(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").rank(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").rank(&p("linux/arm64")), None);
    }
}
