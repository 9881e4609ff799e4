//! Chains of policies: which flows of the addresses that lead to them pass.
//!
//! There is one chain for each set of policies that selects somebody, and direction. Elements of `in4`, `in6`, `eg4` and
//! `eg6` lead to it. Whom a rule lets in by labels are elements of `peer4` and `peer6`, under the rule's own tag: labels
//! and addresses change, and no rule does. Everything is asked of the flow, not of the packet, so that both directions
//! of a flow fare alike.

use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use netloom_api::Uid;
use sha2::{Digest, Sha256};

/// The group of the kernel's log that drops are told to.
pub const LOG_GROUP: u16 = 0x6e6c;
/// So many drops of a chain are told in a second.
pub const LOGGED_PER_SECOND: u32 = 10;
/// So many bytes of a packet are told: enough for its headers.
pub const LOGGED_BYTES: u32 = 128;
/// Every chain of policies starts with this, and no other does.
pub const CHAIN_PREFIX: &str = "c_";
/// Rules of one policy and direction that have tags.
pub const TAGGED_RULES: usize = 1024;

/// Goes up when the same words become other rules in the kernel.
const ENCODING: u8 = 1;
/// 60 bits of a hash.
const DIGITS: usize = 12;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// Enough to tell one rule from another.
pub type RuleMark = [u8; 8];

/// Which way the flows go that are judged: to the selected, or from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flowing {
    /// To them.
    In,
    /// From them.
    Out,
}

/// Policies that together select somebody, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicySet {
    /// In which.
    pub flowing: Flowing,
    /// Which.
    pub policies: BTreeSet<Uid>,
}

/// The name of a chain: of a set of policies, and a direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainName(String);

/// By which the peers of one rule are found among all others'.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleTag {
    flowing: Flowing,
    text: String,
}

/// One chain. Two are equal if the kernel would not know them apart.
#[derive(Clone, Debug)]
pub struct Chain {
    marks: Vec<Option<RuleMark>>,
    /// None if it was seen in the kernel, where rules are known by their marks alone.
    body: Option<Body>,
}

/// What a chain does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Whose chain it is.
    pub name: ChainName,
    /// Which way the flows go.
    pub flowing: Flowing,
    /// What passes; all else is dropped.
    pub permits: Vec<Permit>,
    /// Whether drops are told.
    pub log: bool,
}

/// Flows that pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit {
    /// From whom, or to whom.
    pub peers: Peers,
    /// Of which kind.
    pub service: Service,
}

/// The other end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Anybody.
    Any,
    /// Elements of `peer4` with this tag.
    Tagged4(RuleTag),
    /// Elements of `peer6` with this tag.
    Tagged6(RuleTag),
    /// These intervals: first and last; apart from each other, and in order.
    Nets4(Vec<(Ipv4Addr, Ipv4Addr)>),
    /// These intervals: first and last; apart from each other, and in order.
    Nets6(Vec<(Ipv6Addr, Ipv6Addr)>),
}

/// What is spoken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Anything.
    Any,
    /// The target's port, behind any NAT: apart from each other, and in order.
    Ports(Vec<Numbers>),
    /// Type and code of the first message of an ICMP flow, as one number: apart from each other, and in order.
    Icmp(Vec<Numbers>),
}

/// Numbers of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Numbers {
    /// The protocol's number in an IP header.
    pub protocol: u8,
    /// From here.
    pub first: u16,
    /// To here.
    pub last: u16,
}

/// One rule of a chain, in their order.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// These flows return to where the chain was jumped to from.
    Permit(&'a Permit),
    /// What comes so far is told.
    Log,
    /// What comes so far is counted. Not in one rule with the drop: without the element there would be none.
    Count,
    /// What comes so far is dropped.
    Deny,
}

impl ChainName {
    /// The chain of these policies; of whatever order they are given in.
    pub fn of(flowing: Flowing, policies: impl IntoIterator<Item = Uid>) -> Self {
        let mut uids: Vec<Uid> = policies.into_iter().collect();
        uids.sort_unstable();
        let mut hash = Sha256::new();
        uids.iter().for_each(|uid| hash.update(uid.to_string()));
        Self(format!("{CHAIN_PREFIX}{}{}", flowing.letter(), digits(&hash.finalize())))
    }

