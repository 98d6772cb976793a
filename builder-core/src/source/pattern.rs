//! Path patterns of file operations: wildcards of sources (Go's `filepath.Match`) and the lists of `--exclude` and `--parents`
//! (the rules of ignore files).
//!
//! Pure text; nothing here reads a file system. Patterns and paths are bytes, but `?` and classes speak of characters where the bytes are UTF-8.
//!
//! Frontends have a matcher of their own for ignore files, which must work without this crate; a test beside it (`builder-frontend/tests/patterns.rs`)
//! holds the two equal.

/// Whether a component has wildcards that are not taken away by a backslash.
#[must_use]
pub fn has_wildcards(component: &[u8]) -> bool {
    let mut bytes = component.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether one path component matches a pattern as Go's `filepath.Match` has it. A malformed pattern matches nothing, as in BuildKit.
#[must_use]
pub fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    tokens(pattern, Dialect::Component).is_some_and(|tokens| run(&tokens, name))
}

/// A list of patterns with the rules of ignore files, as a walk meets them: later ones override earlier ones, a pattern that matches a directory
/// matches all below it, and `!` takes back what is matched at that point, which is asked anew for each directory on the way.
#[derive(Debug, Clone, Default)]
pub struct PatternList {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Whether it began with `!`.
    negated: bool,
    /// The whole, for paths.
    tokens: Vec<Token>,
    /// Component by component, to know which directories can lead to a match; up to the first that crosses directories.
    components: Vec<Vec<Token>>,
    /// Whether `components` is only the beginning.
    open_ended: bool,
}

/// A pattern that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {0:?} has an unfinished [ or \\, or is a lone !")]
pub struct BadPattern(String);

impl PatternList {
    /// Compiles patterns.
    ///
    /// # Errors
    /// The first that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let mut list = Vec::new();
        for text in patterns {
            let trimmed = text.trim();
            if trimmed.is_empty() {
                continue;
            }
            let bad = || BadPattern(text.to_owned());
            let (negated, body) = match trimmed.strip_prefix('!') {
                Some(body) => (true, body.trim()),
                None => (false, trimmed),
            };
            if body.is_empty() {
                return Err(bad());
            }
            let clean = clean(body);
            let mut components = Vec::new();
            let mut open_ended = false;
            for component in clean.split('/').filter(|c| !c.is_empty()) {
                // A class may take a slash, and so does what it is cut at.
                let own = tokens(component.as_bytes(), Dialect::Component).filter(|own| !own.iter().any(|token| token.takes(u32::from(b'/'))));
                let Some(own) = own.filter(|_| !component.contains("**")) else {
                    open_ended = true;
                    break;
                };
                components.push(own);
            }
            list.push(Pattern { negated, tokens: tokens(clean.as_bytes(), Dialect::Path).ok_or_else(bad)?, components, open_ended });
        }
        Ok(Self { patterns: list })
    }

    /// Whether nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern takes back what others matched, so that directories that match must be looked into.
    #[must_use]
    pub fn has_negations(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// Whether the list matches `path` (relative, slashes between components).
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        if !self.has_negations() {
            return self.patterns.iter().any(|pattern| pattern.matches_or_parent(path));
        }
        // Which patterns hold for the directory that was looked at last, and so for what is below it.
        let mut held = vec![false; self.patterns.len()];
        let mut matched = false;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            matched = false;
            for (pattern, held) in self.patterns.iter().zip(&mut held) {
                // Only a pattern that could change the decision is looked at.
                *held = *held || (pattern.negated == matched && run(&pattern.tokens, &path[..end]));
                if *held {
                    matched = !pattern.negated;
                }
            }
        }
        matched
    }

    /// Whether something below the directory `dir` can match. May say yes where nothing does, never no where something does.
    #[must_use]
    pub fn can_match_below(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| !pattern.negated && pattern.can_match_below(dir))
    }
}

impl Pattern {
    fn matches_or_parent(&self, path: &[u8]) -> bool {
        run(&self.tokens, path) || path.iter().enumerate().any(|(at, byte)| *byte == b'/' && run(&self.tokens, &path[..at]))
    }

    fn can_match_below(&self, dir: &[u8]) -> bool {
        let mut expected = self.components.iter();
        for name in dir.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            match expected.next() {
                // Longer than the pattern: below only if the pattern matched a parent or crosses directories.
                None => return self.open_ended || self.matches_or_parent(dir),
                Some(tokens) if !run(tokens, name) => return false,
                Some(_) => {}
            }
        }
        true
    }
}

