//! Random calls on a home and on a tree in memory, compared call by call.
//!
//! Every call of [`vfs::FileSystem`] is made, with good and bad arguments, some on a home that is nearly
//! full; in between the home is synced, sealed, killed and opened again, and put to sleep, when calls go
//! to a draft. Answers must agree: the errno, or kind, permissions, owner, links, size,
//! bytes, names and values. Numbers of inodes, times, cookies and versions differ and are not compared;
//! that a directory walk under change sees each lasting entry once is checked on the home alone.
//!
//! # Replay
//! A seed repeats its calls. A failure is cut down: whole stretches of calls are left out as long as it
//! still fails, and what is left is printed.

mod call;
mod pair;

use std::sync::Arc;

use crate::chance::Chance;
use call::Call;
use pair::Pair;

/// Calls of one seed: a tree stays small enough to be compared whole.
pub const CALLS: u64 = 400;

/// Room for content, in bytes: in one home of four so little that it is full now and then.
fn bytes_max(seed: u64) -> u64 {
    if seed % 4 == 3 { 200_000 } else { 1 << 40 }
}

/// Runs one seed of `calls` calls; how many were made.
///
/// # Errors
/// Where the two differ, and the calls that lead there.
pub fn run(seed: u64, calls: u64) -> Result<u64, String> {
    let mut chance = Chance::new(seed);
    let list: Vec<Call> = (0..calls).map(|_| Call::draw(&mut chance)).collect();
    let bytes_max = bytes_max(seed);
    let Err((at, what)) = attempt(&list, bytes_max) else { return Ok(calls) };
    let list = cut_down(list[..=at.min(list.len() - 1)].to_vec(), bytes_max);
    let what = attempt(&list, bytes_max).err().map_or(what, |(_, what)| what);
    let lines: Vec<String> = list.iter().map(|call| format!("  {call:?}")).collect();
    Err(format!("{}\nseed {seed}: {what}", lines.join("\n")))
}

/// Where and how the two differ.
fn attempt(list: &[Call], bytes_max: u64) -> Result<(), (usize, String)> {
    let mut pair = Pair::new(bytes_max);
    for (at, call) in list.iter().enumerate() {
        pair.step(call).map_err(|what| (at, format!("{call:?}: {what}")))?;
    }
    pair.end().map_err(|what| (list.len(), what))
}

/// A shorter list that still fails.
fn cut_down(mut list: Vec<Call>, bytes_max: u64) -> Vec<Call> {
    let mut stretch = list.len() / 2;
    let mut attempts = 0;
    while stretch > 0 && attempts < 300 {
        let mut at = 0;
        while at < list.len() && attempts < 300 {
            let mut shorter = list.clone();
            shorter.drain(at..(at + stretch).min(list.len()));
            attempts += 1;
            if !shorter.is_empty() && attempt(&shorter, bytes_max).is_err() {
                list = shorter;
            } else {
                at += stretch;
            }
        }
        stretch /= 2;
    }
    list
}

/// A clock that stands still, for the tree in memory.
fn clock() -> Arc<testkit::HandClock> {
    Arc::default()
}
