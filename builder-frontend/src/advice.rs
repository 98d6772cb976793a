//! Knowledge about the world outside Dockerfiles that the build checks draw on: what secrets look like, and where package managers leave their caches.
//!
//! Only what is certain is said: a finding that is wrong now and then teaches people not to read findings.

/// What a secret looks like: how it begins, what follows, how long that must be at least.
struct Shape {
    kind: &'static str,
    prefix: &'static str,
    min_length: usize,
    allowed: fn(char) -> bool,
}

const SHAPES: &[Shape] = &[
    Shape { kind: "an AWS access key", prefix: "AKIA", min_length: 16, allowed: is_upper_or_digit },
    Shape { kind: "a GitHub token", prefix: "ghp_", min_length: 36, allowed: is_word },
    Shape { kind: "a GitHub token", prefix: "gho_", min_length: 36, allowed: is_word },
    Shape { kind: "a GitHub token", prefix: "ghs_", min_length: 36, allowed: is_word },
    Shape { kind: "a GitHub token", prefix: "github_pat_", min_length: 36, allowed: is_word },
    Shape { kind: "a GitLab token", prefix: "glpat-", min_length: 20, allowed: is_word },
    Shape { kind: "an npm token", prefix: "npm_", min_length: 36, allowed: is_word },
    Shape { kind: "a PyPI token", prefix: "pypi-", min_length: 50, allowed: is_word },
    Shape { kind: "a Slack token", prefix: "xoxb-", min_length: 24, allowed: is_word },
    Shape { kind: "a Slack token", prefix: "xoxp-", min_length: 24, allowed: is_word },
    Shape { kind: "a Stripe key", prefix: "sk_live_", min_length: 24, allowed: is_word },
    Shape { kind: "a Google API key", prefix: "AIza", min_length: 35, allowed: is_word },
    Shape { kind: "a Hugging Face token", prefix: "hf_", min_length: 34, allowed: is_word },
    Shape { kind: "a Docker Hub token", prefix: "dckr_pat_", min_length: 20, allowed: is_word },
];

fn is_upper_or_digit(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// What kind of secret a value holds, if it certainly holds one.
///
/// ```
/// use builder_frontend::advice::secret_kind;
///
/// assert_eq!(secret_kind("ghp_0123456789abcdefghijklmnopqrstuvwxyz"), Some("a GitHub token"));
/// assert_eq!(secret_kind("ghp_example"), None);
/// ```
#[must_use]
pub fn secret_kind(value: &str) -> Option<&'static str> {
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----") {
        return Some("a private key");
    }
    if let Some((scheme, rest)) = value.split_once("://") {
        let user = rest.split(['/', '?', '#']).next().and_then(|host| host.rsplit_once('@')).map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        if !scheme.is_empty() && password.is_some_and(|password| !password.is_empty() && !password.starts_with('$')) {
            return Some("an address with a password");
        }
    }
    if is_signed_token(value) {
        return Some("a signed token (JWT)");
    }
    let found = SHAPES.iter().find(|shape| {
        value.match_indices(shape.prefix).any(|(at, _)| {
            let begins = value[..at].chars().next_back().is_none_or(|c| !is_word(c));
            let length = value[at + shape.prefix.len()..].chars().take_while(|&c| (shape.allowed)(c)).count();
            begins && length >= shape.min_length
        })
    });
    found.map(|shape| shape.kind)
}

/// Three parts of base64, the first of which is a JSON object.
fn is_signed_token(value: &str) -> bool {
    let parts: Vec<&str> = value.trim().split('.').collect();
    let [head, claims, signature] = parts[..] else { return false };
    let is_base64 = |part: &str| part.len() >= 16 && part.chars().all(is_word);
    head.starts_with("eyJ") && claims.starts_with("eyJ") && is_base64(head) && is_base64(claims) && is_base64(signature)
}

/// A cache that a command leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    /// What leaves it.
    pub command: &'static str,
    /// Where.
    pub path: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// How a package manager is recognised and what keeps its cache out of the layer.
struct Manager {
    commands: &'static [&'static str],
    /// Words of a command that keep the cache from being written or remove it.
    clean: &'static [&'static str],
    /// Directories that are no part of the layer when something is mounted there.
    mounts: &'static [&'static str],
    /// Variable that keeps the cache from being written.
    variable: Option<&'static str>,
    path: &'static str,
    remedy: &'static str,
}

