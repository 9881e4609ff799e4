//! Pure: what was given → a valid [`Config`], or every fault in it.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::file::{File, FileEvents, FileLimits, FilePool};
use super::{
    Config, ConfigError, Drift, EventRetention, Fault, Forwarding, Limits, LogFormat, Pool, READ_SOCKET,
    Settings, SocketConfig, TlsFiles, Unknown,
};

/// `sockaddr_un` has room for 108 bytes with the final zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// Flags and environment before the file before the defaults.
pub(super) fn resolve(flags: &Settings, file: File) -> Result<Config, ConfigError> {
    let mut check = Check::default();
    let base = Config::default();
    let tls = check.tls(
        flags.tls_cert.clone().or(file.tls_cert),
        flags.tls_key.clone().or(file.tls_key),
        flags.client_ca.clone().or(file.client_ca),
    );
    let token_file = flags.token_file.clone().or(file.token_file).map(|path| check.path("token_file", path));
    let listen = flags.listen.clone().or(file.listen).unwrap_or_default();
    let (socket, read_socket) = check.sockets(
        flags.socket.clone().or(file.socket).unwrap_or(base.socket.path),
        file.socket_mode,
        [file.socket_group.or(base.socket.group), file.read_socket_group.or(base.read_socket.group)],
    );
    let config = Config {
        state_dir: check
            .path("state_dir", flags.state_dir.clone().or(file.state_dir).unwrap_or(base.state_dir)),
        socket,
        read_socket,
        listen: check.listen(listen, tls.is_some(), token_file.is_some()),
        tls,
        token_file,
        allowed_hosts: check.hosts(flags.allowed_host.clone().or(file.allowed_host).unwrap_or_default()),
        log: check.log(flags.log.clone().or(file.log).unwrap_or(base.log)),
        log_format: check
            .word("log_format", flags.log_format.clone().or(file.log_format), LOG_FORMATS)
            .unwrap_or(base.log_format),
        pools: file.pool.map_or(base.pools, |pools| check.pools(pools)),
        forward_ports: file.forward_ports.map_or(base.forward_ports, |text| check.ports(&text)),
        adopt_roots: file.adopt_root.map_or(base.adopt_roots, |roots| check.adopt_roots(roots)),
        forwarding: check.word("forwarding", file.forwarding, FORWARDINGS).unwrap_or(base.forwarding),
        // Not in the file: it is for one start.
        unknown: check.word("unknown", flags.unknown.clone(), UNKNOWNS).unwrap_or(base.unknown),
        drift: check.word("drift", flags.drift.clone().or(file.drift), DRIFTS).unwrap_or(base.drift),
        events: check.events(file.events),
        limits: check.limits(file.limits),
    };
    if check.faults.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(check.faults)) }
}

const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const FORWARDINGS: &[(&str, Forwarding)] =
    &[("manage", Forwarding::Manage), ("require", Forwarding::Require)];
/// What may be done about what the database does not know.
const UNKNOWNS: &[(&str, Unknown)] = &[("refuse", Unknown::Refuse), ("remove", Unknown::Remove)];
const DRIFTS: &[(&str, Drift)] = &[("repair", Drift::Repair), ("report", Drift::Report)];

/// Collects faults; each check returns a value of the right type so that the next one can go on.
#[derive(Default)]
struct Check {
    faults: Vec<Fault>,
}

impl Check {
    fn fault(&mut self, key: &str, value: impl Display, reason: impl Display, fix: impl Display) {
        self.faults.push(Fault {
            key: key.to_owned(),
            value: value.to_string(),
            reason: reason.to_string(),
            fix: fix.to_string(),
        });
    }

    /// A path must mean the same file from whatever directory the daemon is started.
    fn path(&mut self, key: &str, path: PathBuf) -> PathBuf {
        if !path.is_absolute() {
            let fix = match std::path::absolute(&path) {
                Ok(absolute) => format!("write {}", absolute.display()),
                Err(_) => "write the whole path".to_owned(),
            };
            self.fault(key, path.display(), "is not an absolute path", fix);
        }
        path
    }

    fn sockets(
        &mut self,
        path: PathBuf,
        mode: Option<String>,
        [group, read_group]: [Option<String>; 2],
    ) -> (SocketConfig, SocketConfig) {
        let path = self.path("socket", path);
        let read_path = path.with_file_name(READ_SOCKET);
        for path in [&path, &read_path] {
            let len = path.as_os_str().as_bytes().len();
            if len > LONGEST_SOCKET_PATH {
                let reason = format!("is {len} bytes long, the kernel takes {LONGEST_SOCKET_PATH}");
                self.fault("socket", path.display(), reason, "choose a shorter directory");
            }
        }
        if path.file_name().is_none_or(|name| name == OsStr::new(READ_SOCKET)) {
            let reason = "is the name of the socket that may only read";
            self.fault("socket", path.display(), reason, "choose another file name");
        }
        let mode = mode.map_or(0o660, |text| self.mode(text));
        // An empty name says: nobody but root.
        let named = |group: Option<String>| group.filter(|name| !name.is_empty());
        (
            SocketConfig { path, mode, group: named(group) },
            SocketConfig { path: read_path, mode, group: named(read_group) },
        )
    }

