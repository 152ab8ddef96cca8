//! What a person sees: tables, sentences and exit codes, from answers that are always the same.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod canned;

use agent_protocol::{ConsolePage, Stats};
use canned::{Asked, Reply, Server};
use management_api::audit::{Anchor, AuditPage, AuditRecord, Decision, Hash};
use management_api::{
    AboutView, ApiEvent, BatchRequest, BatchView, Call, Capabilities, ENDPOINTS, EventPage, Forecast,
    HostView,
};
use management_api::{CertificateDocument, CertificateRequestView, EnrolRequest, KeysView};
use management_api::{
    ImageList, InstancePage, NetworkPage, NetworkView, OperationPage, OperationView, Parameters,
    ProblemDocument, ReadyView, TargetPage, TargetView,
};
use network_tls::{Pin, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// `value`, which the API's own type says the same as.
#[track_caller]
fn of<T: DeserializeOwned + Serialize>(value: Value) -> Value {
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), value);
    value
}

fn instances() -> Value {
    of::<InstancePage>(json!({ "instances": [
        { "id": "db-1", "uuid": "0b9c4a5e-0000-4000-8000-000000000001", "image": "debian", "hypervisor": "qemu",
          "state": "running", "generation": 7, "state_age_ms": 457_200_000_u64, "observed_age_ms": 900,
          "size": { "cpus": 2, "memory_mib": 4096 }, "initiator": "iqn.2026-11.example.corbel:host",
          "volumes": [{ "volume": "data", "iqn": "iqn.2026-11.example.corbel:data", "lun": 0, "read_only": false,
                        "attachment": "attached" }],
          "nics": [{ "nic": "eth0", "network": "blue", "mac": "52:54:00:12:34:56", "link": "up",
                     "attachment": "detaching" }],
          "allowed_actions": ["stop", "force-stop", "terminate"] },
        { "id": "web-1", "uuid": "0b9c4a5e-0000-4000-8000-000000000002", "image": "debian", "hypervisor": "qemu",
          "state": "failed", "reason": "the hypervisor ended by signal 11", "generation": 3,
          "state_age_ms": 185_000, "observed_age_ms": 120, "allowed_actions": ["start", "terminate"] },
        { "id": "old", "uuid": "0b9c4a5e-0000-4000-8000-000000000003", "image": "tiny", "hypervisor": "qemu",
          "state": "terminated", "generation": 9, "state_age_ms": 5_000, "observed_age_ms": 120,
          "allowed_actions": [] },
    ], "next": null }))
}

fn about() -> Value {
    of::<AboutView>(json!({ "name": "corbel", "version": "0.1.0", "api_versions": ["1"],
        "boot": "0b9c4a5e-0000-4000-8000-0000000000ff", "clock_ms": 90_061_000, "authentication": "tls",
        "agent": { "state": "up", "version": "0.1.0", "boot": "0b9c4a5e-0000-4000-8000-0000000000ee", "epoch": 3,
            "hypervisors": [{ "name": "qemu", "version": "7.2.22", "capabilities": [
                { "verb": "start", "support": "native", "by": "cont" },
                { "verb": "migrate.start", "support": "impossible", "by": "no peer is configured" } ],
                "facilities": [{ "facility": "console", "support": "impossible", "by": "its board has none" }] }] },
        "state": { "disk": "kept" },
        "limits": { "request_line_bytes": 1024, "header_fields": 32, "header_bytes": 8192, "body_bytes": 65536,
            "batch_commands": 32 } }))
}

fn operation(state: &str) -> Value {
    of::<OperationView>(json!({ "id": "17a2b3-1", "verb": "stop", "instance": "db-1", "state": state,
        "kept": true, "accepted_ms": 90_000_000, "result": instances()["instances"][0] }))
}

fn host(drain: bool) -> Value {
    of::<HostView>(json!({ "id": "self", "agent": about()["agent"], "drain": drain,
        "capacity": { "targets": { "used": 1, "limit": 16 }, "operations": { "used": 3, "limit": 256 } } }))
}

fn problem(name: &str, status: u16, title: &str, detail: &str) -> Reply {
    let kind = format!("urn:corbel:problem:{name}");
    let body =
        json!({ "type": kind, "title": title, "status": status, "detail": detail, "retryable": false });
    Reply::Problem(status, of::<ProblemDocument>(body).to_string())
}

/// An appliance on which nothing changes.
fn appliance() -> Server {
    Server::start(|asked, _| {
        let ok = |value: Value| Reply::Json(200, value.to_string());
        match asked.line.as_str() {
            "GET /v1 HTTP/1.1" => ok(about()),
            "GET /readyz HTTP/1.1" => ok(of::<ReadyView>(
                json!({ "ready": true, "agent": { "state": "up" }, "state": { "disk": "kept" } }),
            )),
            "GET /v1/instances?limit=200 HTTP/1.1" => ok(instances()),
            "GET /v1/instances/db-1 HTTP/1.1" => ok(instances()["instances"][0].clone()),
            "GET /v1/instances/db-1/stats HTTP/1.1" => ok(of::<Stats>(json!({
                "cpu_ms": 75_250, "memory_kib": 4_194_304,
                "disks": [{ "name": "data", "reads": 12, "read_bytes": 49_152, "writes": 3, "write_bytes": 12_288 }],
                "nics": [{ "name": "eth0", "reads": 9, "read_bytes": 900, "writes": 7, "write_bytes": 2_048 }],
            }))),
            "GET /v1/instances/db-1/console?after=0 HTTP/1.1" => ok(of::<ConsolePage>(
                json!({ "from": 7, "next": 30, "data": "TGludXggNi4xG1syShDCm3gNCmxvZ2luOg==" }),
            )),
            "GET /v1/instances/db-1/console?after=30 HTTP/1.1" => {
                ok(of::<ConsolePage>(json!({ "from": 30, "next": 30, "data": "" })))
            }
            "GET /v1/images HTTP/1.1" => ok(of::<ImageList>(json!({ "images": ["debian", "tiny"] }))),
            "GET /v1/operations?limit=20 HTTP/1.1" => {
                let mut done = operation("succeeded");
                done["ended_ms"] = 90_012_500.into();
                done["changed"] = false.into();
                ok(of::<OperationPage>(json!({ "operations": [operation("running"), done], "next": null })))
            }
            "GET /v1/capabilities HTTP/1.1" => {
                ok(of::<Capabilities>(json!({ "hypervisors": about()["agent"]["hypervisors"] })))
            }
            "GET /v1/targets?limit=200 HTTP/1.1" => ok(of::<TargetPage>(json!({ "targets": [
                { "id": "data", "iqn": "iqn.2026-11.example.corbel:data", "lun": 0, "volume": "nbd://192.0.2.9/data",
                  "initiators": ["*"], "read_only": true, "state": "down", "reason": "connection refused",
                  "size_bytes": 68_719_476_736_u64, "sessions": 1,
                  "desired": { "generation": 2, "durable": true, "applied": false, "difference": ["read_only"],
                               "problem": "a session is logged in" } } ], "next": null }))),
            "GET /v1/hosts/self HTTP/1.1" => ok(host(false)),
            "POST /v1/hosts/self:drain HTTP/1.1" => ok(host(true)),
            "POST /v1/instances/db-1/commands HTTP/1.1" => Reply::Json(202, operation("running").to_string()),
            _ => problem("not-found", 404, "There is nothing here", "There is nothing there."),
        }
    })
}

