//! Words that people choose: names, owners, labels, annotations, notes.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr};

use crate::schema::{map_schema, text_schema};
use serde::{Deserialize, Serialize};

/// Makes a string newtype that is checked when parsed, in every door alike.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:path, $example:literal, $max:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        text_schema!($name, |text| text.max_length(Some($max)).pattern(Some($pattern)).examples([$example]));

        impl $name {
            /// What it looks like, as a regular expression of ECMA-262.
            pub const PATTERN: &str = $pattern;
        }

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_text!(
    /// An object's name: an RFC 1123 label of at most 63 characters, unique among its kind.
    Name,
    check_name,
    "red",
    63,
    "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
);
checked_text!(
    /// Who made an object: a free word without spaces, at most 63 characters.
    Owner,
    check_owner,
    "ci-7",
    63,
    "^[!-~]+$"
);
checked_text!(
    /// Free text of at most 1 024 bytes without control characters.
    Note,
    check_note,
    "the load balancer",
    1024,
    "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
);

checked_text!(
    /// The path of a namespace: absolute, at most 255 bytes, with no `.` and `..` in it, and not below /proc.
    NetnsPath,
    check_path,
    "/run/netns/foreign",
    255,
    "^(/[^/\\u0000-\\u001f\\u007f-\\u009f]+)+$"
);

/// Keys and values to select objects by: at most 64, keys and values like names, with dots, underscores and one slash allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// Free text by key that netloom keeps and never reads: at most 64 entries and 64 KiB in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Annotations(BTreeMap<String, String>);

map_schema!(Labels);
map_schema!(Annotations);

const ENTRIES_MAX: usize = 64;
const ANNOTATION_BYTES_MAX: usize = 64 * 1024;

impl Labels {
    /// The labels in the order of their keys.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of `wanted` are among these.
    pub fn contain(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}

impl Annotations {
    /// The annotations in the order of their keys.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = String;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, String> {
        check_entries(&map)?;
        for (key, value) in &map {
            check_label_part(key).map_err(|why| format!("label key {key:?} {why}"))?;
            if !value.is_empty() {
                check_label_part(value).map_err(|why| format!("the value of label {key:?} {why}"))?;
            }
        }
        Ok(Self(map))
    }
}

impl TryFrom<BTreeMap<String, String>> for Annotations {
    type Error = String;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, String> {
        check_entries(&map)?;
        if map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATION_BYTES_MAX {
            return Err(format!("has more than {ANNOTATION_BYTES_MAX} bytes in all"));
        }
        match map.keys().find(|key| check_label_part(key).is_err()) {
            Some(key) => Err(format!("key {key:?} is not made of letters, digits, '-', '_', '.' and '/'")),
            None => Ok(Self(map)),
        }
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl From<Annotations> for BTreeMap<String, String> {
    fn from(annotations: Annotations) -> Self {
        annotations.0
    }
}

fn check_name(text: &str) -> Result<(), String> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let bytes = text.as_bytes();
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if bytes.len() > 63 {
        return Err(format!("has {} characters; at most 63 are allowed", bytes.len()));
    }
    if !bytes.iter().copied().all(inner) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(
            "must be an RFC 1123 label: lower-case letters, digits and '-', not first or last a '-'".into()
        );
    }
    Ok(())
}

fn check_owner(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 63 || !text.bytes().all(|c| c.is_ascii_graphic()) {
        return Err("must be 1 to 63 visible ASCII characters without spaces".into());
    }
    Ok(())
}

fn check_note(text: &str) -> Result<(), String> {
    if text.len() > 1024 || text.chars().any(char::is_control) {
        return Err("must be at most 1024 bytes without control characters".into());
    }
    Ok(())
}

fn check_path(text: &str) -> Result<(), String> {
    let Some(inner) = text.strip_prefix('/') else {
        return Err("must be an absolute path, like /run/netns/foreign".into());
    };
    if text.len() > 255 || text.chars().any(char::is_control) {
        return Err("must be at most 255 bytes without control characters".into());
    }
    if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("must be written without empty parts, '.' and '..'".into());
    }
    if inner.split('/').next() == Some("proc") {
        return Err("is below /proc, where files come and go with processes; name the pid instead".into());
    }
    Ok(())
}

fn check_entries(map: &BTreeMap<String, String>) -> Result<(), String> {
    if map.len() > ENTRIES_MAX {
        return Err(format!("has {} entries; at most {ENTRIES_MAX} are allowed", map.len()));
    }
    Ok(())
}

fn check_label_part(text: &str) -> Result<(), String> {
    let inner = |c: u8| c.is_ascii_alphanumeric() || b"-_./".contains(&c);
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() > 63 || !bytes.iter().copied().all(inner) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(
            "must be 1 to 63 letters, digits, '-', '_', '.' or '/', with a letter or digit first and last"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_and_nothing_else() {
        for good in ["red", "v-net-0", "a", "0", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "..", "a/b", "Red", "-x", "x-", "a b", "a\n", "a\0", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_says_one_place_and_proc_is_for_pids() {
        for good in ["/run/netns/foreign", "/run/docker/netns/1-abc", "/process/x"] {
            assert!(good.parse::<NetnsPath>().is_ok(), "{good}");
        }
        let long = format!("/{}", "x".repeat(255));
        for bad in [
            "",
            "x",
            "run/netns/x",
            "/",
            "/run//x",
            "/run/x/",
            "/run/../x",
            "/run/./x",
            "/a\0b",
            "/a\nb",
            "/proc/1/ns/net",
            "/proc",
            &long,
        ] {
            assert!(bad.parse::<NetnsPath>().is_err(), "{bad:?}");
        }
    }
}
