//! What only rbuild understands, built by the real binary.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use integration_tests::{Bed, require};

#[test]
fn retry_runs_a_failed_command_again_on_the_tree_as_it_was() {
    let bed = Bed::with_registry();
    // The cache mount remembers between attempts; the image's own tree does not.
    let text = "FROM busybox\nRUN --retry=2 --mount=type=cache,target=/count n=$(cat /count/n || echo 0); echo $((n + 1)) > /count/n; ! test -e /left && touch /left && test $n -ge 2 && cp /count/n /result\n";
    let outcome = bed.build(&bed.context("again", &[("Dockerfile", text)])).ok();
    assert!(outcome.log.contains("attempt 2 of 3") && outcome.log.contains("attempt 3 of 3"), "{}", outcome.log);
    assert_eq!(outcome.image().file("result").as_deref(), Some(&b"3\n"[..]));
    let never = bed.build(&bed.context("never", &[("Dockerfile", "FROM busybox\nRUN --retry=1 echo try && exit 7\n")])).run();
    assert!(never.code == Some(1) && never.log.contains("exit code: 7"), "{}", never.log);
}

#[test]
fn timeout_ends_a_command_that_hangs() {
    let bed = Bed::with_registry();
    let text = "FROM busybox\nRUN --timeout=300ms echo waiting && sleep 271828\n";
    let outcome = bed.build(&bed.context("hangs", &[("Dockerfile", text)])).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("longer than 300ms (its --timeout)") && outcome.log.contains("Dockerfile:2"), "{}", outcome.log);
    let quick = bed.build(&bed.context("quick", &[("Dockerfile", "FROM busybox\nRUN --timeout=10m true\n")])).ok();
    assert_eq!(quick.ran().len(), 1);
    // Neither is part of what identifies a step.
    let plain = bed.build(&bed.context("plain", &[("Dockerfile", "FROM busybox\nRUN true\n")])).ok();
    assert_eq!(plain.cached().len(), 1, "{}", plain.log);
    let strict = bed.build(&bed.context("strict", &[("Dockerfile", text)])).args(["--strict-docker"]).run();
    assert!(strict.code == Some(1) && strict.log.contains("RUN --timeout is known to rbuild only"), "{}", strict.log);
}

