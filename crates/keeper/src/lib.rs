//! The process that owns one awake machine, and the client that talks to it.
