//! There are two matchers, because ignore files must work without the engine and file operations without this crate. Here they are held equal to
//! each other, and the walk of a build to a matcher that is slow and obviously right.
#![cfg(feature = "compile")]

use std::collections::BTreeSet;

use builder_core::source::pattern::{PatternList, component_matches, has_wildcards};
use builder_frontend::glob;
use builder_frontend::ignore::IgnoreFile;
use proptest::prelude::*;

/// One component.
const NAMES: &str = "[ab.ü]{1,3}";
/// Patterns with everything that means something in one.
const PATTERN: &str = "!?/?(\\*\\*|\\*|\\?|[ab.ü]|/|\\\\[ab*?]|\\[\\^?[ab](-[bü])?\\]){1,7}";

fn paths() -> impl Strategy<Value = Vec<String>> {
    let name = NAMES.prop_filter("no path has these", |name| name != "." && name != "..");
    prop::collection::vec(prop::collection::vec(name, 1..5).prop_map(|names| names.join("/")), 1..12)
}

proptest! {
    #[test]
    fn a9_7_both_matchers_of_components_agree(pattern in "(\\*|\\?|[ab.ü]|\\\\[ab*?]|\\[\\^?[ab](-[bü])?\\]|\\[){0,7}", name in NAMES) {
        // Go's star ends between bytes, so that a negated class behind it takes the rest of a character; file operations follow, checks do not.
        prop_assume!(name.is_ascii() || !(pattern.contains('*') && pattern.contains("[^")));
        let here = glob::path_match(&pattern, name.as_bytes()).unwrap_or(false);
        prop_assert_eq!(component_matches(pattern.as_bytes(), name.as_bytes()), here, "{} {}", pattern, name);
        if has_wildcards(pattern.as_bytes()) {
            prop_assert!(glob::has_wildcards(&pattern));
        }
    }

    #[test]
    fn a9_12_both_lists_agree(patterns in prop::collection::vec(PATTERN, 0..6), paths in paths()) {
        // A slash at the beginning means the top to `--exclude`, as it does in files; the reference's list alone takes it for a part of the name.
        let text = patterns.iter().map(|pattern| pattern.replace('#', "")).collect::<Vec<_>>().join("\n");
        let lists = (PatternList::new(patterns.iter().map(String::as_str)), IgnoreFile::parse(text.as_bytes()));
        let (there, here) = match lists {
            (Ok(there), Ok(here)) => (there, here),
            (there, here) => {
                prop_assert_eq!(there.is_err(), here.is_err(), "{:?}: {:?}", patterns, here.err());
                return Ok(());
            }
        };
        prop_assert_eq!(there.has_negations(), here.has_negations());
        for path in &paths {
            prop_assert_eq!(there.matches(path.as_bytes()), here.excludes(path.as_bytes()), "{} in {:?}", path, patterns);
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            prop_assert!(!there.matches(path.as_bytes()) || dir.is_empty() || there.can_match_below(dir.as_bytes()), "{} in {:?}", path, patterns);
        }
    }

    /// A walk as a build makes it, over whole trees, directories left out where nothing can be let in again.
    #[test]
    fn a11_3_walks_find_what_the_slow_matcher_lets_in(
        patterns in prop::collection::vec((any::<bool>(), "(\\*\\*/)?[ab](\\*|\\?|a|/|/\\*\\*/|b){0,5}[ab]"), 0..6),
        files in prop::collection::vec(prop::collection::vec("[ab]{1,2}", 1..5).prop_map(|names| names.join("/")), 1..14),
    ) {
        let text: Vec<String> = patterns.iter().map(|(negated, pattern)| format!("{}{pattern}", if *negated { "!" } else { "" })).collect();
        let ignore = IgnoreFile::from_patterns(text.iter().map(String::as_str)).expect("the patterns are good");
        // What is a directory for one path is no file for another.
        let dirs: BTreeSet<String> = files.iter().flat_map(|file| parents(file)).collect();
        let files: BTreeSet<&String> = files.iter().filter(|file| !dirs.contains(*file)).collect();
        let mut walker = ignore.walker();
        for file in &files {
            let walked = parents(file).iter().all(|dir| !walker.prunes(dir.as_bytes())) && !walker.excludes(file.as_bytes());
            let wanted = slow::lets_in(&patterns, file);
            prop_assert_eq!(walked, wanted, "{} in {:?}", file, text);
            prop_assert_eq!(ignore.matching_rules(file.as_bytes()).last().is_some_and(|rule| !rule.negated), !wanted, "{} in {:?}", file, text);
        }
    }

    /// The question that `rbuild debug match` answers.
    #[test]
    fn a11_3_single_paths_are_matched_as_the_reference_function_does(
        patterns in prop::collection::vec((any::<bool>(), "(\\*\\*/)?[ab](\\*|\\?|a|/|/\\*\\*/|b){0,5}[ab]"), 0..6),
        file in prop::collection::vec("[ab]{1,2}", 1..5).prop_map(|names| names.join("/")),
    ) {
        let text: Vec<String> = patterns.iter().map(|(negated, pattern)| format!("{}{pattern}", if *negated { "!" } else { "" })).collect();
        let ignore = IgnoreFile::from_patterns(text.iter().map(String::as_str)).expect("the patterns are good");
        let wanted = slow::matches_or_parent_matches(&patterns, &file);
        prop_assert_eq!(ignore.matches_or_parent_matches(file.as_bytes()), wanted, "{} in {:?}", file, text);
    }
}

