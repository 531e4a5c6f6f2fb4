//! A network namespace per instance, with one way out.
//!
//! QEMU's user-mode network opens ordinary sockets, so confining QEMU's namespace confines the guest:
//!
//! ```text
//! guest ── virtio-net ── QEMU ──┐ namespace of the instance
//!                              eth0 ── veth ── dormouse-<slot> on the host ── masquerade ── out
//! ```
//!
//! The host's loopback is out of reach, as the namespace has another. What may pass at all is in
//! [`rules`]: public IPv4 addresses, and private ones for which policy and server allow; nothing comes in. What of
//! that the machine's own policy lets out is in [`filter`], in the namespace, before the link is; it refuses the
//! host and inner addresses by itself, as the host's rules can be flushed by others. The guest's
//! questions for names are answered by [`names`], on the namespace's loopback.
//! The namespace has no name: it ends with QEMU and the threads in it ([`supervise`](super::supervise), [`gate`]),
//! and takes the veth pair along. One nftables table of the host serves all instances; the last one to go removes it.
//!
//! `net.ipv4.ip_forward` is switched on and stays on, since others on the host may come to need it.
//!
//! Not here: user-mode networking itself (QEMU's libslirp) and inbound ports (the agent's tunnels).

mod address;
mod filter;
mod gate;
mod names;
mod resolvers;
mod rules;

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use base::{Egress, Ipv4Range};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::Handle;

use self::address::{Block, Subnet, choose};
use self::filter::Surroundings;
use self::gate::Gate;
use self::names::{Names, Sockets, Upstream};
use super::find_program;
use super::slot::{Registry, Slot};
use crate::{EgressPolicy, Error};

/// Where a slot's veth shows on the host.
pub(crate) fn link_name(slot: u16) -> String {
    format!("{}{slot:04x}", rules::LINK_PREFIX)
}

/// A namespace with its way out; gone when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    slot: u16,
    name: String,
    namespace: OwnedFd,
    /// The namespace of the host, for whoever takes the link down from inside the other.
    outside: OwnedFd,
    registry: Registry,
    /// The host's name servers that can be reached from here.
    resolvers: Vec<Ipv4Addr>,
    /// For QEMU: names ours.
    resolv_conf: PathBuf,
    policy: EgressPolicy,
    /// What serves names, and whom it asks; without it nobody does.
    runtime: Option<Handle>,
    upstream: Arc<Upstream>,
    /// There once it is connected.
    kept: Mutex<Kept>,
}

/// What keeps a policy, and what of it the host's rules know. Held while it is changed.
#[derive(Debug, Default)]
struct Kept {
    gate: Option<Gate>,
    names: Option<Names>,
    private: Vec<Ipv4Range>,
}

impl Link {
    /// Makes a namespace for `slot`, which leads nowhere yet.
    pub(crate) fn new(slot: &Slot, policy: EgressPolicy) -> Result<Self, Error> {
        let resolvers = resolvers::of_host();
        let resolv_conf = Self::resolv_conf_in(slot.registry())?;
        let outside = current_namespace().map_err(failed("open the network namespace"))?;
        let namespace = new_namespace().map_err(failed("make a network namespace"))?;
        let (slot, registry) = (slot.number(), slot.registry().clone());
        Ok(Self {
            slot,
            name: link_name(slot),
            namespace,
            outside,
            registry,
            resolvers,
            resolv_conf,
            policy,
            runtime: Handle::try_current().ok(),
            upstream: Arc::new(Upstream::of_host()),
            kept: Mutex::default(),
        })
    }

    /// Gives it veth pair, addresses and rules. Dropping the link undoes what was done.
    pub(crate) fn connect(&self) -> Result<(), Error> {
        let _exclusive = self.registry.exclusive()?;
        let routes = run("ip", &["-4", "-json", "route", "show", "table", "all"], "")
            .map_err(failed("read the routes"))?;
        let mut taken = address::taken(&routes);
        taken.extend(self.resolvers.iter().copied().map(Block::single));
        let subnet = choose(self.slot, &taken).ok_or_else(|| {
            Error::Start("no private network is free: routes of this host take all".to_owned())
        })?;
        forward().map_err(failed("switch on net.ipv4.ip_forward"))?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.private = self.private_of(&self.policy.allowed);
        let around = self.surroundings(&routes, subnet);
        // Both before there is a way out.
        let (gate, ruled) = thread::scope(|scope| {
            let gate = scope.spawn(|| self.gate(around));
            let ruled = self.rule(&kept.private);
            let gate = gate.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            (gate, ruled)
        });
        let gate = gate.map_err(failed("keep a machine's egress policy"))?;
        ruled.and_then(|()| self.plug(subnet)).map_err(failed("connect a network namespace"))?;
        kept.gate = Some(gate);
        if let Some(runtime) = &self.runtime {
            self.serve_names(&mut kept, runtime).map_err(failed("serve names to a machine"))?;
        }
        Ok(())
    }

