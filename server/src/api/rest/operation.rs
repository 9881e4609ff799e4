//! One operation: the handler and what the document says of it, made together.

use axum::handler::Handler;
use axum::routing::on;
use netloom_api::{ErrorReason, Problem};
use utoipa::ToSchema;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder, Schema,
    path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder},
    request_body::RequestBodyBuilder,
    schema::{SchemaType, Type},
};
use utoipa_axum::PathItemExt as _;
use utoipa_axum::router::UtoipaMethodRouter;

use super::query::Words;
use crate::api::door::Door;

/// An operation that is being described.
pub(super) struct Op {
    operation: OperationBuilder,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// What every call may be refused with.
const ALWAYS: [u16; 6] = [400, 401, 403, 429, 500, 503];

impl Op {
    /// An operation with a name that is part of the API.
    pub(super) fn new(id: impl Into<String>, tag: &str, summary: impl Into<String>) -> Self {
        let operation =
            OperationBuilder::new().operation_id(Some(id.into())).tag(tag).summary(Some(summary.into()));
        Self { operation, schemas: Vec::new() }.refuses(&ALWAYS)
    }

    /// What there is to know beside the summary.
    pub(super) fn about(mut self, text: &str) -> Self {
        self.operation = self.operation.description(Some(text));
        self
    }

    /// It has a name in its path.
    pub(super) fn named(mut self, about: &str) -> Self {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        let name = ParameterBuilder::new().name("name").parameter_in(ParameterIn::Path);
        let name = name.required(Required::True).description(Some(about)).schema(Some(text));
        self.operation = self.operation.parameter(name);
        self
    }

    /// It says this beside its body.
    pub(super) fn asks<W: Words>(mut self) -> Self {
        for param in W::params() {
            self.operation = self.operation.parameter(param.document());
        }
        self
    }

    /// It has a JSON body.
    pub(super) fn sends(mut self, types: &[&str], schema: &NamedSchema, about: &str) -> Self {
        let mut body = RequestBodyBuilder::new().description(Some(about)).required(Some(Required::True));
        for content_type in types {
            body = body.content(*content_type, self.content(schema));
        }
        self.operation = self.operation.request_body(Some(body.build()));
        self.refuses(&[413, 415, 408])
    }

    /// It may be answered with JSON.
    pub(super) fn answers(self, status: u16, schema: &NamedSchema, about: &str, headers: &[&str]) -> Self {
        let mut this = self;
        let mut response = ResponseBuilder::new().description(about);
        response = response.content("application/json", this.content(schema));
        for header in headers {
            let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
            let about = match *header {
                "ETag" => "The object's version, for If-Match.",
                _ => "The path of the object.",
            };
            let header_text = HeaderBuilder::new().schema(Some(text)).description(Some(about)).build();
            response = response.header(*header, header_text);
        }
        this.operation = this.operation.response(status.to_string(), response);
        this
    }

    /// It may be answered with text, or a stream of it beside JSON.
    pub(super) fn answers_text(self, content_type: &str, about: &str, json: Option<&NamedSchema>) -> Self {
        let mut this = self;
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        let mut response = ResponseBuilder::new().description(about);
        if let Some(schema) = json {
            response = response.content("application/json", this.content(schema));
        }
        response = response.content(content_type, ContentBuilder::new().schema(Some(text)).build());
        this.operation = this.operation.response("200", response);
        this
    }

    /// It may be answered with nothing.
    pub(super) fn answers_nothing(mut self, status: u16, about: &str) -> Self {
        let response = ResponseBuilder::new().description(about);
        self.operation = self.operation.response(status.to_string(), response);
        self
    }

    /// It may be refused with these, as a problem.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        let problem = named::<Problem>();
        for status in statuses {
            let content = self.content(&problem);
            let response = ResponseBuilder::new().description(reasons(*status));
            let response = response.content("application/problem+json", content);
            self.operation = self.operation.response(status.to_string(), response);
        }
        self
    }

    /// Anybody may call it.
    pub(super) fn open(mut self) -> Self {
        self.operation = self.operation.securities(Some([Default::default()]));
        self
    }

    /// At this path, by this handler.
    pub(super) fn at<H, T>(self, method: HttpMethod, path: &str, handler: H) -> UtoipaMethodRouter<Door>
    where
        H: Handler<T, Door>,
        T: 'static,
    {
        let route = on(method.to_method_filter(), handler);
        let operation: Operation = self.operation.build();
        let paths = PathsBuilder::new().path(path, PathItem::new(method, operation)).build();
        (self.schemas, paths, route)
    }

    fn content(&mut self, schema: &NamedSchema) -> utoipa::openapi::Content {
        self.schemas.extend(schema.all.iter().cloned());
        ContentBuilder::new().schema(Some(Ref::from_schema_name(&schema.name))).build()
    }
}

/// A schema with its name and all that it refers to.
pub(super) struct NamedSchema {
    name: String,
    all: Vec<(String, RefOr<Schema>)>,
}

/// The schema of a type.
pub(super) fn named<T: ToSchema>() -> NamedSchema {
    called::<T>(&T::name())
}

/// The schema of a type, under another name.
pub(super) fn called<T: ToSchema>(name: &str) -> NamedSchema {
    let mut all = vec![(name.to_owned(), T::schema())];
    T::schemas(&mut all);
    NamedSchema { name: name.to_owned(), all }
}

/// A schema that no type stands for.
pub(super) fn written(name: &str, schema: impl Into<RefOr<Schema>>) -> NamedSchema {
    NamedSchema { name: name.to_owned(), all: vec![(name.to_owned(), schema.into())] }
}

/// What a status stands for, from the list of reasons.
fn reasons(status: u16) -> String {
    let all = ErrorReason::ALL.iter().filter(|reason| reason.http_status() == status);
    all.map(|reason| format!("{}: {}.", reason.as_str(), reason.title())).collect::<Vec<_>>().join(" ")
}
