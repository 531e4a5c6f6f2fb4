//! What the calls of a file system do to the database.
//!
//! Each change is a function of an open transaction ([`crate::meta::tx::Tx`]), each read one of a
//! connection. They check everything before they change anything, so that an error needs no
//! repair beyond the savepoint around them.
//!
//! # Not here
//! Threads, durability, the store; permission checks (the kernel's).

pub(crate) mod attrs;
pub(crate) mod content;
pub(crate) mod graft;
pub(crate) mod names;
pub(crate) mod place;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod truncate;
pub(crate) mod xattrs;
