//! `netloom policy`.

use std::{collections::BTreeMap, str::FromStr};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use netloom_client::{
    Direction, Labels, ListOptions, Name, Policy, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule,
    PolicySelector, PolicySpec, Prefix,
};

use super::{
    Outcome, Session,
    objects::{self, About, By, Remove, collect},
};
use crate::values::Label;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say which traffic attachments accept, or may send
    #[command(after_help = ADD_HELP)]
    Add(Add),
    /// List policies
    #[command(visible_alias = "list", after_help = "Example:\n  netloom policy ls --network v-net-0")]
    Ls {
        #[command(flatten)]
        by: By,
        /// Only those that select attachments of this network by its name
        #[arg(long, value_name = "NAME")]
        network: Option<Name>,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom policy show db")]
    Show {
        /// Its name
        name: Name,
    },
    /// Take a policy away; what no other selects is open then
    #[command(visible_alias = "del", after_help = "Example:\n  netloom policy rm db")]
    Rm(Remove),
}

const ADD_HELP: &str = "\
What a policy selects is closed in its directions, but for what a rule of some policy allows; answers pass.

RULE is PEERS@PORTS; with PEERS alone, all ports are meant. PEERS are `any`, or with commas between: role=app
(attachments with a label; a + joins conditions: role=app+tier=web+network:v-net-0), network:v-net-0, all (every
attachment), 10.0.0.0/8, or 10.0.0.0/8-10.1.0.0/16 for a prefix without another. PORTS are, with commas between: tcp,
tcp/80, udp/5000-5010, sctp/36412, icmp, icmp/8, icmpv6/128/0 (type and code).

Example:
  netloom policy add db --select role=db --from role=app@tcp/5432 --log
  netloom policy add web --select role=web --from any@tcp/80,tcp/443,icmp --from 192.168.1.0/24
  netloom policy add quiet --network v-net-0 --directions egress --to 192.168.1.0/24-192.168.1.7@udp/53
  netloom policy add closed";

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: Name,
    /// Select attachments with this label; may be repeated, then all are needed [default: every attachment]
    #[arg(long = "select", value_name = "KEY=VALUE")]
    select: Vec<Label>,
    /// Select attachments of this network
    #[arg(long, value_name = "NAME")]
    network: Option<Name>,
    /// ingress, egress, or both with a comma [default: ingress, and egress if there is a --to]
    #[arg(long, value_enum, value_delimiter = ',', hide_possible_values = true, value_name = "DIRECTIONS")]
    directions: Vec<Way>,
    /// What may come to them; may be repeated
    #[arg(long = "from", value_name = "RULE")]
    from: Vec<Rule>,
    /// Where they may go; may be repeated
    #[arg(long = "to", value_name = "RULE")]
    to: Vec<Rule>,
    /// Tell of what is dropped, by events
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    about: About,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Ingress,
    Egress,
}

/// A rule as a word: `role=app,10.0.0.0/8@tcp/80,udp/53`.
#[derive(Clone, Debug)]
struct Rule(PolicyRule);

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (peers, ports) = match text.split_once('@') {
            Some((peers, ports)) => (peers, ports.split(',').map(port).collect::<Result<_, _>>()?),
            None => (text, Vec::new()),
        };
        let peers = match peers {
            "any" => Vec::new(),
            peers => peers.split(',').map(peer).collect::<Result<_, _>>()?,
        };
        Ok(Self(PolicyRule { peers, ports }))
    }
}

