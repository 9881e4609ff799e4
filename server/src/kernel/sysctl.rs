//! The files below `/proc/sys/net`, as the calling thread's network namespace shows them: call this on a thread
//! of [`run`](super::thread::run).
//!
//! Setting what is set already writes nothing, so a host whose `/proc/sys` is read-only is fine as long as it
//! is configured as wanted.

use std::fmt;
use std::fs;
use std::io::Write;

use nix::errno::Errno;

use crate::fault::{self, Effect};

/// The name of a setting: `net.ipv4.ip_forward`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Below `/proc/sys`, beginning with `net/`.
    path: String,
}

/// An address family that has settings per interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `net.ipv4`.
    V4,
    /// `net.ipv6`.
    V6,
}

/// A setting that was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// Not the name of a network setting, or not of an interface.
    #[error("{0:?} names no network setting")]
    BadName(String),
    /// This kernel, or this namespace, does not have it: no such interface, no IPv6.
    #[error("{0} does not exist here")]
    Missing(Key),
    /// `/proc/sys` is mounted read-only.
    #[error("{0} cannot be set: /proc/sys is read-only here, as in a container without --privileged")]
    ReadOnly(Key),
    /// The kernel does not take the value.
    #[error("{key} does not take {value:?}")]
    BadValue {
        /// The setting.
        key: Key,
        /// The value.
        value: String,
    },
    /// Anything else.
    #[error("{key}: {errno}")]
    System {
        /// The setting.
        key: Key,
        /// Why.
        errno: Errno,
    },
}

impl Key {
    /// A setting by its name, written as `sysctl` takes it: `net.ipv4.conf.eth0.rp_filter`, or with slashes where
    /// an interface has dots in its name, `net/ipv4/conf/eth0.7/rp_filter`.
    pub fn named(name: &str) -> Result<Self, SysctlError> {
        // As sysctl(8): the first separator decides which one separates; the other then stands for it.
        let path: String = match name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) {
            Some(b'.') => name.chars().map(exchanged).collect(),
            _ => name.to_owned(),
        };
        let good = |part: &str| {
            !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        let mut parts = path.split('/');
        if parts.next() == Some("net") && path.contains('/') && path.len() < 256 && parts.all(good) {
            Ok(Self { path })
        } else {
            Err(SysctlError::BadName(name.to_owned()))
        }
    }

    /// A setting of one interface. `all` and `default` are no interfaces: they would change what is not ours.
    pub fn of_interface(family: Family, interface: &str, setting: &str) -> Result<Self, SysctlError> {
        let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        let reserved = matches!(interface, "" | "." | ".." | "all" | "default");
        if reserved || interface.len() > 15 || interface.contains(bad) {
            return Err(SysctlError::BadName(interface.to_owned()));
        }
        let family = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        Self::named(&format!("net/{family}/conf/{interface}/{setting}"))
    }

    fn file(&self) -> String {
        format!("/proc/sys/{}", self.path)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Dots read better, unless a part has one.
        let dotted = !self.path.contains('.');
        if dotted {
            self.path.chars().map(exchanged).try_for_each(|c| write!(f, "{c}"))
        } else {
            f.write_str(&self.path)
        }
    }
}

/// The value now, without the line end.
pub fn read(key: &Key) -> Result<String, SysctlError> {
    let text =
        fs::read_to_string(key.file()).map_err(|error| failed(key, super::socket::errno_of(&error), None))?;
    Ok(text.trim_end().to_owned())
}

/// Sets the value; tells whether that changed anything.
pub fn write(key: &Key, value: &str) -> Result<bool, SysctlError> {
    // Some settings can only be written; then every write is a change.
    if read(key).is_ok_and(|now| now.split_whitespace().eq(value.split_whitespace())) {
        return Ok(false);
    }
    let write = || fs::OpenOptions::new().write(true).open(key.file())?.write_all(value.as_bytes());
    fault::around(Effect::Sysctl, || write().map_err(|error| super::socket::errno_of(&error)))
        .map_err(|errno| failed(key, errno, Some(value)))?;
    Ok(true)
}

fn exchanged(c: char) -> char {
    match c {
        '.' => '/',
        '/' => '.',
        other => other,
    }
}

fn failed(key: &Key, errno: Errno, value: Option<&str>) -> SysctlError {
    let key = key.clone();
    match (errno, value) {
        (Errno::ENOENT, _) => SysctlError::Missing(key),
        (Errno::EROFS, _) => SysctlError::ReadOnly(key),
        (Errno::EINVAL | Errno::ERANGE, Some(value)) => {
            SysctlError::BadValue { key, value: value.to_owned() }
        }
        (errno, _) => SysctlError::System { key, errno },
    }
}
