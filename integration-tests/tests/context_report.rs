//! `rbuild context`: what a build would read, what is ignored, and why.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::{Bed, require};
use serde_json::{Value, json};

fn rbuild(bed: &Bed, dir: &Path, line: &str) -> Output {
    let mut command = Command::new(require::rbuild());
    command.arg("context").args(line.split(' ')).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    command.env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    command.output().expect("rbuild runs")
}

/// Standard output of a call that ends well.
fn told(bed: &Bed, dir: &Path, line: &str) -> String {
    let output = rbuild(bed, dir, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn project() -> (Bed, std::path::PathBuf) {
    let bed = Bed::new();
    let files = [
        (
            "Dockerfile",
            "ARG DIR=src\nFROM scratch AS build\nARG DIR\nCOPY $DIR /src\nFROM scratch AS docs\nCOPY docs/*.md /\nFROM scratch\nCOPY --from=build /src /\n\
             COPY package.json \\\n  package-lock.json /\n",
        ),
        (".dockerignore", "# what is large\nnode_modules\n*.log\nsrc/**/*.log\n!src/keep.log\n"),
        ("package.json", "{}"),
        ("package-lock.json", "{...}"),
        ("src/main.c", "int main;\n"),
        ("src/big.bin", "0123456789012345678901234567890123456789"),
        ("src/a/x.log", "xx"),
        ("src/keep.log", "kk"),
        ("docs/a.md", "aaaa"),
        ("node_modules/m/index.js", "12345"),
        ("node_modules/m/deep/er.js", "12345"),
        ("npm.log", "1"),
        ("notes.txt", "notes"),
    ];
    let dir = bed.context("project", &files);
    (bed, dir)
}

#[test]
fn a_context_is_told_with_amounts_largest_files_and_rules() {
    let (bed, dir) = project();
    let found: Value = serde_json::from_str(&told(&bed, &dir, "--format json .")).expect("JSON");
    let main = &found["contexts"][0];
    assert_eq!((&main["name"], &main["path"]), (&json!("context"), &json!(dir.canonicalize().expect("it is there"))));
    assert_eq!(main["read"], json!({"files": 5, "bytes": 2 + 5 + 10 + 40 + 2}), "the stage docs is not built: {found:#}");
    assert_eq!(main["ignored"], json!({"files": 4, "bytes": 2 + 5 + 5 + 1}));
    // The Dockerfile, the ignore file, docs, notes.
    assert_eq!(main["unread"]["files"], 4);
    let largest: Vec<Value> = main["largest"].as_array().expect("a list").iter().map(|l| json!([l["path"], l["instructions"][0]["line"]])).collect();
    assert_eq!(json!(largest[..3]), json!([["src/big.bin", 4], ["src/main.c", 4], ["package-lock.json", 9]]));
    let rules: Vec<Value> = main["rules"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| json!([r["file"], r["line"], r["pattern"], r["files"], r["bytes"], r["example"]]))
        .collect();
    assert_eq!(
        json!(rules),
        json!([
            [".dockerignore", 2, "node_modules", 2, 10, "node_modules/m/deep/er.js"],
            [".dockerignore", 3, "*.log", 1, 1, "npm.log"],
            [".dockerignore", 4, "src/**/*.log", 1, 2, "src/a/x.log"],
        ])
    );
    // Another target, another selection.
    let docs: Value = serde_json::from_str(&told(&bed, &dir, "--target docs --format json .")).expect("JSON");
    assert_eq!(docs["contexts"][0]["read"], json!({"files": 1, "bytes": 4}));
    let arg: Value = serde_json::from_str(&told(&bed, &dir, "--build-arg DIR=docs --format json .")).expect("JSON");
    assert_eq!(arg["contexts"][0]["read"], json!({"files": 3, "bytes": 2 + 5 + 4}));
    let text = told(&bed, &dir, ".");
    for line in [
        "  read      5 files, 59B",
        "  ignored   4 files, 13B",
        "        40B  src/big.bin        Dockerfile:4",
        "  .dockerignore:2: node_modules  2 files, 10B, such as node_modules/m/deep/er.js",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    // Nothing was hashed, nothing is kept of the context.
    assert!(std::fs::read_dir(bed.state().join("v1/contexts")).is_ok_and(|dir| dir.count() == 0));
}

#[test]
fn why_tells_what_decided() {
    let (bed, dir) = project();
    for (path, expected) in [
        ("src/main.c", "src/main.c: read\n  Dockerfile:4: COPY $DIR /src\n"),
        ("./src//main.c", "src/main.c: read\n  Dockerfile:4: COPY $DIR /src\n"),
        (
            "src/keep.log",
            "src/keep.log: read\n  .dockerignore:4: src/**/*.log  leaves it out\n  .dockerignore:5: !src/keep.log  lets it in again\n  \
             Dockerfile:4: COPY $DIR /src\n",
        ),
        ("src/a/x.log", "src/a/x.log: ignored\n  .dockerignore:4: src/**/*.log  leaves it out\n"),
        ("node_modules/m/index.js", "node_modules/m/index.js: ignored\n  .dockerignore:2: node_modules  leaves it out\n"),
        ("notes.txt", "notes.txt: not read: no instruction that the target needs selects it\n"),
        ("Dockerfile", "Dockerfile: read as the definition of the build; no instruction copies it\n"),
        (
            "src",
            "src: something below it is read\n  Dockerfile:4: COPY $DIR /src\n  below it: read 3 files, 52B; ignored 1 file, 2B; neither 0 files, 0B\n",
        ),
    ] {
        assert_eq!(told(&bed, &dir, &format!("--why {path} .")), expected, "{path}");
    }
    for (path, expected) in [
        ("nowhere.log", "nowhere.log: not there\n  .dockerignore:3: *.log  would leave it out\n"),
        ("../x", "../x: outside the context, where no instruction can reach it\n"),
        ("/etc/passwd", "/etc/passwd: outside the context, where no instruction can reach it\n"),
    ] {
        let output = rbuild(&bed, &dir, &format!("--why {path} ."));
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(1), expected), "{path}");
    }
    let inside = dir.canonicalize().expect("it is there").join("notes.txt");
    let found: Value =
        serde_json::from_str(&told(&bed, &dir, &format!("--why {} --why package.json --format json .", inside.display()))).expect("JSON");
    assert_eq!((&found["why"][0]["path"], &found["why"][0]["verdict"]), (&json!("notes.txt"), &json!("unread")));
    assert_eq!(found["why"][1]["instructions"], json!([{"file": "Dockerfile", "line": 9, "text": "COPY package.json \\"}]));
}

#[test]
fn what_would_fail_is_told_and_what_is_no_directory_refused() {
    let (bed, dir) = project();
    std::fs::write(dir.join("broken"), "FROM scratch\nCOPY npm.log pakage.json /\n").expect("ours");
    let output = rbuild(&bed, &dir, "-f broken .");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ERROR: broken:2: \"/npm.log\": not found in the build context") && said.contains("line 3 of .dockerignore"), "{said}");
    std::fs::write(dir.join("broken"), "FROM scratch\nCOPPY a b\n").expect("ours");
    let output = rbuild(&bed, &dir, "-f broken .");
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("broken:2"));
    for context in ["-", "https://example.com/r.git", "nowhere"] {
        assert_eq!(rbuild(&bed, &dir, context).status.code(), Some(1), "{context}");
    }
}

#[test]
fn named_contexts_and_mounts_are_told_too() {
    let bed = Bed::with_registry();
    let main = bed.context("main", &[("Dockerfile", "FROM busybox\nCOPY --from=other one /\nRUN --mount=target=/m true\n"), ("f", "12")]);
    let _ = bed.context("other", &[("one", "1"), ("two", "2"), ("three", "3"), (".dockerignore", "three\n")]);
    let found: Value = serde_json::from_str(&told(&bed, &main, "--build-context other=../other --format json .")).expect("JSON");
    let read = |at: usize| {
        (found["contexts"][at]["name"].clone(), found["contexts"][at]["read"]["files"].clone(), found["contexts"][at]["ignored"]["files"].clone())
    };
    // A mount shows the whole context.
    assert_eq!(read(0), (json!("context"), json!(2), json!(0)));
    assert_eq!(read(1), (json!("other"), json!(1), json!(1)));
}
