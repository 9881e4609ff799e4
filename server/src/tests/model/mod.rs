//! The daemon against a model of it, by sequences at random: calls, and what goes wrong beside them.
//!
//! [`reference`] says what a person would expect of each call, [`call`] what may happen. Twice the same sequences: here
//! with the host as [`HostNet::apply`] has it, thousands of them; in [`linux`] with the real controller, store and
//! reconciler on a private host, where what Linux has is compared with what `HostNet::apply` says it has.
//! `NETLOOM_MODEL_CASES` asks for another number of sequences. One that failed is kept in `proptest-regressions/`.

mod call;
pub(in crate::tests) mod fake;
mod ledger;
pub(in crate::tests) mod linux;
mod reference;

use std::marker::PhantomData;

use netloom_api::{Kind, Name, Timestamp};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use crate::{
    controller::{try_edit_for_tests, without},
    hostnet::{Action, Address, Features, HostNet, LinkChange, Loss, Mark, Stack, Step},
    plan::plan,
    reconcile::{
        Host as _,
        lockstep::{Gone, LockStep},
    },
    want::{HostFacts, Surroundings, everything, want},
    world::{AnyStored, World},
};
use call::{Addition, Call, Happening, Loot, Noticed, Trouble};
use fake::{Fake, Plot, link_of_stranger, strangers};
use ledger::Ledger;
use reference::Reference;

/// So many sequences, unless the environment says otherwise.
fn cases(usually: u32) -> Config {
    let cases = std::env::var("NETLOOM_MODEL_CASES").ok().and_then(|cases| cases.parse().ok());
    // The generator of least cost: what is random here need not be hard to guess.
    let rng_algorithm = RngAlgorithm::XorShift;
    Config { cases: cases.unwrap_or(usually), max_shrink_iters: 4096, rng_algorithm, ..Config::default() }
}

prop_state_machine! {
    #![proptest_config(cases(1000))]

    #[test]
    fn the_host_follows_every_sequence_of_calls(sequential 1..24 => InMemory<Undisturbed>);

    #[test]
    fn the_host_follows_every_sequence_of_calls_and_faults(sequential 1..24 => InMemory<Disturbed>);
}

/// Nothing but calls.
struct Undisturbed;

/// And what goes wrong beside them.
struct Disturbed;

/// What may happen.
trait Weather: 'static {
    fn happening() -> BoxedStrategy<Happening>;
}

impl Weather for Undisturbed {
    fn happening() -> BoxedStrategy<Happening> {
        call::undisturbed()
    }
}

impl Weather for Disturbed {
    fn happening() -> BoxedStrategy<Happening> {
        call::happening()
    }
}

/// The reference as it goes through a sequence.
struct Sequence<W>(PhantomData<W>);

impl<W: Weather> ReferenceStateMachine for Sequence<W> {
    type State = Reference;
    type Transition = Happening;

    fn init_state() -> BoxedStrategy<Reference> {
        Just(Reference::default()).boxed()
    }

    fn transitions(state: &Reference) -> BoxedStrategy<Happening> {
        if state.happened == 0 { call::beginning() } else { W::happening() }
    }

    fn apply(state: Reference, happening: &Happening) -> Reference {
        state.after(happening)
    }
}

/// The pure parts of the daemon, on a host that is a value.
struct InMemory<W> {
    weather: PhantomData<W>,
    world: World,
    ledger: Ledger,
    kernel: LockStep<Fake>,
    strangers: HostNet,
    /// Something was taken away that nobody has noticed yet.
    unnoticed: bool,
}

impl<W: Weather> StateMachineTest for InMemory<W> {
    type SystemUnderTest = Self;
    type Reference = Sequence<W>;

    fn init_test(_: &Reference) -> Self {
        let features = Features { ipv6: true, force_forwarding: true, sctp: true };
        let around = Surroundings {
            features,
            manages_forwarding: true,
            api_ports: vec![8443],
            facts: HostFacts::default(),
        };
        let mut this = Self {
            weather: PhantomData,
            world: World::default(),
            ledger: Ledger::default(),
            kernel: LockStep::new(Fake::new(), around),
            strangers: strangers(),
            unnoticed: false,
        };
        this.full_pass();
        this
    }

    fn apply(mut this: Self, reference: &Reference, happening: Happening) -> Self {
        match happening {
            Happening::Call(call, trouble) => this.call(reference, &call, trouble),
            Happening::Restart => {
                this.kernel.forget();
                this.full_pass();
            }
            Happening::Reboot => {
                *this.kernel.host.net() = strangers();
                this.strangers = strangers();
                this.kernel.forget();
                this.full_pass();
            }
            Happening::FullPass => this.full_pass(),
            Happening::Drift(loot, which, noticed) => this.drift(loot, which, noticed),
            Happening::Stranger(addition, which) => this.add_of_stranger(addition, which),
        }
        this.ledger.remember(&this.world, reference);
        this
    }

