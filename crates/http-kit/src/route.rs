//! The route table of a face, and the router made from it.
//!
//! A face lists its routes once. The router, the authorisation and the documents are made from that
//! list, so a route without a scope cannot exist.

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use control::idempotency::Idempotency;
use http::Method;

use crate::auth::{Scope, check_scope};
use crate::idempotency::replay;

/// What the body of a route's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON or nothing: read whole, at most
    /// [`JSON_BODY_BYTES_MAX`](crate::limits::JSON_BODY_BYTES_MAX); idempotency keys are honoured.
    Json,
    /// Bytes of any length, streamed; idempotency keys are passed over.
    Stream,
}

/// One endpoint.
#[derive(Clone)]
pub struct Route<S> {
    /// Its method.
    pub method: Method,
    /// Its path; `{name}` stands for one component, `{*name}` for the rest.
    pub path: &'static str,
    /// What its caller must be allowed.
    pub scope: Scope,
    /// What it reads.
    pub body: BodyKind,
    endpoint: MethodRouter<S>,
}

impl<S> std::fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.scope.as_str())
    }
}

impl<S: Clone + Send + Sync + 'static> Route<S> {
    /// A row of the table.
    ///
    /// # Panics
    /// For a method that no router knows; tables are constant, so a test of the table finds it.
    pub fn new<H, T>(
        method: Method,
        path: &'static str,
        scope: Scope,
        body: BodyKind,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("tables use standard methods");
        Self { method, path, scope, body, endpoint: on(filter, handler) }
    }

    /// The endpoint with what every endpoint gets: the scope check, then replays.
    fn guarded(&self, replays: &Idempotency) -> MethodRouter<S> {
        let mut endpoint = self.endpoint.clone();
        if self.body == BodyKind::Json && !self.method.is_safe() {
            endpoint = endpoint.layer(from_fn_with_state(replays.clone(), replay));
        }
        endpoint.layer(from_fn_with_state(self.scope, check_scope))
    }
}

/// The router of a table.
///
/// Where a fixed path lies below a `{*rest}` of the same table, it takes over only its own methods:
/// `POST …/fs/publish` publishes, and `PUT …/fs/publish` still writes the file of that name.
pub fn mount<S: Clone + Send + Sync + 'static>(
    routes: &[Route<S>],
    replays: &Idempotency,
) -> Router<S> {
    let mut paths: BTreeMap<&'static str, Vec<&Route<S>>> = BTreeMap::new();
    for route in routes {
        paths.entry(route.path).or_default().push(route);
    }
    let mut router = Router::new();
    for (path, own) in &paths {
        let taken = |method: &Method| own.iter().any(|route| route.method == *method);
        let inherited = paths
            .iter()
            .filter(|(wide, _)| covers(wide, path))
            .flat_map(|(_, routes)| routes.iter().copied())
            .filter(|route| !taken(&route.method));
        let endpoint = own
            .iter()
            .copied()
            .chain(inherited)
            .fold(MethodRouter::new(), |all, route| all.merge(route.guarded(replays)));
        router = router.route(path, endpoint);
    }
    router
}

/// True where `wide` ends in a `{*rest}` that `path` lies below.
fn covers(wide: &str, path: &str) -> bool {
    let Some((prefix, _)) = wide.split_once("{*") else { return false };
    wide != path && path.len() > prefix.len() && path.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_path_lies_below_a_wide_one() {
        assert!(covers("/m/{id}/fs/{*path}", "/m/{id}/fs/publish"));
        assert!(!covers("/m/{id}/fs/{*path}", "/m/{id}/fs/"));
        assert!(!covers("/m/{id}/fs/{*path}", "/m/{id}/fs/{*path}"));
        assert!(!covers("/m/{id}/fs", "/m/{id}/fs/publish"));
    }
}
