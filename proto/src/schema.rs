//! OpenAPI schemas of the types that are text on the wire.

/// The schema of a type that is a JSON string.
macro_rules! text_schema {
    ($name:ident, |$text:ident| $build:expr) => {
        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let string = utoipa::openapi::schema::Type::String;
                let $text = utoipa::openapi::ObjectBuilder::new().schema_type(string);
                $build.into()
            }
        }
    };
}
pub(crate) use text_schema;

/// The schema of a type that is a JSON object of strings.
macro_rules! map_schema {
    ($name:ident) => {
        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                <std::collections::BTreeMap<String, String> as utoipa::PartialSchema>::schema()
            }
        }
    };
}
pub(crate) use map_schema;
