//! What the kernel itself costs: namespace, cable, configuration inside, one element of a firewall map, with the fewest
//! messages and system calls that do it. Single-threaded, no allocation to speak of, nothing stored.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER, protocols::NETLINK_ROUTE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::wire::{ACK, Batch, CREATE, EXCL, open};

/// The steps of an attach and of a detach, in their order.
pub(super) const ATTACH: [&str; 5] =
    ["unshare", "pin", "veth", "inside: lo and eth0 up, address, default route", "nft element"];
pub(super) const DETACH: [&str; 3] = ["nft element", "veth (the caller waits)", "umount and unlink"];

/// The host's part: a bridge, a map, and the sockets to change them.
pub(super) struct Floor {
    host: File,
    route: Socket,
    nft: Socket,
    batch: Batch,
}

const NETNS: &str = "/run/netns";
const BRIDGE: &str = "floor0";
const BRIDGE_INDEX: i32 = 500_000;
/// Host ends have indices from here, so that nothing has to be looked up.
const PORT_INDEX: i32 = 600_000;
/// The index of eth0 inside.
const INSIDE_INDEX: i32 = 100;
const TABLE: &str = "floor";

// rtnetlink
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const UP: u32 = 1;
// nf_tables: the subsystem's number and the messages
const NFT: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

