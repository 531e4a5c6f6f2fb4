//! Multipart uploads under way: parts in memory until they become an object.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use s3s::S3Result;
use s3s::dto::CompletedPart;
use s3s::s3_error;

use super::objects::Attributes;

/// Uploads under way, by id.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    uploads: Mutex<HashMap<String, Upload>>,
}

#[derive(Debug)]
struct Upload {
    target: (String, String),
    attributes: Attributes,
    /// ETag and body, by number.
    parts: BTreeMap<i32, (String, Bytes)>,
}

impl Uploads {
    /// Begins one; returns its id.
    pub(super) fn begin(&self, bucket: &str, key: &str, attributes: Attributes) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        let target = (bucket.to_owned(), key.to_owned());
        self.uploads
            .lock()
            .insert(id.clone(), Upload { target, attributes, parts: BTreeMap::new() });
        id
    }

    pub(super) fn add_part(
        &self,
        id: &str,
        number: i32,
        etag: String,
        body: Bytes,
    ) -> S3Result<()> {
        let mut uploads = self.uploads.lock();
        let upload = uploads.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(number, (etag, body));
        Ok(())
    }

    /// The whole body and what was attached to it. The upload goes on, since its object may still be
    /// refused by a condition; [`Uploads::end`] ends it.
    pub(super) fn assemble(
        &self,
        id: &str,
        target: (&str, &str),
        wanted: &[CompletedPart],
    ) -> S3Result<(Bytes, Attributes)> {
        let uploads = self.uploads.lock();
        let upload = uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if (upload.target.0.as_str(), upload.target.1.as_str()) != target {
            return Err(s3_error!(NoSuchUpload));
        }
        let mut body = BytesMut::new();
        let mut last = 0;
        for part in wanted {
            let number = part.part_number.unwrap_or_default();
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let (etag, bytes) = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().is_some_and(|wanted| wanted.value() != etag) {
                return Err(s3_error!(InvalidPart));
            }
            body.extend_from_slice(bytes);
        }
        Ok((body.freeze(), upload.attributes.clone()))
    }

    pub(super) fn end(&self, id: &str) -> S3Result<()> {
        self.uploads.lock().remove(id).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
    }
}
