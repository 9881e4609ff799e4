//! The surroundings of a private host: a LAN with other machines on it. For `lab` and for tests.
//!
//! ```text
//!   host ── eth0 ═══ bridge (a namespace without addresses) ═══ eth0 ── peer
//!                                                          ╚═══ eth0 ── another peer
//! ```
//!
//! All namespaces are held by descriptors: when the [`Lan`] is dropped they go, with every cable in them, in the
//! kernel's own time. Once [`add_lan`] or [`Lan::add_peer`] returns, frames pass, and every address is in use:
//! nobody looks for duplicates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute,
    LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::extack::KernelError;
use super::netns::{self, Held, Namespaces, NetnsError};
use super::socket::{RequestError, RouteSocket, SocketError, create, request};
use super::sysctl::{self, Key, SysctlError};
use super::thread::{self, ThreadError};

/// The surroundings of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanSpec {
    /// The host's interface on the LAN.
    pub host_interface: String,
    /// The host's addresses there.
    pub host_addresses: Vec<IpNet>,
    /// The host's routes through the LAN; a default route has prefix length 0.
    pub host_routes: Vec<LanRoute>,
    /// The other machines.
    pub peers: Vec<PeerSpec>,
}

/// A machine on the LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Its name, not seen by the network.
    pub name: String,
    /// Its addresses, on its `eth0`.
    pub addresses: Vec<IpNet>,
    /// Its routes; networks inside of the host are unknown to it unless named here.
    pub routes: Vec<LanRoute>,
    /// Whether `ip netns` shows it by its name.
    pub pinned: bool,
}

/// A route of a machine on the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through whom.
    pub via: IpAddr,
}

/// A LAN that exists.
#[derive(Debug)]
pub struct Lan {
    bridge: Held,
    host_mac: [u8; 6],
    peers: BTreeMap<String, Peer>,
}

/// A machine on the LAN; give it to a [probe](super::probe) as the namespace.
#[derive(Debug)]
pub struct Peer {
    namespace: Held,
    mac: [u8; 6],
    addresses: Vec<IpNet>,
}

/// The LAN was not made.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// No namespace.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A namespace that cannot be entered.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// The kernel refused a part.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A setting of the switch.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// An address and its route are of different families.
    #[error("{destination} cannot be reached via {via}")]
    MixedFamilies {
        /// The destination.
        destination: IpNet,
        /// The gateway.
        via: IpAddr,
    },
    /// Two peers of one name.
    #[error("there are two peers {0:?}")]
    Duplicate(String),
    /// No peer of that name.
    #[error("there is no peer {0:?}")]
    NoPeer(String),
    /// A cable was laid and does not come up.
    #[error("{interface} does not carry frames after {READY_WITHIN:?}")]
    NotReady {
        /// One end of it.
        interface: String,
    },
}

impl Default for LanSpec {
    /// 192.168.1.2/24 on eth0, and nobody else.
    fn default() -> Self {
        Self {
            host_interface: PEER_INTERFACE.to_owned(),
            host_addresses: vec![IpNet::new_assert([192, 168, 1, 2].into(), 24)],
            host_routes: Vec::new(),
            peers: Vec::new(),
        }
    }
}

impl PeerSpec {
    /// A machine with these addresses and no routes.
    pub fn new(name: &str, addresses: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            name: name.to_owned(),
            addresses: addresses.into_iter().collect(),
            routes: Vec::new(),
            pinned: false,
        }
    }
}

