//! How the C library's allocator keeps what a process has freed.
//!
//! Left alone it keeps a great deal: each thread may have an arena of its own, eight for each processor, and a buffer that
//! was mapped has the next one of its size taken from an arena, whose end it then holds. A server that had uploaded what
//! fifty machines changed kept 13 MiB of 18, of which nothing was used.
//!
//! Whoever sets `GLIBC_TUNABLES` knows better, and nothing is changed.
#![allow(unsafe_code, reason = "a call of the C library without a safe wrapper")]

use std::thread;

/// Above this a buffer is a mapping of its own, which is gone when it is freed. Chunks are, and what a request carries is
/// not, for which a mapping would cost more than what is done with it.
const MAPPED_BYTES: i32 = 1 << 20;
/// Settings of the C library.
const VARIABLE: &str = "GLIBC_TUNABLES";

/// Of a server: its threads allocate beside each other, as many as there are processors.
pub(crate) fn of_server() {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    set(&[
        (libc::M_ARENA_MAX, i32::try_from(processors).unwrap_or(i32::MAX)),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        // What is free at the end of an arena: no more than that, either.
        (libc::M_TRIM_THRESHOLD, MAPPED_BYTES),
    ]);
}

/// Of a keeper: one of many on its host, most of which are idle. An arena for each of its threads, most of it empty, was
/// half a MiB of each.
pub(crate) fn of_keeper() {
    set(&[(libc::M_ARENA_MAX, 1)]);
}

/// Before there are threads: one that has its arena keeps it.
fn set(settings: &[(i32, i32)]) {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    for (setting, value) in settings {
        // SAFETY: takes numbers. Where one is refused, it stays as it was.
        unsafe { libc::mallopt(*setting, *value) };
    }
}
