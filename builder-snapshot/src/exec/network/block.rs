//! Addresses for a pair of interfaces: two that nothing of this machine leads to.

use std::hash::BuildHasher as _;
use std::net::Ipv4Addr;

/// What is left of an address for the machine's end, the step's end, the network and its broadcast address.
const BLOCK_BITS: u8 = 30;

/// How many blocks of one range are looked at: each is free with the share of the range that is.
const LOOKS: u64 = 64;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    address: Ipv4Addr,
    bits: u8,
}

impl Prefix {
    pub(super) const fn new(address: Ipv4Addr, bits: u8) -> Self {
        Self { address, bits }
    }

    /// `10.0.0.0/8`, or an address.
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
        let bits = bits.parse().ok().filter(|&bits| bits <= 32)?;
        Some(Self { address: address.parse().ok()?, bits })
    }

    fn overlaps(self, other: Self) -> bool {
        let bits = self.bits.min(other.bits);
        (u32::from(self.address) ^ u32::from(other.address)).checked_shr(32 - u32::from(bits)).is_none_or(|differs| differs == 0)
    }
}

/// Ranges that nobody routes in public, the largest first.
const RANGES: [Prefix; 4] = [
    Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    Prefix::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    Prefix::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    // Between customers and their provider.
    Prefix::new(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Two addresses that are next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block(u32);

impl Block {
    /// One of a range of private addresses that overlaps none of `taken`: at random, because builders of other processes choose theirs at the same time.
    pub(super) fn choose(taken: &[Prefix]) -> Option<Self> {
        let random = std::hash::RandomState::new();
        RANGES
            .iter()
            .find_map(|range| {
                let blocks = 1_u64 << (BLOCK_BITS - range.bits);
                let at = |look| {
                    u32::from(range.address) + u32::try_from((random.hash_one((look, range.bits)) % blocks) << (32 - BLOCK_BITS)).unwrap_or_default()
                };
                (0..LOOKS).map(at).find(|&at| {
                    let block = Prefix::new(at.into(), BLOCK_BITS);
                    !taken.iter().any(|taken| taken.overlaps(block))
                })
            })
            .map(Self)
    }

    /// Of the end that the machine keeps.
    pub(super) fn of_machine(self) -> Ipv4Addr {
        (self.0 + 1).into()
    }

    /// Of the end that the step gets.
    pub(super) fn of_step(self) -> Ipv4Addr {
        (self.0 + 2).into()
    }

    /// What the machine calls its end: nobody can have a block that somebody else has, as no two interfaces have one name.
    pub(super) fn interface(self) -> String {
        format!("rbuild{:08x}", self.0)
    }
}

/// Where the machine's packets go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Everything that a route leads to, the default route aside.
    pub(super) taken: Vec<Prefix>,
    /// Interfaces of default routes.
    pub(super) uplinks: Vec<String>,
}

impl Routes {
    /// Reads what `ip -4 -oneline route show table all` says.
    pub(super) fn parse(text: &str) -> Self {
        let mut routes = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', '\t', '\\']).filter(|word| !word.is_empty()).collect();
            // A type of route may come first.
            match words.iter().take(2).find_map(|word| Prefix::parse(word)) {
                Some(prefix) if prefix.bits > 0 => routes.taken.push(prefix),
                _ => {
                    let devices = words.windows(2).filter(|pair| pair[0] == "dev").map(|pair| pair[1].to_owned());
                    routes.uplinks.extend(devices);
                }
            }
        }
        routes.uplinks.sort();
        routes.uplinks.dedup();
        routes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).expect("a prefix")
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        let table = [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.1.2.4/30", "10.1.2.7", true),
            ("10.1.2.4/30", "10.1.2.8", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("11.0.0.0/8", "10.0.0.0/8", false),
        ];
        for (one, other, overlap) in table {
            assert_eq!(prefix(one).overlaps(prefix(other)), overlap, "{one} {other}");
            assert_eq!(prefix(other).overlaps(prefix(one)), overlap, "{other} {one}");
        }
        for wrong in ["default", "10.0.0.0/33", "10.0.0/8", "fe80::/64", ""] {
            assert_eq!(Prefix::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_block_is_one_that_no_route_leads_to() {
        let all: Vec<Prefix> = RANGES.to_vec();
        assert_eq!(Block::choose(&all), None);
        for (index, free) in RANGES.iter().enumerate() {
            let others: Vec<Prefix> = RANGES.iter().copied().enumerate().filter(|(other, _)| *other != index).map(|(_, range)| range).collect();
            let block = Block::choose(&others).expect("a range is free");
            assert!(free.overlaps(Prefix::new(block.of_step(), 32)) && free.overlaps(Prefix::new(block.of_machine(), 32)), "{block:?} of {free:?}");
            assert_eq!(u32::from(block.of_machine()) % 4, 1);
            assert_eq!(u32::from(block.of_step()) % 4, 2);
        }
        // Half of a range is enough.
        let block = Block::choose(&[&all[1..], &[prefix("10.0.0.0/9")]].concat()).expect("the other half");
        assert!(prefix("10.128.0.0/9").overlaps(Prefix::new(block.of_step(), 32)));
        // 15 bytes are the most that an interface's name can have.
        assert!(block.interface().starts_with("rbuild0a") && block.interface().len() <= 15);
    }

    #[test]
    fn routes_of_all_tables_are_read() {
        let text = "\
default via 192.0.2.1 dev eth0 proto dhcp \n\
default proto static metric 7 \\\tnexthop via 192.0.2.1 dev eth0 weight 1 \\\tnexthop via 198.51.100.1 dev wlan0 weight 1 \n\
10.8.0.0/16 dev tun0 table 52 \n\
blackhole 10.9.0.0/24 table 7 \n\
unreachable default table 9 metric 4278198272 \n\
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 \n\
local 192.0.2.2 dev eth0 table local proto kernel scope host src 192.0.2.2 \n\
broadcast 192.0.2.255 dev eth0 table local proto kernel scope link src 192.0.2.2 \n\
10.3.4.5 via 192.0.2.7 dev eth0 \n";
        let routes = Routes::parse(text);
        let taken = ["10.8.0.0/16", "10.9.0.0/24", "192.0.2.0/24", "192.0.2.2", "192.0.2.255", "10.3.4.5"].map(prefix);
        assert_eq!(routes, Routes { taken: taken.to_vec(), uplinks: vec!["eth0".to_owned(), "wlan0".to_owned()] });
    }
}