#[track_caller]
fn shows(words: &[&str], expected: &str) {
    let run = appliance().ctl(words);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{words:?}");
    assert_eq!(run.out, expected, "{words:?}");
}

#[test]
fn instances_are_a_table() {
    shows(
        &["instances"],
        "\
NAME   STATE    FOR   IMAGE   HYPERVISOR  CPUS  MEMORY  DISKS  NICS  GEN  REASON
db-1   running  5d7h  debian  qemu        2     4 GiB   1      1     7
web-1  failed   3m5s  debian  qemu                                   3    the hypervisor ended by signal 11
",
    );
    shows(
        &["ls", "--state", "terminated"],
        "NAME  STATE       FOR  IMAGE  HYPERVISOR  GEN\nold   terminated  5s   tiny   qemu        9\n",
    );
}

#[test]
fn one_instance_is_told_in_full() {
    shows(
        &["instance", "db-1"],
        "\
name        db-1
state       running
since       5d7h ago
looked at   0s ago
image       debian
hypervisor  qemu
cpus        2
memory      4 GiB
generation  7
uuid        0b9c4a5e-0000-4000-8000-000000000001
initiator   iqn.2026-11.example.corbel:host
can         stop, force-stop, terminate

DISK  TARGET                           LUN  READ ONLY  ATTACHMENT
data  iqn.2026-11.example.corbel:data  0    no         attached

INTERFACE  NETWORK  ADDRESS            LINK  ATTACHMENT
eth0       blue     52:54:00:12:34:56  up    detaching
",
    );
}

#[test]
fn what_an_instance_has_used_is_told_in_units() {
    shows(
        &["stats", "db-1"],
        "\
processor time  1m15s
memory          4 GiB

DISK  READS  READ    WRITES  WRITTEN
data  12     48 KiB  3       12 KiB

INTERFACE  PACKETS IN  RECEIVED  PACKETS OUT  SENT
eth0       9           900 B     7            2 KiB
",
    );
}

#[test]
fn a_console_is_shown_without_what_would_act_on_the_terminal() {
    shows(&["console", "db-1"], "Linux 6.1 [2J  x\nlogin:\n");
}

#[test]
fn operations_targets_and_capabilities_are_tables() {
    shows(
        &["operations"],
        "\
OPERATION  INSTANCE  VERB  STATE      AGO   TOOK  CHANGED
17a2b3-1   db-1      stop  running    1m1s
17a2b3-1   db-1      stop  succeeded  1m1s  12s   no
",
    );
    shows(
        &["targets"],
        "\
TARGET  STATE  SIZE    SESSIONS  LUN  ACCESS     IQN                              VOLUME                APPLIED                                REASON
data    down   64 GiB  1         0    read only  iqn.2026-11.example.corbel:data  nbd://192.0.2.9/data  no: read_only; a session is logged in  connection refused
",
    );
    shows(
        &["capabilities"],
        "\
HYPERVISOR  VERSION  VERB           SUPPORT     BY
qemu        7.2.22   start          native      cont
qemu        7.2.22   migrate.start  impossible  no peer is configured
qemu        7.2.22   console        impossible  its board has none
",
    );
    shows(&["images"], "debian\ntiny\n");
}

#[test]
fn status_is_one_view_and_its_exit_code_tells_whether_it_is_ready() {
    shows(
        &["status"],
        "\
appliance       corbel
version         0.1.0
ready           yes
up              1d1h
boot            0b9c4a5e-0000-4000-8000-0000000000ff
authentication  tls
state disk      kept
agent           up
agent version   0.1.0
agent boot      0b9c4a5e-0000-4000-8000-0000000000ee
epoch           3
hypervisors     qemu 7.2.22
",
    );
    let server = Server::start(|asked, _| match asked.line.as_str() {
        "GET /v1 HTTP/1.1" => Reply::Json(200, about().to_string()),
        _ => Reply::Json(
            503,
            of::<ReadyView>(
                json!({ "ready": false, "agent": { "state": "down", "reason": "nothing listens" },
                "state": { "disk": "kept" } }),
            )
            .to_string(),
        ),
    });
    let run = server.ctl(&["status"]);
    assert_eq!(run.code, 1);
    assert!(run.out.contains("ready           no: nothing listens\n"), "{}", run.out);
}

#[test]
fn json_is_the_appliance_s_own_with_keys_in_order() {
    let run = appliance().ctl(&["--json", "images"]);
    assert_eq!(run.out, "{\n  \"images\": [\n    \"debian\",\n    \"tiny\"\n  ]\n}\n");
    let run = appliance().ctl(&["--json", "instances", "--all"]);
    let list: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(list["instances"], instances()["instances"]);
    assert_eq!(list.get("next"), None, "it is whole");
}

#[test]
fn all_pages_become_one_list() {
    let server = Server::start(|asked, _| {
        let page = |id: &str, next: Value| {
            Reply::Json(
                200,
                json!({ "instances": [{ "id": id, "state": "running" }], "next": next }).to_string(),
            )
        };
        match asked.line.as_str() {
            "GET /v1/instances?limit=200 HTTP/1.1" => page("a", "a".into()),
            "GET /v1/instances?limit=200&after=a HTTP/1.1" => page("b", Value::Null),
            other => panic!("{other}"),
        }
    });
    assert_eq!(server.ctl(&["instances"]).out, "NAME  STATE\na     running\nb     running\n");
}

