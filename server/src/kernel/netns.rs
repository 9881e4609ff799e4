//! Network namespaces with names, exactly as `ip netns` makes, lists and deletes them: a mount of the
//! namespace over an empty file below a shared `/run/netns`.
//!
//! A namespace is identified by its cookie (unique per boot), never by name or inode: names are reused, inodes
//! too. All names are one path component; symbolic links are refused, not followed.

use std::convert::Infallible;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::socket::{RequestError, RouteSocket, request};
use super::thread::{self, ThreadError};
use crate::fault::{self, Effect};

/// Where `ip netns` keeps the namespaces.
pub const SYSTEM_ROOT: &str = "/run/netns";

/// Attempts to remove a name that others keep mounting over.
const UNPIN_TRIES: usize = 16;
/// Others hold the lock of the directory for microseconds; one that keeps it shall not stop us for ever.
const LOCK_TRIES: usize = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// A directory of named namespaces.
#[derive(Clone, Debug)]
pub struct Namespaces {
    root: PathBuf,
    /// All mounts below the root were shared once; later ones inherit it from the root.
    shared: Arc<AtomicBool>,
}

/// A namespace that is held by a descriptor alone: it dies with the last holder, also at SIGKILL.
#[derive(Debug)]
pub struct Held {
    /// Holds it.
    pub fd: OwnedFd,
    /// Identifies it until the next boot.
    pub cookie: u64,
}

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What a name in the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A network namespace.
    Namespace,
    /// A plain file: left by a crash between making the file and mounting over it, or by an unmount.
    Unpinned,
    /// Something else: a symbolic link, a directory, another kind of namespace.
    Foreign,
}

/// Why a namespace was not made, opened, deleted or listed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Not one path component.
    #[error("{0:?} cannot name a network namespace")]
    BadName(String),
    /// The name is taken.
    #[error("the network namespace {0:?} exists already")]
    Exists(String),
    /// Nothing has that name.
    #[error("there is no network namespace {0:?}")]
    Missing(String),
    /// The file is there, but no namespace is mounted on it.
    #[error("{0:?} is a plain file without a network namespace")]
    Unpinned(String),
    /// A symbolic link, or the path goes through one.
    #[error("{0:?} is or goes through a symbolic link")]
    Symlink(String),
    /// Not a network namespace.
    #[error("{0:?} is not a network namespace")]
    NotANamespace(String),
    /// A system call failed.
    #[error("{operation} {subject:?}: {errno}")]
    System {
        /// The call.
        operation: &'static str,
        /// What it was called on.
        subject: String,
        /// Its errno.
        errno: Errno,
    },
    /// The work inside a new namespace failed; nothing was made.
    #[error("preparing the network namespace {name:?}: {source}")]
    Inside {
        /// The name that it did not get.
        name: String,
        /// What the work said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The helper thread failed.
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::at(SYSTEM_ROOT)
    }
}

