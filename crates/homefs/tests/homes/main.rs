//! Whole homes against a store in memory: what is promised, one file a promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod drafts;
mod durability;
mod fencing;
mod killed;
mod model;
mod semantics;
mod snapshots;
mod support;
mod tiers;
