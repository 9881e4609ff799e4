use std::collections::BTreeMap;

use netloom_api::Uid;

use super::*;
use crate::hostnet::rules::{
    Body, Chain, ChainName, Edit, Flowing, Numbers, Peers, Permit, RuleTag, Rules, Service, Skeleton,
};
use crate::hostnet::{Action, HostNet, Outcome, Step};
use crate::kernel::host::Kernel;
use crate::kernel::nft::skeleton::TABLE;
use crate::kernel::nft::socket::NetfilterSocket;
use crate::kernel::nft::uapi::*;
use crate::kernel::nft::wire::Writer;
use crate::kernel::testhost::on_private_host;
use crate::reconcile::Host as _;

fn numbers(protocol: u8, first: u16, last: u16) -> Numbers {
    Numbers { protocol, first, last }
}

/// A chain with a rule of every kind, and some that are large.
fn all_kinds(flowing: Flowing, policy: Uid) -> (ChainName, Chain) {
    let name = ChainName::of(flowing, [policy]);
    let tag = |index| RuleTag::of(policy, flowing, index).unwrap();
    let nets4 = (0..1500_u32).map(|at| {
        let first = 0x0a00_0000 + at * 16;
        (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(first + 7))
    });
    let end4 = (v4("240.0.0.0"), v4("255.255.255.255"));
    let nets6 = vec![(v6("::"), v6("::ffff")), (v6("ff00::"), Ipv6Addr::from_bits(u128::MAX))];
    let ranges = vec![numbers(6, 80, 80), numbers(6, 1000, 2000), numbers(17, 0, 65535), numbers(132, 1, 9)];
    let permits = vec![
        Permit { peers: Peers::Tagged4(tag(0)), service: Service::Ports(ranges.clone()) },
        Permit { peers: Peers::Tagged6(tag(0)), service: Service::Ports(vec![numbers(6, 80, 80)]) },
        Permit { peers: Peers::Nets4(nets4.chain([end4]).collect()), service: Service::Any },
        Permit { peers: Peers::Nets6(nets6), service: Service::Icmp(vec![numbers(58, 0x8000, 0x80ff)]) },
        Permit { peers: Peers::Any, service: Service::Icmp(vec![numbers(1, 0x0800, 0x0800)]) },
    ];
    (name.clone(), Chain::new(Body { name, flowing, permits, log: true }))
}

fn put(chains: &[(ChainName, Chain)]) -> Edit {
    Edit { put: chains.to_vec(), ..Edit::default() }
}

fn leads(chain: &ChainName) -> Vec<Element> {
    vec![
        Element::judged(v4("10.1.0.11").into(), Flowing::In, chain.clone()),
        Element::judged(v6("fd01::11").into(), Flowing::In, chain.clone()),
        Element::denied(chain),
    ]
}

#[test]
fn chains_are_what_was_put_until_they_are_put_otherwise_or_go() {
    on_private_host(|| {
        let mut nft = fresh();
        let policy = Uid::generate();
        let chains = [all_kinds(Flowing::In, policy), all_kinds(Flowing::Out, policy)];
        let (name, first) = chains[0].clone();
        let mut edit = put(&chains);
        edit.add = leads(&name);
        for _ in 0..2 {
            nft.edit(&edit).unwrap();
            let have = nft.dump().unwrap();
            assert_eq!(have.chains, chains.clone().into());
            assert_eq!(have.elements, leads(&name).into_iter().collect());
            assert_eq!(have.skeleton, Skeleton::Present);
        }
        let body = Body { permits: Vec::new(), log: false, ..first.body().unwrap().clone() };
        let narrower = Chain::new(body);
        nft.edit(&put(&[(name.clone(), narrower.clone())])).unwrap();
        assert_eq!(nft.dump().unwrap().chains[&name], narrower);

        let gone = Edit { drop: vec![name.clone()], ..Edit::default() };
        let refused = nft.edit(&gone).unwrap_err().to_string();
        assert!(refused.contains("EBUSY"), "an element leads to it: {refused}");
        assert_eq!(nft.dump().unwrap().chains[&name], narrower);
        let gone = Edit {
            remove: leads(&name),
            drop: chains.iter().map(|(name, _)| name.clone()).collect(),
            ..gone
        };
        for _ in 0..2 {
            nft.edit(&gone).unwrap();
            assert_eq!(nft.dump().unwrap(), Rules { skeleton: Skeleton::Present, ..Rules::default() });
        }
    });
}

