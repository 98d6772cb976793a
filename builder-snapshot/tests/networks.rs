//! Networks of steps' own: who gets which, and what the kernel does for them. They need root, `pasta` with /dev/net/tun, `ip` and `nft`.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use builder_snapshot::exec::{Connector, NetworkLease, PrivateNetworks, name_servers};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

fn networks(program: &str, dir: &tempfile::TempDir) -> PrivateNetworks {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let connector = Connector::Pasta { program: PathBuf::from(program), answers_names: false };
    PrivateNetworks::new((vec![connector], Vec::new()), dir.path().to_owned(), 3)
}

/// Which namespace it is.
fn number(lease: &NetworkLease) -> u64 {
    rustix::fs::fstat(lease.namespace().expect("a namespace").as_fd()).expect("stat").st_ino
}

#[test]
fn e1_1_nobody_shares_a_network_and_what_is_given_back_is_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let networks = networks("/usr/bin/pasta", &dir);
    networks.prepare();
    let (first, second) = (networks.take().expect("one"), networks.take().expect("another"));
    let (one, other) = (number(&first), number(&second));
    assert_ne!(one, other);
    drop(first);
    let mut again = networks.take().expect("the first");
    assert_eq!(number(&again), one);
    // Its process could have changed it.
    again.spoil();
    drop(again);
    let fresh = networks.take().expect("a new one");
    assert!(![one, other].contains(&number(&fresh)));
}

#[test]
fn a_network_whose_sockets_are_not_gone_is_not_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let networks = networks("/usr/bin/pasta", &dir);
    let lease = networks.take().expect("one");
    let (number_before, namespace) = (number(&lease), lease.namespace().expect("a namespace"));
    let inside = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).expect("root");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let out = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let accepted = listener.accept().expect("connected");
        // Whoever closes first waits for packets that may come late.
        drop(out);
        drop((accepted, listener));
        namespace
    });
    // Held, so that its number is given to no other.
    let _namespace = inside.join().expect("it does not panic");
    drop(lease);
    assert_ne!(number(&networks.take().expect("a new one")), number_before);
}

