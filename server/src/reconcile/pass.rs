//! Looks at all that there is, while no round runs: everything, or the firewall alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
};

use tokio::time::Instant;

use super::{
    Host, Reconciler,
    applied::Applied,
    drift::Who,
    notice::Due,
    round::{Changing, Round, names},
};
use crate::{
    config::{Drift, Unknown},
    hostnet::{HostNet, Mark, Outcome, Scope, Step, rules::Element},
    plan::plan,
    want::{HostFacts, Surroundings, everything, want},
    world::World,
};

/// So many unknown things are told by name.
const NAMED: usize = 8;

/// Why the first look at everything came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlooked {
    /// The host cannot be observed now.
    #[error("the host could not be observed: {0}")]
    Blind(String),
    /// There is what the database does not know.
    #[error(
        "the kernel has what this database does not know: {0}. Either the database is not the one that it was made from, \
         or it is an older copy. Nothing was changed. Put the right database back; or start with `--unknown remove`, which \
         takes these away; or remove everything of netloom's with `netloomd purge`"
    )]
    Unknown(String),
}

impl From<String> for Unlooked {
    fn from(why: String) -> Self {
        Self::Blind(why)
    }
}

impl<H: Host> Reconciler<H> {
    /// Does what is due.
    pub(super) async fn pass(&mut self) {
        let looked = match std::mem::replace(&mut self.due, Due::Nothing) {
            Due::Nothing => Ok(()),
            Due::Rules => self.rules_pass().await.map_err(Unlooked::Blind),
            Due::Everything => {
                // What is left of a round that died must be made right, whatever is done about drift.
                let drift = if self.running.is_empty() { self.drift } else { Drift::Repair };
                self.full_pass(drift).await
            }
        };
        if let Err(why) = looked {
            tracing::warn!(%why, "the next full pass tries again");
            self.later(Instant::now() + self.blind_for().min(self.interval), Due::Everything);
        }
    }

    /// Compares everything with what the kernel has, and puts it right, or tells. Nothing else runs meanwhile.
    pub(super) async fn full_pass(&mut self, drift: Drift) -> Result<(), Unlooked> {
        // A port that another process had may be free again.
        self.intent.reclaim_ports();
        let world = match drift {
            Drift::Repair => self.intent.committed(),
            // What no round has been about yet is no drift.
            Drift::Report => Arc::new(self.applied.world().clone()),
        };
        let host = self.host.clone();
        let (around, before) = (self.around.clone(), self.applied.world().clone());
        let observed = tokio::task::spawn_blocking(move || {
            let facts = host.facts()?;
            learn(&mut around.write().unwrap_or_else(PoisonError::into_inner), &before, facts);
            host.observe()
        });
        let observed = observed.await.map_err(|error| error.to_string()).flatten();
        self.blind = if observed.is_err() { self.blind.saturating_add(1) } else { 0 };
        let have = observed?;
        if !self.looked
            && self.unknown == Unknown::Refuse
            && let Some(unknown) = unknown(&world, &have)
        {
            return Err(Unlooked::Unknown(unknown));
        }
        let round = Round {
            changing: self.changing(&world),
            // The first look finds what is left of the last process, not what somebody has broken.
            repairs: self.looked,
            ..Round::whole(world, self.around.clone(), drift)
        };
        let host = self.host.clone();
        let finished = tokio::task::spawn_blocking(move || round.run_from(&*host, have));
        let finished = finished.await.map_err(|error| error.to_string())?;
        self.looked = true;
        self.applied = Applied::default();
        self.running.clear();
        self.finish(Ok(finished)).await;
        // It has just been looked at everything.
        self.due = Due::Nothing;
        Ok(())
    }

    /// What no round was about yet, with all that it concerns.
    fn changing(&self, world: &World) -> Changing {
        let other = |one: &World, other: &World| {
            let changed = one.objects().filter(|object| {
                let there = other.get_any(object.kind(), &object.meta().name);
                there.is_none_or(|there| {
                    (there.meta().uid, there.meta().revision) != (object.meta().uid, object.meta().revision)
                })
            });
            changed.map(|object| (object.kind(), object.meta().name.clone())).collect::<Vec<_>>()
        };
        let mut changed = other(world, self.applied.world());
        changed.extend(other(self.applied.world(), world));
        let mut objects = names(&self.applied.scope(world, &changed));
        objects.extend(changed);
        Changing { host: !objects.is_empty(), objects }
    }

    /// Puts the firewall back as it was made, whoever has changed it.
    async fn rules_pass(&mut self) -> Result<(), String> {
        let (host, world, drift) = (self.host.clone(), self.applied.world().clone(), self.drift);
        let around = self.around.read().unwrap_or_else(PoisonError::into_inner).clone();
        let work = tokio::task::spawn_blocking(move || -> Result<_, String> {
            let wanted = want(&world, &everything(&world), &around);
            let have = HostNet { rules: host.rules()?, ..wanted.clone() };
            let steps = plan(&have, &wanted).steps;
            let outcomes = match drift {
                Drift::Repair => host.apply(&steps),
                Drift::Report => Vec::new(),
            };
            Ok((steps, outcomes))
        });
        let (steps, outcomes) = work.await.map_err(|error| error.to_string())??;
        if let Drift::Report = drift {
            tracing::warn!(
                steps = steps.len(),
                "the firewall is not as netloom made it, and drift is only reported"
            );
            return Ok(());
        }
        let is_done = |(_, outcome): &(&Step, &Outcome)| matches!(outcome, Outcome::Done(_));
        let done: Vec<String> =
            steps.iter().zip(&outcomes).filter(is_done).map(|(step, _)| step.to_string()).collect();
        if done.len() < steps.len() {
            // A change of others in between; the look at everything knows what to do about the rest.
            self.due = Due::Everything;
        }
        if !done.is_empty() {
            self.turns.repaired(Who::Rules, Instant::now());
            self.intent.tell_repairs(&self.board, BTreeMap::from([(None, done)]));
        }
        Ok(())
    }
}

/// What bears the mark of an object that is not in the World. The daemon's own hand leaves nothing of the kind: a row goes
/// after the last of what was made for it.
fn unknown(world: &World, have: &HostNet) -> Option<String> {
    let is_unknown = |mark: Mark| matches!(mark, Mark::Object(uid) if world.find(&uid).is_none());
    let namespaces = have.namespaces.iter().filter(|(_, mark)| is_unknown(**mark));
    let links = have.links.iter().filter(|(_, link)| is_unknown(link.mark));
    let namespaces = namespaces.map(|(name, _)| format!("namespace {name}"));
    let links = links.map(|((stack, name), _)| format!("link {name} in {stack}"));
    let mut all: Vec<String> = namespaces.chain(links).collect();
    let count = all.len();
    all.truncate(NAMED);
    let more = count.checked_sub(NAMED).filter(|more| *more > 0);
    all.extend(more.map(|more| format!("{more} more")));
    (count > 0).then(|| all.join(", "))
}

/// Takes in the host's own links and switches as they are now. That it was us who switched forwarding on the firewall
/// remembers, and so do we, should somebody take the firewall away.
pub(super) fn learn(around: &mut Surroundings, applied: &World, mut facts: HostFacts) {
    let host = Scope { host: true, ..Scope::default() };
    let guards: BTreeSet<Element> = want(applied, &host, around).rules.elements;
    for (name, uplink) in &mut facts.uplinks {
        let was = around.facts.uplinks.get(name).is_some_and(|uplink| uplink.guarded);
        uplink.guarded |= was || guards.contains(&Element::notransit(name.as_str()));
    }
    around.facts = facts;
}
