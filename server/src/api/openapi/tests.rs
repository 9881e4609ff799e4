use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Compares with a committed file; `UPDATE_GOLDEN=1` writes it instead.
fn golden(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{file} is not what is served; `cargo xtask openapi` writes it anew");
}

fn operations(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let item = item.as_object().unwrap().clone();
        item.into_iter().map(|(method, op)| (format!("{method} {path}"), op)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn the_document_is_the_golden_one() {
    golden("proto/openapi.json", current());
}

#[test]
fn every_operation_has_a_name_of_its_own_a_tag_a_summary_and_problems_with_words() {
    let document = document();
    let tags: BTreeSet<&str> = TAGS.iter().map(|(tag, _)| *tag).collect();
    let mut names = BTreeSet::new();
    for (place, op) in operations(&document) {
        assert!(names.insert(op["operationId"].as_str().unwrap().to_owned()), "{place}");
        assert!(tags.contains(op["tags"][0].as_str().unwrap()), "{place}");
        assert!(!op["summary"].as_str().unwrap().is_empty(), "{place}");
        for (status, response) in op["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{place} {status}");
            let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
            let is_problem = problem == "#/components/schemas/Problem";
            assert_eq!(status.starts_with(['4', '5']), is_problem, "{place} {status}");
        }
    }
    assert!(names.contains("list_namespaces") && names.contains("create_port_forward"));
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| check(item, document)),
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
                fields.values().for_each(|value| check(value, document));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    check(&document, &document);
}

#[test]
fn the_old_edition_has_nothing_that_only_the_new_one_knows() {
    let old = old();
    for new in ["\"null\"", "\"const\"", "\"examples\": [", "\"identifier\"", "\"propertyNames\""] {
        assert!(!old.contains(new), "{new}");
    }
    let old: Value = serde_json::from_str(old).unwrap();
    assert_eq!(old["openapi"], "3.0.3");
    assert_eq!(operations(&old).len(), operations(&document()).len());
}
