//! What other people's firewalls do with a packet. A rule matches, does not, or may; so does a chain drop.

use std::net::IpAddr;

use netloom_api::{CheckId, DiagnoseProtocol};

use super::{
    Walk,
    seen::{Ask, Deed, Field, ForeignChain, ForeignRule, Hook},
};
use crate::hostnet::Stack;

/// Jumps within jumps; the kernel allows 16.
const DEPTH_MAX: usize = 16;
/// What conntrack says of the first packet of a flow, as a bit.
const STATE_NEW: u32 = 1 << 3;

/// A packet that passes a stack's firewalls.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    /// Whose.
    pub(super) stack: Stack,
    /// It stays on the link layer: the chains of bridges see it, and no others.
    pub(super) bridged: bool,
    /// Which hooks it passes.
    pub(super) places: Vec<Place>,
    /// From whom, if that is decided.
    pub(super) source: Option<IpAddr>,
    /// To whom.
    pub(super) destination: IpAddr,
    /// What it is.
    pub(super) protocol: DiagnoseProtocol,
    /// To which port.
    pub(super) port: Option<u16>,
}

/// A hook, and between which links.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) hook: Hook,
    pub(super) input: Option<String>,
    pub(super) output: Option<String>,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maybe {
    No,
    Perhaps,
    Yes,
}

/// What may come of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    accepted: bool,
    pub(super) dropped: bool,
    through: bool,
}

impl Fates {
    /// Whether nothing else can come of it.
    pub(super) fn surely_dropped(self) -> bool {
        self.dropped && !self.accepted && !self.through
    }
}

impl Walk<'_> {
    /// Asks all chains of others on the way.
    pub(super) fn foreign(&mut self) {
        let passages = std::mem::take(&mut self.passages);
        let (mut asked, mut perhaps) = (0, Vec::new());
        for passage in &passages {
            for place in &passage.places {
                for chain in self.seen.foreign.iter().filter(|chain| sees(chain, passage, place)) {
                    asked += 1;
                    let fates = judge(chain, passage, place);
                    if fates.surely_dropped() {
                        return self.dropped_by(chain, passage);
                    }
                    if fates.dropped {
                        perhaps.push(name(chain));
                    }
                }
            }
        }
        let opaque = &self.seen.opaque;
        if !perhaps.is_empty() {
            perhaps.dedup();
            let evidence = format!(
                "{} may drop it: it has rules that cannot be judged from here (sets, limits, matches of iptables).",
                perhaps.join("; ")
            );
            self.skip(CheckId::ForeignRules, evidence);
        } else if !opaque.is_empty() && !passages.is_empty() {
            self.skip(CheckId::ForeignRules, format!("These cannot be looked into: {}.", opaque.join(", ")));
        } else if !passages.is_empty() {
            self.pass(
                CheckId::ForeignRules,
                format!("{asked} chains of other firewalls see the packet, and none of them drops it."),
            );
        }
    }

    fn dropped_by(&mut self, chain: &ForeignChain, passage: &Passage) {
        let counted: Vec<u64> = drops(chain).filter_map(|rule| rule.packets).collect();
        let counted = match counted.iter().sum::<u64>() {
            0 => String::new(),
            packets => format!(" (its drop rules have counted {packets} packets)"),
        };
        let how = if chain.drops {
            "its policy is drop, and no rule accepts the packet"
        } else {
            "a rule of it drops the packet"
        };
        let (stack, destination) = (&chain.stack, passage.destination);
        self.fail(
            CheckId::ForeignRules,
            format!("{} of {stack} drops what goes to {destination}: {how}{counted}. netloom did not make it, and does not change it.", name(chain)),
            format!(
                "`nft list chain {} {} {}` shows it; let it accept this traffic. An accept of netloom's cannot overrule it.",
                chain.family, chain.table, chain.chain
            ),
        );
    }
}

/// `table inet firewalld, chain filter_FORWARD (hook forward)`.
fn name(chain: &ForeignChain) -> String {
    format!(
        "The chain {} of table {} {} (hook {})",
        chain.chain,
        chain.family,
        chain.table,
        chain.hook.as_str()
    )
}

fn drops(chain: &ForeignChain) -> impl Iterator<Item = &ForeignRule> {
    chain.rules.iter().chain(chain.others.values().flatten()).filter(|rule| rule.does == Deed::Drop)
}

fn sees(chain: &ForeignChain, passage: &Passage, place: &Place) -> bool {
    let family = match (chain.family, passage.bridged) {
        ("bridge", bridged) => bridged,
        (_, true) => false,
        ("inet", false) => true,
        ("ip", false) => passage.destination.is_ipv4(),
        ("ip6", false) => passage.destination.is_ipv6(),
        (_, false) => false,
    };
    family && chain.stack == passage.stack && chain.hook == place.hook
}

/// What may come of a base chain; what it lets through counts as accepted.
pub(super) fn judge(chain: &ForeignChain, passage: &Passage, place: &Place) -> Fates {
    let mut fates = run(&chain.rules, chain, passage, place, 0);
    if fates.through {
        fates.through = false;
        if chain.drops { fates.dropped = true } else { fates.accepted = true }
    }
    fates
}

