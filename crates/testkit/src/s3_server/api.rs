//! The calls of S3 that this server knows, over its objects.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use s3s::crypto::{Checksum, Md5};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::list::{Entry, Page, Question, page};
use super::objects::{Attributes, Condition, Objects, Reader, Stored};
use super::uploads::Uploads;

/// The largest body of one request in bytes: it is held in memory.
const BODY_MAX: usize = 1 << 30;

/// The calls, over objects.
#[derive(Debug)]
pub(super) struct Api {
    objects: Arc<Objects>,
    uploads: Uploads,
}

impl Api {
    pub(super) fn new(objects: Arc<Objects>) -> Self {
        Self { objects, uploads: Uploads::default() }
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        self.objects.in_bucket(bucket, |_| ()).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    async fn open(&self, bucket: &str, key: &str) -> S3Result<(Stored, Reader)> {
        self.check_bucket(bucket)?;
        let opened = self.objects.open_object(bucket, key).map_err(s3s::S3Error::internal_error)?;
        opened.ok_or_else(|| s3_error!(NoSuchKey))
    }

    async fn store(
        &self,
        target: (String, String),
        body: Bytes,
        stored_as: (String, Attributes),
        condition: Condition,
    ) -> S3Result<()> {
        let objects = Arc::clone(&self.objects);
        let (bucket, key) = target;
        let task = tokio::task::spawn_blocking(move || {
            objects.put(&bucket, &key, body, stored_as, &condition)
        });
        Ok(task.await.map_err(s3s::S3Error::internal_error)??)
    }
}

#[async_trait::async_trait]
impl S3 for Api {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let body = collect(input.body).await?;
        if input.content_length.is_some_and(|length| length != body.len() as i64) {
            return Err(s3_error!(IncompleteBody));
        }
        let etag = etag_of(&body);
        let attributes = Attributes { content_type: input.content_type, metadata: input.metadata };
        let stored_as = (etag.clone(), attributes);
        self.store((input.bucket, input.key), body, stored_as, condition).await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let (stored, reader) = self.open(&input.bucket, &input.key).await?;
        let range = match input.range {
            Some(range) => range.check(stored.size)?,
            None => 0..stored.size,
        };
        let content_range = input.range.map(|_| {
            format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), stored.size)
        });
        let task = tokio::task::spawn_blocking(move || reader.read(range));
        let body = task.await.map_err(s3s::S3Error::internal_error)?;
        let body = body.map_err(s3s::S3Error::internal_error)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(length(body.len() as u64)),
            body: Some(StreamingBlob::from(s3s::Body::from(body))),
            content_range,
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            content_type: stored.attributes.content_type,
            metadata: stored.attributes.metadata,
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let (stored, _) = self.open(&req.input.bucket, &req.input.key).await?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(length(stored.size)),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            content_type: stored.attributes.content_type,
            metadata: stored.attributes.metadata,
            ..Default::default()
        }))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = req.input;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let (stored, reader) = self.open(bucket, key).await?;
        let task = tokio::task::spawn_blocking(move || reader.read(0..stored.size));
        let body = task.await.map_err(s3s::S3Error::internal_error)?;
        let body = body.map_err(s3s::S3Error::internal_error)?;
        let replaces =
            input.metadata_directive.is_some_and(|directive| directive.as_str() == "REPLACE");
        let attributes = match replaces {
            true => Attributes { content_type: input.content_type, metadata: input.metadata },
            false => stored.attributes,
        };
        let stored_as = (stored.etag.clone(), attributes);
        self.store((input.bucket, input.key), body, stored_as, Condition::Always).await?;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(stored.modified.into()),
            ..Default::default()
        };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..Default::default()
        }))
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&req.input.bucket)?;
        self.objects.delete(&req.input.bucket, &req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            self.objects.delete(&input.bucket, &object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let question = Question {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty()),
            after: input
                .continuation_token
                .as_deref()
                .or(input.start_after.as_deref())
                .unwrap_or_default(),
            max: input.max_keys,
        };
        let (page, contents) = self
            .objects
            .in_bucket(&input.bucket, |bucket| {
                let page = page(bucket, &question);
                let contents = page.entries.iter().filter_map(|entry| {
                    let Entry::Object(key) = entry else { return None };
                    bucket.get(key).map(|stored| listed(key, stored))
                });
                let contents = contents.collect::<Vec<_>>();
                (page, contents)
            })
            .ok_or_else(|| s3_error!(NoSuchBucket))?;
        let next =
            page.entries.last().filter(|_| page.truncated).map(|entry| entry.text().to_owned());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(page.entries.len()).ok(),
            is_truncated: Some(page.truncated),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes(&page)),
            max_keys: Some(input.max_keys.unwrap_or(1_000)),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let marker = req.input.marker.clone();
        let mut request = req.map_input(ListObjectsV2Input::from);
        request.input.start_after = marker;
        let answer = self.list_objects_v2(request).await?;
        Ok(answer.map_output(|v2| ListObjectsOutput {
            contents: v2.contents,
            common_prefixes: v2.common_prefixes,
            delimiter: v2.delimiter,
            name: v2.name,
            prefix: v2.prefix,
            max_keys: v2.max_keys,
            is_truncated: v2.is_truncated,
            next_marker: v2.next_continuation_token,
            marker: v2.start_after,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        self.check_bucket(&input.bucket)?;
        let attributes = Attributes { content_type: input.content_type, metadata: input.metadata };
        let id = self.uploads.begin(&input.bucket, &input.key, attributes);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let body = collect(input.body).await?;
        let etag = etag_of(&body);
        self.uploads.add_part(&input.upload_id, input.part_number, etag.clone(), body)?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = condition(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let target = (input.bucket.as_str(), input.key.as_str());
        let (body, attributes) = self.uploads.assemble(&input.upload_id, target, &parts)?;
        let etag = format!("{}-{}", etag_of(&body), parts.len());
        let target = (input.bucket.clone(), input.key.clone());
        self.store(target, body, (etag.clone(), attributes), condition).await?;
        self.uploads.end(&input.upload_id)?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads.end(&req.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.objects.create_bucket(&req.input.bucket).map_err(s3s::S3Error::internal_error)?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_bucket(&req.input.bucket)?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let names = self.objects.bucket_names().into_iter();
        let buckets = names.map(|name| Bucket { name: Some(name), ..Default::default() }).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
    }
}

fn condition(none: Option<&ETagCondition>, some: Option<&ETagCondition>) -> S3Result<Condition> {
    match (none, some) {
        (None, None) => Ok(Condition::Always),
        (Some(ETagCondition::Any), None) => Ok(Condition::IfAbsent),
        (None, Some(ETagCondition::Any)) => Ok(Condition::IfPresent),
        (None, Some(ETagCondition::ETag(etag))) => Ok(Condition::IfEtag(etag.value().to_owned())),
        _ => Err(s3_error!(NotImplemented)),
    }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(mut stream) = body else { return Ok(Bytes::new()) };
    let mut body = BytesMut::new();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
        if body.len() + part.len() > BODY_MAX {
            return Err(s3_error!(EntityTooLarge));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

fn etag_of(body: &[u8]) -> String {
    let mut md5 = Md5::new();
    md5.update(body);
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn length(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn listed(key: &str, stored: &Stored) -> Object {
    Object {
        key: Some(key.to_owned()),
        size: Some(length(stored.size)),
        e_tag: Some(ETag::Strong(stored.etag.clone())),
        last_modified: Some(stored.modified.into()),
        ..Default::default()
    }
}

fn common_prefixes(page: &Page) -> Vec<CommonPrefix> {
    let groups = page.entries.iter().filter_map(|entry| match entry {
        Entry::Prefix(prefix) => Some(CommonPrefix { prefix: Some(prefix.clone()) }),
        Entry::Object(_) => None,
    });
    groups.collect()
}