impl Lan {
    /// The machine of this name.
    pub fn peer(&self, name: &str) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// All machines, by name.
    pub fn peers(&self) -> impl Iterator<Item = (&str, &Peer)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer))
    }

    /// The hardware address of the host on the LAN.
    pub fn host_mac(&self) -> [u8; 6] {
        self.host_mac
    }

    /// The namespace of the bridge: who listens there hears every frame of the LAN.
    pub fn segment(&self) -> BorrowedFd<'_> {
        self.bridge.fd.as_fd()
    }

    /// Gives a machine a route, as a hostile one would give itself one to the networks behind the host.
    pub fn add_route(&self, peer: &str, route: &LanRoute) -> Result<(), LanError> {
        let machine = self.peer(peer).ok_or_else(|| LanError::NoPeer(peer.to_owned()))?;
        thread::run(machine, "lan-peer", || {
            ask(&mut RouteSocket::open()?, vec![create(RouteNetlinkMessage::NewRoute(route_message(route)?))])
        })?
    }

    /// Puts one more machine on the LAN.
    pub fn add_peer(&mut self, spec: &PeerSpec) -> Result<(), LanError> {
        if self.peers.contains_key(&spec.name) {
            return Err(LanError::Duplicate(spec.name.clone()));
        }
        let namespace = netns::fresh()?;
        let number = self.peers.len() + 1;
        let (port, mac) = (format!("port{number}"), mac(number));
        thread::run(&self.bridge.fd, "lan-bridge", || {
            let mut socket = RouteSocket::open()?;
            let switch = index(&mut socket, SWITCH)?;
            let cable = veth(&port, None, PEER_INTERFACE, Some(mac), namespace.fd.as_fd());
            ask(
                &mut socket,
                vec![create(RouteNetlinkMessage::NewLink(cable.controller(switch).up().build()))],
            )
        })??;
        thread::run(&namespace.fd, "lan-peer", || {
            let mut socket = RouteSocket::open()?;
            let up = LinkMessageBuilder::<LinkUnspec>::new().name(LOOPBACK).up().build();
            ask(&mut socket, vec![request(RouteNetlinkMessage::SetLink(up))])?;
            configure(&mut socket, PEER_INTERFACE, &spec.addresses, &spec.routes)
        })??;
        thread::run(&self.bridge.fd, "lan-bridge", || await_link(&port, forwards))??;
        if spec.pinned {
            Namespaces::default().pin(&spec.name, &namespace.fd)?;
        }
        self.peers.insert(spec.name.clone(), Peer { namespace, mac, addresses: spec.addresses.clone() });
        Ok(())
    }
}

impl Peer {
    /// Its addresses on the LAN.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Its hardware address on the LAN.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.fd.as_fd()
    }
}

const SWITCH: &str = "switch";
const HOST_PORT: &str = "host";
const PEER_INTERFACE: &str = "eth0";
const LOOPBACK: &str = "lo";
/// How long a cable may take to carry frames; a few milliseconds are usual.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Builds the LAN around the network namespace of the calling thread, which becomes its host.
pub fn add_lan(spec: &LanSpec) -> Result<Lan, LanError> {
    let mut host = RouteSocket::open()?;
    let bridge = netns::fresh()?;
    let host_mac = mac(0);
    let cable = veth(&spec.host_interface, Some(host_mac), HOST_PORT, None, bridge.fd.as_fd()).build();
    ask(&mut host, vec![create(RouteNetlinkMessage::NewLink(cable))])?;
    thread::run(&bridge.fd, "lan-bridge", make_switch)??;
    configure(&mut host, &spec.host_interface, &spec.host_addresses, &spec.host_routes)?;
    thread::run(&bridge.fd, "lan-bridge", || await_link(HOST_PORT, forwards))??;
    let mut lan = Lan { bridge, host_mac, peers: BTreeMap::new() };
    for peer in &spec.peers {
        lan.add_peer(peer)?;
    }
    Ok(lan)
}

/// In the namespace between: a bridge (without STP it forwards at once) with the host's cable in it.
/// Gives an interface of the calling thread's namespace an address, as somebody would by hand.
pub fn add_address(interface: &str, address: IpNet) -> Result<(), LanError> {
    let mut socket = RouteSocket::open()?;
    let message = address_message(index(&mut socket, interface)?, address);
    ask(&mut socket, vec![create(RouteNetlinkMessage::NewAddress(message))])
}

fn make_switch() -> Result<(), LanError> {
    let mut socket = RouteSocket::open()?;
    // A switch has nothing to say itself. A kernel without IPv6 need not be told.
    let silence = Key::named("net.ipv6.conf.default.disable_ipv6").and_then(|key| sysctl::write(&key, "1"));
    if let Err(error) = silence
        && !matches!(error, SysctlError::Missing(_))
    {
        return Err(error.into());
    }
    let plain = vec![InfoBridge::MulticastSnooping(false)];
    let switch = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .set_info_data(InfoData::Bridge(plain))
        .name(SWITCH)
        .up()
        .build();
    ask(&mut socket, vec![create(RouteNetlinkMessage::NewLink(switch))])?;
    let switch = index(&mut socket, SWITCH)?;
    let port = LinkMessageBuilder::<LinkUnspec>::new().name(HOST_PORT).controller(switch).up().build();
    ask(&mut socket, vec![request(RouteNetlinkMessage::SetLink(port))])
}

