//! What only the host knows about this boot: entropy, time, names, name servers.
//!
//! Everything is checked before anything is changed; then each part is done even where another
//! fails, and the first failure is reported. Entropy and time come first: whatever is made after that
//! is not what another guest makes that was saved with the same memory.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use agent_proto::Configure;
use nix::errno::Errno;
use nix::unistd::sethostname;

use crate::Error;
use crate::console::say;
use crate::identity::{self, Places};
use crate::limits::{HOSTNAME_BYTES_MAX, HOSTS_LINES_MAX, NAMESERVERS_MAX};
use crate::moment::Moment;
use crate::net;

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";

/// A guest in which all is done that does not tell whose it is.
#[derive(Debug)]
pub(crate) struct Prepared {
    identity: identity::Prepared,
    /// Empty.
    hostname: File,
    hosts: File,
}

/// Prepares a guest that is nobody's yet.
pub(crate) fn prepare(places: &Places) -> Result<Prepared, Error> {
    let empty = |path: &str| {
        replace(Path::new(path), "")?;
        File::options().write(true).open(path).map_err(Error::io(format!("open {path}")))
    };
    let (hostname, hosts) = (empty(HOSTNAME)?, empty(HOSTS)?);
    Ok(Prepared { identity: identity::prepare(places)?, hostname, hosts })
}

/// A `Configure` that was found to be sound.
#[derive(PartialEq, Eq)]
pub(crate) struct Checked {
    hostname: String,
    moment: Moment,
    resolv_conf: Option<String>,
    hosts: String,
    machine_id: String,
}

/// Checks every part.
pub(crate) fn check(configure: &Configure) -> Result<Checked, Error> {
    let hostname = configure.hostname.clone();
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if hostname.is_empty() || hostname.len() > HOSTNAME_BYTES_MAX || !hostname.chars().all(sound) {
        return Err(Error::Invalid(format!("not a host name: {hostname:?}")));
    }
    identity::check(&configure.machine_id)?;
    Ok(Checked {
        machine_id: configure.machine_id.clone(),
        moment: Moment::check(configure.unix_nanos, &configure.entropy)?,
        resolv_conf: resolv_conf(&configure.nameservers)?,
        hosts: hosts(&hostname, &configure.hosts)?,
        hostname,
    })
}

