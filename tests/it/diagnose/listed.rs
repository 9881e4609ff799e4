//! The list of checks, each with the test that breaks it; this page of the tests is kept true by the one at its end.

use std::collections::BTreeSet;

use netloom_api::CheckId;

/// A check, and the test in whose body its thing is broken, and it is the cause.
const PROOFS: [(&str, &str); 48] = [
    ("from.namespace", "a_broken_end_is_named"),
    ("from.interface", "a_broken_end_is_named"),
    ("from.interface_up", "a_broken_end_is_named"),
    ("from.port", "a_broken_end_is_named"),
    ("from.port_up", "a_broken_end_is_named"),
    ("from.carrier", "a_broken_link_is_named"),
    ("from.address", "a_broken_end_is_named"),
    ("from.bridge", "a_broken_end_is_named"),
    ("from.bridge_address", "a_broken_end_is_named"),
    ("from.guard", "a_broken_end_is_named"),
    ("from.route", "a_broken_route_is_named"),
    ("from.overlap", "a_broken_route_is_named"),
    ("from.gateway", "a_broken_route_is_named"),
    ("to.namespace", "a_broken_end_is_named"),
    ("to.interface", "a_broken_end_is_named"),
    ("to.interface_up", "a_broken_end_is_named"),
    ("to.port", "a_broken_end_is_named"),
    ("to.port_up", "a_broken_end_is_named"),
    ("to.carrier", "a_broken_link_is_named"),
    ("to.address", "a_broken_end_is_named"),
    ("to.bridge", "a_broken_end_is_named"),
    ("to.bridge_address", "a_broken_end_is_named"),
    ("to.guard", "a_broken_end_is_named"),
    ("firewall", "what_is_missing_in_the_firewall_is_named"),
    ("publish", "what_is_missing_in_the_firewall_is_named"),
    ("sources", "what_is_meant_to_be_apart_is_named_as_such"),
    ("host.route", "forwarding_filters_and_neighbours_are_named"),
    ("host.overlap", "a_broken_route_is_named"),
    ("from.policy", "the_policies_that_stop_a_packet_are_named_with_the_rule_that_lets_it_pass"),
    ("to.policy", "the_policies_that_stop_a_packet_are_named_with_the_rule_that_lets_it_pass"),
    ("forwarding", "forwarding_filters_and_neighbours_are_named"),
    ("isolation.members", "what_is_meant_to_be_apart_is_named_as_such"),
    ("isolation.networks", "what_is_meant_to_be_apart_is_named_as_such"),
    ("isolation.host", "what_is_missing_in_the_firewall_is_named"),
    ("egress", "what_is_missing_in_the_firewall_is_named"),
    ("nat", "what_is_missing_in_the_firewall_is_named"),
    ("unpublished", "what_is_meant_to_be_apart_is_named_as_such"),
    ("transit", "strangers_whom_nobody_lets_through_are_named"),
    ("neighbour", "forwarding_filters_and_neighbours_are_named"),
    ("to.return", "a_broken_route_is_named"),
    ("return.filter", "a_filter_that_takes_packets_only_by_the_way_back_is_named"),
    ("to.listening", "what_is_meant_to_be_apart_is_named_as_such"),
    ("foreign.rules", "forwarding_filters_and_neighbours_are_named"),
    ("mtu", "forwarding_filters_and_neighbours_are_named"),
    ("conntrack", "a_full_table_of_flows_is_named"),
    ("status", "an_object_that_is_not_ready_is_named_when_nothing_else_is_wrong"),
    // What is beyond is never known to be broken: it is said to be unseen, and the probe tells.
    ("outside", "what_is_beyond_this_host_only_a_probe_can_tell"),
    ("probe", "what_is_beyond_this_host_only_a_probe_can_tell"),
];

const SOURCES: [&str; 5] = [
    include_str!("elements.rs"),
    include_str!("ends.rs"),
    include_str!("links.rs"),
    include_str!("policies.rs"),
    include_str!("ways.rs"),
];

const PAGE: &str = include_str!("../../../docs/diagnose.md");

/// What a test does, from its name to the brace that closes it.
fn body_of(test: &str) -> Option<&'static str> {
    let begin = format!("#[test]\nfn {test}() {{");
    let rest = SOURCES.iter().find_map(|source| Some(&source[source.find(&begin)?..]))?;
    rest.split("\n}\n").next()
}

#[test]
fn every_check_has_a_test_that_breaks_its_thing_and_a_row_in_the_page() {
    let ids: BTreeSet<&str> = CheckId::ALL.iter().map(|id| id.as_str()).collect();
    let proven: BTreeSet<&str> = PROOFS.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, proven, "the checks that there are, and those with a test");
    for id in CheckId::ALL {
        let (word, test) = PROOFS.iter().find(|(word, _)| *word == id.as_str()).unwrap();
        let body = body_of(test).unwrap_or_else(|| panic!("{word}: there is no test {test}"));
        let is_expected = body.contains(&format!("\"{word}\"")) || body.contains(&format!("CheckId::{id:?}"));
        assert!(is_expected, "{test} does not expect {word}");
        assert!(
            PAGE.contains(&format!("| `{word}` | {} |", id.about())),
            "docs/diagnose.md says nothing of {word}"
        );
    }
    let rows = PAGE.split("## The checks").nth(1).unwrap().matches("\n| `").count();
    assert_eq!(rows, ids.len(), "docs/diagnose.md has a check that is none");
}
