//! Real guests under QEMU.
//!
//! Each test needs root, QEMU and the base image (`cargo xtask setup`). Where one is missing it says
//! so and passes without having tested anything.

mod boot;
mod guest;
