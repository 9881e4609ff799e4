//! Worlds to write, and a stand-in for the controller that computes each on top of the last.

use std::{path::Path, sync::Arc};

use netloom_api::{
    Attachment, Event, EventType, Kind, Link, Meta, Name, Namespace, NamespaceSpec, Network, NetworkSpec,
    Policy, PortForward, PortForwardSpec, Protocol, Reservation, ReservationSpec, Route, Timestamp, Uid,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    config::EventRetention,
    store::{Batch, OpenError, Receipt, Store, StoreError, StoreOptions, Written, writer::Message},
    world::{
        AnyStored, AttachmentAlloc, LinkAlloc, NamespaceAlloc, NetworkAlloc, Nothing, PortForwardAlloc,
        ReservationAlloc, RouteAlloc, Stored, SubnetAlloc, World, WorldNoun,
    },
};

/// A name that is known to be good.
pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) async fn try_open(dir: &Path) -> Result<Store, OpenError> {
    Store::open(StoreOptions { state_dir: dir.to_owned(), events: EventRetention::default() }).await
}

pub(super) async fn open(dir: &Path) -> Store {
    try_open(dir).await.unwrap()
}

pub(super) fn meta(of: &str) -> Meta {
    let now = Timestamp::from_micros(1_700_000_000_000_001);
    Meta {
        name: name(of),
        labels: Default::default(),
        annotations: Default::default(),
        owner: None,
        uid: Uid::generate(),
        generation: 1,
        revision: 1,
        create_time: now,
        update_time: now,
        delete_time: None,
    }
}

fn stored<N: WorldNoun>(of: &str, spec: N::Spec, alloc: N::Alloc) -> AnyStored {
    N::any(Arc::new(Stored { meta: meta(of), spec, alloc }))
}

pub(super) fn namespace(of: &str) -> AnyStored {
    stored::<Namespace>(of, NamespaceSpec::default(), NamespaceAlloc::default())
}