    /// One that the kernel has; none if it is no name of a chain of policies.
    pub fn read(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(CHAIN_PREFIX)?;
        (!rest.is_empty() && name.len() < 16).then(|| Self(name.to_owned()))
    }

    /// As the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RuleTag {
    /// Of this rule of a policy; none beyond [`TAGGED_RULES`].
    pub fn of(policy: Uid, flowing: Flowing, index: usize) -> Option<Self> {
        let digit = |value: usize| ALPHABET.get(value).map(|digit| char::from(*digit));
        let (high, low) = (digit(index / ALPHABET.len())?, digit(index % ALPHABET.len())?);
        let digits = digits(&Sha256::digest(policy.to_string()));
        Some(Self { flowing, text: format!("{digits}{}{high}{low}", flowing.letter()) })
    }

    /// Of which direction the rule is.
    pub fn flowing(&self) -> Flowing {
        self.flowing
    }

    /// As the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PolicySet {
    /// The name of its chain.
    pub fn chain(&self) -> ChainName {
        ChainName::of(self.flowing, self.policies.iter().copied())
    }
}

impl Flowing {
    fn letter(self) -> char {
        match self {
            Flowing::In => 'i',
            Flowing::Out => 'e',
        }
    }

    /// Where the other end of the flow is looked for.
    fn peer(self) -> &'static str {
        match self {
            Flowing::In => "ct original",
            Flowing::Out => "ct reply",
        }
    }
}

/// The first 60 bits of a hash.
fn digits(hash: &[u8]) -> String {
    let bits = hash.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..DIGITS)
        .filter_map(|at| ALPHABET.get((bits >> (5 * at) & 31) as usize))
        .map(|digit| char::from(*digit))
        .collect()
}

impl Chain {
    /// A chain that does this.
    pub fn new(body: Body) -> Self {
        let marks = body.lines().map(|line| Some(body.mark(line))).collect();
        Self { marks, body: Some(body) }
    }

    /// A chain whose rules have these marks; a rule without one is not ours.
    pub fn seen(marks: Vec<Option<RuleMark>>) -> Self {
        Self { marks, body: None }
    }

    /// What it does, where that is known.
    pub fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// The marks of its rules.
    pub fn marks(&self) -> &[Option<RuleMark>] {
        &self.marks
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.marks == other.marks
    }
}

impl Eq for Chain {}

impl Body {
    /// Its rules.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let end = self.log.then_some(Line::Log).into_iter().chain([Line::Count, Line::Deny]);
        self.permits.iter().map(Line::Permit).chain(end)
    }

    /// A rule of it in the words of `nft`.
    pub fn words(&self, line: Line<'_>) -> String {
        match line {
            Line::Permit(permit) => permit.words(self.flowing),
            Line::Log => format!(
                "ct direction original limit rate {LOGGED_PER_SECOND}/second burst {LOGGED_PER_SECOND} packets \
                 log prefix \"{}\" group {LOG_GROUP} snaplen {LOGGED_BYTES}",
                self.name.0
            ),
            Line::Count => format!("\"{}\" @denied", self.name.0),
            Line::Deny => "goto deny".into(),
        }
    }

    fn mark(&self, line: Line<'_>) -> RuleMark {
        let hash = Sha256::new().chain_update([ENCODING]).chain_update(self.words(line)).finalize();
        let mut mark = RuleMark::default();
        mark.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        mark
    }
}

