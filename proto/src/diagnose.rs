//! Diagnose: why a packet does not arrive, or that it does. The ids of the checks are API; the texts are for people.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, all, list, message, optional, required, u16_field},
    network::NoOptions,
    object::read_json,
    pb,
    problem::Violations,
    schema::text_schema,
    text::Name,
};

/// A question: does what one end sends reach the other, and if not, why?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiagnoseRequest {
    /// Who sends. A port forward sends nothing.
    pub from: End,
    /// Who shall receive.
    pub to: End,
    /// Unset: that of the port forward; tcp with a port; else icmp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<DiagnoseProtocol>,
    /// 1 to 65535, not of icmp. Unset: that of the port forward; else no port is asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port: Option<u16>,
    /// Also send packets, which needs the right to write. Unset: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<bool>,
}

/// One end of a path: an object with exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// A Namespace, by the interface that leads to the other end.
    Namespace(Name),
    /// An Attachment.
    Attachment(Name),
    /// The host itself.
    Host(NoOptions),
    /// An IP address, of whoever has it.
    #[schema(value_type = String)]
    Address(IpAddr),
    /// A PortForward, where the host listens.
    PortForward(Name),
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiagnoseProtocol {
    /// An echo request, as `ping` sends it.
    Icmp,
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An association; it cannot be probed.
    Sctp,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiagnoseResponse {
    /// The answer.
    pub verdict: Finding,
    /// The first check that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<CheckId>,
    /// In the order of the way, from the sender outward.
    pub checks: Vec<Check>,
}

/// Whether packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing stops them, as far as can be seen from this host.
    Reachable,
    /// Something stops them.
    Unreachable,
    /// Something is not as it should be, or could not be looked at, that may stop some of them.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was asked.
    pub id: CheckId,
    /// How it came out.
    pub status: CheckStatus,
    /// What was looked at, and what was found.
    pub evidence: String,
    /// What to do about it, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It is as it must be.
    Pass,
    /// It is not.
    Fail,
    /// It could not be told.
    Skip,
}

/// A word for each variant: on the wire, and back.
macro_rules! words {
    ($type:ident { $($variant:ident $text:literal,)* }) => {
        impl $type {
            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is not one of {}", [$($text),*].join(", "))),
                }
            }
        }
    };
}

words!(DiagnoseProtocol { Icmp "icmp", Tcp "tcp", Udp "udp", Sctp "sctp", });
words!(Finding { Reachable "reachable", Unreachable "unreachable", Unknown "unknown", });
words!(CheckStatus { Pass "pass", Fail "fail", Skip "skip", });

