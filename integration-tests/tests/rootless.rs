//! Builds by an ordinary user: the same images as root's, without root (`features.md` E2).

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use integration_tests::{Bed, Entry, fixtures};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// A user whom the machine does not know, and who so has no subordinate ids.
const NOBODY: &str = "54321";

const EPOCH: &str = "1700000000";

/// Everything whose representation on disk differs between root and a user namespace.
const DOCKERFILE: &str = "\
FROM busybox AS build
ADD things.tar /things/
RUN mkdir -p /out/sub && echo one > /out/sub/a && ln /out/sub/a /out/b && chown -R 1000:1001 /out/sub && chmod 4711 /out/b && mkfifo /out/pipe
RUN mv /things/null /things/nothing && chmod 600 /things/nothing && touch -h /things/late && chmod g+w /things/far
RUN --mount=type=cache,target=/cache,uid=1000 mkdir -p /cache/d && echo x >> /cache/d/n && wc -l < /cache/d/n > /count
RUN --mount=type=cache,target=/cache,uid=1000 rm -r /cache/d && mkdir /cache/d && ls /cache/d > /empty
RUN --mount=type=secret,id=s,uid=1000,mode=0400 su -s /bin/sh user -c 'wc -c < /run/secrets/s' > /secret-size && stat -c %u:%a /run/secrets/s >> /secret-size
USER 1000:1001
RUN id -u > /tmp/me; id -g >> /tmp/me; touch /not-mine 2> /dev/null || echo refused >> /tmp/me
FROM busybox
COPY --from=build /out /count /empty /secret-size /tmp/me /out/
COPY --from=build /things /things
COPY --from=build --chown=1000:5 --chmod=2755 /out/sub /own/deep/
RUN rm -r /out/sub && mkdir /out/sub && touch /out/sub/new && rm /bin/vi && mv /things/dir/file /things/dir/moved && mknod /out/c c 1 3 2> /dev/null; rm -f /out/c
RUN --network=none cat /proc/net/dev | wc -l > /interfaces && ls /sys/class/net >> /interfaces
";

#[test]
fn e2_1_the_image_is_the_same_as_roots() {
    let bed = Bed::with_registry();
    let dockerfile = DOCKERFILE.replace("RUN --mount=type=secret", "RUN echo user:x:1000:1001::/:/bin/sh >> /etc/passwd\nRUN --mount=type=secret");
    let context = bed.context("context", &[("Dockerfile", &dockerfile), ("secret", "hidden\n")]);
    std::fs::write(context.join("things.tar"), fixtures::things()).expect("ours");
    let secret = format!("id=s,src={}", context.join("secret").display());
    let build = bed.build(&context).args(["--secret", &secret]).env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    let own = build.clone().as_user(USER);
    let outcome = own.ok();
    assert!(!outcome.log.contains("WARNING"), "{}", outcome.log);
    let user = outcome.image();

    assert_eq!(String::from_utf8(user.file("out/me").expect("made")).expect("text"), "1000\n1001\nrefused\n");
    assert_eq!(user.file("out/count").as_deref(), Some(&b"1\n"[..]));
    assert_eq!(user.file("out/secret-size").as_deref(), Some(&b"7\n1000:400\n"[..]));
    for (ours, theirs) in user.layers.iter().zip(&root.layers) {
        let names = |layer: &[Entry]| {
            layer
                .iter()
                .map(|entry| format!("{} {} {:o} {:?} {}", entry.path, entry.kind as char, entry.mode, entry.owner, entry.mtime))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(ours), names(theirs));
    }
    assert_eq!(user.digest, root.digest, "what the entries do not show differs: attributes, contents, device numbers");

    // All of it is found again, and nothing is left behind.
    let again = own.ok();
    assert_eq!(again.ran(), [""; 0], "{}", again.log);
    let state = own.home().join("state");
    assert_eq!(std::fs::metadata(&state).expect("made").mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(state.join("v1/tmp")).expect("a store").count(), 0, "something temporary stays");
}