#[test]
fn a_command_is_sent_with_its_arguments_conditions_and_a_token() {
    let server = appliance();
    let words =
        ["stop", "db-1", "--timeout", "2m", "--force", "--if-state", "running", "--if-generation", "7"];
    let run = server.ctl(&[&words[..], &["--deadline", "5s", "--token", "t-1"]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.out, "db-1: stop running; it is running\n");
    assert_eq!(run.err, "it goes on: corbelctl operation 17a2b3-1 --wait\n");
    let body: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    let expected = json!({ "verb": "stop", "client_token": "t-1", "deadline_ms": 5000,
        "args": { "timeout_ms": 120_000, "then": "force" },
        "precondition": { "state": "running", "generation": 7 } });
    assert_eq!(body, expected);
}

#[test]
fn verbose_shows_what_is_said_and_the_token() {
    let run = appliance().ctl(&["-v", "pause", "db-1"]);
    let token = run.err.lines().find_map(|line| line.strip_prefix("client token ")).expect("a token");
    assert!(token.starts_with("ctl-") && token.len() == 36, "{token}");
    assert!(run.err.contains(&format!("\"client_token\":\"{token}\"")), "{}", run.err);
}

#[test]
fn no_secret_is_shown_even_to_the_verbose() {
    let server = appliance();
    let file = canned::folder().join("chap.json");
    let account = json!({ "user": "host", "secret": "open-sesame-1", "target_user": "t", "target_secret": "open-sesame-2" });
    std::fs::write(&file, json!({ "accounts": [account] }).to_string()).unwrap();
    let target = ["-v", "targets", "expose", "data", "--iqn", "iqn.2026-11.example:d", "--initiator", "*"];
    let more = ["--volume", "nbd://192.0.2.9/d", "--chap", file.to_str().unwrap()];
    let run = server.ctl(&[&target[..], &more].concat());
    assert!(server.asked()[0].body.contains("open-sesame-2"));
    assert!(run.err.contains("(hidden)") && !run.err.contains("sesame"), "{}", run.err);
}

#[test]
fn a_refusal_says_what_to_do() {
    let server = Server::start(|_, _| {
        problem("wrong-state", 409, "The instance is in another state", "db-1 is paused.")
    });
    let run = server.ctl(&["stop", "db-1"]);
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    assert_eq!(
        run.err,
        "corbelctl: The instance is in another state: db-1 is paused. [wrong-state]\n  `corbelctl instance NAME` \
         tells its state, and under `can` what is possible now.\n"
    );
    let run = server.ctl(&["--json", "stop", "db-1"]);
    assert_eq!(serde_json::from_str::<Value>(&run.out).unwrap()["status"], 409);
}

#[test]
fn a_lost_answer_is_asked_for_once_more_with_the_same_token() {
    let server = Server::start(|_, index| match index {
        0 => Reply::Hangup,
        _ => Reply::Json(202, operation("succeeded").to_string()),
    });
    let run = server.ctl(&["stop", "db-1"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
}

#[test]
fn an_answer_that_is_lost_twice_is_an_unknown_outcome() {
    let server = Server::start(|_, _| Reply::Hangup);
    let run = server.ctl(&["terminate", "db-1", "--token", "t-9"]);
    assert_eq!((run.code, server.asked().len()), (3, 2));
    assert!(run.err.contains("Say the same again with --token t-9"), "{}", run.err);
    // Reading changes nothing: the appliance could not be asked.
    assert_eq!(server.ctl(&["instances"]).code, 4);
}

#[test]
fn a_connection_that_the_appliance_closed_in_order_has_lost_nothing() {
    // It closes the connection that it has kept, and then a new one: only this time it may have heard what was said.
    let server = Server::start(|_, index| match index {
        0 => problem("not-found", 404, "There is nothing here", "Nothing."),
        1 => Reply::Farewell,
        2 => Reply::Hangup,
        _ => Reply::Json(202, operation("succeeded").to_string()),
    });
    let run = server.ctl(&["stop", "db-1", "b"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{}", run.out);
    let asked = server.asked();
    assert_eq!(asked.len(), 5);
    assert!(asked[1] == asked[2] && asked[1] == asked[3], "{asked:?}");
}

/// An appliance that answers one batch, by a head that begins so, and then closes the connection; nothing listens any more.
fn once(begin: &str, body: String) -> (String, std::thread::JoinHandle<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {begin}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut tcp, _) = listener.accept().unwrap();
        drop(listener);
        let mut heard = Vec::new();
        while !heard.ends_with(b"}]}") {
            let mut piece = [0; 4096];
            let count = tcp.read(&mut piece).unwrap();
            heard.extend_from_slice(&piece[..count]);
        }
        tcp.write_all(answer.as_bytes()).unwrap();
    });
    (url, server)
}

#[test]
fn an_appliance_that_closed_the_connection_in_order_and_is_gone_has_done_nothing() {
    let body = r#"{"type":"urn:corbel:problem:not-found","title":"","status":404,"detail":""}"#;
    let (url, server) = once("404 X\r\nContent-Type: application/problem+json", body.into());
    let run = canned::run(canned::command(&["--url", &url, "stop", "db-1", "b"]));
    server.join().unwrap();
    assert_eq!(run.code, 4, "{}", run.err);
    assert!(run.err.contains("nothing listens there"), "{}", run.err);
}

#[test]
fn whoever_waits_outwaits_a_reset_of_the_appliance() {
    let server = Server::start(|asked, index| match index {
        0 => Reply::Json(202, operation("running").to_string()),
        1..=4 => Reply::Hangup,
        _ => {
            assert_eq!(asked.line, "GET /v1/operations/17a2b3-1?wait=25s HTTP/1.1");
            Reply::Json(200, operation("succeeded").to_string())
        }
    });
    let run = server.ctl(&["stop", "db-1", "--wait"]);
    assert_eq!((run.code, run.out.as_str()), (0, "db-1: stop succeeded; it is running\n"), "{}", run.err);
}

#[test]
fn several_are_one_batch_and_have_each_their_line_and_the_worst_decides() {
    let server = Server::start(|asked, _| {
        assert_eq!(asked.line, "POST /v1/commands HTTP/1.1");
        let batch: BatchRequest = serde_json::from_str(&asked.body).unwrap();
        let results: Vec<Value> = batch
            .commands
            .iter()
            .map(|command| match command.0.instance.as_str() {
                "gone" => json!({ "instance": "gone", "problem": {
                    "type": "urn:corbel:problem:unknown-instance", "title": "There is no such instance", "status": 404,
                    "detail": "There is no instance gone.", "retryable": false } }),
                name => {
                    let mut one = operation("succeeded");
                    one["instance"] = name.into();
                    one["verb"] = "terminate".into();
                    one["result"]["state"] = "terminated".into();
                    json!({ "instance": name, "operation": one })
                }
            })
            .collect();
        let failed =
            u32::try_from(results.iter().filter(|result| result.get("problem").is_some()).count()).unwrap();
        Reply::Json(202, of::<BatchView>(json!({ "results": results, "failed": failed })).to_string())
    });
    let run = server.ctl(&["terminate", "gone", "a", "b", "a", "--token", "t"]);
    assert_eq!(run.code, 1);
    assert_eq!(
        run.out,
        "a: terminate succeeded; it is terminated\nb: terminate succeeded; it is terminated\n"
    );
    assert!(run.err.starts_with("corbelctl: gone: There is no such instance"), "{}", run.err);
    let body: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    assert_eq!(body["commands"][1], json!({ "instance": "b", "verb": "terminate", "client_token": "t.1" }));

    // A list of a file is as many batches as it takes.
    let names: String = (0..40).map(|number| format!("vm-{number:02} # rack 3\n\n")).collect();
    let file = canned::folder().join("names");
    std::fs::write(&file, names).unwrap();
    let before = server.asked().len();
    let run = server.ctl(&["terminate", "--from", file.to_str().unwrap(), "--json"]);
    assert_eq!((run.code, server.asked().len() - before), (0, 2));
    let all: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(all["results"].as_array().unwrap().len(), 40);
    let last: Value = serde_json::from_str(&server.asked()[before + 1].body).unwrap();
    assert!(last["commands"][7]["client_token"].as_str().unwrap().ends_with(".39"));
}

#[test]
fn an_appliance_without_batches_is_asked_one_by_one() {
    let server = Server::start(|asked, _| match asked.line.as_str() {
        "POST /v1/instances/db-1/commands HTTP/1.1" => Reply::Json(202, operation("succeeded").to_string()),
        "POST /v1/instances/b/commands HTTP/1.1" => {
            problem("unknown-instance", 404, "There is no such instance", "There is no instance b.")
        }
        _ => problem("not-found", 404, "There is nothing here", "There is nothing at /v1/commands."),
    });
    let run = server.ctl(&["stop", "db-1", "b", "--token", "t"]);
    assert_eq!((run.code, run.out.as_str()), (1, "db-1: stop succeeded; it is running\n"), "{}", run.err);
    assert!(run.err.contains("b: There is no such instance"), "{}", run.err);
    assert!(server.asked()[1].body.contains("\"t.0\"") && server.asked()[2].body.contains("\"t.1\""));
}

#[test]
fn a_command_of_which_nobody_can_tell_what_became_is_an_unknown_outcome() {
    let nonsense = || problem("agent-nonsense", 502, "The agent's answer makes no sense", "It is no answer.");
    let forgotten =
        || problem("unknown-operation", 404, "There is no such operation", "It has been forgotten.");
    type Answer = fn() -> Reply;
    let answers: [(Answer, &str); 5] = [
        (nonsense, "[agent-nonsense]"),
        (forgotten, "[unknown-operation]"),
        (|| Reply::Text(200, "<html>".into()), "it is no JSON"),
        (|| Reply::Text(502, "Bad Gateway".into()), "status 502 comes without a problem document"),
        (|| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), "makes no sense"),
    ];
    for (answer, says) in answers {
        let server = Server::start(move |_, _| answer());
        for words in [&["stop", "db-1"][..], &["stop", "db-1", "b"], &["--json", "stop", "db-1"]] {
            let run = server.ctl(words);
            assert_eq!(run.code, 3, "{words:?} {}", run.err);
            assert!(run.err.contains(says), "{words:?} {}", run.err);
        }
        // Whoever only looks, or asks for a forecast, has left nothing open.
        for words in [&["instances"][..], &["stop", "db-1", "--dry-run"], &["stop", "a", "b", "--dry-run"]] {
            assert!(matches!(server.ctl(words).code, 1 | 4), "{words:?}");
        }
        // What was made and is waited for, and then cannot be told of.
        let server = Server::start(move |_, index| match index {
            0 => Reply::Json(202, operation("running").to_string()),
            _ => answer(),
        });
        let run = server.ctl(&["stop", "db-1", "--wait"]);
        assert_eq!((run.code, run.out.as_str()), (3, ""), "{}", run.err);
        assert!(run.err.contains(says) && run.err.contains("corbelctl instance NAME"), "{}", run.err);
    }
    for (state, name) in [("indeterminate", "agent-nonsense"), ("indeterminate", "outcome-unknown")] {
        let server = Server::start(move |asked, _| {
            let mut one = operation(state);
            one["error"] = json!({ "type": format!("urn:corbel:problem:{name}"), "title": "x", "status": 502, "detail": "y" });
            match asked.line.starts_with("POST /v1/commands") {
                true => Reply::Json(
                    202,
                    json!({ "results": [{ "instance": "db-1", "operation": one },
                    { "instance": "b", "problem": one["error"] }], "failed": 2 })
                    .to_string(),
                ),
                false => Reply::Json(200, one.to_string()),
            }
        });
        assert_eq!(server.ctl(&["operation", "17a2b3-1"]).code, 3);
        assert_eq!(server.ctl(&["stop", "db-1", "b"]).code, 3, "{name}");
    }
}

/// An appliance without batches that is gone from the second command on.
fn going(gone: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |asked, _| match asked.line.as_str() {
        "POST /v1/commands HTTP/1.1" => problem("not-found", 404, "There is nothing here", "Nothing."),
        "POST /v1/instances/db-1/commands HTTP/1.1" => Reply::Json(202, operation("running").to_string()),
        _ => gone(),
    })
}

