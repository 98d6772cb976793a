//! Patterns inside braces: `?` one character, `*` any run, backslash before `*`, `?`, `\`, `/` and `}` (`features.md` A5.4).
//!
//! As in the reference neither wildcard matches a line end. Matching simulates all ways at once, so no pattern is exponential, and work is counted.

/// Most steps of one substitution: a value of a hundred thousand characters against a pattern of two hundred is within, a pattern made to burn time is not.
const MAX_STEPS: usize = 20_000_000;

/// Why a pattern can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("the pattern {0:?} has a backslash before a character that needs none; it may stand before `*`, `?`, `\\`, `/` and `}}`")]
    BadEscape(String),
    #[error("the pattern {0:?} takes too long")]
    TooLong(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    One(char),
    Any,
    Run,
}

/// A pattern ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern<'a> {
    written: &'a str,
    elements: Vec<Element>,
}

/// How far a match reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

impl<'a> Pattern<'a> {
    pub(super) fn new(written: &'a str) -> Result<Self, PatternError> {
        let mut elements = Vec::new();
        let mut chars = written.chars();
        while let Some(c) = chars.next() {
            let element = match c {
                '*' => Element::Run,
                '?' => Element::Any,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '/' | '}')) => Element::One(next),
                    _ => return Err(PatternError::BadEscape(written.to_owned())),
                },
                c => Element::One(c),
            };
            // Two runs in a row are one.
            if element != Element::Run || elements.last() != Some(&Element::Run) {
                elements.push(element);
            }
        }
        Ok(Self { written, elements })
    }

    /// `value` without the part at its beginning that matches.
    pub(super) fn trim_prefix(&self, value: &str, reach: Reach) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let end = self.end_of_match(&self.elements, &chars, reach, &mut 0)?.unwrap_or(0);
        Ok(chars[end..].iter().collect())
    }

    /// `value` without the part at its end that matches.
    pub(super) fn trim_suffix(&self, value: &str, reach: Reach) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().rev().collect();
        let elements: Vec<Element> = self.elements.iter().rev().copied().collect();
        let end = self.end_of_match(&elements, &chars, reach, &mut 0)?.unwrap_or(0);
        Ok(chars[end..].iter().rev().collect())
    }

    /// `value` with the first match, or all of them, replaced; matches begin as far left as possible and are as long as possible.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, PatternError> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let mut steps = 0;
        let (mut at, mut copied) = (0, 0);
        while at <= chars.len() {
            let Some(length) = self.end_of_match(&self.elements, &chars[at..], Reach::Longest, &mut steps)? else {
                at += 1;
                continue;
            };
            // An empty match right behind another match is none.
            if length > 0 || at > copied || at == 0 {
                out.extend(&chars[copied..at]);
                out.push_str(replacement);
                copied = at + length;
                if !all {
                    break;
                }
            }
            at += length.max(1);
        }
        out.extend(&chars[copied.min(chars.len())..]);
        Ok(out)
    }

    /// The end of a match that begins at the first character.
    fn end_of_match(&self, elements: &[Element], chars: &[char], reach: Reach, steps: &mut usize) -> Result<Option<usize>, PatternError> {
        // `active[i]`: the elements before `i` have matched what was read.
        let mut active = vec![false; elements.len() + 1];
        active[0] = true;
        let mut found = None;
        for at in 0..=chars.len() {
            for i in 0..elements.len() {
                if active[i] && elements[i] == Element::Run {
                    active[i + 1] = true;
                }
            }
            if active[elements.len()] {
                found = Some(at);
                if reach == Reach::Shortest {
                    break;
                }
            }
            let Some(&c) = chars.get(at) else { break };
            let mut alive = false;
            for i in (0..=elements.len()).rev() {
                let stays = active[i] && c != '\n' && elements.get(i) == Some(&Element::Run);
                let comes = i > 0
                    && active[i - 1]
                    && match elements[i - 1] {
                        Element::One(wanted) => c == wanted,
                        Element::Any => c != '\n',
                        Element::Run => false,
                    };
                active[i] = stays || comes;
                alive |= active[i];
            }
            *steps += elements.len() + 1;
            if *steps > MAX_STEPS {
                return Err(PatternError::TooLong(self.written.to_owned()));
            }
            if !alive {
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(value: &str, pattern: &str, reach: Reach) -> String {
        Pattern::new(pattern).and_then(|pattern| pattern.trim_prefix(value, reach)).expect("the pattern is good")
    }

    fn suffix(value: &str, pattern: &str, reach: Reach) -> String {
        Pattern::new(pattern).and_then(|pattern| pattern.trim_suffix(value, reach)).expect("the pattern is good")
    }

    fn replace(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
        Pattern::new(pattern).and_then(|pattern| pattern.replace(value, replacement, all)).expect("the pattern is good")
    }

    #[test]
    fn a5_4_prefix_and_suffix() {
        use Reach::{Longest, Shortest};
        let path = "/usr/local/lib/libfoo.so.1.2";
        assert_eq!(prefix(path, "/usr/", Shortest), "local/lib/libfoo.so.1.2");
        assert_eq!(prefix(path, "*/", Shortest), "usr/local/lib/libfoo.so.1.2");
        assert_eq!(prefix(path, "*/", Longest), "libfoo.so.1.2");
        assert_eq!(prefix(path, "nomatch", Longest), path);
        assert_eq!(prefix("a.b.c", "?.", Shortest), "b.c");
        assert_eq!(prefix("a.b.c", "*", Shortest), "a.b.c");
        assert_eq!(prefix("a.b.c", "*", Longest), "");
        assert_eq!(prefix("*x", "\\*", Shortest), "x");
        assert_eq!(suffix(path, ".*", Shortest), "/usr/local/lib/libfoo.so.1");
        assert_eq!(suffix(path, ".*", Longest), "/usr/local/lib/libfoo");
        assert_eq!(suffix("a.b.c", ".?", Longest), "a.b");
        assert_eq!(suffix("a\\*", "\\\\\\*", Longest), "a");
        assert_eq!(prefix("a\nb", "*b", Longest), "a\nb");
    }

    #[test]
    fn a5_4_replacement() {
        assert_eq!(replace("a-b-c-d", "-", "_", false), "a_b-c-d");
        assert_eq!(replace("a-b-c-d", "-", "_", true), "a_b_c_d");
        assert_eq!(replace("a-b-c-d", "a*c", "X", false), "X-d");
        assert_eq!(replace("a-b", "?", ".", true), "...");
        assert_eq!(replace("abc", "", "x", true), "xaxbxcx");
        assert_eq!(replace("abc", "*", "x", true), "x");
        assert_eq!(replace("", "*", "x", true), "x");
        assert_eq!(replace("a/b", "\\/", "-", true), "a-b");
        assert_eq!(replace("äöü", "ö", "o", true), "äoü");
    }

    #[test]
    fn a5_4_other_escapes_are_errors() {
        assert!(Pattern::new("\\a").is_err());
        assert!(Pattern::new("a\\").is_err());
    }
}