#[test]
fn e2_1_one_id_is_enough_for_builds_without_run() {
    let bed = Bed::with_registry();
    let text = "\
FROM busybox AS first
COPY --chown=1000:5 dir /home/dir
COPY --chown=7 a /home/dir/sub/
ADD things.tar /things
FROM first
WORKDIR /home/dir/new
COPY b /home/dir/
COPY --from=first /things /again
COPY --from=first --chown=9 /home/dir /own
";
    let context = bed.context("context", &[("Dockerfile", text), ("dir/x", "x"), ("a", "a"), ("b", "b")]);
    std::fs::write(context.join("things.tar"), fixtures::things()).expect("ours");
    let build = bed.build(&context).env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    let outcome = build.as_user(NOBODY).ok();
    let user = outcome.image();
    for (ours, theirs) in user.layers.iter().zip(&root.layers) {
        let owners = |layer: &[Entry]| layer.iter().map(|entry| format!("{} {:?}", entry.path, entry.owner)).collect::<Vec<_>>();
        assert_eq!(owners(ours), owners(theirs));
    }
    assert_eq!(user.digest, root.digest);
    let warning = "WARNING: only user 0 is available to steps, and none of their programs can become another: /etc/subuid has no ids for user 54321; as root, add the \
                   line `54321:100000:65536` to /etc/subuid and to /etc/subgid\n";
    assert!(outcome.log.contains(warning), "{}", outcome.log);
}

#[test]
fn e2_1_with_one_id_steps_run_as_root_only() {
    let bed = Bed::with_registry();
    let text = "FROM busybox\nCOPY --chown=1000 a /a\nRUN echo b >> /a; rm -r /home/x /var/x; mkdir -p /x && echo $(id -u) > /x/y; rm -r /usr && mkdir /usr\n";
    let context = bed.context("context", &[("Dockerfile", text), ("a", "a\n")]);
    let build = bed.build(&context).env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    assert_eq!(build.as_user(NOBODY).ok().image().digest, root.digest);

    let other = bed.context("other", &[("Dockerfile", "FROM busybox\nRUN su -s /bin/sh nobody -c true\n")]);
    let failed = bed.build(&other).as_user(NOBODY).run();
    assert!(failed.code == Some(1) && failed.log.contains("Operation not permitted"), "{}", failed.log);
    let why = "if it wanted to become another user: here there is only user 0, because /etc/subuid has no ids for user 54321; as root, add the line";
    assert!(failed.log.contains(why), "{}", failed.log);

    let user = bed.context("user", &[("Dockerfile", "FROM busybox\nUSER 1000\nRUN true\n")]);
    let failed = bed.build(&user).as_user(NOBODY).run();
    let lines = [
        "ERROR: failed to build: failed to solve: cannot become user 1000:0: Invalid argument\n",
        "help: without subordinate ids there is only user 0: /etc/subuid has no ids for user 54321; as root, add the line `54321:100000:65536`",
    ];
    assert!(failed.code == Some(3) && lines.iter().all(|line| failed.log.contains(line)), "{}", failed.log);
}

