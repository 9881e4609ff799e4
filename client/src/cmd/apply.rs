//! `netloom apply` and `export`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use netloom_client::{
    Action, ApplyRequest, ApplyResponse, ClientError, ConditionStatus, Documents, Owner, PlannedChange,
};

use super::{Outcome, Session};
use crate::{
    docs,
    fault::Fault,
    output::{readiness, steps, table},
};

#[derive(Debug, Args)]
#[command(after_help = APPLY_HELP)]
pub struct Apply {
    /// YAML documents, JSON, or an export; - is standard input; may be repeated
    #[arg(short, long = "file", required = true, value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Whose the objects are that name no owner
    #[arg(long)]
    owner: Option<Owner>,
}

const APPLY_HELP: &str = "\
Documents of `kind: Lab` are for `netloomd lab`; they are skipped.

Example:
  netloom apply -f examples/red-blue.yaml
  netloom apply -f examples/red-blue.yaml --dry-run";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  netloom export -o yaml > backup.yaml")]
pub struct Export {
    /// Only objects of this owner
    #[arg(long)]
    owner: Option<Owner>,
}

impl Apply {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let Documents { objects, labs } = docs::read(&self.files)?;
        if !labs.is_empty() {
            let count = labs.len();
            eprintln!(
                "note: skipped {count} `kind: Lab` document{}: only `netloomd lab` reads them",
                plural(count)
            );
        }
        if objects.is_empty() {
            return Err(Fault::Usage("there are no objects to apply".into()).into());
        }
        let titles: Vec<String> =
            objects.iter().map(|one| format!("{} {}", one.kind(), one.name())).collect();
        let request = ApplyRequest { objects, owner: self.owner };
        let applied = session.client().await?.apply(request, session.write.clone()).await;
        let response = applied.map_err(|error| blamed(error, &titles))?;
        session.format.show(&response, people, names)?;
        let ready = |one: &netloom_client::AnyObject| {
            one.ready().is_some_and(|ready| ready.status == ConditionStatus::True)
        };
        let all_ready = response.objects.iter().all(ready);
        Ok(if all_ready || !session.waits() { Outcome::Done } else { Outcome::NotReady })
    }
}

impl Export {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        let export = session.client().await?.export(self.owner).await?;
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
        let PlannedChange { action, kind, name } = change;
        let object = response.objects.iter().find(|one| one.kind() == *kind && one.meta().name == *name);
        match (&response.plan, action) {
            (Some(_), Action::Unchanged) => format!("{kind} {name}: is so already"),
            (Some(_), action) => format!("{kind} {name}: would be {}", action.as_str()),
            (None, Action::Deleted) => format!("{kind} {name}: deleted"),
            (None, action) => {
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

fn names(response: &ApplyResponse) -> Vec<String> {
    response.changes.iter().map(|change| format!("{}/{}", change.kind, change.name)).collect()
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
