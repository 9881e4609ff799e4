//! What others take away: whether it was to stay, and how often it is put back before the quarrel is told instead.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use netloom_api::{Attachment, IfName, Kind, Name, Namespace, Route, Uid};
use tokio::time::Instant;

use crate::{
    hostnet::{Forwarding, HostNet, Link, Loss, Shape, Stack, Sysctl},
    want::{Surroundings, needs_forwarding, scope_of, want},
    world::World,
};

/// So many times something is put back within [`WITHIN`]; after that somebody wants it otherwise.
pub(super) const REPAIRS: usize = 5;
/// So many times it is looked at. A workload can make noise on its own end, and each look costs.
const LOOKS: usize = 30;
/// How long that is remembered.
const WITHIN: Duration = Duration::from_secs(60);
/// Objects whose turns are remembered before those that are over are forgotten.
const REMEMBERED: usize = 1024;

/// Who has lost something that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    /// An object.
    Object(Uid, Kind, Name),
    /// The host as a whole: what is forwarded.
    Host,
    /// The firewall.
    Rules,
}

impl Victim {
    /// By which repairs are counted.
    pub(super) fn who(&self) -> Who {
        match self {
            Victim::Object(uid, _, _) => Who::Object(*uid),
            Victim::Host => Who::Host,
            Victim::Rules => Who::Rules,
        }
    }
}

/// Whom something is taken away from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// An object.
    Object(Uid),
    /// The host as a whole.
    Host,
    /// The firewall.
    Rules,
}

/// Who has lost something that it is to have; nobody when the loss was wanted, as most are.
pub(super) fn victims(world: &World, applied: &World, loss: &Loss, around: &Surroundings) -> Vec<Victim> {
    let alive = |kind: Kind, name: &Name| alive(world, applied, kind, name);
    let own = || {
        let (kind, name) = world.find(&loss.uid()?)?;
        alive(*kind, name)
    };
    let own_if = |is_wanted: &dyn Fn(HostNet) -> bool| {
        let own = own().filter(|victim| match victim {
            Victim::Object(_, kind, name) => is_wanted(want(world, &scope_of(world, *kind, name), around)),
            Victim::Host | Victim::Rules => false,
        });
        own.into_iter().collect()
    };
    match loss {
        Loss::Link(_) => own().into_iter().collect(),
        Loss::Shape(_, shape) => {
            own_if(&|net| net.links.iter().any(|(key, link)| is_other(key, link, shape)))
        }
        Loss::Address(_, net) => own_if(&|want| want.addresses.keys().any(|address| address.net == *net)),
        Loss::Route(Some(_), net) => {
            own_if(&|want| want.routes.keys().any(|route| route.destination == *net))
        }
        Loss::Route(None, net) => {
            let routes = world.all::<Route>().filter(|route| route.spec.destination.net() == *net);
            routes.filter_map(|route| alive(Kind::Route, &route.meta.name)).collect()
        }
        Loss::Forwarding(None, now) => {
            let (v4, v6) = needs_forwarding(world);
            let needed = around.manages_forwarding && if now.ipv6 { v6 } else { v4 };
            if needed && !now.on { vec![Victim::Host] } else { vec![] }
        }
        Loss::Forwarding(Some(uid), now) => {
            let concerned =
                world.find(uid).map(|(kind, name)| switched(world, *kind, name)).unwrap_or_default();
            let concerned = concerned.into_iter().filter(|(kind, name)| {
                let net = want(world, &scope_of(world, *kind, name), around);
                net.sysctls.iter().any(|((_, sysctl), value)| is_against(sysctl, value, *now))
            });
            concerned.filter_map(|(kind, name)| alive(kind, &name)).collect()
        }
        Loss::Namespace(name) => {
            let managed = world.get::<Namespace>(name).filter(|namespace| namespace.alloc.adopted.is_none());
            managed.and_then(|_| alive(Kind::Namespace, name)).into_iter().collect()
        }
        Loss::Rules => vec![Victim::Rules],
        Loss::Unknown => vec![],
    }
}

/// An object that is to stay, and was made: what no round was about yet is about to be made anyway.
fn alive(world: &World, applied: &World, kind: Kind, name: &Name) -> Option<Victim> {
    let object = world.get_any(kind, name)?;
    let meta = object.meta();
    let is_made = meta.delete_time.is_none() && applied.find(&meta.uid).is_some();
    is_made.then(|| Victim::Object(meta.uid, kind, name.clone()))
}

/// Whether a link is wanted otherwise.
fn is_other((_, name): &(Stack, IfName), want: &Link, have: &Shape) -> bool {
    // Nobody asks for the MAC address of a bridge's port.
    let other_mac = want.mac.is_some() && want.mac != have.mac && want.master.is_none();
    name.as_str() == have.name && (want.mtu != have.mtu || other_mac)
}