impl Namespaces {
    /// The namespaces named in this directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), shared: Arc::default() }
    }

    /// The path under which a namespace of this name is found.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a namespace and names it. It contains a loopback interface that is down, and nothing else.
    pub fn create(&self, name: &str) -> Result<Held, NetnsError> {
        self.create_with(name, || Ok::<_, Infallible>(())).map(|(held, ())| held)
    }

    /// Makes a namespace, does the work inside, and only then names it: a namespace that others can see is
    /// always prepared (marked as ours, say), also if we are killed in between.
    pub fn create_with<T: Send, E: Into<Box<dyn std::error::Error + Send + Sync>> + Send>(
        &self,
        name: &str,
        inside: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<(Held, T), NetnsError> {
        self.reserve(name)?;
        let pinned = fresh_with(inside).and_then(|(held, done)| {
            let done =
                done.map_err(|error| NetnsError::Inside { name: name.to_owned(), source: error.into() })?;
            self.bind(name, held.fd.as_fd())?;
            Ok((held, done))
        });
        if pinned.is_err() {
            // Best effort: a plain file that stays is listed as unpinned and can be deleted.
            let _ = self.unlink(name);
        }
        pinned
    }

    /// Names a namespace that is held by a descriptor.
    pub fn pin(&self, name: &str, namespace: impl AsFd) -> Result<(), NetnsError> {
        self.reserve(name)?;
        let pinned = self.bind(name, namespace.as_fd());
        if pinned.is_err() {
            let _ = self.unlink(name);
        }
        pinned
    }

    /// Opens the namespace of this name.
    pub fn open(&self, name: &str) -> Result<OwnedFd, NetnsError> {
        check_name(name)?;
        open_beneath(&self.root, Path::new(name))
    }

    /// Removes the name; the namespace goes when nobody uses it any more. Removing what is not there is fine,
    /// and a leftover plain file goes too.
    pub fn delete(&self, name: &str) -> Result<(), NetnsError> {
        check_name(name)?;
        let path = self.path(name);
        match nix::sys::stat::lstat(&path) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(system("lstat", name, errno)),
            Ok(stat) => match stat.st_mode & libc::S_IFMT {
                libc::S_IFLNK => return Err(NetnsError::Symlink(name.to_owned())),
                libc::S_IFREG => {}
                _ => return Err(NetnsError::NotANamespace(name.to_owned())),
            },
        }
        let mut last = Errno::EBUSY;
        for _ in 0..UNPIN_TRIES {
            let unmount = || umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            match fault::around(Effect::Unpin, unmount) {
                // Not mounted here (any more); the file may still be there.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => return Err(system("umount", name, errno)),
            }
            match self.unlink(name) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                // Another mount lies on it: several `mount --bind`, or one that came in between.
                Err(Errno::EBUSY) => last = Errno::EBUSY,
                Err(errno) => return Err(system("unlink", name, errno)),
            }
        }
        Err(system("unlink", name, last))
    }

    /// Removes a plain file that has this name. A namespace is never removed: the kernel does not unlink what is
    /// mounted over.
    pub fn remove_leftover(&self, name: &str) -> Result<(), NetnsError> {
        check_name(name)?;
        match self.unlink(name) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EBUSY) => Err(NetnsError::Exists(name.to_owned())),
            Err(errno) => Err(system("unlink", name, errno)),
        }
    }

    /// All names, sorted. A directory that does not exist has none.
    pub fn list(&self) -> Result<Vec<Entry>, NetnsError> {
        let unreadable = |error: std::io::Error| self.failed("read", &error);
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            // Names that are not UTF-8 cannot be ours and cannot be spoken of.
            let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else { continue };
            let kind = match self.open(&name) {
                Ok(_) => EntryKind::Namespace,
                Err(NetnsError::Missing(_)) => continue,
                Err(NetnsError::Unpinned(_)) => EntryKind::Unpinned,
                Err(_) => EntryKind::Foreign,
            };
            found.push(Entry { name, kind });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Makes the file that carries the mount, in a directory whose mounts others see.
    fn reserve(&self, name: &str) -> Result<(), NetnsError> {
        check_name(name)?;
        let directory = self.prepare()?;
        let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        match fault::around(Effect::Pin, || openat(&directory, name, flags, Mode::empty())) {
            Ok(_) => Ok(()),
            Err(Errno::EEXIST) => Err(NetnsError::Exists(name.to_owned())),
            Err(errno) => Err(system("create", name, errno)),
        }
    }

    /// The directory, shared between mount namespaces, as `ip netns add` leaves it. The lock keeps two tools
    /// from binding the directory onto itself twice.
    fn prepare(&self) -> Result<OwnedFd, NetnsError> {
        let root = self.root.as_path();
        match DirBuilder::new().mode(0o755).create(root) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.failed("mkdir", &error)),
        }
        let on_root = |operation| move |errno| system(operation, &root.to_string_lossy(), errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(root, flags, Mode::empty()).map_err(on_root("open"))?;
        let lock = lock(directory).map_err(on_root("flock"))?;
        let share = |depth| {
            let share = || mount(None::<&str>, root, None::<&str>, MsFlags::MS_SHARED | depth, None::<&str>);
            fault::around(Effect::Pin, share)
        };
        // `ip` shares all mounts below at every call; with 10 000 of them that takes longer than all the rest.
        let known = self.shared.load(Ordering::Relaxed);
        match share(if known { MsFlags::empty() } else { MsFlags::MS_REC }) {
            Ok(()) => {}
            // The directory is not a mount yet, or no more: it becomes one.
            Err(Errno::EINVAL) => {
                let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                let bind = || mount(Some(root), root, None::<&str>, bind, None::<&str>);
                fault::around(Effect::Pin, bind).map_err(on_root("bind"))?;
                share(MsFlags::MS_REC).map_err(on_root("share"))?;
            }
            Err(errno) => return Err(on_root("share")(errno)),
        }
        self.shared.store(true, Ordering::Relaxed);
        drop(lock);
        // The descriptor above may lie beneath the new mount.
        open(root, flags, Mode::empty()).map_err(on_root("open"))
    }

    fn bind(&self, name: &str, namespace: BorrowedFd<'_>) -> Result<(), NetnsError> {
        let source = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
        let path = self.path(name);
        let bind = || mount(Some(source.as_str()), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        fault::around(Effect::Pin, bind).map_err(|errno| system("bind", name, errno))
    }

    fn unlink(&self, name: &str) -> Result<(), Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&self.root, flags, Mode::empty())?;
        fault::around(Effect::Unpin, || unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir))
    }

    fn failed(&self, operation: &'static str, error: &std::io::Error) -> NetnsError {
        system(operation, &self.root.to_string_lossy(), super::socket::errno_of(error))
    }
}

