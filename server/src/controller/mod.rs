//! The verbs: check, claim, allocate, commit, wait.
//!
//! POST, PATCH, DELETE and apply are sets of changes, and a set is one transaction. What can clash outside of the
//! database, a host port, is claimed before it is written. A new object that the kernel refuses for good is withdrawn
//! while its maker still waits; afterwards it stays, and its status says why it is not ready.

mod audit;
mod claims;
mod diagnose;
pub mod drops;
mod edit;
mod inside;
mod intent;
mod interfaces;
mod link;
mod networks;
mod patch;
mod pin;
mod policies;
mod ports;
mod prune;
mod read;
mod render;
mod rights;
mod routes;
mod topology;
mod turns;

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use netloom_api::{
    Action, AnyObject, ErrorReason, EventType, Kind, Name, Plan, PlannedChange, PlannedStep, RequestId,
};

use crate::{
    config::Pool,
    error::{Error, Result},
    hostnet::{Failure, FailureSort, Scope},
    kernel::Kernel,
    reconcile::{
        Waker,
        board::{Board, Waited},
    },
    store::Store,
    want::{HostLinks, Surroundings, close, scope_of, want},
    world::World,
};
use edit::{Context, Edit};
use inside::{Inside, Questions};
use turns::{Request, Turns};

pub use audit::Denied;
pub use edit::{Change, Delete, Fate, Patch, Terms, dependents};
pub use intent::Intent;
#[cfg(test)]
pub(crate) use intent::without;
pub use read::{Belongs, EventFilter, ListQuery, PAGE_DEFAULT, PAGE_MAX};
pub use render::Render;
pub use rights::{Rights, Verb};

/// How long a write waits when nothing is said.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(5);
/// How long a write may wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many chosen ports may turn out to be taken by other processes before a write gives up.
const CHOICES: usize = 256;

/// Who asks, and how.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As in the audit, e.g. `uid:0`.
    pub actor: String,
    /// The request's id in the log.
    pub trace: String,
    /// What it may do.
    pub rights: Rights,
}

/// What every write may ask for beside its changes.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// How long to wait for the kernel.
    pub wait: Duration,
    /// Check and plan, keep nothing.
    pub dry_run: bool,
    /// What holds for the set as a whole.
    pub terms: Terms,
    /// Do it, even if it may cut the host off.
    pub force: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { request_id: None, wait: WAIT_DEFAULT, dry_run: false, terms: Terms::default(), force: false }
    }
}

/// What a write did.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// One per change, in their order.
    pub changes: Vec<PlannedChange>,
    /// The objects as they are now, in the same order; none where there was nothing to delete, what it was where it is gone.
    pub objects: Vec<Option<AnyObject>>,
    /// The count of intent after it.
    pub revision: i64,
    /// Of a dry run.
    pub plan: Option<Plan>,
}

/// The verbs.
pub struct Controller {
    intent: Arc<Intent>,
    board: Arc<Board>,
    around: Arc<RwLock<Surroundings>>,
    kernel: Kernel,
    waker: Waker,
    pools: Arc<[Pool]>,
    forward_ports: RangeInclusive<u16>,
    api: Vec<std::net::IpAddr>,
    turns: Arc<Turns>,
    ledger: Arc<audit::Ledger>,
    drops: Arc<drops::Drops>,
}

impl Controller {
    /// Puts the verbs in front of intent, status and kernel.
    pub fn new(
        intent: Arc<Intent>,
        board: Arc<Board>,
        around: Arc<RwLock<Surroundings>>,
        kernel: Kernel,
        waker: Waker,
        pools: Arc<[Pool]>,
        forward_ports: RangeInclusive<u16>,
    ) -> Self {
        let (api, turns, ledger, drops) = (Vec::new(), Arc::default(), Arc::default(), Arc::default());
        Self { intent, board, around, kernel, waker, pools, forward_ports, api, turns, ledger, drops }
    }

    /// Tells on which addresses the API listens: a route that would cut its callers off has to be forced.
    pub fn listening_on(self, api: Vec<std::net::IpAddr>) -> Self {
        Self { api, ..self }
    }

