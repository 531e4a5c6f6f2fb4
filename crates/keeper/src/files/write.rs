//! Calls that change the tree. Each is one step for whoever reads meanwhile, and durable on this
//! host's disk when it returns.

use base::ErrorKind;
use futures::StreamExt;
use vfs::path::TreePath;
use vfs::path_ops::{self, Last, Put};
use vfs::tar::{ImportOptions, import};
use vfs::{Attr, Errno, Expect, Removal, Touched};

use super::stream::{BodyReader, ByteStream, PIECE_BYTES};
use super::types::{FileInfo, ImportDone, Preconditions, PutDone, PutOptions};
use super::{Files, blocking};
use crate::{Failure, Result};

/// A body up to this many bytes is collected and written by one call to a blocking thread.
const SMALL_BODY_BYTES: usize = 64 << 10;

impl Files {
    /// Puts a file, making missing parents. A body that is cut off changes nothing.
    ///
    /// # Errors
    /// `PreconditionFailed`, `Conflict` for a directory or a path through a file, `Exhausted`.
    pub async fn put(
        &self,
        path: &TreePath,
        mut body: ByteStream,
        options: PutOptions,
    ) -> Result<PutDone> {
        let mut small = Vec::new();
        while small.len() <= SMALL_BODY_BYTES {
            match body.next().await {
                None => return self.put_from(path, std::io::Cursor::new(small), options).await,
                Some(piece) => small.extend_from_slice(&piece.map_err(|error| cut_off(&error))?),
            }
        }
        let head = futures::stream::once(async move { Ok(bytes::Bytes::from(small)) });
        self.put_from(path, BodyReader::spawn(head.chain(body).boxed()), options).await
    }

    async fn put_from(
        &self,
        path: &TreePath,
        mut body: impl std::io::Read + Send + 'static,
        options: PutOptions,
    ) -> Result<PutDone> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            // Refuse before the body is taken where that is certain already.
            this.expect(&path, &options.preconditions)?;
            let mut put = Put::begin(&*this.fs)?;
            let mut buffer = Vec::with_capacity(PIECE_BYTES);
            loop {
                buffer.clear();
                let mut piece = std::io::Read::take(&mut body, PIECE_BYTES as u64);
                std::io::Read::read_to_end(&mut piece, &mut buffer)
                    .map_err(|error| cut_off(&error))?;
                if buffer.is_empty() {
                    break;
                }
                put.write(&buffer)?;
            }
            let expect = this.expect(&path, &options.preconditions)?;
            let placed = put.finish(&path, expect, options.perm)?;
            this.changed(&placed.touched);
            this.fs.sync_local()?;
            Ok(PutDone { created: placed.created, info: this.info(&placed.attr)? })
        })
        .await
    }

    /// Removes what stands at `path` (a link itself, not what it points to) and says what that was.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for a directory with entries unless `recursive`.
    pub async fn remove(
        &self,
        path: &TreePath,
        recursive: bool,
        preconditions: Preconditions,
    ) -> Result<FileInfo> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            let there = this.info(&path_ops::stat(&*this.fs, &path, Last::Keep)?)?;
            let expect = match preconditions {
                Preconditions { if_match: None, if_none_match: None } => Expect::Any,
                some => this.expect_at(&path, Last::Keep, &some)?,
            };
            let touched = path_ops::remove(&*this.fs, &path, recursive, expect)?;
            this.changed(&touched);
            this.fs.sync_local()?;
            Ok(there)
        })
        .await
    }

    /// Merges a tar stream into the directory `path`, after removing what `removals` name below it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the entry that is refused; `AlreadyExists` where a file would
    /// replace a directory. Nothing has changed then.
    pub async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        removals: Vec<Removal>,
        options: ImportOptions,
    ) -> Result<ImportDone> {
        let (this, path) = (self.clone(), path.clone());
        let body = BodyReader::spawn(body);
        blocking(move || {
            let done = import(&*this.fs, &path, body, &removals, options)?;
            this.changed(&done.touched);
            this.fs.sync_local()?;
            Ok(ImportDone { entries: done.entries, bytes: done.bytes })
        })
        .await
    }

    /// Makes a directory and what is missing above it.
    ///
    /// # Errors
    /// `AlreadyExists` where something else stands there.
    pub async fn make_dir(&self, path: &TreePath, perm: u32) -> Result<()> {
        let (this, path) = (self.clone(), path.clone());
        blocking(move || {
            let attr = path_ops::make_dir(&*this.fs, &path, perm)?;
            this.changed(&Touched { entries: Vec::new(), inodes: vec![attr.ino] });
            Ok(this.fs.sync_local()?)
        })
        .await
    }

    fn expect(&self, path: &TreePath, preconditions: &Preconditions) -> Result<Expect> {
        self.expect_at(path, Last::Follow, preconditions)
    }

    /// Checks the preconditions against what stands there now, and says what must still stand
    /// there when the change is made: check and change are one step together.
    fn expect_at(&self, path: &TreePath, last: Last, what: &Preconditions) -> Result<Expect> {
        if what.if_match.is_none() && what.if_none_match.is_none() {
            return Ok(Expect::Any);
        }
        let there: Option<Attr> = match path_ops::stat(&*self.fs, path, last) {
            Ok(attr) => Some(attr),
            Err(error) if error.errno() == Errno::ENOENT => None,
            Err(error) => return Err(error.into()),
        };
        let etag = there.as_ref().map(|attr| self.etag(attr));
        let failed = |header: &str| {
            Failure::new(
                ErrorKind::PreconditionFailed,
                match &etag {
                    Some(etag) => format!("{header} does not hold: {path} is at \"{etag}\""),
                    None => format!("{header} does not hold: {path} does not exist"),
                },
            )
        };
        if let Some(tags) = &what.if_match
            && !tags.matches(etag.as_deref())
        {
            return Err(failed("If-Match"));
        }
        if let Some(tags) = &what.if_none_match
            && tags.matches(etag.as_deref())
        {
            return Err(failed("If-None-Match"));
        }
        Ok(there.map_or(Expect::Absent, |attr| Expect::Version(attr.ino, attr.version)))
    }
}

fn cut_off(error: &std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::InvalidArgument,
        format!("the body was cut off, nothing was changed: {error}"),
    )
}
