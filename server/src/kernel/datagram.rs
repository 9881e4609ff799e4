//! The netlink messages of one datagram, and what a dump adds up to. Pure: bytes in, values out.

use netlink_packet_core::{
    DoneBuffer, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::extack::Refusal;

/// One netlink message of a datagram, not yet decoded.
pub struct RawPart<'a> {
    /// `RTM_…` or `NLMSG_…`.
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// Of the request that it answers.
    pub sequence: u32,
    /// Who asked; of an event, who did it.
    pub port: u32,
    /// Behind the header.
    pub payload: &'a [u8],
}

/// One netlink message of a datagram.
pub enum Part {
    /// An acknowledgement, a refusal, or the end of a dump.
    Verdict(Refusal),
    /// An object, or an event.
    Message(RouteNetlinkMessage),
    /// An object that we cannot read, and why.
    Undecodable(String),
    /// Messages were lost.
    Overrun,
    /// Padding.
    Nothing,
}

impl RawPart<'_> {
    /// An error means that the verdict itself is unreadable.
    pub fn decode(&self) -> Result<Part, String> {
        let short = |what: &str| format!("{what} of {} bytes", self.payload.len());
        Ok(match self.kind {
            NLMSG_NOOP => Part::Nothing,
            NLMSG_OVERRUN => Part::Overrun,
            NLMSG_ERROR => Part::Verdict(
                Refusal::of_error(self.flags, self.payload).ok_or_else(|| short("an error message"))?,
            ),
            NLMSG_DONE if self.payload.is_empty() => Part::Verdict(Refusal::new(0, &[])),
            NLMSG_DONE => {
                let done = DoneBuffer::new_checked(&self.payload).map_err(|_| short("an end of a dump"))?;
                Part::Verdict(Refusal::new(done.code(), done.extended_ack()))
            }
            kind => {
                let mut header = NetlinkHeader::default();
                header.message_type = kind;
                match RouteNetlinkMessage::deserialize(&header, self.payload) {
                    Ok(message) => Part::Message(message),
                    Err(error) => Part::Undecodable(format!("message of type {kind}: {error}")),
                }
            }
        })
    }
}

/// The messages of a datagram; an error ends it.
pub fn parts(datagram: &[u8]) -> impl Iterator<Item = Result<RawPart<'_>, String>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match NetlinkBuffer::new_checked(rest) {
            Ok(message) => {
                let whole = (message.length() as usize).next_multiple_of(4);
                rest = rest.get(whole..).unwrap_or_default();
                Some(Ok(RawPart {
                    kind: message.message_type(),
                    flags: message.flags(),
                    sequence: message.sequence_number(),
                    port: message.port_number(),
                    payload: message.payload(),
                }))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error.to_string()))
            }
        }
    })
}

/// The answer to a dump request, read piece by piece.
#[derive(Debug)]
pub struct DumpReader {
    sequence: u32,
    found: Vec<RouteNetlinkMessage>,
    interrupted: bool,
    undecodable: Option<String>,
}

/// How a dump ended.
#[derive(Debug)]
pub enum DumpEnd {
    /// All objects.
    Complete(Vec<RouteNetlinkMessage>),
    /// The table changed meanwhile: some objects may be there twice, others not at all.
    Interrupted,
    /// One object could not be decoded, for this reason.
    Undecodable(String),
    /// The kernel refused.
    Refused(Refusal),
}

/// The answers cannot be followed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The kernel dropped messages.
    Overrun,
    /// The framing is damaged.
    Damaged(String),
}

impl DumpReader {
    /// For the request with this sequence number.
    pub fn new(sequence: u32) -> Self {
        Self { sequence, found: Vec::new(), interrupted: false, undecodable: None }
    }

    /// Takes one datagram; returns the verdict at the end of the dump. It must be read to the end even when it is lost
    /// already: the kernel refuses the next dump on a socket whose last one is not finished.
    pub fn take(&mut self, datagram: &[u8]) -> Result<Option<Refusal>, Lost> {
        for part in parts(datagram) {
            let part = part.map_err(Lost::Damaged)?;
            if part.sequence != self.sequence {
                continue;
            }
            self.interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
            match part.decode().map_err(Lost::Damaged)? {
                Part::Verdict(verdict) => return Ok(Some(verdict)),
                Part::Message(message) => self.found.push(message),
                Part::Undecodable(reason) => self.undecodable = Some(reason),
                Part::Overrun => return Err(Lost::Overrun),
                Part::Nothing => {}
            }
        }
        Ok(None)
    }

