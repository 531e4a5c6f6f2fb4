//! Files in JSON.

use base::Timestamp;
use control::files::{Entry, FileMeta, Imported, PublishReport};
use http_kit::dates::timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use vfs::Kind;

/// The word for what stands at a path, in JSON and in `X-Fs-Type`.
pub(crate) const fn type_word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char_device",
        Kind::BlockDevice => "block_device",
    }
}

/// Permission bits as people write them: `0755`.
pub(crate) fn mode_text(mode: u32) -> String {
    format!("{mode:04o}")
}

/// What stands at a path.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileBody {
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `char_device` or `block_device`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Permission bits in octal.
    mode: String,
    /// Bytes.
    size: u64,
    /// Last change of content.
    #[schema(value_type = String, format = DateTime)]
    mtime: Timestamp,
    /// As in the `ETag` header, without quotes.
    etag: String,
    /// Where a symbolic link points; bytes that are not UTF-8 are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target: Option<String>,
}

impl From<FileMeta> for FileBody {
    fn from(meta: FileMeta) -> Self {
        Self {
            kind: type_word(meta.kind),
            mode: mode_text(meta.mode),
            size: meta.size,
            mtime: timestamp(meta.mtime),
            etag: meta.etag,
            link_target: meta
                .link_target
                .map(|target| String::from_utf8_lossy(&target).into_owned()),
        }
    }
}

/// One entry of a directory.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryBody {
    /// Its name; bytes that are not UTF-8 are replaced.
    name: String,
    #[serde(flatten)]
    file: FileBody,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        Self { name: entry.name, file: entry.meta.into() }
    }
}

/// A file that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrittenBody {
    /// Where, as text.
    pub(crate) path: String,
    /// True where nothing stood there before.
    pub(crate) created: bool,
    #[serde(flatten)]
    pub(crate) file: FileBody,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RemovedBody {
    /// Where, as text.
    pub(crate) path: String,
    #[serde(flatten)]
    pub(crate) file: FileBody,
}

/// A tree that was unpacked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImportedBody {
    /// Entries.
    entries: u64,
    /// Bytes of content.
    bytes: u64,
}

impl From<Imported> for ImportedBody {
    fn from(imported: Imported) -> Self {
        Self { entries: imported.entries, bytes: imported.bytes }
    }
}

/// What a publish did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PublishedBody {
    /// False where there was nothing to publish.
    published: bool,
    /// Paths that were changed.
    changed: u64,
    /// Paths that the draft and the home both changed; the draft's version stands now. Not all of
    /// them where there are many.
    conflicts: Vec<String>,
    /// How many there are, listed or not.
    conflicts_total: u64,
}

impl From<PublishReport> for PublishedBody {
    fn from(report: PublishReport) -> Self {
        Self {
            published: report.published,
            changed: report.changed,
            conflicts: report.conflicts,
            conflicts_total: report.conflicts_total,
        }
    }
}

/// Whether there was a draft to throw away.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiscardedBody {
    /// False where there was none.
    pub(crate) discarded: bool,
}
