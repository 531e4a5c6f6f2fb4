//! Commands about machines.

use std::pin::pin;
use std::time::Duration;

use base::{Clock as _, ErrorKind, SystemClock, Timestamp};
use clap::Args;
use client::{Client, CreateMachine, Egress, Machine, UpdateMachine};
use futures::StreamExt;

use super::{ServerArgs, table};
use crate::Failure;
use crate::server_file::ServerFile;

/// What is said where nothing was written to a machine while it slept.
const NO_DRAFT: &str = "there was no draft";

/// Flags of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Unique name; the server makes one up otherwise.
    name: Option<String>,
    /// Image.
    #[arg(long)]
    image: Option<String>,
    /// Virtual CPUs, in quarter steps.
    #[arg(long)]
    vcpu: Option<f64>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Size of the home in GiB.
    #[arg(long, value_name = "GIB")]
    storage: Option<u64>,
    /// Idle time before sleep: 30s, 15m, 2h, never.
    #[arg(long)]
    autosleep: Option<String>,
    /// What fsync in the machine waits for: store (a lost host loses nothing that was fsynced) or local (this
    /// host's disk; a lost host may lose the last seconds).
    #[arg(long, value_parser = ["store", "local"])]
    fsync: Option<String>,
    /// What the machine may reach: open (every public address), none, or allow= with names and IPv4 ranges, as
    /// in allow=example.com,*.example.org,192.0.2.0/24.
    #[arg(long, value_name = "POLICY")]
    egress: Option<base::Egress>,
    /// Do not wait until it runs.
    #[arg(long)]
    no_wait: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `set`.
#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    machine: NameArgs,
    /// Another name.
    #[arg(long, value_name = "NAME", group = "change")]
    rename: Option<String>,
    /// Virtual CPUs, in quarter steps; at once, up to the whole CPUs that the machine booted with.
    #[arg(long, group = "change")]
    vcpu: Option<f64>,
    /// Memory in MiB; from the next wake.
    #[arg(long, value_name = "MIB", group = "change")]
    memory: Option<u64>,
    /// Size of the home in GiB, more than now; at once.
    #[arg(long, value_name = "GIB", group = "change")]
    storage: Option<u64>,
    /// Idle time before sleep: 30s, 15m, 2h, never.
    #[arg(long, group = "change")]
    autosleep: Option<String>,
    /// What fsync in the machine waits for, from the next wake: store or local.
    #[arg(long, value_parser = ["store", "local"], group = "change")]
    fsync: Option<String>,
    /// What the machine may reach, at once, for what is connected too: open, none, or allow= with names and
    /// IPv4 ranges.
    #[arg(long, value_name = "POLICY", group = "change")]
    egress: Option<base::Egress>,
}

/// Flags of `ls`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A machine's name, for many commands.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Name or id.
    pub(super) name: String,
    /// JSON on stdout.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) server: ServerArgs,
}

/// Flags of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Names or ids.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn create(args: CreateArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let what = CreateMachine {
        name: args.name,
        image: args.image,
        vcpu: args.vcpu,
        memory_mib: args.memory,
        storage_gib: args.storage,
        autosleep: args.autosleep,
        fsync: args.fsync,
        egress: args.egress.as_ref().map(Egress::from),
    };
    let mut machine = client.create(&what).await?;
    if !args.no_wait {
        eprintln!("created {}, starting", machine.name);
        machine = client.settled(&machine.machine_id).await?;
    }
    finish(&machine, args.json)
}

pub(super) async fn set(args: SetArgs) -> Result<u8, Failure> {
    let what = UpdateMachine {
        name: args.rename,
        vcpu: args.vcpu,
        memory_mib: args.memory,
        storage_gib: args.storage,
        autosleep: args.autosleep,
        fsync: args.fsync,
        egress: args.egress.as_ref().map(Egress::from),
    };
    let machine = args.machine.server.client()?.update(&args.machine.name, &what).await?;
    // It is done; that the machine failed before is not this command's.
    print(&machine, args.machine.json);
    Ok(0)
}

pub(super) async fn list(args: ListArgs) -> Result<u8, Failure> {
    let machines = args.server.client()?.machines().await?;
    if args.json {
        table::print_json(&machines.iter().map(|machine| &machine.raw).collect::<Vec<_>>());
    } else {
        let rows: Vec<_> = machines.iter().map(row).collect();
        table::print(&["NAME", "STATE", "VCPU", "MEMORY", "STORAGE", "ID"], &rows);
    }
    Ok(0)
}

