//! The layers around all faces of a server, and what answers where no route does.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use http::StatusCode;

use crate::auth::{Gate, authenticate};
use crate::{ApiError, access_log, panics, request_id};

/// Wraps the routes of one or more faces. Requests for unknown paths must authenticate too.
pub fn stack(routes: Router, gate: Gate) -> Router {
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(gate, authenticate))
        .layer(from_fn(panics::catch))
        .layer(from_fn(access_log::record))
        .layer(from_fn(request_id::assign))
        .layer(from_fn(linger::drain))
}

async fn no_route(request: Request) -> Response {
    ApiError::new(
        ErrorKind::NotFound,
        format!("nothing is served at {:?}; /openapi.json lists what is", request.uri().path()),
    )
    .into_response()
}

async fn no_method(request: Request) -> Response {
    ApiError::new(
        ErrorKind::InvalidArgument,
        format!(
            "this path does not take {}; the allow header lists what it does",
            request.method()
        ),
    )
    .with_code(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED")
    .into_response()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use axum::body::{Body, to_bytes};
    use control::fakes::World;
    use http::Method;
    use tower::ServiceExt;
    use tracing::instrument::WithSubscriber;

    use super::*;
    use crate::{BodyKind, ErrorBody, Keys, Principal, Route, Scope, mount};

    async fn breaks() -> &'static str {
        panic!("as the test wants")
    }

    async fn works() -> &'static str {
        "fine"
    }

    async fn app(world: &World) -> Router {
        let route = |path, handler| {
            Route::<()>::new(Method::GET, path, Scope::FileRead, BodyKind::Json, handler)
        };
        let routes = [
            Route::new(Method::GET, "/breaks", Scope::FileRead, BodyKind::Json, breaks),
            route("/works", works),
        ];
        let keys = Keys::new([
            ("all", Principal::owner("owner")),
            ("few", Principal::limited("guest", &[Scope::MachineRead])),
        ]);
        let replays = world.open().await.idempotency();
        stack(mount(&routes, &replays), Gate { keys, open: [].into() })
    }

    async fn ask(app: &Router, path: &str, key: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).header("x-api-key", key).body(Body::empty());
        let reply = app.clone().oneshot(request.unwrap()).await.unwrap();
        let status = reply.status();
        let body = to_bytes(reply.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let world = World::new();
        let app = app(&world).await;
        let (status, body) = ask(&app, "/breaks", "all").await;
        let body: ErrorBody = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_u16(), body.error_code.as_str()), (500, "INTERNAL"));
        assert!(!body.message.contains("as the test wants"));
        assert_eq!(ask(&app, "/works", "all").await, (StatusCode::OK, "fine".to_owned()));
    }

    #[tokio::test]
    async fn a_key_without_the_scope_is_refused() {
        let world = World::new();
        let (status, body) = ask(&app(&world).await, "/works", "few").await;
        let body: ErrorBody = serde_json::from_str(&body).unwrap();
        assert_eq!((status.as_u16(), body.error_code.as_str()), (403, "AUTH_SCOPE_FORBIDDEN"));
        assert_eq!(body.details["required_scope"], "file:read");
    }

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_log_has_the_path_and_no_secret() {
        let world = World::new();
        let app = app(&world).await;
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        async {
            ask(&app, "/works?token=hunter2", "all").await;
            ask(&app, "/works?token=hunter2", "wrong-hunter3").await;
        }
        .with_subscriber(subscriber)
        .await;
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("/works") && text.contains("AUTH_INVALID") && text.contains("req-"));
        assert!(!text.contains("hunter"), "{text}");
    }
}
