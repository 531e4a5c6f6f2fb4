//! For tests only: an S3 server, a faulty store, a hand-driven clock, a server in a process.
