//! nftables over netlink, without a C library or a child process.
//!
//! [`Nft`] keeps two tables, `inet netloom` and `bridge netloom`: constant chains and rules, the *skeleton*; sets, whose
//! [`Element`]s change; and the [`Chain`]s of policies.
//! - A commit is one transaction. It may be repeated: what is there may be added, what is not may be removed.
//! - What is read is complete or an error; what a stranger put into our tables makes the skeleton outdated, and goes
//!   when it is written anew.
//! - Where the kernel can, the tables belong to this socket: nobody else can change them while it is open, and they
//!   stay when it closes. Keep one [`Nft`] for as long as the process lives; to close it after a deletion takes the
//!   kernel ten milliseconds.
//! - Calls block, and belong on a thread that may.

mod anonymous;
mod chain;
mod element;
mod expr;
pub(in crate::kernel) mod foreign;
mod layout;
pub(in crate::kernel) mod monitor;
mod skeleton;
pub(in crate::kernel) mod socket;
pub(in crate::kernel) mod stranger;
#[cfg(test)]
mod tests;
pub(in crate::kernel) mod uapi;
pub(in crate::kernel) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::errno::Errno;

use crate::hostnet::rules::{Chain, ChainName, Data, Edit, Element, Family, Rules, SetId, Skeleton};

use super::extack::{KernelError, Refusal};
use super::socket::SocketError;
use element::family;
use layout::{Layout, Observed, chain_of, write_table};
use skeleton::TABLE;
use socket::{Batch, Dump, NetfilterSocket, Refused};
use uapi::*;
use wire::{Damaged, Writer, needed, number, pick};

/// How often something is begun anew because somebody changed the firewall meanwhile.
const TRIES: u32 = 8;
/// No change to an element takes more bytes than this.
const LARGEST_CHANGE: usize = 192;
/// Sets in one transaction are numbered; the skeleton has fewer than this.
const SETS_OF_SKELETON: u32 = 1 << 16;
const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];

/// What the kernel can do for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// A table can have an owner, and outlive it (Linux ≥ 6.9).
    pub owner: bool,
}

/// What [`Nft::ensure`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// Nothing: it was there, and ours.
    Kept,
    /// It was there, and was taken over from a process that has ended.
    Adopted,
    /// It was not there.
    Created,
    /// It was there, but not as it must be; the elements were kept.
    Replaced,
}

/// The firewall could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NftError {
    /// The kernel refused; nothing was changed. The operation names the element.
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
    /// Answers were lost; what was done is unknown.
    #[error("nf_tables: {0}")]
    Lost(SocketError),
    /// An answer cannot be read: what it is about is unknown, not absent.
    #[error("nf_tables: {what} cannot be read: {reason}")]
    Undecodable {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An element that cannot be written; nothing was changed.
    #[error("nf_tables: {element} cannot be written: {reason}")]
    Unwritable {
        /// The element.
        element: String,
        /// Why.
        reason: String,
    },
    /// Somebody changed the firewall every time we tried to read it.
    #[error("nf_tables: the firewall kept changing while it was read")]
    Interrupted,
}

impl From<SocketError> for NftError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::System { operation, errno } => Self::System { operation, errno },
            other @ (SocketError::TimedOut { .. } | SocketError::Overrun | SocketError::Undecodable(_)) => {
                Self::Lost(other)
            }
        }
    }
}

/// Our firewall in the network namespace of the thread that opened it.
pub struct Nft {
    socket: NetfilterSocket,
    features: Features,
    layout: Layout,
}

