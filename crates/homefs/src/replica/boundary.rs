//! Up to where commits may be gone, and whether the whole home is.
//!
//! Create-if-absent forgets: once commit *n* is deleted, a writer that slept through it all can
//! create *n* again and believe that it committed. So the boundary is raised before anything below
//! it goes, and every writer looks at it after each create. A deleted home keeps its boundary, at
//! the top: it is what tells such a writer, and everybody else, that the home is no more. Home ids
//! are never used twice, so it costs one small object.
//!
//! Not here: raising it for a home that lives on; nothing deletes single commits yet.

use base::{Epoch, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::limits::SMALL_JSON_MAX;
use super::log::Log;

/// What the boundary object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Boundary {
    /// Commits up to this one may be gone; one that is created there has lost.
    pub(crate) seq: u64,
    /// The epoch of the writer that raised it.
    #[serde(default)]
    pub(crate) epoch: Epoch,
    /// When the home was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<Timestamp>,
}

impl Log {
    /// The boundary; [`Error::Deleted`] where the home is gone.
    pub(crate) async fn boundary(&self) -> Result<Option<Boundary>> {
        let key = self.keys().boundary();
        let bytes = match self.store().get(&key, Some(0..SMALL_JSON_MAX)).await {
            Ok(bytes) => bytes,
            Err(objstore::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let boundary: Boundary = serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(&key, format!("it cannot be read: {error}")))?;
        if boundary.deleted.is_some() {
            return Err(Error::Deleted { home: self.keys().home().clone() });
        }
        Ok(Some(boundary))
    }

    /// Marks the home as deleted, for good.
    pub(super) async fn bury(&self) -> Result<()> {
        let buried =
            Boundary { seq: u64::MAX, epoch: Epoch::default(), deleted: Some(self.clock().now()) };
        let json = serde_json::to_vec(&buried).expect("a boundary is plain data");
        Ok(self.store().put(&self.keys().boundary(), Bytes::from(json)).await?)
    }
}
