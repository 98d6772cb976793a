//! What a step can reach (`features.md` E1.1, E2.3): nothing with `--network=none`, the world but not this machine's loopback by default.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use integration_tests::meeting::{self, Meeting};
use integration_tests::{Bed, Build, Outcome};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// A machine in a network of its own, with one neighbour that serves a file: what a private network is to reach. `WHO` runs the builder, with a node for tunnels
/// that everybody may open, as distributions have it. Everything is in namespaces that end with the script.
const MACHINE: &str = r#"
set -e
mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200
mount -t tmpfs none /mnt && cd /mnt && mkdir www && echo "from the neighbour" > www/file && touch neighbour
mkdir www/cgi-bin && mkfifo ab ba
meets() {
    printf '#!/bin/sh\nprintf "Content-Type: text/plain\\n\\n"\necho met > /mnt/%s &\ncat /mnt/%s\n' $2 $3 > www/cgi-bin/$1
    chmod 755 www/cgi-bin/$1
}
meets a ab ba && meets b ba ab
unshare --net=/mnt/neighbour true
ip link set lo up
ip link add near type veth peer name far
ip link set far netns /mnt/neighbour
ip addr add 198.18.0.1/24 dev near && ip link set near up
nsenter --net=/mnt/neighbour sh -c 'ip addr add 198.18.0.2/24 dev far && ip link set far up && busybox httpd -p 198.18.0.2:80 -h /mnt/www'
ip route add default via 198.18.0.2
busybox httpd -p 127.0.0.1:81 -h /mnt/www
busybox wget -q -O /dev/null http://127.0.0.1:81/file
WHO
"#;

/// What a step sees: its interfaces, the neighbour, this machine's loopback, its abstract sockets.
const STEPS: &str = "\
FROM busybox
RUN ls /sys/class/net > /interfaces; wget -q -O /neighbour http://198.18.0.2/file; \
    wget -q -O /loopback http://127.0.0.1:81/file || echo none > /loopback; cat /etc/resolv.conf > /servers
RUN --network=none wget -q -O /nothing http://198.18.0.2/file || echo none > /nothing
";

/// The builder as root on a machine that forwards packets and has no `pasta`, which is found on PATH only.
const FORWARDING: &str = "echo 1 > /proc/sys/net/ipv4/ip_forward && exec env PATH=/nonexistent \"$@\"";

