//! The object store as one process sees it: what it fails at, and who goes first.

mod gate;
mod wire;

pub use gate::{Gate, Seat};
pub use wire::{Rates, Wire};
