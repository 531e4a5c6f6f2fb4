//! The upper against stores that fail, hosts that are lost, and each other.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod damage;
mod endless;
mod faults;
mod forks;
mod garbage;
mod hosts;
mod lazy;
mod lazy_wakes;
mod memory;
mod overtaken;
mod random;
mod support;
mod templates;
