//! The API's description, completed from what all calls have in common, and the page made from it.

use std::fmt::Write;

use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Object, Ref, RefOr, Required, ResponseBuilder, Type};

use super::Role;
use super::problem::KINDS;
use super::router::Pages;
use crate::model::api;

/// What a page from here may do in a browser: nothing but show itself.
pub(super) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const BEARER: &str = "bearer";

/// Statuses that every call can have, as layers give them.
const OF_ALL: &[u16] = &[400, 403, 421, 500, 504];
/// Those of calls that need a caller.
const OF_CALLERS: &[u16] = &[401, 429, 503];
/// Those of calls with a body.
const OF_WRITES: &[u16] = &[408, 413, 415];

/// Calls whose body may be left out, which the macro can only say of a body that may be `null`.
const OPTIONAL_BODIES: &[&str] = &[
    "roll_back",
    "try_plan",
    "pause_release",
    "resume_release",
    "approve_release",
    "promote_release",
    "roll_back_release",
    "cancel_release",
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Weighbridge admin API",
        description = "Services, their weights, their releases and their journal. Errors are problem details (RFC 9457). On a loopback \
            address without configured tokens every caller is `anonymous` with all roles; else a bearer token is needed.",
    ),
    servers((url = "/", description = "This proxy")),
    tags(
        (name = "services", description = "Services, weights, rollback"),
        (name = "releases", description = "Canaries on their way: plan, start, verbs, evidence"),
        (name = "journal", description = "What happens and what happened"),
        (name = "process", description = "Probes, metrics, this description"),
    ),
    components(schemas(api::Problem, api::Event)),
)]
struct Base;

/// The description before any call is in it.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token of the configuration. Roles: view, operate, approve, admin; each includes \
             the ones before.",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    document
}

/// Says that the calls of `document` need a caller with the role `least`.
pub(super) fn protect(document: &mut utoipa::openapi::OpenApi, least: Role) {
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        operation.security = Some(vec![
            SecurityRequirement::default(),
            SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, []),
        ]);
        let role = format!("Needs the role `{}`.", least.as_str());
        let description = operation.description.take().unwrap_or_default();
        operation.description = Some(format!("{description}\n\n{role}").trim().to_owned());
        add_problems(operation, OF_CALLERS);
    }
}

/// The finished description and the page.
pub(super) fn pages(mut document: utoipa::openapi::OpenApi) -> Pages {
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        add_problems(operation, OF_ALL);
        if operation.request_body.is_some() {
            add_problems(operation, OF_WRITES);
        }
        name_requests(operation);
        forbid_null(operation);
        if let Some(RefOr::T(body)) = &mut operation.request_body
            && operation
                .operation_id
                .as_deref()
                .is_some_and(|id| OPTIONAL_BODIES.contains(&id))
        {
            body.required = Some(Required::False);
        }
    }
    let index = index(&mut document);
    let openapi = document.to_json().unwrap_or_default();
    Pages {
        openapi: openapi.into(),
        index,
    }
}

/// The calls of one path, with their methods.
fn operations(path: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, .. } = path;
    [("GET", get), ("PUT", put), ("POST", post)]
        .into_iter()
        .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// Problems by status, where the call does not say more itself.
fn add_problems(operation: &mut Operation, statuses: &[u16]) {
    for status in statuses {
        let title = KINDS
            .iter()
            .find(|kind| kind.status.as_u16() == *status)
            .map_or("", |kind| kind.title);
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let response = ResponseBuilder::new()
            .description(title)
            .content("application/problem+json", problem)
            .build();
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_string())
            .or_insert_with(|| response.into());
    }
}

/// Every answer carries the identity of its request.
fn name_requests(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let header = HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::String)))
                .description(Some("The identity of the request, as brought or as given"))
                .build();
            response
                .headers
                .insert("X-Request-Id".to_owned(), header.into());
        }
    }
}

/// A parameter may be left out, but its text is never `null`, which the macro says of every
/// optional one.
fn forbid_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(Parameter {
            schema: Some(RefOr::T(Schema::Object(object))),
            ..
        }) = parameter
            && let SchemaType::Array(types) = &object.schema_type
            && let Some(only) = types.iter().find(|kind| **kind != Type::Null)
        {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// A page without scripts that lists the calls. Everything on it is from this source, nothing from
/// input.
fn index(document: &mut utoipa::openapi::OpenApi) -> Bytes {
    let mut rows = String::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let summary = operation.summary.as_deref().unwrap_or_default();
            let link = if method == "GET" && !path.contains('{') {
                format!("<a href=\"{path}\">{path}</a>")
            } else {
                path.clone()
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                rows,
                "<tr><td>{method}</td><td><code>{link}</code></td><td>{summary}</td></tr>"
            );
        }
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta \
         charset=\"utf-8\"><title>Weighbridge</title></head>\n<body>\n<h1>Weighbridge \
         {}</h1>\n<table>\n<tr><th>Method</th><th>Path</th><th>What it \
         does</th></tr>\n{rows}</table>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
    .into()
}
