//! Files of objects: YAML documents, JSON, an export, or a list as `-o` printed it.
//!
//! A document of `kind: Lab` describes the surroundings of a lab and is for `netloomd lab` alone; it is skipped and
//! counted. Everything else has to be an object of a known noun, or the file is refused with the place of the fault.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use netloom_client::{AnyDraft, ApplyRequest, Path as Field, Violations};
use serde_json::Value;

use crate::fault::Fault;

/// What files hold.
#[derive(Debug, Default, PartialEq)]
pub struct Documents {
    /// The objects in the order of the files.
    pub objects: Vec<AnyDraft>,
    /// The `kind: Lab` documents that were skipped.
    pub labs: usize,
}

/// Reads files; `-` is standard input.
pub fn read(files: &[PathBuf]) -> Result<Documents, Fault> {
    let mut all = Documents::default();
    for file in files {
        let (text, name) = if file == Path::new("-") {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            (read.map(|_| text), "standard input".to_owned())
        } else {
            (std::fs::read_to_string(file), file.display().to_string())
        };
        let text = text.map_err(|error| Fault::Usage(format!("cannot read {name}: {error}")))?;
        let Documents { objects, labs } = parse(&text, &name)?;
        all.objects.extend(objects);
        all.labs += labs;
    }
    Ok(all)
}

/// Reads the text of one file; `name` is for errors.
fn parse(text: &str, name: &str) -> Result<Documents, Fault> {
    let mut all = Documents::default();
    for (index, document) in values(text, name)?.into_iter().enumerate() {
        let place = format!("{name}, document {}", index + 1);
        add(document, &mut all).map_err(|(what, violations)| refuse(&place, &what, violations))?;
    }
    Ok(all)
}

/// The documents of a text. What looks like JSON is tried as such first: it is faster, and no YAML rule gets in.
fn values(text: &str, name: &str) -> Result<Vec<Value>, Fault> {
    if text.trim_start().starts_with(['{', '['])
        && let Ok(values) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(values);
    }
    let options = serde_saphyr::options! {
        // Only true and false are truth values, and 007 is a name.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
        // The largest apply: 10 000 objects.
        budget: serde_saphyr::budget! { max_documents: 20_000, max_nodes: 2_000_000, max_events: 8_000_000 },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let why = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        Fault::Usage(format!("{name} cannot be read as YAML: {why}"))
    })
}

/// What was being read, and what is wrong with it.
type Wrong = (String, Violations);

fn add(document: Value, all: &mut Documents) -> Result<(), Wrong> {
    let nothing = String::new;
    match &document {
        Value::Array(_) => {}
        Value::Object(fields) if fields.get("kind").is_some_and(|kind| kind == "Lab") => {
            all.labs += 1;
            return Ok(());
        }
        Value::Object(fields) if fields.contains_key("kind") => {}
        Value::Object(fields) if fields.contains_key("objects") => {
            let ApplyRequest { mut objects, owner } =
                ApplyRequest::from_json(document).map_err(|violations| (nothing(), violations))?;
            for object in &mut objects {
                let own = object.owner_mut();
                *own = own.take().or_else(|| owner.clone());
            }
            all.objects.extend(objects);
            return Ok(());
        }
        Value::Object(fields) if fields.contains_key("items") => {}
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err((
                nothing(),
                Violations::one("kind", "is required: Namespace, Network, Attachment, …"),
            ));
        }
    }
    let (items, here) = match document {
        Value::Array(items) => (items, Field::root()),
        Value::Object(mut fields) if !fields.contains_key("kind") => {
            let items = fields.remove("items").and_then(|items| items.as_array().cloned());
            let wrong = || (nothing(), Violations::one("items", "must be a list"));
            (items.ok_or_else(wrong)?, Field::root().field("items"))
        }
        one => {
            let what = title(&one);
            all.objects.push(AnyDraft::from_json(one, &Field::root()).map_err(|why| (what, why))?);
            return Ok(());
        }
    };
    for (index, item) in items.into_iter().enumerate() {
        let what = title(&item);
        all.objects.push(AnyDraft::from_json(item, &here.item(index)).map_err(|why| (what, why))?);
    }
    Ok(())
}

