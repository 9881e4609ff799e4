//! Other people's firewalls, in as much as a rule can be judged: base chains, what their rules ask, and what they do.
//!
//! Only looked at when somebody asks why a packet does not arrive; never on the way of a change. What a rule asks that
//! is not understood here makes it `strange`, which means that it may match, never that it does not.

use std::collections::BTreeMap;

use super::socket::{Dump, NetfilterSocket};
use super::uapi::*;
use super::wire::{Damaged, Writer, attributes, needed, number, pick, text};
use super::{NftError, TABLE, TRIES, layout::chain_of, refused, unknown};
use crate::diagnose::seen::{Ask, Deed, Field, ForeignChain, ForeignRule, Hook};
use crate::hostnet::Stack;

/// More rules than this in one table are not read: then the table is told as one that cannot be looked into.
const RULES_MAX: usize = 20_000;

/// What was found in one stack.
pub(in crate::kernel) struct Foreign {
    pub(in crate::kernel) chains: Vec<ForeignChain>,
    /// Tables that are too large.
    pub(in crate::kernel) opaque: Vec<String>,
}

/// Reads the firewalls of the calling thread's stack, but for our own.
pub(in crate::kernel) fn read(stack: &Stack) -> Result<Foreign, NftError> {
    let mut reader = Reader { socket: NetfilterSocket::open()? };
    let mut all = Foreign { chains: Vec::new(), opaque: Vec::new() };
    for (number, family) in
        [(NFPROTO_INET, "inet"), (NFPROTO_IPV4, "ip"), (NFPROTO_IPV6, "ip6"), (NFPROTO_BRIDGE, "bridge")]
    {
        reader.family(stack, number, family, &mut all)?;
    }
    Ok(all)
}

struct Reader {
    socket: NetfilterSocket,
}

/// The rules of one table by chain.
type Rules = BTreeMap<String, Vec<ForeignRule>>;

impl Reader {
    fn family(
        &mut self,
        stack: &Stack,
        number: u8,
        family: &'static str,
        all: &mut Foreign,
    ) -> Result<(), NftError> {
        let what = format!("the {family} chains");
        let mut tables: BTreeMap<String, Rules> = BTreeMap::new();
        for body in self.list(&what, NFT_MSG_GETCHAIN, number, &[])? {
            let facts = chain_of(&body).map_err(|damage| unknown(&what, damage))?;
            let Some((table, chain, Some((_, point, priority, policy)))) = facts else { continue };
            let ours = table == TABLE && *stack == Stack::Host && matches!(family, "inet" | "bridge");
            let Some(hook) = hook_of(point).filter(|_| !ours) else { continue };
            if !tables.contains_key(&table) {
                let rules = self.rules(number, family, &table)?;
                if rules.is_none() {
                    all.opaque.push(format!("{family} {table}"));
                }
                tables.insert(table.clone(), rules.unwrap_or_default());
            }
            let others = tables.get(&table).cloned().unwrap_or_default();
            all.chains.push(ForeignChain {
                stack: stack.clone(),
                family,
                rules: others.get(&chain).cloned().unwrap_or_default(),
                table,
                chain,
                hook,
                priority,
                drops: policy == NF_DROP.cast_unsigned(),
                others,
            });
        }
        Ok(())
    }

    /// `None`: there are too many.
    fn rules(&mut self, number: u8, family: &str, table: &str) -> Result<Option<Rules>, NftError> {
        let what = format!("the rules of {family} {table}");
        let mut body = Writer::default();
        body.text(NFTA_RULE_TABLE, table);
        let found = self.list(&what, NFT_MSG_GETRULE, number, body.bytes())?;
        if found.len() > RULES_MAX {
            return Ok(None);
        }
        let mut rules = Rules::new();
        for body in &found {
            let (of, chain, rule) = rule_of(body).map_err(|damage| unknown(&what, damage))?;
            if of == table {
                rules.entry(chain).or_default().push(rule);
            }
        }
        Ok(Some(rules))
    }

