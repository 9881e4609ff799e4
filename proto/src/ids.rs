//! What tells one object, version or request from another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::openapi::SchemaFormat;
use uuid::Uuid;

use crate::schema::text_schema;

text_schema!(Uid, |text| text.format(Some(SchemaFormat::Custom("uuid".into()))));
text_schema!(Etag, |text| text);
text_schema!(RequestId, |text| text.max_length(Some(128)));

/// An object's identity: a UUIDv7 that is never used again, unlike a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uid(Uuid);

impl Uid {
    /// Of the built-in Namespace `host`, which nobody made: the nil UUID.
    pub const HOST: Uid = Uid(Uuid::nil());

    /// A new identity; the clock's milliseconds are its first bits.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The last ten hex digits. They are random, where the first are time and so alike for objects made together.
    pub fn tail(&self) -> String {
        let hex = self.0.simple().to_string();
        hex[hex.len() - 10..].to_owned()
    }
}

impl FromStr for Uid {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Uuid::parse_str(text).map(Self).map_err(|_| "is not a UUID".into())
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One version of one object: `<uid>.<revision>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag {
    /// Which object.
    pub uid: Uid,
    /// Which of its versions.
    pub revision: i64,
}

impl FromStr for Etag {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('.')
            .and_then(|(uid, revision)| Some((uid.parse().ok()?, revision.parse().ok()?)));
        let (uid, revision) = parsed.ok_or("is not an etag of the form <uid>.<revision>")?;
        Ok(Self { uid, revision })
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.uid, self.revision)
    }
}

impl Serialize for Etag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Etag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A caller's key for one request: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

impl RequestId {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for RequestId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err("must be 1 to 128 visible ASCII characters".into());
        }
        Ok(Self(text))
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> String {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
