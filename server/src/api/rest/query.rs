//! What a request says beside its body: query parameters and headers. One table per kind of request is both what is
//! accepted and what the document says, so they cannot disagree.

use axum::extract::{FromRequestParts, Query};
use axum::http::{HeaderMap, Uri, request::Parts};
use netloom_api::ErrorReason;
use utoipa::PartialSchema as _;
use utoipa::openapi::{
    ArrayBuilder, ObjectBuilder, RefOr, Required, Schema,
    path::{Parameter, ParameterBuilder, ParameterIn},
    schema::Type,
};

use crate::api::problem::Refused;
use crate::api::words;
use crate::error::{Error, Result};

/// One parameter.
#[derive(Clone, Copy)]
pub(super) struct Param {
    /// As the caller writes it.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// What it looks like.
    pub shape: Shape,
}

/// What a parameter looks like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One word.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number of at least the first and at most the second.
    Number(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A word that may come again.
    Many,
    /// One of these words, and it may come again.
    ManyOf(&'static [&'static str]),
    /// One word that looks like this, of at most so many characters.
    Formed(&'static str, usize),
    /// A header.
    Header,
    /// A header that looks like this, of at most so many characters.
    HeaderFormed(&'static str, usize),
}

/// What a kind of request says beside its body.
pub(super) trait Words: Sized {
    /// All that it may say.
    fn params() -> Vec<Param>;

    /// What it says.
    fn read(said: &Said<'_>) -> Result<Self>;
}

/// Extracts the words of a request.
pub(super) struct Asked<W>(pub W);

impl<S: Sync, W: Words> FromRequestParts<S> for Asked<W> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Refused> {
        let said = Said::of(&parts.uri, &parts.headers, &W::params())?;
        Ok(Asked(W::read(&said)?))
    }
}

/// Nothing is said.
pub(super) struct Nothing;

impl Words for Nothing {
    fn params() -> Vec<Param> {
        Vec::new()
    }

    fn read(_said: &Said<'_>) -> Result<Self> {
        Ok(Nothing)
    }
}

/// What a request says.
pub(super) struct Said<'r> {
    pairs: Vec<(String, String)>,
    headers: &'r HeaderMap,
}

impl<'r> Said<'r> {
    /// Reads what is said; what is not known, or said twice, is refused.
    pub(super) fn of(uri: &Uri, headers: &'r HeaderMap, known: &[Param]) -> Result<Self> {
        let malformed = |name: &str, why: String| Error::new(ErrorReason::Malformed, why).at(name);
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(pairs) = pairs.map_err(|error| Error::new(ErrorReason::Malformed, error.body_text()))?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            let param = known.iter().find(|param| param.name == name && !param.is_header());
            let again = pairs[..index].iter().any(|(other, _)| other == name);
            match param.map(|param| param.shape) {
                None => return Err(malformed(name, unknown(name, known))),
                Some(Shape::Many | Shape::ManyOf(_)) => {}
                Some(_) if again => {
                    return Err(malformed(name, format!("the query parameter {name} comes twice")));
                }
                Some(_) => {}
            }
        }
        Ok(Self { pairs, headers })
    }

    /// A parameter that comes at most once.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// A parameter that may come again.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// `true` or `false`; false if it is not said.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        match self.one(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(words::invalid(name, format!("{other:?} is neither true nor false"))),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| words::invalid(name, format!("{text:?} is not a whole number")))
        };
        self.one(name).map(parse).transpose()
    }

    /// A word with a form of its own.
    pub(super) fn parsed<T: std::str::FromStr<Err = String>>(&self, name: &str) -> Result<Option<T>> {
        self.one(name).map(|text| words::parsed(text, name)).transpose()
    }

    /// Words with a form of their own.
    pub(super) fn each<T: std::str::FromStr<Err = String>>(&self, name: &str) -> Result<Vec<T>> {
        self.all(name).map(|text| words::parsed(text, name)).collect()
    }

    /// A header that comes at most once.
    pub(super) fn header(&self, name: &str) -> Result<Option<&'r str>> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(words::invalid(name, "comes twice")),
            (Some(value), None) => match value.to_str() {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(words::invalid(name, "is not plain text")),
            },
        }
    }
}

