//! `netloom route`, in the words of `ip route`.

use std::{fmt::Display, net::IpAddr, str::FromStr};

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{IfName, ListOptions, Name, Prefix, Route, RouteSpec, RouteType};

use super::{
    Outcome, Session,
    objects::{self, About, By, Remove},
};
use crate::fault::Fault;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a route in a namespace, or on the host
    #[command(after_help = ADD_HELP)]
    Add(Add),
    /// List routes
    #[command(visible_alias = "list", after_help = "Example:\n  netloom route ls --namespace blue")]
    Ls {
        #[command(flatten)]
        by: By,
        /// Only of this namespace, or of host
        #[arg(long, value_name = "NAME")]
        namespace: Option<Name>,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom route show lan")]
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a route
    #[command(visible_alias = "del", after_help = "Example:\n  netloom route rm lan")]
    Rm(Remove),
}

const ADD_HELP: &str = "\
What follows the destination comes in pairs, as `ip route` has them: via ADDRESS, dev INTERFACE, metric NUMBER,
table NUMBER, type unicast|blackhole|unreachable|prohibit.

Example:
  netloom route add lan blue 192.168.1.0/24 via 192.168.15.5 metric 50
  netloom route add nowhere blue 10.0.0.0/8 type blackhole
  netloom route add backup blue default via 192.168.15.7 metric 200";

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: Name,
    /// Which namespace, or host
    namespace: Name,
    /// A prefix such as 192.168.1.0/24, or default
    destination: String,
    /// How: via ADDRESS, dev INTERFACE, metric NUMBER, table NUMBER, type TYPE
    #[arg(value_name = "WORD", num_args = 0..)]
    words: Vec<String>,
    /// Even if it may cut the host off
    #[arg(long)]
    force: bool,
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
            Command::Add(Add { name, namespace, destination, words, force, about }) => {
                let spec = spec(namespace, &destination, &words)?;
                objects::create_forced(session, about.draft::<Route>(name, spec)?, force).await
            }
            Command::Ls { by, namespace } => {
                objects::ls::<Route>(session, ListOptions { namespace, ..by.options()? }).await
            }
            Command::Show { name } => objects::show::<Route>(session, &name).await,
            Command::Rm(remove) => remove.run::<Route>(session).await,
        }
    }
}

/// What the words say.
fn spec(namespace: Name, destination: &str, words: &[String]) -> Result<RouteSpec, Fault> {
    let (mut via, mut interface, mut metric, mut table, mut type_) = (None, None, None, None, None);
    for pair in words.chunks(2) {
        let [key, value] = pair else {
            return Err(Fault::Usage(format!("{} needs a value behind it", pair.join(" "))));
        };
        match key.as_str() {
            "via" => set(&mut via, key, value)?,
            "dev" => set::<IfName>(&mut interface, key, value)?,
            "metric" => set(&mut metric, key, value)?,
            "table" => set(&mut table, key, value)?,
            "type" => set::<RouteType>(&mut type_, key, value)?,
            other => {
                let known = "via, dev, metric, table or type";
                return Err(Fault::Usage(format!("{other:?} is not {known}")));
            }
        }
    }
    let destination = destination_of(destination, via)?;
    Ok(RouteSpec { namespace, destination, via, interface, metric, table, type_ })
}

fn set<T: FromStr<Err: Display>>(to: &mut Option<T>, key: &str, value: &str) -> Result<(), Fault> {
    if to.is_some() {
        return Err(Fault::Usage(format!("{key} comes twice")));
    }
    let parsed = value.parse().map_err(|why| Fault::Usage(format!("{key} {value}: {why}")))?;
    *to = Some(parsed);
    Ok(())
}

/// `default` is of the gateway's family.
fn destination_of(text: &str, via: Option<IpAddr>) -> Result<Prefix, Fault> {
    let text = match (text, via) {
        ("default", Some(IpAddr::V6(_))) => "::/0",
        ("default", Some(IpAddr::V4(_)) | None) => "0.0.0.0/0",
        (text, _) => text,
    };
    text.parse().map_err(|why| Fault::Usage(format!("{text} {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(destination: &str, words: &str) -> Result<RouteSpec, Fault> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        spec("blue".parse().unwrap(), destination, &words)
    }

    #[test]
    fn a_route_is_said_as_to_ip_route() {
        let lan = said("192.168.1.0/24", "via 192.168.15.5 metric 50").unwrap();
        assert_eq!((lan.via, lan.metric), (Some("192.168.15.5".parse().unwrap()), Some(50)));
        let v6 = said("default", "via fd00::1 dev eth0 table 7").unwrap();
        assert_eq!(v6.destination.to_string(), "::/0");
        assert_eq!(said("10.0.0.0/8", "type blackhole").unwrap().type_, Some(RouteType::Blackhole));
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for bad in ["via", "via here", "via 10.0.0.1 via 10.0.0.2", "metric -1", "src 10.0.0.1", "type local"]
        {
            assert!(said("10.0.0.0/8", bad).is_err(), "{bad}");
        }
        assert!(said("10.0.0.1/8", "").is_err());
    }
}
