//! Words for the agent on the kernel's command line: `dormouse.KEY=VALUE`. Pure.

use std::net::Ipv4Addr;

use crate::Error;
use crate::net::Settings;

/// The network settings, where the command line has an address.
///
/// # Errors
/// A word of ours that cannot be understood.
pub(crate) fn network(cmdline: &str) -> Result<Option<Settings>, Error> {
    let Some(ip) = value(cmdline, "ip") else { return Ok(None) };
    let (address, prefix) = ip.split_once('/').ok_or_else(|| wrong("ip", ip))?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32);
    Ok(Some(Settings {
        address: address.parse().map_err(|_| wrong("ip", ip))?,
        prefix: prefix.ok_or_else(|| wrong("ip", ip))?,
        gateway: address_of(cmdline, "gw")?,
        dns: address_of(cmdline, "dns")?,
    }))
}

fn address_of(cmdline: &str, key: &str) -> Result<Option<Ipv4Addr>, Error> {
    value(cmdline, key).map(|text| text.parse().map_err(|_| wrong(key, text))).transpose()
}

/// The last one counts, as for the kernel's own words.
fn value<'a>(cmdline: &'a str, key: &str) -> Option<&'a str> {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("dormouse.")?.split_once('='))
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value)
        .next_back()
}

fn wrong(key: &str, value: &str) -> Error {
    Error::Invalid(format!("kernel command line: dormouse.{key}={value} is no such address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_read_from_our_words_only() {
        let cmdline = "quiet ip=1.2.3.4/8 dormouse.ip=10.0.2.15/24 dormouse.gw=10.0.2.2\n";
        let settings = network(cmdline).unwrap().unwrap();
        assert_eq!(settings.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(settings.prefix, 24);
        assert_eq!(settings.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(settings.dns, None);
        assert_eq!(network("quiet ip=dhcp").unwrap(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in ["ip=10.0.2.15", "ip=x/24", "ip=10.0.2.15/33", "ip=10.0.2.15/24 dormouse.gw=x"]
        {
            assert!(network(&format!("dormouse.{wrong}")).is_err(), "{wrong}");
        }
    }
}
