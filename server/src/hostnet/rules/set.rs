//! Every set and map of the two tables: name, key, data.

use SetId::*;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `table inet netloom`
    Inet,
    /// `table bridge netloom`
    Bridge,
}

/// One field of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A link's name, or one of ours that is as short: 16 bytes.
    Ifname,
    /// 4 bytes.
    Ipv4,
    /// 16 bytes.
    Ipv6,
    /// 6 bytes.
    Ether,
    /// 1 byte.
    InetProto,
    /// 2 bytes.
    InetService,
}

/// What a map's element holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    /// It is a set.
    None,
    /// A verdict.
    Verdict,
    /// An address.
    Ipv4,
    /// An address.
    Ipv6,
    /// An address and a port.
    Ipv4Service,
    /// An address and a port.
    Ipv6Service,
    /// A MAC address.
    Ether,
}

/// How a set looks a key up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Exactly: a hash.
    Exact,
    /// Exactly, and each element counts.
    Counted,
    /// By interval: a tree, or for several fields pipapo.
    Interval,
}

macro_rules! sets {
    ($($id:ident $name:literal $family:ident [$($field:ident)+] $data:ident $shape:ident;)*) => {
        /// A set or map of the firewall, as `ruleset.md` names them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum SetId { $($id,)* }

        impl SetId {
            /// Every set, in the order in which they are made.
            pub const ALL: &[SetId] = &[$($id,)*];

            /// Its name in its table.
            pub fn name(self) -> &'static str {
                match self { $($id => $name,)* }
            }

            /// Its table.
            pub fn family(self) -> Family {
                match self { $($id => Family::$family,)* }
            }

            /// The fields of its key.
            pub fn key(self) -> &'static [Field] {
                match self { $($id => &[$(Field::$field,)+],)* }
            }

            /// What its elements hold.
            pub fn data(self) -> DataType {
                match self { $($id => DataType::$data,)* }
            }

            /// How it looks a key up.
            pub fn shape(self) -> Shape {
                match self { $($id => Shape::$shape,)* }
            }
        }
    };
}

sets! {
    Bridges "bridges" Inet [Ifname] None Exact;
    Egress "egress" Inet [Ifname] None Exact;
    Routed "routed" Inet [Ifname] None Exact;
    Open "open" Inet [Ifname] None Exact;
    Hostok "hostok" Inet [Ifname] None Exact;
    Same "same" Inet [Ifname Ifname] Verdict Exact;
    Own4 "own4" Inet [Ipv4] None Interval;
    Own6 "own6" Inet [Ipv6] None Interval;
    Masq4 "masq4" Inet [Ipv4] None Interval;
    Masq6 "masq6" Inet [Ipv6] None Interval;
    Snat4 "snat4" Inet [Ipv4] Ipv4 Interval;
    Snat6 "snat6" Inet [Ipv6] Ipv6 Interval;
    Hairpin4 "hairpin4" Inet [Ifname Ipv4] None Exact;
    Hairpin6 "hairpin6" Inet [Ifname Ipv6] None Exact;
    Notransit "notransit" Inet [Ifname] None Exact;
    Api "api" Inet [InetProto InetService] None Exact;
    Fwd4 "fwd4" Inet [Ipv4 InetProto InetService] Ipv4Service Exact;
    Fwd4any "fwd4any" Inet [InetProto InetService] Ipv4Service Exact;
    Fwd6 "fwd6" Inet [Ipv6 InetProto InetService] Ipv6Service Exact;
    Fwd6any "fwd6any" Inet [InetProto InetService] Ipv6Service Exact;
    Rng4 "rng4" Inet [Ipv4 InetProto InetService] Ipv4 Interval;
    Rng4any "rng4any" Inet [InetProto InetService] Ipv4 Interval;
    Rng6 "rng6" Inet [Ipv6 InetProto InetService] Ipv6 Interval;
    Rng6any "rng6any" Inet [InetProto InetService] Ipv6 Interval;
    Gate4 "gate4" Inet [Ipv4 InetProto InetService] None Exact;
    Gate4any "gate4any" Inet [InetProto InetService] None Exact;
    Gate6 "gate6" Inet [Ipv6 InetProto InetService] None Exact;
    Gate6any "gate6any" Inet [InetProto InetService] None Exact;
    Grng4 "grng4" Inet [Ipv4 InetProto InetService] None Interval;
    Grng4any "grng4any" Inet [InetProto InetService] None Interval;
    Grng6 "grng6" Inet [Ipv6 InetProto InetService] None Interval;
    Grng6any "grng6any" Inet [InetProto InetService] None Interval;
    Src4 "src4" Inet [Ipv4 InetProto InetService Ipv4] None Interval;
    Src4any "src4any" Inet [InetProto InetService Ipv4] None Interval;
    Src6 "src6" Inet [Ipv6 InetProto InetService Ipv6] None Interval;
    Src6any "src6any" Inet [InetProto InetService Ipv6] None Interval;
    Eg4 "eg4" Inet [Ipv4] Verdict Exact;
    Eg6 "eg6" Inet [Ipv6] Verdict Exact;
    In4 "in4" Inet [Ipv4] Verdict Exact;
    In6 "in6" Inet [Ipv6] Verdict Exact;
    Sel4 "sel4" Inet [Ipv4] None Exact;
    Sel6 "sel6" Inet [Ipv6] None Exact;
    Den4 "den4" Inet [Ipv4] None Counted;
    Den6 "den6" Inet [Ipv6] None Counted;
    Peer4 "peer4" Inet [Ifname Ipv4] None Exact;
    Peer6 "peer6" Inet [Ifname Ipv6] None Exact;
    Denied "denied" Inet [Ifname] None Counted;
    Guard4 "guard4" Bridge [Ifname Ether Ipv4] None Exact;
    Guard6 "guard6" Bridge [Ifname Ether Ipv6] None Exact;
    Noguard "noguard" Bridge [Ifname] None Exact;
    Spoofed "spoofed" Bridge [Ifname] None Counted;
    Brmac "brmac" Bridge [Ifname] Ether Exact;
    Route4 "route4" Bridge [Ipv4] None Exact;
    Route6 "route6" Bridge [Ipv6] None Exact;
    Quiet "quiet" Bridge [Ifname] None Exact;
    Iso "iso" Bridge [Ifname] None Exact;
    Selfdrop "self" Bridge [Ifname Ifname] None Exact;
}
