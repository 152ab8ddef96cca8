//! The committed OpenAPI document is what the types and the table say.

use management_api::openapi;
use serde_json::Value;
use std::collections::BTreeSet;

/// Compares, and writes what is new, so that a commit can show it.
#[test]
fn the_committed_document_is_the_one_that_the_types_make() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let made = openapi::text();
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    if committed != made {
        std::fs::write(path, &made).unwrap();
        panic!("openapi.json was not what the types make; it has been written anew: look at the difference");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference.clone());
            }
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(elements) => elements.iter().for_each(|element| references(element, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document = openapi::document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in &found {
        let name = reference.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{reference}"));
        assert!(schemas.contains_key(name), "{reference} leads nowhere");
    }
    for name in schemas.keys().filter(|name| *name != "Arguments") {
        assert!(found.contains(&format!("#/components/schemas/{name}")), "nothing uses {name}");
    }
}

#[test]
fn every_operation_has_words_answers_and_a_name_of_its_own() {
    let document = openapi::document();
    let mut names = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{what}");
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
        }
    }
}

#[test]
fn what_the_server_refuses_the_document_refuses_too() {
    let document = openapi::document();
    let command = &document["components"]["schemas"]["CommandRequest"]["oneOf"];
    let of = |verb: &str| {
        let found = command.as_array().unwrap().iter().find(|one| one["properties"]["verb"]["const"] == verb);
        found.unwrap_or_else(|| panic!("{verb}"))
    };
    assert_eq!(of("volume.attach")["properties"]["args"]["required"], serde_json::json!(["target"]));
    assert_eq!(of("pause")["properties"]["args"]["properties"], serde_json::json!({}));
    assert_eq!(of("pause")["additionalProperties"], false);
    let verbs: Vec<_> =
        command.as_array().unwrap().iter().map(|one| &one["properties"]["verb"]["const"]).collect();
    assert!(!verbs.contains(&&"create".into()) && !verbs.contains(&&"describe".into()));
}