#[test]
fn when_one_of_several_is_lost_the_same_call_again_has_the_same_tokens() {
    let server = going(|| Reply::Hangup);
    let words = ["stop", "db-1", "b", "c", "--token", "t", "--wait"];
    let run = server.ctl(&words);
    assert_eq!((run.code, run.out.as_str()), (3, "db-1: stop running; it is running\n"), "{}", run.err);
    assert!(run.err.contains("Say the same again with --token t: "), "{}", run.err);
    assert!(run.err.ends_with("of 3 instances, the last 2 have no result\n"), "{}", run.err);
    let first = server.asked();
    server.ctl(&words);
    assert_eq!(server.asked()[first.len()..], first[..], "and nothing is done twice");
    let run = server.ctl(&[&words[..], &["--json"]].concat());
    let said: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((run.code, said["results"].as_array().unwrap().len()), (3, 1));
    assert_eq!(said["results"][0]["operation"], operation("running"));
}

#[test]
fn an_appliance_that_goes_away_among_several_leaves_an_unknown_outcome() {
    // The first batch is answered, and then nothing listens any more.
    let one = json!({ "instance": "db-1", "operation": operation("succeeded") });
    let body = of::<BatchView>(json!({ "results": vec![one; 32], "failed": 0 })).to_string();
    let (url, server) = once("202 X\r\nContent-Type: application/json\r\nConnection: close", body);
    let names: String = (0..40).map(|number| format!("vm-{number:02}\n")).collect();
    let file = canned::folder().join("names");
    std::fs::write(&file, names).unwrap();
    let words = ["--url", &url, "terminate", "--token", "t", "--from", file.to_str().unwrap()];
    let run = canned::run(canned::command(&words));
    server.join().unwrap();
    assert_eq!((run.code, run.out.lines().count()), (3, 32), "{}", run.err);
    assert!(run.err.contains("nothing listens there") && run.err.contains("--token t: "), "{}", run.err);
    // Where nothing was sent, nothing was done.
    assert_eq!(canned::run(canned::command(&words)).code, 4);
}

#[test]
fn a_file_with_something_else_than_names_ends_nobody() {
    let server = appliance();
    let file = canned::folder().join("names");
    std::fs::write(&file, "db-1\n--all\n").unwrap();
    let run = server.ctl(&["terminate", "--from", file.to_str().unwrap()]);
    assert_eq!((run.code, server.asked().len()), (2, 0));
    assert!(run.err.contains("line 2"), "{}", run.err);
}

#[test]
fn a_dry_run_is_a_forecast() {
    let server = Server::start(|asked, _| {
        assert_eq!(asked.line, "POST /v1/instances/db-1/commands?dry_run=true HTTP/1.1");
        let current = instances()["instances"][0].clone();
        let forecast = json!({ "dry_run": true, "would_change": true, "current": current });
        Reply::Json(200, of::<Forecast>(forecast).to_string())
    });
    let run = server.ctl(&["terminate", "db-1", "--dry-run"]);
    assert_eq!(run.out, "db-1: terminate would be done; it is running (dry run: nothing was done)\n");
}

