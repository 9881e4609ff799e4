//! Clients that attach, change and detach, hang up in the middle, and find the daemon gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use netloom_client::{
    ApplyRequest, Attachment, Callable, Client, ClientError, ConnectOptions, DeleteOptions, ErrorKind, Link,
    Name, Namespace, PortForward, Route, WriteOptions,
};
use serde_json::{Value, json};

use crate::daemon::SOCKET;

/// The network that all share.
pub(super) const NETWORK: &str = "soak";
/// A daemon that is away this long is not coming back.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients did.
pub(super) struct Churn {
    /// From the first object to the last delete.
    pub lifecycles: AtomicU64,
    calls: AtomicU64,
    hung_up: AtomicU64,
    cut_off: AtomicU64,
    clients: u16,
}

/// A client's own objects.
struct Own {
    name: String,
    other: String,
    port: u16,
}

impl Churn {
    pub(super) fn new(clients: u16) -> Self {
        let zero = AtomicU64::default;
        Self { lifecycles: zero(), calls: zero(), hung_up: zero(), cut_off: zero(), clients }
    }

    /// Makes what stays.
    pub(super) async fn prepare(&self) -> anyhow::Result<()> {
        let spec =
            json!({"subnets": [{"cidr": "10.97.0.0/16"}, {"cidr": "fd97::/64"}], "egress": {"nat": {}}});
        let network = json!({"kind": "Network", "name": NETWORK, "spec": spec});
        apply(&connect().await?, vec![network]).await?;
        Ok(())
    }

    /// Lifecycles until it is time, each to its end.
    pub(super) async fn run(self: std::sync::Arc<Self>, client: u16, until: Instant) -> anyhow::Result<()> {
        let own = Own { name: format!("c{client}"), other: format!("d{client}"), port: 20_000 + client * 4 };
        while Instant::now() < until {
            self.live(&own).await?;
            self.remove(&own).await?;
            self.lifecycles.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn report(&self) {
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!(
            "\n{} lifecycles by {} clients, {} calls; {} hung up on, {} cut off by a crash",
            told(&self.lifecycles),
            self.clients,
            told(&self.calls),
            told(&self.hung_up),
            told(&self.cut_off)
        );
    }

    /// Makes the objects and changes them. What does not come to its end is left for the deletes.
    async fn live(&self, own: &Own) -> anyhow::Result<()> {
        let mut steps = vec![own.objects()];
        if fastrand::bool() {
            steps = own.objects().into_iter().map(|object| vec![object]).collect();
        }
        steps.push(own.extras());
        steps.push(own.changed());
        for step in steps {
            let call = async { apply(&connect().await?, step).await };
            // One in eight callers does not wait for the answer.
            let patience = if fastrand::u8(..8) == 0 { fastrand::u64(..8) } else { 60_000 };
            self.calls.fetch_add(1, Ordering::Relaxed);
            match tokio::time::timeout(Duration::from_millis(patience), call).await {
                Err(_) => {
                    self.hung_up.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_cut_off(&error) => {
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(Err(error)) => bail!("{}: {error}", own.name),
            }
        }
        Ok(())
    }

    /// Deletes all of it, however often the daemon goes away meanwhile.
    async fn remove(&self, own: &Own) -> anyhow::Result<()> {
        self.delete::<Link>(&own.name).await?;
        self.delete::<Route>(&own.name).await?;
        self.delete::<PortForward>(&own.name).await?;
        self.delete::<Attachment>(&own.name).await?;
        self.delete::<Namespace>(&own.name).await?;
        self.delete::<Namespace>(&own.other).await
    }

    async fn delete<N: Callable>(&self, name: &str) -> anyhow::Result<()> {
        let name: Name = name.parse().map_err(anyhow::Error::msg)?;
        let began = Instant::now();
        loop {
            let options = DeleteOptions { force: true, allow_missing: true, ..DeleteOptions::default() };
            self.calls.fetch_add(1, Ordering::Relaxed);
            let call = async { connect().await?.delete::<N>(&name, options).await };
            match call.await {
                Ok(_) => return Ok(()),
                Err(error) if is_cut_off(&error) && began.elapsed() < PATIENCE => {
                    self.cut_off.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => bail!("DELETE {} {name}: {error}", N::KIND),
            }
        }
    }
}

impl Own {
    fn objects(&self) -> Vec<Value> {
        let Self { name, port, .. } = self;
        let forward = json!({
            "protocol": "tcp",
            "listen": {"port": port, "end_port": port + 2},
            "target": {"attachment": name},
        });
        vec![
            json!({"kind": "Namespace", "name": name}),
            json!({"kind": "Attachment", "name": name, "spec": {"namespace": name, "network": NETWORK}}),
            json!({"kind": "PortForward", "name": name, "spec": forward}),
        ]
    }

    fn extras(&self) -> Vec<Value> {
        let Self { name, other, .. } = self;
        let ends = json!([
            {"namespace": name, "interface": "cable", "addresses": ["10.1.1.1/24"]},
            {"namespace": other, "interface": "cable", "addresses": ["10.1.1.2/24"]},
        ]);
        let route = json!({"namespace": name, "destination": "198.51.100.0/24", "type": "blackhole"});
        vec![
            json!({"kind": "Namespace", "name": other}),
            json!({"kind": "Link", "name": name, "spec": {"ends": ends}}),
            json!({"kind": "Route", "name": name, "spec": route}),
        ]
    }

    fn changed(&self) -> Vec<Value> {
        let Self { name, .. } = self;
        let bandwidth = json!({"ingress": {"rate": 100_000_000}, "egress": {"rate": 50_000_000}});
        let spec = json!({"namespace": name, "network": NETWORK, "mtu": 1400, "bandwidth": bandwidth});
        vec![json!({"kind": "Attachment", "name": name, "spec": spec})]
    }
}

/// On a connection of its own, as callers come and go.
pub(super) async fn connect() -> Result<Client, ClientError> {
    Client::connect(&ConnectOptions::parse(SOCKET)?).await
}

pub(super) async fn apply(client: &Client, objects: Vec<Value>) -> Result<(), ClientError> {
    #[allow(
        clippy::expect_used,
        reason = "a document of this file that is malformed must not pass for a quiet daemon"
    )]
    let request = ApplyRequest::from_json(json!({"objects": objects})).expect("a document of the soak");
    client.apply(request, WriteOptions::default()).await.map(drop)
}

/// The daemon went away, or is not there yet.
fn is_cut_off(error: &ClientError) -> bool {
    match error.kind {
        ErrorKind::Connect | ErrorKind::TimedOut => true,
        ErrorKind::Refused => error.reason.is_some_and(|reason| reason.as_str() == "NOT_READY"),
        ErrorKind::Reply | ErrorKind::Options => false,
    }
}
