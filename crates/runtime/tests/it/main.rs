//! Real guests under QEMU.
//!
//! Each test needs root, QEMU and the base image (`cargo xtask setup`). Where one is missing it says
//! so and passes without having tested anything.
#![allow(clippy::unwrap_used, reason = "these are tests; the lint knows only test functions")]

mod boot;
mod guest;
mod jail;
mod room;
mod served;
mod shares;
mod suspend;
mod warm;
