//! How much memory a thread holds, and held at most.
//!
//! Whatever links this crate allocates through [`Counting`]. A thread counts what it allocates itself;
//! what another one frees for it stays counted, so a target runs its decoder on one thread.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; it hands on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, and a sum.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is handed on as it is, to an allocator that keeps the rules.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }
}

fn count(more: usize, less: usize) {
    // A thread that ends has no counter any more, and nobody who asks.
    let held = HELD.try_with(|held| {
        let now = held.get().wrapping_add_unsigned(more).wrapping_sub_unsigned(less);
        held.set(now);
        now
    });
    if let Ok(held) = held {
        MOST.try_with(|most| most.set(most.get().max(held))).ok();
    }
}

/// Runs `work`: what it gave, and how many bytes this thread held at most meanwhile, beyond those at the
/// beginning.
pub fn most_held<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let done = work();
    (done, usize::try_from(MOST.get() - before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_was_held_counts_and_not_what_is_left() {
        let before = vec![1_u8; 1 << 20];
        let (kept, most) = most_held(|| {
            drop(vec![1_u8; 3 << 20]);
            vec![1_u8; 1 << 20]
        });
        assert!((3 << 20..4 << 20).contains(&most), "{most}");
        let (_, most) = most_held(|| drop((before, kept)));
        assert_eq!(most, 0);
    }

    #[test]
    fn a_buffer_that_grows_is_counted() {
        let (_, most) = most_held(|| {
            let mut grows = Vec::new();
            (0..100_000_u64).for_each(|number| grows.push(number));
        });
        assert!((800_000..3_000_000).contains(&most), "{most}");
    }
}
