//! What Policies drop: counted for each of them, and told of those that say `log`.
//!
//! A chain of the firewall drops for a set of Policies, so each of the set counts it: none of them allowed it. Events have a
//! budget, so that whoever is dropped a lot pushes nothing else out of the log; what is beyond it is counted alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use netloom_api::{Attachment, Direction, Event, EventType, Kind, Name, Uid};
use tokio::time::Instant;

use super::{Controller, intent::Intent, render};
use crate::{
    hostnet::rules::{Flowing, PolicySet},
    kernel::{Kernel, nflog::Logged},
    reconcile::board::Board,
    want,
    world::{AnyStored, World},
};

/// So many events at once.
const BURST: f64 = 200.0;
/// So many more every second: in a week less than a tenth of what the log keeps, as a rule.
const PER_SECOND: f64 = 1.0 / 60.0;

/// By the name of what counts.
type Counts = Vec<(String, u64)>;

/// What is known of drops.
pub struct Drops {
    inner: Mutex<Inner>,
}

struct Inner {
    chains: Chains,
    /// The kernel's counts, when they were last read.
    seen: HashMap<String, u64>,
    totals: BTreeMap<(Uid, Direction), u64>,
    budget: Budget,
    /// Drops that were not told since the last event.
    untold: u64,
}

/// The sets of Policies by the names of their chains, at one revision.
#[derive(Default)]
struct Chains {
    revision: Option<i64>,
    sets: HashMap<String, PolicySet>,
}

struct Budget {
    left: f64,
    since: Instant,
}

impl Default for Drops {
    fn default() -> Self {
        let budget = Budget { left: BURST, since: Instant::now() };
        let (chains, seen, totals) = (Chains::default(), HashMap::new(), BTreeMap::new());
        Self { inner: Mutex::new(Inner { chains, seen, totals, budget, untold: 0 }) }
    }
}

impl Drops {
    /// Takes in what the chains have counted, and tells how many packets each Policy has dropped.
    pub fn count(&self, world: &World, counted: Counts) -> Vec<(Name, Direction, u64)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { chains, seen, totals, .. } = &mut *inner;
        chains.follow(world);
        for (chain, now) in &counted {
            // A chain that was made anew counts from nothing.
            let before = seen.get(chain).filter(|before| *before <= now).copied().unwrap_or(0);
            let Some(set) = chains.sets.get(chain) else { continue };
            for uid in &set.policies {
                *totals.entry((*uid, direction(set.flowing))).or_default() += now - before;
            }
        }
        *seen = counted.into_iter().collect();
        totals.retain(|(uid, _), _| world.find(uid).is_some());
        let named = totals.iter().filter_map(|((uid, direction), count)| {
            let (_, name) = world.find(uid)?;
            Some((name.clone(), *direction, *count))
        });
        named.collect()
    }

    /// Writes an event for each Policy that wants to tell of what was dropped.
    pub fn tell(&self, intent: &Intent, board: &Board, logged: &[Logged]) {
        let world = intent.committed();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.chains.follow(&world);
        let mut events = Vec::new();
        for packet in logged {
            let Some(set) = inner.chains.sets.get(&packet.prefix).cloned() else { continue };
            let policies = named(&world, &set);
            let telling =
                policies.iter().filter(|one| matches!(one, AnyStored::Policy(one) if one.spec.log()));
            for policy in telling {
                if !inner.budget.spend(Instant::now()) {
                    inner.untold += 1;
                    continue;
                }
                let untold = std::mem::take(&mut inner.untold);
                let message = sentence(&world, packet, &set, &policies, untold);
                let event = render::event(EventType::PolicyDrop, policy, &world, board, None);
                events.push(Event { message: Some(message), reason: None, object: None, ..event });
            }
        }
        drop(inner);
        intent.tell(events);
    }
}

impl Controller {
    /// What is known of drops by Policies.
    pub fn drops(&self) -> Arc<Drops> {
        self.drops.clone()
    }

    /// How many packets each Policy has dropped, by direction; as far as it is known, if the kernel does not say.
    pub async fn dropped(&self) -> Vec<(Name, Direction, u64)> {
        let world = self.intent.committed();
        if world.count::<netloom_api::Policy>() == 0 {
            return Vec::new();
        }
        self.drops.count(&world, self.counted(Kernel::denied).await)
    }

