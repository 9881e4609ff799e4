//! How full the kernel's table of flows is. A full one drops what is new, from whomever it comes, so it is worth an alert.
//!
//! `nf_conntrack_count` and `nf_conntrack_max`: see nf_conntrack-sysctl in the kernel's documentation.

use std::fs;

/// Flows of the host's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// That there are.
    pub flows: u64,
    /// That there may be.
    pub most: u64,
}

/// How it is now; none where the kernel tracks nothing.
pub fn load() -> Option<Load> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(Load { flows: read("count")?, most: read("max")? })
}
