//! Bodies and names: what a request is about. The rim has already read the body whole and within its limit.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, request::Parts};
use netloom_api::{ApplyRequest, DiagnoseRequest, Draft, ErrorReason, Name, Path as FieldPath};
use serde_json::Value;

use crate::api::door::DoorNoun;
use crate::api::problem::Refused;
use crate::api::words;
use crate::controller::Caller;
use crate::error::{Error, Result};

const JSON: &str = "application/json";
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The JSON body of a request.
pub(super) struct Sent<B>(pub B);

/// What can be sent.
pub(super) trait Body: Sized {
    /// The content types that are understood.
    const TYPES: &'static [&'static str];

    /// Checks its shape.
    fn read(value: Value) -> Result<Self>;
}

impl<N: DoorNoun> Body for Draft<N> {
    const TYPES: &'static [&'static str] = &[JSON];

    fn read(value: Value) -> Result<Self> {
        Ok(Draft::from_json(value, &FieldPath::root())?)
    }
}

impl Body for ApplyRequest {
    const TYPES: &'static [&'static str] = &[JSON];

    fn read(value: Value) -> Result<Self> {
        Ok(ApplyRequest::from_json(value)?)
    }
}

impl Body for DiagnoseRequest {
    const TYPES: &'static [&'static str] = &[JSON];

    fn read(value: Value) -> Result<Self> {
        Ok(DiagnoseRequest::from_json(value)?)
    }
}

/// RFC 7396.
pub(super) struct MergePatch(pub Value);

impl Body for MergePatch {
    const TYPES: &'static [&'static str] = &[MERGE_PATCH, JSON];

    fn read(value: Value) -> Result<Self> {
        Ok(MergePatch(value))
    }
}

impl<S: Send + Sync, B: Body> FromRequest<S> for Sent<B> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Refused> {
        check_type(request.headers(), B::TYPES)?;
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|error| Error::new(ErrorReason::Malformed, error.body_text()))?;
        Ok(Sent(B::read(json(&bytes)?)?))
    }
}

fn check_type(headers: &HeaderMap, known: &[&str]) -> Result<()> {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = said.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((key, value)) if key.eq_ignore_ascii_case("charset") => {
            value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        Some(_) | None => true,
    };
    if known.iter().any(|known| known.eq_ignore_ascii_case(essence)) && parts.all(utf8) {
        return Ok(());
    }
    let sent = if said.is_empty() { "nothing" } else { said };
    let detail = format!("the content type must be {}, and the request says {sent}", known.join(" or "));
    Err(Error::new(ErrorReason::UnsupportedMediaType, detail).with("accepts", known.join(",")))
}

fn json(bytes: &[u8]) -> Result<Value> {
    let bad = |error: serde_json::Error| {
        Error::new(ErrorReason::Malformed, format!("the body is not JSON: {error}"))
    };
    serde_json::from_slice(bytes).map_err(bad)
}

/// The name in the path.
pub(super) struct Named(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Refused> {
        Ok(Named(words::parsed(&text(parts, state).await?, "name")?))
    }
}

/// The name of an Allocation, which is none of ours.
pub(super) struct NamedText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for NamedText {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Refused> {
        Ok(NamedText(text(parts, state).await?))
    }
}

async fn text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String> {
    let text = Path::<String>::from_request_parts(parts, state).await;
    text.map(|Path(text)| text).map_err(|error| words::invalid("name", error.body_text()))
}

/// Who calls.
pub(super) struct Who(pub Caller);

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> std::result::Result<Self, Refused> {
        Ok(Who(words::caller(&parts.extensions)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_in_utf_8_is_read() {
        let fits = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            check_type(&headers, MergePatch::TYPES).is_ok()
        };
        for good in
            [JSON, MERGE_PATCH, "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert!(fits(good), "{good}");
        }
        for bad in ["", "text/json", "application/json-patch+json", "application/json; charset=latin1", "*/*"]
        {
            assert!(!fits(bad), "{bad}");
        }
        let error = check_type(&HeaderMap::new(), &[JSON]).unwrap_err();
        assert_eq!(error.reason, ErrorReason::UnsupportedMediaType);
    }

    #[test]
    fn json_that_nests_too_deep_is_an_error_and_no_crash() {
        for bad in ["", "{", "{\"name\": }", "nul", &"[".repeat(100_000), "{} {}"] {
            assert_eq!(json(bad.as_bytes()).unwrap_err().reason, ErrorReason::Malformed);
        }
    }
}
