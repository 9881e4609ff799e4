//! The skeleton as messages to the kernel, and as what the kernel then has: to compare, and to notice what strangers
//! changed. Pure.
//!
//! Each rule carries a hash of itself in its user data, and each table one of everything: so a table of another
//! version, a flushed chain and a rule put between ours are all seen without understanding a single expression.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::hostnet::rules::{Chain as Policed, ChainName, DataType, Family, Field, RuleMark, SetId, Shape};

use super::element::{data_fields, family, size, size_of};
use super::expr::{Anonymous, AnonymousElement, Expr, Set, Statement, value};
use super::skeleton::{COUNTERS, Chain, Hook, TABLE, chains};
use super::socket::Batch;
use super::uapi::*;
use super::wire::{Damaged, Writer, needed, number, pick, text};

/// Enough to tell one rule, or one version, from another.
pub(super) type Mark = RuleMark;

/// What the kernel has of a table, in as much as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) tables: BTreeMap<Family, ObservedTable>,
    pub(super) chains: BTreeMap<(Family, String), ObservedChain>,
    pub(super) sets: BTreeMap<(Family, String), ObservedSet>,
    pub(super) counters: BTreeSet<(Family, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ObservedTable {
    pub(super) flags: u32,
    /// The socket that alone may change it.
    pub(super) owner: Option<u32>,
    /// The layout by which it was made.
    pub(super) comment: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ObservedChain {
    /// Type, hook, priority and policy of a base chain.
    pub(super) hook: Option<(String, u32, i32, u32)>,
    /// The marks of its rules; a rule without one is not ours.
    pub(super) rules: Vec<Option<Mark>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedSet {
    flags: u32,
    key: u32,
    data: Option<u32>,
}

/// The skeleton, ready to be sent.
pub(super) struct Layout {
    chains: Vec<(Chain, Vec<Mark>)>,
    comment: String,
}

/// The types of user data. `nft` prints a comment, and skips what it does not know.
const USERDATA_COMMENT: u8 = 0;
const USERDATA_MARK: u8 = 110;
/// Of a set: without it nft prints the names of devices empty.
const USERDATA_KEY_ORDER: u8 = 0;
/// The flags of a set that we compare; the others are the kernel's business.
const SET_FLAGS: u32 = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | NFT_SET_INTERVAL | NFT_SET_MAP | NFT_SET_CONCAT;

impl Layout {
    pub(super) fn new() -> Self {
        let chains: Vec<_> = chains()
            .into_iter()
            .map(|chain| {
                let marks = chain.rules.iter().map(mark).collect();
                (chain, marks)
            })
            .collect();
        let mut layout = Self { chains, comment: String::new() };
        // Of every message but those that hold the comment itself.
        let mut whole = Batch::new(0, NFNL_SUBSYS_NFTABLES);
        layout.write_contents(&mut whole);
        let version = u64::from_be_bytes(hash(&whole.finish()));
        layout.comment = format!("kept by netloomd, layout {version:016x}");
        layout
    }

    /// Adds everything to the batch.
    pub(super) fn write(&self, batch: &mut Batch, table_flags: u32) {
        for table in [Family::Inet, Family::Bridge] {
            write_table(batch, table, table_flags, Some(&self.comment));
        }
        self.write_contents(batch);
    }

    /// What the kernel has when everything is right, whoever owns it.
    pub(super) fn expected(&self) -> Observed {
        let mut observed = Observed::default();
        for table in [Family::Inet, Family::Bridge] {
            let comment = self.comment.clone();
            observed.tables.insert(table, ObservedTable { comment, ..ObservedTable::default() });
        }
        for (chain, marks) in &self.chains {
            let hook = chain.hook.map(|hook| (hook.kind.to_owned(), hook.number, hook.priority, ACCEPT));
            let rules = marks.iter().copied().map(Some).collect();
            observed.chains.insert((chain.family, chain.name.to_owned()), ObservedChain { hook, rules });
        }
        for set in SetId::ALL {
            observed.sets.insert((set.family(), set.name().to_owned()), expected_set(*set));
        }
        observed.counters = COUNTERS.iter().map(|name| (Family::Inet, (*name).to_owned())).collect();
        observed
    }

    fn write_contents(&self, batch: &mut Batch) {
        for (chain, _) in &self.chains {
            write_chain(batch, chain);
        }
        for counter in COUNTERS {
            write_counter(batch, counter);
        }
        let mut number = 0;
        for set in SetId::ALL {
            number += 1;
            write_set(batch, *set, number);
        }
        for (chain, marks) in &self.chains {
            for (rule, mark) in chain.rules.iter().zip(marks) {
                write_rule(batch, chain, rule, *mark, &mut number);
            }
        }
    }
}

impl Observed {
    /// The chains of policies.
    pub(super) fn policies(&self) -> BTreeMap<ChainName, Policed> {
        let named = self.chains.iter().filter_map(|((table, name), chain)| {
            let name = policy_chain(*table, name, chain)?;
            Some((name, Policed::seen(chain.rules.clone())))
        });
        named.collect()
    }

    /// The skeleton alone, without who owns the tables, and which flags they have, for a comparison.
    pub(super) fn contents(&self) -> Self {
        let mut contents = self.clone();
        contents.chains.retain(|(table, name), chain| policy_chain(*table, name, chain).is_none());
        for table in contents.tables.values_mut() {
            (table.flags, table.owner) = (0, None);
        }
        contents
    }

    /// Whether the set is as we would make it, so that its elements can be read.
    pub(super) fn can_read(&self, set: SetId) -> bool {
        self.sets.get(&(set.family(), set.name().to_owned())) == Some(&expected_set(set))
    }

    /// Takes an answer about tables of this family.
    pub(super) fn take_table(&mut self, table: Family, body: &[u8]) -> Result<(), Damaged> {
        let [name, flags, userdata, owner] =
            pick(body, [NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_USERDATA, NFTA_TABLE_OWNER])?;
        if text(needed(name, "name of a table")?)? != TABLE {
            return Ok(());
        }
        let comment = userdata.and_then(|data| userdata_of(data, USERDATA_COMMENT)).unwrap_or_default();
        let comment = String::from_utf8_lossy(comment).trim_end_matches('\0').to_owned();
        let flags = flags.map(number).transpose()?.unwrap_or_default();
        let owner = owner.map(number).transpose()?;
        self.tables.insert(table, ObservedTable { flags, owner, comment });
        Ok(())
    }

    /// Takes an answer about chains of this family.
    pub(super) fn take_chain(&mut self, table: Family, body: &[u8]) -> Result<(), Damaged> {
        let Some((of, name, hook)) = chain_of(body)? else { return Ok(()) };
        if of == TABLE {
            self.chains.insert((table, name), ObservedChain { hook, rules: Vec::new() });
        }
        Ok(())
    }

    /// Takes an answer about rules of our table of this family; chains must have been taken before.
    pub(super) fn take_rule(&mut self, table: Family, body: &[u8]) -> Result<(), Damaged> {
        let [of, chain, userdata] = pick(body, [NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_USERDATA])?;
        if text(needed(of, "table of a rule")?)? != TABLE {
            return Ok(());
        }
        let chain = text(needed(chain, "chain of a rule")?)?.to_owned();
        let mark = userdata.and_then(|data| userdata_of(data, USERDATA_MARK));
        let mark = mark.and_then(|mark| Mark::try_from(mark).ok());
        self.chains.entry((table, chain)).or_default().rules.push(mark);
        Ok(())
    }

    /// Takes an answer about sets of our table of this family. Those without a name belong to their rules.
    pub(super) fn take_set(&mut self, table: Family, body: &[u8]) -> Result<(), Damaged> {
        let kinds = [NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_LEN, NFTA_SET_DATA_LEN];
        let [of, name, flags, key, data] = pick(body, kinds)?;
        let flags = flags.map(number).transpose()?.unwrap_or_default() & SET_FLAGS;
        if text(needed(of, "table of a set")?)? != TABLE || flags & NFT_SET_ANONYMOUS != 0 {
            return Ok(());
        }
        let name = text(needed(name, "name of a set")?)?.to_owned();
        let key = number(needed(key, "size of a key")?)?;
        let data = data.map(number).transpose()?;
        self.sets.insert((table, name), ObservedSet { flags, key, data });
        Ok(())
    }

    /// Takes an answer about named objects of our table of this family.
    pub(super) fn take_counter(&mut self, table: Family, body: &[u8]) -> Result<(), Damaged> {
        let [of, name] = pick(body, [NFTA_OBJ_TABLE, NFTA_OBJ_NAME])?;
        if text(needed(of, "table of an object")?)? == TABLE {
            self.counters.insert((table, text(needed(name, "name of an object")?)?.to_owned()));
        }
        Ok(())
    }
}

fn policy_chain(table: Family, name: &str, chain: &ObservedChain) -> Option<ChainName> {
    let is_regular = table == Family::Inet && chain.hook.is_none();
    is_regular.then(|| ChainName::read(name)).flatten()
}

/// Table, name and hook of a chain.
type ChainFacts = (String, String, Option<(String, u32, i32, u32)>);

/// Reads an answer about a chain.
pub(super) fn chain_of(body: &[u8]) -> Result<Option<ChainFacts>, Damaged> {
    let kinds = [NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE];
    let [table, name, hook, policy, kind] = pick(body, kinds)?;
    let (Some(table), Some(name)) = (table, name) else { return Ok(None) };
    let hook = match hook {
        None => None,
        Some(hook) => {
            let [point, priority] = pick(hook, [NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY])?;
            Some((
                kind.map(text).transpose()?.unwrap_or_default().to_owned(),
                number(needed(point, "hook")?)?,
                number(needed(priority, "priority")?)?.cast_signed(),
                policy.map(number).transpose()?.unwrap_or(ACCEPT),
            ))
        }
    };
    Ok(Some((text(table)?.to_owned(), text(name)?.to_owned(), hook)))
}

const ACCEPT: u32 = NF_ACCEPT as u32;

/// Adds the table, or takes it over.
pub(super) fn write_table(batch: &mut Batch, table: Family, flags: u32, comment: Option<&str>) {
    batch.push(NFT_MSG_NEWTABLE, NLM_F_CREATE, family(table), |body| {
        body.text(NFTA_TABLE_NAME, TABLE);
        body.number(NFTA_TABLE_FLAGS, flags);
        if let Some(comment) = comment {
            let comment = [comment.as_bytes(), &[0]].concat();
            body.put(NFTA_TABLE_USERDATA, &userdata(USERDATA_COMMENT, &comment));
        }
    });
}

const NLM_F_CREATE: u16 = netlink_packet_core::NLM_F_CREATE;
const NLM_F_APPEND: u16 = netlink_packet_core::NLM_F_APPEND;

fn write_chain(batch: &mut Batch, chain: &Chain) {
    write_chain_named(batch, family(chain.family), chain.name, chain.hook);
}

pub(super) fn write_chain_named(batch: &mut Batch, family: u8, name: &str, hook: Option<Hook>) {
    batch.push(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |body| {
        body.text(NFTA_CHAIN_TABLE, TABLE);
        body.text(NFTA_CHAIN_NAME, name);
        if let Some(Hook { kind, number, priority }) = hook {
            body.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.number(NFTA_HOOK_HOOKNUM, number);
                hook.number(NFTA_HOOK_PRIORITY, priority.cast_unsigned());
            });
            body.number(NFTA_CHAIN_POLICY, ACCEPT);
            body.text(NFTA_CHAIN_TYPE, kind);
        }
    });
}

fn write_counter(batch: &mut Batch, name: &str) {
    batch.push(NFT_MSG_NEWOBJ, NLM_F_CREATE, NFPROTO_INET, |body| {
        body.text(NFTA_OBJ_TABLE, TABLE);
        body.text(NFTA_OBJ_NAME, name);
        body.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
        body.nest(NFTA_OBJ_DATA, |_| {});
    });
}

fn write_set(batch: &mut Batch, set: SetId, id: u32) {
    let ObservedSet { flags, key, data } = expected_set(set);
    batch.push(NFT_MSG_NEWSET, NLM_F_CREATE, family(set.family()), |body| {
        body.text(NFTA_SET_TABLE, TABLE);
        body.text(NFTA_SET_NAME, set.name());
        body.number(NFTA_SET_FLAGS, flags);
        body.number(NFTA_SET_KEY_TYPE, type_number(set.key()));
        body.number(NFTA_SET_KEY_LEN, key);
        if let Some(data) = data {
            body.number(NFTA_SET_DATA_TYPE, data_fields(set.data()).map_or(NFT_DATA_VERDICT, type_number));
            body.number(NFTA_SET_DATA_LEN, data);
        }
        body.number(NFTA_SET_ID, id);
        body.put(NFTA_SET_USERDATA, &userdata(USERDATA_KEY_ORDER, &byte_order(set.key())));
        if flags & NFT_SET_CONCAT != 0 {
            body.nest(NFTA_SET_DESC, |desc| {
                desc.nest(NFTA_SET_DESC_CONCAT, |fields| {
                    for field in set.key() {
                        fields
                            .nest(NFTA_LIST_ELEM, |one| one.number(NFTA_SET_FIELD_LEN, size(*field) as u32));
                    }
                });
            });
        }
        if set.shape() == Shape::Counted {
            body.nest(NFTA_SET_EXPR, |expression| {
                expression.text(NFTA_EXPR_NAME, "counter");
                expression.nest(NFTA_EXPR_DATA, |_| {});
            });
        }
    });
}

fn write_rule(batch: &mut Batch, chain: &Chain, rule: &Statement, mark: Mark, id: &mut u32) {
    write_rule_named(batch, family(chain.family), chain.name, rule, &mark, id);
}

pub(super) fn write_rule_named(
    batch: &mut Batch,
    number: u8,
    chain: &str,
    rule: &Statement,
    mark: &Mark,
    id: &mut u32,
) {
    let first = *id + 1;
    for set in anonymous(rule) {
        *id += 1;
        write_anonymous(batch, number, set, *id);
    }
    batch.push(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, number, |body| {
        body.text(NFTA_RULE_TABLE, TABLE);
        body.text(NFTA_RULE_CHAIN, chain);
        body.nest(NFTA_RULE_EXPRESSIONS, |list| write_expressions(list, rule, first));
        body.put(NFTA_RULE_USERDATA, &userdata(USERDATA_MARK, mark));
    });
}

fn write_expressions(list: &mut Writer, rule: &Statement, mut id: u32) {
    let mut sets = anonymous(rule);
    let mut next = || {
        let reference = (sets.next().map_or("", anonymous_name), id);
        id += 1;
        reference
    };
    for expression in rule {
        expression.write(list, &mut next);
    }
}

/// The kernel takes at most 64 KiB of elements in one message.
const ELEMENTS_AT_ONCE: usize = 500;

fn write_anonymous(batch: &mut Batch, family: u8, set: &Anonymous, id: u32) {
    let is_map = set.elements.iter().any(|element| element.verdict.is_some());
    let several = set.elements.iter().any(|element| element.last.is_some());
    batch.push(NFT_MSG_NEWSET, NLM_F_CREATE, family, |body| {
        let flag = |is: bool, flag: u32| if is { flag } else { 0 };
        let kind =
            flag(is_map, NFT_SET_MAP) | flag(set.intervals, NFT_SET_INTERVAL) | flag(several, NFT_SET_CONCAT);
        body.text(NFTA_SET_TABLE, TABLE);
        body.text(NFTA_SET_NAME, anonymous_name(set));
        body.number(NFTA_SET_FLAGS, NFT_SET_ANONYMOUS | NFT_SET_CONSTANT | kind);
        body.number(NFTA_SET_KEY_TYPE, set.key.number);
        body.number(NFTA_SET_KEY_LEN, set.key.size);
        if is_map {
            body.number(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            body.number(NFTA_SET_DATA_LEN, VERDICT_SIZE);
        }
        body.number(NFTA_SET_ID, id);
        body.nest(NFTA_SET_DESC, |desc| {
            desc.number(NFTA_SET_DESC_SIZE, set.elements.len() as u32);
            if several {
                desc.nest(NFTA_SET_DESC_CONCAT, |fields| {
                    for size in set.key.fields {
                        fields.nest(NFTA_LIST_ELEM, |one| one.number(NFTA_SET_FIELD_LEN, *size));
                    }
                });
            }
        });
    });
    for elements in set.elements.chunks(ELEMENTS_AT_ONCE) {
        batch.push(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, |body| {
            body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            body.text(NFTA_SET_ELEM_LIST_SET, anonymous_name(set));
            body.number(NFTA_SET_ELEM_LIST_SET_ID, id);
            body.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                elements.iter().for_each(|element| write_anonymous_element(list, element));
            });
        });
    }
}

