//! Files of objects: YAML documents, JSON, an export, or a list as a page has it.
//!
//! A document of `kind: Lab` describes the surroundings of a lab; it is no noun, and who reads the file decides what
//! becomes of it. Everything else has to be an object of a known noun, or the file is refused with the place of the fault.

use std::fmt;

use serde_json::Value;

use crate::{
    bulk::{AnyDraft, ApplyRequest},
    convert::Path,
    problem::{Violation, Violations},
};

/// What the documents of a file hold, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// The objects.
    pub objects: Vec<AnyDraft>,
    /// The documents of `kind: Lab`, as they are.
    pub labs: Vec<Value>,
}

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentError {
    /// Which document, counted from one; none when the text cannot be taken apart at all.
    pub document: Option<usize>,
    /// `Network v-net-0`, as far as it can be told.
    pub title: String,
    /// What is wrong with it.
    pub violations: Violations,
}

impl Documents {
    /// Reads the text of a file.
    pub fn read(text: &str) -> Result<Self, DocumentError> {
        let mut all = Self::default();
        for (index, document) in values(text)?.into_iter().enumerate() {
            all.add(document).map_err(|(title, violations)| DocumentError {
                document: Some(index + 1),
                title,
                violations,
            })?;
        }
        Ok(all)
    }

    fn add(&mut self, document: Value) -> Result<(), Wrong> {
        let has = |field| document.get(field).is_some();
        let (items, here) = match document {
            Value::Null => return Ok(()),
            Value::Object(ref fields) if fields.get("kind").is_some_and(|kind| kind == "Lab") => {
                self.labs.push(document);
                return Ok(());
            }
            Value::Object(_) if has("kind") => return self.object(document, &Path::root()),
            Value::Object(_) if has("objects") => return self.list(document),
            Value::Object(mut fields) if fields.contains_key("items") => {
                let Some(Value::Array(items)) = fields.remove("items") else {
                    return Err(nameless(Violations::one("items", "must be a list")));
                };
                (items, Path::root().field("items"))
            }
            Value::Array(items) => (items, Path::root()),
            Value::Object(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                let what = "is required: Namespace, Network, Attachment, …";
                return Err(nameless(Violations::one("kind", what)));
            }
        };
        items.into_iter().enumerate().try_for_each(|(index, item)| self.object(item, &here.item(index)))
    }

    fn object(&mut self, value: Value, at: &Path) -> Result<(), Wrong> {
        let title = title(&value);
        self.objects.push(AnyDraft::from_json(value, at).map_err(|why| (title, why))?);
        Ok(())
    }

    /// What apply takes, and what an export gives; its owner is that of objects without one.
    fn list(&mut self, value: Value) -> Result<(), Wrong> {
        let request = ApplyRequest::from_json(value).map_err(nameless)?;
        let ApplyRequest { mut objects, owner, prune, take_ownership, atomic, expect_revision } = request;
        if prune || take_ownership || !atomic || expect_revision.is_some() {
            let why = "prune, take_ownership, atomic and expect_revision are said by whoever applies, not by a file";
            return Err(nameless(Violations::one("", why)));
        }
        for object in &mut objects {
            let own = object.owner_mut();
            *own = own.take().or_else(|| owner.clone());
        }
        self.objects.extend(objects);
        Ok(())
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, title, violations: Violations(violations) } = self;
        match (document, title.as_str()) {
            (None, _) => {}
            (Some(document), "") => write!(f, "document {document}: ")?,
            (Some(document), title) => write!(f, "document {document} ({title}): ")?,
        }
        for (index, Violation { field, description }) in violations.iter().enumerate() {
            let before = if index == 0 { "" } else { "\n  and " };
            let gap = if field.is_empty() { "" } else { " " };
            write!(f, "{before}{field}{gap}{description}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentError {}

/// Which object is wrong, and what is wrong with it.
type Wrong = (String, Violations);

fn nameless(violations: Violations) -> Wrong {
    (String::new(), violations)
}

/// The documents of a text. What looks like JSON is tried as such first: it is faster, and no YAML rule gets in.
fn values(text: &str) -> Result<Vec<Value>, DocumentError> {
    if text.trim_start().starts_with(['{', '['])
        && let Ok(values) = serde_json::Deserializer::from_str(text).into_iter().collect()
    {
        return Ok(values);
    }
    let options = serde_saphyr::options! {
        // As YAML 1.2 has it, only true and false are truth values: a network may be called `no`, and 007 is a name.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
        // The largest apply: 10 000 objects.
        budget: serde_saphyr::budget! { max_documents: 20_000, max_nodes: 2_000_000, max_events: 8_000_000 },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let why = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        let violations = Violations::one("", format!("cannot be read as YAML: {why}"));
        DocumentError { document: None, title: String::new(), violations }
    })
}

/// `Network v-net-0`, as far as it can be told.
fn title(document: &Value) -> String {
    let word = |field| document.get(field).and_then(Value::as_str);
    [word("kind"), word("name")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let documents = Documents::read(text).unwrap();
        documents.objects.iter().map(|object| format!("{} {}", object.kind(), object.name())).collect()
    }

    fn fault(text: &str) -> String {
        Documents::read(text).unwrap_err().to_string()
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
        let documents = Documents::read(text).unwrap();
        let Some(AnyDraft::Namespace(draft)) = documents.objects.first() else { panic!("{documents:?}") };
        assert_eq!(draft.labels.as_map().get("on").map(String::as_str), Some("yes"));
        assert_eq!(
            names("kind: Namespace\nname: no\n---\nkind: Namespace\nname: 007"),
            ["Namespace no", "Namespace 007"]
        );
    }

    #[test]
    fn lab_documents_are_kept_apart_as_they_are() {
        let documents = Documents::read(&format!("kind: Lab\nlan: {{}}\n---\n{RED}\n")).unwrap();
        assert_eq!((documents.labs.len(), documents.objects.len()), (1, 1));
        assert_eq!(documents.labs[0]["lan"], serde_json::json!({}));
    }

    #[test]
    fn the_owner_of_an_apply_body_is_that_of_objects_without_one() {
        let body = format!(
            r#"{{"owner": "ci-7", "objects": [{RED}, {{"kind": "Namespace", "name": "b", "owner": "me"}}]}}"#
        );
        let mut objects = Documents::read(&body).unwrap().objects;
        let owners: Vec<_> =
            objects.iter_mut().map(|object| object.owner_mut().clone().unwrap().to_string()).collect();
        assert_eq!(owners, ["ci-7", "me"]);
    }

    #[test]
    fn a_fault_names_the_document_the_object_and_the_field() {
        let text = format!("{RED}\n---\nkind: Network\nname: net\nspec: {{mtu: 100, subnet: []}}\n");
        let words = fault(&text);
        assert!(words.starts_with("document 2 (Network net): "), "{words}");
        assert!(words.contains("spec"), "{words}");
        let words = fault("{kind: Network, name: net, spec: {mtu: 100}}");
        assert!(words.contains("spec.mtu"), "{words}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in
            ["red", "name: red", "7", "kind: Bridge\nname: x", "items: 7", "kind: [a", "[7]", "objects: 7"]
        {
            assert!(Documents::read(text).is_err(), "{text}");
        }
        let words = fault("kind: Namespace\nname: [a\n");
        assert!(words.contains("line 2"), "{words}");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(Documents::read("").unwrap(), Documents::default());
        assert_eq!(Documents::read("# nothing\n---\n").unwrap(), Documents::default());
    }
}
