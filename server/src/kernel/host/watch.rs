//! Hears what goes: of all that happens to links, addresses and routes, what may be a loss of something of ours.
//!
//! A thread listens to every namespace at once. What goes and is back a moment later was our own hand, or is no matter;
//! what stays away is told, once. It is not judged here whether it was to go.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as M,
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};
use netloom_api::{Mac, Uid};
use tokio::sync::mpsc;

use super::dump::{address_of, destination, mark};
use crate::{
    hostnet::{Forwarding, Loss, Mark, PROTOCOL, Shape},
    kernel::{
        monitor::{Change, Group, Heard, Hears, Monitor, NEW_NETCONF, Notice, RECEIVE_BUFFER},
        socket::{RequestError, RouteSocket, SocketError, failed},
    },
};

/// What is listened to.
const GROUPS: [Group; 7] = [
    Group::Links,
    Group::Ipv4Addresses,
    Group::Ipv6Addresses,
    Group::Ipv4Routes,
    Group::Ipv6Routes,
    Group::Ipv4Switches,
    Group::Ipv6Switches,
];
/// `RTM_…` of linux/rtnetlink.h: what is heard at all times. That something came only matters while something is missed.
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const DEL_ADDRESS: u16 = 21;
const DEL_ROUTE: u16 = 25;
/// What is back within this time was not lost: our own hand takes down and puts up in one go.
const SETTLES_WITHIN: Duration = Duration::from_millis(100);
/// How often the thread looks whether anybody still listens.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(500);
/// Links that are remembered. More are asked for when something happens to them.
const REMEMBERED: usize = 100_000;

/// A link's place: the id of its namespace, none for the host's, and its index there.
type Place = (Option<i32>, u32);

/// Starts to listen, in the namespace of the calling thread, which is the host. It ends when nobody receives any more.
pub(super) fn start(tell: mpsc::Sender<Vec<Loss>>) -> Result<(), SocketError> {
    let monitor = Monitor::open(&GROUPS, Hears::AllNamespaces, RECEIVE_BUFFER)?;
    let socket = RouteSocket::open()?;
    let work = move || listen(monitor, socket, &tell);
    let started = std::thread::Builder::new().name("watch".into()).spawn(work);
    started.map_err(failed("thread")).map(drop)
}

fn listen(mut monitor: Monitor, mut socket: RouteSocket, tell: &mpsc::Sender<Vec<Loss>>) {
    let mut watch = Watch::default();
    while !tell.is_closed() {
        let now = Instant::now();
        let patience = watch.next_due().map_or(LOOKS_UP_EVERY, |due| due.saturating_duration_since(now));
        let curious = watch.is_curious();
        let is_wanted = |kind: u16| {
            curious || matches!(kind, NEW_LINK | DEL_LINK | DEL_ADDRESS | DEL_ROUTE | NEW_NETCONF)
        };
        match monitor.wait_for(patience.min(LOOKS_UP_EVERY), &is_wanted) {
            Ok(Heard::Notices(notices)) => {
                let now = Instant::now();
                let mut ask = |place: Place| asked(&mut socket, place);
                notices.iter().for_each(|notice| watch.hear(notice, now, &mut ask));
            }
            Ok(Heard::Overrun) => watch.overrun(Instant::now()),
            Ok(Heard::Nothing) => {}
            Err(error) => {
                // The full pass goes on; without events it takes minutes instead of moments.
                tracing::error!(%error, "events of the kernel are heard no more");
                return;
            }
        }
        if !socket.is_sound()
            && let Ok(another) = RouteSocket::open()
        {
            socket = another;
        }
        let due = watch.due(Instant::now(), &mut |place| asked(&mut socket, place));
        if !due.is_empty()
            && let Err(mpsc::error::TrySendError::Full(due)) = tell.try_send(due)
        {
            tracing::debug!(lost = due.len(), "too many losses at once");
            watch.overrun(Instant::now());
        }
    }
}

