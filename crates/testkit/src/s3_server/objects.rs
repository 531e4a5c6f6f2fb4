//! Objects of a server: an index in memory, bodies in memory or in files.
//!
//! # Invariants
//! The index is the truth while the server runs. A body file is complete before the index names it,
//! and carries key and ETag in its name, so that the index can be made again from the directory.
//!
//! # Failure
//! A stop between naming a new body and removing the old leaves both; the newer one wins.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use s3s::dto::Metadata;

/// What is known of an object.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) size: u64,
    /// Hex, without quotes.
    pub(super) etag: String,
    pub(super) modified: SystemTime,
    pub(super) attributes: Attributes,
    body: Body,
}

/// What a client attaches to an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) content_type: Option<String>,
    pub(super) metadata: Option<Metadata>,
}

#[derive(Debug, Clone)]
enum Body {
    Memory(Bytes),
    File(PathBuf),
}

/// When a PUT may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Always,
    IfAbsent,
    IfPresent,
    IfEtag(String),
}

/// Why a PUT did not happen.
#[derive(Debug)]
pub(super) enum PutError {
    NoBucket,
    Precondition,
    Io(io::Error),
}

pub(super) type Bucket = BTreeMap<String, Stored>;

/// All objects.
#[derive(Debug)]
pub(super) struct Objects {
    dir: Option<PathBuf>,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Objects {
    pub(super) fn open(dir: Option<PathBuf>) -> io::Result<Self> {
        let mut buckets = BTreeMap::new();
        if let Some(dir) = &dir {
            fs::create_dir_all(dir)?;
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if let (Some(name), true) =
                    (entry.file_name().to_str(), entry.file_type()?.is_dir())
                {
                    buckets.insert(name.to_owned(), load(&entry.path())?);
                }
            }
        }
        Ok(Self { dir, buckets: Mutex::new(buckets) })
    }

    pub(super) fn create_bucket(&self, name: &str) -> io::Result<()> {
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir.join(name))?;
        }
        self.buckets.lock().entry(name.to_owned()).or_default();
        Ok(())
    }

    pub(super) fn bucket_names(&self) -> Vec<String> {
        self.buckets.lock().keys().cloned().collect()
    }

    /// Looks at a bucket, if there is one.
    pub(super) fn in_bucket<T>(&self, name: &str, look: impl FnOnce(&Bucket) -> T) -> Option<T> {
        self.buckets.lock().get(name).map(look)
    }

    pub(super) fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        stored_as: (String, Attributes),
        condition: &Condition,
    ) -> Result<(), PutError> {
        let (etag, attributes) = stored_as;
        let size = body.len() as u64;
        let staged = self.stage(bucket, key, &etag, body).map_err(PutError::Io)?;
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(PutError::NoBucket)?;
        let old = objects.get(key);
        let holds = match (condition, old) {
            (Condition::Always, _)
            | (Condition::IfAbsent, None)
            | (Condition::IfPresent, Some(_)) => true,
            (Condition::IfEtag(wanted), Some(old)) => *wanted == old.etag,
            _ => false,
        };
        if !holds {
            staged.discard();
            return Err(PutError::Precondition);
        }
        let body = staged.keep().map_err(PutError::Io)?;
        let new = Stored { size, etag, modified: SystemTime::now(), attributes, body };
        if let Some(old) = objects.insert(key.to_owned(), new) {
            old.body.remove_unless(objects.get(key).map(|stored| &stored.body));
        }
        Ok(())
    }

    /// The object and, opened in the same moment, its body.
    pub(super) fn open_object(
        &self,
        bucket: &str,
        key: &str,
    ) -> io::Result<Option<(Stored, Reader)>> {
        let buckets = self.buckets.lock();
        let Some(stored) = buckets.get(bucket).and_then(|objects| objects.get(key)) else {
            return Ok(None);
        };
        let reader = match &stored.body {
            Body::Memory(bytes) => Reader::Memory(bytes.clone()),
            Body::File(path) => Reader::File(File::open(path)?),
        };
        Ok(Some((stored.clone(), reader)))
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) {
        let removed = self.buckets.lock().get_mut(bucket).and_then(|objects| objects.remove(key));
        if let Some(stored) = removed {
            stored.body.remove_unless(None);
        }
    }

    fn stage(&self, bucket: &str, key: &str, etag: &str, body: Bytes) -> io::Result<Staged> {
        let Some(dir) = &self.dir else { return Ok(Staged::Memory(body)) };
        let path = dir.join(bucket).join(file_name(key, etag));
        let staged = dir.join(bucket).join(format!(".{:032x}", rand::random::<u128>()));
        fs::write(&staged, &body)?;
        Ok(Staged::File { staged, path })
    }
}

/// A body that has no name yet.
enum Staged {
    Memory(Bytes),
    File { staged: PathBuf, path: PathBuf },
}