fn run(rules: &[ForeignRule], chain: &ForeignChain, passage: &Passage, place: &Place, depth: usize) -> Fates {
    let mut fates = Fates::default();
    if depth > DEPTH_MAX {
        return Fates { accepted: true, dropped: true, through: true };
    }
    for rule in rules {
        let matches = holds(rule, passage, place);
        if matches == Maybe::No {
            continue;
        }
        let sub = |target: &str| {
            let rules = chain.others.get(target).map(Vec::as_slice).unwrap_or_default();
            run(rules, chain, passage, place, depth + 1)
        };
        // Whether the rules behind this one are reached when it matches.
        let goes_on = match &rule.does {
            Deed::Nothing => true,
            Deed::Accept => {
                fates.accepted = true;
                false
            }
            Deed::Drop => {
                fates.dropped = true;
                false
            }
            Deed::Return => {
                fates.through = true;
                false
            }
            Deed::Jump(target) => {
                let sub = sub(target);
                fates.accepted |= sub.accepted;
                fates.dropped |= sub.dropped;
                sub.through
            }
            Deed::Goto(target) => {
                let sub = sub(target);
                fates.accepted |= sub.accepted;
                fates.dropped |= sub.dropped;
                fates.through |= sub.through;
                false
            }
        };
        if matches == Maybe::Yes && !goes_on {
            return fates;
        }
    }
    fates.through = true;
    fates
}

fn holds(rule: &ForeignRule, passage: &Passage, place: &Place) -> Maybe {
    let mut all = if rule.strange { Maybe::Perhaps } else { Maybe::Yes };
    for ask in &rule.asks {
        match answer(ask, passage, place) {
            Maybe::No => return Maybe::No,
            Maybe::Perhaps => all = Maybe::Perhaps,
            Maybe::Yes => {}
        }
    }
    all
}

fn answer(ask: &Ask, passage: &Passage, place: &Place) -> Maybe {
    let field = bytes_of(ask.field, passage, place);
    let mut equal = Maybe::Yes;
    for (at, wanted) in ask.value.iter().enumerate() {
        let mask = if ask.mask.is_empty() { 0xff } else { ask.mask.get(at).copied().unwrap_or(0) };
        match field.get(at).copied().flatten() {
            Some(byte) if byte & mask != *wanted => equal = Maybe::No,
            Some(_) => {}
            None if mask == 0 && *wanted == 0 => {}
            None if equal == Maybe::Yes => equal = Maybe::Perhaps,
            None => {}
        }
        if equal == Maybe::No {
            break;
        }
    }
    match (equal, ask.not) {
        (Maybe::Yes, true) => Maybe::No,
        (Maybe::No, true) => Maybe::Yes,
        (equal, _) => equal,
    }
}

/// The bytes of a field, as far as they are known.
fn bytes_of(field: Field, passage: &Passage, place: &Place) -> Vec<Option<u8>> {
    let known = |bytes: &[u8]| bytes.iter().copied().map(Some).collect::<Vec<_>>();
    let name = |link: &Option<String>| {
        let mut bytes = link.clone().unwrap_or_default().into_bytes();
        bytes.resize(16, 0);
        known(&bytes)
    };
    let ipv6 = passage.destination.is_ipv6();
    let number = match (passage.protocol, ipv6) {
        (DiagnoseProtocol::Icmp, false) => 1,
        (DiagnoseProtocol::Icmp, true) => 58,
        (DiagnoseProtocol::Tcp, _) => 6,
        (DiagnoseProtocol::Udp, _) => 17,
        (DiagnoseProtocol::Sctp, _) => 132,
    };
    let part = |header: Vec<Option<u8>>, offset: u32, length: u32| {
        let (from, length) = (offset as usize, length as usize);
        (from..from + length.min(64)).map(|at| header.get(at).copied().flatten()).collect()
    };
    match field {
        Field::InputName => name(&place.input),
        Field::OutputName => name(&place.output),
        Field::NetworkFamily => known(&[if ipv6 { 10 } else { 2 }]),
        Field::TransportProtocol => known(&[number]),
        Field::FlowState => known(&STATE_NEW.to_ne_bytes()),
        Field::Network { offset, length } => part(network_header(passage, number), offset, length),
        Field::Transport { offset, length } => {
            let header = match (passage.protocol, passage.port) {
                (DiagnoseProtocol::Icmp, _) => known(&[if ipv6 { 128 } else { 8 }, 0]),
                (_, Some(port)) => [vec![None, None], known(&port.to_be_bytes())].concat(),
                (_, None) => Vec::new(),
            };
            part(header, offset, length)
        }
    }
}

fn network_header(passage: &Passage, number: u8) -> Vec<Option<u8>> {
    let address = |address: Option<IpAddr>, length: usize| match address {
        Some(IpAddr::V4(address)) => address.octets().map(Some).to_vec(),
        Some(IpAddr::V6(address)) => address.octets().map(Some).to_vec(),
        None => vec![None; length],
    };
    let destination = Some(passage.destination);
    if passage.destination.is_ipv4() {
        let mut header = vec![None; 9];
        header.extend([Some(number), None, None]);
        header.extend(address(passage.source, 4));
        header.extend(address(destination, 4));
        header
    } else {
        let mut header = vec![None; 6];
        header.extend([Some(number), None]);
        header.extend(address(passage.source, 16));
        header.extend(address(destination, 16));
        header
    }
}
