//! What the document says of each endpoint, and the document itself.
//!
//! A row of the route table carries both the route and its words, so nothing can be served that the
//! document does not know.

use std::sync::OnceLock;

use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use http_kit::{BodyKind, ErrorBody, Route, Scope};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Content, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr, Required,
    ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::ctx::Ctx;
use crate::shapes::page::PageBody;

type Named = Vec<(String, RefOr<Schema>)>;

/// What a reply carries.
pub(crate) enum Sends {
    Nothing,
    Json,
    Text,
    Bytes,
    Events,
    WebSocket,
    /// A body whose schema has this name, with these statuses.
    Body(String, &'static [u16]),
}

/// One row of the table.
pub(crate) struct Endpoint {
    pub(crate) route: Route<Ctx>,
    summary: &'static str,
    queries: Vec<(&'static str, &'static str)>,
    takes: Option<(&'static str, RefOr<Schema>)>,
    sends: Sends,
    schemas: Named,
}

/// A row whose request body is JSON or nothing.
pub(crate) fn route<H, T>(method: Method, path: &'static str, scope: Scope, handler: H) -> Endpoint
where
    H: Handler<T, Ctx>,
    T: 'static,
{
    Endpoint::of(Route::new(method, path, scope, BodyKind::Json, handler))
}

/// A row whose request body is a stream, or that is idempotent as it is.
pub(crate) fn stream<H, T>(method: Method, path: &'static str, scope: Scope, handler: H) -> Endpoint
where
    H: Handler<T, Ctx>,
    T: 'static,
{
    Endpoint::of(Route::new(method, path, scope, BodyKind::Stream, handler))
}

impl Endpoint {
    fn of(route: Route<Ctx>) -> Self {
        Self {
            route,
            summary: "",
            queries: Vec::new(),
            takes: None,
            sends: Sends::Nothing,
            schemas: Named::new(),
        }
    }

    /// What it does, in a few words.
    pub(crate) fn says(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// A query parameter.
    pub(crate) fn query(mut self, name: &'static str, words: &'static str) -> Self {
        self.queries.push((name, words));
        self
    }

    /// The query parameters of a list.
    pub(crate) fn pages(self) -> Self {
        self.query("cursor", "next_cursor of the page before").query("limit", "1 to 1000 items")
    }

    /// The query parameters of reads that may be of a tree.
    pub(crate) fn reads_trees(self) -> Self {
        self.query("draft", "true: with unpublished writes")
            .query("list", "true: the entries of a directory")
            .query("bundle", "tar: the tree as a tar")
            .pages()
    }

    /// A tar as request body, and the query parameters of unpacking it.
    pub(crate) fn unpacks(self) -> Self {
        self.takes_bytes("application/x-tar")
            .query("import", "tar")
            .query("keep_owner", "true: keep user and group ids; else everything is root's")
            .query("outside_links", "true: take links that point outside the home as they are")
    }

    /// A JSON request body.
    pub(crate) fn takes<T: ToSchema + 'static>(mut self) -> Self {
        let name = self.schema::<T>();
        self.takes = Some(("application/json", Ref::from_schema_name(name).into()));
        self
    }

    /// A request body of bytes.
    pub(crate) fn takes_bytes(mut self, media: &'static str) -> Self {
        self.takes = Some((media, bytes_schema()));
        self
    }

    /// A JSON reply with these statuses.
    pub(crate) fn gives<T: ToSchema + 'static>(mut self, statuses: &'static [u16]) -> Self {
        self.sends = Sends::Body(self.schema::<T>(), statuses);
        self
    }

    /// A JSON reply with one page of a list.
    pub(crate) fn gives_pages<T: ToSchema + 'static>(mut self) -> Self
    where
        PageBody<T>: ToSchema,
    {
        // A page names its items by reference; they are noted beside it.
        self.schema::<T>();
        self.gives::<PageBody<T>>(&[200])
    }

    /// A reply without a schema.
    pub(crate) fn sends(mut self, sends: Sends) -> Self {
        self.sends = sends;
        self
    }

    /// Notes a schema and all below it; returns its name.
    fn schema<T: ToSchema>(&mut self) -> String {
        let name = T::name().into_owned();
        T::schemas(&mut self.schemas);
        self.schemas.push((name.clone(), T::schema()));
        name
    }

    fn operation(&self) -> OperationBuilder {
        let mut operation = OperationBuilder::new()
            .operation_id(Some(operation_id(&self.route)))
            .summary(Some(self.summary))
            .tag(tag(self.route.path));
        for name in path_parameters(self.route.path) {
            let words = match name {
                "machine" => "id or unique name",
                "path" => "percent-encoded; split at /",
                _ => "id",
            };
            operation = operation.parameter(parameter(name, words, ParameterIn::Path));
        }
        for (name, words) in &self.queries {
            operation = operation.parameter(parameter(name, words, ParameterIn::Query));
        }
        if let Some((media, schema)) = &self.takes {
            let body =
                RequestBodyBuilder::new().content(*media, Content::new(Some(schema.clone())));
            operation = operation.request_body(Some(body.build()));
        }
        operation = self.replies().into_iter().fold(operation, |operation, (status, reply)| {
            operation.response(status.to_string(), reply.build())
        });
        if self.route.scope == Scope::Open {
            return operation.securities(Some([SecurityRequirement::default()]));
        }
        let error = Content::new(Some(Ref::from_schema_name("ErrorBody")));
        let error = ResponseBuilder::new()
            .description("What went wrong and what to do")
            .content("application/json", error);
        operation.response("default", error.build())
    }

    fn replies(&self) -> Vec<(u16, ResponseBuilder)> {
        let reply = |words: &str| ResponseBuilder::new().description(words);
        let plain = |media: &str| reply("Done").content(media, ContentBuilder::new().build());
        match &self.sends {
            Sends::Nothing => vec![(200, reply("Headers only"))],
            Sends::Json => vec![(200, plain("application/json"))],
            Sends::Text => vec![(200, plain("text/plain"))],
            Sends::Events => vec![(200, plain("text/event-stream"))],
            Sends::WebSocket => vec![(101, reply("A WebSocket"))],
            Sends::Bytes => {
                let bytes = || Content::new(Some(bytes_schema()));
                vec![
                    (200, reply("The bytes").content("application/octet-stream", bytes())),
                    (206, reply("The part in Range").content("application/octet-stream", bytes())),
                    (304, reply("It is the version in If-None-Match")),
                ]
            }
            Sends::Body(name, statuses) => statuses
                .iter()
                .map(|status| {
                    let words = match status {
                        201 => "Created",
                        202 => "Accepted, still on its way",
                        _ => "Done",
                    };
                    let content = Content::new(Some(Ref::from_schema_name(name)));
                    (*status, reply(words).content("application/json", content))
                })
                .collect(),
        }
    }
}

fn bytes_schema() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .content_media_type("application/octet-stream")
        .into()
}

fn parameter(name: &str, words: &str, place: ParameterIn) -> Parameter {
    let required =
        if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(words))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// The names between braces.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(name.strip_prefix('*').unwrap_or(name))
    })
}

