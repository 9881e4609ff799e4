//! The host in the words of people who configure it by hand: `ip`, `bridge`, `sysctl` and `nft` lines.

use std::fmt;

use netloom_api::TABLE_MAIN;

use super::{
    Action, Address, Adopted, End, HostNet, Link, LinkKind, Mark, Route, Stack, Step, Sysctl, Way,
    step::LinkChange,
};

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stack::Host => f.write_str("host"),
            Stack::Namespace(name) => write!(f, "{name}"),
        }
    }
}

/// `ip` or `ip -n red`.
fn ip(stack: &Stack) -> String {
    match stack {
        Stack::Host => "ip".into(),
        Stack::Namespace(name) => format!("ip -n {name}"),
    }
}

/// A default route and one that goes nowhere do not tell their family by themselves: `ip -6`.
fn ip_of(route: &Route) -> String {
    let ip = ip(&route.stack);
    if route.destination.addr().is_ipv4() { ip } else { ip.replacen("ip", "ip -6", 1) }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.net, self.link)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stack: _, destination, table, metric, way } = self;
        f.write_str(match way {
            Way::Through { .. } => "",
            Way::Blackhole => "blackhole ",
            Way::Unreachable => "unreachable ",
            Way::Prohibit => "prohibit ",
        })?;
        if destination.prefix_len() == 0 {
            f.write_str("default")?;
        } else {
            destination.fmt(f)?;
        }
        if let Way::Through { via, link } = way {
            if let Some(via) = via {
                write!(f, " via {via}")?;
            }
            write!(f, " dev {link}")?;
        }
        write!(f, " metric {metric}")?;
        if *table == TABLE_MAIN { Ok(()) } else { write!(f, " table {table}") }
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up, mtu, master, hairpin, alias } = self;
        let mut words = Vec::new();
        if let Some(mtu) = mtu {
            words.push(format!("mtu {mtu}"));
        }
        match master {
            Some(Some(bridge)) => words.push(format!("master {bridge}")),
            Some(None) => words.push("nomaster".into()),
            None => {}
        }
        if let Some(hairpin) = hairpin {
            words.push(format!("type bridge_slave hairpin {}", if *hairpin { "on" } else { "off" }));
        }
        if let Some(uid) = alias {
            words.push(format!("alias netloom:{uid}"));
        }
        if let Some(up) = up {
            words.push(if *up { "up" } else { "down" }.into());
        }
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::CreateNamespace { name, uid: _ } => write!(f, "ip netns add {name}"),
            Action::DeleteNamespace { name } => write!(f, "ip netns del {name}"),
            Action::Adopt { name, adopted } => write!(f, "adopt {name} (netns cookie {})", adopted.cookie),
            Action::Release { name } => write!(f, "release {name}"),
            Action::CreateBridge { device, link } => {
                write!(f, "ip link add {device}{} mtu {} type bridge mcast_snooping 0", mac(link), link.mtu)?;
                if link.up { write!(f, "; ip link set {device} up") } else { Ok(()) }
            }
            Action::UseBridge { device, keep_mac: _ } => write!(f, "ip link show {device} type bridge"),
            Action::CreateIfb { device, link } => {
                write!(f, "ip link add {device} mtu {} type ifb", link.mtu)
            }
            Action::CreateCable { near: End { stack, name, link }, far } => {
                write!(f, "{} link add {name}{} mtu {}", ip(stack), mac(link), link.mtu)?;
                if let Some(bridge) = &link.master {
                    write!(f, " master {bridge}")?;
                }
                write!(f, " type veth peer name {}{} mtu {}", far.name, mac(&far.link), far.link.mtu)?;
                match &far.stack {
                    same if same == stack => Ok(()),
                    // As `ip` would be told: the host is where process 1 is.
                    Stack::Host => f.write_str(" netns 1"),
                    Stack::Namespace(name) => write!(f, " netns {name}"),
                }
            }
            Action::SetLink { stack, link, change } => write!(f, "{} link set {link} {change}", ip(stack)),
            Action::DeleteLink { stack, link } => write!(f, "{} link del {link}", ip(stack)),
            Action::AddAddress(address) => write!(f, "{} addr add {address}", ip(&address.stack)),
            Action::DeleteAddress(address) => write!(f, "{} addr del {address}", ip(&address.stack)),
            Action::AddRoute(route) => write!(f, "{} route add {route}", ip_of(route)),
            Action::ReplaceRoute(route) => write!(f, "{} route replace {route}", ip_of(route)),
            Action::DeleteRoute(route) => write!(f, "{} route del {route}", ip_of(route)),
            Action::SetLimit { device, limit } => {
                write!(f, "tc qdisc replace dev {device} root handle 6e6c: {limit}")
            }
            Action::ClearLimit { device } => write!(f, "tc qdisc del dev {device} root"),
            Action::SetDetour { device, through } => write!(
                f,
                "tc qdisc add dev {device} ingress; tc filter add dev {device} ingress prio 28268 u32 match u32 0 0 \
                 action mirred egress redirect dev {through}"
            ),
            Action::ClearDetour { device } => write!(f, "tc qdisc del dev {device} ingress"),
            Action::SetSysctl { stack, sysctl, value } => {
                let name = shown(sysctl);
                match stack {
                    Stack::Host => write!(f, "sysctl -w {name}={value}"),
                    Stack::Namespace(ns) => write!(f, "ip netns exec {ns} sysctl -w {name}={value}"),
                }
            }
            Action::InstallRules { chains: _ } => f.write_str("nft -f netloom.nft"),
            Action::PutChain(name, chain) => {
                write!(f, "nft flush chain inet netloom {name}")?;
                let rules = chain.to_string();
                rules.lines().try_for_each(|rule| write!(f, "; nft add rule inet netloom {name} {rule}"))
            }
            Action::RemoveChain(name) => write!(f, "nft delete chain inet netloom {name}"),
            Action::RemoveRule(element) => write!(f, "nft delete element {element}"),
            Action::AddRule(element) => write!(f, "nft add element {element}"),
            Action::Forget(stale) => {
                let lines: Vec<String> = stale.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("; "))
            }
            Action::Announce(address) => write!(f, "arping -U {} ({})", address.net.addr(), address.link),
        }
    }
}