/// Makes the closed list of checks from one table, in the order of the way.
macro_rules! checks {
    ($($variant:ident $text:literal $about:literal,)*) => {
        /// The closed list of checks, in the order of the way. Ids are API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum CheckId {
            $(#[doc = $about] #[serde(rename = $text)] $variant,)*
        }

        impl CheckId {
            /// Every check, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What it asks, in a few words.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }

        words!(CheckId { $($variant $text,)* });
    };
}

checks! {
    FromNamespace "from.namespace" "the sender's namespace exists, as object and in the kernel",
    FromInterface "from.interface" "its interface is in it",
    FromInterfaceUp "from.interface_up" "its interface is up",
    FromPort "from.port" "the host's end of its cable is a port of the right bridge",
    FromPortUp "from.port_up" "the host's end is up",
    FromCarrier "from.carrier" "its interface has a carrier",
    FromAddress "from.address" "it has an address of the right family",
    FromBridge "from.bridge" "its bridge exists and is up",
    FromBridgeAddress "from.bridge_address" "its bridge has the gateway's address",
    FromGuard "from.guard" "the spoof guard lets its frames in",
    FromRoute "from.route" "it has a route to the target",
    FromOverlap "from.overlap" "no other route takes the traffic elsewhere",
    FromGateway "from.gateway" "the gateway of the route is there",
    ToNamespace "to.namespace" "the target's namespace exists, as object and in the kernel",
    ToInterface "to.interface" "its interface is in it",
    ToInterfaceUp "to.interface_up" "its interface is up",
    ToPort "to.port" "the host's end of its cable is a port of the right bridge",
    ToPortUp "to.port_up" "the host's end is up",
    ToCarrier "to.carrier" "its interface has a carrier",
    ToAddress "to.address" "it has the address that is asked for",
    ToBridge "to.bridge" "its bridge exists and is up",
    ToBridgeAddress "to.bridge_address" "its bridge has the gateway's address",
    ToGuard "to.guard" "the spoof guard lets its answers in",
    Firewall "firewall" "netloom's firewall is there, and as netloom makes it",
    Publish "publish" "the port forward is in the firewall",
    Sources "sources" "the port forward lets the sender in",
    HostRoute "host.route" "whoever forwards has a route to the target",
    HostOverlap "host.overlap" "no other route there takes the traffic elsewhere",
    FromPolicy "from.policy" "the sender's policies let the packet out",
    ToPolicy "to.policy" "the target's policies let the packet in",
    Forwarding "forwarding" "IP forwarding is on for the devices on the way",
    IsolationMembers "isolation.members" "members of the network may talk to each other",
    IsolationNetworks "isolation.networks" "both networks are open to others",
    IsolationHost "isolation.host" "members of the network may talk to the host",
    Egress "egress" "members of the network may go out",
    Nat "nat" "what goes out is translated to the host's address",
    Unpublished "unpublished" "nobody outside reaches a port that is not published",
    Transit "transit" "strangers are not forwarded between the host's own links",
    Neighbour "neighbour" "the next neighbour on the way answers, and is the right one",
    ToReturn "to.return" "the target has a way back",
    ReturnFilter "return.filter" "the reverse path filter lets the packets in",
    ToListening "to.listening" "something listens on the port",
    ForeignRules "foreign.rules" "no firewall of others drops it",
    Mtu "mtu" "no device on the way is narrower than the sender",
    Conntrack "conntrack" "the table of flows has room",
    Status "status" "the objects involved are Ready",
    Outside "outside" "what is beyond this host",
    Probe "probe" "packets from the sender are answered",
}

// Derived, the schema would hold the names of the variants.
text_schema!(CheckId, |string| {
    let words = CheckId::ALL.iter().map(|id| id.as_str());
    string.enum_values(Some(words)).description(Some("What was asked."))
});

impl DiagnoseRequest {
    /// Reads the body of a request.
    pub fn from_json(value: Value) -> Result<Self, Violations> {
        read_json::<Self>(value, &Path::root())?.checked(&Path::root())
    }

    fn checked(self, at: &Path) -> Result<Self, Violations> {
        let mut wrong = Violations::default();
        if let End::PortForward(_) = self.from {
            wrong.add(at.field("from").to_string(), "a port forward sends nothing; name who calls it");
        }
        let port = at.field("port").to_string();
        match (self.protocol, self.port) {
            (_, Some(0)) => wrong.add(port, "must be 1 to 65535"),
            (Some(DiagnoseProtocol::Icmp), Some(_)) => wrong.add(port, "icmp has no ports"),
            (_, _) => {}
        }
        wrong.into_result(self)
    }
}

impl FromPb<pb::DiagnoseRequest> for DiagnoseRequest {
    fn from_pb(request: pb::DiagnoseRequest, at: &Path) -> Result<Self, Violations> {
        let pb::DiagnoseRequest { from, to, protocol, port, probe } = request;
        let request = Self {
            from: message(from, &at.field("from"))?,
            to: message(to, &at.field("to"))?,
            protocol: optional(protocol, &at.field("protocol"))?,
            port: port.map(|port| u16_field(port, &at.field("port"))).transpose()?,
            probe,
        };
        request.checked(at)
    }
}

impl ToPb<pb::DiagnoseRequest> for DiagnoseRequest {
    fn to_pb(&self) -> pb::DiagnoseRequest {
        let Self { from, to, protocol, port, probe } = self;
        pb::DiagnoseRequest {
            from: Some(from.to_pb()),
            to: Some(to.to_pb()),
            protocol: protocol.map(|protocol| protocol.to_string()),
            port: port.map(u32::from),
            probe: *probe,
        }
    }
}

impl FromPb<pb::DiagnoseEnd> for End {
    fn from_pb(end: pb::DiagnoseEnd, at: &Path) -> Result<Self, Violations> {
        use pb::diagnose_end::End as Wire;
        let pb::DiagnoseEnd { end } = end;
        match end {
            Some(Wire::Namespace(name)) => Ok(End::Namespace(required(&name, &at.field("namespace"))?)),
            Some(Wire::Attachment(name)) => Ok(End::Attachment(required(&name, &at.field("attachment"))?)),
            Some(Wire::Host(pb::DiagnoseHost {})) => Ok(End::Host(NoOptions {})),
            Some(Wire::Address(text)) => Ok(End::Address(address(&text, &at.field("address"))?)),
            Some(Wire::PortForward(name)) => {
                Ok(End::PortForward(required(&name, &at.field("port_forward"))?))
            }
            None => Err(Violations::one(
                at.to_string(),
                "must have exactly one of namespace, attachment, host, address, port_forward",
            )),
        }
    }
}

impl ToPb<pb::DiagnoseEnd> for End {
    fn to_pb(&self) -> pb::DiagnoseEnd {
        use pb::diagnose_end::End as Wire;
        let end = match self {
            End::Namespace(name) => Wire::Namespace(name.to_string()),
            End::Attachment(name) => Wire::Attachment(name.to_string()),
            End::Host(NoOptions {}) => Wire::Host(pb::DiagnoseHost {}),
            End::Address(address) => Wire::Address(address.to_string()),
            End::PortForward(name) => Wire::PortForward(name.to_string()),
        };
        pb::DiagnoseEnd { end: Some(end) }
    }
}

impl FromPb<pb::DiagnoseResponse> for DiagnoseResponse {
    fn from_pb(response: pb::DiagnoseResponse, at: &Path) -> Result<Self, Violations> {
        let pb::DiagnoseResponse { verdict, cause, checks } = response;
        Ok(Self {
            verdict: required(&verdict, &at.field("verdict"))?,
            cause: optional(cause, &at.field("cause"))?,
            checks: list(checks, &at.field("checks"))?,
        })
    }
}

impl ToPb<pb::DiagnoseResponse> for DiagnoseResponse {
    fn to_pb(&self) -> pb::DiagnoseResponse {
        let Self { verdict, cause, checks } = self;
        pb::DiagnoseResponse {
            verdict: verdict.to_string(),
            cause: cause.map(|cause| cause.to_string()),
            checks: all(checks),
        }
    }
}

impl FromPb<pb::DiagnoseCheck> for Check {
    fn from_pb(check: pb::DiagnoseCheck, at: &Path) -> Result<Self, Violations> {
        let pb::DiagnoseCheck { id, status, evidence, fix } = check;
        let (id, status) = (required(&id, &at.field("id"))?, required(&status, &at.field("status"))?);
        Ok(Self { id, status, evidence, fix })
    }
}

impl ToPb<pb::DiagnoseCheck> for Check {
    fn to_pb(&self) -> pb::DiagnoseCheck {
        let Self { id, status, evidence, fix } = self;
        pb::DiagnoseCheck {
            id: id.to_string(),
            status: status.to_string(),
            evidence: evidence.clone(),
            fix: fix.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DiagnoseRequest, String> {
        let read = DiagnoseRequest::from_json(serde_json::from_str(text).unwrap());
        read.map_err(|Violations(all)| format!("{}: {}", all[0].field, all[0].description))
    }

    #[test]
    fn a_question_is_the_same_through_both_doors() {
        for text in [
            r#"{"from": {"namespace": "red"}, "to": {"namespace": "blue"}}"#,
            r#"{"from": {"host": {}}, "to": {"port_forward": "web"}, "probe": true}"#,
            r#"{"from": {"attachment": "red0"}, "to": {"address": "fd00::1"}, "protocol": "udp", "port": 53}"#,
        ] {
            let request = read(text).unwrap();
            assert_eq!(serde_json::to_value(&request).unwrap(), serde_json::from_str::<Value>(text).unwrap());
            assert_eq!(DiagnoseRequest::from_pb(request.to_pb(), &Path::root()), Ok(request));
        }
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused_with_its_field() {
        let cases = [
            (r#"{"from": {"port_forward": "web"}, "to": {"host": {}}}"#, "from: a port forward"),
            (r#"{"from": {"host": {}}, "to": {"host": {}}, "port": 0}"#, "port: must be"),
            (r#"{"from": {"host": {}}, "to": {"host": {}}, "port": 1, "protocol": "icmp"}"#, "port: icmp"),
            (r#"{"from": {"host": {}}, "to": {"host": {}}, "protocol": "gre"}"#, "protocol: "),
            (r#"{"from": {"host": {}}, "to": {"address": "red"}}"#, "to"),
            (r#"{"from": {"host": {}, "namespace": "red"}, "to": {"host": {}}}"#, "from"),
            (r#"{"from": {"host": {}}}"#, ": missing field `to`"),
            (r#"{"from": {"host": {}}, "to": {"host": {}}, "loud": true}"#, "loud"),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let empty = pb::DiagnoseRequest { from: Some(pb::DiagnoseEnd::default()), ..Default::default() };
        assert_eq!(DiagnoseRequest::from_pb(empty, &Path::root()).unwrap_err().0[0].field, "from");
    }

    #[test]
    fn the_documented_checks_are_all_checks_and_ask_the_same() {
        let page = include_str!("../../docs/diagnose.md");
        for id in CheckId::ALL {
            let row = format!("| `{id}` | {} | ", id.about());
            assert!(page.contains(&row), "docs/diagnose.md has no row {row}");
        }
        let table = page.split("| id | what it asks |").nth(1).unwrap_or_default();
        let rows = table.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, CheckId::ALL.len(), "docs/diagnose.md has rows of checks that do not exist");
    }
}