    /// How many frames of each Attachment the spoof guard has dropped; those of which it was none are left out.
    pub async fn spoofed(&self) -> Vec<(Name, u64)> {
        let world = self.intent.committed();
        if world.count::<Attachment>() == 0 {
            return Vec::new();
        }
        let counted = self.counted(Kernel::spoofed).await.into_iter().filter(|(_, count)| *count > 0);
        let named = counted.filter_map(|(port, count)| match world.device_holder(&port.parse().ok()?)? {
            (Kind::Attachment, name) => Some((name.clone(), count)),
            _ => None,
        });
        named.collect()
    }

    /// What the kernel has counted; nothing, if it does not say.
    async fn counted(&self, ask: fn(&Kernel) -> Result<Counts, String>) -> Counts {
        let kernel = self.kernel.clone();
        match tokio::task::spawn_blocking(move || ask(&kernel)).await {
            Ok(Ok(counted)) => counted,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what was dropped is not known now");
                Vec::new()
            }
            Err(error) => {
                tracing::error!(%error, "what was dropped is not known now");
                Vec::new()
            }
        }
    }
}

impl Chains {
    fn follow(&mut self, world: &World) {
        if self.revision != Some(world.revision) {
            let all = want::everything(world).chains.into_iter();
            self.sets = all.map(|set| (set.chain().as_str().to_owned(), set)).collect();
            self.revision = Some(world.revision);
        }
    }
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(BURST);
        self.since = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

fn direction(flowing: Flowing) -> Direction {
    match flowing {
        Flowing::In => Direction::Ingress,
        Flowing::Out => Direction::Egress,
    }
}

fn named(world: &World, set: &PolicySet) -> Vec<AnyStored> {
    let policies = set.policies.iter().filter_map(|uid| match world.find(uid)? {
        (Kind::Policy, name) => world.get_any(Kind::Policy, name),
        _ => None,
    });
    policies.collect()
}

/// `ingress: 10.1.0.11 (red0) to 10.1.0.12 (blue0), tcp port 81: no rule of db, quiet allows it`
fn sentence(world: &World, packet: &Logged, set: &PolicySet, policies: &[AnyStored], untold: u64) -> String {
    let Logged { prefix: _, from, to, protocol, number } = packet;
    let whose = |address: &std::net::IpAddr| {
        let mut attachments = world.all::<Attachment>();
        let holder = attachments.find(|one| one.alloc.addresses.iter().any(|held| held.0.addr() == *address));
        holder.map_or_else(|| address.to_string(), |one| format!("{address} ({})", one.meta.name))
    };
    let what = match (protocol, number) {
        (6, Some(port)) => format!("tcp port {port}"),
        (17, Some(port)) => format!("udp port {port}"),
        (132, Some(port)) => format!("sctp port {port}"),
        (1, Some(number)) => format!("icmp type {} code {}", number >> 8, number & 0xff),
        (58, Some(number)) => format!("icmpv6 type {} code {}", number >> 8, number & 0xff),
        (protocol, _) => format!("protocol {protocol}"),
    };
    let mut names: Vec<String> = policies.iter().map(|policy| policy.meta().name.to_string()).collect();
    names.sort();
    let more = if untold > 0 { format!("; {untold} more were not told before") } else { String::new() };
    format!(
        "{}: {} to {}, {what}: no rule of {} allows it{more}",
        direction(set.flowing),
        whose(from),
        whose(to),
        names.join(", ")
    )
}

/// For the daemon: tells what the kernel logs until it logs no more, or nobody is left to tell.
pub async fn follow(
    drops: Arc<Drops>,
    intent: Arc<Intent>,
    board: Arc<Board>,
    mut logged: tokio::sync::mpsc::Receiver<Vec<Logged>>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            packets = logged.recv() => match packets {
                Some(packets) => drops.tell(&intent, &board, &packets),
                None => return,
            },
            () = &mut stop => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_told_and_then_one_a_minute() {
        let start = Instant::now();
        let mut budget = Budget { left: BURST, since: start };
        let told = (0..1000).filter(|_| budget.spend(start)).count();
        assert_eq!(told, 200);
        let told = (0..3600).filter(|second| budget.spend(start + Duration::from_secs(*second))).count();
        assert!((59..=60).contains(&told), "{told}");
    }
}
