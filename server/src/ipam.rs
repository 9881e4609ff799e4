//! The choice of addresses and subnets: pure, next-fit, for IPv4 and IPv6 alike.
//!
//! An address is chosen by going on from the last one that was given out and wrapping round once, so a released address
//! comes back after one turn and not to the next caller. The gateway, Reservations and Attachments are all just used
//! addresses. The cost is that of the used addresses that are passed over, never that of the subnet's size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netloom_api::{AddressRange, Cidr};

use crate::config::Pool;

/// Where addresses are chosen from.
#[derive(Clone, Copy, Debug)]
pub struct Subnet<'a> {
    /// The prefix.
    pub cidr: Cidr,
    /// Parts of the prefix, apart from each other; none for all of it. They are gone through in this order.
    pub ranges: &'a [AddressRange],
}

/// Nothing is left to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is left to choose from")]
pub struct Exhausted;

impl Subnet<'_> {
    /// The parts that addresses are chosen from, as first and last address: the ranges, or else all host addresses.
    pub fn spans(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let whole = self.ranges.is_empty().then(|| (self.cidr.first_host(), self.cidr.last_host()));
        whole.into_iter().chain(self.ranges.iter().map(|range| (range.first, range.last)))
    }

    /// How many addresses can be given out in all, used or not: those of [`Subnet::spans`]. The network's and the
    /// broadcast address are not among them; the gateway is, when it lies inside.
    pub fn capacity(&self) -> u128 {
        self.spans().map(|(first, last)| (bits(last) - bits(first)).saturating_add(1)).sum()
    }
}

/// The first address after `cursor` that nobody uses, wrapping round once. Without a cursor, or with one that lies
/// outside the ranges, the first of all. The caller keeps the choice as the next cursor.
///
/// `used` gives the used addresses between two, both included, ascending.
pub fn choose<I: Iterator<Item = IpAddr>>(
    subnet: &Subnet<'_>,
    cursor: Option<IpAddr>,
    used: impl Fn(IpAddr, IpAddr) -> I,
) -> Result<IpAddr, Exhausted> {
    let free = |(first, last)| first_free(first, last, used(first, last));
    let at = cursor.and_then(|cursor| {
        let index = subnet.spans().position(|(first, last)| (first..=last).contains(&cursor))?;
        Some((index, cursor))
    });
    let Some((index, cursor)) = at else {
        return subnet.spans().find_map(free).ok_or(Exhausted);
    };
    let rest = |(_, last)| (cursor < last).then(|| (address(bits(cursor) + 1, cursor), last));
    let begun = |(first, _)| (first, cursor);
    let turn = (subnet.spans().nth(index).and_then(rest).into_iter())
        .chain(subnet.spans().skip(index + 1))
        .chain(subnet.spans().take(index))
        .chain(subnet.spans().nth(index).map(begun));
    turn.into_iter().find_map(free).ok_or(Exhausted)
}

/// The first block of the pools, in their order, that overlaps nothing.
///
/// `taken` gives a prefix that overlaps the one it is asked about; the search goes on behind it.
pub fn choose_subnet(pools: &[Pool], taken: impl Fn(&IpNet) -> Option<IpNet>) -> Result<Cidr, Exhausted> {
    pools.iter().find_map(|pool| free_block(pool, &taken)).ok_or(Exhausted)
}

fn free_block(pool: &Pool, taken: impl Fn(&IpNet) -> Option<IpNet>) -> Option<Cidr> {
    let mut first = pool.cidr.network();
    loop {
        let block = IpNet::new(first, pool.prefix_len).ok()?;
        if !pool.cidr.contains(&block) {
            return None;
        }
        let Some(other) = taken(&block) else {
            return Cidr::new(block).ok();
        };
        // Prefixes either nest or are apart, so the greater of the two ends where the next block may begin.
        let greater = if other.contains(&block) { other } else { block };
        let last = greater.broadcast();
        let space = if last.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        if bits(last) == space {
            return None;
        }
        first = address(bits(last) + 1, last);
    }
}

