//! The same sequences with the real controller, store and reconciler, on Linux.
//!
//! Between reconciler and kernel stands a [`Twin`]: what the kernel says it has done is done to a value, too, by
//! [`HostNet::apply`]. After every happening both must be the same: so the model of Linux is held against Linux.

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use netloom_api::{Kind, Network};
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle};

use super::{
    Disturbed, Sequence, Undisturbed, Weather,
    call::{self, Addition, Call, Happening, Noticed, Trouble},
    cases,
    fake::Plot,
    ledger::Ledger,
    reference::Reference,
    theft,
};
use crate::{
    config::{Config, Drift, Unknown},
    controller::{Caller, Controller, Intent, WriteOptions},
    hostnet::{
        Failure, FailureSort, HostNet, Loss, Outcome, Part, Stack, Step,
        rules::{Rules, Skeleton},
    },
    kernel::{Kernel, meddle, netns, testhost::on_private_host},
    plan::plan,
    reconcile::{self, Host, Reconciler, Unlooked, board::Board},
    store::{Store, StoreOptions},
    want::{HostFacts, Surroundings, everything, want},
    world::World,
};

/// How long the kernel may take to be as it should.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a write waits that cannot end before the next full pass.
const NOT_LONG: Duration = Duration::from_millis(150);

prop_state_machine! {
    #![proptest_config(cases(12))]

    fn calls(sequential 1..24 => OnLinux<Undisturbed>);

    fn calls_and_faults(sequential 1..24 => OnLinux<Disturbed>);
}

#[test]
fn linux_follows_every_sequence_of_calls_and_is_as_its_model_says() {
    on_private_host(calls);
}

#[test]
fn linux_follows_every_sequence_of_calls_and_faults_and_is_as_its_model_says() {
    on_private_host(calls_and_faults);
}

/// The kernel, and a value that is to be like it.
pub(in crate::tests) struct Twin {
    pub(in crate::tests) kernel: Kernel,
    shadow: Mutex<HostNet>,
    plot: Mutex<Plot>,
    /// What was done.
    pub(in crate::tests) taken: Mutex<Vec<Step>>,
    /// How often it was looked at.
    pub(in crate::tests) looks: AtomicUsize,
}