pub(super) async fn show(args: NameArgs) -> Result<u8, Failure> {
    let machine = args.server.client()?.machine(&args.name).await?;
    if args.json {
        table::print_json(&machine.raw);
        return Ok(0);
    }
    let autosleep = match machine.autosleep_seconds {
        0 => "never".to_owned(),
        seconds => format!("{seconds} s"),
    };
    let row = |field: &str, value: &str| vec![field.to_owned(), value.to_owned()];
    let mut rows = vec![
        row("name", &machine.name),
        row("id", &machine.machine_id),
        row("state", &machine.status.phase),
        row("wanted", &machine.desired_state),
        row("reason", &machine.status.reason),
        row("image", &machine.image),
        row("vcpu", &machine.vcpu.to_string()),
        row("memory", &format!("{} MiB", machine.memory_mib)),
        row("storage", &format!("{} GiB", machine.storage_gib)),
        row("autosleep", &autosleep),
        row("fsync", &machine.fsync),
    ];
    if let Some(egress) = &machine.egress {
        rows.push(row("egress", &egress.to_string()));
    }
    if let Some(upper) = &machine.status.upper {
        rows.push(row("upper", upper));
    }
    if let Some(memory) = &machine.status.memory {
        rows.push(row("memory image", memory));
    }
    if let Some(has) = machine.status.memory_assigned_mib.filter(|has| *has != machine.memory_mib) {
        rows.push(row("memory now", &format!("{has} MiB, until it has slept")));
    }
    if machine.status.draft {
        rows.push(row("draft", "not published: dormouse publish, or dormouse discard"));
    }
    if let Some(at) = &machine.status.wake_at {
        rows.push(row("wakes at", at));
    }
    if let Some(error) = &machine.status.last_error {
        rows.push(row("error", error));
    }
    table::print(&["FIELD", "VALUE"], &rows);
    Ok(0)
}

pub(super) async fn transition(args: NameArgs, verb: &str) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let asked = client.transition(&args.name, verb).await?;
    let settled = client.settled(&args.name).await?;
    if settled.status.phase != asked.desired_state && settled.status.phase != "failed" {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!(
                "{} is {}: somebody asked for that after this",
                settled.name, settled.status.phase
            ),
        ));
    }
    finish(&settled, args.json)
}

/// Arguments of `wake`.
#[derive(Debug, Args)]
pub(crate) struct WakeArgs {
    #[command(flatten)]
    machine: NameArgs,
    /// Boot: throw away the memory that the machine sleeps with, and its processes.
    #[arg(long)]
    cold: bool,
    /// Not now but then, if it sleeps then: an RFC 3339 time such as 2026-12-01T08:00:00Z, a time from now such as
    /// +90m or +8h, or never.
    #[arg(long, value_name = "TIME", conflicts_with = "cold")]
    at: Option<String>,
}

pub(super) async fn wake(args: WakeArgs) -> Result<u8, Failure> {
    if let Some(at) = &args.at {
        let at = moment(at, SystemClock::new().now())?;
        let machine = args.machine.server.client()?.wake_at(&args.machine.name, &at).await?;
        if args.machine.json {
            table::print_json(&machine.raw);
        } else {
            match &machine.status.wake_at {
                Some(at) => eprintln!("{}: to be woken at {at}", args.machine.name),
                None => eprintln!("{}: not to be woken at any time", args.machine.name),
            }
        }
        return Ok(0);
    }
    if !args.cold {
        return transition(args.machine, "wake").await;
    }
    let client = args.machine.server.client()?;
    client.wake_cold(&args.machine.name).await?;
    finish(&client.settled(&args.machine.name).await?, args.machine.json)
}

/// A moment as the server takes it; `+8h` is one from now.
fn moment(text: &str, now: Timestamp) -> Result<String, Failure> {
    let Some(after) = text.strip_prefix('+') else { return Ok(text.to_owned()) };
    // Autosleep is written so too.
    let after = control::parse_autosleep(after)
        .ok()
        .filter(|seconds| *seconds > 0)
        .and_then(|seconds| now.checked_add(Duration::from_secs(seconds)).ok());
    let at = after.ok_or_else(|| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("{text} is no time from now; say it as in +90m, +8h or +2d"),
        )
    })?;
    Ok(at.to_string())
}

/// Arguments of `reboot`.
#[derive(Debug, Args)]
pub(crate) struct RebootArgs {
    #[command(flatten)]
    machine: NameArgs,
    /// End the guest at once: what it has not written back is lost.
    #[arg(long)]
    force: bool,
}

