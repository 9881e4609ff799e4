//! Kernel settings of a network namespace: which ones a caller may choose, and how they are spelled.
//!
//! Only settings that belong to one namespace are taken, and none that netloom sets itself. Names are written as
//! `sysctl` takes them, with dots or with slashes; they are kept and shown in one spelling.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::schema::map_schema;

/// Kernel settings by name: at most 64, the names below `net`, the values 1 to 256 visible ASCII characters and blanks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Sysctls(BTreeMap<SysctlKey, String>);

map_schema!(Sysctls);

/// The name of a setting, as its file below `/proc/sys`: `net/ipv4/ip_forward`. It is shown with dots, unless a part of
/// it has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SysctlKey(String);

const ENTRIES_MAX: usize = 64;
const KEY_MAX: usize = 128;
const VALUE_MAX: usize = 256;

/// Below these, everything belongs to one namespace, or the kernel shows it to the host alone.
const TREES: [&str; 2] = ["net/ipv4/", "net/ipv6/"];
/// Of these, what begins so.
const BEGINNINGS: [&str; 2] = ["net/netfilter/nf_conntrack_", "net/core/xfrm_"];
/// And these.
const SINGLE: [&str; 5] = [
    "net/core/optmem_max",
    "net/core/somaxconn",
    "net/core/txrehash",
    "net/unix/max_dgram_qlen",
    "net/netfilter/nf_log_all_netns",
];
/// netloom sets these on every interface that it makes.
const MANAGED: [&str; 4] = ["accept_dad", "accept_ra", "disable_ipv6", "promote_secondaries"];

impl Sysctls {
    /// The values by name.
    pub fn as_map(&self) -> &BTreeMap<SysctlKey, String> {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl SysctlKey {
    /// The file below `/proc/sys/`.
    pub fn path(&self) -> &str {
        &self.0
    }

    /// The interface that it is of; `all` and `default` are none.
    pub fn interface(&self) -> Option<&str> {
        self.of().filter(|name| !matches!(*name, "all" | "default"))
    }

    /// The same setting as a new interface gets it; itself, when it is not of an interface.
    pub fn of_new_interface(&self) -> Self {
        let Some(name) = self.interface() else { return self.clone() };
        Self(self.0.replacen(&format!("/{name}/"), "/default/", 1))
    }

    /// What it is of: an interface, `all` or `default`.
    fn of(&self) -> Option<&str> {
        let parts: Vec<&str> = self.0.split('/').collect();
        match parts.as_slice() {
            ["net", "ipv4" | "ipv6", "conf" | "neigh", name, _] => Some(name),
            _ => None,
        }
    }
}

impl TryFrom<BTreeMap<String, String>> for Sysctls {
    type Error = String;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, String> {
        if map.len() > ENTRIES_MAX {
            return Err(format!("has {} entries; at most {ENTRIES_MAX} are allowed", map.len()));
        }
        let mut all = BTreeMap::new();
        for (name, value) in map {
            let key: SysctlKey = name.parse().map_err(|why| format!("{name:?} {why}"))?;
            let value = checked_value(&value).map_err(|why| format!("the value of {key} {why}"))?;
            if all.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is named twice, in two spellings"));
            }
        }
        Ok(Self(all))
    }
}

impl From<Sysctls> for BTreeMap<String, String> {
    fn from(sysctls: Sysctls) -> Self {
        sysctls.0.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

impl FromStr for SysctlKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let path = path_of(text);
        let good = |part: &str| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|c| c.is_ascii_graphic() && c != b'/')
        };
        let depth = path.split('/').count();
        if path.len() > KEY_MAX || !(3..=5).contains(&depth) || !path.split('/').all(good) {
            return Err("is not the name of a setting, like net.ipv4.ip_forward".into());
        }
        let taken = TREES.iter().chain(&BEGINNINGS).any(|start| path.starts_with(start))
            || SINGLE.contains(&path.as_str());
        if !taken {
            return Err("is not a setting of one network namespace: net.ipv4.*, net.ipv6.*, \
                        net.netfilter.nf_conntrack_*, net.core.somaxconn, net.core.optmem_max, \
                        net.unix.max_dgram_qlen"
                .into());
        }
        let key = Self(path);
        let last = key.0.rsplit('/').next().unwrap_or_default();
        if key.of().is_some() && key.0.contains("/conf/") && MANAGED.contains(&last) {
            return Err(format!("is set by netloom itself, as are all {} of interfaces", MANAGED.join(", ")));
        }
        if key.interface().is_some_and(|name| name.len() > 15) {
            return Err("names an interface with more than 15 characters".into());
        }
        Ok(key)
    }
}

impl TryFrom<String> for SysctlKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SysctlKey> for String {
    fn from(key: SysctlKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('.') { f.write_str(&self.0) } else { f.write_str(&self.0.replace('/', ".")) }
    }
}