/// `Network v-net-0`, as far as it can be told.
fn title(document: &Value) -> String {
    let word = |field| document.get(field).and_then(Value::as_str);
    [word("kind"), word("name")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn refuse(place: &str, what: &str, Violations(violations): Violations) -> Fault {
    let place = if what.is_empty() { place.to_owned() } else { format!("{place} ({what})") };
    let lines = violations.iter().map(|violation| match violation.field.as_str() {
        "" => violation.description.clone(),
        field => format!("{field} {}", violation.description),
    });
    Fault::Usage(format!("{place}: {}", lines.collect::<Vec<_>>().join("\n  and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let documents = parse(text, "test").unwrap();
        documents.objects.iter().map(|object| format!("{} {}", object.kind(), object.name())).collect()
    }

    fn fault(text: &str) -> String {
        parse(text, "lab.yaml").unwrap_err().to_string()
    }

    const RED: &str = r#"{"kind": "Namespace", "name": "red"}"#;
    const NET: &str = r#"{"kind": "Network", "name": "net", "spec": {"subnets": [{"cidr": "10.0.0.0/24"}]}}"#;

    #[test]
    fn yaml_documents_json_exports_lists_and_pages_all_hold_objects() {
        let both = ["Namespace red", "Network net"];
        for text in [
            format!("# a comment\n---\n{RED}\n---\n---\n{NET}\n...\n"),
            "kind: Namespace\nname: red\n---\nkind: Network\nname: net\nspec:\n  subnets:\n  - cidr: 10.0.0.0/24\n".into(),
            format!("{RED}\n{NET}\n"),
            format!("[{RED}, {NET}]"),
            format!(r#"{{"version": "v1", "objects": [{RED}, {NET}]}}"#),
            format!(r#"{{"items": [{RED}, {NET}], "seq": 7}}"#),
            format!("version: v1\nobjects:\n- {RED}\n- {NET}\n"),
        ] {
            assert_eq!(names(&text), both, "{text}");
        }
    }

    #[test]
    fn the_lesson_s_words_are_read_as_they_are_written() {
        let text = "{kind: Namespace, name: \"007\", labels: {on: \"yes\"}, owner: ci-7, spec: {}}";
        let documents = parse(text, "test").unwrap();
        let Some(AnyDraft::Namespace(draft)) = documents.objects.first() else { panic!("{documents:?}") };
        assert_eq!(draft.labels.as_map().get("on").map(String::as_str), Some("yes"));
        assert_eq!(
            names("kind: Namespace\nname: no\n---\nkind: Namespace\nname: 007"),
            ["Namespace no", "Namespace 007"]
        );
    }

    #[test]
    fn lab_documents_are_skipped_and_counted() {
        let documents = parse(&format!("kind: Lab\nlan: {{}}\n---\n{RED}\n"), "test").unwrap();
        assert_eq!((documents.labs, documents.objects.len()), (1, 1));
    }

    #[test]
    fn the_owner_of_an_apply_body_is_that_of_objects_without_one() {
        let body = format!(
            r#"{{"owner": "ci-7", "objects": [{RED}, {{"kind": "Namespace", "name": "b", "owner": "me"}}]}}"#
        );
        let mut objects = parse(&body, "test").unwrap().objects;
        let owners: Vec<_> =
            objects.iter_mut().map(|object| object.owner_mut().clone().unwrap().to_string()).collect();
        assert_eq!(owners, ["ci-7", "me"]);
    }

    #[test]
    fn a_fault_names_the_document_the_object_and_the_field() {
        let text = format!("{RED}\n---\nkind: Network\nname: net\nspec: {{mtu: 100, subnet: []}}\n");
        let words = fault(&text);
        assert!(words.starts_with("lab.yaml, document 2 (Network net): "), "{words}");
        assert!(words.contains("spec"), "{words}");
        let words = fault("{kind: Network, name: net, spec: {mtu: 100}}");
        assert!(words.contains("spec.mtu"), "{words}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in
            ["red", "name: red", "7", "kind: Bridge\nname: x", "items: 7", "kind: [a", "[7]", "objects: 7"]
        {
            assert!(parse(text, "test").is_err(), "{text}");
        }
        assert!(
            fault("kind: Namespace\nname: [a\n").contains("line 2"),
            "{}",
            fault("kind: Namespace\nname: [a\n")
        );
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(parse("", "test").unwrap(), Documents::default());
        assert_eq!(parse("# nothing\n---\n", "test").unwrap(), Documents::default());
    }
}