impl Twin {
    /// Another kernel's handle on what is there; the daemon before it is gone.
    pub(in crate::tests) fn after(shadow: HostNet) -> Self {
        Self {
            kernel: Kernel::open().unwrap(),
            shadow: Mutex::new(shadow),
            plot: Mutex::default(),
            taken: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    fn shadow(&self) -> std::sync::MutexGuard<'_, HostNet> {
        self.shadow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plot(&self, plot: Plot) {
        *self.plot.lock().unwrap_or_else(PoisonError::into_inner) = plot;
    }

    /// Steps that nothing goes wrong with.
    fn do_all(&self, steps: &[Step]) -> Vec<Outcome> {
        let outcomes = self.kernel.apply(steps);
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(steps.iter().cloned());
        let mut shadow = self.shadow();
        for (step, outcome) in steps.iter().zip(&outcomes) {
            if let Outcome::Done(_) = outcome {
                shadow.apply(step);
            }
        }
        outcomes
    }

    /// Steps up to this one, which is not taken; of those behind it the ones that do not need it, unless the daemon dies.
    fn do_some(&self, steps: &[Step], at: usize, dies: bool) -> Vec<Outcome> {
        let not_now = Failure { errno: None, message: "not now".into(), sort: FailureSort::Passing };
        let mut outcomes = self.do_all(&steps[..at]);
        outcomes.push(Outcome::Failed(not_now.clone()));
        let uid = steps[at].uid;
        for step in &steps[at + 1..] {
            let waits = step.uid.is_some() && step.uid == uid;
            let outcome = match (dies, waits) {
                (true, _) => Outcome::Failed(not_now.clone()),
                (false, true) => Outcome::Skipped,
                (false, false) => self.do_all(std::slice::from_ref(step)).remove(0),
            };
            outcomes.push(outcome);
        }
        outcomes
    }
}

impl Host for Twin {
    fn apply(&self, steps: &[Step]) -> Vec<Outcome> {
        let mut plot = self.plot.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u8::try_from(steps.len()).unwrap();
        match *plot {
            Plot { refuse: None, die: None } => {
                drop(plot);
                self.do_all(steps)
            }
            Plot { die: Some(at), .. } => {
                plot.die = Some(at.saturating_sub(count));
                if at < count { self.do_some(steps, usize::from(at), true) } else { self.do_all(steps) }
            }
            Plot { refuse: Some(at), .. } => {
                plot.refuse = at.checked_sub(count);
                if at < count { self.do_some(steps, usize::from(at), false) } else { self.do_all(steps) }
            }
        }
    }

    fn observe(&self) -> Result<HostNet, String> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.kernel.observe()
    }

    fn observe_part(&self, part: &Part) -> Result<HostNet, String> {
        self.kernel.observe_part(part)
    }

    fn rules(&self) -> Result<Rules, String> {
        self.kernel.rules()
    }

    fn facts(&self) -> Result<HostFacts, String> {
        self.kernel.facts()
    }
}

/// A daemon without doors.
pub(in crate::tests) struct Running {
    pub(in crate::tests) twin: Arc<Twin>,
    pub(in crate::tests) controller: Arc<Controller>,
    store: Store,
    around: Arc<RwLock<Surroundings>>,
    losses: mpsc::Sender<Vec<Loss>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(in crate::tests) async fn start(state_dir: &std::path::Path, twin: Twin) -> Self {
        let config = Config::default();
        let options = StoreOptions { state_dir: state_dir.to_path_buf(), events: config.events };
        let store = Store::open(options).await.unwrap();
        let kernel = twin.kernel.clone();
        let around = Arc::new(RwLock::new(Surroundings {
            features: kernel.features(),
            manages_forwarding: true,
            api_ports: vec![8443],
            facts: HostFacts::default(),
        }));
        let intent = Arc::new(Intent::new(store.clone()));
        let committed = intent.clone();
        kernel.follow(Vec::new(), move || committed.committed());
        intent.reclaim_ports();
        let board = Arc::new(Board::default());
        let (waker, changes) = reconcile::queue();
        let controller = Controller::new(
            intent.clone(),
            board.clone(),
            around.clone(),
            kernel,
            waker,
            config.pools.clone().into(),
            config.forward_ports.clone(),
        );
        let twin = Arc::new(twin);
        let interval = Duration::from_secs(3600);
        // Whatever goes wrong, the database knows of all that the kernel has.
        let drift = (Drift::Repair, Unknown::Refuse);
        let reconciler = Reconciler::new(twin.clone(), intent, board, around.clone(), interval, drift);
        let (losses, lost) = mpsc::channel(1);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (booted, is_up) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut booted = Some(booted);
            let tell = |result: Result<(), Unlooked>| {
                result.unwrap();
                booted.take().into_iter().for_each(|booted| booted.send(()).unwrap());
            };
            let stopped = async { drop(stopped.await) };
            reconciler.run(changes, lost, tell, stopped).await;
        });
        is_up.await.unwrap();
        Self { twin, controller: Arc::new(controller), store, around, losses, stop, task }
    }

    /// Ends it, and tells what the kernel has by its model.
    pub(in crate::tests) async fn end(self) -> HostNet {
        let Self { twin, controller, store, around: _, losses: _losses, stop, task } = self;
        drop(stop);
        task.await.unwrap();
        drop(controller);
        store.close().await;
        twin.shadow().clone()
    }

    pub(in crate::tests) fn world(&self) -> Arc<World> {
        self.store.snapshot().world
    }

    pub(in crate::tests) async fn full_pass(&self) {
        self.losses.send(vec![Loss::Unknown]).await.unwrap();
    }

    /// What the kernel has, and what is still to do; nobody is being deleted any more.
    fn look(&self) -> (HostNet, Vec<String>) {
        let world = self.world();
        let mut around = self.around.read().unwrap().clone();
        let known = std::mem::replace(&mut around.facts, self.twin.kernel.facts().unwrap());
        // The daemon remembers what it guards; of the kernel, an element that was stolen says that nobody does.
        for (name, uplink) in &mut around.facts.uplinks {
            uplink.guarded |= known.uplinks.get(name).is_some_and(|uplink| uplink.guarded);
        }
        let wanted = want(&world, &everything(&world), &around);
        let have = self.twin.kernel.observe().unwrap();
        let plan = plan(&have, &wanted);
        let mut left: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        left.extend(plan.conflicts.into_iter().map(|conflict| conflict.message));
        let dying = world.objects().filter(|object| object.meta().delete_time.is_some());
        left.extend(dying.map(|object| format!("{} is being deleted", object.meta().name)));
        (have, left)
    }

    /// Waits until the host is as the World wants it.
    pub(in crate::tests) async fn settled(&self) {
        let begun = Instant::now();
        loop {
            let (have, left) = self.look();
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "after {PATIENCE:?} this is still to do: {left:#?}\n{have}");
            // Nothing tells this thread; the host is asked.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The daemon on Linux, as a sequence goes.
struct OnLinux<W> {
    weather: PhantomData<W>,
    runtime: Runtime,
    state: tempfile::TempDir,
    /// None while it is ended.
    daemon: Option<Running>,
    /// The host without anything of ours.
    bare: HostNet,
    ledger: Ledger,
    unnoticed: bool,
}

impl<W: Weather> StateMachineTest for OnLinux<W> {
    type SystemUnderTest = Self;
    type Reference = Sequence<W>;

    fn init_test(_: &Reference) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = tempfile::tempdir().unwrap();
        let kernel = Kernel::open().unwrap();
        // What a sequence before this one has left when it failed.
        purge(&kernel);
        let own = || netns::own().unwrap();
        if !kernel.observe().unwrap().links.contains_key(&(Stack::Host, "eth0".parse().unwrap())) {
            meddle::add_cable(own(), "eth0", "eth0-peer").unwrap();
            meddle::add_address(own(), "eth0", "192.0.2.1/24".parse().unwrap()).unwrap();
        }
        let bare = kernel.observe().unwrap();
        drop(kernel);
        let daemon = runtime.block_on(Running::start(state.path(), Twin::after(bare.clone())));
        Self {
            weather: PhantomData,
            runtime,
            state,
            daemon: Some(daemon),
            bare,
            ledger: Ledger::default(),
            unnoticed: false,
        }
    }

    fn apply(mut this: Self, reference: &Reference, happening: Happening) -> Self {
        match happening {
            Happening::Call(call, trouble) => this.call(reference, &call, trouble),
            Happening::Restart => this.restart(false),
            Happening::Reboot => this.restart(true),
            Happening::FullPass => this.full_pass(),
            Happening::Drift(loot, which, noticed) => {
                let stolen = theft(&this.daemon().twin.shadow(), loot, which);
                if let Some((step, loss)) = stolen {
                    this.drift(&step, loss, noticed);
                }
            }
            Happening::Stranger(addition, which) => this.add_of_stranger(addition, which),
        }
        this.ledger.remember(&this.daemon().world(), reference);
        this
    }

    fn check_invariants(this: &Self, reference: &Reference) {
        let daemon = this.daemon();
        this.ledger.agrees(&daemon.world(), reference);
        let (have, left) = daemon.look();
        assert!(this.unnoticed || left.is_empty(), "this is still to do: {left:#?}\n{have}");
        is_as_its_model_says(have, daemon.twin.shadow().clone());
    }

    fn teardown(mut this: Self, _: Reference) {
        let daemon = this.daemon.take().unwrap();
        this.runtime.block_on(daemon.end());
        let kernel = Kernel::open().unwrap();
        purge(&kernel);
        let (left, bare) = (kernel.observe().unwrap().to_string(), this.bare.to_string());
        assert_eq!(left, bare, "a purge leaves what was there before");
    }
}

