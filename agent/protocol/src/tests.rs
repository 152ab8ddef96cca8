//! Golden bytes for version 1, and what must not be accepted.

use super::*;
use lifecycle::{Effect, effect};

const UUID: Uuid = Uuid(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn golden<T>(value: &T, bytes: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    assert_eq!(String::from_utf8(encode(value)).unwrap(), bytes);
    assert_eq!(&decode::<T>(bytes.as_bytes()).unwrap(), value);
}

fn instance(state: State) -> Instance {
    Instance {
        id: id("web-1"),
        uuid: UUID,
        image: "tiny".parse().unwrap(),
        hypervisor: Text::new("qemu"),
        size: Size::default(),
        volumes: vec![],
        nics: vec![],
        initiator: None,
        state,
        reason: None,
        generation: 3,
        since_ms: 10,
        observed_ms: 12,
    }
}

#[test]
fn the_bytes_of_version_one_are_frozen() {
    golden(
        &Hello { proto_min: 1, proto_max: 1, appliance_boot: UUID, epoch: None },
        r#"{"proto_min":1,"proto_max":1,"appliance_boot":"01234567-89ab-4def-8123-456789abcdef"}"#,
    );
    golden(
        &Welcome {
            proto: 1,
            version: Text::new("0.1.0"),
            agent_boot: UUID,
            clock_ms: 5,
            epoch: 7,
            journal_head: 0,
            inventory_digest: 0,
            backends: vec![Backend {
                name: Text::new("qemu"),
                version: Text::new("7.2"),
                capabilities: vec![Capability {
                    verb: Verb::ForceStop,
                    support: Support::Emulated,
                    by: Text::new("quit, then SIGKILL"),
                }],
                facilities: vec![],
            }],
        },
        r#"{"proto":1,"version":"0.1.0","agent_boot":"01234567-89ab-4def-8123-456789abcdef","clock_ms":5,"epoch":7,"journal_head":0,"inventory_digest":0,"backends":[{"name":"qemu","version":"7.2","capabilities":[{"verb":"force-stop","support":"emulated","by":"quit, then SIGKILL"}]}]}"#,
    );
    golden(
        &Command::new("op-1".parse().unwrap(), id("web-1"), Action::Terminate {}),
        r#"{"proto":1,"op_id":"op-1","instance":"web-1","action":{"verb":"terminate"}}"#,
    );
    let full = Command {
        epoch: Some(7),
        agent_boot: Some(UUID),
        deadline_ms: Some(900),
        precondition: Precondition {
            uuid: Some(UUID),
            generation: Some(3),
            state: Some(State::ShuttingDown),
        },
        critical: vec!["epoch".into()],
        ..Command::new(
            "op-2".parse().unwrap(),
            id("web-1"),
            Action::Stop { graceful: true, timeout_ms: 30_000, then: Then::Force },
        )
    };
    golden(
        &full,
        r#"{"proto":1,"op_id":"op-2","epoch":7,"agent_boot":"01234567-89ab-4def-8123-456789abcdef","deadline_ms":900,"precondition":{"uuid":"01234567-89ab-4def-8123-456789abcdef","generation":3,"state":"shutting-down"},"critical":["epoch"],"instance":"web-1","action":{"verb":"stop","graceful":true,"timeout_ms":30000,"then":"force"}}"#,
    );
}

#[test]
fn a_document_of_an_older_or_newer_agent_is_read_as_far_as_it_is_known() {
    let backend = Backend {
        name: Text::new("qemu"),
        version: Text::new("7.2"),
        capabilities: vec![],
        facilities: vec![Provision {
            facility: Facility::NetworkApply,
            support: Support::Impossible,
            by: Text::new("no address"),
        }],
    };
    let written = r#"{"name":"qemu","version":"7.2","capabilities":[],"facilities":[{"facility":"network.apply","support":"impossible","by":"no address"}]}"#;
    golden(&backend, written);
    let older = r#"{"name":"qemu","version":"7.2","capabilities":[]}"#;
    golden(&Backend { facilities: vec![], ..backend.clone() }, older);
    let newer = r#"{"name":"qemu","version":"7.2","capabilities":[{"verb":"teleport","support":"native","by":"x"}],
        "facilities":[{"facility":"smell","support":"native","by":"x"},
                      {"facility":"network.apply","support":"impossible","by":"no address","more":1}]}"#;
    assert_eq!(decode::<Backend>(newer.as_bytes()).unwrap(), backend);
    for wrong in [
        r#"{"name":"qemu","version":"7.2","capabilities":[{"support":"native","by":"x"}]}"#,
        r#"{"name":"qemu","version":"7.2","capabilities":[],"facilities":[{"facility":"list","support":"perhaps","by":"x"}]}"#,
        r#"{"name":"qemu","version":"7.2","capabilities":[],"facilities":[{"facility":7,"support":"native","by":"x"}]}"#,
    ] {
        assert!(decode::<Backend>(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn the_bytes_of_every_action_are_frozen() {
    golden(
        &Action::Create { image: "tiny".parse().unwrap(), start: true, size: Size::default() },
        r#"{"verb":"create","image":"tiny","start":true}"#,
    );
    golden(&Action::Start {}, r#"{"verb":"start"}"#);
    golden(
        &Action::Stop { graceful: false, timeout_ms: 0, then: Then::Leave },
        r#"{"verb":"stop","graceful":false,"timeout_ms":0,"then":"leave"}"#,
    );
    golden(&Action::Pause {}, r#"{"verb":"pause"}"#);
    golden(&Action::Resume {}, r#"{"verb":"resume"}"#);
    golden(&Action::Terminate {}, r#"{"verb":"terminate"}"#);
    golden(&Action::Describe {}, r#"{"verb":"describe"}"#);
}

#[test]
fn the_bytes_of_answers_are_frozen() {
    let seen = r#"{"id":"web-1","uuid":"01234567-89ab-4def-8123-456789abcdef","image":"tiny","hypervisor":"qemu","state":"running","generation":3,"since_ms":10,"observed_ms":12}"#;
    let answer = |outcome| Answer {
        proto: 1,
        op_id: "op-1".parse().unwrap(),
        agent_boot: UUID,
        clock_ms: 12,
        outcome,
    };
    let around = |outcome: &str| {
        format!(
            r#"{{"proto":1,"op_id":"op-1","agent_boot":"01234567-89ab-4def-8123-456789abcdef","clock_ms":12,"outcome":{outcome}}}"#
        )
    };
    golden(
        &answer(Outcome::Done {
            changed: true,
            instance: instance(State::Running),
            evidence: vec![Text::new("process 7 reaped")],
        }),
        &around(&format!(
            r#"{{"result":"done","changed":true,"instance":{seen},"evidence":["process 7 reaped"]}}"#
        )),
    );
    golden(
        &answer(Outcome::Accepted { instance: instance(State::Running) }),
        &around(&format!(r#"{{"result":"accepted","instance":{seen}}}"#)),
    );
    golden(
        &answer(Outcome::Refused { code: Refusal::Terminated, detail: Text::new("gone"), instance: None }),
        &around(r#"{"result":"refused","code":"terminated","detail":"gone"}"#),
    );
    golden(
        &answer(Outcome::Failed { code: Failure::GuestIgnored, detail: Text::new("no"), instance: None }),
        &around(r#"{"result":"failed","code":"guest-ignored","detail":"no"}"#),
    );
    golden(
        &answer(Outcome::Indeterminate { detail: Text::new("lost") }),
        &around(r#"{"result":"indeterminate","detail":"lost"}"#),
    );
    golden(
        &Inventory {
            proto: 1,
            agent_boot: UUID,
            clock_ms: 12,
            instances: vec![instance(State::Running)],
            images: vec!["tiny".parse().unwrap()],
            next: None,
        },
        &format!(
            r#"{{"proto":1,"agent_boot":"01234567-89ab-4def-8123-456789abcdef","clock_ms":12,"instances":[{seen}],"images":["tiny"]}}"#
        ),
    );
}

#[test]
fn nothing_that_could_be_a_path_an_option_or_a_script_is_a_name() {
    let hostile = [
        "",
        "-",
        "-S",
        "a-",
        "/",
        ".",
        "..",
        "../x",
        "a/b",
        "..\\x",
        "A",
        "é",
        "a b",
        "a\r\nb",
        "a\0",
        "'; rm -rf",
        "`id`",
        "$(id)",
        "a,b",
        "a=b",
        "\u{202e}a",
        "a_b",
        "a.b",
        "ａ",
    ];
    for text in hostile {
        assert!(text.parse::<InstanceId>().is_err(), "{text:?}");
        let bytes = serde_json::to_vec(text).unwrap();
        assert!(serde_json::from_slice::<ImageName>(&bytes).is_err(), "{text:?}");
        assert!(serde_json::from_slice::<Uuid>(&bytes).is_err(), "{text:?}");
    }
    assert!("a".repeat(63).parse::<OpId>().is_ok());
    assert!("a".repeat(64).parse::<OpId>().is_err());
    assert!("0-a".parse::<InstanceId>().is_ok());
}

#[test]
fn unknown_arguments_are_refused_and_unknown_surroundings_only_when_critical() {
    for text in [
        r#"{"verb":"terminate","force":true}"#,
        r#"{"verb":"start","x":1}"#,
        r#"{"verb":"stop","graceful":true,"then":"explode"}"#,
        r#"{"verb":"stop","graceful":true,"graceful":false}"#,
        r#"{"verb":"stop"}"#,
        r#"{"verb":"explode"}"#,
        r#"{"verb":"start","verb":"terminate"}"#,
        r#"{"verb":"stop","graceful":true,"timeout_ms":4294967296}"#,
        r#"{"verb":"stop","graceful":true,"timeout_ms":-0}"#,
        r#"{"verb":"stop","graceful":true,"timeout_ms":1e400}"#,
        r#"{}"#,
        r#"[]"#,
        r#"["terminate"]"#,
        r#"["stop",true,1,"force"]"#,
        r#""start""#,
    ] {
        assert!(decode::<Action>(text.as_bytes()).is_err(), "{text}");
    }
    let newer = r#"{"proto":1,"op_id":"a","hint":{"x":[1]},"instance":"b","action":{"verb":"start"}}"#;
    assert_eq!(decode::<Command>(newer.as_bytes()).unwrap().unknown_critical(), None);
    let critical =
        r#"{"proto":1,"op_id":"a","hint":1,"critical":["hint"],"instance":"b","action":{"verb":"start"}}"#;
    assert_eq!(decode::<Command>(critical.as_bytes()).unwrap().unknown_critical(), Some("hint"));
    for text in [
        r#"[1,"a",null,null,null,{},[],"b",{"verb":"start"}]"#,
        r#"{"proto":1,"op_id":"a","instance":"b","action":["start"]}"#,
        r#"{"proto":1,"op_id":"a","instance":"b","precondition":[null,null,null],"action":{"verb":"start"}}"#,
    ] {
        assert!(decode::<Command>(text.as_bytes()).is_err(), "one thing has one spelling: {text}");
    }
    let twice = r#"{"proto":1,"op_id":"a","op_id":"b","instance":"b","action":{"verb":"start"}}"#;
    assert!(decode::<Command>(twice.as_bytes()).is_err());
}

#[test]
fn the_list_of_fields_is_that_of_the_type() {
    let command = Command {
        epoch: Some(1),
        agent_boot: Some(UUID),
        deadline_ms: Some(1),
        precondition: Precondition { generation: Some(1), ..Precondition::default() },
        critical: vec!["epoch".into()],
        ..Command::new("a".parse().unwrap(), id("b"), Action::Start {})
    };
    let value: serde_json::Value = serde_json::from_slice(&encode(&command)).unwrap();
    let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut known = Command::FIELDS;
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn a_code_from_the_future_is_kept_as_unrecognised() {
    assert_eq!(serde_json::from_str::<Refusal>(r#""on-fire""#).unwrap(), Refusal::Unrecognised);
    assert!(serde_json::from_str::<State>(r#""on-fire""#).is_err());
}

#[test]
fn text_is_bounded_and_cannot_act_on_a_terminal() {
    assert_eq!(Text::new("a\x1b[2Jb\r\nc\u{202e}d").as_str(), "a [2Jb  c d");
    assert_eq!(Text::new(&"é".repeat(600)).as_str().len(), Text::LIMIT);
    assert!(serde_json::from_value::<Text>("x".repeat(513).into()).is_err());
}

#[test]
fn a_random_uuid_has_the_version_and_variant_bits() {
    assert_eq!(Uuid::from_random(0).to_string(), "00000000-0000-4000-8000-000000000000");
    assert_eq!(Uuid::from_random(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert!("0123456789ab-4def-8123-4567-89abcdef-".parse::<Uuid>().is_err());
    assert!("01234567-89AB-4def-8123-456789abcdef".parse::<Uuid>().is_err());
}

/// The table, one row a verb, one column a state in the order of a life; `>x` changes to x, `+` is carried out, `=` is
/// already so, `!` is refused as makes no sense, and `!x` for another reason.
#[test]
fn the_life_cycle_is_this_table() {
    let rows: Vec<String> = Verb::ALL
        .iter()
        .map(|&verb| {
            let cells = State::ALL.map(|state| match effect(state, verb) {
                Effect::Change(to) => format!(">{to}"),
                Effect::Keep => "+".to_string(),
                Effect::Already => "=".to_string(),
                Effect::Refuse(Refusal::WrongState) => "!".to_string(),
                Effect::Refuse(code) => format!("!{}", code.as_str()),
            });
            format!("{verb}: {}", cells.join(" "))
        })
        .collect();
    assert_eq!(rows, include_str!("LIFECYCLE.txt").lines().collect::<Vec<_>>());
}

#[test]
fn every_living_state_can_be_left_by_force() {
    for state in State::ALL {
        let way_out = lifecycle::allowed(state).any(|verb| verb == Verb::Terminate);
        assert_eq!(way_out, state != State::Terminated, "{state}");
    }
}

#[test]
fn the_bytes_of_the_further_actions_are_frozen() {
    let volume = Volume {
        volume: "data".parse().unwrap(),
        iqn: "iqn.2026-11.dev.corbel:data".parse().unwrap(),
        lun: 0,
        read_only: false,
    };
    golden(
        &Action::VolumeAttach { volume: volume.clone() },
        r#"{"verb":"volume.attach","volume":{"volume":"data","iqn":"iqn.2026-11.dev.corbel:data","lun":0,"read_only":false}}"#,
    );
    golden(
        &Action::VolumeDetach { volume: "data".parse().unwrap(), timeout_ms: 5 },
        r#"{"verb":"volume.detach","volume":"data","timeout_ms":5}"#,
    );
    let nic = Nic {
        nic: "eth1".parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: "52:54:00:12:34:56".parse().unwrap(),
        link: Link::Up,
    };
    golden(
        &Action::NicAttach { nic },
        r#"{"verb":"nic.attach","nic":{"nic":"eth1","network":"blue","mac":"52:54:00:12:34:56","link":"up"}}"#,
    );
    golden(
        &Action::NicUpdate { nic: "eth1".parse().unwrap(), link: Link::Down },
        r#"{"verb":"nic.update","nic":"eth1","link":"down"}"#,
    );
    golden(
        &Action::Resize { size: Size { cpus: Some(2), memory_mib: None } },
        r#"{"verb":"resize","size":{"cpus":2}}"#,
    );
    golden(
        &Action::MigratePrepare { image: "tiny".parse().unwrap(), uuid: Uuid::from_random(0) },
        r#"{"verb":"migrate.prepare","image":"tiny","uuid":"00000000-0000-4000-8000-000000000000"}"#,
    );
    golden(
        &Action::Reboot { timeout_ms: 9, then: Then::Force },
        r#"{"verb":"reboot","timeout_ms":9,"then":"force"}"#,
    );
    golden(
        &Action::Snapshot { snapshot: "before".parse().unwrap() },
        r#"{"verb":"snapshot","snapshot":"before"}"#,
    );
    golden(&Action::Save {}, r#"{"verb":"save"}"#);
    let attached = AttachedVolume { volume, attachment: Attachment::Detaching };
    golden(
        &attached,
        r#"{"volume":"data","iqn":"iqn.2026-11.dev.corbel:data","lun":0,"read_only":false,"attachment":"detaching"}"#,
    );
}

#[test]
fn the_bytes_of_an_event_are_frozen() {
    let event = Event {
        seq: 9,
        at_ms: 5,
        instance: id("web-1"),
        uuid: UUID,
        generation: 4,
        state: State::Stopped,
        kind: EventKind::State,
        op_id: None,
        detail: None,
    };
    golden(
        &EventPage { proto: 1, agent_boot: UUID, clock_ms: 12, events: vec![event], next: 9, missed: false },
        r#"{"proto":1,"agent_boot":"01234567-89ab-4def-8123-456789abcdef","clock_ms":12,"events":[{"seq":9,"at_ms":5,"instance":"web-1","uuid":"01234567-89ab-4def-8123-456789abcdef","generation":4,"state":"stopped","kind":"state"}],"next":9,"missed":false}"#,
    );
}

#[test]
fn an_ethernet_address_is_one_of_a_station() {
    for wrong in [
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:5g",
        "52-54-00-12-34-56",
        "53:54:00:12:34:56",
        "00:00:00:00:00:00",
        "52:54:00:12:34:567",
    ] {
        assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
    }
    for wrong in ["", "iqn.", "iqn.2026 a", "disk:a", "iqn.2026-11.dev,corbel"] {
        assert!(wrong.parse::<IscsiName>().is_err(), "{wrong}");
    }
}

#[test]
fn a_network_map_has_each_address_once_and_nothing_that_is_not_one() {
    let map = |endpoints: &str| {
        decode::<NetworkMap>(
            format!(r#"{{"network":"blue","generation":1,"vni":100,"mtu":1450,"endpoints":[{endpoints}]}}"#)
                .as_bytes(),
        )
    };
    let endpoint = |mac: u8, ip: &str, underlay: &str| {
        format!(r#"{{"mac":"52:54:00:00:00:{mac:02x}","ip":"{ip}","underlay":"{underlay}"}}"#)
    };
    let [a, b] = [endpoint(1, "10.0.0.1", "192.0.2.1"), endpoint(2, "10.0.0.2", "192.0.2.2")];
    assert_eq!(map(&format!("{a},{b}")).unwrap().endpoints.len(), 2);
    for wrong in [
        format!("{a},{}", endpoint(1, "10.0.0.3", "192.0.2.1")),
        format!("{a},{}", endpoint(3, "10.0.0.1", "192.0.2.1")),
        endpoint(1, "0.0.0.0", "192.0.2.1"),
        endpoint(1, "224.0.0.1", "192.0.2.1"),
        endpoint(1, "10.0.0.1", "255.255.255.255"),
        endpoint(1, "10.0.0.1; reboot", "192.0.2.1"),
        (0..600)
            .map(|n| endpoint(1, &format!("10.0.{}.{}", n / 200, n % 200 + 1), "192.0.2.1"))
            .collect::<Vec<_>>()
            .join(","),
    ] {
        assert!(map(&wrong).is_err(), "{wrong}");
    }
    for (vni, mtu) in [(0, 1450), (1 << 24, 1450), (1, 1279), (1, 65486)] {
        let text = format!(r#"{{"network":"blue","generation":1,"vni":{vni},"mtu":{mtu},"endpoints":[]}}"#);
        assert!(decode::<NetworkMap>(text.as_bytes()).is_err(), "{text}");
    }
}
