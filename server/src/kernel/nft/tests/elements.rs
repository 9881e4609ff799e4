use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::hostnet::rules::SetId;
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};

/// Elements of every set that has a constructor, with the edges of what can be said.
fn edges() -> Vec<Element> {
    use Transport::{Tcp, Udp};
    let mut all = sample();
    all.extend([
        Element::routed("0123456789abcde"),
        Element::open("nlred"),
        Element::noguard("nla1"),
        Element::iso("nla1"),
        Element::same("nlgreen", Member::Drop),
        Element::snat4("0.0.0.0/8".parse().unwrap(), v4("192.0.2.1")),
        Element::snat4("255.255.255.255/32".parse().unwrap(), v4("192.0.2.1")),
        Element::masq4("128.0.0.0/1".parse().unwrap()),
        Element::masq6("fe00::/7".parse().unwrap()),
        Element::own6("::/8".parse().unwrap()),
        Element::fwd6(v6("2001:db8::1"), Tcp, 65_535, v6("fd01::11"), 1),
        Element::rng4(v4("192.0.2.1"), Udp, 1..=65_535, v4("10.1.0.11")),
        Element::rng6(v6("2001:db8::1"), Tcp, 7..=7, v6("fd01::11")),
        Element::gate(false, Some(v4("192.0.2.1").into()), Udp, 1..=65_535),
        Element::gate(false, None, Udp, 10..=11),
        Element::gate(true, Some(v6("2001:db8::1").into()), Tcp, 65_535..=65_535),
        Element::gate(true, Some(v6("2001:db8::1").into()), Tcp, 7..=9),
        Element::gate(true, None, Tcp, 1..=1),
        Element::source("0.0.0.0/0".parse().unwrap(), Some(v4("192.0.2.1").into()), Udp, 1..=65_535),
        Element::source("255.255.255.255/32".parse().unwrap(), None, Udp, 10..=11),
        Element::source("::/0".parse().unwrap(), Some(v6("2001:db8::1").into()), Tcp, 7..=9),
        Element::source("fd00::/8".parse().unwrap(), None, Tcp, 1..=1),
    ]);
    all
}

fn own(third: u8) -> Element {
    Element::own4(format!("10.9.{third}.0/24").parse().unwrap())
}

