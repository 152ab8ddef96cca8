//! The OpenAPI 3.1 document, made of the types that the server parses with and of the table that it routes by.

use crate::audit::Hash;
use crate::command::{argument, form};
use crate::endpoint::{ANY, CHANGE, Call, ENDPOINTS, Endpoint, Headers, Parameters, Right};
use crate::{ClientToken, Kind, ProblemDocument, VERSION};
use agent_protocol::Verb;
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

macro_rules! pattern {
    ($($type:ty, $name:literal, $pattern:literal, $doc:literal;)*) => {
        $(impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $doc })
            }
        })*
    };
}

pattern! {
    ClientToken, "ClientToken", "^[A-Za-z0-9._-]{1,64}$", "Chosen by a client to name one request.";
    Hash, "Hash", "^[0-9a-f]{64}$", "A SHA-256.";
}

/// The bodies of one row of the table.
pub(crate) struct Bodies {
    pub(crate) doc: String,
    pub(crate) request: Option<Schema>,
    pub(crate) responses: Vec<(u16, Option<Schema>)>,
}

/// The words of `doc = "…"` attributes.
pub(crate) fn doc(attributes: &[&str]) -> String {
    let words = attributes.iter().filter_map(|attribute| attribute.split_once('"')?.1.rsplit_once('"'));
    words.map(|(words, _)| words.trim()).collect::<Vec<_>>().join(" ")
}

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<ProblemDocument>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in ENDPOINTS {
        let operation = operation(endpoint, &mut generator, &problem);
        let method = endpoint.method.as_str().to_ascii_lowercase();
        paths.entry(endpoint.path).or_default().insert(method, operation);
    }
    let mut schemas = generator.take_definitions(true);
    for name in ["CommandRequest", "BatchElement"] {
        by_verb(&mut schemas, name);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Corbel",
            "version": VERSION,
            "description": "The API of the control-plane appliance of a cloud host, on the service network. Every error \
                is a problem document (RFC 9457) of a closed catalogue. Times are in milliseconds of the appliance's clock.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/", "description": "the appliance" }],
        "security": [{ "mutualTLS": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "mutualTLS": {
                    "type": "mutualTLS",
                    "description": "TLS 1.3 with a client certificate whose URI SAN is spiffe://<trust domain>/svc/{vm,net,storage}"
                }
            }
        }
    })
}

/// The document as it is committed.
pub fn text() -> String {
    // An alternate display of a value is the value on lines of its own, with its keys sorted.
    format!("{:#}\n", document())
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let bodies = endpoint.call.schemas(generator);
    let plain = matches!(endpoint.call, Call::Health | Call::Metrics | Call::Scrape);
    let media = if plain { "text/plain" } else { "application/json" };
    let mut responses = Map::new();
    for (status, schema) in bodies.responses {
        let mut response = json!({ "description": management_http::reason(status) });
        if let Some(schema) = schema {
            response["content"] = json!({ media: { "schema": schema } });
        }
        responses.insert(status.to_string(), response);
    }
    let mut kinds: Vec<Kind> = endpoint.call.problems().concat();
    kinds.extend(ANY);
    if endpoint.headers.has(Headers::SIGNED) {
        kinds.extend(CHANGE);
    }
    kinds.sort_by_key(|kind| (kind.status(), kind.name()));
    kinds.dedup();
    for status in kinds.iter().map(|kind| kind.status()) {
        let of_status = kinds.iter().filter(|kind| kind.status() == status);
        let names: Vec<_> = of_status.map(|kind| kind.name()).collect();
        let key = status.to_string();
        let entry = responses
            .entry(key)
            .or_insert_with(|| json!({ "description": management_http::reason(status), "content": {} }));
        entry["content"]["application/problem+json"] = json!({ "schema": problem });
        entry["x-problems"] = json!(names);
    }
    responses.insert(
        "default".into(),
        json!({
            "description": "what the HTTP engine refuses",
            "content": { "application/problem+json": { "schema": problem } }
        }),
    );
    let mut operation = json!({
        "operationId": endpoint.call.name(),
        "summary": bodies.doc,
        "x-right": format!("{:?}", endpoint.right),
        "parameters": parameters(endpoint),
        "responses": responses,
    });
    if endpoint.right == Right::Enrol {
        // Strangers ask, before anybody has a certificate that this appliance could check.
        operation["security"] = json!([{}]);
    }
    if let Some(schema) = bodies.request {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let name = || json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" });
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema });
    let mut parameters = Vec::new();
    if endpoint.path.contains("{id}") {
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": name() }));
    }
    let rows = [
        (
            Parameters::LIMIT,
            query(
                "limit",
                "at most so many",
                json!({ "type": "integer", "minimum": 1, "maximum": 200, "default": 100 }),
            ),
        ),
        (Parameters::AFTER, query("after", "those that come after this name", name())),
        (
            Parameters::AFTER_SEQ,
            query("after", "those that come after this number", json!({ "type": "integer", "minimum": 0 })),
        ),
        (
            Parameters::WAIT,
            query(
                "wait",
                "how long the answer may be held back until there is something new, from 0s to 25s",
                json!({ "type": "string", "pattern": "^[0-9]{1,2}s$", "default": "0s" }),
            ),
        ),
        (
            Parameters::DRY_RUN,
            query(
                "dry_run",
                "only look whether it would be carried out",
                json!({ "type": "boolean", "default": false }),
            ),
        ),
        (
            Parameters::GRACE,
            query(
                "grace",
                "seconds that initiators have to log out",
                json!({ "type": "integer", "minimum": 0, "maximum": 3600 }),
            ),
        ),
    ];
    parameters
        .extend(rows.into_iter().filter(|(bit, _)| endpoint.query.has(*bit)).map(|(_, parameter)| parameter));
    parameters.push(json!({
        "name": "api-version", "in": "header", "required": false,
        "description": "the version of the API that the client was made for",
        "schema": { "type": "string", "const": VERSION }
    }));
    parameters.extend(headers(endpoint.headers));
    parameters
}

