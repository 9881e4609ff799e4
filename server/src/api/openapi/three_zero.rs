//! OpenAPI 3.1 said in 3.0, for tools that do not know JSON Schema 2020-12.

use serde_json::{Map, Value, json};

/// The same document as OpenAPI 3.0.3.
pub(super) fn convert(mut document: Value) -> Value {
    walk(&mut document);
    if let Value::Object(fields) = &mut document {
        fields.insert("openapi".to_owned(), json!("3.0.3"));
        fields.remove("jsonSchemaDialect");
        fields.remove("webhooks");
        let license = fields.get_mut("info").and_then(|info| info.get_mut("license"));
        if let Some(Value::Object(license)) = license {
            license.remove("identifier");
        }
    }
    document
}

fn walk(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::Object(fields) => {
            // Under `properties` keys are names of fields, and under `example` they are anything.
            for (key, inner) in fields.iter_mut() {
                match (key.as_str(), inner) {
                    ("example" | "examples" | "default" | "enum" | "const", _) => {}
                    ("properties" | "schemas", Value::Object(named)) => named.values_mut().for_each(walk),
                    (_, inner) => walk(inner),
                }
            }
            schema(fields);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is said differently in a schema.
fn schema(fields: &mut Map<String, Value>) {
    type_list(fields);
    null_choice(fields);
    for (new, old) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if let Some(bound) = fields.get(new).filter(|bound| bound.is_number()).cloned() {
            fields.insert(old.to_owned(), bound);
            fields.insert(new.to_owned(), Value::Bool(true));
        }
    }
    // Examples of a parameter or a content are an object and the same in both versions.
    if let Some(Value::Array(examples)) = fields.get("examples") {
        let first = examples.first().cloned();
        fields.remove("examples");
        if let Some(first) = first {
            fields.insert("example".to_owned(), first);
        }
    }
    if let Some(only) = fields.remove("const") {
        fields.insert("enum".to_owned(), json!([only]));
    }
    fields.remove("propertyNames");
    // Beside a reference 3.0 allows nothing.
    if let Some(reference) = fields.get("$ref").cloned()
        && fields.len() > 1
    {
        fields.remove("$ref");
        fields.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
}

/// `type: [string, null]` → `type: string, nullable: true`.
fn type_list(fields: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = fields.get("type") else { return };
    let (null, rest): (Vec<Value>, Vec<Value>) = types.iter().cloned().partition(|one| one == "null");
    match rest.as_slice() {
        [one] => drop(fields.insert("type".to_owned(), one.clone())),
        // Any of several types is what 3.0 says by leaving the type out.
        _ => drop(fields.remove("type")),
    }
    if !null.is_empty() {
        fields.insert("nullable".to_owned(), Value::Bool(true));
    }
}

/// `oneOf: [{type: null}, X]` → `allOf: [X], nullable: true`.
fn null_choice(fields: &mut Map<String, Value>) {
    for key in ["oneOf", "anyOf"] {
        let Some(Value::Array(choices)) = fields.get(key) else { continue };
        let is_null = |choice: &Value| choice.get("type").is_some_and(|one| one == "null");
        let (null, rest): (Vec<Value>, Vec<Value>) = choices.iter().cloned().partition(is_null);
        if null.is_empty() {
            continue;
        }
        fields.remove(key);
        let key = if rest.len() == 1 { "allOf" } else { key };
        fields.insert(key.to_owned(), Value::Array(rest));
        fields.insert("nullable".to_owned(), Value::Bool(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(new: Value, old: Value) {
        let mut value = new.clone();
        walk(&mut value);
        assert_eq!(value, old, "of {new}");
    }

    #[test]
    fn what_may_be_null_is_nullable() {
        check(json!({"type": ["string", "null"]}), json!({"type": "string", "nullable": true}));
        check(json!({"type": ["integer", "string"]}), json!({}));
        let reference = json!({"$ref": "#/components/schemas/Egress"});
        check(
            json!({"oneOf": [{"type": "null"}, reference.clone()]}),
            json!({"allOf": [reference], "nullable": true}),
        );
    }

    #[test]
    fn bounds_examples_and_constants_are_said_the_old_way() {
        check(json!({"exclusiveMinimum": 0}), json!({"minimum": 0, "exclusiveMinimum": true}));
        check(json!({"examples": ["red", "blue"]}), json!({"example": "red"}));
        check(json!({"examples": {"a": {"value": 1}}}), json!({"examples": {"a": {"value": 1}}}));
        check(json!({"const": "Ready"}), json!({"enum": ["Ready"]}));
        check(json!({"propertyNames": {"type": "string"}, "type": "object"}), json!({"type": "object"}));
    }

    #[test]
    fn fields_that_are_called_like_keywords_stay() {
        let new = json!({"properties": {"type": {"type": "string"}, "const": {"type": ["string", "null"]}}});
        let old = json!({"properties": {"type": {"type": "string"}, "const": {"type": "string", "nullable": true}}});
        check(new, old);
    }

    #[test]
    fn a_reference_stands_alone() {
        let old = json!({"description": "y", "allOf": [{"$ref": "#/x"}]});
        check(json!({"$ref": "#/x", "description": "y"}), old);
        check(json!({"$ref": "#/x"}), json!({"$ref": "#/x"}));
    }
}
