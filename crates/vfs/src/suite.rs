//! What every [`FileSystem`] must do, as named cases.
//!
//! Each case gets a fresh tree. A failure is reported with the name of its case and the place of
//! the assertion; the others still run. Where Linux file systems differ among themselves, or where
//! a kernel above never asks, more than one errno is right.
//!
//! # Not here
//! Durability, tiers, fencing: the suites of the crates that promise them.

mod atomic;
mod attributes;
mod content;
mod directories;
mod orphans;
mod puts;
mod renames;
mod tree;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::FileSystem;
use tree::Tree;

type Case = (&'static str, fn(&Tree));

/// Runs every case on a tree of its own from `make`.
///
/// # Panics
/// At the end, if any case failed, naming all that did.
pub fn run(make: &dyn Fn() -> Arc<dyn FileSystem>) {
    run_matching(make, "");
}

/// Runs the cases whose names contain `part`: to look at one.
///
/// # Panics
/// As [`run`]; also where no case matches.
pub fn run_matching(make: &dyn Fn() -> Arc<dyn FileSystem>, part: &str) {
    let families = [
        directories::CASES,
        renames::CASES,
        content::CASES,
        attributes::CASES,
        atomic::CASES,
        orphans::CASES,
        puts::CASES,
    ];
    let cases: Vec<&Case> =
        families.into_iter().flatten().filter(|(name, _)| name.contains(part)).collect();
    assert!(!cases.is_empty(), "no case of the suite matches {part:?}");
    let total = cases.len();
    let failed: Vec<String> =
        cases.into_iter().filter_map(|(name, case)| failure(name, *case, make)).collect();
    assert!(
        failed.is_empty(),
        "{} of {total} cases of the file system suite failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// What went wrong in one case.
fn failure(name: &str, case: fn(&Tree), make: &dyn Fn() -> Arc<dyn FileSystem>) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| case(&Tree::new(make()))));
    let panic = outcome.err()?;
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked");
    Some(format!("  {name}: {text}"))
}
