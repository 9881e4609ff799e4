//! `netloom ns`.

use std::{collections::BTreeMap, ffi::OsString};

use anyhow::Result;
use clap::Subcommand;
use netloom_client::{AdoptedSource, Endpoint, Name, Namespace, NamespaceSource, NamespaceSpec};

use super::{
    Outcome, Session,
    exec::Inside,
    objects::{self, About, By, Remove},
    state::State,
};
use crate::{fault::Fault, values::Label};

const ADD_HELP: &str = "\
Example:
  netloom ns add red --label role=web --sysctl net.ipv4.ip_forward=1
  netloom ns add mine --adopt /run/netns/foreign
  netloom ns add web --adopt pid:$(docker inspect -f '{{.State.Pid}}' web)";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a namespace, or adopt one
    #[command(after_help = ADD_HELP)]
    Add {
        /// Its name
        name: Name,
        /// Adopt one that exists instead: its path, or pid:N for that of a process
        #[arg(long, value_name = "PATH|pid:N", value_parser = crate::values::adopted)]
        adopt: Option<AdoptedSource>,
        /// A kernel setting inside, such as net.ipv4.ip_forward=1; may be repeated
        #[arg(long = "sysctl", value_name = "NAME=VALUE")]
        sysctls: Vec<Label>,
        #[command(flatten)]
        about: About,
    },
    /// List namespaces
    #[command(visible_alias = "list", after_help = "Example:\n  netloom ns ls --owner ci-7 -o name")]
    Ls {
        #[command(flatten)]
        by: By,
    },
    /// Show one in full
    #[command(after_help = "Example:\n  netloom ns show red")]
    Show {
        /// Its name
        name: Name,
    },
    /// Remove a namespace
    #[command(visible_alias = "del", after_help = "Example:\n  netloom ns rm red --force")]
    Rm(Remove),
    /// Run a command inside a namespace
    ///
    /// As `ip netns exec` does, in this very process: it enters the network namespace and a mount namespace of its own
    /// with a fresh /sys, then becomes the command. That needs your rights (CAP_SYS_ADMIN), not the daemon's, which is
    /// only asked where the namespace is. Files below /etc/netns are not looked at. The exit code is the command's; 126 and 127 say that it did not start.
    #[command(after_help = "Example:\n  netloom ns exec red -- ip address")]
    Exec {
        /// Which namespace
        name: Name,
        /// The command and its arguments
        #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Show what the kernel has for a namespace now
    #[command(after_help = "Example:\n  netloom ns state red")]
    State(State),
}

impl Command {
    pub fn writes(&self) -> bool {
        match self {
            Command::Add { .. } | Command::Rm(_) => true,
            Command::Ls { .. } | Command::Show { .. } | Command::Exec { .. } | Command::State(_) => false,
        }
    }

    pub async fn run(self, session: &Session) -> Result<Outcome> {
        match self {
            Command::Add { name, adopt, sysctls, about } => {
                let spec = spec(adopt, sysctls)?;
                objects::create(session, about.draft::<Namespace>(name, spec)?).await
            }
            Command::Ls { by } => objects::ls::<Namespace>(session, by.options()?).await,
            Command::Show { name } => objects::show::<Namespace>(session, &name).await,
            Command::Rm(remove) => remove.run::<Namespace>(session).await,
            Command::Exec { name, command } => exec(session, &name, command).await,
            Command::State(state) => state.run(session).await,
        }
    }
}

fn spec(adopt: Option<AdoptedSource>, sysctls: Vec<Label>) -> Result<NamespaceSpec, Fault> {
    let sysctls: BTreeMap<String, String> =
        sysctls.into_iter().map(|Label(name, value)| (name, value)).collect();
    let sysctls = sysctls.try_into().map_err(|why| Fault::Usage(format!("--sysctl: {why}")))?;
    Ok(NamespaceSpec { source: adopt.map(NamespaceSource::Adopted), sysctls })
}

async fn exec(session: &Session, name: &Name, command: Vec<OsString>) -> Result<Outcome> {
    if let endpoint @ Endpoint::Https { .. } = &session.connect.endpoint {
        let detail = format!("the namespaces of {endpoint} are on another host; run `netloom ns exec` there");
        return Err(Fault::Usage(detail).into());
    }
    let namespace = session.client().await?.get::<Namespace>(name).await?;
    let path = namespace.status.noun.path.ok_or_else(|| {
        Fault::NotFound(format!("namespace {name} has no path, as one that was adopted by pid; enter it by a process of `netloom ns state {name}`"))
    })?;
    let mut words = command.into_iter();
    let program = words.next().ok_or_else(|| Fault::Usage("CMD is missing".into()))?;
    Ok(Outcome::Become(Inside { path: path.into(), program, arguments: words.collect() }))
}
