//! The net under handlers: a defect costs one request, not the connection.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use futures::FutureExt;
use tracing::error;

use crate::ApiError;

/// Answers 500 where a handler panics. Bodies that are streamed after the head are not covered: a panic
/// there cuts the connection, which the client sees.
pub async fn catch(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            error!(panic = text(&*panic), "a handler panicked");
            ApiError::new(
                ErrorKind::Internal,
                "a defect of the server ended this request; the log has more under its x-request-id",
            )
            .into_response()
        }
    }
}

pub(crate) fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}