/// What Dockerfiles do with owners, and what looks at them afterwards.
const OWNERS: &str = "\
FROM busybox AS base
COPY --chown=70:71 tree /srv/tree
RUN echo app:x:1000:1001::/app:/bin/sh >> /etc/passwd && echo app:x:1001: >> /etc/group && mkdir -p /app/sub /link && touch /app/f /app/sub/g && ln -s g /app/sub/l && ln /app/f /app/h && chown -R app:app /app
RUN chown -h 5:6 /app/sub/l && chown 7 /app/sub/g && chown :8 /app/sub/g && mkfifo /app/p && chown 9 /app/p && chown app /app/sub/../sub
RUN touch /app/s && chmod 6755 /app/s && chown 12:13 /app/s && cp /etc/passwd /app/i && chown app:50 /app/i && chmod 640 /app/i && cp -a /app /copy && mv /app/sub /app/moved
RUN tar cf /t.tar -C /copy . && mkdir /out && tar xf /t.tar -C /out && rm /t.tar && chown root:root /out/f && chown -R 0:0 /out/sub
RUN cd /out && find . -user app | sort > /found && stat -c '%n %u:%g %a' . f h i s sub sub/l ../app/moved/l /srv/tree/x /copy/p > /stats && ls -ln / > /dev/null && test -O /out/f
RUN --mount=type=tmpfs,target=/mnt mkdir /mnt/a && ln -s a /mnt/l && chown 3:4 /mnt/a && chown -h 3:4 /mnt/l && stat -c %u:%g /mnt/a /mnt/l > /memory
RUN mkdir -p /jail/bin /jail/d && cp /bin/busybox /jail/bin/sh && ln /jail/bin/sh /jail/bin/chown && chown 21 /jail/d && ln -s /d /jail/to && chroot /jail /bin/sh -c 'cd /d && /bin/chown 23:24 ../to && : > f && /bin/chown 25 f ../../../bin/sh'
RUN mv /srv/tree /srv/moved && mkdir /srv/tree && rm -r /copy && chown 4294967294:5 /found && ! chown 1 /nothing && ! chown 1 /sys/kernel
FROM base
COPY --from=base /app /again
";

#[test]
fn e2_1_with_one_id_files_are_given_to_others() {
    let bed = Bed::with_registry();
    let context = bed.context("owners", &[("Dockerfile", OWNERS), ("tree/x", "x"), ("tree/y/z", "z")]);
    let build = bed.build(&context).env("SOURCE_DATE_EPOCH", EPOCH);
    let root = build.clone().output(&bed.path("root.tar")).ok().image();
    let user = build.as_user(NOBODY).ok().image();
    for name in ["found", "stats", "memory"] {
        let text = |image: &integration_tests::Image| String::from_utf8(image.file(name).expect(name)).expect("text");
        assert_eq!(text(&user), text(&root), "{name}");
        assert!(!text(&root).is_empty(), "{name}");
    }
    for (number, (ours, theirs)) in user.layers.iter().zip(&root.layers).enumerate() {
        let owners = |layer: &[Entry]| layer.iter().map(|entry| format!("{} {:?} {:o}", entry.path, entry.owner, entry.mode)).collect::<Vec<_>>();
        assert_eq!(owners(ours), owners(theirs), "layer {number}");
    }
    assert_eq!(user.digest, root.digest);
}

#[test]
fn e2_1_packages_are_installed_with_a_user_of_their_own() {
    let bed = Bed::with_registry();
    bed.registry().push(&fixtures::debian(), "library/debian:test");
    // apt drops to the user _apt for downloads, changes owners and dates, and replaces files of lower layers.
    let text =
        "FROM debian:test\nRUN apt-get update -q && apt-get install -q -y --no-install-recommends less && install -o _apt -m 600 /dev/null /by-apt\n";
    let context = bed.context("context", &[("Dockerfile", text)]);
    // Without subordinate ids apt downloads as root, and gives files to `_apt` all the same.
    let one_id = bed.build(&context).as_user(NOBODY).ok().image();
    let image = bed.build(&context).as_user(USER).ok().image();
    // Its own directories for downloads excepted, which are root's then.
    let downloads = ["var/cache/apt/archives/partial", "var/lib/apt/lists/auxfiles", "var/lib/apt/lists/partial"];
    let others = |layer: &[Entry]| layer.iter().filter(|entry| !downloads.contains(&entry.path.as_str())).cloned().collect::<Vec<_>>();
    let owners = |layer: &[Entry]| others(layer).iter().map(|entry| format!("{} {:?} {:o}", entry.path, entry.owner, entry.mode)).collect::<Vec<_>>();
    assert_eq!(owners(&one_id.layers[1]), owners(&image.layers[1]));
    let installed = &image.layers[1];
    let entry = |path: &str| installed.iter().find(|entry| entry.path == path).unwrap_or_else(|| panic!("{path} is not in the layer"));
    assert_eq!(entry("usr/bin/less").owner, (0, 0));
    assert!(entry("by-apt").owner.0 != 0);
}

