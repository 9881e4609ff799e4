//! Conversations between sockets: who answers, and whom do they see.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use netloom_server::kernel::thread;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, recv, send,
        socket, sockopt,
    },
};

use super::{PATIENCE, Site};

const REPEAT: Duration = Duration::from_millis(250);

/// The transport of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

pub use Transport::{Tcp, Udp};

/// One row: who calls whom, and what comes back.
pub struct Call {
    from: &'static str,
    transport: Transport,
    to: SocketAddr,
    expected: Answer,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer by `place:port`, who saw the caller come from this address. An answer from any other address than
    /// the one that was called does not count: the socket is connected.
    From { by: String, seen: String },
    /// Somebody is there, and nothing listens.
    Refused,
    /// A router says no.
    Unreachable,
    /// Nothing.
    Nothing,
}

/// An answer.
pub fn by(by: &str, seen: &str) -> Answer {
    Answer::From { by: by.into(), seen: seen.into() }
}

pub use Answer::{Nothing, Refused, Unreachable};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { by, seen } => write!(f, "an answer of {by}, who sees {seen}"),
            Self::Refused => f.write_str("a refusal"),
            Self::Unreachable => f.write_str("\"unreachable\""),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// A row.
pub fn call(from: &'static str, transport: Transport, to: &str, expected: Answer) -> Call {
    Call { from, transport, to: to.parse().unwrap(), expected }
}

/// A call that has been made.
pub struct Open {
    transport: Transport,
    socket: Result<OwnedFd, Errno>,
}

impl Site {
    /// Makes all calls at once, waits for the answers that must come, settles, and compares.
    pub fn calls(&mut self, title: &str, rows: &[Call]) {
        let open: Vec<Open> = rows.iter().map(|row| self.dial(row.from, row.transport, row.to)).collect();
        let end = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        for (row, open) in rows.iter().zip(&open) {
            let patience = match row.expected {
                Nothing => Duration::ZERO,
                _ => end.saturating_duration_since(Instant::now()),
            };
            answers.push(open.answer_to_repeated(patience));
        }
        let silent = |row: &&Call| row.expected == Nothing;
        for from in rows.iter().filter(silent).map(|row| row.from).collect::<BTreeSet<_>>() {
            self.settle(from);
        }
        for ((row, open), answer) in rows.iter().zip(&open).zip(&mut answers) {
            if silent(&row) && *answer == Nothing {
                *answer = open.answer(Duration::ZERO);
            }
        }
        let wrong: Vec<String> = rows
            .iter()
            .zip(answers)
            .filter(|(row, answer)| *answer != row.expected)
            .map(|(row, answer)| {
                let Call { from, transport, to, expected } = row;
                format!("{from} calls {to} by {transport:?}: gets {answer}, not {expected}")
            })
            .collect();
        self.judge(title, rows.len(), &wrong);
    }

    /// Connects, or sends a datagram, and does not wait.
    pub fn dial(&self, from: &str, transport: Transport, to: SocketAddr) -> Open {
        let socket = thread::run(self.namespace(from), "call", || {
            let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let kind = if transport == Tcp { SockType::Stream } else { SockType::Datagram };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, kind, flags, None)?;
            match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(errno) => return Err(errno),
            }
            Ok(socket)
        });
        let open = Open { transport, socket: socket.unwrap() };
        if transport == Udp {
            open.ask();
        }
        open
    }
}

impl Open {
    /// Sends one more datagram.
    pub fn ask(&self) {
        if let Ok(socket) = &self.socket {
            // An error is the answer to an earlier datagram; it is asked for later.
            let _ = send(socket.as_raw_fd(), b"?", MsgFlags::empty());
        }
    }

    /// What comes back until then. Datagrams are sent again, as callers do: a flow that begins while flows are being
    /// forgotten may lose its first answer.
    fn answer_to_repeated(&self, patience: Duration) -> Answer {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let answer = self.answer(if self.transport == Udp { left.min(REPEAT) } else { left });
            if answer != Nothing || left <= REPEAT {
                return answer;
            }
            if self.transport == Udp {
                self.ask();
            }
        }
    }

    /// What comes back until then.
    pub fn answer(&self, patience: Duration) -> Answer {
        let socket = match &self.socket {
            Ok(socket) => socket,
            Err(errno) => return of_errno(*errno),
        };
        let timeout = PollTimeout::try_from(patience).unwrap();
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        let mut buffer = [0; 512];
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => of_line(&buffer[..length]),
            // A connection without a word is more than nothing.
            Err(Errno::EAGAIN) if self.transport == Tcp && self.is_connected(socket) => {
                by("a server that says nothing", "?")
            }
            Err(Errno::EAGAIN | Errno::ENOTCONN) => Nothing,
            Err(errno) => of_errno(errno),
        }
    }

    fn is_connected(&self, socket: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1 && getsockopt(socket, sockopt::SocketError) == Ok(0)
    }
}

/// `ADDRESS:PORT LABEL`
fn of_line(line: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(line);
    let line = text.lines().next().unwrap_or_default();
    match line.split_once(' ') {
        Some((seen, label)) => by(label, &seen.parse::<SocketAddr>().unwrap().ip().to_string()),
        None => by(line, "?"),
    }
}

fn of_errno(errno: Errno) -> Answer {
    match errno {
        Errno::ECONNREFUSED => Refused,
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM => Unreachable,
        other => panic!("a call failed: {other}"),
    }
}
