//! File calls on a flat map: enough to see which tree a call reached.
//!
//! Directories exist where a file is below them. An import takes `path\tcontent` lines in place of a
//! tar, and a bundle gives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base::ErrorKind;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use vfs::path::TreePath;
use vfs::tar::ImportOptions;
use vfs::{Kind, Time};

use crate::files::{
    ByteStream, DeleteOptions, Entry, FileBody, FileCalls, FileMeta, Imported, Precondition,
    PutDone, PutOptions, RangeSpec,
};
use crate::{Error, Page, PageQuery, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    bytes: Bytes,
    mode: u32,
    version: u64,
}

/// File calls on a flat map.
#[derive(Debug, Clone, Default)]
pub struct FakeTree {
    files: Arc<Mutex<BTreeMap<Vec<u8>, File>>>,
}

impl FakeTree {
    /// A tree of its own with the same files.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { files: Arc::new(Mutex::new(self.files.lock().clone())) }
    }

    /// All files as text.
    #[must_use]
    pub fn texts(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.files.lock().iter().map(|(path, file)| (text(path), text(&file.bytes))).collect()
    }

    /// Paths that this tree has otherwise than `other`: made or changed, and taken away.
    #[must_use]
    pub fn against(&self, other: &Self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (ours, theirs) = (self.files.lock().clone(), other.files.lock().clone());
        let changed = |path: &Vec<u8>, file: &File| {
            theirs.get(path).is_none_or(|theirs| theirs.bytes != file.bytes)
        };
        let made = ours.iter().filter(|(path, file)| changed(path, file));
        let gone = theirs.keys().filter(|path| !ours.contains_key(*path));
        (made.map(|(path, _)| path.clone()).collect(), gone.cloned().collect())
    }

    /// The etag of a file.
    #[must_use]
    pub fn etag(&self, path: &[u8]) -> Option<String> {
        self.files.lock().get(path).map(|file| meta(file).etag)
    }

    /// These paths as a bundle.
    #[must_use]
    pub fn bundle(&self, paths: &[Vec<u8>]) -> ByteStream {
        let files = self.files.lock();
        let mut body = BytesMut::new();
        for path in paths {
            if let Some(file) = files.get(path) {
                body.extend_from_slice(path);
                body.extend_from_slice(b"\t");
                body.extend_from_slice(&file.bytes);
                body.extend_from_slice(b"\n");
            }
        }
        stream::iter([Ok(body.freeze())]).boxed()
    }

    /// Takes paths away, then adds what is in a bundle.
    ///
    /// # Errors
    /// Those of the body.
    pub async fn graft(&self, removals: &[Vec<u8>], bundle: ByteStream) -> Result<u64> {
        let body = collect(bundle).await?;
        let mut files = self.files.lock();
        for path in removals {
            files.remove(path);
        }
        let mut entries = 0;
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let mut halves = line.splitn(2, |byte| *byte == b'\t');
            let path = halves.next().unwrap_or_default().to_vec();
            let bytes = Bytes::copy_from_slice(halves.next().unwrap_or_default());
            files.insert(path, File { bytes, mode: 0o644, version: 1 });
            entries += 1;
        }
        Ok(entries)
    }

    fn is_dir(&self, path: &TreePath) -> bool {
        let prefix = dir_prefix(path);
        path.is_root() || self.files.lock().keys().any(|key| key.starts_with(&prefix))
    }
}

fn dir_prefix(path: &TreePath) -> Vec<u8> {
    let mut prefix = path.to_bytes();
    if !prefix.is_empty() {
        prefix.push(b'/');
    }
    prefix
}

async fn collect(body: ByteStream) -> Result<Bytes> {
    let collected: BytesMut = body
        .try_fold(BytesMut::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .map_err(|error| Error::invalid(format!("the body broke off: {error}")))?;
    Ok(collected.freeze())
}

fn meta(file: &File) -> FileMeta {
    FileMeta {
        kind: Kind::File,
        mode: file.mode,
        size: file.bytes.len() as u64,
        mtime: Time(0),
        etag: format!("v{}", file.version),
        link_target: None,
    }
}

fn dir_meta() -> FileMeta {
    FileMeta {
        kind: Kind::Directory,
        mode: 0o755,
        size: 0,
        mtime: Time(0),
        etag: "d".to_owned(),
        link_target: None,
    }
}

fn check(precondition: &Precondition, there: Option<&File>) -> Result<()> {
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Present => there.is_some(),
        Precondition::Absent => there.is_none(),
        Precondition::Etag(tags) => there.is_some_and(|file| tags.contains(&meta(file).etag)),
    };
    if holds {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PreconditionFailed, "it is not what was asked for"))
}