fn resolv_conf(nameservers: &[String]) -> Result<Option<String>, Error> {
    if nameservers.len() > NAMESERVERS_MAX {
        return Err(Error::Invalid(format!("more than {NAMESERVERS_MAX} name servers")));
    }
    let mut text = String::new();
    for server in nameservers {
        let address: IpAddr = server
            .parse()
            .map_err(|_| Error::Invalid(format!("not the address of a name server: {server:?}")))?;
        text.push_str(&format!("nameserver {address}\n"));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn hosts(hostname: &str, lines: &[String]) -> Result<String, Error> {
    if lines.len() > HOSTS_LINES_MAX || lines.iter().any(|line| line.contains(['\n', '\0'])) {
        return Err(Error::Invalid(format!(
            "at most {HOSTS_LINES_MAX} lines for /etc/hosts, each of one line"
        )));
    }
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    text.push_str(&format!("127.0.1.1 {hostname}\n"));
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

impl Checked {
    /// Does it. Only a guest may; a developer's machine has a name and a clock already. True where the
    /// machine is to make host keys, also where something else failed.
    ///
    /// What its user can keep us from writing is said, and no reason not to run: else a machine whose disk
    /// is full could not be woken to make room.
    pub(crate) fn apply(
        &self,
        places: &Places,
        prepared: Option<&Prepared>,
    ) -> (bool, Result<(), Error>) {
        let moment = self.moment.apply();
        let makes_keys = match (prepared, &*self.machine_id) {
            (Some(prepared), machine_id) => prepared.identity.settle(machine_id),
            (None, "") => Ok(false),
            (None, machine_id) => identity::settle(places, machine_id),
        };
        let write = |path: &str, prepared: Option<&File>, text: &str| match prepared {
            // Nobody reads it yet.
            Some(file) => {
                file.write_all_at(text.as_bytes(), 0).map_err(Error::io(format!("write {path}")))
            }
            // At each boot but the first it says so already.
            None if fs::read_to_string(path).is_ok_and(|there| there == text) => Ok(()),
            None => replace(Path::new(path), text),
        };
        let (hostname, hosts) = (prepared.map(|p| &p.hostname), prepared.map(|p| &p.hosts));
        let wishes = [
            write(HOSTNAME, hostname, &format!("{}\n", self.hostname)),
            write(HOSTS, hosts, &self.hosts),
            self.resolv_conf.as_deref().map_or(Ok(()), write_resolv_conf),
            net::own_hardware_address(&self.machine_id),
        ];
        for error in wishes.into_iter().filter_map(Result::err) {
            say(&error.to_string());
        }
        let named = sethostname(&self.hostname).map_err(Error::sys("set the host name"));
        let (makes_keys, identity) = match makes_keys {
            Ok(makes_keys) => (makes_keys, Ok(())),
            Err(error) => (false, Err(error)),
        };
        (makes_keys, moment.and(named).and(identity))
    }
}

/// Replaces `/etc/resolv.conf`, also where the image has a link there.
pub(crate) fn write_resolv_conf(text: &str) -> Result<(), Error> {
    replace(Path::new("/etc/resolv.conf"), text)
}

/// By rename, so that a reader sees the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Err(Error::sys("replace /")(Errno::EISDIR));
    };
    let doing = || format!("write {}", path.display());
    fs::create_dir_all(parent).map_err(Error::io(doing()))?;
    let new = path.with_extension("dormouse-new");
    fs::write(&new, text).map_err(Error::io(doing()))?;
    fs::rename(&new, path).map_err(Error::io(doing()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Configure {
        Configure {
            hostname: "hello".into(),
            unix_nanos: 1_700_000_000_123_456_789,
            entropy: "00ff".into(),
            nameservers: vec!["10.0.2.3".into(), "fd00::3".into()],
            hosts: vec!["10.0.0.1 friend".into()],
            machine_id: "0123456789abcdef".repeat(2),
        }
    }

    #[test]
    fn a_sound_one_becomes_files_and_a_time() {
        let checked = check(&sound()).ok().unwrap();
        let resolv_conf = checked.resolv_conf.as_deref();
        assert_eq!(resolv_conf, Some("nameserver 10.0.2.3\nnameserver fd00::3\n"));
        assert!(checked.hosts.ends_with("127.0.1.1 hello\n10.0.0.1 friend\n"));
        assert!(checked.moment == Moment::check(1_700_000_000_123_456_789, "00ff").ok().unwrap());
    }

    #[test]
    fn no_name_servers_leave_the_file_alone() {
        let checked = check(&Configure { nameservers: vec![], ..sound() }).ok().unwrap();
        assert_eq!(checked.resolv_conf, None);
    }

    #[test]
    fn what_would_write_other_lines_is_refused() {
        for wrong in [
            Configure { hostname: String::new(), ..sound() },
            Configure { hostname: "a\nb".into(), ..sound() },
            Configure { hostname: "x".repeat(65), ..sound() },
            Configure { unix_nanos: -1, ..sound() },
            Configure { entropy: "zz".into(), ..sound() },
            Configure { entropy: "00".repeat(513), ..sound() },
            Configure { nameservers: vec!["10.0.0.1\noptions x".into()], ..sound() },
            Configure { nameservers: vec!["10.0.0.1".into(); 4], ..sound() },
            Configure { hosts: vec!["10.0.0.1 a\n10.0.0.2 b".into()], ..sound() },
            Configure { machine_id: "0123".into(), ..sound() },
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }
}
