//! Brings up the loopback and the one network card, by ioctl: the image needs no network tools.
#![allow(unsafe_code, reason = "ioctls of network interfaces have no safe wrapper")]

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::Error;
use crate::limits::{DEVICE_TIMEOUT, POLL_INTERVAL};

/// The first network card; without udev it keeps the kernel's name.
const CARD: &str = "eth0";
/// Where the kernel has its cards.
const CARDS: &str = "/sys/class/net";
/// With a 1 in it the card does not speak IPv6.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";

/// An address of the guest and how it gets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) address: Ipv4Addr,
    /// 0 to 32.
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) dns: Option<Ipv4Addr>,
}

/// Brings up the loopback.
pub(crate) fn up_loopback() -> Result<(), Error> {
    let socket = open_socket()?;
    set_up(&socket, "lo").map_err(Error::sys("bring up lo"))
}

/// Brings up the card, for IPv4: no host passes anything else on, and a kernel that looks for an address, for
/// neighbours and for routers, again and again, keeps its guest from being idle. Waits for its driver, a bounded time.
pub(crate) fn up_card(settings: &Settings) -> Result<(), Error> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    while !has_card() {
        if Instant::now() > deadline {
            return Err(Error::Invalid(format!("no network card {CARD} appeared")));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    // A kernel without IPv6 has no such file.
    drop(fs::write(NO_IPV6, "1"));
    let socket = open_socket()?;
    let mask =
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(settings.prefix)).unwrap_or(0));
    set_address(&socket, libc::SIOCSIFADDR, settings.address)
        .map_err(Error::sys(format!("give {CARD} the address {}", settings.address)))?;
    set_address(&socket, libc::SIOCSIFNETMASK, mask)
        .map_err(Error::sys(format!("give {CARD} the mask {mask}")))?;
    set_up(&socket, CARD).map_err(Error::sys(format!("bring up {CARD}")))?;
    settings.gateway.map_or(Ok(()), |gateway| {
        add_default_route(&socket, gateway)
            .map_err(Error::sys(format!("add a route through {gateway}")))
    })
}

fn has_card() -> bool {
    Path::new(CARDS).join(CARD).exists()
}

/// Asked by ioctl for a card that is not there, a kernel runs a program to find a driver for it. Where the guest's root
/// has taken the folder away, that is left.
fn has_none() -> bool {
    Path::new(CARDS).exists() && !has_card()
}

/// Gives the card a hardware address that is this machine's alone: all cards come with the same one. A guest
/// without a card has none.
pub(crate) fn own_hardware_address(machine_id: &str) -> Result<(), Error> {
    let Some(own) = hardware_address(machine_id) else { return Ok(()) };
    if has_none() {
        return Ok(());
    }
    let socket = open_socket()?;
    let mut request = interface(CARD);
    // SAFETY: takes a pointer to an ifreq and fills in its hardware address.
    let read = Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request)
    });
    match read {
        Err(Errno::ENODEV) => return Ok(()),
        read => read.map_err(Error::sys(format!("read the hardware address of {CARD}")))?,
    };
    // SAFETY: the call above has written this member.
    let address = unsafe { &mut request.ifr_ifru.ifru_hwaddr.sa_data };
    if address.iter().zip(own).all(|(is, own)| is.cast_unsigned() == own) {
        return Ok(());
    }
    for (to, from) in address.iter_mut().zip(own) {
        *to = from.cast_signed();
    }
    // SAFETY: takes a pointer to an ifreq.
    Errno::result(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFHWADDR, &raw const request)
    })
    .map_err(Error::sys(format!("give {CARD} an address of its own")))
    .map(drop)
}

/// One that nobody was assigned (the second bit says so), out of the first ten digits of the machine's id.
fn hardware_address(machine_id: &str) -> Option<[u8; 6]> {
    let digits = machine_id.get(..10)?;
    let digits = digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(digits)?;
    let low = u64::from_str_radix(digits, 16).ok()?;
    let [.., a, b, c, d, e] = low.to_be_bytes();
    Some([0x02, a, b, c, d, e])
}

fn open_socket() -> Result<OwnedFd, Error> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(Error::sys("open a socket"))
}

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One less than there is room for: the last stays NUL.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn set_address(socket: &OwnedFd, what: libc::Ioctl, address: Ipv4Addr) -> Result<(), Errno> {
    let mut request = interface(CARD);
    request.ifr_ifru.ifru_addr = sockaddr(address);
    // SAFETY: these ioctls take a pointer to an ifreq.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const request) }).map(drop)
}

fn set_up(socket: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mut request = interface(name);
    let socket = socket.as_raw_fd();
    // SAFETY: takes a pointer to an ifreq and fills in its flags.
    Errno::result(unsafe { libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call above has written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::IFF_UP as libc::c_short;
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: takes a pointer to an ifreq.
    Errno::result(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

fn add_default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = sockaddr(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = socket.as_raw_fd();
    // SAFETY: takes a pointer to an rtentry, whose device name may be null.
    Errno::result(unsafe { libc::ioctl(socket, libc::SIOCADDRT, &raw const route) }).map(drop)
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    // A sockaddr_in is family, port, address, and zeros.
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_local_and_the_machines() {
        let of = |id: &str| hardware_address(id);
        assert_eq!(of("0123456789abcdef"), Some([0x02, 0x01, 0x23, 0x45, 0x67, 0x89]));
        assert_ne!(of("0123456789"), of("1123456789"));
        for none in ["", "012345678", "012345678x", "\u{e9}12345678", "+123456789"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
