//! Enrolment and rotation, by callers in TLS, through resets.

use super::door::{Caller, VM, World, lock};
use super::resets::disk;
use crate::*;
use kernel_runtime::Instant;
use management_http::Method;
use network_tls::{Token, der};
use serde_json::{Value, json};
use state::Records;
use state::testing::RamDisk;
use std::time::Duration;
use tests_pki::{Authority, Kind, Leaf, Requested, pem};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// An appliance that starts with what is on the disk.
fn start(disk: &RamDisk, authority: Authority, token: Option<&str>) -> Result<World, String> {
    let records = Records::open(Box::new(disk.clone()), 65536, ([1; 16], 7), || Instant::ZERO).unwrap();
    let token = token.map(|token| Token::new(token).unwrap());
    let enrolment = Enrolment { token, name: "host-7".into(), address: Some([10, 77, 1, 2].into()) };
    let door = Door::enrolled(lock(&authority), records.clone(), enrolment)?;
    Ok(World::behind(door, authority, Some(records), 2))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(der: &[u8]) -> String {
    pem("X", der).lines().filter(|line| !line.starts_with('-')).collect()
}

fn certificate(world: &World, request: &[u8]) -> Vec<u8> {
    let names = &["appliance.example", "10.77.1.2"];
    world.authority.certify(&Leaf::server(names), &Requested::of(request))
}

/// The request in an answer, in DER.
fn requested(answer: &Value) -> Vec<u8> {
    let text = answer["request"].as_str().unwrap();
    der(&text.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

fn enrol_body(chain: &[Vec<u8>], token: &str) -> String {
    let proof = Token::new(token).unwrap().proof("corbel-enrol-certificate", &chain.concat());
    let certificates: Vec<String> = chain.iter().map(|der| base64(der)).collect();
    json!({ "certificates": certificates, "proof": hex(&proof) }).to_string()
}

fn ask(
    world: &mut World,
    caller: &mut Caller,
    method: Method,
    path: &str,
    body: Option<&str>,
) -> (u16, Value) {
    caller.ask(world, method, path, body).unwrap()
}

/// Somebody who takes any certificate for the appliance's: nobody can know better before it is enrolled.
fn stranger(world: &mut World) -> Caller {
    world.stranger()
}

#[test]
fn a_new_appliance_can_be_enrolled_once_and_by_whoever_knows_the_token() {
    let disk = disk();
    let authority = Authority::new("provider", Kind::P256);
    let mut world = start(&disk, authority, Some(TOKEN)).unwrap();
    let mut caller = stranger(&mut world);
    for path in ["/v1", "/healthz", "/v1/instances", "/v1/keys"] {
        let (status, body) = ask(&mut world, &mut caller, Method::Get, path, None);
        assert_eq!(status, 403, "{path}");
        assert!(body["detail"].as_str().unwrap().contains("has no certificate yet"), "{body}");
    }
    let (status, answer) = ask(&mut world, &mut caller, Method::Get, "/v1/enrol", None);
    assert_eq!(status, 200, "{answer}");
    let request = requested(&answer);
    let expected = Token::new(TOKEN).unwrap().proof("corbel-enrol-request", &request);
    assert_eq!(answer["proof"], hex(&expected), "the request is the appliance's own");

    let chain = [certificate(&world, &request)];
    let other = Authority::new("else", Kind::P256).issue(&Leaf::server(&["appliance.example"])).der;
    let over = Leaf { years: (2024, 2025), ..Leaf::server(&["appliance.example"]) };
    let over = world.authority.certify(&over, &Requested::of(&request));
    for (body, status) in [
        (enrol_body(&chain, &TOKEN.replace('0', "1")), 403),
        (enrol_body(&[other], TOKEN), 422),
        (enrol_body(&[over], TOKEN), 422),
        (enrol_body(&[], TOKEN), 422),
        (enrol_body(&vec![chain[0].clone(); 7], TOKEN), 422),
        (json!({ "certificates": ["!"], "proof": hex(&expected) }).to_string(), 422),
        (json!({ "certificates": [base64(&chain[0])], "proof": "" }).to_string(), 422),
        (json!({ "certificates": [base64(&chain[0])] }).to_string(), 400),
    ] {
        let answer = ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&body));
        assert_eq!(answer.0, status, "{}", answer.1);
    }
    let body = enrol_body(&chain, TOKEN);
    let (status, answer) = ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&body));
    assert_eq!((status, &answer["certificate"]["enrolled"]), (200, &json!(true)), "{answer}");

    // The token is spent, on this connection too, and nobody comes in without a certificate.
    let (status, _) = ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&body));
    assert_eq!(status, 409);
    caller.end.reset();
    let vm = world.issue(&[VM]);
    assert_eq!(world.get(&vm, "/v1").0, 200);
    let mut late = stranger(&mut world);
    assert!(late.ask(&mut world, Method::Get, "/v1/enrol", None).is_err());
}

