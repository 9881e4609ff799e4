//! Which way a packet takes out of a stack: policy rules, then the longest prefix, then the lowest metric.

use std::{fmt, net::IpAddr};

use super::seen::{Fate, Here, Policy, Way};

/// A packet that looks for its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// From whom, if that is decided.
    pub source: Option<IpAddr>,
    /// To whom.
    pub destination: IpAddr,
    /// By which link it came in; none: it is made here.
    pub input: Option<&'a str>,
}

/// The route that the packet takes; none: there is none.
pub(super) fn lookup<'a>(here: &'a Here, packet: Packet<'_>) -> Option<&'a Way> {
    let ipv6 = packet.destination.is_ipv6();
    let mut policies: Vec<&Policy> = here.policies.iter().filter(|policy| policy.ipv6 == ipv6).collect();
    policies.sort_by_key(|policy| policy.priority);
    if policies.is_empty() {
        return [255, 254, 253].into_iter().find_map(|table| longest(here, table, packet.destination, None));
    }
    for policy in policies.into_iter().filter(|policy| matches(policy, packet)) {
        let table = policy.table?;
        match longest(here, table, packet.destination, policy.suppress) {
            Some(way) if way.fate == Fate::Throw => {}
            Some(way) => return Some(way),
            None => {}
        }
    }
    None
}

/// Whether another policy than the kernel's own three decides something here.
pub(super) fn has_own_policies(here: &Here) -> bool {
    here.policies.iter().any(|policy| !matches!(policy.priority, 0 | 32766 | 32767))
}

fn matches(policy: &Policy, packet: Packet<'_>) -> bool {
    if policy.strange || policy.marked {
        return policy.invert;
    }
    let from = policy.from.is_none_or(|net| packet.source.is_some_and(|source| net.contains(&source)));
    let to = policy.to.is_none_or(|net| net.contains(&packet.destination));
    let input = policy.input.as_deref().is_none_or(|link| link == packet.input.unwrap_or("lo"));
    (from && to && input) != policy.invert
}

fn longest(here: &Here, table: u32, destination: IpAddr, suppress: Option<u32>) -> Option<&Way> {
    let usable = |way: &&Way| {
        way.table == table
            && way.fate != Fate::Other
            && way.destination.contains(&destination)
            && way.link.as_deref().is_none_or(|link| here.links.get(link).is_none_or(|line| line.up))
    };
    let best = here
        .routes
        .iter()
        .filter(usable)
        .max_by_key(|way| (way.destination.prefix_len(), std::cmp::Reverse(way.metric)));
    best.filter(|way| suppress.is_none_or(|length| u32::from(way.destination.prefix_len()) > length))
}

/// As `ip route` prints it.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, destination, fate, via, link, metric } = self;
        f.write_str(match fate {
            Fate::Unicast | Fate::Other => "",
            Fate::Local => "local ",
            Fate::Blackhole => "blackhole ",
            Fate::Unreachable => "unreachable ",
            Fate::Prohibit => "prohibit ",
            Fate::Throw => "throw ",
        })?;
        if destination.prefix_len() == 0 {
            f.write_str("default")?
        } else {
            destination.fmt(f)?
        }
        if let Some(via) = via {
            write!(f, " via {via}")?;
        }
        if let Some(link) = link {
            write!(f, " dev {link}")?;
        }
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        if matches!(table, 253..=255) { Ok(()) } else { write!(f, " table {table}") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn way(destination: &str, link: &str, metric: u32) -> Way {
        Way {
            table: 254,
            destination: destination.parse().unwrap(),
            fate: Fate::Unicast,
            via: None,
            link: Some(link.into()),
            metric,
        }
    }

    fn to(destination: &str) -> Packet<'static> {
        Packet { source: None, destination: destination.parse().unwrap(), input: None }
    }

    fn link_of<'a>(here: &'a Here, destination: &str) -> Option<&'a str> {
        lookup(here, to(destination)).and_then(|way| way.link.as_deref())
    }

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let routes = vec![
            way("0.0.0.0/0", "a", 100),
            way("0.0.0.0/0", "b", 50),
            way("10.0.0.0/8", "c", 0),
            way("10.1.0.0/16", "d", 900),
            way("::/0", "e", 1),
        ];
        let here = Here { routes, ..Here::default() };
        assert_eq!(link_of(&here, "192.0.2.1"), Some("b"));
        assert_eq!(link_of(&here, "10.9.0.1"), Some("c"));
        assert_eq!(link_of(&here, "10.1.0.1"), Some("d"));
        assert_eq!(link_of(&here, "2001:db8::1"), Some("e"));
    }

    #[test]
    fn a_policy_can_send_the_search_to_a_table_of_its_own() {
        let mut routes = vec![way("0.0.0.0/0", "main", 0), way("0.0.0.0/0", "vpn", 0)];
        routes[1].table = 52;
        let policy = |priority, table| Policy {
            priority,
            ipv6: false,
            invert: false,
            from: None,
            to: None,
            input: None,
            marked: false,
            strange: false,
            table: Some(table),
            suppress: None,
        };
        let mut here =
            Here { routes, policies: vec![policy(32766, 254), policy(100, 52)], ..Here::default() };
        assert_eq!(link_of(&here, "192.0.2.1"), Some("vpn"));
        here.policies[1].to = Some("10.0.0.0/8".parse().unwrap());
        assert_eq!(link_of(&here, "192.0.2.1"), Some("main"));
        assert_eq!(link_of(&here, "10.0.0.1"), Some("vpn"));
        here.policies[1] = Policy { marked: true, ..policy(100, 52) };
        assert_eq!(link_of(&here, "10.0.0.1"), Some("main"));
        here.policies[0].suppress = Some(0);
        assert_eq!(link_of(&here, "10.0.0.1"), None);
    }

    proptest! {
        #[test]
        fn no_route_that_matches_is_longer_than_the_one_that_is_taken(
            routes in prop::collection::vec((any::<u32>(), 0_u8..=32, 0_u32..3), 0..20),
            destination: u32,
        ) {
            let routes: Vec<Way> = routes
                .into_iter()
                .map(|(bits, length, metric)| {
                    let net = ipnet::Ipv4Net::new(bits.into(), length).unwrap().trunc();
                    way(&net.to_string(), "x", metric)
                })
                .collect();
            let here = Here { routes, ..Here::default() };
            let destination = IpAddr::V4(destination.into());
            let best = lookup(&here, Packet { source: None, destination, input: None });
            let fits = here.routes.iter().filter(|way| way.destination.contains(&destination));
            for other in fits {
                let best = best.unwrap();
                let rank = |way: &Way| (way.destination.prefix_len(), std::cmp::Reverse(way.metric));
                prop_assert!(rank(best) >= rank(other));
            }
        }
    }
}
