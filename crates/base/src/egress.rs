//! What a machine may reach of the world.
//!
//! A policy has one text form, the same in the catalog, in records, in files and on the command line: `open`,
//! `none`, or what is allowed with commas between. Names are compared in lower case; a name stands for itself only,
//! `*.name` for everything below it. Addresses are IPv4: machines have no other.
//!
//! Not here: who enforces it (`runtime`), and which private ranges a server permits (its configuration).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many names and ranges a policy may have.
pub const EGRESS_RULES_MAX: usize = 256;
/// Longest name of the DNS, without its last dot.
const NAME_LENGTH_MAX: usize = 253;
/// Longest part of one.
const LABEL_LENGTH_MAX: usize = 63;

/// Ranges that are private to a site. Only a policy that names them reaches them, and only where the server
/// permits that.
pub const PRIVATE_RANGES: [Ipv4Range; 4] = [
    Ipv4Range::new(10, 0, 0, 0, 8),
    Ipv4Range::new(100, 64, 0, 0, 10),
    Ipv4Range::new(172, 16, 0, 0, 12),
    Ipv4Range::new(192, 168, 0, 0, 16),
];

/// What no machine ever reaches, whatever its policy says: nobody's and everybody's addresses, the host's own
/// loopback, what hands out credentials of the host.
pub const UNREACHABLE_RANGES: [Ipv4Range; 10] = [
    Ipv4Range::new(0, 0, 0, 0, 8),
    Ipv4Range::new(127, 0, 0, 0, 8),
    // Link-local, with the metadata services of most clouds.
    Ipv4Range::new(169, 254, 0, 0, 16),
    // Alibaba's metadata service, in the middle of a private range.
    Ipv4Range::new(100, 100, 100, 200, 32),
    // Azure's metadata and agents.
    Ipv4Range::new(168, 63, 129, 16, 32),
    // Protocol assignments, with Oracle's metadata service.
    Ipv4Range::new(192, 0, 0, 0, 24),
    // Relays to IPv6 that have long been withdrawn.
    Ipv4Range::new(192, 88, 99, 0, 24),
    // Benchmarks of networks.
    Ipv4Range::new(198, 18, 0, 0, 15),
    // Multicast; what was never given out, and the broadcast address.
    Ipv4Range::new(224, 0, 0, 0, 4),
    Ipv4Range::new(240, 0, 0, 0, 4),
];

/// What a machine may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Egress {
    /// Every public address.
    #[default]
    Open,
    /// Nothing, name servers neither.
    None,
    /// These, in ascending order and each once.
    Allow(Vec<EgressRule>),
}

/// One entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EgressRule {
    /// This name.
    Name(String),
    /// Every name below this one: `*.name`.
    Below(String),
    /// These addresses.
    Range(Ipv4Range),
}

/// A block of addresses, as `192.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    first: u32,
    length: u8,
}

/// A policy, name or range that cannot be; says what could.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EgressError(String);

impl Egress {
    /// An allow-list of these.
    ///
    /// # Errors
    /// For a rule that cannot be, and for too many of them. An empty list is `none`.
    pub fn allow<T: AsRef<str>>(rules: &[T]) -> Result<Self, EgressError> {
        if rules.len() > EGRESS_RULES_MAX {
            let what = format!("a policy has at most {EGRESS_RULES_MAX} names and ranges");
            return Err(EgressError(what));
        }
        let rules = rules.iter().map(|rule| rule.as_ref().parse());
        let mut rules = rules.collect::<Result<Vec<EgressRule>, _>>()?;
        rules.sort();
        rules.dedup();
        Ok(if rules.is_empty() { Self::None } else { Self::Allow(rules) })
    }

    /// Its rules; none where it is no list.
    #[must_use]
    pub fn rules(&self) -> &[EgressRule] {
        match self {
            Self::Allow(rules) => rules,
            Self::Open | Self::None => &[],
        }
    }

    /// Its ranges.
    pub fn ranges(&self) -> impl Iterator<Item = Ipv4Range> + '_ {
        self.rules().iter().filter_map(|rule| match rule {
            EgressRule::Range(range) => Some(*range),
            EgressRule::Name(_) | EgressRule::Below(_) => None,
        })
    }

    /// Whether the addresses of `name` may be asked for and reached. `name` is in lower case, without a dot at
    /// its end.
    #[must_use]
    pub fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Open => true,
            Self::None => false,
            Self::Allow(rules) => rules.iter().any(|rule| match rule {
                EgressRule::Name(allowed) => name == allowed,
                EgressRule::Below(parent) => name
                    .strip_suffix(parent.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                EgressRule::Range(_) => false,
            }),
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::None => f.write_str("none"),
            Self::Allow(rules) => {
                let rules: Vec<String> = rules.iter().map(EgressRule::to_string).collect();
                write!(f, "allow={}", rules.join(","))
            }
        }
    }
}

