//! Who reaches whom: measured by packets, compared with what the lab expects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::Context as _;
use netloom_api::{AnyDraft, Attachment, Link, Namespace, Network, Object, Protocol};

use super::document::{Expectation, Expected, LabSpec};
use crate::{
    controller::{Controller, ListQuery, PAGE_MAX, Rights},
    kernel::{
        echo::{EchoServer, serve_tcp, serve_udp},
        lan::Lan,
        netns,
        probe::{self, Verdict},
    },
};

/// The port of RFC 862, used where a lab asks who is seen but names no port.
const ECHO_PORT: u16 = 7;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Silence is judged sooner where silence is expected, but not before the kernel has asked once more for the neighbour's
/// MAC address (after a second): an interface that has just come up may have lost the first question.
const SILENT_AFTER: Duration = Duration::from_millis(1200);
/// So many lines are measured at once.
const AT_ONCE: usize = 8;

/// A machine of the lab: who can ask, and be asked.
struct Place {
    namespace: OwnedFd,
    addresses: Vec<IpAddr>,
}

/// Ports of the host, and where they lead.
struct Published {
    protocol: Protocol,
    first: u16,
    last: u16,
    /// The port that the first one leads to.
    target: u16,
    namespace: String,
}

impl Published {
    fn covers(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}

pub(super) struct Matrix {
    places: BTreeMap<String, Place>,
    /// The addresses of the host that members of a Namespace would use: their gateways, and the other ends of their cables.
    gateways: BTreeMap<String, Vec<IpAddr>>,
    lines: Vec<Expectation>,
    judged: bool,
    forwards: Vec<Published>,
}

/// The addresses that Links have in a namespace, or on the host.
fn typed(links: &[Object<Link>], namespace: &str) -> impl Iterator<Item = IpAddr> {
    let ends = links.iter().flat_map(|link| &link.spec.ends);
    let here = ends.filter(move |end| end.namespace.as_str() == namespace);
    here.flat_map(|end| end.addresses.iter().map(|address| address.0.addr()))
}

/// One measured line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    from: String,
    to: String,
    how: String,
    measured: String,
    expected: Option<String>,
    wrong: bool,
}

impl Line {
    pub(super) fn is_wrong(&self) -> bool {
        self.wrong
    }
}

impl Matrix {
    pub(super) fn of(controller: &Controller, spec: &LabSpec, lan: Option<&Lan>) -> anyhow::Result<Self> {
        let everything = ListQuery { page_size: Some(PAGE_MAX), ..ListQuery::default() };
        let attachments = controller.list::<Attachment>(&everything, &Rights::Full)?.items;
        let networks = controller.list::<Network>(&everything, &Rights::Full)?.items;
        let links = controller.list::<Link>(&everything, &Rights::Full)?.items;
        let mut places = BTreeMap::new();
        let mut gateways: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for namespace in controller.list::<Namespace>(&everything, &Rights::Full)?.items {
            let name = namespace.meta.name;
            let mine = || attachments.iter().filter(|attachment| attachment.spec.namespace == name);
            let addresses =
                mine().flat_map(|one| one.status.noun.addresses.iter().map(|address| address.0.addr()));
            let of = mine()
                .flat_map(|one| networks.iter().filter(|network| network.meta.name == one.spec.network));
            let gateway =
                of.flat_map(|network| network.status.noun.subnets.iter().map(|subnet| subnet.gateway));
            let to_host = links.iter().filter(|link| link.spec.ends.iter().any(|end| end.namespace == name));
            let to_host: Vec<Object<Link>> = to_host.cloned().collect();
            gateways.insert(name.to_string(), gateway.chain(typed(&to_host, "host")).collect());
            let fd = controller.open_namespace(&name).with_context(|| format!("namespace {name}"))?;
            let addresses = addresses.chain(typed(&links, name.as_str())).collect();
            places.insert(name.to_string(), Place { namespace: fd, addresses });
        }
        let on_lan = spec.lan.as_ref().map(|lan| lan.host.to_vec()).unwrap_or_default();
        let on_host = on_lan.iter().map(|net| net.addr()).chain(typed(&links, "host"));
        let host = Place { namespace: netns::own()?, addresses: on_host.collect() };
        places.insert("host".into(), host);
        for (name, peer) in lan.into_iter().flat_map(Lan::peers) {
            let namespace = peer.as_fd().try_clone_to_owned()?;
            let addresses = peer.addresses().iter().map(|net| net.addr()).collect();
            places.insert(name.to_owned(), Place { namespace, addresses });
        }
        let mut forwards = Vec::new();
        for draft in controller.drafts(None, false) {
            if let AnyDraft::PortForward(forward) = draft {
                let target = attachments.iter().find(|one| one.meta.name == forward.spec.target.attachment);
                let listen = &forward.spec.listen;
                if let Some(target) = target {
                    forwards.push(Published {
                        protocol: forward.spec.protocol,
                        first: listen.port,
                        last: listen.end_port.unwrap_or(listen.port),
                        target: forward.spec.target.port.unwrap_or(listen.port),
                        namespace: target.spec.namespace.to_string(),
                    });
                }
            }
        }
        let judged = !spec.expect.is_empty();
        let lines = if judged { spec.expect.clone() } else { everybody(places.keys()) };
        Ok(Self { places, gateways, lines, judged, forwards })
    }

