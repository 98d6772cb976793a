//! Files that layers share: nobody can tell, neither a step that changes one of two names, nor one that runs while the other is made, nor an image.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use integration_tests::Bed;
use integration_tests::meeting::Meeting;

/// A stage with three files in /out.
const GEN: &str = "FROM busybox AS gen\nRUN mkdir /out && cd /out && echo one > a && echo two > b && echo three > c\n";

/// How many inodes of regular files in the layers of the store have names in more than one layer.
fn shared(state: &Path) -> usize {
    let mut layers_of: HashMap<(u64, u64), Vec<String>> = HashMap::new();
    for layer in fs::read_dir(state.join("v1/layers")).expect("layers") {
        let layer = layer.expect("a layer");
        let mut todo = vec![layer.path().join("fs")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let entry = entry.expect("an entry");
                let stat = entry.metadata().expect("stat");
                if stat.is_dir() {
                    todo.push(entry.path());
                } else if stat.is_file() {
                    layers_of.entry((stat.dev(), stat.ino())).or_default().push(layer.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    layers_of.values().filter(|layers| layers.iter().any(|layer| *layer != layers[0])).count()
}

#[test]
fn a_step_that_changes_one_of_two_names_changes_nothing_else() {
    let bed = Bed::with_registry();
    let copied = format!("{GEN}FROM busybox AS copied\nCOPY --from=gen /out /x\n");
    let changes = "FROM copied AS changed\nRUN cd /x && echo more >> a && chmod 600 b && touch -d @5 c && stat -c %h a > links\n";
    let result = "FROM busybox\nCOPY --from=changed /x /changed\nCOPY --from=copied /x /copied\nCOPY --from=gen /out /gen\n";
    let context = bed.context("context", &[("Dockerfile", &format!("{copied}{changes}{result}"))]);
    let image = bed.build(&context).ok().image();
    assert!(shared(&bed.state()) >= 3, "nothing was linked");
    let text = |path: &str| image.file(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(text("changed/a").as_deref(), Some("one\nmore\n"));
    for dir in ["copied", "gen"] {
        for (name, content) in [("a", "one\n"), ("b", "two\n"), ("c", "three\n")] {
            assert_eq!(text(&format!("{dir}/{name}")).as_deref(), Some(content), "{dir}/{name}");
        }
    }
    let check = "FROM busybox\nCOPY --from=copied /x /x\nRUN [ \"$(stat -c %a /x/b)\" = 644 ] && [ \"$(stat -c %Y /x/c)\" != 5 ]\n";
    let context = bed.context("context", &[("Dockerfile", &format!("{copied}{check}"))]);
    let _ = bed.build(&context).no_output().ok();
}

/// Layers come to lie on others than they were made on: with `--link`, or by equal content.
#[test]
fn a_stack_that_would_show_one_inode_twice_shows_two() {
    let bed = Bed::with_registry();
    // The copy onto nothing links; the layer it makes is then found again for the stage it was copied from.
    let onto_nothing = format!("{GEN}FROM scratch\nCOPY --from=gen /out /x\n");
    let context = bed.context("context", &[("Dockerfile", &onto_nothing)]);
    let _ = bed.build(&context).no_output().ok();
    assert_eq!(shared(&bed.state()), 3);
    let look = "[ \"$(stat -c %i /out/a)\" != \"$(stat -c %i /x/a)\" ]";
    let twice = format!("{GEN}FROM gen\nCOPY --link --from=gen /out /x\nRUN {look}\nRUN echo more >> /x/a && rm /x/b && cat /out/a /x/a > /both\n");
    let context = bed.context("context", &[("Dockerfile", &twice)]);
    let image = bed.build(&context).ok().image();
    assert_eq!(image.file("both").as_deref(), Some(&b"one\none\nmore\n"[..]));
    assert_eq!(image.file("out/a").as_deref(), Some(&b"one\n"[..]));
    assert_eq!((image.file("out/b").as_deref(), image.file("x/a").as_deref()), (Some(&b"two\n"[..]), Some(&b"one\nmore\n"[..])));
}

/// Waits until all are there.
fn meet(meeting: &Meeting, name: &str) {
    let url = meeting.url();
    let host = url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(host).expect("connected");
    write!(stream, "GET /meet/{name}/2 HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.contains("ok"), "{answer}");
}

#[test]
fn what_a_running_step_sees_gets_no_further_name() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    let url = meeting.url();
    let step = format!(
        "FROM gen\nRUN --network=host stat -c '%n %z %h' /out/* > /before && wget -q -O /dev/null {url}/meet/begun/2 && wget -q -O /dev/null {url}/meet/end/2 \
         && stat -c '%n %z %h' /out/* > /after && cmp /before /after\n"
    );
    let running = bed.context("running", &[("Dockerfile", &format!("{GEN}{step}"))]);
    let copying = bed.context("copying", &[("Dockerfile", &format!("{GEN}FROM scratch\nCOPY --from=gen /out /x\n"))]);
    let step = bed.build(&running).args(["--allow", "network.host"]).no_output().start();
    meet(&meeting, "begun");
    let image = bed.build(&copying).ok().image();
    assert_eq!(image.file("x/a").as_deref(), Some(&b"one\n"[..]));
    assert_eq!(shared(&bed.state()), 0);
    meet(&meeting, "end");
    let outcome = step.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    // When nothing runs, the same copy to another place links.
    let copying = bed.context("copying", &[("Dockerfile", &format!("{GEN}FROM scratch\nCOPY --from=gen /out /y\n"))]);
    let _ = bed.build(&copying).ok();
    assert_eq!(shared(&bed.state()), 3);
}

#[test]
fn the_next_version_of_a_context_gives_the_image_that_an_empty_store_gives() {
    let bed = Bed::with_registry();
    let files: Vec<(String, String)> = (0..30).map(|n| (format!("src/d{}/f{n}", n % 4), format!("content {n}\n"))).collect();
    let mut all: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    all.push(("Dockerfile", "FROM busybox\nCOPY . /src\nRUN cat /src/src/*/* > /all\n"));
    let context = bed.context("context", &all);
    let build = || bed.build(&context).env("SOURCE_DATE_EPOCH", "1700000000");
    let _ = build().ok();
    assert_eq!(shared(&bed.state()), 0);
    fs::write(context.join("src/d1/f1"), "changed\n").expect("written");
    fs::remove_file(context.join("src/d2/f2")).expect("removed");
    let linked = build().ok().image();
    assert_eq!(shared(&bed.state()), 29, "28 files and the Dockerfile");
    let fresh = build().state(&bed.path("empty")).ok().image();
    assert_eq!(shared(&bed.path("empty")), 0);
    assert_eq!(linked.digest, fresh.digest);
}
