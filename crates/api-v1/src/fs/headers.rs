//! Headers that describe a file.

use axum::response::Response;
use control::files::FileMeta;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED,
};
use http_kit::dates::{http_date, timestamp};
use http_kit::preconditions::etag_header;

use crate::shapes::file::{mode_text, type_word};

const X_FS_TYPE: HeaderName = HeaderName::from_static("x-fs-type");
const X_FS_MODE: HeaderName = HeaderName::from_static("x-fs-mode");
const X_FS_SIZE: HeaderName = HeaderName::from_static("x-fs-size");
const X_FS_LINK_TARGET: HeaderName = HeaderName::from_static("x-fs-link-target");

/// Content headers for `length` bytes of a file. The length also tells a client when a body was cut off.
pub(crate) fn content(headers: &mut HeaderMap, length: u64) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Files are whatever users put there; a browser must not guess.
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
}

/// `X-Fs-Type`, `X-Fs-Mode`, `X-Fs-Size`, `Last-Modified` and `ETag` on a reply; for a link
/// `X-Fs-Link-Target` too, unless its bytes cannot stand in a header.
pub(crate) fn of_meta(mut response: Response, meta: &FileMeta) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_FS_TYPE, HeaderValue::from_static(type_word(meta.kind)));
    headers.insert(X_FS_SIZE, HeaderValue::from(meta.size));
    if let Ok(mode) = HeaderValue::from_str(&mode_text(meta.mode)) {
        headers.insert(X_FS_MODE, mode);
    }
    if let Ok(date) = HeaderValue::from_str(&http_date(timestamp(meta.mtime))) {
        headers.insert(LAST_MODIFIED, date);
    }
    let target = meta.link_target.as_deref().map(HeaderValue::from_bytes);
    if let Some(Ok(target)) = target {
        headers.insert(X_FS_LINK_TARGET, target);
    }
    if let Some(etag) = etag_header(&meta.etag) {
        headers.insert(ETAG, etag);
    }
    response
}
