//! What a second build does: nothing, or just what changed asks for.

use integration_tests::Bed;

const DOCKERFILE: &str = "\
FROM busybox AS deps
COPY package.txt /app/
RUN mkdir -p /out && cat /app/package.txt > /out/deps
FROM busybox AS sources
WORKDIR /src
COPY src/ ./
RUN cat a.txt b.txt > /built
FROM busybox
COPY --from=deps /out/deps /deps
COPY --from=sources /built /built
RUN cat /deps /built > /all
";

fn bed() -> (Bed, std::path::PathBuf) {
    let bed = Bed::with_registry();
    let files = [("Dockerfile", DOCKERFILE), ("package.txt", "p1\n"), ("src/a.txt", "a1\n"), ("src/b.txt", "b1\n")];
    let context = bed.context("context", &files);
    (bed, context)
}

#[test]
fn a_second_build_runs_nothing_and_pulls_nothing() {
    let (bed, context) = bed();
    let first = bed.build(&context).ok();
    assert_eq!(first.ran().len(), 8, "{}", first.log);
    let mark = bed.registry().mark();
    let second = bed.build(&context).ok();
    assert_eq!(second.ran(), [""; 0], "{}", second.log);
    assert_eq!(second.cached().len(), 8, "{}", second.log);
    assert_eq!(bed.registry().requests_since(mark, "/blobs/"), [""; 0], "blobs were fetched again");
    assert_eq!(first.image().config["rootfs"], second.image().config["rootfs"]);
}

#[test]
fn another_time_of_a_file_keeps_every_hit() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    for name in ["Dockerfile", "package.txt", "src/a.txt", "src/b.txt"] {
        let file = std::fs::File::options().append(true).open(context.join(name)).expect("ours");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).expect("ours");
    }
    let second = bed.build(&context).ok();
    assert_eq!(second.ran(), [""; 0], "{}", second.log);
}

#[test]
fn one_changed_file_reruns_only_what_reads_it() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    std::fs::write(context.join("src/a.txt"), "a2\n").expect("ours");
    let second = bed.build(&context).ok();
    let ran = second.ran();
    assert_eq!(ran.len(), 4, "{}", second.log);
    assert!(ran.iter().all(|name| name.contains("sources") || name.contains("stage-2")), "{ran:?}");
    assert_eq!(second.image().file("all").as_deref(), Some(&b"p1\na2\nb1\n"[..]));
}

#[test]
fn a_stage_that_yields_the_same_bytes_leaves_its_readers_cached() {
    let bed = Bed::with_registry();
    let text = "FROM busybox AS work\nCOPY in.txt /in.txt\nRUN wc -l < /in.txt > /count\nFROM busybox\nCOPY --from=work /count /count\nRUN cat /count > /copy\n";
    let context = bed.context("context", &[("Dockerfile", text), ("in.txt", "one\ntwo\n")]);
    let first = bed.build(&context).ok();
    std::fs::write(context.join("in.txt"), "eins\nzwei\n").expect("ours");
    let second = bed.build(&context).ok();
    let ran = second.ran();
    assert_eq!(ran.len(), 2, "only the COPY and the RUN of stage work: {}", second.log);
    assert!(ran.iter().all(|name| name.contains("work")), "{ran:?}");
    assert_eq!(first.image().config["rootfs"], second.image().config["rootfs"]);
}

#[test]
fn a_step_that_runs_again_and_yields_the_same_bytes_leaves_everything_after_it_cached() {
    let bed = Bed::with_registry();
    // The first RUN is made to run again by an argument that does not change what it writes; the next sees equal content below it.
    let text = "FROM busybox\nARG SALT\nRUN echo fixed > /f\nCOPY after.txt /after.txt\nFROM busybox\nARG SALT\nRUN echo other > /g\nENV SALT=\n\
        COPY after.txt /after.txt\nRUN cat /g > /h\n";
    let context = bed.context("context", &[("Dockerfile", text), ("after.txt", "x")]);
    let first = bed.build(&context).args(["--build-arg", "SALT=1"]).ok();
    let second = bed.build(&context).args(["--build-arg", "SALT=2"]).ok();
    let ran = second.ran();
    assert_eq!(ran.len(), 1, "{}", second.log);
    assert!(ran[0].contains("RUN echo other"), "{ran:?}");
    assert_eq!(first.image().config["rootfs"], second.image().config["rootfs"]);
}

#[test]
fn without_cache_everything_runs_again() {
    let (bed, context) = bed();
    let _ = bed.build(&context).ok();
    let again = bed.build(&context).args(["--no-cache"]).ok();
    assert!(again.ran().len() >= 7, "{}", again.log);
    let one_stage = bed.build(&context).args(["--no-cache-filter", "deps"]).ok();
    assert!(one_stage.ran().iter().all(|name| name.contains("deps")), "{:?}", one_stage.ran());
}
