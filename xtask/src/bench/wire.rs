//! Netlink with nothing around it: bytes in one buffer, one `send`, answers until the last one. It is not netloom's
//! encoder, so that the floor owes nothing to what it is compared with.

use anyhow::{Context as _, bail};
use netlink_sys::{Socket, SocketAddr};

/// `NLM_F_*`.
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;

const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// Messages being written. Lengths are filled in by [`Batch::end`] and [`Batch::close`].
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    start: usize,
}

impl Batch {
    /// Begins a message; `fixed` is the part after the netlink header.
    pub(super) fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.sequence += 1;
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        self
    }

    /// Ends the message.
    pub(super) fn end(&mut self) -> &mut Self {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad()
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let value = [value.as_bytes(), &[0]].concat();
        self.attribute(kind, &value)
    }

    /// An attribute of attributes.
    pub(super) fn nested(&mut self, kind: u16, fixed: &[u8], inside: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]).bytes.extend_from_slice(fixed);
        inside(self);
        let length = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Sends all messages at once and reads until the answer to the one that asked for it, which has `after` messages
    /// behind it. The kernel reports the errors of the others unasked. Empties the batch.
    pub(super) fn exchange(&mut self, socket: &Socket, after: u32) -> anyhow::Result<()> {
        socket.send(&self.bytes, 0).context("send")?;
        let wanted = self.sequence - after;
        self.bytes.clear();
        let mut buffer = [0_u8; 8192];
        loop {
            let read = socket.recv(&mut &mut buffer[..], 0).context("recv")?;
            let mut rest = &buffer[..read];
            while let Some((kind, sequence, code, after)) = split(rest) {
                rest = after;
                if kind == ERROR && code != 0 {
                    bail!("netlink: {}", std::io::Error::from_raw_os_error(-code));
                }
                if kind == ERROR && sequence == wanted {
                    return Ok(());
                }
            }
        }
    }
}

/// Kind, sequence number and error code of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u32, i32, &[u8])> {
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let length = word(0)? as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    Some((kind, word(8)?, word(16)? as i32, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// A socket in the calling thread's network namespace.
pub(super) fn open(protocol: isize) -> anyhow::Result<Socket> {
    let mut socket = Socket::new(protocol).context("socket")?;
    socket.bind_auto().context("bind")?;
    socket.connect(&SocketAddr::new(0, 0)).context("connect")?;
    Ok(socket)
}
