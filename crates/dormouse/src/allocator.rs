//! How the C library's allocator keeps what a process has freed.
//!
//! Left alone it keeps a great deal: each thread may have an arena of its own, eight for each processor, and a buffer that
//! was mapped has the next one of its size taken from an arena, whose end it then holds. A server that had stored what fifty
//! machines changed kept 20 MiB of heap, and keeps 11 so.
//!
//! Whoever sets `GLIBC_TUNABLES`, or a variable that begins with `MALLOC_`, knows better, and nothing is changed.
#![allow(unsafe_code, reason = "a call of the C library without a safe wrapper")]

use std::thread;

/// Above this a buffer is a mapping of its own, which is gone when it is freed. Chunks are, and what a request carries is
/// not, for which a mapping would cost more than what is done with it.
const MAPPED_BYTES: i32 = 1 << 20;
/// With one, 32 connections that write or read small files of machines that sleep had 13 to 19 % fewer requests a second;
/// with this many as many as without a bound.
const ARENAS_PER_PROCESSOR: usize = 4;
/// Variables with settings of the C library, by how they begin.
const VARIABLES: [&str; 2] = ["GLIBC_TUNABLES", "MALLOC_"];

/// Of a server: its threads allocate beside each other, and more of them than there are processors.
pub(crate) fn of_server() {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let arenas = ARENAS_PER_PROCESSOR.saturating_mul(processors);
    set(&[
        (libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(i32::MAX)),
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
    let is_setting =
        |name: &[u8]| VARIABLES.iter().any(|begins| name.starts_with(begins.as_bytes()));
    if std::env::vars_os().any(|(name, _)| is_setting(name.as_encoded_bytes())) {
        return;
    }
    for (setting, value) in settings {
        // SAFETY: takes numbers. Where one is refused, it stays as it was.
        unsafe { libc::mallopt(*setting, *value) };
    }
}