/// A cable from here to a namespace, which is down at both ends.
fn veth(
    name: &str,
    mac: Option<[u8; 6]>,
    peer: &str,
    peer_mac: Option<[u8; 6]>,
    namespace: BorrowedFd<'_>,
) -> LinkMessageBuilder<LinkVeth> {
    let address = |mac: [u8; 6]| LinkAttribute::Address(mac.to_vec());
    let mut end = LinkMessage::default();
    end.attributes.push(LinkAttribute::IfName(peer.to_owned()));
    end.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    end.attributes.extend(peer_mac.map(address));
    let cable = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(end)))
        .name(name);
    match mac {
        Some(mac) => cable.append_extra_attribute(address(mac)),
        None => cable,
    }
}

/// Hardware addresses that can be read in a dump: locally administered, "LAN", the number of the machine.
fn mac(machine: usize) -> [u8; 6] {
    let [.., high, low] = machine.to_be_bytes();
    [0x02, b'L', b'A', b'N', high, low]
}

/// Gives an interface its addresses, sets it up, and adds the routes, in the socket's namespace.
fn configure(
    socket: &mut RouteSocket,
    interface: &str,
    addresses: &[IpNet],
    routes: &[LanRoute],
) -> Result<(), LanError> {
    let index = index(socket, interface)?;
    dont_look_for_duplicates(interface)?;
    let mut messages: Vec<_> = addresses
        .iter()
        .map(|address| create(RouteNetlinkMessage::NewAddress(address_message(index, *address))))
        .collect();
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    messages.push(request(RouteNetlinkMessage::SetLink(up)));
    for route in routes {
        messages.push(create(RouteNetlinkMessage::NewRoute(route_message(route)?)));
    }
    ask(socket, messages)?;
    await_link(interface, is_up)
}

/// Link-local addresses, which the kernel gives itself, would be of no use for the first two seconds.
fn dont_look_for_duplicates(interface: &str) -> Result<(), LanError> {
    let written = Key::of_interface(sysctl::Family::V6, interface, "accept_dad")
        .and_then(|key| sysctl::write(&key, "0"));
    match written {
        Ok(_) | Err(SysctlError::Missing(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a link of this namespace is as wished. The kernel raises carriers in deferred work; that of a
/// bridge port reports its end by no event of its own.
fn await_link(name: &str, wish: fn(&LinkMessage) -> bool) -> Result<(), LanError> {
    let mut socket = RouteSocket::open()?;
    let deadline = Instant::now() + READY_WITHIN;
    while !socket.link_by_name(name)?.is_some_and(|link| wish(&link)) {
        if Instant::now() >= deadline {
            return Err(LanError::NotReady { interface: name.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn is_up(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::OperState(State::Up)))
}

fn forwards(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let port_data = infos.flatten().filter_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
        _ => None,
    });
    port_data.flatten().any(|data| matches!(data, InfoBridgePort::State(BridgePortState::Forwarding)))
}

/// An address on an interface, usable at once: nobody else is there to have it.
pub(super) fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = match address {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    };
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    message
}

fn route_message(route: &LanRoute) -> Result<RouteMessage, LanError> {
    match (route.destination.trunc(), route.via) {
        (IpNet::V4(net), IpAddr::V4(via)) => Ok(RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .gateway(via)
            .build()),
        (IpNet::V6(net), IpAddr::V6(via)) => Ok(RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .gateway(via)
            .build()),
        (destination, via) => Err(LanError::MixedFamilies { destination, via }),
    }
}

fn index(socket: &mut RouteSocket, name: &str) -> Result<u32, LanError> {
    match socket.link_by_name(name)? {
        Some(link) => Ok(link.header.index),
        None => Err(KernelError { errno: Errno::ENODEV, operation: name.to_owned(), extack: None }.into()),
    }
}

/// All of it, or the first refusal.
fn ask(
    socket: &mut RouteSocket,
    messages: Vec<netlink_packet_core::NetlinkMessage<RouteNetlinkMessage>>,
) -> Result<(), LanError> {
    socket.batch(messages)?.into_iter().collect::<Result<(), KernelError>>().map_err(LanError::from)
}

impl From<RequestError> for LanError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Kernel(error) => Self::Kernel(error),
            RequestError::Socket(error) => Self::Socket(error),
        }
    }
}