#[test]
fn a_strangers_hand_on_a_chain_is_seen_and_put_right() {
    on_private_host(|| {
        let mut nft = Nft::open_unowned().unwrap();
        nft.ensure().unwrap();
        let chain = all_kinds(Flowing::In, Uid::generate());
        let mut edit = put(std::slice::from_ref(&chain));
        edit.add = leads(&chain.0);
        nft.edit(&edit).unwrap();
        let whole = nft.dump().unwrap();
        let mut stranger = NetfilterSocket::open().unwrap();
        let mut batch = stranger.batch(NFNL_SUBSYS_NFTABLES);
        batch.push(NFT_MSG_DELRULE, 0, NFPROTO_INET, |body: &mut Writer| {
            body.text(NFTA_RULE_TABLE, TABLE);
            body.text(NFTA_RULE_CHAIN, chain.0.as_str());
        });
        assert_eq!(stranger.commit(batch).unwrap(), Vec::new());
        let emptied = nft.dump().unwrap();
        assert_eq!(emptied.chains, BTreeMap::from([(chain.0.clone(), Chain::seen(Vec::new()))]));
        assert_eq!(emptied.skeleton, Skeleton::Present, "the constant part is as it was");
        nft.edit(&put(&[chain])).unwrap();
        assert_eq!(nft.dump().unwrap(), whole);
    });
}

#[test]
fn a_skeleton_that_is_made_anew_keeps_the_policies_that_are_wanted() {
    on_private_host(|| {
        let mut nft = Nft::open_unowned().unwrap();
        nft.ensure().unwrap();
        let (wanted, other) =
            (all_kinds(Flowing::In, Uid::generate()), all_kinds(Flowing::Out, Uid::generate()));
        let lost = Element::judged(v4("10.1.0.12").into(), Flowing::Out, other.0.clone());
        let mut edit = put(&[wanted.clone(), other]);
        edit.add = [leads(&wanted.0), sample(), vec![lost.clone()]].concat();
        nft.edit(&edit).unwrap();
        let before = nft.dump().unwrap();
        let mut owner = Nft::open().unwrap();
        if !owner.features().owner {
            return crate::kernel::testhost::cannot_run("this kernel knows no owners of tables");
        }
        let wanted = BTreeMap::from([wanted]);
        assert_eq!(owner.ensure_with(&wanted).unwrap(), Ensured::Replaced);
        let after = owner.dump().unwrap();
        assert_eq!(after.chains, wanted);
        let mut elements = before.elements;
        assert!(elements.remove(&lost), "{lost}");
        assert_eq!(after.elements, elements);
    });
}

#[test]
fn a_step_does_to_the_kernels_chains_what_the_model_says() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let (first, second) =
            (all_kinds(Flowing::In, Uid::generate()), all_kinds(Flowing::Out, Uid::generate()));
        let body = Body { permits: Vec::new(), ..first.1.body().unwrap().clone() };
        let lead = leads(&first.0);
        let mut actions = vec![
            Action::InstallRules { chains: [first.clone()].into() },
            Action::PutChain(second.0.clone(), second.1.clone()),
            Action::PutChain(first.0.clone(), Chain::new(body)),
            Action::PutChain(first.0.clone(), first.1.clone()),
        ];
        actions.extend(lead.iter().cloned().map(Action::AddRule));
        actions.push(Action::RemoveChain(second.0.clone()));
        actions.extend(lead.into_iter().map(Action::RemoveRule));
        actions.extend([Action::RemoveChain(first.0), Action::RemoveChain(second.0)]);
        let mut model = HostNet::default();
        for step in actions.into_iter().map(Step::of_host) {
            model.apply(&step);
            let outcome = kernel.apply(std::slice::from_ref(&step)).remove(0);
            assert!(matches!(outcome, Outcome::Done(_)), "{step}: {outcome:?}");
            assert_eq!(kernel.rules().unwrap(), model.rules, "{step}");
        }
    });
}

#[test]
fn nft_lists_a_chain_of_policies() {
    on_private_host(|| {
        let mut nft = fresh();
        let (name, chain) = all_kinds(Flowing::In, Uid::generate());
        let mut edit = put(&[(name.clone(), chain)]);
        edit.add = leads(&name);
        nft.edit(&edit).unwrap();
        let Some(listed) = super::reference::nft(&["list", "ruleset"], "") else { return };
        for words in [
            format!("chain {name} {{"),
            format!("10.1.0.11 : jump {name}"),
            "tcp . 1000-2000".into(),
            "10.0.0.16/29".into(),
            "goto deny".into(),
            format!("log prefix \"{name}\""),
        ] {
            assert!(listed.contains(&words), "{words} is not listed");
        }
    });
}
