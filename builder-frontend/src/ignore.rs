//! `.dockerignore` and `--exclude`: which paths are left out (`features.md` A11).
//!
//! The rules are the reference's, observed from its directory walk: a pattern that matches a directory holds for everything below it, later patterns
//! win, and a `!` pattern is only asked while something is left out. That last point shows: after `dir/f` a line `!dir` does not let `dir/f` in again,
//! because nothing was left out when `dir` itself was looked at. [`Walker`] keeps the answers for the directories above, so that a walk asks each
//! pattern once per path.

use crate::glob::{BadPattern, Pattern};
use crate::lexer::BYTE_ORDER_MARK;

/// Most patterns of one file; each path of a context is held against all of them.
pub const MAX_PATTERNS: usize = 20_000;

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: pattern {pattern:?} {reason}")]
pub struct IgnoreError {
    /// Line, from 1 (for `--exclude`: which one).
    pub line: u32,
    /// As written.
    pub pattern: String,
    /// Reason.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    negated: bool,
    line: u32,
    written: String,
}

/// The pattern that decides about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecidingRule<'a> {
    /// Its line, from 1.
    pub line: u32,
    /// As written, without blanks around.
    pub pattern: &'a str,
    /// Whether it lets the path in (`!`).
    pub negated: bool,
}

/// Compiled patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    rules: Vec<Rule>,
}

impl IgnoreFile {
    /// Compiles an ignore file.
    ///
    /// ```
    /// use builder_frontend::ignore::IgnoreFile;
    ///
    /// let ignore = IgnoreFile::parse(b"# logs\n**/*.log\n!keep.log\n").unwrap();
    /// assert!(ignore.excludes(b"a/b.log"));
    /// assert!(!ignore.excludes(b"keep.log"));
    /// ```
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = String::from_utf8_lossy(text);
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        let lines = text.split('\n').zip(1..).filter(|(line, _)| !line.starts_with('#'));
        Self::compile(lines.map(|(line, number)| (line, number, true)))
    }

    /// Compiles patterns given one by one (`--exclude`): no comments, and a leading slash is not dropped.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        Self::compile(patterns.into_iter().zip(1..).map(|(pattern, number)| (pattern, number, false)))
    }

    fn compile<'a>(lines: impl Iterator<Item = (&'a str, u32, bool)>) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for (written, line, relative) in lines {
            let written = written.trim();
            let (negated, pattern) = written.strip_prefix('!').map_or((false, written), |pattern| (true, pattern.trim()));
            let refuse = |reason: &str| IgnoreError { line, pattern: written.to_owned(), reason: reason.to_owned() };
            if pattern.is_empty() {
                if negated {
                    return Err(refuse("lets nothing in: a path must follow the `!`"));
                }
                continue;
            }
            if rules.len() == MAX_PATTERNS {
                return Err(refuse(&format!("is one too many: at most {MAX_PATTERNS} are allowed")));
            }
            let mut cleaned = clean(pattern);
            if relative && cleaned.len() > 1 && cleaned.starts_with('/') {
                cleaned.remove(0);
            }
            let invalid = |BadPattern| refuse("has a class without an end or a member, or a backslash at its end");
            // Checked as Go's `filepath.Match` would: it knows no `**`, but classes and escapes alike.
            Pattern::component(&cleaned).map_err(invalid)?;
            rules.push(Rule { pattern: Pattern::path(&cleaned).map_err(invalid)?, negated, line, written: written.to_owned() });
        }
        Ok(Self { rules })
    }

    /// Whether there is nothing to match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any pattern lets paths in again.
    #[must_use]
    pub fn has_negations(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }

    /// Whether the path (relative, slashes, no leading slash) is left out.
    #[must_use]
    pub fn excludes(&self, path: &[u8]) -> bool {
        self.decision(path) == Some(true)
    }

    /// `Some(true)`: left out. `Some(false)`: let in again by a `!` pattern. `None`: no pattern speaks of it.
    #[must_use]
    pub fn decision(&self, path: &[u8]) -> Option<bool> {
        self.walker().decision(path)
    }

    /// Whether a walk needn't enter this directory: it is left out and nothing below it can be let in again.
    #[must_use]
    pub fn prunes(&self, dir: &[u8]) -> bool {
        self.walker().prunes(dir)
    }

    /// The pattern that decides about the path.
    #[must_use]
    pub fn deciding_rule(&self, path: &[u8]) -> Option<DecidingRule<'_>> {
        self.walker().deciding_rule(path)
    }

    /// All patterns that speak of the path, in order: the last one decides.
    #[must_use]
    pub fn matching_rules(&self, path: &[u8]) -> Vec<DecidingRule<'_>> {
        let mut walker = self.walker();
        walker.deciding(path);
        let matched = walker.levels.last().map(|level| level.matched.clone()).unwrap_or_default();
        self.rules.iter().zip(matched).filter(|(_, matched)| *matched).map(|(rule, _)| rule.deciding()).collect()
    }

    /// Whether a file is left out, as the reference's function for a single path has it: every pattern is held against the path and all directories
    /// above it, and no walk comes by. It differs from [`IgnoreFile::excludes`], which is what builds use, where a directory is let in again after one
    /// of its files was left out: `dir/f`, `!dir`.
    ///
    /// ```
    /// use builder_frontend::ignore::IgnoreFile;
    ///
    /// let ignore = IgnoreFile::from_patterns(["dir/f", "!dir"]).unwrap();
    /// assert!(ignore.excludes(b"dir/f") && !ignore.matches_or_parent_matches(b"dir/f"));
    /// ```
    #[must_use]
    pub fn matches_or_parent_matches(&self, path: &[u8]) -> bool {
        let mut excluded = false;
        for rule in self.rules.iter().filter(|_| !path.is_empty()) {
            let directories = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            if rule.negated == excluded && directories.chain([path.len()]).any(|end| rule.pattern.matches(&path[..end])) {
                excluded = !excluded;
            }
        }
        excluded
    }

    /// For many paths: remembers what it found for the directories above. Cheapest when paths come in the order of a walk.
    #[must_use]
    pub fn walker(&self) -> Walker<'_> {
        Walker { rules: &self.rules, levels: Vec::new(), dir: Vec::new() }
    }
}

