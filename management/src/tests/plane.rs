//! Commands and what becomes of them.

use super::desk::*;
use super::resets::{disk, start};
use crate::*;
use agent_protocol::{
    Action, Failure, Inventory, Link, Nic, Outcome, Precondition, Refusal, Size, State, Text, Then, Uuid,
    Volume,
};
use std::time::Duration;

const COMMANDS: &str = "POST /v1/instances/web-1/commands";
const TERMINATE: &str = r#"{"verb":"terminate"}"#;

fn refused(code: Refusal, state: State) -> Outcome {
    Outcome::Refused { code, detail: Text::new("because"), instance: Some(instance("web-1", state)) }
}

#[test]
fn a_command_becomes_one_question_and_its_answer_an_operation() {
    let desk = Desk::new();
    let (sent, wait) = desk.sent(COMMANDS, TERMINATE);
    assert_eq!((sent.instance, sent.action), (name("web-1"), Action::Terminate {}));
    assert_eq!(sent.critical, ["precondition", "deadline_ms", "epoch"]);
    assert_eq!((sent.epoch, sent.agent_boot, sent.deadline_ms), (Some(3), Some(AGENT), Some(1000 + 25_000)));
    let id = sent.op_id.clone();
    let open = desk.answer(&format!("GET /v1/operations/{id}"), "");
    assert_eq!((open.0, &open.1["state"]), (200, &"sent".into()));

    desk.deliver(&id, true, Ok(answer_to(&id, done("web-1", State::Terminated, true))));
    let response = desk.management.waited(&wait);
    assert_eq!(response.location, Some(format!("/v1/operations/{id}")));
    let (status, document) = read(&response);
    assert_eq!(status, 202);
    assert_eq!(document["id"], id.as_str());
    assert_eq!(document["verb"], "terminate");
    assert_eq!(document["instance"], "web-1");
    assert_eq!(document["state"], "succeeded");
    assert_eq!(document["changed"], true);
    assert_eq!(document["evidence"][0], "seen");
    assert_eq!(document["result"]["state"], "terminated");
    assert_eq!(document["result"]["allowed_actions"], serde_json::json!([]));
    assert_eq!(desk.answer(&format!("GET /v1/operations/{id}"), ""), (200, document));
}