#[test]
fn why_there_is_none_is_said_to_everybody_who_asks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (program, why) in [("/bin/false", "/bin/false: exit status: 1"), ("/nonexistent", "/nonexistent: No such file")] {
        let networks = networks(program, &dir);
        networks.prepare();
        for _ in 0..2 {
            let said = networks.take().expect_err("it connects nothing").to_string();
            assert!(said.starts_with(why), "{said}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("ours").count(), 0, "nothing is left");
}

/// A network namespace without anything in it.
struct Machine(Child);

impl Machine {
    fn new() -> Self {
        let words = ["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"];
        let mut child = Command::new("unshare").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut said).expect("it says so");
        assert_eq!(said, "ready\n", "these tests need root and iproute2");
        Self(child)
    }

    /// This thread, and what it starts, is in it from then on.
    fn enter(&self) {
        enter(std::fs::File::open(format!("/proc/{}/ns/net", self.0.id())).expect("it runs"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("ours");
    }
}

fn enter(namespace: impl AsFd) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-e", "-c", script]).output().expect("sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// This thread is on a machine that forwards, with a neighbour at 198.18.0.2 by which everything goes.
fn between(setting: &str) -> [Machine; 2] {
    let (machine, neighbour) = (Machine::new(), Machine::new());
    machine.enter();
    sh(&format!(
        "ip link add near type veth peer name far netns {0}; ip address add 198.18.0.1/24 dev near; ip link set near up; ip route add default via 198.18.0.2
         nsenter --net=/proc/{0}/ns/net sh -e -c 'ip address add 198.18.0.2/24 dev far; ip address add 169.254.169.254/32 dev lo; ip link set far up'
         echo 1 > /proc/sys/net/{setting}",
        neighbour.0.id()
    ));
    [machine, neighbour]
}

/// A listener at the neighbour.
fn listen_at(neighbour: &Machine, address: &str) -> TcpListener {
    std::thread::scope(|scope| {
        let inside = || {
            neighbour.enter();
            TcpListener::bind(address).expect("its address")
        };
        scope.spawn(inside).join().expect("it does not panic")
    })
}

/// What becomes of a connection from a step's network.
fn reach(lease: &NetworkLease, address: &str) -> Result<(), std::io::ErrorKind> {
    let address: SocketAddr = address.parse().expect("an address");
    inside(lease, || TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop).map_err(|error| error.kind()))
}

fn inside<T: Send>(lease: &NetworkLease, act: impl FnOnce() -> T + Send) -> T {
    let namespace = lease.namespace().expect("a namespace");
    std::thread::scope(|scope| {
        let entered = || {
            enter(namespace);
            act()
        };
        scope.spawn(entered).join().expect("it does not panic")
    })
}

/// As a build of root's finds them, with these name servers.
fn found(servers: &str, dir: &tempfile::TempDir) -> PrivateNetworks {
    let servers = name_servers(servers.as_bytes(), b"");
    PrivateNetworks::new(Connector::find(None, &servers), dir.path().to_owned(), 3)
}

const SERVERS: &str = "nameserver 198.18.0.2\n";

/// What is left of pairs of interfaces and of rules on this thread's machine.
fn traces() -> String {
    sh("ip -oneline link show type veth | grep rbuild || true; nft list ruleset")
}

#[test]
fn e1_1_a_pair_of_interfaces_reaches_the_world_and_nothing_of_the_machine() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, neighbour] = between("ipv4/ip_forward");
    let before = traces();
    let _world = [listen_at(&neighbour, "198.18.0.2:80"), listen_at(&neighbour, "169.254.169.254:80")];
    let _here = ["127.0.0.1:81", "0.0.0.0:82", "[::]:83"].map(|address| TcpListener::bind(address).expect("a port"));
    let networks = found(SERVERS, &dir);
    let (one, other) = (networks.take().expect("one"), networks.take().expect("another"));
    assert_eq!(reach(&one, "198.18.0.2:80"), Ok(()));
    assert_eq!(reach(&other, "198.18.0.2:80"), Ok(()));
    let [gateway, address] = ["via ", "src "].map(|word| {
        let routes = inside(&one, || sh("ip route"));
        routes.split_once(word).expect("a route").1.split_ascii_whitespace().next().expect("an address").to_owned()
    });
    // By whatever address, this machine refuses; loopback is the step's own.
    for place in [&*gateway, "198.18.0.1"] {
        for port in [82, 83] {
            assert_eq!(reach(&one, &format!("{place}:{port}")), Err(ErrorKind::HostUnreachable), "{place}:{port}");
        }
    }
    assert_eq!(reach(&one, "127.0.0.1:81"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(reach(&one, "169.254.169.254:80"), Err(ErrorKind::HostUnreachable), "a cloud's metadata");
    // Nor does one step reach another, nor this machine or its neighbours a step, though it listens.
    let listening = inside(&one, || TcpListener::bind("0.0.0.0:7000").expect("a port"));
    assert_eq!(reach(&other, &format!("{address}:7000")), Err(ErrorKind::HostUnreachable));
    let from_here = TcpStream::connect_timeout(&format!("{address}:7000").parse().expect("an address"), Duration::from_millis(50));
    assert!(from_here.is_err(), "{from_here:?}");
    let from_outside = std::thread::scope(|scope| {
        let connect = || {
            neighbour.enter();
            sh(&format!("ip route add {address}/32 via 198.18.0.1"));
            TcpStream::connect_timeout(&format!("{address}:7000").parse().expect("an address"), Duration::from_secs(5)).map(drop)
        };
        scope.spawn(connect).join().expect("it does not panic")
    });
    assert_eq!(from_outside.map_err(|error| error.kind()), Err(ErrorKind::HostUnreachable));
    // There is no IPv6 but the step's own loopback.
    assert_eq!(inside(&one, || sh("ip -6 -oneline address show scope link; ip -6 route show default")), "");
    drop((listening, one, other, networks));
    while traces() != before {
        std::thread::yield_now();
    }
}

#[test]
fn a_step_that_pretends_to_be_somebody_else_is_not_heard() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, neighbour] = between("ipv4/ip_forward");
    let networks = found(SERVERS, &dir);
    let lease = networks.take().expect("one");
    let there = std::thread::scope(|scope| {
        let inside = || {
            neighbour.enter();
            UdpSocket::bind("198.18.0.2:7000").expect("its address")
        };
        scope.spawn(inside).join().expect("it does not panic")
    });
    let [own, gateway] = [2, 1].map(|last| {
        let address = inside(&lease, || sh("ip -4 -oneline address show dev eth0"));
        let address: Ipv4Addr = address.split_once("inet ").and_then(|(_, rest)| rest.split_once('/')).expect("an address").0.parse().expect("one");
        Ipv4Addr::from(u32::from(address) / 4 * 4 + last)
    });
    // Somebody of the machine's network, the machine, nobody, the other end; as somebody who has CAP_NET_ADMIN can do it, which no sandboxed step has.
    for (address, text) in [
        ("198.18.0.9", "forged"),
        ("198.18.0.1", "forged"),
        ("10.255.255.9", "forged"),
        (&gateway.to_string(), "forged"),
        (&own.to_string(), "honest"),
    ] {
        inside(&lease, || {
            sh(&format!("ip address show dev eth0 | grep -q 'inet {address}/' || ip address add {address}/32 dev eth0"));
            UdpSocket::bind((address, 0)).expect("its address").send_to(text.as_bytes(), "198.18.0.2:7000").expect("it goes somewhere");
        });
    }
    let mut heard = [0; 6];
    let (length, from) = there.recv_from(&mut heard).expect("the last one arrives");
    assert_eq!((&heard[..length], from.ip()), (b"honest".as_slice(), "198.18.0.1".parse().expect("the machine's")));
}

