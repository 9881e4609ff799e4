//! Namespaces that others made: found once, known by their cookie, found again, never held.
//!
//! An open descriptor would keep a namespace alive that its owner wants gone, so there is none between two uses. To find
//! one again, its path is tried, then the processes and the named places whose inode number is its own; whatever is found
//! is it only if it has its cookie, which the kernel gives to no other until the next boot. A pid is never kept.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netloom_api::{AdoptedSource, NetnsPath};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};

use super::netns::{NetnsError, check_kind, cookie, open_beneath, own_cookie};
use super::process::{namespace_of, pids_in};
use super::socket::errno_of;
use crate::world::Adoption;

/// Why no namespace was found to adopt.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Not in a place that the configuration names.
    #[error("{path} is not below {}; the configuration key adopt_root says which directories are", list(.roots))]
    Elsewhere {
        /// The path.
        path: NetnsPath,
        /// Where it would be taken.
        roots: Vec<PathBuf>,
    },
    /// Nothing is there.
    #[error("there is no network namespace at {0}")]
    NoPath(NetnsPath),
    /// No such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// What is there is none, or not to be used.
    #[error(transparent)]
    Unfit(NetnsError),
    /// The daemon's own.
    #[error("it is the host's own network namespace, which is `host`")]
    Own,
    /// It is not known.
    #[error("{0}")]
    Unknown(String),
}

/// Why an adopted namespace was not found again.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is not there any more.
    #[error("{0}")]
    Gone(String),
    /// It cannot be told.
    #[error("{0}")]
    Unknown(String),
}

/// Finds the namespace that a caller means.
pub fn adopt(source: &AdoptedSource, roots: &[PathBuf]) -> Result<(OwnedFd, Adoption), AdoptError> {
    let (fd, path) = match source {
        AdoptedSource::Path(path) => (at_path(path, roots)?, Some(path.clone())),
        AdoptedSource::Pid(pid) => (of_process(*pid)?, None),
    };
    let unknown = |error: &dyn std::fmt::Display| AdoptError::Unknown(error.to_string());
    let found = cookie(&fd).map_err(|error| unknown(&error))?;
    if found == own_cookie().map_err(|error| unknown(&error))? {
        return Err(AdoptError::Own);
    }
    let boot = boot_id().map_err(|error| unknown(&error))?;
    let inode = fstat(&fd).map_err(|errno| unknown(&errno))?.st_ino;
    Ok((fd, Adoption { boot, cookie: found, inode, path }))
}

/// Opens an adopted namespace.
pub fn find(adoption: &Adoption, roots: &[PathBuf]) -> Result<OwnedFd, FindError> {
    let unknown = |error: &dyn std::fmt::Display| FindError::Unknown(error.to_string());
    if boot_id().map_err(|error| unknown(&error))? != adoption.boot {
        return Err(FindError::Gone("the host was started anew since the namespace was adopted".into()));
    }
    if let Some(fd) = adoption.path.as_ref().and_then(|path| at_path(path, roots).ok())
        && is_it(&fd, adoption)
    {
        return Ok(fd);
    }
    for pid in pids_in(adoption.inode).map_err(|error| unknown(&error))? {
        if let Ok(fd) = of_process(pid)
            && is_it(&fd, adoption)
        {
            return Ok(fd);
        }
    }
    let named = roots
        .iter()
        .flat_map(|root| names_with(root, adoption.inode).into_iter().map(move |name| (root, name)));
    for (root, name) in named {
        if let Ok(fd) = open_beneath(root, Path::new(&name))
            && is_it(&fd, adoption)
        {
            return Ok(fd);
        }
    }
    let was = adoption.path.as_ref().map(|path| format!(" at {path}")).unwrap_or_default();
    Err(FindError::Gone(format!(
        "the adopted namespace (cookie {}) is not there any more{was}",
        adoption.cookie
    )))
}

/// Roots themselves may be or go through symbolic links, as /var/run does: they are the administrator's. What is below
/// one may not.
fn at_path(path: &NetnsPath, roots: &[PathBuf]) -> Result<OwnedFd, AdoptError> {
    let whole = Path::new(path.as_str());
    let below = |root: &PathBuf| Some((root.clone(), whole.strip_prefix(root).ok()?.to_owned()));
    let inside = roots.iter().filter_map(below).find(|(_, rest)| !rest.as_os_str().is_empty());
    let Some((root, rest)) = inside else {
        return Err(AdoptError::Elsewhere { path: path.clone(), roots: roots.to_vec() });
    };
    open_beneath(&root, &rest).map_err(|error| match error {
        NetnsError::Missing(_) => AdoptError::NoPath(path.clone()),
        NetnsError::System { errno: Errno::ENOTDIR, .. } => AdoptError::NoPath(path.clone()),
        unfit @ (NetnsError::Unpinned(_) | NetnsError::Symlink(_) | NetnsError::NotANamespace(_)) => {
            AdoptError::Unfit(unfit)
        }
        other => AdoptError::Unknown(other.to_string()),
    })
}

fn of_process(pid: u32) -> Result<OwnedFd, AdoptError> {
    let path = namespace_of(pid);
    let fd = open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ESRCH => AdoptError::NoProcess(pid),
        errno => AdoptError::Unknown(format!("{}: {errno}", path.display())),
    })?;
    check_kind(&fd, &path.to_string_lossy()).map_err(AdoptError::Unfit)?;
    Ok(fd)
}

/// One whose cookie cannot be read is not taken for it.
fn is_it(fd: impl AsFd, adoption: &Adoption) -> bool {
    cookie(fd).is_ok_and(|cookie| cookie == adoption.cookie)
}

/// Names in a directory that have this inode number.
fn names_with(root: &Path, inode: u64) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    // Not the entry's own number: that is of the file below the mount.
    let has = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.ino() == inode);
    entries.filter(|entry| has(entry.path())).map(|entry| entry.file_name()).collect()
}

fn boot_id() -> Result<String, String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let failed = |error: io::Error| format!("{PATH}: {}", errno_of(&error));
    Ok(fs::read_to_string(PATH).map_err(failed)?.trim().to_owned())
}

fn list(roots: &[PathBuf]) -> String {
    let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    if roots.is_empty() { "any directory".into() } else { roots.join(", ") }
}
