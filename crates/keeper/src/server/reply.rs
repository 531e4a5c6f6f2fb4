//! Arguments in, results out.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, Result};

/// Carries a call's arguments.
pub(crate) const ARGS_HEADER: &str = "x-args";
/// Carries what is known about a body that follows.
pub(crate) const INFO_HEADER: &str = "x-info";

/// JSON for a header: names may hold any byte, so everything outside printable ASCII is escaped.
pub(crate) fn encode_header<T: Serialize>(value: &T) -> Result<HeaderValue> {
    let json = serde_json::to_string(value)
        .map_err(|error| Failure::internal("encode arguments", error))?;
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    HeaderValue::from_str(&ascii).map_err(|error| Failure::internal("encode arguments", error))
}

pub(crate) fn decode_header<T: DeserializeOwned>(headers: &HeaderMap, name: &str) -> Result<T> {
    let bad =
        |why: String| Failure::new(ErrorKind::InvalidArgument, format!("header {name}: {why}"));
    let value = headers.get(name).ok_or_else(|| bad("missing".to_owned()))?;
    serde_json::from_slice(value.as_bytes()).map_err(|error| bad(error.to_string()))
}

/// The arguments of a call.
pub(super) struct Args<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Args<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        decode_header(&parts.headers, ARGS_HEADER).map(Args)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_passes_through_a_header() {
        for text in ["", "plain", "line\nbreak", "naïve 🐭", "\u{7f}\0\t\"\\"] {
            let value = encode_header(&text).unwrap();
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-args"), value)]);
            assert_eq!(decode_header::<String>(&headers, ARGS_HEADER).unwrap(), text);
        }
    }

    #[test]
    fn a_missing_header_and_a_damaged_one_are_named() {
        let mut headers = HeaderMap::new();
        let kind = |headers: &HeaderMap| decode_header::<u32>(headers, ARGS_HEADER).unwrap_err();
        assert_eq!(kind(&headers).message, "header x-args: missing");
        headers.insert(ARGS_HEADER, HeaderValue::from_static("{"));
        assert_eq!(kind(&headers).kind, ErrorKind::InvalidArgument);
    }
}
