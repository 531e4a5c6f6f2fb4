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
    /// Go on from this snapshot (id or name) instead of from what the home has now.
    #[arg(long, value_name = "SNAPSHOT")]
    at: Option<String>,
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
        None => client.snapshot(&args.machine, args.name.as_deref()).await?,
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
    let machine = client.fork(&args.machine, args.new_name.as_deref(), at.as_deref()).await?;
    machines::finish(&machine, args.json)
}

pub(super) async fn restore(args: RestoreArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    let id = client.find_snapshot(&args.machine, &args.snapshot).await?;
    machines::finish(&client.restore(&args.machine, &id).await?, args.json)
}

fn print(snapshots: &[Snapshot]) {
    let row = |one: &Snapshot| {
        let name = one.name.clone().unwrap_or_default();
        vec![one.snapshot_id.clone(), one.created_at.clone(), name]
    };
    let rows: Vec<_> = snapshots.iter().map(row).collect();
    table::print(&["ID", "MADE", "NAME"], &rows);
}
