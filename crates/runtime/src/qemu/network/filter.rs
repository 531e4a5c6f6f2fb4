//! What a machine's own namespace lets out. Pure: the text of an nftables table.
//!
//! QEMU opens the guest's connections as sockets of its namespace, and can change nothing there: it has no
//! capability. So rules on what the namespace itself sends hold the guest. They come before those of the host
//! ([`super::rules`]), which they never widen.
//!
//! - `open`: nothing here; the host's rules are enough.
//! - `none`: loopback only, where the name server of [`super::names`] refuses everything.
//! - an allow-list: its ranges; and addresses that its names were resolved to, each for as long as its answer
//!   lives (the set `names`). A connection that has begun goes on after that: its packets are told by a mark,
//!   the generation of the policy. Another policy is another generation, so what is open then is looked at anew.
//!   Port 53 and 853 of others are closed even where their addresses are allowed: a name that this
//!   server did not resolve is no name of the list.
//!
//! What is not allowed is refused, not dropped: programs in the guest hear of it at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use base::{Egress, Ipv4Range, PRIVATE_RANGES, UNREACHABLE_RANGES};

use crate::limits::GRANTS_MAX;

/// A way to one address, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) address: Ipv4Addr,
    pub(crate) lasts: Duration,
}

/// The table for `egress`, in the place of an earlier one, in one transaction. `permitted`: the private
/// ranges that this server lets policies name. `generation` is another for every policy of a namespace.
pub(crate) fn table(
    egress: &Egress,
    permitted: &[Ipv4Range],
    generation: u32,
    granted: &[Grant],
) -> String {
    let chains = match egress {
        Egress::Open => String::new(),
        Egress::None => closed(),
        Egress::Allow(_) => listed(egress, permitted, generation, granted),
    };
    // Declaring it first lets the deletion succeed where there is none.
    format!("table inet egress\ndelete table inet egress\ntable inet egress {{\n{chains}}}\n")
}

fn closed() -> String {
    "  chain output {
    type filter hook output priority filter; policy drop;
    oifname lo accept
    reject with icmpx type admin-prohibited
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname lo accept
  }
"
    .to_owned()
}

fn listed(egress: &Egress, permitted: &[Ipv4Range], generation: u32, granted: &[Grant]) -> String {
    let private = private_of(egress, permitted);
    let ranges: Vec<Ipv4Range> = egress.ranges().filter(|range| !private.contains(range)).collect();
    let (unreachable, site) = (joined(&UNREACHABLE_RANGES), joined(&PRIVATE_RANGES));
    let (ranges, private) = (elements(&outermost(&ranges)), elements(&outermost(&private)));
    let names = match granted {
        [] => String::new(),
        granted => format!("elements = {{ {} }};", timed(granted)),
    };
    format!(
        "  set ranges {{
    type ipv4_addr; flags interval; {ranges}
  }}
  set private {{
    type ipv4_addr; flags interval; {private}
  }}
  set names {{
    type ipv4_addr; flags timeout; size {GRANTS_MAX}; {names}
  }}
  chain refuse {{
    reject with icmpx type admin-prohibited
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname lo accept
    meta nfproto != ipv4 drop
    ip daddr {{ {unreachable} }} goto refuse
    meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} goto refuse
    ip daddr @private accept
    ip daddr {{ {site} }} goto refuse
    ip daddr @ranges accept
    ct state established,related ct mark {generation} accept
    ip daddr @names ct mark set {generation} accept
    goto refuse
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname lo accept
    ct state related accept
    ct state established ct mark {generation} accept
    ct state established ip saddr @private accept
    ct state established ip saddr @ranges accept
    ct state established ip saddr @names accept
  }}
"
    )
}

/// More ways, in the table that is there; those that are there last anew.
pub(crate) fn grant(granted: &[Grant]) -> String {
    let addresses = granted.iter().map(|grant| format!("{} timeout 1h", grant.address));
    let (there, bare) = (addresses.collect::<Vec<_>>().join(", "), bare(granted));
    // Adding what is there changes nothing of it, deleting what is not fails, also where it has just run out.
    format!(
        "add element inet egress names {{ {there} }}
delete element inet egress names {{ {bare} }}
add element inet egress names {{ {} }}
",
        timed(granted)
    )
}

/// The private ranges that `egress` names and the server permits.
pub(crate) fn private_of(egress: &Egress, permitted: &[Ipv4Range]) -> Vec<Ipv4Range> {
    let within =
        |range: &Ipv4Range, any: &[Ipv4Range]| any.iter().any(|other| range.is_within(*other));
    egress
        .ranges()
        .filter(|range| within(range, &PRIVATE_RANGES) && within(range, permitted))
        .collect()
}

/// Without those that others hold: an interval set takes none twice.
pub(crate) fn outermost(ranges: &[Ipv4Range]) -> Vec<Ipv4Range> {
    let inner =
        |range: &Ipv4Range| ranges.iter().any(|other| other != range && range.is_within(*other));
    ranges.iter().copied().filter(|range| !inner(range)).collect()
}

fn elements(ranges: &[Ipv4Range]) -> String {
    match ranges {
        // An empty list is a syntax error.
        [] => String::new(),
        ranges => format!("elements = {{ {} }};", joined(ranges)),
    }
}

pub(crate) fn joined(ranges: &[Ipv4Range]) -> String {
    ranges.iter().map(Ipv4Range::to_string).collect::<Vec<_>>().join(", ")
}

fn timed(granted: &[Grant]) -> String {
    let timed =
        |grant: &Grant| format!("{} timeout {}s", grant.address, grant.lasts.as_secs().max(1));
    granted.iter().map(timed).collect::<Vec<_>>().join(", ")
}

fn bare(granted: &[Grant]) -> String {
    granted.iter().map(|grant| grant.address.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Ipv4Range> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_open_machine_has_no_rules_of_its_own_and_a_closed_one_only_loopback() {
        assert!(!table(&Egress::Open, &[], 1, &[]).contains("chain"));
        let none = table(&Egress::None, &[], 1, &[]);
        assert_eq!(none.matches("accept").count(), 2, "{none}");
        assert_eq!(none.matches("policy drop").count(), 2, "{none}");
    }

    #[test]
    fn private_ranges_are_let_out_where_both_name_them() {
        let egress: Egress =
            "allow=10.1.0.0/16,10.2.0.0/16,192.0.2.0/24,0.0.0.0/0".parse().unwrap();
        let permitted = ranges(&["10.1.0.0/16", "192.168.0.0/16", "192.0.2.0/24"]);
        assert_eq!(private_of(&egress, &permitted), ranges(&["10.1.0.0/16"]));
        assert!(private_of(&egress, &[]).is_empty());
        let table = table(&egress, &permitted, 1, &[]);
        assert!(table.contains("flags interval; elements = { 10.1.0.0/16 };"), "{table}");
        // What others hold is left out; what is not permitted is refused before it is looked up there.
        assert!(table.contains("flags interval; elements = { 0.0.0.0/0 };"), "{table}");
        let refused = table.find("100.64.0.0/10, 172.16.0.0/12").unwrap();
        assert!(
            table.find("@private").unwrap() < refused && refused < table.find("@ranges").unwrap()
        );
    }

    #[test]
    fn what_is_granted_lasts_at_least_a_second() {
        let lasts = Duration::from_millis(3);
        let text = grant(&[Grant { address: Ipv4Addr::new(192, 0, 2, 1), lasts }]);
        assert!(text.ends_with("{ 192.0.2.1 timeout 1s }\n"), "{text}");
    }
}
