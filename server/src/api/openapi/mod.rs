//! The OpenAPI document: made of the paths as they are served, in version 3.1 and, for old tools, in 3.0.

mod three_zero;

use std::sync::LazyLock;

use serde_json::{Value, json};
use utoipa::openapi::{
    InfoBuilder, LicenseBuilder, SecurityRequirement, Server,
    security::{Http, HttpAuthScheme, SecurityScheme},
    tag::TagBuilder,
};

use super::rest;

static CURRENT: LazyLock<String> = LazyLock::new(|| text(&document()));
static OLD: LazyLock<String> = LazyLock::new(|| text(&three_zero::convert(document())));

/// The document as OpenAPI 3.1.
pub(super) fn current() -> &'static str {
    &CURRENT
}

/// The document as OpenAPI 3.0.
pub(super) fn old() -> &'static str {
    &OLD
}

const TAGS: [(&str, &str); 12] = [
    ("namespaces", "Named network stacks."),
    ("networks", "Layer-2 segments with their subnets."),
    ("attachments", "Interfaces of Namespaces on Networks."),
    ("port-forwards", "Ports of the host, published from Attachments."),
    ("reservations", "Addresses that are kept back."),
    ("routes", "Routes in Namespaces and on the host."),
    ("links", "Direct cables between Namespaces, or between a Namespace and the host."),
    ("policies", "Which traffic Attachments accept, or may send."),
    ("allocations", "Used addresses. Read only."),
    ("events", "What happened. Read only."),
    ("control", "Many objects at once, and the kernel's state."),
    ("system", "The daemon itself."),
];

fn document() -> Value {
    let mut document = rest::paths();
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let about = "Network namespaces, bridges, cables, addresses, NAT, port forwards and policies of a Linux host. \
        Field names are the same in gRPC (`netloom.v1`).";
    document.info = InfoBuilder::new()
        .title("netloom")
        .version("v1")
        .description(Some(about))
        .license(Some(license))
        .build();
    document.servers = Some(vec![Server::new("/")]);
    let tag = |(name, about)| TagBuilder::new().name(name).description(Some(about)).build();
    document.tags = Some(TAGS.map(tag).to_vec());
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("A token of the daemon's token file. Unix sockets need none.".to_owned());
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert("bearer".to_owned(), SecurityScheme::Http(bearer).into());
    let none: [&str; 0] = [];
    document.security = Some(vec![SecurityRequirement::new("bearer", none), SecurityRequirement::default()]);
    serde_json::to_value(&document).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

fn text(document: &Value) -> String {
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
