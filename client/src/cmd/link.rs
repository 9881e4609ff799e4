//! `netloom link`.

use std::str::FromStr;

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{IfName, InterfaceAddress, Link, LinkEnd, LinkSpec, ListOptions, Mac, Name};

use super::{
    Outcome, Session,
    objects::{self, About, By, Remove},
};

pub const EXAMPLE: &str = "\
Example:
  netloom link add cable red:veth-red:10.1.1.1/24 blue:veth-blue:10.1.1.2/24";

const ADD_EXAMPLE: &str = "\
Example:
  netloom link add cable red:veth-red:10.1.1.1/24 blue:veth-blue:10.1.1.2/24
  netloom link add uplink host:to-red:10.2.2.1/24,fd00:2::1/64 red:up:10.2.2.2/24,fd00:2::2/64 --mtu 9000";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put a cable between two namespaces, or between one and the host
    #[command(after_help = ADD_EXAMPLE)]
    Add(Add),
    /// List cables
    #[command(visible_alias = "list", after_help = "Example:\n  netloom link ls --namespace red")]
    Ls {
        #[command(flatten)]
        by: By,
        /// Only with an end in this namespace, or on `host`
        #[arg(long, value_name = "NAME")]
        namespace: Option<Name>,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom link show cable")]
    Show {
        /// Its name
        name: Name,
    },
    /// Take a cable away
    #[command(visible_alias = "del", after_help = "Example:\n  netloom link rm cable")]
    Rm(Remove),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: Name,
    /// One end: NAMESPACE:INTERFACE, then addresses with prefix length, as red:veth-red:10.1.1.1/24,fd00:1::1/64
    #[arg(value_name = "END")]
    first: End,
    /// The other end; the namespace may be `host`
    #[arg(value_name = "END")]
    second: End,
    /// Bytes, at least 1280 [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// The MAC addresses of both ends, in their order [default: made from the uid]
    #[arg(long, value_name = "MAC", num_args = 2)]
    macs: Vec<Mac>,
    #[command(flatten)]
    about: About,
}

/// An end as a word: `red:veth-red:10.1.1.1/24,fd00:1::1/64`.
#[derive(Clone, Debug)]
struct End {
    namespace: Name,
    interface: IfName,
    addresses: Vec<InterfaceAddress>,
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An IPv6 address has colons too, so only the first two part the word.
        let mut parts = text.splitn(3, ':');
        let (Some(namespace), Some(interface)) = (parts.next(), parts.next()) else {
            return Err("must be NAMESPACE:INTERFACE or NAMESPACE:INTERFACE:ADDRESS/LENGTH".into());
        };
        let named = |what: &str, why: String| format!("the {what} {why}");
        let addresses = parts.next().into_iter().flat_map(|list| list.split(','));
        Ok(Self {
            namespace: namespace.parse().map_err(|why| named("namespace", why))?,
            interface: interface.parse().map_err(|why| named("interface", why))?,
            addresses: addresses
                .map(|address| address.parse().map_err(|why| format!("{address} {why}")))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl End {
    fn with(self, mac: Option<Mac>) -> LinkEnd {
        let Self { namespace, interface, addresses } = self;
        LinkEnd { namespace, interface, addresses, mac }
    }
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
            Command::Add(Add { name, first, second, mtu, macs, about }) => {
                let mut macs = macs.into_iter();
                let ends = [first.with(macs.next()), second.with(macs.next())];
                objects::create(session, about.draft::<Link>(name, LinkSpec { ends, mtu })?).await
            }
            Command::Ls { by, namespace } => {
                objects::ls::<Link>(session, ListOptions { namespace, ..by.options()? }).await
            }
            Command::Show { name } => objects::show::<Link>(session, &name).await,
            Command::Rm(remove) => remove.run::<Link>(session).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_namespace_an_interface_and_any_addresses() {
        let end: End = "red:veth-red:10.1.1.1/24,fd00:1::1/64".parse().unwrap();
        assert_eq!((end.namespace.as_str(), end.interface.as_str()), ("red", "veth-red"));
        let addresses: Vec<String> = end.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.1.1.1/24", "fd00:1::1/64"]);
        assert!("red:veth-red".parse::<End>().unwrap().addresses.is_empty());
        for bad in ["red", "red:", "Red:eth0", "red:veth-red:", "red:veth-red:10.1.1.1"] {
            assert!(bad.parse::<End>().is_err(), "{bad}");
        }
    }
}
