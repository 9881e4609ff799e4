//! Frames on wires, and where they turn up.

use std::{collections::BTreeSet, fmt};

use netloom_server::kernel::frame::contains;

use super::{
    Site,
    packet::{BROADCAST, Frame, Mark, Packet},
};

/// One row: who sends what, and who gets it.
pub struct Shot {
    from: &'static str,
    says: String,
    frame: Frame,
    expected: Expected,
    /// Whether an answer of ICMP that quotes it comes back; not said: both will do.
    answered: Option<bool>,
}

/// Who gets a frame, or what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected(BTreeSet<&'static str>);

/// Nobody but the sender ever knows of it.
pub fn nobody() -> Expected {
    Expected(BTreeSet::new())
}

/// These, and nobody else. `host` is a socket on the host.
pub fn only<const N: usize>(places: [&'static str; N]) -> Expected {
    Expected(places.into())
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        f.write_str(&self.0.iter().copied().collect::<Vec<_>>().join(" and "))
    }
}

impl Shot {
    /// A row; read it as a sentence.
    pub fn new(from: &'static str, says: impl Into<String>, frame: Frame, expected: Expected) -> Self {
        Self { from, says: says.into(), frame, expected, answered: None }
    }

    /// The same bytes, sent elsewhere.
    pub fn moved(&self, from: &'static str, expected: Expected) -> Self {
        Self { from, says: self.says.clone(), frame: self.frame.clone(), expected, answered: None }
    }

    /// And an echo reply or an error comes back, or none does.
    pub fn answered(self, answered: bool) -> Self {
        Self { answered: Some(answered), ..self }
    }

    /// Whether nobody is to get it, nor to answer it.
    pub fn is_unheard(&self) -> bool {
        self.expected == nobody() && self.answered != Some(true)
    }

    /// The mark that it is known by.
    pub fn mark(&self) -> Mark {
        self.frame.mark
    }
}

impl Site {
    /// The packet in a frame to the host's end of the sender's segment.
    pub fn to_gateway(&self, from: &str, packet: &Packet) -> Frame {
        packet.ether(self.mac(from), self.gateway(from))
    }

    /// The packet in a frame from one to another of a segment.
    pub fn to(&self, from: &str, to: &str, packet: &Packet) -> Frame {
        packet.ether(self.mac(from), self.mac(to))
    }

    /// The packet in a frame to everybody on the segment.
    pub fn to_all(&self, from: &str, packet: &Packet) -> Frame {
        packet.ether(self.mac(from), BROADCAST)
    }

    /// Sends all, and says how many arrived anywhere, or were answered where an answer is what counts. `settle` waits until
    /// all has arrived that will.
    pub fn arrivals(&mut self, rows: &[Shot], mut settle: impl FnMut(&mut Self, &'static str)) -> usize {
        self.take_all();
        for row in rows {
            self.place(row.from).tap.send(&row.frame.bytes).unwrap();
        }
        for from in rows.iter().map(|row| row.from).collect::<BTreeSet<_>>() {
            settle(self, from);
        }
        let seen = self.take_all();
        let arrived = |row: &&Shot| {
            let answered =
                row.answered.is_some() && seen[row.from].iter().any(|frame| row.is_answered_by(frame));
            answered || seen.values().any(|frames| row.is_in(frames))
        };
        rows.iter().filter(arrived).count()
    }

    /// Sends all, waits until all has arrived that will, and compares.
    pub fn volley(&mut self, title: &str, rows: &[Shot]) {
        self.take_all();
        for row in rows {
            self.place(row.from).tap.send(&row.frame.bytes).unwrap();
        }
        for from in rows.iter().map(|row| row.from).collect::<BTreeSet<_>>() {
            self.settle(from);
        }
        let seen = self.take_all();
        let reached = |row: &Shot| {
            let places = seen.iter().filter(|(_, frames)| row.is_in(frames));
            Expected(places.map(|(place, _)| *place).collect())
        };
        let mut wrong = Vec::new();
        for row in rows {
            let reached = reached(row);
            if reached != row.expected {
                wrong.push(format!("{row}: reaches {reached}, not {}", row.expected));
            }
            let answered = seen.get(row.from).is_some_and(|frames| row.is_answered_in(frames));
            if row.answered.is_some_and(|expected| expected != answered) {
                wrong.push(format!("{row}: is {}answered", if answered { "" } else { "not " }));
            }
        }
        self.judge(title, rows.len(), &wrong);
    }

    /// Counts the rows of a table, and tells all that are wrong.
    pub(super) fn judge(&mut self, title: &str, rows: usize, wrong: &[String]) {
        self.checks += rows;
        assert!(
            wrong.is_empty(),
            "{title}, br_netfilter={}: {} of {rows} rows are wrong:\n  {}",
            self.mode,
            wrong.len(),
            wrong.join("\n  ")
        );
    }
}

impl Shot {
    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.frame.bytes
    }

    /// Whether it is among these. An answer that quotes it is not it.
    pub fn is_in(&self, frames: &[Vec<u8>]) -> bool {
        let kind = is_icmp_answer(&self.frame.bytes);
        let same = |frame: &&Vec<u8>| contains(frame, &self.frame.mark) && !self.is_echoed_in(frame);
        frames.iter().filter(same).any(|frame| is_icmp_answer(frame) == kind)
    }

    fn is_answered_in(&self, frames: &[Vec<u8>]) -> bool {
        frames.iter().any(|frame| self.is_answered_by(frame))
    }

    fn is_answered_by(&self, frame: &[u8]) -> bool {
        is_icmp_answer(frame) && contains(frame, &self.frame.mark)
    }

    /// An echo server says a line before it repeats what it heard.
    fn is_echoed_in(&self, frame: &[u8]) -> bool {
        contains(frame, &[b"\n", &self.frame.mark[..]].concat())
    }
}

impl fmt::Display for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sends {}", self.from, self.says)
    }
}

/// Whether the frame is ICMP's answer to another one: an echo reply or an error.
pub(super) fn is_icmp_answer(frame: &[u8]) -> bool {
    let byte = |at: usize| frame.get(at).copied().unwrap_or_default();
    match (byte(12), byte(13)) {
        (0x08, 0x00) => byte(23) == 1 && matches!(byte(34), 0 | 3 | 11 | 12),
        (0x86, 0xdd) => byte(20) == 58 && matches!(byte(54), 1..=4 | 129),
        _ => false,
    }
}