#[test]
fn what_is_committed_is_dumped() {
    on_private_host(|| {
        let mut nft = fresh();
        let all = edges();
        nft.commit(&[], &all).unwrap();
        let dumped = nft.dump().unwrap().elements;
        assert_eq!(dumped, all.iter().cloned().collect());
        let have: BTreeSet<_> = dumped.iter().map(Element::set).collect();
        let policies =
            |set: &&SetId| ["eg", "in", "sel", "den", "peer"].iter().any(|kind| set.name().starts_with(kind));
        let missing: Vec<_> = SetId::ALL.iter().filter(|set| !have.contains(set) && !policies(set)).collect();
        assert_eq!(missing, Vec::<&SetId>::new());
        nft.commit(&all, &[]).unwrap();
        assert!(nft.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn a_commit_may_be_repeated() {
    on_private_host_of_ordinary_user(|| {
        let mut nft = fresh();
        let (all, added) = (edges(), nft.dump().unwrap());
        for _ in 0..2 {
            nft.commit(&[], &all).unwrap();
            assert_eq!(nft.dump().unwrap().elements.len(), all.len());
        }
        // Some there, some not: what is not there is left out, and nothing else.
        nft.commit(&all[..20], &[]).unwrap();
        for _ in 0..2 {
            nft.commit(&all, &[]).unwrap();
            assert_eq!(nft.dump().unwrap(), added);
        }
        nft.commit(&all[5..9], &all[7..30]).unwrap();
        assert_eq!(nft.dump().unwrap().elements, all[7..30].iter().cloned().collect());
        nft.commit(&[], &[]).unwrap();
    });
}

#[test]
fn data_changes_by_removing_and_adding_in_one_commit() {
    on_private_host(|| {
        let mut nft = fresh();
        let to = |port| Element::fwd4any(Transport::Tcp, 80, v4("10.1.0.11"), port);
        nft.commit(&[], &[to(1)]).unwrap();
        nft.commit(&[to(1)], &[to(2)]).unwrap();
        assert_eq!(nft.dump().unwrap().elements, [to(2)].into());
        let clash = nft.commit(&[], &[Element::bridges("nlred"), to(3)]).unwrap_err();
        let expected = format!("nft add element {}: File exists (EEXIST)", to(3));
        assert!(clash.to_string().starts_with(&expected), "{clash}");
        assert_eq!(nft.dump().unwrap().elements, [to(2)].into(), "and nothing was done");
        // Its old data is not asked for: the key is what goes.
        nft.commit(&[to(1)], &[]).unwrap();
        assert!(nft.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn neighbouring_intervals_stay_apart_and_overlapping_ones_are_refused() {
    on_private_host(|| {
        let mut nft = fresh();
        let all: Vec<_> = (0..8).map(own).collect();
        nft.commit(&[], &all).unwrap();
        assert_eq!(nft.dump().unwrap().elements, all.iter().cloned().collect());
        nft.commit(&[own(3), own(4)], &[]).unwrap();
        let left: Vec<_> = [0, 1, 2, 5, 6, 7].map(own).into();
        assert_eq!(nft.dump().unwrap().elements, left.iter().cloned().collect());
        let wide = Element::own4("10.9.0.0/21".parse().unwrap());
        assert!(nft.commit(&[], std::slice::from_ref(&wide)).is_err());
        // The other way round in one commit it is a change of prefix.
        nft.commit(&left, std::slice::from_ref(&wide)).unwrap();
        assert_eq!(nft.dump().unwrap().elements, [wide.clone()].into());
        nft.commit(&[wide], &left).unwrap();
        assert_eq!(nft.dump().unwrap().elements, left.into_iter().collect());
        let range = |ports| Element::rng4any(Transport::Tcp, ports, v4("10.1.0.11"));
        nft.commit(&[], &[range(100..=199), range(200..=299)]).unwrap();
        assert!(nft.commit(&[], &[range(150..=250)]).is_err());
        nft.commit(&[range(100..=199)], &[range(100..=150)]).unwrap();
    });
}

#[test]
fn without_a_skeleton_nothing_can_be_added_and_all_is_removed_already() {
    on_private_host(|| {
        let mut nft = Nft::open().unwrap();
        nft.commit(&sample(), &[]).unwrap();
        match nft.commit(&[], &sample()).unwrap_err() {
            NftError::Kernel(error) => assert_eq!(error.errno, nix::errno::Errno::ENOENT),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn a_name_that_no_device_can_have_is_refused_before_the_kernel_sees_it() {
    on_private_host(|| {
        let mut nft = fresh();
        for name in ["", "0123456789abcdef", "a\0b"] {
            assert!(matches!(nft.commit(&[], &[Element::bridges(name)]), Err(NftError::Unwritable { .. })));
        }
    });
}

#[test]
fn ten_thousand_elements_come_and_go_in_one_commit_each() {
    let test = || {
        let mut nft = fresh();
        let to = |port| Element::fwd4any(Transport::Tcp, port, v4("10.1.0.11"), 80);
        let all: Vec<_> = (1..=10_000).map(to).collect();
        nft.commit(&[], &all).unwrap();
        assert_eq!(nft.dump().unwrap().elements.len(), all.len());
        nft.commit(&all, &[]).unwrap();
        // Ten thousand refusals.
        nft.commit(&all, &[]).unwrap();
        assert!(nft.dump().unwrap().elements.is_empty());
    };
    on_private_host(test);
}

#[test]
fn an_ordinary_user_commits_as_much_in_several_transactions() {
    on_private_host_of_ordinary_user(|| {
        let mut nft = fresh();
        let to = |port| Element::fwd4any(Transport::Tcp, port, v4("10.1.0.11"), 80);
        let all: Vec<_> = (1..=10_000).map(to).collect();
        nft.commit(&[], &all).unwrap();
        assert_eq!(nft.dump().unwrap().elements.len(), all.len());
        nft.commit(&all, &[]).unwrap();
        nft.commit(&all, &[]).unwrap();
        assert!(nft.dump().unwrap().elements.is_empty());
    });
}

#[test]
fn a_commit_costs_the_same_however_much_there_is() {
    on_private_host(|| {
        let mut nft = fresh();
        let element = |port| Element::fwd4any(Transport::Tcp, port, v4("10.1.0.11"), 80);
        // The median of many, so that what else the machine does hardly counts.
        let mut cost = |ports: std::ops::Range<u16>| -> Duration {
            let mut times: Vec<_> = ports
                .map(|port| {
                    let start = Instant::now();
                    nft.commit(&[], &[element(port)]).unwrap();
                    start.elapsed()
                })
                .collect();
            times.sort();
            times[times.len() / 2]
        };
        let first = cost(1..201);
        cost(201..20_000);
        let last = cost(20_000..20_200);
        assert!(last < first * 4, "{first:?} when it was empty, {last:?} with 20 000");
    });
}
