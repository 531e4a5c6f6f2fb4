//! The application layer: what a machine, a file call and an execution mean, without HTTP.
//!
//! # Order
//! A call writes what is wanted into the catalog and nudges the machine's driver; the driver compares
//! wanted with seen and takes the next idempotent step. Faces wait with [`Machines::settle`].
//!
//! # Not here
//! HTTP and dialects (`api-*`), how a keeper works (`keeper`, behind [`host::Host`]), how a home is
//! stored (`homefs`, behind [`homes::Homes`]).

mod control;
mod drafts;
mod error;
pub mod executions;
#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
pub mod files;
pub mod health;
pub mod homes;
pub mod host;
mod housekeeping;
pub mod idempotency;
pub mod limits;
mod lock;
pub mod machines;
mod mounted;
mod page;
mod room;
mod settings;
pub mod snapshots;
mod uppers;

pub use control::Control;
pub use error::{Error, Result};
pub use executions::Executions;
pub use files::Files;
pub use machines::{IfMatch, Machine, MachineRef, Machines, parse_autosleep};
pub use page::{Page, PageQuery};
pub use settings::{Defaults, Parts, Settings, SizeLimits, Timing};
pub use snapshots::Snapshots;
pub use uppers::UpperStatus;
