//! `--diagnostics`: problems for programs.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::{Bed, require};
use serde_json::{Value, json};

fn rbuild(bed: &Bed, dir: &Path, line: &str) -> Output {
    let mut command = Command::new(require::rbuild());
    command.args(line.split(' ')).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    command.env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    command.output().expect("rbuild runs")
}

fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn json_has_every_problem_with_its_place() {
    let bed = Bed::with_registry();
    let files = [
        ("Dockerfile", "FROM busybox\nCOPPY a b\nEXPOSE\n"),
        ("fails", "FROM busybox\nRUN echo one && echo two && \\\n  exit 3\n"),
        ("missing", "FROM busybox\nCOPY ä apps.txt /\n"),
        ("old", "FROM busybox AS x\nMAINTAINER me\nFROM busybox\nRUN apt-get update || true\n"),
        ("app.txt", ""),
        ("ä", ""),
    ];
    let dir = bed.context("context", &files);
    let output = rbuild(&bed, &dir, "--diagnostics json --progress none -t a .");
    let found = object(&output);
    assert_eq!((output.status.code(), &found["version"], &found["status"], &found["step"]), (Some(1), &json!(1), &json!("failed"), &json!(null)));
    let places: Vec<Value> =
        found["diagnostics"].as_array().expect("a list").iter().map(|d| json!([d["code"], d["line"], d["column"], d["endColumn"]])).collect();
    assert_eq!(json!(places), json!([["unknown-instruction", 2, 1, 6], ["missing-argument", 3, 1, 7]]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `COPY`?"), "people are told as well");

    let found = object(&rbuild(&bed, &dir, "--diagnostics json --progress none -f fails -t a ."));
    assert_eq!(found["step"]["exitCode"], 3);
    assert_eq!(found["step"]["tail"], json!(["one", "two"]));
    assert!(Path::new(found["step"]["log"].as_str().expect("a path")).exists(), "{found}");
    assert_eq!(
        (&found["diagnostics"][0]["code"], &found["diagnostics"][0]["line"], &found["diagnostics"][0]["endLine"]),
        (&json!("exit-code"), &json!(2), &json!(3))
    );

    let found = object(&rbuild(&bed, &dir, "--diagnostics json --progress none -f missing -t a ."));
    let first = &found["diagnostics"][0];
    assert_eq!(
        json!([first["code"], first["file"], first["line"], first["column"], first["endColumn"]]),
        json!(["missing-source", "missing", 2, 8, 16])
    );
    assert_eq!(first["help"], "did you mean \"app.txt\"?");

    let output = rbuild(&bed, &dir, "--diagnostics json,dest=../found.json -f old --check .");
    assert!(String::from_utf8_lossy(&output.stdout).contains("WARNING: MaintainerDeprecated"), "the text is where it was");
    let found: Value = serde_json::from_slice(&std::fs::read(bed.path("found.json")).expect("written")).expect("JSON");
    let found: Vec<Value> = found["diagnostics"].as_array().expect("a list").iter().map(|d| json!([d["severity"], d["code"]])).collect();
    assert_eq!(json!(found), json!([["warning", "MaintainerDeprecated"], ["note", "UnusedStage"], ["note", "PackageCacheInLayer"]]));
}

#[test]
fn sarif_names_rules_and_regions() {
    let bed = Bed::new();
    let dir = bed.context("context", &[("Dockerfile", "FROM scratch AS Upper\nENV a b\n")]);
    let output = rbuild(&bed, &dir, "--check --diagnostics sarif .");
    assert_eq!(output.status.code(), Some(1));
    let found = object(&output);
    assert_eq!((&found["version"], &found["runs"][0]["tool"]["driver"]["name"]), (&json!("2.1.0"), &json!("rbuild")));
    let results = found["runs"][0]["results"].as_array().expect("results");
    let rules = &found["runs"][0]["tool"]["driver"]["rules"];
    assert_eq!(results.len(), 2, "{found:#}");
    for (result, (rule, line)) in results.iter().zip([("StageNameCasing", 1), ("LegacyKeyValueFormat", 2)]) {
        assert_eq!((&result["ruleId"], &result["level"]), (&json!(rule), &json!("warning")));
        assert_eq!(rules[result["ruleIndex"].as_u64().expect("an index") as usize]["id"], rule);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&json!("Dockerfile"), &json!(line)));
    }
}

#[test]
fn usage_errors_are_told_to_programs_too() {
    let bed = Bed::new();
    let dir = bed.context("context", &[(".dockerignore", "["), ("Dockerfile", "FROM scratch\n")]);
    let found = object(&rbuild(&bed, &dir, "--diagnostics json ."));
    assert_eq!(found["diagnostics"][0]["code"], "usage");
    assert!(found["diagnostics"][0]["message"].as_str().expect("text").contains(".dockerignore"), "{found}");
    for line in ["--diagnostics xml .", "--diagnostics json -q .", "--diagnostics json -o - ."] {
        assert_eq!(rbuild(&bed, &bed.context("good", &[("Dockerfile", "FROM scratch\n")]), line).status.code(), Some(1), "{line}");
    }
}
