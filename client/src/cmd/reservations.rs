//! `netloom reservations`.

use std::net::IpAddr;

use anyhow::Result;
use clap::{Args, Subcommand};
use netloom_client::{ListOptions, Name, Note, Reservation, ReservationSpec};

use super::{
    Outcome, Session,
    objects::{self, About, By, Remove},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep an address back
    #[command(
        after_help = "Example:\n  netloom reservations add vip v-net-0 --address 192.168.15.77 --note balancer"
    )]
    Add(Add),
    /// List addresses that are kept back
    #[command(visible_alias = "list", after_help = "Example:\n  netloom reservations ls --network v-net-0")]
    Ls {
        #[command(flatten)]
        by: By,
        /// Only of this network
        #[arg(long, value_name = "NAME")]
        network: Option<Name>,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom reservations show vip")]
    Show {
        /// Its name
        name: Name,
    },
    /// Give an address free again
    #[command(visible_alias = "del", after_help = "Example:\n  netloom reservations rm vip")]
    Rm(Remove),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its name
    name: Name,
    /// Which network
    network: Name,
    /// Which address [default: chosen]
    #[arg(long)]
    address: Option<IpAddr>,
    /// What for
    #[arg(long, value_name = "TEXT")]
    note: Option<Note>,
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
            Command::Add(Add { name, network, address, note, about }) => {
                let spec = ReservationSpec { network, address, note };
                objects::create(session, about.draft::<Reservation>(name, spec)?).await
            }
            Command::Ls { by, network } => {
                objects::ls::<Reservation>(session, ListOptions { network, ..by.options()? }).await
            }
            Command::Show { name } => objects::show::<Reservation>(session, &name).await,
            Command::Rm(remove) => remove.run::<Reservation>(session).await,
        }
    }
}
