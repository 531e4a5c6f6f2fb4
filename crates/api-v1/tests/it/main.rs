//! The face over real HTTP, on a `control` whose host and homes are in memory.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod attach;
mod auth;
mod executions;
mod files;
mod idempotency;
mod machines;
mod routes;
mod server;
mod snapshots;
mod status_stream;
