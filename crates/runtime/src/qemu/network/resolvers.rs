//! Which name servers guests may ask.
//!
//! User-mode networking forwards the guest's questions (to 10.0.2.3) to the first name server of
//! `/etc/resolv.conf` as QEMU sees it. A local one (systemd-resolved on 127.0.0.53) cannot be reached
//! from the namespace; then the servers behind it are taken from where systemd writes them, and QEMU
//! gets a `resolv.conf` that names those.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;

use crate::limits::{RESOLV_CONF_BYTES_MAX, RESOLVERS_MAX};

/// The host's name servers, IPv4 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolvers {
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// True where `/etc/resolv.conf` begins with another.
    differs: bool,
}

impl Resolvers {
    /// A `resolv.conf` for QEMU, where the host's will not do.
    pub(crate) fn replacement(&self) -> io::Result<Option<tempfile::NamedTempFile>> {
        if !self.differs {
            return Ok(None);
        }
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile()?;
        for address in &self.addresses {
            writeln!(file, "nameserver {address}")?;
        }
        Ok(Some(file))
    }
}

/// The name servers of this host.
pub(crate) fn of_host() -> Resolvers {
    let resolvers = choose(&read("/etc/resolv.conf"), &read("/run/systemd/resolve/resolv.conf"));
    if resolvers.addresses.is_empty() {
        tracing::warn!(
            "guests cannot resolve names: /etc/resolv.conf names no IPv4 server that is not local"
        );
    }
    resolvers
}

fn choose(resolv_conf: &str, systemd: &str) -> Resolvers {
    let all = parse(resolv_conf);
    let reachable = |list: &[Ipv4Addr]| -> Vec<Ipv4Addr> {
        let usable =
            list.iter().filter(|address| !address.is_loopback() && !address.is_unspecified());
        usable.copied().take(RESOLVERS_MAX).collect()
    };
    let mut addresses = reachable(&all);
    if addresses.is_empty() {
        addresses = reachable(&parse(systemd));
    }
    let differs = !addresses.is_empty() && addresses.first() != all.first();
    Resolvers { addresses, differs }
}

fn parse(text: &str) -> Vec<Ipv4Addr> {
    let words = text.lines().map(|line| line.split_whitespace());
    words
        .filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next())?)
        .filter_map(|address| address.parse().ok())
        .collect()
}

fn read(path: &str) -> String {
    let mut text = String::new();
    let read =
        File::open(path).and_then(|f| f.take(RESOLV_CONF_BYTES_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::debug!(path, %error, "no name servers from here");
        text.clear();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_servers_of_resolv_conf_are_taken() {
        let text = "# comment\nsearch example.org\nnameserver 10.255.255.53\nnameserver fe80::1%2\n\
            nameserver 9.9.9.9 # trailing\nnameserver\n";
        let found = choose(text, "");
        assert_eq!(found.addresses, [Ipv4Addr::new(10, 255, 255, 53), Ipv4Addr::new(9, 9, 9, 9)]);
        assert!(found.replacement().unwrap().is_none());
    }

    #[test]
    fn a_local_stub_is_replaced_by_what_is_behind_it() {
        let found = choose("nameserver 127.0.0.53\n", "nameserver 192.168.1.1\n");
        assert_eq!(found.addresses, [Ipv4Addr::new(192, 168, 1, 1)]);
        let file = found.replacement().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "nameserver 192.168.1.1\n");
    }

    #[test]
    fn a_local_server_with_nothing_behind_it_is_no_server() {
        let found = choose("nameserver 127.0.0.1\n", "");
        assert!(found.addresses.is_empty());
        assert!(found.replacement().unwrap().is_none());
    }
}
