//! The crossing between the generated messages and the checked types, with the path of the field in every error.

use std::{fmt, str::FromStr};

use crate::problem::Violations;

/// Where in a request a value stands, e.g. `spec.subnets[0].cidr`.
#[derive(Clone, Debug, Default)]
pub struct Path(String);

impl Path {
    /// The request itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// A field of the value here.
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of the list here.
    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// From a generated message, checked; the errors name fields below `at`.
pub trait FromPb<M>: Sized {
    /// Reads every field of the message.
    fn from_pb(message: M, at: &Path) -> Result<Self, Violations>;
}

/// To a generated message; cannot fail.
pub trait ToPb<M> {
    /// Writes every field of the message.
    fn to_pb(&self) -> M;
}

/// Parses a required text field; empty means missing.
pub(crate) fn required<T: FromStr<Err = String>>(text: &str, at: &Path) -> Result<T, Violations> {
    if text.is_empty() {
        return Err(Violations::one(at.to_string(), "is required"));
    }
    parse(text, at)
}

/// Parses a text field.
pub(crate) fn parse<T: FromStr<Err = String>>(text: &str, at: &Path) -> Result<T, Violations> {
    text.parse().map_err(|why: String| Violations::one(at.to_string(), why))
}

/// Parses a text field that may be unset.
pub(crate) fn optional<T: FromStr<Err = String>>(
    text: Option<String>,
    at: &Path,
) -> Result<Option<T>, Violations> {
    text.map(|text| parse(&text, at)).transpose()
}

/// Parses an IP address.
pub(crate) fn address(text: &str, at: &Path) -> Result<std::net::IpAddr, Violations> {
    text.parse().map_err(|_| Violations::one(at.to_string(), "is not an IP address"))
}

/// Reads a required sub-message.
pub(crate) fn message<M, T: FromPb<M>>(value: Option<M>, at: &Path) -> Result<T, Violations> {
    match value {
        Some(value) => T::from_pb(value, at),
        None => Err(Violations::one(at.to_string(), "is required")),
    }
}

/// Reads a list of sub-messages.
pub(crate) fn list<M, T: FromPb<M>>(values: Vec<M>, at: &Path) -> Result<Vec<T>, Violations> {
    values.into_iter().enumerate().map(|(index, value)| T::from_pb(value, &at.item(index))).collect()
}

/// Writes a list of sub-messages.
pub(crate) fn all<M, T: ToPb<M>>(values: &[T]) -> Vec<M> {
    values.iter().map(ToPb::to_pb).collect()
}

/// Narrows a number to a byte.
pub(crate) fn u8_field(value: u32, at: &Path) -> Result<u8, Violations> {
    u8::try_from(value).map_err(|_| Violations::one(at.to_string(), "must be at most 255"))
}

/// Narrows a number to a port or MTU.
pub(crate) fn u16_field(value: u32, at: &Path) -> Result<u16, Violations> {
    u16::try_from(value).map_err(|_| Violations::one(at.to_string(), "must be at most 65535"))
}