/// Asks about path after path. See [`IgnoreFile::walker`].
#[derive(Debug, Clone)]
pub struct Walker<'a> {
    rules: &'a [Rule],
    /// The path that `levels` describes.
    dir: Vec<u8>,
    levels: Vec<Level>,
}

/// What is known of one path.
#[derive(Debug, Clone)]
struct Level {
    /// How much of the walker's path it is.
    length: usize,
    /// Which rules matched it or a directory above it.
    matched: Vec<bool>,
    /// The last rule that did.
    deciding: Option<usize>,
}

impl Rule {
    fn deciding(&self) -> DecidingRule<'_> {
        DecidingRule { line: self.line, pattern: &self.written, negated: self.negated }
    }
}

impl<'a> Walker<'a> {
    /// As [`IgnoreFile::deciding_rule`].
    pub fn deciding_rule(&mut self, path: &[u8]) -> Option<DecidingRule<'a>> {
        self.deciding(path).map(|rule| self.rules[rule].deciding())
    }

    /// As [`IgnoreFile::decision`].
    pub fn decision(&mut self, path: &[u8]) -> Option<bool> {
        self.deciding(path).map(|rule| !self.rules[rule].negated)
    }

    /// As [`IgnoreFile::excludes`].
    pub fn excludes(&mut self, path: &[u8]) -> bool {
        self.decision(path) == Some(true)
    }

    /// As [`IgnoreFile::prunes`].
    pub fn prunes(&mut self, dir: &[u8]) -> bool {
        let Some(deciding) = self.deciding(dir).filter(|&rule| !self.rules[rule].negated) else { return false };
        // The rule holds for everything below, so only later ones can say otherwise.
        !self.rules[deciding + 1..].iter().any(|rule| rule.negated && rule.pattern.reaches_below(dir))
    }

    fn deciding(&mut self, path: &[u8]) -> Option<usize> {
        if self.rules.is_empty() || path.is_empty() {
            return None;
        }
        // Keep the levels that are this path or directories above it.
        let shared = self.dir.iter().zip(path).take_while(|(a, b)| a == b).count();
        let whole = |length: usize| length <= shared && path.get(length).is_none_or(|&next| next == b'/');
        let kept = self.levels.partition_point(|level| whole(level.length));
        self.levels.truncate(kept);
        let mut begin = self.levels.last().map_or(0, |level| level.length + 1);
        while begin <= path.len() {
            let end = path[begin..].iter().position(|&byte| byte == b'/').map_or(path.len(), |length| begin + length);
            let level = self.level(&path[..end], end);
            self.levels.push(level);
            begin = end + 1;
        }
        self.dir.clear();
        self.dir.extend_from_slice(path);
        self.levels.last().and_then(|level| level.deciding)
    }

    fn level(&self, path: &[u8], length: usize) -> Level {
        let above = self.levels.last();
        let mut matched = vec![false; self.rules.len()];
        let mut deciding = None;
        let mut excluded = false;
        for (i, rule) in self.rules.iter().enumerate() {
            let inherited = above.is_some_and(|above| above.matched[i]);
            // A pattern that could change nothing is not asked, and so doesn't hold for what lies below either.
            matched[i] = inherited || (rule.negated == excluded && rule.pattern.matches(path));
            if matched[i] {
                excluded = !rule.negated;
                deciding = Some(i);
            }
        }
        Level { length, matched, deciding }
    }
}

