//! Steps at the same time, once each, in one process and in several; and their end when the build ends.

use integration_tests::Bed;
use integration_tests::bed::Running;
use integration_tests::meeting::Meeting;

#[test]
fn independent_stages_wait_for_each_other_and_finish() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let text = format!(
        "FROM busybox AS a\nRUN --network=host wget -q -O /a {url}/meet/both/2\nFROM busybox AS b\nRUN --network=host wget -q -O /b {url}/meet/both/2 && true\n\
         FROM busybox\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n"
    );
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let outcome = bed.build(&context).args(["--allow", "network.host"]).ok();
    assert_eq!(outcome.image().file("b").as_deref(), Some(&b"ok\n"[..]));
}

#[test]
fn two_processes_on_one_empty_store_run_each_step_once() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let steps: String = (0..6).map(|n| format!("RUN --network=host wget -q -O /{n} {url}/count/step{n}\n")).collect();
    let text = format!("FROM busybox\n{steps}");
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let build = |n: u32| bed.build(&context).args(["--allow", "network.host"]).output(&bed.path(&format!("{n}.tar"))).start();
    let both = [build(1), build(2)];
    for outcome in both.map(Running::wait) {
        assert_eq!(outcome.code, Some(0), "{}", outcome.log);
        assert_eq!(outcome.image().layers.len(), 7);
    }
    let counts = meeting.counts();
    assert_eq!(counts.len(), 6);
    assert!(counts.values().all(|&count| count == 1), "{counts:?}");
}

#[test]
fn equal_steps_of_two_stages_run_once() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let step = format!("RUN --network=host wget -q -O /x {url}/count/shared");
    let text = format!(
        "FROM busybox AS a\n{step}\nRUN echo a > /a\nFROM busybox AS b\n{step}\nRUN echo b > /b\nFROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    );
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let _ = bed.build(&context).args(["--allow", "network.host"]).ok();
    assert_eq!(meeting.counts()["shared"], 1);
}

#[test]
fn a_failure_ends_the_other_stages_and_all_their_processes() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    // Neither goes on before both run.
    let text = format!(
        "FROM busybox AS long\nRUN --network=host wget -q -O- {url}/meet/started/2 && exec sleep 98765\nFROM busybox AS bad\n\
         RUN --network=host wget -q -O- {url}/meet/started/2; exit 7\nFROM busybox\nCOPY --from=long / /l\nCOPY --from=bad / /b\n"
    );
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let outcome = bed.build(&context).args(["--allow", "network.host"]).run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("exit code: 7"), "{}", outcome.log);
    assert!(outcome.log.contains("Dockerfile:4"), "{}", outcome.log);
    assert!(!anything_runs("98765"), "the other stage's process is still there");
}

#[test]
fn an_interrupt_cancels_the_build_and_reaps_its_processes() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let text = format!("FROM busybox\nRUN --network=host wget -q -O- {url}/meet/running/2 && exec sleep 87654\n");
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let running = bed.build(&context).args(["--allow", "network.host"]).start();
    // The second caller is this test: its answer comes when the step runs.
    let mut stream = std::net::TcpStream::connect(url.trim_start_matches("http://")).expect("the server");
    std::io::Write::write_all(&mut stream, b"GET /meet/running/2 HTTP/1.0\r\n\r\n").expect("the server");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("the server");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.pid()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("ours");
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(130), "{}", outcome.log);
    assert!(!anything_runs("87654"), "the step's process is still there");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&*bed.state().to_string_lossy()), "{mounts}");
}

fn anything_runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    command_lines.into_iter().any(|line| String::from_utf8_lossy(&line).split('\0').any(|arg| arg == word))
}

#[test]
fn layers_are_packed_while_later_steps_run() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let text = format!("FROM busybox\nRUN echo early-marker > /marker\nRUN --network=host wget -q -O /b {}/meet/packed/2\n", meeting.url());
    let context = bed.context("context", &[("Dockerfile", &text)]);
    let build = bed.build(&context).args(["--allow", "network.host"]).start();
    let blobs = bed.state().join("v1/blobs/sha256");
    let is_marker = |entry: std::fs::DirEntry| {
        let mut plain = Vec::new();
        let Ok(packed) = std::fs::read(entry.path()) else { return false };
        // The base is larger by far.
        let read = packed.len() < 100_000 && std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut plain).is_ok();
        read && plain.windows(12).any(|window| window == b"early-marker")
    };
    // The second step runs until the first one's blob is there.
    while !std::fs::read_dir(&blobs).into_iter().flatten().flatten().any(is_marker) {
        std::thread::yield_now();
    }
    meeting.join("packed");
    let outcome = build.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(outcome.image().file("b").as_deref(), Some(&b"ok\n"[..]));
}
