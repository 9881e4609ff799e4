//! What is pure is tried without a kernel: foreign rules, and the verdict.

use std::collections::BTreeMap;

use netloom_api::{Check, CheckId, CheckStatus, DiagnoseProtocol, Finding};
use proptest::prelude::*;

use super::{
    conclude,
    foreign::{Passage, Place, judge},
    seen::{Ask, Deed, Field, ForeignChain, ForeignRule, Hook},
};
use crate::hostnet::Stack;

fn rule(asks: Vec<Ask>, does: Deed) -> ForeignRule {
    ForeignRule { asks, does, ..ForeignRule::default() }
}

fn ask(field: Field, value: &[u8]) -> Ask {
    Ask { field, mask: Vec::new(), value: value.to_vec(), not: false }
}

fn chain(rules: Vec<ForeignRule>, drops: bool) -> ForeignChain {
    ForeignChain {
        stack: Stack::Host,
        family: "inet",
        table: "filter".into(),
        chain: "FORWARD".into(),
        hook: Hook::Forward,
        priority: 0,
        drops,
        rules,
        others: BTreeMap::new(),
    }
}

fn packet() -> (Passage, Place) {
    let place = Place { hook: Hook::Forward, input: Some("v-net-0".into()), output: Some("eth0".into()) };
    let passage = Passage {
        stack: Stack::Host,
        bridged: false,
        places: vec![place.clone()],
        source: Some([10, 0, 0, 1].into()),
        destination: [192, 0, 2, 1].into(),
        protocol: DiagnoseProtocol::Tcp,
        port: Some(443),
    };
    (passage, place)
}

/// Whether the chain drops the packet: for sure, perhaps.
fn drops(chain: &ForeignChain) -> (bool, bool) {
    let (passage, place) = packet();
    let fates = judge(chain, &passage, &place);
    (fates.surely_dropped(), fates.dropped)
}

#[test]
fn a_rule_drops_what_it_asks_for_and_nothing_else() {
    let destination = Field::Network { offset: 16, length: 4 };
    let port = Field::Transport { offset: 2, length: 2 };
    let source_port = Field::Transport { offset: 0, length: 2 };
    let one = |asks| chain(vec![rule(asks, Deed::Drop)], false);
    assert_eq!(drops(&one(vec![])), (true, true));
    assert_eq!(drops(&one(vec![ask(destination, &[192, 0, 2, 1])])), (true, true));
    assert_eq!(drops(&one(vec![ask(destination, &[192, 0, 2, 9])])), (false, false));
    assert_eq!(drops(&one(vec![ask(port, &443_u16.to_be_bytes())])), (true, true));
    assert_eq!(drops(&one(vec![ask(port, &80_u16.to_be_bytes())])), (false, false));
    // Nobody knows from which port it will come.
    assert_eq!(drops(&one(vec![ask(source_port, &80_u16.to_be_bytes())])), (false, true));
    let net = Ask { mask: vec![255, 255, 255, 0], value: vec![192, 0, 2, 0], ..ask(destination, &[]) };
    assert_eq!(drops(&one(vec![net.clone()])), (true, true));
    assert_eq!(drops(&one(vec![Ask { not: true, ..net }])), (false, false));
    let mut name = b"eth0".to_vec();
    name.resize(16, 0);
    assert_eq!(drops(&one(vec![ask(Field::OutputName, &name)])), (true, true));
    assert_eq!(drops(&one(vec![ask(Field::InputName, &name)])), (false, false));
    // A prefix of a name: `iifname "v-net*"`.
    assert_eq!(drops(&one(vec![ask(Field::InputName, b"v-net")])), (true, true));
}

#[test]
fn a_new_flow_is_neither_established_nor_invalid() {
    let state = |bits: u32| Ask {
        mask: bits.to_ne_bytes().to_vec(),
        value: vec![0; 4],
        not: true,
        field: Field::FlowState,
    };
    let (established, invalid, new) = (2 | 4, 1, 8);
    let accepts = |bits| chain(vec![rule(vec![state(bits)], Deed::Accept)], true);
    assert_eq!(drops(&accepts(established)), (true, true));
    assert_eq!(drops(&accepts(new)), (false, false));
    assert_eq!(drops(&chain(vec![rule(vec![state(invalid)], Deed::Drop)], false)), (false, false));
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let mut jumping = chain(vec![rule(vec![], Deed::Jump("user".into())), rule(vec![], Deed::Drop)], false);
    jumping.others.insert("user".into(), vec![rule(vec![], Deed::Return)]);
    assert_eq!(drops(&jumping), (true, true));
    jumping.others.insert("user".into(), vec![rule(vec![], Deed::Accept)]);
    assert_eq!(drops(&jumping), (false, false));
    let mut going = chain(vec![rule(vec![], Deed::Goto("user".into())), rule(vec![], Deed::Drop)], false);
    going.others.insert("user".into(), Vec::new());
    assert_eq!(drops(&going), (false, false));
    // A chain that goes in circles is no reason to go in circles.
    let mut circling = chain(vec![rule(vec![], Deed::Jump("user".into()))], false);
    circling.others.insert("user".into(), vec![rule(vec![], Deed::Jump("user".into()))]);
    assert_eq!(drops(&circling), (false, true));
}

#[test]
fn what_cannot_be_judged_may_match_and_a_policy_behind_it_may_hold() {
    let strange = |does| ForeignRule { strange: true, ..rule(vec![], does) };
    assert_eq!(drops(&chain(vec![strange(Deed::Drop)], false)), (false, true));
    assert_eq!(drops(&chain(vec![strange(Deed::Accept)], true)), (false, true));
    assert_eq!(drops(&chain(vec![strange(Deed::Accept), rule(vec![], Deed::Drop)], false)), (false, true));
}

proptest! {
    #[test]
    fn nothing_is_reachable_past_a_check_that_failed_unless_a_probe_was_answered(
        checks in prop::collection::vec((0..CheckId::ALL.len(), 0..3_u8), 0..12),
    ) {
        let checks: Vec<Check> = checks
            .into_iter()
            .map(|(at, status)| Check {
                id: CheckId::ALL[at],
                status: [CheckStatus::Pass, CheckStatus::Fail, CheckStatus::Skip][usize::from(status)],
                evidence: String::new(),
                fix: None,
            })
            .collect();
        let found = conclude(checks.clone());
        let first = checks.iter().find(|check| check.status == CheckStatus::Fail).map(|check| check.id);
        prop_assert_eq!(found.cause, first);
        let answered = checks.iter().any(|check| check.id == CheckId::Probe && check.status == CheckStatus::Pass);
        prop_assert!(found.verdict != Finding::Reachable || first.is_none() || answered);
    }
}