/// Every request that can be asked whether it would be done, as this program makes it.
fn dry_runs(folder: &std::path::Path) -> Vec<(Call, Vec<String>, &'static str)> {
    let map = folder.join("dry.json");
    std::fs::write(&map, MAP).unwrap();
    let expose = "targets expose data --iqn iqn.2026-11.example.corbel:data --volume nbd://192.0.2.9/data --initiator *";
    let apply = format!("networks apply {}", map.display());
    let rows = [
        (Call::Drain, "drain", "POST /v1/hosts/self:drain?dry_run=true"),
        (Call::CreateInstance, "create web-1 --image tiny", "POST /v1/instances?dry_run=true"),
        (Call::Command, "start db-1", "POST /v1/instances/db-1/commands?dry_run=true"),
        // Each of several is asked about by itself, so that each has its line.
        (Call::Batch, "start a b", "POST /v1/instances/a/commands?dry_run=true"),
        (Call::Cancel, "cancel 17a2b3-1", "POST /v1/operations/17a2b3-1:cancel?dry_run=true"),
        (Call::PutTarget, expose, "PUT /v1/targets/data?dry_run=true"),
        (Call::DeleteTarget, "targets withdraw data", "DELETE /v1/targets/data?dry_run=true"),
        (Call::PutNetwork, &apply, "PUT /v1/networks/blue/map?dry_run=true"),
        (Call::DeleteNetwork, "networks remove blue", "DELETE /v1/networks/blue/map?dry_run=true"),
    ];
    let words = |line: &str| line.split(' ').map(String::from).chain(["--dry-run".into()]).collect();
    rows.into_iter().map(|(call, line, asks)| (call, words(line), asks)).collect()
}

#[test]
fn whatever_can_be_asked_for_its_forecast_has_a_flag_for_it_and_nothing_is_left_open() {
    let rows = dry_runs(&canned::folder());
    for endpoint in ENDPOINTS.iter().filter(|one| one.query.has(Parameters::DRY_RUN)) {
        assert!(rows.iter().any(|(call, ..)| *call == endpoint.call), "{endpoint:?} has no flag");
    }
    for (_, words, asks) in rows {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = Server::start(|_, _| Reply::Hangup);
        let run = server.ctl(&words);
        assert_eq!(run.code, 4, "{words:?}: {}", run.err);
        assert!(run.err.contains("nothing was changed by asking"), "{words:?}: {}", run.err);
        let asked = server.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|one| one.line == format!("{asks} HTTP/1.1")),
            "{asked:?}"
        );
    }
}

#[test]
fn a_dry_run_says_what_would_be() {
    let said = |words: &[&str], answer: Value| {
        let server = Server::start(move |_, _| Reply::Json(200, answer.to_string()));
        let run = server.ctl(words);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{words:?}");
        run.out.lines().last().unwrap().to_owned()
    };
    let dry = |words: &str| format!("{words} (dry run: nothing was done)");
    assert_eq!(said(&["drain", "--dry-run"], host(false)), dry("it would take no new instances"));
    assert_eq!(said(&["drain", "--off", "--dry-run"], host(false)), dry("it takes new instances already"));
    let cancel = said(&["cancel", "17a2b3-1", "--dry-run"], operation("accepted"));
    assert_eq!(cancel, dry("17a2b3-1: would be called off"));
    let target = |sessions: u64| {
        of::<TargetView>(json!({ "id": "data", "iqn": "iqn.2026-11.example.corbel:data", "lun": 0,
            "volume": "nbd://192.0.2.9/data", "initiators": ["*"], "read_only": true, "state": "ready",
            "size_bytes": null, "sessions": sessions }))
    };
    assert_eq!(
        said(&["targets", "withdraw", "data", "--dry-run"], target(0)),
        dry("data: would be withdrawn")
    );
    assert_eq!(
        said(&["targets", "withdraw", "data", "--grace", "30s", "--dry-run"], target(2)),
        dry("data: would be withdrawn; sessions whose initiators would be asked to log out: 2")
    );
    let expose =
        dry_runs(&canned::folder()).into_iter().find(|(call, ..)| *call == Call::PutTarget).unwrap().1;
    let expose: Vec<&str> = expose.iter().map(String::as_str).collect();
    assert_eq!(said(&expose, target(0)), dry("data: this is how it would be"));
    let document = [&["--json"][..], &expose].concat();
    let server = Server::start(move |_, _| Reply::Json(200, target(0).to_string()));
    let told: Value = serde_json::from_str(&server.ctl(&document).out).unwrap();
    assert_eq!(told["id"], "data", "a document and nothing else");
}

#[test]
fn a_disk_is_a_target_of_the_appliance() {
    let server = appliance();
    server.ctl(&["volume", "attach", "db-1", "data", "--as", "logs", "--read-only", "--token", "t"]);
    let body: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    let arguments = json!({ "target": "data", "volume": "logs", "read_only": true });
    assert_eq!(body, json!({ "verb": "volume.attach", "args": arguments, "client_token": "t" }));
    server.ctl(&["stop", "db-1", "--force", "--timeout", "0", "--token", "t"]);
    let body: Value = serde_json::from_str(&server.asked()[1].body).unwrap();
    assert_eq!(body, json!({ "verb": "force-stop", "client_token": "t" }));
}

#[test]
fn the_host_and_its_capacity_are_told() {
    shows(
        &["host"],
        "\
host                   self
takes new instances    yes
agent                  up
hypervisors            qemu 7.2.22
targets                1 of 16
operations remembered  3 of 256
",
    );
    let run = appliance().ctl(&["drain"]);
    assert!(run.out.contains("takes new instances    no: it is being drained\n"), "{}", run.out);
}

/// An appliance on which a few things have happened.
fn eventful() -> Server {
    let event = |seq: u64, object: &str, state: &str| {
        of::<ApiEvent>(json!({ "seq": seq, "at_ms": 90_000_000 + seq, "kind": "operation", "object": object,
            "generation": seq, "state": state, "operation": "17a2b3-1", "detail": "the guest shut down" }))
    };
    Server::start(move |asked, _| {
        let page = |events: Vec<Value>, next: u64, missed: bool| {
            let page = json!({ "boot": about()["boot"], "events": events, "next": next, "missed": missed });
            Reply::Json(200, of::<EventPage>(page).to_string())
        };
        let events =
            vec![event(4, "db-1", "stopping"), event(5, "web-1", "failed"), event(6, "db-1", "stopped")];
        match asked.line.as_str() {
            "GET /v1 HTTP/1.1" => Reply::Json(200, about().to_string()),
            "GET /v1/instances/db-1 HTTP/1.1" => {
                let mut one = instances()["instances"][0].clone();
                one["state"] = "stopped".into();
                Reply::Json(200, one.to_string())
            }
            "GET /v1/operations?limit=200 HTTP/1.1" => {
                let mut failed = operation("failed");
                failed["error"] = json!({ "type": "urn:corbel:problem:guest-ignored", "title": "The guest did not shut down",
                    "status": 409, "detail": "It has had 60 s.", "instance": "/v1/operations/17a2b3-1", "retryable": false });
                let page = json!({ "operations": [failed], "next": null });
                Reply::Json(200, of::<OperationPage>(page).to_string())
            }
            "GET /v1/events?limit=200 HTTP/1.1" => page(events, 6, false),
            "GET /v1/events?limit=200&after=6 HTTP/1.1" => page(vec![], 6, false),
            // A number that is not kept any more, or of another run: as real ones do, it tells no event.
            line if line.starts_with("GET /v1/events?limit=200&after=") => page(vec![], 6, true),
            other => panic!("{other}"),
        }
    })
}