/// Whose a link is that was not heard of before: it is older than we.
fn asked(socket: &mut RouteSocket, (namespace, index): Place) -> Option<Uid> {
    let found: Result<Option<LinkMessage>, RequestError> = socket.link_elsewhere(namespace, index);
    match found.ok().flatten().as_ref().map(mark) {
        Some(Mark::Object(uid)) => Some(uid),
        Some(Mark::Group | Mark::Foreign) | None => None,
    }
}

/// One of our links, as last heard of.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    uid: Uid,
    name: String,
    master: Option<u32>,
    mtu: u32,
    mac: Option<Mac>,
}

/// Where something was that may be lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    /// By name: a link that is made again has another index.
    Link(Option<i32>, String),
    Shape(Place),
    Address(Place, IpNet),
    Route(Option<i32>, Option<u32>, IpNet),
    /// Of a link, and of which family.
    Forwarding(Place, bool),
    HostForwarding(bool),
    Everything,
}

/// What is known of links, and what may be lost.
#[derive(Default)]
struct Watch {
    links: HashMap<Place, Known>,
    suspects: BTreeMap<Spot, (Loss, Instant)>,
}

impl Watch {
    fn hear(&mut self, notice: &Notice, now: Instant, ask: &mut impl FnMut(Place) -> Option<Uid>) {
        let nsid = notice.nsid;
        let message = match &notice.change {
            Change::Message(message) => message,
            Change::Forwarding(link, forwarding) => {
                return self.switched(nsid, *link, *forwarding, now);
            }
            // What cannot be read is no loss that we know of; the full pass sees it.
            Change::Unreadable(_) => return,
        };
        match message {
            // What a bridge says of its ports is said of the link, too.
            M::NewLink(link) | M::DelLink(link) if link.header.interface_family == AddressFamily::Bridge => {}
            M::NewLink(link) => self.link_is(nsid, link, now),
            M::DelLink(link) => self.link_went(nsid, link, now),
            M::NewAddress(address) => {
                if let Some((net, _)) = address_of(address) {
                    self.suspects.remove(&Spot::Address((nsid, address.header.index), net));
                }
            }
            M::DelAddress(address) if is_ours(address) => {
                let place = (nsid, address.header.index);
                if let (Some((net, _)), Some(uid)) = (address_of(address), self.owner(place, ask)) {
                    self.suspect(Spot::Address(place, net), Loss::Address(uid, net), now);
                }
            }
            M::NewRoute(route) => {
                if let Some(net) = destination(route) {
                    self.suspects.remove(&Spot::Route(nsid, by_link(route), net));
                }
            }
            M::DelRoute(route) if route.header.protocol == RouteProtocol::Other(PROTOCOL) => {
                let (index, Some(net)) = (by_link(route), destination(route)) else { return };
                let uid = index.and_then(|index| self.owner((nsid, index), ask));
                self.suspect(Spot::Route(nsid, index, net), Loss::Route(uid, net), now);
            }
            _ => {}
        }
    }

    fn switched(&mut self, nsid: Option<i32>, link: Option<u32>, forwarding: Forwarding, now: Instant) {
        let place = link.map(|link| (nsid, link));
        let uid = place.and_then(|place| self.links.get(&place)).map(|known| known.uid);
        let spot = match place {
            Some(place) => Spot::Forwarding(place, forwarding.ipv6),
            None if nsid.is_none() => Spot::HostForwarding(forwarding.ipv6),
            // In a namespace, what is for all links is told for each of them, too.
            None => return,
        };
        // How it stands in the end is what counts.
        let (loss, _) = self.suspects.entry(spot).or_insert((Loss::Unknown, now));
        *loss = Loss::Forwarding(uid, forwarding);
    }