/// Commands whose arguments name something.
fn actions_with_parts() -> Vec<(&'static str, Action)> {
    let size = Size { cpus: Some(2), memory_mib: None };
    let nic = Nic {
        nic: "lan".parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        link: Link::Up,
    };
    vec![
        (r#"{"verb":"force-stop"}"#, Action::Stop { graceful: false, timeout_ms: 0, then: Then::Leave }),
        (
            r#"{"verb":"reboot","args":{"timeout_ms":7,"then":"force"}}"#,
            Action::Reboot { timeout_ms: 7, then: Then::Force },
        ),
        (r#"{"verb":"reset"}"#, Action::Reset {}),
        (r#"{"verb":"save"}"#, Action::Save {}),
        (r#"{"verb":"restore"}"#, Action::Restore {}),
        (
            r#"{"verb":"snapshot","args":{"snapshot":"before"}}"#,
            Action::Snapshot { snapshot: "before".parse().unwrap() },
        ),
        (
            r#"{"verb":"revert","args":{"snapshot":"before"}}"#,
            Action::Revert { snapshot: "before".parse().unwrap() },
        ),
        (r#"{"verb":"resize","args":{"cpus":2}}"#, Action::Resize { size }),
        (
            r#"{"verb":"volume.detach","args":{"volume":"data"}}"#,
            Action::VolumeDetach { volume: "data".parse().unwrap(), timeout_ms: 60_000 },
        ),
        (
            r#"{"verb":"volume.resize","args":{"volume":"data"}}"#,
            Action::VolumeResize { volume: "data".parse().unwrap() },
        ),
        (
            r#"{"verb":"nic.attach","args":{"nic":"lan","network":"blue","mac":"52:54:00:00:00:01"}}"#,
            Action::NicAttach { nic },
        ),
        (
            r#"{"verb":"nic.detach","args":{"nic":"lan","timeout_ms":9}}"#,
            Action::NicDetach { nic: "lan".parse().unwrap(), timeout_ms: 9 },
        ),
        (
            r#"{"verb":"nic.update","args":{"nic":"lan","link":"down"}}"#,
            Action::NicUpdate { nic: "lan".parse().unwrap(), link: Link::Down },
        ),
        (
            r#"{"verb":"migrate.prepare","args":{"image":"tiny","uuid":"01234567-89ab-4def-8123-456789abcdef"}}"#,
            Action::MigratePrepare {
                image: "tiny".parse().unwrap(),
                uuid: "01234567-89ab-4def-8123-456789abcdef".parse().unwrap(),
            },
        ),
        (
            r#"{"verb":"migrate.start","args":{"peer":"next-door"}}"#,
            Action::MigrateStart { peer: "next-door".parse().unwrap() },
        ),
        (r#"{"verb":"migrate.cancel"}"#, Action::MigrateCancel {}),
    ]
}

#[test]
fn a_disk_is_attached_by_the_name_of_its_target() {
    let desk = Desk::new();
    let target =
        r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"],"lun":3}"#;
    let attach = r#"{"verb":"volume.attach","args":{"target":"disk-1"}}"#;
    assert_eq!(kind(&desk.answer(COMMANDS, attach)), (404, "unknown-target"));
    assert_eq!(desk.answer("PUT /v1/targets/disk-1", target).0, 201);
    let volume = |volume: &str, read_only| Action::VolumeAttach {
        volume: Volume {
            volume: volume.parse().unwrap(),
            iqn: "iqn.2026-01.example:disk".parse().unwrap(),
            lun: 3,
            read_only,
        },
    };
    assert_eq!(desk.sent(COMMANDS, attach).0.action, volume("disk-1", false));
    let named = r#"{"verb":"volume.attach","args":{"target":"disk-1","volume":"data","read_only":true}}"#;
    assert_eq!(desk.sent(COMMANDS, named).0.action, volume("data", true));
}

#[test]
fn each_verb_and_its_arguments_reach_the_agent_as_types() {
    let stop = |graceful, timeout_ms, then| Action::Stop { graceful, timeout_ms, then };
    let cases = [
        (r#"{"verb":"start"}"#, Action::Start {}),
        (r#"{"verb":"pause"}"#, Action::Pause {}),
        (r#"{"verb":"resume"}"#, Action::Resume {}),
        (r#"{"verb":"stop"}"#, stop(true, 60_000, Then::Leave)),
        (r#"{"verb":"stop","args":{"timeout_ms":5,"then":"force"}}"#, stop(true, 5, Then::Force)),
        (r#"{"verb":"stop","args":{"graceful":false}}"#, stop(false, 0, Then::Leave)),
    ];
    // Some verbs are only for an appliance that can remember them.
    let desk = start(&disk(), 1);
    for (body, action) in cases.into_iter().chain(actions_with_parts()) {
        assert_eq!(desk.sent(COMMANDS, body).0.action, action, "{body}");
    }
    let body = r#"{"verb":"pause","deadline_ms":1500,"precondition":{"generation":3,"state":"running"}}"#;
    let (sent, _) = desk.sent(COMMANDS, body);
    let expected =
        Precondition { generation: Some(3), state: Some(State::Running), ..Precondition::default() };
    assert_eq!(sent.precondition, expected);
    assert_eq!(sent.deadline_ms, Some(1000 + 1500));
}

#[test]
fn to_create_is_201_with_the_way_to_the_instance() {
    let desk = Desk::new();
    let (sent, wait) = desk.sent("POST /v1/instances", r#"{"id":"web-1","image":"tiny"}"#);
    assert_eq!(
        sent.action,
        Action::Create { image: "tiny".parse().unwrap(), start: true, size: agent_protocol::Size::default() }
    );
    desk.deliver(&sent.op_id, true, Ok(answer_to(&sent.op_id, done("web-1", State::Running, true))));
    let response = desk.management.waited(&wait);
    assert_eq!((response.status, response.location.as_deref()), (201, Some("/v1/instances/web-1")));
    let allowed = &read(&response).1["result"]["allowed_actions"];
    let allows = |verb: &str| allowed.as_array().unwrap().iter().any(|allowed| allowed == verb);
    assert!(allows("stop") && allows("force-stop") && allows("pause") && allows("terminate"));
    assert!(!allows("start") && !allows("resume") && !allows("create") && !allows("describe"));
}

#[test]
fn an_unknown_name_a_second_terminate_and_an_agent_that_is_down_are_three_different_errors() {
    let desk = Desk::new();
    let unknown =
        Outcome::Refused { code: Refusal::UnknownInstance, detail: Text::new("no"), instance: None };
    let unknown = desk.command(COMMANDS, TERMINATE, unknown);
    assert_eq!(kind(&unknown), (404, "unknown-instance"));
    let again = desk.command(COMMANDS, TERMINATE, refused(Refusal::Terminated, State::Terminated));
    assert_eq!(kind(&again), (409, "instance-terminated"));
    assert_eq!(again.1["current"]["state"], "terminated");
    assert_eq!(again.1["retryable"], false);
    let Step::Wait(wait) = desk.step(COMMANDS, TERMINATE) else { panic!() };
    desk.clerk();
    desk.management.give_up(Kind::AgentUnavailable, "10.0.0.1:7077 refuses");
    desk.clerk();
    let response = desk.management.waited(&wait);
    let down = read(&response);
    assert_eq!(kind(&down), (503, "agent-unavailable"));
    assert_eq!(down.1["retryable"], true);
    assert_eq!(response.retry_after, Some(1));
    let problem = read(&response).1;
    let operation = desk.answer(&format!("GET {}", problem["instance"].as_str().unwrap()), "").1;
    assert_eq!((&operation["state"], &operation["error"]), (&"failed".into(), &problem));
}

#[test]
fn every_refusal_and_failure_of_the_agent_has_a_problem_of_its_own() {
    let desk = Desk::new();
    let refusals = [
        (Refusal::UnknownImage, 422, "unknown-image"),
        (Refusal::AlreadyExists, 409, "instance-exists"),
        (Refusal::WrongState, 409, "wrong-state"),
        (Refusal::StateUnknown, 409, "state-unknown"),
        (Refusal::PreconditionFailed, 412, "precondition-failed"),
        (Refusal::Expired, 504, "deadline-passed"),
        (Refusal::Impossible, 422, "unsupported"),
        (Refusal::Full, 507, "no-capacity"),
        (Refusal::Version, 502, "agent-refused"),
        (Refusal::Unrecognised, 502, "agent-refused"),
        (Refusal::StaleEpoch, 503, "stale-epoch"),
    ];
    for (code, status, name) in refusals {
        assert_eq!(kind(&desk.command(COMMANDS, TERMINATE, refused(code, State::Running))), (status, name));
    }
    let desk = Desk::new();
    let failures = [
        (Failure::Spawn, 502, "hypervisor-failed"),
        (Failure::Timeout, 504, "hypervisor-timeout"),
        (Failure::GuestIgnored, 409, "guest-ignored"),
        (Failure::Storage, 502, "agent-storage"),
        (Failure::Unrecognised, 502, "hypervisor-failed"),
    ];
    for (code, status, name) in failures {
        let outcome = Outcome::Failed { code, detail: Text::new("x"), instance: None };
        assert_eq!(kind(&desk.command(COMMANDS, TERMINATE, outcome)), (status, name));
    }
    let desk = Desk::new();
    let errors = [
        (AgentError::Nonsense("x".into()), 502, "agent-nonsense"),
        (AgentError::Refused("x".into()), 502, "agent-refused"),
    ];
    for (error, status, name) in errors {
        assert_eq!(kind(&desk.lost(COMMANDS, TERMINATE, error)), (status, name));
    }
    let alone = Desk::with(configuration(None));
    assert_eq!(kind(&alone.answer(COMMANDS, TERMINATE)), (503, "agent-not-configured"));
}

#[test]
fn an_appliance_that_was_replaced_says_so_and_commands_no_more() {
    let desk = Desk::new();
    desk.command(COMMANDS, TERMINATE, refused(Refusal::StaleEpoch, State::Running));
    assert_eq!(desk.management.link_state(), LinkState::Superseded);
    assert_eq!(kind(&desk.answer(COMMANDS, TERMINATE)), (503, "stale-epoch"));
    let Step::Answer(ready) = desk.step("GET /readyz", "") else { panic!() };
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8(ready.body).unwrap().contains(r#""state":"stale-epoch""#));
}

#[test]
fn an_operation_that_goes_on_is_followed_until_it_ends() {
    let mut desk = Desk::new();
    let accepted = Outcome::Accepted { instance: instance("web-1", State::Stopping) };
    let (status, operation) = desk.command(COMMANDS, r#"{"verb":"stop"}"#, accepted);
    assert_eq!((status, &operation["state"]), (202, &"running".into()));
    let line = format!("GET /v1/operations/{}", operation["id"].as_str().unwrap());
    let peer = desk.peer(AGENT, 1000, 1);
    assert_eq!(desk.carried(&peer), None, "not at once");
    desk.wait(Duration::from_secs(1));
    let (id, question) = desk.carried(&peer).unwrap();
    assert_eq!(question, Question::Recall(id.clone()));
    desk.deliver(&id, false, Err(AgentError::Lost("x")));
    assert_eq!(desk.answer(&line, "").1["state"], "running", "what is known is shown");
    desk.wait(Duration::from_secs(31));
    desk.clerk();
    assert_eq!(desk.answer(&line, "").1["state"], "indeterminate", "nobody has told anything for long");
    assert!(desk.carried(&peer).is_some());
    desk.deliver(&id, false, Ok(answer_to(&id, done("web-1", State::Stopped, true))));
    assert_eq!(desk.answer(&line, "").1["state"], "succeeded");
    desk.wait(Duration::from_secs(60));
    assert_eq!(desk.carried(&peer), None, "and is not asked about again");
}

#[test]
fn a_command_that_got_lost_is_sent_again_only_if_the_agent_never_received_it_in_time() {
    let mut desk = Desk::new();
    let (command, wait) = desk.sent(COMMANDS, TERMINATE);
    let id = command.op_id.clone();
    desk.deliver(&id, true, Err(AgentError::Lost("closed")));
    assert_eq!(read(&desk.management.waited(&wait)).1["state"], "sent");
    let look =
        |desk: &Desk, clock_ms| desk.carried(&desk.peer(AGENT, clock_ms, 1)).map(|(_, question)| question);
    assert_eq!(look(&desk, 1000), Some(Question::Recall(id.clone())), "it is asked first");
    desk.deliver(&id, false, Ok(Reply::NeverReceived));
    desk.wait(Duration::from_secs(1));
    assert_eq!(look(&desk, 2000), Some(Question::Command(command.into())), "the very same");

    desk.deliver(&id, true, Err(AgentError::Lost("closed")));
    desk.wait(Duration::from_secs(29));
    assert_eq!(look(&desk, 30_000), Some(Question::Recall(id.clone())));
    let late = desk.peer(AGENT, 30_000, 1);
    desk.management.delivered(&id, Some(&late), false, Ok(Reply::NeverReceived));
    desk.clerk();
    let lost = desk.answer(&format!("GET /v1/operations/{id}"), "").1;
    assert_eq!((&lost["state"], &lost["error"]["retryable"]), (&"failed".into(), &true.into()));
}

#[test]
fn what_one_run_of_the_agent_was_sent_is_asked_of_the_next_and_never_sent_to_it() {
    let mut desk = Desk::new();
    let (command, _) = desk.sent(COMMANDS, TERMINATE);
    let id = command.op_id;
    desk.deliver(&id, true, Err(AgentError::Lost("closed")));
    assert!(desk.carried(&desk.peer(AGENT, 1000, 1)).is_some());
    desk.deliver(&id, false, Ok(Reply::NeverReceived));
    desk.wait(Duration::from_secs(1));
    let next = desk.peer(Uuid(8), 10, 2);
    let question = desk.carried(&next).map(|(_, question)| question);
    assert_eq!(question, Some(Question::Recall(id.clone())));
    desk.management.delivered(&id, Some(&next), false, Ok(Reply::NeverReceived));
    desk.clerk();
    let lost = desk.answer(&format!("GET /v1/operations/{id}"), "").1;
    assert_eq!((&lost["state"], &lost["error"]["status"]), (&"failed".into(), &503.into()));
}

#[test]
fn an_agent_that_is_lost_to_another_appliance_is_believed_only_if_it_is_the_run_that_was_meant() {
    for (greeted, expected) in [(AGENT, "failed"), (Uuid(8), "indeterminate")] {
        let desk = Desk::new();
        let (command, _) = desk.sent(COMMANDS, TERMINATE);
        let id = command.op_id;
        desk.deliver(&id, true, Err(AgentError::Lost("closed")));
        let peer = desk.peer(greeted, 1000, 1);
        desk.management.forward.greeted(welcome(greeted, 1000, 1), peer, true);
        desk.management.forward.is_superseded();
        assert_eq!(desk.management.take_tried(), std::slice::from_ref(&id));
        desk.management.delivered(&id, None, false, Ok(Reply::NeverReceived));
        desk.clerk();
        assert_eq!(desk.answer(&format!("GET /v1/operations/{id}"), "").1["state"], expected);
    }
}

#[test]
fn why_the_agent_is_out_of_reach_is_logged_once_and_never_in_a_flood() {
    let mut desk = Desk::new();
    let is_news = |desk: &Desk, why: &str| desk.management.forward.is_news(why);
    assert!(is_news(&desk, "it is not there"));
    desk.wait(Duration::from_secs(3600));
    assert!(!is_news(&desk, "it is not there"), "that is known");
    assert!(is_news(&desk, "its key is another's"));
    // Two links that fail in two ways, as often as somebody asks.
    let logged = (0..1000).filter(|n| is_news(&desk, ["one", "other"][n % 2])).count();
    assert_eq!(logged, 0);
    desk.wait(Duration::from_secs(1));
    assert!(is_news(&desk, "one"), "a reason that lasts is logged in the end");
    desk.wait(Duration::from_secs(1));
    assert!(is_news(&desk, "other"));
    // The same two an hour long.
    for n in 0..3600 {
        desk.wait(Duration::from_secs(1));
        assert!(!is_news(&desk, ["one", "other"][n % 2]), "both are known");
    }
    // And one that has other words each time.
    let mut logged = 0;
    for n in 0..3600 {
        desk.wait(Duration::from_secs(1));
        logged += usize::from(is_news(&desk, &format!("it says {n}")));
    }
    assert_eq!(logged, 4, "eight in all");
    let peer = desk.peer(AGENT, 1000, 1);
    desk.management.forward.greeted(welcome(AGENT, 1000, 1), peer, true);
    desk.wait(Duration::from_secs(1));
    assert!(is_news(&desk, "one"), "it has been there meanwhile");
}

#[test]
fn an_outcome_that_nobody_knows_is_never_guessed() {
    // The agent's run, and how far its journal has come, when it says that it never received the command.
    for (boot, head, expected) in [(8, 9, "failed"), (8, 5000, "indeterminate"), (8, 0, "indeterminate")] {
        let mut desk = Desk::new();
        let (command, _) = desk.sent(COMMANDS, TERMINATE);
        let id = command.op_id;
        desk.deliver(&id, true, Err(AgentError::Lost("closed")));
        let other = desk.peer(Uuid(boot), 10, head);
        assert!(desk.carried(&other).is_some());
        desk.management.delivered(&id, Some(&other), false, Ok(Reply::NeverReceived));
        desk.clerk();
        assert_eq!(desk.answer(&format!("GET /v1/operations/{id}"), "").1["state"], expected, "{head}");
        desk.wait(Duration::from_secs(60));
        assert_eq!(desk.carried(&other).is_some(), expected == "indeterminate", "it is looked at again");
    }
    let mut desk = Desk::new();
    let (command, wait) = desk.sent(COMMANDS, TERMINATE);
    desk.deliver(&command.op_id, true, Err(AgentError::Lost("closed")));
    desk.wait(Duration::from_secs(46));
    desk.clerk();
    assert_eq!(kind(&read(&desk.management.waited(&wait))), (504, "outcome-unknown"));
}

#[test]
fn a_command_that_cannot_be_sent_in_time_ends_undone() {
    let mut desk = Desk::new();
    let Step::Wait(wait) = desk.step(COMMANDS, r#"{"verb":"pause","deadline_ms":1000}"#) else { panic!() };
    desk.clerk();
    desk.wait(Duration::from_secs(1));
    desk.clerk();
    assert_eq!(kind(&read(&desk.management.waited(&wait))), (504, "deadline-passed"));
    assert_eq!(desk.carried(&desk.peer(AGENT, 1000, 1)), None);
}

#[test]
fn a_command_for_a_run_of_the_agent_that_is_gone_is_for_the_next_one() {
    let desk = Desk::new();
    let (command, wait) = desk.sent(COMMANDS, TERMINATE);
    desk.deliver(
        &command.op_id,
        true,
        Ok(answer_to(&command.op_id, refused(Refusal::StaleBoot, State::Running))),
    );
    let (id, question) = desk.carried(&desk.peer(Uuid(8), 5, 1)).unwrap();
    let Question::Command(again) = question else { panic!("{question:?}") };
    assert_eq!((&id, again.agent_boot, again.deadline_ms), (&command.op_id, Some(Uuid(8)), Some(5 + 25_000)));
    desk.deliver(&id, true, Ok(answer_to(&id, done("web-1", State::Terminated, true))));
    assert_eq!(read(&desk.management.waited(&wait)).1["state"], "succeeded");
}

#[test]
fn a_client_token_names_one_command() {
    let desk = Desk::new();
    let body = r#"{"verb":"terminate","client_token":"T-1"}"#;
    let (_, first) = desk.command(COMMANDS, body, done("web-1", State::Terminated, true));
    assert_eq!(desk.answer(COMMANDS, body), (202, first));
    let other = desk.answer(COMMANDS, r#"{"verb":"pause","client_token":"T-1"}"#);
    assert_eq!(kind(&other), (409, "client-token-reused"));
    let elsewhere = desk.answer("POST /v1/instances/web-2/commands", body);
    assert_eq!(kind(&elsewhere), (409, "client-token-reused"));

    let failing = r#"{"verb":"terminate","client_token":"T-2"}"#;
    let first = desk.command(COMMANDS, failing, refused(Refusal::Terminated, State::Terminated));
    assert_eq!(desk.answer(COMMANDS, failing), first);
}

#[test]
fn operations_are_listed_latest_first_in_pages_and_the_oldest_are_forgotten() {
    let desk = Desk::new();
    let mut ids = Vec::new();
    for _ in 0..300 {
        let (_, operation) = desk.command(COMMANDS, TERMINATE, done("web-1", State::Terminated, true));
        ids.push(operation["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(kind(&desk.answer(&format!("GET /v1/operations/{}", ids[0]), "")), (404, "unknown-operation"));
    let mut listed = Vec::new();
    let mut line = "GET /v1/operations?limit=100".to_owned();
    loop {
        let page = desk.answer(&line, "").1;
        let operations = page["operations"].as_array().unwrap();
        listed.extend(operations.iter().map(|operation| operation["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        line = format!("GET /v1/operations?limit=100&after={next}");
    }
    ids.reverse();
    assert_eq!(listed, ids[..256]);
}

#[test]
fn commands_under_way_are_never_forgotten_to_make_room() {
    let desk = Desk::new();
    let pause = r#"{"verb":"pause"}"#;
    let open: Vec<_> = (0..224).map(|_| desk.sent(COMMANDS, pause).0.op_id).collect();
    assert_eq!(kind(&desk.answer(COMMANDS, pause)), (503, "too-busy"));
    for _ in 224..256 {
        desk.sent(COMMANDS, TERMINATE);
    }
    assert_eq!(kind(&desk.answer(COMMANDS, TERMINATE)), (503, "too-busy"), "not even what ends an instance");
    desk.deliver(&open[0], true, Ok(answer_to(&open[0], refused(Refusal::WrongState, State::Stopped))));
    desk.sent(COMMANDS, TERMINATE);
}

#[test]
fn a_client_token_is_remembered_for_two_minutes_at_least() {
    let mut desk = Desk::new();
    let body = |token: usize| format!(r#"{{"verb":"terminate","client_token":"T-{token}"}}"#);
    for token in 0..256 {
        desk.command(COMMANDS, &body(token), done("web-1", State::Terminated, true));
    }
    assert_eq!(kind(&desk.answer(COMMANDS, &body(256))), (503, "too-busy"));
    desk.wait(Duration::from_secs(120));
    desk.sent(COMMANDS, &body(256));
}

#[test]
fn instances_are_shown_with_their_ages_and_in_pages() {
    let desk = Desk::new();
    let all: Vec<_> = ["a", "b", "c"].map(|id| instance(id, State::Paused)).to_vec();
    let list = |line: &str| {
        let (ask, continuation) = desk.asked(line, "");
        let Question::Inventory(limit, after) = ask.question else { panic!("{ask:?}") };
        let later = all.iter().filter(|one| after.as_ref().is_none_or(|after| one.id > *after));
        let some: Vec<_> = later.take(limit).cloned().collect();
        let next = some.last().map(|last| last.id.clone()).filter(|last| last.as_str() != "c");
        let inventory = Inventory { next, ..inventory(some) };
        read(&desk.management.complete(continuation, Ok(Reply::Inventory(inventory))))
    };
    let page = list("GET /v1/instances?limit=2").1;
    assert_eq!(page["instances"][0]["state_age_ms"], 600);
    assert_eq!(page["instances"][0]["observed_age_ms"], 100);
    assert_eq!((&page["instances"][1]["id"], &page["next"]), (&"b".into(), &"b".into()));
    let rest = list("GET /v1/instances?after=b").1;
    assert_eq!((&rest["instances"][0]["id"], &rest["next"]), (&"c".into(), &serde_json::Value::Null));
    let one = |outcome| desk.command("GET /v1/instances/c", "", outcome);
    let found = one(done("c", State::Paused, false)).1;
    let allowed = found["allowed_actions"].as_array().unwrap();
    assert!(allowed.contains(&"resume".into()) && !allowed.contains(&"pause".into()));
    let unknown =
        Outcome::Refused { code: Refusal::UnknownInstance, detail: Text::new("no"), instance: None };
    assert_eq!(kind(&one(unknown)), (404, "unknown-instance"));
    assert_eq!(kind(&desk.lost("GET /v1/instances/c", "", AgentError::TooLate)), (503, "agent-unavailable"));
    let operations = desk.answer("GET /v1/operations", "").1;
    assert!(operations["operations"].as_array().unwrap().is_empty(), "to look is no operation");
    assert_eq!(list("GET /v1/images").1["images"], serde_json::json!(["tiny"]));
    assert_eq!(list("HEAD /v1/images").0, 200);
    let (ask, continuation) = desk.asked("GET /v1/instances?limit=1&after=a", "");
    assert_eq!(ask.question, Question::Inventory(1, Some(name("a"))));
    let whole = Inventory { next: Some(name("z")), ..inventory(all.clone()) };
    let page = read(&desk.management.complete(continuation, Ok(Reply::Inventory(whole)))).1;
    assert_eq!(
        (&page["instances"][0]["id"], &page["next"]),
        (&"b".into(), &"b".into()),
        "of an agent that sends all"
    );
    assert_eq!(page["instances"].as_array().unwrap().len(), 1);
    let (_, continuation) = desk.asked("GET /v1/instances", "");
    let astray = Inventory { next: Some(name("a")), ..inventory(all.clone()) };
    let page = read(&desk.management.complete(continuation, Ok(Reply::Inventory(astray)))).1;
    assert_eq!(page["next"], serde_json::Value::Null, "nobody is led round in a circle");
    let down = desk.lost("GET /v1/instances", "", AgentError::Lost("x"));
    assert_eq!(kind(&down), (503, "agent-unavailable"), "a look that was lost may simply be repeated");
}
