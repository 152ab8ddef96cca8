//! Machines managed through the API: what is done to them is done, and what cannot be done is said clearly.

use crate::fixture::{script, stage, target};
use image_launch::agent::IMAGE;
use image_launch::api::{self, Answer};
use image_launch::disk::{self, NBD, NbdServer, Server};
use image_launch::initiator::{self, Unit};
use image_launch::stage::{IQN, Script, Stage};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const SIZE: u64 = 8 << 20;

fn with_agent() -> Script {
    let mut script = script(target(), SIZE, Server::QemuNbd);
    script.agent = true;
    script
}

fn ask(stage: &Stage, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let answer = api::ask(&stage.net, method, path, body).unwrap();
    println!("{method} {path}: {} {}", answer.status, answer.body);
    answer
}

fn order(stage: &Stage, id: &str, verb: &str) -> Answer {
    ask(stage, "POST", &format!("/v1/instances/{id}/commands"), Some(&json!({ "verb": verb })))
}

fn create(stage: &Stage, id: &str) {
    let answer =
        ask(stage, "POST", "/v1/instances", Some(&json!({ "id": id, "image": IMAGE, "start": true })));
    assert!([200, 201].contains(&answer.status), "{answer:?}");
}

fn state(stage: &Stage, id: &str) -> String {
    ask(stage, "GET", &format!("/v1/instances/{id}"), None).text("/state").to_string()
}

/// The answer is a problem of this kind, as RFC 9457 has it, with a sentence for people.
fn is_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.media.starts_with("application/problem+json"), "{answer:?}");
    assert!(answer.text("/type").ends_with(kind), "{answer:?}");
    assert!(!answer.text("/title").is_empty(), "{answer:?}");
    assert_eq!(answer.body.pointer("/status").and_then(Value::as_u64), Some(u64::from(status)), "{answer:?}");
}

#[test]
fn terminate_ends_a_real_process_and_the_second_one_says_so() {
    let (stage, _turn) = stage(&with_agent());
    let agent = stage.agent.as_ref().unwrap();
    create(&stage, "one");
    create(&stage, "two");
    let guests = agent.wait_for_guests(2, LIMIT).unwrap();
    assert_eq!(state(&stage, "one"), "running");
    let answer = order(&stage, "one", "terminate");
    assert!(answer.succeeded(), "{answer:?}");
    // Not later: what the answer says is done has been done.
    let left = agent.guests();
    assert_eq!(left.len(), 1, "{guests:?} before, {left:?} after");
    assert_eq!(state(&stage, "two"), "running");
    is_problem(&order(&stage, "one", "terminate"), 409, "instance-terminated");
    is_problem(&order(&stage, "nobody", "terminate"), 404, "unknown-instance");
    assert_eq!(agent.guests(), left);
}

#[test]
fn a_machine_is_paused_resumed_stopped_and_started() {
    let (stage, _turn) = stage(&with_agent());
    let agent = stage.agent.as_ref().unwrap();
    create(&stage, "one");
    agent.wait_for_guests(1, LIMIT).unwrap();
    for (verb, expected, guests) in
        [("pause", "paused", 1), ("resume", "running", 1), ("stop", "stopped", 0), ("start", "running", 1)]
    {
        let body = match verb {
            "stop" => json!({ "verb": "stop", "args": { "graceful": false } }),
            verb => json!({ "verb": verb }),
        };
        let answer = ask(&stage, "POST", "/v1/instances/one/commands", Some(&body));
        assert!(answer.succeeded(), "{verb}: {answer:?}");
        assert_eq!(state(&stage, "one"), expected, "after {verb}");
        assert_eq!(agent.guests().len(), guests, "after {verb}");
    }
}

#[test]
fn an_agent_that_is_down_is_named_as_the_reason() {
    let (mut stage, _turn) = stage(&with_agent());
    create(&stage, "one");
    stage.agent.as_mut().unwrap().process().stop();
    is_problem(&order(&stage, "one", "terminate"), 503, "agent-unavailable");
    // The disks go on as if nothing had happened.
    let unit = stage.unit(0);
    initiator::qemu_io(&stage.net, &unit, &["write -P 7 0 1M", "read -P 7 0 1M"]).unwrap();
}

#[test]
fn an_appliance_without_an_agent_says_that_it_has_none() {
    let (stage, _turn) = stage(&script(target(), SIZE, Server::QemuNbd));
    is_problem(&order(&stage, "one", "terminate"), 503, "agent-not-configured");
}

#[test]
fn a_target_is_exposed_and_withdrawn_while_the_others_are_in_use() {
    let (stage, _turn) = stage(&script(target(), SIZE, Server::QemuNbd));
    let file = stage.scratch.file("extra.raw");
    disk::empty(&file, 2 * SIZE).unwrap();
    let server = NbdServer::start(&stage.net, &stage.scratch, &Server::nbdkit(), &file, NBD + 9).unwrap();
    let unit = Unit { portal: stage.net.portal(), iqn: format!("{IQN}:extra"), lun: 3 };
    let body = json!({ "iqn": unit.iqn, "lun": unit.lun, "volume": server.uri(), "initiators": ["*"] });

    assert!(initiator::capacity(&stage.net, &unit).is_err(), "it is there before it was exposed");
    let answer = ask(&stage, "PUT", "/v1/targets/extra", Some(&body));
    assert!([200, 201].contains(&answer.status), "{answer:?}");
    let names = || -> Vec<String> {
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        found.into_iter().map(|target| target.iqn).collect()
    };
    assert!(names().contains(&unit.iqn));
    assert_eq!(initiator::capacity(&stage.net, &unit).unwrap().bytes(), 2 * SIZE);
    initiator::qemu_io(&stage.net, &unit, &["write -P 0x33 0 64k", "flush", "read -P 0x33 0 64k"]).unwrap();
    assert!(std::fs::read(&file).unwrap()[..64 << 10].iter().all(|byte| *byte == 0x33));

    let answer = ask(&stage, "DELETE", "/v1/targets/extra", None);
    assert!([200, 204].contains(&answer.status), "{answer:?}");
    assert!(!names().contains(&unit.iqn));
    assert!(initiator::capacity(&stage.net, &unit).is_err(), "it is there although it was withdrawn");
    is_problem(&ask(&stage, "DELETE", "/v1/targets/extra", None), 404, "unknown-target");
    initiator::qemu_io(&stage.net, &stage.unit(0), &["write -P 7 0 64k", "read -P 7 0 64k"]).unwrap();
}