/// Go's `path.Clean`, without a slash at the beginning: what is selected is named from its top.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = text.starts_with('/');
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// Any run that holds no slash: of whole characters in ignore files, of bytes in components, as in Go.
    Run { of_characters: bool },
    /// One character that is no slash.
    One,
    /// One character of a class.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    /// `**/`: nothing, or anything that ends with a slash.
    Directories,
    /// `**` at the end, or before a plain ending: any run of bytes.
    Anything,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Go's `filepath.Match` for one component.
    Component,
    /// Ignore files: `**` crosses directories.
    Path,
}

/// None for a malformed pattern.
fn tokens(pattern: &[u8], dialect: Dialect) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        match byte {
            b'*' if dialect == Dialect::Path && pattern.get(at) == Some(&b'*') => {
                at += 1;
                let begins = at == 2;
                let slash = pattern.get(at) == Some(&b'/');
                at += usize::from(slash);
                let rest = &pattern[at..];
                // `**name`, with nothing special in the name, is any path with that ending.
                let is_suffix = begins && !slash && !rest.iter().any(|byte| b"*?[".contains(byte));
                tokens.push(if rest.is_empty() || is_suffix { Token::Anything } else { Token::Directories });
            }
            b'*' => tokens.push(Token::Run { of_characters: dialect == Dialect::Path }),
            b'?' => tokens.push(Token::One),
            b'\\' => {
                tokens.push(Token::Byte(*pattern.get(at)?));
                at += 1;
            }
            b'[' => {
                let (class, end) = class(pattern, at)?;
                tokens.push(class);
                at = end;
            }
            byte => tokens.push(Token::Byte(byte)),
        }
    }
    Some(tokens)
}

/// A class whose `[` ends at `at`; none if it is not closed, is empty or has a range without an end.
fn class(pattern: &[u8], mut at: usize) -> Option<(Token, usize)> {
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut ranges = Vec::new();
    loop {
        if pattern.get(at) == Some(&b']') && !ranges.is_empty() {
            return Some((Token::Class { negated, ranges }, at + 1));
        }
        let (low, next) = class_character(pattern, at)?;
        at = next;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            (high, at) = class_character(pattern, at + 1)?;
        }
        ranges.push((low, high));
    }
}

fn class_character(pattern: &[u8], mut at: usize) -> Option<(u32, usize)> {
    match pattern.get(at)? {
        b'-' | b']' => return None,
        b'\\' => at += 1,
        _ => {}
    }
    let (character, size) = first_character(pattern.get(at..)?)?;
    Some((character, at + size))
}

/// The first character and its size in bytes; a byte that begins none stands for itself as U+FFFD, as in Go.
fn first_character(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    if first.is_ascii() {
        return Some((u32::from(first), 1));
    }
    let longest = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(longest) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&longest[..error.valid_up_to()]).unwrap_or_default(),
    };
    Some(valid.chars().next().map_or((0xfffd, 1), |c| (u32::from(c), c.len_utf8())))
}

/// Whether the tokens match all of `text`: all states at once, so that no pattern takes more than tokens × bytes.
fn run(tokens: &[Token], text: &[u8]) -> bool {
    // Literal beginnings decide most calls.
    let literal = tokens.iter().take_while(|token| matches!(token, Token::Byte(_))).count();
    if text.len() < literal || !tokens[..literal].iter().zip(text).all(|(token, byte)| *token == Token::Byte(*byte)) {
        return false;
    }
    let (tokens, text) = (&tokens[literal..], &text[literal..]);
    let mut reached = vec![vec![false; tokens.len() + 1]; text.len() + 1];
    reached[0][0] = true;
    for at in 0..=text.len() {
        for state in 0..tokens.len() {
            if !reached[at][state] {
                continue;
            }
            match &tokens[state] {
                Token::Byte(byte) => {
                    if text.get(at) == Some(byte) {
                        reached[at + 1][state + 1] = true;
                    }
                }
                Token::One | Token::Class { .. } => {
                    if let Some((character, size)) = first_character(&text[at..])
                        && tokens[state].takes(character)
                    {
                        reached[at + size][state + 1] = true;
                    }
                }
                Token::Run { of_characters } => {
                    reached[at][state + 1] = true;
                    if let Some((character, size)) = first_character(&text[at..])
                        && character != u32::from(b'/')
                    {
                        reached[at + if *of_characters { size } else { 1 }][state] = true;
                    }
                }
                Token::Directories => {
                    reached[at][state + 1] = true;
                    for end in at..text.len() {
                        if text[end] == b'/' {
                            reached[end + 1][state + 1] = true;
                        }
                    }
                }
                Token::Anything => {
                    reached[at][state + 1] = true;
                    if at < text.len() {
                        reached[at + 1][state] = true;
                    }
                }
            }
        }
    }
    reached[text.len()][tokens.len()]
}

