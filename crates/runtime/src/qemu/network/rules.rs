//! The nftables rules. Pure.
//!
//! One table for all instances, told apart from the rest of the host by the name of their links.
//! Loading it replaces its chains in a single transaction, so it can be loaded at every start. No guest gets
//! beyond public IPv4 addresses of somebody else, but for private ranges that its own policy names and the
//! server permits: a chain for each such link, to which the map `private` leads. These stay when others start.
//! The host's own addresses are covered by the input chain, whatever they are.

use std::net::Ipv4Addr;

use base::{Ipv4Range, PRIVATE_RANGES, UNREACHABLE_RANGES};

use super::{filter, joined};

/// How the host's ends of all links begin. With four digits it stays below the kernel's 15 bytes.
pub(crate) const LINK_PREFIX: &str = "dormouse-";

/// The table. Guests whose own policy is open may ask `resolvers`, which may be private.
pub(crate) fn table(resolvers: &[Ipv4Addr]) -> String {
    let links = format!("\"{LINK_PREFIX}*\"");
    let (unreachable, site) =
        (filter::joined(&UNREACHABLE_RANGES), filter::joined(&PRIVATE_RANGES));
    let resolve = if resolvers.is_empty() {
        String::new()
    } else {
        let resolvers = joined(resolvers);
        format!("ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept")
    };
    // A chain is flushed before it is filled; declaring it first lets that succeed where there is none.
    format!(
        "table inet dormouse {{
  map private {{
    type ifname : verdict
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
  }}
  chain outward {{
  }}
  chain to_host {{
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
  }}
}}
flush chain inet dormouse forward
flush chain inet dormouse input
flush chain inet dormouse outward
flush chain inet dormouse to_host
flush chain inet dormouse postrouting
table inet dormouse {{
  chain forward {{
    oifname {links} ct state established,related accept
    oifname {links} drop
    iifname {links} jump outward
  }}
  chain input {{
    iifname {links} jump to_host
  }}
  chain outward {{
    meta nfproto != ipv4 drop
    {resolve}
    ip daddr {{ {unreachable} }} drop
    iifname vmap @private
    ip daddr {{ {site} }} drop
  }}
  chain to_host {{
    drop
  }}
  chain postrouting {{
    iifname {links} masquerade
  }}
}}
"
    )
}

/// Lets the instance behind `link` reach `ranges`, in the place of what it reached before of private ranges.
pub(crate) fn private(link: &str, ranges: &[Ipv4Range]) -> String {
    let chain = format!("private-{link}");
    // What is declared first is there to be deleted.
    let mut text = format!(
        "table inet dormouse {{
  map private {{
    type ifname : verdict
  }}
  chain {chain} {{
  }}
}}
add element inet dormouse private {{ \"{link}\" : goto {chain} }}
delete element inet dormouse private {{ \"{link}\" }}
flush chain inet dormouse {chain}
"
    );
    if ranges.is_empty() {
        text.push_str(&format!("delete chain inet dormouse {chain}\n"));
    } else {
        let (ranges, site) = (filter::joined(ranges), filter::joined(&PRIVATE_RANGES));
        text.push_str(&format!(
            "add rule inet dormouse {chain} ip daddr {{ {ranges} }} accept
add rule inet dormouse {chain} ip daddr {{ {site} }} drop
add element inet dormouse private {{ \"{link}\" : goto {chain} }}
"
        ));
    }
    text
}

/// Removes the table, which need not exist.
pub(crate) fn no_table() -> String {
    "table inet dormouse\ndelete table inet dormouse\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_allowed_before_private_addresses_are_dropped() {
        let table = table(&[Ipv4Addr::new(10, 0, 0, 53), Ipv4Addr::new(9, 9, 9, 9)]);
        let allowed = table.find("ip daddr { 10.0.0.53, 9.9.9.9 } meta l4proto").unwrap();
        let dropped = table.find("ip daddr { 10.0.0.0/8").unwrap();
        assert!(allowed < dropped);
        assert_eq!(table.matches("dport 53 accept").count(), 1, "forwarded, and not to the host");
    }

    #[test]
    fn nothing_is_allowed_to_the_host() {
        let table = table(&[]);
        assert!(!table.contains("{ }"), "an empty set is a syntax error");
        assert!(!table.contains("dport"));
    }
}
