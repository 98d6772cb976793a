//! `/etc/resolv.conf` of a step: which of the machine's name servers can be asked from where it runs.

use std::net::IpAddr;

use crate::exec::NetworkMode;

/// Where name servers answer in a network of a step's own, when this machine's listen on its loopback only.
pub const NAME_SERVER: &str = "169.254.1.1";

/// For processes when the machine names none that they could reach.
const PUBLIC_NAME_SERVERS: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

/// The machine's file where its network is used. Elsewhere name servers on loopback addresses would be the sandbox's own: those that they ask in turn
/// (`upstream`) are named, if the machine says which.
#[must_use]
pub fn resolv_conf(of_host: &[u8], upstream: &[u8], network: &NetworkMode) -> Vec<u8> {
    let of_host = String::from_utf8_lossy(of_host);
    let mut kept = match network {
        NetworkMode::Host => of_host.lines().flat_map(|line| [line, "\n"]).collect(),
        NetworkMode::None | NetworkMode::Private(_) => without_loopback(&of_host, &String::from_utf8_lossy(upstream)),
    };
    if !kept.lines().any(is_name_server) {
        match network {
            // Answers for whatever this machine asks.
            NetworkMode::Private(_) => kept.push_str(&format!("nameserver {NAME_SERVER}\n")),
            NetworkMode::None | NetworkMode::Host => kept.push_str(PUBLIC_NAME_SERVERS),
        }
    }
    kept.into_bytes()
}

/// The name servers that can be asked from a network of a step's own. If there are none, such a network has to answer questions for names itself, at [`NAME_SERVER`].
#[must_use]
pub fn name_servers(of_host: &[u8], upstream: &[u8]) -> Vec<IpAddr> {
    without_loopback(&String::from_utf8_lossy(of_host), &String::from_utf8_lossy(upstream)).lines().filter_map(address).collect()
}

fn without_loopback(of_host: &str, upstream: &str) -> String {
    let is_kept = |line: &&str| !address(line).is_some_and(|address| address.is_loopback());
    let has_server = |text: &str| text.lines().filter(is_kept).any(is_name_server);
    let text = if has_server(of_host) || !has_server(upstream) { of_host } else { upstream };
    text.lines().filter(is_kept).flat_map(|line| [line, "\n"]).collect()
}

fn is_name_server(line: &str) -> bool {
    line.split_ascii_whitespace().next() == Some("nameserver")
}

fn address(line: &str) -> Option<IpAddr> {
    line.split_ascii_whitespace().nth(1).filter(|_| is_name_server(line))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e1_4_name_servers() {
        let resolv =
            |text: &str, upstream: &str, network| String::from_utf8(resolv_conf(text.as_bytes(), upstream.as_bytes(), &network)).expect("text");
        let private = || NetworkMode::Private(std::fs::File::open("/dev/null").expect("it").into());
        let stub = "nameserver 127.0.0.53\noptions edns0\n";
        let real = "nameserver 10.0.0.1\nsearch here\n";
        assert_eq!(resolv(stub, real, NetworkMode::Host), stub);
        assert_eq!(resolv(stub, "", NetworkMode::None), format!("options edns0\n{PUBLIC_NAME_SERVERS}"));
        assert_eq!(resolv("", "", NetworkMode::Host), PUBLIC_NAME_SERVERS);
        assert_eq!(resolv(real, stub, NetworkMode::None), real);
        assert_eq!(resolv(stub, real, private()), real);
        assert_eq!(resolv(stub, stub, private()), "options edns0\nnameserver 169.254.1.1\n");
        assert_eq!(resolv("nameserver ::1\nnameserver 10.0.0.2\n", real, private()), "nameserver 10.0.0.2\n");
        let servers = |text: &str, upstream: &str| name_servers(text.as_bytes(), upstream.as_bytes());
        assert_eq!(servers(stub, real), ["10.0.0.1".parse::<IpAddr>().expect("an address")]);
        assert_eq!(servers(stub, stub), [] as [IpAddr; 0]);
    }
}
