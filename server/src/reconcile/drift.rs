//! What others take away: whether it was to stay, and how often it is put back before the quarrel is told instead.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use netloom_api::{Kind, Name, Uid};
use tokio::time::Instant;

use crate::{
    hostnet::Loss,
    want::{Surroundings, scope_of, want},
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

/// The object that has lost something that it is to have; none when the loss was wanted, as most are.
pub(super) fn victim(
    world: &World,
    applied: &World,
    loss: &Loss,
    around: &Surroundings,
) -> Option<(Kind, Name, Uid)> {
    let uid = loss.uid()?;
    let (kind, name) = world.find(&uid)?;
    let object = world.get_any(*kind, name)?;
    // What no round was about yet is about to be made anyway.
    if object.meta().delete_time.is_some() || applied.find(&uid).is_none() {
        return None;
    }
    let wanted = || want(world, &scope_of(world, *kind, name), around);
    let is_wanted = match loss {
        Loss::Link(_) => true,
        Loss::Address(_, net) => wanted().addresses.keys().any(|address| address.net == *net),
        Loss::Route(_, net) => wanted().routes.keys().any(|route| route.destination == *net),
        Loss::Unknown => false,
    };
    is_wanted.then(|| (*kind, name.clone(), uid))
}

/// What an object was looked at and put right for, lately.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<Uid, Turn>);

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
    pub(super) fn judge(&mut self, uid: Uid, now: Instant) -> Verdict {
        if self.0.len() > REMEMBERED {
            self.0.retain(|_, turn| !turn.is_over(now));
        }
        let turn = self.0.entry(uid).or_default();
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
    pub(super) fn repaired(&mut self, uid: Uid, now: Instant) {
        self.0.entry(uid).or_default().repairs.push_back(now);
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

    #[test]
    fn after_some_repairs_in_a_minute_the_quarrel_is_told_once_and_later_it_begins_anew() {
        let (mut turns, uid, start) = (Turns::default(), Uid::generate(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..5 {
            assert_eq!(turns.judge(uid, at(second)), Verdict::Repair);
            turns.repaired(uid, at(second));
        }
        assert_eq!(turns.judge(uid, at(6)), Verdict::GiveUp);
        assert_eq!(turns.judge(uid, at(7)), Verdict::Ignore);
        assert_eq!(turns.judge(Uid::generate(), at(7)), Verdict::Repair, "others are not concerned");
        assert_eq!(turns.judge(uid, at(70)), Verdict::Repair);
    }

    #[test]
    fn noise_without_any_loss_is_ignored_after_a_while() {
        let (mut turns, uid, now) = (Turns::default(), Uid::generate(), Instant::now());
        let verdicts: Vec<Verdict> = (0..40).map(|_| turns.judge(uid, now)).collect();
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Repair).count(), LOOKS);
        assert!(!verdicts.contains(&Verdict::GiveUp));
    }
}
