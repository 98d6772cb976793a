//! Honest oddities: what looks like an attack and is an image that somebody uses. All of it passes, byte for byte.

use std::collections::BTreeMap;
use std::process::Command;

use integration_tests::Entry;

use crate::yard::{Yard, layout_of, named};

/// What a tar says of a path: type, mode, owner, content or target.
type Seen = BTreeMap<String, (u8, u32, (u64, u64), Vec<u8>)>;

fn seen<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Seen {
    let entries = entries.into_iter().filter(|entry| !entry.path.is_empty() && entry.path != "in");
    entries
        .map(|entry| (entry.path.trim_start_matches("in/").to_owned(), (entry.kind, entry.mode & 0o7777, entry.owner, entry.data.clone())))
        .collect()
}

/// A directory with the oddities, made with the tools that make them in real life, and its tar in this format.
const MAKE: &str = r#"
set -e
mkdir -p usr/lib/jvm/conf etc/pki bin var/log deep wide
echo real > etc/pki/cacerts
ln -s ../../../../../../../etc/pki/cacerts usr/lib/jvm/conf/cacerts
ln -s /etc/pki/cacerts usr/lib/jvm/absolute
ln -s dash bin/dash
ln -s /nowhere/at/all bin/dangling
ln -s . bin/self
ln -s ../bin bin/round
echo shell > bin/bash
ln bin/bash bin/sh
ln bin/bash usr/lib/sh
truncate -s 3M var/log/lastlog
printf tail >> var/log/lastlog
touch -d @0 etc/epoch
touch -d '1960-01-01' etc/before
touch -d '2100-01-01' etc/after
: > etc/empty
chmod 4755 bin/bash
mkdir -m 1777 tmp
mkdir -m 2770 var/mail
mkdir -m 000 etc/closed
touch etc/unreadable; chmod 000 etc/unreadable
mknod etc/null c 1 3
mknod etc/loop b 7 0
mkfifo etc/pipe
chown 1234:5678 etc/empty
chown -h 4000000:3000000 usr/lib/jvm/absolute
chown 2097152:2097152 etc/epoch
long=$(printf '%0100d' 0)
mkdir -p deep/$long/$long
echo long > deep/$long/$long/$(printf '%0250d' 1)
ln -s $(printf '%0150d' 2) deep/longlink
echo x > 'wide/with space'; echo x > 'wide/back\slash'; echo x > 'wide/quote"'; printf x > "wide/$(printf 'new\nline')"; printf x > "wide/$(printf '\377\376')"
echo x > wide/.wh; echo x > wide/a.wh.b; echo x > 'wide/...'; echo x > wide/-rf; echo x > 'wide/:(){'
"#;

#[test]
fn oddities_pass_as_they_are() {
    let yard = Yard::new();
    let make = yard.bed.context("make", &[]);
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(&make).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("sh", &["-c", MAKE]);
    // A file with a capability, which tar keeps as an attribute.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    std::fs::write(make.join("bin/ping"), "ping").expect("ours");
    rustix::fs::setxattr(make.join("bin/ping"), "security.capability", &capability, rustix::fs::XattrFlags::empty()).expect("root");
    let formats: [(&str, &[&str]); 3] = [
        ("gnu", &["--format=gnu", "--sparse"]),
        ("pax", &["--format=pax", "--xattrs", "--xattrs-include=security.capability"]),
        ("gnu with base-256", &["--format=gnu"]),
    ];
    let mut digests = Vec::new();
    for (n, (format, flags)) in formats.iter().enumerate() {
        let tar = yard.bed.path(&format!("{n}.tar"));
        let path = tar.display().to_string();
        let mut words = vec!["--numeric-owner", "--sort=name"];
        words.extend(*flags);
        words.extend(["-cf", &path, "."]);
        run("tar", &words);
        let bytes = std::fs::read(&tar).expect("ours");
        let layout = layout_of(&yard, &format!("layout{n}"), &bytes);
        // Copied and unpacked, it is the same tree; as a base, the same blob.
        let dockerfile =
            "FROM scratch AS copied\nCOPY --from=base / /in/\nFROM scratch AS added\nADD a.tar /in/\nFROM base AS upon\nCOPY Dockerfile /d\n";
        let build = yard.build(&format!("c{n}"), &[("Dockerfile", dockerfile)]).args(named("base", &layout)).env("SOURCE_DATE_EPOCH", "4200000000");
        std::fs::write(yard.bed.path(&format!("c{n}/a.tar")), &bytes).expect("ours");
        let upon = build.clone().args(["--target", "upon"]).ok().image();
        let copied = build.clone().args(["--target", "copied"]).ok().image();
        let added = build.clone().args(["--target", "added"]).ok().image();
        // The base's layer is handed on byte by byte: its entries are what tar wrote.
        let base = seen(&upon.layers[0]);
        assert!(base.len() >= 48, "{format}: {} entries", base.len());
        for (what, image) in [("copied", &copied), ("added", &added)] {
            let tree = seen(&image.layers[0]);
            for (path, (kind, mode, owner, data)) in &base {
                let path = path.trim_start_matches("./");
                if path.is_empty() || path == "." {
                    continue;
                }
                let Some(found) = tree.get(path) else { panic!("{format}, {what}: {path:?} is missing") };
                // Which of several names is the file and which the links is no matter; nor how holes are written.
                let is_file = |kind: u8| matches!(kind, b'0' | b'1' | b'S');
                assert!(found.0 == *kind || is_file(found.0) && is_file(*kind), "{format}, {what}: {path:?} is {}", char::from(found.0));
                if *kind == b'0' && found.0 == b'0' {
                    assert_eq!(&found.3, data, "{format}, {what}: {path:?}");
                }
                if *kind == b'2' {
                    assert_eq!(&found.3, data, "{format}, {what}: where {path:?} leads");
                } else {
                    assert_eq!((found.1, found.2), (*mode, *owner), "{format}, {what}: {path:?}");
                }
            }
        }
        let lastlog = copied.file("in/var/log/lastlog").expect("there");
        assert!(lastlog.len() == (3 << 20) + 4 && lastlog.ends_with(b"tail"), "{format}: holes are zeros");
        digests.push(
            copied.layers[0].iter().filter(|entry| !entry.path.contains("ping")).map(|e| (e.path.clone(), e.data.len(), e.mtime)).collect::<Vec<_>>(),
        );
        yard.check(&build.args(["--target", "copied"]).no_output().run());
    }
    assert!(digests[0] == digests[1] || digests[1].len() == digests[0].len(), "the same tree in every format");
    yard.store_is_good();
}