#[test]
fn d5_what_is_exported_belongs_to_the_user() {
    let bed = Bed::with_registry();
    let context = bed.context(
        "context",
        &[("Dockerfile", "FROM busybox AS b\nRUN mkdir -p /o/d && touch /o/d/f && chown -R 7:8 /o\nFROM scratch\nCOPY --from=b /o /\n")],
    );
    let build = bed.build(&context).no_output().as_user(USER);
    let (local, tar) = (build.home().join("local"), build.home().join("files.tar"));
    let _ = build.args(["-o", &format!("type=local,dest={}", local.display()), "-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let owner = std::fs::metadata(local.parent().expect("home")).expect("home").uid();
    for path in [&local, &local.join("d"), &local.join("d/f"), &tar] {
        assert_eq!(std::fs::metadata(path).expect("exported").uid(), owner, "{}", path.display());
    }
}

#[test]
fn e2_2_a_store_is_not_used_with_other_ids() {
    let bed = Bed::with_registry();
    let context = bed.context("context", &[("Dockerfile", "FROM busybox\nCOPY Dockerfile /\n")]);
    let user = bed.build(&context).no_output().as_user(USER);
    let _ = user.ok();
    let root = bed.build(&context).no_output().state(&user.home().join("state")).run();
    assert!(root.code == Some(1) && root.log.contains("was made with other user ids"), "{}", root.log);
    assert!(root.log.contains("use another one (--root or RBUILD_ROOT), or remove it"), "{}", root.log);
    let doctor = bed.build(&context).state(&user.home().join("state")).doctor();
    assert!(doctor.code == Some(3) && doctor.stdout.contains("was made with other user ids"), "{}", doctor.stdout);
}

#[test]
fn e2_4_in_a_container_without_a_whole_proc_steps_run_all_the_same() {
    let bed = Bed::with_registry();
    let text = "FROM busybox\nRUN test -e /proc/self/status && ! touch /proc/sys/kernel/x && ls /sys > /sys-of && rm /bin/vi\n";
    let context = bed.context("context", &[("Dockerfile", text)]);
    // As a container's engine does it: something is mounted over a part of /proc, and out of reach of the namespace inside.
    let script = "mount -o bind /proc/sys /proc/sys && exec unshare --map-root-user --mount -- \"$@\"";
    let inside = ["unshare", "--map-auto", "--map-root-user", "--mount", "--", "sh", "-c", script, "sh"];
    let image = bed.build(&context).as_user(USER).through(inside).ok().image();
    assert!(image.file("sys-of").is_some_and(|names| names.starts_with(b"b")));
}

#[test]
fn f2_credential_helpers_run_outside_the_namespace() {
    let bed = Bed::new();
    // A registry that lets nobody in.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            // The request has no body: what has come is all that is needed to answer.
            let _ = client.read(&mut [0; 4096]);
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = client.write_all(answer.as_bytes());
        }
    });
    let context = bed.context("context", &[("Dockerfile", &format!("FROM {address}/image\n"))]);
    let build = bed.build(&context).no_output().as_user(USER);
    // The helper says who it thinks it is, and has no credentials.
    let (helper, said) = (build.home().join("docker-credential-who"), build.home().join("said"));
    std::fs::write(&helper, format!("#!/bin/sh\n{{ id -u; cat; }} > {}\nexit 1\n", said.display())).expect("ours");
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("ours");
    std::fs::create_dir(build.home().join(".docker")).expect("ours");
    std::fs::write(build.home().join(".docker/config.json"), format!(r#"{{"credHelpers": {{"{address}": "who"}}}}"#)).expect("ours");
    let uid = std::fs::metadata(build.home()).expect("home").uid();
    let path = format!("{}:/usr/bin:/bin", build.home().display());
    let outcome = build.env("PATH", path).run();
    let said = std::fs::read_to_string(&said).unwrap_or_else(|_| panic!("the helper was not asked: {}", outcome.log));
    assert_eq!(said, format!("{uid}\n{address}"));
}
