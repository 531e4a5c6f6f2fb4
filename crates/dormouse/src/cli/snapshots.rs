//! Commands about snapshots, restores and forks.

use clap::Args;
use client::Snapshot;

use super::{ServerArgs, machines, table};
use crate::Failure;

/// Flags of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Machine: name or id.
    machine: String,
    /// What to call it.
    #[arg(long)]
    name: Option<String>,
    /// Refuse it where it would be of the home alone. A machine that is awake sleeps meanwhile, for about as
    /// long as it takes to store what it changed, and goes on with all its processes; refused while `exec` or a file
    /// call is under way.
    #[arg(long, conflicts_with = "delete")]
    whole: bool,
    /// Let go of this snapshot (id or name) instead of making one.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "name")]
    delete: Option<String>,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `fork`.
#[derive(Debug, Args)]
pub(crate) struct ForkArgs {
    /// Machine to fork: name or id.
    machine: String,
    /// Name of the new machine; the server makes one up otherwise.
    new_name: Option<String>,
    /// Go on from this snapshot (id or name) instead of from what the machine has now.
    #[arg(long, value_name = "SNAPSHOT")]
    at: Option<String>,
    /// Refuse it where the new machine would begin with the home alone. A machine that is awake sleeps meanwhile, for about as
    /// long as it takes to store what it changed, and goes on with all its processes; refused while `exec` or a file
    /// call is under way.
    #[arg(long)]
    whole: bool,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Sleeping machine: name or id.
    machine: String,
    /// Snapshot: id or name.
    snapshot: String,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn snapshot(args: SnapshotArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let snapshot = match &args.delete {
        Some(wanted) => {
            let id = client.find_snapshot(&args.machine, wanted).await?;
            client.delete_snapshot(&id).await?
        }
        None => client.snapshot(&args.machine, args.name.as_deref(), args.whole).await?,
    };
    if args.json {
        table::print_json(&snapshot);
    } else if args.delete.is_some() {
        eprintln!("let go of {}", snapshot.snapshot_id);
    } else {
        print(&[snapshot]);
    }
    Ok(0)
}

pub(super) async fn list(args: machines::NameArgs) -> Result<u8, Failure> {
    let snapshots = args.server.client()?.snapshots(&args.name).await?;
    if args.json {
        table::print_json(&snapshots);
    } else {
        print(&snapshots);
    }
    Ok(0)
}

pub(super) async fn fork(args: ForkArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let at = match &args.at {
        Some(wanted) => Some(client.find_snapshot(&args.machine, wanted).await?),
        None => None,
    };
    let (name, at) = (args.new_name.as_deref(), at.as_deref());
    let forked = client.fork(&args.machine, name, at, args.whole).await?;
    if !args.json && !forked.contains.is_empty() {
        eprintln!("it begins with: {}", forked.contains.join(", "));
    }
    machines::finish(&forked.machine, args.json)
}

pub(super) async fn restore(args: RestoreArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let id = client.find_snapshot(&args.machine, &args.snapshot).await?;
    machines::finish(&client.restore(&args.machine, &id).await?, args.json)
}

fn print(snapshots: &[Snapshot]) {
    let row = |one: &Snapshot| {
        let name = one.name.clone().unwrap_or_default();
        let contains = match &one.damaged {
            Some(_) => "damaged".to_owned(),
            None => one.contains.join(","),
        };
        vec![one.snapshot_id.clone(), one.created_at.clone(), contains, name]
    };
    let rows: Vec<_> = snapshots.iter().map(row).collect();
    table::print(&["ID", "MADE", "CONTAINS", "NAME"], &rows);
    for one in snapshots {
        if let Some(why) = &one.damaged {
            eprintln!("{} can only be let go of: {why}", one.snapshot_id);
        }
    }
}