    /// What it adds up to, given the verdict at its end.
    pub fn end(self, verdict: Refusal) -> DumpEnd {
        match (verdict.errno, self.undecodable) {
            (Some(_), _) => DumpEnd::Refused(verdict),
            (None, Some(reason)) => DumpEnd::Undecodable(reason),
            (None, None) if self.interrupted => DumpEnd::Interrupted,
            (None, None) => DumpEnd::Complete(self.found),
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_MULTIPART, NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::link::LinkMessage;
    use proptest::prelude::*;

    use super::*;

    fn framed(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_MULTIPART).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(sequence: u32, flags: u16) -> Vec<u8> {
        let inner = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), inner);
        message.header.sequence_number = sequence;
        message.header.flags = flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn done(sequence: u32) -> Vec<u8> {
        framed(NLMSG_DONE, 0, sequence, &0_i32.to_ne_bytes())
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<DumpEnd, Lost> {
        let mut reader = DumpReader::new(7);
        for datagram in datagrams {
            if let Some(verdict) = reader.take(datagram)? {
                return Ok(reader.end(verdict));
            }
        }
        panic!("the dump has no end");
    }

    #[test]
    fn a_dump_is_what_bears_its_number() {
        let datagrams =
            [[link(7, 0), link(6, 0), link(7, 0)].concat(), done(6), [link(7, 0), done(7)].concat()];
        assert!(matches!(read(&datagrams), Ok(DumpEnd::Complete(found)) if found.len() == 3));
        assert!(matches!(read(&[done(7)]), Ok(DumpEnd::Complete(found)) if found.is_empty()));
    }

    #[test]
    fn one_entry_that_cannot_be_read_makes_the_dump_unknown() {
        let datagrams = [[link(7, 0), framed(16, 0, 7, &[1, 2, 3]), link(7, 0)].concat(), done(7)];
        assert!(matches!(read(&datagrams), Ok(DumpEnd::Undecodable(reason)) if reason.contains("type 16")));
        let unknown_kind = [framed(9_999, 0, 7, &[]), done(7)];
        assert!(matches!(read(&unknown_kind), Ok(DumpEnd::Undecodable(_))));
    }

    #[test]
    fn a_mark_anywhere_means_interrupted() {
        let marked = framed(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &0_i32.to_ne_bytes());
        assert!(matches!(read(&[link(7, 0), marked]), Ok(DumpEnd::Interrupted)));
        assert!(matches!(read(&[link(7, NLM_F_DUMP_INTR), link(7, 0), done(7)]), Ok(DumpEnd::Interrupted)));
    }

    #[test]
    fn a_refusal_an_overrun_and_damage_are_no_empty_list() {
        let refused = framed(NLMSG_DONE, 0, 7, &(-22_i32).to_ne_bytes());
        assert!(matches!(read(&[link(7, 0), refused]), Ok(DumpEnd::Refused(_))));
        let refused = framed(NLMSG_ERROR, 0, 7, &[(-1_i32).to_ne_bytes(), [0; 4]].concat());
        assert!(matches!(read(&[refused]), Ok(DumpEnd::Refused(_))));
        assert!(matches!(read(&[framed(NLMSG_OVERRUN, 0, 7, &[])]), Err(Lost::Overrun)));
        assert!(matches!(read(&[link(7, 0)[..20].to_vec()]), Err(Lost::Damaged(_))));
        assert!(matches!(read(&[framed(NLMSG_ERROR, 0, 7, &[1])]), Err(Lost::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_framing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parts(&bytes).count() <= 1 + bytes.len() / 16);
        }

        #[test]
        fn no_control_message_makes_the_decoder_panic(
            kind in 0..16_u16, flags: u16, payload in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = RawPart { kind, flags, sequence: 7, port: 0, payload: &payload }.decode();
        }

        #[test]
        fn no_object_makes_the_decoder_panic(
            kind in 16..110_u16, payload in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let _ = RawPart { kind, flags: 0, sequence: 7, port: 0, payload: &payload }.decode();
        }
    }
}
