//! Chains of policies as messages to the kernel. Pure.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use crate::hostnet::rules::{
    Body, Chain, ChainName, Flowing, LOG_GROUP, LOGGED_BYTES, LOGGED_PER_SECOND, Line, Numbers, Peers,
    Permit, RuleTag, Service, SetId,
};

use super::expr::*;
use super::layout::{write_chain_named, write_rule_named};
use super::skeleton::TABLE;
use super::socket::Batch;
use super::uapi::*;

/// Makes the chain do this and nothing else. `id` numbers the sets of the batch.
pub(super) fn put(batch: &mut Batch, name: &ChainName, chain: &Chain, id: &mut u32) {
    write_chain_named(batch, NFPROTO_INET, name.as_str(), None);
    flush(batch, name);
    // One that was only seen has no rules to give; it is never wanted.
    let Some(body) = chain.body() else { return };
    for (line, mark) in body.lines().zip(chain.marks()) {
        let rule = statement(body, line);
        write_rule_named(batch, NFPROTO_INET, name.as_str(), &rule, &mark.unwrap_or_default(), id);
    }
}

/// Removes the chain with its rules.
pub(super) fn delete(batch: &mut Batch, name: &ChainName) {
    batch.push(NFT_MSG_DELCHAIN, 0, NFPROTO_INET, |body| {
        body.text(NFTA_CHAIN_TABLE, TABLE);
        body.text(NFTA_CHAIN_NAME, name.as_str());
    });
}

fn flush(batch: &mut Batch, name: &ChainName) {
    batch.push(NFT_MSG_DELRULE, 0, NFPROTO_INET, |body| {
        body.text(NFTA_RULE_TABLE, TABLE);
        body.text(NFTA_RULE_CHAIN, name.as_str());
    });
}

fn statement(body: &Body, line: Line<'_>) -> Statement {
    match line {
        Line::Permit(permit) => permitted(permit, body.flowing),
        Line::Log => [
            original(),
            limit(LOGGED_PER_SECOND, LOGGED_PER_SECOND),
            log(LOG_GROUP, body.name.as_str(), LOGGED_BYTES),
        ]
        .concat(),
        Line::Count => named_within(body.name.as_str(), None, SetId::Denied),
        Line::Deny => goto("deny"),
    }
}

fn permitted(permit: &Permit, flowing: Flowing) -> Statement {
    let (peer4, peer6) = match flowing {
        Flowing::In => (CT_ORIGINAL_IP_SADDR, CT_ORIGINAL_IP6_SADDR),
        Flowing::Out => (CT_REPLY_IP_SADDR, CT_REPLY_IP6_SADDR),
    };
    let tagged = |tag: &RuleTag, field, set| named_within(tag.as_str(), Some(field), set);
    let peers = match &permit.peers {
        Peers::Any => Statement::new(),
        Peers::Tagged4(tag) => tagged(tag, peer4, SetId::Peer4),
        Peers::Tagged6(tag) => tagged(tag, peer6, SetId::Peer6),
        Peers::Nets4(nets) => in_intervals(peer4, IP_ADDRESS, &nets.iter().map(bytes4).collect::<Vec<_>>()),
        Peers::Nets6(nets) => in_intervals(peer6, IP6_ADDRESS, &nets.iter().map(bytes6).collect::<Vec<_>>()),
    };
    let service = match &permit.service {
        Service::Any => Statement::new(),
        Service::Ports(ports) => numbered(CT_REPLY_PROTO_SRC, ports),
        Service::Icmp(types) => numbered(CT_ORIGINAL_PROTO_DST, types),
    };
    [peers, service, back()].concat()
}

fn numbered(field: Field, numbers: &[Numbers]) -> Statement {
    let key = |protocol: u8, number: u16| {
        let [high, low] = number.to_be_bytes();
        vec![protocol, 0, 0, 0, high, low, 0, 0]
    };
    let keys: Vec<_> =
        numbers.iter().map(|one| (key(one.protocol, one.first), key(one.protocol, one.last))).collect();
    in_pairs(&[CT_ORIGINAL_PROTOCOL, field], &keys)
}

/// First, and the first one behind unless there is none.
fn bytes4((first, last): &(Ipv4Addr, Ipv4Addr)) -> (Vec<u8>, Option<Vec<u8>>) {
    let behind = last.to_bits().checked_add(1).map(|behind| behind.to_be_bytes().to_vec());
    (first.octets().to_vec(), behind)
}

fn bytes6((first, last): &(Ipv6Addr, Ipv6Addr)) -> (Vec<u8>, Option<Vec<u8>>) {
    let behind = last.to_bits().checked_add(1).map(|behind| behind.to_be_bytes().to_vec());
    (first.octets().to_vec(), behind)
}