/// The first separator decides which one separates, as in sysctl(8). With dots, an interface's own dots may stand as
/// they are, or as slashes: `net.ipv4.conf.eth0.7.rp_filter`, `net.ipv4.conf.eth0/7.rp_filter`.
fn path_of(text: &str) -> String {
    if !text[..text.find(['.', '/']).map_or(text.len(), |at| at + 1)].ends_with('.') {
        return text.to_owned();
    }
    let swapped = |part: &str| part.replace('/', ".");
    let parts: Vec<&str> = text.split('.').collect();
    match parts.as_slice() {
        [net, family @ ("ipv4" | "ipv6"), tree @ ("conf" | "neigh"), name @ .., last] if !name.is_empty() => {
            format!("{net}/{family}/{tree}/{}/{last}", swapped(&name.join(".")))
        }
        parts => parts.iter().map(|part| swapped(part)).collect::<Vec<_>>().join("/"),
    }
}

/// The value with single blanks, as all but one of the kernel's own separators are alike to it.
fn checked_value(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_graphic() || matches!(c, ' ' | '\t');
    let value = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if value.is_empty() || value.len() > VALUE_MAX || !text.chars().all(good) {
        return Err(format!("must be 1 to {VALUE_MAX} visible ASCII characters and blanks"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<SysctlKey, String> {
        text.parse()
    }

    #[test]
    fn a_setting_has_one_spelling_however_it_is_written() {
        for (written, path, shown) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net.ipv4.conf.eth0.rp_filter", "net/ipv4/conf/eth0/rp_filter", "net.ipv4.conf.eth0.rp_filter"),
            (
                "net.ipv4.conf.eth0.7.rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
            ),
            (
                "net.ipv4.conf.eth0/7.rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
            ),
            (
                "net/ipv4/conf/eth0.7/rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
                "net/ipv4/conf/eth0.7/rp_filter",
            ),
        ] {
            let key = key(written).unwrap();
            assert_eq!((key.path(), key.to_string().as_str()), (path, shown), "{written}");
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn only_settings_of_one_namespace_that_netloom_leaves_alone_are_taken() {
        for bad in [
            "",
            "net",
            "net.ipv4",
            "net.",
            "net..x",
            "net.ipv4.",
            "net.ipv4.a b",
            "net.ipv4.a\nb",
            "net/ipv4/../x",
            "net/ipv4/.",
            "kernel.hostname",
            "vm.swappiness",
            "net.core.rmem_max",
            "net.core.bpf_jit_enable",
            "net.bridge.bridge-nf-call-iptables",
            "net.netfilter.nf_log.2",
            "net.unix.other",
            "net.ipv4.conf.a.b.c.d.interface-too-long.rp_filter",
            "/proc/sys/net/ipv4/ip_forward",
            "net.ipv6.conf.all.disable_ipv6",
            "net.ipv6.conf.eth0.accept_ra",
            "net.ipv6.conf.default.accept_dad",
        ] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        for good in [
            "net.ipv4.ip_local_port_range",
            "net.ipv6.conf.all.forwarding",
            "net.core.somaxconn",
            "net.unix.max_dgram_qlen",
            "net.netfilter.nf_conntrack_tcp_timeout_established",
            "net.ipv4.neigh.eth0.ucast_solicit",
            "net.ipv6.route.max_size",
        ] {
            assert!(key(good).is_ok(), "{good:?}: {:?}", key(good));
        }
    }

    #[test]
    fn a_setting_knows_its_interface() {
        let of = |text: &str| key(text).unwrap().interface().map(str::to_owned);
        assert_eq!(of("net.ipv4.conf.eth0.7.rp_filter").as_deref(), Some("eth0.7"));
        assert_eq!(of("net.ipv4.conf.all.rp_filter"), None);
        assert_eq!(of("net.ipv4.ip_forward"), None);
        let new = key("net.ipv4.conf.eth0.7.rp_filter").unwrap().of_new_interface();
        assert_eq!(new.to_string(), "net.ipv4.conf.default.rp_filter");
    }

    #[test]
    fn values_are_text_with_single_blanks_and_a_name_stands_once() {
        let of = |pairs: &[(&str, &str)]| {
            let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Sysctls::try_from(map.collect::<BTreeMap<_, _>>())
        };
        let range = of(&[("net.ipv4.ip_local_port_range", " 1024\t  2048 ")]).unwrap();
        assert_eq!(range.as_map().values().next().unwrap(), "1024 2048");
        for bad in ["", " ", "1\n2", "\0", "ä", &"1".repeat(257)] {
            assert!(of(&[("net.ipv4.ip_forward", bad)]).is_err(), "{bad:?}");
        }
        assert!(of(&[("net.ipv4.ip_forward", "1"), ("net/ipv4/ip_forward", "0")]).is_err());
    }
}
