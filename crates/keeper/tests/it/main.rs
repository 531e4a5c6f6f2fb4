//! A keeper, in this process, with guests that are none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod guest;
mod hostile;
mod opening;