    pub(super) fn measure(&self) -> anyhow::Result<Vec<Line>> {
        let _servers = self.serve()?;
        let mut measured = Vec::new();
        for lines in self.lines.chunks(AT_ONCE) {
            let asked = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    lines.iter().map(|line| scope.spawn(|| self.measure_one(line))).collect();
                threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
            });
            for line in asked {
                measured.push(line.map_err(|_| anyhow::anyhow!("a probe died"))??);
            }
        }
        Ok(measured)
    }

    /// Echo servers wherever a line may lead to, each telling who it is.
    fn serve(&self) -> anyhow::Result<Vec<EchoServer>> {
        let mut wanted: BTreeSet<(String, Protocol, u16)> = BTreeSet::new();
        for Published { protocol, target, namespace, .. } in &self.forwards {
            wanted.insert((namespace.clone(), *protocol, *target));
        }
        for line in &self.lines {
            let Some(port) = self.port(line) else { continue };
            let protocol = line.protocol.unwrap_or(Protocol::Tcp);
            let published = || self.forwards.iter().filter(|one| one.covers(protocol, port));
            for Published { first, target, namespace, .. } in published() {
                wanted.insert((namespace.clone(), protocol, target + (port - first)));
            }
            if let Some(owner) = self.owner(&line.to)
                && (owner != "host" || published().next().is_none())
            {
                wanted.insert((owner, protocol, port));
            }
        }
        let mut servers = Vec::new();
        for (name, protocol, port) in wanted {
            let Some(place) = self.places.get(&name) else { continue };
            for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                let at = SocketAddr::new(any, port);
                let served = match protocol {
                    Protocol::Tcp => serve_tcp(&place.namespace, at, &name),
                    Protocol::Udp => serve_udp(&place.namespace, at, &name),
                    Protocol::Sctp => anyhow::bail!("the lab has no probe of SCTP: leave it out of `expect`"),
                };
                match served {
                    Ok(server) => servers.push(server),
                    // The daemon holds published ports of the host itself; and a host may have no IPv6.
                    Err(_) if name == "host" || any.is_ipv6() => {}
                    Err(error) => {
                        return Err(error).with_context(|| format!("port {port} of {name} cannot be served"));
                    }
                }
            }
        }
        Ok(servers)
    }

    /// Whose address or name this is.
    fn owner(&self, to: &str) -> Option<String> {
        if self.places.contains_key(to) {
            return Some(to.to_owned());
        }
        let address: IpAddr = to.parse().ok()?;
        let holder = self.places.iter().find(|(_, place)| place.addresses.contains(&address));
        let gateway =
            self.gateways.values().flatten().any(|gateway| *gateway == address).then(|| "host".to_owned());
        holder.map(|(name, _)| name.clone()).or(gateway)
    }

    fn port(&self, line: &Expectation) -> Option<u16> {
        let asks_who = line.source.is_some() || line.answered_by.is_some();
        line.port.or(asks_who.then_some(ECHO_PORT))
    }

    /// The addresses that `from` would use for `to`.
    fn targets(&self, from: &str, to: &str) -> anyhow::Result<Vec<IpAddr>> {
        if let Ok(address) = to.parse() {
            return Ok(vec![address]);
        }
        if to == "host"
            && let Some(gateways) = self.gateways.get(from)
        {
            return Ok(gateways.clone());
        }
        let place = self
            .places
            .get(to)
            .with_context(|| format!("{to:?} is no namespace, peer or address of the lab"))?;
        anyhow::ensure!(!place.addresses.is_empty(), "{to} has no address; name one");
        Ok(place.addresses.clone())
    }

    fn measure_one(&self, line: &Expectation) -> anyhow::Result<Line> {
        let from = self
            .places
            .get(&line.from)
            .with_context(|| format!("{:?} is no namespace or peer of the lab", line.from))?;
        let port = self.port(line);
        let protocol = line.protocol.unwrap_or(Protocol::Tcp);
        let mut answers = Vec::new();
        for target in self.targets(&line.from, &line.to)? {
            let within = if line.result == Expected::Reachable { ANSWER_WITHIN } else { SILENT_AFTER };
            answers.push(ask(from.namespace.as_fd(), target, protocol, port, within)?);
        }
        let how = port.map_or_else(|| "icmp".to_owned(), |port| format!("{protocol}/{port}"));
        let right = answers.iter().all(|answer| match line.result {
            Expected::Reachable => {
                answer.reached()
                    && line.source.is_none_or(|source| answer.seen().is_some_and(|seen| seen.ip() == source))
                    && line.answered_by.as_ref().is_none_or(|who| answer.by() == Some(who))
            }
            Expected::Unreachable => !answer.reached(),
        });
        Ok(Line {
            from: line.from.clone(),
            to: line.to.clone(),
            how,
            measured: answers.iter().map(words).collect::<Vec<_>>().join(", "),
            expected: self.judged.then(|| expected(line)),
            wrong: self.judged && !right,
        })
    }
}

