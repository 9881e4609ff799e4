//! Routes: where packets go, in which place of which table.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netloom_api::IfName;

use super::Stack;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// In which stack.
    pub stack: Stack,
    /// To where.
    pub destination: IpNet,
    /// In which table.
    pub table: u32,
    /// Lower wins.
    pub metric: u32,
    /// What becomes of packets.
    pub way: Way,
}

/// What a route does with packets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// Drops them. It is the first of all ways in their order, which lookups by place rely on.
    Blackhole,
    /// Drops them, and says that the host is unreachable.
    Unreachable,
    /// Drops them, and says that it is prohibited.
    Prohibit,
    /// Sends them on.
    Through {
        /// To which neighbour; none: to the destination itself.
        via: Option<IpAddr>,
        /// By which link.
        link: IfName,
    },
}

/// The place of a route: the kernel takes one route for each, and puts another one there without a gap.
pub type RoutePlace<'r> = (&'r Stack, IpNet, u32, u32);

impl Route {
    /// Stack, destination, table and metric.
    pub fn place(&self) -> RoutePlace<'_> {
        (&self.stack, self.destination, self.table, self.metric)
    }

    /// The link that it goes through.
    pub fn link(&self) -> Option<&IfName> {
        match &self.way {
            Way::Through { link, .. } => Some(link),
            Way::Blackhole | Way::Unreachable | Way::Prohibit => None,
        }
    }

    /// The neighbour that it goes through.
    pub fn via(&self) -> Option<IpAddr> {
        match &self.way {
            Way::Through { via, .. } => *via,
            Way::Blackhole | Way::Unreachable | Way::Prohibit => None,
        }
    }

    /// Whether it goes through this link.
    pub fn is_through(&self, stack: &Stack, link: &IfName) -> bool {
        self.stack == *stack && self.link() == Some(link)
    }
}

/// What a route is judged by in a stack that is not ours alone: the host, or an adopted namespace. Our own interfaces are
/// left out: the World knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Every link.
    pub links: BTreeSet<IfName>,
    /// Addresses of strangers' links, with their prefixes.
    pub addresses: Vec<(IpNet, IfName)>,
    /// Metrics of the default routes in the main table that are not ours; true for IPv4.
    pub defaults: Vec<(bool, u32)>,
}
