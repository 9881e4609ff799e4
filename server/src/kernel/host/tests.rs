//! A whole small network on the real kernel: made, observed, nothing left to do, removed without a trace.

use std::{collections::BTreeMap, time::Duration};

use netloom_api::{
    AnyDraft, Attachment, AttachmentSpec, Draft, Egress, Labels, Namespace, NamespaceSpec, Network,
    NetworkSpec, NoOptions, Subnet, Timestamp,
};

use super::Kernel;
use crate::{
    controller::{Change, edit_for_tests},
    hostnet::{Features, HostNet, Outcome},
    kernel::{netns, probe, testhost::on_private_host},
    plan::plan,
    reconcile::Host,
    want::{HostFacts, Surroundings, everything, want},
    world::World,
};

fn draft<N: netloom_api::Noun>(name: &str, spec: N::Spec) -> Draft<N> {
    let labels: Labels = BTreeMap::new().try_into().unwrap();
    Draft { name: name.parse().unwrap(), labels, annotations: Default::default(), owner: None, spec }
}

fn red_and_v_net() -> World {
    let subnet = |cidr: &str, gateway: Option<&str>| Subnet {
        cidr: Some(cidr.parse().unwrap()),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        ranges: vec![],
    };
    let network = NetworkSpec {
        subnets: vec![subnet("192.168.15.0/24", Some("192.168.15.5")), subnet("fd00:15::/64", None)],
        egress: Some(Egress::Nat(NoOptions {})),
        ..NetworkSpec::default()
    };
    let attachment = AttachmentSpec {
        namespace: "red".parse().unwrap(),
        network: "v-net-0".parse().unwrap(),
        addresses: vec!["192.168.15.1".parse().unwrap()],
        mac: None,
        interface: None,
        default_route: None,
        metric: None,
        mtu: None,
    };
    let drafts: Vec<AnyDraft> = vec![
        draft::<Namespace>("red", NamespaceSpec {}).into(),
        draft::<Network>("v-net-0", network).into(),
        draft::<Attachment>("red0", attachment).into(),
    ];
    edit_for_tests(&World::default(), drafts.into_iter().map(Change::Put).collect(), Timestamp::now())
}

fn surroundings(features: Features) -> Surroundings {
    Surroundings { features, manages_forwarding: true, api_ports: vec![], facts: HostFacts::default() }
}

fn all_done(outcomes: &[Outcome]) {
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Done(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn what_was_planned_is_what_is_observed_and_it_goes_without_a_trace() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap();
        let world = red_and_v_net();
        let wanted = want(&world, &everything(&world), &surroundings(kernel.features()));
        all_done(&kernel.apply(&plan(&before, &wanted).steps));

        let own = netns::own().unwrap();
        for address in ["192.168.15.1", "fd00:15::2"] {
            let answer = probe::ping(&own, address.parse().unwrap(), Duration::from_secs(2)).unwrap();
            assert!(answer.reached(), "{address}: {answer:?}");
        }
        let again = plan(&kernel.observe().unwrap(), &wanted);
        assert!(again.is_empty(), "{:#?}", again.steps.iter().map(ToString::to_string).collect::<Vec<_>>());

        let mut nothing = HostNet::default();
        nothing.rules.skeleton = crate::hostnet::rules::Skeleton::Present;
        all_done(&kernel.apply(&plan(&kernel.observe().unwrap(), &nothing).steps));
        kernel.purge(false).unwrap();
        let after = kernel.observe().unwrap();
        assert_eq!(before.to_string(), after.to_string());
    });
}