/// Runs `rbuild` with words, in a directory.
fn rbuild(bed: &Bed, dir: &Path, line: &str, stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(require::rbuild());
    command.args(line.split(' ')).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    command.env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild runs");
    child.stdin.take().expect("a pipe").write_all(stdin.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("rbuild ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A context whose Dockerfile uses all that only rbuild understands.
const OWN: &[(&str, &str)] = &[
    (
        "docker/app.dockerfile",
        "# syntax=docker/dockerfile:1\nARG WHICH=one\n# rbuild:include stages/both\nFROM busybox\nARG FROM_STAGE=${WHICH}\n\
         # kept\nCOPY --from=${FROM_STAGE} --chmod=600 \\\n  /file /copied\n\
         RUN --mount=type=bind,from=${WHICH},target=/m \\\n    --timeout=10m \\\n    --retry=2 cat /m/file \\\n  # and this\n  > /mounted\n\
         # rbuild:include ../common/end\n",
    ),
    ("docker/stages/both", "FROM busybox AS one\nRUN echo one > /file\n# rbuild:include two"),
    ("docker/stages/two", "FROM busybox AS two\nRUN <<EOF\n# rbuild:include plain text of a script\necho two > /file\nEOF\n"),
    ("common/end", "WORKDIR /end\nCMD [\"cat\", \"/copied\"]\n"),
];

#[test]
fn convert_gives_the_same_image_in_plain_words() {
    let bed = Bed::with_registry();
    let dir = bed.context("own", OWN);
    let flags = format!("-f {} --build-arg WHICH=two", dir.join("docker/app.dockerfile").display());
    let (code, plain, said) = rbuild(&bed, &dir, &format!("convert {flags}"), "");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        plain,
        "# syntax=docker/dockerfile:1\nARG WHICH=one\n\nFROM busybox AS one\nRUN echo one > /file\n\nFROM busybox AS two\nRUN <<EOF\n\
         # rbuild:include plain text of a script\necho two > /file\nEOF\nFROM busybox\nARG FROM_STAGE=${WHICH}\n\
         # kept\nCOPY --from=two --chmod=600 \\\n  /file /copied\n\
         RUN --mount=type=bind,from=two,target=/m \\\n    cat /m/file \\\n  # and this\n  > /mounted\n\
         \nWORKDIR /end\nCMD [\"cat\", \"/copied\"]\n"
    );
    assert!(said.contains("--timeout=10m is left out") && said.contains("docker/app.dockerfile:11:5"), "{said}");
    std::fs::write(dir.join("plain"), &plain).expect("written");
    let own = bed.build(&dir).args(flags.split(' ')).env("SOURCE_DATE_EPOCH", "1000000000").ok();
    assert_eq!(own.image().file("copied").as_deref(), Some(&b"two\n"[..]));
    let again = format!("-f {} --build-arg WHICH=two --strict-docker --no-cache", dir.join("plain").display());
    let converted = bed.build(&dir).args(again.split(' ')).env("SOURCE_DATE_EPOCH", "1000000000").state(&bed.path("other")).ok();
    assert_eq!(own.image().digest, converted.image().digest);
    // What is plain stays byte for byte, and a file is written whole.
    let (code, _, said) = rbuild(&bed, &dir, "convert -f plain -o twice .", "");
    assert_eq!((code, said.as_str(), std::fs::read_to_string(dir.join("twice")).expect("written")), (Some(0), "", plain));
    let (code, _, said) = rbuild(&bed, &dir, "convert -f docker/app.dockerfile --build-arg WHICH=$X", "");
    assert!(code == Some(1) && said.contains("\"$X\" is no stage, no named context and no image"), "a value is no expression: {said}");
}

#[test]
fn what_is_included_is_shown_in_its_own_file() {
    let bed = Bed::with_registry();
    let dir = bed.context("own", OWN);
    let with = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("written");
    with("fails", "FROM busybox\n# rbuild:include common/run\n");
    with("common/run", "RUN true\nRUN echo last words && \\\n  exit 7\n");
    let failed = bed.build(&dir).args(["-f".into(), dir.join("fails")]).run();
    assert!(failed.code == Some(1) && failed.log.contains("common/run:2, included at fails:2\n"), "{}", failed.log);
    assert!(failed.log.contains("   2 | >>> RUN echo last words"), "{}", failed.log);

    with("problem", "FROM busybox\n# rbuild:include common/problem\n");
    with("common/problem", "MAINTAINER me\nEXPOSE\n");
    let (code, found, said) = rbuild(&bed, &dir, "build --diagnostics json --progress none -t a -f problem .", "");
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let place = |name: &str| found["diagnostics"][0][name].clone();
    assert_eq!(
        (code, place("file"), place("line"), place("includedAt")),
        (Some(1), "common/problem".into(), 2.into(), serde_json::json!(["problem:2"]))
    );
    assert!(said.contains("common/problem:2:1") && said.contains("note: included at problem:2"), "{said}");
    with("common/problem", "MAINTAINER me\nEXPOSE 80\n");
    let (_, _, said) = rbuild(&bed, &dir, "build --progress plain -t a -f problem .", "");
    assert!(said.contains("MaintainerDeprecated") && said.contains("(common/problem:1)"), "{said}");
    let (code, found, _) = rbuild(&bed, &dir, "build --call=check,format=json -f problem .", "");
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!((code, &found["sources"][0]["filename"]), (Some(1), &"common/problem".into()));
    let strict = bed.build(&dir).args(["-f".into(), dir.join("problem"), "--strict-docker".into()]).run();
    assert!(strict.code == Some(1) && strict.log.contains("known to rbuild only"), "{}", strict.log);
}

#[test]
fn nothing_is_included_from_elsewhere() {
    let bed = Bed::with_registry();
    let dir = bed.context("own", OWN);
    std::fs::write(bed.path("secret"), "LABEL secret=1\n").expect("written");
    std::os::unix::fs::symlink(bed.path("secret"), dir.join("far")).expect("link");
    std::os::unix::fs::symlink("../secret", dir.join("out")).expect("link");
    let said = |text: &str, line: &str| rbuild(&bed, &dir, line, text).2;
    for file in ["far", "out"] {
        let said = said(&format!("FROM busybox\n# rbuild:include {file}\n"), "convert -f - .");
        assert!(said.contains("is a symbolic link to nothing inside this directory"), "{said}");
    }
    let outside = said("FROM busybox\n# rbuild:include ../secret\n", "convert -f - .");
    assert!(outside.contains("it lies outside of the build context"), "{outside}");
    // A Dockerfile on standard input includes from the root of the context; one without a context from nowhere.
    assert_eq!(said("# rbuild:include docker/stages/both\n", "convert -f - ."), "");
    let near = said("# rbuild:include docker/stages/bot\n", "convert -f - .");
    assert!(near.contains("did you mean `docker/stages/both`?"), "{near}");
    let alone = said("# rbuild:include docker/stages/both\n", "convert -");
    assert!(alone.contains("the Dockerfile comes alone, without a directory to include files from"), "{alone}");
    // A Dockerfile outside of the context includes from its own directory, under the name that was typed.
    std::fs::create_dir(bed.path("context")).expect("directory");
    let elsewhere = rbuild(&bed, &bed.path("context"), "convert -f ../own/docker/stages/both .", "");
    assert_eq!((elsewhere.0, elsewhere.2.as_str()), (Some(0), ""));
    std::fs::write(dir.join("docker/stages/two"), "FORM busybox\n").expect("written");
    let elsewhere = rbuild(&bed, &bed.path("context"), "convert -f ../own/docker/stages/both .", "");
    assert!(elsewhere.2.contains("../own/docker/stages/two:1:1"), "{}", elsewhere.2);
    // An archive on standard input is a context like any other.
    let archive = Command::new("tar").args(["-C", dir.to_str().expect("UTF-8"), "-cf", "-", "docker", "common"]).output().expect("tar").stdout;
    std::fs::write(bed.path("context.tar"), archive).expect("written");
    let built = bed.build(Path::new("-")).archive(&bed.path("context.tar")).args(["-f", "docker/app.dockerfile"]).run();
    assert!(built.log.contains("docker/stages/two:1"), "{}", built.log);
}
