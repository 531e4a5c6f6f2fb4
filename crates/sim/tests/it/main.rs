//! The bounded forms of `cargo xtask sim`.

mod crash;
mod model;
mod power;
mod simulation;
