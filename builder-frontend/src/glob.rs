//! Wildcards, pure text: Go's `filepath.Match` for `COPY` sources, and its extension with `**` that ignore files, `--exclude` and `--parents` use.
//!
//! Both are compiled to the same elements and matched by following all possibilities at once: linear in the name for any pattern. Names are bytes;
//! `?` and classes take a whole UTF-8 character, or one byte where there is none.

/// Longest pattern: a physical line of the reference.
pub const MAX_PATTERN_BYTES: usize = 65_535;

/// A pattern that is no pattern: a class without end or members, a backslash at the end, or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether the whole of `name` matches `pattern`, as Go's `filepath.Match` says: `*` and `?` match no slash; `**` is nothing special.
///
/// ```
/// use builder_frontend::glob::path_match;
///
/// assert_eq!(path_match("package*.json", b"package-lock.json"), Ok(true));
/// assert_eq!(path_match("*", b"a/b"), Ok(false));
/// assert!(path_match("[a", b"a").is_err());
/// ```
pub fn path_match(pattern: &str, name: &[u8]) -> Result<bool, BadPattern> {
    Pattern::component(pattern).map(|pattern| pattern.matches(name))
}

/// Whether a text has characters that mean something in a pattern: `*`, `?`, `[` and the backslash.
#[must_use]
pub fn has_wildcards(pattern: &str) -> bool {
    pattern.contains(['*', '?', '[', '\\'])
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    shape: Shape,
}

/// Shapes that are common and need no automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// The name is this.
    Exact(Vec<u8>),
    /// The name begins with this and goes on in any way: `dir/**`.
    Prefix(Vec<u8>),
    /// The name is this or ends with a slash and this: `**/name`.
    Below(Vec<u8>),
    /// The name ends with this: `**name`.
    Suffix(Vec<u8>),
    /// Anything else.
    Elements {
        elements: Vec<Element>,
        /// What every matching name ends with: rejects most names without a walk.
        ending: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Element {
    Unit(u32),
    /// One character but no slash.
    Any,
    /// Any run without a slash.
    Star,
    /// Entry of `**/`: nothing, or what [`Element::Directories`] reads.
    Skip,
    /// Any run that ends with a slash.
    Directories,
    /// Any run at all.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(u32, u32)>,
    },
}

impl Pattern {
    /// Go's `filepath.Match`.
    pub fn component(pattern: &str) -> Result<Self, BadPattern> {
        Self::compile(pattern, false)
    }

    /// With `**` as ignore files have it: at the end anything, else any number of directories, none included.
    pub fn path(pattern: &str) -> Result<Self, BadPattern> {
        Self::compile(pattern, true)
    }

    /// Whether the whole of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(wanted) => name == wanted,
            Shape::Prefix(prefix) => name.starts_with(prefix),
            Shape::Below(wanted) => name.strip_suffix(wanted.as_slice()).is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/")),
            Shape::Suffix(suffix) => name.ends_with(suffix),
            Shape::Elements { elements, ending } => name.ends_with(ending) && walk(elements, name).ends,
        }
    }

    /// Whether some name below the directory can match.
    #[must_use]
    pub fn reaches_below(&self, dir: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(wanted) => wanted.len() > dir.len() + 1 && wanted.starts_with(dir) && wanted[dir.len()] == b'/',
            Shape::Prefix(prefix) => {
                let shared = prefix.len().min(dir.len());
                prefix[..shared] == dir[..shared] && (prefix.len() <= dir.len() || prefix[dir.len()] == b'/')
            }
            Shape::Below(_) | Shape::Suffix(_) => true,
            Shape::Elements { elements, .. } => {
                let mut name = dir.to_vec();
                name.push(b'/');
                walk(elements, &name).goes_on
            }
        }
    }

    fn compile(pattern: &str, double_star: bool) -> Result<Self, BadPattern> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(BadPattern);
        }
        let elements = elements(pattern, double_star)?;
        let literal = |elements: &[Element]| -> Option<Vec<u8>> {
            let mut bytes = Vec::with_capacity(elements.len());
            for element in elements {
                let Element::Unit(unit) = element else { return None };
                bytes.extend_from_slice(char::from_u32(*unit)?.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(bytes)
        };
        let shape = match elements.as_slice() {
            [Element::Skip, Element::Directories, rest @ ..] => literal(rest).map(|bytes| {
                // `**name` without a slash is any name with that ending, but only while nothing else in it is special.
                if pattern.starts_with("**/") { Shape::Below(bytes) } else { Shape::Suffix(bytes) }
            }),
            [start @ .., Element::Rest] => literal(start).map(Shape::Prefix),
            all => literal(all).map(Shape::Exact),
        };
        let shape = shape.unwrap_or_else(|| {
            let tail = elements.iter().rev().take_while(|element| matches!(element, Element::Unit(_))).count();
            let ending = literal(&elements[elements.len() - tail..]).unwrap_or_default();
            Shape::Elements { elements, ending }
        });
        Ok(Self { shape })
    }
}

