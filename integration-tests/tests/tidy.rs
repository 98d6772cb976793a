//! Rules of the house that a compiler does not hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use integration_tests::require::workspace;

/// The crate order: each may use only those named beside it.
const ORDER: [(&str, &[&str]); 4] = [
    ("builder-snapshot", &[]),
    ("builder-core", &["builder-snapshot"]),
    ("builder-frontend", &["builder-core"]),
    ("builder-cli", &["builder-frontend", "builder-core", "builder-snapshot"]),
];

const ALL: [&str; 6] = ["builder-snapshot", "builder-core", "builder-frontend", "builder-cli", "integration-tests", "examples"];

#[test]
fn crates_depend_on_each_other_in_one_order() {
    for (name, allowed) in ORDER {
        let manifest = read(&workspace().join(name).join("Cargo.toml"));
        for (other, _) in ORDER {
            let depends = manifest.lines().any(|line| line.strip_prefix(other).is_some_and(|rest| rest.starts_with(['.', ' ', '='])));
            assert!(!depends || allowed.contains(&other), "{name} depends on {other}: the order is snapshot, core, frontend, cli");
        }
    }
}

#[test]
fn unsafe_stands_only_in_sys() {
    for file in sources(&ALL) {
        let in_sys = file.starts_with(workspace().join("builder-snapshot/src/sys"));
        for (number, line) in code_lines(&read(&file)) {
            let word = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == concat!("un", "safe"));
            assert!(in_sys || !word, "{}:{number}: {line}", file.display());
        }
    }
}

#[test]
fn nothing_below_the_cli_reads_environment_or_home() {
    let forbidden = ["env::var", "env::vars", "home_dir", "env::args", "env::current_dir", "env::temp_dir"];
    for file in sources(&["builder-snapshot/src", "builder-core/src", "builder-frontend/src"]) {
        for (number, line) in code_lines(without_tests(&read(&file))) {
            for word in forbidden {
                assert!(!line.contains(word), "{}:{number}: {word} below the CLI: pass it as a value", file.display());
            }
        }
    }
}

#[test]
fn libraries_do_not_know_what_lies_above_them() {
    let rules: [(&str, &[&str]); 3] = [
        ("builder-snapshot/src", &["tokio", "oci_spec", "reqwest", "clap", "builder_core", "builder_frontend"]),
        ("builder-core/src", &["clap", "builder_frontend", "builder_cli"]),
        ("builder-frontend/src", &["tokio", "std::fs", "std::net", "SystemTime", "reqwest", "clap"]),
    ];
    for (dir, words) in rules {
        for file in sources(&[dir]) {
            for (number, line) in code_lines(without_tests(&read(&file))) {
                for word in words {
                    assert!(!line.contains(word), "{}:{number}: {word} has no place in {dir}", file.display());
                }
            }
        }
    }
}

/// The rules of A0 to A16 in the project's inventory of the language.
const RULES: usize = 128;

#[test]
fn every_file_says_what_it_is_for() {
    for file in sources(&ALL) {
        let text = read(&file);
        assert!(text.starts_with("//!"), "{}: a file begins with its module documentation", file.display());
        assert!(!text.starts_with("//! (being raised)"), "{}: an empty room", file.display());
        let lines = text.lines().count();
        assert!(lines <= 1200, "{}: {lines} lines; look for the second idea in it", file.display());
    }
}

#[test]
fn there_are_no_drawers_for_odds_and_ends() {
    for file in sources(&ALL) {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!["util", "utils", "common", "helpers", "misc", "manager"].contains(&&*stem), "{}: name the idea", file.display());
    }
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    for member in ["builder-snapshot", "builder-core", "builder-frontend", "builder-cli", "integration-tests", "examples/embed"] {
        let manifest = read(&workspace().join(member).join("Cargo.toml"));
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') {
                assert!(line.contains("workspace = true"), "{member}/Cargo.toml: {line}: versions belong in the root manifest");
            }
        }
    }
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    let forbidden: BTreeSet<String> = ["todo", "unimplemented"].iter().map(|word| format!("{word}!(")).collect();
    for file in sources(&["builder-snapshot/src", "builder-core/src", "builder-frontend/src", "builder-cli/src"]) {
        for (number, line) in code_lines(&read(&file)) {
            assert!(!forbidden.iter().any(|word| line.contains(word)), "{}:{number}: {line}", file.display());
        }
    }
}

#[test]
fn every_example_is_described() {
    let dirs = std::fs::read_dir(workspace().join("examples/dockerfiles")).expect("examples/dockerfiles");
    for dir in dirs.flatten().filter(|entry| entry.path().is_dir()) {
        for name in ["Dockerfile", "README.md"] {
            assert!(dir.path().join(name).is_file(), "{} has no {name}", dir.path().display());
        }
    }
}

fn sources(dirs: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in dirs {
        collect(&workspace().join(dir), &mut found);
    }
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("readable").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != "dockerfiles" && name != "quickstart") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

/// Lines without comments and attributes, numbered from 1. Good enough for searching words: strings are not taken apart.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()));
    lines.filter(|(_, line)| !line.trim_start().starts_with("#![") && !line.trim_start().starts_with("#[")).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `docs/language.md` names for every rule of the language tests that are there and bear its number (`a9_7_…` for A9.7).
#[test]
fn every_rule_of_the_language_has_tests_named_for_it() {
    let mut tests = BTreeSet::new();
    for file in sources(&ALL) {
        let text = read(&file);
        let names = text.lines().filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn ")?.split('(').next());
        tests.extend(names.map(str::to_owned));
    }
    let table = read(&workspace().join("docs/language.md"));
    let mut rules = 0;
    for row in table.lines().filter(|line| line.starts_with("| A")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [rule, _, named] = cells[..] else { panic!("{row}") };
        let prefix = format!("{}_", rule.to_lowercase().replace('.', "_"));
        for name in named.split(", ").map(|name| name.trim_matches('`')) {
            assert!(name.starts_with(&prefix) && tests.contains(name), "{rule}: there is no test {name:?} of this rule");
        }
        rules += 1;
    }
    assert_eq!(rules, RULES, "a rule is missing in the table, or is new");
}

/// What went wrong elsewhere has tests here, by the names that `threats.txt` gives.
#[test]
fn every_known_threat_has_tests() {
    let mut tests = BTreeSet::new();
    for file in sources(&ALL) {
        let text = read(&file);
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(name) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
                && std::mem::take(&mut is_test)
            {
                tests.insert(name.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    let rows: Vec<(&str, &str)> = include_str!("../threats.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(": ").expect("ID: TEST ..."))
        .collect();
    assert!(rows.len() > 50, "{} threats", rows.len());
    for (id, named) in &rows {
        for test in named.split(' ') {
            assert!(tests.contains(test), "{id}: there is no test {test}");
        }
    }
    // What a test is named for is in the table.
    let listed = |id: &str| rows.iter().any(|(row, _)| row.to_lowercase().replace('-', "_").ends_with(id));
    for test in tests.iter().filter(|test| test.starts_with("cve_")) {
        let id = test.splitn(4, '_').take(3).collect::<Vec<_>>().join("_");
        assert!(listed(&id), "{test} is not in threats.txt");
    }
}
