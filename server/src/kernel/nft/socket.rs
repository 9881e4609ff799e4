//! The netfilter socket: requests, dumps, and batches that the kernel does whole or not at all.
//!
//! One thread at a time. The kernel does a request inside of `send`, so every answer to a batch lies in the receive
//! buffer when `send` returns, and reading until it is empty is the end.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::uapi::{NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFPROTO_UNSPEC};
use super::wire::Writer;
use crate::fault::{self, Effect, Fault};
use crate::kernel::datagram::parts;
use crate::kernel::extack::Refusal;
use crate::kernel::socket::{DEFAULT_TIMEOUT, SocketError, enlarge, errno_of, failed, system};
use crate::telemetry::EFFORT;

/// Room for the refusals of a large batch; a limit, not an allocation.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Room for the batch itself, which must go in one piece.
const SEND_BUFFER: usize = 16 << 20;
const READ_BUFFER: usize = 1 << 16;
/// Netlink keeps some bytes of the send buffer for itself.
const SEND_RESERVE: usize = 4096;

/// A netfilter socket; see the module.
pub(in crate::kernel) struct NetfilterSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    largest_batch: usize,
    timeout: Duration,
    buffer: Vec<u8>,
}

/// Messages that the kernel does whole or not at all.
pub(in crate::kernel) struct Batch {
    writer: Writer,
    first: u32,
    messages: u32,
    last: usize,
    subsystem: u16,
}

/// One refused message of a batch; `None` where the batch as a whole was refused.
pub(in crate::kernel) type Refused = (Option<usize>, Refusal);

/// What a dump gave.
#[derive(Debug)]
pub(in crate::kernel) enum Dump {
    /// The bodies of all objects, behind the netfilter header.
    Complete(Vec<Vec<u8>>),
    /// What was dumped changed meanwhile.
    Interrupted,
    /// The kernel refused.
    Refused(Refusal),
}

const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