fn elements(pattern: &str, double_star: bool) -> Result<Vec<Element>, BadPattern> {
    let mut elements = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if double_star && chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() {
                    elements.push(Element::Rest);
                } else {
                    elements.extend([Element::Skip, Element::Directories]);
                }
            }
            '*' => elements.push(Element::Star),
            '?' => elements.push(Element::Any),
            '[' => elements.push(class(&mut chars)?),
            '\\' => elements.push(Element::Unit(chars.next().ok_or(BadPattern)?.into())),
            c => elements.push(Element::Unit(c.into())),
        }
    }
    Ok(elements)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Element, BadPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Element::Class { negated, ranges });
        }
        let low = member(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { member(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<u32, BadPattern> {
    match chars.next().ok_or(BadPattern)? {
        '-' | ']' => Err(BadPattern),
        '\\' => Ok(chars.next().ok_or(BadPattern)?.into()),
        c => Ok(c.into()),
    }
}

/// Characters of a name; a byte that is no part of one counts as one beyond Unicode.
fn units(name: &[u8]) -> impl Iterator<Item = u32> {
    const BEYOND_UNICODE: u32 = 0x11_0000;
    name.utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars().map(u32::from).chain(chunk.invalid().iter().map(|&byte| BEYOND_UNICODE + u32::from(byte))))
}

/// How a walk over a name ended.
struct Walk {
    /// The name matches.
    ends: bool,
    /// The name, or more behind it, can match.
    goes_on: bool,
}

/// Patterns with more elements need a buffer on the heap.
const STACK_STATES: usize = 128;

fn walk(elements: &[Element], name: &[u8]) -> Walk {
    let mut stack = [false; STACK_STATES];
    let mut heap = Vec::new();
    let active: &mut [bool] = if elements.len() < STACK_STATES {
        &mut stack[..=elements.len()]
    } else {
        heap.resize(elements.len() + 1, false);
        &mut heap
    };
    active[0] = true;
    skip_empty(elements, active);
    for unit in units(name) {
        if !step(elements, active, unit) {
            return Walk { ends: false, goes_on: false };
        }
        skip_empty(elements, active);
    }
    // Only the state behind the last element has nothing left to read, except that a run before it may go on.
    Walk { ends: active[elements.len()], goes_on: active[..elements.len()].contains(&true) }
}

/// `active[i]`: the elements before `i` have read everything so far. Elements that may be empty hand on at once.
fn skip_empty(elements: &[Element], active: &mut [bool]) {
    for (i, element) in elements.iter().enumerate() {
        if active[i] {
            match element {
                Element::Star | Element::Rest => active[i + 1] = true,
                Element::Skip => {
                    active[i + 1] = true;
                    active[i + 2] = true;
                }
                _ => {}
            }
        }
    }
}

/// Reads one unit; from the back, so that each state is asked before it is overwritten.
fn step(elements: &[Element], active: &mut [bool], unit: u32) -> bool {
    let slash = unit == u32::from('/');
    let mut alive = false;
    for i in (0..=elements.len()).rev() {
        let stays = active[i]
            && match elements.get(i) {
                Some(Element::Star) => !slash,
                Some(Element::Directories | Element::Rest) => true,
                _ => false,
            };
        let comes = i > 0
            && active[i - 1]
            && match &elements[i - 1] {
                Element::Unit(wanted) => *wanted == unit,
                Element::Any => !slash,
                Element::Directories => slash,
                Element::Class { negated, ranges } => ranges.iter().any(|&(low, high)| (low..=high).contains(&unit)) != *negated,
                Element::Star | Element::Rest | Element::Skip => false,
            };
        active[i] = stays || comes;
        alive |= active[i];
    }
    alive
}

/// The obviously right matcher that others are held against: tries everything, one character at a time.
#[cfg(test)]
pub(crate) fn slow(pattern: &[char], name: &[char], double_star: bool) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', '*', '/'] | ['*', '*'] if double_star => true,
        ['*', '*', rest @ ..] if double_star => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            slow(rest, name, true) || (0..name.len()).any(|i| name[i] == '/' && slow(rest, &name[i + 1..], true))
        }
        ['*', rest @ ..] => (0..=name.len()).take_while(|&i| i == 0 || name[i - 1] != '/').any(|i| slow(rest, &name[i..], double_star)),
        ['?', rest @ ..] => name.split_first().is_some_and(|(&c, name)| c != '/' && slow(rest, name, double_star)),
        [wanted, rest @ ..] => name.split_first().is_some_and(|(c, name)| c == wanted && slow(rest, name, double_star)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a9_7_components() {
        let table = [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-x]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("*x", "xxx", Some(true)),
            ("**", "ab", Some(true)),
            ("**", "a/b", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
        ];
        for (pattern, name, wanted) in table {
            assert_eq!(path_match(pattern, name.as_bytes()).ok(), wanted, "{pattern} on {name}");
        }
    }

    #[test]
    fn a11_3_double_stars() {
        let table = [
            ("**", "", true),
            ("**", "a/b", true),
            ("**/", "a", true),
            ("dir/**", "dir/a/b", true),
            ("dir/**", "dir", false),
            ("dir/**", "dirx/a", false),
            ("dir**", "dirx/a", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "ax", false),
            ("**x", "ax", true),
            ("**x", "a/bx", true),
            ("**/*.md", "a.md", true),
            ("**/*.md", "a/b/c.md", true),
            ("**/*.md", "a/b/c.md/d", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("a**b", "ab", true),
            ("a**b", "axb", false),
            ("a**b", "ax/b", true),
            ("**/a/**", "x/a/y/z", true),
            ("**/a/**", "x/a", false),
            ("**/?", "a/b", true),
            ("*/**", "a", false),
            ("*/**", "a/b/c", true),
        ];
        for (pattern, name, wanted) in table {
            let pattern = Pattern::path(pattern).map_err(|error| format!("{pattern}: {error}"));
            assert_eq!(pattern.as_ref().map(|pattern| pattern.matches(name.as_bytes())), Ok(wanted), "{pattern:?} on {name}");
        }
    }

    #[test]
    fn names_need_not_be_text() {
        assert_eq!(path_match("a?b", b"a\xffb"), Ok(true));
        assert_eq!(path_match("a[^x]b", b"a\xffb"), Ok(true));
        assert_eq!(path_match("a??b", b"a\xffb"), Ok(false));
    }

    #[test]
    fn no_pattern_is_slow() {
        let pattern = format!("{}b", "a*".repeat(100));
        assert_eq!(path_match(&pattern, "a".repeat(2_000).as_bytes()), Ok(false));
    }

    proptest! {
        #[test]
        fn components_agree_with_the_slow_matcher(pattern in "[ab/*?]{0,8}", name in "[ab/]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(path_match(&pattern, name.as_bytes()), Ok(slow(&chars(&pattern), &chars(&name), false)));
        }

        #[test]
        fn paths_agree_with_the_slow_matcher(pattern in "[ab][ab/*?]{0,8}", name in "[ab/]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let fast = Pattern::path(&pattern).map(|pattern| pattern.matches(name.as_bytes()));
            prop_assert_eq!(fast, Ok(slow(&chars(&pattern), &chars(&name), true)));
        }

        #[test]
        fn what_matches_below_is_reached(pattern in "[ab/*?]{0,8}", dir in "[ab]{1,2}(/[ab]{1,2}){0,2}", name in "[ab]{1,2}") {
            let pattern = Pattern::path(&pattern).expect("there are no classes");
            if pattern.matches(format!("{dir}/{name}").as_bytes()) {
                prop_assert!(pattern.reaches_below(dir.as_bytes()));
            }
        }

        #[test]
        fn any_pattern_and_name(pattern in any::<String>(), name in any::<Vec<u8>>()) {
            let _ = path_match(&pattern, &name);
            let _ = Pattern::path(&pattern).map(|pattern| (pattern.matches(&name), pattern.reaches_below(&name)));
        }
    }
}
