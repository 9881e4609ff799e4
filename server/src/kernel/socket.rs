//! A synchronous rtnetlink socket that matches answers to requests, keeps what the kernel said, and never
//! waits for ever.
//!
//! It belongs to the network namespace of the thread that opens it, and to one short-lived thread at a time.
//! - A batch is *not* atomic: every message has its own result, found by its sequence number.
//! - A dump is complete or an error: interrupted dumps are repeated a few times, and a message that cannot be
//!   decoded makes the dump unknown. Nothing is ever dropped silently, because a reconciler would take a missing
//!   object for an absent one.
//! - After a [`SocketError`] the state of the requests is unknown; drop the socket, observe, and plan again.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::datagram::{DumpEnd, DumpReader, Lost, Part, parts};
use super::extack::{KernelError, describe};
use crate::fault::{self, Effect, Fault};
use crate::telemetry::EFFORT;

/// How long an answer may take. The kernel answers before `sendto` returns, save for the rare dump.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers queue up in the receive buffer while one `sendto` runs, so the part sent at once is limited to what
/// the buffer holds even where it cannot be enlarged.
const MESSAGES_AT_ONCE: usize = 64;
const RECEIVE_BUFFER: usize = 1 << 20;
const READ_BUFFER: usize = 1 << 16;
/// How often an interrupted dump is begun anew.
const DUMP_TRIES: u32 = 6;

/// A route socket; see the module.
pub struct RouteSocket {
    socket: Socket,
    sequence: u32,
    timeout: Duration,
    buffer: Vec<u8>,
    sound: bool,
}

/// What one request got: the messages sent in reply (an echo, or what a GET asked for), or the refusal.
pub type Answer = Result<Vec<RouteNetlinkMessage>, KernelError>;

/// The socket failed, and with it the knowledge of what was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// A system call on the socket failed.
    #[error("netlink: {operation}: {errno}")]
    System {
        /// The call.
        operation: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// No answer within the time-out.
    #[error("netlink: no answer within {waited:?}, {missing} outstanding, first {operation}")]
    TimedOut {
        /// The time-out.
        waited: Duration,
        /// Requests without an answer.
        missing: usize,
        /// The first of them.
        operation: String,
    },
    /// The receive buffer overflowed: answers were lost.
    #[error("netlink: the receive buffer overflowed, answers were lost")]
    Overrun,
    /// An answer came that we cannot read.
    #[error("netlink: an answer could not be decoded: {0}")]
    Undecodable(String),
}

/// One request failed, in either way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The kernel said no.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// We do not know.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// A dump that is not complete; whatever was read of it is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DumpError {
    /// The tables changed under the dump, every time we tried.
    #[error("{operation}: interrupted by changes {tries} times")]
    Interrupted {
        /// What was dumped.
        operation: String,
        /// How often.
        tries: u32,
    },
    /// A message of the dump could not be decoded: its object is unknown, not absent.
    #[error("{operation}: an entry could not be decoded: {reason}")]
    Undecodable {
        /// What was dumped.
        operation: String,
        /// What the decoder said.
        reason: String,
    },
    /// The kernel refused the dump.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// A request that does or changes one thing.
pub fn request(message: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
    with_flags(message, NLM_F_REQUEST | NLM_F_ACK)
}