/// Everybody asks everybody.
fn everybody<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Vec<Expectation> {
    let pairs = names
        .clone()
        .flat_map(|from| names.clone().map(move |to| (from, to)))
        .filter(|(from, to)| from != to);
    let line = |(from, to): (&String, &String)| Expectation {
        from: from.clone(),
        to: to.clone(),
        port: None,
        protocol: None,
        source: None,
        answered_by: None,
        result: Expected::Reachable,
    };
    pairs.map(line).collect()
}

fn ask(
    from: BorrowedFd<'_>,
    target: IpAddr,
    protocol: Protocol,
    port: Option<u16>,
    within: Duration,
) -> anyhow::Result<Verdict> {
    Ok(match (port, protocol) {
        (None, _) => probe::ping(from, target, within)?,
        (Some(port), Protocol::Tcp) => probe::tcp_exchange(from, SocketAddr::new(target, port), within)?,
        (Some(port), Protocol::Udp) => probe::udp_exchange(from, SocketAddr::new(target, port), within)?,
        (Some(_), Protocol::Sctp) => anyhow::bail!("the lab has no probe of SCTP: leave it out of `expect`"),
    })
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Answered { after, echo } => {
            let took = format!("{:.2} ms", after.as_secs_f64() * 1000.0);
            match echo {
                Some(echo) => format!("{} saw {} ({took})", echo.by, echo.seen.ip()),
                None => format!("yes ({took})"),
            }
        }
        Verdict::Refused => "no: refused".into(),
        Verdict::Unreachable(errno) => format!("no: {}", errno.desc()),
        Verdict::Silent => "no: silence".into(),
    }
}

fn expected(line: &Expectation) -> String {
    match line.result {
        Expected::Unreachable => "no".into(),
        Expected::Reachable => {
            let who = line.answered_by.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
            let source = line.source.map(|source| format!(" seeing {source}")).unwrap_or_default();
            format!("yes{who}{source}")
        }
    }
}

/// The matrix as a table.
pub(super) fn show(lines: &[Line]) -> String {
    let mut rows = vec![["FROM", "TO", "BY", "MEASURED", "EXPECTED", ""].map(str::to_owned)];
    for Line { from, to, how, measured, expected, wrong } in lines {
        let verdict = match (expected, wrong) {
            (None, _) => "",
            (Some(_), false) => "ok",
            (Some(_), true) => "WRONG",
        };
        let expected = expected.clone().unwrap_or_default();
        rows.push([from.clone(), to.clone(), how.clone(), measured.clone(), expected, verdict.to_owned()]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
