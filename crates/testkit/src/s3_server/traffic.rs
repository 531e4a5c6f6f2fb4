//! What was asked of a server, by verb.

use std::ops::{Index, IndexMut};

use http::{HeaderMap, Method, Uri, header};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// PUT of an object without a condition, or under `If-Match`.
    Put,
    /// PUT of an object under `If-None-Match`.
    Create,
    /// GET of an object.
    Get,
    /// HEAD of an object or bucket.
    Head,
    /// DELETE of one object, or of many by POST.
    Delete,
    /// GET of a bucket.
    List,
    /// Any request of a multipart upload.
    Multipart,
    /// Anything else.
    Other,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Create,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
        Self::Multipart,
        Self::Other,
    ];

    /// What a request asks for.
    pub(crate) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let query = uri.query().unwrap_or_default();
        let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let has_key = uri.path().trim_matches('/').contains('/');
        if asks("uploadId") || asks("uploads") {
            return Self::Multipart;
        }
        match (method, has_key) {
            (&Method::PUT, true) if headers.contains_key(header::IF_NONE_MATCH) => Self::Create,
            (&Method::PUT, true) => Self::Put,
            (&Method::GET, true) => Self::Get,
            (&Method::GET, false) => Self::List,
            (&Method::HEAD, _) => Self::Head,
            (&Method::DELETE, true) => Self::Delete,
            (&Method::POST, false) if asks("delete") => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// What was done with one verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerbTraffic {
    /// HTTP requests that arrived, faults included; a client's retries count.
    pub requests: u64,
    /// Bytes of request bodies, as announced.
    pub bytes_in: u64,
    /// Bytes of response bodies, as announced.
    pub bytes_out: u64,
}

/// What was asked of a server: `traffic[Verb::Put].requests`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    by_verb: [VerbTraffic; Verb::ALL.len()],
}

impl Traffic {
    /// Requests of all verbs.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.by_verb.iter().map(|verb| verb.requests).sum()
    }

    /// What was asked after `earlier` was read.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = *self;
        for (now, before) in since.by_verb.iter_mut().zip(&earlier.by_verb) {
            now.requests = now.requests.saturating_sub(before.requests);
            now.bytes_in = now.bytes_in.saturating_sub(before.bytes_in);
            now.bytes_out = now.bytes_out.saturating_sub(before.bytes_out);
        }
        since
    }
}

impl Index<Verb> for Traffic {
    type Output = VerbTraffic;

    fn index(&self, verb: Verb) -> &VerbTraffic {
        &self.by_verb[verb as usize]
    }
}

impl IndexMut<Verb> for Traffic {
    fn index_mut(&mut self, verb: Verb) -> &mut VerbTraffic {
        &mut self.by_verb[verb as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_by_method_query_and_condition() {
        let verb = |method: &Method, uri: &str, conditional: bool| {
            let mut headers = HeaderMap::new();
            if conditional {
                headers.insert(header::IF_NONE_MATCH, http::HeaderValue::from_static("*"));
            }
            Verb::of(method, &uri.parse().unwrap(), &headers)
        };
        assert_eq!(verb(&Method::PUT, "/b/k/x", false), Verb::Put);
        assert_eq!(verb(&Method::PUT, "/b/k/x", true), Verb::Create);
        assert_eq!(verb(&Method::PUT, "/b/k?partNumber=1&uploadId=u", false), Verb::Multipart);
        assert_eq!(verb(&Method::GET, "/b?list-type=2", false), Verb::List);
        assert_eq!(verb(&Method::GET, "/b/?list-type=2", false), Verb::List);
        assert_eq!(verb(&Method::GET, "/b/k", false), Verb::Get);
        assert_eq!(verb(&Method::POST, "/b?delete", false), Verb::Delete);
        assert_eq!(verb(&Method::PUT, "/b", false), Verb::Other);
    }
}