#[async_trait]
impl FileCalls for FakeTree {
    async fn head(&self, path: &TreePath) -> Result<FileMeta> {
        if let Some(file) = self.files.lock().get(&path.to_bytes()) {
            return Ok(meta(file));
        }
        if self.is_dir(path) {
            return Ok(dir_meta());
        }
        Err(Error::not_found(format!("{path}: no such file or directory")))
    }

    async fn get(&self, path: &TreePath, range: Option<RangeSpec>) -> Result<FileBody> {
        let file = self.files.lock().get(&path.to_bytes()).cloned();
        let Some(file) = file else {
            let dir = self.head(path).await?.kind == Kind::Directory;
            return Err(Error::new(ErrorKind::Conflict, format!("{path}: directory {dir}")));
        };
        let size = file.bytes.len() as u64;
        let range = match range {
            None => 0..size,
            Some(spec) => spec.resolve(size).ok_or_else(|| {
                Error::invalid("nothing of that range exists")
                    .with_code("RANGE_NOT_SATISFIABLE")
                    .with_detail("size", size)
            })?,
        };
        let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = file.bytes.slice(at(range.start)..at(range.end));
        Ok(FileBody { meta: meta(&file), range, body: stream::iter([Ok(bytes)]).boxed() })
    }

    async fn put(&self, path: &TreePath, body: ByteStream, options: PutOptions) -> Result<PutDone> {
        let bytes = collect(body).await?;
        if self.is_dir(path) {
            return Err(Error::new(ErrorKind::Conflict, format!("{path} is a directory")));
        }
        let mut files = self.files.lock();
        let before = files.get(&path.to_bytes());
        check(&options.precondition, before)?;
        let created = before.is_none();
        let version = before.map_or(0, |file| file.version) + 1;
        let mode = options.mode.or(before.map(|file| file.mode)).unwrap_or(0o644);
        let file = File { bytes, mode, version };
        let done = PutDone { created, meta: meta(&file) };
        files.insert(path.to_bytes(), file);
        Ok(done)
    }

    async fn delete(&self, path: &TreePath, options: DeleteOptions) -> Result<FileMeta> {
        let found = self.head(path).await?;
        let mut files = self.files.lock();
        check(&options.precondition, files.get(&path.to_bytes()))?;
        if found.kind == Kind::Directory {
            if !options.recursive {
                return Err(Error::new(ErrorKind::Conflict, format!("{path} has entries")));
            }
            let prefix = dir_prefix(path);
            files.retain(|key, _| !key.starts_with(&prefix));
        }
        files.remove(&path.to_bytes());
        Ok(found)
    }

    async fn list(&self, path: &TreePath, page: &PageQuery) -> Result<Page<Entry>> {
        let prefix = dir_prefix(path);
        let mut entries: BTreeMap<String, FileMeta> = BTreeMap::new();
        for (key, file) in self.files.lock().iter() {
            let Some(rest) = key.strip_prefix(prefix.as_slice()) else { continue };
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
            let what = if name.len() == rest.len() { meta(file) } else { dir_meta() };
            entries.insert(String::from_utf8_lossy(name).into_owned(), what);
        }
        let after = page.after().unwrap_or_default().to_owned();
        let entries = entries.into_iter().filter(|(name, _)| *name > after);
        let entries = entries.map(|(name, meta)| Entry { name, meta }).collect();
        Ok(Page::cut(entries, page.length(), |entry: &Entry| entry.name.clone()))
    }

    async fn import_tar(
        &self,
        _path: &TreePath,
        body: ByteStream,
        _options: ImportOptions,
    ) -> Result<Imported> {
        Ok(Imported { entries: self.graft(&[], body).await?, bytes: 0 })
    }

    async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        let prefix = dir_prefix(path);
        let mut keys: Vec<Vec<u8>> = self.files.lock().keys().cloned().collect();
        keys.retain(|key| key.starts_with(&prefix));
        Ok(self.bundle(&keys))
    }
}
