//! What every handler has, and how a request names a machine.

use axum::extract::{FromRef, FromRequestParts};
use control::{Control, MachineRef};
use http::request::Parts;
use http_kit::{ApiError, Exporter, PathText};

/// The state of this face.
#[derive(Debug, Clone, FromRef)]
pub(crate) struct Ctx {
    pub(crate) control: Control,
    pub(crate) exporter: Exporter,
}

/// The `{machine}` of a path: an id or a unique name.
#[derive(Debug, Clone)]
pub(crate) struct Target(pub(crate) MachineRef);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let PathText(machine) = PathText::<String>::from_request_parts(parts, state).await?;
        Ok(Self(machine.parse()?))
    }
}
