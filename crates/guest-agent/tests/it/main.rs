//! The agent as a process, spoken to over a socket: protocol, commands, signals, time limits.
//! What needs a guest (mounts, FUSE, power) is tested with real guests, not here.

mod agent;
mod exec;
mod host_gone;
mod requests;