fn in_the_machine(build: Build, who: &str) -> Outcome {
    let script = MACHINE.replace("WHO", who);
    build.as_user("0").through(["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script, "sh"]).run()
}

#[test]
fn e2_3_by_default_a_step_reaches_the_world_and_not_this_machine() {
    let ids = |flag| {
        let output = Command::new("id").args([flag, USER]).output().expect("id");
        String::from_utf8(output.stdout).expect("a number").trim().to_owned()
    };
    let as_user = format!("chown -R {0}:{1} \"$HOME\" && exec setpriv --reuid={0} --regid={1} --clear-groups \"$@\"", ids("-u"), ids("-g"));
    for (who, run) in [("root", "exec \"$@\""), ("user", as_user.as_str()), ("root without pasta", FORWARDING)] {
        let bed = Bed::new();
        let base = bed.context("base", &[("Dockerfile", STEPS)]);
        std::fs::write(
            base.join("Dockerfile"),
            STEPS.replace("FROM busybox", "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]"),
        )
        .expect("ours");
        std::fs::copy("/bin/busybox", base.join("busybox")).expect("busybox-static");
        let outcome = in_the_machine(bed.build(&base), run);
        assert_eq!(outcome.code, Some(0), "{who}: {}", outcome.log);
        assert!(!outcome.log.contains("steps use the network of this machine"), "{who}: {}", outcome.log);
        let image = outcome.image();
        let file = |name: &str| String::from_utf8(image.file(name).unwrap_or_default()).expect("text");
        assert_eq!(file("neighbour"), "from the neighbour\n", "{who}");
        assert_eq!((file("loopback"), file("nothing")), ("none\n".to_owned(), "none\n".to_owned()), "{who}");
        assert!(file("interfaces").contains("lo") && file("interfaces").lines().count() == 2, "{who}: {}", file("interfaces"));
        assert!(!runs(&bed.path("")), "{who}: nothing runs on");
    }
}

/// Two steps that wait for each other at the neighbour, each with a listener on the same port.
const AT_ONCE: &str = "\
FROM scratch AS base
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
FROM base AS a
RUN httpd -p 7000 && wget -q -O - http://198.18.0.2/cgi-bin/a > /met && readlink /proc/self/ns/net > /a && cat /proc/net/unix >> /a
FROM base AS b
RUN httpd -p 7000 && wget -q -O - http://198.18.0.2/cgi-bin/b > /met && readlink /proc/self/ns/net > /b && cat /proc/net/unix >> /b
FROM base
COPY --from=a /a /met /
COPY --from=b /b /
RUN readlink /proc/self/ns/net > /c; wget -q -O - http://127.0.0.1:7000/ 2>&1 | grep refused >> /c; httpd -p 7000
";

#[test]
fn e1_1_steps_that_run_at_once_are_in_networks_of_their_own() {
    for who in ["exec \"$@\"", FORWARDING] {
        let bed = Bed::new();
        let context = bed.context("context", &[("Dockerfile", AT_ONCE)]);
        std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static");
        let name = format!("rbuild-canary-{}", std::process::id());
        let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("an abstract socket");
        let outcome = in_the_machine(bed.build(&context), who);
        assert_eq!(outcome.code, Some(0), "{who}: {}", outcome.log);
        let image = outcome.image();
        let file = |name: &str| String::from_utf8(image.file(name).unwrap_or_default()).expect("text");
        let namespace = |name: &str| file(name).lines().next().unwrap_or_default().to_owned();
        assert!(file("met").contains("met"), "{who}: they ran at once: {}", file("met"));
        assert!(namespace("a").starts_with("net:[") && namespace("a") != namespace("b"), "{who}: {} {}", namespace("a"), namespace("b"));
        // Abstract sockets belong to the network.
        assert!(!file("a").contains(&name) && !file("b").contains('@'), "{who}: {}{}", file("a"), file("b"));
        // What comes later finds nothing of what was there before.
        assert!(file("c").contains("refused"), "{who}: {}", file("c"));
    }
}

/// A step that waits forever unless the neighbour says that it is asked again, and tries what it must not reach: this machine by each of its addresses, a cloud's metadata.
const WALLED: &str = "\
FROM scratch
COPY busybox /bin/busybox
RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]
RUN wget -q -O /again http://198.18.0.2/again || wget -q -O - http://198.18.0.2/cgi-bin/a
RUN gateway=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'); \
    for address in 127.0.0.1:81 198.18.0.1:82 $gateway:82 169.254.169.254:80; do wget -q -O - http://$address/file && echo $address >> /reached; done; true
";

#[test]
fn a_pair_of_interfaces_leaves_nothing_behind_and_builds_do_not_meet() {
    let bed = Bed::new();
    let context = bed.context("context", &[("Dockerfile", WALLED)]);
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static");
    // A builder that is killed while its step waits; then two at once; what is seen in between.
    let script = "
        echo 1 > /proc/sys/net/ipv4/ip_forward
        busybox httpd -p 0.0.0.0:82 -h /mnt/www
        nsenter --net=/mnt/neighbour ip address add 169.254.169.254/32 dev lo
        nsenter --net=/mnt/neighbour busybox httpd -p 169.254.169.254:80 -h /mnt/www
        traces() { nft list tables; ip -oneline link show type veth | grep rbuild || true; }
        gone() { while [ -n \"$(traces)\" ]; do :; done; }
        env PATH=/nonexistent \"$@\" & builder=$!
        until [ -n \"$(ls /mnt/www/asked 2>/dev/null)\" ]; do :; done
        traces > \"$HOME/killed\"; kill -9 $builder; gone
        touch /mnt/www/again
        env PATH=/nonexistent RBUILD_ROOT=\"$HOME/other\" \"$@\" & other=$!
        env PATH=/nonexistent \"$@\"
        wait $other; gone
        traces > \"$HOME/left\"; nft list ruleset >> \"$HOME/left\"; cat /proc/sys/net/ipv4/ip_forward >> \"$HOME/left\"";
    // The first question of the killed build's step is a sign that it runs.
    let script = format!("printf '#!/bin/sh\ntouch /mnt/www/asked; exec cat /mnt/ba\n' > www/cgi-bin/a{script}");
    let build = bed.build(&context).as_user("0");
    let home = build.home().to_owned();
    // Other people's nft may have left one.
    let histories = || [Path::new("/"), &home].map(|place| std::fs::metadata(place.join(".nft.history")).and_then(|file| file.modified()).ok());
    let before = histories();
    let outcome = in_the_machine(build, &script);
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    assert!(!outcome.log.contains("steps use the network of this machine"), "{}", outcome.log);
    let read = |name: &str| std::fs::read_to_string(home.join(name)).expect("the script writes it");
    assert!(read("killed").contains("table inet rbuild") && read("killed").contains("@if"), "{}", read("killed"));
    assert_eq!(read("left"), "1\n");
    assert_eq!(histories(), before, "what nft was told is kept nowhere");
    assert_eq!(outcome.image().file("reached"), None, "{}", outcome.log);
}

/// A machine that forwards no packets, as far as can be seen, whatever this one does.
const FORWARDS_NOTHING: [&str; 5] = [
    "/usr/bin/unshare",
    "--mount",
    "/bin/sh",
    "-c",
    "for file in /proc/sys/net/ipv4/conf/*/forwarding; do /bin/mount --bind /dev/null $file; done; exec \"$0\" \"$@\"",
];

#[test]
fn the_doctor_says_which_network_steps_would_have() {
    let bed = Bed::new();
    let context = bed.context("context", &[("Dockerfile", "FROM scratch\n")]);
    let programs = bed.context("programs", &[("pasta", "#!/bin/sh\necho no tunnels today >&2; exit 1\n")]);
    std::fs::set_permissions(programs.join("pasta"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let build = bed.build(&context);
    let forwards = ["/usr/bin/unshare", "--net", "/bin/sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; exec \"$0\" \"$@\""];
    let no_tunnel = FORWARDS_NOTHING.map(|word| word.replace("; exec", "; mount -t tmpfs none /dev/net; exec"));
    let cases = [
        (build.clone(), "each step has its own, by /usr/bin/pasta"),
        (build.clone().env("PATH", "/nonexistent").under(FORWARDS_NOTHING), "there is no pasta on PATH, and this machine forwards no packets"),
        (build.clone().env("PATH", "/nonexistent").under(forwards), "each step has its own, by a pair of interfaces and /usr/sbin/nft"),
        (build.clone().env("PATH", programs).under(FORWARDS_NOTHING), "pasta: no tunnels today"),
        (build.clone().under(no_tunnel), "--device /dev/net/tun"),
    ];
    for (build, words) in cases {
        let said = build.doctor();
        assert!(said.code == Some(0) && said.stdout.contains(words), "{words}: {}", said.stdout);
    }
}

#[test]
fn e1_4_names_are_found_behind_a_resolver_that_listens_on_the_machines_loopback_only() {
    // The machine's resolver, and where it says which servers it asks: nowhere, so that the step's network must lead to it.
    let bed = Bed::new();
    let steps = "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
                 RUN cat /etc/resolv.conf > /servers; nslookup box.example > /found 2>&1; true\n";
    let context = bed.context("context", &[("Dockerfile", steps)]);
    std::fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static");
    let resolver = format!(
        "mkdir etc && echo nameserver 127.0.0.53 > etc/resolv.conf && mount --bind etc/resolv.conf \"$(readlink -f /etc/resolv.conf)\" && \
         exec {} 198.18.7.7 \"$@\"",
        env!("CARGO_BIN_EXE_with-resolver")
    );
    let outcome = in_the_machine(bed.build(&context), &resolver);
    assert_eq!(outcome.code, Some(0), "{}", outcome.log);
    let image = outcome.image();
    let file = |name: &str| String::from_utf8(image.file(name).unwrap_or_default()).expect("text");
    assert_eq!(file("servers"), "nameserver 169.254.1.1\n", "{}", outcome.log);
    assert!(file("found").contains("198.18.7.7"), "{}", file("found"));
}

/// Whether a process of this machine has a path below `dir` on its command line.
fn runs(dir: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let dir = dir.display().to_string();
    processes.into_iter().any(|process| std::fs::read(process.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&dir)))
}

#[test]
fn e1_1_none_is_none() {
    let (bed, meeting) = (Bed::with_registry(), Meeting::start());
    let name = format!("rbuild-canary-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("an abstract socket");
    let tries = format!(
        "FROM busybox\nRUN --network=none {{ ls /sys/class/net; cat /proc/net/route /proc/net/ipv6_route /proc/net/unix; }} > /seen; \
         for address in {} http://169.254.169.254/ http://[::1]:80/ http://[fd00::2]/ http://registry.example/; do \
         wget -q -O /dev/null $address 2> /dev/null && echo $address >> /reached; done; \
         ping -c 1 -W 1 192.0.2.2 > /dev/null 2>&1 && echo raw >> /reached; nslookup localhost.example > /dev/null 2>&1 && echo names >> /reached; true\n",
        meeting.url()
    );
    let context = bed.context("context", &[("Dockerfile", &tries)]);
    for user in [None, Some(USER)] {
        let build = bed.build(&context);
        let image = user.map_or_else(|| build.clone(), |user| build.clone().as_user(user)).ok().image();
        let seen = String::from_utf8(image.file("seen").expect("seen")).expect("text");
        assert!(seen.starts_with("lo\nIface") && !seen.contains("eth") && !seen.contains(&name), "{user:?}: {seen}");
        assert_eq!(image.file("reached").map(|reached| String::from_utf8_lossy(&reached).into_owned()), None, "{user:?}");
    }
}

#[test]
fn without_pasta_the_machines_network_is_used_and_said_once() {
    let (bed, meeting) = (Bed::with_registry(), Meeting::start());
    let call = |name: &str| format!("RUN wget -q -O - {}/count/{name}\n", meeting.url());
    let context = bed.context("context", &[("Dockerfile", &format!("FROM busybox\n{}{}", call("a"), call("b")))]);
    let outcome = bed.build(&context).env("PATH", "/nonexistent").under(FORWARDS_NOTHING).ok();
    let why = "steps use the network of this machine: there is no pasta on PATH, and this machine forwards no packets; install passt, or \
               `sysctl net.ipv4.ip_forward=1`, for a network of their own";
    assert_eq!(outcome.log.matches(why).count(), 1, "{}", outcome.log);
    assert_eq!(meeting.counts().values().sum::<usize>(), 2);
    // The network that a step got is in no key.
    assert_eq!(bed.build(&context).ok().cached().len(), 2);
}

#[test]
fn pasta_ends_with_a_builder_that_is_killed() {
    let (bed, meeting) = (Bed::with_registry(), Meeting::start());
    let wait = format!(
        "FROM busybox AS a\nRUN true\nFROM a\nRUN --network=host wget -q -O - {0}/meet/started/2 && wget -q -O - {0}/meet/never/2\n",
        meeting.url()
    );
    let context = bed.context("context", &[("Dockerfile", &wait)]);
    let running = bed.build(&context).args(["--allow", "network.host"]).start();
    meeting::call(&format!("{}/meet/started/2", meeting.url()));
    let network = bed.state();
    assert!(runs(&network), "a network is connected");
    let pid = rustix::process::Pid::from_raw(running.pid().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("ours");
    assert_eq!(running.wait().code, None);
    // It dies of the builder's death, an instant later.
    while runs(&network) {
        std::thread::yield_now();
    }
}
