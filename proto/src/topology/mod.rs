//! Topology: what stands and how it hangs together, as a graph; and its drawings.
//!
//! A drawing is made of the graph alone, so the command and the lab draw alike. Equal graphs give equal drawings.

#[cfg(feature = "drawings")]
mod dot;
#[cfg(feature = "drawings")]
mod mermaid;
#[cfg(feature = "drawings")]
mod svg;
#[cfg(all(test, feature = "drawings"))]
mod tests;
#[cfg(feature = "drawings")]
mod tree;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, all, list, parse},
    pb,
    problem::Violations,
};

/// What stands and how it hangs together, as a graph. Nodes and edges are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Topology {
    /// The outside, the host, its networks and its namespaces.
    pub nodes: Vec<TopologyNode>,
    /// What connects them.
    pub edges: Vec<TopologyEdge>,
    /// The position in the event log that this is of.
    pub seq: i64,
}

/// A place where packets come from and go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopologyNode {
    /// `outside`, `host`, `network/NAME` or `namespace/NAME`.
    pub id: String,
    /// What it is.
    pub kind: TopologyNodeKind,
    /// For people; the object's name where it is one.
    pub name: String,
    /// What is worth knowing, for people: subnets, egress, …
    pub details: Vec<String>,
    /// False for an object that is not Ready.
    pub ready: bool,
}

/// A way between two places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopologyEdge {
    /// What it is.
    pub kind: TopologyEdgeKind,
    /// The object's name; empty where it is none.
    pub name: String,
    /// The id of a node.
    pub from: String,
    /// The id of a node.
    pub to: String,
    /// What is at its beginning, for people: interface and addresses, where a port listens, what a route is for.
    pub from_end: String,
    /// What is at its end, for people.
    pub to_end: String,
    /// False for an object that is not Ready.
    pub ready: bool,
}

/// What a node is; in the order in which they are drawn, from the outside in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopologyNodeKind {
    /// Everything that is reached by the host's own links.
    Outside,
    /// The host.
    Host,
    /// A Network.
    Network,
    /// A Namespace.
    Namespace,
}

/// What an edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopologyEdgeKind {
    /// The host's own link to the outside.
    Uplink,
    /// The host's end of a Network.
    Gateway,
    /// An Attachment: from its Namespace to its Network.
    Attachment,
    /// A Link: from its first end to its second.
    Link,
    /// A PortForward: from the host to the Namespace that answers.
    PortForward,
    /// A Route: from where it is to its next hop; to itself when it goes nowhere.
    Route,
}

/// How a topology can be drawn.
#[cfg(feature = "drawings")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyFormat {
    /// For a terminal.
    Tree,
    /// For Graphviz.
    Dot,
    /// For Mermaid, as in Markdown.
    Mermaid,
    /// A picture.
    Svg,
}

#[cfg(feature = "drawings")]
impl Topology {
    /// Draws it; the text ends with a line's end.
    pub fn draw(&self, format: TopologyFormat) -> String {
        match format {
            TopologyFormat::Tree => tree::draw(self),
            TopologyFormat::Dot => dot::draw(self),
            TopologyFormat::Mermaid => mermaid::draw(self),
            TopologyFormat::Svg => svg::draw(self),
        }
    }

    fn node(&self, id: &str) -> Option<&TopologyNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    fn name_of<'t>(&'t self, id: &'t str) -> &'t str {
        self.node(id).map_or(id, |node| &node.name)
    }

    fn edges_of(&self, kind: TopologyEdgeKind) -> impl Iterator<Item = &TopologyEdge> {
        self.edges.iter().filter(move |edge| edge.kind == kind)
    }
}

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),* }) => {
        impl $type {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(concat!("must be one of", $(" ", $word),*).into()),
                }
            }
        }
    };
}

words!(TopologyNodeKind { Outside = "outside", Host = "host", Network = "network", Namespace = "namespace" });
words!(TopologyEdgeKind {
    Uplink = "uplink",
    Gateway = "gateway",
    Attachment = "attachment",
    Link = "link",
    PortForward = "port_forward",
    Route = "route"
});

impl FromPb<pb::Topology> for Topology {
    fn from_pb(message: pb::Topology, at: &Path) -> Result<Self, Violations> {
        let pb::Topology { nodes, edges, seq } = message;
        Ok(Self { nodes: list(nodes, &at.field("nodes"))?, edges: list(edges, &at.field("edges"))?, seq })
    }
}

impl ToPb<pb::Topology> for Topology {
    fn to_pb(&self) -> pb::Topology {
        let Self { nodes, edges, seq } = self;
        pb::Topology { nodes: all(nodes), edges: all(edges), seq: *seq }
    }
}

impl FromPb<pb::TopologyNode> for TopologyNode {
    fn from_pb(message: pb::TopologyNode, at: &Path) -> Result<Self, Violations> {
        let pb::TopologyNode { id, kind, name, details, ready } = message;
        Ok(Self { id, kind: parse(&kind, &at.field("kind"))?, name, details, ready })
    }
}

impl ToPb<pb::TopologyNode> for TopologyNode {
    fn to_pb(&self) -> pb::TopologyNode {
        let Self { id, kind, name, details, ready } = self.clone();
        pb::TopologyNode { id, kind: kind.as_str().into(), name, details, ready }
    }
}

impl FromPb<pb::TopologyEdge> for TopologyEdge {
    fn from_pb(message: pb::TopologyEdge, at: &Path) -> Result<Self, Violations> {
        let pb::TopologyEdge { kind, name, from, to, from_end, to_end, ready } = message;
        Ok(Self { kind: parse(&kind, &at.field("kind"))?, name, from, to, from_end, to_end, ready })
    }
}

impl ToPb<pb::TopologyEdge> for TopologyEdge {
    fn to_pb(&self) -> pb::TopologyEdge {
        let Self { kind, name, from, to, from_end, to_end, ready } = self.clone();
        pb::TopologyEdge { kind: kind.as_str().into(), name, from, to, from_end, to_end, ready }
    }
}