impl NetfilterSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(in crate::kernel) fn open() -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        let address = socket.bind_auto().map_err(failed("bind"))?;
        socket.set_ext_ack(true).map_err(failed("NETLINK_EXT_ACK"))?;
        socket.set_cap_ack(true).map_err(failed("NETLINK_CAP_ACK"))?;
        enlarge(&socket, RECEIVE_BUFFER).map_err(system("SO_RCVBUF"))?;
        if setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER).map_err(system("SO_SNDBUF"))?;
        }
        let largest_batch = getsockopt(&socket, sockopt::SndBuf).map_err(system("SO_SNDBUF"))?;
        let patience = TimeVal::new(i64::try_from(DEFAULT_TIMEOUT.as_secs()).unwrap_or(i64::MAX), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience).map_err(system("SO_RCVTIMEO"))?;
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            largest_batch: largest_batch.saturating_sub(SEND_RESERVE),
            timeout: DEFAULT_TIMEOUT,
            buffer: Vec::with_capacity(READ_BUFFER),
        })
    }

    /// The number by which the kernel knows this socket; the owner of a table is such a number.
    pub(in crate::kernel) fn port(&self) -> u32 {
        self.port
    }

    /// How many bytes a batch may have.
    pub(in crate::kernel) fn largest_batch(&self) -> usize {
        self.largest_batch
    }

    /// An empty batch.
    pub(in crate::kernel) fn batch(&mut self, subsystem: u16) -> Batch {
        Batch::new(self.sequence.wrapping_add(1), subsystem)
    }

    /// Has the batch done; an empty list means that it is.
    pub(in crate::kernel) fn commit(&mut self, batch: Batch) -> Result<Vec<Refused>, SocketError> {
        if batch.messages == 0 {
            return Ok(Vec::new());
        }
        let (first, messages) = (batch.first, batch.messages);
        let last = first.wrapping_add(messages);
        self.sequence = last.wrapping_add(1);
        let fault = fault::before(Effect::Firewall);
        if let Some(Fault::Refused(errno)) = fault {
            let refusal = Refusal { errno: Some(Errno::from_raw(errno)), extack: None };
            return Ok(vec![(Some(0), refusal)]);
        }
        EFFORT.firewall.fetch_add(1, Ordering::Relaxed);
        self.send(&batch.finish())?;
        fault::after(Effect::Firewall);
        if let Some(Fault::Lost) = fault {
            while let Some(datagram) = self.receive(libc::MSG_DONTWAIT)? {
                self.buffer = datagram;
            }
            return Err(lost("the batch"));
        }
        let (mut refused, mut acknowledged) = (Vec::new(), false);
        while let Some(datagram) = self.receive(libc::MSG_DONTWAIT)? {
            for part in parts(&datagram) {
                let part = part.map_err(SocketError::Undecodable)?;
                let index = part.sequence.wrapping_sub(first);
                if index > messages + 1 {
                    // A late answer to an earlier request.
                    continue;
                }
                match part.kind {
                    NLMSG_ERROR => {
                        let refusal = verdict(part.flags, part.payload)?;
                        if refusal.errno.is_some() {
                            let message = index.checked_sub(1).filter(|index| *index < messages);
                            refused.push((message.map(|index| index as usize), refusal));
                        } else if part.sequence == last {
                            acknowledged = true;
                        }
                    }
                    NLMSG_OVERRUN => return Err(SocketError::Overrun),
                    _ => {}
                }
            }
            self.buffer = datagram;
        }
        if refused.is_empty() && !acknowledged {
            let operation = "the batch".to_owned();
            return Err(SocketError::TimedOut { waited: Duration::ZERO, missing: 1, operation });
        }
        Ok(refused)
    }

    /// One request outside of a batch, and the bodies of what the kernel sent in reply.
    pub(in crate::kernel) fn request(
        &mut self,
        subsystem: u16,
        message: u16,
        family: u8,
        body: &[u8],
    ) -> Result<Result<Vec<Vec<u8>>, Refusal>, SocketError> {
        self.request_with(subsystem, message, 0, family, body)
    }

    /// The same, with flags of its own.
    pub(in crate::kernel) fn request_with(
        &mut self,
        subsystem: u16,
        message: u16,
        flags: u16,
        family: u8,
        body: &[u8],
    ) -> Result<Result<Vec<Vec<u8>>, Refusal>, SocketError> {
        self.request_about(subsystem, message, flags, (family, 0), body)
    }

    /// The same, about a resource of the subsystem: a family, and a number that means something to it.
    pub(in crate::kernel) fn request_about(
        &mut self,
        subsystem: u16,
        message: u16,
        flags: u16,
        about: (u8, u16),
        body: &[u8],
    ) -> Result<Result<Vec<Vec<u8>>, Refusal>, SocketError> {
        match fault::request(Effect::Question) {
            Some(Fault::Refused(errno)) => {
                return Ok(Err(Refusal { errno: Some(Errno::from_raw(errno)), extack: None }));
            }
            // It is done all the same.
            Some(Fault::Lost) => {
                self.send_one(subsystem, message, NLM_F_ACK | flags, about, body)?;
                return Err(lost("a request"));
            }
            None => {}
        }
        let sequence = self.send_one(subsystem, message, NLM_F_ACK | flags, about, body)?;
        let mut found = Vec::new();
        loop {
            let datagram = self.wait("a request")?;
            for part in parts(&datagram) {
                let part = part.map_err(SocketError::Undecodable)?;
                if part.sequence != sequence {
                    continue;
                }
                match part.kind {
                    NLMSG_ERROR => {
                        let refusal = verdict(part.flags, part.payload)?;
                        return Ok(if refusal.errno.is_some() { Err(refusal) } else { Ok(found) });
                    }
                    NLMSG_OVERRUN => return Err(SocketError::Overrun),
                    NLMSG_NOOP => {}
                    _ => found.push(body_of(part.payload)?),
                }
            }
            self.buffer = datagram;
        }
    }

    /// All objects that the message asks for.
    pub(in crate::kernel) fn dump(
        &mut self,
        subsystem: u16,
        message: u16,
        family: u8,
        body: &[u8],
    ) -> Result<Dump, SocketError> {
        match fault::request(Effect::Question) {
            Some(Fault::Refused(errno)) => {
                return Ok(Dump::Refused(Refusal { errno: Some(Errno::from_raw(errno)), extack: None }));
            }
            Some(Fault::Lost) => return Err(lost("a dump")),
            None => {}
        }
        let sequence = self.send_one(subsystem, message, NLM_F_DUMP, (family, 0), body)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        // Read to the end even when it is lost already: the kernel refuses the next dump before.
        loop {
            let datagram = self.wait("a dump")?;
            for part in parts(&datagram) {
                let part = part.map_err(SocketError::Undecodable)?;
                if part.sequence != sequence {
                    continue;
                }
                interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
                match part.kind {
                    NLMSG_ERROR => return Ok(Dump::Refused(verdict(part.flags, part.payload)?)),
                    NLMSG_DONE => {
                        return Ok(match part.payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                            Some(code) if code != 0 => Dump::Refused(Refusal::new(code, &[])),
                            _ if interrupted => Dump::Interrupted,
                            _ => Dump::Complete(found),
                        });
                    }
                    NLMSG_OVERRUN => return Err(SocketError::Overrun),
                    NLMSG_NOOP => {}
                    _ => found.push(body_of(part.payload)?),
                }
            }
            self.buffer = datagram;
        }
    }

    fn send_one(
        &mut self,
        subsystem: u16,
        message: u16,
        flags: u16,
        (family, resource): (u8, u16),
        body: &[u8],
    ) -> Result<u32, SocketError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut writer = Writer::default();
        let kind = subsystem << 8 | message;
        let start = open_message(&mut writer, kind, NLM_F_REQUEST | flags, self.sequence, family, resource);
        writer.raw(body);
        close_message(&mut writer, start);
        self.send(writer.bytes())?;
        Ok(self.sequence)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), SocketError> {
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.socket.send_to(bytes, &kernel, 0) {
                Ok(_) => return Ok(()),
                // Before the kernel took anything.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(system("send")(errno_of(&error))),
            }
        }
    }

    /// What the kernel has sent unasked: the next datagram, if there is one.
    pub(in crate::kernel) fn told(&mut self) -> Result<Option<Vec<u8>>, SocketError> {
        self.receive(libc::MSG_DONTWAIT)
    }

    fn wait(&mut self, what: &str) -> Result<Vec<u8>, SocketError> {
        let (waited, operation) = (self.timeout, what.to_owned());
        self.receive(0)?.ok_or(SocketError::TimedOut { waited, missing: 1, operation })
    }

    /// The next datagram from the kernel, `None` if there is none. The buffer is lent out; give it back to save an
    /// allocation.
    fn receive(&mut self, flags: i32) -> Result<Option<Vec<u8>>, SocketError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            buffer.clear();
            buffer.reserve(READ_BUFFER);
            let space = buffer.capacity();
            match self.socket.recv_from(&mut buffer, libc::MSG_TRUNC | flags) {
                // Other processes can write to our socket; only the kernel is believed.
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok((length, _)) if length > space => {
                    return Err(SocketError::Undecodable(format!("{length} bytes in one datagram")));
                }
                Ok(_) => return Ok(Some(buffer)),
                Err(error) => match errno_of(&error) {
                    Errno::EINTR => {}
                    Errno::EAGAIN => {
                        self.buffer = buffer;
                        return Ok(None);
                    }
                    Errno::ENOBUFS => return Err(SocketError::Overrun),
                    errno => return Err(SocketError::System { operation: "receive", errno }),
                },
            }
        }
    }
}

