//! `If-Match` and `If-None-Match` on files.
//!
//! Tags are taken bare, quoted or weak: our own are all strong, and a proxy that compresses turns
//! them weak.

use control::files::Precondition;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE};

use crate::ApiError;
use crate::limits::TAGS_MAX;

/// What one of the two headers holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`.
    Any,
    /// These, without quotes.
    OneOf(Vec<String>),
}

impl Tags {
    /// Reads a header; `None` where it is absent.
    ///
    /// # Errors
    /// 400 for an empty one, for text that is no list of tags, and for more than [`TAGS_MAX`].
    pub fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, ApiError> {
        let bad = |why: &str| ApiError::invalid(format!("the {name} header {why}"));
        let mut tags = Vec::new();
        for value in headers.get_all(name) {
            let mut rest = value.to_str().map_err(|_| bad("is not plain text"))?.trim();
            while !rest.is_empty() {
                if rest == "*" && tags.is_empty() {
                    return Ok(Some(Self::Any));
                }
                let (tag, after) = one(rest).ok_or_else(|| bad("is not a list of tags"))?;
                tags.push(tag.to_owned());
                if tags.len() > TAGS_MAX {
                    return Err(bad(&format!("has more than {TAGS_MAX} tags")));
                }
                rest = after.trim_start_matches([',', ' ', '\t']);
            }
        }
        if tags.is_empty() && headers.contains_key(name) {
            return Err(bad("is empty; name tags, or leave it away"));
        }
        Ok((!tags.is_empty()).then_some(Self::OneOf(tags)))
    }

    /// True where something with this tag matches.
    #[must_use]
    pub fn holds(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => tags.iter().any(|tag| tag == etag),
        }
    }
}

/// The first tag of a list, and the rest.
fn one(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("W/").unwrap_or(text);
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split_once('"');
    }
    let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
    let (tag, rest) = text.split_at(end);
    (!tag.is_empty() && !tag.contains('"')).then_some((tag, rest))
}

/// What must stand at a path for a change to go on.
///
/// # Errors
/// 400 for headers that cannot be read, for both at once, and for `If-None-Match` with tags, which
/// means nothing on a change.
pub fn for_change(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    match (Tags::read(headers, &IF_MATCH)?, Tags::read(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Precondition::None),
        (Some(Tags::Any), None) => Ok(Precondition::Present),
        (Some(Tags::OneOf(tags)), None) => Ok(Precondition::Etag(tags)),
        (None, Some(Tags::Any)) => Ok(Precondition::Absent),
        (None, Some(Tags::OneOf(_))) => Err(ApiError::invalid(
            "If-None-Match takes only * here, which means: create, do not replace",
        )),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "send If-Match or If-None-Match, not both: one change, one claim",
        )),
    }
}

/// The tag of `If-Range`; `None` where it is absent. A date never holds, because its grain of a second
/// says too little.
#[must_use]
pub fn if_range(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(IF_RANGE)?;
    let text = value.to_str().unwrap_or_default().trim();
    Some(text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or("").to_owned())
}

/// A tag as `ETag` writes it.
#[must_use]
pub fn etag_header(tag: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{tag}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Option<Tags>, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, HeaderValue::from_str(value).unwrap());
        Tags::read(&headers, &IF_MATCH)
    }

    fn some(tags: &[&str]) -> Option<Tags> {
        Some(Tags::OneOf(tags.iter().map(|tag| (*tag).to_owned()).collect()))
    }

    #[test]
    fn tags_are_taken_in_every_spelling() {
        assert_eq!(read("*").unwrap(), Some(Tags::Any));
        assert_eq!(read("42").unwrap(), some(&["42"]));
        assert_eq!(read("\"42\"").unwrap(), some(&["42"]));
        assert_eq!(read("W/\"42\"").unwrap(), some(&["42"]));
        assert_eq!(read("\"a,b\", c ,W/\"d e\"").unwrap(), some(&["a,b", "c", "d e"]));
        assert_eq!(Tags::read(&HeaderMap::new(), &IF_MATCH).unwrap(), None);
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        assert!(read("\"open").is_err());
        assert!(read("a\"b").is_err());
        assert!(read("").is_err() && read(" ").is_err() && read(",").is_err());
        assert!(read(&"\"x\",".repeat(TAGS_MAX + 1)).is_err());
    }

    #[test]
    fn a_change_has_one_precondition() {
        let of = |pairs: &[(HeaderName, &'static str)]| {
            let headers =
                pairs.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
            for_change(&headers)
        };
        assert_eq!(of(&[]).unwrap(), Precondition::None);
        assert_eq!(of(&[(IF_MATCH, "*")]).unwrap(), Precondition::Present);
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]).unwrap(), Precondition::Absent);
        assert_eq!(of(&[(IF_MATCH, "\"a\"")]).unwrap(), Precondition::Etag(vec!["a".to_owned()]));
        assert!(of(&[(IF_NONE_MATCH, "\"a\"")]).is_err());
        assert!(of(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")]).is_err());
    }
}
