//! Words on the command line that are not words of the API.

use std::{net::IpAddr, time::Duration};

use netloom_client::{AddressRange, AdoptedSource, Egress, NatEgress, NoOptions, RateLimit};

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

/// How members reach other networks: `nat`, `nat=192.168.1.2`, `nat=192.168.1.2,fd00::2`, `routed`, `none`.
pub fn egress(text: &str) -> Result<Egress, String> {
    let addresses = match (text, text.split_once('=')) {
        ("nat", _) => return Ok(Egress::Nat(NatEgress::default())),
        ("routed", _) => return Ok(Egress::Routed(NoOptions {})),
        ("none", _) => return Ok(Egress::None(NoOptions {})),
        (_, Some(("nat", addresses))) => addresses,
        (_, _) => return Err("must be nat, nat=ADDRESS, routed or none".into()),
    };
    let mut nat = NatEgress::default();
    for text in addresses.split(',') {
        let twice = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => nat.address.replace(address).is_some(),
            Ok(IpAddr::V6(address)) => nat.address_v6.replace(address).is_some(),
            Err(_) => return Err(format!("{text:?} is not an address")),
        };
        if twice {
            return Err("has two addresses of one family".into());
        }
    }
    Ok(Egress::Nat(nat))
}

/// A rate in bits per second, perhaps with a burst in bytes: `10mbit`, `1gbit:2m`, `64000`.
pub fn rate_limit(text: &str) -> Result<RateLimit, String> {
    let wrong = || format!("{text:?} is not a rate such as 10mbit, or 10mbit:32k with a burst in bytes");
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let thousands = ["", "k", "m", "g", "t"];
    let bits = |unit: &str| {
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let unit = unit.strip_suffix("bit").unwrap_or(unit);
        let power = thousands.iter().position(|one| *one == unit)?;
        1000_u64.checked_pow(u32::try_from(power).ok()?)
    };
    let bytes = |unit: &str| {
        let power = thousands.iter().position(|one| *one == unit)?;
        1024_u64.checked_pow(u32::try_from(power).ok()?)
    };
    let rate = scaled(rate, bits).ok_or_else(wrong)?;
    let burst = burst.map(|burst| scaled(burst, bytes).and_then(|burst| u32::try_from(burst).ok()));
    Ok(RateLimit { rate, burst: burst.map(|burst| burst.ok_or_else(wrong)).transpose()? })
}

/// A whole number with a unit.
fn scaled(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, word) = text.split_at(digits);
    number.parse::<u64>().ok()?.checked_mul(unit(word)?)
}

/// Bits per second in the largest unit that leaves a whole number: `10 M`.
pub fn rate_text(rate: u64) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match units.iter().find(|(size, _)| rate >= *size && rate.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{} {unit}", rate / size),
        None => format!("{rate} "),
    }
}

/// A namespace to adopt, as a path or `pid:N`.
pub fn adopted(text: &str) -> Result<AdoptedSource, String> {
    match text.strip_prefix("pid:") {
        Some(pid) => pid.parse().map(AdoptedSource::Pid).map_err(|_| format!("{pid:?} is not a pid")),
        None => text.parse().map(AdoptedSource::Path),
    }
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
    fn a_rate_is_in_bits_and_a_burst_in_bytes() {
        let limit = |rate, burst| Ok(RateLimit { rate, burst });
        assert_eq!(rate_limit("10mbit"), limit(10_000_000, None));
        assert_eq!(rate_limit("1Gbit/s:32k"), limit(1_000_000_000, Some(32 << 10)));
        assert_eq!(rate_limit("64000"), limit(64_000, None));
        for text in ["", "fast", "10mbyte", "1.5mbit", "10mbit:", "10mbit:5g", "99999999999999999999"] {
            assert!(rate_limit(text).is_err(), "{text}");
        }
        assert_eq!(
            (rate_text(5_000_000), rate_text(1_500_000_000), rate_text(9_999)),
            ("5 M".into(), "1500 M".into(), "9999 ".into())
        );
    }

    #[test]
    fn a_namespace_to_adopt_is_a_path_or_a_pid() {
        assert_eq!(adopted("pid:7"), Ok(AdoptedSource::Pid(7)));
        assert_eq!(adopted("/run/netns/x"), Ok(AdoptedSource::Path("/run/netns/x".parse().unwrap())));
        for text in ["pid:", "pid:x", "7", "x", "/proc/7/ns/net"] {
            assert!(adopted(text).is_err(), "{text}");
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