/// A request that makes a new thing: EEXIST if it is there.
pub fn create(message: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
    with_flags(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
}

/// A request that makes a thing, in the place of an equal one if need be.
pub fn replace(message: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
    with_flags(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
}

/// The request, asking the kernel to send back what came of it. For new links from Linux 6.2 on.
pub fn echo(mut message: NetlinkMessage<RouteNetlinkMessage>) -> NetlinkMessage<RouteNetlinkMessage> {
    message.header.flags |= NLM_F_ECHO;
    message
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, SocketError> {
        Self::open_with_timeout(DEFAULT_TIMEOUT)
    }

    /// Like [`RouteSocket::open`], with another patience.
    pub fn open_with_timeout(timeout: Duration) -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // From now on the kernel refuses what other processes send here: a hostile workload in this namespace
        // can neither fill our buffer nor keep us reading.
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_ext_ack(true).map_err(failed("NETLINK_EXT_ACK"))?;
        socket.set_cap_ack(true).map_err(failed("NETLINK_CAP_ACK"))?;
        socket.set_netlink_get_strict_chk(true).map_err(failed("NETLINK_GET_STRICT_CHK"))?;
        enlarge(&socket, RECEIVE_BUFFER).map_err(system("SO_RCVBUF"))?;
        let micros = i64::try_from(timeout.as_micros().max(1)).unwrap_or(i64::MAX);
        let patience = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience).map_err(system("SO_RCVTIMEO"))?;
        Ok(Self { socket, sequence: 0, timeout, buffer: Vec::with_capacity(READ_BUFFER), sound: true })
    }

    /// Whether it may be used again: no call on it ended with a [`SocketError`].
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// Sends all messages, and returns for each, in order, whether the kernel did it. One refused message does
    /// not keep the later ones from being done.
    pub fn batch(
        &mut self,
        messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<Vec<Result<(), KernelError>>, SocketError> {
        let answers = self.exchange(messages)?;
        Ok(answers.into_iter().map(|answer| answer.map(drop)).collect())
    }

    /// Like [`RouteSocket::batch`], with what the kernel sent in reply to each.
    pub fn exchange(
        &mut self,
        messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<Vec<Answer>, SocketError> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let part: Vec<_> = messages.by_ref().take(MESSAGES_AT_ONCE).collect();
            answers.append(&mut self.exchange_part(part)?);
        }
        Ok(answers)
    }

    /// One request, and what the kernel sent in reply to it.
    pub fn request_reply(
        &mut self,
        message: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        match self.exchange_part(vec![message])?.pop() {
            Some(answer) => Ok(answer?),
            None => Err(SocketError::Undecodable("no answer to the request".to_owned()).into()),
        }
    }

    /// The link of this name in the socket's namespace; `None` if there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<LinkMessage>, RequestError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.link(message)
    }

    /// The link of this index in the socket's namespace; `None` if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<LinkMessage>, RequestError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message)
    }

    /// The link of this index in the namespace that has this id here, or in the socket's own.
    pub fn link_elsewhere(
        &mut self,
        namespace: Option<i32>,
        index: u32,
    ) -> Result<Option<LinkMessage>, RequestError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
        self.link(message)
    }

    /// All objects that the GET message selects, in one consistent picture.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, DumpError> {
        for attempt in 0..DUMP_TRIES {
            if attempt > 0 {
                // Whoever changes the table so fast gets a moment to finish: 1, 2, 4 … ms.
                std::thread::sleep(Duration::from_millis(1 << (attempt - 1)));
            }
            if let Some(found) = self.dump_once(&message)? {
                return Ok(found);
            }
        }
        Err(DumpError::Interrupted { operation: describe(&message), tries: DUMP_TRIES })
    }

    /// Waits for the answer to a request that was never sent: as if the answer had been lost.
    #[cfg(test)]
    pub(super) fn wait_for_nothing(
        &mut self,
        message: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<Vec<Answer>, SocketError> {
        self.collect(self.sequence.wrapping_add(1), &[message])
    }

    fn link(&mut self, message: LinkMessage) -> Result<Option<LinkMessage>, RequestError> {
        match self.request_reply(request(RouteNetlinkMessage::GetLink(message))) {
            Ok(replies) => {
                let link = replies.into_iter().find_map(|reply| match reply {
                    RouteNetlinkMessage::NewLink(link) => Some(link),
                    _ => None,
                });
                // Only ENODEV says that there is none.
                let none = || SocketError::Undecodable("an acknowledgement without the link".to_owned());
                Ok(Some(link.ok_or_else(none)?))
            }
            Err(RequestError::Kernel(error)) if error.errno == Errno::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn exchange_part(
        &mut self,
        mut messages: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<Vec<Answer>, SocketError> {
        let changes = messages.iter().any(is_change);
        if changes {
            fault::begin(Effect::Route);
        }
        let fault = faulty(&messages);
        if let Some((index, Fault::Refused(errno))) = fault {
            let refused = messages.remove(index);
            let operation = operation(&refused);
            let mut answers = if messages.is_empty() { Vec::new() } else { self.exchange_part(messages)? };
            answers
                .insert(index, Err(KernelError { errno: Errno::from_raw(errno), operation, extack: None }));
            return Ok(answers);
        }
        self.sound = false;
        if changes && messages.len() > 1 && fault::dies_between(Effect::Route) {
            let half = messages.len() / 2;
            self.send(&mut messages[..half], NLM_F_ACK)?;
            fault::die();
        }
        let first = self.send(&mut messages, NLM_F_ACK)?;
        if let Some((_, Fault::Lost)) = fault {
            let lost = SocketError::TimedOut {
                waited: self.timeout,
                missing: messages.len(),
                operation: messages.first().map(operation).unwrap_or_default(),
            };
            return Err(lost);
        }
        let answers = self.collect(first, &messages)?;
        self.sound = true;
        if changes {
            fault::after(Effect::Route);
        }
        Ok(answers)
    }

    /// Numbers the messages and sends them in one call; returns the number of the first.
    fn send(
        &mut self,
        messages: &mut [NetlinkMessage<RouteNetlinkMessage>],
        flags: u16,
    ) -> Result<u32, SocketError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.flags |= flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let (start, length) = (bytes.len(), message.buffer_len());
            bytes.resize(start + length.next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..start + length]);
        }
        EFFORT.route.fetch_add(1, Ordering::Relaxed);
        // Interrupted before the kernel took anything, so sending again is safe.
        let kernel = SocketAddr::new(0, 0);
        retry_interrupted(|| self.socket.send_to(&bytes, &kernel, 0)).map_err(system("send"))?;
        Ok(first)
    }

    /// Reads until every message has been acknowledged or refused.
    fn collect(
        &mut self,
        first: u32,
        messages: &[NetlinkMessage<RouteNetlinkMessage>],
    ) -> Result<Vec<Answer>, SocketError> {
        let mut replies: Vec<Vec<RouteNetlinkMessage>> = vec![Vec::new(); messages.len()];
        let mut verdicts: Vec<Option<Result<(), KernelError>>> = vec![None; messages.len()];
        let mut missing = messages.len();
        let mut undecodable = None;
        while missing > 0 {
            let outstanding = || {
                let index = verdicts.iter().position(Option::is_none).unwrap_or_default();
                (missing, messages.get(index).map(operation).unwrap_or_default())
            };
            let received = self.receive(outstanding)?;
            for part in parts(&received) {
                let part = part.map_err(SocketError::Undecodable)?;
                // Late answers to requests that timed out before are not ours.
                let Some(index) = index_of(part.sequence, first, messages.len()) else { continue };
                match part.decode().map_err(SocketError::Undecodable)? {
                    Part::Verdict(refusal) if verdicts[index].is_none() => {
                        verdicts[index] = Some(refusal.into_result(|| operation(&messages[index])));
                        missing -= 1;
                    }
                    Part::Verdict(_) | Part::Nothing => {}
                    Part::Message(message) => replies[index].push(message),
                    Part::Undecodable(reason) => undecodable = Some(reason),
                    Part::Overrun => return Err(SocketError::Overrun),
                }
            }
            self.buffer = received;
        }
        if let Some(reason) = undecodable {
            return Err(SocketError::Undecodable(reason));
        }
        let verdicts = verdicts.into_iter().flatten();
        Ok(verdicts.zip(replies).map(|(verdict, replies)| verdict.map(|()| replies)).collect())
    }

    /// One try; `None` if the dump was interrupted.
    fn dump_once(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, DumpError> {
        match fault::request(Effect::Question) {
            Some(Fault::Refused(errno)) => {
                let (errno, operation) = (Errno::from_raw(errno), describe(message));
                return Err(KernelError { errno, operation, extack: None }.into());
            }
            Some(Fault::Lost) => {
                let (waited, operation) = (self.timeout, describe(message));
                return Err(SocketError::TimedOut { waited, missing: 1, operation }.into());
            }
            None => {}
        }
        self.sound = false;
        let mut request = with_flags(message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
        let mut reader = DumpReader::new(self.send(std::slice::from_mut(&mut request), 0)?);
        let verdict = loop {
            let received = self.receive(|| (1, describe(message)))?;
            let verdict = reader.take(&received).map_err(SocketError::from)?;
            self.buffer = received;
            if let Some(verdict) = verdict {
                break verdict;
            }
        };
        self.sound = true;
        match reader.end(verdict) {
            DumpEnd::Complete(found) => Ok(Some(found)),
            DumpEnd::Interrupted => Ok(None),
            DumpEnd::Undecodable(reason) => {
                Err(DumpError::Undecodable { operation: describe(message), reason })
            }
            // A refusal is never a success, but the types do not know.
            DumpEnd::Refused(refusal) => {
                refusal.into_result(|| describe(message))?;
                Ok(None)
            }
        }
    }

    /// The next datagram from the kernel. The buffer is lent out; give it back to save an allocation.
    fn receive(&mut self, outstanding: impl Fn() -> (usize, String)) -> Result<Vec<u8>, SocketError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            buffer.clear();
            buffer.reserve(READ_BUFFER);
            let space = buffer.capacity();
            match retry_interrupted(|| self.socket.recv_from(&mut buffer, libc::MSG_TRUNC)) {
                // Sent by another process before the socket was connected; only the kernel is believed.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > space => {
                    return Err(SocketError::Undecodable(format!("{length} bytes in one datagram")));
                }
                Ok(_) => return Ok(buffer),
                Err(Errno::EAGAIN) => {
                    let (missing, operation) = outstanding();
                    return Err(SocketError::TimedOut { waited: self.timeout, missing, operation });
                }
                Err(Errno::ENOBUFS) => return Err(SocketError::Overrun),
                Err(errno) => return Err(SocketError::System { operation: "receive", errno }),
            }
        }
    }
}

