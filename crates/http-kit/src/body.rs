//! Bodies on their way in.

use std::io;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use base::ErrorKind;
use bytes::Bytes;
use control::files::ByteStream;
use futures::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::ApiError;
use crate::limits::{BODY_IDLE_MAX, JSON_BODY_BYTES_MAX};

/// A JSON body, whatever content type it claims. An empty one reads as `{}`, because clients send
/// empty bodies with a JSON content type. Unknown fields are passed over.
#[derive(Debug, Clone, Copy)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = whole(request.into_body()).await?;
        from_json(&bytes).map(Self)
    }
}

/// Reads a JSON object, empty meaning `{}`.
///
/// # Errors
/// 400 that says where and what.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // The decoder would take an array too, field by field.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::invalid("the body is not as expected: it is a JSON object"));
    }
    serde_json::from_slice(text).map_err(|error| {
        ApiError::invalid(format!("the body is not as expected: {}", told(&error)))
    })
}

/// What a decoder says, without the text that it found: that can be a secret in the wrong place, and
/// messages are logged.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.find(" \""), text.rfind("\", expected")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + 1..]),
        _ => text,
    }
}

/// All of a body that is small by nature.
///
/// # Errors
/// 413 past [`JSON_BODY_BYTES_MAX`], at once where that much is announced; 400 for one that breaks off.
pub async fn whole(body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            ErrorKind::TooLarge,
            format!(
                "the body has more than {JSON_BODY_BYTES_MAX} bytes; larger data goes through files"
            ),
        )
    };
    if body.size_hint().lower() > JSON_BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let read = Limited::new(body, JSON_BODY_BYTES_MAX).collect();
    let Ok(read) = tokio::time::timeout(BODY_IDLE_MAX, read).await else {
        return Err(ApiError::invalid("the body did not arrive in time; send it again"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ApiError::invalid("the body broke off; send it again")),
    }
}

/// A body of any size and type, as a stream. Ends with an error where the client breaks off, sends
/// less than it announced, or stands still for [`BODY_IDLE_MAX`].
pub struct StreamBody(pub ByteStream);

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody").finish_non_exhaustive()
    }
}

impl<S: Send + Sync> FromRequest<S> for StreamBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = request.into_body().into_data_stream();
        let stream = futures::stream::unfold(Some(body), |body| async {
            let mut body = body?;
            match tokio::time::timeout(BODY_IDLE_MAX, body.next()).await {
                Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
                Ok(Some(Err(error))) => Some((Err(io::Error::other(error)), None)),
                Ok(None) => None,
                Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        });
        Ok(Self(stream.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Sizes {
        #[serde(default)]
        vcpu: Option<f64>,
    }

    #[test]
    fn an_empty_body_is_an_empty_object() {
        assert_eq!(from_json::<Sizes>(b"").unwrap(), Sizes::default());
        assert_eq!(from_json::<Sizes>(b" \n").unwrap(), Sizes::default());
        assert_eq!(from_json::<Sizes>(br#"{"vcpu": 2, "color": 1}"#).unwrap().vcpu, Some(2.0));
        assert_eq!(from_json::<Sizes>(br#"{"vcpu": "x"}"#).unwrap_err().status(), 400);
        assert_eq!(from_json::<Sizes>(b"[").unwrap_err().status(), 400);
    }

    #[test]
    fn text_in_the_wrong_place_is_not_repeated() {
        for body in [r#"{"vcpu": "hunter2"}"#, r#"{"vcpu": "a\", expected hunter2\""}"#] {
            let message = from_json::<Sizes>(body.as_bytes()).unwrap_err().body().message;
            assert!(message.contains("invalid type: string, expected"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_large_json_body_is_refused() {
        let body = Body::from(vec![b' '; JSON_BODY_BYTES_MAX + 1]);
        assert_eq!(whole(body).await.unwrap_err().status(), 413);
        assert_eq!(whole(Body::from("{}")).await.unwrap(), "{}");
    }

    #[tokio::test]
    async fn a_broken_upload_ends_with_an_error() {
        let pieces = [Ok(Bytes::from_static(b"half")), Err(io::Error::other("reset"))];
        let request = Request::new(Body::from_stream(futures::stream::iter(pieces)));
        let StreamBody(stream) = StreamBody::from_request(request, &()).await.unwrap();
        let seen: Vec<_> = stream.collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].as_ref().unwrap(), "half");
        assert!(seen[1].is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_given_up() {
        let request =
            Request::new(Body::from_stream(futures::stream::pending::<io::Result<Bytes>>()));
        let StreamBody(mut stream) = StreamBody::from_request(request, &()).await.unwrap();
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(stream.next().await.is_none());
    }
}
