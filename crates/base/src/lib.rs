//! The vocabulary every crate shares.
//!
//! One word for one thing (docs/semantics.md, Words). Nothing here does input or output, and
//! nothing here reads the real clock or the real entropy source except the two types that say so
//! ([`SystemClock`], [`SystemEntropy`]), which only the binary constructs, and [`since_boot`].
//!
//! Not here: errors of any one crate. Each crate has its own enum and maps it to an [`ErrorKind`].

mod clock;
mod digest;
mod egress;
mod entropy;
mod error_kind;
mod ids;

pub use clock::{Clock, SystemClock, since_boot};
pub use digest::{Digest, DigestParseError};
pub use egress::{
    EGRESS_RULES_MAX, Egress, EgressError, EgressRule, Ipv4Range, PRIVATE_RANGES,
    UNREACHABLE_RANGES, is_public,
};
pub use entropy::{Entropy, SystemEntropy};
pub use error_kind::ErrorKind;
pub use ids::{Epoch, ExecutionId, HomeId, IdError, MachineId, ServerId, SnapshotId};

/// The moment type used everywhere: UTC, nanoseconds.
pub type Timestamp = jiff::Timestamp;

/// One kibibyte in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
