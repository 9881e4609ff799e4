//! What a host's network is: one type for what we want and what the kernel has.
//!
//! Pure values. [`HostNet::apply`] models what Linux does with a step, its own side effects included, so that a plan
//! can be judged without a kernel; every rule of the model has a test that proves it on Linux.

pub mod flows;
mod loss;
pub mod model;
mod route;
pub mod rules;
mod show;
mod step;
mod tbf;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netloom_api::{IfName, Kind, Mac, Name, SysctlKey, Uid};
use rules::{PolicySet, Rules};

pub use loss::{Forwarding, Loss, Shape};
pub use route::{HostView, Route, RoutePlace, Way};
pub use step::{Action, End, Facts, Failure, FailureSort, LinkChange, Outcome, Step};
pub use tbf::Tbf;

/// The group (IFLA_GROUP) of every link that netloom made: "nl".
pub const LINK_GROUP: u32 = 0x6e6c;
/// The protocol of every address (IFA_PROTO) and route (rtm_protocol) that netloom added.
pub const PROTOCOL: u8 = 110;
/// Host ends of cables start with this; the firewall's guard dispatches on it.
pub const DEVICE_PREFIX: &str = "nl";
/// Queues for what comes from attachments start with this ("bandwidth"): never what the guard dispatches on.
pub const QUEUE_PREFIX: &str = "bw";

/// Which network stack something is in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stack {
    /// The daemon's own.
    Host,
    /// A named one.
    Namespace(Name),
}

/// Whose something is, as its marks in the kernel say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// It names our object.
    Object(Uid),
    /// It bears our group, but not yet the name of an object: its maker died on the way.
    Group,
    /// It is somebody else's.
    Foreign,
}

impl Mark {
    /// Whether something with this mark may be treated as `uid`'s.
    pub fn is_of(self, uid: Uid) -> bool {
        match self {
            Mark::Object(other) => other == uid,
            Mark::Group => true,
            Mark::Foreign => false,
        }
    }

    /// Whether it is ours at all.
    pub fn is_ours(self) -> bool {
        match self {
            Mark::Object(_) | Mark::Group => true,
            Mark::Foreign => false,
        }
    }
}

/// A host's network, whole or as much of it as a scope asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNet {
    /// Namespaces that are pinned under `/run/netns`.
    pub namespaces: BTreeMap<Name, Mark>,
    /// Namespaces of others' that are there and adopted.
    pub adopted: BTreeMap<Name, Adopted>,
    /// Links by stack and name.
    pub links: BTreeMap<(Stack, IfName), Link>,
    /// Addresses on links. Strangers' are left out when they are none of our business.
    pub addresses: BTreeMap<Address, Mark>,
    /// Routes that bear our protocol.
    pub routes: BTreeMap<Route, Mark>,
    /// Bridges of the user's own that Networks use: which one. Of them only our addresses and ports are wanted.
    pub borrowed: BTreeMap<IfName, Uid>,
    /// Limits of ours on what links of the host send.
    pub limits: BTreeMap<IfName, Tbf>,
    /// What a link of the host receives goes through a queue first, by our hand: which.
    pub detours: BTreeMap<IfName, IfName>,
    /// Values below `/proc/sys` that matter to us.
    pub sysctls: BTreeMap<(Stack, Sysctl), String>,
    /// The firewall.
    pub rules: Rules,
}

/// A namespace of somebody else's, which bears no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Whose object adopts it.
    pub uid: Uid,
    /// Its identity until the next boot.
    pub cookie: u64,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whose it is.
    pub mark: Mark,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC address; loopback has none.
    pub mac: Option<Mac>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The bridge that it is a port of.
    pub master: Option<IfName>,
    /// As a port: frames may leave by the port they came from.
    pub hairpin: bool,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge without multicast snooping.
    Bridge,
    /// One end of a cable; the other end, when it is known.
    Veth {
        /// The other end.
        peer: Option<(Stack, IfName)>,
    },
    /// A queue (an "intermediate functional block"): frames that are sent to it come in again where they came from.
    Ifb,
    /// Something that netloom does not make, by the kernel's word for it.
    Other(String),
}

/// One address on one link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Where the link is.
    pub stack: Stack,
    /// The link.
    pub link: IfName,
    /// With prefix length.
    pub net: IpNet,
}

impl Address {
    /// Whether both are on one link in one subnet.
    pub fn shares_subnet(&self, other: &Address) -> bool {
        self.stack == other.stack && self.link == other.link && self.net.trunc() == other.net.trunc()
    }
}

