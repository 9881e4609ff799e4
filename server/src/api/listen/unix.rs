//! A unix socket file that is never, for no instant, open to more than it shall be.
//!
//! Linux gives the file of a bound socket the mode of the socket itself, so `fchmod` before `bind` makes it 0600 from
//! the first instant, whatever the umask; before `listen` nobody can connect at all. In between come group and final
//! mode. (A umask would hold for the whole process; a rename from a private directory would show the wrong path in
//! `ss -x`.) A lock on the directory keeps two daemons from replacing the same stale file.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, fchownat, geteuid};
use tokio::net::UnixListener;
use tracing::warn;

use super::accept::Socket;
use super::{ListenError, Listener};
use crate::api::auth::Access;
use crate::config::SocketConfig;

/// More than this wait in `connect`.
pub(super) const BACKLOG: i32 = 1024;

/// The file of our socket; removed with it, unless another one has taken the path.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Makes the socket of `config`; who may connect has `access`.
pub(super) fn open(config: &SocketConfig, access: Access) -> Result<Listener, ListenError> {
    let path = &config.path;
    let directory = path.parent().unwrap_or(Path::new("/"));
    prepare(directory)?;
    let lock = lock(directory).map_err(at(directory))?;
    clear(path)?;
    let (listener, file) = make(config).map_err(at(path))?;
    drop(lock);
    Ok(Listener(Socket::Unix { listener, access, _file: file }))
}

fn at(path: &Path) -> impl Fn(io::Error) -> ListenError {
    move |source| ListenError::Io { place: path.display().to_string(), source }
}

/// The directory exists and nobody else can put things into it. The sockets guard themselves, so it may be passed.
fn prepare(directory: &Path) -> Result<(), ListenError> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(directory)(error)),
    }
    let mode = fs::metadata(directory).map_err(at(directory))?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(ListenError::OpenDirectory { path: directory.to_owned() });
    }
    Ok(())
}

fn lock(directory: &Path) -> io::Result<Flock<File>> {
    // Held for a few system calls only, so waiting is short.
    Ok(Flock::lock(File::open(directory)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?)
}

/// Removes a socket of ours that nobody answers; refuses whatever else is there.
fn clear(path: &Path) -> Result<(), ListenError> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(path)(error)),
    };
    let not_ours = |reason: String| Err(ListenError::NotOurs { path: path.to_owned(), reason });
    if meta.file_type().is_symlink() {
        return not_ours("is a symbolic link".to_owned());
    }
    if !meta.file_type().is_socket() {
        return not_ours("is not a socket".to_owned());
    }
    if meta.uid() != geteuid().as_raw() {
        return not_ours(format!("belongs to uid {}", meta.uid()));
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(at(path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It answers, or it is too busy to.
        Ok(_) | Err(_) => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

fn make(config: &SocketConfig) -> io::Result<(UnixListener, SocketFile)> {
    let path = &config.path;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // From here on the file goes when something fails.
    let meta = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.clone(), identity: (meta.dev(), meta.ino()) };
    admit(config)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok((UnixListener::from_std(StdListener::from(socket))?, file))
}

/// Lets the group in, or leaves the socket to its owner if that cannot be.
fn admit(config: &SocketConfig) -> io::Result<()> {
    // A handle of the file itself: what stands at the path does not matter any more.
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(&config.path)?;
    let mode = match &config.group {
        None => config.mode & 0o700,
        Some(name) => match give(&handle, name) {
            Ok(()) => config.mode,
            Err(reason) => {
                warn!(socket = %config.path.display(), group = name, reason, "only the daemon's own user may connect");
                config.mode & 0o700
            }
        },
    };
    fs::set_permissions(format!("/proc/self/fd/{}", handle.as_raw_fd()), Permissions::from_mode(mode))
}

fn give(handle: &File, group: &str) -> Result<(), String> {
    let group = Group::from_name(group)
        .map_err(|errno| format!("the group cannot be looked up: {errno}"))?
        .ok_or("there is no such group")?;
    fchownat(handle, "", None, Some(group.gid), AtFlags::AT_EMPTY_PATH)
        .map_err(|errno| format!("the socket cannot be given to the group: {errno}"))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(socket = %self.path.display(), %error, "the socket file stays; the next start replaces it");
        }
    }
}
