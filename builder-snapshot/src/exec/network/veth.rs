//! Pairs of interfaces (veth): one end in a step's network, the other in this machine's, which forwards and masquerades what comes out of it. For root only.
//!
//! Programs make one: `ip` for routes and both ends, and `nft`, which goes on running for as long as the network is used, because the kernel removes the rules when
//! the process that made them ends (`flags owner`, Linux 5.12). It ends when this process does, of whatever, since that holds the other end of its input; a shell that
//! waits for it then deletes the interfaces, at once: the step's namespace, which they would go with, is kept by the kernel as long as a connection is being closed. So nothing
//! is left, and no later build has to find and remove anything.
//!
//! Packets are forwarded only where somebody turned that on for this machine's uplinks (docker, libvirt, an administrator): the switch decides what the machine
//! is to all its neighbours, and a build does not touch it. Of its own interface it decides itself.
//!
//! # Invariants
//! - The rules stand before the interface is up. When they go first, the interface goes too.
//! - What a step sends has the address that it was given, and IPv4; everything else is dropped before anything looks at it.
//! - A step reaches no address of this machine, whatever is listening there or translated from there, no link-local address (a cloud's metadata service), and no other
//!   step. Name servers that the machine names are the one exception, at their port.
//! - Nobody reaches a step but with answers.
//! - Other packet filters keep their say: nothing of theirs is changed, and whether they forward at all is tried.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::block::{Block, Prefix, Routes};
use super::{Connected, Way};
use crate::diagnosis::{Facility, Lack};
use crate::sys::network::Namespace;
use crate::sys::process::{wait_readable, wait_readable_now};

/// How long `nft` may take; usual are some 5 milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether the kernel has noticed that both ends are up; until then packets are lost.
const BETWEEN_LOOKS: Duration = Duration::from_millis(4);

/// How long it is tried whether packets are forwarded, with a pause after each. The kernel answers while one is being sent.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const BETWEEN_PACKETS: Duration = Duration::from_millis(40);

/// How many blocks of addresses are tried: others may have taken them since the routes were read.
const TRIES: u32 = 8;

/// Where that packet goes: to an address that nobody has (RFC 5737), and a port that discards. It leaves the machine in no case: it is answered when it would.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NOBODYS_PORT: u16 = 9;

/// What the machine's end is like, whatever is usual here. The first is what everything depends on.
const SETTINGS: [(&str, &str); 7] = [
    ("ipv4/conf/@/forwarding", "1"),
    ("ipv4/conf/@/rp_filter", "1"),
    ("ipv4/conf/@/arp_ignore", "1"),
    ("ipv4/conf/@/proxy_arp", "0"),
    ("ipv4/conf/@/route_localnet", "0"),
    ("ipv4/conf/@/accept_redirects", "0"),
    ("ipv6/conf/@/disable_ipv6", "1"),
];

/// What makes networks of this kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    ip: PathBuf,
    nft: PathBuf,
    name_servers: Vec<Ipv4Addr>,
}

impl Veth {
    /// Whether there is what it takes, as far as can be said without trying.
    pub(super) fn find(tool: impl Fn(&str) -> Option<PathBuf>, name_servers: &[IpAddr]) -> Result<Self, Lack> {
        if !some_interface_forwards() {
            return Err(forwards_nothing("this machine", "net.ipv4.ip_forward"));
        }
        let missing = |name: &str, package: &str| refusal(format!("there is no {name}"), Some(name), format!("install {package}"));
        let ip = tool("ip").ok_or_else(|| missing("ip", "iproute2"))?;
        let nft = tool("nft").ok_or_else(|| missing("nft", "nftables"))?;
        let name_servers: Vec<Ipv4Addr> = name_servers.iter().filter_map(|address| Some(*address).and_then(of_four)).collect();
        if name_servers.is_empty() {
            let cause = "/etc/resolv.conf names no server that answers on an IPv4 address other than this machine's loopback";
            return Err(refusal(cause, Some("/etc/resolv.conf"), "add a `nameserver` line"));
        }
        Ok(Self { ip, nft, name_servers })
    }

    /// The program that makes the rules.
    pub(super) fn filter_program(&self) -> &Path {
        &self.nft
    }