/// As sysctl(8) takes it: with dots, unless a part has one.
fn shown(sysctl: &Sysctl) -> String {
    let path = sysctl.path();
    if path.contains('.') { path } else { path.replace('/', ".") }
}

fn mac(link: &Link) -> String {
    link.mac.map(|mac| format!(" address {mac}")).unwrap_or_default()
}

/// One line per thing, sorted, so that two hosts can be compared as text.
impl fmt::Display for HostNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is borrowed is a relation of ours, not a thing that the host has.
        let Self {
            namespaces,
            adopted,
            links,
            addresses,
            routes,
            borrowed: _,
            limits,
            detours,
            sysctls,
            rules,
        } = self;
        for (name, mark) in namespaces {
            writeln!(f, "netns {name}{}", foreign(*mark))?;
        }
        for (name, Adopted { uid: _, cookie }) in adopted {
            writeln!(f, "netns {name} adopted cookie {cookie}")?;
        }
        for ((stack, name), link) in links {
            let Link { mark, kind, mac: _, mtu, up, master, hairpin } = link;
            write!(f, "{stack}: link {name}{} mtu {mtu}", mac(link))?;
            match kind {
                LinkKind::Bridge => f.write_str(" bridge")?,
                LinkKind::Veth { peer: Some((stack, peer)) } => write!(f, " veth peer {stack}/{peer}")?,
                LinkKind::Veth { peer: None } => f.write_str(" veth")?,
                LinkKind::Ifb => f.write_str(" ifb")?,
                LinkKind::Other(kind) => write!(f, " {kind}")?,
            }
            if let Some(bridge) = master {
                write!(f, " master {bridge}{}", if *hairpin { " hairpin" } else { "" })?;
            }
            writeln!(f, " {}{}", if *up { "up" } else { "down" }, foreign(*mark))?;
        }
        for (address, mark) in addresses {
            writeln!(f, "{}: addr {address}{}", address.stack, foreign(*mark))?;
        }
        for (route, mark) in routes {
            writeln!(f, "{}: route {route}{}", route.stack, foreign(*mark))?;
        }
        for (device, limit) in limits {
            writeln!(f, "host: limit {device} {limit}")?;
        }
        for (device, through) in detours {
            writeln!(f, "host: detour {device} through {through}")?;
        }
        for ((stack, sysctl), value) in sysctls {
            writeln!(f, "{stack}: sysctl {}={value}", shown(sysctl))?;
        }
        for element in &rules.elements {
            writeln!(f, "nft {element}")?;
        }
        for (name, chain) in &rules.chains {
            // The kernel's rules are known by their marks alone.
            write!(f, "nft inet netloom {name}")?;
            for mark in chain.marks() {
                match mark {
                    Some(mark) => write!(f, " {:016x}", u64::from_be_bytes(*mark))?,
                    None => f.write_str(" (not ours)")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn foreign(mark: Mark) -> &'static str {
    match mark {
        Mark::Object(_) | Mark::Group => "",
        Mark::Foreign => " (not ours)",
    }
}
