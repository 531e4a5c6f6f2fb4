//! What a process that waits to become a command is told: memory that it shares with the agent.
//!
//! # Invariants
//! - The agent writes it once, before it says go; the child reads it after that. Both have it at the
//!   same address, so that what `execve` takes lies in it as it has to be.
//! - It is as long as the longest request needs, and takes no memory before it is written to.
#![allow(unsafe_code, reason = "memory that is shared across a fork")]

use std::ffi::{CString, c_char};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_void;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::plan::Plan;
use crate::limits::ORDER_BYTES;

/// The beginning of the memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared {
    /// Set by the child once all is done that can be done before it is told.
    pub(super) is_set_up: AtomicBool,
    /// What it is told; addresses in the memory.
    pub(super) told: Told,
}

/// What a child is told.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Told {
    /// Terminated by a null, as the next two.
    pub(super) argv: *const *const c_char,
    pub(super) env: *const *const c_char,
    pub(super) candidates: *const *const c_char,
    pub(super) cwd: *const c_char,
    /// The command reads what the host sends.
    pub(super) has_stdin: bool,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Order(NonNull<c_void>);

// SAFETY: an address of memory that only its one owner, and a child that does not write to it, use.
unsafe impl Send for Order {}

impl Order {
    pub(super) fn new() -> Result<Self, Errno> {
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // `fork` leaves it shared.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: new memory, where there is none.
        unsafe { mmap_anonymous(None, ORDER_BYTES, rights, flags) }.map(Self)
    }

    /// Where the child finds it.
    pub(super) fn shared(&self) -> *const Shared {
        self.0.as_ptr().cast()
    }

    /// True once the child only waits.
    pub(super) fn is_set_up(&self) -> bool {
        // SAFETY: it begins as zeros, which is false, and both sides use it as what it is.
        let is_set_up = unsafe { &(*self.shared()).is_set_up };
        is_set_up.load(Ordering::Acquire)
    }

    /// Writes what the child is to become.
    ///
    /// # Errors
    /// `E2BIG`, as the kernel says of what is too long for it.
    pub(super) fn write(&mut self, plan: &Plan, has_stdin: bool) -> Result<(), Errno> {
        let mut text = Text { base: self.0.as_ptr() as usize, bytes: vec![0; size_of::<Shared>()] };
        let told = Told {
            argv: text.list(&plan.argv),
            env: text.list(&plan.env),
            candidates: text.list(&plan.candidates),
            cwd: text.string(&plan.cwd),
            has_stdin,
        };
        let bytes = text.bytes;
        if bytes.len() > ORDER_BYTES.get() {
            return Err(Errno::E2BIG);
        }
        let begin = size_of::<Shared>();
        let text = bytes.get(begin..).unwrap_or_default();
        // SAFETY: so much is mapped, writable and aligned to pages, and nobody reads it yet.
        unsafe {
            let into = self.0.as_ptr().cast::<u8>().add(begin);
            into.copy_from_nonoverlapping(text.as_ptr(), text.len());
            (&raw mut (*self.0.as_ptr().cast::<Shared>()).told).write(told);
        }
        Ok(())
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing of ours points into it.
        let _ = unsafe { munmap(self.0, ORDER_BYTES.get()) };
    }
}

/// What is to lie at `base`.
struct Text {
    base: usize,
    bytes: Vec<u8>,
}

impl Text {
    fn string(&mut self, string: &CString) -> *const c_char {
        let at = self.base + self.bytes.len();
        self.bytes.extend_from_slice(string.as_bytes_with_nul());
        at as *const c_char
    }

    fn list(&mut self, strings: &[CString]) -> *const *const c_char {
        let addresses: Vec<_> = strings.iter().map(|string| self.string(string)).collect();
        self.bytes.resize(self.bytes.len().next_multiple_of(align_of::<usize>()), 0);
        let at = self.base + self.bytes.len();
        for address in addresses.into_iter().chain([std::ptr::null()]) {
            self.bytes.extend_from_slice(&(address as usize).to_ne_bytes());
        }
        at as *const *const c_char
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn strings(list: *const *const c_char) -> Vec<String> {
        let mut found = Vec::new();
        // SAFETY: what is looked at was written as such a list.
        unsafe {
            for at in 0.. {
                let string = *list.add(at);
                if string.is_null() {
                    break;
                }
                found.push(CStr::from_ptr(string).to_str().unwrap().to_owned());
            }
        }
        found
    }

    #[test]
    fn what_is_written_is_read_at_the_same_place() {
        let all = |list: &[&str]| list.iter().map(|one| CString::new(*one).unwrap()).collect();
        let plan = Plan {
            argv: all(&["a", "", "bcd"]),
            env: all(&[]),
            candidates: all(&["/bin/a"]),
            cwd: CString::new("/root").unwrap(),
        };
        let mut order = Order::new().unwrap();
        order.write(&plan, true).unwrap();
        // SAFETY: it was just written, and the order is alive.
        let told = unsafe { (&raw const (*order.shared()).told).read() };
        assert!(!order.is_set_up(), "that is for the child to say");
        assert_eq!(strings(told.argv), ["a", "", "bcd"]);
        assert!(strings(told.env).is_empty());
        assert_eq!(strings(told.candidates), ["/bin/a"]);
        // SAFETY: as above.
        assert_eq!(unsafe { CStr::from_ptr(told.cwd) }, c"/root");
        assert!(told.has_stdin);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = CString::new("x".repeat(ORDER_BYTES.get())).unwrap();
        let plan =
            Plan { argv: vec![long], env: vec![], candidates: vec![], cwd: CString::default() };
        assert_eq!(Order::new().unwrap().write(&plan, false), Err(Errno::E2BIG));
    }
}