impl Floor {
    /// Makes the bridge and the map in the calling thread's network namespace.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut floor = Self {
            host: File::open("/proc/thread-self/ns/net")?,
            route: open(NETLINK_ROUTE)?,
            nft: open(NETLINK_NETFILTER)?,
            batch: Batch::default(),
        };
        std::fs::create_dir_all(NETNS)?;
        floor.bridge().context("bridge")?;
        floor.map().context("map")?;
        Ok(floor)
    }

    /// Makes namespace `number` with everything in it; the time of each step.
    pub(super) fn attach(&mut self, number: u16) -> anyhow::Result<[Duration; 5]> {
        let mut clock = Clock::new();
        unshare(CloneFlags::CLONE_NEWNET)?;
        let unshared = clock.lap();
        // The thread goes back to the host before anything can fail for good.
        let pinned = pin(number).and_then(|namespace| Ok((namespace, open(NETLINK_ROUTE)?)));
        setns(&self.host, CloneFlags::CLONE_NEWNET)?;
        let (namespace, inside) = pinned?;
        let pinned = clock.lap();
        self.cable(number, &namespace).context("veth")?;
        let cabled = clock.lap();
        self.inside(number, &inside).context("inside")?;
        drop(inside);
        let configured = clock.lap();
        self.element(number, true).context("element")?;
        Ok([unshared, pinned, cabled, configured, clock.lap()])
    }

    /// Removes it again; the time of each step.
    pub(super) fn detach(&mut self, number: u16) -> anyhow::Result<[Duration; 3]> {
        let mut clock = Clock::new();
        self.element(number, false).context("element")?;
        let element = clock.lap();
        let index = PORT_INDEX + i32::from(number);
        self.batch.begin(DELLINK, ACK, &ifinfo(index, 0)).end();
        self.batch.exchange(&self.route, 0).context("delete veth")?;
        let veth = clock.lap();
        let path = path(number);
        umount2(&path, MntFlags::MNT_DETACH)?;
        std::fs::remove_file(&path)?;
        Ok([element, veth, clock.lap()])
    }

    fn bridge(&mut self) -> anyhow::Result<()> {
        self.batch.begin(NEWLINK, CREATE | EXCL, &ifinfo(BRIDGE_INDEX, UP)).text(3, BRIDGE);
        self.batch.nested(18, &[], |info| {
            info.text(1, "bridge");
        });
        self.batch.end();
        self.address(BRIDGE_INDEX, GATEWAY, ACK);
        self.batch.exchange(&self.route, 0)
    }

    fn cable(&mut self, number: u16, namespace: &File) -> anyhow::Result<()> {
        let index = PORT_INDEX + i32::from(number);
        self.batch.begin(NEWLINK, CREATE | EXCL | ACK, &ifinfo(index, UP));
        self.batch.text(3, &format!("fl{number}")).attribute(10, &BRIDGE_INDEX.to_ne_bytes());
        self.batch.nested(18, &[], |info| {
            info.text(1, "veth").nested(2, &[], |data| {
                data.nested(1, &ifinfo(INSIDE_INDEX, 0), |peer| {
                    peer.text(3, "eth0").attribute(28, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.batch.end();
        self.batch.exchange(&self.route, 0)
    }

    fn inside(&mut self, number: u16, socket: &Socket) -> anyhow::Result<()> {
        self.batch.begin(NEWLINK, 0, &ifinfo(1, UP)).end();
        self.batch.begin(NEWLINK, 0, &ifinfo(INSIDE_INDEX, UP)).end();
        self.address(INSIDE_INDEX, member(number), 0);
        // rtmsg: AF_INET, main table, protocol boot, scope universe, unicast
        let route = [2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        self.batch.begin(NEWROUTE, CREATE | EXCL | ACK, &route).attribute(5, &GATEWAY.octets()).end();
        self.batch.exchange(socket, 0)
    }

    fn address(&mut self, index: i32, address: Ipv4Addr, flags: u16) {
        // ifaddrmsg: AF_INET, /16
        let mut fixed = vec![2, 16, 0, 0];
        fixed.extend_from_slice(&index.to_ne_bytes());
        self.batch.begin(NEWADDR, CREATE | EXCL | flags, &fixed);
        self.batch.attribute(2, &address.octets()).attribute(1, &address.octets()).end();
    }

    fn map(&mut self) -> anyhow::Result<()> {
        self.batch.begin(BATCH_BEGIN, 0, &nfgen(0, 10)).end();
        self.batch.begin(NFT, CREATE, &nfgen(1, 0)).text(1, TABLE).end();
        self.batch.begin(NFT | 9, CREATE | ACK, &nfgen(1, 0)).text(1, TABLE).text(2, "forward");
        // A map from a port (type 13, 2 bytes) to an address and a port (types 7 and 13, 8 bytes).
        let numbers = [(3, 0x8), (4, 13), (5, 2), (6, 7 << 6 | 13), (7, 8), (10, 1)];
        for (kind, number) in numbers {
            self.batch.attribute(kind, &u32::to_be_bytes(number));
        }
        self.batch.end().begin(BATCH_END, 0, &nfgen(0, 10)).end();
        self.batch.exchange(&self.nft, 1)
    }

    fn element(&mut self, number: u16, add: bool) -> anyhow::Result<()> {
        let (kind, flags) = if add { (NFT | 12, CREATE | EXCL) } else { (NFT | 14, 0) };
        let key = (10_000 + number).to_be_bytes();
        let mut data = member(number).octets().to_vec();
        data.extend_from_slice(&[0, 80, 0, 0]);
        self.batch.begin(BATCH_BEGIN, 0, &nfgen(0, 10)).end();
        self.batch.begin(kind, flags | ACK, &nfgen(1, 0)).text(1, TABLE).text(2, "forward");
        self.batch.nested(3, &[], |elements| {
            elements.nested(1, &[], |element| {
                element.nested(1, &[], |value| {
                    value.attribute(1, &key);
                });
                if add {
                    element.nested(2, &[], |value| {
                        value.attribute(1, &data);
                    });
                }
            });
        });
        self.batch.end().begin(BATCH_END, 0, &nfgen(0, 10)).end();
        self.batch.exchange(&self.nft, 1)
    }
}

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

fn member(number: u16) -> Ipv4Addr {
    let [high, low] = (number + 2).to_be_bytes();
    Ipv4Addr::new(10, 99, high, low)
}

fn path(number: u16) -> PathBuf {
    PathBuf::from(format!("{NETNS}/floor{number}"))
}

/// Gives the calling thread's network namespace a name.
fn pin(number: u16) -> anyhow::Result<File> {
    let (source, path) = ("/proc/thread-self/ns/net", path(number));
    File::create_new(&path)?;
    mount(Some(source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(File::open(&path)?)
}

fn ifinfo(index: i32, up: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&up.to_ne_bytes());
    bytes[12..].copy_from_slice(&up.to_ne_bytes());
    bytes
}

fn nfgen(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Time since the last look.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
