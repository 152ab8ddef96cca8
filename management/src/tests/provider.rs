//! What providers ask for beside single commands: batches, forecasts, events, and to call off.

use super::desk::*;
use crate::door::Caller;
use crate::*;
use agent_protocol::{
    Backend, Capability, Facility, Outcome, Provision, Refusal, State, Support, Text, Verb, Welcome, decode,
};
use core::future::Future as _;
use core::time::Duration;
use management_api::{EventKind, EventPage, OperationView};
use network_tls::Pin;
use serde_json::json;

const COMMANDS: &str = "POST /v1/instances/web-1/commands";

fn provision(facility: Facility, support: Support) -> Provision {
    Provision { facility, support, by: Text::new("its board has none") }
}

/// The agent has greeted, with one hypervisor that can do all but this.
fn greeted(desk: &Desk, impossible: Verb) {
    let capability = |verb: &Verb| Capability {
        verb: *verb,
        support: if *verb == impossible { Support::Impossible } else { Support::Native },
        by: Text::new(if *verb == impossible { "its firmware has no way" } else { "a command" }),
    };
    let backends = vec![Backend {
        name: Text::new("qemu"),
        version: Text::new("7.2"),
        capabilities: Verb::ALL.iter().map(capability).collect(),
        facilities: Facility::ALL.iter().map(|facility| provision(*facility, Support::Native)).collect(),
    }];
    let peer = desk.peer(AGENT, 1000, 1);
    let welcome = Welcome { backends, ..welcome(AGENT, 1000, 1) };
    desk.management.forward.greeted(welcome, peer, true);
    desk.management.link_changed();
}

