//! The firewall on the real kernel: what is loaded comes back, and nothing is touched twice.

use std::collections::BTreeSet;

use super::Nft;
use crate::{
    hostnet::rules::{Element, Member, Skeleton, Transport},
    kernel::testhost::on_private_host,
};

/// One element of every set that has a constructor.
fn one_of_each() -> Vec<Element> {
    let v4 = "10.1.0.11".parse().unwrap();
    let v6 = "fd01::11".parse().unwrap();
    let on4 = "192.0.2.1".parse().unwrap();
    let on6 = "2001:db8::1".parse().unwrap();
    let mac = [2, 0, 0, 0, 1, 0x11];
    let (net4, net6) = ("10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap());
    vec![
        Element::bridges("nlred"),
        Element::egress("nlred"),
        Element::routed("nlred"),
        Element::open("nlred"),
        Element::hostok("nlred"),
        Element::notransit("eth0"),
        Element::same("nlred", Member::Accept),
        Element::same("nlblue", Member::Drop),
        Element::own4(net4),
        Element::own6(net6),
        Element::masq4(net4),
        Element::masq6(net6),
        Element::snat4(net4, on4),
        Element::snat6(net6, on6),
        Element::hairpin4("nlred", v4),
        Element::hairpin6("nlred", v6),
        Element::api(Transport::Tcp, 8443),
        Element::fwd4(on4, Transport::Tcp, 8081, v4, 80),
        Element::fwd4any(Transport::Udp, 5353, v4, 53),
        Element::fwd6(on6, Transport::Tcp, 8081, v6, 80),
        Element::fwd6any(Transport::Udp, 5353, v6, 53),
        Element::rng4(on4, Transport::Tcp, 20000..=20099, v4),
        Element::rng4any(Transport::Udp, 1..=65535, v4),
        Element::rng6(on6, Transport::Tcp, 20000..=20099, v6),
        Element::rng6any(Transport::Udp, 7..=7, v6),
        Element::guard4("nla1", mac, v4),
        Element::guard6("nla1", mac, v6),
        Element::noguard("nla2"),
        Element::spoofed("nla1"),
        Element::brmac("nla1", mac),
        Element::self_("nla1"),
        Element::route4(v4),
        Element::route6(v6),
        Element::quiet("nla1"),
        Element::iso("nla1"),
    ]
}

#[test]
fn what_is_loaded_comes_back_and_a_second_ensure_changes_nothing() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Absent);
        nft.ensure_skeleton().unwrap();
        assert_eq!(nft.dump().unwrap().skeleton, Skeleton::Present);
        let all = one_of_each();
        nft.commit(&[], &all).unwrap();
        let want: BTreeSet<Element> = all.iter().cloned().collect();
        assert_eq!(nft.dump().unwrap().elements, want);
        nft.ensure_skeleton().unwrap();
        nft.commit(&[], &all).unwrap();
        assert_eq!(nft.dump().unwrap().elements, want);
        nft.commit(&all, &[]).unwrap();
        nft.commit(&all, &[]).unwrap();
        assert!(nft.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn a_restarted_daemon_takes_its_tables_over() {
    on_private_host(|| {
        let mut first = Nft::open().unwrap();
        first.ensure_skeleton().unwrap();
        first.commit(&[], &[Element::bridges("nlred")]).unwrap();
        drop(first);
        let mut second = Nft::open().unwrap();
        second.ensure_skeleton().unwrap();
        let rules = second.dump().unwrap();
        assert_eq!(rules.skeleton, Skeleton::Present);
        assert_eq!(rules.elements, BTreeSet::from([Element::bridges("nlred")]));
        second.commit(&[Element::bridges("nlred")], &[]).unwrap();
        second.remove_tables().unwrap();
        assert_eq!(second.dump().unwrap().skeleton, Skeleton::Absent);
    });
}

#[test]
fn neighbouring_prefixes_stay_apart() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        nft.ensure_skeleton().unwrap();
        let nets: Vec<Element> =
            (0..8).map(|n| Element::own4(format!("10.1.{n}.0/24").parse().unwrap())).collect();
        nft.commit(&[], &nets).unwrap();
        nft.commit(&nets[2..4], &[]).unwrap();
        let left: BTreeSet<Element> = [&nets[..2], &nets[4..]].concat().into_iter().collect();
        assert_eq!(nft.dump().unwrap().elements, left);
    });
}

#[test]
fn ten_thousand_elements_go_in_one_commit() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        nft.ensure_skeleton().unwrap();
        let to = "10.1.0.11".parse().unwrap();
        let all: Vec<Element> =
            (1..=10_000).map(|port| Element::fwd4any(Transport::Tcp, port, to, 80)).collect();
        nft.commit(&[], &all).unwrap();
        assert_eq!(nft.dump().unwrap().elements.len(), 10_000);
    });
}

#[test]
fn a_refusal_names_the_element_and_keeps_the_rest_out() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        nft.ensure_skeleton().unwrap();
        let (one, other) = ("10.1.0.11".parse().unwrap(), "10.1.0.12".parse().unwrap());
        nft.commit(&[], &[Element::fwd4any(Transport::Tcp, 80, one, 80)]).unwrap();
        let clash = Element::fwd4any(Transport::Tcp, 80, other, 80);
        let refused = nft.commit(&[], &[Element::bridges("nlred"), clash.clone()]).unwrap_err();
        assert!(refused.to_string().contains(&clash.to_string()), "{refused}");
        assert_eq!(nft.dump().unwrap().elements.len(), 1);
    });
}