/// One change to one element or chain.
#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Put(&'a ChainName, &'a Chain),
    Remove(&'a Element),
    Add(&'a Element),
    Drop(&'a ChainName),
}

impl Nft {
    /// Opens the socket and asks what the kernel can do. Changes nothing.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = NetfilterSocket::open()?;
        let mut features = probe(&mut socket)?;
        features.owner &= !crate::fault::without_owners();
        Ok(Self { socket, features, layout: Layout::new() })
    }

    /// Like [`Nft::open`], as on a kernel that knows no owners: others may change the tables.
    pub fn open_unowned() -> Result<Self, NftError> {
        let mut nft = Self::open()?;
        nft.features.owner = false;
        Ok(nft)
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The number by which the kernel names us where it tells of changes.
    pub(in crate::kernel) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Makes the tables be there, and right; see [`Nft::ensure`].
    pub fn ensure_skeleton(&mut self) -> Result<(), NftError> {
        self.ensure().map(drop)
    }

    /// As [`Nft::ensure_with`], where there are no policies.
    pub fn ensure(&mut self) -> Result<Ensured, NftError> {
        self.ensure_with(&BTreeMap::new())
    }

    /// Makes both tables be there, and right. What is right is not touched; what is not is replaced, its elements
    /// kept but those that lead to chains that are not among these. One transaction, or none.
    pub fn ensure_with(&mut self, chains: &BTreeMap<ChainName, Chain>) -> Result<Ensured, NftError> {
        let (observed, rules) = self.read()?;
        let flags = self.table_flags();
        match rules.skeleton {
            Skeleton::Present if self.owns(&observed) => Ok(Ensured::Kept),
            Skeleton::Present | Skeleton::Unowned => {
                let mut batch = self.socket.batch(NFNL_SUBSYS_NFTABLES);
                for table in FAMILIES {
                    write_table(&mut batch, table, flags, None);
                }
                self.whole("the tables", batch)?;
                Ok(Ensured::Adopted)
            }
            Skeleton::Absent | Skeleton::Outdated => {
                let mut batch = self.socket.batch(NFNL_SUBSYS_NFTABLES);
                for table in observed.tables.keys() {
                    write_delete_table(&mut batch, *table);
                }
                self.layout.write(&mut batch, flags);
                let leads_somewhere = |element: &&Element| match element.data() {
                    Data::Jump(chain) => chains.contains_key(chain),
                    _ => true,
                };
                let elements = rules.elements.iter().filter(leads_somewhere).map(Change::Add);
                let chains = chains.iter().map(|(name, chain)| Change::Put(name, chain));
                let changes: Vec<_> = chains.chain(elements).collect();
                let (mut id, mut at) = (SETS_OF_SKELETON, 0);
                while let Some(change) = changes.get(at) {
                    if batch.len() + change.size() > self.socket.largest_batch() {
                        break;
                    }
                    change.write(&mut batch, &mut id)?;
                    at += 1;
                }
                self.whole("the skeleton", batch)?;
                self.change(changes.get(at..).unwrap_or_default())?;
                Ok(match rules.skeleton {
                    Skeleton::Absent => Ensured::Created,
                    Skeleton::Outdated | Skeleton::Unowned | Skeleton::Present => Ensured::Replaced,
                })
            }
        }
    }

    /// Removes and adds elements, in this order and in one transaction. Removing what is not there and adding what
    /// is there is fine; adding a key that is there with other data, or an overlapping interval, is refused.
    ///
    /// Where the socket's buffer is small (only the host's root may enlarge it) and there are thousands of changes,
    /// it takes several transactions, each for some sets.
    pub fn commit(&mut self, remove: &[Element], add: &[Element]) -> Result<(), NftError> {
        self.edit(&Edit { remove: remove.to_vec(), add: add.to_vec(), ..Edit::default() })
    }

    /// The same with chains: what comes is there before elements, what goes is so after.
    ///
    /// A packet takes its rules from the generation in which it begins, and elements from the one in which it meets them. A
    /// chain that came together with the elements that lead to it would be an empty one for packets on the way, and let
    /// them pass. So a new chain comes in a transaction of its own before.
    pub fn edit(&mut self, edit: &Edit) -> Result<(), NftError> {
        let Edit { put, remove, add, drop } = edit;
        let counts: BTreeSet<_> = add.iter().filter(|element| element.set() == SetId::Denied).collect();
        // With a chain comes what it counts by.
        let (new, put): (Vec<_>, Vec<_>) =
            put.iter().partition(|(name, _)| counts.contains(&Element::denied(name)));
        let new: Vec<_> = new.iter().map(|(name, chain)| Change::Put(name, chain)).collect();
        self.change(&new)?;
        let remove = remove.iter().map(Change::Remove);
        let mut elements: Vec<_> = remove.chain(add.iter().map(Change::Add)).collect();
        // A stable order: in each set what goes makes room for what comes, and a key is never long without a value.
        elements.sort_by_key(|change| change.element().map(Element::set));
        let put = put.into_iter().map(|(name, chain)| Change::Put(name, chain));
        let changes: Vec<_> = put.chain(elements).chain(drop.iter().map(Change::Drop)).collect();
        self.change(&changes)
    }

    /// How many packets each element of a set that counts has met since it was made, by the name that is its key.
    pub fn counts(&mut self, set: SetId) -> Result<Vec<(String, u64)>, NftError> {
        let what = "what was dropped";
        let mut body = Writer::default();
        body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        body.text(NFTA_SET_ELEM_LIST_SET, set.name());
        let family = family(set.family());
        let replies = self.until_calm(|nft| nft.list(what, NFT_MSG_GETSETELEM, family, body.bytes()))?;
        element::read_counts(&replies).map_err(|damage| unknown(what, damage))
    }

    /// All of our firewall, in one consistent picture.
    pub fn dump(&mut self) -> Result<Rules, NftError> {
        let (observed, mut rules) = self.read()?;
        let is_unowned = self.features.owner && observed.tables.values().any(|table| table.owner.is_none());
        if is_unowned && rules.skeleton == Skeleton::Present {
            rules.skeleton = Skeleton::Unowned;
        }
        Ok(rules)
    }

    /// Removes both tables; what is not there is fine.
    pub fn remove_tables(&mut self) -> Result<(), NftError> {
        let (observed, _) = self.read()?;
        let mut batch = self.socket.batch(NFNL_SUBSYS_NFTABLES);
        for table in observed.tables.keys() {
            write_delete_table(&mut batch, *table);
        }
        self.whole("the tables", batch)
    }

    /// A number that changes whenever anybody changes anything in any table of this network namespace.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let what = "the generation";
        let replies = self.socket.request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFPROTO_UNSPEC, &[])?;
        let replies = replies.map_err(|refusal| refused(refusal, what))?;
        let read = || {
            let [id] = pick(replies.first().map(Vec::as_slice).unwrap_or_default(), [NFTA_GEN_ID])?;
            number(needed(id, "number")?)
        };
        read().map_err(|damage| unknown(what, damage))
    }

    /// Strangers' chains that drop what nobody accepts on its way through the host: `inet firewalld filter_FORWARD`.
    /// An accept of ours cannot help there. Legacy iptables is not seen.
    pub fn foreign_forward_drops(&mut self) -> Result<Vec<String>, NftError> {
        let mut found = Vec::new();
        for (number, word) in
            [(NFPROTO_INET, "inet"), (NFPROTO_IPV4, "ip"), (NFPROTO_IPV6, "ip6"), (7, "bridge")]
        {
            let what = format!("the {word} chains");
            let chains = self.until_calm(|nft| nft.list(&what, NFT_MSG_GETCHAIN, number, &[]))?;
            for chain in &chains {
                let facts = chain_of(chain).map_err(|damage| unknown(&what, damage))?;
                if let Some((table, name, Some((_, NF_INET_FORWARD, _, DROP)))) = facts
                    && table != TABLE
                {
                    found.push(format!("{word} {table} {name}"));
                }
            }
        }
        Ok(found)
    }
}

