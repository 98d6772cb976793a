//! What only rbuild understands, built by the real binary.

use integration_tests::Bed;

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
