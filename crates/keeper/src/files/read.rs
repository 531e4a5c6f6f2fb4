//! Calls that change nothing.

use std::io;
use std::sync::Arc;

use base::ErrorKind;
use vfs::path::TreePath;
use vfs::path_ops::{self, Last};
use vfs::tar::Bundle;
use vfs::{FileSystem, Ino, Kind};

use super::pulled::{READ_BYTES, next_of, pulled};
use super::stream::{self, ByteStream};
use super::types::{Entry, FileInfo, ListPage, Range};
use super::{Files, LIST_ENTRIES_MAX, blocking};
use crate::{Failure, Result};

/// Keeps an inode alive while its bytes go out.
struct Pinned {
    fs: Arc<dyn FileSystem>,
    ino: Ino,
}

impl Pinned {
    fn new(fs: Arc<dyn FileSystem>, ino: Ino) -> Self {
        fs.pin(ino);
        Self { fs, ino }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.fs.unpin(self.ino);
    }
}

impl Files {
    /// The bytes of a file, or of a part of it, with offset and length of what follows. Links
    /// are followed inside the home.
    ///
    /// # Errors
    /// `Conflict` for a directory, naming it; `InvalidArgument` with `ERANGE`'s sentence where the
    /// range lies past the end.
    pub async fn get(
        &self,
        path: &TreePath,
        range: Option<Range>,
    ) -> Result<(FileInfo, Option<(u64, u64)>, ByteStream)> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            let attr = path_ops::stat(&*this.fs, &path, Last::Follow)?;
            match attr.kind {
                Kind::File => {}
                Kind::Directory => {
                    return Err(Failure::new(
                        ErrorKind::Conflict,
                        format!(
                            "{path} is a directory; list=true lists it, bundle=tar downloads it"
                        ),
                    ));
                }
                _ => {
                    return Err(Failure::new(
                        ErrorKind::Conflict,
                        format!("{path} is a {:?}, which has no content to read", attr.kind),
                    ));
                }
            }
            let info = this.info(&attr)?;
            let part = match range {
                None => (0, attr.size),
                Some(range) => match range.within(attr.size) {
                    Some(part) => part,
                    // The caller answers 416 from the size; no body.
                    None => return Ok((info, None, stream::once(bytes::Bytes::new()))),
                },
            };
            let body = this.content(attr.ino, part)?;
            Ok((info, Some(part), body))
        })
        .await
    }

    /// One piece at once where it is small, else a stream.
    fn content(&self, ino: Ino, (offset, len): (u64, u64)) -> Result<ByteStream> {
        if len <= READ_BYTES as u64 {
            let data = self.fs.read(ino, offset, u32::try_from(len).unwrap_or(u32::MAX))?;
            if data.len() as u64 != len {
                return Err(Failure::new(
                    ErrorKind::Conflict,
                    "the file shrank while it was read; try again",
                ));
            }
            return Ok(stream::once(data));
        }
        let pinned = Pinned::new(self.fs.clone(), ino);
        let (mut at, end) = (offset, offset + len);
        Ok(pulled(move || {
            let want = (end - at).min(READ_BYTES as u64);
            if want == 0 {
                return Ok(None);
            }
            let data = pinned
                .fs
                .read(pinned.ino, at, u32::try_from(want).unwrap_or(u32::MAX))
                .map_err(|error| io::Error::other(error.to_string()))?;
            if data.is_empty() {
                // It shrank: the length that was promised cannot be kept, so the body is cut off.
                return Err(io::Error::other("the file shrank while it was read"));
            }
            at += data.len() as u64;
            Ok(Some(data))
        }))
    }

    /// A page of a directory, at most [`LIST_ENTRIES_MAX`] entries.
    ///
    /// # Errors
    /// `Conflict` where it is no directory.
    pub async fn list(&self, path: &TreePath, after: u64, limit: usize) -> Result<ListPage> {
        let (this, path) = (self.clone(), path.clone());
        let limit = limit.clamp(1, LIST_ENTRIES_MAX);
        blocking(move || {
            // One more than asked for tells whether there is a next page.
            let mut found = path_ops::list(&*this.fs, &path, after, limit + 1)?;
            let more = found.len() > limit;
            found.truncate(limit);
            let next = if more { found.last().map(|last| last.cookie) } else { None };
            let entries = found
                .into_iter()
                .map(|entry| Ok(Entry { info: this.info(&entry.attr)?, name: entry.name }))
                .collect::<Result<_>>()?;
            Ok(ListPage { entries, next })
        })
        .await
    }

    /// A directory's content as a tar stream.
    ///
    /// # Errors
    /// `Conflict` where it is no directory.
    pub async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            let attr = path_ops::stat(&*this.fs, &path, Last::Follow)?;
            if attr.kind != Kind::Directory {
                return Err(Failure::new(
                    ErrorKind::Conflict,
                    format!("{path} is not a directory; a plain GET downloads it"),
                ));
            }
            let pinned = Pinned::new(this.fs.clone(), attr.ino);
            let mut bundle = Bundle::shared(this.fs.clone(), attr.ino);
            Ok(pulled(move || {
                let _pinned = &pinned;
                next_of(&mut bundle)
            }))
        })
        .await
    }
}