pub(super) async fn reboot(args: RebootArgs) -> Result<u8, Failure> {
    let client = args.machine.server.client()?;
    client.reboot(&args.machine.name, args.force).await?;
    finish(&client.settled(&args.machine.name).await?, args.machine.json)
}

pub(super) async fn publish(args: NameArgs) -> Result<u8, Failure> {
    let report = args.server.client()?.publish(&args.name).await?;
    if args.json {
        table::print_json(&report);
    } else {
        eprintln!("{}", if report["published"] == true { "published" } else { NO_DRAFT });
        for path in report["conflicts"].as_array().into_iter().flatten() {
            eprintln!("changed on both sides, the draft's version stands: {path}");
        }
    }
    Ok(0)
}

pub(super) async fn discard(args: NameArgs) -> Result<u8, Failure> {
    let report = args.server.client()?.discard(&args.name).await?;
    if args.json {
        table::print_json(&report);
    } else {
        eprintln!("{}", if report["discarded"] == true { "discarded" } else { NO_DRAFT });
    }
    Ok(0)
}

pub(super) async fn watch(args: NameArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let mut events = pin!(client.watch(&args.name).await?);
    while let Some(machine) = events.next().await {
        let machine = machine?;
        if args.json {
            table::print_json(&machine.raw);
        } else {
            eprintln!("{}: {}", machine.status.phase, machine.status.reason);
        }
        if machine.status.phase == "failed" {
            return failed(&machine);
        }
    }
    Ok(0)
}

pub(super) async fn remove(args: RemoveArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    for name in &args.names {
        client.delete(name).await?;
        eprintln!("deleted {name}");
    }
    Ok(0)
}

pub(super) async fn down(args: DownArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let asleep = sleep_all(&client).await;
    let data = args.server.data.clone().unwrap_or_else(crate::dirs::data);
    asleep?;
    let Some(server) = ServerFile::read(&data).filter(|server| server.url == client.base()) else {
        return Err(Failure::new(
            ErrorKind::InvalidArgument,
            "every machine sleeps; the server is not one of this host's data directory: stop it where it runs",
        ));
    };
    let pid = i32::try_from(server.pid).unwrap_or(0);
    if pid > 1 {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).ok();
    }
    eprintln!("the server was asked to stop");
    Ok(0)
}

/// Asks every machine to sleep, then waits for all of them.
async fn sleep_all(client: &Client) -> Result<(), Failure> {
    let machines = client.machines().await?;
    let awake: Vec<_> =
        machines.iter().filter(|machine| machine.desired_state == "running").collect();
    for machine in &awake {
        eprintln!("{} goes to sleep", machine.name);
        client.transition(&machine.machine_id, "sleep").await?;
    }
    for machine in &awake {
        let machine = client.settled(&machine.machine_id).await?;
        if machine.status.phase == "failed" {
            failed(&machine)?;
        }
    }
    Ok(())
}

pub(super) fn finish(machine: &Machine, json: bool) -> Result<u8, Failure> {
    if machine.status.phase == "failed" {
        return failed(machine);
    }
    print(machine, json);
    Ok(0)
}

fn print(machine: &Machine, json: bool) {
    if json {
        table::print_json(&machine.raw);
    } else {
        table::print(&["NAME", "STATE", "VCPU", "MEMORY", "STORAGE", "ID"], &[row(machine)]);
    }
}

fn failed(machine: &Machine) -> Result<u8, Failure> {
    let why = machine.status.last_error.as_ref().unwrap_or(&machine.status.reason);
    Err(Failure::new(ErrorKind::Conflict, format!("{} failed: {why}", machine.name)))
}

fn row(machine: &Machine) -> Vec<String> {
    vec![
        machine.name.clone(),
        machine.status.phase.clone(),
        machine.vcpu.to_string(),
        format!("{} MiB", machine.memory_mib),
        format!("{} GiB", machine.storage_gib),
        machine.machine_id.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_from_now_becomes_one_that_the_server_takes() {
        let now: Timestamp = "2026-12-01T08:00:00Z".parse().unwrap();
        let of = |text| moment(text, now).map_err(|error| error.to_string());
        assert_eq!(of("+8h").unwrap(), "2026-12-01T16:00:00Z");
        assert_eq!(of("+1d30m").unwrap(), "2026-12-02T08:30:00Z");
        for other in ["never", "2026-12-01T08:00:00Z", "nonsense"] {
            assert_eq!(of(other).unwrap(), other, "the server says what it thinks of it");
        }
        for bad in ["+", "+0s", "+never", "+soon", "+-1h", "+99999999999999999999s"] {
            assert!(of(bad).unwrap_err().contains("+90m"), "{bad}");
        }
    }
}
