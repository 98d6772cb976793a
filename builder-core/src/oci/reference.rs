//! Image references, `[domain[:port]/]path[:tag][@sha256:hex]`, normalised as Docker does (`features.md` F1).

use std::fmt;
use std::str::FromStr;

use super::Sha256Digest;

/// A normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry's host and port; `docker.io` when none was given.
    pub domain: String,
    /// Repository, with `library/` for Docker's official images.
    pub path: String,
    /// Tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest; wins over the tag.
    pub digest: Option<Sha256Digest>,
}

/// Text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image reference: {reason}")]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The short form that people write: without `docker.io/`, `library/` and `:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = self.tag.as_deref().filter(|&tag| tag != "latest" || self.digest.is_some()) {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }

    /// The short form of the repository alone.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != "docker.io" {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    #[must_use]
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| InvalidReference { text: text.chars().take(200).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid("its digest is not sha256: and 64 hexadecimal digits"))?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let first_is_word = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !first_is_word || tag.len() > 128 || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
                return Err(invalid("a tag has letters, digits, `_`, `.` and `-` only, at most 128"));
            }
        }
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if domain.contains(['.', ':']) || domain == "localhost" || domain.bytes().any(|b| b.is_ascii_uppercase()) => {
                (domain, path.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
        let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if name.is_empty() || path.is_empty() {
            return Err(invalid("it names no repository"));
        }
        if name.bytes().any(|b| b.is_ascii_uppercase()) && domain == "docker.io" || path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("a repository name must be lower case"));
        }
        if !path.split('/').all(is_path_component) || path.len() > 255 {
            return Err(invalid("a repository name has lower-case letters and digits, separated by `.`, `_`, `__`, `-` or `/`"));
        }
        if !is_domain(domain) {
            return Err(invalid("its registry is no host name"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }
}

fn is_path_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !edge(part.bytes().next()) || !edge(part.bytes().last()) {
        return false;
    }
    let mut separators = String::new();
    for c in part.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            if !matches!(separators.as_str(), "" | "." | "_" | "__") && !separators.chars().all(|s| s == '-') {
                return false;
            }
            separators.clear();
        } else if matches!(c, '.' | '_' | '-') {
            separators.push(c);
        } else {
            return false;
        }
    }
    true
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, port)) => return v6.parse::<std::net::Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port.strip_prefix(':'))),
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    (port.is_none() || is_port(port))
        && host.split('.').all(|label| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn is_port(port: Option<&str>) -> bool {
    port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_normalises() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (given, whole, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox"),
            ("a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox"),
            ("localhost/x", "localhost/x:latest", "localhost/x"),
            ("127.0.0.1:5000/x/y:t", "127.0.0.1:5000/x/y:t", "127.0.0.1:5000/x/y:t"),
            ("a--b/c__d.e", "docker.io/a--b/c__d.e:latest", "a--b/c__d.e"),
        ] {
            let reference: Reference = given.parse().expect(given);
            assert_eq!(reference.to_string(), whole);
            assert_eq!(reference.familiar(), familiar);
        }
        let both: Reference = format!("x:1@sha256:{hex}").parse().expect("both");
        assert_eq!(both.selector(), format!("sha256:{hex}"));
    }

    #[test]
    fn f1_refuses() {
        for bad in [
            "",
            ":tag",
            "Busybox",
            "a:",
            "a b",
            "a/../b",
            "a@sha256:12",
            "a/b/",
            "-a",
            "a..b",
            "a___b",
            "host.x:port/a",
            "/a",
            "a:..",
            "a:../b",
            "../a",
            "r.example/../a",
            "a%2fb",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        // Another algorithm's digits are never taken for those of sha256.
        for digest in [
            format!("sha512:{}", "0".repeat(128)),
            format!("sha512:{}", "0".repeat(64)),
            format!("sha256:{}", "0".repeat(128)),
            "sha256:../../x".into(),
        ] {
            assert!(format!("a@{digest}").parse::<Reference>().is_err(), "{digest}");
        }
    }
}
