//! Work in a network namespace: on a thread of its own that enters the namespace, works, and ends.
//!
//! Such a thread never goes back to a pool, so no later work finds itself in the wrong namespace; runtime
//! threads never call `setns`. What the work opens there (sockets, files below `/proc/sys/net`) stays bound to
//! the namespace and may be used anywhere afterwards.

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, scope};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// Enough for the deepest decoder in a debug build, small enough for many at once.
const STACK: usize = 512 * 1024;

/// The work could not be done there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThreadError {
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Spawn(Errno),
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace: {0}")]
    Enter(Errno),
    /// No new namespace can be made.
    #[error("cannot make a network namespace: {0}")]
    Unshare(Errno),
    /// The work panicked: a bug, contained.
    #[error("the work in the network namespace panicked: {0}")]
    Panicked(String),
}

/// Where the thread goes first.
enum Place<'a> {
    Existing(std::os::fd::BorrowedFd<'a>),
    New,
}

/// Does the work in this namespace and waits for it. Call it from a thread that may wait.
pub fn run<T: Send>(
    namespace: impl AsFd,
    name: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, ThreadError> {
    scoped(Place::Existing(namespace.as_fd()), name, work)
}

/// Does the work in a namespace made for it, which lives as long as something holds it.
pub fn run_in_new<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, ThreadError> {
    scoped(Place::New, name, work)
}

/// Starts the work in this namespace; `done` is called with the result on the thread that worked. For callers
/// that must not wait, `done` sends into a channel.
pub fn start<T>(
    namespace: OwnedFd,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    done: impl FnOnce(Result<T, ThreadError>) + Send + 'static,
) -> Result<(), ThreadError> {
    let body = move || {
        let result = there(Place::Existing(namespace.as_fd()), work);
        // The descriptor must not outlive the work: it alone could keep a deleted namespace alive.
        drop(namespace);
        done(result);
    };
    builder(name).spawn(body).map(drop).map_err(spawn_failed)
}

fn scoped<T: Send>(place: Place<'_>, name: &str, work: impl FnOnce() -> T + Send) -> Result<T, ThreadError> {
    scope(|threads| {
        let thread = builder(name).spawn_scoped(threads, || there(place, work)).map_err(spawn_failed)?;
        thread.join().unwrap_or_else(|panic| Err(ThreadError::Panicked(text_of(&*panic))))
    })
}

fn there<T>(place: Place<'_>, work: impl FnOnce() -> T) -> Result<T, ThreadError> {
    match place {
        Place::Existing(namespace) => {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(ThreadError::Enter)?
        }
        Place::New => unshare(CloneFlags::CLONE_NEWNET).map_err(ThreadError::Unshare)?,
    }
    // The thread ends after this, so nobody sees what a panic left half done, save through `T`.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| ThreadError::Panicked(text_of(&*panic)))
}

fn builder(name: &str) -> Builder {
    // A NUL would make the standard library panic.
    Builder::new().name(name.replace('\0', "")).stack_size(STACK)
}

fn spawn_failed(error: std::io::Error) -> ThreadError {
    ThreadError::Spawn(super::socket::errno_of(&error))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
