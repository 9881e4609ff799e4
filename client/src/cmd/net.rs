//! `netloom net`.

use std::net::IpAddr;

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{
    AddressRange, BridgeKind, Cidr, Egress, IfName, Isolation, Name, Network, NetworkKind, NetworkSpec,
    Subnet,
};

use super::{
    Outcome, Session,
    objects::{self, About, By, Remove},
};
use crate::fault::Fault;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a network
    #[command(after_help = ADD_HELP)]
    Add(Box<Add>),
    /// List networks
    #[command(visible_alias = "list", after_help = "Example:\n  netloom net ls")]
    Ls {
        #[command(flatten)]
        by: By,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom net show v-net-0 -o yaml")]
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a network
    #[command(visible_alias = "del", after_help = "Example:\n  netloom net rm v-net-0")]
    Rm(Remove),
}

const ADD_HELP: &str = "\
Example:
  netloom net add v-net-0 --subnet 192.168.15.0/24 --gateway 192.168.15.5 --egress nat
  netloom net add dual --subnet 10.7.0.0/24 --subnet fd00:7::/64 --range 10.7.0.100-10.7.0.199";

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: Name,
    /// A prefix; may be repeated. Without one a free IPv4 subnet is chosen
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<Cidr>,
    /// The host's address in the subnet that holds it [default: the first one]
    #[arg(long = "gateway", value_name = "ADDRESS", requires = "subnets")]
    gateways: Vec<IpAddr>,
    /// Choose addresses from here only, in the subnet that holds it; may be repeated
    #[arg(long = "range", value_name = "FIRST-LAST", requires = "subnets", value_parser = crate::values::range)]
    ranges: Vec<AddressRange>,
    /// How members reach other networks: nat (behind the host's address), nat=ADDRESS[,ADDRESS] (behind these of the host's, one per family), routed (with their own; the LAN must know the way back), none [default: none]
    #[arg(long, value_name = "WAY", value_parser = crate::values::egress)]
    egress: Option<Egress>,
    /// The bridge's device name [default: chosen]
    #[arg(long, value_name = "NAME")]
    device: Option<IfName>,
    /// Use this bridge, which is there already; nothing of it is changed but what netloom adds
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    existing_bridge: Option<IfName>,
    /// Bytes [default: what the uplink, or the existing bridge, carries]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Keep members from each other [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide_possible_values = true, default_missing_value = "true")]
    isolate_members: Option<bool>,
    /// Keep it from other networks; both must say false to talk [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide_possible_values = true, default_missing_value = "true")]
    isolate_networks: Option<bool>,
    /// Keep members from the host [default: true without egress, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide_possible_values = true, default_missing_value = "true")]
    isolate_host: Option<bool>,
    /// Drop frames with a MAC or address that is not the sender's [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, hide_possible_values = true, default_missing_value = "true")]
    spoof_guard: Option<bool>,
    #[command(flatten)]
    about: About,
}

impl Command {
    pub fn writes(&self) -> bool {
        match self {
            Command::Add(_) | Command::Rm(_) => true,
            Command::Ls { .. } | Command::Show { .. } => false,
        }
    }

    pub async fn run(self, session: &Session) -> Result<Outcome> {
        match self {
            Command::Add(add) => {
                let spec = add.spec()?;
                objects::create(session, add.about.draft::<Network>(add.name, spec)?).await
            }
            Command::Ls { by } => objects::ls::<Network>(session, by.options()?).await,
            Command::Show { name } => objects::show::<Network>(session, &name).await,
            Command::Rm(remove) => remove.run::<Network>(session).await,
        }
    }
}

impl Add {
    fn spec(&self) -> Result<NetworkSpec, Fault> {
        let isolation = Isolation {
            members: self.isolate_members,
            networks: self.isolate_networks,
            host: self.isolate_host,
        };
        let existing = self.existing_bridge.is_some().then_some(true);
        let device = self.existing_bridge.as_ref().or(self.device.as_ref()).cloned();
        let bridge = |device| NetworkKind::Bridge(BridgeKind { device: Some(device), existing });
        Ok(NetworkSpec {
            kind: device.map(bridge),
            subnets: self.subnets()?,
            egress: self.egress,
            mtu: self.mtu,
            isolation: Some(isolation).filter(|isolation| *isolation != Isolation::default()),
            spoof_guard: self.spoof_guard,
        })
    }