fn write_anonymous_element(list: &mut Writer, element: &AnonymousElement) {
    list.nest(NFTA_LIST_ELEM, |one| {
        value(one, NFTA_SET_ELEM_KEY, &element.key);
        if let Some(verdict) = element.verdict {
            one.nest(NFTA_SET_ELEM_DATA, |data| verdict.write(data));
        }
        if let Some(last) = &element.last {
            value(one, NFTA_SET_ELEM_KEY_END, last);
        }
        if element.end {
            one.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
    });
}

const VERDICT_SIZE: u32 = 16;

fn expected_set(set: SetId) -> ObservedSet {
    let map = if set.data() == DataType::None { 0 } else { NFT_SET_MAP };
    let interval = match (set.shape(), set.key().len()) {
        (Shape::Exact | Shape::Counted, _) => 0,
        (Shape::Interval, 1) => NFT_SET_INTERVAL,
        (Shape::Interval, _) => NFT_SET_INTERVAL | NFT_SET_CONCAT,
    };
    let data = match set.data() {
        DataType::None => None,
        DataType::Verdict => Some(VERDICT_SIZE),
        other => data_fields(other).map(|fields| size_of(fields) as u32),
    };
    ObservedSet { flags: map | interval, key: size_of(set.key()) as u32, data }
}

/// The number by which `nft` knows how to print a key.
fn type_number(fields: &[Field]) -> u32 {
    const BITS: u32 = 6;
    fields.iter().fold(0, |number, field| {
        let field = match field {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Ether => 9,
            Field::InetProto => 12,
            Field::InetService => 13,
            Field::Ifname => 41,
        };
        number << BITS | field
    })
}

/// For nft: names are in the order of the host, addresses and numbers in that of the network, and several fields have
/// none.
fn byte_order(fields: &[Field]) -> [u8; 4] {
    const NONE: u32 = 0;
    const HOST: u32 = 1;
    const NETWORK: u32 = 2;
    match fields {
        [Field::Ifname] => HOST,
        [_] => NETWORK,
        _ => NONE,
    }
    .to_ne_bytes()
}

fn anonymous(rule: &Statement) -> impl Iterator<Item = &Anonymous> {
    rule.iter().filter_map(|expression| match expression {
        Expr::Find { set: Set::Anonymous(set), .. } => Some(set),
        _ => None,
    })
}

/// The kernel puts a number in.
fn anonymous_name(set: &Anonymous) -> &'static str {
    if set.elements.iter().any(|element| element.verdict.is_some()) { "__map%d" } else { "__set%d" }
}