/// Makes a namespace without a name.
pub fn fresh() -> Result<Held, NetnsError> {
    fresh_with(|| ()).map(|(held, ())| held)
}

/// The namespace of the calling thread.
pub fn own() -> Result<OwnedFd, NetnsError> {
    let path = "/proc/thread-self/ns/net";
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| system("open", path, errno))
}

/// Opens the network namespace at a path below a root that is trusted; no symbolic link on the way, nothing
/// outside of the root.
pub fn open_beneath(root: &Path, relative: &Path) -> Result<OwnedFd, NetnsError> {
    let subject = relative.to_string_lossy();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = match open(root, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Err(NetnsError::Missing(subject.into_owned())),
        Err(errno) => return Err(system("open", &root.to_string_lossy(), errno)),
    };
    // Non-blocking: whoever put a FIFO there shall not stop us.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH;
    let opened = match openat2(&directory, relative, OpenHow::new().flags(flags).resolve(resolve)) {
        // Some system call filters do not know openat2. For one component O_NOFOLLOW says the same.
        Err(Errno::ENOSYS | Errno::EPERM) if relative.components().count() == 1 => {
            openat(&directory, relative, flags | OFlag::O_NOFOLLOW, Mode::empty())
        }
        opened => opened,
    };
    match opened {
        Ok(fd) => {
            check_kind(&fd, &subject)?;
            Ok(fd)
        }
        Err(Errno::ENOENT) => Err(NetnsError::Missing(subject.into_owned())),
        Err(Errno::ELOOP) => Err(NetnsError::Symlink(subject.into_owned())),
        // Leaves the root, or is a thing that cannot be opened like a file (a socket, a device).
        Err(Errno::EXDEV | Errno::ENXIO | Errno::ENODEV) => {
            Err(NetnsError::NotANamespace(subject.into_owned()))
        }
        // The file that carries a mount has mode 0: only root in sight of its owner may open it.
        Err(errno) => Err(system("open", &subject, errno)),
    }
}

/// The cookie of this namespace: its identity until the next boot.
pub fn cookie(namespace: impl AsFd) -> Result<u64, NetnsError> {
    thread::run(namespace, "netns-cookie", own_cookie)?
}