const MANAGERS: &[Manager] = &[
    Manager {
        commands: &["apt-get update", "apt update"],
        clean: &["/var/lib/apt"],
        mounts: &["/var/lib/apt", "/var/lib/apt/lists"],
        variable: None,
        path: "/var/lib/apt/lists",
        remedy: "end the command with `&& rm -rf /var/lib/apt/lists/*`, or mount a cache there",
    },
    Manager {
        commands: &["pip install", "pip3 install"],
        clean: &["--no-cache-dir", "pip cache purge", ".cache"],
        mounts: &["/root/.cache", "/root/.cache/pip"],
        variable: Some("PIP_NO_CACHE_DIR"),
        path: "~/.cache/pip",
        remedy: "add --no-cache-dir, or mount a cache at /root/.cache/pip",
    },
    Manager {
        commands: &["npm ci", "npm install"],
        clean: &["npm cache clean", ".npm", "--cache"],
        mounts: &["/root/.npm"],
        variable: Some("npm_config_cache"),
        path: "~/.npm",
        remedy: "end the command with `&& npm cache clean --force`, or mount a cache at /root/.npm",
    },
];

/// The first cache that a command line for a shell leaves in its layer. `mounted` are the directories over which caches and memory are mounted,
/// `is_set` knows the variables of the step.
#[must_use]
pub fn leftover(command: &str, mounted: &[&str], is_set: impl Fn(&str) -> bool) -> Option<Leftover> {
    let words = command.split_whitespace().collect::<Vec<_>>().join(" ");
    MANAGERS.iter().find_map(|manager| {
        let used = manager.commands.iter().find(|command| runs(&words, command))?;
        let kept_out = manager.clean.iter().any(|clean| words.contains(clean))
            || mounted.iter().any(|dir| manager.mounts.contains(&dir.trim_end_matches('/')))
            || manager.variable.is_some_and(&is_set);
        (!kept_out).then_some(Leftover { command: used, path: manager.path, remedy: manager.remedy })
    })
}

/// Whether a command stands at the beginning of a command of the line: behind nothing, a separator, or `sudo`.
fn runs(line: &str, command: &str) -> bool {
    line.match_indices(command).any(|(at, _)| {
        let before = line[..at].trim_end();
        let after = line[at + command.len()..].chars().next();
        let begins = before.is_empty() || before.ends_with(['&', ';', '|', '(', '{', '!']) || before.ends_with("sudo") || before.ends_with("-m");
        begins && after.is_none_or(|c| !is_word(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a15_values_that_are_secrets() {
        for (value, is) in [
            ("AKIAIOSFODNN7EXAMPLE", true),
            ("key=AKIAIOSFODNN7EXAMPLE;", true),
            ("xAKIAIOSFODNN7EXAMPLE", false),
            ("glpat-0123456789abcdefghij", true),
            ("glpat-short", false),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc", true),
            ("-----BEGIN CERTIFICATE-----", false),
            ("https://user:hunter2@example.com/x", true),
            ("https://user@example.com/x", false),
            ("https://example.com/a:b@c", false),
            ("https://user:$TOKEN@example.com", false),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P", true),
            ("1.2.3", false),
            ("", false),
        ] {
            assert_eq!(secret_kind(value).is_some(), is, "{value}");
        }
    }

    #[test]
    fn a15_caches_that_stay() {
        let none: &[&str] = &[];
        for (command, mounted, variable, stays) in [
            ("apt-get update && apt-get install -y curl", none, "", true),
            ("apt-get update \\\n && apt-get install -y curl \\\n && rm -rf /var/lib/apt/lists/*", none, "", false),
            ("apt-get update", &["/var/lib/apt/lists"], "", false),
            ("apt-get install -y curl", none, "", false),
            ("echo apt-get update", none, "", false),
            ("pip install -r requirements.txt", none, "", true),
            ("python -m pip install x", none, "", true),
            ("pip install --no-cache-dir x", none, "", false),
            ("pip install x", &["/root/.cache/pip"], "", false),
            ("pip install x", none, "PIP_NO_CACHE_DIR", false),
            ("npm ci", none, "", true),
            ("npm ci && npm cache clean --force", none, "", false),
            ("npm civilised", none, "", false),
            ("make", none, "", false),
        ] {
            assert_eq!(leftover(command, mounted, |name| name == variable).is_some(), stays, "{command}");
        }
    }
}
