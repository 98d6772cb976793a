//! The programs of `examples/embed` do what they say.

use std::path::Path;
use std::process::{Command, Output};

use integration_tests::{Bed, Image, require};

/// Runs one of the example programs, built beside `rbuild`.
fn program(name: &str, arguments: &[&Path]) -> Output {
    let path = require::rbuild().with_file_name(name);
    let output = Command::new(&path).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}: cargo build --release -p embed first", path.display()));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn make_base_makes_a_base_that_runs_and_the_others_build_on_it() {
    let bed = Bed::new();
    let (base, state) = (bed.path("base"), bed.state());
    program("make_base", &[&base, &state]);

    let dir = bed.context("on-base", &[("Dockerfile", "FROM base\nRUN echo \"$(seq 1 3 | wc -l) lines\" > /proof && ls / | sort > /dev/null\n")]);
    let context = format!("base=oci-layout://{}", base.display());
    let image = bed.build(&dir).args(["--build-context", &context]).ok().image();
    assert_eq!(image.file("proof").as_deref(), Some(&b"3 lines\n"[..]));
}

#[test]
fn minimal_builds_events_tells_and_cancel_cancels() {
    let bed = Bed::new();
    let dir = bed.context("plain", &[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "1")]);
    let archive = bed.path("minimal.tar");
    program("minimal", &[&dir, &archive, &bed.state()]);
    assert_eq!(Image::read(&archive).file("a").as_deref(), Some(&b"1"[..]));

    let told = String::from_utf8(program("events", &[&dir, &bed.state()]).stdout).expect("text");
    assert!(told.contains("cached     [1/1] COPY a /a"), "{told}");

    let base = bed.path("base");
    program("make_base", &[&base, &bed.state()]);
    let text = "FROM scratch\nCOPY . /\nENV PATH=/bin\nRUN echo one && sleep 271828\n";
    let tree = bed.path("tree");
    let base_context = bed.context("unpack", &[("Dockerfile", "FROM base\n")]);
    let unpack = format!("base=oci-layout://{}", base.display());
    let out = format!("type=local,dest={}", tree.display());
    assert_eq!(bed.build(&base_context).args(["--build-context", &unpack, "-o", &out]).no_output().ok().code, Some(0));
    std::fs::write(tree.join("Dockerfile"), text).expect("ours");
    let said = String::from_utf8(program("cancel", &[&tree, &bed.state()]).stdout).expect("text");
    assert!(said.starts_with("cancelled"), "{said}");
}
