//! The configuration file: TOML with the same keys as the flags, and the finer settings that only a file has.
//!
//! Unknown keys are errors. Periods are text with a unit (`"5s"`), modes are octal text (`"0660"`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// A configuration file as written; every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) socket_mode: Option<String>,
    pub(super) socket_group: Option<String>,
    pub(super) read_socket_group: Option<String>,
    pub(super) listen: Option<Vec<String>>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) allowed_host: Option<Vec<String>>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) forwarding: Option<String>,
    pub(super) drift: Option<String>,
    pub(super) pool: Option<Vec<FilePool>>,
    pub(super) forward_ports: Option<String>,
    pub(super) adopt_root: Option<Vec<PathBuf>>,
    #[serde(default)]
    pub(super) events: FileEvents,
    #[serde(default)]
    pub(super) limits: FileLimits,
}

/// `[[pool]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePool {
    pub(super) cidr: String,
    pub(super) prefix_len: u8,
}

/// `[events]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEvents {
    pub(super) count: Option<u64>,
    pub(super) age: Option<String>,
}

/// `[limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileLimits {
    pub(super) body: Option<u64>,
    pub(super) connections: Option<u64>,
    pub(super) streams: Option<u64>,
    pub(super) caller_requests: Option<u64>,
    pub(super) caller_streams: Option<u64>,
    pub(super) depth: Option<u64>,
    pub(super) objects: Option<u64>,
    pub(super) header_timeout: Option<String>,
    pub(super) body_timeout: Option<String>,
    pub(super) idle_timeout: Option<String>,
    pub(super) write_timeout: Option<String>,
    pub(super) drain_timeout: Option<String>,
}

impl File {
    /// Reads `path`; a file that is not there is an error.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Parses the text of the file `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })
    }
}
