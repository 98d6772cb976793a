//! What the checks find with the help of files and servers, and sources that only a server can give: the real binary on contexts of every kind
//! (`features.md` A12, A14.1, A15, C5).

use std::path::Path;

use integration_tests::{Bed, Build, Outcome, web};

/// The codes of a check's findings, in order.
fn found(outcome: &Outcome) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.log));
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let codes = list("warnings").into_iter().chain(list("notes"));
    codes
        .map(|finding| format!("{} {}", finding["location"]["ranges"][0]["start"]["line"], finding["ruleName"].as_str().unwrap_or_default()))
        .collect()
}

fn check(bed: &Bed, context: &Path) -> Build {
    bed.build(context).no_output().args(["--call=check,format=json"])
}

/// A tar of these files, plain.
fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_650_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).expect("appended");
    }
    tar.into_inner().expect("a tar")
}

const FILE: &str = "FROM busybox AS unused\nFROM busybox\nMAINTAINER me\nCOPY a.txt /\n";

#[test]
fn a15_wildcards_and_ignored_paths_are_looked_up() {
    let bed = Bed::with_registry();
    let text =
        "FROM busybox\nCOPY *.txt /\nCOPY *.jpg *.log /\nCOPY --parents **/*.gif /\nCOPY docs /docs\nCOPY --from=other *.c /\nCOPY part /part\n";
    let files = [
        ("Dockerfile", text),
        (".dockerignore", "*.log\ndocs\npart\n!docs/none\n!part/in.md\n"),
        ("a.txt", ""),
        ("b.log", ""),
        ("docs/a.md", ""),
        ("part/out.md", ""),
        ("part/in.md", ""),
    ];
    let context = bed.context("context", &files);
    let other = bed.context("other", &[("a.h", "")]);
    let other = format!("other={}", other.display());
    let outcome = check(&bed, &context).args(["--build-context", &other]).run();
    assert_eq!(found(&outcome), ["3 WildcardMatchesNothing", "3 WildcardMatchesNothing", "5 CopyIgnoredPath", "6 WildcardMatchesNothing"]);
    let said = &outcome.stdout;
    for words in [
        r#"\"*.jpg\" matches nothing in the build context, so nothing is copied"#,
        r#"What \"*.log\" matches is left out by line 1 of .dockerignore: *.log"#,
        r#"\"docs\" is left out by line 2 of .dockerignore: docs"#,
        r#"\"*.c\" matches nothing in the context \"other\""#,
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(outcome.code, Some(0), "notes are advice");
    // A build says the same, and goes on.
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY a.txt *.jpg /\n").expect("ours");
    let outcome = bed.build(&context).ok();
    assert!(outcome.log.contains("WildcardMatchesNothing: \"*.jpg\" matches nothing in the build context"), "{}", outcome.log);
    std::fs::write(context.join("Dockerfile"), "# check=skip=WildcardMatchesNothing\nFROM scratch\nCOPY a.txt *.jpg /\n").expect("ours");
    assert!(!bed.build(&context).ok().log.contains("WildcardMatchesNothing"));
}

#[test]
fn a9_8_unknown_owners_end_a_build() {
    let bed = Bed::with_registry();
    for (text, line) in [
        ("FROM busybox\nCOPY --chown=nobdy f /\n", 2),
        ("FROM busybox\nCOPY --chown=root:nogrp f /\n", 2),
        ("FROM scratch\nCOPY --chown=app f /\n", 2),
    ] {
        let context = bed.context("context", &[("Dockerfile", text), ("f", "")]);
        let outcome = bed.build(&context).run();
        assert_eq!(outcome.code, Some(1), "{text}: {}", outcome.log);
        let remedy = outcome.log.contains("or use its number") || outcome.log.contains("write numbers");
        assert!(outcome.log.contains(&format!("Dockerfile:{line}")) && remedy, "{text}: {}", outcome.log);
    }
}

#[test]
fn c5_checks_and_calls_work_on_contexts_of_every_kind() {
    let bed = Bed::with_registry();
    let local = bed.context("local", &[("Dockerfile", FILE), ("a.txt", "")]);
    let repository = web::git(&bed.context("repository", &[("Dockerfile", FILE), ("a.txt", ""), ("sub/Dockerfile", FILE)]), 1_600_000_000);
    let tar = tar_of(&[("Dockerfile", FILE), ("a.txt", "")]);
    let served = format!("{}/context.tar", web::answering("", &tar));
    let single = format!("{}/Dockerfile", web::answering("", FILE.as_bytes()));
    let archive = bed.path("context.tar");
    std::fs::write(&archive, &tar).expect("ours");
    let all = ["3 MaintainerDeprecated", "1 UnusedStage"];
    let contexts = [local.display().to_string(), repository.clone(), format!("{repository}#main:sub"), served, single];
    for context in &contexts {
        let outcome = check(&bed, Path::new(context)).run();
        assert_eq!((found(&outcome), outcome.code), (all.map(str::to_owned).to_vec(), Some(1)), "{context}: {}", outcome.log);
    }
    assert_eq!(found(&check(&bed, Path::new("-")).archive(&archive).run()), all, "standard input");
    for call in ["outline", "targets"] {
        for context in &contexts {
            let outcome = bed.build(Path::new(context)).no_output().args([format!("--call={call}")]).ok();
            assert!(outcome.stdout.contains("TARGET"), "{context}");
        }
    }
}

#[test]
fn a11_5_the_definition_is_read_though_it_is_ignored() {
    let bed = Bed::new();
    let files = [("Dockerfile", "FROM scratch\nCOPY . /\n"), (".dockerignore", "Dockerfile\n.dockerignore\n"), ("f", "x")];
    let image = bed.build(&bed.context("context", &files)).ok().image();
    assert_eq!((image.file("f").as_deref(), image.file("Dockerfile"), image.file(".dockerignore")), (Some(&b"x"[..]), None, None));
    let files = [("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")];
    let outcome = bed.build(&bed.context("context", &files)).run();
    assert!(outcome.code == Some(1) && outcome.log.contains("line 1 of .dockerignore"), "{}", outcome.log);
}

#[test]
fn a15_1_the_answer_of_a_check() {
    let bed = Bed::with_registry();
    let of = |text: &str| bed.build(&bed.context("context", &[("Dockerfile", text)])).no_output().args(["--check"]).run();
    let good = of("FROM busybox\n");
    assert_eq!((good.code, good.stdout.as_str()), (Some(0), "Check complete, no warnings found.\n"), "{}", good.log);
    let one = of("FROM busybox\nMAINTAINER me\n");
    assert_eq!(one.code, Some(1));
    for line in [
        "WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
        "Dockerfile:2",
        "   2 | >>> MAINTAINER me",
        "Check complete, 1 warning has been found!",
    ] {
        assert!(one.stdout.lines().any(|found| found == line), "{line}: {}", one.stdout);
    }
    assert!(of("FROM busybox\nMAINTAINER me\nENV a b\n").stdout.contains("Check complete, 2 warnings have been found!"));
    let json = check(&bed, &bed.path("context")).run();
    let report: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(report.as_object().expect("an object").keys().map(String::as_str).collect::<Vec<_>>(), ["warnings", "sources"]);
}

#[test]
fn a15_2_findings_of_a_build() {
    let bed = Bed::with_registry();
    let of = |first: &str| bed.build(&bed.context("context", &[("Dockerfile", &format!("{first}FROM busybox\nMAINTAINER me\nRUN true\n"))])).run();
    let warned = of("");
    assert_eq!(warned.code, Some(0));
    assert!(warned.log.contains("1 warning found") && warned.log.contains("- MaintainerDeprecated: "), "{}", warned.log);
    let ended = of("# check=error=true\n");
    assert_eq!((ended.code, ended.ran().len()), (Some(1), 0), "{}", ended.log);
    assert!(ended.log.contains("lint violation found for rules: MaintainerDeprecated"), "{}", ended.log);
    assert_eq!(of("# check=skip=all;error=true\n").code, Some(0));
}

#[test]
fn c1_a_dockerfile_comes_from_the_web() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("a.txt", "here")]);
    let url = format!("{}/app.Dockerfile", web::answering("", b"FROM scratch\nCOPY a.txt /\n"));
    let image = bed.build(&context).args(["-f", &url]).ok().image();
    assert_eq!(image.file("a.txt").as_deref(), Some(&b"here"[..]));
    let bad = format!("{}/app.Dockerfile", web::answering("", b"FROM scratch\nCOPPY a.txt /\n"));
    let outcome = bed.build(&context).args(["-f", &bad]).run();
    assert!(outcome.code == Some(1) && outcome.log.contains("app.Dockerfile:2"), "{}", outcome.log);
}

