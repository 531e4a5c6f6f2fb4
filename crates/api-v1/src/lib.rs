//! The native face, `/v1` (docs/api/v1.md).
//!
//! [`endpoints`] is the table of contents: method, path, scope, handler, and what the document says.
//! The router, `/openapi.json`, the authorisation and `docs/api/routes.txt` are all made from it.
//!
//! # Not here
//! Rules. A handler reads its request, makes one call of `control`, and shapes the answer.

mod attach;
mod ctx;
mod executions;
mod fs;
mod fs_tree;
mod health;
mod limits;
mod machines;
mod openapi;
mod shapes;
mod snapshots;
mod status_stream;

use axum::Router;
use control::Control;
use http::Method;
use http_kit::auth::Gate;
use http_kit::{Exporter, Keys, Scope, mount, stack};

use crate::ctx::Ctx;
use crate::openapi::{Endpoint, Sends, route, stream};
use crate::shapes::execution::{EventBody, ExecutionBody, ExecutionCreate, OutputBody};
use crate::shapes::file::{
    DiscardedBody, EntryBody, ImportedBody, PublishedBody, RemovedBody, WrittenBody,
};
use crate::shapes::machine::{MachineBody, MachineCreate, MachineUpdate};
use crate::shapes::snapshot::{ForkCreate, RestoreRequest, SnapshotBody, SnapshotCreate};

