//! Calls that change the tree. Each is one step for whoever reads meanwhile, and durable on this
//! host's disk when it returns.

use base::ErrorKind;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::Semaphore;
use vfs::path::TreePath;
use vfs::path_ops::{self, Last, Put};
use vfs::tar::{ImportOptions, import};
use vfs::{Attr, Errno, Expect, Placed, Removal, Touched};

use super::stream::{BodyReader, ByteStream};
use super::types::{FileInfo, ImportDone, Preconditions, PutDone, PutOptions};
use super::{Files, LetGo, blocking};
use crate::{Failure, Result};

/// Bytes of an upload that are written by one call to a blocking thread.
const WRITE_BYTES: usize = 512 << 10;

/// Imports that a process reads at the same time; more wait. Each holds a blocking thread until its
/// last byte has come, and all other calls need some too.
const IMPORTS_MAX: usize = 32;

/// Uploads of up to this many bytes are made and synced in company: the trees keep them in one place.
const SMALL_BYTES: usize = 16 << 10;

static IMPORTS: Semaphore = Semaphore::const_new(IMPORTS_MAX);

impl Files {
    /// Puts a file, making missing parents. A body that is cut off changes nothing. While nothing
    /// comes, an upload holds no thread. One of less than [`WRITE_BYTES`] is one call of the tree.
    ///
    /// # Errors
    /// `PreconditionFailed`, `Conflict` for a directory or a path through a file, `Exhausted`.
    pub async fn put(
        &self,
        path: &TreePath,
        mut body: ByteStream,
        options: PutOptions,
    ) -> Result<PutDone> {
        let mut put: Option<LetGo<Put<'static>>> = None;
        loop {
            let piece = gather(&mut body).await?;
            let last = piece.len() < WRITE_BYTES;
            if put.is_none() && piece.len() <= SMALL_BYTES {
                return self.put_small(path, piece, options).await;
            }
            let (this, path, options) = (self.clone(), path.clone(), options.clone());
            let written = blocking(move || {
                let mut put = match put {
                    Some(put) => put.take(),
                    None if last => {
                        let placed = this.put_whole(&path, &piece, &options)?;
                        return this.synced(&placed).map(Ok);
                    }
                    None => {
                        // Refuse before the body is taken where that is certain already.
                        this.expect(&path, &options.preconditions)?;
                        Put::begin_shared(this.fs.clone())?
                    }
                };
                put.write(&piece)?;
                if !last {
                    return Ok(Err(LetGo::new(put)));
                }
                let expect = this.expect(&path, &options.preconditions)?;
                let placed = put.finish(&path, expect, options.perm)?;
                this.synced(&placed).map(Ok)
            })
            .await?;
            match written {
                Ok(done) => return Ok(done),
                Err(more) => put = Some(more),
            }
        }
    }

    /// In company with others.
    async fn put_small(
        &self,
        path: &TreePath,
        content: Bytes,
        options: PutOptions,
    ) -> Result<PutDone> {
        let (this, path) = (self.clone(), path.clone());
        let change = move || {
            let placed = this.put_whole(&path, &content, &options)?;
            this.changed(&placed.touched);
            this.done(&placed)
        };
        self.lane.durably(self.fs.clone(), change).await
    }

    fn put_whole(&self, path: &TreePath, content: &[u8], options: &PutOptions) -> Result<Placed> {
        let expect = self.expect(path, &options.preconditions)?;
        Ok(path_ops::put_file(&*self.fs, path, content, expect, options.perm)?)
    }

    /// Tells of a file that was put, and answers when it is durable.
    fn synced(&self, placed: &Placed) -> Result<PutDone> {
        self.changed(&placed.touched);
        self.fs.sync_local()?;
        self.done(placed)
    }

    fn done(&self, placed: &Placed) -> Result<PutDone> {
        Ok(PutDone { created: placed.created, info: self.info(&placed.attr)? })
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
        let permit = IMPORTS.acquire().await;
        let _permit = permit.map_err(|error| Failure::internal("wait for other imports", error))?;
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

/// The next bytes of an upload: [`WRITE_BYTES`] or a little more, fewer only at its end.
async fn gather(body: &mut ByteStream) -> Result<Bytes> {
    // A small body comes in one piece and is not copied.
    let mut first = Bytes::new();
    let mut gathered = BytesMut::new();
    while first.len() + gathered.len() < WRITE_BYTES {
        let Some(piece) = body.next().await else { break };
        let piece = piece.map_err(|error| cut_off(&error))?;
        if first.is_empty() && gathered.is_empty() {
            first = piece;
        } else {
            gathered.extend_from_slice(&std::mem::take(&mut first));
            gathered.extend_from_slice(&piece);
        }
    }
    Ok(if gathered.is_empty() { first } else { gathered.freeze() })
}

fn cut_off(error: &std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::InvalidArgument,
        format!("the body was cut off, nothing was changed: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn files() -> Files {
        Files::new(Arc::new(vfs::memfs::MemFs::new(Arc::new(base::SystemClock::new()), 1 << 30)))
    }

    fn at(path: &str) -> TreePath {
        TreePath::parse(path.as_bytes()).unwrap()
    }

    #[test]
    fn uploads_that_stand_still_hold_no_threads() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(2).build().unwrap();
        runtime.block_on(async {
            let files = files();
            let stalled: Vec<_> = (0..20)
                .map(|n| {
                    let files = files.clone();
                    let head = futures::stream::iter([Ok(Bytes::from(vec![7; WRITE_BYTES + 1]))]);
                    let body = head.chain(futures::stream::pending()).boxed();
                    let path = at(&format!("slow-{n}"));
                    tokio::spawn(async move { files.put(&path, body, PutOptions::default()).await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let quick = super::super::stream::once(Bytes::from_static(b"quick"));
            let target = at("quick");
            let put = files.put(&target, quick, PutOptions::default());
            let done = tokio::time::timeout(Duration::from_secs(5), put).await;
            assert!(done.expect("a thread is free").unwrap().created);
            stalled.iter().for_each(tokio::task::JoinHandle::abort);
        });
    }

    #[tokio::test]
    async fn an_upload_of_many_pieces_arrives_whole_and_a_broken_one_leaves_nothing() {
        let files = files();
        let bytes: Vec<u8> = (0..WRITE_BYTES * 5 / 2).map(|n| (n % 251) as u8).collect();
        let pieces = |bytes: &[u8]| {
            let pieces: Vec<_> =
                bytes.chunks(70_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            futures::stream::iter(pieces)
        };
        let whole = pieces(&bytes).boxed();
        files.put(&at("whole"), whole, PutOptions::default()).await.unwrap();
        let (info, _, body) = files.get(&at("whole"), None).await.unwrap();
        assert_eq!(info.size, bytes.len() as u64);
        let read: Vec<Bytes> = body.map(|piece| piece.unwrap()).collect().await;
        assert!(read.concat() == bytes, "another content came back");

        let lost = futures::stream::iter([Err(std::io::Error::other("lost"))]);
        let broken = pieces(&bytes).chain(lost).boxed();
        let error = files.put(&at("broken"), broken, PutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        let missing = files.stat(&at("broken")).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
    }
}
