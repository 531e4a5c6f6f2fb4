//! Who is asking, and what they may do.
//!
//! A key comes as `Authorization: Bearer KEY` or `x-api-key: KEY`; a client may send both, and one
//! that is known suffices. Keys are compared by digest and in constant time, so neither their content
//! nor their length can be measured.
//!
//! # Not here
//! Where keys come from and how they are stored: the binary hands them over.

use std::fmt;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::{Digest, ErrorKind};
use http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use subtle::ConstantTimeEq;

use crate::ApiError;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Nothing, not even a key.
    Open,
    /// Reading machines.
    MachineRead,
    /// Creating, changing and removing machines.
    MachineWrite,
    /// Reading executions and their output.
    ExecutionRead,
    /// Running commands.
    ExecutionWrite,
    /// Reading files.
    FileRead,
    /// Changing files.
    FileWrite,
    /// What concerns the server and not one machine.
    Operate,
}

impl Scope {
    /// As it stands in the route table and in `details`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::MachineRead => "machine:read",
            Self::MachineWrite => "machine:write",
            Self::ExecutionRead => "execution:read",
            Self::ExecutionWrite => "execution:write",
            Self::FileRead => "file:read",
            Self::FileWrite => "file:write",
            Self::Operate => "operate",
        }
    }
}

/// Who sent a request that passed authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's name; keeps idempotency keys of different callers apart. Never the key.
    pub name: Arc<str>,
    scopes: Option<Arc<[Scope]>>,
}

impl Principal {
    /// One who may do everything.
    #[must_use]
    pub fn owner(name: &str) -> Self {
        Self { name: name.into(), scopes: None }
    }

    /// One who may do only this.
    #[must_use]
    pub fn limited(name: &str, scopes: &[Scope]) -> Self {
        Self { name: name.into(), scopes: Some(scopes.into()) }
    }

    /// True where `scope` was granted.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        scope == Scope::Open || self.scopes.as_ref().is_none_or(|granted| granted.contains(&scope))
    }
}

/// The keys that a server knows. Prints none of them.
#[derive(Clone, Default)]
pub struct Keys(Arc<[(Digest, Principal)]>);

impl Keys {
    /// One key that may do everything.
    #[must_use]
    pub fn single(key: &str) -> Self {
        Self::new([(key, Principal::owner("owner"))])
    }

    /// Keys and whom they stand for. Empty keys are left out: nobody authenticates with nothing.
    #[must_use]
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, Principal)>) -> Self {
        let known = keys.into_iter().filter(|(key, _)| !key.is_empty());
        Self(known.map(|(key, who)| (Digest::of(key.as_bytes()), who)).collect())
    }

    fn find(&self, key: &[u8]) -> Option<&Principal> {
        let offered = Digest::of(key);
        // Looks at every key, found or not.
        self.0.iter().fold(None, |found, (known, principal)| {
            let same = bool::from(known.as_bytes().ct_eq(offered.as_bytes()));
            if same { Some(principal) } else { found }
        })
    }

    /// Whom the headers of a request stand for.
    ///
    /// # Errors
    /// 401 `AUTH_REQUIRED` without a key, 401 `AUTH_INVALID` where none of those sent is known.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<&Principal, ApiError> {
        let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| bearer(value));
        let plain = headers.get_all("x-api-key").iter().map(|value| value.as_bytes().trim_ascii());
        let mut offered = bearer.chain(plain).filter(|key| !key.is_empty()).peekable();
        if offered.peek().is_none() {
            return Err(refusal(
                "AUTH_REQUIRED",
                "this call needs a key: send `Authorization: Bearer KEY` or `x-api-key: KEY`",
            ));
        }
        offered.find_map(|key| self.find(key)).ok_or_else(|| {
            refusal("AUTH_INVALID", "this key is not known here: check it for typing errors")
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, principal)| &principal.name)).finish()
    }
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let (scheme, key) = bytes.split_at_checked(6)?;
    (scheme.eq_ignore_ascii_case(b"bearer") && key.first() == Some(&b' ')).then(|| key.trim_ascii())
}

fn refusal(code: &'static str, message: &str) -> ApiError {
    ApiError::new(ErrorKind::Unauthenticated, message)
        .with_code(StatusCode::UNAUTHORIZED, code)
        .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// What the authentication layer knows: the keys, and the route templates that need none.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The keys.
    pub keys: Keys,
    /// Templates of open routes. Everything else, also what matches no route, needs a key.
    pub open: Arc<[String]>,
}

/// Lets a request in with its [`Principal`], or answers 401.
pub async fn authenticate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if template.is_some_and(|path| gate.open.iter().any(|open| open == path)) {
        return next.run(request).await;
    }
    match gate.keys.authenticate(request.headers()) {
        Ok(principal) => {
            let principal = principal.clone();
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Refuses a request whose principal lacks `scope`: 403 `AUTH_SCOPE_FORBIDDEN`.
pub async fn check_scope(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    let allowed = scope == Scope::Open
        || request.extensions().get::<Principal>().is_some_and(|principal| principal.may(scope));
    if allowed {
        return next.run(request).await;
    }
    ApiError::new(ErrorKind::PermissionDenied, "this key may not do that: use one with the scope")
        .with_detail("required_scope", scope.as_str())
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn either_header_lets_a_known_key_in() {
        let keys = Keys::single("k1");
        for sent in [
            &[("authorization", "Bearer k1")][..],
            &[("authorization", "bearer  k1 ")],
            &[("x-api-key", "k1")],
            &[("authorization", "Bearer wrong"), ("x-api-key", "k1")],
            &[("authorization", "Bearer k1"), ("x-api-key", "wrong")],
            &[("authorization", "Basic abc"), ("authorization", "Bearer k1")],
        ] {
            assert!(keys.authenticate(&headers(sent)).is_ok(), "{sent:?}");
        }
    }

    #[test]
    fn no_key_and_a_wrong_key_are_told_apart() {
        let keys = Keys::single("k1");
        let code = |sent: &[(&'static str, &'static str)]| {
            keys.authenticate(&headers(sent)).unwrap_err().code().to_owned()
        };
        assert_eq!(code(&[]), "AUTH_REQUIRED");
        assert_eq!(code(&[("authorization", "Bearer ")]), "AUTH_REQUIRED");
        assert_eq!(code(&[("authorization", "Basic azE=")]), "AUTH_REQUIRED");
        assert_eq!(code(&[("authorization", "Bearer k")]), "AUTH_INVALID");
        assert_eq!(code(&[("x-api-key", "k11")]), "AUTH_INVALID");
        assert_eq!(code(&[("authorization", "Bearerk1"), ("x-api-key", "K1")]), "AUTH_INVALID");
    }

    #[test]
    fn an_empty_key_opens_nothing() {
        let keys = Keys::single("");
        let error = keys.authenticate(&headers(&[("x-api-key", "")])).unwrap_err();
        assert_eq!(error.code(), "AUTH_REQUIRED");
        assert!(keys.authenticate(&headers(&[("x-api-key", " x ")])).is_err());
    }

    #[test]
    fn printing_the_keys_shows_names_only() {
        let keys = Keys::single("hunter2");
        assert_eq!(format!("{keys:?}"), r#"["owner"]"#);
    }

    #[test]
    fn a_limited_principal_may_do_what_was_granted() {
        let reader = Principal::limited("reader", &[Scope::FileRead]);
        assert!(reader.may(Scope::FileRead) && reader.may(Scope::Open));
        assert!(!reader.may(Scope::FileWrite));
        assert!(Principal::owner("owner").may(Scope::Operate));
    }
}
