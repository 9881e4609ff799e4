//! `netloom apply`, `plan` and `export`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;
use netloom_client::{
    Action, AnyDraft, AnyObject, ApplyRequest, ApplyResponse, Attachment, Callable, Client, ClientError,
    ConditionStatus, Documents, Kind, Link, ListOptions, Namespace, Network, Object, Owner, PlanResponse,
    PlannedChange, Policy, PortForward, Reservation, Route, WriteOptions,
};
use tokio::time::Instant;

use super::{Outcome, Session};
use crate::{
    docs,
    fault::Fault,
    output::{readiness, steps, table},
};

/// What is to be applied, or planned.
#[derive(Debug, Args)]
struct Wanted {
    /// YAML documents, JSON, or an export; - is standard input; may be repeated
    #[arg(short, long = "file", required = true, value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Whose the objects are that name no owner
    #[arg(long)]
    owner: Option<Owner>,
    /// Delete what the owner has beside these objects
    #[arg(long, requires = "owner")]
    prune: bool,
    /// Take objects over that another owner holds
    #[arg(long)]
    take_ownership: bool,
    /// Do what can be done, and tell what cannot; else it is all or none
    #[arg(long)]
    keep_going: bool,
    /// Do nothing when intent is not at this revision any more, as `netloom plan` showed it
    #[arg(long, value_name = "REVISION")]
    expect_revision: Option<i64>,
}

#[derive(Debug, Args)]
#[command(after_help = APPLY_HELP)]
pub struct Apply {
    #[command(flatten)]
    wanted: Wanted,
    /// Even if a route may cut the host off
    #[arg(long)]
    force: bool,
}

const APPLY_HELP: &str = "\
Documents of `kind: Lab` are for `netloomd lab`; they are skipped.

Example:
  netloom apply -f examples/red-blue.yaml
  netloom apply -f examples/red-blue.yaml --dry-run
  netloom apply -f examples/red-blue.yaml --owner lesson --prune";

#[derive(Debug, Args)]
#[command(after_help = PLAN_HELP)]
pub struct Plan {
    #[command(flatten)]
    wanted: Wanted,
}

const PLAN_HELP: &str = "\
Example:
  netloom plan -f examples/red-blue.yaml
  netloom plan -f examples/red-blue.yaml --owner lesson --prune";

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  netloom export -o yaml > backup.yaml\n  netloom export --pinned -o yaml > same.yaml"
)]
pub struct Export {
    /// Only objects of this owner
    #[arg(long)]
    owner: Option<Owner>,
    /// With the addresses, names and ports that netloom chose, so that an apply makes the same network
    #[arg(long)]
    pinned: bool,
}

impl Wanted {
    /// The request, and what people call its objects.
    fn read(self) -> Result<(ApplyRequest, Vec<String>)> {
        let Self { files, owner, prune, take_ownership, keep_going, expect_revision } = self;
        let Documents { objects, labs } = docs::read(&files)?;
        if !labs.is_empty() {
            let count = labs.len();
            eprintln!(
                "note: skipped {count} `kind: Lab` document{}: only `netloomd lab` reads them",
                plural(count)
            );
        }
        if objects.is_empty() && !prune {
            return Err(Fault::Usage("there are no objects to apply".into()).into());
        }
        let titles = objects.iter().map(|one| format!("{} {}", one.kind(), one.name())).collect();
        let request =
            ApplyRequest { objects, owner, prune, take_ownership, atomic: !keep_going, expect_revision };
        Ok((request, titles))
    }
}