    /// The subnets, each with the gateway and the ranges that lie in it.
    fn subnets(&self) -> Result<Vec<Subnet>, Fault> {
        let empty = |cidr: &Cidr| Subnet { cidr: Some(*cidr), ..Subnet::default() };
        let mut subnets: Vec<Subnet> = self.subnets.iter().map(empty).collect();
        let index = |address: &IpAddr| {
            let found = self.subnets.iter().position(|cidr| cidr.net().contains(address));
            found.ok_or_else(|| Fault::Usage(format!("{address} is in none of the subnets")))
        };
        for gateway in &self.gateways {
            let subnet = &mut subnets[index(gateway)?];
            if let Some(other) = subnet.gateway.replace(*gateway) {
                return Err(Fault::Usage(format!(
                    "{other} and {gateway} cannot both be the gateway of a subnet"
                )));
            }
        }
        for range in &self.ranges {
            subnets[index(&range.first)?].ranges.push(range.clone());
        }
        Ok(subnets)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        add: Add,
    }

    fn spec(line: &str) -> Result<NetworkSpec, String> {
        let line =
            Line::try_parse_from(["net"].into_iter().chain(line.split(' '))).map_err(|e| e.to_string())?;
        line.add.spec().map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_alone_leaves_everything_unset() {
        assert_eq!(spec("v-net-0"), Ok(NetworkSpec::default()));
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_that_holds_them() {
        let line =
            "dual --subnet 10.7.0.0/24 --subnet fd00:7::/64 --gateway fd00:7::5 --range 10.7.0.8-10.7.0.9";
        let spec = spec(line).unwrap();
        assert_eq!(spec.subnets[0].gateway, None);
        assert_eq!(spec.subnets[0].ranges[0].last, "10.7.0.9".parse::<IpAddr>().unwrap());
        assert_eq!(spec.subnets[1].gateway, Some("fd00:7::5".parse().unwrap()));
        assert!(spec.subnets[1].ranges.is_empty());
    }

    #[test]
    fn flags_are_unset_true_or_what_they_are_set_to() {
        let spec = spec("n --isolate-members --isolate-networks=false --egress routed --device br7").unwrap();
        let isolation = Isolation { members: Some(true), networks: Some(false), host: None };
        assert_eq!(spec.isolation, Some(isolation));
        assert_eq!(spec.egress, Some(Egress::Routed(netloom_client::NoOptions {})));
        assert_eq!(spec.device().map(ToString::to_string).as_deref(), Some("br7"));
        assert_eq!(spec.spoof_guard, None);
    }

    #[test]
    fn an_egress_may_name_addresses_and_a_bridge_may_be_there_already() {
        let made = spec("n --egress nat=192.168.1.2,fd00::2 --existing-bridge br0").unwrap();
        let (address, address_v6) = ("192.168.1.2".parse().ok(), "fd00::2".parse().ok());
        assert_eq!(made.egress, Some(Egress::Nat(netloom_client::NatEgress { address, address_v6 })));
        assert!(made.is_existing());
        let plain = Egress::Nat(netloom_client::NatEgress::default());
        assert_eq!(spec("n --egress nat").unwrap().egress, Some(plain));
        for line in
            ["n --egress nat=x", "n --egress nat=", "n --egress nat=10.0.0.1,10.0.0.2", "n --egress out"]
        {
            assert!(spec(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_gateway_needs_a_subnet_that_holds_it_and_has_no_other() {
        for line in [
            "n --gateway 10.7.0.1",
            "n --subnet 10.7.0.0/24 --gateway 10.8.0.1",
            "n --subnet 10.7.0.0/24 --gateway 10.7.0.1 --gateway 10.7.0.2",
            "n --subnet 10.7.0.0/24 --range 10.8.0.1-10.8.0.2",
            "n --subnet 10.7.0.1/24",
        ] {
            assert!(spec(line).is_err(), "{line}");
        }
    }
}
