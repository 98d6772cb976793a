//! Ways out of a running step.

use std::io::{BufRead as _, BufReader};
use std::process::Command;

use integration_tests::{Build, require};

use crate::yard::{Yard, layout_of, named};

#[test]
fn cve_2024_21626_a_working_directory_is_no_way_out() {
    let yard = Yard::new();
    let places = (0..64).map(|n| format!("/proc/self/fd/{n}")).chain((3..8).map(|n| format!("/dev/fd/{n}")));
    let others = ["/proc/self/cwd", "/proc/1/root", "/proc/1/cwd/x"].map(str::to_owned);
    for (n, place) in places.chain(others).enumerate() {
        for (form, dockerfile) in [
            ("named", format!("FROM busybox\nWORKDIR {place}\nRUN pwd; cat ../../../..@/secret; ls ../../..\n")),
            ("linked", format!("FROM busybox\nRUN ln -s {place} /way\nWORKDIR /way\nRUN cat ../../../..@/secret\n")),
        ] {
            if form == "linked" && n % 8 != 0 {
                continue;
            }
            let outcome = yard.run(&yard.build(&format!("c{n}{form}"), &[("Dockerfile", &yard.at(&dockerfile))]).no_output());
            assert!(outcome.code == Some(1), "{place}: {}", outcome.log);
        }
    }
    yard.store_is_good();
}

#[test]
fn cve_2019_5736_the_builders_binary_is_neither_run_nor_written() {
    let yard = Yard::new();
    let before = std::fs::read(require::rbuild()).expect("the binary");
    let cases = [
        "RUN printf '#!/proc/self/exe\\n' > /bin/x && chmod +x /bin/x\nRUN [\"/bin/x\", \"--version\"]\n",
        "RUN ln -s /proc/self/exe /bin/x\nRUN [\"/bin/x\", \"--version\"]\n",
        "RUN ln -sf /proc/self/exe /bin/sh\nRUN echo x\n",
        "SHELL [\"/proc/self/exe\"]\nRUN version\n",
    ];
    for (n, case) in cases.iter().enumerate() {
        yard.refused(&yard.build(&format!("c{n}"), &[("Dockerfile", &format!("FROM busybox\n{case}"))]).no_output(), "links of /proc");
    }
    // What can be opened of the first process is a program of the image.
    let hold = "FROM busybox\nRUN exec 3< /proc/1/exe; for n in 1 2 3; do echo x > /proc/self/fd/3; done; cmp /proc/1/exe /bin/busybox\n";
    assert_eq!(yard.run(&yard.build("hold", &[("Dockerfile", hold)]).no_output()).code, Some(0));
    assert_eq!(std::fs::read(require::rbuild()).expect("the binary"), before);
    yard.store_is_good();
}

#[test]
fn cve_2024_23651_and_11218_shared_caches_are_raced_by_other_steps_and_builds() {
    let yard = Yard::new();
    let flip = "RUN --mount=type=cache,id=c,target=/c i=0; while [ $i -lt 60 ]; do rm -rf /c/sub; ln -s @ /c/sub; rm -f /c/sub; mkdir /c/sub; i=$((i+1)); done; rm -rf /c/sub; ln -s @ /c/sub; date > /t\n";
    let read = "RUN --mount=type=cache,id=c,target=/c i=0; while [ $i -lt 60 ]; do cat /c/sub/secret; echo x > /c/sub/made; i=$((i+1)); done; date > /t; true\n";
    let below =
        "RUN --mount=type=cache,id=c,target=/c --mount=type=cache,id=d,target=/c/sub/deeper cat /c/sub/deeper/../secret; echo x > /c/sub/x; true\n";
    let dockerfile = format!(
        "FROM busybox AS a\n{flip}FROM busybox AS b\n{read}FROM busybox AS d\n{below}FROM busybox\nCOPY --from=a /t /a\nCOPY --from=b /t /b\nCOPY --from=d /bin/sh /d\n"
    );
    let build = yard.build("race", &[("Dockerfile", &yard.at(&dockerfile))]).args(["--no-cache"]);
    for n in 0..3 {
        // Two builds at once on one store, each with steps at once.
        let (one, two) =
            (build.clone().output(&yard.bed.path(&format!("{n}a.tar"))).start(), build.clone().output(&yard.bed.path(&format!("{n}b.tar"))).start());
        yard.check(&one.wait());
        yard.check(&two.wait());
    }
    yard.store_is_good();
}