/// As when the kernel's answer does not come.
fn lost(what: &str) -> SocketError {
    SocketError::TimedOut { waited: DEFAULT_TIMEOUT, missing: 1, operation: what.to_owned() }
}

impl AsFd for NetfilterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Batch {
    /// Begins with this sequence number.
    pub(in crate::kernel) fn new(first: u32, subsystem: u16) -> Self {
        let mut batch = Self { writer: Writer::default(), first, messages: 0, last: 0, subsystem };
        let start = open_message(
            &mut batch.writer,
            NFNL_MSG_BATCH_BEGIN,
            NLM_F_REQUEST,
            first,
            NFPROTO_UNSPEC,
            batch.subsystem,
        );
        close_message(&mut batch.writer, start);
        batch
    }

    /// Adds a message.
    pub(in crate::kernel) fn push(
        &mut self,
        message: u16,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
    ) {
        self.messages += 1;
        let sequence = self.first.wrapping_add(self.messages);
        let kind = self.subsystem << 8 | message;
        let start = open_message(&mut self.writer, kind, NLM_F_REQUEST | flags, sequence, family, 0);
        body(&mut self.writer);
        close_message(&mut self.writer, start);
        self.last = start;
    }

    /// How many messages there are so far.
    pub(in crate::kernel) fn count(&self) -> usize {
        self.messages as usize
    }