    /// A new namespace that is connected. The calling thread is to [watch](Filter::watch) the filter. Gives up as soon as `stopped` says so.
    pub(super) fn connect(&self, stopped: &dyn Fn() -> bool) -> Result<(Connected, Filter), Lack> {
        let routes = self.routes()?;
        let namespace = Namespace::new().map_err(|error| fault(format!("no network namespace can be made: {error}")))?;
        let (block, name) = self.make_pair(&namespace, &routes)?;
        let (running, filter) = self.filter(block, &name)?;
        match self.open(&namespace, block, &name, !routes.uplinks.is_empty(), stopped) {
            Ok(()) => Ok((Connected { namespace, way: Way::Veth(running) }, filter)),
            Err(lack) => {
                drop(running);
                filter.watch();
                Err(lack)
            }
        }
    }

    /// Sets up the machine's end, and sees whether anything goes through: into the world, if the machine `has_uplink`.
    fn open(&self, namespace: &Namespace, block: Block, name: &str, has_uplink: bool, stopped: &dyn Fn() -> bool) -> Result<(), Lack> {
        if stopped() {
            return Err(fault("the build ends".to_owned()));
        }
        for (setting, value) in SETTINGS {
            set(&setting.replace('@', name), value)?;
        }
        let (address, step, step_hardware) = (block.of_machine(), block.of_step(), hardware(block.of_step()));
        self.batch(&format!(
            "address add {address}/30 dev {name}\nlink set dev {name} up\nneighbour add {step} lladdr {step_hardware} nud permanent dev {name}\n"
        ))?;
        namespace.inside(|| try_to_send(block.of_machine(), has_uplink)).map_err(|error| fault(error.to_string()))?
    }

    /// The machine's routes, if packets are forwarded along them.
    fn routes(&self) -> Result<Routes, Lack> {
        let shown = command(&self.ip).args(["-4", "-oneline", "route", "show", "table", "all"]).output();
        let shown = shown.map_err(|error| fault(format!("{}: {error}", self.ip.display())))?;
        let mut routes = Routes::parse(&String::from_utf8_lossy(&shown.stdout));
        if let Some(uplink) = routes.uplinks.iter().find(|uplink| *uplink != "lo" && !forwards(uplink)) {
            return Err(forwards_nothing(uplink, &format!("net.ipv4.conf.{uplink}.forwarding")));
        }
        routes.taken.extend(self.name_servers.iter().map(|&server| Prefix::new(server, 32)));
        Ok(routes)
    }

    /// Makes both ends, and finishes the one inside.
    fn make_pair(&self, namespace: &Namespace, routes: &Routes) -> Result<(Block, String), Lack> {
        // Of this thread, whichever namespace it is in.
        let here = format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
        let mut tries = 0;
        loop {
            let Some(block) = Block::choose(&routes.taken) else {
                return Err(refusal("all private addresses are in use by routes of this machine", None, "take away a route to 10.0.0.0/8"));
            };
            let (name, address, gateway) = (block.interface(), block.of_step(), block.of_machine());
            let [hardware, gateway_hardware] = [address, gateway].map(hardware);
            // Each end is told where the other is: nobody asks, and nobody is told something else by a step.
            let commands = format!(
                "link add eth0 address {hardware} type veth peer name {name} address {gateway_hardware} netns {here}\nlink set dev lo up\n\
                 address add {address}/30 dev eth0\nlink set dev eth0 up\nneighbour add {gateway} lladdr {gateway_hardware} nud permanent dev eth0\n\
                 route add default via {gateway}\n"
            );
            let made = namespace.inside(|| {
                // Its other end has no IPv6 either. There may be no IPv6 at all.
                let _ = set("ipv6/conf/default/disable_ipv6", "1");
                self.batch(&commands)
            });
            match made.map_err(|error| fault(error.to_string()))? {
                Ok(()) => return Ok((block, name)),
                // Names say which addresses there are: somebody else has these.
                Err(lack) if lack.cause.contains("File exists") && tries < TRIES => tries += 1,
                Err(lack) => return Err(lack),
            }
        }
    }

