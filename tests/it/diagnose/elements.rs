//! What the daemon alone can break while it lives: it is stopped, and its own parts are asked over what the kernel has.

use std::sync::Arc;

use netloom_api::{
    Attachment, CheckId, ConditionReason, ConditionStatus, DiagnoseRequest, DiagnoseResponse, Finding, Uid,
};
use netloom_server::{
    config::EventRetention,
    diagnose::{Facts, conclude, diagnose, seen::Seen, stacks_of},
    hostnet::{
        Action, Outcome, Step,
        rules::{Element, Transport},
    },
    kernel::{Kernel, echo::serve_tcp, netns::Namespaces, stranger},
    reconcile::{Host as _, board::Entry},
    store::{Store, StoreOptions},
    want::Surroundings,
    world::World,
};
use serde_json::{Value, json};

use super::{Scene, question, web_from};
use crate::host::{HOME, on_host};

/// The daemon's parts, without it.
struct Parts {
    store: Store,
    world: Arc<World>,
    kernel: Kernel,
    around: Surroundings,
}

impl Parts {
    async fn of(scene: &mut Scene) -> Self {
        scene.daemon.stop();
        let options =
            StoreOptions { state_dir: format!("{HOME}/state").into(), events: EventRetention::default() };
        let store = Store::open(options).await.unwrap();
        let kernel = Kernel::open().unwrap();
        let around = Surroundings {
            features: kernel.features(),
            manages_forwarding: true,
            api_ports: Vec::new(),
            facts: kernel.facts().unwrap(),
        };
        Self { world: store.snapshot().world, store, kernel, around }
    }

    fn ask(&self, question: &Value) -> DiagnoseResponse {
        self.ask_over(question, |_| {})
    }

    /// With something else than what was seen.
    fn ask_over(&self, question: &Value, change: impl FnOnce(&mut Seen)) -> DiagnoseResponse {
        let request: DiagnoseRequest = serde_json::from_value(question.clone()).unwrap();
        let mut seen = self.kernel.look(&stacks_of(&self.world, &request)).unwrap();
        change(&mut seen);
        let good =
            Entry::new(ConditionStatus::True, ConditionReason::Programmed, (1, 1), String::new()).ready;
        let ready = |_: &Uid| Some(good.clone());
        let facts = Facts { world: &self.world, seen: &seen, around: &self.around, ready: &ready };
        conclude(diagnose(&facts, &request).checks)
    }

    /// Without the element the question has this cause, with it none.
    fn lacks(&self, element: Element, question: &Value, expected: CheckId) {
        assert_eq!(self.ask(question).cause, None, "{question}");
        let change = |action: Action| {
            assert!(matches!(self.kernel.apply(&[Step::of_host(action)])[..], [Outcome::Done(_)]))
        };
        change(Action::RemoveRule(element.clone()));
        let found = self.ask(question);
        assert_eq!(found.cause, Some(expected), "{element}: {found:#?}");
        assert_eq!(found.verdict, Finding::Unreachable, "{element}: {found:#?}");
        change(Action::AddRule(element));
    }

    fn mac(&self, attachment: &str) -> [u8; 6] {
        self.world.get::<Attachment>(&attachment.parse().unwrap()).unwrap().alloc.mac.bytes()
    }
}

fn serve_in_blue(listen: &str) -> impl Sized {
    serve_tcp(Namespaces::default().open("blue").unwrap(), listen.parse().unwrap(), "blue").unwrap()
}

#[test]
fn what_is_missing_in_the_firewall_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let (red_port, blue_port) = (scene.host_device("red0").await, scene.host_device("blue0").await);
        let parts = Parts::of(&mut scene).await;
        let _web = serve_in_blue("0.0.0.0:80");
        let (out, members) = (question("red", "192.168.1.3"), question("red", "blue"));
        let web = web_from(json!({"address": "192.168.1.3"}));
        let guard = |port: &str, attachment: &str, address: &str| {
            Element::guard4(port, parts.mac(attachment), address.parse().unwrap())
        };
        let to = "192.168.15.2".parse().unwrap();
        parts.lacks(Element::masq4("192.168.15.0/24".parse().unwrap()), &out, CheckId::Nat);
        parts.lacks(Element::egress("v-net-0"), &out, CheckId::Egress);
        parts.lacks(Element::fwd4any(Transport::Tcp, 80, to, 80), &web, CheckId::Publish);
        parts.lacks(guard(&red_port, "red0", "192.168.15.1"), &members, CheckId::FromGuard);
        parts.lacks(guard(&blue_port, "blue0", "192.168.15.2"), &members, CheckId::ToGuard);
        parts.lacks(Element::hostok("v-net-0"), &question("red", "host"), CheckId::IsolationHost);
        stranger::remove_firewall("netloom").unwrap();
        let found = parts.ask(&members);
        assert_eq!((found.cause, found.verdict), (Some(CheckId::Firewall), Finding::Unknown), "{found:#?}");
        parts.store.close().await;
    });
}

#[test]
fn what_is_missing_in_the_firewall_for_ipv6_is_named() {
    on_host(async || {
        let mut scene = Scene::six().await;
        let red_port = scene.host_device("red0").await;
        let parts = Parts::of(&mut scene).await;
        let _web = serve_in_blue("[::]:80");
        let (out, web) = (question("red", "fd00:1::3"), web_from(json!({"address": "fd00:1::3"})));
        let to = "fd00:15::2".parse().unwrap();
        parts.lacks(Element::masq6("fd00:15::/64".parse().unwrap()), &out, CheckId::Nat);
        parts.lacks(Element::egress("v-net-0"), &out, CheckId::Egress);
        parts.lacks(Element::fwd6any(Transport::Tcp, 80, to, 80), &web, CheckId::Publish);
        let own = Element::guard6(&red_port, parts.mac("red0"), "fd00:15::1".parse().unwrap());
        parts.lacks(own, &question("red", "blue"), CheckId::FromGuard);
        parts.store.close().await;
    });
}

/// How many flows there may be is the machine's to say, not that of a host in a namespace; so the count is put in.
#[test]
fn a_full_table_of_flows_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let parts = Parts::of(&mut scene).await;
        let out = question("red", "192.168.1.3");
        assert_eq!(parts.ask(&out).cause, None);
        let found = parts.ask_over(&out, |seen| {
            let (_, most) = seen.flows.expect("the kernel tells");
            seen.flows = Some((most, most));
        });
        assert_eq!(
            (found.cause, found.verdict),
            (Some(CheckId::Conntrack), Finding::Unreachable),
            "{found:#?}"
        );
        parts.store.close().await;
    });
}
