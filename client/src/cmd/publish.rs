//! `netloom publish`, `unpublish` and `forwards`.

use std::{net::IpAddr, str::FromStr};

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{Listen, Name, PortForward, PortForwardSpec, Prefix, Protocol, Target};

use super::{
    Outcome, Session,
    objects::{self, About, Remove, Within},
};
use crate::fault::Fault;

#[derive(Debug, Args)]
#[command(after_help = PUBLISH_HELP)]
pub struct Publish {
    /// What to publish: [ADDRESS:]PORT[-PORT]:ATTACHMENT[:PORT[-PORT]][/tcp|/udp|/sctp]; port 0: one is chosen
    #[arg(value_name = "SPEC")]
    spec: Published,
    /// The forward's name [default: from what it listens on, as tcp-8080]
    #[arg(long)]
    name: Option<Name>,
    /// Only these may use it; may be repeated [default: everybody]
    #[arg(long = "source", value_name = "CIDR")]
    sources: Vec<Prefix>,
    /// tcp, udp or sctp, as after the / of SPEC
    #[arg(long)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    about: About,
}

const PUBLISH_HELP: &str = "\
Example:
  netloom publish 8080:blue0:80
  netloom publish 192.168.1.2:80:blue0:8080 --name web
  netloom publish [2001:db8::2]:53:blue0/udp
  netloom publish 8000-8010:blue0
  netloom publish 0:blue0:80
  netloom publish 8080:blue0:80 --source 10.0.0.0/8 --protocol udp
  netloom publish 127.0.0.1:5432:blue0";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom unpublish tcp-8080")]
pub struct Unpublish {
    #[command(flatten)]
    remove: Remove,
}

#[derive(Debug, Subcommand)]
pub enum Look {
    /// List published ports
    #[command(visible_alias = "list", after_help = "Example:\n  netloom forwards ls --namespace blue")]
    Ls(Within),
    /// Show one in full
    #[command(after_help = "Example:\n  netloom forwards show tcp-8080")]
    Show {
        /// Its name
        name: Name,
    },
}

/// What is published, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    spec: PortForwardSpec,
    /// It was said, and is no default.
    says_protocol: bool,
}

impl Publish {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let Publish { spec: Published { mut spec, says_protocol }, name, sources, protocol, about } = self;
        match protocol {
            Some(other) if says_protocol && other != spec.protocol => {
                let why = format!("--protocol says {other}, and SPEC {}; leave one out", spec.protocol);
                return Err(Fault::Usage(why).into());
            }
            Some(protocol) => spec.protocol = protocol,
            None => {}
        }
        spec.sources = sources;
        let name = name.map_or_else(|| default_name(&spec), Ok)?;
        objects::create(session, about.draft::<PortForward>(name, spec)?).await
    }
}

impl Unpublish {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        self.remove.run::<PortForward>(session).await
    }
}

impl Look {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        match self {
            Look::Ls(within) => objects::ls::<PortForward>(session, within.options()?).await,
            Look::Show { name } => objects::show::<PortForward>(session, &name).await,
        }
    }
}

impl FromStr for Published {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, protocol)) => (rest, Some(protocol.parse()?)),
            None => (text, None),
        };
        let (address, rest) = split_address(rest)?;
        let mut parts = rest.split(':');
        let (port, end_port) = match parts.next().unwrap_or_default() {
            "0" => (0, None),
            text => ports(text)?,
        };
        let attachment = parts.next().ok_or("the attachment is missing, as in 8080:blue0:80")?;
        let attachment = attachment
            .parse()
            .map_err(|why| format!("{attachment:?} is not an attachment's name: it {why}"))?;
        let target = parts.next().map(ports).transpose()?;
        if parts.next().is_some() {
            return Err("has too many parts; it is [ADDRESS:]PORT:ATTACHMENT[:PORT], IPv6 in brackets".into());
        }
        let count = |first: u16, last: Option<u16>| last.unwrap_or(first) - first;
        if let Some((first, last @ Some(_))) = target
            && count(first, last) != count(port, end_port)
        {
            return Err("the two ranges must be of the same length".into());
        }
        let listen = Listen { address, port, end_port };
        let target = Target { attachment, port: target.map(|(first, _)| first) };
        if listen.is_chosen() && target.port.is_none() {
            return Err("the target's port is needed where the host's is chosen, as in 0:blue0:80".into());
        }
        let (says_protocol, protocol) = (protocol.is_some(), protocol.unwrap_or(Protocol::Tcp));
        let spec = PortForwardSpec { protocol, listen, target, sources: Vec::new() };
        Ok(Self { spec, says_protocol })
    }
}

/// The address in front, if there is one: IPv6 in brackets, IPv4 by its dots.
fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    let (address, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once("]:").ok_or("the address ends with ]: and a port follows")?,
        None => match text.split_once(':') {
            Some((first, rest)) if first.contains('.') => (first, rest),
            Some(_) | None => return Ok((None, text)),
        },
    };
    let parsed: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an address"))?;
    if text.starts_with('[') != parsed.is_ipv6() {
        return Err(format!("{address:?} is not an IPv6 address; only such need brackets"));
    }
    Ok((Some(parsed), rest))
}