    /// Whether something is missed that may come back.
    fn is_curious(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Events were lost.
    fn overrun(&mut self, now: Instant) {
        self.suspect(Spot::Everything, Loss::Unknown, now);
    }

    /// What has not come back in time.
    fn due(&mut self, now: Instant, ask: &mut impl FnMut(Place) -> Option<Uid>) -> Vec<Loss> {
        let is_due = |_: &Spot, (_, since): &mut (Loss, Instant)| {
            now.saturating_duration_since(*since) >= SETTLES_WITHIN
        };
        let over: Vec<_> = self.suspects.extract_if(.., is_due).collect();
        let told = over.into_iter().filter_map(|(spot, (loss, _))| self.owned(&spot, loss, ask));
        let mut due: Vec<Loss> = told.collect();
        due.sort();
        due.dedup();
        due
    }

    /// A switch of a link that was not known when it was heard: older than we, or new, and then it is as it was made.
    fn owned(&self, spot: &Spot, loss: Loss, ask: &mut impl FnMut(Place) -> Option<Uid>) -> Option<Loss> {
        match (spot, &loss) {
            (Spot::Forwarding(place, _), Loss::Forwarding(None, _)) if self.links.contains_key(place) => None,
            (Spot::Forwarding(place, _), Loss::Forwarding(None, forwarding)) => {
                let uid = ask(*place);
                let is_ours = uid.is_some() || place.0.is_none();
                is_ours.then_some(Loss::Forwarding(uid, *forwarding))
            }
            _ => Some(loss),
        }
    }

    /// When the next suspicion is due.
    fn next_due(&self) -> Option<Instant> {
        self.suspects.values().map(|(_, since)| *since + SETTLES_WITHIN).min()
    }

    fn suspect(&mut self, spot: Spot, loss: Loss, now: Instant) {
        self.suspects.entry(spot).or_insert((loss, now));
    }

    fn owner(&mut self, place: Place, ask: &mut impl FnMut(Place) -> Option<Uid>) -> Option<Uid> {
        self.links.get(&place).map(|known| known.uid).or_else(|| ask(place))
    }

    fn link_is(&mut self, nsid: Option<i32>, link: &LinkMessage, now: Instant) {
        let place = (nsid, link.header.index);
        let before = self.links.get(&place).cloned();
        let uid = match mark(link) {
            Mark::Object(uid) => Some(uid),
            // A workload may take the alias off its own end; it stays ours.
            Mark::Group | Mark::Foreign => before.as_ref().map(|before| before.uid),
        };
        let (Some(uid), Some(name)) = (uid, name_of(link)) else { return };
        let master = master_of(link);
        let shape = shape_of(&name, link);
        let is_up = link.header.flags.contains(LinkFlags::Up);
        let is_as_before = before
            .as_ref()
            .is_none_or(|before| before.name == name && (before.master.is_none() || before.master == master));
        if is_up && is_as_before {
            self.suspects.remove(&Spot::Link(nsid, name.clone()));
        } else {
            let known_as = before.as_ref().map_or(&name, |before| &before.name).clone();
            self.suspect(Spot::Link(nsid, known_as), Loss::Link(uid), now);
        }
        let is_known_so =
            before.as_ref().map_or(!is_up, |before| (before.mtu, before.mac) == (shape.mtu, shape.mac));
        if !is_known_so {
            let (loss, _) = self.suspects.entry(Spot::Shape(place)).or_insert((Loss::Unknown, now));
            *loss = Loss::Shape(uid, shape.clone());
        }
        if before.is_some() || self.links.len() < REMEMBERED {
            let Shape { name, mtu, mac } = shape;
            // Of a link that was taken away from its place it is remembered where that was.
            let before = before.filter(|_| !is_as_before).map(|before| Known { mtu, mac, ..before });
            let known = before.unwrap_or(Known { uid, name, master, mtu, mac });
            self.links.insert(place, known);
        }
    }

    fn link_went(&mut self, nsid: Option<i32>, link: &LinkMessage, now: Instant) {
        let before = self.links.remove(&(nsid, link.header.index));
        let uid = match (mark(link), &before) {
            (Mark::Object(uid), _) => Some(uid),
            (Mark::Group | Mark::Foreign, before) => before.as_ref().map(|before| before.uid),
        };
        if let (Some(uid), Some(name)) = (uid, before.map(|before| before.name).or_else(|| name_of(link))) {
            self.suspect(Spot::Link(nsid, name), Loss::Link(uid), now);
        }
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn master_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn shape_of(name: &str, link: &LinkMessage) -> Shape {
    let mut shape = Shape { name: name.to_owned(), mtu: 0, mac: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => shape.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                shape.mac = bytes.as_slice().try_into().ok().map(Mac::from_bytes)
            }
            _ => {}
        }
    }
    shape
}

fn is_ours(address: &AddressMessage) -> bool {
    address.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)))
}