    fn check_invariants(this: &Self, reference: &Reference) {
        this.ledger.agrees(&this.world, reference);
        this.strangers_are_untouched();
        this.host_follows();
    }
}

impl<W> InMemory<W> {
    fn call(&mut self, reference: &Reference, call: &Call, trouble: Trouble) {
        let before = self.world.clone();
        let (changes, terms) = call.changes(|id, tag| self.ledger.etag(&before, id, tag));
        let edited = try_edit_for_tests(&before, changes, terms, Timestamp::from_micros(self.ledger.tick()));
        let written = edited.map(|(world, touched)| {
            self.world = world;
            touched
        });
        let answer = written.as_ref().map(drop).map_err(|error| error.reason);
        self.ledger.judge_answer(reference, call, answer);
        self.ledger.judge_versions_of(&before, &self.world, reference);
        let touched = written.unwrap_or_default();
        match trouble {
            Trouble::Nothing => {
                self.round(touched);
                // What is not as it was taken to be may keep a round from its end; the next full pass does it.
                if self.unnoticed && self.world.objects().any(|object| object.meta().delete_time.is_some()) {
                    self.full_pass();
                }
            }
            Trouble::Refused(at) => {
                self.kernel.host.plot(Plot { refuse: Some(at), die: None });
                self.round(touched);
                self.kernel.host.plot(Plot::default());
                self.full_pass();
            }
            Trouble::Crash(at) => {
                self.kernel.host.plot(Plot { refuse: None, die: Some(at) });
                if !touched.is_empty() {
                    // Of what came of it the dead daemon tells nobody.
                    self.kernel.changed(&self.world, touched);
                }
                self.kernel.host.plot(Plot::default());
                self.kernel.forget();
                self.full_pass();
            }
        }
    }

    fn round(&mut self, touched: Vec<(Kind, Name)>) {
        if !touched.is_empty() {
            let gone = self.kernel.changed(&self.world, touched);
            self.retire(&gone);
        }
    }

    fn retire(&mut self, gone: &Gone) {
        let (mut world, removed) = without(&self.world, gone);
        if !removed.is_empty() {
            world.revision += 1;
            self.world = world;
        }
        removed.iter().for_each(|object| self.strangers_lose_with(object));
    }

    fn full_pass(&mut self) {
        let gone = self.kernel.full_pass(&self.world);
        self.retire(&gone);
        self.unnoticed = false;
    }
}

/// What others do, and what holds of the host.
impl<W> InMemory<W> {
    fn drift(&mut self, loot: Loot, which: u16, noticed: Noticed) {
        let Some((step, loss)) = theft(&self.kernel.host.net(), loot, which) else { return };
        self.kernel.host.net().apply(&step);
        self.strangers_lose(&step);
        match (noticed, loss) {
            (Noticed::Told, Some(loss)) => self.kernel.lost(&self.world, &loss),
            (Noticed::Told | Noticed::Compared, _) => self.full_pass(),
            (Noticed::Not, _) => self.unnoticed = true,
        }
    }

    /// What of others' goes with what was deleted.
    fn strangers_lose_with(&mut self, object: &AnyStored) {
        let (links, addresses) = (&mut self.strangers.links, &mut self.strangers.addresses);
        match object {
            AnyStored::Namespace(one) => {
                links.retain(|(stack, _), _| *stack != Stack::Namespace(one.meta.name.clone()));
            }
            AnyStored::Network(one) => addresses.retain(|address, _| address.link != one.alloc.device),
            AnyStored::Attachment(_)
            | AnyStored::PortForward(_)
            | AnyStored::Reservation(_)
            | AnyStored::Route(_)
            | AnyStored::Link(_)
            | AnyStored::Policy(_) => {}
        }
    }

    /// What of others' goes with what was taken away.
    fn strangers_lose(&mut self, step: &Step) {
        match &step.action {
            Action::DeleteNamespace { name } => {
                let stack = Stack::Namespace(name.clone());
                self.strangers.links.retain(|(other, _), _| *other != stack);
            }
            Action::DeleteLink { stack, link } => {
                self.strangers
                    .addresses
                    .retain(|address, _| (&address.stack, &address.link) != (stack, link));
            }
            _ => {}
        }
    }

    fn add_of_stranger(&mut self, addition: Addition, which: u8) {
        let mut net = self.kernel.host.net();
        match addition {
            Addition::LinkInside => {
                let stack = Stack::Namespace(call::name((Kind::Namespace, which)));
                let Stack::Namespace(name) = &stack else { return };
                if net.namespaces.get(name).is_some_and(|mark| mark.is_ours()) {
                    let key = (stack, "dummy0".parse().unwrap());
                    net.links.insert(key.clone(), link_of_stranger());
                    self.strangers.links.insert(key, link_of_stranger());
                }
            }
            Addition::Address => {
                let name = call::name((Kind::Network, which));
                let Some(network) = self.world.get::<netloom_api::Network>(&name) else { return };
                let (stack, link) = (Stack::Host, network.alloc.device.clone());
                if net.links.contains_key(&(stack.clone(), link.clone())) {
                    let address = Address { stack, link, net: "203.0.113.7/28".parse().unwrap() };
                    net.addresses.insert(address.clone(), Mark::Foreign);
                    self.strangers.addresses.insert(address, Mark::Foreign);
                }
            }
        }
    }

