//! The command line as scripts see it: exit statuses, what goes where, interrupts (`features.md` C1, C6, C7).

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use integration_tests::{Bed, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// `rbuild` with the words of `line`, in `dir`, on the bed's store.
fn rbuild(bed: &Bed, dir: &Path, line: &str) -> Command {
    let mut command = Command::new(require::rbuild());
    command.args(line.split(' ')).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("NO_COLOR", "1");
    command.env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml")).stdin(Stdio::null());
    command
}

#[test]
fn c6_2_and_c6_3_statuses_and_streams() {
    let bed = Bed::with_registry();
    let files = [
        ("Dockerfile", "FROM busybox\nRUN echo from the step\n"),
        ("bad", "FROM busybox\nRUN exit 42\n"),
        ("worse", "FROM busybox\nCOPPY a b\n"),
        ("old", "FROM busybox\nMAINTAINER me\n"),
    ];
    let dir = bed.context("context", &files);
    for (line, code, on_stdout, on_stderr) in [
        ("build -t a .", 0, "", "from the step"),
        ("build -q -o type=oci,dest=../q.tar .", 0, "sha256:", ""),
        ("-f bad -t a .", 1, "", "exit code: 42"),
        ("-f worse -t a .", 1, "", "did you mean `COPY`?"),
        ("-f old -t a .", 0, "", "1 warning found"),
        ("-f old --check .", 1, "WARNING: MaintainerDeprecated", ""),
        ("--check .", 0, "Check complete, no warnings found.", ""),
        ("--call=targets,format=json .", 0, "\"default\": true", ""),
        ("build --no-such-flag .", 1, "", "--no-such-flag"),
        ("build nowhere", 1, "", "nowhere not found"),
        ("build --push .", 1, "", "-t"),
        ("version", 0, "rbuild ", ""),
        ("build --help", 0, "--build-context", ""),
    ] {
        let output = rbuild(&bed, &dir, line).output().expect("rbuild runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{line}\n{err}");
        assert!(out.contains(on_stdout) && err.contains(on_stderr), "{line}\n-- stdout\n{out}\n-- stderr\n{err}");
        assert!(out.is_empty() == on_stdout.is_empty() && (code == 0 || !err.is_empty() || !out.is_empty()), "{line}: stdout\n{out}");
    }
}

#[test]
fn c1_1_a_wrong_command_line_touches_nothing() {
    let bed = Bed::new();
    let dir = bed.context("context", &[("Dockerfile", "FROM scratch\n")]);
    std::fs::write(bed.path("id"), "old").expect("ours");
    for line in ["--network=bridge --iidfile ../id .", "-o type=nothing .", "--platform moon .", "--secret id=a,src=missing .", "-f - -"] {
        let output = rbuild(&bed, &dir, line).output().expect("rbuild runs");
        assert_eq!(output.status.code(), Some(1), "{line}");
    }
    assert!(!bed.state().exists(), "no store is made for a command line that is wrong");
    assert_eq!(std::fs::read_to_string(bed.path("id")).expect("ours"), "old");
}

#[test]
fn c1_iidfile_and_metadata_name_the_image() {
    let bed = Bed::with_registry();
    let dir = bed.context("context", &[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    let outcome = bed.build(&dir).args(["-t", "app:1", "--iidfile"]).args([bed.path("id")]);
    let outcome = outcome.args(["--metadata-file"]).args([bed.path("metadata")]).ok();
    let metadata: Value = serde_json::from_slice(&std::fs::read(bed.path("metadata")).expect("metadata")).expect("JSON");
    assert_eq!(metadata["image.name"], "docker.io/library/app:1");
    let id = std::fs::read_to_string(bed.path("id")).expect("id");
    assert_eq!(metadata["containerimage.config.digest"], id, "{}", outcome.log);
}

#[test]
fn c6_2_an_interrupt_ends_the_build_and_its_processes() {
    let bed = Bed::with_registry();
    let dir = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN echo it runs && sleep 314159 & wait\n")]);
    let mut child = rbuild(&bed, &dir, "--progress plain -t a .").stderr(Stdio::piped()).spawn().expect("rbuild starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.ends_with("it runs\n") {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "the build ended before its step ran");
    }
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("it runs");
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest}");
    assert!(rest.contains("CANCELED"), "{rest}");
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(command != b"sleep\x00314159\x00", "{} outlived the build", process.path().display());
    }
    let again = bed.build(&bed.context("after", &[("Dockerfile", "FROM busybox\nRUN true\n")])).ok();
    assert_eq!(again.ran().len(), 1, "the store is as it was: {}", again.log);
}

#[test]
fn c7_2_what_a_step_prints_cannot_drive_the_terminal() {
    let bed = Bed::with_registry();
    let evil = "a\x1b[2Jb\x1b]0;owned\x07c\rd\n#99 DONE 0.0s\n";
    let dir = bed.context("context", &[("Dockerfile", "FROM busybox\nCOPY evil /\nRUN cat /evil\n"), ("evil", evil)]);
    let outcome = bed.build(&dir).ok();
    assert!(!outcome.log.contains(['\u{1b}', '\r', '\u{7}']) && !outcome.log.contains("owned"), "{:?}", outcome.log);
    assert!(outcome.log.contains(" d\n") && !outcome.log.lines().any(|line| line == "#99 DONE 0.0s"), "{}", outcome.log);
}

#[test]
fn c7_4_rawjson_is_one_object_a_line() {
    let bed = Bed::with_registry();
    let dir = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN echo hello\n")]);
    let output = rbuild(&bed, &dir, "--progress rawjson -t a .").output().expect("rbuild runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
    let log = objects.iter().find_map(|object| object["logs"][0]["data"].as_str()).expect("a log");
    assert_eq!(log, "aGVsbG8K");
    assert!(objects.iter().any(|object| object["vertexes"][0]["name"].as_str().is_some_and(|name| name.contains("RUN echo hello"))));
}

#[test]
fn c5_2_a_context_on_standard_input() {
    let bed = Bed::new();
    let dir = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "content")]);
    let mut tar = Command::new("tar").args(["-cz", "-C"]).arg(&dir).arg(".").stdout(Stdio::piped()).spawn().expect("tar");
    let status = rbuild(&bed, &bed.path(""), "-o out -").stdin(tar.stdout.take().expect("piped")).status().expect("rbuild runs");
    assert!(status.success() && tar.wait().expect("tar").success());
    assert_eq!(std::fs::read_to_string(bed.path("out/b")).expect("copied"), "content");
}