    fn mode(&mut self, text: String) -> u32 {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode & !0o777 == 0 && mode & 0o600 == 0o600 && mode & 0o007 == 0 => mode,
            Ok(mode) if mode & 0o007 != 0 => {
                let reason = "lets every local user in, who would have the rights of root";
                self.fault("socket_mode", text, reason, "use \"0660\" and socket_group");
                0o600
            }
            Ok(_) | Err(_) => {
                self.fault("socket_mode", text, "is not an octal mode with 6 for the owner", "use \"0660\"");
                0o600
            }
        }
    }

    fn tls(
        &mut self,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Option<TlsFiles> {
        let client_ca = client_ca.map(|path| self.path("client_ca", path));
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (self.path("tls_cert", cert), self.path("tls_key", key));
                Some(TlsFiles { cert, key, client_ca })
            }
            (Some(cert), None) => {
                self.fault("tls_cert", cert.display(), "has no key beside it", "set tls_key too");
                None
            }
            (None, Some(key)) => {
                self.fault("tls_key", key.display(), "has no certificate beside it", "set tls_cert too");
                None
            }
            (None, None) => {
                if let Some(path) = client_ca {
                    let reason = "is of no use without TLS";
                    self.fault("client_ca", path.display(), reason, "set tls_cert and tls_key too");
                }
                None
            }
        }
    }

    fn listen(&mut self, texts: Vec<String>, tls: bool, tokens: bool) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for text in texts {
            let Ok(address) = text.parse::<SocketAddr>() else {
                let reason = "is not an IP address with a port";
                self.fault("listen", text, reason, "write it like 127.0.0.1:7070 or [::1]:7070");
                continue;
            };
            if !tokens {
                let fix =
                    "set token_file (its lines are made by `netloomd hash-token`), or use the unix socket";
                self.fault("listen", &text, "is a TCP address without credentials", fix);
            }
            if !tls && !address.ip().to_canonical().is_loopback() {
                let fix = "set tls_cert and tls_key, or listen on 127.0.0.1 or [::1]";
                self.fault("listen", &text, "would carry tokens over the network in clear text", fix);
            }
            if addresses.contains(&address) && address.port() != 0 {
                self.fault("listen", &text, "is given twice", "remove one");
            }
            addresses.push(address);
        }
        addresses
    }

    fn hosts(&mut self, names: Vec<String>) -> Vec<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        for name in &names {
            let has_port = name.parse::<SocketAddr>().is_ok()
                || (!name.starts_with('[') && name.matches(':').count() == 1);
            if name.is_empty() || !name.chars().all(plain) {
                self.fault("allowed_host", name, "is not a host name or IP address", "write the name alone");
            } else if has_port {
                self.fault("allowed_host", name, "has a port", "write the name alone: every port is allowed");
            }
        }
        names.into_iter().map(|name| name.trim_matches(['[', ']']).to_ascii_lowercase()).collect()
    }

    fn log(&mut self, filter: String) -> String {
        if let Err(error) = EnvFilter::try_new(&filter) {
            self.fault("log", &filter, error, "write a level like info, or target=level pairs with commas");
        }
        filter
    }

    fn word<T: Copy>(&mut self, key: &str, text: Option<String>, words: &[(&str, T)]) -> Option<T> {
        let text = text?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fault(key, text, "is not one of its words", format_args!("use {}", known.join(" or ")));
        }
        found
    }

    fn pools(&mut self, given: Vec<FilePool>) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for FilePool { cidr: text, prefix_len } in given {
            let Ok(cidr) = text.parse::<IpNet>() else {
                self.fault("pool.cidr", text, "is not a CIDR", "write it like 10.88.0.0/14");
                continue;
            };
            let net = cidr.trunc();
            if net != cidr {
                self.fault("pool.cidr", &text, "has host bits set", format_args!("write {net}"));
            }
            let longest = cidr.max_prefix_len() - 2;
            if prefix_len < cidr.prefix_len() || prefix_len > longest {
                let reason = format!("cannot cut {text} into subnets with a gateway and a host");
                let fix = format!("use a length from {} to {longest}", cidr.prefix_len().min(longest));
                self.fault("pool.prefix_len", prefix_len, reason, fix);
            }
            if let Some(other) = pools.iter().find(|p| p.cidr.contains(&net) || net.contains(&p.cidr)) {
                let reason = format!("overlaps the pool {}", other.cidr);
                self.fault("pool.cidr", &text, reason, "give every address to one pool");
            }
            pools.push(Pool { cidr: net, prefix_len });
        }
        pools
    }

    fn ports(&mut self, text: &str) -> RangeInclusive<u16> {
        let range = text.split_once('-').and_then(|(first, last)| {
            let range = first.trim().parse::<u16>().ok()?..=last.trim().parse().ok()?;
            (*range.start() > 0 && !range.is_empty()).then_some(range)
        });
        range.unwrap_or_else(|| {
            self.fault("forward_ports", text, "is not a range of ports", "write it like \"61000-65535\"");
            1..=1
        })
    }

    /// Files below /proc come and go with processes, and everything is below /.
    fn adopt_roots(&mut self, given: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut roots = Vec::new();
        for root in given {
            let root = self.path("adopt_root", root);
            let strange = root.components().any(|part| matches!(part, Component::ParentDir));
            if strange || root.starts_with("/proc") || root.parent().is_none() {
                let reason = "is no directory that namespaces are named in";
                self.fault("adopt_root", root.display(), reason, "name one like /run/netns");
            }
            roots.push(root);
        }
        roots
    }

    fn events(&mut self, file: FileEvents) -> EventRetention {
        let base = EventRetention::default();
        EventRetention {
            count: self.number("events.count", file.count, base.count, 1_000..=100_000_000),
            age: self.period("events.age", file.age, base.age, [60, 10 * 366 * 24 * 3600]),
        }
    }

    fn limits(&mut self, file: FileLimits) -> Limits {
        let base = Limits::default();
        let hour = 3600;
        // The upper bounds keep every number inside its type and every sum of them inside memory.
        Limits {
            body: self.number("limits.body", file.body, base.body as u64, 1024..=64 << 20) as usize,
            connections: self.number(
                "limits.connections",
                file.connections,
                base.connections as u64,
                4..=65_536,
            ) as usize,
            streams: self.number("limits.streams", file.streams, base.streams.into(), 1..=1_000) as u32,
            caller_requests: self.count(
                "limits.caller_requests",
                file.caller_requests,
                base.caller_requests,
                65_536,
            ),
            caller_streams: self.count(
                "limits.caller_streams",
                file.caller_streams,
                base.caller_streams,
                65_536,
            ),
            // Deeper than serde_json goes there is nothing to allow.
            depth: self.count("limits.depth", file.depth, base.depth, 127),
            objects: self.count("limits.objects", file.objects, base.objects, 10_000),
            header_timeout: self.period(
                "limits.header_timeout",
                file.header_timeout,
                base.header_timeout,
                [1, hour],
            ),
            body_timeout: self.period("limits.body_timeout", file.body_timeout, base.body_timeout, [1, hour]),
            idle_timeout: self.period("limits.idle_timeout", file.idle_timeout, base.idle_timeout, [1, hour]),
            write_timeout: self.period(
                "limits.write_timeout",
                file.write_timeout,
                base.write_timeout,
                [1, hour],
            ),
            drain_timeout: self.period(
                "limits.drain_timeout",
                file.drain_timeout,
                base.drain_timeout,
                [0, hour],
            ),
        }
    }

    fn count(&mut self, key: &str, given: Option<u64>, base: usize, most: u64) -> usize {
        self.number(key, given, base as u64, 1..=most) as usize
    }

    fn number(
        &mut self,
        key: &str,
        given: Option<u64>,
        base: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        let value = given.unwrap_or(base);
        if !range.contains(&value) {
            let (least, most) = (range.start(), range.end());
            self.fault(key, value, "is out of range", format_args!("use a number from {least} to {most}"));
        }
        value
    }

    /// `bounds` are in seconds.
    fn period(&mut self, key: &str, given: Option<String>, base: Duration, bounds: [u64; 2]) -> Duration {
        let Some(text) = given else { return base };
        let [least, most] = bounds.map(Duration::from_secs);
        match parse_period(&text) {
            Some(period) if period >= least && period <= most => period,
            Some(_) => {
                let fix = format!("use a period from {}s to {}s", bounds[0], bounds[1]);
                self.fault(key, text, "is out of range", fix);
                base
            }
            None => {
                let fix = "write a number and one of ms, s, m, h, d, like \"30s\"";
                self.fault(key, text, "is not a period", fix);
                base
            }
        }
    }
}

fn parse_period(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let count: u64 = digits.parse().ok()?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(millis).map(Duration::from_millis)
}