impl Token {
    fn takes(&self, character: u32) -> bool {
        match self {
            Self::One => character != u32::from(b'/'),
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_7_components() {
        for (pattern, name, expected) in [
            ("*", "a.txt", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.md", false),
            ("???.sh", "run.sh", true),
            ("[ot]wo.txt", "two.txt", true),
            ("[^ot]wo.txt", "two.txt", false),
            ("we[[]ird.txt", "we[ird.txt", true),
            ("we\\[ird*", "we[ird.txt", true),
            ("[a-c]*", "b", true),
            ("?", "ß", true),
            ("[ß]", "ß", true),
            ("[", "[", false),
            ("a[", "a", false),
            ("**", "a", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(component_matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        for (component, expected) in [("a\\*", false), ("a*", true), ("a[b", true), ("plain", false)] {
            assert_eq!(has_wildcards(component.as_bytes()), expected, "{component}");
        }
    }

    #[test]
    fn a9_12_lists() {
        for (patterns, path, expected) in [
            (&["*.md"][..], "README.md", true),
            (&["*.md"], "sub/README.md", false),
            (&["**/*.md"], "sub/deep/README.md", true),
            (&["**/*.md"], "README.md", true),
            (&["lib"], "lib/one.txt", true),
            (&["lib"], "app/lib", false),
            (&["lib/*", "!lib/two.txt"], "lib/one.txt", true),
            (&["lib/*", "!lib/two.txt"], "lib/two.txt", false),
            (&["lib/*"], "lib", false),
            (&["x/**"], "x", false),
            (&["x/**"], "x/y/z", true),
            (&["a/**/b"], "a/b", true),
            (&["a/**/b"], "a/x/y/b", true),
            (&["a/**/b"], "a/xb", false),
            (&["/lib/"], "lib", true),
            (&["../lib"], "lib", false),
            (&["lib**"], "libs/one", true),
            (&["**.md"], "sub/README.md", true),
            (&["***.md"], "sub/README.md", true),
            (&["lib/one.txt", "!lib"], "lib/one.txt", true),
            (&["lib", "lib/one.txt", "!lib"], "lib/one.txt", false),
            (&["lib", "!lib"], "lib/one.txt", false),
            (&["**"], "any/thing", true),
            (&["**[a]*[^a-ü]"], "aü", false),
            (&["*", "!sub", "sub/deep"], "sub/a", false),
            (&["*", "!sub", "sub/deep"], "sub/deep/a", true),
        ] {
            let list = PatternList::new(patterns.iter().copied()).expect("patterns");
            assert_eq!(list.matches(path.as_bytes()), expected, "{patterns:?} {path}");
        }
        assert!(PatternList::new(["!"]).is_err());
        assert!(PatternList::new(["a["]).is_err());
    }

    #[test]
    fn a9_11_only_directories_that_can_lead_to_a_match_are_entered() {
        for (pattern, dir, expected) in [
            ("app/lib/one.txt", "app", true),
            ("app/lib/one.txt", "app/lib", true),
            ("app/lib/one.txt", "other", false),
            ("app/*/two.txt", "app/x", true),
            ("app/*/two.txt", "app/x/y", false),
            ("app/**/two.txt", "app/x/y", true),
            ("**/two.txt", "any", true),
            ("app/lib", "app/lib/below", true),
            ("*[^x]two", "any", true),
            ("app[^x]two", "app", true),
            ("[a/]two", "a", true),
        ] {
            assert_eq!(PatternList::new([pattern]).expect(pattern).can_match_below(dir.as_bytes()), expected, "{pattern} {dir}");
        }
    }
}