    /// Several commands of `ip`, on behalf of the calling thread.
    fn batch(&self, commands: &str) -> Result<(), Lack> {
        let run = || {
            let mut child = command(&self.ip).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that does not listen to the end says why, which is more than that it does not.
                let _ = stdin.write_all(commands.as_bytes());
            }
            child.wait_with_output()
        };
        let output = run().map_err(|error| fault(format!("{}: {error}", self.ip.display())))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().map_or_else(|| output.status.to_string(), str::to_owned);
        Err(fault(format!("{}: {said}", self.ip.display())))
    }

    /// Starts what makes the rules and keeps them.
    fn filter(&self, block: Block, name: &str) -> Result<(Running, Filter), Lack> {
        let failed = |error: io::Error| fault(format!("{}: {error}", self.nft.display()));
        let start = || {
            let (output, said) = io::pipe()?;
            let mut command = command(Path::new("/bin/sh"));
            command.args(["-c", KEEP]).args([&self.nft, &self.ip]).arg(name);
            command.stdin(Stdio::piped()).stdout(said.try_clone()?).stderr(said);
            // Or it keeps what it was told in a file there; without the variable, in the root directory.
            command.env("HOME", "/dev/null");
            // An interrupt at the terminal ends the steps, and only then their walls.
            command.process_group(0);
            Ok((output, command.spawn()?))
        };
        let (mut output, mut child) = start().map_err(failed)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid.ok_or(Errno::SRCH).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let mut input = child.stdin.take();
        if let Some(input) = &mut input {
            // As in `batch`.
            let _ = input.write_all(rules(block, name, &self.name_servers).as_bytes());
        }
        let heard = self.answer(&mut output, &format!("table inet {name} "));
        let pidfd = heard.and_then(|()| pidfd.map_err(|errno| failed(errno.into())));
        match pidfd {
            Ok(pidfd) => Ok((Running { pidfd, _input: input }, Filter { child, output })),
            Err(lack) => {
                drop(input);
                Filter { child, output }.watch();
                Err(lack)
            }
        }
    }

    /// Waits until `nft` shows the table, which it does not before it was made.
    fn answer(&self, output: &mut PipeReader, beginning: &str) -> Result<(), Lack> {
        let until = Instant::now() + PATIENCE;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let [is_ready] = wait_readable([Some(output.as_fd())], Some(until)).map_err(|error| fault(error.to_string()))?;
            let length = if is_ready { output.read(&mut buffer).unwrap_or(0) } else { 0 };
            said.extend_from_slice(buffer.get(..length).unwrap_or_default());
            let text = String::from_utf8_lossy(&said);
            if text.starts_with(beginning) {
                return Ok(());
            }
            if length == 0 || text.contains('\n') {
                let line = text.lines().next().unwrap_or("it says nothing");
                let cause = format!("{}: {}", self.nft.display(), line.trim_start_matches("Error: "));
                return Err(refusal(
                    cause,
                    Some("nf_tables"),
                    "update nftables (1.0) and Linux (5.12), whose rules end with the process that made them",
                ));
            }
        }
    }
}

/// `nft` for as long as its input lasts, and the end of the interface that it guards, be it that somebody ended `nft`.
const KEEP: &str = "\"$0\" -i; exec \"$1\" link delete dev \"$2\"";

/// A network that is connected. Dropping it ends the rules and the interfaces.
#[derive(Debug)]
pub(super) struct Running {
    pidfd: OwnedFd,
    /// `nft` ends when this does, or this process.
    _input: Option<ChildStdin>,
}

impl Running {
    /// Whether the rules stand.
    pub(super) fn is_alive(&self) -> bool {
        wait_readable_now(self.pidfd.as_fd()).is_ok_and(|ended| !ended)
    }
}

/// The process that has made the rules of a network, and the one that waits for it.
#[derive(Debug)]
pub(super) struct Filter {
    child: Child,
    /// Kept so that what they say later hurts nobody.
    output: PipeReader,
}

impl Filter {
    /// Waits until both have ended.
    pub(super) fn watch(mut self) {
        let status = self.child.wait();
        drop(self.output);
        tracing::debug!(?status, "the rules of a network are gone");
    }
}

