//! Addresses in ADD and of contexts: web servers and git repositories (`features.md` A9.15, A9.16, C5.4).

use builder_core::graph::{SourceOp, TreePath};

/// Name of the file that a download becomes: the last part of the address's path.
pub(crate) fn http_filename(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = percent_decoded(name);
    if name.is_empty() || name == "." || name == ".." || name.contains('/') { "__unnamed__".to_owned() } else { name }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok()).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) if byte != 0 => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Whether a source is the address of a web server.
pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// `user@host:path`, as ssh and scp take it.
fn is_scp_address(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    text.split_once('@').is_some_and(|(user, rest)| word(user) && rest.split_once(':').is_some_and(|(host, path)| word(host) && !path.is_empty()))
}

/// A git repository, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitReference {
    /// Address without fragment and query, for `git fetch`.
    pub url: String,
    /// Branch, tag, ref or commit.
    pub reference: Option<String>,
    /// Directory inside, clean; empty for all.
    pub subdir: String,
    /// `?keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `?submodules`.
    pub submodules: Option<bool>,
    /// `?checksum` or `?commit`.
    pub checksum: Option<String>,
}

impl GitReference {
    /// Reads `url[#ref[:subdir]]` or `url?key=value&…`. None if the text is no address of a git repository.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let (address, query) = match address.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (address, None),
        };
        let web = is_http(address);
        let known = if web {
            address.ends_with(".git")
        } else {
            address.starts_with("git://") || address.starts_with("ssh://") || address.starts_with("github.com/") || is_scp_address(address)
        };
        if !known {
            return None;
        }
        let url = if address.starts_with("github.com/") { format!("https://{address}") } else { address.to_owned() };
        let mut git = Self { url, ..Self::default() };
        Some(git.read(fragment, query).map(|()| git))
    }

    fn read(&mut self, fragment: Option<&str>, query: Option<&str>) -> Result<(), String> {
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            self.reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
            self.subdir = super::text::clipped(subdir);
        }
        let Some(query) = query else { return Ok(()) };
        if fragment.is_some_and(|fragment| !fragment.is_empty()) {
            return Err("it has both a fragment and a query: write the reference in one of them".to_owned());
        }
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(format!("query key {key:?} is given twice"));
            }
            seen.push(key);
            let value = percent_decoded(value);
            let boolean = |value: &str| match value.to_ascii_lowercase().as_str() {
                "" | "1" | "true" | "t" => Ok(true),
                "0" | "false" | "f" => Ok(false),
                _ => Err(format!("{key}={value} is neither true nor false")),
            };
            match key {
                "ref" => self.set_reference(value)?,
                "branch" => self.set_reference(format!("refs/heads/{value}"))?,
                "tag" => self.set_reference(format!("refs/tags/{value}"))?,
                "subdir" => self.subdir = super::text::clipped(&value),
                "checksum" | "commit" => {
                    if self.checksum.as_ref().is_some_and(|known| *known != value) {
                        return Err("checksum and commit contradict each other".to_owned());
                    }
                    self.checksum = Some(value);
                }
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&value)?),
                "submodules" => self.submodules = Some(boolean(&value)?),
                // Times of checked-out files are part of no result here; how a commit is fetched is the fetcher's choice.
                "mtime" | "fetch-by-commit" => {}
                other => return Err(format!("unexpected query key {other:?}")),
            }
        }
        if let Some(checksum) = &self.checksum
            && (checksum.len() < 7 || checksum.len() > 64 || !checksum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(format!("invalid commit {checksum:?}: expected 7 to 64 hexadecimal digits"));
        }
        Ok(())
    }

    fn set_reference(&mut self, reference: String) -> Result<(), String> {
        if self.reference.is_some() {
            return Err("only one of ref, branch and tag can be given".to_owned());
        }
        self.reference = Some(reference);
        Ok(())
    }

    /// The operation that fetches it. `keep_git_dir` is the flag of ADD; either may ask for it.
    pub(crate) fn source(&self, keep_git_dir: Option<bool>) -> SourceOp {
        SourceOp::Git {
            url: self.url.clone(),
            reference: self.reference.clone().or_else(|| self.checksum.clone()),
            subdir: TreePath::clipped(self.subdir.as_bytes()).unwrap_or_default(),
            keep_git_dir: keep_git_dir.or(self.keep_git_dir).unwrap_or(false),
            submodules: self.submodules.unwrap_or(true),
            checksum: self.checksum.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_15_file_names() {
        for (url, name) in [
            ("http://h/a/b.tar", "b.tar"),
            ("https://h/a?x=/y", "a"),
            ("http://h", "__unnamed__"),
            ("http://h/", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2fb", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
        ] {
            assert_eq!(http_filename(url), name, "{url}");
        }
    }

    #[test]
    fn a9_16_git_references() {
        let read = |text: &str| GitReference::parse(text).map(|git| git.map(|git| (git.url, git.reference, git.subdir)));
        let some = |url: &str, reference: Option<&str>, subdir: &str| Some(Ok((url.to_owned(), reference.map(str::to_owned), subdir.to_owned())));
        assert_eq!(read("http://h/repo.git"), some("http://h/repo.git", None, ""));
        assert_eq!(read("http://h/repo.git#feature/x:src"), some("http://h/repo.git", Some("feature/x"), "src"));
        assert_eq!(read("https://h/repo.git#:a/../../b"), some("https://h/repo.git", None, "b"));
        assert_eq!(read("git@github.com:o/r.git#v1"), some("git@github.com:o/r.git", Some("v1"), ""));
        assert_eq!(read("github.com/o/r"), some("https://github.com/o/r", None, ""));
        assert_eq!(read("https://h/repo.git?tag=v1&subdir=a"), some("https://h/repo.git", Some("refs/tags/v1"), "a"));
        assert_eq!(read("https://h/file.tar"), None);
        assert_eq!(read("repo.git"), None);
        assert!(matches!(read("https://h/r.git?nope=1"), Some(Err(_))));
        assert!(matches!(read("https://h/r.git?ref=a&tag=b"), Some(Err(_))));
    }
}
