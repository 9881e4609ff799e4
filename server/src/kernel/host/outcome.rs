//! What the kernel's answers mean for a step: whether to look again, to give up, or to try later.

use nix::errno::Errno;

use crate::{
    hostnet::{Facts, Failure, FailureSort, Outcome},
    kernel::{
        extack::KernelError,
        netns::NetnsError,
        nft::NftError,
        socket::{RequestError, SocketError},
        thread::ThreadError,
    },
};

pub(super) fn done() -> Outcome {
    Outcome::Done(Facts::default())
}

/// Trying again may help.
pub(super) fn passing(message: String) -> Outcome {
    failed(None, message, FailureSort::Passing)
}

/// The host is not as it was taken to be.
pub(super) fn surprise(message: String) -> Outcome {
    failed(None, message, FailureSort::Surprise)
}

/// Something of somebody else's is in the way.
pub(super) fn conflict(message: String) -> Outcome {
    failed(None, message, FailureSort::Conflict)
}

pub(super) fn failed(errno: Option<Errno>, message: String, sort: FailureSort) -> Outcome {
    Outcome::Failed(Failure { errno: errno.map(|errno| errno as i32), message, sort })
}

/// A request about this thing was refused; what is so already is not told from the rest here.
pub(super) fn refused(what: impl std::fmt::Display, error: &KernelError) -> Outcome {
    failed(Some(error.errno), format!("{what}: {error}"), sort_of(error.errno))
}

pub(super) fn sort_of(errno: Errno) -> FailureSort {
    match errno {
        Errno::ENODEV | Errno::ENOENT | Errno::EEXIST => FailureSort::Surprise,
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EXFULL | Errno::ENOSPC | Errno::ERANGE => {
            FailureSort::Final
        }
        _ => FailureSort::Passing,
    }
}

/// After the socket has failed nobody knows what was done.
pub(super) fn lost(error: &SocketError) -> Outcome {
    surprise(error.to_string())
}

pub(super) fn of_request(what: impl std::fmt::Display, error: &RequestError) -> Outcome {
    match error {
        RequestError::Kernel(error) => refused(what, error),
        RequestError::Socket(error) => lost(error),
    }
}

pub(super) fn of_netns(error: &NetnsError) -> Outcome {
    let errno = match error {
        NetnsError::System { errno, .. } => Some(*errno),
        NetnsError::Thread(
            ThreadError::Spawn(errno) | ThreadError::Enter(errno) | ThreadError::Unshare(errno),
        ) => Some(*errno),
        NetnsError::Thread(ThreadError::Panicked(_))
        | NetnsError::BadName(_)
        | NetnsError::Exists(_)
        | NetnsError::Missing(_)
        | NetnsError::Unpinned(_)
        | NetnsError::Symlink(_)
        | NetnsError::NotANamespace(_)
        | NetnsError::Inside { .. } => None,
    };
    failed(errno, error.to_string(), errno.map_or(FailureSort::Passing, sort_of))
}

pub(super) fn of_nft(result: Result<(), NftError>) -> Outcome {
    match result {
        Ok(()) => done(),
        Err(NftError::Kernel(error)) => failed(Some(error.errno), error.to_string(), sort_of(error.errno)),
        Err(error @ NftError::Unwritable { .. }) => failed(None, error.to_string(), FailureSort::Final),
        Err(error @ NftError::System { errno, .. }) => {
            failed(Some(errno), error.to_string(), FailureSort::Passing)
        }
        Err(error @ (NftError::Lost(_) | NftError::Undecodable { .. } | NftError::Interrupted)) => {
            passing(error.to_string())
        }
    }
}