    /// As `commit`, which keeps the audit.
    async fn commit_or_plan(
        self: &Arc<Self>,
        changes: Vec<Change>,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<Committed> {
        caller.rights.check_targets(&self.intent.committed(), &changes)?;
        if options.dry_run {
            return self.dry_run(changes, options, caller).await;
        }
        let request = Request::of(&changes, options, caller);
        let turn = match &request {
            Some(request) => Some(self.turns.take(request).await),
            None => None,
        };
        if let Some(replayed) = self.replay(&request, &changes).await? {
            return Ok(replayed);
        }
        // A caller that goes away must not leave a half-done write: the work goes on in a task of its own.
        let (this, options, caller) = (self.clone(), options.clone(), caller.clone());
        let task = tokio::spawn(async move {
            let done = this.commit_now(changes, &options, &caller, request).await;
            drop(turn);
            done
        });
        task.await.map_err(|error| Error::internal(format!("the write died: {error}")))?
    }

    async fn commit_now(
        &self,
        changes: Vec<Change>,
        options: &WriteOptions,
        caller: &Caller,
        request: Option<Request>,
    ) -> Result<Committed> {
        self.await_names(&changes, options.wait).await;
        let context = self.context(&changes, &options.terms, options.force).await?;
        let (mut edit, durable) = self.write(&changes, context, caller, request.as_ref()).await?;
        let touched: Vec<(Kind, Name)> =
            edit.puts.iter().map(|object| (object.kind(), object.meta().name.clone())).collect();
        if !touched.is_empty() {
            self.waker.wake(touched).await;
        }
        let settled = self.settle(&mut edit, options, request.as_ref()).await;
        if let Some(durable) = durable {
            durable.await?;
        }
        settled?;
        Ok(self.committed(&edit))
    }

    /// Checks, claims and commits. A chosen port that turns out to be taken is chosen anew.
    async fn write(
        &self,
        changes: &[Change],
        mut context: Context,
        caller: &Caller,
        request: Option<&Request>,
    ) -> Result<(Edit, Option<crate::store::Pending<()>>)> {
        let ports = &self.intent.ports;
        let mut claimed = ports::Claimed::default();
        let mut base = None;
        let mut refused = None;
        let written = self.intent.write(|before| {
            ports.undo(std::mem::take(&mut claimed));
            let edit = loop {
                let edit = edit::edit(before, changes.to_vec(), &context)?;
                caller.rights.check_edit(&edit)?;
                match ports.claim(before, &edit) {
                    Ok(new) => {
                        claimed = new;
                        break edit;
                    }
                    Err(ports::Refused { choice: Some(taken), .. }) if context.busy.len() < CHOICES => {
                        context.busy.insert(taken);
                    }
                    Err(ports::Refused { error, name, .. }) if !context.terms.atomic => {
                        let of = (Kind::PortForward, name);
                        let index = changes.iter().position(|change| change.target() == of);
                        context.faulty.insert(index.ok_or(error.clone())?, error);
                    }
                    Err(ports::Refused { error, protocol, .. }) => {
                        refused = Some(protocol);
                        return Err(error);
                    }
                }
            };
            base = Some(before.clone());
            let write = self.to_write(before, &edit, caller, request);
            Ok((edit, write))
        });
        match written.await {
            Ok((edit, durable)) => {
                base.iter().for_each(|before| ports.settle(before, &edit));
                Ok((edit, durable))
            }
            Err(error) => {
                ports.undo(claimed);
                Err(ports::with_holder(error, refused).await)
            }
        }
    }

    /// A name that is being deleted is worth waiting for.
    async fn await_names(&self, changes: &[Change], wait: Duration) {
        let world = self.intent.committed();
        for change in changes {
            let (kind, name) = change.target();
            let dying = world.get_any(kind, &name).filter(|object| object.meta().delete_time.is_some());
            if let (Change::Create(_) | Change::Put(_) | Change::Patch(_), Some(dying)) = (change, dying) {
                let uid = dying.meta().uid;
                self.board.gone(uid, wait, || self.intent.committed().find(&uid).is_some()).await;
            }
        }
    }

    async fn context(&self, changes: &[Change], terms: &Terms, force: bool) -> Result<Context> {
        let adds_prefixes = changes.iter().any(|change| match change {
            Change::Create(_) | Change::Put(_) | Change::Patch(_) => {
                matches!(change.target().0, Kind::Network | Kind::Link)
            }
            Change::Delete(_) => false,
        });
        let host = if adds_prefixes { self.host_links().await? } else { HostLinks::default() };
        let inside = self.inside(changes, terms).await?;
        let features = self.around.read().unwrap_or_else(PoisonError::into_inner).features;
        Ok(Context {
            now: intent::now(),
            terms: terms.clone(),
            faulty: edit::Faults::new(),
            pools: self.pools.clone(),
            host,
            forward_ports: self.forward_ports.clone(),
            busy: BTreeSet::new(),
            sctp: features.sctp,
            inside,
            api: self.api.clone(),
            force,
        })
    }

    /// What has to be known of namespaces; most changes have no such question.
    async fn inside(&self, changes: &[Change], terms: &Terms) -> Result<Inside> {
        let world = self.intent.committed();
        let questions = Questions::of(&world, changes, terms);
        if questions.is_empty() {
            return Ok(Inside::default());
        }
        let (kernel, board) = (self.kernel.clone(), self.board.clone());
        let asked = tokio::task::spawn_blocking(move || questions.ask(&kernel, &world, &board)).await;
        asked.map_err(|error| Error::internal(error.to_string()))
    }

    /// The host's own links; our own devices are left out, since the World knows them.
    async fn host_links(&self) -> Result<HostLinks> {
        let kernel = self.kernel.clone();
        let found = tokio::task::spawn_blocking(move || kernel.links()).await;
        let found = found.map_err(|error| Error::internal(error.to_string()))?;
        found.map_err(|why| {
            Error::new(ErrorReason::Unavailable, format!("the host's addresses are not known: {why}"))
        })
    }

    fn to_write(
        &self,
        before: &World,
        edit: &Edit,
        caller: &Caller,
        request: Option<&Request>,
    ) -> Option<intent::Write> {
        if edit.puts.is_empty() && edit.removes.is_empty() {
            return None;
        }
        let created = |object: &crate::world::AnyStored| before.find(&object.meta().uid).is_none();
        let mut events: Vec<_> = edit
            .puts
            .iter()
            .map(|object| {
                let type_ = if created(object) { EventType::Created } else { EventType::Updated };
                render::event(type_, object, &edit.world, &self.board, Some(caller))
            })
            .collect();
        let removed = edit.removes.iter();
        events.extend(
            removed
                .map(|object| render::event(EventType::Deleted, object, before, &self.board, Some(caller))),
        );
        let request = request.and_then(|request| request.record(edit));
        Some(intent::Write {
            world: edit.world.clone(),
            puts: edit.puts.clone(),
            removes: edit.removes.clone(),
            cursors: edit.cursors.clone(),
            events,
            request,
            undone: None,
        })
    }

    /// Waits until the kernel has followed, or the time is over, which is not an error.
    async fn settle(&self, edit: &mut Edit, options: &WriteOptions, request: Option<&Request>) -> Result<()> {
        let until = tokio::time::Instant::now() + options.wait;
        let left = || until.saturating_duration_since(tokio::time::Instant::now());
        let mut refused = Vec::new();
        for object in &edit.puts {
            let netloom_api::Meta { uid, generation, revision, .. } = *object.meta();
            let exists = || self.intent.committed().find(&uid).is_some();
            if object.meta().delete_time.is_some() {
                self.board.gone(uid, left(), exists).await;
                continue;
            }
            if let Waited::Failed(entry) = self.board.settled(uid, revision, left(), exists).await
                && let Some(failure) = entry.failure
                && matches!(failure.sort, FailureSort::Conflict | FailureSort::Final)
                && generation == 1
                && edit.fates.iter().any(|fate| fate.uid == Some(uid) && fate.action == Action::Created)
            {
                refused.push((uid, kernel_refused(object, &failure)));
            }
        }
        // What another request deletes goes for this one, too.
        for uid in edit.fates.iter().filter(|fate| fate.action == Action::Deleted).filter_map(|fate| fate.uid)
        {
            self.board.gone(uid, left(), || self.intent.committed().find(&uid).is_some()).await;
        }
        let Some((_, first)) = refused.first().cloned() else { return Ok(()) };
        let goes = |fate: &&Fate| {
            let itself = || refused.iter().any(|(uid, _)| fate.uid == Some(*uid));
            fate.action == Action::Created && (options.terms.atomic || itself())
        };
        let created: Vec<&Fate> = edit.fates.iter().filter(goes).collect();
        // A retry with the same key is to try again, unless it was told what came of each change.
        let undone = request.filter(|_| options.terms.atomic);
        self.withdraw(&created, undone, left().max(Duration::from_secs(1))).await?;
        if options.terms.atomic {
            return Err(first);
        }
        // What was made on top of what is withdrawn went with it.
        let world = self.intent.committed();
        for fate in edit.fates.iter_mut().filter(|fate| fate.action == Action::Created) {
            let own = refused.iter().find(|(uid, _)| fate.uid == Some(*uid)).map(|(_, error)| error.clone());
            let gone = fate.uid.is_some_and(|uid| world.find(&uid).is_none());
            if let Some(error) = own.or_else(|| gone.then(|| first.clone())) {
                (fate.action, fate.uid, fate.error) = (Action::Failed, None, Some(error));
            }
        }
        Ok(())
    }

    /// Takes back what a refused set has created; undo is a new intent through the same loop.
    async fn withdraw(&self, created: &[&Fate], undone: Option<&Request>, within: Duration) -> Result<()> {
        let changes: Vec<Change> = created
            .iter()
            .map(|fate| {
                Change::Delete(Delete {
                    kind: fate.kind,
                    name: fate.name.clone(),
                    etag: None,
                    force: true,
                    allow_missing: true,
                })
            })
            .collect();
        let context = self.context(&[], &Terms::default(), false).await?;
        let caller = Caller { actor: "netloom".into(), trace: "withdrawn".into(), rights: Rights::Full };
        let (undo, _) = self
            .intent
            .write(|before| {
                let undo = edit::edit(before, changes.clone(), &context)?;
                let mut write = self.to_write(before, &undo, &caller, None);
                if let Some(write) = &mut write {
                    write.undone = undone.map(|request| (request.actor.clone(), request.key.clone()));
                }
                Ok((undo, write))
            })
            .await?;
        self.waker
            .wake(undo.puts.iter().map(|object| (object.kind(), object.meta().name.clone())).collect())
            .await;
        for fate in created {
            if let Some(uid) = fate.uid {
                self.board.gone(uid, within, || self.intent.committed().find(&uid).is_some()).await;
            }
        }
        Ok(())
    }

    fn committed(&self, edit: &Edit) -> Committed {
        let world = self.intent.committed();
        let objects = edit.fates.iter().map(|fate| self.show(fate, &world, edit)).collect();
        Committed { changes: planned(&edit.fates), objects, revision: edit.world.revision, plan: None }
    }

    /// The object of a fate: as it is, or what it was.
    fn show(&self, fate: &Fate, world: &World, edit: &Edit) -> Option<AnyObject> {
        let uid = fate.uid?;
        let now = world.get_any(fate.kind, &fate.name).filter(|object| object.meta().uid == uid);
        let was = || edit.puts.iter().chain(&edit.removes).find(|object| object.meta().uid == uid).cloned();
        // Nothing was to do, and meanwhile another request has made away with it.
        let before = || edit.before.get_any(fate.kind, &fate.name).filter(|object| object.meta().uid == uid);
        now.or_else(was).or_else(before).map(|object| render::any(&object, world, &self.board))
    }

    async fn dry_run(
        &self,
        changes: Vec<Change>,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<Committed> {
        let context = self.context(&changes, &options.terms, options.force).await?;
        let before = self.intent.committed();
        let edit = edit::edit(&before, changes, &context)?;
        caller.rights.check_edit(&edit)?;
        let mut scope = Scope::default();
        for object in &edit.puts {
            scope.join(scope_of(&before, object.kind(), &object.meta().name));
            scope.join(scope_of(&edit.world, object.kind(), &object.meta().name));
        }
        close(&mut scope, &before, &edit.world);
        let around = self.around.read().unwrap_or_else(PoisonError::into_inner).clone();
        let steps =
            crate::plan::plan(&want(&before, &scope, &around), &want(&edit.world, &scope, &around)).steps;
        let whose = |step: &crate::hostnet::Step| {
            let uid = step.uid?;
            edit.world.find(&uid).or_else(|| before.find(&uid)).cloned()
        };
        let operations = steps.iter().map(|step| {
            let (kind, name) = whose(step).unzip();
            PlannedStep { action: step.action.word().to_owned(), kind, name }
        });
        let plan = Plan {
            changes: planned(&edit.fates),
            steps: steps.iter().map(ToString::to_string).collect(),
            operations: operations.collect(),
        };
        let mut objects: Vec<Option<AnyObject>> =
            edit.fates.iter().map(|fate| self.show(fate, &edit.world, &edit)).collect();
        if let [Some(object)] = objects.as_mut_slice() {
            object.set_plan(plan.clone());
        }
        Ok(Committed { changes: plan.changes.clone(), objects, revision: before.revision, plan: Some(plan) })
    }

    /// The answer of an earlier write with the same key.
    async fn replay(&self, request: &Option<Request>, changes: &[Change]) -> Result<Option<Committed>> {
        let Some(request) = request else { return Ok(None) };
        let Some(record) = self.intent.store().request(&request.actor, &request.key).await? else {
            return Ok(None);
        };
        if record.hash != request.hash {
            let detail = format!("the key {} was used for another request", request.key);
            return Err(Error::new(ErrorReason::IdempotencyMismatch, detail));
        }
        let world = self.intent.committed();
        let fates: Vec<Fate> = changes
            .iter()
            .map(|change| {
                let (kind, name) = change.target();
                let uid = world.get_any(kind, &name).map(|object| object.meta().uid);
                Fate { action: Action::Unchanged, kind, name, uid, fields: Vec::new(), error: None }
            })
            .collect();
        let objects = fates.iter().map(|fate| {
            world.get_any(fate.kind, &fate.name).map(|object| render::any(&object, &world, &self.board))
        });
        let objects = objects.collect();
        Ok(Some(Committed { changes: planned(&fates), objects, revision: world.revision, plan: None }))
    }
}

/// What the caller gets to hear of a failure.
fn kernel_refused(object: &crate::world::AnyStored, failure: &Failure) -> Error {
    let reason = match failure.sort {
        FailureSort::Conflict if object.kind() == Kind::Route => ErrorReason::RouteTaken,
        FailureSort::Conflict => ErrorReason::DeviceTaken,
        FailureSort::Final | FailureSort::Passing | FailureSort::Surprise | FailureSort::Gone => {
            ErrorReason::KernelError
        }
    };
    let detail = format!("{} {} cannot be: {}", object.kind(), object.meta().name, failure.message);
    let error = Error::new(reason, detail);
    match failure.errno {
        Some(errno) => error.with("errno", errno),
        None => error,
    }
}

fn planned(fates: &[Fate]) -> Vec<PlannedChange> {
    let one = |fate: &Fate| {
        let Fate { action, kind, name, uid: _, fields, error } = fate.clone();
        PlannedChange { action, kind, name, fields, error: error.map(Error::into_one_of_many) }
    };
    fates.iter().map(one).collect()
}

/// The store behind the verbs, for the log's readers.
impl Controller {
    /// The log.
    pub fn store(&self) -> &Store {
        self.intent.store()
    }
}

/// The World that these changes make of another; for tests of the rooms that only read it.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests name changes that are right")]
pub(crate) fn edit_for_tests(before: &World, changes: Vec<Change>, now: netloom_api::Timestamp) -> World {
    try_edit_for_tests(before, changes, Terms::default(), now).unwrap().0
}

/// The World that these changes make of another, and which objects they touch; as long as the kernel has no part in it.
#[cfg(test)]
pub(crate) fn try_edit_for_tests(
    before: &World,
    changes: Vec<Change>,
    terms: Terms,
    now: netloom_api::Timestamp,
) -> Result<(World, Vec<(Kind, Name)>)> {
    let config = crate::config::Config::default();
    let context = Context {
        now,
        terms,
        faulty: edit::Faults::new(),
        pools: config.pools.into(),
        host: HostLinks::default(),
        forward_ports: config.forward_ports,
        busy: BTreeSet::new(),
        sctp: true,
        inside: Inside::default(),
        api: Vec::new(),
        force: false,
    };
    let edit = edit::edit(before, changes, &context)?;
    let touched = edit.puts.iter().map(|object| (object.kind(), object.meta().name.clone())).collect();
    Ok((edit.world, touched))
}
