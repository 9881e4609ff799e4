//! The words that both doors read alike, so that a bad one gets the same error at either.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Extensions;
use netloom_api::{ErrorReason, Etag, Labels, RequestId, Violations};

use super::{auth, listen};
use crate::controller::{Caller, PAGE_MAX, WAIT_DEFAULT, WAIT_MAX};
use crate::error::{Error, Result};
use crate::events::Start;

/// Who calls, as the rim has found out.
pub(super) fn caller(extensions: &Extensions) -> Result<Caller> {
    let caller = extensions.get::<auth::Caller>();
    let caller = caller.ok_or_else(|| Error::new(ErrorReason::Unauthenticated, "the caller is not known"))?;
    Ok(Caller {
        actor: caller.actor.clone(),
        trace: trace(extensions).to_owned(),
        rights: caller.rights.clone(),
    })
}

/// The request's id in the log.
pub(super) fn trace(extensions: &Extensions) -> &str {
    extensions.get::<listen::RequestId>().map_or("", listen::RequestId::as_str)
}

/// A word that has a form of its own.
pub(super) fn parsed<T: std::str::FromStr<Err = String>>(text: &str, field: &str) -> Result<T> {
    text.parse().map_err(|why| invalid(field, why))
}

/// An etag, with or without the quotes of HTTP.
pub(super) fn etag(text: &str, field: &str) -> Result<Etag> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    parsed(bare, field)
}

/// The caller's key for a write.
pub(super) fn request_id(text: &str, field: &str) -> Result<RequestId> {
    parsed(text, field)
}

/// Labels to select by.
pub(super) fn labels(labels: BTreeMap<String, String>, field: &str) -> Result<Labels> {
    labels.try_into().map_err(|why: String| invalid(field, why))
}

/// How many items a page may have.
pub(super) fn page_size(size: i64) -> Result<usize> {
    let fits = usize::try_from(size).ok().filter(|size| (1..=PAGE_MAX).contains(size));
    fits.ok_or_else(|| invalid("page_size", format!("{size} is not 1 to {PAGE_MAX}")))
}

/// A position in the event log.
pub(super) fn position(seq: i64, field: &str) -> Result<i64> {
    if seq < 0 { Err(invalid(field, format!("{seq} is below 0"))) } else { Ok(seq) }
}

/// Where a follower of the log begins.
pub(super) fn start(after: Option<i64>, initial: bool) -> Result<Start> {
    match (after, initial) {
        (None, false) => Ok(Start::Now),
        (Some(after), false) => Ok(Start::After(position(after, "after")?)),
        (None, true) => Ok(Start::Listing),
        (Some(_), true) => Err(invalid("initial", "begins with what exists, so it cannot go with after")),
    }
}

/// How long a write may wait.
pub(super) fn wait(wanted: Option<Span>) -> Result<Duration> {
    let Some(Span { seconds, nanos }) = wanted else { return Ok(WAIT_DEFAULT) };
    let parts = (u64::try_from(seconds), u32::try_from(nanos));
    if let (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) = parts
        && Duration::new(seconds, nanos) <= WAIT_MAX
    {
        return Ok(Duration::new(seconds, nanos));
    }
    Err(invalid("wait", format!("must be 0 to {} s", WAIT_MAX.as_secs())))
}

/// Longer ones have zeros in front that mean nothing.
const SPAN_MAX: usize = 32;

/// A duration as it comes, in the form of `google.protobuf.Duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, with the sign of the seconds.
    pub nanos: i32,
}

impl std::str::FromStr for Span {
    type Err = String;

    /// `5s`, `500ms`, `1m`, `0`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        const FORM: &str = "must be a whole number with ms, s or m, such as 5s or 500ms, or 0";
        if text.len() > SPAN_MAX {
            return Err(FORM.to_owned());
        }
        let unit = text.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit);
        let number: i64 = number.parse().map_err(|_| FORM.to_owned())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1_000),
            "m" => number.checked_mul(60_000),
            "" if number == 0 => Some(0),
            _ => return Err(FORM.to_owned()),
        };
        let millis = millis.ok_or(FORM)?;
        let nanos = i32::try_from(millis % 1_000 * 1_000_000).map_err(|_| FORM)?;
        Ok(Span { seconds: millis / 1_000, nanos })
    }
}

/// A field's value is not acceptable by itself; the sentence names the field too.
pub(super) fn invalid(field: &str, why: impl Into<String>) -> Error {
    Violations::one(field, why).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(text: &str) -> std::result::Result<Duration, String> {
        let span = parsed::<Span>(text, "wait").and_then(|span| wait(Some(span)));
        span.map_err(|error| error.detail)
    }

    #[test]
    fn a_wait_is_a_whole_number_with_a_unit() {
        assert_eq!(waited("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(waited("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(waited("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(waited("0"), Ok(Duration::ZERO));
        assert_eq!(wait(None), Ok(WAIT_DEFAULT));
        for bad in
            ["", "5", "s", "5 s", "1.5s", "5h", "--5s", "99999999999999999999s", "9223372036854775807s"]
        {
            assert!(waited(bad).unwrap_err().starts_with("wait must be a whole number"), "{bad}");
        }
    }

    #[test]
    fn a_wait_below_zero_or_above_a_minute_is_refused_at_both_doors_alike() {
        let spans =
            [Span { seconds: -1, nanos: 0 }, Span { seconds: 0, nanos: -1 }, Span { seconds: 60, nanos: 1 }];
        for span in spans {
            assert_eq!(wait(Some(span)).unwrap_err().detail, "wait must be 0 to 60 s");
        }
        for bad in ["-1s", "-1ms", "61s", "60001ms"] {
            assert_eq!(waited(bad).unwrap_err(), "wait must be 0 to 60 s");
        }
    }

    #[test]
    fn an_etag_is_the_same_with_and_without_quotes() {
        let plain = "0190a0a0-0000-7000-8000-000000000001.7";
        assert_eq!(etag(plain, "etag"), etag(&format!("\"{plain}\""), "etag"));
        for bad in ["*", "W/\"x\"", "", "\"", "7"] {
            assert!(etag(bad, "If-Match").is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_have_one_to_a_thousand_items() {
        assert_eq!(page_size(1), Ok(1));
        assert_eq!(page_size(1000), Ok(1000));
        for bad in [-1, 0, 1001, i64::MIN, i64::MAX] {
            assert_eq!(page_size(bad).unwrap_err().violations[0].field, "page_size");
        }
    }
}
