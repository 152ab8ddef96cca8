//! Every answer that a desk sees is held against what the OpenAPI document says of its row: the status, the kind of problem,
//! the media type, and the body, member by member. So the document cannot say other than what is served.

use super::desk::*;
use management_api::{Call, ENDPOINTS, Headers, find, openapi};
use management_http::{Method, Response};
use serde_json::Value;
use std::sync::OnceLock;

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(openapi::document)
}

/// What the document says wrong of the answer to the request with this line, if anything.
fn drift(line: &str, response: &Response) -> Result<(), String> {
    let (method, target) = line.split_once(' ').expect("a request's line");
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let methods = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete];
    let method = methods.into_iter().find(|one| one.as_str() == method).expect("a method");
    let body: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
    let problem = body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:corbel:problem:"));
    let Ok((endpoint, _)) = find(method, path) else {
        let is_nothing = matches!(problem, Some("not-found" | "method-not-allowed"));
        return if is_nothing { Ok(()) } else { Err(format!("there is no such row, and it answers {body}")) };
    };
    let name = endpoint.method.as_str().to_ascii_lowercase();
    let responses = &document()["paths"][endpoint.path][name]["responses"];
    let row = &responses[response.status.to_string()];
    if row.is_null() {
        return Err(format!("the document has no {}: {body}", response.status));
    }
    if response.body.is_empty() {
        return if row["content"].is_null() { Ok(()) } else { Err("it is to have a body".into()) };
    }
    let media = response.media_type.split_once(';').map_or(response.media_type, |(media, _)| media);
    let content = &row["content"][media];
    if content.is_null() {
        return Err(format!("the document has no {media} with {}", response.status));
    }
    if media == "application/problem+json" {
        let kinds = row["x-problems"].as_array().into_iter().flatten();
        if !kinds.into_iter().any(|kind| kind.as_str() == problem) {
            return Err(format!("the document does not know {problem:?} with {}", response.status));
        }
    }
    let body = if media == "text/plain" { String::from_utf8_lossy(&response.body).into() } else { body };
    fits(&content["schema"], &body, "")
}

/// Hold an answer against the document.
pub(super) fn hold(line: &str, response: &Response) {
    if let Err(why) = drift(line, response) {
        panic!("{line}: {why}");
    }
}

/// Whether a value is as a schema says, as far as the schemas of the document go (JSON Schema 2020-12).
fn fits(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{at}: {what}: {value}"));
    let Some(schema) = schema.as_object() else {
        return if schema == &Value::Bool(false) { wrong("nothing is to be here") } else { Ok(()) };
    };
    if let Some(reference) = schema.get("$ref") {
        let name =
            reference.as_str().and_then(|name| name.strip_prefix('#')).expect("a reference of the document");
        fits(document().pointer(name).expect("a schema"), value, at)?;
    }
    for one in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        fits(one, value, at)?;
    }
    for choice in ["anyOf", "oneOf"] {
        let Some(all) = schema.get(choice).and_then(Value::as_array) else { continue };
        let results: Vec<_> = all.iter().map(|one| fits(one, value, at)).collect();
        if results.iter().all(Result::is_err) {
            return wrong(&format!("none of {choice}: {results:?}"));
        }
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        return wrong("another is to be here");
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|all| !all.contains(value)) {
        return wrong("it is none of those that can be here");
    }
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    };
    match schema.get("type") {
        Some(Value::String(name)) if !is(name) => return wrong(&format!("it is to be of type {name}")),
        Some(Value::Array(names)) if !names.iter().filter_map(Value::as_str).any(is) => {
            return wrong(&format!("it is to be one of {names:?}"));
        }
        _ => {}
    }
    if let (Some(items), Some(elements)) = (schema.get("items"), value.as_array()) {
        for (index, element) in elements.iter().enumerate() {
            fits(items, element, &format!("{at}/{index}"))?;
        }
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if name.as_str().is_none_or(|name| !members.contains_key(name)) {
            return wrong(&format!("{name} is missing"));
        }
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    let others = schema.get("additionalProperties");
    // What is put together of several schemas has members in each.
    let is_whole = !["$ref", "allOf", "anyOf", "oneOf"].iter().any(|word| schema.contains_key(*word));
    for (name, member) in members {
        let at = format!("{at}/{name}");
        match (properties.get(name), others) {
            (Some(property), _) => fits(property, member, &at)?,
            (None, Some(others)) => fits(others, member, &at)?,
            (None, None) if is_whole => {
                return Err(format!("{at}: the document does not tell of it: {member}"));
            }
            (None, None) => {}
        }
    }
    Ok(())
}

