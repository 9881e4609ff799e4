//! The steps that change a host.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{IfName, Name, Uid};

use super::{
    Address, Adopted, Link, Route, Stack, Sysctl, Tbf,
    flows::Stale,
    rules::{Chain, ChainName, Element},
};

/// One change to the kernel, for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For whom; failures are told to this object. None: for the host as a whole.
    pub uid: Option<Uid>,
    /// What.
    pub action: Action,
}

/// What a step does. Each may be repeated: what is already so is success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Makes a namespace with its loopback up, marks it, and pins it.
    CreateNamespace {
        /// Its name under `/run/netns`.
        name: Name,
        /// Written into its mark.
        uid: Uid,
    },
    /// Unpins a namespace; it dies when nothing else holds it.
    DeleteNamespace {
        /// Its name under `/run/netns`.
        name: Name,
    },
    /// Sees that an adopted namespace is there. Nothing in it is touched.
    Adopt {
        /// Its object's name.
        name: Name,
        /// Which it is.
        adopted: Adopted,
    },
    /// Leaves an adopted namespace to itself. What was ours in it went before.
    Release {
        /// Its object's name.
        name: Name,
    },
    /// Makes a bridge in the host, marked, without multicast snooping, up if the link says so.
    CreateBridge {
        /// Its name.
        device: IfName,
        /// What it is to be.
        link: Link,
    },
    /// Sees that the user's own bridge is there, before something is added to it.
    UseBridge {
        /// Its name.
        device: IfName,
        /// Also sees that it keeps its MAC address: Linux takes that of a bridge away with its last port, unless it was
        /// set. One that has ports of others has it from them.
        keep_mac: bool,
    },
    /// Makes a queue in the host, marked and down.
    CreateIfb {
        /// Its name.
        device: IfName,
        /// What it is to be.
        link: Link,
    },
    /// Makes a cable with one message: both ends down, each in its stack, a port in its bridge.
    CreateCable {
        /// The end in whose stack the message is sent; the host's, if there is one.
        near: End,
        /// The other end.
        far: End,
    },
    /// Changes a link.
    SetLink {
        /// Where it is.
        stack: Stack,
        /// Which.
        link: IfName,
        /// How.
        change: LinkChange,
    },
    /// Removes a link; a cable's other end goes with it.
    DeleteLink {
        /// Where it is.
        stack: Stack,
        /// Which.
        link: IfName,
    },
    /// Adds an address with our mark, usable at once.
    AddAddress(Address),
    /// Removes an address.
    DeleteAddress(Address),
    /// Adds a route with our mark.
    AddRoute(Route),
    /// Puts a route in the place of another one of ours, without a moment in between.
    ReplaceRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
    /// Limits what a link of the host sends; changes a limit of ours in place.
    SetLimit {
        /// Which link.
        device: IfName,
        /// How much.
        limit: Tbf,
    },
    /// Takes our limit off a link of the host.
    ClearLimit {
        /// Which link.
        device: IfName,
    },
    /// Leads what a link of the host receives through a queue of the host.
    SetDetour {
        /// Which link.
        device: IfName,
        /// Which queue.
        through: IfName,
    },
    /// Ends our detour of what a link of the host receives.
    ClearDetour {
        /// Which link.
        device: IfName,
    },
    /// Writes a kernel switch.
    SetSysctl {
        /// In which stack.
        stack: Stack,
        /// Which.
        sysctl: Sysctl,
        /// What.
        value: String,
    },
    /// Makes the firewall's constant part be there, and right. Where it has to be made anew, these chains come with it,
    /// and the elements that were there: so nobody is without the policies that select them.
    InstallRules {
        /// All that are wanted.
        chains: BTreeMap<ChainName, Chain>,
    },
    /// Makes a chain of policies do this, and nothing else.
    PutChain(ChainName, Chain),
    /// Removes a chain of policies that nothing leads to any more.
    RemoveChain(ChainName),
    /// Removes an element of the firewall.
    RemoveRule(Element),
    /// Adds an element to the firewall.
    AddRule(Element),
    /// Tells the neighbours of a link that it has this address now (gratuitous ARP, unsolicited NA).
    Announce(Address),
    /// Forgets flows whose translation was decided by rules that have changed.
    Forget(BTreeSet<Stale>),
}