/// `8000` or `8000-8010`.
fn ports(text: &str) -> Result<(u16, Option<u16>), String> {
    let port = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a port from 1 to 65535")),
        Ok(port) => Ok(port),
    };
    match text.split_once('-') {
        None => Ok((port(text)?, None)),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (first, last) if first <= last => Ok((first, Some(last))),
            (first, last) => Err(format!("{first}-{last} ends before it begins")),
        },
    }
}

/// `tcp-8080`, or with the address it listens on: the same command has the same name, so it cannot be done twice.
fn default_name(spec: &PortForwardSpec) -> Result<Name, Fault> {
    let Listen { address, port, end_port } = &spec.listen;
    if spec.listen.is_chosen() {
        // Nothing that it listens on is known yet; whom it leads to is.
        let to = spec.target.port.unwrap_or_default();
        let name = format!("{}-{to}-{}", spec.target.attachment, spec.protocol);
        return name.parse().map_err(|why| Fault::Usage(format!("{name} {why}; give a name with --name")));
    }
    let address = address.map(|address| format!("-{}", address.to_string().replace(['.', ':'], "-")));
    let end = end_port.map(|end| format!("-{end}"));
    let name = format!("{}{}-{port}{}", spec.protocol, address.unwrap_or_default(), end.unwrap_or_default());
    name.parse().map_err(|why| Fault::Usage(format!("{name} {why}; give a name with --name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `protocol address port end_port attachment target_port`, `-` for what is unset.
    fn read(text: &str) -> Result<String, String> {
        let Published { spec, says_protocol: _ } = text.parse()?;
        let PortForwardSpec { protocol, listen, target, sources: _ } = spec;
        let or = |value: Option<u16>| value.map_or("-".into(), |value| value.to_string());
        let address = listen.address.map_or("-".into(), |address| address.to_string());
        let (end, to) = (or(listen.end_port), or(target.port));
        Ok(format!("{protocol} {address} {} {end} {} {to}", listen.port, target.attachment))
    }

    #[test]
    fn every_way_to_publish_is_understood() {
        for (text, wanted) in [
            ("8080:blue0:80", "tcp - 8080 - blue0 80"),
            ("8080:blue0", "tcp - 8080 - blue0 -"),
            ("53:blue0:53/udp", "udp - 53 - blue0 53"),
            ("53:blue0/tcp", "tcp - 53 - blue0 -"),
            ("192.168.1.2:80:blue0:8080", "tcp 192.168.1.2 80 - blue0 8080"),
            ("127.0.0.1:5432:blue0", "tcp 127.0.0.1 5432 - blue0 -"),
            ("[2001:db8::2]:80:blue0:8080/udp", "udp 2001:db8::2 80 - blue0 8080"),
            ("8000-8010:blue0", "tcp - 8000 8010 blue0 -"),
            ("8000-8010:blue0:9000", "tcp - 8000 8010 blue0 9000"),
            ("8000-8010:blue0:9000-9010/udp", "udp - 8000 8010 blue0 9000"),
            ("10.0.0.1:8000-8010:blue0", "tcp 10.0.0.1 8000 8010 blue0 -"),
            ("80:80", "tcp - 80 - 80 -"),
            ("0:blue0:80", "tcp - 0 - blue0 80"),
            ("127.0.0.1:0:blue0:53/udp", "udp 127.0.0.1 0 - blue0 53"),
            ("9000:blue0/sctp", "sctp - 9000 - blue0 -"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_the_part_that_is_wrong() {
        for (text, part) in [
            ("", "port"),
            ("8080", "attachment"),
            ("8080:", "attachment"),
            (":blue0:80", "port"),
            ("0:blue0", "target's port"),
            ("0-10:blue0:80", "\"0\""),
            ("65536:blue0", "65536"),
            ("8080:blue0:0", "\"0\""),
            ("8080:Blue0:80", "Blue0"),
            ("8080:blue0:80:90", "too many"),
            ("8080:blue0:80/icmp", "icmp"),
            ("8080:blue0:80/", "tcp, udp, sctp"),
            ("8010-8000:blue0", "ends before"),
            ("8000-8010:blue0:9000-9001", "same length"),
            ("8000:blue0:9000-9001", "same length"),
            ("1.2.3:80:blue0", "1.2.3"),
            ("[1.2.3.4]:80:blue0", "IPv6"),
            ("[::1:80:blue0", "]"),
            ("2001:db8::2:80:blue0", "blue0"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(part) || part == "blue0", "{text}: {error}");
        }
    }

    #[test]
    fn the_default_name_tells_what_is_listened_on() {
        for (text, name) in [
            ("8080:blue0:80", "tcp-8080"),
            ("53:blue0/udp", "udp-53"),
            ("8000-8010:blue0", "tcp-8000-8010"),
            ("0:blue0:80", "blue0-80-tcp"),
            ("192.168.1.2:80:blue0", "tcp-192-168-1-2-80"),
            ("[2001:db8::2]:80:blue0", "tcp-2001-db8--2-80"),
            (
                "[2001:db8:1111:2222:3333:4444:5555:6666]:60000-60001:b",
                "tcp-2001-db8-1111-2222-3333-4444-5555-6666-60000-60001",
            ),
        ] {
            let Published { spec, .. } = text.parse().unwrap();
            assert_eq!(default_name(&spec).unwrap().as_str(), name);
        }
    }
}
