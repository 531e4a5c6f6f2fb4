//! Path and query parameters, with our error body where they cannot be read.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// The query of a request. Parameters that are not known are passed over.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                Err(ApiError::invalid(format!("the query cannot be read: {}", innermost(&error))))
            }
            Err(error) => Err(ApiError::invalid(error.body_text())),
        }
    }
}

/// The deepest cause: what is wrong, without the layers that noticed it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Path parameters as text, decoded and valid UTF-8: a `String`, or a tuple of them in the order of the
/// route. What they mean is checked by the handler.
#[derive(Debug, Clone)]
pub struct PathText<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathText<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<T>, PathRejection> = Path::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text))
            .map_err(|_| ApiError::invalid("the path of the request is not valid UTF-8"))
    }
}