#[test]
fn cve_2024_23652_mount_points_are_removed_without_following_links() {
    let yard = Yard::new();
    for (n, end) in ["true", "false", "kill -9 $$; sleep 1", "exit 3"].iter().enumerate() {
        for mount in ["type=tmpfs,target=/a/empty", "type=cache,target=/a/empty", "type=bind,target=/a/empty,source=sub"] {
            let script = format!("RUN --mount={mount} mv /a /moved && ln -s @ /a && ls -d /a; {end}\n");
            let dockerfile = yard.at(&format!("FROM busybox\nRUN mkdir /a\n{script}"));
            yard.run(&yard.build(&format!("c{n}{}", mount.len()), &[("Dockerfile", &dockerfile), ("sub/f", "f")]).no_output());
            assert!(yard.canary().join("empty").is_dir() && yard.canary().join("secret").is_file());
        }
    }
    yard.store_is_good();
}

#[test]
fn cve_2024_1753_a_mounts_source_is_inside_of_its_stage() {
    let yard = Yard::new();
    for (n, target) in ["/", "@", "/proc/self/root", "/proc/1/root@", "../../../../../..@", "/proc/self/cwd"].iter().enumerate() {
        let dockerfile = yard.at(&format!(
            "FROM busybox AS base\nRUN ln -s {target} /link\nFROM busybox\nRUN --mount=type=bind,from=base,source=/link,target=/m,rw cat /m/secret /m@/secret; ls /m; echo x > /m/made; mkdir -p /m@/made; true\n"
        ));
        yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)]).no_output());
    }
    yard.store_is_good();
}

#[test]
fn cve_2024_9407_propagation_is_no_option_and_the_mount_table_stays() {
    let yard = Yard::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").expect("proc");
    for (n, option) in
        ["bind-propagation=shared", "bind-propagation=rshared", "propagation=shared", "rshared", "Z", "bind-propagation=../x"].iter().enumerate()
    {
        let dockerfile = format!("FROM busybox\nRUN --mount=type=bind,source=.,target=/m,{option} mount -t tmpfs none /m; true\n");
        let outcome = yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)]).no_output());
        assert_eq!(outcome.code, Some(1), "{option}: {}", outcome.log);
    }
    let insecure = "FROM busybox\nRUN --security=insecure --mount=type=cache,target=/m mount -t tmpfs none /m && mount --make-rshared / && mount -t tmpfs none /mnt 2>/dev/null; mkdir -p /x && mount -t tmpfs none /x\n";
    let outcome = yard.run(&yard.build("insecure", &[("Dockerfile", insecure)]).no_output().args(["--allow", "security.insecure"]));
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").expect("proc"), before);
    yard.store_is_good();
}

#[test]
fn cve_2024_9675_a_caches_id_is_no_path() {
    let yard = Yard::new();
    let long = "x".repeat(4000);
    let ids = ["../../../../..@", "@", "..", "/", "%2e%2e/%2e%2e", "a/../../b", "\u{202e}id\u{fc}", "-rf", &long];
    for (n, id) in ids.iter().enumerate() {
        let dockerfile = yard.at(&format!("FROM busybox\nRUN --mount=type=cache,target=/c,id={id} ls -A /c; cat /c/secret; echo x > /c/x\n"));
        yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)]).no_output());
    }
    for (n, source) in ["../../..@", "@", "link", "link/../.."].iter().enumerate() {
        let dockerfile = yard.at(&format!(
            "FROM busybox AS base\nRUN ln -s @ /link\nFROM busybox\nRUN --mount=type=cache,target=/c,from=base,source={source} ls -A /c; cat /c/secret; echo x > /c/x; true\n"
        ));
        yard.run(&yard.build(&format!("s{n}"), &[("Dockerfile", &dockerfile)]).no_output());
    }
    yard.store_is_good();
}