impl<W> OnLinux<W> {
    fn daemon(&self) -> &Running {
        self.daemon.as_ref().unwrap()
    }

    fn call(&mut self, reference: &Reference, call: &Call, trouble: Trouble) {
        let daemon = self.daemon.as_ref().unwrap();
        let before = daemon.world();
        let (changes, terms) = call.changes(|id, tag| self.ledger.etag(&before, id, tag));
        let wait = match (trouble, self.unnoticed) {
            (Trouble::Nothing, false) => PATIENCE,
            _ => NOT_LONG,
        };
        daemon.twin.plot(match trouble {
            Trouble::Nothing => Plot::default(),
            Trouble::Refused(at) => Plot { refuse: Some(at), die: None },
            Trouble::Crash(at) => Plot { refuse: None, die: Some(at) },
        });
        let options = WriteOptions { wait, terms, ..WriteOptions::default() };
        let caller =
            Caller { actor: "model".into(), trace: "model".into(), rights: crate::controller::Rights::Full };
        let answer = self.runtime.block_on(daemon.controller.commit(changes, &options, &caller));
        daemon.twin.plot(Plot::default());
        let answer = answer.map(drop).map_err(|error| {
            let text = format!("{error:?}");
            (error.reason, text)
        });
        if let (Err((_, text)), None) = (&answer, &reference.refusal) {
            panic!("{call:?}\nwas refused: {text}");
        }
        self.ledger.judge_answer(reference, call, answer.map_err(|(reason, _)| reason));
        match trouble {
            Trouble::Nothing if self.unnoticed => self.full_pass(),
            Trouble::Nothing => {}
            Trouble::Refused(_) => self.full_pass(),
            Trouble::Crash(_) => self.restart(false),
        }
        self.ledger.judge_versions_of(&before, &self.daemon().world(), reference);
    }

    fn full_pass(&mut self) {
        let daemon = self.daemon.as_ref().unwrap();
        self.runtime.block_on(async {
            daemon.full_pass().await;
            daemon.settled().await;
        });
        self.unnoticed = false;
    }

