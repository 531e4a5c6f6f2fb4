//! For tests and benches only: things that stand in for the world, and can be told to misbehave.
//!
//! [`s3_server`] speaks the S3 protocol over HTTP; [`FaultyStore`] fails calls of an object store in
//! the process, [`AttendedStore`] lets a test act between them; [`HandClock`] and [`SeededEntropy`] are time and chance as a test wants them;
//! [`SmallDisk`] is a disk that can be filled.
//!
//! # Not here
//! What tests assert: the conformance suite of stores is `objstore::suite`.

mod attended_store;
mod clock;
mod entropy;
mod faulty_store;
pub mod s3_server;
mod small_disk;

pub use attended_store::{Attendant, AttendedStore};
pub use clock::HandClock;
pub use entropy::SeededEntropy;
pub use faulty_store::{FaultRates, FaultyStore, Injection, Verb};
pub use s3_server::S3Server;
pub use small_disk::SmallDisk;