#[test]
fn cve_2025_31133_52565_52881_the_images_own_links_move_no_mount() {
    let yard = Yard::new();
    let mut n = 0;
    for place in [
        "dev",
        "proc",
        "sys",
        "etc",
        "run",
        "tmp",
        "dev/null",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "proc/sys",
        "sys/fs",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/mtab",
    ] {
        let targets = ["@", "/proc/sys/kernel", "../../../../../..@", "/proc/sysrq-trigger", "@/secret", "/proc/self/fd/5"];
        // Two of them for each place, and each of them for several places.
        for target in [targets[n % 6], targets[(n + 3) % 6]] {
            // A root that has the link and a busybox, and nothing else that could be in the way.
            let mut tar = tar::Builder::new(Vec::new());
            let mut put = |path: &str, kind, link: &str, data: &[u8]| {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(kind);
                header.set_mode(0o755);
                header.set_size(data.len() as u64);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                if link.is_empty() { tar.append_data(&mut header, path, data) } else { tar.append_link(&mut header, path, link) }.expect("in memory");
            };
            for part in ["dev", "proc", "sys", "etc", "bin"] {
                if part != place {
                    put(part, tar::EntryType::Directory, "", b"");
                }
            }
            put(place, tar::EntryType::Symlink, &yard.at(target), b"");
            let layout = layout_of(&yard, &format!("layout{n}"), &tar.into_inner().expect("in memory"));
            let dockerfile = yard.at(
                "FROM base\nCOPY --from=busybox /bin /bin\nRUN cat /etc/hosts > /dev/null; echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sys/kernel/hostname; echo x > /dev/null; cat /dev/secret /etc/secret @/secret; head -c1 /proc/kcore; true\n",
            );
            let build = yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)]).args(named("base", &layout));
            yard.run(&build);
            n += 1;
        }
    }
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("proc"), "x\n");
    yard.store_is_good();
}

#[test]
fn cve_2024_5154_the_sandboxs_files_do_not_follow_links_out_and_enter_no_layer() {
    let yard = Yard::new();
    let cases = [
        "RUN rm -rf /etc && ln -s @ /etc\n",
        "RUN rm -f /etc/resolv.conf && ln -s ../../../../../..@/resolv.conf /etc/resolv.conf\n",
        "RUN ln -sf @/hosts /etc/hosts.new && rm -f /etc/hosts; ln -s @/hosts /etc/hosts 2>/dev/null; true\n",
        "RUN rm -f /etc/mtab; ln -s @/secret /etc/mtab\n",
        "RUN mkdir -p /x && ln -s /nowhere/at/all /etc/dangling\n",
    ];
    for (n, case) in cases.iter().enumerate() {
        let dockerfile =
            yard.at(&format!("FROM busybox\n{case}RUN cat /etc/hosts /etc/resolv.conf > /dev/null 2>&1; echo x >> /etc/hosts; true\nRUN true\n"));
        let outcome = yard.run(&yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)]));
        if outcome.code == Some(0) {
            let image = outcome.image();
            let injected =
                image.layers.iter().skip(1).flatten().find(|entry| ["etc/hosts", "etc/resolv.conf"].contains(&&*entry.path) && entry.kind == b'0');
            assert!(injected.is_none(), "{case}: {injected:?}");
        }
    }
    // A directory where a file has to be.
    let layout = layout_of(&yard, "directory", &{
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["etc", "etc/hosts", "etc/resolv.conf", "dev", "proc", "sys"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            tar.append_data(&mut header, path, &b""[..]).expect("in memory");
        }
        tar.into_inner().expect("in memory")
    });
    let build = yard.build("dir", &[("Dockerfile", "FROM base\nCOPY --from=busybox /bin /bin\nRUN true\n")]).args(named("base", &layout));
    yard.refused(&build, "etc/");
    yard.store_is_good();
}

#[test]
fn cve_2023_25809_no_control_group_can_be_written() {
    let yard = Yard::new();
    let script = "FROM busybox\nRUN for d in $(grep cgroup /proc/self/mountinfo | cut -d' ' -f5); do mkdir $d/rbuild-x && echo MADE $d; echo 1 > $d/cgroup.procs && echo MOVED $d; echo 1 > $d/notify_on_release && echo SET $d; done 2> /dev/null; true\n";
    for build in
        [yard.build("c", &[("Dockerfile", script)]).no_output(), yard.build("c", &[("Dockerfile", script)]).no_output().as_user("rbuild-test")]
    {
        let outcome = build.ok();
        assert!(!outcome.log.contains("MADE /") && !outcome.log.contains("MOVED /") && !outcome.log.contains("SET /"), "{}", outcome.log);
    }
}

