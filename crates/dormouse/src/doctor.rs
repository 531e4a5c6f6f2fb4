//! `dormouse doctor`: what is missing on this host, and how to mend it.
//!
//! Exit code 0 where machines can run, 1 where something is missing, 5 where the object store cannot be
//! reached.

use std::path::{Path, PathBuf};

use base::{ErrorKind, GIB};
use clap::Args;
use images::Images;
use runtime::{Accelerator, Qemu, Runtime};
use serde::Serialize;

use crate::config::{Config, HostArgs, PlaceArgs};
use crate::keeper::qemu_settings;
use crate::server_file::ServerFile;
use crate::store::{self, KeySource};
use crate::{Failure, tokio_runtime};

/// Less free space than this is said.
const FREE_BYTES_MIN: u64 = 5 * GIB;

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    host: HostArgs,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Good,
    /// Works, but not as well as it could.
    Note,
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

pub(crate) fn main(args: &DoctorArgs) -> Result<u8, Failure> {
    let config = Config::beside(&args.place, &args.host)?;
    let mut findings = vec![user(), image(&config), data(&config.data)];
    findings.extend(hypervisor(config.qemu.clone()));
    let (store, reachable) = store(&config.store, &config.keys)?;
    findings.push(store);
    findings.push(server(&config.data));
    print(&findings, args.json);
    let missing = findings.iter().any(|finding| finding.outcome == Outcome::Missing);
    Ok(match (missing, reachable) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => ErrorKind::Unavailable.exit_code(),
    })
}

fn good(what: &str, detail: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), outcome: Outcome::Good, detail: detail.into(), mend: None }
}

fn missing(what: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        what: what.to_owned(),
        outcome: Outcome::Missing,
        detail: detail.into(),
        mend: Some(mend.into()),
    }
}

fn note(what: &str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { outcome: Outcome::Note, ..missing(what, detail, mend) }
}

fn user() -> Finding {
    if nix::unistd::geteuid().is_root() {
        good("user", "root: machines get a network namespace of their own")
    } else {
        note(
            "user",
            "not root: machines have no network unless one is asked for",
            "run as root, or use --network user and accept that guests reach services of this host",
        )
    }
}

fn hypervisor(program: Option<PathBuf>) -> Vec<Finding> {
    let runtime = Qemu::new(qemu_settings(program));
    let lacks = runtime.missing();
    if lacks.is_empty() {
        let shares = match runtime.holds_to_shares() {
            Ok(()) => good("limits", "machines are held to their CPU and memory"),
            Err(why) => note(
                "limits",
                format!("machines are not held to their CPU and memory: {why}"),
                "run as root where groups below /sys/fs/cgroup can be made and entered",
            ),
        };
        let jail = match runtime.jails() {
            Ok(()) => good("jail", "hypervisors see nothing of this host's files"),
            Err(why) => note(
                "jail",
                format!("hypervisors see this host's files, as far as their user may: {why}"),
                "run as root with CAP_SYS_ADMIN, outside of user namespaces and chroots",
            ),
        };
        let users = match runtime.has_own_users() {
            Ok(()) => good("users", "each hypervisor has a user id of its own"),
            Err(why) => note(
                "users",
                format!("all hypervisors have one user id: {why}"),
                "run as root where /proc/self/uid_map has the ids from 1879048192 on, 65536 of them",
            ),
        };
        let hypervisor = match runtime.accelerator() {
            Accelerator::Kvm => good("hypervisor", "QEMU with KVM"),
            Accelerator::Tcg => note(
                "hypervisor",
                "QEMU by software emulation: guests work, slowly",
                "use a host whose CPU has vmx or svm and whose /dev/kvm works",
            ),
        };
        return vec![hypervisor, shares, users, jail];
    }
    lacks.into_iter().map(|lack| missing(&lack.what, "not found", lack.mend)).collect()
}

fn image(config: &Config) -> Finding {
    let name = &config.defaults.image;
    match Images::open(&config.images).get(name) {
        Ok(image) => good("image", format!("{name} with kernel {}", image.kernel_release)),
        Err(error) => missing("image", error.to_string(), "cargo xtask setup (builds it once)"),
    }
}

fn data(path: &Path) -> Finding {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let writable = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_ok();
    if !writable {
        return missing(
            "data",
            format!("{} cannot be written", existing.display()),
            "--data names another directory",
        );
    }
    let free = nix::sys::statvfs::statvfs(existing)
        .map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    let detail = format!("{}, {} GiB free", path.display(), free / GIB);
    if free < FREE_BYTES_MIN {
        note("data", detail, "free some space: homes keep what is not uploaded yet on this disk")
    } else {
        good("data", detail)
    }
}

/// The store, and whether it answered. A store that can be opened is probed for real.
fn store(url: &str, keys: &KeySource) -> Result<(Finding, bool), Failure> {
    let backend = match store::backend(url) {
        Ok(backend) => backend,
        Err(error) => return Ok((missing("store", error.to_string(), "mend --store"), true)),
    };
    let runtime = tokio_runtime()?;
    let probed = runtime.block_on(backend.probe());
    let url = backend.url();
    Ok(match probed {
        Ok(()) => match runtime.block_on(store::check_keys(&backend, keys)) {
            Ok(()) if *keys == KeySource::None => {
                (good("store", format!("{url}: creates only if absent, as homes need")), true)
            }
            Ok(()) => (
                good("store", format!("{url}: creates only if absent, as homes need; encrypted")),
                true,
            ),
            Err(error) => {
                (missing("store", error.to_string(), "give the keys that belong to it"), true)
            }
        },
        Err(error) => {
            let reachable = !matches!(error, objstore::Error::Unavailable { .. });
            (
                missing("store", error.to_string(), "mend the store, or its URL and credentials"),
                reachable,
            )
        }
    })
}

fn server(data: &Path) -> Finding {
    match ServerFile::read(data) {
        Some(server) if Path::new(&format!("/proc/{}", server.pid)).exists() => {
            good("server", format!("running at {}", server.url))
        }
        _ => note("server", "not running", "dormouse serve"),
    }
}

#[allow(clippy::print_stdout, reason = "this is the data that was asked for")]
fn print(findings: &[Finding], json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(findings).unwrap_or_default());
        return;
    }
    for finding in findings {
        let mark = match finding.outcome {
            Outcome::Good => "ok     ",
            Outcome::Note => "note   ",
            Outcome::Missing => "MISSING",
        };
        println!("{mark} {:<12} {}", finding.what, finding.detail);
        if let Some(mend) = &finding.mend {
            println!("        {:<12} mend: {mend}", "");
        }
    }
}
