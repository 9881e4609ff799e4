use super::*;
use crate::hostnet::rules::{Rules, Skeleton};
use crate::kernel::nft::skeleton::TABLE;
use crate::kernel::nft::socket::NetfilterSocket;
use crate::kernel::nft::uapi::*;
use crate::kernel::nft::wire::Writer;
use crate::kernel::testhost::on_private_host;

/// A stranger's change, as some tool of root's would make it.
fn stranger(message: u16, flags: u16, body: impl FnOnce(&mut Writer)) -> bool {
    let mut socket = NetfilterSocket::open().unwrap();
    let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
    batch.push(message, flags, NFPROTO_INET, body);
    socket.commit(batch).unwrap().is_empty()
}

fn unowned() -> Nft {
    let mut nft = Nft::open_unowned().unwrap();
    assert_eq!(nft.ensure().unwrap(), Ensured::Created);
    nft
}

/// The stranger's change is seen, and ensuring the skeleton undoes it without losing an element.
fn is_repaired(change: impl FnOnce()) {
    let mut nft = unowned();
    nft.commit(&[], &sample()).unwrap();
    let before = nft.dump().unwrap();
    change();
    assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Outdated);
    assert_eq!(nft.ensure().unwrap(), Ensured::Replaced);
    assert_eq!(nft.dump().unwrap(), before);
}

#[test]
fn the_skeleton_loads_and_is_left_alone_when_it_is_there() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.dump().unwrap(), Rules::default());
        assert_eq!(nft.ensure().unwrap(), Ensured::Created);
        let generation = nft.generation().unwrap();
        assert_eq!(nft.ensure().unwrap(), Ensured::Kept);
        nft.ensure_skeleton().unwrap();
        assert_eq!(nft.generation().unwrap(), generation);
        assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Present);
    });
}

#[test]
fn opening_changes_nothing() {
    on_private_host(|| {
        let mut first = Nft::open().unwrap();
        let generation = first.generation().unwrap();
        let second = Nft::open().unwrap();
        assert_eq!(first.features(), second.features());
        assert_eq!(first.generation().unwrap(), generation);
    });
}

#[test]
fn a_restarted_daemon_takes_its_tables_over_with_all_that_is_in_them() {
    on_private_host(|| {
        let mut first = fresh();
        first.commit(&[], &sample()).unwrap();
        let before = first.dump().unwrap();
        drop(first);
        let mut second = Nft::open().unwrap();
        let owned = second.features().owner;
        assert_eq!(second.ensure().unwrap(), if owned { Ensured::Adopted } else { Ensured::Kept });
        assert_eq!(second.ensure().unwrap(), Ensured::Kept);
        assert_eq!(second.dump().unwrap(), before);
        second.commit(&sample(), &[]).unwrap();
        assert!(second.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn an_owned_table_is_nobody_elses_to_change_and_outlives_its_owner() {
    on_private_host(|| {
        let mut nft = fresh();
        if !nft.features().owner {
            return crate::kernel::testhost::cannot_run("this kernel knows no owners of tables");
        }
        let flush = || stranger(NFT_MSG_DELTABLE, 0, |body| body.text(NFTA_TABLE_NAME, TABLE));
        assert!(!flush());
        let refused = Nft::open().unwrap().ensure().unwrap_err().to_string();
        assert!(refused.contains("EPERM"), "{refused}");
        drop(nft);
        nft = Nft::open().unwrap();
        assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Unowned);
        assert!(flush());
        assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Outdated);
    });
}

#[test]
fn a_table_that_should_have_an_owner_but_cannot_get_one_is_replaced() {
    on_private_host(|| {
        let mut unowned = unowned();
        unowned.commit(&[], &sample()).unwrap();
        let before = unowned.dump().unwrap();
        let mut nft = Nft::open().unwrap();
        let owned = nft.features().owner;
        assert_eq!(nft.ensure().unwrap(), if owned { Ensured::Replaced } else { Ensured::Kept });
        assert_eq!(nft.dump().unwrap(), before);
    });
}

#[test]
fn a_flushed_chain_is_seen_and_repaired() {
    on_private_host(|| {
        is_repaired(|| {
            let flush = |body: &mut Writer| {
                body.text(NFTA_RULE_TABLE, TABLE);
                body.text(NFTA_RULE_CHAIN, "from_net");
            };
            assert!(stranger(NFT_MSG_DELRULE, 0, flush));
        });
    });
}

#[test]
fn a_strangers_rule_between_ours_is_seen_and_removed() {
    on_private_host(|| {
        is_repaired(|| {
            let insert = |body: &mut Writer| {
                body.text(NFTA_RULE_TABLE, TABLE);
                body.text(NFTA_RULE_CHAIN, "forward");
                body.nest(NFTA_RULE_EXPRESSIONS, |list| {
                    for expression in crate::kernel::nft::expr::accept() {
                        expression.write(list, &mut || ("", 0));
                    }
                });
            };
            assert!(stranger(NFT_MSG_NEWRULE, CREATE, insert));
        });
    });
}

#[test]
fn a_base_chain_that_drops_is_seen_and_repaired() {
    on_private_host(|| {
        is_repaired(|| {
            let policy = |body: &mut Writer| {
                body.text(NFTA_CHAIN_TABLE, TABLE);
                body.text(NFTA_CHAIN_NAME, "forward");
                body.number(NFTA_CHAIN_POLICY, NF_DROP as u32);
            };
            assert!(stranger(NFT_MSG_NEWCHAIN, CREATE, policy));
        });
    });
}

#[test]
fn a_strangers_element_with_a_jump_is_seen_and_removed() {
    on_private_host(|| {
        is_repaired(|| {
            let jump = |body: &mut Writer| {
                body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                body.text(NFTA_SET_ELEM_LIST_SET, "in4");
                body.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    list.nest(NFTA_LIST_ELEM, |one| {
                        crate::kernel::nft::expr::value(one, NFTA_SET_ELEM_KEY, &[10, 1, 0, 11]);
                        one.nest(NFTA_SET_ELEM_DATA, |data| {
                            crate::kernel::nft::expr::Verdict::Goto("deny").write(data);
                        });
                    });
                });
            };
            assert!(stranger(NFT_MSG_NEWSETELEM, CREATE, jump));
        });
    });
}