/// The directories above, outermost first.
fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

/// The rules, as plainly as they can be said.
mod slow {
    /// Whether a walk reaches the file: level by level, each pattern holds where it held above or matches while it can change something.
    pub(crate) fn lets_in(patterns: &[(bool, String)], path: &str) -> bool {
        let mut above = vec![false; patterns.len()];
        let mut excluded = false;
        for level in super::parents(path).iter().map(String::as_str).chain([path]) {
            excluded = false;
            for (at, (negated, pattern)) in patterns.iter().enumerate() {
                above[at] = above[at] || (*negated == excluded && matches(&clean(pattern), level));
                if above[at] {
                    excluded = !negated;
                }
            }
        }
        !excluded
    }

    /// Patterns in order, each against the path and everything above it.
    pub(crate) fn matches_or_parent_matches(patterns: &[(bool, String)], path: &str) -> bool {
        patterns.iter().fold(false, |excluded, (negated, pattern)| {
            let pattern = clean(pattern);
            let found = super::parents(path).iter().map(String::as_str).chain([path]).any(|level| matches(&pattern, level));
            if found && *negated == excluded { !excluded } else { excluded }
        })
    }

    fn clean(pattern: &str) -> String {
        pattern.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// `**/` is nothing or any directories; what remains is tried character by character.
    fn matches(pattern: &str, name: &str) -> bool {
        if let Some(rest) = pattern.strip_prefix("**/") {
            return matches(rest, name) || name.match_indices('/').any(|(at, _)| matches(rest, &name[at + 1..]));
        }
        let Some(first) = pattern.chars().next() else { return name.is_empty() };
        let rest = &pattern[first.len_utf8()..];
        match first {
            '*' if pattern.starts_with("**") => {
                let rest = &pattern[2..];
                matches(rest, name) || name.match_indices('/').any(|(at, _)| matches(rest, &name[at + 1..]))
            }
            '*' => (0..=name.len()).take_while(|&end| !name[..end].contains('/')).any(|end| matches(rest, &name[end..])),
            '?' => name.chars().next().is_some_and(|c| c != '/' && matches(rest, &name[c.len_utf8()..])),
            c => name.starts_with(c) && matches(rest, &name[c.len_utf8()..]),
        }
    }
}
