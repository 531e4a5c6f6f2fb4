//! Chooses an instance's subnet. Pure.
//!
//! Every slot has one /30 in each of several windows of 65,536 of them: sixteen in 100.64.0.0/10 (the
//! range for carriers, which hosts use least), then sixty-four in 10.0.0.0/8. The first whose window
//! position is free of the host's routes is taken. Different slots never meet, in whichever window.

use std::net::Ipv4Addr;

use base::Ipv4Range;
use serde::Deserialize;

use super::rules::LINK_PREFIX;

/// Ranges to choose from: first address, number of windows.
const RANGES: [(Ipv4Addr, u32); 2] =
    [(Ipv4Addr::new(100, 64, 0, 0), 16), (Ipv4Addr::new(10, 0, 0, 0), 64)];
/// Addresses in a window: one /30 per slot.
const WINDOW: u32 = 4 << 16;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    first: u32,
    last: u32,
}

impl Block {
    pub(crate) fn single(address: Ipv4Addr) -> Self {
        Self { first: address.to_bits(), last: address.to_bits() }
    }

    /// From `10.0.0.0/8` or `10.0.0.1`.
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().ok()?;
        let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
        let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
        Some(Self { first: address.to_bits() & !hosts, last: address.to_bits() | hosts })
    }

    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A /30: two addresses that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    network: u32,
}

impl Subnet {
    /// The host's end.
    pub(crate) fn host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// The instance's end.
    pub(crate) fn guest(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 2)
    }
}

/// The subnet of `slot` on a host where `taken` is in use.
pub(crate) fn choose(slot: u16, taken: &[Block]) -> Option<Subnet> {
    let windows = RANGES.iter().flat_map(|(first, windows)| {
        (0..*windows).map(move |window| first.to_bits() + window * WINDOW)
    });
    windows.map(|window| window + 4 * u32::from(slot)).find_map(|network| {
        let block = Block { first: network, last: network + 3 };
        (!taken.iter().any(|other| other.meets(block))).then_some(Subnet { network })
    })
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    dev: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    table: Option<String>,
}

impl Route {
    /// Whether it is of a link of ours.
    fn is_ours(&self) -> bool {
        self.dev.as_ref().is_some_and(|dev| dev.starts_with(LINK_PREFIX))
    }

    /// Whether it leads to the host itself. Other tables deliver to it what is addressed to others, for proxies.
    fn is_local(&self) -> bool {
        self.kind.as_deref() == Some("local") && self.table.as_deref() == Some("local")
    }
}

/// Those that `ip -json route` shows; none for output that cannot be read.
fn parse(routes: &[u8]) -> Vec<Route> {
    serde_json::from_slice(routes).unwrap_or_default()
}

/// The host's own addresses as `ip -json route` shows them, but for those of links of ours: these are private.
pub(crate) fn of_host(routes: &[u8]) -> Vec<Ipv4Range> {
    let routes = parse(routes);
    let local = routes.iter().filter(|route| route.is_local() && !route.is_ours());
    let mut ranges: Vec<Ipv4Range> = local.filter_map(|route| route.dst.parse().ok()).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// What `ip -json route` shows as in use, but for default routes and links of ours, which are unique
/// by slot. Output that cannot be read takes nothing.
pub(crate) fn taken(routes: &[u8]) -> Vec<Block> {
    parse(routes)
        .iter()
        .filter(|route| !route.is_ours() && route.dst != "0.0.0.0/0")
        .filter_map(|route| Block::parse(&route.dst))
        // 0.0.0.0/1 and 128.0.0.0/1 are how VPNs spell "default".
        .filter(|block| block.last - block.first < 1 << 30)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_slot_has_two_addresses_of_its_own() {
        let subnet = choose(1, &[]).unwrap();
        assert_eq!(subnet.host(), Ipv4Addr::new(100, 64, 0, 5));
        assert_eq!(subnet.guest(), Ipv4Addr::new(100, 64, 0, 6));
        let all: HashSet<_> =
            (0..=u16::MAX).map(|slot| choose(slot, &[]).unwrap().host()).collect();
        assert_eq!(all.len(), 65536);
    }

    #[test]
    fn a_route_of_the_host_moves_a_slot_to_another_window() {
        let some = [Block::parse("100.64.0.0/24").unwrap()];
        assert_eq!(choose(1, &some).unwrap().host(), Ipv4Addr::new(100, 68, 0, 5));
        assert_eq!(choose(1000, &some).unwrap().host(), Ipv4Addr::new(100, 64, 15, 161));
        let vpn = [Block::parse("100.64.0.0/10").unwrap()];
        assert_eq!(choose(1, &vpn).unwrap().host(), Ipv4Addr::new(10, 0, 0, 5));
        let all = [Block::parse("100.64.0.0/10").unwrap(), Block::parse("10.0.0.0/8").unwrap()];
        assert_eq!(choose(1, &all), None);
    }

    #[test]
    fn routes_are_read_from_what_ip_prints() {
        let routes = br#"[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
            {"dst":"100.64.0.0/10","dev":"tailscale0","table":"52","flags":[]},
            {"type":"local","dst":"127.0.0.1","dev":"lo","flags":[]},
            {"dst":"0.0.0.0/1","dev":"tun0","flags":[]},
            {"dst":"100.64.3.0/30","dev":"dormouse-00c0","flags":[]},
            {"type":"unreachable","dst":"10.1.0.0/16","flags":[]}]"#;
        let taken = taken(routes);
        assert_eq!(taken.len(), 3, "{taken:?}");
        assert!(taken.contains(&Block::parse("10.1.0.0/16").unwrap()));
        assert!(super::taken(b"not json").is_empty());
    }

    #[test]
    fn the_hosts_own_addresses_are_told_from_what_it_forwards() {
        let routes = br#"[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
            {"dst":"192.0.2.0/24","dev":"eth0","prefsrc":"192.0.2.2","flags":[]},
            {"type":"local","dst":"default","dev":"lo","table":"100","flags":[]},
            {"type":"local","dst":"198.51.100.0/24","dev":"lo","table":"100","flags":[]},
            {"type":"local","dst":"127.0.0.0/8","dev":"lo","table":"local","flags":[]},
            {"type":"local","dst":"192.0.2.2","dev":"eth0","table":"local","flags":[]},
            {"type":"local","dst":"192.0.2.2","dev":"eth1","table":"local","flags":[]},
            {"type":"local","dst":"100.64.3.1","dev":"dormouse-00c0","table":"local","flags":[]},
            {"type":"broadcast","dst":"192.0.2.255","dev":"eth0","table":"local","flags":[]}]"#;
        let shown: Vec<String> = of_host(routes).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.0/8", "192.0.2.2/32"]);
        assert!(of_host(b"not json").is_empty());
    }
}