    /// Serves names with tasks of another runtime: the one that did so is gone.
    pub(crate) fn serve_names_again(&self, runtime: &Handle) -> io::Result<()> {
        self.serve_names(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner), runtime)
    }

    fn serve_names(&self, kept: &mut Kept, runtime: &Handle) -> io::Result<()> {
        let Some(gate) = kept.gate.clone() else { return Ok(()) };
        let sockets = match &kept.names {
            Some(names) => names.sockets()?,
            None => self.inside(Sockets::bind)?,
        };
        kept.names = Some(Names::serve(runtime, sockets, gate, self.upstream.clone())?);
        Ok(())
    }

    /// Whether it would be made for the same name servers now.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.resolvers == resolvers::of_host()
    }

    /// Moves the calling thread into the namespace. There is no way back for it. Its children find the
    /// [name server](Self::resolv_conf) where they look for one, unless they get a file system of their own.
    pub(crate) fn enter(&self, jailed: bool) -> io::Result<()> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
        if !jailed {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
            mount(Some(self.resolv_conf()), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)?;
        }
        Ok(())
    }

    /// A file for `/etc/resolv.conf`.
    pub(crate) fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }

    /// It says the same for all, so one serves them all, and nobody has to take it away.
    fn resolv_conf_in(registry: &Registry) -> Result<PathBuf, Error> {
        let path = registry.beside("resolv.conf");
        let address = *names::ADDRESS.ip();
        if !resolvers::points_to(address, &path) {
            let _exclusive = registry.exclusive()?;
            resolvers::point_to(address, &path).map_err(failed("write a resolv.conf"))?;
        }
        Ok(path)
    }

    /// Has another policy in force when this returns. A change that fails leaves the old one or the new one, or less.
    pub(crate) fn set_egress(&self, egress: &Egress) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = kept.gate.clone().ok_or_else(|| io::Error::other("not connected yet"))?;
        gate.set(egress.clone())?;
        let _exclusive = self.registry.exclusive().map_err(io::Error::other)?;
        self.permit(&mut kept, egress)
    }

    fn surroundings(&self, routes: &[u8], subnet: Subnet) -> Surroundings {
        let mut host = address::of_host(routes);
        let [a, b, c, d] = subnet.host().octets();
        host.push(Ipv4Range::new(a, b, c, d, 32));
        let permitted = self.policy.private_ranges.clone();
        Surroundings { permitted, resolvers: self.resolvers.clone(), host }
    }

    fn gate(&self, around: Surroundings) -> io::Result<Gate> {
        let namespace = self.namespace.try_clone()?;
        Gate::begin(self.policy.allowed.clone(), around, move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        })
    }

    fn private_of(&self, egress: &Egress) -> Vec<Ipv4Range> {
        filter::outermost(&filter::private_of(egress, &self.policy.private_ranges))
    }

    /// Lets the host's rules pass the private ranges of `egress`. They change in the host's namespace, whoever
    /// calls, and under the registry's lock.
    fn permit(&self, kept: &mut Kept, egress: &Egress) -> io::Result<()> {
        let ranges = self.private_of(egress);
        if ranges == kept.private {
            return Ok(());
        }
        self.outside(|| run("nft", &["-f", "-"], &rules::private(&self.name, &ranges)))?;
        kept.private = ranges;
        Ok(())
    }

    /// Loads the host's rules.
    fn rule(&self, private: &[Ipv4Range]) -> io::Result<()> {
        // In the place, too, of what a dead instance behind a link of this name was permitted.
        let rules = rules::table(&self.resolvers) + &rules::private(&self.name, private);
        run("nft", &["-f", "-"], &rules).map(drop)
    }

    fn plug(&self, subnet: Subnet) -> io::Result<()> {
        let mtu = uplink_mtu();
        let (name, host, guest) = (&self.name, subnet.host(), subnet.guest());
        // `ip` takes a path as the name of a namespace where it holds a slash.
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        let outside = format!(
            "link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}\n\
             addr add {host}/30 dev {name}\nlink set {name} up\n"
        );
        run("ip", &["-batch", "-"], &outside)?;
        // Packets that claim another source than the instance's are dropped; no IPv6 at all.
        write_sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
        if let Err(error) = write_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
            tracing::debug!(%error, "a host without IPv6");
        }
        let inside = format!(
            "link set lo up\naddr add {guest}/30 dev eth0\nlink set eth0 up\n\
             route add default via {host}\n"
        );
        self.inside(|| {
            // Lets the guest ping: user-mode networking uses unprivileged ICMP sockets.
            write_sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
            run("ip", &["-batch", "-"], &inside).map(drop)
        })
    }

    /// Runs `work` in a thread inside the namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        in_thread(|| {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Runs `work` in a thread where the host's end is.
    fn outside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            setns(&self.outside, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let kept = std::mem::take(self.kept.get_mut().unwrap_or_else(PoisonError::into_inner));
        let exclusive = self.registry.exclusive();
        // This link's own slot is still held.
        let is_last = exclusive.is_ok() && self.registry.holds(1);
        let removed = self.outside(|| {
            remove_link(&self.name)?;
            match (is_last, kept.private.is_empty()) {
                (true, _) => remove_table(),
                (false, true) => Ok(()),
                (false, false) => remove_permits(&self.name),
            }
        });
        if let Err(error) = removed {
            tracing::warn!(link = self.name, %error, "take down a network");
        }
    }
}

