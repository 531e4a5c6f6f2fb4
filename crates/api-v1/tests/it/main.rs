//! The face over real HTTP, on a `control` whose host and homes are in memory.

mod attach;
mod auth;
mod executions;
mod files;
mod idempotency;
mod machines;
mod routes;
mod server;
mod status_stream;
