//! The process that owns one awake machine, and the client that talks to it.
//!
//! `dormouse keeper` runs [`run`]: it claims the home, serves it to the guest, starts the instance,
//! runs commands, and at sleep saves or stops the guest and gives the home up. It listens on a Unix
//! socket in the machine's directory ([`server`]); [`Client`] is the only thing that speaks to it.
//!
//! # Invariants
//! - One keeper per machine directory: it holds `keeper.lock` for its whole life. The process may have another one
//!   ([`warm`]).
//! - It outlives `serve` and needs nothing of it. Its guest does not outlive it.
//! - A fenced home stops the guest: a guest whose writes can no longer be kept must not go on.
//! - Only the keeper writes below its machine's directory while it lives; but for the note of the upper, which
//!   has a lock of its own.
//!
//! # Also here
//! [`files`], the one implementation of file calls by path, which `control` uses as well for
//! sleeping homes; [`executions`], whose records are plain files that can be read without a keeper;
//! [`template`], what a new machine can begin with in place of a boot; [`meanwhile`], where whoever changes
//! a sleeping home leaves word for the kernel that will wake; [`stored`], what of a sleep a server stores for
//! other hosts; and [`mounted`], how a server sees that a home is mounted for writing.
//!
//! # Not here
//! Intent, revisions, names, other machines: `control`.

mod asleep;
pub mod client;
mod error;
pub mod executions;
pub mod files;
mod guest;
pub mod launch;
pub mod layout;
mod lock;
pub mod meanwhile;
pub mod mounted;
mod run;
pub mod server;
mod spec;
mod status;
pub mod stored;
pub mod template;
pub mod warm;

pub use client::Client;
pub use error::{Failure, Result};
pub use run::{Ended, Hold, Parts, refuse, run};
pub use spec::{KeeperSpec, UpperSpec, has_room_for_memory, room_lacking};
pub use status::{KeeperState, LastWords, Sizes, Stage, Status};
