//! `netloom set`: changes fields of what is there, while traffic goes on.

use anyhow::Result;
use clap::{Args, ValueEnum};
use netloom_client::{
    Attachment, Draft, Link, Name, Namespace, Network, Noun, Path, Policy, PortForward, Reservation, Route,
    UpdateOptions, Violations,
};
use serde_json::{Map, Value};

use super::{Outcome, Session, objects::written};
use crate::{fault::Fault, present::Shown};

/// Fields whose keys may hold dots: what follows the name is one key.
const MAPS: [&str; 3] = ["labels", "annotations", "sysctls"];
/// Fields that are an object with exactly one key: setting one takes the other away.
const UNIONS: [&str; 3] = ["kind", "egress", "source"];
/// Fields that stand beside `spec`.
const ABOUT: [&str; 3] = ["labels", "annotations", "owner"];

const HELP: &str = "\
FIELD is the name that the API has, below `spec` unless it is labels.KEY, annotations.KEY or owner. VALUE is YAML; an
empty one unsets the field. docs/live-change.md says what can change.

Example:
  netloom set net v-net-0 egress.nat={} mtu=1400
  netloom set attachment red0 bandwidth.egress.rate=10000000 labels.role=db
  netloom set forward tcp-8080 sources=[192.168.1.0/24]
  netloom set ns red sysctls.net.ipv4.ip_forward=1
  netloom set net v-net-0 mtu=";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct Set {
    /// What: ns, net, attachment, forward, link, reservation, route, policy
    #[arg(value_enum, hide_possible_values = true, value_name = "KIND")]
    kind: What,
    /// Its name
    name: Name,
    /// What is to be different; all or nothing
    #[arg(value_name = "FIELD=VALUE", required = true)]
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Ns,
    Net,
    Attachment,
    Forward,
    Link,
    Reservation,
    Route,
    Policy,
}

/// A field by its path, and its new value; null unsets it.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, value) = text.split_once('=').ok_or("is not FIELD=VALUE")?;
        let mut path: Vec<String> = Vec::new();
        let field = field.strip_prefix("spec.").unwrap_or(field);
        match field.split_once('.') {
            Some((map, key)) if MAPS.contains(&map) => path.extend([map.to_owned(), key.to_owned()]),
            Some(_) | None => path.extend(field.split('.').map(str::to_owned)),
        }
        if path.iter().any(String::is_empty) {
            return Err(format!("{field:?} is not the name of a field"));
        }
        let in_map = path.len() == 2 && MAPS.contains(&path[0].as_str());
        if !ABOUT.contains(&path[0].as_str()) {
            path.insert(0, "spec".into());
        }
        let value = match value {
            "" => Value::Null,
            // Values of maps are text, whatever they look like.
            text if in_map => Value::String(text.into()),
            text => serde_saphyr::from_str(text).map_err(|error| format!("{text:?}: {error}"))?,
        };
        Ok(Self { path, value })
    }
}

impl Change {
    /// The field that a mask names: whole maps, and whatever is directly below `spec`.
    fn mask(&self) -> String {
        let length = if self.path[0] == "spec" { 2 } else { 1 };
        self.path[..length].join(".")
    }

    fn make(&self, object: &mut Value) {
        let mut here = object;
        let (last, way) = match self.path.split_last() {
            Some(split) => split,
            None => return,
        };
        for step in way {
            if !here.is_object() {
                *here = Value::Object(Map::new());
            }
            let Value::Object(fields) = here else { return };
            if UNIONS.contains(&step.as_str()) {
                let next = self.path.iter().skip_while(|part| *part != step).nth(1);
                if let Some(Value::Object(union)) = fields.get_mut(step) {
                    union.retain(|key, _| Some(key) == next);
                }
            }
            here = fields.entry(step.clone()).or_insert(Value::Null);
        }
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        if let Value::Object(fields) = here {
            if self.value.is_null() {
                fields.remove(last);
            } else {
                fields.insert(last.clone(), self.value.clone());
            }
        }
    }
}

impl Set {
    pub async fn run(self, session: &Session) -> Result<Outcome> {
        match self.kind {
            What::Ns => self.change::<Namespace>(session).await,
            What::Net => self.change::<Network>(session).await,
            What::Attachment => self.change::<Attachment>(session).await,
            What::Forward => self.change::<PortForward>(session).await,
            What::Link => self.change::<Link>(session).await,
            What::Reservation => self.change::<Reservation>(session).await,
            What::Route => self.change::<Route>(session).await,
            What::Policy => self.change::<Policy>(session).await,
        }
    }

    /// Reads the object and sends it back changed, unless somebody else has changed it in between.
    async fn change<N: Shown>(self, session: &Session) -> Result<Outcome> {
        let client = session.client().await?;
        let now = client.get::<N>(&self.name).await?;
        let etag = Some(now.meta.etag());
        let mut object = serde_json::to_value(&now)?;
        self.changes.iter().for_each(|change| change.make(&mut object));
        let draft = draft::<N>(object)?;
        let mask = self.changes.iter().map(Change::mask).collect();
        let options = UpdateOptions { mask, etag, write: session.write.clone(), ..UpdateOptions::default() };
        written(session, &client.update(draft, options).await?)
    }
}

fn draft<N: Noun>(object: Value) -> Result<Draft<N>, Fault> {
    Draft::from_json(object, &Path::root()).map_err(|Violations(wrong)| {
        let wrong = wrong.iter().map(|one| format!("{} {}", one.field, one.description));
        Fault::Usage(wrong.collect::<Vec<_>>().join("; "))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(mut object: Value, changes: &[&str]) -> Value {
        for change in changes {
            change.parse::<Change>().unwrap().make(&mut object);
        }
        object
    }

    #[test]
    fn fields_are_set_below_spec_and_unset_by_an_empty_value() {
        let before = json!({"name": "n", "spec": {"mtu": 1400, "egress": {"none": {}}}});
        let changed = after(before, &["egress.nat={}", "mtu=", "isolation.members=true", "owner=ci-7"]);
        let spec = json!({"egress": {"nat": {}}, "isolation": {"members": true}});
        assert_eq!(changed, json!({"name": "n", "owner": "ci-7", "spec": spec}));
    }

    #[test]
    fn keys_of_maps_may_have_dots_and_their_values_are_text() {
        let changed = after(json!({"spec": {}}), &["sysctls.net.ipv4.ip_forward=1", "labels.a.b/c=true"]);
        let spec = json!({"sysctls": {"net.ipv4.ip_forward": "1"}});
        assert_eq!(changed, json!({"labels": {"a.b/c": "true"}, "spec": spec}));
    }

    #[test]
    fn a_mask_names_what_is_sent_whole() {
        for (change, mask) in [
            ("mtu=1", "spec.mtu"),
            ("spec.listen.port=81", "spec.listen"),
            ("labels.a=b", "labels"),
            ("owner=", "owner"),
            ("sysctls.net.ipv4.ip_forward=1", "spec.sysctls"),
        ] {
            assert_eq!(change.parse::<Change>().unwrap().mask(), mask, "{change}");
        }
        for wrong in ["mtu", "=1", "a..b=1", "mtu={"] {
            assert!(wrong.parse::<Change>().is_err(), "{wrong}");
        }
    }
}
