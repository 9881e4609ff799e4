//! Whatever nf_tables says is read or refused; our own firewall, whole, and a stranger's are where it begins.

use netloom_fuzz::withstands;

use super::{fresh, sample};
use crate::diagnose::seen::Hook;
use crate::hostnet::rules::{Family, SetId};
use crate::kernel::nft::layout::{Observed, chain_of};
use crate::kernel::nft::socket::{Dump, NetfilterSocket};
use crate::kernel::nft::uapi::*;
use crate::kernel::nft::wire::Writer;
use crate::kernel::nft::{TABLE, element, foreign, stranger};
use crate::kernel::testhost::on_private_host;

/// The kernel's own bytes.
fn answers(message: u16, body: &[u8]) -> Vec<Vec<u8>> {
    let mut socket = NetfilterSocket::open().unwrap();
    match socket.dump(NFNL_SUBSYS_NFTABLES, message, NFPROTO_INET, body).unwrap() {
        Dump::Complete(found) => found,
        other => panic!("{other:?}"),
    }
}

/// A host with our firewall, full, and that of a stranger.
fn host() {
    fresh().commit(&[], &sample()).unwrap();
    stranger::add("theirs", Hook::Forward, stranger::Drops::To([192, 0, 2, 7].into())).unwrap();
}

#[test]
fn what_nf_tables_says_of_a_firewall_is_read_or_refused() {
    on_private_host(|| {
        host();
        let questions = [NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETOBJ];
        let examples: Vec<Vec<u8>> =
            questions.into_iter().flat_map(|question| answers(question, &[])).collect();
        withstands(&examples, |bytes| {
            let mut observed = Observed::default();
            drop(observed.take_table(Family::Inet, bytes));
            drop(observed.take_chain(Family::Inet, bytes));
            drop(observed.take_rule(Family::Inet, bytes));
            drop(observed.take_set(Family::Inet, bytes));
            drop(observed.take_counter(Family::Inet, bytes));
            drop((chain_of(bytes), foreign::rule_of(bytes)));
        });
    });
}

#[test]
fn what_nf_tables_says_of_elements_is_read_or_refused() {
    on_private_host(|| {
        host();
        let examples: Vec<Vec<u8>> = SetId::ALL
            .iter()
            .filter(|set| set.family() == Family::Inet)
            .flat_map(|set| {
                let mut body = Writer::default();
                body.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                body.text(NFTA_SET_ELEM_LIST_SET, set.name());
                answers(NFT_MSG_GETSETELEM, body.bytes())
            })
            .collect();
        withstands(&examples, |bytes| {
            let reply = [bytes.to_vec()];
            SetId::ALL.iter().for_each(|set| drop(element::read(*set, &reply)));
        });
    });
}