/// A kernel switch, by name; the kernel's own path is [`Sysctl::path`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sysctl {
    /// `net/ipv6/conf/<link>/disable_ipv6`
    DisableIpv6(IfName),
    /// `net/ipv6/conf/<link>/accept_ra`
    AcceptRa(IfName),
    /// `net/ipv6/conf/<link>/accept_dad`: addresses are ours alone, so they need not be tentative.
    AcceptDad(IfName),
    /// `net/ipv4/conf/<link>/forwarding`
    Forwarding4(IfName),
    /// `net/ipv6/conf/<link>/force_forwarding` (Linux ≥ 6.17)
    ForceForwarding6(IfName),
    /// `net/ipv6/conf/all/forwarding`, where the kernel has no switch per device
    Forwarding6All,
    /// `net/ipv4/conf/<link>/route_localnet`
    RouteLocalnet(IfName),
    /// `net/ipv4/conf/<link>/promote_secondaries`: the first address of a subnet may go without the others.
    PromoteSecondaries(IfName),
    /// One that a caller chose.
    Named {
        /// Its name.
        key: SysctlKey,
        /// The link that it is of; loopback and `all` are none.
        link: Option<IfName>,
    },
}

impl Sysctl {
    /// One that a caller chose.
    pub fn named(key: SysctlKey) -> Self {
        let link = key.interface().and_then(|name| name.parse().ok());
        Self::Named { key, link }
    }

    /// The file below `/proc/sys/`.
    pub fn path(&self) -> String {
        match self {
            Sysctl::DisableIpv6(link) => format!("net/ipv6/conf/{link}/disable_ipv6"),
            Sysctl::AcceptRa(link) => format!("net/ipv6/conf/{link}/accept_ra"),
            Sysctl::AcceptDad(link) => format!("net/ipv6/conf/{link}/accept_dad"),
            Sysctl::Forwarding4(link) => format!("net/ipv4/conf/{link}/forwarding"),
            Sysctl::ForceForwarding6(link) => format!("net/ipv6/conf/{link}/force_forwarding"),
            Sysctl::Forwarding6All => "net/ipv6/conf/all/forwarding".into(),
            Sysctl::RouteLocalnet(link) => format!("net/ipv4/conf/{link}/route_localnet"),
            Sysctl::PromoteSecondaries(link) => format!("net/ipv4/conf/{link}/promote_secondaries"),
            Sysctl::Named { key, link: _ } => key.path().to_owned(),
        }
    }

    /// The link that it goes away with.
    pub fn link(&self) -> Option<&IfName> {
        match self {
            Sysctl::DisableIpv6(link)
            | Sysctl::AcceptRa(link)
            | Sysctl::AcceptDad(link)
            | Sysctl::Forwarding4(link)
            | Sysctl::ForceForwarding6(link)
            | Sysctl::RouteLocalnet(link)
            | Sysctl::PromoteSecondaries(link) => Some(link),
            Sysctl::Named { key: _, link } => link.as_ref(),
            Sysctl::Forwarding6All => None,
        }
    }
}

/// What part of the host a question or a plan is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// These Namespaces.
    pub namespaces: BTreeSet<Name>,
    /// These Networks.
    pub networks: BTreeSet<Name>,
    /// These Attachments.
    pub attachments: BTreeSet<Name>,
    /// These PortForwards.
    pub port_forwards: BTreeSet<Name>,
    /// The switches of these Networks that let the host itself use 127.0.0.1: they follow what is published.
    pub loopbacks: BTreeSet<Name>,
    /// These Routes.
    pub routes: BTreeSet<Name>,
    /// These Links.
    pub links: BTreeSet<Name>,
    /// These Policies.
    pub policies: BTreeSet<Name>,
    /// By which Policies these Attachments are selected, and nothing else of them.
    pub policed: BTreeSet<Name>,
    /// The chains of these sets of Policies.
    pub chains: BTreeSet<PolicySet>,
    /// It counts on these chains being there, or leaves them.
    pub leads_to: BTreeSet<PolicySet>,
    /// What belongs to the host as a whole: forwarding, and what keeps strangers from being forwarded.
    pub host: bool,
    /// What all these depend on: it is as it is, and nothing is done about it.
    pub leans_on: BTreeSet<(Kind, Name)>,
}

impl Scope {
    /// Whether it is about nothing.
    pub fn is_empty(&self) -> bool {
        let Self {
            namespaces,
            networks,
            attachments,
            port_forwards,
            loopbacks,
            routes,
            links,
            policies,
            policed,
            chains,
            leads_to: _,
            host,
            leans_on: _,
        } = self;
        namespaces.is_empty()
            && networks.is_empty()
            && attachments.is_empty()
            && port_forwards.is_empty()
            && loopbacks.is_empty()
            && routes.is_empty()
            && links.is_empty()
            && policies.is_empty()
            && policed.is_empty()
            && chains.is_empty()
            && !host
    }