    /// One dump; what went away meanwhile is nothing.
    fn list(&mut self, what: &str, message: u16, family: u8, body: &[u8]) -> Result<Vec<Vec<u8>>, NftError> {
        for _ in 0..TRIES {
            match self.socket.dump(NFNL_SUBSYS_NFTABLES, message, family, body)? {
                Dump::Complete(found) => return Ok(found),
                Dump::Interrupted => {}
                Dump::Refused(refusal) if refusal.errno == Some(nix::errno::Errno::ENOENT) => {
                    return Ok(Vec::new());
                }
                Dump::Refused(refusal) => return Err(refused(refusal, what).into()),
            }
        }
        Err(NftError::Interrupted)
    }
}

fn hook_of(point: u32) -> Option<Hook> {
    match point {
        NF_INET_PRE_ROUTING => Some(Hook::Prerouting),
        NF_INET_LOCAL_IN => Some(Hook::Input),
        NF_INET_FORWARD => Some(Hook::Forward),
        NF_INET_LOCAL_OUT => Some(Hook::Output),
        NF_INET_POST_ROUTING => Some(Hook::Postrouting),
        _ => None,
    }
}

/// Table, chain, and the rule.
pub(super) fn rule_of(body: &[u8]) -> Result<(String, String, ForeignRule), Damaged> {
    let [table, chain, expressions] = pick(body, [NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS])?;
    let mut reading = Reading::default();
    for expression in attributes(expressions.unwrap_or_default()) {
        let (_, expression) = expression?;
        let [name, data] = pick(expression, [NFTA_EXPR_NAME, NFTA_EXPR_DATA])?;
        reading.take(text(needed(name, "name of an expression")?)?, data.unwrap_or_default())?;
    }
    let text_of = |value, what| Ok::<_, Damaged>(text(needed(value, what)?)?.to_owned());
    Ok((text_of(table, "table of a rule")?, text_of(chain, "chain of a rule")?, reading.rule))
}

/// What a register holds: a field, and which of its bits.
#[derive(Clone)]
struct Held {
    field: Field,
    mask: Vec<u8>,
}

#[derive(Default)]
struct Reading {
    rule: ForeignRule,
    registers: BTreeMap<u32, Held>,
}

impl Reading {
    fn take(&mut self, name: &str, data: &[u8]) -> Result<(), Damaged> {
        match name {
            "meta" => {
                let [into, key] = pick(data, [NFTA_META_DREG, NFTA_META_KEY])?;
                let field = match number(needed(key, "key of meta")?)? {
                    NFT_META_IIFNAME => Some(Field::InputName),
                    NFT_META_OIFNAME => Some(Field::OutputName),
                    NFT_META_NFPROTO => Some(Field::NetworkFamily),
                    NFT_META_L4PROTO => Some(Field::TransportProtocol),
                    _ => None,
                };
                self.load(into, field)
            }
            "ct" => {
                let [into, key] = pick(data, [NFTA_CT_DREG, NFTA_CT_KEY])?;
                let is_state = number(needed(key, "key of ct")?)? == NFT_CT_STATE;
                self.load(into, is_state.then_some(Field::FlowState))
            }
            "payload" => {
                let kinds = [NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN];
                let [into, base, offset, length] = pick(data, kinds)?;
                let offset = number(needed(offset, "offset")?)?;
                let length = number(needed(length, "length")?)?;
                let field = match number(needed(base, "base")?)? {
                    NFT_PAYLOAD_NETWORK_HEADER => Some(Field::Network { offset, length }),
                    NFT_PAYLOAD_TRANSPORT_HEADER => Some(Field::Transport { offset, length }),
                    _ => None,
                };
                self.load(into, field)
            }
            "bitwise" => self.mask(data),
            "cmp" => self.compare(data),
            "immediate" => self.verdict(data),
            "counter" => {
                const PACKETS: u16 = 2;
                let [packets] = pick(data, [PACKETS])?;
                self.rule.packets =
                    packets.and_then(|packets| packets.try_into().ok()).map(u64::from_be_bytes);
                Ok(())
            }
            "reject" => {
                self.rule.does = Deed::Drop;
                Ok(())
            }
            // What xtables calls a target; dropping and accepting are none.
            "target" => {
                const NAME: u16 = 1;
                let [name] = pick(data, [NAME])?;
                if name.map(text).transpose()? == Some("REJECT") {
                    self.rule.does = Deed::Drop;
                }
                Ok(())
            }
            "log" | "objref" | "masq" | "nat" | "redir" | "notrack" | "flow_offload" | "queue" | "tproxy"
            | "dup" | "fwd" => Ok(()),
            // lookup, limit, fib, match, …
            _ => {
                self.rule.strange = true;
                Ok(())
            }
        }
    }