/// Network number `n`: 10.n.0.0/24 and fd00:n::/64.
pub(super) fn network(of: &str, n: u8) -> AnyStored {
    let subnet = |cidr: String, gateway: String| SubnetAlloc {
        cidr: cidr.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    let alloc = NetworkAlloc {
        device: format!("br-{of}").parse().unwrap(),
        mac: "02:00:00:00:00:01".parse().unwrap(),
        mtu: 1500,
        nat: vec![],
        borrowed: None,
        subnets: vec![
            subnet(format!("10.{n}.0.0/24"), format!("10.{n}.0.1")),
            subnet(format!("fd00:{n}::/64"), format!("fd00:{n}::1")),
        ],
    };
    stored::<Network>(of, NetworkSpec::default(), alloc)
}

/// An attachment of `namespace` on network number `n` with host number `host` in its first subnet.
pub(super) fn attachment(of: &str, namespace: &str, network: &str, n: u8, host: u8) -> AnyStored {
    let spec = serde_json::json!({"namespace": namespace, "network": network});
    let alloc = AttachmentAlloc {
        addresses: vec![format!("10.{n}.0.{host}/24").parse().unwrap()],
        mac: format!("02:00:00:00:{n:02x}:{host:02x}").parse().unwrap(),
        interface: format!("eth{host}").parse().unwrap(),
        host_device: format!("nl{n:02x}{host:02x}").parse().unwrap(),
        default_route: true,
        metric: 100,
    };
    stored::<Attachment>(of, serde_json::from_value(spec).unwrap(), alloc)
}

pub(super) fn forward(of: &str, address: Option<&str>, port: u16, end_port: Option<u16>) -> AnyStored {
    let listen = serde_json::json!({"address": address, "port": port, "end_port": end_port});
    let spec = PortForwardSpec {
        protocol: Protocol::Tcp,
        listen: serde_json::from_value(listen).unwrap(),
        target: serde_json::from_value(serde_json::json!({"attachment": "blue0"})).unwrap(),
        sources: Vec::new(),
    };
    stored::<PortForward>(of, spec, PortForwardAlloc::default())
}

pub(super) fn reservation(of: &str, network: &str, n: u8, host: u8) -> AnyStored {
    let spec = ReservationSpec { network: name(network), address: None, note: Some("kept".parse().unwrap()) };
    stored::<Reservation>(of, spec, ReservationAlloc { address: format!("10.{n}.0.{host}").parse().unwrap() })
}

/// A route of `namespace`, which may be the host, to 10.`n`.0.0/16.
pub(super) fn route(of: &str, namespace: &str, n: u8, metric: u32) -> AnyStored {
    let spec = serde_json::json!({"namespace": namespace, "destination": format!("10.{n}.0.0/16"),
        "metric": metric, "type": "blackhole"});
    let alloc = RouteAlloc { device: (n == 0).then(|| "eth0".parse().unwrap()) };
    stored::<Route>(of, serde_json::from_value(spec).unwrap(), alloc)
}

/// A cable between `eth{host}` of one namespace and `cable{host}` of another, or of the host.
pub(super) fn link(of: &str, one: &str, other: &str, host: u8) -> AnyStored {
    let ends = serde_json::json!({"ends": [
        {"namespace": one, "interface": format!("eth{host}"), "addresses": [format!("10.200.{host}.1/24")]},
        {"namespace": other, "interface": format!("cable{host}")},
    ]});
    let macs = ["02:00:00:00:01:01", "02:00:00:00:01:02"].map(|mac| mac.parse().unwrap());
    stored::<Link>(of, serde_json::from_value(ends).unwrap(), LinkAlloc { macs })
}

/// A policy of a network's members, with peers of all kinds.
pub(super) fn policy(of: &str, network: &str, n: u8) -> AnyStored {
    let spec = serde_json::json!({"selector": {"network": network, "labels": {"at": n.to_string()}},
        "ingress": [{"peers": [{"labels": {"at": "1"}}, {"network": "gone"}, {"cidr": "10.0.0.0/8"}],
            "ports": [{"protocol": "tcp", "port": 80}]}], "egress": [{"peers": [{}]}], "log": true});
    stored::<Policy>(of, serde_json::from_value(spec).unwrap(), Nothing {})
}

/// An event without an object.
pub(super) fn event(kind: Kind, of: &str, type_: EventType) -> Event {
    Event {
        seq: 0,
        time: Timestamp::now(),
        type_,
        kind,
        name: name(of),
        uid: Uid::generate(),
        generation: 1,
        actor: Some("uid:0".into()),
        request_id: None,
        reason: None,
        message: Some("it's \"quoted\"\n".into()),
        object: None,
    }
}

/// Computes batches as the controller does: on top of the last one submitted.
pub(super) struct Head {
    pub(super) store: Store,
    pub(super) epoch: u64,
    pub(super) world: World,
}

impl Head {
    pub(super) fn of(store: &Store) -> Self {
        let snapshot = store.snapshot();
        Head { store: store.clone(), epoch: snapshot.epoch, world: (*snapshot.world).clone() }
    }

    /// A batch on top of the head, which moves on.
    pub(super) fn batch(&mut self, puts: Vec<AnyStored>, removes: Vec<AnyStored>) -> Batch {
        self.world.revision += 1;
        for gone in &removes {
            self.world.remove(gone.kind(), &gone.meta().name).unwrap();
        }
        puts.iter().for_each(|object| self.world.put(object.clone()));
        let what = |object: &AnyStored, type_| event(object.kind(), object.meta().name.as_str(), type_);
        let mut events: Vec<_> = removes.iter().map(|gone| what(gone, EventType::Deleted)).collect();
        events.extend(puts.iter().map(|object| what(object, EventType::Created)));
        Batch {
            epoch: self.epoch,
            removes: removes.iter().map(|gone| (gone.kind(), gone.meta().uid)).collect(),
            puts,
            events,
            world: Some(Arc::new(self.world.clone())),
            ..Batch::default()
        }
    }

    pub(super) fn submit(&mut self, puts: Vec<AnyStored>, removes: Vec<AnyStored>) -> Receipt {
        let batch = self.batch(puts, removes);
        self.store.submit(batch).unwrap()
    }

    pub(super) async fn write(
        &mut self,
        puts: Vec<AnyStored>,
        removes: Vec<AnyStored>,
    ) -> Result<Written, StoreError> {
        self.submit(puts, removes).written.await
    }
}

/// Runs SQL on the writer's connection.
pub(super) async fn run(store: &Store, sql: &'static str) -> Result<(), sqlx::Error> {
    let (done, ran) = oneshot::channel();
    store.shared.queue.send(Message::Run(sql, done)).await.unwrap();
    ran.await.unwrap()
}

/// Prunes one chunk.
pub(super) async fn prune(store: &Store) {
    let (done, pruned) = oneshot::channel();
    store.shared.queue.send(Message::Prune(done)).await.unwrap();
    pruned.await.unwrap();
}
