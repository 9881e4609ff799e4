//! Words on the command line that are not words of the API.

use std::{net::IpAddr, time::Duration};

use netloom_client::AddressRange;

/// A label, as `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(pub String, pub String);

impl std::str::FromStr for Label {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

/// A span of time: `5s`, `500ms`, `1m`, or seconds alone.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a time such as 5s, 500ms or 1m");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(wrong()),
    }
}

/// Addresses, as `FIRST-LAST`.
pub fn range(text: &str) -> Result<AddressRange, String> {
    let wrong = || format!("{text:?} is not FIRST-LAST");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
    Ok(AddressRange { first: address(first)?, last: address(last)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (text, millis) in [("5s", 5000), ("500ms", 500), ("1m", 60_000), ("0", 0), ("7", 7000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1h", "5 s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_and_ranges_are_pairs() {
        assert_eq!("role=db".parse(), Ok(Label("role".into(), "db".into())));
        assert_eq!("a=".parse(), Ok(Label("a".into(), String::new())));
        assert!("role".parse::<Label>().is_err());
        let wanted = AddressRange { first: "10.0.0.10".parse().unwrap(), last: "10.0.0.20".parse().unwrap() };
        assert_eq!(range("10.0.0.10-10.0.0.20"), Ok(wanted));
        assert!(range("fd00::10-fd00::20").is_ok());
        assert!(range("10.0.0.0/24").is_err());
    }
}