fn headers(which: Headers) -> impl Iterator<Item = Value> {
    let header = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema });
    let signed = "part of the caller's signature (RFC 9421) over @method, @path, @query where there is one, and content-digest \
        where there is a body, with the parameters created, expires (300 s later at most), nonce and keyid; needed where the \
        appliance says so";
    let rows = [
        (
            Headers::IF_MATCH,
            header(
                "If-Match",
                "the generation that is there, in quotation marks, or * for any: with another one nothing is done",
                json!({ "type": "string", "pattern": "^(\"[0-9]+\"|\\*)$" }),
            ),
        ),
        (Headers::SIGNED, header("Signature-Input", signed, json!({ "type": "string" }))),
        (Headers::SIGNED, header("Signature", signed, json!({ "type": "string" }))),
        (
            Headers::SIGNED,
            header(
                "Content-Digest",
                "what is signed of the body (RFC 9530), by sha-256",
                json!({ "type": "string" }),
            ),
        ),
    ];
    rows.into_iter().filter(move |(bit, _)| which.has(*bit)).map(|(_, header)| header)
}

/// Replace the schema of a command by one for each verb, with the arguments that the verb takes.
fn by_verb(schemas: &mut Map<String, Value>, name: &str) {
    let Some(whole) = schemas.get(name).cloned() else { return };
    let Some(arguments) = schemas.get("Arguments").cloned() else { return };
    let commanded = Verb::ALL.iter().filter_map(|verb| Some((*verb, form(*verb)?)));
    let variants: Vec<Value> = commanded
        .map(|(verb, form)| {
            let mut variant = whole.clone();
            variant["properties"]["verb"] = json!({ "const": verb.as_str() });
            if let Some(variant) = variant.as_object_mut() {
                variant.remove("description");
            }
            let names = |bits: u16| -> Vec<&str> {
                let all = argument::NAMES.iter().enumerate();
                all.filter(|(index, _)| bits >> index & 1 == 1).map(|(_, name)| *name).collect()
            };
            let properties = names(form.needs | form.takes)
                .into_iter()
                .map(|name| (name.to_string(), arguments["properties"][name].clone()));
            let properties: Map<String, Value> = properties.collect();
            variant["properties"]["args"] = json!({
                "type": "object",
                "properties": properties,
                "required": names(form.needs),
                "additionalProperties": false
            });
            if form.needs != 0
                && let Some(required) = variant["required"].as_array_mut()
            {
                required.push("args".into());
            }
            variant
        })
        .collect();
    schemas.insert(name.into(), json!({ "description": whole["description"], "oneOf": variants }));
}