#[test]
fn one_table_without_the_other_is_repaired() {
    on_private_host(|| {
        let mut nft = unowned();
        nft.commit(&[], &sample()).unwrap();
        assert!(stranger(NFT_MSG_DELTABLE, 0, |body| body.text(NFTA_TABLE_NAME, TABLE)));
        let left = nft.dump().unwrap();
        assert_eq!(left.skeleton, Skeleton::Outdated);
        assert_eq!(nft.ensure().unwrap(), Ensured::Replaced);
        assert_eq!(nft.dump().unwrap(), Rules { skeleton: Skeleton::Present, ..left });
    });
}

#[test]
fn the_tables_go_whole_and_once() {
    on_private_host(|| {
        let mut nft = fresh();
        nft.commit(&[], &sample()).unwrap();
        nft.remove_tables().unwrap();
        assert_eq!(nft.dump().unwrap(), Rules::default());
        nft.remove_tables().unwrap();
        assert_eq!(nft.ensure().unwrap(), Ensured::Created);
        assert!(nft.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn strangers_chains_that_drop_forwarded_packets_are_named() {
    on_private_host(|| {
        let mut nft = fresh();
        assert_eq!(nft.foreign_forward_drops().unwrap(), Vec::<String>::new());
        let mut socket = NetfilterSocket::open().unwrap();
        let mut batch = socket.batch(NFNL_SUBSYS_NFTABLES);
        batch.push(NFT_MSG_NEWTABLE, CREATE, NFPROTO_IPV4, |body| {
            body.text(NFTA_TABLE_NAME, "filter");
            body.number(NFTA_TABLE_FLAGS, 0);
        });
        for (chain, hook, policy) in [
            ("FORWARD", NF_INET_FORWARD, NF_DROP),
            ("INPUT", NF_INET_LOCAL_IN, NF_DROP),
            ("fine", NF_INET_FORWARD, NF_ACCEPT),
        ] {
            batch.push(NFT_MSG_NEWCHAIN, CREATE, NFPROTO_IPV4, |body| {
                body.text(NFTA_CHAIN_TABLE, "filter");
                body.text(NFTA_CHAIN_NAME, chain);
                body.nest(NFTA_CHAIN_HOOK, |at| {
                    at.number(NFTA_HOOK_HOOKNUM, hook);
                    at.number(NFTA_HOOK_PRIORITY, 0);
                });
                body.number(NFTA_CHAIN_POLICY, policy as u32);
                body.text(NFTA_CHAIN_TYPE, "filter");
            });
        }
        assert_eq!(socket.commit(batch).unwrap(), Vec::new());
        assert_eq!(nft.foreign_forward_drops().unwrap(), ["ip filter FORWARD"]);
    });
}

const CREATE: u16 = netlink_packet_core::NLM_F_CREATE;
