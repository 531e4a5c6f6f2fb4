//! Whole homes against a store in memory: what is promised, one file a promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod compression;
mod damage;
mod drafts;
mod durability;
mod fencing;
mod forks;
mod formats;
mod fsck;
mod garbage;
mod ground;
mod held;
mod journal;

mod killed;
mod model;
mod opening;
mod outage;
mod semantics;
mod snapshots;
mod support;
mod tiers;
mod together;