const DROP: u32 = NF_DROP as u32;

impl Nft {
    fn table_flags(&self) -> u32 {
        if self.features.owner { NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST } else { 0 }
    }

    /// Whether nothing has to be done to the tables themselves.
    fn owns(&self, observed: &Observed) -> bool {
        let port = self.features.owner.then(|| self.socket.port());
        observed.tables.values().all(|table| table.owner == port)
    }

    fn change(&mut self, changes: &[Change<'_>]) -> Result<(), NftError> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut room = self.socket.largest_batch();
            let fits = |change: &&Change<'_>| {
                let size = change.size();
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.transaction(now.to_vec())?;
            rest = later;
        }
        Ok(())
    }

    /// Does the changes at once. What is to be removed but not there is found out by being refused, and left out.
    fn transaction(&mut self, mut changes: Vec<Change<'_>>) -> Result<(), NftError> {
        for _ in 0..TRIES {
            let mut batch = self.socket.batch(NFNL_SUBSYS_NFTABLES);
            let (mut id, mut messages) = (0, Vec::with_capacity(changes.len()));
            for (index, change) in changes.iter().enumerate() {
                change.write(&mut batch, &mut id)?;
                messages.resize(batch.count(), index);
            }
            let refused = match self.socket.commit(batch) {
                Ok(refused) if refused.is_empty() => return Ok(()),
                Ok(refused) => refused,
                Err(SocketError::Overrun) => {
                    // There were more refusals than the buffer holds, so nothing was done.
                    let have = self.dump()?;
                    let there: BTreeSet<_> = have.elements.iter().map(Element::place).collect();
                    changes.retain(|change| match change {
                        Change::Put(..) | Change::Add(_) => true,
                        Change::Remove(element) => there.contains(&element.place()),
                        Change::Drop(name) => have.chains.contains_key(*name),
                    });
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let of_change = |(message, refusal): Refused| {
                (message.and_then(|message: usize| messages.get(message).copied()), refusal)
            };
            let absent = absent(&changes, refused.into_iter().map(of_change).collect())?;
            let mut index = 0;
            changes.retain(|_| {
                index += 1;
                !absent.contains(&(index - 1))
            });
        }
        Err(NftError::Interrupted)
    }

    /// Has the batch done, or says why not.
    fn whole(&mut self, what: &str, batch: Batch) -> Result<(), NftError> {
        match self.socket.commit(batch)?.into_iter().next() {
            None => Ok(()),
            Some((message, refusal)) => {
                let what = message.map_or(what.to_owned(), |message| format!("{what}, message {message}"));
                Err(refused(refusal, &what).into())
            }
        }
    }

    fn read(&mut self) -> Result<(Observed, Rules), NftError> {
        self.until_calm(|nft| {
            let before = nft.generation()?;
            let Some(observed) = nft.observe()? else { return Ok(None) };
            let (mut elements, mut strange) = (BTreeSet::new(), 0);
            for set in SetId::ALL.iter().filter(|set| observed.can_read(**set)) {
                let Some((found, odd)) = nft.elements(*set)? else { return Ok(None) };
                elements.extend(found);
                strange += odd;
            }
            let skeleton = nft.judge(&observed, strange);
            let calm = nft.generation()? == before;
            let chains = observed.policies();
            Ok(calm.then_some((observed, Rules { skeleton, elements, chains })))
        })
    }

    fn judge(&self, observed: &Observed, strange: usize) -> Skeleton {
        let persist = if self.features.owner { NFT_TABLE_F_PERSIST } else { 0 };
        let lasting = observed.tables.values().all(|table| table.flags & !NFT_TABLE_F_OWNER == persist);
        if observed.tables.is_empty() {
            Skeleton::Absent
        } else if lasting && strange == 0 && observed.contents() == self.layout.expected() {
            Skeleton::Present
        } else {
            Skeleton::Outdated
        }
    }

    /// Our tables, chains, rules and sets; `None` if they changed meanwhile.
    fn observe(&mut self) -> Result<Option<Observed>, NftError> {
        type Take = fn(&mut Observed, Family, &[u8]) -> Result<(), Damaged>;
        let questions: [(&str, u16, Option<u16>, Take); 5] = [
            ("our tables", NFT_MSG_GETTABLE, None, Observed::take_table),
            ("our chains", NFT_MSG_GETCHAIN, None, Observed::take_chain),
            ("our rules", NFT_MSG_GETRULE, Some(NFTA_RULE_TABLE), Observed::take_rule),
            ("our sets", NFT_MSG_GETSET, Some(NFTA_SET_TABLE), Observed::take_set),
            ("our counters", NFT_MSG_GETOBJ, Some(NFTA_OBJ_TABLE), Observed::take_counter),
        ];
        let mut observed = Observed::default();
        for table in FAMILIES {
            for (what, message, filter, take) in questions {
                let mut body = Writer::default();
                if let Some(filter) = filter {
                    if !observed.tables.contains_key(&table) {
                        continue;
                    }
                    body.text(filter, TABLE);
                }
                let Some(replies) = self.list(what, message, family(table), body.bytes())? else {
                    return Ok(None);
                };
                for reply in &replies {
                    take(&mut observed, table, reply).map_err(|damage| unknown(what, damage))?;
                }
            }
        }
        Ok(Some(observed))
    }

    fn elements(&mut self, set: SetId) -> Result<Option<(Vec<Element>, usize)>, NftError> {
        let what = format!("the set {}", set.name());
        let mut body = Writer::default();
        body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
        body.text(NFTA_SET_ELEM_LIST_SET, set.name());
        let Some(replies) = self.list(&what, NFT_MSG_GETSETELEM, family(set.family()), body.bytes())? else {
            return Ok(None);
        };
        element::read(set, &replies).map(Some).map_err(|damage| unknown(&what, damage))
    }

    /// One dump; `None` if what is dumped changed meanwhile, or went away.
    fn list(
        &mut self,
        what: &str,
        message: u16,
        family: u8,
        body: &[u8],
    ) -> Result<Option<Vec<Vec<u8>>>, NftError> {
        match self.socket.dump(NFNL_SUBSYS_NFTABLES, message, family, body)? {
            Dump::Complete(found) => Ok(Some(found)),
            Dump::Interrupted => Ok(None),
            Dump::Refused(refusal) if refusal.errno == Some(Errno::ENOENT) => Ok(None),
            Dump::Refused(refusal) => Err(refused(refusal, what).into()),
        }
    }

    fn until_calm<T>(
        &mut self,
        mut once: impl FnMut(&mut Self) -> Result<Option<T>, NftError>,
    ) -> Result<T, NftError> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                // Whoever changes the firewall so fast gets a moment to finish: 1, 2, 4 … ms.
                std::thread::sleep(Duration::from_millis(1 << (attempt - 1)));
            }
            if let Some(found) = once(self)? {
                return Ok(found);
            }
        }
        Err(NftError::Interrupted)
    }
}