/// Removes a veth pair; it need not exist.
pub(crate) fn remove_link(name: &str) -> io::Result<()> {
    // Asked of the thread's own namespace: /sys shows that of whoever mounted it.
    let is_there = || if_nametoindex(name).is_ok();
    if !is_there() {
        return Ok(());
    }
    match run("ip", &["link", "delete", name], "") {
        // It may have gone with its namespace in between.
        Err(error) if is_there() => Err(error),
        _ => Ok(()),
    }
}

/// Takes back what the host's rules permit the instance behind a link; there need be nothing.
fn remove_permits(link: &str) -> io::Result<()> {
    run("nft", &["-f", "-"], &rules::private(link, &[])).map(drop)
}

/// Removes the rules of all instances; they need not exist.
pub(crate) fn remove_table() -> io::Result<()> {
    run("nft", &["-f", "-"], &rules::no_table()).map(drop)
}

/// A namespace that nothing but the returned descriptor holds.
fn new_namespace() -> io::Result<OwnedFd> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        current_namespace()
    })
}

fn current_namespace() -> io::Result<OwnedFd> {
    fs::File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// Namespaces belong to threads: changes one for `work` only, in a thread that then ends.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    })
}

fn forward() -> io::Result<()> {
    if fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?.trim() == "1" {
        return Ok(());
    }
    write_sysctl("net/ipv4/ip_forward", "1")
}

fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

/// MTU of the interface that leads out; tunnels and clouds have less than 1500.
fn uplink_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let device = default.filter(|f| f.get(1) == Some(&"00000000")).find_map(|f| f.first().copied());
    device
        .and_then(|device| fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok())
        .and_then(|mtu| mtu.trim().parse().ok())
        .map_or(1500, |mtu: u32| mtu.clamp(576, 1500))
}

/// What could not be done for a network, and what mends it.
fn failed(what: &str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Missing {
        what: format!("cannot {what}: {error}"),
        mend:
            "needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, iproute2 and nftables; or configure \
               network = \"user\""
                .to_owned(),
    }
}

/// Runs a program with `input`; what it said becomes the error where it fails.
fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<Vec<u8>> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed"));
    let path = find_program(program.as_ref()).ok_or_else(missing)?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its standard error.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("{program} {}: {said}", arguments.join(" "))))
    }
}

/// Addresses of name servers as a list for messages and rules.
fn joined(addresses: &[Ipv4Addr]) -> String {
    addresses.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
