//! Contexts that cannot be read or that change under a build (`features.md` B3): an error that names the path and the remedy, never another image.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use integration_tests::inject::{self, Fault, Report};
use integration_tests::{Bed, Outcome};

/// The first call at which the file is opened reads it for its digest, the second copies it.
const OPENED: &str = "openat2 src/f";

fn with_change(bed: &Bed, at: usize, line: &str) -> (Outcome, Report) {
    let fault = Fault::Shell { at, line: line.to_owned(), site: OPENED.to_owned() };
    let report = bed.path("report");
    let outcome = inject::with(bed.build(&bed.path("context")), &fault, &report).run();
    let report = Report::read(&report);
    (outcome, report)
}

#[test]
fn a_file_that_changes_between_digest_and_copy_is_named() {
    let changes = [
        ("other bytes", "echo HELLO > src/f"),
        ("longer", "echo more >> src/f"),
        ("shorter", ": > src/f"),
        ("gone", "rm src/f"),
        ("a directory", "rm src/f; mkdir src/f"),
        ("a link out of the context", "ln -sf /etc/passwd src/f"),
        ("replaced by an equal one", "cp src/f src/g; mv src/g src/f"),
        ("its directory gone", "rm -r src"),
        ("its directory a link", "mv src real; ln -s real src"),
        ("touched", "touch -d '2001-01-01' src/f"),
    ];
    for (what, line) in changes {
        // Before it is opened to be copied; and after it was looked at, before it is read for its digest.
        for at in [2, 1] {
            let bed = Bed::with_registry();
            let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/f", "hello\n"), ("src/other", "")]);
            let (outcome, report) = with_change(&bed, at, &format!("cd {} && {line}", context.display()));
            let what = format!("{what}, at {at}");
            assert!(report.hit.is_some(), "{what}: not opened so often: {}", outcome.log);
            assert_eq!(outcome.code, Some(1), "{what}: {}", outcome.log);
            assert!(outcome.log.contains("/src/f changed in the build context"), "{what}: {}", outcome.log);
            assert!(outcome.log.contains("help: run the build again"), "{what}: {}", outcome.log);
            // What is there now is built, exactly.
            let next = bed.build(&context).run();
            let now = fs::read(context.join("src/f")).ok().filter(|_| !context.join("src/f").is_symlink());
            match (now, next.code) {
                (Some(bytes), Some(0)) => assert_eq!(next.image().file("src/f"), Some(bytes), "{what}"),
                (None, Some(0)) => assert!(next.image().layers.concat().iter().all(|entry| entry.kind != b'0' || entry.data.is_empty()), "{what}"),
                (_, code) => assert!(code == Some(1) && next.log.contains("not found"), "{what}: {}", next.log),
            }
        }
    }
}

/// A file that something appends to while it is copied, faster than it is read.
#[test]
fn a_file_that_grows_while_it_is_copied_is_named() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/f", "")]);
    fs::write(context.join("src/f"), vec![7; 3_000_000]).expect("ours");
    let line = format!("dd if=/dev/zero bs=1M count=64 2>/dev/null >> {}", context.join("src/f").display());
    // Where its bytes are written, as another store shows.
    let listed = bed.path("listed");
    let _ = inject::with(bed.build(&context).state(&bed.path("other")), &Fault::List, &listed).ok();
    let sites = Report::read(&listed).sites;
    let site = sites.keys().find(|site| site.starts_with("write ") && site.ends_with("/fs/src/f")).expect("it is copied");
    let fault = Fault::Shell { at: 1, line, site: site.replace("/other/", "/state/") };
    let report = bed.path("report");
    let outcome = inject::with(bed.build(&context), &fault, &report).run();
    let report = Report::read(&report);
    assert!(report.hit.is_some(), "{}", outcome.log);
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("/src/f changed") && outcome.log.contains("help: "), "{}", outcome.log);
}

#[test]
fn an_unreadable_file_counts_only_if_it_is_selected() {
    let user = "rbuild-test";
    let bed = Bed::with_registry();
    let context =
        bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY open /\n"), ("open/f", "hello\n"), ("closed", "secret"), ("dir/f", "")]);
    fs::set_permissions(context.join("closed"), fs::Permissions::from_mode(0o000)).expect("ours");
    fs::set_permissions(context.join("dir"), fs::Permissions::from_mode(0o000)).expect("ours");
    assert_eq!(bed.build(&context).as_user(user).ok().image().file("f").as_deref(), Some(&b"hello\n"[..]));
    for (source, named) in [("closed", "closed"), ("dir", "dir"), (".", "closed")] {
        fs::write(context.join("Dockerfile"), format!("FROM scratch\nCOPY {source} /x/\n")).expect("ours");
        let outcome = bed.build(&context).as_user(user).run();
        assert_eq!(outcome.code, Some(1), "{source}: {}", outcome.log);
        let path = context.join(named).display().to_string();
        assert!(outcome.log.contains(&format!("cannot read {path}: Permission denied")) || source == ".", "{source}: {}", outcome.log);
        assert!(outcome.log.contains("Permission denied") && outcome.log.contains("make it readable"), "{source}: {}", outcome.log);
    }
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY . /x/\n").expect("ours");
    fs::write(context.join(".dockerignore"), "closed\ndir\n").expect("ours");
    let image = bed.build(&context).as_user(user).ok().image();
    assert_eq!(image.file("x/open/f").as_deref(), Some(&b"hello\n"[..]));
    assert_eq!(image.file("x/closed"), None);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_named() {
    let user = "rbuild-test";
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "hello\n"), ("d/e", "")]);
    let closed = bed.path("closed");
    fs::create_dir(&closed).expect("ours");
    chown(&closed, Some(0), Some(0)).expect("root");
    let place = closed.display();
    for output in [format!("type=oci,dest={place}/image.tar"), format!("type=local,dest={place}"), format!("type=oci,tar=false,dest={place}/layout")]
    {
        let outcome = bed.build(&context).as_user(user).no_output().args(["-o", &output]).run();
        assert_eq!(outcome.code, Some(1), "{output}: {}", outcome.log);
        assert!(outcome.log.contains(&*closed.to_string_lossy()) && outcome.log.contains("Permission denied"), "{output}: {}", outcome.log);
        assert_eq!(fs::read_dir(&closed).expect("list").count(), 0, "{output}");
    }
    for flag in ["--metadata-file", "--iidfile"] {
        let outcome = bed.build(&context).as_user(user).args([flag, &format!("{place}/file")]).run();
        assert_eq!(outcome.code, Some(1), "{flag}: {}", outcome.log);
        assert!(outcome.log.contains(&format!("{place}/file")) && outcome.log.contains("Permission denied"), "{flag}: {}", outcome.log);
    }
}
