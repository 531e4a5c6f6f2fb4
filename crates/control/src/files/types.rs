//! Files of a home, as every face sees them.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use vfs::{Kind, Time};

/// Bytes on their way, in either direction. An error ends it; a put whose body ends with one
/// changes nothing.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Which state of a sleeping home is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The live home while awake, the published one while asleep.
    #[default]
    Current,
    /// The draft: published plus unpublished writes. `NotFound` where there is none and the
    /// machine is awake; asleep without a draft it is the published state.
    Draft,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Opaque, without quotes; changes with content, mode and owner.
    pub etag: String,
    /// Where a symbolic link points, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<Vec<u8>>,
}

/// What must stand at a path for a change to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precondition {
    /// Anything or nothing.
    #[default]
    None,
    /// Something (`If-Match: *`).
    Present,
    /// Nothing (`If-None-Match: *`).
    Absent,
    /// One of these (`If-Match`), without quotes.
    Etag(Vec<String>),
}

/// Part of a file, as `Range` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeSpec {
    /// From the first to the last byte, both included.
    Inclusive(u64, u64),
    /// From this byte to the end.
    From(u64),
    /// The last bytes.
    Last(u64),
}

impl RangeSpec {
    /// Start and end (excluded) within a file of `size`; `None` where nothing of it exists.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<std::ops::Range<u64>> {
        let range = match self {
            Self::Inclusive(first, last) if first <= last => {
                first..last.saturating_add(1).min(size)
            }
            Self::Inclusive(..) => return None,
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// A file on its way out.
pub struct FileBody {
    /// What it is.
    pub meta: FileMeta,
    /// Which part of it follows: start and end (excluded).
    pub range: std::ops::Range<u64>,
    /// The bytes.
    pub body: ByteStream,
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBody")
            .field("meta", &self.meta)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// How to put a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PutOptions {
    /// Permission bits; a replaced file keeps its own where it is not given.
    pub mode: Option<u32>,
    /// What must stand there now.
    pub precondition: Precondition,
}

/// A file that was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDone {
    /// True where nothing stood there before.
    pub created: bool,
    /// What stands there now.
    pub meta: FileMeta,
}

/// How to remove.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeleteOptions {
    /// Also a directory with entries.
    pub recursive: bool,
    /// What must stand there now.
    pub precondition: Precondition,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; bytes that are not UTF-8 replaced.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub meta: FileMeta,
}

/// A tree that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PublishReport {
    /// False where there was nothing to publish.
    pub published: bool,
    /// Paths that were changed.
    pub changed: u64,
    /// Paths that the draft and the home both changed since the draft was opened; the draft's
    /// version stands now. At most [`CONFLICTS_SHOWN_MAX`](crate::limits::CONFLICTS_SHOWN_MAX).
    pub conflicts: Vec<String>,
    /// How many there are, shown or not.
    pub conflicts_total: u64,
}