/// Method and the fixed words of the path, as one name.
fn operation_id(route: &Route<Ctx>) -> String {
    let mut id = route.method.as_str().to_ascii_lowercase();
    for part in route.path.split('/').skip(1) {
        let part = if part.is_empty() { "root" } else { part };
        id.push('_');
        id.extend(part.chars().filter(|c| c.is_ascii_alphanumeric()));
    }
    id
}

fn tag(path: &str) -> &'static str {
    match path {
        path if !path.starts_with("/v1") => "server",
        path if path.contains("/executions") => "executions",
        path if path.contains("/fs") || path.ends_with("/publish") || path.ends_with("/draft") => {
            "files"
        }
        _ => "machines",
    }
}

/// The document of a table.
pub(crate) fn document(endpoints: &[Endpoint]) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = ComponentsBuilder::new()
        .schema(ErrorBody::name(), ErrorBody::schema())
        .security_scheme(
            "bearer",
            SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
        )
        .security_scheme(
            "api_key",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))),
        );
    for endpoint in endpoints {
        let route = &endpoint.route;
        let method = match route.method.as_str() {
            "POST" => HttpMethod::Post,
            "PUT" => HttpMethod::Put,
            "PATCH" => HttpMethod::Patch,
            "DELETE" => HttpMethod::Delete,
            "HEAD" => HttpMethod::Head,
            _ => HttpMethod::Get,
        };
        let path = route.path.replace("{*", "{");
        paths = paths.path(path, PathItem::new(method, endpoint.operation()));
        for (name, schema) in &endpoint.schemas {
            components = components.schema(name, schema.clone());
        }
    }
    let info = InfoBuilder::new()
        .title("Dormouse")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Machines that sleep and wake with everything where it was."));
    OpenApiBuilder::new()
        .info(info)
        .paths(paths)
        .components(Some(components.build()))
        .security(Some(["bearer", "api_key"].map(|name| SecurityRequirement::new(name, [""; 0]))))
        .build()
}

/// The document, made once.
pub(crate) async fn serve() -> Response {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let bytes = DOCUMENT.get_or_init(|| {
        let document = document(&crate::endpoints());
        serde_json::to_vec(&document).expect("a document is plain data with text keys").into()
    });
    ([(CONTENT_TYPE, "application/json")], bytes.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::endpoints;

    #[test]
    fn every_route_is_in_the_document() {
        let document = serde_json::to_value(document(&endpoints())).unwrap();
        let mut ids = BTreeSet::new();
        for Endpoint { route, summary, .. } in &endpoints() {
            let path = route.path.replace("{*", "{");
            let operation = &document["paths"][&path][route.method.as_str().to_ascii_lowercase()];
            assert_eq!(operation["summary"], *summary, "{route:?}");
            assert!(!summary.is_empty(), "{route:?} says nothing");
            assert!(ids.insert(operation["operationId"].to_string()), "{route:?}");
            let named = operation["parameters"].as_array().map_or(0, |parameters| {
                parameters.iter().filter(|parameter| parameter["in"] == "path").count()
            });
            assert_eq!(named, path_parameters(route.path).count(), "{route:?}");
            assert_eq!(operation["responses"].get("default").is_none(), route.scope == Scope::Open);
        }
    }

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        let document = serde_json::to_value(document(&endpoints())).unwrap();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#/components/schemas/").skip(1);
        let mut seen = 0;
        for name in references.filter_map(|rest| rest.split('"').next()) {
            seen += 1;
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        assert!(seen > 20);
    }

    #[test]
    fn only_health_and_the_document_are_open() {
        let endpoints = endpoints();
        let open = endpoints.iter().filter(|endpoint| endpoint.route.scope == Scope::Open);
        let open: Vec<_> = open.map(|endpoint| endpoint.route.path).collect();
        assert_eq!(open, ["/healthz", "/readyz", "/openapi.json"]);
    }
}