#[test]
fn ghsa_72x6_and_cve_2024_9676_user_databases_of_images_are_bounded() {
    let yard = Yard::new();
    let cases = [
        ("rm /etc/passwd; ln -s @/passwd /etc/passwd", "passwd"),
        ("rm /etc/passwd; ln -s passwd /etc/passwd", "passwd"),
        ("rm /etc/passwd; mkfifo /etc/passwd", "regular file"),
        ("rm /etc/passwd; mkdir /etc/passwd", "regular file"),
        ("truncate -s 11M /etc/passwd", "passwd"),
        ("rm /etc/passwd; truncate -s 5G /etc/passwd", "--limit user-database-bytes=N"),
        ("yes a:b:c:d | head -n 10000000 > /etc/passwd", "--limit user-database-bytes=N"),
        ("rm /etc/group; mkfifo /etc/group; echo user:x:5:5::/: >> /etc/passwd", "regular file"),
        ("rm /etc/passwd; ln -s /proc/self/fd/0 /etc/passwd", "passwd"),
        ("rm /etc/group; ln -s /dev/zero /etc/group; echo user:x:5:5::/: >> /etc/passwd", "group"),
        ("yes a:b:c:d | head -n 700000 > /etc/passwd", "unable to find user"),
    ];
    for (n, (script, words)) in cases.iter().enumerate() {
        let dockerfile = yard.at(&format!("FROM busybox\nRUN {script}\nUSER user:group\nRUN id\n"));
        // 64 MiB of data, stacks of threads included, for whoever reads them.
        let bounded = |build: Build| build.no_output().under(["/usr/bin/prlimit", "--data=67108864", "--"]);
        let outcome = yard.run(&bounded(yard.build(&format!("c{n}"), &[("Dockerfile", &dockerfile)])));
        assert_eq!(outcome.code, Some(1), "{script}: {}", outcome.log);
        assert!(outcome.log.contains(words) || outcome.log.contains("user"), "{script}: {}", outcome.log);
        // What is left once the step is remembered is the look at the files.
        let chown = yard.at(&format!("FROM busybox\nRUN {script}\nCOPY --chown=user:group f /f\n"));
        let started = std::time::Instant::now();
        assert_eq!(yard.run(&bounded(yard.build(&format!("o{n}"), &[("Dockerfile", &chown), ("f", "")]))).code, Some(1), "{script}");
        assert!(started.elapsed().as_secs() < 30, "{script}: {:?}", started.elapsed());
    }
    yard.store_is_good();
}

#[test]
fn cve_2024_41110_nothing_listens() {
    let yard = Yard::new();
    let build = yard.build("c", &[("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s,env=S echo up; sleep 1000\n")]);
    let mut command = Command::new(require::rbuild());
    command.args(["build", "--progress", "plain", "--secret", "id=s,env=S", "--build-context"]);
    command.arg(format!("busybox=oci-layout://{}", integration_tests::fixtures::busybox().display())).arg("-o").arg("type=cacheonly");
    command
        .arg(yard.bed.path("c"))
        .env("RBUILD_ROOT", yard.bed.state())
        .env("RBUILD_CONFIG", yard.bed.path("rbuild.toml"))
        .env("S", "life-cycle-secret-77aa");
    drop(build);
    let mut child = command.stderr(std::process::Stdio::piped()).stdin(std::process::Stdio::null()).spawn().expect("rbuild starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let up = lines.map_while(Result::ok).find(|line| line.ends_with(" up"));
    assert!(up.is_some(), "the step never ran");
    // No socket of the builder accepts connections.
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", child.id()))
        .expect("proc")
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    for table in ["tcp", "tcp6", "unix"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", child.id())).unwrap_or_default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = if table == "unix" { fields.get(3) == Some(&"00010000") } else { fields.get(3) == Some(&"0A") };
            assert!(!listens || !sockets.iter().any(|socket| fields.contains(&socket.as_str())), "{table}: {line}");
        }
    }
    // Nothing that the builder has open is handed to a program (CVE-2024-21626).
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", child.id())).expect("proc") {
        let entry = entry.expect("entry");
        let number: u32 = entry.file_name().to_string_lossy().parse().expect("a number");
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let is_closed_on_exec = u32::from_str_radix(flags.trim(), 8).expect("octal") & 0o2_000_000 != 0;
        // What whoever runs these tests has left open is theirs.
        let target = |process: &str| std::fs::read_link(format!("/proc/{process}/fd/{number}")).ok();
        let is_inherited = target("self").is_some_and(|own| target(&child.id().to_string()) == Some(own));
        assert!(number < 3 || is_closed_on_exec || is_inherited, "descriptor {number}: {text}");
    }
    // Core dumps are off while a secret is lent, and nothing of it stays when the builder is killed.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("proc");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert!(core.split_whitespace().nth(4).is_some_and(|soft| soft == "1" || soft == "0"), "{core}");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    child.kill().expect("ours");
    child.wait().expect("ours");
    for pid in children.split_whitespace() {
        // Killed with the builder; it may take the kernel a moment to bury it.
        for _ in 0..1000 {
            if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
                break;
            }
            std::thread::yield_now();
        }
    }
    let mut pending = vec![yard.bed.state()];
    let mut read = std::collections::HashSet::new();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).expect("a store") {
            let path = entry.expect("entry").path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path);
            } else if path.is_file() && read.insert(std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("ours"))) {
                let bytes = std::fs::read(&path).expect("ours");
                assert!(!String::from_utf8_lossy(&bytes).contains("life-cycle-secret-77aa"), "{}", path.display());
            }
        }
    }
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").expect("proc").contains(yard.bed.state().to_str().expect("UTF-8")));
    yard.store_is_good();
}