    /// Ends the daemon and starts it again; before that, all that was the kernel's may go.
    fn restart(&mut self, reboot: bool) {
        let daemon = self.daemon.take().unwrap();
        let mut shadow = self.runtime.block_on(daemon.end());
        if reboot {
            let kernel = Kernel::open().unwrap();
            purge(&kernel);
            shadow = kernel.observe().unwrap();
        }
        let twin = Twin::after(shadow);
        let daemon = self.runtime.block_on(Running::start(self.state.path(), twin));
        self.runtime.block_on(daemon.settled());
        self.daemon = Some(daemon);
        self.unnoticed = false;
    }

    fn drift(&mut self, step: &Step, loss: Option<Loss>, noticed: Noticed) {
        let daemon = self.daemon.as_ref().unwrap();
        let outcomes = daemon.twin.do_all(std::slice::from_ref(step));
        assert!(matches!(outcomes[..], [Outcome::Done(_)]), "{step}: {outcomes:?}");
        // The kernel takes a namespace down in its own time: what was in it goes after its name.
        let begun = Instant::now();
        let is_more = |have: HostNet| {
            let shadow = daemon.twin.shadow();
            have.links.keys().any(|link| !shadow.links.contains_key(link))
        };
        while is_more(daemon.twin.kernel.observe().unwrap()) {
            assert!(begun.elapsed() < PATIENCE, "{step}: not all is gone after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        match (noticed, loss) {
            (Noticed::Told, Some(loss)) => {
                self.runtime.block_on(async {
                    daemon.losses.send(vec![loss]).await.unwrap();
                    // What nobody told it of earlier it cannot know of.
                    if !self.unnoticed {
                        daemon.settled().await;
                    }
                });
                if self.unnoticed {
                    self.full_pass();
                }
            }
            (Noticed::Told | Noticed::Compared, _) => self.full_pass(),
            (Noticed::Not, _) => self.unnoticed = true,
        }
    }

    fn add_of_stranger(&mut self, addition: Addition, which: u8) {
        let daemon = self.daemon.as_ref().unwrap();
        let kernel = &daemon.twin.kernel;
        match addition {
            Addition::LinkInside => {
                let name = call::name((Kind::Namespace, which));
                // Where there is no such namespace, or he has been there before, nothing comes of it.
                if let Ok(inside) = kernel.namespace(&name) {
                    drop(meddle::add_cable(inside, "dummy0", "dummy1"));
                }
            }
            Addition::Address => {
                let world = daemon.world();
                let Some(network) = world.get::<Network>(&call::name((Kind::Network, which))) else { return };
                let (own, net) = (netns::own().unwrap(), "203.0.113.7/28".parse().unwrap());
                drop(meddle::add_address(own, network.alloc.device.as_str(), net));
            }
        }
        let have = kernel.observe().unwrap();
        let mut shadow = daemon.twin.shadow();
        for (key, link) in have.links.into_iter().filter(|(_, link)| !link.mark.is_ours()) {
            shadow.links.entry(key).or_insert(link);
        }
        for (address, mark) in have.addresses.into_iter().filter(|(_, mark)| !mark.is_ours()) {
            shadow.addresses.entry(address).or_insert(mark);
        }
    }
}

/// Removes all that is ours. The threads of a daemon that has ended let go of its tables in their own time.
fn purge(kernel: &Kernel) {
    let begun = Instant::now();
    while let Err(error) = kernel.purge(false) {
        assert!(error.contains("EPERM") && begun.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether Linux has what its model has: all that is ours, and all of others'.
fn is_as_its_model_says(mut have: HostNet, mut model: HostNet) {
    for (place, value) in &model.sysctls {
        let seen = have.sysctls.get(place).is_none_or(|has| has == value);
        assert!(seen, "{place:?} is {:?}, and {value} by the model", have.sysctls.get(place));
    }
    // The kernel chooses what nobody asks for.
    for (key, link) in &mut have.links {
        if model.links.get(key).is_some_and(|link| link.mac.is_none()) {
            link.mac = None;
        }
    }
    for net in [&mut have, &mut model] {
        net.sysctls.clear();
        net.borrowed.clear();
        net.rules.skeleton = Skeleton::Present;
    }
    let (have, model) = (have.to_string(), model.to_string());
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (has, says) = (lines(&have), lines(&model));
    assert!(
        has == says,
        "Linux has, and its model has not: {:#?}\nthe model has, and Linux has not: {:#?}",
        has.difference(&says).collect::<Vec<_>>(),
        says.difference(&has).collect::<Vec<_>>()
    );
}