/// The cookie of the calling thread's namespace.
pub fn own_cookie() -> Result<u64, NetnsError> {
    let failed = |operation| move |errno| system(operation, "SO_NETNS_COOKIE", errno);
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(failed("socket"))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes, which is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map_err(failed("getsockopt"))?;
    Ok(cookie)
}

/// The id by which the socket's namespace knows this one; events of a [`Monitor`](super::monitor::Monitor)
/// that hears all namespaces bear it. `None`: it has none yet.
pub fn nsid(socket: &mut RouteSocket, namespace: impl AsFd) -> Result<Option<i32>, RequestError> {
    let message = nsid_message(namespace.as_fd(), None);
    let replies = socket.request_reply(request(RouteNetlinkMessage::GetNsId(message)))?;
    Ok(replies.iter().find_map(|reply| match reply {
        RouteNetlinkMessage::NewNsId(message) => {
            message.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) => (*id >= 0).then_some(*id),
                _ => None,
            })
        }
        _ => None,
    }))
}

/// Like [`nsid`], giving it one if it has none.
pub fn assign_nsid(socket: &mut RouteSocket, namespace: impl AsFd) -> Result<Option<i32>, RequestError> {
    let message = nsid_message(namespace.as_fd(), Some(-1));
    let assign: NetlinkMessage<_> = request(RouteNetlinkMessage::NewNsId(message));
    match socket.request_reply(assign) {
        Ok(_) => {}
        Err(RequestError::Kernel(error)) if error.errno == Errno::EEXIST => {}
        Err(error) => return Err(error),
    }
    nsid(socket, namespace)
}

fn nsid_message(namespace: BorrowedFd<'_>, id: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().unsigned_abs()));
    message.attributes.extend(id.map(NsidAttribute::Id));
    message
}

/// Makes a namespace without a name, and works in it.
fn fresh_with<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<(Held, T), NetnsError> {
    thread::run_in_new("netns-new", || {
        let held = Held { fd: own()?, cookie: own_cookie()? };
        Ok((held, inside()))
    })?
}

fn lock(mut directory: OwnedFd) -> Result<Flock<OwnedFd>, Errno> {
    for _ in 0..LOCK_TRIES {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EAGAIN | Errno::EINTR)) => directory = back,
            Err((_, errno)) => return Err(errno),
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(Errno::EAGAIN)
}

/// What lies behind the descriptor must be a network namespace.
pub(super) fn check_kind(fd: &OwnedFd, subject: &str) -> Result<(), NetnsError> {
    let stat = fstatfs(fd).map_err(|errno| system("fstatfs", subject, errno))?;
    if stat.filesystem_type() != NSFS_MAGIC {
        let kind = nix::sys::stat::fstat(fd).map_err(|errno| system("fstat", subject, errno))?.st_mode;
        return Err(match kind & libc::S_IFMT {
            libc::S_IFREG => NetnsError::Unpinned(subject.to_owned()),
            _ => NetnsError::NotANamespace(subject.to_owned()),
        });
    }
    // SAFETY: this ioctl takes no argument and returns the CLONE_NEW… flag of the namespace.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    match Errno::result(kind) {
        Ok(libc::CLONE_NEWNET) => Ok(()),
        Ok(_) => Err(NetnsError::NotANamespace(subject.to_owned())),
        Err(errno) => Err(system("NS_GET_NSTYPE", subject, errno)),
    }
}

fn check_name(name: &str) -> Result<(), NetnsError> {
    let bad = name.is_empty()
        || name.len() > 255
        || matches!(name, "." | "..")
        || name.chars().any(|c| c == '/' || c.is_control());
    if bad { Err(NetnsError::BadName(name.to_owned())) } else { Ok(()) }
}

fn system(operation: &'static str, subject: &str, errno: Errno) -> NetnsError {
    NetnsError::System { operation, subject: subject.to_owned(), errno }
}

/// Linux 5.14; libc does not know it yet.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