#[test]
fn events_are_lines_and_a_gap_is_told_to_whoever_knows_of_it() {
    let run = eventful().ctl(&["events"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""), "whoever asks for all has missed nothing");
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(lines.len(), 3);
    // The time is that of this machine, less what the appliance's clock says.
    let (number, rest) = lines[1].split_at(8);
    assert_eq!(number, "     5  ");
    assert!(rest[..20].starts_with("20") && rest[..20].ends_with('Z'), "{rest}");
    assert_eq!(&rest[20..], "  operation            web-1 17a2b3-1 failed: the guest shut down");

    let run = eventful().ctl(&["events", "--after", "2", "--of", "db-1", "--json"]);
    assert!(run.err.contains("events were missed"), "{}", run.err);
    let lines: Vec<Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({ "missed": true, "next": 6 }));
    assert_eq!((lines.len(), &lines[2]["seq"]), (3, &6.into()));
}

#[test]
fn why_has_all_that_explains_an_instance_in_one_view() {
    let run = eventful().ctl(&["why", "db-1"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    for words in [
        "name        db-1\nstate       stopped\n",
        "\nLast operations\nOPERATION ",
        "The guest did not shut down: It has had 60 s. [guest-ignored]",
        "\nLast events\n     4  ",
        "\nWhat to do\n`corbelctl start db-1` runs it.\nthe last stop ended with guest-ignored: the guest did not listen",
    ] {
        assert!(run.out.contains(words), "{words}\n{}", run.out);
    }
    assert!(!run.out.contains("web-1"), "{}", run.out);
}

/// A trail of five records of which the first two are not kept any more.
fn trail() -> AuditPage {
    let mut place = Anchor::default();
    let mut records: Vec<AuditRecord> = Vec::new();
    for request in 1..=5 {
        let record = AuditRecord {
            seq: 0,
            prev_hash: Hash::default(),
            boot: serde_json::from_value(about()["boot"].clone()).unwrap(),
            at_ms: request * 1000,
            unix_time: Some(1_795_712_400 + request),
            request,
            principal: agent_protocol::Text::new("svc/vm"),
            peer_key: Some(Hash([9; 32])),
            verb: agent_protocol::Text::new("terminate"),
            object: agent_protocol::Text::new("/v1/instances/web-1/commands"),
            decision: if request == 4 { Decision::Denied } else { Decision::Allowed },
            outcome: agent_protocol::Text::new(if request == 4 { "forbidden" } else { "succeeded" }),
            operation: "17a2b3-1".parse().ok(),
            hash: Hash::default(),
        };
        records.push(record.chained(place));
        place = records.last().unwrap().anchor();
    }
    let anchor = records[1].anchor();
    AuditPage { records: records.split_off(2), anchor, head: place, durable: true, next: None }
}

/// An appliance with that trail, two records a page.
fn audited(page: AuditPage) -> Server {
    Server::start(move |asked, _| {
        let Some(query) = asked.line.strip_prefix("GET /v1/audit?after=") else {
            return Reply::Json(200, about().to_string());
        };
        let after: u64 = query.split('&').next().unwrap().parse().unwrap();
        let mut records: Vec<AuditRecord> =
            page.records.iter().filter(|record| record.seq > after).cloned().collect();
        let more = records.len() > 2;
        records.truncate(2);
        let next = records.last().filter(|_| more).map(|last| last.seq);
        Reply::Json(200, serde_json::to_string(&AuditPage { records, next, ..page.clone() }).unwrap())
    })
}

#[test]
fn the_audit_trail_is_listed() {
    let run = audited(trail()).ctl(&["audit"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(
        run.out,
        "\
NO  TIME                  WHO     VERB       WHAT                          DECISION  OUTCOME    OPERATION
3   2026-11-26T17:00:03Z  svc/vm  terminate  /v1/instances/web-1/commands  allowed   succeeded  17a2b3-1
4   2026-11-26T17:00:04Z  svc/vm  terminate  /v1/instances/web-1/commands  denied    forbidden  17a2b3-1
5   2026-11-26T17:00:05Z  svc/vm  terminate  /v1/instances/web-1/commands  allowed   succeeded  17a2b3-1
"
    );
    let denied = audited(trail()).ctl(&["audit", "list", "--denied"]).out;
    assert_eq!(denied.lines().count(), 2, "{denied}");
}

#[test]
fn a_whole_trail_is_verified_on_the_wire_and_in_a_file() {
    let (server, head) = (audited(trail()), trail().head);
    let expected = format!(
        "the audit trail is whole: 3 records, 3 to 5\nnext time: corbelctl audit verify --since 5:{}\n",
        head.hash
    );
    let run = server.ctl(&["audit", "verify"]);
    assert_eq!((run.code, run.out.as_str()), (0, expected.as_str()), "{}", run.err);
    // Places that it passes through, and the one before its first record.
    for place in [trail().records[1].anchor(), head, trail().anchor] {
        let since = format!("{}:{}", place.seq, place.hash);
        assert_eq!(server.ctl(&["audit", "verify", "--since", &since]).code, 0, "{since}");
    }
    let file = canned::folder().join("trail.json");
    std::fs::write(&file, server.ctl(&["audit", "list", "--json"]).out).unwrap();
    // Without any appliance.
    let run = canned::run(canned::command(&["audit", "verify", "--from", file.to_str().unwrap()]));
    assert_eq!((run.code, run.out.as_str()), (0, expected.as_str()), "{}", run.err);
}

#[test]
fn a_trail_that_was_altered_is_told_from_a_whole_one() {
    type Change = fn(&mut AuditPage);
    let changes: [(&str, Change); 6] = [
        ("record 4 was altered", |page| page.records[1].outcome = agent_protocol::Text::new("succeeded")),
        ("record 5 does not follow", |page| {
            page.records[1].decision = Decision::Allowed;
            page.records[1].hash = page.records[1].digest();
        }),
        ("record 4 is missing", |page| drop(page.records.remove(1))),
        ("record 3 is missing", |page| page.records.swap(0, 1)),
        ("the end of the audit trail is missing", |page| drop(page.records.pop())),
        ("record 3 does not follow", |page| page.anchor.hash = Hash([7; 32])),
    ];
    for (says, change) in changes {
        let mut page = trail();
        change(&mut page);
        let run = audited(page).ctl(&["audit", "verify"]);
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{says}");
        assert!(run.err.contains(says), "{says}: {}", run.err);
    }
    // One that is whole in itself, and not the one that was verified before.
    for (since, says) in [(4, "was made anew"), (1, "is not kept any more")] {
        let since = format!("{since}:{}", Hash([1; 32]));
        let run = audited(trail()).ctl(&["audit", "verify", "--since", &since]);
        assert_eq!((run.code, run.out.as_str()), (1, ""));
        assert!(run.err.contains(says), "{}", run.err);
    }
}

#[test]
fn a_file_that_is_no_trail_is_no_verified_trail() {
    for text in ["", "{}", "[]", "{\"anchor\": 7}", "{\"anchor\":{\"seq\":0,\"hash\":\"00\"},\"records\":[]}"]
    {
        let file = canned::folder().join("trail.json");
        std::fs::write(&file, text).unwrap();
        let run = canned::run(canned::command(&["audit", "verify", "--from", file.to_str().unwrap()]));
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{text}");
    }
}

#[test]
fn what_is_no_appliance_is_told_from_one_that_is_not_there() {
    let server = Server::start(|_, _| Reply::Text(200, "<html>".into()));
    let run = server.ctl(&["instances"]);
    assert_eq!(run.code, 1);
    assert!(run.err.starts_with("corbelctl: the answer makes no sense: it is no JSON\n"), "{}", run.err);
    let server = Server::start(|_, _| Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()));
    assert_eq!(server.ctl(&["instances"]).code, 1);
    // A port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = canned::run(canned::command(&["--url", &format!("http://{port}"), "instances"]));
    assert_eq!(run.code, 4);
    assert!(run.err.contains("cannot be reached: nothing listens there"), "{}", run.err);
}

#[test]
fn mistakes_of_the_command_line_have_a_code_of_their_own() {
    for words in [
        &["nonsense"][..],
        &["instance", "../etc"],
        &["instance", "-x-"],
        &["instance", "a/b?c"],
        &["stop"],
        &["resize", "a"],
        &["stop", "a", "--timeout", "soon"],
        &["nic", "attach", "a", "b", "--network", "n", "--mac", "01:00:00:00:00:00"],
        &["instances"],
        &["--url", "ftp://x", "instances"],
        &["--url", "https://192.0.2.7", "instances"],
    ] {
        let run = canned::run(canned::command(words));
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{words:?} {}", run.err);
        assert!(!run.err.is_empty());
    }
}

#[test]
fn no_control_character_of_an_answer_reaches_the_terminal() {
    let evil = "x\u{1b}]0;owned\u{7}\u{9b}31m\r\u{202e}y";
    let hostile = move |asked: &Asked| {
        let one = json!({ "id": evil, "instance": evil, "state": evil, "reason": evil, "verb": evil, "iqn": evil,
            "volume": evil, "evidence": [evil], "allowed_actions": [evil], "name": evil, "version": evil,
            "error": { "type": evil, "title": evil, "detail": evil }, "result": { "state": evil },
            "agent": { "state": evil, "hypervisors": [{ "name": evil, "capabilities": [{ "verb": evil }] }] },
            "hypervisors": [{ "name": evil, "capabilities": [{ "verb": evil, "by": evil }] }],
            "problems": [{ "type": evil, "title": evil }], "images": [evil], "boot": evil, "anchor": evil, "seq": 1, "at_ms": 1,
            "object": evil, "principal": evil, "decision": evil, "outcome": evil, "disks": [{ "name": evil }],
            "current": { "state": evil }, "desired": { "applied": false, "difference": [evil] } });
        let mut all = one.clone();
        for list in ["instances", "operations", "targets", "networks", "records"] {
            all[list] = json!([one]);
        }
        if asked.line.contains("problem") || asked.line.contains("/b") {
            let body = json!({ "type": evil, "title": evil, "detail": evil });
            return Reply::Problem(409, body.to_string());
        }
        if asked.line.contains("metrics") {
            return Reply::Text(200, format!("a 1\nb{evil} 2\n"));
        }
        // A second page of events would never be the last.
        all["events"] = if !asked.line.contains("after=") { json!([one]) } else { json!([]) };
        all["next"] = if asked.line.contains("/events") { 1.into() } else { Value::Null };
        Reply::Json(200, all.to_string())
    };
    let server = Server::start(move |asked, _| hostile(asked));
    for words in [
        &["status"][..],
        &["instances"],
        &["instance", "a"],
        &["instance", "b"],
        &["stats", "a"],
        &["images"],
        &["operations"],
        &["operation", "a"],
        &["targets"],
        &["targets", "show", "a"],
        &["networks"],
        &["networks", "show", "a"],
        &["capabilities"],
        &["problems"],
        &["metrics"],
        &["stop", "a"],
        &["stop", "b"],
        &["why", "a"],
        &["host"],
        &["events"],
        &["audit"],
        &["audit", "verify"],
        &["cancel", "a"],
        &["drain"],
        &["stop", "a", "--dry-run"],
    ] {
        for more in [&[][..], &["--json"], &["--verbose"]] {
            let run = server.ctl(&[words, more].concat());
            let acts =
                |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
            assert!(!run.out.contains(acts) && !run.err.contains(acts), "{words:?} {more:?} {run:?}");
            assert!(run.out.contains("owned") || run.err.contains("owned"), "{words:?}");
        }
    }
}

/// An appliance to be enrolled that was given this join token, and a chain for its key.
fn unenrolled(token: &'static str) -> Server {
    Server::start(move |asked, _| {
        let token = Token::new(token).unwrap();
        let keys = json!({ "certificate": { "enrolled": true, "not_before": 1_795_712_400, "not_after": 1_798_304_400,
            "days_left": 30, "rotation_due": false } });
        match asked.line.as_str() {
            "GET /v1/enrol HTTP/1.1" => {
                let proof = Pin(token.proof("corbel-enrol-request", b"a request")).to_string();
                let request = network_tls::pem("CERTIFICATE REQUEST", b"a request");
                let view = json!({ "request": request, "key": "00".repeat(32), "proof": proof });
                Reply::Json(200, of::<CertificateRequestView>(view).to_string())
            }
            "POST /v1/enrol HTTP/1.1" => {
                let body: EnrolRequest = serde_json::from_str(&asked.body).unwrap();
                let chain: Vec<u8> =
                    body.certificates.iter().flat_map(|text| network_tls::der(text).unwrap()).collect();
                assert_eq!(chain, [&b"a leaf"[..], &[7; 100]].concat());
                let proof: Pin = body.proof.parse().unwrap();
                assert!(token.accepts("corbel-enrol-certificate", &chain, &proof.0));
                Reply::Json(200, of::<KeysView>(keys).to_string())
            }
            "GET /v1/keys HTTP/1.1" => Reply::Json(200, keys.to_string()),
            "POST /v1/keys:rotate HTTP/1.1" => {
                let request = network_tls::pem("CERTIFICATE REQUEST", b"another");
                Reply::Json(200, json!({ "request": request, "key": "00".repeat(32) }).to_string())
            }
            "PUT /v1/keys HTTP/1.1" => {
                let body: CertificateDocument = serde_json::from_str(&asked.body).unwrap();
                assert_eq!(body.certificates.len(), 2);
                Reply::Json(200, keys.to_string())
            }
            other => panic!("{other}"),
        }
    })
}

#[test]
fn an_appliance_is_enrolled_by_whoever_knows_the_join_token() {
    let folder = canned::folder();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let token = "a-token-of-128-bits-or-more";
    let chain =
        [network_tls::pem("CERTIFICATE", b"a leaf"), network_tls::pem("CERTIFICATE", &[7; 100])].concat();
    let (right, wrong) = (file("token", &format!("{token}\n")), file("wrong", "another-token-of-128-bits"));
    let chain = file("chain.pem", &format!("words before it\n{chain}"));
    let server = unenrolled(token);

    let request = server.ctl(&["enrol", "--token-file", &right]);
    assert_eq!(request.out, network_tls::pem("CERTIFICATE REQUEST", b"a request"));
    let sign = format!("grep -q 'BEGIN CERTIFICATE REQUEST' && cat {chain}");
    for words in [["--sign", sign.as_str()], ["--install", chain.as_str()]] {
        let run = server.ctl(&[&["enrol", "--token-file", &right], &words[..]].concat());
        assert_eq!((run.code, run.err.as_str()), (0, ""));
        assert!(
            run.out.contains("enrolled     yes\n") && run.out.contains("left         30 days\n"),
            "{}",
            run.out
        );
    }
    // Somebody else's appliance, or somebody in between: its request is signed by nobody.
    let before = server.asked().len();
    let other = server.ctl(&["enrol", "--token-file", &wrong, "--sign", &sign]);
    assert_eq!((other.code, other.out.as_str()), (2, ""));
    assert_eq!(server.asked().len(), before + 1, "{}", other.err);

    assert_eq!(server.ctl(&["keys", "rotate", "--sign", &sign]).code, 0);
    assert_eq!(server.ctl(&["keys", "install", &chain]).code, 0);
    let failed = server.ctl(&["keys", "rotate", "--sign", "exit 9"]);
    assert_eq!((failed.code, failed.out.as_str()), (1, ""));
    assert!(server.ctl(&["keys"]).out.contains("valid until  2026-12-26T17:00:00Z\n"));
}

const MAP: &str = r#"{"network":"blue","generation":5,"vni":100,"mtu":1450,"endpoints":[
    {"mac":"52:54:00:00:00:01","ip":"10.5.0.1","underlay":"192.0.2.1"}]}"#;

/// A network of which the host has this generation.
fn network(applied: Option<u64>) -> Value {
    let mut view = json!({ "id": "blue",
        "desired": { "generation": 5, "vni": 100, "mtu": 1450, "endpoints": 1, "durable": true },
        "map": serde_json::from_str::<Value>(MAP).unwrap() });
    match applied {
        Some(generation) => {
            view["applied"] = json!({ "generation": generation, "endpoints": 1, "age_ms": 2000,
                "drops": { "unknown_destination": 3 } });
            if generation != 5 {
                view["difference"] = json!(["generation"]);
                view["problems"] = json!(["no kernel"]);
            }
        }
        None => view["difference"] = json!(["map"]),
    }
    of::<NetworkView>(view)
}

#[test]
fn networks_are_a_table_and_one_is_shown_with_its_interfaces() {
    let server = Server::start(|asked, _| {
        let list = |one: Value| of::<NetworkPage>(json!({ "networks": [one], "next": null })).to_string();
        let without_map = |mut one: Value| {
            one.as_object_mut().unwrap().remove("map");
            one
        };
        Reply::Json(
            200,
            match asked.line.as_str() {
                "GET /v1/networks?limit=200 HTTP/1.1" => list(without_map(network(Some(4)))),
                "GET /v1/networks/blue/map HTTP/1.1" => network(Some(5)).to_string(),
                other => panic!("{other}"),
            },
        )
    });
    assert_eq!(
        server.ctl(&["networks"]).out,
        "\
NETWORK  VNI  MTU   INTERFACES  GEN  IN EFFECT         DROPPED  PROBLEM
blue     100  1450  1           5    no: generation 4  3        no kernel
"
    );
    assert_eq!(
        server.ctl(&["networks", "show", "blue"]).out,
        "\
network                       blue
vni                           100
mtu                           1450
interfaces                    1
generation                    5
in effect                     yes
looked at                     2s ago
dropped: unknown destination  3
outlives a restart            yes

ADDRESS            IP        HOST
52:54:00:00:00:01  10.5.0.1  192.0.2.1
"
    );
    let shown: Value =
        serde_json::from_str(&server.ctl(&["--json", "networks", "show", "blue"]).out).unwrap();
    assert_eq!(shown, network(Some(5)));
}

#[test]
fn a_map_is_applied_from_a_file_and_waited_for() {
    let folder = canned::folder();
    let file = folder.join("blue.json");
    std::fs::write(&file, MAP).unwrap();
    let file = file.to_str().unwrap();
    let server = Server::start(|asked, number| match asked.line.as_str() {
        "PUT /v1/networks/blue/map HTTP/1.1" => Reply::Json(201, network(None).to_string()),
        "PUT /v1/networks/blue/map?dry_run=true HTTP/1.1" => Reply::Json(200, network(Some(4)).to_string()),
        "GET /v1/networks/blue/map HTTP/1.1" => {
            Reply::Json(200, network(Some(if number > 2 { 5 } else { 4 })).to_string())
        }
        "DELETE /v1/networks/blue/map HTTP/1.1" => {
            problem("unknown-network", 404, "There is no such network", "There is no network blue.")
        }
        other => panic!("{other}"),
    });
    let run = server.ctl(&["networks", "apply", file, "--wait"]);
    assert_eq!((run.code, run.out.as_str()), (0, "blue: generation 5 is in effect\n"), "{run:?}");
    let sent: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    assert_eq!(sent, serde_json::from_str::<Value>(MAP).unwrap());
    let run = server.ctl(&["networks", "apply", file]);
    assert_eq!((run.code, run.out.as_str()), (0, "blue: generation 5 is wanted\n"));
    let run = server.ctl(&["networks", "apply", file, "--dry-run"]);
    assert_eq!(run.out, "blue: generation 5 would be taken (dry run: nothing was done)\n");
    let run = server.ctl(&["networks", "remove", "blue"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("[unknown-network]") && run.err.contains("corbelctl networks"), "{}", run.err);
    let wrong = folder.join("wrong.json");
    std::fs::write(&wrong, MAP.replace("1450", "99")).unwrap();
    let run = server.ctl(&["networks", "apply", wrong.to_str().unwrap()]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.contains("mtu: from 1280 to 65485"), "{}", run.err);
}

#[test]
fn a_network_is_gone_when_the_host_has_it_no_more() {
    let server = Server::start(|asked, number| {
        let leaving = || {
            of::<NetworkView>(json!({ "id": "blue", "difference": ["map"], "applied": {
            "generation": 5, "endpoints": 1, "age_ms": 10, "drops": { "unknown_destination": 0 } } }))
        };
        match asked.line.as_str() {
            "DELETE /v1/networks/blue/map HTTP/1.1" => Reply::Json(202, leaving().to_string()),
            "GET /v1/networks/blue/map HTTP/1.1" if number < 2 => Reply::Json(200, leaving().to_string()),
            _ => problem("unknown-network", 404, "There is no such network", "There is no network blue."),
        }
    });
    let run = server.ctl(&["networks", "remove", "blue", "--wait=10s"]);
    assert_eq!((run.code, run.out.as_str()), (0, "blue: gone from the host\n"), "{run:?}");
    assert_eq!(server.asked().len(), 3);
}
