//! What one server knows of its machines.
mod model;
pub use model::{Desired, MachineChange, MachineRow, MachineSpec, Observation, Phase};
