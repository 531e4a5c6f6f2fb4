//! The built program from outside: processes, HTTP, guests.
//!
//! `cargo xtask test` builds the release binary and names it in `DORMOUSE_BIN`; otherwise the binary of
//! this build is used. Every server listens on a free port of 127.0.0.1 and is ended, with its keepers, when
//! its guard goes, also when a test fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

mod autosleep;
mod bad_input;
mod boots;
mod command_line;
mod crashes;
mod egress;
mod elsewhere;
mod encryption;
mod fencing;
mod forks;
mod full_disk;
mod home_round_trip;
mod host_loss;
mod hostile;
mod kills;
mod lazy;
mod mount;
mod posix;
mod reboot;
mod sdk;
mod sizes;
mod sleep;
mod snapshots;
mod start_and_stop;
mod templates;
mod trouble;
mod warm;
