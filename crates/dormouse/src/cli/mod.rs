//! The command line: a client of the same HTTP API as everybody else.
//!
//! Data goes to stdout, talk to stderr; tables for people, `--json` for programs; exit codes from the one
//! error table (`base::ErrorKind`).

mod copy;
mod exec;
mod locate;
mod machines;
mod snapshots;
mod table;

use clap::{Args, Subcommand};
use client::Client;

use crate::{Failure, tokio_runtime};

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Server URL; else `DORMOUSE_URL`, or the server of this host.
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    url: Option<String>,
    /// Data directory of a server on this host, to find its URL and key in.
    #[arg(long, global = true, value_name = "DIR", help_heading = "Server")]
    data: Option<std::path::PathBuf>,
}

/// Commands that talk to a server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Create a machine and wait until it runs.
    Create(machines::CreateArgs),
    /// List machines.
    Ls(machines::ListArgs),
    /// Change a machine's name, sizes, autosleep, fsync or what it may reach.
    Set(machines::SetArgs),
    /// Show one machine.
    Show(machines::NameArgs),
    /// Run a command in a machine; its exit code is ours.
    Exec(exec::ExecArgs),
    /// Copy files and trees: NAME:PATH on one side, a local path on the other.
    Cp(copy::CopyArgs),
    /// Write a file of a machine to stdout.
    Cat(copy::CatArgs),
    /// Put a machine to sleep.
    Sleep(machines::NameArgs),
    /// Wake a machine.
    Wake(machines::WakeArgs),
    /// Stop a machine's processes and boot it; one that sleeps is booted.
    Reboot(machines::RebootArgs),
    /// Publish what was written to a sleeping machine.
    Publish(machines::NameArgs),
    /// Throw away what was written to a sleeping machine and not published.
    Discard(machines::NameArgs),
    /// Keep the state that a machine has now: its home, and of one that sleeps all else on its disk and its memory.
    Snapshot(snapshots::SnapshotArgs),
    /// List the snapshots of a machine.
    Snapshots(machines::NameArgs),
    /// Take the home of a sleeping machine back to a snapshot.
    Restore(snapshots::RestoreArgs),
    /// Make a machine that goes on from what another one, or a snapshot of it, has.
    Fork(snapshots::ForkArgs),
    /// Follow a machine until it is where it was asked to be.
    Watch(machines::NameArgs),
    /// Delete a machine and everything it has.
    Rm(machines::RemoveArgs),
    /// Put every machine to sleep, then stop the server of this host.
    Down(machines::DownArgs),
}

pub(crate) fn main(command: ClientCommand) -> Result<u8, Failure> {
    let runtime = tokio_runtime()?;
    let done = runtime.block_on(async {
        match command {
            ClientCommand::Create(args) => machines::create(args).await,
            ClientCommand::Set(args) => machines::set(args).await,
            ClientCommand::Ls(args) => machines::list(args).await,
            ClientCommand::Show(args) => machines::show(args).await,
            ClientCommand::Exec(args) => exec::exec(args).await,
            ClientCommand::Cp(args) => copy::copy(args).await,
            ClientCommand::Cat(args) => copy::cat(args).await,
            ClientCommand::Sleep(args) => machines::transition(args, "sleep").await,
            ClientCommand::Wake(args) => machines::wake(args).await,
            ClientCommand::Reboot(args) => machines::reboot(args).await,
            ClientCommand::Publish(args) => machines::publish(args).await,
            ClientCommand::Discard(args) => machines::discard(args).await,
            ClientCommand::Snapshot(args) => snapshots::snapshot(args).await,
            ClientCommand::Snapshots(args) => snapshots::list(args).await,
            ClientCommand::Restore(args) => snapshots::restore(args).await,
            ClientCommand::Fork(args) => snapshots::fork(args).await,
            ClientCommand::Watch(args) => machines::watch(args).await,
            ClientCommand::Rm(args) => machines::remove(args).await,
            ClientCommand::Down(args) => machines::down(args).await,
        }
    });
    // A thread may wait for standard input, and nothing can wake it.
    runtime.shutdown_background();
    done
}

impl ServerArgs {
    fn client(&self) -> Result<Client, Failure> {
        locate::client(self.url.as_deref(), self.data.as_deref())
    }
}
