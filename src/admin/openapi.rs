//! The OpenAPI document, completed with what all calls have in common, and the index page.

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
use super::state::Pages;
use crate::model::api;

const BEARER: &str = "bearer";

/// Statuses that every call can return, from the layers.
const COMMON_STATUSES: &[u16] = &[400, 403, 421, 500, 504];
/// Further statuses of authenticated calls.
const AUTHENTICATED_STATUSES: &[u16] = &[401, 429, 503];
/// Further statuses of calls with a body.
const BODY_STATUSES: &[u16] = &[408, 413, 415];

/// Calls with an optional body; the macro can declare that only for a nullable body.
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
        description = "Services, weights, releases and the journal. Errors are problem details \
            (RFC 9457). On a loopback address without configured tokens every caller is \
            `anonymous` with all roles; else a bearer token is required.",
    ),
    servers((url = "/", description = "This proxy")),
    tags(
        (name = "services", description = "Services, weights, rollback"),
        (name = "releases", description = "Releases: plan, start, verbs, evidence"),
        (name = "journal", description = "Live events and the journal of changes"),
        (name = "process", description = "Probes, metrics, this document"),
    ),
    components(schemas(api::Problem, api::Event)),
)]
struct Base;

/// The document without any calls.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Base::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A configured token. Roles: view, operate, approve, admin; each includes the ones \
             before it.",
        ))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    document
}

/// Declares that the calls of `document` require the role `least`.
pub(super) fn protect(document: &mut utoipa::openapi::OpenApi, least: Role) {
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        operation.security = Some(vec![
            SecurityRequirement::default(),
            SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, []),
        ]);
        let role = format!("Needs the role `{}`.", least.as_str());
        let description = operation.description.take().unwrap_or_default();
        operation.description = Some(format!("{description}\n\n{role}").trim().to_owned());
        add_problems(operation, AUTHENTICATED_STATUSES);
    }
}

/// The finished document and the index page.
pub(super) fn pages(mut document: utoipa::openapi::OpenApi) -> Pages {
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        add_problems(operation, COMMON_STATUSES);
        if operation.request_body.is_some() {
            add_problems(operation, BODY_STATUSES);
        }
        add_request_id(operation);
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

/// Operations of one path with their methods.
fn operations(path: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, .. } = path;
    [("GET", get), ("PUT", put), ("POST", post)]
        .into_iter()
        .filter_map(|(method, operation)| operation.as_mut().map(|operation| (method, operation)))
}

/// Adds a problem response for each status that the call does not declare itself.
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

/// Declares the header `X-Request-Id` on every response.
fn add_request_id(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let header = HeaderBuilder::new()
                .schema(Some(Object::with_type(Type::String)))
                .description(Some("The request id, as sent by the caller or generated"))
                .build();
            response
                .headers
                .insert("X-Request-Id".to_owned(), header.into());
        }
    }
}

/// Removes `null` from the types of optional parameters: the macro adds it, but a parameter is
/// either absent or a text.
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

/// Index page that lists the calls, without scripts. It contains constants of this source only, no
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
         {}</h1>\n<table>\n<tr><th>Method</th><th>Path</th><th>Description</th></tr>\n\
         {rows}</table>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
    .into()
}