fn mark(rule: &Statement) -> Mark {
    let mut batch = Batch::new(0, NFNL_SUBSYS_NFTABLES);
    for set in anonymous(rule) {
        write_anonymous(&mut batch, NFPROTO_UNSPEC, set, 0);
    }
    let mut writer = Writer::default();
    writer.raw(&batch.finish());
    write_expressions(&mut writer, rule, 0);
    hash(writer.bytes())
}

fn hash(bytes: &[u8]) -> Mark {
    let mut mark = Mark::default();
    for (to, from) in mark.iter_mut().zip(Sha256::digest(bytes)) {
        *to = from;
    }
    mark
}

/// One entry of user data: type, length, content.
fn userdata(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    [&[kind, length], content].concat()
}

fn userdata_of(mut bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, length, rest @ ..] = bytes {
        let (content, behind) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(content);
        }
        bytes = behind;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_the_same_every_time_and_within_the_limits_of_the_kernel() {
        let (one, other) = (Layout::new(), Layout::new());
        assert_eq!(one.comment, other.comment);
        assert_eq!(one.expected(), other.expected());
        let names: BTreeSet<_> = one.chains.iter().map(|(chain, _)| (chain.family, chain.name)).collect();
        assert_eq!(names.len(), one.chains.len());
    }

    #[test]
    fn every_chain_that_a_rule_leads_to_is_there() {
        use super::super::expr::Verdict;
        let layout = Layout::new();
        let there = |family, name: &str| {
            layout.chains.iter().any(|(chain, _)| chain.family == family && chain.name == name)
        };
        for (chain, _) in &layout.chains {
            for expression in chain.rules.iter().flatten() {
                let verdicts: Vec<Verdict> = match expression {
                    Expr::Verdict(verdict) => vec![*verdict],
                    Expr::Find { set: Set::Anonymous(set), .. } => {
                        set.elements.iter().filter_map(|element| element.verdict).collect()
                    }
                    _ => Vec::new(),
                };
                for verdict in verdicts {
                    if let Verdict::Jump(to) | Verdict::Goto(to) = verdict {
                        assert!(there(chain.family, to), "{} leads to {to}", chain.name);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut observed = Observed::default();
            let _ = observed.take_table(Family::Inet, &bytes);
            let _ = observed.take_chain(Family::Inet, &bytes);
            let _ = observed.take_rule(Family::Inet, &bytes);
            let _ = observed.take_set(Family::Inet, &bytes);
            let _ = observed.take_counter(Family::Inet, &bytes);
            let _ = userdata_of(&bytes, USERDATA_MARK);
        }
    }
}