#[test]
fn a14_1_the_epoch_can_be_that_of_a_context_or_a_stage() {
    let bed = Bed::new();
    let created = |outcome: &Outcome| outcome.image().config["created"].as_str().unwrap_or_default().to_owned();
    let repository = web::git(&bed.context("repository", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "")]), 1_600_000_000);
    let epoch = "SOURCE_DATE_EPOCH=context";
    let output = bed.path("image.tar");
    let outcome = bed.build(Path::new(&repository)).output(&output).args(["--build-arg", epoch]).ok();
    assert_eq!(created(&outcome), "2020-09-13T12:26:40Z");
    // By the environment, of a tar without a date of its server: its newest entry.
    let tar = tar_of(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "")]);
    let plain = format!("{}/context.tar", web::answering("", &tar));
    let outcome = bed.build(Path::new(&plain)).output(&output).env("SOURCE_DATE_EPOCH", "context").ok();
    assert_eq!(created(&outcome), "2022-04-15T05:20:00Z");
    let dated = format!("{}/context.tar", web::answering("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", &tar));
    let outcome = bed.build(Path::new(&dated)).output(&output).args(["--build-arg", epoch]).ok();
    assert_eq!(created(&outcome), "1994-11-06T08:49:37Z");
    // A stage that only adds, and a named context.
    let stage = format!("ARG SOURCE_DATE_EPOCH=dated\nFROM scratch AS dated\nADD {dated} /x.tar\nFROM scratch\nCOPY f /\n");
    let context = bed.context("context", &[("Dockerfile", &stage), ("f", "")]);
    assert_eq!(created(&bed.build(&context).ok()), "1994-11-06T08:49:37Z");
    let named = bed.build(&context).args(["--build-arg", "SOURCE_DATE_EPOCH=code", "--build-context", &format!("code={repository}")]).ok();
    assert_eq!(created(&named), "2020-09-13T12:26:40Z");
    let wrong = bed.build(&context).args(["--build-arg", "SOURCE_DATE_EPOCH=datde"]).run();
    assert!(wrong.code == Some(1) && wrong.log.contains("did you mean `dated`?"), "{}", wrong.log);
}