#[test]
fn name_servers_are_asked_wherever_they_are_and_for_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, neighbour] = between("ipv4/ip_forward");
    let networks = found("nameserver 198.18.0.1\nnameserver 169.254.169.254\n", &dir);
    let lease = networks.take().expect("one");
    let _here = ["198.18.0.1:53", "198.18.0.1:80"].map(|address| TcpListener::bind(address).expect("a port"));
    let _there = ["169.254.169.254:53", "169.254.169.254:80"].map(|address| listen_at(&neighbour, address));
    for server in ["198.18.0.1", "169.254.169.254"] {
        assert_eq!(reach(&lease, &format!("{server}:53")), Ok(()), "{server}");
        assert_eq!(reach(&lease, &format!("{server}:80")), Err(ErrorKind::HostUnreachable), "{server}");
    }
}

#[test]
fn without_its_rules_a_network_has_no_interface() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, _neighbour] = between("ipv4/ip_forward");
    let before = traces();
    let networks = found(SERVERS, &dir);
    let lease = networks.take().expect("one");
    // Held, so that its number is given to no other.
    let (number_before, _namespace) = (number(&lease), lease.namespace().expect("a namespace"));
    sh("here=$(readlink /proc/self/ns/net)
        for process in $(grep -l '^nft$' /proc/[0-9]*/comm | cut -d/ -f3); do [ \"$(readlink /proc/$process/ns/net)\" != \"$here\" ] || kill -9 $process; done");
    while traces() != before {
        std::thread::yield_now();
    }
    assert!(reach(&lease, "198.18.0.1:80").is_err());
    drop(lease);
    assert_ne!(number(&networks.take().expect("a new one")), number_before);
}