impl FromStr for Egress {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match (text, text.strip_prefix("allow=")) {
            ("open", _) => Ok(Self::Open),
            ("none", _) => Ok(Self::None),
            (_, Some(rules)) if !rules.is_empty() => {
                let rules: Vec<&str> = rules.split(',').map(str::trim).collect();
                Self::allow(&rules)
            }
            _ => Err(EgressError(
                "an egress policy is open, none, or allow= with names and ranges after it, as in \
                 allow=example.com,*.example.org,192.0.2.0/24"
                    .to_owned(),
            )),
        }
    }
}

impl TryFrom<String> for Egress {
    type Error = EgressError;

    fn try_from(text: String) -> Result<Self, EgressError> {
        text.parse()
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> Self {
        egress.to_string()
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        // No name's last part is a number (RFC 3696), so what ends in one was meant as an address; with a dot
        // after it too, since names are kept without that.
        let last = text.strip_suffix('.').unwrap_or(text).rsplit('.').next().unwrap_or_default();
        let is_number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
        if text.contains('/') || is_number {
            return text.parse().map(Self::Range);
        }
        if text.contains(':') {
            let what = format!("{}: machines have IPv4 only, and no ports are named", shown(text));
            return Err(EgressError(what));
        }
        let lower = text.to_ascii_lowercase();
        let (below, name) = match lower.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, lower.as_str()),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_name(name) {
            return Err(EgressError(format!(
                "{} is no name: one is written example.com, all below it *.example.com, in letters, digits, \
                 - and _ (other scripts as xn--)",
                shown(text)
            )));
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Name(name.to_owned()) })
    }
}

/// What a caller wrote, cut to what an error may repeat.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_LENGTH_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= NAME_LENGTH_MAX && name.split('.').all(is_label)
}

impl Ipv4Range {
    /// `a.b.c.d/length`; what is beyond the length is cut off.
    #[must_use]
    pub const fn new(a: u8, b: u8, c: u8, d: u8, length: u8) -> Self {
        let address = u32::from_be_bytes([a, b, c, d]);
        Self { first: address & Self::mask(length), length }
    }

    const fn mask(length: u8) -> u32 {
        match length {
            0 => 0,
            length => u32::MAX << (32 - length),
        }
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & Self::mask(self.length) == self.first
    }

    /// Whether all of them are in `other`.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        self.length >= other.length && self.first & Self::mask(other.length) == other.first
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.length)
    }
}

impl FromStr for Ipv4Range {
    type Err = EgressError;

    /// `192.0.2.0/24`, or one address.
    fn from_str(text: &str) -> Result<Self, EgressError> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let bad = || {
            EgressError(format!("{} is no IPv4 range: one is written 192.0.2.0/24", shown(text)))
        };
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let digits =
            !length.is_empty() && length.len() <= 2 && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = length.parse().map_err(|_| bad())?;
        if !digits || length > 32 {
            return Err(bad());
        }
        let first = address.to_bits() & Self::mask(length);
        let range = Self { first, length };
        if first == address.to_bits() {
            Ok(range)
        } else {
            Err(EgressError(format!(
                "{} begins in the middle of a range: {range} is meant?",
                shown(text)
            )))
        }
    }
}