/// The rules, and the question whether they stand: two lines, the first of which is carried out as a whole or not at all.
fn rules(block: Block, name: &str, name_servers: &[Ipv4Addr]) -> String {
    let step = block.of_step();
    let servers = name_servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let refuse = "reject with icmp type admin-prohibited";
    let to_server = format!("iifname {name} ip daddr {{ {servers} }} meta l4proto {{ tcp, udp }} th dport 53 accept");
    let chains = [
        // Before connections are tracked and addresses translated, by whomever.
        (
            "enter",
            "filter hook prerouting priority raw",
            vec![
                format!("iifname {name} meta nfproto != ipv4 drop"),
                format!("iifname {name} ip saddr != {step} drop"),
                to_server.clone(),
                format!("iifname {name} ip daddr 169.254.0.0/16 {refuse}"),
                format!("iifname {name} fib daddr type local {refuse}"),
                format!("iifname {name} fib daddr type {{ broadcast, anycast, multicast }} drop"),
            ],
        ),
        // What others have translated to an address of this machine.
        ("receive", "filter hook input priority 1000", vec![to_server, format!("iifname {name} drop")]),
        ("send", "filter hook output priority 1000", vec![format!("oifname {name} ct state new drop")]),
        // After all others: what gets here is forwarded.
        (
            "pass",
            "filter hook forward priority 1000",
            vec![
                format!("iifname {name} ip daddr {NOBODY} udp dport {NOBODYS_PORT} reject with icmp type prot-unreachable"),
                format!("iifname {name} oifname \"rbuild*\" {refuse}"),
                format!("oifname {name} ct state != {{ established, related }} {refuse}"),
                // Otherwise servers would send more at once than the uplink takes, if that takes less than a pair of interfaces.
                format!("iifname {name} tcp flags syn tcp option maxseg size set rt mtu"),
            ],
        ),
        ("leave", "nat hook postrouting priority srcnat", vec![format!("ip saddr {step} masquerade")]),
    ];
    let mut text = format!("add table inet {name} {{ flags owner; }}; ");
    for (chain, hook, rules) in chains {
        write!(text, "add chain inet {name} {chain} {{ type {hook}; }}; ").expect("writing to a string does not fail");
        for rule in rules {
            write!(text, "add rule inet {name} {chain} {rule}; ").expect("writing to a string does not fail");
        }
    }
    text + &format!("\nlist table inet {name}\n")
}

/// Sends packets from where the calling thread is: to the machine, whose refusal says that the rules stand and both ends are up, and into the world. One of these
/// comes back as refused where it would have been forwarded. A machine that has no uplink has no place to forward it to; its neighbours may be reached all the same.
fn try_to_send(machine: Ipv4Addr, has_uplink: bool) -> Result<(), Lack> {
    match ask(machine, BETWEEN_LOOKS, PATIENCE) {
        Err(Errno::HOSTUNREACH) => {}
        other => return Err(fault(format!("a new interface does not work: {}", other.err().unwrap_or(Errno::NOMSG)))),
    }
    if !has_uplink {
        return Ok(());
    }
    match ask(NOBODY, BETWEEN_PACKETS, ANSWER_WITHIN) {
        Err(Errno::NOPROTOOPT) => Ok(()),
        _ => {
            let cause = "another packet filter of this machine (docker's, firewalld's …) forwards nothing of new interfaces";
            Err(refusal(cause, None, "let pass what goes into and out of interfaces `rbuild*`"))
        }
    }
}

/// What is answered to a packet.
fn ask(address: Ipv4Addr, between: Duration, patience: Duration) -> Result<(), Errno> {
    let until = Instant::now() + patience;
    let ask = || -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(between))?;
        socket.connect((address, NOBODYS_PORT))?;
        loop {
            socket.send(&[0])?;
            match socket.recv(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {}
                other => return other.map(|_| ()),
            }
        }
    };
    ask().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The address of an end below IP: one of those that everybody may give, with the address above in it.
fn hardware(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:72:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn of_four(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

const SYSCTLS: &str = "/proc/sys/net";

fn some_interface_forwards() -> bool {
    let interfaces = fs::read_dir(format!("{SYSCTLS}/ipv4/conf")).into_iter().flatten().flatten();
    interfaces.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).any(|name| name != "lo" && name != "default" && forwards(&name))
}

fn forwards(interface: &str) -> bool {
    is_set(&format!("ipv4/conf/{interface}/forwarding"), "1")
}

fn is_set(setting: &str, value: &str) -> bool {
    fs::read_to_string(format!("{SYSCTLS}/{setting}")).is_ok_and(|text| text.trim() == value)
}

/// A setting of an interface of ours. One that the kernel does not have cannot do harm.
fn set(setting: &str, value: &str) -> Result<(), Lack> {
    let path = format!("{SYSCTLS}/{setting}");
    match fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound && !is_set(setting, value) => Err(fault(format!("cannot write {path}: {error}"))),
        _ => Ok(()),
    }
}

fn forwards_nothing(who: &str, setting: &str) -> Lack {
    refusal(format!("{who} forwards no packets"), Some(setting), format!("`sysctl {setting}=1`"))
}

fn fault(cause: String) -> Lack {
    refusal(cause, None, "see what `ip link add type veth` and `nft list ruleset` say")
}

fn refusal(cause: impl Into<String>, responsible: Option<&str>, remedy: impl Into<String>) -> Lack {
    Lack { facility: Facility::Network, cause: cause.into(), responsible: responsible.map(str::to_owned), remedy: remedy.into() }
}
