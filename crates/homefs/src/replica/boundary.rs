//! Up to where commits may be gone, and whether the whole home is.
//!
//! Create-if-absent forgets: once commit *n* is deleted, a writer that slept through it all can
//! create *n* again and believe that it committed. So the boundary is raised before anything below
//! it goes, nothing goes before a horizon has passed since, and a writer that was silent for half of
//! that looks at it after its next create (`horizon`). A deleted home keeps its boundary, at
//! the top: it is what tells such a writer, and everybody else, that the home is no more. Home ids
//! are never used twice, so it costs one small object.
//!
//! Not here: raising it for a home that lives on (`garbage::chain`).

use base::{Epoch, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::descent::Origin;
use super::error::{Error, Result};
use super::limits::SMALL_JSON_MAX;
use super::log::Log;

/// What the boundary object says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boundary {
    /// Commits up to this one may be gone; one that is created there has lost.
    pub(crate) seq: u64,
    /// The epoch of the writer that raised it.
    #[serde(default)]
    pub(crate) epoch: Epoch,
    /// When it was raised, by the clock of who did. A home that nobody writes goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raised: Option<Timestamp>,
    /// When the home was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<Timestamp>,
    /// The commit of a deleted home that stays, so that its last writer cannot create that number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fence: Option<u64>,
    /// Claims of a deleted home whose numbers stay taken, so that a writer which was overtaken shortly
    /// before cannot create them (`overtaken`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<u64>,
    /// What the deleted home was forked from, newest first: its pins there are let go last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<Origin>,
}

/// What is to be known of a home when it is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// What it was forked from, newest first.
    pub(super) origins: Vec<Origin>,
    /// See [`Boundary::fence`].
    pub(super) fence: Option<u64>,
    /// See [`Boundary::claims`].
    pub(super) claims: Vec<u64>,
}

impl Remains {
    /// True of a number that stays taken.
    pub(super) fn keeps(&self, seq: u64) -> bool {
        self.fence == Some(seq) || self.claims.contains(&seq)
    }
}

impl From<Boundary> for Remains {
    fn from(boundary: Boundary) -> Self {
        Self { origins: boundary.origins, fence: boundary.fence, claims: boundary.claims }
    }
}

impl Log {
    /// The boundary; [`Error::Deleted`] where the home is gone.
    pub(crate) async fn boundary(&self) -> Result<Option<Boundary>> {
        let boundary = self.boundary_or_grave().await?;
        if boundary.as_ref().is_some_and(|boundary| boundary.deleted.is_some()) {
            return Err(Error::Deleted { home: self.keys().home().clone() });
        }
        Ok(boundary)
    }

    /// The boundary, that of a deleted home too.
    pub(super) async fn boundary_or_grave(&self) -> Result<Option<Boundary>> {
        let key = self.keys().boundary();
        let bytes = match self.store().get(&key, Some(0..SMALL_JSON_MAX)).await {
            Ok(bytes) => bytes,
            Err(objstore::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let boundary: Boundary = serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(&key, format!("it cannot be read: {error}")))?;
        if boundary.seq == u64::MAX && boundary.deleted.is_none() {
            let why = "all commits may be gone, and the home is not deleted";
            return Err(Error::corrupt(&key, why));
        }
        Ok(Some(boundary))
    }

    /// Marks the home as deleted, for good.
    pub(super) async fn bury(&self, grave: &Remains) -> Result<()> {
        let Remains { origins, fence, claims } = grave.clone();
        let buried = Boundary {
            seq: u64::MAX,
            deleted: Some(self.clock().now()),
            origins,
            fence,
            claims,
            ..Boundary::default()
        };
        let json = serde_json::to_vec(&buried).expect("a boundary is plain data");
        Ok(self.store().put(&self.keys().boundary(), Bytes::from(json)).await?)
    }
}
