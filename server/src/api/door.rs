//! What stands behind both doors: the verbs, whether the daemon is ready, and what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netloom_api::{
    Action, AnyDraft, AnyObject, ApplyRequest, ApplyResponse, Attachment, Draft, Link, Namespace, Network,
    Object, PlanResponse, Policy, PortForward, Reservation, Route,
};
use tokio::time::Instant;

use crate::controller::{Belongs, Caller, Change, Committed, Controller, Render, Terms, WriteOptions};
use crate::error::{Error, Result};
use crate::telemetry::{Drops, Metrics, ObjectCounts};

/// A noun that comes through the doors.
pub(super) trait DoorNoun: Render + Belongs {
    /// By what a list can be narrowed, beside owner and labels.
    const FILTERS: &'static [&'static str];
    /// In an operation's name, e.g. `port_forward`.
    const WORD: &'static str;
    /// Many of it in an operation's name, e.g. `port_forwards`.
    const WORDS: &'static str;

    /// As one of any noun.
    fn draft(draft: Draft<Self>) -> AnyDraft;

    /// Out of any noun; none for another one.
    fn one(object: AnyObject) -> Option<Object<Self>>;
}

macro_rules! door_noun {
    ($($noun:ident $word:ident $words:ident [$($filter:ident),*];)*) => {$(
        impl DoorNoun for $noun {
            const FILTERS: &'static [&'static str] = &[$(stringify!($filter)),*];
            const WORD: &'static str = stringify!($word);
            const WORDS: &'static str = stringify!($words);

            fn draft(draft: Draft<Self>) -> AnyDraft {
                draft.into()
            }

            fn one(object: AnyObject) -> Option<Object<Self>> {
                object.try_into().ok()
            }
        }
    )*};
}

door_noun! {
    Namespace namespace namespaces [];
    Network network networks [];
    Attachment attachment attachments [namespace, network];
    PortForward port_forward port_forwards [namespace, network];
    Reservation reservation reservations [network];
    Route route routes [namespace];
    Link link links [namespace];
    Policy policy policies [network];
}

/// What every handler gets.
#[derive(Clone)]
pub(super) struct Door {
    /// The verbs.
    pub controller: Arc<Controller>,
    /// What is counted.
    pub metrics: Metrics,
    /// Objects in one apply.
    objects_max: usize,
    ready: Arc<AtomicBool>,
}

/// One object after a write.
pub(super) struct Written<N: DoorNoun> {
    /// What happened to it; nothing in a dry run.
    pub action: Action,
    /// As it is now; what it was, if it is gone. None when there was nothing to delete.
    pub object: Option<Object<N>>,
}

impl Door {
    pub(super) fn new(controller: Arc<Controller>, objects_max: usize, ready: Arc<AtomicBool>) -> Self {
        let metrics = Metrics::new(&controller.version());
        Self { controller, metrics, objects_max, ready }
    }

    /// Whether the first full pass is done.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// A write of one object.
    pub(super) async fn write<N: DoorNoun>(
        &self,
        change: Change,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<Written<N>> {
        let Committed { changes, objects, revision: _, plan } =
            self.commit(vec![change], options, caller).await?;
        let action = match (plan, changes.first()) {
            (None, Some(change)) => change.action,
            (Some(_), _) | (None, None) => Action::Unchanged,
        };
        Ok(Written { action, object: objects.into_iter().next().flatten().and_then(N::one) })
    }

    /// A write of many objects.
    pub(super) async fn apply(
        &self,
        request: ApplyRequest,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<ApplyResponse> {
        let ApplyRequest { objects, owner, prune, take_ownership, atomic, expect_revision } = request;
        if objects.len() > self.objects_max {
            let detail = format!("{} objects are more than {} at once", objects.len(), self.objects_max);
            let error = Error::new(netloom_api::ErrorReason::TooLarge, detail).at("objects");
            return Err(error.with("limit", self.objects_max));
        }
        let put = |mut draft: AnyDraft| {
            let named = draft.owner_mut();
            *named = named.take().or_else(|| owner.clone());
            Change::Put(draft)
        };
        let changes = objects.into_iter().map(put).collect();
        let terms = Terms { owner: owner.clone(), prune, take_ownership, atomic, expect_revision };
        let options = WriteOptions { terms, ..options.clone() };
        let Committed { changes, objects, revision, plan } = self.commit(changes, &options, caller).await?;
        Ok(ApplyResponse { changes, objects: objects.into_iter().flatten().collect(), revision, plan })
    }

    /// What an apply of the same request would do: its dry run.
    pub(super) async fn plan(&self, request: ApplyRequest, caller: &Caller) -> Result<PlanResponse> {
        let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
        let ApplyResponse { changes: _, objects: _, revision, plan } =
            self.apply(request, &options, caller).await?;
        let plan = plan.ok_or_else(|| Error::internal("a dry run made no plan"))?;
        Ok(PlanResponse { plan, revision })
    }

    /// What was counted, and what there is now.
    pub(super) async fn metrics_text(&self) -> Result<String> {
        let counts = ObjectCounts::new();
        self.controller.each_ready(|kind, ready| counts.add(kind, ready));
        let policies = self.controller.dropped().await;
        let drops = Drops { policies, spoofed: self.controller.spoofed().await };
        self.metrics.text(counts, drops).map_err(|error| Error::internal(error.to_string()))
    }

    async fn commit(
        &self,
        changes: Vec<Change>,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<Committed> {
        let begun = Instant::now();
        let committed = self.controller.commit(changes, options, caller).await;
        self.metrics.committed(begun.elapsed());
        committed
    }
}

impl<N: DoorNoun> Written<N> {
    /// The object, where there must be one. A replayed request may find that its object is gone.
    pub(super) fn object(self) -> Result<Object<N>> {
        self.object.ok_or_else(|| {
            Error::new(netloom_api::ErrorReason::NotFound, format!("the {} is gone by now", N::KIND))
        })
    }
}
