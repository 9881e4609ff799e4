//! What is read of a client's certificate: its hash, its common name, and from when to when it holds.
//!
//! Only certificates whose signature rustls has verified come here, or that are named by their hash. The few fields are
//! read by hand, strictly: what is not as RFC 5280 says has no name and is not valid.

use netloom_api::Timestamp;
use sha2::{Digest as _, Sha256};

use super::callers::Hash;

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Certificate {
    /// SHA-256 of all of it.
    pub(in crate::api) hash: Hash,
    /// Its common name, if the configured authority has signed it.
    pub(super) signed_name: Option<String>,
    period: Option<(Timestamp, Timestamp)>,
}

impl Certificate {
    /// Reads one; `signed` if the configured authority vouches for it.
    pub(in crate::api) fn of(der: &[u8], signed: bool) -> Self {
        let fields = fields(der);
        let name = fields.as_ref().and_then(|fields| common_name(fields.subject)).filter(|_| signed);
        let period = fields.and_then(|fields| period(fields.validity));
        Certificate { hash: Self::hash(der), signed_name: name, period }
    }

    /// SHA-256 of all of it.
    pub(in crate::api) fn hash(der: &[u8]) -> Hash {
        Sha256::digest(der).into()
    }

    /// Whether it holds now.
    pub(in crate::api) fn is_valid(&self, now: Timestamp) -> bool {
        self.period.is_some_and(|(from, until)| from <= now && now <= until)
    }
}

struct Fields<'a> {
    validity: &'a [u8],
    subject: &'a [u8],
}

const LENGTH_BYTES_MAX: usize = 4;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// Certificate ::= SEQUENCE { SEQUENCE { version?, serial, algorithm, issuer, validity, subject, … }, … }
fn fields(der: &[u8]) -> Option<Fields<'_>> {
    let mut whole = one(der, SEQUENCE)?;
    let mut body = take(&mut whole, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        take(&mut body, VERSION)?;
    }
    take(&mut body, INTEGER)?;
    take(&mut body, SEQUENCE)?;
    take(&mut body, SEQUENCE)?;
    let validity = take(&mut body, SEQUENCE)?;
    let subject = take(&mut body, SEQUENCE)?;
    Some(Fields { validity, subject })
}

/// The one common name; who has two has none.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = None;
    while !subject.is_empty() {
        let mut set = take(&mut subject, SET)?;
        while !set.is_empty() {
            let mut pair = take(&mut set, SEQUENCE)?;
            if take(&mut pair, OBJECT_ID)? != COMMON_NAME {
                continue;
            }
            let tag = *pair.first()?;
            let text = (tag == UTF8_STRING || tag == PRINTABLE_STRING).then(|| one(pair, tag))??;
            let text = std::str::from_utf8(text).ok()?;
            if found.replace(text.to_owned()).is_some() {
                return None;
            }
        }
    }
    found
}

fn period(mut validity: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let from = time(&mut validity)?;
    let until = time(&mut validity)?;
    Some((from, until))
}

/// `YYMMDDHHMMSSZ`, where 50 begins the last century, or `YYYYMMDDHHMMSSZ`.
fn time(rest: &mut &[u8]) -> Option<Timestamp> {
    let tag = *rest.first()?;
    let text = std::str::from_utf8(take(rest, tag)?).ok()?;
    let whole = match tag {
        UTC_TIME if text.len() == 13 => {
            let century = if text.get(..2)? < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        GENERALIZED_TIME if text.len() == 15 => text.to_owned(),
        _ => return None,
    };
    let part = |range: std::ops::Range<usize>| whole.get(range);
    let date = format!("{}-{}-{}", part(0..4)?, part(4..6)?, part(6..8)?);
    let clock = format!("{}:{}:{}", part(8..10)?, part(10..12)?, part(12..14)?);
    whole.ends_with('Z').then(|| format!("{date}T{clock}Z").parse().ok())?
}

/// A value of this tag, with nothing behind it.
fn one(mut der: &[u8], tag: u8) -> Option<&[u8]> {
    take(&mut der, tag).filter(|_| der.is_empty())
}

/// Takes a value of this tag off the front.
fn take<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, after) = rest.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = if first < 0x80 {
        (usize::from(first), after)
    } else {
        let count = usize::from(first & 0x7f);
        let bytes = after.get(..count).filter(|_| (1..=LENGTH_BYTES_MAX).contains(&count))?;
        let length = bytes.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
        (length, after.get(count..)?)
    };
    if found != tag {
        return None;
    }
    let value = after.get(..length)?;
    *rest = after.get(length..)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn made(name: Option<&str>, from: i32, until: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "netloom");
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn name_and_period_are_read() {
        let now = Timestamp::now();
        let der = made(Some("ci.example"), 2020, 2049);
        let certificate = Certificate::of(&der, true);
        assert_eq!(certificate.signed_name.as_deref(), Some("ci.example"));
        assert!(certificate.is_valid(now));
        assert_eq!(Certificate::of(&der, false).signed_name, None, "nobody vouches for the name");
        assert_eq!(Certificate::of(&made(None, 2020, 2049), true).signed_name, None);
        // From 2050 on a time has its century.
        assert!(Certificate::of(&made(None, 2020, 2060), true).is_valid(now));
        assert!(!Certificate::of(&made(None, 1999, 2001), true).is_valid(now));
        assert!(!Certificate::of(&made(None, 2059, 2060), true).is_valid(now));
    }

    #[test]
    fn whatever_is_called_a_certificate_is_read_or_refused() {
        let der = made(Some("ci.example"), 2020, 2049);
        netloom_fuzz::withstands(&[der], |bytes| drop(Certificate::of(bytes, true)));
        assert!(!Certificate::of(b"", true).is_valid(Timestamp::now()));
    }
}
