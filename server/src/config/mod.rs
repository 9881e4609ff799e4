//! Flags, environment and TOML become one checked configuration; the only reader of the environment.
//!
//! A value is taken from the flag, else from the environment, else from the file, else from the default. What comes
//! out of [`Config::resolve`] is valid: nothing behind it checks again. All faults are reported at once, each with its
//! key, the value, the reason and what to do.

mod args;
mod check;
mod file;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use args::{Cli, Command, Lab, Settings, TokenAccess};

/// The file that is read when none is named and it exists.
pub const DEFAULT_FILE: &str = "/etc/netloom/netloomd.toml";

/// Everything a daemon needs to know before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of the database.
    pub state_dir: PathBuf,
    /// The unix socket with all rights.
    pub socket: SocketConfig,
    /// The unix socket that may only read.
    pub read_socket: SocketConfig,
    /// TCP addresses; none by default.
    pub listen: Vec<SocketAddr>,
    /// Certificate and key of the TCP listeners.
    pub tls: Option<TlsFiles>,
    /// Who may call over TCP.
    pub token_file: Option<PathBuf>,
    /// Host names, beside loopback and the address, under which a TCP listener answers; lower case.
    pub allowed_hosts: Vec<String>,
    /// What to log, in the words of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
    /// Where subnets are chosen from when a Network names none; in this order.
    pub pools: Vec<Pool>,
    /// Where a PortForward's listen port is chosen from.
    pub forward_ports: RangeInclusive<u16>,
    /// Where namespaces of others' may be adopted from by their paths.
    pub adopt_roots: Vec<PathBuf>,
    /// Whether IP forwarding is turned on when something needs it.
    pub forwarding: Forwarding,
    /// What is done about what others changed in the kernel.
    pub drift: Drift,
    /// What is done at start about what the database does not know.
    pub unknown: Unknown,
    /// How much of the event log is kept.
    pub events: EventRetention,
    /// What one client may cost.
    pub limits: Limits,
}

/// A unix socket and who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Absolute path, short enough for the kernel.
    pub path: PathBuf,
    /// Permission bits once `group` is set.
    pub mode: u32,
    /// Group that may connect; where it is missing the socket stays root's alone (0600).
    pub group: Option<String>,
}

/// PEM files of a TLS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Who signs certificates of clients that are known by their names.
    pub client_ca: Option<PathBuf>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A range that subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The whole range, without host bits.
    pub cidr: IpNet,
    /// Length of the subnets cut from it.
    pub prefix_len: u8,
}

/// Who turns on IP forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// The daemon, as soon as something needs it.
    Manage,
    /// The operator; what needs it stays `ForwardingDisabled` until then.
    Require,
}

/// What is done at start about things in the kernel that bear our marks, and are of no object in the database: it is not
/// the one that they were made from, or older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The daemon does not start, and changes nothing.
    Refuse,
    /// They are removed.
    Remove,
}

/// What is done about drift: what the kernel has, and the objects do not want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// It is repaired.
    Repair,
    /// It is told in the log and in the objects' conditions, and left as it is until the next start.
    Report,
}

/// How much of the event log is kept; whatever is beyond either bound goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRetention {
    /// Number of events.
    pub count: u64,
    /// Age of the oldest.
    pub age: Duration,
}

/// What clients may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body in bytes.
    pub body: usize,
    /// Open connections of the whole daemon; more wait in the kernel's backlog.
    pub connections: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams: u32,
    /// Requests of one caller at once; more stand in line as long as they may wait.
    pub caller_requests: usize,
    /// Streams (watches) of one caller at once.
    pub caller_streams: usize,
    /// How deep a JSON body may nest.
    pub depth: usize,
    /// Objects in one apply; no list of a JSON body is longer than twice that.
    pub objects: usize,
    /// From connect, or from the first byte of a request, to the end of its header; covers the TLS handshake.
    pub header_timeout: Duration,
    /// From the end of the header to the end of the body.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// A client that takes nothing of a reply for so long is cut.
    pub write_timeout: Duration,
    /// How long requests may go on after the daemon was told to stop.
    pub drain_timeout: Duration,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}; name another one with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that does not exist or a value of the wrong type.
    #[error("{} is not a valid configuration file:\n{source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: toml::de::Error,
    },
    /// Values that cannot be.
    #[error("the configuration is not valid:{}", list(.0))]
    Invalid(Vec<Fault>),
}

/// One value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key as in the file; the flag has dashes.
    pub key: String,
    /// What was given; empty if nothing was.
    pub value: String,
    /// Why it cannot be.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl Config {
    /// Resolves flags and environment (in `settings`), the file they name, or the default file if it exists.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let file = match &settings.config {
            Some(path) => file::File::read(path)?,
            None if default.exists() => file::File::read(default)?,
            None => file::File::default(),
        };
        check::resolve(settings, file)
    }

    /// Resolves `settings` over the text of a configuration file, without looking at the host.
    pub fn resolve(settings: &Settings, toml: &str) -> Result<Self, ConfigError> {
        let name = settings.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        check::resolve(settings, file::File::parse(name, toml)?)
    }
}

impl Default for Config {
    fn default() -> Self {
        let socket = |name: &str, group: &str| SocketConfig {
            path: Path::new("/run/netloom").join(name),
            mode: 0o660,
            group: Some(group.to_owned()),
        };
        Config {
            state_dir: PathBuf::from("/var/lib/netloom"),
            socket: socket("netloom.sock", "netloom"),
            read_socket: socket(READ_SOCKET, "netloom-read"),
            listen: Vec::new(),
            tls: None,
            token_file: None,
            allowed_hosts: Vec::new(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            pools: vec![DEFAULT_POOL],
            forward_ports: DEFAULT_FORWARD_PORTS,
            adopt_roots: ADOPT_ROOTS.iter().map(PathBuf::from).collect(),
            forwarding: Forwarding::Manage,
            drift: Drift::Repair,
            unknown: Unknown::Refuse,
            events: EventRetention::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for EventRetention {
    fn default() -> Self {
        EventRetention { count: 100_000, age: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body: 1 << 20,
            connections: 256,
            streams: 100,
            caller_requests: 256,
            caller_streams: 256,
            depth: 64,
            objects: 10_000,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if !self.value.is_empty() {
            write!(f, " = {:?}", self.value)?;
        }
        write!(f, ": {}; {}", self.reason, self.fix)
    }
}

/// The reading socket has this name in the directory of the main one.
const READ_SOCKET: &str = "read.sock";

/// Where `ip netns` and Docker name their namespaces; /var/run is a link to /run on most hosts.
const ADOPT_ROOTS: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// 1 024 subnets of 254 hosts; those that the host has a route into are never chosen.
const DEFAULT_POOL: Pool =
    Pool { cidr: IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), 14), prefix_len: 24 };

/// Above those that Linux gives to outgoing connections by itself.
const DEFAULT_FORWARD_PORTS: RangeInclusive<u16> = 61_000..=65_535;

fn list(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

#[cfg(test)]
mod tests;

/// The shell of whoever started this, for `netloomd lab --shell`.
pub fn shell() -> String {
    std::env::var("SHELL").ok().filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

/// Where programs are looked for, this one's own directory first; none when it cannot be said.
pub fn path_from_here() -> Option<std::ffi::OsString> {
    let program = std::env::current_exe().ok()?;
    let here = program.parent()?.to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(here).chain(std::env::split_paths(&others))).ok()
}
