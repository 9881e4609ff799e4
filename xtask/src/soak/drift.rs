//! Somebody with `ip` who takes things away, and how long it takes until they are back.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkFlags;
use netloom_client::{Attachment, Client, Name};
use netloom_server::kernel::{meddle, netns::Namespaces, socket::RouteSocket, thread};
use serde_json::json;

use super::churn::{NETWORK, apply, connect};

/// Namespaces that stay, and are meddled with in turn: each so seldom that it is no fight.
const TARGETS: usize = 16;
const EVERY: Duration = Duration::from_secs(2);
/// Beyond this it counts as not repaired. The daemon may be killed and restarted meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOKS_EVERY: Duration = Duration::from_millis(5);
const INTERFACE: &str = "eth0";

/// What was taken away, and how soon it was back.
pub(super) struct Drift {
    next: AtomicUsize,
    done: AtomicU64,
    times: Mutex<Vec<Duration>>,
}

impl Drift {
    /// Makes the namespaces that stay.
    pub(super) async fn new() -> anyhow::Result<Self> {
        let objects = (0..TARGETS).flat_map(|index| {
            let name = name(index);
            let spec = json!({"namespace": name, "network": NETWORK});
            [
                json!({"kind": "Namespace", "name": name}),
                json!({"kind": "Attachment", "name": name, "spec": spec}),
            ]
        });
        apply(&connect().await?, objects.collect()).await?;
        Ok(Self { next: AtomicUsize::new(0), done: AtomicU64::new(0), times: Mutex::default() })
    }

    /// Takes something away every two seconds, and waits until it is back.
    pub(super) async fn run(self: Arc<Self>, until: Instant) -> anyhow::Result<()> {
        while Instant::now() + EVERY < until {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let name = name(turn % TARGETS);
            let client = self.client().await?;
            let attachment: Name = name.parse().map_err(anyhow::Error::msg)?;
            let status = client.get::<Attachment>(&attachment).await?.status.noun;
            let address = status.addresses.first().context("an attachment without an address")?;
            let address = address.to_string().parse()?;
            let began = Instant::now();
            tokio::task::spawn_blocking(move || take(turn, &name, address)).await??;
            self.done.fetch_add(1, Ordering::Relaxed);
            self.times.lock().map_err(|_| anyhow::anyhow!("a task panicked"))?.push(began.elapsed());
            tokio::time::sleep(EVERY.saturating_sub(began.elapsed())).await;
        }
        Ok(())
    }

    /// The daemon may be away for a moment.
    async fn client(&self) -> anyhow::Result<Client> {
        let began = Instant::now();
        loop {
            match connect().await {
                Ok(client) => return Ok(client),
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(LOOKS_EVERY).await,
            }
        }
    }

    pub(super) fn report(&self) {
        let Ok(mut times) = self.times.lock() else { return };
        times.sort();
        let quantile = |share: usize| times.get(times.len().saturating_sub(1) * share / 100);
        println!(
            "{} things taken away; back after p50 {:?}, p99 {:?} (restarts included)",
            self.done.load(Ordering::Relaxed),
            quantile(50),
            quantile(99)
        );
    }
}

fn name(index: usize) -> String {
    format!("stays{index}")
}

/// Takes away a link, an address, or the name of a namespace, or sets an interface down; then waits until all is well.
fn take(turn: usize, name: &str, address: ipnet::IpNet) -> anyhow::Result<()> {
    let namespaces = Namespaces::default();
    let inside = namespaces.open(name)?;
    let done = match turn % 4 {
        0 => meddle::delete_link(&inside, INTERFACE),
        1 => meddle::set_down(&inside, INTERFACE),
        2 => meddle::delete_address(&inside, INTERFACE, address),
        _ => namespaces.delete(name).map_err(|error| error.to_string()),
    };
    done.map_err(anyhow::Error::msg)?;
    drop(inside);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if is_well(&namespaces, name, address) {
            return Ok(());
        }
        std::thread::sleep(LOOKS_EVERY);
    }
    let now = observed(&namespaces, name);
    bail!("{name} was not repaired within {PATIENCE:?}, turn {turn}, {address}: {now}")
}

/// What is there instead, for whoever reads the failure.
fn observed(namespaces: &Namespaces, name: &str) -> String {
    let look = || -> Result<String, String> {
        let mut socket = RouteSocket::open().map_err(|error| error.to_string())?;
        let link = socket.link_by_name(INTERFACE).map_err(|error| error.to_string())?;
        let addresses = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        Ok(format!("{link:?} {addresses:?}"))
    };
    let inside = match namespaces.open(name) {
        Ok(inside) => inside,
        Err(error) => return error.to_string(),
    };
    match thread::run(&inside, "look", look) {
        Ok(Ok(text)) | Ok(Err(text)) => text,
        Err(error) => error.to_string(),
    }
}

/// The interface is there, up, and has its address.
fn is_well(namespaces: &Namespaces, name: &str, address: ipnet::IpNet) -> bool {
    let look = || -> Option<bool> {
        let mut socket = RouteSocket::open().ok()?;
        let link = socket.link_by_name(INTERFACE).ok()??;
        let up = link.header.flags.contains(LinkFlags::Up);
        let there = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).ok()?;
        let wanted = AddressAttribute::Address(address.addr());
        let has = there.iter().any(|message| {
            matches!(message, RouteNetlinkMessage::NewAddress(one) if one.attributes.contains(&wanted))
        });
        Some(up && has)
    };
    let Ok(inside) = namespaces.open(name) else { return false };
    thread::run(&inside, "look", look).ok().flatten().unwrap_or(false)
}