    /// Without a register it writes into the packet, which decides nothing.
    fn load(&mut self, into: Option<&[u8]>, field: Option<Field>) -> Result<(), Damaged> {
        if let Some(into) = into {
            let into = register(into)?;
            match field {
                Some(field) => drop(self.registers.insert(into, Held { field, mask: Vec::new() })),
                None => drop(self.registers.remove(&into)),
            }
        }
        Ok(())
    }

    fn mask(&mut self, data: &[u8]) -> Result<(), Damaged> {
        let kinds = [NFTA_BITWISE_SREG, NFTA_BITWISE_DREG, NFTA_BITWISE_MASK, NFTA_BITWISE_XOR];
        let [from, into, mask, xor] = pick(data, kinds)?;
        let held = from.map(register).transpose()?.and_then(|from| self.registers.get(&from).cloned());
        let into = register(needed(into, "register")?)?;
        let plain = value_of(xor)?.iter().all(|byte| *byte == 0);
        let mask = value_of(mask)?;
        match held.filter(|held| plain && held.mask.is_empty() && !mask.is_empty()) {
            Some(held) => drop(self.registers.insert(into, Held { mask: mask.to_vec(), ..held })),
            None => drop(self.registers.remove(&into)),
        }
        Ok(())
    }

    fn compare(&mut self, data: &[u8]) -> Result<(), Damaged> {
        let [from, operator, value] = pick(data, [NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA])?;
        let held = from.map(register).transpose()?.and_then(|from| self.registers.get(&from).cloned());
        let operator = number(needed(operator, "operator")?)?;
        match held.filter(|_| matches!(operator, NFT_CMP_EQ | NFT_CMP_NEQ)) {
            Some(Held { field, mask }) => {
                let (value, not) = (value_of(value)?.to_vec(), operator == NFT_CMP_NEQ);
                self.rule.asks.push(Ask { field, mask, value, not });
            }
            None => self.rule.strange = true,
        }
        Ok(())
    }

    fn verdict(&mut self, data: &[u8]) -> Result<(), Damaged> {
        let [into, data] = pick(data, [NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA])?;
        if number(needed(into, "register")?)? != 0 {
            return Ok(());
        }
        let [verdict] = pick(needed(data, "data")?, [NFTA_DATA_VERDICT])?;
        let [code, chain] = pick(needed(verdict, "verdict")?, [NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN])?;
        let chain = chain.map(text).transpose()?.unwrap_or_default().to_owned();
        self.rule.does = match number(needed(code, "code")?)?.cast_signed() {
            NF_DROP => Deed::Drop,
            NF_ACCEPT => Deed::Accept,
            NFT_JUMP => Deed::Jump(chain),
            NFT_GOTO => Deed::Goto(chain),
            NFT_RETURN => Deed::Return,
            _ => Deed::Nothing,
        };
        Ok(())
    }
}

/// The four registers of 16 bytes lie over those of 4 bytes, which are counted from 8 on.
fn register(value: &[u8]) -> Result<u32, Damaged> {
    Ok(match number(value)? {
        wide @ 1..=4 => 4 + wide * 4,
        narrow => narrow,
    })
}

fn value_of(data: Option<&[u8]>) -> Result<&[u8], Damaged> {
    let [value] = pick(data.unwrap_or_default(), [NFTA_DATA_VALUE])?;
    Ok(value.unwrap_or_default())
}
