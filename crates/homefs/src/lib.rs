//! The home file system: a POSIX tree whose truth is in object storage.

mod layout;
mod replica;
mod wal;
