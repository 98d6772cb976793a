//! Odd command lines and odd contexts: an answer at once, never a wait without end.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::{Bed, require};

/// Long for anything here; a wait without end is longer.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn pipes_and_devices_as_dockerfile_or_ignore_file_are_refused_at_once() {
    let bed = Bed::with_registry();
    for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
        for endless in ["pipe", "/dev/zero"] {
            let context = bed.context(&format!("{name}-{}", endless.len()), &[("Dockerfile", "FROM busybox\n")]);
            let path = context.join(name);
            drop(fs::remove_file(&path));
            if endless == "pipe" {
                assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
            } else {
                symlink(endless, &path).expect("ours");
            }
            let began = Instant::now();
            let outcome =
                Command::new("timeout").arg("20").arg(require::rbuild()).env("RBUILD_ROOT", bed.state()).arg(&context).output().expect("timeout");
            assert!(began.elapsed() < AT_ONCE, "{name} {endless}");
            let log = String::from_utf8_lossy(&outcome.stderr);
            assert_eq!(outcome.status.code(), Some(1), "{name} {endless}: {log}");
            assert!(log.contains(name) && log.contains("it is "), "{log}");
        }
    }
}

#[test]
fn a_dockerfile_may_come_from_a_descriptor() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[]);
    let mut rbuild = Command::new(require::rbuild());
    rbuild.args(["-f", "/dev/stdin"]).arg(&context).env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    let mut child = rbuild.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("rbuild starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"FROM busybox\n").expect("a reader");
    assert!(child.wait().expect("an end").success());
}

#[test]
fn an_id_is_told_without_any_output() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    let id = bed.path("id");
    let build = bed.build(&context).no_output().args(["-q", "--iidfile"]).args([&id]);
    let outcome = build.ok();
    assert!(outcome.stdout.starts_with("sha256:"), "{:?}", outcome.stdout);
    assert_eq!(fs::read_to_string(&id).expect("the id").trim(), outcome.stdout.trim());
    let named = bed.build(&context).no_output().args(["-q", "-t", "x"]).ok();
    assert_eq!(named.stdout, outcome.stdout, "a name changes no id");
}

#[test]
fn without_words_there_is_help_and_a_status_that_says_no() {
    let outcome = Command::new(require::rbuild()).output().expect("rbuild starts");
    let text = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(text.contains("Usage:") && !text.contains("ERROR"), "{text}");
}

#[test]
fn much_output_takes_little_memory_and_is_kept_whole() {
    const BYTES: usize = 100_000_000;
    let bed = Bed::with_registry();
    let text = format!("FROM busybox\nRUN yes 0123456789012345678901234567890123456789012345678 | head -c {BYTES}\n");
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let mut rbuild = Command::new(require::rbuild());
    rbuild.args(["--progress", "plain"]).arg(&context).env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
    let mut child = rbuild.stderr(Stdio::piped()).spawn().expect("rbuild starts");
    let mut shown = child.stderr.take().expect("piped");
    let (mut buffer, mut total, mut peak) = (vec![0; 1 << 16], 0, String::new());
    loop {
        let n = std::io::Read::read(&mut shown, &mut buffer).expect("a pipe");
        if n == 0 {
            break;
        }
        total += n;
        // While it still has something to say it is there to be asked.
        if total > BYTES && peak.is_empty() {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
            peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim().trim_end_matches(" kB").to_owned();
        }
    }
    assert!(child.wait().expect("an end").success());
    assert!(peak.parse::<u64>().expect("a number") < 64 * 1024, "{peak} kB");
    let logs: Vec<u64> =
        fs::read_dir(bed.state().join("v1/logs")).expect("logs").map(|log| log.expect("a log").metadata().expect("ours").len()).collect();
    assert_eq!(logs, [BYTES as u64], "the whole log is on disk");
}

/// A result that is not there, with a status that says it is, misleads scripts; a reader that has read enough does not.
#[test]
fn c6_3_a_result_that_cannot_be_written_is_a_failure() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\n")]);
    let commands: [&[&str]; 8] = [
        &["version"],
        &["--help"],
        &["doctor", "--format", "json"],
        &["build", "-q", "."],
        &["build", "--check", "."],
        &["convert", "."],
        &["context", "."],
        &["debug", "ast"],
    ];
    for words in commands {
        let run = |stdout: Stdio| {
            let mut rbuild = Command::new(require::rbuild());
            rbuild.args(words).current_dir(&context).env("RBUILD_ROOT", bed.state()).env("RBUILD_CONFIG", bed.path("rbuild.toml"));
            let output = rbuild.stdin(fs::File::open(context.join("Dockerfile")).expect("ours")).stdout(stdout).output().expect("rbuild starts");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, log) = run(fs::OpenOptions::new().write(true).open("/dev/full").expect("a device").into());
        // 102: there is no room.
        assert!(code == Some(102) && log.contains("cannot write to standard output"), "{words:?}: {code:?} {log}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, log) = run(writer.into());
        assert_eq!(code, Some(0), "{words:?}: {log}");
    }
}
