//! What is answered without the agent, and what is refused at the door.

use super::desk::*;
use crate::*;
use serde_json::{Value, json};
use storage::VolumeState;

const DISK: &str = r#"{"iqn":"iqn.2026-01.example:disk","volume":"nbd://10.1.0.9/disk","initiators":["*"]}"#;

#[test]
fn accounts_are_written_and_never_read() {
    let desk = Desk::new();
    let with = |chap: &str| DISK.replace("\"initiators\"", &format!("\"chap\":{chap},\"initiators\""));
    let account = r#"{"user":"host","secret":"what the host knows","initiator":"iqn.2026-01.example:host",
        "target_user":"disk","target_secret":"what the disk knows"}"#;
    let document = with(&format!(r#"{{"accounts":[{account}],"algorithms":"sha-256,md5"}}"#));
    let (status, made) = desk.answer("PUT /v1/targets/disk-1", &document);
    assert_eq!((status, &made["chap"]), (201, &true.into()));
    let shown = desk.answer("GET /v1/targets", "").1.to_string();
    assert!(shown.contains("\"chap\":true") && !shown.contains("knows"), "{shown}");
    assert_eq!(desk.answer("PUT /v1/targets/disk-1", &document).0, 200);
    for wrong in [
        r#"{"accounts":[]}"#,
        r#"{"accounts":[{"user":"host","secret":"knows"}]}"#,
        r#"{"accounts":[{"user":"","secret":"what the host knows"}]}"#,
        r#"{"accounts":[{"user":"host","secret":"what the host knows","target_user":"disk"}]}"#,
        r#"{"accounts":[{"user":"host","secret":"what both know","target_user":"disk","target_secret":"what both know"}]}"#,
        r#"{"accounts":[{"user":"host","secret":"what the host knows"}],"algorithms":"md4"}"#,
    ] {
        let answer = desk.answer("PUT /v1/targets/disk-2", &with(wrong));
        assert_eq!(kind(&answer), (422, "invalid-field"), "{wrong}");
        assert!(!answer.1.to_string().contains("know"), "{answer:?}");
    }
    let answer = desk.answer("PUT /v1/targets/disk-2", &with(r#"[[{"user":"a","secret":"b"}]]"#));
    assert_eq!(kind(&answer), (400, "malformed-body"));
}

#[test]
fn a_target_is_made_once_shown_and_withdrawn() {
    let desk = Desk::new();
    let (status, made) = desk.answer("PUT /v1/targets/disk-1", DISK);
    assert_eq!(status, 201);
    assert_eq!(
        made,
        serde_json::json!({"id":"disk-1","iqn":"iqn.2026-01.example:disk","lun":0,"volume":"nbd://10.1.0.9/disk",
            "initiators":["*"],"read_only":false,"state":"connecting","size_bytes":null,"sessions":0,
            "desired":{"generation":1,"durable":false,"applied":true}})
    );
    assert_eq!(desk.answer("PUT /v1/targets/disk-1", DISK), (200, made.clone()));
    assert_eq!(desk.answer("GET /v1/targets/disk-1", "").1, made);
    desk.shelf.0.borrow_mut()[0].state = VolumeState::Down("refused".into());
    let list = desk.answer("GET /v1/targets", "").1;
    assert_eq!(
        (&list["targets"][0]["state"], &list["targets"][0]["reason"]),
        (&"down".into(), &"refused".into())
    );

    desk.shelf.0.borrow_mut()[0].sessions = 1;
    assert_eq!(kind(&desk.answer("DELETE /v1/targets/disk-1", "")), (409, "target-in-use"));
    let (status, leaving) = desk.answer("DELETE /v1/targets/disk-1?grace=30", "");
    assert_eq!((status, &leaving["sessions"]), (202, &1.into()));
    for query in ["grace=", "grace=3601", "grace=-1", "limit=3", "grace=1&grace=2"] {
        let answer = desk.answer(&format!("DELETE /v1/targets/disk-1?{query}"), "");
        assert_eq!(kind(&answer), (400, "malformed-query"), "{query}");
    }
    desk.shelf.0.borrow_mut()[0].sessions = 0;
    assert_eq!(desk.answer("DELETE /v1/targets/disk-1?grace=0", "").0, 204);
    assert_eq!(kind(&desk.answer("DELETE /v1/targets/disk-1", "")), (404, "unknown-target"));
    assert_eq!(kind(&desk.answer("GET /v1/targets/disk-1", "")), (404, "unknown-target"));
}

#[test]
fn a_target_may_be_removable_and_one_way_of_several() {
    let desk = Desk::new();
    let special = DISK.replace(r#""initiators""#, r#""removable":true,"access":"standby","initiators""#);
    let (status, made) = desk.answer("PUT /v1/targets/disk-1", &special);
    assert_eq!((status, &made["removable"], &made["access"]), (201, &true.into(), &"standby".into()));
    assert_eq!(desk.shelf.0.borrow()[0].exposure.access, storage::AccessState::Standby);
    let (_, made) = desk.answer("PUT /v1/targets/disk-2", &special.replace("standby", "optimized"));
    assert!(made.get("access").is_none());
    let wrong = desk.answer("PUT /v1/targets/disk-3", &special.replace("standby", "best"));
    assert_eq!(kind(&wrong), (400, "malformed-body"));
    assert!(wrong.1["detail"].as_str().unwrap().contains("`non-optimized`"));
}

#[test]
fn what_storage_refuses_is_told_as_it_is() {
    let desk = Desk::new();
    assert_eq!(desk.answer("PUT /v1/targets/a", DISK).0, 201);
    let other = DISK.replace("*", "iqn.2026-01.example:host");
    assert_eq!(kind(&desk.answer("PUT /v1/targets/a", &other)), (409, "target-conflict"));
    let wrong = desk.answer("PUT /v1/targets/b", &DISK.replace("iqn.2026", "disk.2026"));
    assert_eq!(kind(&wrong), (422, "invalid-field"));
    assert!(wrong.1["detail"].as_str().unwrap().starts_with("iqn: "));
    assert_eq!(desk.answer("PUT /v1/targets/b", DISK).0, 201);
    assert_eq!(kind(&desk.answer("PUT /v1/targets/c", DISK)), (507, "no-capacity"));
}

#[test]
fn whoever_would_change_what_cannot_be_changed_of_a_target_is_told_which_member_it_is() {
    let desk = Desk::new();
    let whole = json!({
        "iqn": "iqn.2026-01.example:disk", "lun": 1, "volume": "nbd://10.1.0.9/disk",
        "initiators": ["iqn.2026-01.example:host"], "read_only": true, "removable": false,
        "chap": { "accounts": [{ "user": "u", "secret": "0123456789abcdef" }] },
        "policy": { "portals": ["10.1.0.10:10809"], "generation": 1, "iops": 100, "bandwidth": 1_000_000,
            "burst_seconds": 2, "hold_seconds": 20, "fail_after_seconds": 60, "assume_durable": true,
            "portals_fence": true },
    });
    assert_eq!(desk.answer("PUT /v1/targets/a", &whole.to_string()).0, 201);
    let others = [
        ("iqn", json!("iqn.2026-01.example:other")),
        ("lun", json!(2)),
        ("volume", json!("nbd://10.1.0.9/other")),
        ("initiators", json!(["*"])),
        ("read_only", json!(false)),
        ("removable", json!(true)),
        ("chap", json!({ "accounts": [{ "user": "u", "secret": "fedcba9876543210" }] })),
        ("chap", json!(null)),
        ("policy.portals", json!(["10.1.0.11:10809"])),
        ("policy.generation", json!(2)),
        ("policy.iops", json!(200)),
        ("policy.bandwidth", json!(2_000_000)),
        ("policy.burst_seconds", json!(3)),
        ("policy.hold_seconds", json!(30)),
        ("policy.fail_after_seconds", json!(90)),
        ("policy.assume_durable", json!(false)),
        ("policy.portals_fence", json!(false)),
    ];
    let changed = |members: &[(&str, Value)]| {
        let mut document = whole.clone();
        for (member, value) in members {
            let place = format!("/{}", member.replace('.', "/"));
            match document.pointer_mut(&place) {
                Some(there) => *there = value.clone(),
                None => document[*member] = value.clone(),
            }
        }
        document.to_string()
    };
    // Whatever else a document says, as its own schema has it, is access or what numbers it.
    let schema = management_api::openapi::document();
    for (name, free) in [("TargetDocument", &["access", "generation", "policy"][..]), ("PolicyDocument", &[])]
    {
        let members = schema["components"]["schemas"][name]["properties"].as_object().unwrap();
        for member in members.keys().filter(|member| !free.contains(&member.as_str())) {
            let named = if name == "PolicyDocument" { format!("policy.{member}") } else { member.clone() };
            assert!(others.iter().any(|(other, _)| *other == named), "{named} is not tried");
        }
    }
    for put in ["PUT /v1/targets/a", "PUT /v1/targets/a?dry_run=true"] {
        for (member, value) in &others {
            let refused = desk.answer(put, &changed(&[(member, value.clone())]));
            assert_eq!(kind(&refused), (409, "target-conflict"), "{member}");
            let detail = refused.1["detail"].as_str().unwrap();
            assert!(detail.ends_with(&format!("this would change {member}. Withdraw it first.")), "{detail}");
            assert!(!detail.contains("fedcba"), "no secret is told");
        }
        let refused = desk.answer(put, &changed(&[("lun", json!(2)), ("policy.iops", json!(200))]));
        assert!(refused.1["detail"].as_str().unwrap().contains("change lun, policy.iops."), "{}", refused.1);
    }
    assert_eq!(desk.answer("PUT /v1/targets/a", &whole.to_string()).0, 200, "the same changes nothing");
}

#[test]
fn a_name_is_the_same_in_letters_of_either_case() {
    let desk = Desk::new();
    let upper = DISK.replace("example:disk", "EXAMPLE:Disk").replace("*", "iqn.2026-01.Example:Host");
    assert_eq!(desk.answer("PUT /v1/targets/a", &upper).0, 201);
    let lower = upper.to_lowercase();
    for (request, body) in [
        ("GET /v1/targets/a", ""),
        ("PUT /v1/targets/a", &upper),
        ("PUT /v1/targets/a?dry_run=true", &lower),
        ("PUT /v1/targets/a", &lower),
        ("PUT /v1/targets/a?dry_run=true", &upper),
    ] {
        let (status, shown) = desk.answer(request, body);
        assert_eq!((status, &shown["desired"]["applied"]), (200, &true.into()), "{request}: {shown}");
        assert_eq!(shown["desired"].get("difference"), None, "{request}: {shown}");
    }
}

#[test]
fn a_target_is_bounded_before_storage_sees_it() {
    let desk = Desk::new();
    let long = "x".repeat(1025);
    for body in [
        DISK.replace("iqn.2026-01.example:disk", ""),
        DISK.replace("iqn.2026-01.example:disk", &"x".repeat(224)),
        DISK.replace("nbd://10.1.0.9/disk", ""),
        DISK.replace("nbd://10.1.0.9/disk", &long),
        DISK.replace("[\"*\"]", "[]"),
        DISK.replace("[\"*\"]", "[\"\"]"),
        DISK.replace("[\"*\"]", &format!("[{}\"*\"]", "\"a\",".repeat(32))),
    ] {
        assert_eq!(kind(&desk.answer("PUT /v1/targets/a", &body)), (422, "invalid-field"), "{body}");
    }
    let lun = DISK.replace("{", "{\"lun\":65536,");
    assert_eq!(kind(&desk.answer("PUT /v1/targets/a", &lun)), (400, "malformed-body"));
    assert!(desk.shelf.0.borrow().is_empty());
}

#[test]
fn bodies_that_are_not_exactly_what_is_expected_are_refused() {
    let desk = Desk::new();
    let commands = "POST /v1/instances/a/commands";
    let bodies = [
        "{}",
        "[]",
        r#"["terminate",null,null,null,null]"#,
        r#"{"verb":"stop","args":[true,5,"force"]}"#,
        r#"{"verb":"stop","precondition":[null,null,null]}"#,
        "null",
        "terminate",
        r#"{"verb":"terminate"} x"#,
        r#"{"verb":"terminate","verb":"terminate"}"#,
        r#"{"verb":"terminate","force":true}"#,
        r#"{"verb":"explode"}"#,
        r#"{"verb":"Terminate"}"#,
        r#"{"verb":"\ud800"}"#,
        "{\"verb\":\"terminate\u{0}\"}",
        "\u{feff}{\"verb\":\"terminate\"}",
        r#"{"verb":"terminate","client_token":""}"#,
        r#"{"verb":"terminate","client_token":"a b"}"#,
        r#"{"verb":"terminate","deadline_ms":4294967296}"#,
        r#"{"verb":"terminate","deadline_ms":-0}"#,
        r#"{"verb":"terminate","deadline_ms":1e400}"#,
        r#"{"verb":"terminate","precondition":{"generation":1,"mood":"good"}}"#,
        r#"{"verb":"terminate","precondition":{"state":"asleep"}}"#,
        r#"{"verb":"stop","args":{"gentle":true}}"#,
        r#"{"verb":"stop","args":{"then":"explode"}}"#,
        r#"{"verb":"stop","args":[[[[[[[[[1]]]]]]]]]}"#,
    ];
    for body in bodies {
        assert_eq!(kind(&desk.answer(commands, body)), (400, "malformed-body"), "{body}");
    }
    let token = format!(r#"{{"verb":"terminate","client_token":"{}"}}"#, "a".repeat(65));
    assert_eq!(desk.answer(commands, &token).0, 400);
    for body in [
        "[".repeat(10_000),
        format!("{{\"a\":\"{}\"}}", "x".repeat(5000)),
        "[1,".repeat(2) + &"1,".repeat(300),
    ] {
        assert_eq!(kind(&desk.answer(commands, &body)), (400, "malformed-body"));
    }
    for body in [
        r#"{"verb":"create"}"#,
        r#"{"verb":"describe"}"#,
        r#"{"verb":"pause","args":{"graceful":true}}"#,
        r#"{"verb":"snapshot"}"#,
        r#"{"verb":"resize","args":{}}"#,
        r#"{"verb":"resize","args":{"cpus":0}}"#,
        r#"{"verb":"volume.detach","args":{"volume":"data","target":"disk-1"}}"#,
        r#"{"verb":"nic.attach","args":{"nic":"n","network":"blue"}}"#,
        r#"{"verb":"stop","args":{"graceful":false,"timeout_ms":5}}"#,
        r#"{"verb":"stop","args":{"timeout_ms":3600001}}"#,
        r#"{"verb":"terminate","deadline_ms":0}"#,
        r#"{"verb":"terminate","deadline_ms":60001}"#,
    ] {
        assert_eq!(kind(&desk.answer(commands, body)), (422, "invalid-field"), "{body}");
    }
    for body in [r#"{"id":"../a","image":"tiny"}"#, r#"{"id":"a","image":"/bin/sh"}"#, r#"{"id":"a"}"#] {
        assert_eq!(kind(&desk.answer("POST /v1/instances", body)), (400, "malformed-body"), "{body}");
    }
    assert!(
        desk.answer("GET /v1/operations", "").1["operations"].as_array().unwrap().is_empty(),
        "nothing was begun"
    );
}

#[test]
fn paths_methods_queries_and_media_types_have_their_own_errors() {
    let desk = Desk::new();
    for line in [
        "GET /",
        "GET /v2",
        "GET /v1/",
        "GET /v1/instances/a/b",
        "GET /v1/instances/a/commands/x",
        "GET /v1/Targets",
    ] {
        assert_eq!(kind(&desk.answer(line, "")), (404, "not-found"), "{line}");
    }
    for (line, allow) in [
        ("DELETE /v1", "GET, HEAD"),
        ("PUT /v1/instances", "GET, HEAD, POST"),
        ("DELETE /v1/instances/a", "GET, HEAD"),
        ("GET /v1/instances/a/commands", "POST"),
        ("POST /v1/targets/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH /v1/operations/a", "GET, HEAD"),
    ] {
        let Step::Answer(response) = desk.step(line, "") else { panic!() };
        assert_eq!((response.status, response.allow), (405, Some(allow)), "{line}");
    }
    for line in [
        "GET /v1?x=1",
        "GET /v1/instances?limit=0",
        "GET /v1/instances?limit=201",
        "GET /v1/instances?limit=1&limit=1",
        "GET /v1/instances?after=../x",
        "GET /v1/instances?colour=red",
        "GET /v1/instances?",
        "POST /v1/instances?dry=1",
    ] {
        assert_eq!(kind(&desk.answer(line, "")), (400, "malformed-query"), "{line}");
    }
    assert_eq!(kind(&desk.answer("GET /v1/instances/UPPER", "")), (404, "unknown-instance"));
    assert_eq!(kind(&desk.answer("POST /v1/instances/a_b/commands", "{}")), (404, "unknown-instance"));
    assert_eq!(kind(&desk.answer("PUT /v1/targets/a_b", DISK)), (422, "invalid-field"));
    assert_eq!(kind(&desk.answer("GET /v1", "{}")), (400, "unexpected-body"));
    assert_eq!(kind(&desk.answer("DELETE /v1/targets/a", "{}")), (400, "unexpected-body"));
    let text =
        "POST /v1/instances HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    let step = with_request(text.as_bytes(), |request| desk.management.begin(request, Principal::Anonymous));
    let Step::Answer(response) = step else { panic!() };
    assert_eq!(kind(&read(&response)), (415, "unsupported-media-type"));
}

#[test]
fn rights_that_the_policy_does_not_give_are_refused() {
    let policy = Policy { anonymous_instances: false, anonymous_targets: false, ..Policy::OPEN };
    let desk = Desk::with(Configuration { policy, ..configuration(Some("10.0.0.1:7077")) });
    for (line, body) in [
        ("POST /v1/instances", "{}"),
        ("POST /v1/instances/a/commands", "{}"),
        ("PUT /v1/targets/a", DISK),
        ("DELETE /v1/targets/a", ""),
    ] {
        assert_eq!(kind(&desk.answer(line, body)), (403, "forbidden"), "{line}");
    }
    assert_eq!(desk.answer("GET /v1/targets", "").0, 200);
    let policy = Policy { anonymous_reads: false, ..policy };
    let desk = Desk::with(Configuration { policy, ..configuration(None) });
    assert_eq!(desk.answer("GET /v1/targets", "").0, 403);
    assert_eq!(desk.answer("GET /healthz", "").0, 200);
}

#[test]
fn the_appliance_tells_what_it_is_and_whether_it_is_ready() {
    let desk = Desk::new();
    let (status, about) = desk.answer("GET /v1", "");
    assert_eq!(
        (status, &about["api_versions"][0], &about["agent"]["state"]),
        (200, &"1".into(), &"connecting".into())
    );
    assert_eq!(about["authentication"], "none");
    let Step::Answer(ready) = desk.step("GET /readyz", "") else { panic!() };
    assert_eq!(ready.status, 503);
    let alone = Desk::with(configuration(None));
    assert_eq!(alone.answer("GET /readyz", "").0, 200);
    assert_eq!(alone.answer("GET /v1", "").1["agent"]["state"], "not-configured");
    let problems = desk.answer("GET /v1/problems", "").1;
    assert_eq!(
        problems["problems"].as_array().unwrap().len(),
        Kind::ALL.len() + management_http::Refusal::ALL.len()
    );
}

#[test]
fn metrics_count_what_was_answered() {
    let desk = Desk::new();
    desk.answer("PUT /v1/targets/disk-1", DISK);
    desk.answer("GET /nowhere", "");
    desk.lost("POST /v1/instances/a/commands", r#"{"verb":"pause"}"#, AgentError::Nonsense("x".into()));
    let Step::Answer(response) = desk.step("GET /v1/metrics", "") else { panic!() };
    let text = String::from_utf8(response.body).unwrap();
    for line in [
        "corbel_agent_up 0",
        "corbel_cycles_hertz 0",
        "corbel_stage_cycles_total{stage=\"nbd\"} 0",
        "corbel_stage_entries_total{stage=\"other\"} 0",
        "corbel_http_responses_total{class=\"2xx\"} 1",
        "corbel_http_responses_total{class=\"4xx\"} 1",
        "corbel_http_responses_total{class=\"5xx\"} 1",
        "corbel_operations_total{outcome=\"indeterminate\"} 1",
        "corbel_target_ready{target=\"disk-1\"} 0",
        "corbel_target_sessions{target=\"disk-1\"} 0",
        "corbel_connection_commands{connection=\"5\",initiator=\"iqn.2026-11.example:host\",\
         target=\"iqn.2026-11.example.corbel:disk0\"} 3",
        "corbel_connection_command_seconds_total{connection=\"0\",initiator=\"iqn.2026-11.example:host\",\
         target=\"iqn.2026-11.example.corbel:disk0\"} 2.500017",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}
