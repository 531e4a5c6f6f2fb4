//! Stores as their callers meet them: the suite over each, and trouble on the way.

mod encrypted;
mod file;
mod memory;
mod s3;
