//! The command line and the environment of `netloomd`, word for word; what the values mean is decided in
//! [`Config`](super::Config).
//!
//! Values stay text here, so that a flag, a variable and a line of the file fail with the same words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The network daemon of this host.
#[derive(Debug, Parser)]
#[command(name = "netloomd", version, about, long_about = LONG_ABOUT, max_term_width = 100)]
pub struct Cli {
    /// Where each value comes from: flag, else environment, else file, else default.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do; without one the daemon runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const LONG_ABOUT: &str = "The network daemon of this host: namespaces, bridges, cables, addresses, NAT and port \
    forwards as objects behind a REST and a gRPC API.\n\nEach value is taken from the flag, else from the \
    environment, else from the configuration file, else from the default. Who may write to the daemon's socket \
    has the rights of root on this host.";

/// The values that may be given on the command line or in the environment.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Configuration file (TOML) [default: /etc/netloom/netloomd.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "NETLOOM_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Directory of the database [default: /var/lib/netloom]
    #[arg(long, global = true, value_name = "DIR", env = "NETLOOM_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Unix socket with all rights; `read.sock` beside it may only read [default: /run/netloom/netloom.sock]
    #[arg(long, global = true, value_name = "PATH", env = "NETLOOM_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// TCP address to listen on; may be repeated. Needs --token-file, and TLS unless it is a loopback address
    #[arg(long, global = true, value_name = "IP:PORT", env = "NETLOOM_LISTEN", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub listen: Option<Vec<String>>,
    /// Certificate chain of the TCP listeners (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "NETLOOM_TLS_CERT", hide_env_values = true)]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "NETLOOM_TLS_KEY", hide_env_values = true)]
    pub tls_key: Option<PathBuf>,
    /// Authority that signs certificates of clients (PEM), for lines of the token file that name them by `cn:`
    #[arg(long, global = true, value_name = "FILE", env = "NETLOOM_CLIENT_CA", hide_env_values = true)]
    pub client_ca: Option<PathBuf>,
    /// Who may call over TCP: lines made by `netloomd hash-token`
    #[arg(long, global = true, value_name = "FILE", env = "NETLOOM_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Name under which clients may reach the TCP listeners, beside loopback and the address; may be repeated
    #[arg(long, global = true, value_name = "HOST", env = "NETLOOM_ALLOWED_HOST", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub allowed_host: Option<Vec<String>>,
    /// What to log, e.g. `info` or `warn,netloom_server=debug` [default: info]
    #[arg(long, global = true, value_name = "FILTER", env = "NETLOOM_LOG", hide_env_values = true)]
    pub log: Option<String>,
    /// How to log: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT", env = "NETLOOM_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<String>,
    /// What to do about what others changed in the kernel: repair or report [default: repair]
    #[arg(long, global = true, value_name = "WORD", env = "NETLOOM_DRIFT", hide_env_values = true)]
    pub drift: Option<String>,
    /// At start, what of netloom's in the kernel the database does not know: refuse to start, or remove it [default: refuse]
    #[arg(long, global = true, value_name = "WORD", env = "NETLOOM_UNKNOWN", hide_env_values = true)]
    pub unknown: Option<String>,
}

/// The verbs of `netloomd`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the daemon (what happens without a command)
    Run,
    /// Try documents on a private host: nothing of this host is touched, no root needed
    Lab(Lab),
    /// Remove everything from the kernel that bears netloom's marks, and nothing else
    Purge {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Write a consistent copy of the database while the daemon runs
    Backup {
        /// The file to write; must not exist
        file: PathBuf,
    },
    /// Read a token from standard input and print its line for the token file
    HashToken {
        /// Who calls with this token; shown in the audit as `token:NAME`
        name: String,
        /// What the token allows
        #[arg(long, value_enum, default_value_t = TokenAccess::Full, conflicts_with = "scope")]
        access: TokenAccess,
        /// A part of all rights as VERBS:KINDS[@OWNER], e.g. read:* or write:attachments,links@ci; may be repeated
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// When the token ceases to be good, e.g. 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        expires: Option<netloom_api::Timestamp>,
    },
    /// Check flags, environment and configuration file, and say what is wrong
    CheckConfig,
}

/// `netloomd lab`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Lab {
    /// Documents to apply (YAML or JSON); `kind: Lab` describes the surroundings and what is expected
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Then open a shell on the private host
    #[arg(long, conflicts_with_all = ["exec", "serve"])]
    pub shell: bool,
    /// Then run a command on the private host and exit as it does
    #[arg(long, value_name = "CMD", conflicts_with = "serve")]
    pub exec: Option<String>,
    /// Then keep the daemon running until interrupted
    #[arg(long)]
    pub serve: bool,
}

/// What a token allows, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenAccess {
    /// Only reading calls
    Read,
    /// All calls: the rights of root on this host
    Full,
}