/// Everything that is served, and who may call it.
#[rustfmt::skip] // One endpoint, two lines: what it is, what it says.
fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Scope::{ExecutionRead, ExecutionWrite, FileRead, FileWrite, MachineRead, MachineWrite, Open, Operate};
    vec![
        route(M::POST, "/v1/machines", MachineWrite, machines::create)
            .says("Create a machine").takes::<MachineCreate>().gives::<MachineBody>(&[200, 202]),
        route(M::GET, "/v1/machines", MachineRead, machines::list)
            .says("List machines").pages().gives_pages::<MachineBody>(),
        route(M::GET, "/v1/machines/{machine}", MachineRead, machines::get)
            .says("Read a machine").gives::<MachineBody>(&[200]),
        route(M::PATCH, "/v1/machines/{machine}", MachineWrite, machines::update)
            .says("Change a machine's name, sizes, autosleep, fsync or egress").takes::<MachineUpdate>().gives::<MachineBody>(&[200, 202]),
        route(M::DELETE, "/v1/machines/{machine}", MachineWrite, machines::delete)
            .says("Remove a machine and its home").gives::<MachineBody>(&[200, 202]),
        route(M::POST, "/v1/machines/{machine}/sleep", MachineWrite, machines::sleep)
            .says("Put a machine to sleep").gives::<MachineBody>(&[200, 202]),
        route(M::POST, "/v1/machines/{machine}/wake", MachineWrite, machines::wake)
            .says("Wake a machine").query("cold", "true: boot it; the memory that it sleeps with is thrown away")
            .query("at", "not now but then, if it sleeps then: an RFC 3339 time, or never to take that back").gives::<MachineBody>(&[200, 202]),
        route(M::POST, "/v1/machines/{machine}/reboot", MachineWrite, machines::reboot)
            .says("Boot a machine; files stay, processes and memory are lost").query("force", "true: end the guest at once, without its cooperation")
            .gives::<MachineBody>(&[200, 202]),
        route(M::GET, "/v1/machines/{machine}/status/stream", MachineRead, status_stream::watch)
            .says("Follow a machine until it is where it was asked to be").sends(Sends::Events),

        route(M::POST, "/v1/machines/{machine}/snapshots", MachineWrite, snapshots::create)
            .says("Keep the state that the home has now").takes::<SnapshotCreate>().gives::<SnapshotBody>(&[201]),
        route(M::GET, "/v1/machines/{machine}/snapshots", MachineRead, snapshots::list)
            .says("List the snapshots of a machine").pages().gives_pages::<SnapshotBody>(),
        route(M::GET, "/v1/snapshots/{snapshot}", MachineRead, snapshots::get)
            .says("Read a snapshot").gives::<SnapshotBody>(&[200]),
        route(M::DELETE, "/v1/snapshots/{snapshot}", MachineWrite, snapshots::delete)
            .says("Let go of a snapshot").gives::<SnapshotBody>(&[200]),
        route(M::POST, "/v1/machines/{machine}/restore", MachineWrite, snapshots::restore)
            .says("Take the home of a sleeping machine back to a snapshot").takes::<RestoreRequest>().gives::<MachineBody>(&[200]),
        route(M::POST, "/v1/machines/{machine}/fork", MachineWrite, snapshots::fork)
            .says("Make a machine whose home goes on from this one's").takes::<ForkCreate>().gives::<MachineBody>(&[201]),

        route(M::POST, "/v1/machines/{machine}/executions", ExecutionWrite, executions::create)
            .says("Run a command; a sleeping machine wakes for it").query("wait_ms", "hold the reply until it has ended, at most 30000")
            .takes::<ExecutionCreate>().gives::<ExecutionBody>(&[200]),
        route(M::GET, "/v1/machines/{machine}/executions", ExecutionRead, executions::list)
            .says("List executions").pages().gives_pages::<ExecutionBody>(),
        route(M::GET, "/v1/machines/{machine}/executions/attach", ExecutionWrite, attach::attach)
            .says("Run a command with its standard streams on a WebSocket").sends(Sends::WebSocket),
        route(M::GET, "/v1/machines/{machine}/executions/{execution}", ExecutionRead, executions::get)
            .says("Read an execution").query("wait_ms", "hold the reply until it has ended, at most 30000").gives::<ExecutionBody>(&[200]),
        route(M::DELETE, "/v1/machines/{machine}/executions/{execution}", ExecutionWrite, executions::delete)
            .says("Cancel an execution").gives::<ExecutionBody>(&[200]),
        route(M::GET, "/v1/machines/{machine}/executions/{execution}/output", ExecutionRead, executions::output)
            .says("Read what an execution has written").gives::<OutputBody>(&[200]),
        route(M::GET, "/v1/machines/{machine}/executions/{execution}/events", ExecutionRead, executions::events)
            .says("List what happened to an execution").pages().gives_pages::<EventBody>(),

        route(M::GET, "/v1/machines/{machine}/fs", FileRead, fs::get)
            .says("List or bundle the home").reads_trees().gives_pages::<EntryBody>(),
        route(M::HEAD, "/v1/machines/{machine}/fs", FileRead, fs::head)
            .says("Look at the home").query("draft", "true: with unpublished writes").sends(Sends::Nothing),
        stream(M::POST, "/v1/machines/{machine}/fs", FileWrite, fs_tree::import)
            .says("Unpack a tar into the home").unpacks().gives::<ImportedBody>(&[200]),
        route(M::GET, "/v1/machines/{machine}/fs/", FileRead, fs::get)
            .says("List or bundle the home").reads_trees().gives_pages::<EntryBody>(),
        stream(M::POST, "/v1/machines/{machine}/fs/", FileWrite, fs_tree::import)
            .says("Unpack a tar into the home").unpacks().gives::<ImportedBody>(&[200]),
        stream(M::PUT, "/v1/machines/{machine}/fs/{*path}", FileWrite, fs::put)
            .says("Create or replace a file").query("mode", "permission bits in octal").takes_bytes("application/octet-stream").gives::<WrittenBody>(&[200, 201]),
        route(M::GET, "/v1/machines/{machine}/fs/{*path}", FileRead, fs::get)
            .says("Read a file, or list or bundle a directory").reads_trees().sends(Sends::Bytes),
        route(M::HEAD, "/v1/machines/{machine}/fs/{*path}", FileRead, fs::head)
            .says("Look at what stands at a path").query("draft", "true: with unpublished writes").sends(Sends::Nothing),
        stream(M::DELETE, "/v1/machines/{machine}/fs/{*path}", FileWrite, fs::delete)
            .says("Remove a path").query("recursive", "true: also a directory with entries").gives::<RemovedBody>(&[200]),
        stream(M::POST, "/v1/machines/{machine}/fs/{*path}", FileWrite, fs_tree::import)
            .says("Unpack a tar into a directory").unpacks().gives::<ImportedBody>(&[200]),
        stream(M::POST, "/v1/machines/{machine}/fs/publish", FileWrite, fs_tree::publish_or_import)
            .says("Make the writes of a draft visible").gives::<PublishedBody>(&[200]),
        stream(M::DELETE, "/v1/machines/{machine}/fs/draft", FileWrite, fs::discard)
            .says("Throw a draft away").gives::<DiscardedBody>(&[200]),
        stream(M::POST, "/v1/machines/{machine}/publish", FileWrite, fs::publish)
            .says("Make the writes of a draft visible").gives::<PublishedBody>(&[200]),
        stream(M::DELETE, "/v1/machines/{machine}/draft", FileWrite, fs::discard)
            .says("Throw a draft away").gives::<DiscardedBody>(&[200]),

        route(M::GET, "/healthz", Open, health::healthz)
            .says("Whether the server lives").sends(Sends::Json),
        route(M::GET, "/readyz", Open, health::readyz)
            .says("Whether the server can do its work").sends(Sends::Json),
        route(M::GET, "/openapi.json", Open, openapi::serve)
            .says("This document").sends(Sends::Json),
        route(M::GET, "/metrics", Operate, health::metrics)
            .says("Numbers, as Prometheus reads them").sends(Sends::Text),
    ]
}

/// The whole face, with every layer around it, ready to be served.
pub fn router(control: Control, keys: Keys, exporter: Exporter) -> Router {
    let endpoints = endpoints();
    let open = endpoints.iter().map(|endpoint| &endpoint.route);
    let open = open.filter(|route| route.scope == Scope::Open).map(|route| route.path.to_owned());
    let gate = Gate { keys, open: open.collect() };
    let replays = control.idempotency();
    let routes: Vec<_> = endpoints.into_iter().map(|endpoint| endpoint.route).collect();
    stack(mount(&routes, &replays).with_state(Ctx { control, exporter }), gate)
}

/// The document of this face, as `/openapi.json` serves it.
#[must_use]
pub fn openapi_document() -> utoipa::openapi::OpenApi {
    openapi::document(&endpoints())
}

/// The route table as text, one line an endpoint; docs/api/routes.txt holds the same.
#[must_use]
pub fn routes_text() -> String {
    endpoints()
        .iter()
        .map(|Endpoint { route, .. }| {
            format!("{:<7}{:<16}{}\n", route.method.as_str(), route.scope.as_str(), route.path)
        })
        .collect()
}