    /// Both together.
    pub fn join(&mut self, other: Scope) {
        let Scope {
            namespaces,
            networks,
            attachments,
            port_forwards,
            loopbacks,
            routes,
            links,
            policies,
            policed,
            chains,
            leads_to,
            host,
            leans_on,
        } = other;
        self.namespaces.extend(namespaces);
        self.networks.extend(networks);
        self.attachments.extend(attachments);
        self.port_forwards.extend(port_forwards);
        self.loopbacks.extend(loopbacks);
        self.routes.extend(routes);
        self.links.extend(links);
        self.policies.extend(policies);
        self.policed.extend(policed);
        self.chains.extend(chains);
        self.leads_to.extend(leads_to);
        self.host |= host;
        self.leans_on.extend(leans_on);
    }

    /// Whether two pieces of work touch the same thing, or one touches what the other depends on.
    pub fn meets(&self, other: &Scope) -> bool {
        let Self {
            namespaces,
            networks,
            attachments,
            port_forwards,
            loopbacks,
            routes,
            links,
            policies,
            policed,
            chains,
            leads_to,
            host,
            leans_on,
        } = self;
        !namespaces.is_disjoint(&other.namespaces)
            || !networks.is_disjoint(&other.networks)
            || !attachments.is_disjoint(&other.attachments)
            || !port_forwards.is_disjoint(&other.port_forwards)
            || !loopbacks.is_disjoint(&other.loopbacks)
            // A network's own part has that switch, too.
            || !loopbacks.is_disjoint(&other.networks)
            || !networks.is_disjoint(&other.loopbacks)
            || !routes.is_disjoint(&other.routes)
            || !links.is_disjoint(&other.links)
            || !policies.is_disjoint(&other.policies)
            || !policed.is_disjoint(&other.policed)
            || !policed.is_disjoint(&other.attachments)
            || !attachments.is_disjoint(&other.policed)
            || !chains.is_disjoint(&other.chains)
            || !chains.is_disjoint(&other.leads_to)
            || !leads_to.is_disjoint(&other.chains)
            || (*host && other.host)
            || leans_on.iter().any(|(kind, name)| other.has(*kind, name))
            || other.leans_on.iter().any(|(kind, name)| self.has(*kind, name))
    }

    fn has(&self, kind: Kind, name: &Name) -> bool {
        match kind {
            Kind::Namespace => self.namespaces.contains(name),
            Kind::Network => self.networks.contains(name),
            Kind::Attachment => self.attachments.contains(name),
            Kind::PortForward => self.port_forwards.contains(name),
            Kind::Route => self.routes.contains(name),
            Kind::Link => self.links.contains(name),
            Kind::Policy => self.policies.contains(name),
            Kind::Reservation => false,
        }
    }
}

/// What of a host is looked at, when not all of it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// These namespaces.
    pub namespaces: BTreeSet<Name>,
    /// The switches of these links of the host.
    pub devices: BTreeSet<IfName>,
}

impl Part {
    /// The stacks and devices that these are about.
    pub fn around<'a>(nets: impl IntoIterator<Item = &'a HostNet>) -> Self {
        let mut part = Self::default();
        for net in nets {
            let links = net.links.iter().flat_map(|((stack, name), link)| {
                let peer = match &link.kind {
                    LinkKind::Veth { peer: Some(peer) } => Some((&peer.0, &peer.1)),
                    LinkKind::Veth { peer: None } | LinkKind::Bridge | LinkKind::Ifb | LinkKind::Other(_) => {
                        None
                    }
                };
                [Some((stack, name)), peer].into_iter().flatten()
            });
            let addresses = net.addresses.keys().map(|address| (&address.stack, &address.link));
            for (stack, name) in links.chain(addresses) {
                match stack {
                    Stack::Host => drop(part.devices.insert(name.clone())),
                    Stack::Namespace(name) => drop(part.namespaces.insert(name.clone())),
                }
            }
            part.devices.extend(net.borrowed.keys().cloned());
            part.namespaces.extend(net.namespaces.keys().chain(net.adopted.keys()).cloned());
            let switches = net.sysctls.keys().map(|(stack, sysctl)| (stack, sysctl.link()));
            for (stack, link) in switches.chain(net.routes.keys().map(|route| (&route.stack, None))) {
                match stack {
                    Stack::Host => part.devices.extend(link.cloned()),
                    Stack::Namespace(name) => drop(part.namespaces.insert(name.clone())),
                }
            }
        }
        part
    }
}

/// What the kernel can do, probed once at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// IPv6 is there at all.
    pub ipv6: bool,
    /// IPv6 forwarding can be switched per device (Linux ≥ 6.17).
    pub force_forwarding: bool,
    /// Flows of SCTP are tracked, so that they can be forwarded.
    pub sctp: bool,
}
