//! What every HTTP face needs, so that no face does it in its own way.
//!
//! # Order
//! A request passes, from outside in: its id ([`request_id`]), the log line and the metrics
//! ([`access_log`]), the net under panics ([`panics`]), authentication ([`auth`]); then, at its route
//! ([`route`]), the scope check and, where a key was sent, the replay of a finished reply
//! ([`idempotency`]). [`stack`](mod@stack) puts the outer part together, [`route`] the inner one.
//!
//! # Invariants
//! - Every failure leaves as an [`ApiError`]: one body, one place that chooses status and headers.
//! - Nothing logs a query string, a header that authenticates, or a body.
//! - What comes from outside is bounded by a name in [`limits`].
//!
//! # Not here
//! What an endpoint means (`api-*`, `control`), and TLS: a proxy in front does that.

pub mod access_log;
pub mod auth;
pub mod body;
pub mod dates;
pub mod error;
pub mod fs_path;
pub mod idempotency;
pub mod limits;
pub mod metrics;
pub mod panics;
pub mod params;
pub mod preconditions;
pub mod prefer;
pub mod range;
pub mod request_id;
pub mod route;
pub mod serve;
pub mod stack;
mod stall;

pub use auth::{Keys, Principal, Scope};
pub use body::{JsonBody, StreamBody};
pub use error::{ApiError, ErrorBody};
pub use metrics::Exporter;
pub use params::{PathText, Query};
pub use request_id::RequestId;
pub use route::{BodyKind, Route, mount};
pub use serve::serve;
pub use stack::stack;
