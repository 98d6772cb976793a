//! What steps run on, overlays or copies, makes no difference to the image (DESIGN §6).

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use integration_tests::{Bed, Build, Entry, Image, fixtures};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

const EPOCH: &str = "1700000000";

/// All that overlay does in a way of its own: files of lower layers changed, linked, hidden, replaced and moved; and all that a step is lent.
/// A base of few files, as each copy of the fixture has hundreds of names of one large file.
const DOCKERFILE: &str = "\
FROM busybox AS tools
FROM scratch AS small
COPY --from=tools /bin/busybox /bin/busybox
RUN [\"/bin/busybox\", \"sh\", \"-c\", \"/bin/busybox --install -s /bin && mkdir -m 1777 /tmp && mkdir -p /etc /root\"]
COPY passwd /etc/passwd
FROM small AS build
ADD things.tar /things/
RUN mkdir -p /out/sub && echo one > /out/sub/a && ln /out/sub/a /out/b && chown -R 1000:1001 /out/sub && chmod 4711 /out/b && mkfifo /out/pipe
RUN ln /things/dir/file /linked && ln /out/sub/a /out/c && chmod 640 /out/c && ln -s nowhere /out/link && echo x > /tmp/gone && rm /tmp/gone
RUN chmod 600 /things/dir/same && echo more >> /things/dir/file && chmod 700 /things/ping && mv /things/null /things/nothing
COPY passwd /out/between
RUN chmod g+w /things/far && test ! -e /things/null && mv /things/dir /things/moved
RUN rm -r /things/late && mkdir /things/late && echo new > /things/late/new && cp -a /things/moved /back && rm -r /things/moved && mv /back /things/moved && mkdir /out/d && mkdir /empty
RUN rm -r /empty /out/pipe && mkdir /empty && touch /empty && echo y > /out/sub/a
RUN --mount=type=cache,target=/cache,uid=1000 mkdir -p /cache/d && echo x >> /cache/d/n && wc -l < /cache/d/n > /count
RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=cache,target=/again/cache,id=/cache,uid=1000 rm -r /cache/d && ls /cache > /none
RUN --mount=type=secret,id=s,uid=1000,mode=0400 su -s /bin/sh user -c 'wc -c < /run/secrets/s' > /size && mkdir -p /run/kept && touch /run/kept/f
RUN --mount=type=bind,from=tools,source=/bin,target=/mnt/bin,rw --mount=type=bind,from=small,source=/etc/passwd,target=/mnt/passwd \\
    rm /mnt/bin/vi && wc -l < /mnt/passwd > /lines && ls /mnt > /mounted
USER 1000:1001
RUN id -u > /tmp/me && mkdir -p /tmp/d/e && echo z > /tmp/d/e/f
FROM small
COPY --from=build /out /count /none /size /lines /mounted /tmp /out/
COPY --from=build /things /things
COPY --from=build /linked /empty /run /back/
RUN rm -r /out/sub && mkdir /out/sub && touch /out/sub/new && rm /bin/vi && mv /things/moved/file /things/moved/again
RUN --network=none cat /proc/net/dev | wc -l > /interfaces && chmod 755 /out /things
";

fn context(bed: &Bed) -> (PathBuf, Build) {
    let files = [("Dockerfile", DOCKERFILE), ("passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/:/bin/sh\n"), ("secret", "hidden\n")];
    let context = bed.context("context", &files);
    std::fs::write(context.join("things.tar"), fixtures::things()).expect("ours");
    let secret = format!("id=s,src={}", context.join("secret").display());
    let build = bed.build(&context).args(["--secret", &secret]);
    (context, build)
}

/// One line an entry; with times if they are to be the same.
fn lines(image: &Image, times: bool) -> Vec<Vec<String>> {
    let line = |entry: &Entry| {
        let time = if times { entry.mtime } else { 0 };
        format!(
            "{} {} {:o} {:?} {:?} {time}",
            entry.path,
            entry.kind as char,
            entry.mode,
            entry.owner,
            if entry.kind == b'0' { &[][..] } else { &entry.data }
        )
    };
    image.layers.iter().map(|layer| layer.iter().map(line).collect()).collect()
}

fn assert_same(name: &str, image: &Image, other: &Image) {
    for (number, (ours, theirs)) in lines(image, true).iter().zip(lines(other, true)).enumerate() {
        assert_eq!(*ours, theirs, "{name}: layer {number}");
    }
    assert_eq!(image.digest, other.digest, "{name}: what the entries do not show differs");
}

/// Words that run a build where the store is on an overlay, as in a container: `dir` has its layers, and the build's store is `dir/store`.
fn on_overlay(dir: &std::path::Path, uid: u32) -> [String; 6] {
    let script = format!(
        "cd {} && mkdir -p lower upper work store && chown {uid} upper work store && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work store && exec \"$@\"",
        dir.display()
    );
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
}

#[test]
fn e2_1_overlays_and_copies_give_one_image() {
    let bed = Bed::with_registry();
    let (_context, build) = context(&bed);
    let build = build.env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    assert_eq!(root.file("out/mounted").as_deref(), Some(&b"bin\npasswd\n"[..]));
    assert_eq!(root.file("out/size").as_deref(), Some(&b"7\n"[..]));
    assert_eq!(root.file("out/none").as_deref(), Some(&b""[..]));

    let copy = build.clone().args(["--snapshotter", "copy"]);
    let outcome = copy.clone().state(&bed.path("copied")).output(&bed.path("copy.tar")).ok();
    assert!(!outcome.log.contains("copy snapshots"), "nobody is told what they asked for: {}", outcome.log);
    assert_same("copies", &outcome.image(), &root);
    assert_eq!(std::fs::read_dir(bed.path("copied/v1/tmp")).expect("a store").count(), 0, "something temporary stays");

    assert_same("an ordinary user", &build.clone().as_user(USER).ok().image(), &root);
    let user = copy.as_user(USER);
    let state = user.home().join("copied");
    assert_same("copies of an ordinary user", &user.state(&state).ok().image(), &root);
}

#[test]
fn e2_1_a_store_on_an_overlay_gives_the_same_image() {
    let bed = Bed::with_registry();
    let (_context, build) = context(&bed);
    let build = build.env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    let note = "copy snapshots: the store's file system is overlay, which can't be the top of an overlay; \
                put RBUILD_ROOT on ext4, xfs, btrfs or tmpfs for faster steps";
    for (name, user) in [("root", None), ("an ordinary user", Some(USER))] {
        let build = user.map_or_else(|| build.clone().output(&bed.path("overlay.tar")), |user| build.clone().as_user(user));
        let (dir, uid) = match user {
            None => (bed.path("machine"), 0),
            Some(_) => (build.home().join("machine"), std::fs::metadata(build.home()).expect("home").uid()),
        };
        std::fs::create_dir(&dir).expect("ours");
        let build = build.under(on_overlay(&dir, uid)).state(&dir.join("store/state"));
        let outcome = build.ok();
        assert_eq!(outcome.log.matches(note).count(), 1, "{}", outcome.log);
        assert_same(name, &outcome.image(), &root);
        assert_eq!(build.ok().ran(), [""; 0], "{name}: all of it is found again");
        let store = dir.join("upper/state/v1");
        let layers = std::fs::read_dir(store.join("layers")).expect("a store");
        assert!(layers.map(|layer| layer.expect("entry").path()).any(|layer| layer.join("whiteouts").exists()), "removals are listed");
        assert_eq!(std::fs::read_dir(store.join("tmp")).expect("a store").count(), 0, "something temporary stays");
        // An overlay of such layers would show what they removed.
        let forced = build.clone().args(["--snapshotter", "overlay", "--no-cache"]).run();
        assert_eq!(forced.code, Some(3), "{}", forced.log);
        assert!(forced.log.contains("not supported as upperdir\n") && forced.log.contains("help: put the store on"), "{}", forced.log);
        assert!(!forced.log.contains("e overlay:") && !forced.log.contains("os error"), "{}", forced.log);
    }
}

#[test]
fn d10_without_an_epoch_nothing_but_times_differs() {
    let bed = Bed::with_registry();
    let (_context, build) = context(&bed);
    let overlay = build.clone().output(&bed.path("overlay.tar")).ok().image();
    let copy = build.args(["--snapshotter", "copy"]).state(&bed.path("copied")).output(&bed.path("copy.tar")).ok().image();
    assert_eq!(lines(&copy, false), lines(&overlay, false));
}