#[test]
fn what_no_hypervisor_here_can_do_is_refused_before_anything_is_sent() {
    let desk = Desk::new();
    assert_eq!(kind(&desk.answer("GET /v1/capabilities", "")), (503, "agent-unavailable"));
    greeted(&desk, Verb::Save);
    let refused = desk.answer(COMMANDS, r#"{"verb":"save"}"#);
    assert_eq!(kind(&refused), (422, "unsupported"));
    assert_eq!(
        refused.1["capability"],
        json!({"verb":"save","support":"impossible","by":"its firmware has no way"})
    );
    assert_eq!(desk.answer("GET /v1/operations", "").1["operations"], json!([]), "and nothing is remembered");
    let dry = desk.answer("POST /v1/instances/web-1/commands?dry_run=true", r#"{"verb":"save"}"#);
    assert_eq!(kind(&dry), (422, "unsupported"));
    let shown = desk.answer("GET /v1/capabilities", "").1;
    assert_eq!(shown["hypervisors"][0]["capabilities"].as_array().unwrap().len(), Verb::ALL.len());
    assert_eq!(desk.answer("GET /v1/hosts/self", "").1["agent"]["hypervisors"][0]["name"], "qemu");
}

#[test]
fn what_no_hypervisor_here_has_is_not_asked_for() {
    let looks = [
        (Facility::Console, "GET /v1/instances/web-1/console"),
        (Facility::Stats, "GET /v1/instances/web-1/stats"),
    ];
    for (facility, request) in looks {
        let desk = Desk::new();
        let greeted_with = |told: [Option<Support>; 2]| {
            greeted_by_two(&desk, Verb::Save);
            let mut backends =
                desk.management.forward.with_welcome(|welcome| welcome.unwrap().backends.clone());
            for (backend, support) in backends.iter_mut().zip(told) {
                backend.facilities.retain(|one| one.facility != facility);
                backend.facilities.extend(support.map(|support| provision(facility, support)));
            }
            let welcome = Welcome { backends, ..welcome(AGENT, 1000, 1) };
            desk.management.forward.greeted(welcome, desk.peer(AGENT, 1000, 1), false);
        };
        greeted_with([Some(Support::Impossible); 2]);
        let refused = desk.answer(request, "");
        assert_eq!(kind(&refused), (422, "unsupported"));
        assert_eq!(refused.1["facility"], json!(provision(facility, Support::Impossible)));
        let detail = format!("qemu has no {facility}: its board has none");
        assert_eq!(refused.1["detail"], detail.as_str());
        let shown = desk.answer("GET /v1/capabilities", "").1;
        let told = shown["hypervisors"][1]["facilities"].as_array().unwrap();
        assert!(told.contains(&json!(provision(facility, Support::Impossible))), "{shown}");
        // Where one of them may have it, the agent knows by which the instance is run.
        for other in [None, Some(Support::Native), Some(Support::Emulated)] {
            greeted_with([Some(Support::Impossible), other]);
            assert!(matches!(desk.step(request, ""), Step::Ask(..)), "{facility} {other:?}");
        }
    }
}

#[test]
fn a_dry_run_tells_what_would_come_of_it_and_keeps_nothing() {
    let desk = Desk::new();
    let dry = |body: &str, outcome: Outcome| {
        let (ask, continuation) = desk.asked("POST /v1/instances/web-1/commands?dry_run=true", body);
        let Question::Command(command) = ask.question else { panic!() };
        assert_eq!(command.action, agent_protocol::Action::Describe {});
        let response = desk.management.complete(continuation, Ok(answer_to(&command.op_id, outcome)));
        seen("POST /v1/instances/web-1/commands?dry_run=true", &response)
    };
    let (status, forecast) = dry(r#"{"verb":"start"}"#, done("web-1", State::Stopped, false));
    assert_eq!((status, &forecast["would_change"]), (200, &true.into()));
    assert_eq!(dry(r#"{"verb":"start"}"#, done("web-1", State::Running, false)).1["would_change"], false);
    let wrong = dry(r#"{"verb":"pause"}"#, done("web-1", State::Stopped, false));
    assert_eq!((kind(&wrong), &wrong.1["current"]["state"]), ((409, "wrong-state"), &"stopped".into()));
    let moved =
        dry(r#"{"verb":"pause","precondition":{"generation":77}}"#, done("web-1", State::Running, false));
    assert_eq!(kind(&moved), (412, "precondition-failed"));
    let unknown =
        Outcome::Refused { code: Refusal::UnknownInstance, detail: Text::new("no"), instance: None };
    assert_eq!(kind(&dry(r#"{"verb":"pause"}"#, unknown)), (404, "unknown-instance"));
    assert_eq!(desk.answer("GET /v1/operations", "").1["operations"], json!([]));
    assert_eq!(kind(&desk.answer("GET /v1/operations?dry_run=true", "")), (400, "malformed-query"));
}

#[test]
fn a_dry_run_of_targets_drains_and_cancels_tells_what_would_come_of_it_and_does_nothing() {
    const DISK: &str =
        r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"]}"#;
    let desk = Desk::new();
    let put = "PUT /v1/targets/a?dry_run=true";
    let (status, would) = desk.answer(put, DISK);
    assert_eq!(
        (status, &would["state"], &would["desired"]["applied"]),
        (200, &"absent".into(), &false.into())
    );
    assert_eq!(kind(&desk.answer("GET /v1/targets/a", "")), (404, "unknown-target"), "nothing was done");
    assert_eq!(kind(&desk.answer("DELETE /v1/targets/a?dry_run=true", "")), (404, "unknown-target"));
    assert_eq!(desk.answer("PUT /v1/targets/a", DISK).0, 201);
    assert_eq!(desk.answer(put, DISK).1["desired"]["applied"], true);
    let standby = DISK.replace("{", r#"{"access":"standby","#);
    let would = desk.answer(put, &standby).1;
    assert_eq!(would["desired"]["difference"], json!(["access"]), "{would}");
    assert_eq!(desk.answer("GET /v1/targets/a", "").1["desired"]["generation"], 1);
    assert_eq!(
        kind(&desk.answer(put, &DISK.replace("*", "iqn.2026-01.example:host"))),
        (409, "target-conflict")
    );
    assert_eq!(kind(&desk.answer_with(put, "If-Match: \"7\"\r\n", DISK)), (412, "generation-mismatch"));
    assert_eq!(desk.answer("DELETE /v1/targets/a?dry_run=true", "").0, 200);
    assert_eq!(desk.answer("GET /v1/targets/a", "").0, 200, "it is still there");
    desk.shelf.0.borrow_mut()[0].sessions = 1;
    assert_eq!(kind(&desk.answer("DELETE /v1/targets/a?dry_run=true", "")), (409, "target-in-use"));
    assert_eq!(desk.answer("DELETE /v1/targets/a?grace=5&dry_run=true", "").0, 200);

    assert_eq!(desk.answer("POST /v1/hosts/self:drain?dry_run=true", r#"{"drain":true}"#).1["drain"], false);
    assert_eq!(kind(&desk.answer("POST /v1/hosts/self:drain?dry_run=true", "{}")), (400, "malformed-body"));

    let Step::Wait(_) = desk.step(COMMANDS, r#"{"verb":"terminate"}"#) else { panic!() };
    desk.clerk();
    let listed = desk.answer("GET /v1/operations", "").1;
    let cancel = format!("POST /v1/operations/{}:cancel", listed["operations"][0]["id"].as_str().unwrap());
    let (status, operation) = desk.answer(&format!("{cancel}?dry_run=true"), "");
    assert_eq!((status, &operation["state"]), (200, &"accepted".into()));
    assert_eq!(desk.answer(&cancel, "").1["state"], "refused", "it could be called off");
    assert_eq!(kind(&desk.answer(&format!("{cancel}?dry_run=true"), "")), (409, "not-cancellable"));
}

#[test]
fn a_dry_run_of_a_batch_is_a_forecast_for_each_command() {
    let desk = Desk::new();
    let body = r#"{"commands":[{"instance":"a","verb":"start"},{"instance":"b","verb":"pause","args":{"cpus":1}},
        {"instance":"c","verb":"pause"}]}"#;
    let line = "POST /v1/commands?dry_run=true";
    let Step::Batch(batch) = desk.step(line, body) else { panic!() };
    let mut waiting = std::pin::pin!(desk.management.wait_for_all(batch));
    let mut states = [State::Stopped, State::Stopped].into_iter();
    let response = loop {
        let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(response) = waiting.as_mut().poll(cx) {
            break response;
        }
        let pending = desk.management.forward.next().expect("a question");
        let Question::Command(command) = &pending.question else { panic!() };
        assert_eq!(command.action, agent_protocol::Action::Describe {});
        let state = states.next().expect("two of them are asked of");
        pending.answer(Ok(answer_to(&command.op_id, done(command.instance.as_str(), state, false))));
    };
    let (status, view) = seen(line, &response);
    assert_eq!((status, &view["failed"]), (200, &2.into()), "{view}");
    let of = |index: usize| &view["results"][index];
    assert_eq!(of(0)["forecast"]["would_change"], true);
    assert_eq!(of(1)["problem"]["type"], "urn:corbel:problem:invalid-field");
    assert_eq!(of(2)["problem"]["type"], "urn:corbel:problem:wrong-state");
    assert_eq!(desk.answer("GET /v1/operations", "").1["operations"], json!([]), "nothing was made of it");
}

#[test]
fn figures_are_where_prometheus_looks_for_them() {
    let desk = Desk::new();
    let figures = |line: &str| {
        let Step::Answer(response) = desk.step(line, "") else { panic!() };
        super::held::hold(line, &response);
        String::from_utf8(response.body).unwrap()
    };
    let names = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect()
    };
    assert!(!names(&figures("GET /metrics")).is_empty());
    assert_eq!(names(&figures("GET /metrics")), names(&figures("GET /v1/metrics")));
}

#[test]
fn a_batch_is_an_operation_for_each_command_and_says_which_have_failed() {
    let desk = Desk::new();
    let body = r#"{"commands":[{"instance":"a","verb":"terminate"},{"instance":"b","verb":"pause","args":{"cpus":1}},
        {"instance":"c","verb":"volume.attach","args":{"target":"none"}},{"instance":"d","verb":"terminate"}]}"#;
    let Step::Batch(batch) = desk.step("POST /v1/commands", body) else { panic!() };
    let peer = desk.peer(AGENT, 1000, 1);
    let outcomes = [
        done("a", State::Terminated, true),
        Outcome::Refused { code: Refusal::Terminated, detail: Text::new("it is gone"), instance: None },
    ];
    for outcome in outcomes {
        let (id, _) = desk.carried(&peer).unwrap();
        desk.deliver(&id, true, Ok(answer_to(&id, outcome)));
    }
    let (status, view) = seen("POST /v1/commands", &desk.finish(desk.management.wait_for_all(batch)));
    assert_eq!((status, &view["failed"]), (202, &3.into()), "{view}");
    let of = |index: usize| &view["results"][index];
    assert_eq!((&of(0)["instance"], &of(0)["operation"]["state"]), (&"a".into(), &"succeeded".into()));
    assert_eq!(of(1)["problem"]["type"], "urn:corbel:problem:invalid-field");
    assert_eq!(of(2)["problem"]["type"], "urn:corbel:problem:unknown-target");
    assert_eq!(of(3)["operation"]["error"]["type"], "urn:corbel:problem:instance-terminated");
    for wrong in [
        r#"{"commands":[]}"#.to_string(),
        format!("{{\"commands\":[{}]}}", vec![r#"{"instance":"a","verb":"start"}"#; 33].join(",")),
    ] {
        assert_eq!(kind(&desk.answer("POST /v1/commands", &wrong)), (422, "invalid-field"));
    }
    let most = format!("{{\"commands\":[{}]}}", vec![
        r#"{"instance":"a","verb":"nic.attach","args":{"nic":"n","network":"b","mac":"52:54:00:00:00:01","link":"up"},"client_token":"t","deadline_ms":9,"precondition":{"generation":1,"state":"running"}}"#; 32].join(","));
    assert!(matches!(desk.step("POST /v1/commands", &most), Step::Batch(_)));
}

#[test]
fn an_operation_is_called_off_as_long_as_the_agent_has_not_heard_of_it() {
    let desk = Desk::new();
    let Step::Wait(_) = desk.step(COMMANDS, r#"{"verb":"terminate"}"#) else { panic!() };
    desk.clerk();
    let listed = desk.answer("GET /v1/operations", "").1;
    let id = listed["operations"][0]["id"].as_str().unwrap().to_owned();
    let cancel = format!("POST /v1/operations/{id}:cancel");
    let (status, cancelled) = desk.answer(&cancel, "");
    assert_eq!((status, &cancelled["state"]), (200, &"refused".into()));
    assert_eq!(cancelled["error"]["type"], "urn:corbel:problem:cancelled");
    assert!(desk.carried(&desk.peer(AGENT, 1000, 1)).is_none(), "and the agent never hears of it");
    assert_eq!(kind(&desk.answer(&cancel, "")), (409, "not-cancellable"));
    let (sent, _) = desk.sent(COMMANDS, r#"{"verb":"terminate"}"#);
    let late = desk.answer(&format!("POST /v1/operations/{}:cancel", sent.op_id), "");
    assert_eq!(kind(&late), (409, "not-cancellable"));
    assert_eq!(kind(&desk.answer("POST /v1/operations/none:cancel", "")), (404, "unknown-operation"));
}

fn events(desk: &Desk, query: &str) -> EventPage {
    let (status, page) = desk.answer(&format!("GET /v1/events{query}"), "");
    assert_eq!(status, 200);
    decode(page.to_string().as_bytes()).unwrap()
}

#[test]
fn events_are_told_in_order_and_whoever_missed_some_is_told_so() {
    let desk = Desk::new();
    let begin = events(&desk, "").next;
    greeted(&desk, Verb::Save);
    desk.command(COMMANDS, r#"{"verb":"terminate"}"#, done("web-1", State::Terminated, true));
    let page = events(&desk, &format!("?after={begin}"));
    let told: Vec<_> = page.events.iter().map(|event| event.detail.as_ref().unwrap().as_str()).collect();
    assert_eq!(told, ["up", "succeeded"]);
    let seqs: Vec<_> = page.events.iter().map(|event| event.seq).collect();
    assert_eq!((seqs, page.next, page.missed), (vec![begin + 1, begin + 2], begin + 2, false));
    let one = events(&desk, &format!("?after={begin}&limit=1"));
    assert_eq!((one.events.len(), one.next), (1, begin + 1));
    assert!(events(&desk, &format!("?after={}", begin + 2)).events.is_empty());
    for _ in 0..300 {
        desk.command(COMMANDS, r#"{"verb":"terminate"}"#, done("web-1", State::Terminated, true));
    }
    let late = events(&desk, &format!("?after={begin}"));
    assert!(late.missed && late.events.is_empty());
    let now = events(&desk, &format!("?after={}", late.next));
    assert!(!now.missed, "and goes on from there");
    assert!(events(&desk, "?after=3").missed, "a number of another run");
    assert!(events(&desk, &format!("?after={}", late.next + 1)).missed);
}

#[test]
fn a_version_of_the_api_that_is_not_spoken_is_refused() {
    let desk = Desk::new();
    assert_eq!(desk.answer_with("GET /v1", "api-version: 1\r\n", "").0, 200);
    let refused = desk.answer_with("GET /v1", "API-Version: 2\r\n", "");
    assert_eq!(kind(&refused), (400, "unsupported-api-version"));
}

#[test]
fn what_is_served_is_what_the_types_of_the_api_say() {
    fn same<T: serde::Serialize + serde::de::DeserializeOwned>(desk: &Desk, line: &str) {
        let shown = desk.answer(line, "").1;
        let read: T = decode(shown.to_string().as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(serde_json::to_value(&read).unwrap(), shown, "{line}");
    }
    let desk = Desk::new();
    greeted(&desk, Verb::Save);
    let (_, operation) =
        desk.command(COMMANDS, r#"{"verb":"terminate"}"#, done("web-1", State::Terminated, true));
    same::<management_api::AboutView>(&desk, "GET /v1");
    same::<management_api::ReadyView>(&desk, "GET /readyz");
    same::<management_api::HostView>(&desk, "GET /v1/hosts/self");
    same::<management_api::Capabilities>(&desk, "GET /v1/capabilities");
    same::<management_api::Catalogue>(&desk, "GET /v1/problems");
    same::<management_api::OperationPage>(&desk, "GET /v1/operations");
    same::<OperationView>(&desk, &format!("GET /v1/operations/{}", operation["id"].as_str().unwrap()));
    same::<EventPage>(&desk, "GET /v1/events");
    same::<management_api::audit::AuditPage>(&desk, "GET /v1/audit");
}

/// The agent has greeted, with two hypervisors; the second cannot do this.
fn greeted_by_two(desk: &Desk, impossible: Verb) {
    greeted(desk, impossible);
    let mut backends = desk.management.forward.with_welcome(|welcome| welcome.unwrap().backends.clone());
    let cannot = backends[0].clone();
    for capability in &mut backends[0].capabilities {
        capability.support = Support::Native;
    }
    backends.push(Backend { name: Text::new("libvirt"), ..cannot });
    let welcome = Welcome { backends, ..welcome(AGENT, 1000, 1) };
    desk.management.forward.greeted(welcome, desk.peer(AGENT, 1000, 1), false);
}

#[test]
fn what_the_hypervisor_of_an_instance_cannot_do_is_refused_where_another_of_the_host_can() {
    let desk = Desk::new();
    greeted_by_two(&desk, Verb::Save);
    // How the agent describes an instance that this one runs, and the answer to a command for it.
    let answered = |hypervisor: &str, body: &str| {
        let Step::Look(look) = desk.step(COMMANDS, body) else { panic!("{body}: it does not look") };
        let mut looking = std::pin::pin!(desk.management.look(look));
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(looking.as_mut().poll(&mut context).is_pending());
        let pending = desk.management.forward.next().expect("a question");
        let Question::Command(command) = &pending.question else { panic!() };
        assert_eq!(command.action, agent_protocol::Action::Describe {});
        let seen = agent_protocol::Instance {
            hypervisor: Text::new(hypervisor),
            ..instance("web-1", State::Running)
        };
        let outcome = Outcome::Done { changed: false, instance: seen, evidence: Vec::new() };
        pending.answer(Ok(answer_to(&command.op_id, outcome)));
        match looking.as_mut().poll(&mut context) {
            core::task::Poll::Ready(response) => Some(read(&response)),
            core::task::Poll::Pending => None,
        }
    };
    let refused = answered("libvirt", r#"{"verb":"save"}"#).expect("an answer at once");
    assert_eq!(kind(&refused), (422, "unsupported"));
    assert_eq!(refused.1["capability"]["by"], "its firmware has no way");
    assert!(refused.1["detail"].as_str().unwrap().starts_with("libvirt cannot save"), "{}", refused.1);
    assert_eq!(desk.answer("GET /v1/operations", "").1["operations"], json!([]));
    assert!(desk.carried(&desk.peer(AGENT, 1000, 1)).is_none(), "and nothing is sent");
    assert_eq!(on_record(&desk), [["anonymous", "POST", "/v1/instances/web-1/commands", "unsupported"]]);

    assert_eq!(answered("qemu", r#"{"verb":"save"}"#), None, "it is under way");
    let (_, question) = desk.carried(&desk.peer(AGENT, 1000, 1)).expect("it is sent");
    let Question::Command(command) = question else { panic!() };
    assert_eq!(command.action.verb(), Verb::Save);
    // What both can do needs no look, and a forecast has looked already.
    assert!(matches!(desk.step(COMMANDS, r#"{"verb":"pause"}"#), Step::Wait(_)));
    let (ask, continuation) =
        desk.asked("POST /v1/instances/web-1/commands?dry_run=true", r#"{"verb":"save"}"#);
    let Question::Command(command) = ask.question else { panic!() };
    let seen =
        agent_protocol::Instance { hypervisor: Text::new("libvirt"), ..instance("web-1", State::Running) };
    let outcome = Outcome::Done { changed: false, instance: seen, evidence: Vec::new() };
    let dry = desk.management.complete(continuation, Ok(answer_to(&command.op_id, outcome)));
    assert_eq!(kind(&read(&dry)), (422, "unsupported"));
}

/// A service as it comes, with the key of this number.
fn service(service: Service, key: u8) -> Caller {
    Caller { principal: Principal::Service(service, Pin([key; 32])), key: Vec::new() }
}

/// What is on record: who, what of, what came of it.
fn on_record(desk: &Desk) -> Vec<[String; 4]> {
    let page = desk.answer_by(&service(Service::Vm, 1), "GET /v1/audit?limit=200").1;
    assert!(page["next"].is_null(), "{page}");
    let text = |record: &serde_json::Value, field: &str| record[field].as_str().unwrap().to_owned();
    let fields = ["principal", "verb", "object", "outcome"];
    page["records"].as_array().unwrap().iter().map(|one| fields.map(|field| text(one, field))).collect()
}

#[test]
fn whoever_asks_without_end_for_what_is_not_its_own_moves_nobody_elses_records_out_of_the_trail() {
    let mut desk = Desk::new();
    let vm = service(Service::Vm, 1);
    assert_eq!(desk.answer_by(&vm, "POST /v1/operations/none:cancel").0, 404);
    let unknown = Caller { principal: Principal::Unknown("it has two names"), key: Vec::new() };
    for number in 0..2000 {
        let storage = service(Service::Storage, (number % 251) as u8);
        assert_eq!(kind(&desk.answer_by(&storage, "GET /v1/operations")), (403, "forbidden"));
        assert_eq!(kind(&desk.answer_by(&unknown, "DELETE /v1/targets/disk0")), (403, "forbidden"));
        assert_eq!(kind(&desk.answer_by(&unknown, &format!("POST /v1/x{number}"))), (404, "not-found"));
        desk.clerk();
    }
    let of = |fields: [&str; 4]| fields.map(str::to_owned);
    let mut expected = vec![
        of(["svc/vm", "POST", "/v1/operations/none:cancel", "unknown-operation"]),
        of(["svc/storage", "GET", "/v1/operations", "forbidden"]),
        of(["unknown", "DELETE", "/v1/targets/disk0", "forbidden"]),
        of(["unknown", "POST", "/v1/x0", "not-found"]),
    ];
    assert_eq!(on_record(&desk), expected);
    desk.wait(Duration::from_secs(61));
    desk.clerk();
    expected.extend([
        of(["svc/storage", "GET", "1999 more, the last of /v1/operations", "forbidden"]),
        of(["unknown", "DELETE", "1999 more, the last of /v1/targets/disk0", "forbidden"]),
        of(["unknown", "POST", "1999 more, the last of /v1/x1999", "not-found"]),
    ]);
    assert_eq!(on_record(&desk), expected);
    // It is by name and key whose the last was, and others are told as soon as they come.
    let page = desk.answer_by(&vm, "GET /v1/audit").1;
    assert_eq!(page["records"][4]["peer_key"], Pin([(1999 % 251) as u8; 32]).to_string());
    assert_eq!(kind(&desk.answer_by(&service(Service::Net, 3), "GET /v1/audit")), (403, "forbidden"));
    assert_eq!(on_record(&desk).last().unwrap(), &of(["svc/net", "GET", "/v1/audit", "forbidden"]));
    let mut text = String::new();
    desk.management.refusals.denied_figures(&mut text);
    for line in [
        "corbel_api_denied_total{principal=\"svc/net\",reason=\"forbidden\"} 1\n",
        "corbel_api_denied_total{principal=\"svc/storage\",reason=\"forbidden\"} 2000\n",
        "corbel_api_denied_total{principal=\"unknown\",reason=\"not-found\"} 2000\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // After hours of it, a few records; after an hour of quiet, the next one is told at once.
    for _ in 0..300 {
        desk.wait(Duration::from_secs(60));
        desk.answer_by(&service(Service::Storage, 9), "GET /v1/operations");
        desk.clerk();
    }
    let many = |desk: &Desk| on_record(desk).iter().filter(|record| record[0] == "svc/storage").count();
    let before = many(&desk);
    assert!((6..12).contains(&before), "{before}");
    for _ in 0..3 {
        desk.wait(Duration::from_secs(65 * 60));
        desk.clerk();
    }
    let before = many(&desk);
    desk.answer_by(&service(Service::Storage, 9), "GET /v1/operations");
    assert_eq!(many(&desk), before + 1);
}

#[test]
fn requests_that_are_not_signed_as_they_have_to_be_are_counted_as_well() {
    let (mut desk, caller, _) = super::signatures::world(true, tests_pki::Kind::P256);
    for number in 0..1000 {
        let refused = desk.answer_by(&caller, &format!("DELETE /v1/targets/x{number}"));
        assert_eq!(kind(&refused), (403, "signature-required"));
        desk.clerk();
    }
    desk.wait(Duration::from_secs(61));
    desk.clerk();
    let page = desk.answer_by(&caller, "GET /v1/audit").1;
    let told: Vec<_> = page["records"].as_array().unwrap().iter().map(|one| &one["object"]).collect();
    assert_eq!(told, ["/v1/targets/x0", "999 more, the last of /v1/targets/x999"], "{page}");
}

#[test]
fn a_listener_hears_of_what_it_may_look_at_and_misses_nothing_of_it_for_what_it_may_not() {
    let desk = Desk::new();
    let heard = |by: Service, query: &str| -> EventPage {
        let (status, page) = desk.answer_by(&service(by, 1), &format!("GET /v1/events{query}"));
        assert_eq!(status, 200);
        decode(page.to_string().as_bytes()).unwrap()
    };
    let kinds = |page: &EventPage| page.events.iter().map(|event| event.kind).collect::<Vec<_>>();
    let begin = heard(Service::Net, "").next;
    greeted(&desk, Verb::Save);
    let target = r#"{"iqn":"iqn.2026-01.example:d","volume":"nbd://10.1.0.9/d","initiators":["*"]}"#;
    assert_eq!(desk.answer("PUT /v1/targets/d", target).0, 201);
    desk.command(COMMANDS, r#"{"verb":"terminate"}"#, done("web-1", State::Terminated, true));
    let after = format!("?after={begin}");
    let storage = heard(Service::Storage, &after);
    assert_eq!(kinds(&storage), [EventKind::Agent, EventKind::Target]);
    assert_eq!(kinds(&heard(Service::Net, &after)), [EventKind::Agent]);
    let vm = heard(Service::Vm, &after);
    assert_eq!(kinds(&vm), [EventKind::Agent, EventKind::Target, EventKind::Operation]);
    assert_eq!(
        (storage.next, vm.next),
        (begin + 3, begin + 3),
        "what is for others is not looked through again"
    );
    let one = heard(Service::Storage, &format!("{after}&limit=1"));
    assert_eq!((kinds(&one), one.next), (vec![EventKind::Agent], begin + 1));
    // What is for others has long moved the target's out of the ring.
    let listening = heard(Service::Storage, &after).next;
    for _ in 0..300 {
        desk.command(COMMANDS, r#"{"verb":"terminate"}"#, done("web-1", State::Terminated, true));
    }
    assert!(heard(Service::Storage, &after).missed, "that one it has missed");
    assert!(heard(Service::Vm, &format!("?after={listening}")).missed);
    let later = heard(Service::Storage, &format!("?after={listening}"));
    assert!(!later.missed && later.events.is_empty());
    assert_eq!(desk.answer("DELETE /v1/targets/d", "").0, 204);
    assert_eq!(kinds(&heard(Service::Storage, &format!("?after={}", later.next))), [EventKind::Target]);
}
