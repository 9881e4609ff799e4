//! `netloom attach`, `detach` and `attachments`.

use std::net::IpAddr;

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{
    Attachment, AttachmentSpec, Bandwidth, ErrorReason, IfName, ListOptions, Mac, Name, RateLimit,
};

use super::{
    Outcome, Session,
    objects::{self, About, How, Within},
};
use crate::fault::Fault;

/// How many names are tried when none is given.
const NAMES_TRIED: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = ATTACH_HELP)]
pub struct Attach {
    /// Which namespace
    namespace: Name,
    /// Which network
    network: Name,
    /// The attachment's name [default: the namespace's with the first free number, as red0]
    #[arg(long)]
    name: Option<Name>,
    /// A wanted address, at most one per subnet; may be repeated [default: chosen]
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,
    /// The interface's name inside [default: the first free ethN]
    #[arg(long, value_name = "NAME")]
    interface: Option<IfName>,
    /// The MAC address [default: made from the uid]
    #[arg(long)]
    mac: Option<Mac>,
    /// Bytes, not above the network's [default: the network's]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Send everything else through this network; so it is for a namespace's first attachment
    #[arg(long, conflicts_with = "no_default_route")]
    default_route: bool,
    /// Do not
    #[arg(long)]
    no_default_route: bool,
    /// Of the default route; lower wins [default: the first free one from 100 on]
    #[arg(long)]
    metric: Option<u32>,
    /// How fast it may receive, in bits per second: 10mbit, or 10mbit:32k with the burst in bytes [default: no limit]
    #[arg(long, value_name = "RATE[:BURST]", value_parser = crate::values::rate_limit)]
    ingress: Option<RateLimit>,
    /// How fast it may send [default: no limit]
    #[arg(long, value_name = "RATE[:BURST]", value_parser = crate::values::rate_limit)]
    egress: Option<RateLimit>,
    #[command(flatten)]
    about: About,
}

const ATTACH_HELP: &str = "\
Example:
  netloom attach red v-net-0
  netloom attach red v-net-0 --name red0 --address 192.168.15.1 --interface eth0
  netloom attach red v-net-0 --ingress 10mbit --egress 5mbit:32k";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom detach red0\n  netloom detach red v-net-0")]
pub struct Detach {
    /// The attachment; or its namespace, if NETWORK follows
    #[arg(value_name = "NAME")]
    name: Name,
    /// Its network
    network: Option<Name>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Subcommand)]
pub enum Look {
    /// List attachments
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  netloom attachments ls --namespace red -o name"
    )]
    Ls(Within),
    /// Show one in full
    #[command(after_help = "Example:\n  netloom attachments show red0")]
    Show {
        /// Its name
        name: Name,
    },
}

impl Attach {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let spec = self.spec();
        if let Some(name) = self.name {
            return objects::create(session, self.about.draft::<Attachment>(name, spec)?).await;
        }
        if session.write.request_id.is_some() {
            let detail = "--request-id needs --name: a name that is chosen anew is another request";
            return Err(Fault::Usage(detail.into()).into());
        }
        let client = session.client().await?;
        let taken = ListOptions { namespace: Some(self.namespace.clone()), ..ListOptions::default() };
        let taken = client.list_all::<Attachment>(taken).await?;
        let taken: Vec<&Name> = taken.items.iter().map(|one| &one.meta.name).collect();
        let mut draft = self.about.draft::<Attachment>(numbered(&self.namespace, 0)?, spec)?;
        let mut tried = 0;
        for number in 0.. {
            draft.name = numbered(&self.namespace, number)?;
            if taken.contains(&&draft.name) {
                continue;
            }
            match client.create(draft.clone(), session.write.clone()).await {
                // An attachment of another namespace, or one that was made a moment ago, has the name.
                Err(error) if error.reason == Some(ErrorReason::AlreadyExists) && tried < NAMES_TRIED => {
                    tried += 1;
                }
                made => return objects::written(session, &made?),
            }
        }
        Err(Fault::Usage("no name is free; give one with --name".into()).into())
    }

    fn spec(&self) -> AttachmentSpec {
        AttachmentSpec {
            namespace: self.namespace.clone(),
            network: self.network.clone(),
            addresses: self.addresses.clone(),
            mac: self.mac,
            interface: self.interface.clone(),
            default_route: (self.default_route || self.no_default_route).then_some(self.default_route),
            metric: self.metric,
            mtu: self.mtu,
            bandwidth: Some(Bandwidth { ingress: self.ingress, egress: self.egress })
                .filter(|bandwidth| *bandwidth != Bandwidth::default()),
        }
    }
}

impl Detach {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let Detach { name, network, how } = self;
        let Some(network) = network else { return objects::remove::<Attachment>(session, &name, how).await };
        let between = ListOptions {
            namespace: Some(name.clone()),
            network: Some(network.clone()),
            ..ListOptions::default()
        };
        let found = session.client().await?.list_all::<Attachment>(between).await?;
        match found.items.as_slice() {
            [] if how.if_exists => {
                eprintln!("note: {name} is not attached to {network}");
                Ok(Outcome::Done)
            }
            [] => Err(Fault::NotFound(format!("{name} is not attached to {network}")).into()),
            [one] => objects::remove::<Attachment>(session, &one.meta.name, how).await,
            many => {
                let names: Vec<&str> = many.iter().map(|one| one.meta.name.as_str()).collect();
                let detail = format!(
                    "{name} is attached to {network} more than once; say which: {}",
                    names.join(", ")
                );
                Err(Fault::Usage(detail).into())
            }
        }
    }
}

impl Look {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        match self {
            Look::Ls(within) => objects::ls::<Attachment>(session, within.options()?).await,
            Look::Show { name } => objects::show::<Attachment>(session, &name).await,
        }
    }
}

/// `red0`; a long name loses its end to the number.
fn numbered(namespace: &Name, number: usize) -> Result<Name, Fault> {
    let number = number.to_string();
    let room = 63 - number.len();
    let stem = namespace.as_str();
    format!("{}{number}", &stem[..stem.len().min(room)]).parse().map_err(Fault::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_name_is_the_namespace_with_a_number_and_always_a_name() {
        assert_eq!(numbered(&"red".parse().unwrap(), 0).unwrap().as_str(), "red0");
        let long: Name = "x".repeat(63).parse().unwrap();
        let chosen = numbered(&long, 12).unwrap();
        assert_eq!((chosen.as_str().len(), chosen.as_str().ends_with("x12")), (63, true));
    }
}
