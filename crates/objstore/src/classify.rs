//! What a failed attempt means.
//!
//! # Invariants
//! - Nothing of an answer's body gets into a message except its error code, and nothing of a
//!   request: S3 quotes the access key and the string that was signed when it refuses a signature.
//! - What we do not recognise may pass: it is tried again, within bounds.
//!
//! # Why text is looked at
//! `object_store` does not export the type that holds status and body, only their display form. The
//! error code is found there by its XML element, which the stores define, not that crate.

use std::error::Error as StdError;

use object_store::client::HttpError;

use crate::Error;
use crate::limits::ERROR_CODE_BYTES_MAX;

/// What one attempt failed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no such object.
    Missing,
    /// A create found something there, or ran beside another one (409): read back to know.
    Occupied,
    /// The range begins at or after the end of the object.
    BeyondEnd,
    /// The credential was refused.
    Denied(String),
    /// The next attempt will fail the same way.
    Unusable(String),
    /// May pass.
    Passing(String),
}

impl Failure {
    /// For an attempt that did not end in time.
    pub(crate) fn timed_out() -> Self {
        Self::Passing("no answer in time".to_owned())
    }

    /// For the caller, where the failure is final.
    pub(crate) fn into_error(self, key: &str) -> Error {
        match self {
            Self::Missing => Error::not_found(key),
            Self::Occupied => Error::exists(key),
            Self::BeyondEnd => Error::unavailable("the object is shorter than the store said"),
            Self::Denied(message) => Error::Denied { message },
            Self::Unusable(message) => Error::Unusable { message },
            Self::Passing(message) => Error::Unavailable { message },
        }
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let code = error_code(&error);
        match code.as_deref() {
            Some("NoSuchBucket" | "ContainerNotFound") => {
                return unusable("the bucket of the store URL does not exist: create it");
            }
            Some("NotImplemented") => return lacking(),
            Some("EntityTooLarge") => return unusable("the object is larger than the store takes"),
            Some("RequestTimeTooSkewed") => {
                return Self::Denied("RequestTimeTooSkewed: set the clock of this host".to_owned());
            }
            Some("InvalidRange") => return Self::BeyondEnd,
            Some(code) if WRONG_ADDRESS.contains(&code) => {
                return unusable(&format!(
                    "the object store answered {code}: check URL, region and endpoint"
                ));
            }
            Some(code) if WRONG_CREDENTIAL.contains(&code) => return Self::Denied(code.to_owned()),
            _ => {}
        }
        match &error {
            E::NotFound { .. } => Self::Missing,
            E::AlreadyExists { .. } | E::Precondition { .. } => Self::Occupied,
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Denied(code.unwrap_or_else(|| "no reason given".to_owned()))
            }
            E::NotImplemented { .. } | E::NotSupported { .. } => lacking(),
            E::InvalidPath { .. } => unusable(
                "an object under the prefix of the store URL has a key that is not ours: use \
                 another prefix",
            ),
            _ => Self::Passing(code.unwrap_or_else(|| transport_message(&error))),
        }
    }
}

/// Codes that say the request went to the wrong place.
const WRONG_ADDRESS: &[&str] =
    &["InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidURI"];

/// Codes that say who asked may not. Some stores send them with status 400, which has no variant of
/// its own.
const WRONG_CREDENTIAL: &[&str] = &[
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AccessDenied",
    "NotSignedUp",
];

fn unusable(message: &str) -> Failure {
    Failure::Unusable(message.to_owned())
}

fn lacking() -> Failure {
    unusable(
        "the object store lacks an operation that is needed: use one with conditional writes \
         (If-None-Match on PUT)",
    )
}

/// The text of the answer's `<Code>` element, if it looks like one.
fn error_code(error: &object_store::Error) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plausible = !code.is_empty()
        && code.len() <= ERROR_CODE_BYTES_MAX
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plausible.then(|| code.to_owned())
}

/// The innermost cause of a transport error: an operating system's or TLS' words, which know no
/// URL. Anything else may quote the request, so it is not repeated.
fn transport_message(error: &object_store::Error) -> String {
    let mut cause: &(dyn StdError + 'static) = error;
    let mut transport = false;
    while let Some(next) = cause.source() {
        transport |= next.is::<HttpError>();
        cause = next;
    }
    match transport {
        true => cause.to_string(),
        false => status_text(error).unwrap_or_else(|| "an answer that makes no sense".to_owned()),
    }
}

/// The three digits of the status, for answers without a body (HEAD).
fn status_text(error: &object_store::Error) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status code: ")?;
    let digits = rest.get(..3)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("status {digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    fn denied(text: &str) -> object_store::Error {
        object_store::Error::PermissionDenied { path: "k".into(), source: text.to_owned().into() }
    }

    #[test]
    fn a_refused_signature_does_not_repeat_what_was_signed() {
        let body = "PUT https://s3/b/k?X-Amz-Signature=abc - Server returned non-2xx status code: 403 Forbidden: \
                    <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId>\
                    <StringToSign>AWS4-HMAC-SHA256 s3cr3t</StringToSign></Error>";
        let failure = Failure::from(denied(body));
        assert_eq!(failure, Failure::Denied("SignatureDoesNotMatch".into()));
        let unknown = Failure::from(generic("token=s3cr3t https://host/?sig=1"));
        assert_eq!(unknown, Failure::Passing("an answer that makes no sense".into()));
        let forged = Failure::from(denied("<Code>s3cr3t=&lt;</Code>"));
        assert_eq!(forged, Failure::Denied("no reason given".into()));
    }

    #[test]
    fn an_overloaded_store_is_asked_again_and_a_wrong_bucket_is_not() {
        let text = "status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>";
        assert_eq!(Failure::from(generic(text)), Failure::Passing("SlowDown".into()));
        assert_eq!(
            Failure::from(generic("Server returned non-2xx status code: 500 Internal: ")),
            Failure::Passing("status 500".into())
        );
        let missing = object_store::Error::NotFound {
            path: "k".into(),
            source: "<Code>NoSuchBucket</Code>".into(),
        };
        assert!(matches!(Failure::from(missing), Failure::Unusable(_)));
        let lacking =
            "status code: 501 Not Implemented: <Error><Code>NotImplemented</Code></Error>";
        assert!(matches!(Failure::from(generic(lacking)), Failure::Unusable(_)));
    }
}
