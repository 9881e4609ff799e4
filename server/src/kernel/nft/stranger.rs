//! For tests only: a firewall of somebody else's.

use std::net::Ipv4Addr;

use super::expr::{self, IP_DADDR, Statement};
use super::socket::NetfilterSocket;
use super::uapi::*;
use super::{NftError, refused};
use crate::diagnose::seen::Hook;

/// Which packets a chain of a stranger drops.
#[derive(Clone, Copy, Debug)]
pub enum Drops {
    /// All that no rule accepts: its policy.
    All,
    /// Those to this address, by a rule.
    To(Ipv4Addr),
}

const CREATE: u16 = netlink_packet_core::NLM_F_CREATE;
const CHAIN: &str = "FILTER";

/// Adds `table inet NAME` with one chain to the calling thread's network namespace.
pub fn add(name: &str, hook: Hook, drops: Drops) -> Result<(), NftError> {
    let number = match hook {
        Hook::Prerouting => NF_INET_PRE_ROUTING,
        Hook::Input => NF_INET_LOCAL_IN,
        Hook::Forward => NF_INET_FORWARD,
        Hook::Output => NF_INET_LOCAL_OUT,
        Hook::Postrouting => NF_INET_POST_ROUTING,
    };
    let (policy, rule): (i32, Option<Statement>) = match drops {
        Drops::All => (NF_DROP, None),
        Drops::To(address) => {
            let to = [expr::nfproto(NFPROTO_IPV4), expr::is(IP_DADDR, &address.octets()), expr::drop()];
            (NF_ACCEPT, Some(to.concat()))
        }
    };
    let mut socket = NetfilterSocket::open()?;
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(NFT_MSG_NEWTABLE, CREATE, NFPROTO_INET, |body| body.text(NFTA_TABLE_NAME, name));
    batch.push(NFT_MSG_NEWCHAIN, CREATE, NFPROTO_INET, |body| {
        body.text(NFTA_CHAIN_TABLE, name);
        body.text(NFTA_CHAIN_NAME, CHAIN);
        body.nest(NFTA_CHAIN_HOOK, |hook| {
            hook.number(NFTA_HOOK_HOOKNUM, number);
            hook.number(NFTA_HOOK_PRIORITY, 0);
        });
        body.number(NFTA_CHAIN_POLICY, policy.cast_unsigned());
        body.text(NFTA_CHAIN_TYPE, "filter");
    });
    if let Some(rule) = rule {
        batch.push(NFT_MSG_NEWRULE, CREATE | netlink_packet_core::NLM_F_APPEND, NFPROTO_INET, |body| {
            body.text(NFTA_RULE_TABLE, name);
            body.text(NFTA_RULE_CHAIN, CHAIN);
            body.nest(NFTA_RULE_EXPRESSIONS, |list| {
                rule.iter().for_each(|one| one.write(list, &mut || ("", 0)));
            });
        });
    }
    finish(&mut socket, batch)
}

/// `nft flush ruleset`: removes every table of the calling thread's network namespace, as far as that is allowed; whether
/// anything was removed.
pub fn flush() -> Result<bool, NftError> {
    let mut socket = NetfilterSocket::open()?;
    let generation = |socket: &mut NetfilterSocket| {
        socket.request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFPROTO_UNSPEC, &[])
    };
    let before = generation(&mut socket)?;
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(NFT_MSG_DELTABLE, 0, NFPROTO_UNSPEC, |_| {});
    finish(&mut socket, batch)?;
    Ok(generation(&mut socket)? != before)
}

/// Removes a table of the calling thread's network namespace, in the families `inet` and `bridge`; whether that was allowed.
pub fn delete_table(name: &str) -> Result<bool, NftError> {
    let mut socket = NetfilterSocket::open()?;
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    for family in [NFPROTO_INET, NFPROTO_BRIDGE] {
        batch.push(NFT_MSG_DELTABLE, 0, family, |body| body.text(NFTA_TABLE_NAME, name));
    }
    Ok(socket.commit(batch)?.is_empty())
}

/// Empties a set of `inet netloom`, and a chain of it, or removes the chain; whether that was allowed.
pub fn meddle_with_policies(set: &str, chain: &str, delete: bool) -> Result<bool, NftError> {
    let mut socket = NetfilterSocket::open()?;
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(NFT_MSG_DELSETELEM, 0, NFPROTO_INET, |body| {
        body.text(NFTA_SET_ELEM_LIST_TABLE, super::TABLE);
        body.text(NFTA_SET_ELEM_LIST_SET, set);
    });
    batch.push(if delete { NFT_MSG_DELCHAIN } else { NFT_MSG_DELRULE }, 0, NFPROTO_INET, |body| {
        // The table's and the chain's name have the same numbers in both.
        body.text(NFTA_RULE_TABLE, super::TABLE);
        body.text(if delete { NFTA_CHAIN_NAME } else { NFTA_RULE_CHAIN }, chain);
    });
    Ok(socket.commit(batch)?.is_empty())
}

/// Removes the table again.
pub fn remove(name: &str) -> Result<(), NftError> {
    let mut socket = NetfilterSocket::open()?;
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(NFT_MSG_DELTABLE, 0, NFPROTO_INET, |body| body.text(NFTA_TABLE_NAME, name));
    finish(&mut socket, batch)
}

fn finish(socket: &mut NetfilterSocket, batch: super::Batch) -> Result<(), NftError> {
    match socket.commit(batch)?.into_iter().next() {
        None => Ok(()),
        Some((_, refusal)) => Err(refused(refusal, "a table of strangers").into()),
    }
}
