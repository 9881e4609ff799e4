//! `netloom state`: the kernel's own words.

use anyhow::Result;
use clap::Args;
use netloom_client::{InterfaceState, Name, NamespaceState, NeighbourState, ProcessState, RouteState};

use super::{Outcome, Session};
use crate::output::table;

/// The kernel's own routes to its own addresses; the table is left out for people, as `ip route` does.
const LOCAL_TABLE: u32 = 255;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom state red\n  netloom state host -o json")]
pub struct State {
    /// A namespace, or `host`
    name: Name,
}

impl State {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let state = session.client().await?.state(&self.name).await?;
        let names = |state: &NamespaceState| state.interfaces.iter().map(|one| one.name.clone()).collect();
        session.format.show(&state, people, names)?;
        Ok(Outcome::Done)
    }
}

fn people(state: &NamespaceState) -> String {
    let NamespaceState { name: _, interfaces, routes, neighbours, rules, processes } = state;
    let routes: Vec<&RouteState> = routes.iter().filter(|route| route.table != LOCAL_TABLE).collect();
    let parts = [
        section(
            interfaces.iter().map(interface),
            &["INTERFACE", "TYPE", "STATE", "MTU", "MAC", "ADDRESSES", "OWNER"],
        ),
        section(
            routes.into_iter().map(route),
            &["ROUTE", "VIA", "INTERFACE", "SOURCE", "METRIC", "PROTOCOL"],
        ),
        section(neighbours.iter().map(neighbour), &["NEIGHBOUR", "INTERFACE", "MAC", "STATE"]),
        section(processes.iter().map(process), &["PID", "PID INSIDE", "COMMAND"]),
        section(rules.iter().map(|rule| vec![rule.clone()]), &["RULES"]),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// A table, if there is anything in it.
fn section(rows: impl Iterator<Item = Vec<String>>, head: &[&str]) -> Option<String> {
    let rows: Vec<Vec<String>> = rows.collect();
    (!rows.is_empty()).then(|| table(head, rows))
}

fn interface(one: &InterfaceState) -> Vec<String> {
    let name = match &one.master {
        Some(master) => format!("{} @{master}", one.name),
        None => one.name.clone(),
    };
    let state = if one.up { one.operstate.clone() } else { "off".into() };
    vec![
        name,
        one.type_.clone(),
        state,
        one.mtu.to_string(),
        one.mac.clone().unwrap_or_default(),
        one.addresses.join(","),
        one.owner.clone().unwrap_or_default(),
    ]
}

fn route(one: &RouteState) -> Vec<String> {
    let destination = match one.type_.as_str() {
        "unicast" => one.destination.clone(),
        type_ => format!("{type_} {}", one.destination),
    };
    vec![
        destination,
        one.via.clone().unwrap_or_default(),
        one.interface.clone().unwrap_or_default(),
        one.source.clone().unwrap_or_default(),
        one.metric.map(|metric| metric.to_string()).unwrap_or_default(),
        one.protocol.clone(),
    ]
}

fn neighbour(one: &NeighbourState) -> Vec<String> {
    vec![one.address.clone(), one.interface.clone(), one.mac.clone().unwrap_or_default(), one.state.clone()]
}

fn process(one: &ProcessState) -> Vec<String> {
    vec![one.pid.to_string(), one.inside_pid.to_string(), one.command.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_in_tables_and_what_is_empty_is_left_out() {
        let state = NamespaceState {
            name: "red".into(),
            interfaces: vec![InterfaceState {
                ifindex: 2,
                name: "eth0".into(),
                type_: "veth".into(),
                mtu: 1500,
                up: true,
                operstate: "up".into(),
                addresses: vec!["192.168.15.1/24".into()],
                ..InterfaceState::default()
            }],
            routes: vec![
                RouteState {
                    destination: "default".into(),
                    via: Some("192.168.15.5".into()),
                    table: 254,
                    type_: "unicast".into(),
                    protocol: "netloom".into(),
                    ..RouteState::default()
                },
                RouteState { destination: "192.168.15.1".into(), table: 255, ..RouteState::default() },
            ],
            neighbours: Vec::new(),
            rules: Vec::new(),
            processes: vec![ProcessState { pid: 4711, inside_pid: 1, command: "sleep".into() }],
        };
        let text = people(&state);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["eth0", "veth", "up", "1500", "192.168.15.1/24"]);
        assert_eq!(lines[4], ["default", "192.168.15.5", "netloom"]);
        assert_eq!(lines[7], ["4711", "1", "sleep"]);
        assert_eq!(lines.len(), 8, "{text}");
    }
}