/// Whose switches may matter where one was switched on a link of this object.
fn switched(world: &World, kind: Kind, name: &Name) -> Vec<(Kind, Name)> {
    let namespace = |name: &Name| (Kind::Namespace, name.clone());
    match kind {
        Kind::Network => vec![(kind, name.clone())],
        Kind::Attachment => {
            world.get::<Attachment>(name).iter().map(|one| namespace(&one.spec.namespace)).collect()
        }
        Kind::Link => {
            let ends = world.get::<netloom_api::Link>(name).into_iter().flat_map(|link| &link.spec.ends);
            ends.map(|end| namespace(&end.namespace)).collect()
        }
        Kind::Namespace | Kind::Route | Kind::PortForward | Kind::Reservation | Kind::Policy => vec![],
    }
}

/// Whether this switch of forwarding is wanted the other way round.
fn is_against(sysctl: &Sysctl, value: &str, now: Forwarding) -> bool {
    let ipv6 = match sysctl {
        Sysctl::Forwarding4(_) => false,
        Sysctl::ForceForwarding6(_) | Sysctl::Forwarding6All => true,
        Sysctl::Named { key, link: _ } if key.path().contains("forward") => key.path().contains("/ipv6/"),
        Sysctl::Named { .. }
        | Sysctl::DisableIpv6(_)
        | Sysctl::AcceptRa(_)
        | Sysctl::AcceptDad(_)
        | Sysctl::RouteLocalnet(_)
        | Sysctl::PromoteSecondaries(_) => return false,
    };
    ipv6 == now.ipv6 && (value != "0") != now.on
}

/// What an object was looked at and put right for, lately.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<Who, Turn>);

#[derive(Debug, Default)]
struct Turn {
    looks: VecDeque<Instant>,
    repairs: VecDeque<Instant>,
    told: bool,
}

/// What is to be done about a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look, and put it right.
    Repair,
    /// Somebody takes it away again and again: leave it, and say so.
    GiveUp,
    /// That was said, or nothing was wrong all those times.
    Ignore,
}

impl Turns {
    /// What is to be done about a loss of this object.
    pub(super) fn judge(&mut self, who: Who, now: Instant) -> Verdict {
        if self.0.len() > REMEMBERED {
            self.0.retain(|_, turn| !turn.is_over(now));
        }
        let turn = self.0.entry(who).or_default();
        turn.forget(now);
        if turn.repairs.len() >= REPAIRS {
            let told = std::mem::replace(&mut turn.told, true);
            return if told { Verdict::Ignore } else { Verdict::GiveUp };
        }
        turn.told = false;
        if turn.looks.len() >= LOOKS {
            return Verdict::Ignore;
        }
        turn.looks.push_back(now);
        Verdict::Repair
    }

    /// Something of this object was put right.
    pub(super) fn repaired(&mut self, who: Who, now: Instant) {
        self.0.entry(who).or_default().repairs.push_back(now);
    }
}

impl Turn {
    fn forget(&mut self, now: Instant) {
        let is_old = |since: &Instant| now.saturating_duration_since(*since) > WITHIN;
        self.looks.retain(|since| !is_old(since));
        self.repairs.retain(|since| !is_old(since));
    }

    fn is_over(&self, now: Instant) -> bool {
        let last = self.looks.back().max(self.repairs.back());
        last.is_none_or(|last| now.saturating_duration_since(*last) > WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Who {
        Who::Object(Uid::generate())
    }

    #[test]
    fn after_some_repairs_in_a_minute_the_quarrel_is_told_once_and_later_it_begins_anew() {
        let (mut turns, uid, start) = (Turns::default(), who(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert_eq!(turns.judge(uid, at(second)), Verdict::Repair);
            turns.repaired(uid, at(second));
        }
        assert_eq!(turns.judge(uid, at(6)), Verdict::GiveUp);
        assert_eq!(turns.judge(uid, at(7)), Verdict::Ignore);
        assert_eq!(turns.judge(who(), at(7)), Verdict::Repair, "others are not concerned");
        assert_eq!(turns.judge(uid, at(70)), Verdict::Repair);
    }

    #[test]
    fn noise_without_any_loss_is_ignored_after_a_while() {
        let (mut turns, uid, now) = (Turns::default(), who(), Instant::now());
        let verdicts: Vec<Verdict> = (0..40).map(|_| turns.judge(uid, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Repair).count(), LOOKS);
        assert!(!verdicts.contains(&Verdict::GiveUp));
    }
}