#[test]
fn programs_that_cannot_do_it_are_named_and_leave_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, _neighbour] = between("ipv4/ip_forward");
    let before = traces();
    let table = [
        (
            "nft",
            "echo 'Error: syntax error, unexpected string' >&2; cat > /dev/null",
            "nft: syntax error, unexpected string; install passt, or update nftables",
        ),
        ("nft", "exit 1", "nft: it says nothing"),
        ("ip", "echo 'Object \"link\" is unknown' >&2; exit 1", "ip: Object \"link\" is unknown"),
    ];
    for (name, script, words) in table {
        let programs = dir.path().join("programs");
        std::fs::create_dir(&programs).expect("ours");
        std::fs::write(programs.join(name), format!("#!/bin/sh\n{script}\n")).expect("ours");
        std::fs::set_permissions(programs.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
        let found = Connector::find(Some(programs.as_os_str()), &name_servers(SERVERS.as_bytes(), b""));
        let said = PrivateNetworks::new(found, dir.path().to_owned(), 1).take().expect_err(words).to_string();
        assert!(said.contains(words), "{said}");
        while traces() != before {
            std::thread::yield_now();
        }
        std::fs::remove_dir_all(programs).expect("ours");
    }
}

#[test]
fn where_nothing_is_forwarded_nothing_is_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let refused = |dir| found(SERVERS, dir).take().expect_err("it would lead nowhere").to_string();
    let _none = Machine::new();
    _none.enter();
    let said = refused(&dir);
    assert_eq!(
        said,
        "there is no pasta on PATH, and this machine forwards no packets; install passt, or `sysctl net.ipv4.ip_forward=1`, for a network of their own"
    );
    // One interface forwards, the one that leads into the world does not.
    let machines = between("ipv4/conf/near/forwarding");
    sh("echo 0 > /proc/sys/net/ipv4/conf/near/forwarding; ip link add other type veth; echo 1 > /proc/sys/net/ipv4/conf/other/forwarding");
    assert!(refused(&dir).contains("near forwards no packets"), "{}", refused(&dir));
    drop(machines);
    // What is forwarded is decided by all packet filters together.
    let _machines = between("ipv4/ip_forward");
    sh("nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'");
    let before = traces();
    assert!(refused(&dir).contains("another packet filter"), "{}", refused(&dir));
    while traces() != before {
        std::thread::yield_now();
    }
    sh("nft add rule ip filter FORWARD iifname 'rbuild*' accept; nft add rule ip filter FORWARD oifname 'rbuild*' accept");
    assert!(found(SERVERS, &dir).take().is_ok(), "the remedy helps");
}

#[test]
fn probe_forwarding_is_decided_by_the_interface_that_a_packet_comes_in_by() {
    // The machine's switch for all interfaces stays as it is: those of the uplink and of the pair suffice.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [_machine, neighbour] = between("ipv4/conf/near/forwarding");
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
    let _world = listen_at(&neighbour, "198.18.0.2:80");
    let networks = found(SERVERS, &dir);
    let lease = networks.take().expect("one");
    assert_eq!(reach(&lease, "198.18.0.2:80"), Ok(()));
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
}

#[test]
fn probe_rules_with_an_owner_end_with_it() {
    let machine = Machine::new();
    machine.enter();
    let mut nft = Command::new("nft").arg("-i").env("HOME", "/dev/null").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nftables");
    nft.stdin.as_mut().expect("piped").write_all(b"add table inet ours { flags owner; }\nlist tables\n").expect("it listens");
    let mut said = String::new();
    BufReader::new(nft.stdout.as_mut().expect("piped")).read_line(&mut said).expect("it answers");
    assert_eq!(said, "table inet ours\n");
    // Nobody else takes them away, as a restart of the machine's own packet filter would try to.
    sh("nft flush ruleset");
    assert_eq!(sh("nft list tables"), "table inet ours\n");
    nft.kill().and_then(|()| nft.wait()).expect("ours");
    assert_eq!(sh("nft list tables"), "");
}