/// Go's `path.Clean`: no double slashes, no `.`, `..` taken with what precedes it, no slash at the end.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::glob::slow;

    fn parse(text: &str) -> IgnoreFile {
        IgnoreFile::parse(text.as_bytes()).expect("the patterns are good")
    }

    fn kept<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let ignore = parse(text);
        paths.iter().copied().filter(|path| !ignore.excludes(path.as_bytes())).collect()
    }

    #[test]
    fn a11_2_lines() {
        let paths = ["a.md", "keep.md", "node_modules/m/x.js", "dist/o", ".env", ".env.local", "docs/x/y/z.txt", "sub/b.md", "#x", "c#d"];
        let text = "\u{feff}# comment\r\n\n  *.md  \r\n!keep.md\nnode_modules\n/dist/\n.env*\n./docs/x/../x/y\n\\#x\nc#d";
        assert_eq!(kept(text, &paths), ["keep.md", "sub/b.md"]);
        for (text, line) in [("a\n!\n", 2), ("! ", 1), ("[", 1), ("a\nb\nx[^", 3), ("a\\", 1)] {
            assert_eq!(IgnoreFile::parse(text.as_bytes()).map_err(|error| error.line), Err(line), "{text:?}");
        }
        insta::assert_snapshot!(IgnoreFile::parse(b"a\n!").expect_err("nothing follows"), @r#"line 2: pattern "!" lets nothing in: a path must follow the `!`"#);
    }

    #[test]
    fn a11_3_double_star_case() {
        let paths = [
            "a.txt",
            "a.md",
            "sub/b.md",
            "sub/deep/c.txt",
            "sub/deep/d.md",
            "dist",
            "dist/o",
            "dist/keep",
            "dist/keep/o",
            ".env",
            "docs",
            "docs/x/y",
        ];
        assert_eq!(kept("**/*.md\nsub/*/c.txt\ndocs/**\n[.]env*\n**/keep", &paths), ["a.txt", "dist", "dist/o", "docs"]);
    }

    #[test]
    fn a11_3_order_and_negation() {
        let paths = ["a.txt", "a.md", "keep.md", "sub/a.txt", "sub/b.md", "sub/deep/c.txt", "sub/deep/d.md", "dist/o", "dist/keep/o"];
        let text = "*\n!sub\nsub/deep\n!sub/deep/c.txt\n!dist/keep/*\n!a.*\na.md";
        assert_eq!(kept(text, &paths), ["a.txt", "sub/a.txt", "sub/b.md", "sub/deep/c.txt", "dist/keep/o"]);
    }

    #[test]
    fn a11_4_patterns_begin_at_the_top() {
        assert_eq!(kept("lib\na/b\n*.md", &["lib", "src/lib", "a/b", "x/a/b", "r.md", "d/r.md"]), ["src/lib", "x/a/b", "d/r.md"]);
    }

    #[test]
    fn a11_3_signs() {
        let paths = ["a1", "a22", "b[1]", "b1", "c#d", "#x", "q?", "qq"];
        assert_eq!(kept("a?\nb\\[1]\nc#d\n\\#x\nq\\?", &paths), ["a22", "b1", "qq"]);
    }

    #[test]
    fn a_negation_is_only_asked_while_something_is_left_out() {
        assert_eq!(kept("dir/f\n!dir", &["dir", "dir/f"]), ["dir"]);
        assert_eq!(kept("dir\ndir/f\n!dir", &["dir", "dir/f"]), ["dir", "dir/f"]);
    }

    #[test]
    fn walks_are_pruned() {
        let ignore = parse("node_modules\n*.log\n!*/keep.log\nbuild\n!build/out/**\n");
        let pruned = |dir: &str| ignore.prunes(dir.as_bytes());
        assert!(pruned("node_modules/x"));
        assert!(!pruned("node_modules"), "node_modules/keep.log may be let in");
        assert!(!pruned("src"));
        assert!(!pruned("build"));
        assert!(!pruned("build/out"));
        assert!(pruned("build/tmp"));
        assert!(parse("node_modules").prunes(b"node_modules"));
    }

    #[test]
    fn the_deciding_line_is_named() {
        let ignore = parse("# c\n*\n!sub\nsub/x");
        let line = |path: &str| ignore.deciding_rule(path.as_bytes()).map(|rule| rule.line);
        assert_eq!((line("a"), line("sub"), line("sub/y"), line("sub/x")), (Some(2), Some(3), Some(3), Some(4)));
        assert_eq!(ignore.deciding_rule(b"sub/y"), Some(DecidingRule { line: 3, pattern: "!sub", negated: true }));
        assert_eq!(parse("a").deciding_rule(b"b"), None);
    }

    #[test]
    fn a9_12_patterns_one_by_one() {
        let excludes = IgnoreFile::from_patterns(["#x", "/y", "*.txt", "!a.txt"]).expect("the patterns are good");
        let excluded = |path: &str| excludes.excludes(path.as_bytes());
        assert!(excluded("#x") && excluded("b.txt") && !excluded("a.txt") && !excluded("y"));
    }

    #[test]
    fn clean_as_go_does() {
        let table = [
            ("abc/", "abc"),
            ("abc//def//ghi", "abc/def/ghi"),
            ("./abc", "abc"),
            ("abc/def/../ghi", "abc/ghi"),
            ("abc/def/../..", "."),
            ("abc/../../x", "../x"),
            ("/../abc", "/abc"),
            ("/", "/"),
            ("", "."),
            ("../../abc", "../../abc"),
        ];
        for (path, wanted) in table {
            assert_eq!(clean(path), wanted, "{path:?}");
        }
    }

    /// A plain transcription of the rules: level by level, every pattern by trial.
    fn plain(patterns: &[(bool, String)], path: &str) -> Option<bool> {
        let parts: Vec<&str> = path.split('/').collect();
        let mut above = vec![false; patterns.len()];
        let mut verdict = None;
        for depth in 1..=parts.len() {
            let prefix: Vec<char> = parts[..depth].join("/").chars().collect();
            let (mut excluded, mut here) = (false, Vec::new());
            verdict = None;
            for (i, (negated, pattern)) in patterns.iter().enumerate() {
                let pattern: Vec<char> = pattern.chars().collect();
                let matched = above[i] || (*negated == excluded && slow(&pattern, &prefix, true));
                here.push(matched);
                if matched {
                    excluded = !negated;
                    verdict = Some(excluded);
                }
            }
            above = here;
        }
        verdict
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_matcher(
            patterns in prop::collection::vec((any::<bool>(), "[ab*?]([ab/*?]{0,6}[ab*?])?"), 0..6),
            paths in prop::collection::vec("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..8),
        ) {
            // Patterns that begin with two stars and no slash are matched by their ending alone, which the plain matcher doesn't know.
            let patterns: Vec<(bool, String)> = patterns.into_iter().map(|(negated, pattern)| (negated, clean(&pattern))).filter(|(_, p)| !p.starts_with("**")).collect();
            let text: Vec<String> = patterns.iter().map(|(negated, pattern)| format!("{}{pattern}", if *negated { "!" } else { "" })).collect();
            let ignore = IgnoreFile::from_patterns(text.iter().map(String::as_str)).expect("the patterns are good");
            let mut walker = ignore.walker();
            for path in &paths {
                let wanted = plain(&patterns, path);
                prop_assert_eq!(ignore.decision(path.as_bytes()), wanted, "{} in {:?}", path, text);
                prop_assert_eq!(walker.decision(path.as_bytes()), wanted, "{} in {:?}, walking", path, text);
            }
            // Nothing below a pruned directory is let in.
            for dir in &paths {
                for path in paths.iter().filter(|path| path.starts_with(&format!("{dir}/"))) {
                    prop_assert!(!ignore.prunes(dir.as_bytes()) || ignore.excludes(path.as_bytes()), "{} below {}", path, dir);
                }
            }
        }

        #[test]
        fn any_file_and_path(text in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
            if let Ok(ignore) = IgnoreFile::parse(&text) {
                let _ = (ignore.decision(&path), ignore.prunes(&path), ignore.deciding_rule(&path));
            }
        }

        #[test]
        fn any_pattern(text in "[ab!*?/\\[\\]^.\\\\# \n-]{0,30}", path in "[ab/.]{0,12}") {
            if let Ok(ignore) = IgnoreFile::parse(text.as_bytes()) {
                let _ = (ignore.decision(path.as_bytes()), ignore.prunes(path.as_bytes()));
            }
        }
    }
}
