//! The agent as a process, spoken to over a socket: protocol, commands, signals, time limits.
//! What needs a guest (mounts, FUSE, power) is tested with real guests, not here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod exec;
mod host_gone;
mod requests;