impl Apply {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let (request, titles) = self.wanted.read()?;
        let options = WriteOptions { force: self.force, ..session.write.clone() };
        let client = session.client().await?;
        let kinds: BTreeSet<Kind> = request.objects.iter().map(AnyDraft::kind).collect();
        let applied = client.apply(request, options);
        let applied = with_progress(applied, &client, &kinds, &titles).await;
        let response = applied.map_err(|error| blamed(error, &titles))?;
        session.format.show(&response, people, names)?;
        if response.changes.iter().any(|change| change.action == Action::Failed) {
            return Ok(Outcome::Partly);
        }
        let ready = |one: &AnyObject| one.ready().is_some_and(|ready| ready.status == ConditionStatus::True);
        let goes = |one: &AnyObject| one.meta().delete_time.is_some() || is_deleted(&response, one);
        let all_ready = response.objects.iter().all(|one| ready(one) || goes(one));
        Ok(if all_ready || !session.waits() { Outcome::Done } else { Outcome::NotReady })
    }
}

fn is_deleted(response: &ApplyResponse, object: &AnyObject) -> bool {
    let same = |change: &&PlannedChange| change.kind == object.kind() && change.name == object.meta().name;
    response.changes.iter().find(same).is_some_and(|change| change.action == Action::Deleted)
}

impl Plan {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let (request, titles) = self.wanted.read()?;
        let planned = session.client().await?.plan(request).await;
        let response = planned.map_err(|error| blamed(error, &titles))?;
        session.format.show(
            &response,
            |PlanResponse { plan, revision }| {
                let mut lines: Vec<String> = plan.changes.iter().map(would_be).collect();
                lines.push(steps(plan));
                lines.push(format!(
                    "planned at revision {revision}: --expect-revision {revision} holds an apply to it"
                ));
                lines.join("\n")
            },
            |response| response.plan.changes.iter().map(name_of).collect(),
        )?;
        let failed = response.plan.changes.iter().any(|change| change.action == Action::Failed);
        Ok(if failed { Outcome::Partly } else { Outcome::Done })
    }
}

/// Tells on standard error how far it is, once it lasts.
async fn with_progress<T>(
    work: impl Future<Output = T>,
    client: &Client,
    kinds: &BTreeSet<Kind>,
    titles: &[String],
) -> T {
    let mut work = std::pin::pin!(work);
    let mut clock = tokio::time::interval_at(Instant::now() + PATIENCE, PERIOD);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = clock.tick() => {}
        }
        let counted = tokio::time::timeout(PERIOD, ready_among(client, kinds, titles));
        tokio::select! {
            done = &mut work => return done,
            // Who cannot be asked is not, and the next tick asks again.
            Ok(Some(ready)) = counted => eprintln!("{ready} of {} ready", titles.len()),
            else => {}
        }
    }
}

/// When an apply begins to tell how far it is, and how often.
const PATIENCE: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_secs(1);

async fn ready_among(client: &Client, kinds: &BTreeSet<Kind>, titles: &[String]) -> Option<usize> {
    let wanted: BTreeSet<&str> = titles.iter().map(String::as_str).collect();
    let mut ready = 0;
    for kind in kinds {
        ready += match kind {
            Kind::Namespace => ready_of::<Namespace>(client, &wanted).await?,
            Kind::Network => ready_of::<Network>(client, &wanted).await?,
            Kind::Attachment => ready_of::<Attachment>(client, &wanted).await?,
            Kind::PortForward => ready_of::<PortForward>(client, &wanted).await?,
            Kind::Reservation => ready_of::<Reservation>(client, &wanted).await?,
            Kind::Route => ready_of::<Route>(client, &wanted).await?,
            Kind::Link => ready_of::<Link>(client, &wanted).await?,
            Kind::Policy => ready_of::<Policy>(client, &wanted).await?,
        };
    }
    Some(ready)
}

async fn ready_of<N: Callable>(client: &Client, wanted: &BTreeSet<&str>) -> Option<usize> {
    let page = ListOptions { page_size: Some(1000), ..ListOptions::default() };
    let all = client.list_all::<N>(page).await.ok()?.items;
    let counts = |one: &&Object<N>| {
        let is_ready = one.status.ready().is_some_and(|ready| ready.status == ConditionStatus::True);
        is_ready && wanted.contains(format!("{} {}", N::KIND, one.meta.name).as_str())
    };
    Some(all.iter().filter(counts).count())
}

