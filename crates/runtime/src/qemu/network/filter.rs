//! What a machine's own namespace lets out. Pure: the text of an nftables table.
//!
//! QEMU opens the guest's connections as sockets of its namespace, and can change nothing there: it has no
//! capability. So rules on what the namespace itself sends hold the guest. They come before those of the host
//! ([`super::rules`]), which they never widen.
//!
//! - `open`: what the host's rules let pass, once more: they are one table in the namespace of all, and whoever
//!   flushes its rules opens them.
//! - `none`: loopback only, where the name server of [`super::names`] refuses everything.
//! - an allow-list: its ranges; and addresses that its names were resolved to, each for as long as its answer
//!   lives (the set `names`). A connection that has begun goes on after that: its packets are told by a mark,
//!   the generation of the policy. Another policy is another generation, so what is open then is looked at anew:
//!   what began under an earlier one goes on where a name of the new one was resolved to its address (the set
//!   `begun`), however long it says nothing. Port 53 and 853 of others are closed even where their addresses are
//!   allowed: a name that this server did not resolve is no name of the list.
//!
//! What is not allowed is refused, not dropped: programs in the guest hear of it at once. A connection is reset, since
//! QEMU's network tells the guest nothing of what ICMP says of one that is being made. Under `open` it is dropped, as
//! by the host.
//!
//! All but `none` look at connections, so the kernel knows those that began under an earlier policy.

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

/// What is the same for all policies of a namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Private ranges that this server lets policies name.
    pub(crate) permitted: Vec<Ipv4Range>,
    /// Name servers that a machine whose policy is open may ask itself.
    pub(crate) resolvers: Vec<Ipv4Addr>,
    /// The host's own addresses.
    pub(crate) host: Vec<Ipv4Range>,
}

/// What names were resolved to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ways {
    /// What can be connected to.
    pub(crate) granted: Vec<Grant>,
    /// Where what has begun goes on.
    pub(crate) begun: Vec<Ipv4Addr>,
}

/// The table for `egress`, in the place of an earlier one, in one transaction. `generation` is another for
/// every policy of a namespace, and never 0.
pub(crate) fn table(
    egress: &Egress,
    around: &Surroundings,
    generation: u32,
    ways: &Ways,
) -> String {
    let chains = match egress {
        Egress::Open => open(around),
        Egress::None => closed(),
        Egress::Allow(_) => listed(egress, around, generation, ways),
    };
    // Declaring it first lets the deletion succeed where there is none.
    format!("table inet egress\ndelete table inet egress\ntable inet egress {{\n{chains}}}\n")
}

fn open(around: &Surroundings) -> String {
    let (unreachable, site) = (joined(&UNREACHABLE_RANGES), joined(&PRIVATE_RANGES));
    let host = to_host(around, "drop");
    let resolve = match around.resolvers.as_slice() {
        [] => String::new(),
        some => {
            let some = super::joined(some);
            format!("ip daddr {{ {some} }} meta l4proto {{ tcp, udp }} th dport 53 accept")
        }
    };
    format!(
        "  chain output {{
    type filter hook output priority filter; policy accept;
    oifname lo accept
    meta nfproto != ipv4 drop
    {host}
    {resolve}
    ip daddr {{ {unreachable} }} drop
    ip daddr {{ {site} }} drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname lo accept
    ct state established,related accept
  }}
"
    )
}

/// What becomes of packets to the host itself.
fn to_host(around: &Surroundings, verdict: &str) -> String {
    match around.host.as_slice() {
        [] => String::new(),
        host => format!("ip daddr {{ {} }} {verdict}", joined(&outermost(host))),
    }
}

fn closed() -> String {
    "  chain output {
    type filter hook output priority filter; policy drop;
    oifname lo accept
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname lo accept
  }
"
    .to_owned()
}

fn listed(egress: &Egress, around: &Surroundings, generation: u32, ways: &Ways) -> String {
    let private = private_of(egress, &around.permitted);
    let ranges: Vec<Ipv4Range> = egress.ranges().filter(|range| !private.contains(range)).collect();
    let (unreachable, site) = (joined(&UNREACHABLE_RANGES), joined(&PRIVATE_RANGES));
    let (ranges, private) = (elements(&outermost(&ranges)), elements(&outermost(&private)));
    let names = match ways.granted.as_slice() {
        [] => String::new(),
        granted => format!("elements = {{ {} }};", timed(granted)),
    };
    let begun = match ways.begun.as_slice() {
        [] => String::new(),
        begun => format!("elements = {{ {} }};", super::joined(begun)),
    };
    let host = to_host(around, "goto refuse");
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
  set begun {{
    type ipv4_addr; {begun}
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname lo accept
    meta nfproto != ipv4 drop
    ip daddr {{ {unreachable} }} goto refuse
    {host}
    meta l4proto {{ tcp, udp }} th dport {{ 53, 853 }} goto refuse
    ip daddr @private accept
    ip daddr {{ {site} }} goto refuse
    ip daddr @ranges accept
    ct state established,related ct mark {generation} accept
    ct state established,related ct mark != 0 ip daddr @begun ct mark set {generation} accept
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
    ct state established ct mark != 0 ip saddr @begun accept
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

    fn permitting(texts: &[&str]) -> Surroundings {
        Surroundings { permitted: ranges(texts), ..Surroundings::default() }
    }

    #[test]
    fn an_open_machine_has_rules_of_its_own_too_and_a_closed_one_only_loopback() {
        let (resolvers, host) = (vec![Ipv4Addr::new(10, 0, 0, 53)], ranges(&["203.0.113.5"]));
        let around = Surroundings { resolvers, host, ..permitting(&["10.0.0.0/8"]) };
        let open = table(&Egress::Open, &around, 1, &Ways::default());
        let at = |rule: &str| open.find(rule).unwrap_or_else(|| panic!("no {rule} in {open}"));
        let host = at("ip daddr { 203.0.113.5/32 } drop");
        let resolver = at("ip daddr { 10.0.0.53 } meta l4proto { tcp, udp } th dport 53 accept");
        assert!(host < resolver && resolver < at("169.254.0.0/16"));
        assert!(resolver < at("{ 10.0.0.0/8"), "permitted ranges are for those that name them");
        let bare = table(&Egress::Open, &Surroundings::default(), 1, &Ways::default());
        assert!(!bare.contains("{ }"), "an empty set is a syntax error: {bare}");
        let none = table(&Egress::None, &around, 1, &Ways::default());
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
        let around = Surroundings { permitted, ..Surroundings::default() };
        let table = table(&egress, &around, 1, &Ways::default());
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
