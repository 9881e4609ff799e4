//! The one socket that changes our tables, and what it can be asked for.
//!
//! The socket lives as long as the daemon: closing one after a delete blocks for the better part of 14 ms, and where the
//! kernel knows owners, the tables are this socket's alone while it is open, and stay when it closes.

use std::{collections::BTreeMap, collections::BTreeSet, collections::HashMap, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use sha2::{Digest, Sha256};

use super::{
    elements::{self, decode_raw, decode_set, encode, field_length, field_type, is_concatenated_interval},
    skeleton::{COUNTERS, Chain, TABLE, chains},
    wire::{
        self, ACK, APPEND, Attributes, CREATE, DUMP, REQUEST, family_number, message, messages, nft_type,
    },
};
use crate::{
    hostnet::rules::{DataType, Element, Family, Rules, SetId, Shape, Skeleton},
    kernel::extack::{KernelError, Refusal},
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// A batch of ten thousand elements is about 1 MiB; each of its errors comes back as a message.
const BUFFER: usize = 32 << 20;
const READ: usize = 1 << 18;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Owned by this socket, and kept when it closes (Linux ≥ 6.9).
const OWNER_AND_PERSIST: u32 = 0x2 | 0x4;
/// Of user data; nft knows 0 (comment) and ignores this.
const USERDATA_HASH: u8 = 100;
const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];
const TRIES: usize = 5;

/// The firewall could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NftError {
    /// The kernel refused; nothing was changed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A system call on the socket failed; what was done is unknown.
    #[error("nf_tables: {operation}: {errno}")]
    System {
        /// The call.
        operation: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// The kernel said something that we cannot read: unknown, not absent.
    #[error("nf_tables: {0} could not be decoded")]
    Undecodable(&'static str),
    /// The tables changed under a dump, every time.
    #[error("nf_tables: the tables kept changing while they were read")]
    Interrupted,
}

/// Our tables.
pub struct Nft {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    skeleton: Vec<Chain>,
    hash: [u8; 8],
    /// Whether tables are to be owned where the kernel can.
    owns: bool,
}

/// One operation of a batch.
struct Operation {
    kind: u16,
    flags: u16,
    family: Family,
    body: Attributes,
    /// For error texts.
    what: String,
    /// Of which element, when it is a removal that may find nothing.
    absent_is_fine: bool,
}

impl Nft {
    /// Opens the socket in the calling thread's network namespace; the tables will be ours alone.
    pub fn open() -> Result<Self, NftError> {
        Self::open_as(true)
    }

    /// Without ownership, so that others can change the tables; for tests of drift.
    pub fn open_unowned() -> Result<Self, NftError> {
        Self::open_as(false)
    }

    fn open_as(owns: bool) -> Result<Self, NftError> {
        let failed = |operation| {
            move |error: std::io::Error| system(operation, super::super::socket::errno_of(&error))
        };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        // Where a capability is missing the default size still carries small batches.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        let patience = TimeVal::new(i64::try_from(TIMEOUT.as_secs()).unwrap_or(5), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| system("setsockopt", errno))?;
        socket.set_ext_ack(true).map_err(failed("setsockopt"))?;
        socket.set_cap_ack(true).map_err(failed("setsockopt"))?;
        let skeleton = chains();
        let hash = hash_all(&skeleton);
        Ok(Self { socket, sequence: 1, buffer: vec![0; READ], skeleton, hash, owns })
    }

    /// Makes the constant part be there and right. What is right is left untouched, so its counters, and the packets in
    /// it, never notice; what is not is replaced in one transaction, elements included.
    pub fn ensure_skeleton(&mut self) -> Result<(), NftError> {
        let (state, elements) = match self.dump() {
            Ok(rules) => (rules.skeleton, rules.elements),
            // Tables that an unknown netloom left, with elements that this one cannot read, are replaced empty.
            Err(NftError::Undecodable(_)) => (Skeleton::Outdated, BTreeSet::new()),
            Err(error) => return Err(error),
        };
        if state == Skeleton::Present {
            return self.adopt();
        }
        let flags = if self.owns { OWNER_AND_PERSIST } else { 0 };
        match self.install(state, flags, &elements) {
            // Before Linux 6.9 the kernel knows no owner that lets its table stay.
            Err(NftError::Kernel(error)) if flags != 0 && is_unsupported(&error) => {
                self.install(state, 0, &elements)
            }
            result => result,
        }
    }

    /// Takes the tables over after a restart; rules and elements stay.
    fn adopt(&mut self) -> Result<(), NftError> {
        if !self.owns {
            return Ok(());
        }
        let batch = FAMILIES.map(|family| self.table(family, OWNER_AND_PERSIST)).into();
        match self.batch(batch) {
            Err(NftError::Kernel(error)) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn install(&mut self, state: Skeleton, flags: u32, elements: &BTreeSet<Element>) -> Result<(), NftError> {
        let mut batch = Vec::new();
        if state == Skeleton::Outdated {
            // Deleting what is not there is an error, so both are made first.
            for family in FAMILIES {
                batch.push(self.table(family, 0));
                let body = Attributes::default().text(1, TABLE);
                batch.push(operation(wire::DELTABLE, 0, family, body, "delete table".into()));
            }
        }
        batch.extend(FAMILIES.map(|family| self.table(family, flags)));
        batch.extend(SetId::ALL.iter().map(|set| new_set(*set)));
        batch.extend(COUNTERS.map(new_counter));
        batch.extend(self.skeleton.iter().map(new_chain));
        batch.extend(self.skeleton.iter().flat_map(new_rules));
        batch.extend(elements.iter().map(|element| element_operation(wire::NEWSETELEM, CREATE, element)));
        self.batch(batch)
    }

    /// Removes and adds elements in one transaction. What is absent already and what is there already is success; a key
    /// that is there with other data must be among the removals.
    pub fn commit(&mut self, remove: &[Element], add: &[Element]) -> Result<(), NftError> {
        if remove.is_empty() && add.is_empty() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(remove.len() + add.len());
        for element in remove {
            let mut one = element_operation(wire::DELSETELEM, 0, element);
            one.absent_is_fine = true;
            batch.push(one);
        }
        batch.extend(add.iter().map(|element| element_operation(wire::NEWSETELEM, CREATE, element)));
        self.batch(batch)
    }

    /// What the kernel has of our tables.
    pub fn dump(&mut self) -> Result<Rules, NftError> {
        for _ in 0..TRIES {
            match self.dump_once() {
                Err(NftError::Interrupted) => {}
                result => return result,
            }
        }
        Err(NftError::Interrupted)
    }

    fn dump_once(&mut self) -> Result<Rules, NftError> {
        let mut rules = Rules::default();
        let hashes: Vec<Option<Vec<u8>>> =
            FAMILIES.map(|family| self.table_hash(family)).into_iter().collect::<Result<_, _>>()?;
        match hashes.as_slice() {
            [None, None] => return Ok(rules),
            all if all.iter().all(|hash| hash.as_deref() == Some(&self.hash[..])) => {
                rules.skeleton = if self.rules_are_right()? { Skeleton::Present } else { Skeleton::Outdated };
            }
            _ => rules.skeleton = Skeleton::Outdated,
        }
        for (family, hash) in FAMILIES.into_iter().zip(&hashes) {
            if hash.is_none() {
                continue;
            }
            for set in SetId::ALL.iter().filter(|set| set.family() == family) {
                match self.dump_set(*set) {
                    Ok(elements) => rules.elements.extend(elements),
                    // A set is missing: somebody deleted it.
                    Err(NftError::Kernel(error)) if error.errno == Errno::ENOENT => {
                        rules.skeleton = Skeleton::Outdated
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(rules)
    }

    /// Removes both tables, whoever made them.
    pub fn remove_tables(&mut self) -> Result<(), NftError> {
        for family in FAMILIES {
            if self.table_hash(family)?.is_some() {
                let body = Attributes::default().text(1, TABLE);
                self.batch(vec![operation(wire::DELTABLE, 0, family, body, "delete table".into())])?;
            }
        }
        Ok(())
    }

    fn table(&self, family: Family, flags: u32) -> Operation {
        let mut body = Attributes::default().text(1, TABLE);
        if flags != 0 {
            body = body.u32(2, flags);
        }
        body = body.bytes(6, &userdata(&self.hash));
        operation(wire::NEWTABLE, CREATE, family, body, "add table".into())
    }

    /// The hash in the table's user data; empty when it has none; `None` when there is no table.
    fn table_hash(&mut self, family: Family) -> Result<Option<Vec<u8>>, NftError> {
        let body = Attributes::default().text(1, TABLE);
        let mut found = None;
        let asked = self.get(wire::GETTABLE, 0, family, &body, "table", |payload| {
            found = Some(hash_in(wire::find(payload, 6).ok()?).unwrap_or_default());
            Some(())
        });
        match asked {
            Ok(()) => Ok(found),
            Err(NftError::Kernel(error)) if error.errno == Errno::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether every chain has exactly our rules in our order.
    fn rules_are_right(&mut self) -> Result<bool, NftError> {
        for family in FAMILIES {
            let mut found: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
            let body = Attributes::default().text(1, TABLE);
            self.get(wire::GETRULE, DUMP, family, &body, "rules", |payload| {
                // A dump of one table's rules may be filtered by the kernel or not.
                if text(wire::find(payload, 1).ok()??)? != TABLE {
                    return Some(());
                }
                let chain = text(wire::find(payload, 2).ok()??)?;
                let hash = hash_in(wire::find(payload, 7).ok()?).unwrap_or_default();
                found.entry(chain).or_default().push(hash);
                Some(())
            })?;
            for chain in self.skeleton.iter().filter(|chain| chain.family == family) {
                let want: Vec<Vec<u8>> = chain.rules.iter().map(|rule| hash_rule(rule).to_vec()).collect();
                if found.remove(chain.name).unwrap_or_default() != want {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn dump_set(&mut self, set: SetId) -> Result<Vec<Element>, NftError> {
        let body = Attributes::default().text(1, TABLE).text(2, set.name());
        let mut raw = Vec::new();
        self.get(wire::GETSETELEM, DUMP, set.family(), &body, set.name(), |payload| {
            if let Some(all) = wire::find(payload, 3).ok()? {
                for one in elements::list(all) {
                    raw.push(decode_raw(set, one?)?);
                }
            }
            Some(())
        })?;
        decode_set(set, raw).ok_or(NftError::Undecodable(set.name()))
    }

    /// Asks, and gives every answer to `each`; `None` from it means that it cannot be read.
    fn get(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        body: &Attributes,
        what: &'static str,
        mut each: impl FnMut(&[u8]) -> Option<()>,
    ) -> Result<(), NftError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let sequence = self.sequence;
        let flags = REQUEST | flags | if flags & DUMP == 0 { ACK } else { 0 };
        self.send(&message(nft_type(kind), flags, sequence, family_number(family), 0, body))?;
        loop {
            let read = self.receive()?;
            let datagram = self.buffer[..read].to_vec();
            for received in messages(&datagram) {
                let received = received.ok_or(NftError::Undecodable("an answer"))?;
                if received.sequence != sequence {
                    continue;
                }
                if received.flags & NLM_F_DUMP_INTR != 0 {
                    self.drain(sequence)?;
                    return Err(NftError::Interrupted);
                }
                match received.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let refusal = Refusal::of_error(received.flags, received.payload);
                        let refusal = refusal.ok_or(NftError::Undecodable("an error"))?;
                        return Ok(refusal.into_result(|| format!("nft list {what}"))?);
                    }
                    _ => {
                        let payload = received.payload.get(4..).ok_or(NftError::Undecodable("an answer"))?;
                        each(payload).ok_or(NftError::Undecodable(what))?;
                    }
                }
            }
        }
    }

    /// Reads an interrupted dump to its end.
    fn drain(&mut self, sequence: u32) -> Result<(), NftError> {
        loop {
            let read = self.receive()?;
            let datagram = self.buffer[..read].to_vec();
            let mut all = messages(&datagram).flatten();
            if all.any(|one| one.sequence == sequence && matches!(one.kind, NLMSG_DONE | NLMSG_ERROR)) {
                return Ok(());
            }
        }
    }

    /// Sends one transaction. Removals that find nothing are taken out and the rest is tried again.
    fn batch(&mut self, mut operations: Vec<Operation>) -> Result<(), NftError> {
        loop {
            if operations.is_empty() {
                return Ok(());
            }
            let refusals = self.transact(&operations)?;
            if refusals.is_empty() {
                return Ok(());
            }
            let is_absent = |index: &usize, refusal: &Refusal| {
                refusal.errno == Some(Errno::ENOENT) && operations[*index].absent_is_fine
            };
            let Some((index, refusal)) = refusals.iter().find(|(index, refusal)| !is_absent(index, refusal))
            else {
                let mut index = 0;
                operations.retain(|_| {
                    index += 1;
                    !refusals.contains_key(&(index - 1))
                });
                continue;
            };
            let what = operations[*index].what.clone();
            refusal.clone().into_result(|| format!("nft {what}"))?;
        }
    }

    fn transact(&mut self, operations: &[Operation]) -> Result<BTreeMap<usize, Refusal>, NftError> {
        let mut bytes = Vec::new();
        let nothing = Attributes::default();
        let begin = self.next();
        let subsystem = wire::NFNL_SUBSYS_NFTABLES;
        bytes.extend(message(wire::BATCH_BEGIN, REQUEST, begin, 0, subsystem, &nothing));
        let mut of_sequence = HashMap::new();
        let mut last = 0;
        for (index, Operation { kind, flags, family, body, .. }) in operations.iter().enumerate() {
            last = self.next();
            of_sequence.insert(last, index);
            // Errors come unasked; the acknowledgement of the last operation tells that all have been looked at.
            let ack = if index + 1 == operations.len() { ACK } else { 0 };
            let family = family_number(*family);
            bytes.extend(message(nft_type(*kind), REQUEST | ack | flags, last, family, 0, body));
        }
        bytes.extend(message(wire::BATCH_END, REQUEST, self.next(), 0, subsystem, &nothing));
        self.send(&bytes)?;
        let mut refusals = BTreeMap::new();
        loop {
            let read = self.receive()?;
            let datagram = self.buffer[..read].to_vec();
            for received in messages(&datagram) {
                let received = received.ok_or(NftError::Undecodable("an answer"))?;
                if received.kind != NLMSG_ERROR || received.sequence < begin {
                    continue;
                }
                let refusal = Refusal::of_error(received.flags, received.payload);
                let refusal = refusal.ok_or(NftError::Undecodable("an error"))?;
                let Some(index) = of_sequence.get(&received.sequence) else {
                    // Of the batch itself: no right, no memory.
                    refusal.into_result(|| "nft transaction".into())?;
                    continue;
                };
                if refusal.errno.is_some() {
                    refusals.insert(*index, refusal);
                }
                if received.sequence == last {
                    return Ok(refusals);
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        let sent = self.socket.send(bytes, 0);
        sent.map(|_| ()).map_err(|error| system("send", super::super::socket::errno_of(&error)))
    }

    fn receive(&mut self) -> Result<usize, NftError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(system("recv", super::super::socket::errno_of(&error))),
            }
        }
    }
}

fn system(operation: &'static str, errno: Errno) -> NftError {
    NftError::System { operation, errno }
}

fn is_unsupported(error: &KernelError) -> bool {
    matches!(error.errno, Errno::EOPNOTSUPP | Errno::EINVAL)
}

fn operation(kind: u16, flags: u16, family: Family, body: Attributes, what: String) -> Operation {
    Operation { kind, flags, family, body, what, absent_is_fine: false }
}

fn element_operation(kind: u16, flags: u16, element: &Element) -> Operation {
    let set = element.set();
    let list = encode(element).into_iter().fold(Attributes::default(), |list, one| list.nested(1, one));
    let body = Attributes::default().text(1, TABLE).text(2, set.name()).nested(3, list);
    let verb = if kind == wire::NEWSETELEM { "add" } else { "delete" };
    operation(kind, flags, set.family(), body, format!("{verb} element {element}"))
}

fn new_set(set: SetId) -> Operation {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const CONCAT: u32 = 0x80;
    const VERDICT: u32 = 0xffff_ff00;
    let several = set.key().len() > 1;
    let padded = |length: usize| if several { length.next_multiple_of(4) } else { length };
    let length: usize = set.key().iter().map(|field| padded(field_length(*field))).sum();
    let key_type = set.key().iter().fold(0, |all, field| (all << 6) | field_type(*field));
    let mut flags = 0;
    if set.shape() == Shape::Interval {
        flags |= INTERVAL;
    }
    if is_concatenated_interval(set) {
        flags |= CONCAT;
    }
    let data = match set.data() {
        DataType::None => None,
        DataType::Verdict => Some((VERDICT, 0)),
        DataType::Ipv4 => Some((7, 4)),
        DataType::Ipv6 => Some((8, 16)),
        DataType::Ether => Some((9, 6)),
        DataType::Ipv4Service => Some(((7 << 6) | 13, 8)),
        DataType::Ipv6Service => Some(((8 << 6) | 13, 20)),
    };
    if data.is_some() {
        flags |= MAP;
    }
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut body = Attributes::default()
        .text(1, TABLE)
        .text(2, set.name())
        .u32(3, flags)
        .u32(4, key_type)
        .u32(5, length);
    if let Some((kind, length)) = data {
        body = body.u32(6, kind);
        if length > 0 {
            body = body.u32(7, length);
        }
    }
    if is_concatenated_interval(set) {
        let fields = set.key().iter().fold(Attributes::default(), |fields, field| {
            let length = u32::try_from(field_length(*field)).unwrap_or(u32::MAX);
            fields.nested(1, Attributes::default().u32(1, length))
        });
        body = body.nested(9, Attributes::default().nested(2, fields));
    }
    // The kernel wants a number that is the set's own within the batch.
    body = body.u32(10, u32::try_from(set as usize).unwrap_or(0) + 1);
    if set.shape() == Shape::Counted {
        let counter = Attributes::default().text(1, "counter").nested(2, Attributes::default());
        body = body.nested(17, counter);
    }
    operation(wire::NEWSET, CREATE, set.family(), body, format!("add set {}", set.name()))
}

fn new_counter(name: &str) -> Operation {
    const COUNTER: u32 = 1;
    let body =
        Attributes::default().text(1, TABLE).text(2, name).u32(3, COUNTER).nested(4, Attributes::default());
    operation(wire::NEWOBJ, CREATE, Family::Inet, body, format!("add counter {name}"))
}

fn new_chain(chain: &Chain) -> Operation {
    const ACCEPT: u32 = 1;
    let mut body = Attributes::default().text(1, TABLE).text(3, chain.name);
    if let Some(hook) = chain.hook {
        let at = Attributes::default().u32(1, hook.hook).bytes(2, &hook.priority.to_be_bytes());
        body = body.nested(4, at).u32(5, ACCEPT).text(7, hook.kind);
    }
    operation(wire::NEWCHAIN, CREATE, chain.family, body, format!("add chain {}", chain.name))
}

fn new_rules(chain: &Chain) -> impl Iterator<Item = Operation> {
    chain.rules.iter().enumerate().map(|(index, rule)| {
        let expressions = rule.iter().fold(Attributes::default(), |all, one| all.nested(1, one.clone()));
        let body = Attributes::default()
            .text(1, TABLE)
            .text(2, chain.name)
            .nested(4, expressions)
            .bytes(7, &userdata(&hash_rule(rule)));
        let what = format!("add rule {} {index}", chain.name);
        operation(wire::NEWRULE, CREATE | APPEND, chain.family, body, what)
    })
}

fn hash_rule(rule: &[Attributes]) -> [u8; 8] {
    let mut hash = Sha256::new();
    rule.iter().for_each(|one| hash.update(one.as_bytes()));
    short(hash)
}

fn hash_all(skeleton: &[Chain]) -> [u8; 8] {
    let mut hash = Sha256::new();
    for chain in skeleton {
        hash.update(format!("{:?} {} {:?}", chain.family, chain.name, chain.hook));
        chain.rules.iter().for_each(|rule| hash.update(hash_rule(rule)));
    }
    for set in SetId::ALL {
        hash.update(format!("{} {:?} {:?} {:?}", set.name(), set.key(), set.data(), set.shape()));
    }
    hash.update(COUNTERS.join(" "));
    short(hash)
}

fn short(hash: Sha256) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    first
}

/// Type, length, value, as libnftnl has it.
fn userdata(hash: &[u8; 8]) -> Vec<u8> {
    [&[USERDATA_HASH, 8][..], hash].concat()
}

fn hash_in(userdata: Option<&[u8]>) -> Option<Vec<u8>> {
    let [USERDATA_HASH, 8, hash @ ..] = userdata? else { return None };
    Some(hash.to_vec())
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}
