//! The layers around all faces of a server, and what answers where no route does.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use http::StatusCode;

use crate::auth::{Gate, authenticate};
use crate::{ApiError, access_log, panics, request_id};

/// Wraps the routes of one or more faces. Requests for unknown paths must authenticate too.
pub fn stack(routes: Router, gate: Gate) -> Router {
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(gate, authenticate))
        .layer(from_fn(panics::catch))
        .layer(from_fn(access_log::record))
        .layer(from_fn(request_id::assign))
}

async fn no_route(request: Request) -> Response {
    ApiError::new(
        ErrorKind::NotFound,
        format!("nothing is served at {:?}; /openapi.json lists what is", request.uri().path()),
    )
    .into_response()
}

async fn no_method(request: Request) -> Response {
    ApiError::new(
        ErrorKind::InvalidArgument,
        format!("this path does not take {}; the allow header lists what it does", request.method()),
    )
    .with_code(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED")
    .into_response()
}
