//! What can go wrong with a store, in words that carry no secret.
//!
//! # Invariants
//! No message holds a credential, a URL or an answer's body: those of S3 quote the access key and
//! the signed request. Only an error code and the innermost transport error get through
//! (`classify`).

use base::ErrorKind;

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such object.
    #[error("no object {key}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// `create` found an object there, and it is not the caller's own.
    #[error("object {key} exists already")]
    Exists {
        /// Its key.
        key: String,
    },
    /// Not a key: it could mean different objects on different stores.
    #[error("not an object key: {reason}")]
    BadKey {
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The store refused the credential or the right to do this.
    #[error("the object store refused access: {message}")]
    Denied {
        /// What it said, without secrets.
        message: String,
    },
    /// The store did not answer, or said that it cannot now. Already retried.
    #[error("the object store is unavailable: {message}")]
    Unavailable {
        /// What happened, without secrets.
        message: String,
    },
    /// What is stored there is not what was stored.
    #[error("object {key} is damaged: {what}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What cannot be.
        what: &'static str,
    },
    /// It is encrypted with a key that is not at hand.
    #[error(
        "object {key} is encrypted with key id {id}, which this server was not given: add the line of that \
         key to the encryption keys and start again (or, if there never was such a key, the object is damaged)"
    )]
    KeyMissing {
        /// Its key in the store.
        key: String,
        /// The id of the encryption key.
        id: u8,
    },
    /// Not usable as configured: a bad URL, a store without create-if-absent.
    #[error("{message}")]
    Unusable {
        /// What is wrong and what to do.
        message: String,
    },
}

/// What a call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            // Keys are made by our own code.
            Self::BadKey { .. } => ErrorKind::Internal,
            Self::Denied { .. } => ErrorKind::PermissionDenied,
            // To a user's request, a store that was set up wrongly is one that is down; mended, it
            // works again without a restart.
            Self::Unavailable { .. } | Self::Unusable { .. } | Self::KeyMissing { .. } => {
                ErrorKind::Unavailable
            }
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }

    pub(crate) fn not_found(key: &str) -> Self {
        Self::NotFound { key: key.to_owned() }
    }

    pub(crate) fn exists(key: &str) -> Self {
        Self::Exists { key: key.to_owned() }
    }

    pub(crate) fn corrupt(key: &str, what: &'static str) -> Self {
        Self::Corrupt { key: key.to_owned(), what }
    }

    pub(crate) fn unusable(message: impl Into<String>) -> Self {
        Self::Unusable { message: message.into() }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into() }
    }
}