#[test]
fn an_answer_that_the_document_does_not_tell_of_is_seen() {
    let json = |status, body: &str| Response::json(status, body.into());
    let problem = |kind: &str, status| {
        let kind = format!("urn:corbel:problem:{kind}");
        let body = serde_json::json!({ "type": kind, "title": "a", "status": status, "detail": "b", "retryable": false });
        Response::problem(status, body.to_string().into_bytes())
    };
    let host = r#"{"id":"self","agent":{"state":"up"},"capacity":{"targets":{"used":0},"operations":{"used":0}},"drain":false}"#;
    assert_eq!(drift("GET /v1/hosts/self", &json(200, host)), Ok(()));
    for wrong in [
        json(200, &host.replace("\"drain\":false", "\"drain\":0")),
        json(200, &host.replace(",\"drain\":false", "")),
        json(200, &host.replace("\"up\"", "\"sideways\"")),
        json(200, &host.replace("\"used\":0}}", "\"used\":0,\"more\":1}}")),
        json(202, host),
        Response::text(200, "ok\n"),
        Response::no_content(),
        problem("unknown-target", 404),
    ] {
        assert!(drift("GET /v1/hosts/self", &wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(drift("GET /v1/targets/a", &problem("unknown-target", 404)), Ok(()));
    assert!(drift("GET /v1/nowhere", &json(200, "{}")).is_err());
}

/// A request of the row that is carried out on a new desk, after what has to be there for it.
fn example(desk: &Desk, call: Call) -> (&'static str, String) {
    let target = r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"]}"#;
    let map = |generation: u64| {
        format!(r#"{{"network":"blue","generation":{generation},"vni":7,"mtu":1450,"endpoints":[]}}"#)
    };
    match call {
        Call::PutTarget => ("PUT /v1/targets/a", target.into()),
        Call::DeleteTarget => {
            assert_eq!(desk.answer("PUT /v1/targets/a", target).0, 201);
            ("DELETE /v1/targets/a", String::new())
        }
        Call::PutNetwork => {
            assert_eq!(desk.answer("PUT /v1/networks/blue/map", &map(1)).0, 201);
            ("PUT /v1/networks/blue/map", map(2))
        }
        Call::DeleteNetwork => {
            assert_eq!(desk.answer("PUT /v1/networks/blue/map", &map(1)).0, 201);
            ("DELETE /v1/networks/blue/map", String::new())
        }
        Call::Drain => ("POST /v1/hosts/self:drain", r#"{"drain":true}"#.into()),
        other => panic!("{} has no example", other.name()),
    }
}

#[test]
fn if_match_counts_where_the_document_has_it_and_nowhere_else() {
    let rows = ENDPOINTS.iter().filter(|row| row.headers.has(Headers::IF_MATCH) || row.call == Call::Drain);
    let mut count = 0;
    for row in rows {
        let operation = &document()["paths"][row.path][row.method.as_str().to_ascii_lowercase()];
        let named = |name: &str| {
            let parameters = operation["parameters"].as_array().unwrap();
            parameters.iter().any(|one| one["name"] == name && one["in"] == "header")
        };
        let has_it = row.headers.has(Headers::IF_MATCH);
        assert_eq!(named("If-Match"), has_it, "{}", row.path);
        let desk = Desk::new();
        let (line, body) = example(&desk, row.call);
        let (status, _) = desk.answer_with(line, "If-Match: \"77\"\r\n", &body);
        assert_eq!(status == 412, has_it, "{line}");
        let (status, answer) = desk.answer(line, &body);
        assert!(status < 300, "{line}: {answer}");
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn what_changes_something_can_be_signed_and_strangers_need_no_certificate_to_enrol() {
    for row in ENDPOINTS {
        let changes = row.method != Method::Get;
        assert_eq!(row.headers.has(Headers::SIGNED), changes, "{}", row.path);
        let operation = &document()["paths"][row.path][row.method.as_str().to_ascii_lowercase()];
        let names: Vec<_> =
            operation["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        for name in ["Signature-Input", "Signature", "Content-Digest"] {
            assert_eq!(names.iter().any(|one| **one == name), changes, "{name} of {}", row.path);
        }
        let is_open = operation["security"] == serde_json::json!([{}]);
        assert_eq!(is_open, row.right == management_api::Right::Enrol, "{}", row.path);
    }
}