impl Staged {
    fn keep(self) -> io::Result<Body> {
        match self {
            Self::Memory(bytes) => Ok(Body::Memory(bytes)),
            Self::File { staged, path } => {
                fs::rename(staged, &path)?;
                Ok(Body::File(path))
            }
        }
    }

    fn discard(self) {
        if let Self::File { staged, .. } = self {
            // What stays behind is only room.
            fs::remove_file(staged).ok();
        }
    }
}

impl Body {
    fn remove_unless(self, same_as: Option<&Self>) {
        let (Self::File(path), other) = (self, same_as) else { return };
        let still_used = matches!(other, Some(Self::File(used)) if *used == path);
        if !still_used {
            fs::remove_file(path).ok();
        }
    }
}

/// An opened body.
pub(super) enum Reader {
    Memory(Bytes),
    File(File),
}

impl Reader {
    /// Bytes of a range that lies within the object. Blocks.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let start = usize::try_from(range.start).map_err(io::Error::other)?;
        let end = usize::try_from(range.end).map_err(io::Error::other)?;
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(start..end)),
            Self::File(file) => {
                let mut body = vec![0; end - start];
                file.read_exact_at(&mut body, range.start)?;
                Ok(body.into())
            }
        }
    }
}

fn load(dir: &Path) -> io::Result<Bucket> {
    let mut bucket = Bucket::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((key, etag)) = name.to_str().and_then(parse_file_name) else { continue };
        let meta = entry.metadata()?;
        let stored = Stored {
            size: meta.len(),
            etag,
            modified: meta.modified()?,
            attributes: Attributes::default(),
            body: Body::File(entry.path()),
        };
        let newer = bucket.get(&key).is_none_or(|other| other.modified <= stored.modified);
        let older = if newer { bucket.insert(key, stored) } else { Some(stored) };
        if let Some(older) = older {
            older.body.remove_unless(None);
        }
    }
    Ok(bucket)
}

/// One file name for a key of any shape.
fn file_name(key: &str, etag: &str) -> String {
    let mut name = String::with_capacity(key.len() + etag.len() + 1);
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    format!("{name}#{etag}")
}

fn parse_file_name(name: &str) -> Option<(String, String)> {
    let (escaped, etag) = name.rsplit_once('#')?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut parts = escaped.split('%');
    key.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        key.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        key.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some((String::from_utf8(key).ok()?, etag.to_owned()))
}

impl From<PutError> for s3s::S3Error {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoBucket => s3s::s3_error!(NoSuchBucket),
            PutError::Precondition => s3s::s3_error!(PreconditionFailed),
            PutError::Io(error) if error.kind() == ErrorKind::InvalidFilename => {
                s3s::s3_error!(KeyTooLongError)
            }
            PutError::Io(error) => Self::internal_error(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(
        objects: &Objects,
        key: &str,
        body: &'static str,
        condition: &Condition,
    ) -> Result<(), PutError> {
        let stored_as = (format!("etag{}", body.len()), Attributes::default());
        objects.put("bucket", key, Bytes::from_static(body.as_bytes()), stored_as, condition)
    }

    #[test]
    fn a_directory_survives_the_server() {
        let dir = tempfile::tempdir().unwrap();
        {
            let objects = Objects::open(Some(dir.path().to_owned())).unwrap();
            objects.create_bucket("bucket").unwrap();
            put(&objects, "a/b c#%/ü", "one", &Condition::Always).unwrap();
            put(&objects, "a/b c#%/ü", "three", &Condition::IfEtag("etag3".into())).unwrap();
            put(&objects, "gone", "x", &Condition::IfAbsent).unwrap();
            objects.delete("bucket", "gone");
        }
        let objects = Objects::open(Some(dir.path().to_owned())).unwrap();
        let keys = objects.in_bucket("bucket", |bucket| bucket.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys.unwrap(), ["a/b c#%/ü"]);
        let (stored, reader) = objects.open_object("bucket", "a/b c#%/ü").unwrap().unwrap();
        assert_eq!((stored.size, stored.etag.as_str()), (5, "etag5"));
        assert_eq!(reader.read(1..4).unwrap(), "hre");
        assert_eq!(fs::read_dir(dir.path().join("bucket")).unwrap().count(), 1);
    }

    #[test]
    fn a_condition_that_does_not_hold_changes_nothing() {
        let objects = Objects::open(None).unwrap();
        objects.create_bucket("bucket").unwrap();
        assert!(put(&objects, "k", "x", &Condition::IfPresent).is_err());
        assert!(put(&objects, "k", "x", &Condition::IfEtag("etag1".into())).is_err());
        put(&objects, "k", "x", &Condition::IfAbsent).unwrap();
        assert!(put(&objects, "k", "yy", &Condition::IfAbsent).is_err());
        let (stored, _) = objects.open_object("bucket", "k").unwrap().unwrap();
        assert_eq!(stored.size, 1);
    }
}