fn peer(text: &str) -> Result<PolicyPeer, String> {
    let mut parts = text.split('-');
    let first = parts.next().unwrap_or_default();
    if let Ok(cidr) = first.parse::<Prefix>() {
        let inner = |part: &str| part.parse().map_err(|why| format!("{part} {why}"));
        let except = parts.map(inner).collect::<Result<_, _>>()?;
        return Ok(PolicyPeer { cidr: Some(cidr), except, ..PolicyPeer::default() });
    }
    let mut peer = PolicyPeer::default();
    let mut labels = BTreeMap::new();
    for part in text.split('+').filter(|part| *part != "all") {
        match (part.strip_prefix("network:"), part.split_once('=')) {
            (Some(name), _) if peer.network.is_none() => {
                peer.network = Some(name.parse().map_err(|why| format!("the network {why}"))?);
            }
            (None, Some((key, value))) => drop(labels.insert(key.to_owned(), value.to_owned())),
            (Some(_), _) => return Err(format!("{text:?} names two networks")),
            (None, None) => {
                return Err(format!("{part:?} is no peer: KEY=VALUE, network:NAME, all, or a prefix"));
            }
        }
    }
    peer.labels = Labels::try_from(labels)?;
    Ok(peer)
}

fn port(text: &str) -> Result<PolicyPort, String> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not 0 to 65535"));
    let byte = |text: &str| text.parse::<u8>().map_err(|_| format!("{text:?} is not 0 to 255"));
    let (protocol, rest) = match text.split_once('/') {
        Some((protocol, rest)) => (protocol, Some(rest)),
        None => (text, None),
    };
    let all = PolicyPort::all_of(protocol.parse::<PolicyProtocol>()?);
    let Some(rest) = rest else { return Ok(all) };
    if all.protocol.has_ports() {
        let (port, end_port) = match rest.split_once('-') {
            Some((first, last)) => (first, Some(number(last)?)),
            None => (rest, None),
        };
        return Ok(PolicyPort { port: Some(number(port)?), end_port, ..all });
    }
    let (type_, code) = match rest.split_once('/') {
        Some((type_, code)) => (type_, Some(byte(code)?)),
        None => (rest, None),
    };
    Ok(PolicyPort { type_: Some(byte(type_)?), code, ..all })
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
                let Add { name, select, network, directions, from, to, log, about } = add;
                let direction = |way: Way| match way {
                    Way::Ingress => Direction::Ingress,
                    Way::Egress => Direction::Egress,
                };
                let rules = |rules: Vec<Rule>| rules.into_iter().map(|Rule(rule)| rule).collect();
                let spec = PolicySpec {
                    selector: PolicySelector { labels: collect(select)?, network },
                    directions: directions.into_iter().map(direction).collect(),
                    ingress: rules(from),
                    egress: rules(to),
                    log: log.then_some(true),
                };
                objects::create(session, about.draft::<Policy>(name, spec)?).await
            }
            Command::Ls { by, network } => {
                objects::ls::<Policy>(session, ListOptions { network, ..by.options()? }).await
            }
            Command::Show { name } => objects::show::<Policy>(session, &name).await,
            Command::Rm(remove) => remove.run::<Policy>(session).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_peers_and_ports() {
        for (text, rule) in [
            ("any", json!({})),
            ("all", json!({"peers": [{}]})),
            ("any@tcp/80,icmp", json!({"ports": [{"protocol": "tcp", "port": 80}, {"protocol": "icmp"}]})),
            ("role=app", json!({"peers": [{"labels": {"role": "app"}}]})),
            (
                "role=app+tier=web+network:v-net-0,network:lan@udp/5000-5010",
                json!({"peers": [{"labels": {"role": "app", "tier": "web"}, "network": "v-net-0"}, {"network": "lan"}],
                    "ports": [{"protocol": "udp", "port": 5000, "end_port": 5010}]}),
            ),
            (
                "10.0.0.0/8-10.1.0.0/16-10.2.0.1,fd00::/8@icmpv6/128/0",
                json!({"peers": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.1/32"]}, {"cidr": "fd00::/8"}],
                    "ports": [{"protocol": "icmpv6", "type": 128, "code": 0}]}),
            ),
        ] {
            let Rule(read) = text.parse().unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), rule, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in
            ["", "app", "any,role=app", "role=app@", "any@80", "any@tcp/x", "any@tcp/1-x", "any@icmp/256"]
        {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        for bad in ["network:a+network:b", "network:A", "10.0.0.0/8-x", "10.0.0.1/8", "all,"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
