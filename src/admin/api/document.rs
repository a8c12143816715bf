//! The OpenAPI document: its head, and what all operations have in common. The rest of the document
//! comes from the handlers.

use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder};

/// The document's head.
#[derive(OpenApi)]
#[openapi(info(
    title = "RingMQ management API",
    description = "Asks a running broker, and steers it. Errors are problem details (RFC 9457)."
))]
struct DocumentHead;

/// A document with a head and no paths.
pub(super) fn head() -> Document {
    DocumentHead::openapi()
}

/// The document with its version, the ways in which callers prove who they are, and problem details
/// wherever a request may fail.
pub(super) fn completed(mut document: Document) -> Document {
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let components = document.components.get_or_insert_default();
    for (name, scheme) in [("basic", HttpAuthScheme::Basic), ("bearer", HttpAuthScheme::Bearer)] {
        components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
    }
    let none: [String; 0] = [];
    let ways = ["basic", "bearer"].map(|name| SecurityRequirement::new(name, none.clone()));
    document.security = Some(ways.to_vec());
    document.paths.paths.values_mut().flat_map(operations).for_each(complete);
    document
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, .. } = path;
    [get, put, post, delete].into_iter().flatten()
}

fn complete(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
        {
            let description = std::mem::take(&mut response.description);
            *response = problem(&description);
        }
    }
    let any = "Anything else: not allowed, too many attempts, too large, or a shard is late";
    responses.insert("default".to_owned(), RefOr::T(problem(any)));
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name("Details");
    let description = if description.is_empty() { "What is wrong" } else { description };
    let content = Content::new(Some(schema));
    let response = ResponseBuilder::new().description(description);
    response.content("application/problem+json", content).build()
}