impl Export {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let export = session.client().await?.export(self.owner, self.pinned).await?;
        session.format.show(
            &export,
            |export| {
                if export.objects.is_empty() {
                    return String::new();
                }
                let owner = |owner: &Option<Owner>| owner.as_ref().map(Owner::to_string).unwrap_or_default();
                let rows = export
                    .objects
                    .iter()
                    .map(|one| vec![one.kind.to_string(), one.name.to_string(), owner(&one.owner)]);
                table(&["KIND", "NAME", "OWNER"], rows)
            },
            |export| export.objects.iter().map(|one| format!("{}/{}", one.kind, one.name)).collect(),
        )?;
        Ok(Outcome::Done)
    }
}

/// The daemon tells by its index which of many objects is to blame; people know it by its name.
fn blamed(mut error: ClientError, titles: &[String]) -> ClientError {
    let index = error.metadata.get("index").and_then(|index| index.parse::<usize>().ok());
    let alone = titles.len() == 1 && !error.violations.is_empty();
    let index = index.or(alone.then_some(0));
    if let Some(title) = index.and_then(|index| titles.get(index)) {
        error.metadata.remove("index");
        error.detail = format!("{title}: {}", error.detail);
    }
    error
}

fn people(response: &ApplyResponse) -> String {
    let line = |change: &PlannedChange| {
        let PlannedChange { action, kind, name, fields: _, error } = change;
        let object = response.objects.iter().find(|one| one.kind() == *kind && one.meta().name == *name);
        match (&response.plan, action, error) {
            (Some(_), _, _) => would_be(change),
            (None, _, Some(error)) => {
                format!("{kind} {name}: failed: {} ({})", error.detail, error.reason.as_str())
            }
            (None, Action::Deleted, None) => format!("{kind} {name}: deleted"),
            (None, action, None) => {
                format!(
                    "{kind} {name}: {}, {}",
                    action.as_str(),
                    readiness(object.and_then(|one| one.ready()))
                )
            }
        }
    };
    let mut lines: Vec<String> = response.changes.iter().map(line).collect();
    lines.extend(response.plan.as_ref().map(steps));
    lines.join("\n")
}

fn would_be(change: &PlannedChange) -> String {
    let PlannedChange { action, kind, name, fields, error } = change;
    match (action, error) {
        (_, Some(error)) => {
            format!("{kind} {name}: would fail: {} ({})", error.detail, error.reason.as_str())
        }
        (Action::Unchanged, None) => format!("{kind} {name}: is so already"),
        (Action::Updated, None) => format!("{kind} {name}: would be updated: {}", fields.join(", ")),
        (action, None) => format!("{kind} {name}: would be {}", action.as_str()),
    }
}

fn names(response: &ApplyResponse) -> Vec<String> {
    response.changes.iter().map(name_of).collect()
}

fn name_of(change: &PlannedChange) -> String {
    format!("{}/{}", change.kind, change.name)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use netloom_client::ErrorKind;

    use super::*;

    #[test]
    fn a_refused_apply_names_the_object_that_is_to_blame() {
        let mut error = ClientError::new(ErrorKind::Refused, "it cannot change");
        error.metadata.insert("index".into(), "1".into());
        let error = blamed(error, &["Namespace red".into(), "Attachment red0".into()]);
        assert_eq!(error.to_string(), "Attachment red0: it cannot change");
        assert!(error.metadata.is_empty());
        let alone = ["Namespace red".to_owned()];
        let whole = ClientError::new(ErrorKind::Refused, "the daemon stops");
        assert_eq!(blamed(whole, &alone).to_string(), "the daemon stops", "not the object's fault");
        let mut error = ClientError::new(ErrorKind::Refused, "it cannot change");
        error
            .violations
            .push(netloom_client::Violation { field: "spec".into(), description: "wrong".into() });
        assert_eq!(blamed(error, &alone).to_string(), "Namespace red: it cannot change");
    }
}