#[test]
fn a14_3_clamping_without_an_epoch_is_said() {
    let bed = Bed::new();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "")]);
    let output = format!("type=oci,rewrite-timestamp=true,dest={}", bed.path("i.tar").display());
    let said = "rewrite-timestamp=true does nothing without an epoch";
    assert!(bed.build(&context).no_output().args(["-o", &output]).ok().log.contains(said));
    assert!(!bed.build(&context).no_output().args(["-o", &output]).env("SOURCE_DATE_EPOCH", "5").ok().log.contains(said));
}

#[test]
fn a12_2_a_layout_is_shown_by_the_name_of_its_context() {
    let bed = Bed::new();
    let layout = integration_tests::fixtures::busybox();
    for (name, shown) in [("base", "docker.io/library/base"), ("ghcr.io/team/base", "ghcr.io/team/base")] {
        let context = bed.context("context", &[("Dockerfile", &format!("FROM {name}\nCOPY f /\n")), ("f", "")]);
        let outcome = bed.build(&context).args(["--build-context", &format!("{name}=oci-layout://{}", layout.display())]).ok();
        assert!(outcome.log.contains(&format!("load metadata for {shown}")), "{}", outcome.log);
        assert!(!outcome.log.contains("library/layout"), "{}", outcome.log);
    }
}