fn unknown(name: &str, known: &[Param]) -> String {
    let names = known.iter().filter(|param| !param.is_header()).map(|param| param.name);
    match names.collect::<Vec<_>>().as_slice() {
        [] => format!("there is no query parameter {name:?} here, nor any other"),
        names => format!("there is no query parameter {name:?} here, only {}", names.join(", ")),
    }
}

impl Param {
    fn is_header(&self) -> bool {
        matches!(self.shape, Shape::Header | Shape::HeaderFormed(..))
    }

    /// As the document says it.
    pub(super) fn document(&self) -> Parameter {
        let place = if self.is_header() { ParameterIn::Header } else { ParameterIn::Query };
        let parameter = ParameterBuilder::new().name(self.name).parameter_in(place).required(Required::False);
        parameter.description(Some(self.about)).schema(Some(self.shape.schema())).build()
    }
}

impl Shape {
    fn schema(self) -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        match self {
            Shape::Text | Shape::Header => text().into(),
            Shape::Formed(pattern, most) | Shape::HeaderFormed(pattern, most) => {
                text().pattern(Some(pattern)).max_length(Some(most)).into()
            }
            Shape::Flag => bool::schema(),
            Shape::Number(least, most) => {
                let number = ObjectBuilder::new().schema_type(Type::Integer);
                let number = number.minimum(Some(least));
                if most == i64::MAX { number.into() } else { number.maximum(Some(most)).into() }
            }
            Shape::OneOf(words) => text().enum_values(Some(words.to_vec())).into(),
            Shape::Many => ArrayBuilder::new().items(text()).into(),
            Shape::ManyOf(words) => {
                ArrayBuilder::new().items(text().enum_values(Some(words.to_vec()))).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Param; 5] = [
        Param { name: "size", about: "", shape: Shape::Number(1, 9) },
        Param { name: "label", about: "", shape: Shape::Many },
        Param { name: "force", about: "", shape: Shape::Flag },
        Param { name: "word", about: "", shape: Shape::Text },
        Param { name: "If-Match", about: "", shape: Shape::Header },
    ];

    fn check(query: &str, read: impl Fn(&Said<'_>) -> Result<String>) -> String {
        let uri: Uri = format!("/v1/x?{query}").parse().unwrap();
        let headers = HeaderMap::new();
        let read = Said::of(&uri, &headers, &KNOWN).and_then(|said| read(&said));
        read.unwrap_or_else(|error| format!("{} {}", error.reason.as_str(), error.violations[0].field))
    }

    #[test]
    fn parameters_are_decoded_and_may_come_again_only_where_that_means_something() {
        let labels = |said: &Said<'_>| Ok(said.all("label").collect::<Vec<_>>().join("|"));
        assert_eq!(check("label=a%3Db&label=c=d", labels), "a=b|c=d");
        assert_eq!(check("label=a+b&word=", labels), "a b");
        assert_eq!(check("size=1&size=2", labels), "MALFORMED size");
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let none = |_: &Said<'_>| Ok(String::new());
        assert_eq!(check("", none), "");
        assert_eq!(check("Size=1", none), "MALFORMED Size");
        assert_eq!(check("If-Match=1", none), "MALFORMED If-Match");
        assert_eq!(check("force=true&=", none), "MALFORMED ");
    }

    #[test]
    fn flags_and_numbers_have_one_form() {
        let flag = |said: &Said<'_>| Ok(said.flag("force")?.to_string());
        assert_eq!((check("force=true", flag), check("", flag)), ("true".into(), "false".into()));
        for bad in ["force", "force=1", "force=TRUE", "force=yes"] {
            assert_eq!(check(bad, flag), "INVALID_ARGUMENT force");
        }
        let number = |said: &Said<'_>| Ok(format!("{:?}", said.number("size")?));
        assert_eq!(check("size=-7", number), "Some(-7)");
        for bad in ["size=", "size=1.5", "size=0x1", "size=99999999999999999999"] {
            assert_eq!(check(bad, number), "INVALID_ARGUMENT size");
        }
    }

    #[test]
    fn a_header_that_comes_twice_is_refused() {
        let mut headers = HeaderMap::new();
        let uri: Uri = "/".parse().unwrap();
        headers.append("if-match", "a".parse().unwrap());
        assert_eq!(Said::of(&uri, &headers, &KNOWN).unwrap().header("If-Match").unwrap(), Some("a"));
        headers.append("if-match", "b".parse().unwrap());
        assert!(Said::of(&uri, &headers, &KNOWN).unwrap().header("If-Match").is_err());
    }
}