#[test]
fn log_tricks_reach_no_terminal() {
    let yard = Yard::new();
    let script = "FROM busybox\nRUN printf '\\033[2J\\033]0;title\\007\\r#1 DONE 0.0s\\n::set-output name=x::y\\n##vso[task]\\n\\302\\233x\\n'\n";
    let outcome = yard.run(&yard.build("c", &[("Dockerfile", script)]).no_output());
    assert_eq!(outcome.code, Some(0));
    assert!(!outcome.log.contains(['\u{1b}', '\u{7}', '\r', '\u{9b}']), "{:?}", outcome.log);
    for line in outcome.log.lines() {
        assert!(!line.starts_with("::") && !line.starts_with("##vso"), "{line}");
    }
    assert_eq!(outcome.log.lines().filter(|line| line.starts_with("#1 DONE")).count(), 1, "{}", outcome.log);
    // For programs every line is one value, whatever the step wrote.
    let outcome = yard.run(&yard.build("c", &[]).no_output().args(["--progress", "rawjson", "--no-cache"]));
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.log.contains("vertexes") && !outcome.log.contains(['\u{1b}', '\u{7}', '\r', '\u{9b}']), "{:?}", outcome.log);
    for line in outcome.log.lines().filter(|line| !line.starts_with("WARNING: no output")) {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|value| value.is_object()), "{line}");
    }
}

#[test]
fn other_users_of_the_machine_reach_nothing() {
    use std::os::unix::fs::MetadataExt as _;
    let yard = Yard::new();
    let files = [("Dockerfile", "FROM busybox\nCOPY f /f\nRUN mkdir /d && echo x > /d/x\nWORKDIR /w/w\n"), ("f", "f")];
    let build = yard.build("c", &files).env("SOURCE_DATE_EPOCH", "1700000000");
    // Directories that everybody may write to are looked at afterwards: they are empty ones of the build's own.
    let shared: Vec<&str> = ["/tmp", "/var/tmp", "/dev/shm"].into_iter().filter(|dir| !yard.bed.path("").starts_with(dir)).collect();
    let masked = |mask: &str, name: &str| {
        let mounts: String = shared.iter().map(|dir| format!("mount -t tmpfs -o mode=1777 none {dir} && ")).collect();
        let script = format!("{mounts}umask {mask} && \"$@\" || exit; find {} -mindepth 1 | sed 's/^/LEFT /'", shared.join(" "));
        let build = build.clone().output(&yard.bed.path(name)).as_user("rbuild-test");
        build.under(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
    };
    let first = masked("000", "open.tar");
    let (open, closed) = (first.ok(), masked("077", "closed.tar").args(["--no-cache"]).ok());
    for outcome in [&open, &closed] {
        assert!(!outcome.stdout.contains("LEFT"), "{}", outcome.stdout);
    }
    assert_eq!(open.image().manifest["layers"], closed.image().manifest["layers"], "the mask of whoever builds is in no image");
    let state = first.home().join("state");
    assert_eq!(std::fs::metadata(&state).expect("made").mode() & 0o777, 0o700);
    let stranger = Command::new("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups", "--", "ls"])
        .arg(state.join("v1"))
        .output()
        .expect("setpriv");
    assert!(!stranger.status.success());
}