impl<'a> Change<'a> {
    fn element(&self) -> Option<&'a Element> {
        match self {
            Self::Remove(element) | Self::Add(element) => Some(element),
            Self::Put(..) | Self::Drop(_) => None,
        }
    }

    /// Its messages take no more bytes than this.
    fn size(&self) -> usize {
        match self {
            Self::Remove(_) | Self::Add(_) | Self::Drop(_) => LARGEST_CHANGE,
            Self::Put(name, chain) => {
                let mut batch = Batch::new(0, NFNL_SUBSYS_NFTABLES);
                chain::put(&mut batch, name, chain, &mut 0);
                batch.len()
            }
        }
    }

    fn write(&self, batch: &mut Batch, id: &mut u32) -> Result<(), NftError> {
        let (message, flags, element) = match self {
            Self::Put(name, chain) => {
                chain::put(batch, name, chain, id);
                return Ok(());
            }
            Self::Drop(name) => {
                chain::delete(batch, name);
                return Ok(());
            }
            Self::Remove(element) => (NFT_MSG_DELSETELEM, 0, element),
            Self::Add(element) => (NFT_MSG_NEWSETELEM, netlink_packet_core::NLM_F_CREATE, element),
        };
        let mut written = Ok(());
        batch.push(message, flags, family(element.set().family()), |body| {
            written = element::write(element, body)
        });
        let unwritable = |Damaged(reason)| NftError::Unwritable { element: element.to_string(), reason };
        written.map_err(unwritable)
    }

    fn refused(&self, refusal: Refusal) -> KernelError {
        let operation = match self {
            Self::Put(name, _) => format!("nft add chain inet netloom {name}"),
            Self::Drop(name) => format!("nft delete chain inet netloom {name}"),
            Self::Remove(element) => format!("nft delete element {element}"),
            Self::Add(element) => format!("nft add element {element}"),
        };
        refused(refusal, &operation)
    }
}

