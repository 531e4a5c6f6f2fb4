//! The agent as a process, spoken to over a socket: protocol, commands, signals, time limits. And
//! as PID 1 of real guests ([`boot`]): root, home, network, power; those need root, QEMU and the
//! base image, and say so where they are skipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod boot;
mod clones;
mod exec;
mod guest;
mod host_gone;
mod requests;
mod sleep;
mod wake_at;