impl From<Lost> for SocketError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Overrun => Self::Overrun,
            Lost::Damaged(reason) => Self::Undecodable(reason),
        }
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes the receive buffer this large: by force where we may, else as large as the system allows.
pub(super) fn enlarge(socket: &impl AsFd, size: usize) -> Result<(), Errno> {
    setsockopt(socket, sockopt::RcvBufForce, &size).or_else(|_| setsockopt(socket, sockopt::RcvBuf, &size))
}

/// For system calls that report through `std::io`.
pub(super) fn failed(operation: &'static str) -> impl Fn(std::io::Error) -> SocketError {
    move |error| SocketError::System { operation, errno: errno_of(&error) }
}

pub(super) fn system(operation: &'static str) -> impl Fn(Errno) -> SocketError {
    move |errno| SocketError::System { operation, errno }
}

pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn retry_interrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(errno_of(&error)),
        }
    }
}

fn with_flags(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message))
}

fn operation(message: &NetlinkMessage<RouteNetlinkMessage>) -> String {
    match &message.payload {
        NetlinkPayload::InnerMessage(inner) => describe(inner),
        other => format!("netlink control message {}", other.message_type()),
    }
}

/// Whether it changes anything. Every kind of object has four messages: new, delete, get, set (linux/rtnetlink.h).
fn is_change(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    message.payload.message_type() % 4 != 2
}

/// The message of a batch that is to fail.
fn faulty(messages: &[NetlinkMessage<RouteNetlinkMessage>]) -> Option<(usize, Fault)> {
    let mut fault = None;
    for (index, message) in messages.iter().enumerate() {
        let effect = if is_change(message) { Effect::Route } else { Effect::Question };
        fault = fault::request(effect).map(|what| (index, what)).or(fault);
    }
    fault
}

fn index_of(sequence: u32, first: u32, count: usize) -> Option<usize> {
    let index = sequence.wrapping_sub(first) as usize;
    (index < count).then_some(index)
}
