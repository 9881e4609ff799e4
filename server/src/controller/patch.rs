//! What a patch makes of an object, and what differs between two.

use std::collections::BTreeSet;

use netloom_api::{AnyDraft, ErrorReason, Kind, Name, Path};
use serde_json::{Map, Value};

use super::edit::{Patch, check_etag, exists};
use crate::{
    error::{Error, Result},
    world::World,
};

/// The draft that a patch makes of the object as it is.
pub(super) fn patched(world: &World, patch: Patch) -> Result<AnyDraft> {
    let Patch { kind, name, patches, etag, allow_missing } = patch;
    let patches = patches.into_iter().map(|patch| patch_fields(patch, kind, &name));
    let patches = patches.collect::<Result<Vec<_>>>()?;
    let mut base = match world.get_any(kind, &name) {
        Some(old) => {
            if old.meta().delete_time.is_some() {
                return Err(exists(&old));
            }
            check_etag(&old, etag)?;
            old.to_draft_json()
        }
        None if allow_missing => {
            Value::Object(Map::from_iter([("name".to_owned(), Value::from(name.as_str()))]))
        }
        None => return Err(Error::not_found(kind, name)),
    };
    patches.into_iter().for_each(|fields| merge(&mut base, Value::Object(fields)));
    if let Value::Object(base) = &mut base {
        base.entry("kind").or_insert_with(|| Value::from(kind.as_str()));
    }
    Ok(AnyDraft::from_json(base, &Path::root())?)
}

/// What a patch may change: all but the name and what only the daemon writes.
fn patch_fields(patch: Value, kind: Kind, name: &Name) -> Result<Map<String, Value>> {
    let Value::Object(mut fields) = patch else {
        return Err(Error::new(ErrorReason::Malformed, "a merge patch must be a JSON object"));
    };
    for field in netloom_api::OUTPUT_ONLY {
        fields.remove(field);
    }
    if fields.get("name").is_some_and(|other| *other != *name.as_str()) {
        return Err(Error::immutable("name", kind));
    }
    Ok(fields)
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            let Value::Object(target) = target else { return };
            for (key, value) in fields {
                if value.is_null() {
                    target.remove(&key);
                } else if key != "bandwidth" && is_union(target.get(&key), &value) {
                    target.insert(key, value);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        other => *target = other,
    }
}

/// A union is an object with exactly one key: naming another key replaces it, or the result would have two. The
/// directions of a bandwidth look like one, and are none.
fn is_union(old: Option<&Value>, new: &Value) -> bool {
    let (Some(Value::Object(old)), Value::Object(new)) = (old, new) else { return false };
    let is_choice = |keys: &Map<String, Value>| keys.len() == 1 && keys.values().all(Value::is_object);
    // The one union whose choices are no objects.
    let is_adopted =
        |keys: &Map<String, Value>| keys.len() == 1 && keys.keys().all(|key| key == "path" || key == "pid");
    let are = |is: &dyn Fn(&Map<String, Value>) -> bool| is(old) && is(new);
    (are(&is_choice) || are(&is_adopted)) && old.keys().ne(new.keys())
}

/// Paths of what differs, as deep as both sides are objects.
pub(super) fn differences(old: &Value, new: &Value) -> Vec<String> {
    fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, into: &mut Vec<String>) {
        match (old, new) {
            (old, new) if old == new => {}
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for key in keys {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, old.get(key), new.get(key), into);
                }
            }
            (_, _) => into.push(path.to_owned()),
        }
    }
    let mut paths = Vec::new();
    walk("", Some(old), Some(new), &mut paths);
    paths
}
