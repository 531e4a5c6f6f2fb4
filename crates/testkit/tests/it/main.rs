//! The S3 server as other clients than ours meet it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests, too, fail by panicking")]

mod process;
mod s3_server;