impl Serialize for Ipv4Range {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'a> Deserialize<'a> for Ipv4Range {
    fn deserialize<D: serde::Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether anybody's machine may reach `address` without a rule for it.
#[must_use]
pub fn is_public(address: Ipv4Addr) -> bool {
    let in_any = |ranges: &[Ipv4Range]| ranges.iter().any(|range| range.contains(address));
    !in_any(&UNREACHABLE_RANGES) && !in_any(&PRIVATE_RANGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_back_from_its_text() {
        for text in
            ["open", "none", "allow=example.com", "allow=*.example.com,10.0.0.0/8,1.1.1.1/32"]
        {
            let egress: Egress = text.parse().unwrap();
            assert_eq!(egress.to_string().parse::<Egress>().unwrap(), egress, "{text}");
        }
        let twice: Egress =
            "allow=B.Example.com., a.example.com ,b.example.com,9.9.9.9".parse().unwrap();
        assert_eq!(twice.to_string(), "allow=a.example.com,b.example.com,9.9.9.9/32");
        assert_eq!(Egress::allow::<&str>(&[]).unwrap(), Egress::None);
        for bad in ["", "Open", "all", "allow=", "allow=,", "example.com", "deny=a"] {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
        let many: Vec<String> =
            (0..=EGRESS_RULES_MAX).map(|n| format!("n{n}.example.com")).collect();
        assert!(Egress::allow(&many).is_err());
        assert!(Egress::allow(&many[1..]).is_ok());
    }

    /// What is kept is text, so whatever is taken has to be read back as the same.
    #[test]
    fn every_rule_that_is_taken_is_read_back_from_its_text() {
        let letters = ["1", "a", "X", ".", "*", "-", "/", "*.", "0.0.0.0"];
        let mut texts = vec![String::new()];
        let mut taken = 0;
        for _ in 0..6 {
            let longer = texts.iter().flat_map(|text| letters.map(|more| format!("{text}{more}")));
            texts = longer.collect();
            for text in &texts {
                let Ok(rule) = text.parse::<EgressRule>() else { continue };
                assert_eq!(rule.to_string().parse(), Ok(rule), "{text}");
                let Ok(policy) = Egress::allow(&[text]) else { panic!("{text}") };
                assert_eq!(policy.to_string().parse(), Ok(policy), "{text}");
                taken += 1;
            }
        }
        assert!(taken > 1000, "{taken}");
    }

    #[test]
    fn what_ends_in_a_number_is_no_name_with_a_dot_after_it_either() {
        for bad in ["1.", "1.2.3.", "10.0.0.", "*.1.", "a.7.", "10.1.2.3.", "10.0.0.0/8."] {
            assert!(bad.parse::<EgressRule>().is_err(), "{bad}");
        }
        assert_eq!("1.A.".parse(), Ok(EgressRule::Name("1.a".to_owned())));
    }

    #[test]
    fn names_are_checked() {
        let long = format!("{}.com", "x".repeat(64));
        let deep = vec!["x".repeat(60); 5].join(".");
        for bad in [
            "*",
            "*.",
            ".",
            "",
            "a..b",
            "a.*.b",
            "*a.com",
            "-a.com",
            "a-.com",
            "ä.com",
            "a b.com",
            "http://a.com",
            "a.com:443",
            "a,b",
            "::1",
            "fe80::/10",
            "a.com\n",
            "a.com\0",
            &long,
            &deep,
        ] {
            assert!(bad.parse::<EgressRule>().is_err(), "{bad:?}");
        }
        for good in
            ["localhost", "a-b.c_d.example", "xn--bcher-kva.example", "*.com", "1.example", "*.1a"]
        {
            assert!(good.parse::<EgressRule>().is_ok(), "{good}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        for bad in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/008",
            "10.0.0/8",
            "1.2.3",
            "256.1.1.1",
            "1.2.3.4/24",
            "0/0",
            "01.2.3.4",
        ] {
            assert!(bad.parse::<EgressRule>().is_err(), "{bad}");
        }
        assert_eq!("0.0.0.0/0".parse::<Ipv4Range>().unwrap(), Ipv4Range::new(9, 9, 9, 9, 0));
        assert!("1.2.3.4/24".parse::<Ipv4Range>().unwrap_err().to_string().contains("1.2.3.0/24"));
    }

    #[test]
    fn a_name_stands_for_itself_and_a_star_for_what_is_below() {
        let list: Egress = "allow=example.com,*.example.org".parse().unwrap();
        for (name, allowed) in [
            ("example.com", true),
            ("www.example.com", false),
            ("notexample.com", false),
            ("example.com.evil.net", false),
            ("example.org", false),
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("notexample.org", false),
            (".example.org", false),
            ("", false),
        ] {
            assert_eq!(list.allows_name(name), allowed, "{name}");
        }
        assert!(Egress::Open.allows_name("anything") && !Egress::None.allows_name("example.com"));
    }

    #[test]
    fn ranges_hold_what_is_in_them() {
        let range = Ipv4Range::new(10, 1, 0, 0, 16);
        assert!(range.contains(Ipv4Addr::new(10, 1, 255, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 2, 0, 0)));
        assert!(range.is_within(PRIVATE_RANGES[0]) && !PRIVATE_RANGES[0].is_within(range));
        let all = Ipv4Range::new(0, 0, 0, 0, 0);
        assert!(range.is_within(all) && all.contains(Ipv4Addr::BROADCAST));
        for (address, public) in [
            ("1.1.1.1", true),
            ("10.0.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.32.0.1", true),
            ("192.168.0.1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
