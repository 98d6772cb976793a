//! The conformance suite against the recorded outcomes of BuildKit, held to a list of known exceptions both ways.
//!
//! `golden-exceptions.txt` names every case that does not pass yet, with its reason. A failing case that is not listed fails this test, and so does a
//! listed case that passes: the list only ever tells the truth.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use integration_tests::require;

/// Least share of all cases that must pass, in percent.
const LEAST_PERCENT: usize = 99;

#[test]
fn golden_cases_pass_but_for_the_listed_exceptions() {
    require::root();
    for (name, package) in [("docker-registry", "docker-registry"), ("git", "git"), ("zstd", "zstd")] {
        let _ = require::tool(name, package);
    }
    let suite = std::env::var_os("RBUILD_GOLDEN").map_or_else(|| require::workspace().join("../shared/golden"), PathBuf::from);
    let run = suite.join("run");
    assert!(run.is_file(), "no conformance suite at {}: set RBUILD_GOLDEN to its directory", suite.display());
    let report = tempfile::NamedTempFile::new().expect("temporary file");
    let output =
        Command::new(run).arg("--rbuild").arg(require::rbuild()).args(["--jobs", "4", "--junit"]).arg(report.path()).output().expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_ne!(output.status.code(), Some(2), "the suite could not run: {said}{}", String::from_utf8_lossy(&output.stderr));
    let results = results(&std::fs::read_to_string(report.path()).expect("the report"));
    let listed = exceptions();
    let mut wrong = Vec::new();
    for (case, passed) in &results {
        match (passed, listed.contains_key(case)) {
            (false, false) => wrong.push(format!("{case} fails and is not listed")),
            (true, true) => wrong.push(format!("{case} passes and is listed: take it off the list")),
            _ => {}
        }
    }
    wrong.extend(listed.keys().filter(|case| !results.contains_key(*case)).map(|case| format!("{case} is listed but there is no such case")));
    let passed = results.values().filter(|passed| **passed).count();
    assert!(wrong.is_empty(), "{}\n{said}", wrong.join("\n"));
    assert!(passed * 100 >= LEAST_PERCENT * results.len(), "only {passed} of {} cases pass", results.len());
}

/// Case → whether it passed; a skipped case has not.
fn results(junit: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for case in junit.split("<testcase ").skip(1) {
        let name = case.split(" name=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a case has a name");
        let body = case.split("</testcase>").next().unwrap_or_default();
        found.insert(name.to_owned(), !body.contains("<failure") && !body.contains("<skipped"));
    }
    assert!(!found.is_empty(), "the suite ran no case");
    found
}

/// `case: reason`, one a line; `#` begins a comment.
fn exceptions() -> BTreeMap<String, String> {
    let text = include_str!("../golden-exceptions.txt");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (case, reason) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}: `case: reason`"));
            assert!(!reason.trim().is_empty(), "{case}: an exception has a reason");
            (case.to_owned(), reason.trim().to_owned())
        })
        .collect()
}
