//! Whole homes against a store in memory: what is promised, one file a promise.

mod drafts;
mod durability;
mod fencing;
mod model;
mod semantics;
mod snapshots;
mod support;
mod tiers;