#[test]
fn a_target_that_was_exposed_through_the_api_outlives_a_reset_and_one_that_was_withdrawn_does_not_return() {
    let mut script = script(target(), SIZE, Server::QemuNbd);
    script.state = true;
    let (mut stage, _turn) = stage(&script);
    let file = stage.scratch.file("extra.raw");
    disk::empty(&file, SIZE).unwrap();
    let server = NbdServer::start(&stage.net, &stage.scratch, &Server::nbdkit(), &file, NBD + 9).unwrap();
    let unit = Unit { portal: stage.net.portal(), iqn: format!("{IQN}:extra"), lun: 0 };
    let body = json!({ "iqn": unit.iqn, "volume": server.uri(), "initiators": ["*"] });
    let made = ask(&stage, "PUT", "/v1/targets/extra", Some(&body));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["desired"]["durable"], true, "{made:?}");
    initiator::qemu_io(&stage.net, &unit, &["write -P 0x33 0 64k", "flush"]).unwrap();

    stage.crash().unwrap();
    // It is told as it was, and guests have their disk again, with what they wrote.
    let shown = ask(&stage, "GET", "/v1/targets/extra", None);
    assert_eq!(shown.status, 200, "{shown:?}");
    for field in ["iqn", "volume", "lun", "desired"] {
        assert_eq!(shown.body[field], made.body[field], "{shown:?}");
    }
    initiator::capacity(&stage.net, &unit).unwrap();
    initiator::qemu_io(&stage.net, &unit, &["read -P 0x33 0 64k", "write -P 0x44 0 64k", "flush"]).unwrap();
    assert!(std::fs::read(&file).unwrap()[..64 << 10].iter().all(|byte| *byte == 0x44));

    assert_eq!(ask(&stage, "DELETE", "/v1/targets/extra", None).status, 204);
    stage.crash().unwrap();
    is_problem(&ask(&stage, "GET", "/v1/targets/extra", None), 404, "unknown-target");
    assert!(initiator::capacity(&stage.net, &unit).is_err(), "it is there although it was withdrawn");
    initiator::qemu_io(&stage.net, &stage.unit(0), &["write -P 7 0 64k", "read -P 7 0 64k"]).unwrap();
}

#[test]
fn only_the_initiators_named_may_log_in() {
    let mut script = script(target(), SIZE, Server::QemuNbd);
    script.config = vec![("target.0.initiators".into(), "iqn.2026-11.example.guest:friend".into())];
    let (stage, _turn) = stage(&script);
    let url = stage.unit(0).url();
    let inquiry = |name: &str| {
        let mut inq = stage.net.command("iscsi-inq");
        inq.args(["-i", name, &url]);
        image_launch::process::run(inq, LIMIT).unwrap()
    };
    assert_eq!(inquiry("iqn.2026-11.example.guest:friend").code, 0);
    let refused = inquiry("iqn.2026-11.example.guest:stranger");
    assert_ne!(refused.code, 0, "{}", refused.text());
}

#[test]
fn what_a_client_gets_wrong_is_told_to_it_and_harms_nobody() {
    let (stage, _turn) = stage(&with_agent());
    is_problem(&ask(&stage, "GET", "/v2", None), 404, "not-found");
    is_problem(&ask(&stage, "PATCH", "/v1/instances", Some(&json!({}))), 405, "method-not-allowed");
    let unknown = json!({ "id": "one", "image": IMAGE, "colour": "blue" });
    is_problem(&ask(&stage, "POST", "/v1/instances", Some(&unknown)), 400, "malformed-body");
    let path = json!({ "id": "one", "image": "../../etc/passwd" });
    is_problem(&ask(&stage, "POST", "/v1/instances", Some(&path)), 400, "malformed-body");
    let image = json!({ "id": "one", "image": "no-such-image" });
    is_problem(&ask(&stage, "POST", "/v1/instances", Some(&image)), 422, "unknown-image");
    create(&stage, "one");
    is_problem(
        &ask(&stage, "POST", "/v1/instances", Some(&json!({ "id": "one", "image": IMAGE }))),
        409,
        "instance-exists",
    );
}

#[test]
#[ignore = "a figure for tests/bench/README.md: run it alone"]
fn figure_of_a_boot_to_the_first_accepted_command() {
    let (mut stage, _turn) = stage(&with_agent());
    let began = Instant::now();
    stage.crash().unwrap();
    let up = began.elapsed();
    let body = json!({ "id": "one", "image": IMAGE, "start": false });
    while api::ask(&stage.net, "POST", "/v1/instances", Some(&body)).map_or(0, |answer| answer.status) != 201
    {
        assert!(began.elapsed() < LIMIT, "no command was accepted");
    }
    println!(
        "| QEMU started to the appliance up / to the first command accepted | {:.0} / {:.0} ms |",
        up.as_secs_f64() * 1000.0,
        began.elapsed().as_secs_f64() * 1000.0
    );
}
