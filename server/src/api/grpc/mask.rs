//! An update's message and mask (AIP-134) as JSON merge patches.
//!
//! With a mask, each named field is replaced whole, or removed when it is unset. Without one, all that is set changes:
//! messages merge, lists and maps are replaced. Paths are known from the compiled descriptors.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use netloom_api::{Kind, OUTPUT_ONLY, pb};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{FieldMask, FileDescriptorSet};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::words::invalid;
use crate::error::Result;

/// The part of an object that a caller may change.
pub(super) struct Sent<S> {
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner: Option<String>,
    pub spec: Option<S>,
}

/// Fields without presence: empty is unset, since they are required.
const REQUIRED: [&str; 4] = ["namespace", "network", "protocol", "attachment"];
/// Replaced whole, and unset when empty.
const MAPS: [&[&str]; 4] =
    [&["labels"], &["annotations"], &["spec", "sysctls"], &["spec", "selector", "labels"]];
/// What a mask may name, and what `*` stands for.
const WRITABLE: [&str; 4] = ["labels", "annotations", "owner", "spec"];

/// The patches, to be made one after the other: the first removes what the second sets anew.
pub(super) fn patches<S: Serialize>(
    kind: Kind,
    sent: Sent<S>,
    mask: Option<FieldMask>,
) -> Result<Vec<Value>> {
    let Sent { labels, annotations, owner, spec } = sent;
    let spec = spec.map_or(Ok(Value::Null), serde_json::to_value);
    let spec = spec.map_err(|error| crate::error::Error::internal(error.to_string()))?;
    let message =
        set_only(json!({"labels": labels, "annotations": annotations, "owner": owner, "spec": spec}));
    let message = message.unwrap_or_else(|| json!({}));
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    let (mut remove, mut set) = (json!({}), json!({}));
    if paths.is_empty() {
        // Maps are replaced whole, and all else merges.
        for map in MAPS {
            if map.iter().try_fold(&message, |value, step| value.get(step)).is_some() {
                put(&mut remove, map, Value::Null);
            }
        }
        return Ok(vec![remove, message]);
    }
    for path in
        paths.iter().flat_map(|path| if path == "*" { WRITABLE.to_vec() } else { vec![path.as_str()] })
    {
        let Some(steps) = steps(kind, path)? else { continue };
        put(&mut remove, &steps, Value::Null);
        let value = steps.iter().try_fold(&message, |value, step| value.get(step));
        if let Some(value) = value {
            put(&mut set, &steps, value.clone());
        }
    }
    Ok(vec![remove, set])
}

/// The keys that lead to a masked field; none for one that only the daemon writes.
fn steps(kind: Kind, path: &str) -> Result<Option<Vec<&str>>> {
    let unknown = || invalid("update_mask", format!("{path:?} is not a field of a {kind} that can change"));
    let mut segments = path.split('.');
    let first = segments.next().unwrap_or_default();
    if OUTPUT_ONLY.contains(&first) {
        return Ok(None);
    }
    if !WRITABLE.contains(&first) {
        return Err(unknown());
    }
    let mut steps = vec![first];
    let mut message = (first == "spec").then(|| format!(".netloom.v1.{kind}Spec"));
    for segment in segments {
        let fields = message.as_ref().and_then(|message| FIELDS.get(message)).ok_or_else(unknown)?;
        let field = fields.get(segment).ok_or_else(unknown)?;
        steps.push(segment);
        message = field.clone();
    }
    Ok(Some(steps))
}

/// Every field of every message, with the message that it is, if it is one.
static FIELDS: LazyLock<HashMap<String, HashMap<String, Option<String>>>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap_or_default().file;
    let messages =
        files.into_iter().filter(|file| file.package() == "netloom.v1").flat_map(|file| file.message_type);
    let fields = |message: &prost_types::DescriptorProto| {
        let field = |field: &prost_types::FieldDescriptorProto| {
            let single = field.r#type() == Type::Message && field.label() != Label::Repeated;
            (field.name().to_owned(), single.then(|| field.type_name().to_owned()))
        };
        message.field.iter().map(field).collect()
    };
    messages.map(|message| (format!(".netloom.v1.{}", message.name()), fields(&message))).collect()
});

/// Writes a value at a place, making the way to it.
fn put(target: &mut Value, steps: &[&str], value: Value) {
    let Some((first, rest)) = steps.split_first() else { return };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    match rest {
        [] => drop(fields.insert((*first).to_owned(), value)),
        rest => put(fields.entry(*first).or_insert_with(|| json!({})), rest, value),
    }
}

