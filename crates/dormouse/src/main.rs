//! The dormouse binary: the server, the keeper of one machine, and the command line.
//!
//! The only place that reads the environment, configuration files and the real clock; everything below
//! gets what it needs through constructors.

mod allocator;
mod cli;
mod config;
mod dirs;
mod doctor;
mod fsck;
mod keeper;
mod keys;
mod mount;
mod serve;
mod server_file;
mod store;
mod telemetry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A computer for every agent: it sleeps when nobody needs it and wakes with everything where it was.
#[derive(Debug, Parser)]
#[command(name = "dormouse", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<config::ServeArgs>),
    /// Own one awake machine (started by the server, not by people).
    #[command(hide = true)]
    Keeper(keeper::KeeperArgs),
    /// Mount a home on a directory of this host: what is published, or with --read-write for writing.
    Mount(Box<mount::MountArgs>),
    /// Check that a home is whole in the object store. Needs no server, changes nothing; exit code 1
    /// where something is lost or damaged.
    Fsck(fsck::FsckArgs),
    /// Take up machines that the object store knows and this server does not.
    Adopt(serve::AdoptArgs),
    /// Make a key to encrypt the object store with, or add a newer one to a key file.
    Keygen(keys::KeygenArgs),
    /// Say what is missing on this host and how to mend it.
    Doctor(Box<doctor::DoctorArgs>),
    #[command(flatten)]
    Client(cli::ClientCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Serve(args) => serve::main(&args),
        Command::Keeper(args) => keeper::main(&args),
        Command::Mount(args) => mount::main(&args),
        Command::Fsck(args) => fsck::main(&args),
        Command::Adopt(args) => serve::adopt(&args),
        Command::Keygen(args) => keys::keygen(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Client(command) => cli::main(command),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("dormouse: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Why the program ends early: a sentence with the next step, and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: base::ErrorKind,
    message: String,
}

impl Failure {
    pub(crate) fn new(kind: base::ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    fn kind(&self) -> base::ErrorKind {
        self.kind
    }

    fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::new(error.kind, error.message)
    }
}

impl From<control::Error> for Failure {
    fn from(error: control::Error) -> Self {
        Self::new(error.kind, error.message)
    }
}

/// The one multi-threaded runtime of a long-lived command.
pub(crate) fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(base::ErrorKind::Internal, format!("start worker threads: {error}"))
    })
}