/// The link that a route goes by.
fn by_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostnet::LINK_GROUP;

    /// What happens in a test: a minute passes in no time.
    struct Scene {
        watch: Watch,
        now: Instant,
        uid: Uid,
    }

    impl Scene {
        fn new() -> Self {
            Self { watch: Watch::default(), now: Instant::now(), uid: Uid::generate() }
        }

        fn hear(&mut self, change: M) {
            let notice = Notice { nsid: Some(3), change: Change::Message(change) };
            let uid = self.uid;
            self.watch.hear(&notice, self.now, &mut |_| Some(uid));
        }

        fn link(&self, index: u32, name: &str, up: bool, master: Option<u32>) -> LinkMessage {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            link.attributes.push(LinkAttribute::IfName(name.into()));
            link.attributes.push(LinkAttribute::Group(LINK_GROUP));
            link.attributes.push(LinkAttribute::IfAlias(format!("netloom:{}", self.uid)));
            link.attributes.extend(master.map(LinkAttribute::Controller));
            link
        }

        fn after(&mut self, milliseconds: u64) -> Vec<Loss> {
            self.now += Duration::from_millis(milliseconds);
            let uid = self.uid;
            self.watch.due(self.now, &mut |(_, index)| (index == 7).then_some(uid))
        }
    }

    #[test]
    fn a_link_that_goes_is_a_loss_unless_it_is_back_at_once() {
        let mut scene = Scene::new();
        scene.hear(M::NewLink(scene.link(7, "eth0", false, None)));
        scene.hear(M::NewLink(scene.link(7, "eth0", true, None)));
        scene.hear(M::DelLink(scene.link(7, "eth0", false, None)));
        assert_eq!(scene.after(50), []);
        assert_eq!(scene.after(60), [Loss::Link(scene.uid)]);
        assert_eq!(scene.after(1000), [], "it is told once");
        scene.hear(M::NewLink(scene.link(8, "eth0", false, None)));
        scene.hear(M::NewLink(scene.link(8, "eth0", true, None)));
        scene.hear(M::DelLink(scene.link(8, "eth0", true, None)));
        scene.hear(M::NewLink(scene.link(9, "eth0", false, None)));
        scene.hear(M::NewLink(scene.link(9, "eth0", true, None)));
        assert_eq!(scene.after(1000), []);
    }

    #[test]
    fn down_renamed_and_out_of_its_bridge_are_losses() {
        let lose = |change: &dyn Fn(&Scene) -> LinkMessage| {
            let mut scene = Scene::new();
            scene.hear(M::NewLink(scene.link(7, "eth0", false, None)));
            scene.hear(M::NewLink(scene.link(7, "eth0", true, Some(2))));
            assert_eq!(scene.after(1000), [], "it is made");
            scene.hear(M::NewLink(change(&scene)));
            scene.hear(M::NewLink(change(&scene)));
            scene.after(1000).len()
        };
        assert_eq!(lose(&|scene| scene.link(7, "eth0", false, Some(2))), 1);
        assert_eq!(lose(&|scene| scene.link(7, "mine", true, Some(2))), 1);
        assert_eq!(lose(&|scene| scene.link(7, "eth0", true, None)), 1);
        assert_eq!(lose(&|scene| scene.link(7, "eth0", true, Some(2))), 0);
    }

    #[test]
    fn a_link_that_is_not_what_it_was_is_told_as_it_is_in_the_end() {
        let mut scene = Scene::new();
        let link = |scene: &Scene, up: bool, mtu: u32| {
            let mut link = scene.link(7, "eth0", up, None);
            link.attributes.push(LinkAttribute::Mtu(mtu));
            link
        };
        let shape = |mtu: u32| Shape { name: "eth0".into(), mtu, mac: None };
        scene.hear(M::NewLink(link(&scene, false, 1500)));
        scene.hear(M::NewLink(link(&scene, true, 1500)));
        assert_eq!(scene.after(1000), [], "it is made");
        scene.hear(M::NewLink(link(&scene, true, 1400)));
        scene.hear(M::NewLink(link(&scene, true, 1300)));
        assert_eq!(scene.after(1000), [Loss::Shape(scene.uid, shape(1300))]);
        let mut restarted = Scene { uid: scene.uid, ..Scene::new() };
        restarted.hear(M::NewLink(link(&scene, true, 1300)));
        assert_eq!(restarted.after(1000), [Loss::Shape(scene.uid, shape(1300))], "nobody knows what it was");
    }

    #[test]
    fn forwarding_is_told_of_our_links_and_of_the_host_and_not_of_what_a_workload_has() {
        let mut scene = Scene::new();
        let off = Forwarding { ipv6: false, on: false };
        let mut hear = |nsid, link, forwarding| {
            let notice = Notice { nsid, change: Change::Forwarding(link, forwarding) };
            scene.watch.hear(&notice, scene.now, &mut |_| None);
        };
        hear(None, Some(7), Forwarding { on: true, ..off });
        hear(None, Some(7), off);
        hear(None, None, off);
        hear(None, Some(2), off);
        hear(Some(3), None, off);
        hear(Some(3), Some(2), off);
        hear(Some(3), Some(8), off);
        // A new link is as it was made.
        scene.hear(M::NewLink(scene.link(8, "eth0", false, None)));
        scene.hear(M::NewLink(scene.link(8, "eth0", true, None)));
        let told = [Loss::Forwarding(None, off), Loss::Forwarding(Some(scene.uid), off)];
        assert_eq!(scene.after(1000), told);
    }

    #[test]
    fn an_address_of_ours_is_missed_and_a_stranger_s_is_not() {
        let mut scene = Scene::new();
        let address = |ours: bool| {
            let mut message = AddressMessage::default();
            message.header.index = 7;
            message.header.prefix_len = 24;
            message.attributes.push(AddressAttribute::Local([10, 1, 1, 1].into()));
            message
                .attributes
                .extend(ours.then_some(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL))));
            message
        };
        scene.hear(M::DelAddress(address(false)));
        scene.hear(M::DelAddress(address(true)));
        scene.hear(M::NewAddress(address(true)));
        assert_eq!(scene.after(1000), []);
        scene.hear(M::DelAddress(address(true)));
        assert_eq!(scene.after(1000), [Loss::Address(scene.uid, "10.1.1.1/24".parse().unwrap())]);
        scene.watch.overrun(scene.now);
        assert_eq!(scene.after(1000), [Loss::Unknown]);
    }

    #[test]
    fn what_a_workload_does_with_its_own_links_is_its_own() {
        let mut scene = Scene::new();
        let mut own = LinkMessage::default();
        own.header.index = 9;
        own.attributes.push(LinkAttribute::IfName("own".into()));
        own.attributes.push(LinkAttribute::Group(LINK_GROUP));
        scene.hear(M::NewLink(own.clone()));
        scene.hear(M::DelLink(own));
        assert_eq!(scene.after(1000), []);
    }
}
