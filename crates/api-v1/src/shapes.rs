//! The bodies of this face, in both directions.
//!
//! Replies are the superset that satisfies every published version of the official clients at once:
//! `phase` and `revision` stand at the top and in `status`, `log_capture` is always there, arrays are
//! never null. Requests pass over fields that we do not know.

pub(crate) mod execution;
pub(crate) mod file;
pub(crate) mod machine;
pub(crate) mod page;
pub(crate) mod snapshot;
