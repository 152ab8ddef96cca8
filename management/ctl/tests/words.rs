//! What a person sees: tables, sentences and exit codes, from answers that are always the same.

mod canned;

use canned::{Asked, Reply, Server};
use serde_json::{Value, json};

fn instances() -> Value {
    json!({ "instances": [
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
    ], "next": null })
}

fn about() -> Value {
    json!({ "name": "corbel", "version": "0.1.0", "api_versions": ["1"],
        "boot": "0b9c4a5e-0000-4000-8000-0000000000ff", "clock_ms": 90_061_000, "authentication": "none",
        "agent": { "state": "up", "version": "0.1.0", "boot": "0b9c4a5e-0000-4000-8000-0000000000ee", "epoch": 3,
            "hypervisors": [{ "name": "qemu", "version": "7.2.22", "capabilities": [
                { "verb": "start", "support": "native", "by": "cont" },
                { "verb": "migrate.start", "support": "impossible", "by": "no peer is configured" } ] }] },
        "limits": {} })
}

fn operation(state: &str) -> Value {
    json!({ "id": "17a2b3-1", "verb": "stop", "instance": "db-1", "state": state, "accepted_ms": 90_000_000,
        "evidence": [], "result": instances()["instances"][0] })
}

fn problem(name: &str, status: u16, title: &str, detail: &str) -> Reply {
    let kind = format!("urn:corbel:problem:{name}");
    let body =
        json!({ "type": kind, "title": title, "status": status, "detail": detail, "retryable": false });
    Reply::Problem(status, body.to_string())
}

/// An appliance on which nothing changes.
fn appliance() -> Server {
    Server::start(|asked, _| {
        let ok = |value: Value| Reply::Json(200, value.to_string());
        match asked.line.as_str() {
            "GET /v1 HTTP/1.1" => ok(about()),
            "GET /readyz HTTP/1.1" => ok(json!({ "ready": true, "agent": { "state": "up" } })),
            "GET /v1/instances?limit=200 HTTP/1.1" => ok(instances()),
            "GET /v1/instances/db-1 HTTP/1.1" => ok(instances()["instances"][0].clone()),
            "GET /v1/images HTTP/1.1" => ok(json!({ "images": ["debian", "tiny"] })),
            "GET /v1/operations?limit=20 HTTP/1.1" => {
                let mut done = operation("succeeded");
                done["ended_ms"] = 90_012_500.into();
                done["changed"] = false.into();
                ok(json!({ "operations": [operation("running"), done], "next": null }))
            }
            "GET /v1/targets HTTP/1.1" => ok(json!({ "targets": [
                { "id": "data", "iqn": "iqn.2026-11.example.corbel:data", "lun": 0, "volume": "nbd://192.0.2.9/data",
                  "initiators": ["*"], "read_only": true, "state": "down", "reason": "connection refused",
                  "size_bytes": 68_719_476_736_u64, "sessions": 1 } ] })),
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
TARGET  STATE  SIZE    SESSIONS  LUN  ACCESS     IQN                              VOLUME                REASON
data    down   64 GiB  1         0    read only  iqn.2026-11.example.corbel:data  nbd://192.0.2.9/data  connection refused
",
    );
    shows(
        &["capabilities"],
        "\
HYPERVISOR  VERSION  VERB           SUPPORT     BY
qemu        7.2.22   start          native      cont
qemu        7.2.22   migrate.start  impossible  no peer is configured
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
authentication  none
agent           up
agent version   0.1.0
agent boot      0b9c4a5e-0000-4000-8000-0000000000ee
epoch           3
hypervisors     qemu 7.2.22
",
    );
    let server = Server::start(|asked, _| match asked.line.as_str() {
        "GET /v1 HTTP/1.1" => Reply::Json(200, about().to_string()),
        _ => {
            Reply::Json(503, json!({ "ready": false, "agent": { "reason": "nothing listens" } }).to_string())
        }
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
        "args": { "graceful": true, "timeout_ms": 120_000, "then": "force" },
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
fn several_have_each_their_line_and_the_worst_decides() {
    let server = Server::start(|asked, _| match asked.line.as_str() {
        "POST /v1/instances/a/commands HTTP/1.1" => {
            let mut one = operation("succeeded");
            one["instance"] = "a".into();
            one["verb"] = "terminate".into();
            one["result"] = json!({ "state": "terminated" });
            Reply::Json(202, one.to_string())
        }
        _ => problem("unknown-instance", 404, "There is no such instance", "There is no instance b."),
    });
    let run = server.ctl(&["terminate", "b", "a"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.out, "a: terminate succeeded; it is terminated\n");
    assert!(run.err.starts_with("corbelctl: b: There is no such instance"), "{}", run.err);
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
            "problems": [{ "type": evil, "title": evil }], "images": [evil] });
        let mut all = one.clone();
        for list in ["instances", "operations", "targets"] {
            all[list] = json!([one]);
        }
        if asked.line.contains("problem") || asked.line.contains("/b") {
            let body = json!({ "type": evil, "title": evil, "detail": evil });
            return Reply::Problem(409, body.to_string());
        }
        if asked.line.contains("metrics") {
            return Reply::Text(200, format!("a 1\nb{evil} 2\n"));
        }
        Reply::Json(200, all.to_string())
    };
    let server = Server::start(move |asked, _| hostile(asked));
    for words in [
        &["status"][..],
        &["instances"],
        &["instance", "a"],
        &["instance", "b"],
        &["images"],
        &["operations"],
        &["operation", "a"],
        &["targets"],
        &["targets", "show", "a"],
        &["capabilities"],
        &["problems"],
        &["metrics"],
        &["stop", "a"],
        &["stop", "b"],
        &["stop", "a", "b"],
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
