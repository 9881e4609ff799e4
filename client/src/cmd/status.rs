//! `netloom status`: one look at everything.

use anyhow::Result;
use clap::Args;
use netloom_client::{
    Attachment, Callable, Client, ConditionStatus, Kind, Link, ListOptions, Name, Namespace, Network, Policy,
    PortForward, Reservation, Route, Version,
};
use serde::Serialize;

use super::{Outcome, Session};
use crate::output::table;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom status\n  netloom status -o name | wc -l")]
pub struct Status {}

/// The whole of it.
#[derive(Debug, Serialize)]
struct Summary {
    endpoint: String,
    version: Version,
    counts: Vec<Count>,
    not_ready: Vec<NotReady>,
}

#[derive(Debug, Serialize)]
struct Count {
    kind: Kind,
    count: usize,
    ready: usize,
}

#[derive(Debug, Serialize)]
struct NotReady {
    kind: Kind,
    name: Name,
    reason: String,
    message: String,
}

impl Status {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let client = session.client().await?;
        let mut summary = Summary {
            endpoint: session.connect.endpoint.to_string(),
            version: client.version().await?,
            counts: Vec::new(),
            not_ready: Vec::new(),
        };
        summary.count::<Namespace>(&client).await?;
        summary.count::<Network>(&client).await?;
        summary.count::<Attachment>(&client).await?;
        summary.count::<PortForward>(&client).await?;
        summary.count::<Reservation>(&client).await?;
        summary.count::<Route>(&client).await?;
        summary.count::<Link>(&client).await?;
        summary.count::<Policy>(&client).await?;
        let names = |summary: &Summary| {
            summary.not_ready.iter().map(|one| format!("{}/{}", one.kind, one.name)).collect()
        };
        session.format.show(&summary, people, names)?;
        Ok(Outcome::Done)
    }
}

impl Summary {
    async fn count<N: Callable>(&mut self, client: &Client) -> Result<()> {
        let page = ListOptions { page_size: Some(1000), ..ListOptions::default() };
        let all = client.list_all::<N>(page).await?.items;
        let before = self.not_ready.len();
        for object in &all {
            let (reason, message) = match object.status.ready() {
                Some(ready) if ready.status == ConditionStatus::True => continue,
                Some(ready) => (ready.reason.as_str(), ready.message.clone()),
                None => ("Unknown", String::new()),
            };
            let name = object.meta.name.clone();
            self.not_ready.push(NotReady { kind: N::KIND, name, reason: reason.into(), message });
        }
        let ready = all.len() - (self.not_ready.len() - before);
        self.counts.push(Count { kind: N::KIND, count: all.len(), ready });
        Ok(())
    }
}

fn people(summary: &Summary) -> String {
    let Summary { endpoint, version: Version { version, api, kernel }, counts, not_ready } = summary;
    let counts = counts
        .iter()
        .map(|one| vec![one.kind.plural().to_owned(), one.count.to_string(), one.ready.to_string()]);
    let mut text = format!("netloomd {version}, API {api}, Linux {kernel}, at {endpoint}\n\n");
    text.push_str(&table(&["KIND", "COUNT", "READY"], counts));
    if !not_ready.is_empty() {
        let rows = not_ready.iter().map(|one| {
            vec![one.kind.to_string(), one.name.to_string(), one.reason.clone(), one.message.clone()]
        });
        text.push_str("\n\n");
        text.push_str(&table(&["NOT READY", "NAME", "REASON", "MESSAGE"], rows));
    }
    text
}