/// The value without what is unset; none if it is unset itself. An empty message is set: it is how a union chooses.
fn set_only(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(key, value)| !is_unset(key, value));
            Some(Value::Object(fields.filter_map(|(key, value)| Some((key, set_only(value)?))).collect()))
        }
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value),
    }
}

fn is_unset(key: &str, value: &Value) -> bool {
    let is_empty_map = value.as_object().is_some_and(Map::is_empty);
    (REQUIRED.contains(&key) && *value == "")
        || (MAPS.iter().any(|map| map.last() == Some(&key)) && is_empty_map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(spec: pb::NetworkSpec) -> Sent<pb::NetworkSpec> {
        let one = |key: &str| BTreeMap::from([(key.to_owned(), "x".to_owned())]);
        Sent { labels: one("l"), annotations: BTreeMap::new(), owner: None, spec: Some(spec) }
    }

    fn nat() -> pb::NetworkSpec {
        let mode = Some(pb::egress::Mode::Nat(pb::NatEgress::default()));
        pb::NetworkSpec { egress: Some(pb::Egress { mode }), mtu: Some(1400), ..pb::NetworkSpec::default() }
    }

    fn masked(kind: Kind, sent: Sent<impl Serialize>, paths: &[&str]) -> Value {
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        Value::Array(patches(kind, sent, Some(mask)).unwrap())
    }

    #[test]
    fn without_a_mask_all_that_is_set_changes_and_nothing_else() {
        let set = json!({"labels": {"l": "x"}, "spec": {"egress": {"nat": {}}, "mtu": 1400}});
        assert_eq!(masked(Kind::Network, network(nat()), &[]), json!([{"labels": null}, set]));
        let spec = pb::AttachmentSpec { metric: Some(7), ..pb::AttachmentSpec::default() };
        let sent =
            Sent { labels: BTreeMap::new(), annotations: BTreeMap::new(), owner: None, spec: Some(spec) };
        assert_eq!(masked(Kind::Attachment, sent, &[]), json!([{}, {"spec": {"metric": 7}}]));
    }

    #[test]
    fn a_masked_field_that_is_set_is_replaced_whole() {
        let both = masked(Kind::Network, network(nat()), &["spec.egress", "labels"]);
        let removed = json!({"spec": {"egress": null}, "labels": null});
        assert_eq!(both, json!([removed, {"spec": {"egress": {"nat": {}}}, "labels": {"l": "x"}}]));
    }

    #[test]
    fn a_masked_field_that_is_unset_is_removed() {
        let gone = masked(Kind::Network, network(nat()), &["spec.spoof_guard", "owner", "spec.subnets"]);
        assert_eq!(gone, json!([{"spec": {"spoof_guard": null, "subnets": null}, "owner": null}, {}]));
    }

    #[test]
    fn a_field_inside_a_union_is_where_rest_has_it() {
        let device = Some("br7".to_owned());
        let kind = Some(pb::network_kind::Kind::Bridge(pb::BridgeKind { device, existing: None }));
        let kind = Some(pb::NetworkKind { kind });
        let spec = pb::NetworkSpec { kind, ..pb::NetworkSpec::default() };
        let device = masked(Kind::Network, network(spec), &["spec.kind.bridge.device"]);
        let at = |value: Value| json!({"spec": {"kind": {"bridge": {"device": value}}}});
        assert_eq!(device, json!([at(Value::Null), at(json!("br7"))]));
    }

    #[test]
    fn a_star_is_all_that_can_change_and_output_fields_are_left_out() {
        let all = masked(Kind::Network, network(nat()), &["*", "status", "etag", "status.device"]);
        assert_eq!(all[0], json!({"labels": null, "annotations": null, "owner": null, "spec": null}));
        assert_eq!(all[1], json!({"labels": {"l": "x"}, "spec": {"egress": {"nat": {}}, "mtu": 1400}}));
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        let bad = [
            "",
            ".",
            "spec.",
            "name",
            "spec.Mtu",
            "spec.mtu.x",
            "spec.subnets.cidr",
            "labels.l",
            "spec.bridge",
            "x",
        ];
        for path in bad {
            let mask = FieldMask { paths: vec![path.to_owned()] };
            let error = patches(Kind::Network, network(nat()), Some(mask)).unwrap_err();
            assert_eq!(error.violations[0].field, "update_mask", "{path}");
        }
        for good in ["spec", "spec.isolation.members", "spec.egress.nat", "spec.mtu"] {
            assert!(steps(Kind::Network, good).is_ok(), "{good}");
        }
    }
}