    /// How many bytes there are so far.
    pub(in crate::kernel) fn len(&self) -> usize {
        self.writer.bytes().len()
    }

    /// The bytes of all messages.
    pub(in crate::kernel) fn finish(mut self) -> Vec<u8> {
        // Only the last message is acknowledged: kernels before 6.10 do not answer the end of a batch.
        const FLAGS: usize = 6;
        let flags = self.writer.bytes().get(self.last + FLAGS..self.last + FLAGS + 2);
        if let Some(&[low, high]) = flags {
            let flags = u16::from_ne_bytes([low, high]) | NLM_F_ACK;
            self.writer.patch(self.last + FLAGS, &flags.to_ne_bytes());
        }
        let sequence = self.first.wrapping_add(self.messages + 1);
        let start = open_message(
            &mut self.writer,
            NFNL_MSG_BATCH_END,
            NLM_F_REQUEST,
            sequence,
            NFPROTO_UNSPEC,
            self.subsystem,
        );
        close_message(&mut self.writer, start);
        self.writer.into_bytes()
    }
}

fn open_message(
    writer: &mut Writer,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
) -> usize {
    let start = writer.bytes().len();
    writer.raw(&0_u32.to_ne_bytes());
    let mut words = [0; 12];
    let (kind, rest) = (kind.to_ne_bytes(), flags.to_ne_bytes());
    let sequence = sequence.to_ne_bytes();
    for (place, byte) in words.iter_mut().zip(kind.into_iter().chain(rest).chain(sequence)) {
        *place = byte;
    }
    writer.raw(&words);
    let [high, low] = resource.to_be_bytes();
    writer.raw(&[family, 0, high, low]);
    start
}

fn close_message(writer: &mut Writer, start: usize) {
    let length = u32::try_from(writer.bytes().len() - start).unwrap_or(u32::MAX);
    writer.patch(start, &length.to_ne_bytes());
}

fn verdict(flags: u16, payload: &[u8]) -> Result<Refusal, SocketError> {
    let short = || SocketError::Undecodable(format!("an error message of {} bytes", payload.len()));
    Refusal::of_error(flags, payload).ok_or_else(short)
}

fn body_of(payload: &[u8]) -> Result<Vec<u8>, SocketError> {
    let short = || SocketError::Undecodable(format!("a message of {} bytes", payload.len() + HEADER));
    payload.get(NETFILTER_HEADER..).map(<[u8]>::to_vec).ok_or_else(short)
}
