//! Which name servers there are.
//!
//! The guest's own is [`super::names`]. That one asks whoever the host asks, by [`named`]. A guest whose policy is
//! open may also ask the host's servers itself, where its namespace leads there: not those on loopback
//! (systemd-resolved on 127.0.0.53), but those behind it, which systemd writes down.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::limits::{RESOLV_CONF_BYTES_MAX, RESOLVERS_MAX};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Whether `path` is a `resolv.conf` that names one server, `address`.
pub(crate) fn points_to(address: Ipv4Addr, path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|there| there == naming(address))
}

fn naming(address: Ipv4Addr) -> String {
    format!("nameserver {address}\n")
}

/// Makes one of it, readable for everybody. To be called by one at a time; who has the file mounted goes on with
/// the one that it has.
pub(crate) fn point_to(address: Ipv4Addr, path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, naming(address))?;
    // Whatever the mask is.
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(new, path)
}

/// The name servers that this host asks.
pub(crate) fn named() -> Vec<IpAddr> {
    parse(&read(RESOLV_CONF)).take(RESOLVERS_MAX).collect()
}

/// The name servers of this host that other hosts reach too, IPv4 only.
pub(crate) fn of_host() -> Vec<Ipv4Addr> {
    choose(&read(RESOLV_CONF), &read("/run/systemd/resolve/resolv.conf"))
}

fn choose(resolv_conf: &str, systemd: &str) -> Vec<Ipv4Addr> {
    let reachable = |text: &str| -> Vec<Ipv4Addr> {
        let all = parse(text).filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let usable = all.filter(|address| !address.is_loopback() && !address.is_unspecified());
        usable.take(RESOLVERS_MAX).collect()
    };
    let addresses = reachable(resolv_conf);
    if addresses.is_empty() { reachable(systemd) } else { addresses }
}

fn parse(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    let words = text.lines().map(|line| line.split_whitespace());
    words
        .filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next())?)
        .filter_map(|address| address.parse().ok())
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
            nameserver 9.9.9.9 # trailing\nnameserver\nnameserver 2001:db8::1\n";
        assert_eq!(choose(text, ""), [Ipv4Addr::new(10, 255, 255, 53), Ipv4Addr::new(9, 9, 9, 9)]);
        assert_eq!(parse(text).count(), 3);
    }

    #[test]
    fn a_local_stub_is_asked_by_us_and_what_is_behind_it_by_others() {
        let (stub, behind) = ("nameserver 127.0.0.53\n", "nameserver 192.168.1.1\n");
        assert_eq!(choose(stub, behind), [Ipv4Addr::new(192, 168, 1, 1)]);
        assert_eq!(parse(stub).collect::<Vec<_>>(), [IpAddr::from([127, 0, 0, 53])]);
    }

    #[test]
    fn a_local_server_with_nothing_behind_it_is_no_server_for_others() {
        assert!(choose("nameserver 127.0.0.1\n", "").is_empty());
    }

    #[test]
    fn a_file_for_guests_names_one_server_and_is_mended_where_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let befores = ["nameserver 127.0.0.1\n", "nameserver 192.0.2.1\n", "nameserver 127", ""];
        for before in [None].into_iter().chain(befores.map(Some)) {
            if let Some(before) = before {
                fs::write(&path, before).unwrap();
            }
            let is_good = before == Some("nameserver 127.0.0.1\n");
            assert_eq!(points_to(Ipv4Addr::LOCALHOST, &path), is_good, "{before:?}");
            point_to(Ipv4Addr::LOCALHOST, &path).unwrap();
            assert!(points_to(Ipv4Addr::LOCALHOST, &path));
            assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 127.0.0.1\n");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        }
    }
}