/// The first address from `first` to `last` that is not among the ascending `used` ones.
fn first_free(first: IpAddr, last: IpAddr, used: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let mut candidate = first;
    for taken in used {
        if taken != candidate {
            break;
        }
        if candidate == last {
            return None;
        }
        candidate = address(bits(candidate) + 1, candidate);
    }
    Some(candidate)
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A number as an address of the same family as another; the number comes from an address that is not the family's last.
fn address(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange { first: ip(first), last: ip(last) }
    }

    fn pick(
        subnet: &Subnet<'_>,
        cursor: Option<IpAddr>,
        used: &BTreeSet<IpAddr>,
    ) -> Result<IpAddr, Exhausted> {
        choose(subnet, cursor, |first, last| used.range(first..=last).copied())
    }

    #[test]
    fn a_released_address_comes_back_after_one_turn() {
        let subnet = Subnet { cidr: cidr("10.0.0.0/29"), ranges: &[] };
        let mut used = BTreeSet::from([ip("10.0.0.1")]);
        let (mut cursor, mut seen) = (None, Vec::new());
        for _ in 0..6 {
            let chosen = pick(&subnet, cursor, &used).unwrap();
            seen.push(chosen.to_string());
            cursor = Some(chosen);
        }
        let turn = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"];
        assert_eq!(seen, turn);
        used.extend(["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(ip));
        assert_eq!(pick(&subnet, cursor, &used), Err(Exhausted));
        used.remove(&ip("10.0.0.2"));
        assert_eq!(
            pick(&subnet, cursor, &used),
            Ok(ip("10.0.0.2")),
            "the only free one is the cursor itself"
        );
    }

    #[test]
    fn a_range_may_end_on_a_64_bit_boundary_or_at_the_end_of_the_subnet() {
        let boundary = [range("fd00:0:0:1:ffff:ffff:ffff:fffe", "fd00:0:0:1:ffff:ffff:ffff:ffff")];
        let subnet = Subnet { cidr: cidr("fd00::/48"), ranges: &boundary };
        let first = pick(&subnet, None, &BTreeSet::new()).unwrap();
        let last = pick(&subnet, Some(first), &BTreeSet::new()).unwrap();
        assert_eq!(last, boundary[0].last);
        assert_eq!(pick(&subnet, Some(last), &BTreeSet::new()), Ok(first));
        assert_eq!(pick(&subnet, Some(last), &BTreeSet::from([first, last])), Err(Exhausted));

        let end = [range("10.255.255.254", "10.255.255.254")];
        let subnet = Subnet { cidr: cidr("10.0.0.0/8"), ranges: &end };
        assert_eq!(pick(&subnet, Some(end[0].last), &BTreeSet::new()), Ok(end[0].last));
    }

    #[test]
    fn the_size_of_a_subnet_costs_nothing() {
        let subnet = Subnet { cidr: cidr("fd00::/16"), ranges: &[] };
        assert_eq!(subnet.capacity(), (1 << 112) - 1);
        let chosen = pick(&subnet, Some(ip("fd00:8000::")), &BTreeSet::new()).unwrap();
        assert_eq!(chosen, ip("fd00:8000::1"));
        let after_last = pick(&subnet, Some(subnet.cidr.last_host()), &BTreeSet::new()).unwrap();
        assert_eq!(after_last, subnet.cidr.first_host());
    }

    #[test]
    fn a_cursor_outside_the_ranges_starts_over() {
        let ranges = [range("10.0.0.100", "10.0.0.101"), range("10.0.0.10", "10.0.0.11")];
        let subnet = Subnet { cidr: cidr("10.0.0.0/24"), ranges: &ranges };
        assert_eq!(subnet.capacity(), 4);
        for stale in ["10.0.0.50", "10.0.0.200", "192.168.0.1", "fd00::1"] {
            assert_eq!(pick(&subnet, Some(ip(stale)), &BTreeSet::new()), Ok(ip("10.0.0.100")));
        }
        assert_eq!(pick(&subnet, Some(ip("10.0.0.101")), &BTreeSet::new()), Ok(ip("10.0.0.10")));
    }

    fn pool(net: &str, prefix_len: u8) -> Pool {
        Pool { cidr: net.parse().unwrap(), prefix_len }
    }

    fn first_subnet(pools: &[Pool], taken: &[&str]) -> Result<String, Exhausted> {
        let taken: Vec<IpNet> = taken.iter().map(|net| net.parse().unwrap()).collect();
        let asked = std::cell::Cell::new(0);
        let overlap = |net: &IpNet| {
            asked.set(asked.get() + 1);
            assert!(asked.get() < 1_000, "the search goes step by step");
            taken.iter().find(|other| other.contains(net) || net.contains(*other)).copied()
        };
        choose_subnet(pools, overlap).map(|chosen| chosen.to_string())
    }

    #[test]
    fn the_first_subnet_that_overlaps_nothing_is_chosen() {
        let pools = [pool("10.88.0.0/14", 24), pool("fd00::/16", 64)];
        assert_eq!(first_subnet(&pools, &[]), Ok("10.88.0.0/24".into()));
        assert_eq!(first_subnet(&pools, &["10.88.0.0/24", "10.88.1.128/25"]), Ok("10.88.2.0/24".into()));
        assert_eq!(first_subnet(&pools, &["10.0.0.0/8"]), Ok("fd00::/64".into()));
        assert_eq!(first_subnet(&pools, &["10.88.0.0/15"]), Ok("10.90.0.0/24".into()));
        assert_eq!(first_subnet(&pools, &["10.0.0.0/8", "fd00::/17"]), Ok("fd00:8000::/64".into()));
        assert_eq!(first_subnet(&pools, &["0.0.0.0/0", "::/0"]), Err(Exhausted));
        assert_eq!(first_subnet(&[pool("10.0.0.0/30", 30)], &["10.0.0.1/32"]), Err(Exhausted));
        assert_eq!(first_subnet(&[pool("10.0.0.0/30", 29)], &[]), Err(Exhausted), "larger than the pool");
    }

    /// A small part of a large subnet, of either family, with ranges that may touch and are not sorted.
    fn small() -> impl Strategy<Value = (Cidr, Vec<AddressRange>, BTreeSet<IpAddr>)> {
        let base = prop_oneof![
            Just(("10.0.0.0/16", "10.0.0.224")),
            Just(("10.255.0.0/16", "10.255.255.190")),
            Just(("fd00::/16", "fd00::ffff:ffff:ffff:fff0")),
        ];
        let cuts = prop::collection::btree_set(0u128..64, 0..6).prop_map(|cuts| {
            let cuts: Vec<u128> = cuts.into_iter().collect();
            cuts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
        });
        let used = prop::collection::btree_set(0u128..64, 0..64);
        (base, cuts.prop_shuffle(), used).prop_map(|((net, base), cuts, used)| {
            let base = ip(base);
            let at = |offset| address(bits(base) + offset, base);
            let ranges =
                cuts.into_iter().map(|(first, last)| AddressRange { first: at(first), last: at(last) });
            (cidr(net), ranges.collect(), used.into_iter().map(at).collect())
        })
    }

    proptest! {
        #[test]
        fn a_choice_is_free_and_inside_and_there_is_one_if_one_is_free(
            (cidr, ranges, used) in small(),
            cursor in prop::option::of(0u128..64),
        ) {
            let subnet = Subnet { cidr, ranges: &ranges };
            let all: Vec<IpAddr> = ranges.iter()
                .flat_map(|range| (bits(range.first)..=bits(range.last)).map(|bits| address(bits, range.first)))
                .collect();
            let start = subnet.spans().next().unwrap().0;
            let cursor = cursor.map(|offset| address(bits(start) + offset, start));
            let chosen = pick(&subnet, cursor, &used);
            if ranges.is_empty() {
                let chosen = chosen.unwrap();
                prop_assert!(cidr.has_host(chosen) && !used.contains(&chosen));
            } else {
                prop_assert_eq!(subnet.capacity(), all.len() as u128);
                // The reference: all addresses in a row, turned so that the one after the cursor is the first.
                let turned = cursor.and_then(|cursor| all.iter().position(|a| *a == cursor)).map_or(0, |at| at + 1);
                let expected = all.iter().cycle().skip(turned).take(all.len()).find(|a| !used.contains(*a));
                prop_assert_eq!(chosen.ok(), expected.copied());
            }
        }

        #[test]
        fn as_many_choices_as_there_are_free_addresses_visit_them_all((cidr, ranges, used) in small()) {
            prop_assume!(!ranges.is_empty());
            let subnet = Subnet { cidr, ranges: &ranges };
            let mut taken = used.clone();
            let mut cursor = None;
            while let Ok(chosen) = pick(&subnet, cursor, &taken) {
                prop_assert!(taken.insert(chosen));
                cursor = Some(chosen);
            }
            let inside = |a: &IpAddr| ranges.iter().any(|range| (range.first..=range.last).contains(a));
            prop_assert_eq!(taken.iter().filter(|a| inside(a)).count() as u128, subnet.capacity());
        }
    }
}
