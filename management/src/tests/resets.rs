//! What a reset of the appliance leaves of its promises.

use super::desk::*;
use crate::*;
use agent_protocol::{OpId, Outcome, Refusal, State, Text, Uuid};
use kernel_runtime::Instant;
use serde_json::Value;
use state::Records;
use state::testing::RamDisk;
use std::time::Duration;

const COMMANDS: &str = "POST /v1/instances/web-1/commands";
const TERMINATE: &str = r#"{"verb":"terminate","client_token":"T-1"}"#;

pub(super) fn disk() -> RamDisk {
    RamDisk::new(state::LEAST_BLOCKS)
}

/// An appliance that starts with what is on the disk, in its run of this number.
pub(super) fn start(disk: &RamDisk, run: u128) -> Desk {
    let records =
        Records::open(Box::new(disk.clone()), 65536, ([1; 16], run as u64), || Instant::ZERO).unwrap();
    let configuration = Configuration { boot: Uuid(run), ..configuration(Some("10.0.0.1:7077")) };
    Desk::over(configuration, Some(records))
}

fn look(desk: &Desk, id: &OpId) -> Value {
    desk.answer(&format!("GET /v1/operations/{id}"), "").1
}

#[test]
fn an_operation_that_has_ended_and_its_token_are_as_they_were() {
    let disk = disk();
    let desk = start(&disk, 1);
    let (status, first) = desk.command(COMMANDS, TERMINATE, done("web-1", State::Terminated, true));
    assert_eq!((status, &first["kept"]), (202, &true.into()));
    let refusal = Outcome::Refused { code: Refusal::WrongState, detail: Text::new("no"), instance: None };
    let refused = desk.command(COMMANDS, r#"{"verb":"pause","client_token":"T-2"}"#, refusal);
    disk.power_failure(|| 0);

    let desk = start(&disk, 2);
    let again = desk.answer(COMMANDS, TERMINATE);
    assert_eq!(again.0, 202);
    for member in ["id", "verb", "instance", "state", "changed", "evidence"] {
        assert_eq!(again.1[member], first[member], "{member}");
    }
    let other = desk.answer(COMMANDS, r#"{"verb":"start","client_token":"T-1"}"#);
    assert_eq!(kind(&other), (409, "client-token-reused"));
    assert_eq!(desk.answer(COMMANDS, r#"{"verb":"pause","client_token":"T-2"}"#), refused);
    let (next, _) = desk.sent(COMMANDS, r#"{"verb":"start"}"#);
    assert_ne!(next.op_id.as_str(), first["id"]);
    assert_eq!(desk.answer("GET /v1/operations", "").1["operations"].as_array().unwrap().len(), 3);
}

#[test]
fn a_disk_that_was_attached_is_told_of_to_whoever_asks_again_although_its_target_is_gone() {
    let disk = disk();
    let desk = start(&disk, 1);
    let target = r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"]}"#;
    let put = desk.answer("PUT /v1/targets/disk-1", target);
    assert_eq!(put.0, 201, "{put:?}");
    let attach = |token, more| {
        format!(r#"{{"verb":"volume.attach","args":{{"target":"disk-1"{more}}},"client_token":"{token}"}}"#)
    };
    let (_, first) = desk.command(COMMANDS, &attach("T-1", ""), done("web-1", State::Running, true));
    assert_eq!(desk.answer("DELETE /v1/targets/disk-1", "").0, 204);

    let desk = start(&disk, 2);
    let again = desk.answer(COMMANDS, &attach("T-1", ""));
    assert_eq!((again.0, &again.1["id"]), (202, &first["id"]), "{again:?}");
    let other = desk.answer(COMMANDS, &attach("T-1", r#","volume":"data""#));
    assert_eq!(kind(&other), (409, "client-token-reused"));
    assert_eq!(kind(&desk.answer(COMMANDS, &attach("T-2", ""))), (404, "unknown-target"));
}

#[test]
fn a_record_that_cannot_be_read_is_never_written_over() {
    for (key, last) in [("operations/0000000000000007", false), ("operations/ffffffffffffffff", true)] {
        let disk = disk();
        let desk = start(&disk, 1);
        desk.put(key.as_bytes(), b"of a later version");
        let desk = start(&disk, 2);
        for _ in 0..9 {
            let answer = desk.answer(COMMANDS, r#"{"verb":"terminate"}"#);
            assert_eq!(answer.0 == 503, last, "{answer:?}");
        }
        let kept = desk.management.state.as_ref().unwrap().get(key.as_bytes());
        assert_eq!(kept.as_deref(), Some(&b"of a later version"[..]));
    }
}

#[test]
fn a_command_is_kept_before_it_is_sent_and_before_it_is_told_of() {
    let disk = disk();
    let desk = start(&disk, 1);
    let Step::Wait(_) = desk.step(COMMANDS, TERMINATE) else { panic!() };
    let listed = desk.answer("GET /v1/operations", "").1;
    assert!(listed["operations"].as_array().unwrap().is_empty());
    assert!(desk.management.take_work().is_err());
    let (command, _) = desk.sent(COMMANDS, TERMINATE);
    disk.power_failure(|| 0);
    let desk = start(&disk, 2);
    assert_eq!(look(&desk, &command.op_id)["state"], "accepted");
}

#[test]
fn what_was_under_way_is_settled_with_the_agent() {
    let disk = disk();
    let desk = start(&disk, 1);
    let (command, _) = desk.sent(COMMANDS, TERMINATE);
    let id = command.op_id.clone();

    let desk = start(&disk, 2);
    let (asked, question) = desk.carried(&desk.peer(AGENT, 3000, 2)).unwrap();
    assert_eq!((&asked, &question), (&id, &Question::Recall(id.clone())));
    desk.deliver(&id, false, Ok(answer_to(&id, done("web-1", State::Terminated, true))));
    assert_eq!(look(&desk, &id)["state"], "succeeded");
}

#[test]
fn what_the_agent_never_received_is_sent_again_until_its_deadline_and_then_never() {
    for (clock_ms, is_sent) in [(3000, true), (25_999, true), (28_000, false)] {
        let disk = disk();
        let desk = start(&disk, 1);
        let (command, _) = desk.sent(COMMANDS, TERMINATE);
        let id = command.op_id.clone();

        let mut desk = start(&disk, 2);
        let peer = desk.peer(AGENT, clock_ms, 2);
        assert!(desk.carried(&peer).is_some());
        desk.management.delivered(&id, Some(&peer), false, Ok(Reply::NeverReceived));
        desk.clerk();
        desk.wait(Duration::from_millis(500));
        let next = desk.carried(&peer);
        if is_sent {
            assert_eq!(next, Some((id, Question::Command(command.into()))), "{clock_ms}");
        } else {
            assert_eq!(next, None);
            assert_eq!(look(&desk, &id)["error"]["status"], 504);
        }
    }
}

#[test]
fn a_command_that_had_no_time_to_be_sent_was_not_carried_out() {
    let disk = disk();
    let desk = start(&disk, 1);
    let Step::Wait(_) = desk.step(COMMANDS, TERMINATE) else { panic!() };
    desk.clerk();
    let desk = start(&disk, 2);
    let answer = desk.answer(COMMANDS, TERMINATE);
    assert_eq!((kind(&answer), &answer.1["retryable"]), ((503, "agent-unavailable"), &true.into()));
    assert_eq!(desk.carried(&desk.peer(AGENT, 1000, 1)), None);
}

#[test]
fn the_epoch_is_held_through_a_reset() {
    let disk = disk();
    let desk = start(&disk, 1);
    assert_eq!(desk.management.epoch.get(), None);
    desk.hold(7);
    disk.power_failure(|| 0);
    assert_eq!(start(&disk, 2).management.epoch.get(), Some(7));
}

#[test]
fn without_a_disk_it_is_said_and_what_must_not_be_done_twice_is_refused() {
    let desk = Desk::new();
    assert_eq!(desk.answer("GET /v1", "").1["state"]["disk"], "none");
    let verbs = |repeatable: bool| {
        agent_protocol::Verb::ALL.iter().filter(move |verb| delivery::is_repeatable(**verb) == repeatable)
    };
    let refused: Vec<_> = verbs(false).map(|verb| verb.as_str()).collect();
    assert_eq!(refused, ["reboot", "reset", "revert", "migrate.start"]);
    assert!(verbs(true).any(|verb| *verb == agent_protocol::Verb::Terminate));
    let (_, operation) = desk.command(COMMANDS, TERMINATE, done("web-1", State::Terminated, true));
    assert_eq!(operation["kept"], false);
}

#[test]
fn a_disk_that_fails_stops_neither_terminate_nor_the_truth() {
    let disk = disk();
    let mut desk = start(&disk, 1);
    disk.fail_after(Some(0));
    let (status, operation) = desk.command(COMMANDS, TERMINATE, done("web-1", State::Terminated, true));
    assert_eq!((status, &operation["state"], &operation["kept"]), (202, &"succeeded".into(), &false.into()));
    assert_eq!(desk.answer("GET /v1", "").1["state"]["disk"], "failed");

    // That nothing was done is not told before it is sure to stay so.
    let Step::Wait(wait) = desk.step(COMMANDS, r#"{"verb":"pause","deadline_ms":2000}"#) else { panic!() };
    desk.clerk();
    desk.management.give_up(Kind::AgentUnavailable, "x");
    desk.clerk();
    assert_eq!(read(&desk.management.waited(&wait)).1["state"], "accepted");
    disk.fail_after(None);
    for _ in 0..3 {
        desk.wait(Duration::from_secs(5));
        desk.management.state.as_ref().unwrap().turn(desk.now());
        desk.clerk();
    }
    assert_eq!(kind(&read(&desk.management.waited(&wait))), (503, "agent-unavailable"));
    assert_eq!(desk.answer("GET /v1", "").1["state"]["disk"], "kept");
    disk.power_failure(|| 0);
    let desk = start(&disk, 2);
    let list = desk.answer("GET /v1/operations", "").1;
    let states: Vec<_> = list["operations"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["failed", "succeeded"], "both are kept in the end");
}