#[test]
fn a_key_is_kept_before_its_request_is_shown_and_a_certificate_before_it_is_used() {
    let disk = disk();
    let authority = Authority::new("provider", Kind::P256);
    let mut world = start(&disk, authority, Some(TOKEN)).unwrap();
    let mut caller = stranger(&mut world);
    let shown = ask(&mut world, &mut caller, Method::Get, "/v1/enrol", None).1;
    // A reset: the same key waits.
    let mut world = start(&disk, world.authority, Some(TOKEN)).unwrap();
    let mut caller = stranger(&mut world);
    let again = ask(&mut world, &mut caller, Method::Get, "/v1/enrol", None).1;
    assert_eq!(shown["key"], again["key"]);
    // The disk fails: nothing is different, until it does not.
    let chain = [certificate(&world, &requested(&again))];
    disk.fail_after(Some(0));
    let body = enrol_body(&chain, TOKEN);
    assert_eq!(ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&body)).0, 503);
    assert!(world.management.configuration.door.keys().unwrap().1.waiting().is_some());
    disk.fail_after(None);
    world.wait(Duration::from_secs(6));
    let mut caller = stranger(&mut world);
    assert_eq!(ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&body)).0, 200);
    // A reset: it is enrolled, with the token of the configuration or without.
    for token in [Some(TOKEN), None] {
        world = start(&disk, world.authority, token).unwrap();
        let vm = world.issue(&[VM]);
        assert_eq!(world.get(&vm, "/v1").0, 200);
        let mut late = stranger(&mut world);
        assert!(late.ask(&mut world, Method::Get, "/v1/enrol", None).is_err());
    }
}

#[test]
fn without_a_certificate_and_a_token_it_does_not_start() {
    let authority = Authority::new("provider", Kind::P256);
    let error = start(&disk(), authority, None).err().unwrap();
    assert!(error.contains("is to be enrolled"), "{error}");
}

#[test]
fn a_key_is_replaced_without_a_connection_lost() {
    let disk = disk();
    let authority = Authority::new("provider", Kind::P256);
    let mut world = start(&disk, authority, Some(TOKEN)).unwrap();
    let mut caller = stranger(&mut world);
    let answer = ask(&mut world, &mut caller, Method::Get, "/v1/enrol", None).1;
    let first = [certificate(&world, &requested(&answer))];
    assert_eq!(
        ask(&mut world, &mut caller, Method::Post, "/v1/enrol", Some(&enrol_body(&first, TOKEN))).0,
        200
    );
    caller.end.reset();

    let (vm, storage) = (world.issue(&[VM]), world.issue(&["spiffe://example.org/svc/storage"]));
    assert_eq!(world.get(&storage, "/v1/keys").0, 403, "keys are for svc/vm");
    let mut caller = world.caller(Some(&vm));
    let document = |chain: &[u8]| json!({ "certificates": [base64(chain)] }).to_string();
    let put = document(&first[0]);
    assert_eq!(ask(&mut world, &mut caller, Method::Put, "/v1/keys", Some(&put)).0, 409, "no key waits");
    for (count, status) in [(5461, 409), (7000, 400)] {
        let long = json!({ "certificates": ["AAAA".repeat(count)] }).to_string();
        assert_eq!(ask(&mut world, &mut caller, Method::Put, "/v1/keys", Some(&long)).0, status, "{count}");
    }
    let rotate = ask(&mut world, &mut caller, Method::Post, "/v1/keys:rotate", None);
    assert_eq!(rotate.0, 200, "{}", rotate.1);
    let twice = ask(&mut world, &mut caller, Method::Post, "/v1/keys:rotate", None).1;
    assert_eq!(rotate.1["key"], twice["key"], "asked again, it is the same key");
    assert_ne!(rotate.1["key"], answer["key"]);
    assert_eq!(ask(&mut world, &mut caller, Method::Get, "/v1/keys", None).1["waiting"], twice["key"]);
    assert_eq!(ask(&mut world, &mut caller, Method::Put, "/v1/keys", Some(&put)).0, 422, "of the old key");
    let second = certificate(&world, &requested(&twice));
    let (status, keys) = ask(&mut world, &mut caller, Method::Put, "/v1/keys", Some(&document(&second)));
    assert_eq!((status, &keys["waiting"]), (200, &Value::Null), "{keys}");
    // The connection goes on; the next is shown the new certificate, and so it is after a reset.
    assert_eq!(ask(&mut world, &mut caller, Method::Get, "/v1", None).0, 200);
    assert_eq!(caller.tls.peer_certificate(), Some(first[0].as_slice()));
    assert_eq!(world.caller(Some(&vm)).tls.peer_certificate(), Some(second.as_slice()));
    let mut world = start(&disk, world.authority, None).unwrap();
    assert_eq!(world.caller(Some(&vm)).tls.peer_certificate(), Some(second.as_slice()));
}

#[test]
fn a_key_of_the_configuration_is_not_replaced_by_the_api() {
    let mut world = World::new(1);
    let vm = world.issue(&[VM]);
    let (status, problem) = world.get(&vm, "/v1/keys");
    assert_eq!((status, problem["type"].as_str()), (409, Some("urn:corbel:problem:key-state")), "{problem}");
}
