//! `netloom events`. Each event is printed as it comes, also as JSON: one object per line.

use anyhow::Result;
use clap::Args;
use netloom_client::{Client, Event, EventQuery, EventType, Kind, Name, WatchOptions};

use super::{Outcome, Session};
use crate::output::{Format, moment, print};

#[derive(Debug, Args)]
#[command(after_help = EVENTS_HELP)]
pub struct Events {
    /// Go on with what happens, through restarts of the daemon, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only after this position [default: from the oldest; with -f, from now on]
    #[arg(long, value_name = "SEQ")]
    after: Option<i64>,
    /// Only of this kind, as PortForward; may be repeated
    #[arg(long = "kind")]
    kinds: Vec<Kind>,
    /// Only of objects with this name
    #[arg(long)]
    name: Option<Name>,
    /// Only of this type: created, updated, deleted, status, drift_repaired, policy_drop, audit; may be repeated
    #[arg(long = "type")]
    types: Vec<EventType>,
    /// Only of what this caller asked for, as token:ci or uid:0
    #[arg(long)]
    actor: Option<String>,
}

const EVENTS_HELP: &str = "\
With -o json each event is one line.

Example:
  netloom events --kind Attachment --name red0
  netloom events --actor uid:0 --type audit
  netloom events -f -o json";

impl Events {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let client = session.client().await?;
        if self.follow {
            self.follow(&client, session.format).await
        } else {
            self.page(&client, session.format).await
        }
    }

    async fn page(self, client: &Client, format: Format) -> Result<Outcome> {
        let Events { follow: _, after, kinds, name, types, actor } = self;
        let mut query = EventQuery { after, page_size: Some(1000), kinds, name, types, actor };
        loop {
            let page = client.events(query.clone()).await?;
            page.items.iter().try_for_each(|event| show(event, format))?;
            if query.after.replace(page.seq) == Some(page.seq) {
                return Ok(Outcome::Done);
            }
        }
    }

    async fn follow(self, client: &Client, format: Format) -> Result<Outcome> {
        let Events { follow: _, after, kinds, name, types, actor } = self;
        let options = WatchOptions { after, kinds, name, types, actor, ..WatchOptions::default() };
        let mut events = client.watch(options).await?;
        while let Some(event) = events.next().await {
            show(&event?, format)?;
        }
        Ok(Outcome::Done)
    }
}

fn show(event: &Event, format: Format) -> Result<()> {
    let text = match format {
        Format::Table => line(event),
        Format::Json => serde_json::to_string(event)?,
        Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&serde_json::to_value(event)?)?),
        Format::Name => format!("{}/{}", event.kind, event.name),
    };
    Ok(print(&text)?)
}

/// Columns of fixed width, since nothing is known of what follows.
fn line(event: &Event) -> String {
    let object = format!("{}/{}", event.kind, event.name);
    let words = [event.reason.as_deref(), event.message.as_deref(), event.actor.as_deref()];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    let type_ = event.type_.as_str();
    format!("{:>6}  {}  {type_:<8}  {object:<22}  {}", event.seq, moment(event.time), words.join("  "))
}