/// The indices of the changes that remove what is not there, if nothing else was refused.
fn absent(changes: &[Change<'_>], refused: Vec<Refused>) -> Result<BTreeSet<usize>, NftError> {
    let mut absent = BTreeSet::new();
    for (index, refusal) in refused {
        match index.and_then(|index| changes.get(index).map(|change| (index, change))) {
            Some((index, Change::Remove(_) | Change::Drop(_))) if refusal.errno == Some(Errno::ENOENT) => {
                absent.insert(index);
            }
            Some((_, change)) => return Err(change.refused(refusal).into()),
            None => return Err(self::refused(refusal, "nft transaction").into()),
        }
    }
    Ok(absent)
}

/// Asks whether tables can have owners, in a transaction that is refused in any case.
fn probe(socket: &mut NetfilterSocket) -> Result<Features, NftError> {
    const NAME: &str = "netloom-probe";
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(NFT_MSG_NEWTABLE, netlink_packet_core::NLM_F_CREATE, NFPROTO_INET, |body| {
        body.text(NFTA_TABLE_NAME, NAME);
        body.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
    });
    batch.push(NFT_MSG_DELTABLE, 0, NFPROTO_INET, |body| body.text(NFTA_TABLE_NAME, "netloom-no-such-table"));
    let mut owner = true;
    for (index, refusal) in socket.commit(batch)? {
        match (index, refusal.errno) {
            (Some(0), Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => owner = false,
            (Some(1), Some(Errno::ENOENT)) => {}
            (_, _) => return Err(refused(refusal, "the probe of nftables").into()),
        }
    }
    Ok(Features { owner })
}

fn write_delete_table(batch: &mut Batch, table: Family) {
    batch.push(NFT_MSG_DELTABLE, 0, family(table), |body| body.text(NFTA_TABLE_NAME, TABLE));
}

fn refused(refusal: Refusal, operation: &str) -> KernelError {
    let errno = refusal.errno.unwrap_or(Errno::UnknownErrno);
    KernelError { errno, operation: operation.to_owned(), extack: refusal.extack }
}

fn unknown(what: &str, Damaged(reason): Damaged) -> NftError {
    NftError::Undecodable { what: what.to_owned(), reason }
}
