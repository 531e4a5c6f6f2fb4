//! The nftables rules. Pure.
//!
//! One table for all instances, told apart from the rest of the host by the name of their links.
//! Loading it replaces an earlier one in a single transaction, so it can be loaded at every start.

use std::net::Ipv4Addr;

use super::joined;

/// How the host's ends of all links begin. With four digits it stays below the kernel's 15 bytes.
pub(crate) const LINK_PREFIX: &str = "dormouse-";

/// What no guest may reach: everything that is not a public IPv4 address of somebody else. The
/// host's own addresses are covered by the input chain, whatever they are.
const BLOCKED: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Link-local, with the metadata services of most clouds.
    "169.254.0.0/16",
    // Azure's metadata and agents.
    "168.63.129.16",
    "172.16.0.0/12",
    // Protocol assignments, with Oracle's metadata service.
    "192.0.0.0/24",
    // Relays to IPv6 that have long been withdrawn.
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The table, for a host whose guests may ask `resolvers`.
pub(crate) fn table(resolvers: &[Ipv4Addr]) -> String {
    let links = format!("\"{LINK_PREFIX}*\"");
    let blocked = BLOCKED.join(", ");
    let resolve = if resolvers.is_empty() {
        String::new()
    } else {
        let resolvers = joined(resolvers);
        format!("ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept")
    };
    // Declaring it first lets the deletion succeed where there is none.
    format!(
        "table inet dormouse
delete table inet dormouse
table inet dormouse {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname {links} ct state established,related accept
    oifname {links} drop
    iifname {links} jump outward
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname {links} jump to_host
  }}
  chain outward {{
    meta nfproto != ipv4 drop
    {resolve}
    ip daddr {{ {blocked} }} drop
  }}
  chain to_host {{
    {resolve}
    drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname {links} masquerade
  }}
}}
"
    )
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
        let dropped = table.find("ip daddr { 0.0.0.0/8").unwrap();
        assert!(allowed < dropped);
        assert_eq!(table.matches("dport 53 accept").count(), 2, "forwarded, and to the host");
    }

    #[test]
    fn without_name_servers_nothing_is_allowed_to_the_host() {
        let table = table(&[]);
        assert!(!table.contains("{ }"), "an empty set is a syntax error");
        assert!(!table.contains("dport"));
    }
}