    /// What is not ours is as it was, unless it was in something that was deleted.
    fn strangers_are_untouched(&self) {
        let net = self.kernel.host.net();
        for (key, link) in &self.strangers.links {
            assert!(net.links.get(key) == Some(link), "{key:?} of a stranger is touched\n{net}");
        }
        for (address, mark) in &self.strangers.addresses {
            assert!(net.addresses.get(address) == Some(mark), "{address} of a stranger is touched\n{net}");
        }
        assert_eq!(net.namespaces.get("theirs"), Some(&Mark::Foreign));
    }

    /// What the World wants of the host is there, and nothing else that is ours; at the latest after one pass.
    fn host_follows(&self) {
        self.kernel.look();
        let around = self.kernel.around.read().unwrap().clone();
        let wanted = want(&self.world, &everything(&self.world), &around);
        let mut have = self.kernel.host.observe().unwrap();
        let todo = plan(&have, &wanted);
        if self.unnoticed {
            todo.steps.iter().for_each(|step| have.apply(step));
            let left = plan(&have, &wanted);
            assert!(left.is_empty(), "one pass is not enough: {left:#?}");
        } else {
            let steps: Vec<String> = todo.steps.iter().map(ToString::to_string).collect();
            assert!(todo.is_empty(), "this is still to do: {steps:#?}\n{have}");
        }
        let (have, wanted) = (ours(have), ours(wanted));
        let is_same = have == wanted;
        assert!(is_same, "what is there of ours:\n{have}\nis not what is wanted:\n{wanted}");
    }
}

/// What bears our marks.
pub(in crate::tests) fn ours(mut net: HostNet) -> HostNet {
    net.namespaces.retain(|_, mark| mark.is_ours());
    net.links.retain(|_, link| link.mark.is_ours());
    net.addresses.retain(|_, mark| mark.is_ours());
    net.routes.retain(|_, mark| mark.is_ours());
    // A link has many switches that nobody asks for.
    net.sysctls.clear();
    net
}

/// The how-many-th thing of ours is taken away, and what the kernel tells of it.
fn theft(net: &HostNet, loot: Loot, which: u16) -> Option<(Step, Option<Loss>)> {
    fn pick<T>(all: Vec<T>, which: u16) -> Option<T> {
        let count = all.len();
        all.into_iter().nth(usize::from(which) % count.max(1))
    }
    let uid_of = |mark: &Mark| match mark {
        Mark::Object(uid) => Some(*uid),
        Mark::Group | Mark::Foreign => None,
    };
    let links = |up: bool| {
        let all = net.links.iter().filter(|(_, link)| !up || link.up);
        all.filter_map(|(key, link)| Some((key.clone(), uid_of(&link.mark)?))).collect::<Vec<_>>()
    };
    let (action, loss): (Action, Option<Loss>) = match loot {
        Loot::Link => {
            let ((stack, link), uid) = pick(links(false), which)?;
            (Action::DeleteLink { stack, link }, Some(Loss::Link(uid)))
        }
        Loot::Up => {
            let ((stack, link), uid) = pick(links(true), which)?;
            let change = LinkChange { up: Some(false), ..LinkChange::default() };
            (Action::SetLink { stack, link, change }, Some(Loss::Link(uid)))
        }
        Loot::Address => {
            let all = net.addresses.iter().filter_map(|(one, mark)| Some((one.clone(), uid_of(mark)?)));
            let (address, uid) = pick(all.collect(), which)?;
            let loss = Loss::Address(uid, address.net);
            (Action::DeleteAddress(address), Some(loss))
        }
        Loot::Route => {
            let all = net.routes.iter().filter_map(|(one, mark)| Some((one.clone(), uid_of(mark)?)));
            let (route, _) = pick(all.collect(), which)?;
            // The kernel tells by which link it went.
            let of_link = route.link().and_then(|link| net.links.get(&(route.stack.clone(), link.clone())));
            let loss = of_link.and_then(|link| uid_of(&link.mark));
            let loss = loss.map(|uid| Loss::Route(Some(uid), route.destination));
            (Action::DeleteRoute(route), loss)
        }
        Loot::Namespace => {
            let all = net.namespaces.iter().filter_map(|(name, mark)| Some((name.clone(), uid_of(mark)?)));
            let (name, uid) = pick(all.collect(), which)?;
            return Some((Step::of(uid, Action::DeleteNamespace { name }), None));
        }
        Loot::Rule => {
            let rule = pick(net.rules.elements.iter().cloned().collect(), which)?;
            (Action::RemoveRule(rule), None)
        }
    };
    Some((Step::of_host(action), loss))
}
