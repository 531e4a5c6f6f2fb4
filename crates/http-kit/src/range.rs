//! `Range`: one part of a file.

use control::files::RangeSpec;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};

use crate::ApiError;

/// The part that is asked for; `None` for the whole file. Several ranges, other units and text that is
/// no range are passed over, as the standard allows: the reply is then the whole file.
#[must_use]
pub fn requested(headers: &HeaderMap) -> Option<RangeSpec> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    match (number(first), number(last)) {
        (Some(first), Some(last)) => (first <= last).then_some(RangeSpec::Inclusive(first, last)),
        (Some(first), None) if last.is_empty() => Some(RangeSpec::From(first)),
        (None, Some(count)) if first.is_empty() => Some(RangeSpec::Last(count)),
        _ => None,
    }
}

/// Digits only: `+5` and `5, 7-9` are no numbers. A number too large for any file is the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of a part: start and end (excluded) within a file of `size` bytes.
#[must_use]
pub fn content_range(part: &std::ops::Range<u64>, size: u64) -> HeaderValue {
    let last = part.end.saturating_sub(1);
    HeaderValue::from_str(&format!("bytes {}-{last}/{size}", part.start))
        .expect("digits make a header value")
}

/// Adds `Content-Range: bytes */SIZE` to a 416, as the standard asks.
#[must_use]
pub fn with_size(error: ApiError) -> ApiError {
    match error.detail("size").and_then(|size| size.parse::<u64>().ok()) {
        Some(size) => {
            let value = HeaderValue::from_str(&format!("bytes */{size}"))
                .expect("digits make a header value");
            error.with_header(CONTENT_RANGE, value)
        }
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str) -> Option<RangeSpec> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static(text));
        requested(&headers)
    }

    #[test]
    fn one_range_is_understood() {
        assert_eq!(of("bytes=0-0"), Some(RangeSpec::Inclusive(0, 0)));
        assert_eq!(of("Bytes = 5-"), Some(RangeSpec::From(5)));
        assert_eq!(of("bytes=-9"), Some(RangeSpec::Last(9)));
        assert_eq!(of("bytes=0-99999999999999999999999"), Some(RangeSpec::Inclusive(0, u64::MAX)));
    }

    #[test]
    fn anything_else_means_the_whole_file() {
        for text in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "lines=0-1",
            "bytes=-",
            "bytes=a-b",
            "bytes",
            "bytes=+1-2",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_says_where_it_lies() {
        assert_eq!(content_range(&(5..10), 20), "bytes 5-9/20");
    }
}