impl Permit {
    fn words(&self, flowing: Flowing) -> String {
        let peer = flowing.peer();
        let peers = match &self.peers {
            Peers::Any => String::new(),
            Peers::Tagged4(tag) => format!("\"{}\" . {peer} ip saddr @peer4 ", tag.text),
            Peers::Tagged6(tag) => format!("\"{}\" . {peer} ip6 saddr @peer6 ", tag.text),
            Peers::Nets4(nets) => format!("{peer} ip saddr {{ {} }} ", intervals(nets)),
            Peers::Nets6(nets) => format!("{peer} ip6 saddr {{ {} }} ", intervals(nets)),
        };
        let service = match &self.service {
            Service::Any => String::new(),
            Service::Ports(ports) => {
                format!("ct original protocol . ct reply proto-src {{ {} }} ", numbers(ports))
            }
            Service::Icmp(types) => {
                format!("ct original protocol . ct original proto-dst {{ {} }} ", numbers(types))
            }
        };
        format!("{peers}{service}return")
    }
}

fn intervals<A: PartialEq + fmt::Display>(all: &[(A, A)]) -> String {
    let words: Vec<String> = all.iter().map(|(first, last)| interval(first, last)).collect();
    words.join(", ")
}

fn numbers(all: &[Numbers]) -> String {
    let words = all.iter().map(|one| format!("{} . {}", one.protocol, interval(&one.first, &one.last)));
    words.collect::<Vec<_>>().join(", ")
}

fn interval<A: PartialEq + fmt::Display>(first: &A, last: &A) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Its rules, one a line, as `nft` lists them.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = match &self.body {
            Some(body) => body.lines().map(|line| body.words(line)).collect(),
            None => self.marks.iter().map(|mark| format!("# {mark:02x?}")).collect(),
        };
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(permits: Vec<Permit>) -> Body {
        Body { name: ChainName::of(Flowing::In, []), flowing: Flowing::In, permits, log: true }
    }

    #[test]
    fn names_fit_into_the_kernels_and_do_not_depend_on_the_order() {
        let (one, two) = (Uid::generate(), Uid::generate());
        let name = ChainName::of(Flowing::In, [one, two]);
        assert_eq!(name, ChainName::of(Flowing::In, [two, one]));
        assert_eq!(name.as_str().len(), 15);
        assert_eq!(ChainName::read(name.as_str()), Some(name.clone()));
        let others = [
            ChainName::of(Flowing::Out, [one, two]),
            ChainName::of(Flowing::In, [one]),
            ChainName::of(Flowing::In, []),
        ];
        assert!(others.iter().all(|other| *other != name));
        let tags: std::collections::BTreeSet<_> = [Flowing::In, Flowing::Out]
            .into_iter()
            .flat_map(|flowing| (0..TAGGED_RULES).filter_map(move |at| RuleTag::of(one, flowing, at)))
            .collect();
        assert_eq!(tags.len(), 2 * TAGGED_RULES);
        assert!(tags.iter().all(|tag| tag.as_str().len() == 15));
        assert_eq!(RuleTag::of(one, Flowing::In, TAGGED_RULES), None);
    }

    #[test]
    fn a_chain_prints_as_nft_lists_it_and_is_known_by_what_it_prints() {
        let tag = RuleTag::of(Uid::generate(), Flowing::In, 0).unwrap();
        let tcp = |first, last| Numbers { protocol: 6, first, last };
        let net = ("10.0.0.0".parse().unwrap(), "10.0.0.9".parse().unwrap());
        let all = body(vec![
            Permit {
                peers: Peers::Tagged4(tag.clone()),
                service: Service::Ports(vec![tcp(80, 80), tcp(90, 99)]),
            },
            Permit { peers: Peers::Nets4(vec![net]), service: Service::Any },
        ]);
        let chain = Chain::new(all.clone());
        let name = all.name.as_str();
        assert_eq!(
            chain.to_string(),
            format!(
                "\"{}\" . ct original ip saddr @peer4 ct original protocol . ct reply proto-src {{ 6 . 80, 6 . 90-99 }} return\n\
                 ct original ip saddr {{ 10.0.0.0-10.0.0.9 }} return\n\
                 ct direction original limit rate 10/second burst 10 packets log prefix \"{name}\" group 28268 snaplen 128\n\
                 \"{name}\" @denied\n\
                 goto deny",
                tag.as_str()
            )
        );
        assert_eq!(chain, Chain::seen(chain.marks().to_vec()));
        let mut other = all;
        other.permits.pop();
        assert_ne!(chain, Chain::new(other));
    }
}
