//! Settings that callers choose: tried out before they are kept, in a namespace that nobody uses.

use std::collections::BTreeMap;

use netloom_api::{AdoptedSource, Name, SysctlKey, Sysctls};
use nix::errno::Errno;

use super::{Inner, OpenError};
use crate::kernel::{
    adopt,
    sysctl::{self, Key, SysctlError},
    thread,
};

/// Where settings are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a namespace that is to be made.
    New,
    /// In the Namespace of this name.
    In(Name),
    /// In a namespace that is to be adopted.
    Adopted(AdoptedSource),
}

/// Why settings cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// This one cannot be as it is said.
    #[error("{key}: {why}")]
    Unfit {
        /// Which.
        key: SysctlKey,
        /// Why, and the fix where there is one.
        why: String,
    },
    /// It cannot be told.
    #[error("{0}")]
    Unknown(String),
}

/// Each setting's value from before.
type Tried = Result<BTreeMap<SysctlKey, String>, SettingsError>;

pub(super) fn try_out(inner: &Inner, place: &Place, settings: &Sysctls) -> Tried {
    let work = || -> Tried {
        settings.as_map().iter().map(|(key, value)| Ok((key.clone(), try_one(key, value)?))).collect()
    };
    let fresh = thread::run_in_new("try-settings", work).map_err(unknown)??;
    let fd = match place {
        Place::New => return Ok(fresh),
        Place::In(name) => match inner.open(name) {
            Ok(fd) => fd,
            Err(OpenError::Gone(_)) => return Ok(fresh),
            Err(error @ OpenError::Failed(_)) => return Err(unknown(error)),
        },
        Place::Adopted(source) => adopt::adopt(source, inner.roots()).map_err(unknown)?.0,
    };
    let read = || {
        fresh.into_iter().map(|(key, new)| match read(&key) {
            Ok(value) => Ok((key, value)),
            // The interface may come later.
            Err(SysctlError::Missing(_)) if key.interface().is_some() => Ok((key, new)),
            Err(error) => Err(unfit(&key, error)),
        })
    };
    thread::run(&fd, "read-settings", || read().collect()).map_err(unknown)?
}

/// The value now, in the one spelling of values.
pub(super) fn read(key: &SysctlKey) -> Result<String, SysctlError> {
    let value = Key::named(key.path()).and_then(|key| sysctl::read(&key))?;
    Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Sets it, and tells what it was. The namespace has no interfaces, but what new ones will get.
fn try_one(key: &SysctlKey, value: &str) -> Result<String, SettingsError> {
    let here = key.of_new_interface();
    let before = read(&here).map_err(|error| unfit(key, error))?;
    Key::named(here.path()).and_then(|key| sysctl::write(&key, value)).map_err(|error| unfit(key, error))?;
    match read(&here).map_err(|error| unfit(key, error))? {
        after if after == value => Ok(before),
        after => {
            let why = format!("the kernel makes {after:?} of {value:?}; write it so");
            Err(SettingsError::Unfit { key: key.clone(), why })
        }
    }
}

fn unfit(key: &SysctlKey, error: SysctlError) -> SettingsError {
    let why = match error {
        SysctlError::BadName(_) | SysctlError::Missing(_) => {
            "is no setting of a network namespace in this kernel".to_owned()
        }
        SysctlError::ReadOnly(_) => "cannot be set: /proc/sys is read-only here".to_owned(),
        SysctlError::BadValue { key: _, value } => format!("does not take {value:?}"),
        SysctlError::System { key: _, errno: errno @ (Errno::EACCES | Errno::EPERM) } => {
            format!("cannot be read or set in a namespace: {errno}")
        }
        // Nothing is wrong with the setting; at another time it may go.
        error @ SysctlError::System { .. } => return unknown(error),
    };
    SettingsError::Unfit { key: key.clone(), why }
}

fn unknown(error: impl std::fmt::Display) -> SettingsError {
    SettingsError::Unknown(error.to_string())
}