/// One end of a cable to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Where it is.
    pub stack: Stack,
    /// Its name there.
    pub name: IfName,
    /// What it is to be; whether it is up is a later step.
    pub link: Link,
}

/// How a link is changed; `None` leaves a property as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up.
    pub up: Option<bool>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Which bridge it is a port of.
    pub master: Option<Option<IfName>>,
    /// Whether frames may leave by the port they came from.
    pub hairpin: Option<bool>,
    /// Written into its mark.
    pub alias: Option<Uid>,
}

impl Action {
    /// What it does, as plans tell programs.
    pub fn word(&self) -> &'static str {
        match self {
            Action::CreateNamespace { .. } => "create_namespace",
            Action::DeleteNamespace { .. } => "delete_namespace",
            Action::Adopt { .. } => "adopt_namespace",
            Action::Release { .. } => "release_namespace",
            Action::CreateBridge { .. } => "create_bridge",
            Action::UseBridge { .. } => "use_bridge",
            Action::CreateIfb { .. } => "create_ifb",
            Action::CreateCable { .. } => "create_cable",
            Action::SetLink { .. } => "set_link",
            Action::DeleteLink { .. } => "delete_link",
            Action::AddAddress(_) => "add_address",
            Action::DeleteAddress(_) => "delete_address",
            Action::AddRoute(_) => "add_route",
            Action::ReplaceRoute(_) => "replace_route",
            Action::DeleteRoute(_) => "delete_route",
            Action::SetLimit { .. } => "set_limit",
            Action::ClearLimit { .. } => "clear_limit",
            Action::SetDetour { .. } => "set_detour",
            Action::ClearDetour { .. } => "clear_detour",
            Action::SetSysctl { .. } => "set_sysctl",
            Action::InstallRules { chains: _ } => "install_rules",
            Action::PutChain(..) => "put_chain",
            Action::RemoveChain(_) => "remove_chain",
            Action::RemoveRule(_) => "remove_rule",
            Action::AddRule(_) => "add_rule",
            Action::Announce(_) => "announce",
            Action::Forget(_) => "forget_flows",
        }
    }
}

impl Step {
    /// A step for an object.
    pub fn of(uid: Uid, action: Action) -> Self {
        Self { uid: Some(uid), action }
    }

    /// A step for the host as a whole.
    pub fn of_host(action: Action) -> Self {
        Self { uid: None, action }
    }
}

/// Numbers that the kernel chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of a Namespace: its cookie.
    pub cookie: Option<u64>,
    /// Of a Network: its bridge; of a cable: its far end, which is the one inside if the other is on the host.
    pub ifindex: Option<u32>,
    /// Of a cable: its near end.
    pub near_ifindex: Option<u32>,
}

/// A refusal by the kernel, or by somebody else's things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The errno, when the kernel gave one.
    pub errno: Option<i32>,
    /// Its words.
    pub message: String,
    /// What to make of it.
    pub sort: FailureSort,
}

/// What to make of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureSort {
    /// The host is not as it was taken to be: look again, and plan again.
    Surprise,
    /// Something of somebody else's is in the way; a new object is withdrawn while its maker still waits.
    Conflict,
    /// Trying again cannot help (EINVAL, EOPNOTSUPP, EXFULL, ENOSPC, …); withdrawn likewise.
    Final,
    /// The namespace that it is about is gone for good.
    Gone,
    /// Trying again may help.
    Passing,
}

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or was so already; and what the kernel chose.
    Done(Facts),
    /// It was refused.
    Failed(Failure),
    /// Not tried, because an earlier step of the same object failed.
    Skipped,
}
